//! Tables and time series, as pure functions on columns: no files, no clocks, and random numbers by
//! seed alone.

pub mod augment;
pub mod rule;
pub mod rules;
pub mod smote;
pub mod statistics;
pub mod windows;

/// The values of a column, one a row; `None` is a missing one.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnValues {
    /// Numbers. Those that are not finite count as missing.
    Number(Vec<Option<f64>>),
    /// Texts.
    Category(Vec<Option<String>>),
}

impl ColumnValues {
    /// Rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Number(values) => values.len(),
            Self::Category(values) => values.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the value of a row is missing.
    pub fn is_missing(&self, row: usize) -> bool {
        match self {
            Self::Number(values) => number(values[row]).is_none(),
            Self::Category(values) => values[row].is_none(),
        }
    }

    /// Adds the values of other rows, of the same kind.
    pub fn append(&mut self, other: Self) {
        match (self, other) {
            (Self::Number(values), Self::Number(more)) => values.extend(more),
            (Self::Category(values), Self::Category(more)) => values.extend(more),
            (Self::Number(values), more) => values.resize(values.len() + more.len(), None),
            (Self::Category(values), more) => values.resize(values.len() + more.len(), None),
        }
    }

    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Number(values) => values.len() * size_of::<Option<f64>>(),
            Self::Category(values) => values
                .iter()
                .map(|value| size_of::<Option<String>>() + value.as_ref().map_or(0, String::len))
                .sum(),
        }
    }

    /// The values of these rows, in this order.
    #[must_use]
    pub fn take(&self, rows: &[usize]) -> Self {
        match self {
            Self::Number(values) => Self::Number(rows.iter().map(|row| values[*row]).collect()),
            Self::Category(values) => {
                Self::Category(rows.iter().map(|row| values[*row].clone()).collect())
            }
        }
    }
}

/// A number that is there.
fn number(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}
