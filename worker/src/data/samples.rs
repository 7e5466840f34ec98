//! Some of a tokenized file's samples.

use std::sync::Arc;

use super::DataError;
use super::cache::TokenStore;
use super::facts::Facts;
use super::labels::Labels;
use super::pictures::PixelFormat;
use super::sequence::{Fetched, Kind};

/// Some samples of a tokenized file. A sample is a sequence, or two: the better and the worse
/// answer to a prompt.
///
/// What is asked of a sample without I/O is in memory; its token ids are [fetched](Self::fetch).
#[derive(Clone, Debug)]
pub struct Samples {
    store: Arc<TokenStore>,
    /// Class id of each of the file's labels.
    class_ids: Arc<Vec<i64>>,
    /// Of pictures.
    format: Option<PixelFormat>,
    /// Numbers of the samples in the file.
    chosen: Vec<u32>,
    /// What a reference model thinks of each of the samples' sequences, in their order.
    references: Option<Arc<Vec<f32>>>,
}

impl Samples {
    /// Every row of a file of labelled texts or pictures, with class ids from `labels`, and the rows whose
    /// label is not among them.
    pub(super) fn labelled(store: TokenStore, labels: &Labels) -> (Self, Vec<u32>) {
        let class_ids: Vec<i64> =
            store.header.labels.iter().map(|name| labels.id(name).unwrap_or(-1)).collect();
        let (known, unknown) =
            (0..count(store.len())).partition(|row| class_ids[store.note(*row) as usize] >= 0);
        let (store, class_ids) = (Arc::new(store), Arc::new(class_ids));
        (Self { store, class_ids, format: None, chosen: known, references: None }, unknown)
    }

    /// The same samples, whose pixels become a model's input so.
    #[must_use]
    pub(super) fn with_format(self, format: Option<PixelFormat>) -> Self {
        Self { format, ..self }
    }

    /// Every sample of a file of sequences.
    pub(super) fn sequences(store: TokenStore) -> Self {
        let chosen = (0..count(store.len()) / store.header.per_sample).collect();
        let store = Arc::new(store);
        Self { store, class_ids: Arc::default(), format: None, chosen, references: None }
    }

    /// Some of these samples, by index.
    #[must_use]
    pub fn subset(&self, indices: &[u32]) -> Self {
        let chosen = indices.iter().map(|index| self.chosen[*index as usize]).collect();
        Self { chosen, references: None, ..self.clone() }
    }

    /// These samples with the log-probability of each sequence's targets by a reference model, in
    /// the order in which the sequences are [fetched](Self::fetch) when all are.
    #[must_use]
    pub fn with_references(self, references: Vec<f32>) -> Self {
        Self { references: Some(Arc::new(references)), ..self }
    }

    /// Samples. Their numbers are `u32`.
    pub fn len(&self) -> u32 {
        count(self.chosen.len())
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// Sequences of a sample: 2 of a preference, else 1.
    pub fn per_sample(&self) -> u32 {
        self.store.header.per_sample
    }

    /// Tokens of a sample, of all its sequences; a picture has none.
    pub fn length(&self, index: u32) -> usize {
        if self.store.header.kind == Kind::Pixels {
            return 0;
        }
        self.rows(index).map(|row| self.store.length(row) as usize).sum()
    }

    /// Tokens of a sample that are to be predicted, of all its sequences.
    pub fn target_tokens(&self, index: u32) -> usize {
        self.rows(index).map(|row| self.store.target_tokens(row) as usize).sum()
    }

    /// Class id of a sample; -1 where there are no classes.
    pub fn class(&self, index: u32) -> i64 {
        self.class_of(self.chosen[index as usize])
    }

    /// Samples of each class, up to the last that has any. Without a class they count as 0.
    pub fn class_counts(&self) -> Vec<u64> {
        let mut counts = Vec::new();
        for index in 0..self.len() {
            let class = usize::try_from(self.class(index)).unwrap_or(0);
            counts.resize(counts.len().max(class + 1), 0);
            counts[class] += 1;
        }
        counts
    }

    /// Number of the document that a sample is a part of.
    pub(super) fn document(&self, index: u32) -> u32 {
        match self.store.header.kind {
            Kind::Documents => self.store.note(self.chosen[index as usize]),
            Kind::Classes | Kind::Masked | Kind::Pixels => self.chosen[index as usize],
        }
    }

    /// Line and reason of each malformed row that was skipped.
    pub(super) fn bad(&self) -> &[(u64, String)] {
        &self.store.header.bad
    }

    /// Label of a row of the file.
    pub(super) fn label(&self, row: u32) -> &str {
        let label = self.store.note(row) as usize;
        self.store.header.labels.get(label).map_or("", String::as_str)
    }

    /// Reads samples into `into`, whose earlier content goes. The sequences of a sample follow
    /// one another, so that of preferences the even are the better answers.
    pub fn fetch(&self, indices: &[u32], into: &mut Fetched) -> Result<(), DataError> {
        into.clear();
        into.format = self.format;
        for index in indices {
            let first = (*index * self.per_sample()) as usize;
            for (place, row) in self.rows(*index).enumerate() {
                let read = self.store.fetch(row, self.class_of(row), into);
                read.map_err(|source| DataError::Cache { source })?;
                if let Some(references) = &self.references {
                    into.refer(references.get(first + place).copied().unwrap_or(f32::NAN));
                }
            }
        }
        Ok(())
    }

    /// What a sample's input is like ([`super::facts`]); nothing of sequences without a class.
    pub fn facts(&self, index: u32) -> Result<Facts, DataError> {
        let facts = self.store.facts(self.chosen[index as usize]);
        facts.map_err(|source| DataError::Cache { source })
    }

    fn class_of(&self, row: u32) -> i64 {
        match self.store.header.kind {
            Kind::Classes | Kind::Pixels => self.class_ids[self.store.note(row) as usize],
            Kind::Documents | Kind::Masked => -1,
        }
    }

    fn rows(&self, index: u32) -> impl Iterator<Item = u32> {
        let first = self.chosen[index as usize] * self.store.header.per_sample;
        first..first + self.store.header.per_sample
    }
}

/// Sequences of a file fit `u32`: more are refused.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
