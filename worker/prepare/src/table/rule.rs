//! What becomes of a column's missing and far values, and which values are malformed.

use hearth_crds::preparation::{
    Column, ColumnType, Missing, OutlierAction, OutlierMethod, Outliers,
};

use serde::{Deserialize, Serialize};

use super::statistics::{NumberStatistics, Statistics};
use super::{ColumnValues, number};

/// Interquartile ranges beyond the quartiles (Tukey 1977), where the spec says nothing.
const FENCES: f64 = 1.5;
/// Standard deviations from the mean, where the spec says nothing.
const DEVIATIONS: f64 = 3.0;

/// Why a column cannot be treated so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data.preparation.table.columns.{column}.{field}: {detail}")]
pub struct RuleError {
    /// Which column.
    pub column: String,
    /// Which of its fields.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl RuleError {
    fn new(column: &str, field: &'static str, detail: impl Into<String>) -> Self {
        Self { column: column.to_owned(), field, detail: detail.into() }
    }
}

/// What a rule did to a column's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Missing values that were put in.
    pub filled: u64,
    /// Outliers that were moved.
    pub capped: u64,
    /// Rows that go for an outlier.
    pub dropped: u64,
}

/// What is done with a column, its training rows' statistics known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ColumnRule {
    missing: MissingRule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bounds: Option<Bounds>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum MissingRule {
    Keep,
    Drop,
    Number(f64),
    Category(String),
}

/// Between which values a number is none of the outliers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bounds {
    least: f64,
    greatest: f64,
    action: OutlierAction,
}

impl ColumnRule {
    /// What the spec says of the column `name`.
    ///
    /// # Errors
    ///
    /// A spec that does not go with the column's type, and statistics of no values.
    pub fn new(name: &str, spec: &Column, statistics: &Statistics) -> Result<Self, RuleError> {
        let missing = missing_rule(name, spec, statistics)?;
        let is_whole = spec.type_ == Some(ColumnType::Integer);
        let bounds = match (&spec.outliers, statistics) {
            (None, _) => None,
            (Some(outliers), Statistics::Number(numbers)) => bounds(outliers, numbers)
                .map(|bounds| if is_whole { bounds.whole() } else { bounds }),
            (Some(_), Statistics::Category(_)) => {
                let detail = "only numbers have outliers; leave it out";
                return Err(RuleError::new(name, "outliers", detail));
            }
        };
        let missing = match missing {
            MissingRule::Number(fill) if is_whole => MissingRule::Number(fill.round()),
            other => other,
        };
        Ok(Self { missing, bounds })
    }

    /// Outliers first, then missing values. `keep` has a place for each row: those that go become
    /// `false`.
    pub fn apply(&self, values: &mut ColumnValues, keep: &mut [bool]) -> Mended {
        let mut mended = Mended::default();
        match values {
            ColumnValues::Number(values) => {
                for (value, keep) in values.iter_mut().zip(keep) {
                    self.number(value, keep, &mut mended);
                }
            }
            ColumnValues::Category(values) => {
                for (value, keep) in values.iter_mut().zip(keep) {
                    match &self.missing {
                        MissingRule::Drop => *keep &= value.is_some(),
                        MissingRule::Category(fill) if value.is_none() => {
                            mended.filled += 1;
                            *value = Some(fill.clone());
                        }
                        _ => {}
                    }
                }
            }
        }
        mended
    }

    fn number(&self, value: &mut Option<f64>, keep: &mut bool, mended: &mut Mended) {
        *value = number(*value);
        if let (Some(value), Some(bounds)) = (value.as_mut(), self.bounds)
            && !(bounds.least..=bounds.greatest).contains(value)
        {
            match bounds.action {
                OutlierAction::Clip => {
                    mended.capped += 1;
                    *value = value.max(bounds.least).min(bounds.greatest);
                }
                OutlierAction::Drop => {
                    mended.dropped += u64::from(*keep);
                    *keep = false;
                }
            }
        }
        match &self.missing {
            MissingRule::Drop => *keep &= value.is_some(),
            MissingRule::Number(fill) if value.is_none() => {
                mended.filled += 1;
                *value = Some(*fill);
            }
            _ => {}
        }
    }

    /// Whether it does nothing.
    pub fn is_idle(&self) -> bool {
        self.missing == MissingRule::Keep && self.bounds.is_none()
    }

