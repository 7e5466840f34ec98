//! The training and evaluation samples of a job.

use std::num::NonZeroUsize;
use std::path::Path;

use hearth_crds::worker_config::{DataFile, TrainData};

use super::cache::{self, TokenStore, Writer};
use super::encode::SequenceEncoder;
use super::ingest::{Encode, IngestError, bad_rows, ingest};
use super::labels::Labels;
use super::order::{split_documents, stratified_split};
use super::pictures::{PictureEncoder, PixelFormat, Preprocessor};
use super::samples::Samples;
use super::source::{self, BadRow, SourceFile};
use super::{DataError, TextEncoder};
use crate::files::write_atomically;

/// Most classes that are taken for a label field.
const MAX_LABELS: usize = 10_000;

/// What a job learns from and is judged by.
#[derive(Debug)]
pub struct TrainingSet {
    /// Samples to learn from.
    pub train: Samples,
    /// Samples to evaluate on.
    pub eval: Option<Samples>,
    /// Classes; none where there is nothing to classify.
    pub labels: Labels,
    /// Hash over the content of the files and how they are encoded.
    pub fingerprint: String,
    /// Malformed rows that were skipped, for people: file, then row.
    pub skipped: Vec<(String, BadRow)>,
}

/// How files are read.
#[derive(Debug)]
pub struct ReadOptions<'a, E> {
    /// Makes token ids or pixels of rows.
    pub encoder: &'a E,
    /// Where these are kept between runs.
    pub cache: &'a Path,
    /// Threads to encode on.
    pub threads: NonZeroUsize,
    /// Seed of the evaluation split.
    pub seed: i64,
}

/// The files of a job that learns from sequences.
#[derive(Clone, Debug)]
pub struct SequenceFiles {
    /// Rows to learn from.
    pub train: SourceFile,
    /// Rows to evaluate on.
    pub eval: Option<SourceFile>,
    /// Share of the training rows held out, where `eval` is `None`.
    pub eval_split: Option<f64>,
    /// Malformed rows that are skipped before the data is refused.
    pub max_bad_rows: u64,
}

/// Reads a job's files of labelled texts. `model_labels` are the classes that the model's own
/// classifier knows, if any.
pub fn load(
    data: &TrainData,
    model_labels: Option<&Labels>,
    options: &ReadOptions<'_, TextEncoder>,
) -> Result<TrainingSet, DataError> {
    let reading = Reading::new(options, data.max_bad_rows);
    let read = |file: &DataFile| {
        let source = SourceFile::labelled(file);
        let (store, key) = reading.file(&source)?;
        Ok(LabelledFile { source, store, fingerprint: key, format: None })
    };
    load_labelled(data, model_labels, options.seed, &read)
}

/// Reads a job's files of labelled pictures. `model_labels` as in [`load`].
pub fn load_pictures(
    data: &TrainData,
    model_labels: Option<&Labels>,
    options: &ReadOptions<'_, Preprocessor>,
) -> Result<TrainingSet, DataError> {
    let ReadOptions { encoder: preprocessor, cache, threads, seed } = *options;
    let read = |file: &DataFile| {
        let source = SourceFile::pictures(file);
        let encoder = PictureEncoder::new(preprocessor, &file.path);
        let max_bad_rows = data.max_bad_rows;
        let reading = Reading { encoder: &encoder, cache, threads, max_bad_rows };
        let (store, _) = reading.file(&source)?;
        // The key tells files apart by their age, too. What they held when they were read tells
        // whether a run that goes on learns from the same.
        let fingerprint = store.hash;
        Ok(LabelledFile { source, store, fingerprint, format: Some(preprocessor.format) })
    };
    load_labelled(data, model_labels, seed, &read)
}

/// A file of labelled rows that was read.
struct LabelledFile {
    source: SourceFile,
    store: TokenStore,
    fingerprint: blake3::Hash,
    /// Of pictures.
    format: Option<PixelFormat>,
}

