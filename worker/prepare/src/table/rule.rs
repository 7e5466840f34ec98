//! What becomes of a column's missing and far values, and which values are malformed.

use hearth_crds::preparation::{
    Column, ColumnType, Missing, OutlierAction, OutlierMethod, Outliers,
};

use super::statistics::{NumberStatistics, Statistics};
use super::{ColumnValues, number};

/// Interquartile ranges beyond the quartiles (Tukey 1977), where the spec says nothing.
const FENCES: f64 = 1.5;
/// Standard deviations from the mean, where the spec says nothing.
const DEVIATIONS: f64 = 3.0;

/// Why a column cannot be treated so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The column has no such statistic.
    #[error("data.table.columns.{column}.missing: no {statistic} of {of}")]
    Statistic {
        /// Which column.
        column: String,
        /// Which statistic.
        statistic: &'static str,
        /// Why there is none.
        of: &'static str,
    },
    /// `Fill` without `fill`, or with one that is no number.
    #[error("data.table.columns.{column}.fill: {detail}")]
    Fill {
        /// Which column.
        column: String,
        /// What is wrong.
        detail: &'static str,
    },
    /// Outliers of texts.
    #[error("data.table.columns.{column}.outliers: only numbers have outliers")]
    Outliers {
        /// Which column.
        column: String,
    },
}

/// What is done with a column, its training rows' statistics known.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnRule {
    missing: MissingRule,
    bounds: Option<Bounds>,
}

#[derive(Clone, Debug, PartialEq)]
enum MissingRule {
    Keep,
    Drop,
    Number(f64),
    Category(String),
}

/// Between which values a number is none of the outliers.
#[derive(Clone, Copy, Debug, PartialEq)]
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
        let bounds = match (&spec.outliers, statistics) {
            (None, _) => None,
            (Some(outliers), Statistics::Number(numbers)) => bounds(outliers, numbers),
            (Some(_), Statistics::Category(_)) => {
                return Err(RuleError::Outliers { column: name.to_owned() });
            }
        };
        Ok(Self { missing, bounds })
    }

    /// Outliers first, then missing values. `keep` has a place for each row: those that go become
    /// `false`.
    pub fn apply(&self, values: &mut ColumnValues, keep: &mut [bool]) {
        match values {
            ColumnValues::Number(values) => {
                for (value, keep) in values.iter_mut().zip(keep) {
                    *value = number(*value);
                    if let (Some(value), Some(bounds)) = (value.as_mut(), self.bounds) {
                        *keep &= bounds.apply(value);
                    }
                    match &self.missing {
                        MissingRule::Drop => *keep &= value.is_some(),
                        MissingRule::Number(fill) => *value = value.or(Some(*fill)),
                        MissingRule::Keep | MissingRule::Category(_) => {}
                    }
                }
            }
            ColumnValues::Category(values) => {
                for (value, keep) in values.iter_mut().zip(keep) {
                    match &self.missing {
                        MissingRule::Drop => *keep &= value.is_some(),
                        MissingRule::Category(fill) => {
                            value.get_or_insert_with(|| fill.clone());
                        }
                        MissingRule::Keep | MissingRule::Number(_) => {}
                    }
                }
            }
        }
    }
}

impl Bounds {
    /// Whether the row stays; the value is moved within bounds where that is asked for.
    fn apply(self, value: &mut f64) -> bool {
        match self.action {
            OutlierAction::Clip => {
                *value = value.max(self.least).min(self.greatest);
                true
            }
            OutlierAction::Drop => (self.least..=self.greatest).contains(value),
        }
    }
}

fn missing_rule(
    name: &str,
    spec: &Column,
    statistics: &Statistics,
) -> Result<MissingRule, RuleError> {
    let none = |statistic, of| RuleError::Statistic { column: name.to_owned(), statistic, of };
    let bad_fill = |detail| RuleError::Fill { column: name.to_owned(), detail };
    let fill = || spec.fill.as_ref().ok_or_else(|| bad_fill("missing: Fill needs it"));
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
            let mode = numbers.mode().map(MissingRule::Number);
            mode.ok_or_else(|| none("mode", "no values, or too many different ones"))
        }
        (Missing::Mode, Statistics::Category(texts)) => {
            let mode = texts.mode().map(|mode| MissingRule::Category(mode.to_owned()));
            mode.ok_or_else(|| none("mode", "no values, or too many different ones"))
        }
        (Missing::Fill, Statistics::Number(_)) => {
            let value = number(fill()?.trim().parse().ok());
            value.map(MissingRule::Number).ok_or_else(|| bad_fill("the column has numbers"))
        }
        (Missing::Fill, Statistics::Category(_)) => Ok(MissingRule::Category(fill()?.clone())),
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
    Some(Bounds { least, greatest, action: outliers.action })
}

/// Rows whose value the spec does not allow: numbers below `min` or above `max`, and numbers with
/// a fraction in a column of whole ones. Missing values are none of them.
pub fn malformed(spec: &Column, values: &ColumnValues) -> Vec<usize> {
    let ColumnValues::Number(values) = values else { return Vec::new() };
    let is_whole = spec.type_ == Some(ColumnType::Integer);
    let allowed = |value: f64| {
        spec.min.is_none_or(|min| value >= min)
            && spec.max.is_none_or(|max| value <= max)
            && (!is_whole || value.fract() == 0.0)
    };
    let rows = values.iter().enumerate();
    rows.filter(|(_, value)| number(**value).is_some_and(|value| !allowed(value)))
        .map(|(row, _)| row)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut statistics = Statistics::like(values);
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
                "data.table.columns.c.missing: no mean of texts",
            ),
            (
                missing(Missing::Median, None),
                numbers(&[]),
                "data.table.columns.c.missing: no median of no values",
            ),
            (
                missing(Missing::Fill, None),
                numbers(&[1.0]),
                "data.table.columns.c.fill: missing: Fill needs it",
            ),
            (
                missing(Missing::Fill, Some("x")),
                numbers(&[1.0]),
                "data.table.columns.c.fill: the column has numbers",
            ),
            (outliers, texts(&["a"]), "data.table.columns.c.outliers: only numbers have outliers"),
        ] {
            assert_eq!(applied(&spec, &values).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn values_out_of_range_are_malformed() {
        let spec = Column {
            min: Some(0.0),
            max: Some(10.0),
            type_: Some(ColumnType::Integer),
            ..Column::default()
        };
        assert_eq!(malformed(&spec, &numbers(&[0.0, -1.0, 10.0, 11.0, 2.5, f64::NAN])), [1, 3, 4]);
        assert!(malformed(&spec, &texts(&["a"])).is_empty());
    }
}
