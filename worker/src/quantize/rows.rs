//! The rows that weights are rounded by, and those that a gate judges by.

use std::path::Path;

use hearth_crds::training_arguments::Metric;
use hearth_crds::worker_config::DataFile;
use tch::Device;

use super::QuantizeError;
use crate::cores::cores;
use crate::data::dataset::{ReadOptions, SequenceFiles, load_for_evaluation, load_sequences};
use crate::data::encode::EncoderOptions;
use crate::data::{Columns, Format, Objective, Samples, SequenceEncoder, SourceFile, TextEncoder};
use crate::error::Error;
use crate::export::ModelCard;
use crate::model::{Head, Model};
use crate::objective::Place;

/// Longest text of a language model's gate, in tokens.
const MAX_LENGTH: usize = 1024;

/// Makes samples of rows, as a model was taught to read them.
#[derive(Debug)]
pub(super) enum Reader {
    /// Labelled texts.
    Texts(Box<TextEncoder>),
    /// Texts to continue.
    Sequences(Box<SequenceEncoder>),
}

impl Reader {
    /// Of the model in `directory`.
    pub(super) fn of(model: &Model, directory: &Path) -> Result<Self, Error> {
        if model.head != Head::CausalLm {
            return Ok(Self::Texts(Box::new(TextEncoder::from_export(directory)?)));
        }
        let card = ModelCard::read(directory).ok().flatten();
        let longest = card.as_ref().map_or(MAX_LENGTH, |card| card.max_length);
        let options = EncoderOptions {
            objective: Objective::Pretraining,
            cleaning: card.map(|card| card.cleaning).unwrap_or_default(),
            max_length: longest.min(model.config.max_tokens),
            now: jiff::Zoned::now().datetime(),
        };
        Ok(Self::Sequences(Box::new(SequenceEncoder::load(directory, options)?)))
    }

    /// Refuses a metric that such a model does not have.
    pub(super) fn expect(&self, metric: Metric) -> Result<(), QuantizeError> {
        match (self, metric) {
            (Self::Sequences(_), Metric::F1 | Metric::F1Macro) => Err(QuantizeError::Metric {
                model: "language model",
                metric: metric.as_str(),
                instead: "loss or accuracy",
            }),
            _ => Ok(()),
        }
    }

    /// Tokens after which a text is cut.
    pub(super) fn max_length(&self) -> usize {
        match self {
            Self::Texts(encoder) => encoder.max_length(),
            Self::Sequences(encoder) => encoder.max_length(),
        }
    }

    /// Where batches go.
    pub(super) fn place(&self) -> Place {
        let pad = match self {
            Self::Texts(encoder) => encoder.pad(),
            Self::Sequences(encoder) => encoder.pad(),
        };
        Place::new(pad, Device::Cpu)
    }

    /// The rows of `data`; what they become is kept in `cache`.
    pub(super) fn samples(
        &self,
        data: &DataFile,
        model: &Model,
        cache: &Path,
    ) -> Result<Samples, Error> {
        let (threads, seed) = (cores(), 0);
        match self {
            Self::Texts(encoder) => {
                let options = ReadOptions { encoder: &**encoder, cache, threads, seed };
                Ok(load_for_evaluation(data, model.labels(), 0, &options)?)
            }
            Self::Sequences(encoder) => {
                let options = ReadOptions { encoder: &**encoder, cache, threads, seed };
                let file = SourceFile {
                    path: data.path.clone(),
                    format: Format::from(data.format),
                    columns: Columns::Text { text: data.text.clone() },
                };
                let files =
                    SequenceFiles { train: file, eval: None, eval_split: None, max_bad_rows: 0 };
                Ok(load_sequences(&files, &options)?.train)
            }
        }
    }
}