fn load_labelled(
    data: &TrainData,
    model_labels: Option<&Labels>,
    seed: i64,
    read: &dyn Fn(&DataFile) -> Result<LabelledFile, DataError>,
) -> Result<TrainingSet, DataError> {
    let LabelledFile { source, store, fingerprint, format } = read(&data.train)?;
    let mut skipped = named(&source, &store);
    let labels = labels_of(&data.train, &store)?;
    let labels =
        model_labels.map_or_else(|| labels.clone(), |known| labels.clone().in_order_of(known));
    let all = Samples::labelled(store, &labels).0.with_format(format);
    let mut fingerprint = format!("{}", fingerprint.to_hex());
    if let Some(format) = format {
        fingerprint = format!("{fingerprint} {format:?}");
    }

    let (train, eval) = if let Some(held_out) = &data.eval {
        let LabelledFile { source, store, fingerprint: of_eval, format } = read(held_out)?;
        skipped.extend(named(&source, &store));
        fingerprint = format!("{fingerprint}+{}", of_eval.to_hex());
        let samples = evaluation_samples(&source, store, &labels, data.max_bad_rows)?;
        (all, Some(samples.with_format(format)))
    } else if let Some(share) = data.eval_split {
        let classes: Vec<i64> = (0..all.len()).map(|index| all.class(index)).collect();
        let (train, eval) = stratified_split(&classes, share, seed);
        (all.subset(&train), Some(all.subset(&eval)))
    } else {
        (all, None)
    };
    refuse_empty(&source, &train, eval.as_ref())?;
    Ok(TrainingSet { train, eval, labels, fingerprint, skipped })
}

/// Reads a job's files of sequences: for pretraining, fine-tuning or preferences, as the encoder
/// says.
pub fn load_sequences(
    data: &SequenceFiles,
    options: &ReadOptions<'_, SequenceEncoder>,
) -> Result<TrainingSet, DataError> {
    let ReadOptions { encoder, seed, .. } = *options;
    let reading = Reading::new(options, data.max_bad_rows);
    for file in [Some(&data.train), data.eval.as_ref()].into_iter().flatten() {
        encoder.check(file)?;
    }
    let (store, train_key) = reading.file(&data.train)?;
    let mut skipped = named(&data.train, &store);
    let mut fingerprint = format!("{}", train_key.to_hex());
    let all = Samples::sequences(store);
    let (train, eval) = if let Some(held_out) = &data.eval {
        let (store, eval_key) = reading.file(held_out)?;
        skipped.extend(named(held_out, &store));
        fingerprint = format!("{fingerprint}+{}", eval_key.to_hex());
        (all, Some(Samples::sequences(store)))
    } else if let Some(share) = data.eval_split {
        let documents: Vec<u32> = (0..all.len()).map(|index| all.document(index)).collect();
        let (train, eval) = split_documents(&documents, share, seed);
        (all.subset(&train), Some(all.subset(&eval)))
    } else {
        (all, None)
    };
    refuse_empty(&data.train, &train, eval.as_ref())?;
    Ok(TrainingSet { train, eval, labels: Labels::NONE, fingerprint, skipped })
}

/// Reads and tokenizes a file to evaluate on. Rows with a label that is not
/// among `labels` count as malformed.
pub fn load_for_evaluation(
    file: &DataFile,
    labels: &Labels,
    max_bad_rows: u64,
    options: &ReadOptions<'_, TextEncoder>,
) -> Result<Samples, DataError> {
    let source = SourceFile::labelled(file);
    let (store, _) = Reading::new(options, max_bad_rows).file(&source)?;
    evaluation_samples(&source, store, labels, max_bad_rows)
}

fn evaluation_samples(
    source: &SourceFile,
    store: TokenStore,
    labels: &Labels,
    max_bad_rows: u64,
) -> Result<Samples, DataError> {
    let already_bad = store.header.bad.len() as u64;
    let (samples, unknown) = Samples::labelled(store, labels);
    let bad = already_bad + unknown.len() as u64;
    match unknown.first() {
        Some(row) if bad > max_bad_rows => {
            let reason = format!(
                "label {:?} is not one of the training data's ({})",
                samples.label(*row),
                labels.names().join(", ")
            );
            let line = line_of_row(source, *row, samples.bad())?;
            Err(bad_rows(source, BadRow { line, reason }, bad, max_bad_rows))
        }
        _ if samples.is_empty() => Err(DataError::Empty { path: source.path.clone() }),
        _ => Ok(samples),
    }
}

/// The line of a good row; looked up only for a message.
fn line_of_row(source: &SourceFile, row: u32, bad: &[(u64, String)]) -> Result<u64, DataError> {
    let mut good = 0;
    for record in source.records()? {
        let line = record?.line;
        if bad.iter().all(|(bad, _)| *bad != line) {
            if good == row {
                return Ok(line);
            }
            good += 1;
        }
    }
    Ok(0)
}

