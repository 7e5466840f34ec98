//! What a model takes: features with their names and kinds, as training rows have them.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::columns::ValueType;
use crate::config::Task;
use crate::lists::{ListColumn, by_place};

/// Most values of a category that are told apart; the others are one.
pub const MAX_VOCABULARY: usize = 65_535;

/// The columns that a model knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Features {
    /// What is predicted.
    pub task: Task,
    /// Name of the column that is predicted.
    pub label: String,
    /// Labels by their numbers; none of a regression. Of two, the last is the positive one.
    pub labels: Vec<String>,
    /// Features by their numbers.
    pub features: Vec<Feature>,
    /// Columns that are no features.
    pub left_out: Vec<LeftOut>,
    /// Columns of lists, of whose places features are made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListColumn>,
}

/// A column that is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// What its column holds.
    #[serde(rename = "type")]
    pub type_: ValueType,
    /// Whether a training row had no value of it. Otherwise a row to predict must have one.
    pub missing: bool,
    /// Of a category, its values, most frequent first, then by name: a row has the number of its
    /// value, and [`Vec::len`] for all other values. `None` of a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<Vec<String>>,
}

/// A column that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeftOut {
    /// Its name.
    pub name: String,
    /// What it holds; `None` of what no feature is made of.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub type_: Option<ValueType>,
    /// Why.
    pub reason: Reason,
}

/// Why a column is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It was asked for.
    Excluded,
    /// All training rows have the same value.
    Constant,
    /// Texts of which each training row has another, such as an identifier.
    Identifier,
}

impl LeftOut {
    /// A sentence for people.
    pub fn note(&self) -> String {
        let why = match self.reason {
            Reason::Excluded => "as asked",
            Reason::Constant => "since all training rows have the same value",
            Reason::Identifier => "since its texts tell training rows apart, as an identifier does",
        };
        format!("column {:?} is left out, {why}", self.name)
    }
}

impl Feature {
    /// Whether it is a category.
    pub fn is_category(&self) -> bool {
        self.vocabulary.is_some()
    }
}

impl Features {
    /// Raw scores of a row: 1 of a number and of two labels, else one a label.
    pub fn classes(&self) -> usize {
        if self.labels.len() > 2 { self.labels.len() } else { 1 }
    }

    /// Whether one of two labels is predicted.
    pub fn is_binary(&self) -> bool {
        self.labels.len() == 2
    }

    /// Columns that rows are asked for, in the order of their features: name, what it holds, and of a
    /// column of lists their length.
    pub fn columns(&self) -> Vec<(&str, ValueType, Option<usize>)> {
        let places = by_place(&self.lists);
        let mut columns: Vec<(&str, ValueType, Option<usize>)> = Vec::new();
        for feature in &self.features {
            let Some((column, _)) = places.get(&feature.name) else {
                columns.push((&feature.name, feature.type_, None));
                continue;
            };
            if columns.iter().all(|(name, ..)| name != column) {
                let list = self.lists.iter().find(|list| list.name == *column);
                columns.push((*column, feature.type_, list.map(|list| list.length)));
            }
        }
        columns
    }

    /// The number of a label.
    pub fn label_number(&self, label: &str) -> Option<usize> {
        self.labels.iter().position(|known| known == label)
    }

    /// Numbers of the features that are categories.
    pub(crate) fn categories(&self) -> Vec<usize> {
        let numbered = self.features.iter().enumerate();
        numbered.filter(|(_, feature)| feature.is_category()).map(|(number, _)| number).collect()
    }

    /// Names for LightGBM's file, which takes no spaces nor JSON's signs: the columns' own where all
    /// are plain.
    pub(crate) fn plain_names(&self) -> Vec<String> {
        let plain = |name: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            !name.is_empty() && name.bytes().all(good)
        };
        let numbered = self.features.iter().enumerate();
        let names = numbered.map(|(number, feature)| {
            if plain(&feature.name) { feature.name.clone() } else { format!("Column_{number}") }
        });
        let names: Vec<String> = names.collect();
        if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
            return names;
        }
        (0..names.len()).map(|number| format!("Column_{number}")).collect()
    }

    /// What is wrong with features that were read from a file.
    pub(crate) fn fault(&self) -> Option<String> {
        let names = self.features.iter().map(|feature| &feature.name);
        let names = names.chain(self.left_out.iter().map(|column| &column.name));
        let mut seen = BTreeSet::from([&self.label]);
        for name in names {
            if !seen.insert(name) {
                return Some(format!("the column {name:?} is there twice"));
            }
        }
        if let Some(list) = self.lists.iter().find(|list| {
            let is_whole = (1..=seen.len()).contains(&list.length)
                && list.places().all(|place| seen.contains(&&place));
            !is_whole || seen.contains(&&list.name)
        }) {
            return Some(format!("the lists {:?} do not go with its features", list.name));
        }
        if self.features.is_empty() {
            return Some("there are no features".to_owned());
        }
        let labels: BTreeSet<_> = self.labels.iter().collect();
        let fits = match self.task {
            Task::TabularClassification => labels.len() >= 2,
            Task::TabularRegression => labels.is_empty(),
        };
        if !fits || labels.len() != self.labels.len() {
            return Some("its labels do not fit its task".to_owned());
        }
        for feature in &self.features {
            let vocabulary = feature.vocabulary.as_deref();
            let values = vocabulary.unwrap_or_default();
            let distinct = values.iter().collect::<BTreeSet<_>>().len() == values.len();
            let text = feature.type_ == ValueType::Text && vocabulary.is_none();
            if !distinct || text || values.len() > MAX_VOCABULARY {
                return Some(format!("the feature {:?} has no proper vocabulary", feature.name));
            }
        }
        None
    }

    /// Numbers of values, for each feature that is a category.
    pub(crate) fn lookups(&self) -> Vec<Lookup> {
        self.features.iter().map(Lookup::new).collect()
    }
}

/// Numbers of a category's values.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    numbers: HashMap<String, f64>,
}

impl Lookup {
    fn new(feature: &Feature) -> Self {
        let values = feature.vocabulary.iter().flatten().cloned();
        Self { numbers: values.enumerate().map(|(number, value)| (value, number as f64)).collect() }
    }

    /// NaN of no value.
    pub(crate) fn number(&self, value: Option<&str>) -> f64 {
        value.map_or(f64::NAN, |value| {
            self.numbers.get(value).copied().unwrap_or(self.numbers.len() as f64)
        })
    }
}
