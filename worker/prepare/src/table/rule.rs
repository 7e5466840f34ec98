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
mod tests {
    use super::*;
    use crate::table::statistics::Wanted;

    fn numbers(values: &[f64]) -> ColumnValues {
        ColumnValues::Number(values.iter().map(|value| number(Some(*value))).collect())
    }

    fn texts(values: &[&str]) -> ColumnValues {
        let value = |value: &&str| (!value.is_empty()).then(|| (*value).to_owned());
        ColumnValues::Category(values.iter().map(value).collect())
    }

    fn applied(
        spec: &Column,
        values: &ColumnValues,
    ) -> Result<(ColumnValues, Vec<bool>), RuleError> {
        let mut statistics = Statistics::like(values, Wanted::default());
        statistics.extend(values);
        let rule = ColumnRule::new("c", spec, &statistics)?;
        let (mut values, mut keep) = (values.clone(), vec![true; values.len()]);
        rule.apply(&mut values, &mut keep);
        Ok((values, keep))
    }

    fn missing(missing: Missing, fill: Option<&str>) -> Column {
        Column { missing, fill: fill.map(str::to_owned), ..Column::default() }
    }

    #[test]
    fn missing_values_become_what_the_spec_says() {
        let (nan, all) = (f64::NAN, [true, true, true, true]);
        for (spec, values, want, keep) in [
            (
                missing(Missing::Keep, None),
                numbers(&[1.0, nan, 2.0, 6.0]),
                numbers(&[1.0, nan, 2.0, 6.0]),
                all,
            ),
            (
                missing(Missing::Mean, None),
                numbers(&[1.0, nan, 2.0, 6.0]),
                numbers(&[1.0, 3.0, 2.0, 6.0]),
                all,
            ),
            (
                missing(Missing::Median, None),
                numbers(&[1.0, nan, 2.0, 6.0]),
                numbers(&[1.0, 2.0, 2.0, 6.0]),
                all,
            ),
            (
                missing(Missing::Mode, None),
                numbers(&[1.0, nan, 2.0, 2.0]),
                numbers(&[1.0, 2.0, 2.0, 2.0]),
                all,
            ),
            (
                missing(Missing::Fill, Some("-1")),
                numbers(&[1.0, nan, 2.0, 6.0]),
                numbers(&[1.0, -1.0, 2.0, 6.0]),
                all,
            ),
            (
                missing(Missing::Drop, None),
                numbers(&[1.0, nan, 2.0, 6.0]),
                numbers(&[1.0, nan, 2.0, 6.0]),
                [true, false, true, true],
            ),
            (
                missing(Missing::Mode, None),
                texts(&["b", "", "b", "a"]),
                texts(&["b", "b", "b", "a"]),
                all,
            ),
            (
                missing(Missing::Fill, Some("x")),
                texts(&["b", "", "b", "a"]),
                texts(&["b", "x", "b", "a"]),
                all,
            ),
            (
                missing(Missing::Drop, None),
                texts(&["b", "", "b", "a"]),
                texts(&["b", "", "b", "a"]),
                [true, false, true, true],
            ),
        ] {
            assert_eq!(applied(&spec, &values), Ok((want, keep.to_vec())), "{spec:?}");
        }
    }

    #[test]
    fn outliers_are_clipped_or_go() {
        // Quartiles 2 and 4: fences at -1 and 7. Mean 21.4, deviation 39.3.
        let values = numbers(&[1.0, 2.0, 3.0, 4.0, 100.0]);
        let outliers = |method, distance, action| Column {
            outliers: Some(Outliers { method, distance, action }),
            ..Column::default()
        };
        let (iqr, score) = (OutlierMethod::IQR, OutlierMethod::ZScore);
        let clipped = outliers(iqr, None, OutlierAction::Clip);
        assert_eq!(applied(&clipped, &values).unwrap().0, numbers(&[1.0, 2.0, 3.0, 4.0, 7.0]));
        let drop = [true, true, true, true, false];
        assert_eq!(applied(&outliers(iqr, None, OutlierAction::Drop), &values).unwrap().1, drop);
        assert_eq!(
            applied(&outliers(score, Some(1.9), OutlierAction::Drop), &values).unwrap().1,
            drop
        );
        let far = outliers(score, None, OutlierAction::Drop);
        assert_eq!(applied(&far, &values).unwrap().1, [true; 5]);
    }

    #[test]
    fn what_does_not_go_with_the_column_is_refused() {
        let outliers = Column {
            outliers: Some(Outliers {
                method: OutlierMethod::IQR,
                distance: None,
                action: OutlierAction::Clip,
            }),
            ..Column::default()
        };
        for (spec, values, want) in [
            (
                missing(Missing::Mean, None),
                texts(&["a"]),
                "data.preparation.table.columns.c.missing: no mean of texts; write Fill, Drop or Keep",
            ),
            (
                missing(Missing::Median, None),
                numbers(&[]),
                "data.preparation.table.columns.c.missing: no median of no values; write Fill, Drop or Keep",
            ),
            (
                missing(Missing::Fill, None),
                numbers(&[1.0]),
                "data.preparation.table.columns.c.fill: missing: Fill needs it",
            ),
            (
                missing(Missing::Fill, Some("x")),
                numbers(&[1.0]),
                "data.preparation.table.columns.c.fill: the column has numbers; write one",
            ),
            (
                outliers,
                texts(&["a"]),
                "data.preparation.table.columns.c.outliers: only numbers have outliers; leave it out",
            ),
        ] {
            assert_eq!(applied(&spec, &values).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn columns_of_whole_numbers_stay_whole() {
        let spec = Column {
            type_: Some(ColumnType::Integer),
            outliers: Some(Outliers {
                method: OutlierMethod::ZScore,
                distance: Some(1.0),
                action: OutlierAction::Clip,
            }),
            ..missing(Missing::Mean, None)
        };
        // Mean 4.5, deviation 4.1: bounds at 0.4 and 8.6.
        let values = numbers(&[1.0, 2.0, f64::NAN, 4.0, 11.0]);
        let (values, _) = applied(&spec, &values).unwrap();
        assert_eq!(values, numbers(&[1.0, 2.0, 5.0, 4.0, 9.0]));
    }

    #[test]
    fn a_rule_is_read_as_it_was_written_and_told() {
        let values = numbers(&[1.0, 2.0, 3.0, 4.0, 100.1]);
        let mut statistics = Statistics::like(&values, Wanted::default());
        statistics.extend(&values);
        let outliers =
            Outliers { method: OutlierMethod::IQR, distance: None, action: OutlierAction::Clip };
        let spec = Column { outliers: Some(outliers), ..missing(Missing::Mean, None) };
        let rule = ColumnRule::new("c", &spec, &statistics).unwrap();
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<ColumnRule>(&text).unwrap(), rule, "{text}");
        assert_eq!(rule.describe(), "missing becomes 22.02; capped at -1 and 7");
        let mut values = numbers(&[f64::NAN, 9.0, 5.0, -3.0]);
        let mended = rule.apply(&mut values, &mut [true; 4]);
        assert_eq!(mended, Mended { filled: 1, capped: 2, dropped: 0 });
    }

    #[test]
    fn values_out_of_range_are_malformed() {
        let spec = Column {
            min: Some(0.0),
            max: Some(10.0),
            type_: Some(ColumnType::Integer),
            ..Column::default()
        };
        for (value, want) in [
            (0.0, None),
            (-1.0, Some("is below min")),
            (10.0, None),
            (11.0, Some("is above max")),
            (2.5, Some("is not a whole number")),
        ] {
            assert_eq!(flaw(&spec, value), want, "{value}");
        }
    }
}