fn labels_of(source: &DataFile, store: &TokenStore) -> Result<Labels, DataError> {
    let found = &store.header.labels;
    if found.len() > MAX_LABELS {
        return Err(DataError::TooManyLabels {
            path: source.path.clone(),
            field: source.label.clone(),
            found: found.len(),
            limit: MAX_LABELS,
        });
    }
    let labels = Labels::of_names(found);
    if let [label] = labels.names() {
        return Err(DataError::OneLabel { path: source.path.clone(), label: label.clone() });
    }
    Ok(labels)
}

fn refuse_empty(
    source: &SourceFile,
    train: &Samples,
    eval: Option<&Samples>,
) -> Result<(), DataError> {
    if train.is_empty() || eval.is_some_and(Samples::is_empty) {
        return Err(DataError::Empty { path: source.path.clone() });
    }
    Ok(())
}

fn named(source: &SourceFile, store: &TokenStore) -> Vec<(String, BadRow)> {
    let path = source.path.display().to_string();
    store.header.bad_rows().into_iter().map(|row| (path.clone(), row)).collect()
}

/// How to make token ids of a file.
struct Reading<'a, E> {
    encoder: E,
    cache: &'a Path,
    threads: NonZeroUsize,
    max_bad_rows: u64,
}

impl<'a, E> Reading<'a, &'a E> {
    fn new(options: &ReadOptions<'a, E>, max_bad_rows: u64) -> Self {
        let ReadOptions { encoder, cache, threads, .. } = *options;
        Self { encoder, cache, threads, max_bad_rows }
    }
}

impl<E: Encode> Reading<'_, &E> {
    /// Token ids of a file, and the key of their entry: from the cache, or made now.
    fn file(&self, file: &SourceFile) -> Result<(TokenStore, blake3::Hash), DataError> {
        let before = source::folder::stamp(&file.path, file.format)?;
        let content = source::digest(&file.path, file.format)?;
        let outside = self.encoder.outside(file)?;
        let recipe =
            format!("{:?} {} {outside:?}", file.format, self.encoder.recipe(&file.columns));
        let key = cache::key(&content, &recipe);
        let path = cache::path(self.cache, &key);
        if let Some(known) = TokenStore::open(&path)
            && known.header.bad.len() as u64 <= self.max_bad_rows
        {
            return Ok((known, key));
        }
        let store = self.tokenize(file, &path)?;
        if source::folder::stamp(&file.path, file.format)? != before {
            // The entry's name would lie.
            let _ = std::fs::remove_file(&path);
            return Err(DataError::Changed { path: file.path.clone() });
        }
        Ok((store, key))
    }

    /// Into the cache; into memory where that cannot be written.
    fn tokenize(&self, file: &SourceFile, path: &Path) -> Result<TokenStore, DataError> {
        let mut refused = None;
        let written = write_atomically(path, |out| {
            let mut writer = Writer::new(out, self.encoder.kind());
            match self.ingest(file, &mut writer) {
                Ok(header) => writer.finish(&header).map(drop),
                Err(IngestError::Write(error)) => Err(error),
                Err(IngestError::Data(error)) => {
                    refused = Some(error);
                    Err(std::io::Error::other("the file is refused"))
                }
            }
        });
        if let Some(error) = refused {
            return Err(error);
        }
        match written.map(|()| TokenStore::open(path)) {
            Ok(Some(store)) => return Ok(store),
            Ok(None) => {
                tracing::warn!(path = %path.display(), "token cache does not read back as written");
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "token cache not written");
            }
        }
        let mut writer = Writer::new(Vec::new(), self.encoder.kind());
        match self.ingest(file, &mut writer) {
            Ok(header) => writer
                .keep(header)
                .map_err(|source| DataError::Read { path: file.path.clone(), source }),
            Err(IngestError::Data(error)) => Err(error),
            Err(IngestError::Write(source)) => {
                Err(DataError::Read { path: file.path.clone(), source })
            }
        }
    }

    fn ingest<W: std::io::Write>(
        &self,
        file: &SourceFile,
        writer: &mut Writer<W>,
    ) -> Result<cache::Header, IngestError> {
        ingest(file, self.encoder, self.threads, self.max_bad_rows, writer)
    }
}