    /// What it does, for people. A text is not told: few rows may have it.
    pub fn describe(&self) -> String {
        let missing = match &self.missing {
            MissingRule::Keep => None,
            MissingRule::Drop => Some("rows without a value go".to_owned()),
            MissingRule::Number(fill) => Some(format!("missing becomes {fill}")),
            MissingRule::Category(_) => Some("missing becomes the text in table.json".to_owned()),
        };
        let bounds = self.bounds.map(|Bounds { least, greatest, action }| match action {
            OutlierAction::Clip => format!("capped at {least} and {greatest}"),
            OutlierAction::Drop => format!("rows below {least} or above {greatest} go"),
        });
        missing.into_iter().chain(bounds).collect::<Vec<_>>().join("; ")
    }
}

impl Bounds {
    /// The whole numbers around them.
    fn whole(self) -> Self {
        Self { least: self.least.floor(), greatest: self.greatest.ceil(), ..self }
    }
}

fn missing_rule(
    name: &str,
    spec: &Column,
    statistics: &Statistics,
) -> Result<MissingRule, RuleError> {
    const MANY: &str = "no values, or too many different ones";
    let none = |statistic: &str, of: &str| {
        let detail = format!("no {statistic} of {of}; write Fill, Drop or Keep");
        RuleError::new(name, "missing", detail)
    };
    match (spec.missing, statistics) {
        (Missing::Keep, _) => Ok(MissingRule::Keep),
        (Missing::Drop, _) => Ok(MissingRule::Drop),
        (Missing::Mean, Statistics::Number(numbers)) => {
            numbers.mean().map(MissingRule::Number).ok_or_else(|| none("mean", "no values"))
        }
        (Missing::Median, Statistics::Number(numbers)) => {
            let median = numbers.quantiles([0.5]).map(|[median]| MissingRule::Number(median));
            median.ok_or_else(|| none("median", "no values"))
        }
        (Missing::Mean, Statistics::Category(_)) => Err(none("mean", "texts")),
        (Missing::Median, Statistics::Category(_)) => Err(none("median", "texts")),
        (Missing::Mode, Statistics::Number(numbers)) => {
            numbers.mode().map(MissingRule::Number).ok_or_else(|| none("mode", MANY))
        }
        (Missing::Mode, Statistics::Category(texts)) => {
            let mode = texts.mode().map(|mode| MissingRule::Category(mode.to_owned()));
            mode.ok_or_else(|| none("mode", MANY))
        }
        (Missing::Fill, _) => fill(name, spec, statistics),
    }
}

/// What the spec puts in the place of missing values, which must be of the column's type.
fn fill(name: &str, spec: &Column, statistics: &Statistics) -> Result<MissingRule, RuleError> {
    let bad = |detail| RuleError::new(name, "fill", detail);
    let text = spec.fill.as_ref().ok_or_else(|| bad("missing: Fill needs it"))?;
    let fits = match spec.type_ {
        Some(ColumnType::Integer) => {
            let value: Option<f64> = number(text.trim().parse().ok());
            value.is_some_and(|value| value.fract() == 0.0)
        }
        Some(ColumnType::Boolean) => matches!(text.as_str(), "true" | "false"),
        Some(ColumnType::Timestamp) => text.parse::<jiff::Timestamp>().is_ok(),
        _ => true,
    };
    if !fits {
        return Err(bad("it is no value of the column's type; write one"));
    }
    match statistics {
        Statistics::Number(_) => {
            let value = number(text.trim().parse().ok());
            value.map(MissingRule::Number).ok_or_else(|| bad("the column has numbers; write one"))
        }
        Statistics::Category(_) => Ok(MissingRule::Category(text.clone())),
    }
}

/// `None` of no values.
fn bounds(outliers: &Outliers, numbers: &NumberStatistics) -> Option<Bounds> {
    let (least, greatest) = match outliers.method {
        OutlierMethod::IQR => {
            let [low, high] = numbers.quantiles([0.25, 0.75])?;
            let distance = outliers.distance.unwrap_or(FENCES) * (high - low);
            (low - distance, high + distance)
        }
        OutlierMethod::ZScore => {
            let distance = outliers.distance.unwrap_or(DEVIATIONS) * numbers.deviation()?;
            let mean = numbers.mean()?;
            (mean - distance, mean + distance)
        }
    };
    let (least, greatest) = (least.max(f64::MIN), greatest.min(f64::MAX));
    Some(Bounds { least, greatest, action: outliers.action })
}

/// What is wrong with a number that is there: it is below `min`, above `max`, or has a fraction in a
/// column of whole ones.
pub fn flaw(spec: &Column, value: f64) -> Option<&'static str> {
    if spec.type_ == Some(ColumnType::Integer) && value.fract() != 0.0 {
        return Some("is not a whole number");
    }
    if spec.min.is_some_and(|min| value < min) {
        return Some("is below min");
    }
    spec.max.is_some_and(|max| value > max).then_some("is above max")
}

#[cfg(test)]
mod tests;
