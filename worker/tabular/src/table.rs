//! Rows as numbers: what LightGBM learns from.

use std::sync::Arc;

use arrow_array::RecordBatch;

use crate::columns::{column, numbers, texts};
use crate::config::Task;
use crate::error::{Result, TabularError};
use crate::features::{Features, Lookup};
use crate::learn::no_label;
use crate::lightgbm::Matrix;
use crate::lists;

/// Rows with labels: 8 bytes a value.
#[derive(Clone, Debug)]
pub struct Table {
    features: Arc<Features>,
    /// `[rows, features]`; NaN is missing, and a category is the number of its value.
    values: Vec<f64>,
    /// `[rows]`; the label's number, or what is predicted.
    labels: Vec<f64>,
}

impl Table {
    /// No rows yet.
    pub fn new(features: Arc<Features>) -> Self {
        Self { features, values: Vec::new(), labels: Vec::new() }
    }

    /// Rows that are numbers already: `values`, `[rows, features]`, and their labels.
    ///
    /// # Errors
    ///
    /// Values that do not fill rows of the features, and numbers of labels that are none.
    pub fn of(features: Arc<Features>, values: Vec<f64>, labels: Vec<f64>) -> Result<Self> {
        let known = features.labels.len() as f64;
        let named = |label: &f64| label.fract() == 0.0 && (0.0..known).contains(label);
        let good = match features.task {
            Task::TabularClassification => labels.iter().all(named),
            Task::TabularRegression => labels.iter().all(|label| label.is_finite()),
        };
        if values.len() != labels.len() * features.features.len() || !good {
            let detail = "these numbers are no rows of the features with labels";
            return Err(TabularError::Data(detail.to_owned()));
        }
        Ok(Self { features, values, labels })
    }

    /// The columns.
    pub fn features(&self) -> &Arc<Features> {
        &self.features
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// Labels' numbers, or what is predicted, by row.
    pub fn labels(&self) -> &[f64] {
        &self.labels
    }

    /// Values, `[rows, features]`.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    pub(crate) fn matrix(&self) -> Result<Matrix<'_>> {
        let matrix = Matrix::new(&self.values, self.features.features.len());
        matrix.ok_or_else(|| TabularError::Data("there are no features".to_owned()))
    }

    /// Adds rows, with their labels.
    ///
    /// # Errors
    ///
    /// Columns that are missing or of another type, and rows without a label or with an unknown one.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.add_with(batch, &self.features.lookups())
    }

    pub(crate) fn add_with(&mut self, batch: &RecordBatch, lookups: &[Lookup]) -> Result<()> {
        let batch = &lists::spread(batch, &self.features.lists, self.rows())?;
        let (columns, start) = (self.features.features.len(), self.values.len());
        self.values.resize(start + batch.num_rows() * columns, f64::NAN);
        let added = &mut self.values[start..];
        for (number, (feature, lookup)) in self.features.features.iter().zip(lookups).enumerate() {
            let array = column(batch, &feature.name)?;
            let mut places = added.iter_mut().skip(number).step_by(columns);
            let mut put = |value| {
                if let Some(place) = places.next() {
                    *place = value;
                }
            };
            if feature.is_category() {
                texts(&feature.name, array, |text| put(lookup.number(text)))?;
            } else {
                numbers(&feature.name, array, put)?;
            }
        }
        self.add_labels(batch)
    }

    fn add_labels(&mut self, batch: &RecordBatch) -> Result<()> {
        let features = &self.features;
        let array = column(batch, &features.label)?;
        let mut missing = 0_u64;
        let mut unknown = None;
        if features.task == Task::TabularRegression {
            numbers(&features.label, array, |value| {
                missing += u64::from(value.is_nan());
                self.labels.push(value);
            })?;
        } else {
            texts(&features.label, array, |text| match text {
                None => missing += 1,
                Some(text) => match features.label_number(text) {
                    Some(number) => self.labels.push(number as f64),
                    None => {
                        unknown.get_or_insert_with(|| text.to_owned());
                    }
                },
            })?;
        }
        if let Some(label) = unknown {
            let detail =
                format!("no training row has the label {label:?}, so none can be compared");
            return Err(TabularError::column(&features.label, detail));
        }
        if missing > 0 {
            return Err(TabularError::column(&features.label, no_label(missing)));
        }
        Ok(())
    }

    /// The rows of which `take` says yes, by their numbers.
    #[must_use]
    pub fn take(&self, take: impl Fn(usize) -> bool) -> Self {
        let columns = self.features.features.len();
        let mut taken = Self::new(Arc::clone(&self.features));
        for (row, label) in self.labels.iter().enumerate().filter(|(row, _)| take(*row)) {
            taken.values.extend_from_slice(&self.values[row * columns..(row + 1) * columns]);
            taken.labels.push(*label);
        }
        taken
    }
}
