//! The training and evaluation samples of a job.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use hearth_crds::worker_config::{DataFile, TrainData};

use super::cache::{self, EncodedFile};
use super::labels::Labels;
use super::order::stratified_split;
use super::source::{BadRow, Row, parse_rows, read_file, refuse_bad_rows};
use super::{DataError, TextEncoder};

/// Most classes that are taken for a label field.
const MAX_LABELS: usize = 10_000;

/// Some rows of a tokenized file.
#[derive(Clone, Debug)]
pub struct Samples {
    file: Arc<EncodedFile>,
    classes: Arc<Vec<i64>>,
    rows: Vec<u32>,
}

impl Samples {
    /// Every row of `file`, with class ids from `labels`. Rows whose label is
    /// not among them come back as malformed.
    pub fn all(file: EncodedFile, labels: &Labels) -> (Self, Vec<u32>) {
        let ids: Vec<Option<i64>> = file.labels.iter().map(|name| labels.id(name)).collect();
        let classes: Vec<i64> =
            file.classes.iter().map(|class| ids[*class as usize].unwrap_or(-1)).collect();
        let (rows, unknown) = (0u32..).zip(&classes).map(|(row, class)| (row, *class)).fold(
            (Vec::new(), Vec::new()),
            |(mut rows, mut unknown), (row, class)| {
                if class < 0 {
                    unknown.push(row);
                } else {
                    rows.push(row);
                }
                (rows, unknown)
            },
        );
        (Self { file: Arc::new(file), classes: Arc::new(classes), rows }, unknown)
    }

    /// Some of these samples, by index.
    #[must_use]
    pub fn subset(&self, indices: &[u32]) -> Self {
        let rows = indices.iter().map(|index| self.rows[*index as usize]).collect();
        Self { rows, ..self.clone() }
    }

    /// Samples. Row numbers are `u32`.
    pub fn len(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Token ids of a sample.
    pub fn ids(&self, index: u32) -> &[u32] {
        self.file.row(self.rows[index as usize])
    }

    /// Class id of a sample.
    pub fn class(&self, index: u32) -> i64 {
        self.classes[self.rows[index as usize] as usize]
    }
}

/// What a job learns from and is judged by.
#[derive(Debug)]
pub struct TrainingSet {
    /// Samples to learn from.
    pub train: Samples,
    /// Samples to evaluate on.
    pub eval: Option<Samples>,
    /// Classes.
    pub labels: Labels,
    /// Hash over the content of the files and how they are encoded.
    pub fingerprint: String,
    /// Malformed rows that were skipped, for people: file, then row.
    pub skipped: Vec<(String, BadRow)>,
}

/// How files are read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions<'a> {
    /// Cleans and tokenizes.
    pub encoder: &'a TextEncoder,
    /// Where token ids are kept between runs.
    pub cache: &'a Path,
    /// Threads to tokenize on.
    pub threads: NonZeroUsize,
    /// Seed of the evaluation split.
    pub seed: i64,
}

/// Reads a job's files. `model_labels` are the classes that the model's own
/// classifier knows, if any.
pub fn load(
    data: &TrainData,
    model_labels: Option<&Labels>,
    options: ReadOptions<'_>,
) -> Result<TrainingSet, DataError> {
    let (file, train_key) = encode_file(&data.train, data.max_bad_rows, options)?;
    let mut skipped = named(&data.train, &file.bad);
    let labels = labels_of(&data.train, &file)?;
    let labels =
        model_labels.map_or_else(|| labels.clone(), |known| labels.clone().in_order_of(known));
    let (all, _) = Samples::all(file, &labels);
    let mut fingerprint = format!("{}", train_key.to_hex());

    let (train, eval) = if let Some(held_out) = &data.eval {
        let (file, eval_key) = encode_file(held_out, data.max_bad_rows, options)?;
        skipped.extend(named(held_out, &file.bad));
        fingerprint = format!("{fingerprint}+{}", eval_key.to_hex());
        (all, Some(evaluation_samples(held_out, file, &labels, data.max_bad_rows)?))
    } else if let Some(share) = data.eval_split {
        let classes: Vec<i64> = (0..all.len()).map(|index| all.class(index)).collect();
        let (train, eval) = stratified_split(&classes, share, options.seed);
        (all.subset(&train), Some(all.subset(&eval)))
    } else {
        (all, None)
    };
    for (samples, path) in [(Some(&train), &data.train.path), (eval.as_ref(), &data.train.path)] {
        if samples.is_some_and(Samples::is_empty) {
            return Err(DataError::Empty { path: path.clone() });
        }
    }
    Ok(TrainingSet { train, eval, labels, fingerprint, skipped })
}

