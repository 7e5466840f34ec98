//! What models read: the way from what a request holds to what a model gives of it. Inputs become
//! rows, equal ones are answered from what was computed before, the others go to the computing thread.

use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::DynamicImage;
use tokio::sync::Semaphore;

use super::cache::AnswerCache;
use super::common::Failure;
use super::drift::DriftWatch;
use super::engine::{Answer, Engine, EngineError, Unit};
use crate::data::TextEncoder;
use crate::data::facts::{Facts, OF_PICTURE};
use crate::data::pictures::{Pixels, Preprocessor, decode_within};

/// Most bytes that one picture may take while it is decoded: 44 million pixels.
const PICTURE_BYTES: u64 = 128 << 20;

/// A kind of input.
pub trait Reads: Send + Sync + 'static {
    /// What rows are made of.
    type Unit: Unit;
    /// Name of the tensor that holds inputs, and what one is called.
    const INPUT: &'static str;
    /// Several of them, and where they go.
    const HOW: &'static str;
    /// How media types begin whose bodies are one input, without JSON around it.
    const MEDIA: Option<&'static str>;

    /// The bytes that a string of JSON stands for.
    fn bytes_of(text: String) -> Result<Vec<u8>, String>;

    /// What the model computes of an input.
    fn row(&self, input: &[u8]) -> Result<Row<Self::Unit>, String>;

    /// Names of what inputs are told by.
    fn facts(&self) -> &'static [&'static str];

    /// Whether files of scanners are read, too.
    const SCANS: bool = false;

    /// What the model computes of a frame of a scanner's file.
    fn frame(&self, _: DynamicImage) -> Result<Row<Self::Unit>, String> {
        Err(format!("shows a picture, and this model reads {}s", Self::INPUT))
    }
}

/// An input as the model computes it.
#[derive(Clone, Debug)]
pub struct Row<U> {
    /// Tokens, cut at the model's longest, or prepared pixels.
    pub units: Vec<U>,
    /// What the input is like, where that was measured.
    pub facts: Facts,
}

impl<U> From<(Vec<U>, Facts)> for Row<U> {
    fn from((units, facts): (Vec<U>, Facts)) -> Self {
        Self { units, facts }
    }
}

impl Reads for TextEncoder {
    type Unit = u32;
    const INPUT: &'static str = "text";
    const HOW: &'static str = "texts go to POST /v1/classify or /v2/models/NAME/infer";
    const MEDIA: Option<&'static str> = None;

    fn bytes_of(text: String) -> Result<Vec<u8>, String> {
        Ok(text.into_bytes())
    }

    fn row(&self, input: &[u8]) -> Result<Row<u32>, String> {
        let text = std::str::from_utf8(input).map_err(|error| format!("is not UTF-8: {error}"))?;
        let read = self.measured(text);
        read.map(Row::from).map_err(|error| format!("cannot be tokenized: {error}"))
    }

    fn facts(&self) -> &'static [&'static str] {
        Self::facts(self)
    }
}

impl Reads for Preprocessor {
    type Unit = u8;
    const INPUT: &'static str = "image";
    const HOW: &'static str =
        "pictures, PNG or JPEG, go to POST /v1/classify or /v2/models/NAME/infer";
    const MEDIA: Option<&'static str> = Some("image/");

    /// Base64, as it is or in a `data:` URL.
    fn bytes_of(text: String) -> Result<Vec<u8>, String> {
        let encoded = match text.strip_prefix("data:") {
            None => text.as_str(),
            Some(url) => url
                .split_once(";base64,")
                .map(|(_, encoded)| encoded)
                .ok_or("is a data URL without ;base64,")?,
        };
        STANDARD.decode(encoded).map_err(|error| format!("is not base64: {error}"))
    }

    fn row(&self, input: &[u8]) -> Result<Row<u8>, String> {
        decode_within(input, PICTURE_BYTES).map(|decoded| self.measured(decoded).into())
    }

    fn facts(&self) -> &'static [&'static str] {
        &OF_PICTURE
    }

    const SCANS: bool = true;

    fn frame(&self, frame: DynamicImage) -> Result<Row<u8>, String> {
        Ok(self.measured(Pixels::of(frame)?).into())
    }
}

/// The way of inputs to a model.
pub struct Way<R: Reads> {
    /// Makes rows of inputs.
    pub reader: R,
    /// The way to the computing thread.
    pub engine: Engine<R::Unit>,
    /// Answers that were computed before.
    pub cache: Option<AnswerCache>,
    /// Requests whose inputs are made rows of at once: one a core, so that large pictures take
    /// memory one after another.
    pub turns: Semaphore,
    /// Compares what is answered with what the model learned from, where that is known.
    pub drift: Option<Arc<DriftWatch>>,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused(refused) => refused.into(),
            EngineError::Model(_) | EngineError::Gone => {
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: error.to_string() }
            }
        }
    }
}

impl<R: Reads> Way<R> {
    /// Refuses more inputs than could ever wait: before they cost anything.
    pub fn check(&self, inputs: usize) -> Result<(), Failure> {
        if inputs == 0 {
            let message = format!("there is no {}; send at least one", R::INPUT);
            return Err(Failure::bad_request(message));
        }
        Ok(self.engine.check(inputs)?)
    }

    /// What the model computes of inputs.
    pub async fn rows(
        self: &Arc<Self>,
        inputs: Vec<Vec<u8>>,
    ) -> Result<Vec<Row<R::Unit>>, Failure> {
        let failed = |message| Failure { status: StatusCode::INTERNAL_SERVER_ERROR, message };
        let turn = self.turns.acquire().await.map_err(|closed| failed(closed.to_string()))?;
        let own = self.clone();
        // A long text takes milliseconds, a picture more: not on the threads that serve others.
        let rows = tokio::task::spawn_blocking(move || {
            let row = |(index, input): (usize, Vec<u8>)| {
                own.reader.row(&input).map_err(|why| format!("{} {index} {why}", R::INPUT))
            };
            inputs.into_iter().enumerate().map(row).collect::<Result<Vec<_>, _>>()
        });
        let rows = rows.await.map_err(|error| failed(format!("reading failed: {error}")));
        drop(turn);
        rows?.map_err(Failure::bad_request)
    }

    /// What the model gives of rows, in their order.
    pub async fn answers(&self, rows: Vec<Row<R::Unit>>) -> Result<Vec<Answer>, Failure> {
        let (rows, facts): (Vec<_>, Vec<_>) =
            rows.into_iter().map(|row| (row.units, row.facts)).unzip();
        let answers = match &self.cache {
            None => self.engine.answers(rows).await?,
            Some(cache) => {
                let compute = |rows| {
                    let engine = self.engine.clone();
                    async move { engine.answers(rows).await }
                };
                cache.answers(rows, compute).await?
            }
        };
        if let Some(drift) = &self.drift {
            drift.add_answers(&facts, &answers);
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_in_json_are_base64() {
        let bytes = |text: &str| Preprocessor::bytes_of(text.to_owned());
        assert_eq!(bytes("AAEC"), Ok(vec![0, 1, 2]));
        assert_eq!(bytes("data:image/png;base64,AAEC"), Ok(vec![0, 1, 2]));
        assert!(bytes("data:image/png,AAEC").unwrap_err().contains("without ;base64,"));
        assert!(bytes("https://example.com/a.png").unwrap_err().contains("not base64"));
    }
}
