//! `table.json`: what is done with a table's columns, the training rows known. A server does the same
//! with requests.

use std::collections::BTreeMap;

use hearth_crds::preparation::ColumnType;
use serde::{Deserialize, Serialize};

use super::augment::cross;
use super::rule::{ColumnRule, Mended};
use super::{ColumnValues, number};

/// Name of the file.
pub const TABLE: &str = "table.json";

/// What is done with a table's columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TableRules {
    /// Columns by name; others stay as they are.
    pub columns: BTreeMap<String, LearnedColumn>,
    /// Pairs of columns of which a third is made, once all are mended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub crosses: Vec<[String; 2]>,
}

/// What a column holds, and what becomes of its missing and far values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LearnedColumn {
    /// Type. Numbers and whole numbers are [`ColumnValues::Number`], all else is
    /// [`ColumnValues::Category`]: `true` and `false`, and RFC 3339, as texts.
    #[serde(rename = "type")]
    pub type_: ColumnType,
    /// Least value of a number; one below is malformed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Greatest value of a number; one above is malformed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// What becomes of missing and far values.
    pub rule: ColumnRule,
}

/// What became of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether each row stays. A server, which has to answer, may take the mended values of those
    /// that do not.
    pub keep: Vec<bool>,
    /// What columns were mended of.
    pub mended: BTreeMap<String, Mended>,
}

impl TableRules {
    /// Mends columns of `rows` rows, in place. Columns that no rule names, and rules whose column is
    /// not there, are passed over.
    pub fn apply(&self, columns: &mut BTreeMap<String, ColumnValues>, rows: usize) -> Applied {
        let mut applied = Applied { keep: vec![true; rows], ..Applied::default() };
        for (name, column) in &self.columns {
            if let Some(values) = columns.get_mut(name) {
                let mended = column.rule.apply(values, &mut applied.keep);
                applied.mended.insert(name.clone(), mended);
            }
        }
        applied
    }

    /// The new columns, of mended ones, by their names.
    pub fn crossed(&self, columns: &BTreeMap<String, ColumnValues>) -> Vec<(String, ColumnValues)> {
        let pairs = self.crosses.iter();
        let made = pairs.filter_map(|pair| {
            let [one, other] = pair;
            Some((crossed_name(pair), cross(columns.get(one)?, columns.get(other)?)))
        });
        made.collect()
    }

    /// A number within the bounds of its column, and whole where the column's are.
    pub fn bounded(&self, column: &str, value: f64) -> f64 {
        let Some(LearnedColumn { type_, min, max, .. }) = self.columns.get(column) else {
            return value;
        };
        let value = if *type_ == ColumnType::Integer { value.round() } else { value };
        let value = number(*max).map_or(value, |max| value.min(max));
        number(*min).map_or(value, |min| value.max(min))
    }
}

/// Name of the column made of two.
pub fn crossed_name([one, other]: &[String; 2]) -> String {
    format!("{one}_x_{other}")
}