/// Reads and tokenizes a file to evaluate on. Rows with a label that is not
/// among `labels` count as malformed.
pub fn load_for_evaluation(
    file: &DataFile,
    labels: &Labels,
    max_bad_rows: u64,
    options: ReadOptions<'_>,
) -> Result<Samples, DataError> {
    let (encoded, _) = encode_file(file, max_bad_rows, options)?;
    evaluation_samples(file, encoded, labels, max_bad_rows)
}

fn evaluation_samples(
    source: &DataFile,
    file: EncodedFile,
    labels: &Labels,
    max_bad_rows: u64,
) -> Result<Samples, DataError> {
    let already_bad = file.bad.len() as u64;
    let (samples, unknown) = Samples::all(file, labels);
    let bad = already_bad + unknown.len() as u64;
    match unknown.first() {
        Some(row) if bad > max_bad_rows => {
            let class = samples.file.classes[*row as usize] as usize;
            Err(DataError::BadRows {
                path: source.path.clone(),
                line: line_of_row(source, *row)?,
                reason: format!(
                    "label {:?} is not one of the training data's ({})",
                    samples.file.labels[class],
                    labels.names().join(", ")
                ),
                bad,
                max: max_bad_rows,
            })
        }
        _ if samples.is_empty() => Err(DataError::Empty { path: source.path.clone() }),
        _ => Ok(samples),
    }
}

/// The line of a good row; looked up only for a message.
fn line_of_row(source: &DataFile, row: u32) -> Result<u64, DataError> {
    let rows = parse_rows(&read_file(&source.path)?, &source.text, &source.label);
    Ok(rows.rows.get(row as usize).map_or(0, |row| row.line))
}

fn labels_of(source: &DataFile, file: &EncodedFile) -> Result<Labels, DataError> {
    if file.labels.len() > MAX_LABELS {
        return Err(DataError::TooManyLabels {
            path: source.path.clone(),
            field: source.label.clone(),
            found: file.labels.len(),
            limit: MAX_LABELS,
        });
    }
    let labels = Labels::of_names(&file.labels);
    if let [label] = labels.names() {
        return Err(DataError::OneLabel { path: source.path.clone(), label: label.clone() });
    }
    Ok(labels)
}

fn named(file: &DataFile, bad: &[BadRow]) -> Vec<(String, BadRow)> {
    bad.iter().map(|row| (file.path.display().to_string(), row.clone())).collect()
}

fn encode_file(
    file: &DataFile,
    max_bad_rows: u64,
    options: ReadOptions<'_>,
) -> Result<(EncodedFile, blake3::Hash), DataError> {
    let bytes = read_file(&file.path)?;
    let key = cache::key(file, &bytes, options.encoder);
    let path = cache::path(options.cache, &key);
    if let Some(known) = cache::read(&path)
        && known.bad.len() as u64 <= max_bad_rows
    {
        return Ok((known, key));
    }
    let rows = parse_rows(&bytes, &file.text, &file.label);
    refuse_bad_rows(file, &rows, max_bad_rows)?;
    if rows.rows.is_empty() {
        return Err(DataError::Empty { path: file.path.clone() });
    }
    let encoded = encode_rows(&rows.rows, rows.bad, options)?;
    if let Err(error) = cache::write(&path, &encoded) {
        tracing::warn!(%error, path = %path.display(), "token cache not written");
    }
    Ok((encoded, key))
}

fn encode_rows(
    rows: &[Row],
    bad: Vec<BadRow>,
    options: ReadOptions<'_>,
) -> Result<EncodedFile, DataError> {
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let encoded = options.encoder.encode_all(&texts, options.threads)?;
    let mut file = EncodedFile { offsets: vec![0], bad, ..EncodedFile::default() };
    let mut known: HashMap<&str, u32> = HashMap::new();
    for (row, ids) in rows.iter().zip(&encoded) {
        let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
        let class = *known.entry(&row.label).or_insert_with(|| {
            file.labels.push(row.label.clone());
            next
        });
        file.classes.push(class);
        file.ids.extend(ids);
        file.offsets.push(file.ids.len() as u64);
    }
    Ok(file)
}
