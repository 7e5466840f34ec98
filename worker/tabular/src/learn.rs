//! Training rows → [`Features`].

use std::collections::{BTreeMap, HashMap};

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use serde::{Deserialize, Serialize};

use crate::columns::{TIMES, ValueType, column, numbers, texts};
use crate::config::Task;
use crate::error::{Result, TabularError};
use crate::features::{Feature, Features, LeftOut, MAX_VOCABULARY, Reason};

/// Different texts of a column up to which they are counted; a column of more is an identifier.
const MOST_TEXTS: usize = 1 << 20;
/// Most labels.
const MOST_LABELS: usize = 1000;
/// Texts of which all must be times for a column of times.
const TIMES_SEEN: usize = 100;

/// Which columns are used, and as what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FeatureOptions {
    /// Columns that are used; all but the label where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Columns that are not used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
    /// Columns of numbers that are names, such as codes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
    /// Labels in the order of their numbers; of two, the last is the positive one. In the order of
    /// their numbers or else names where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
}

/// Learns features of training rows, batch by batch. Memory grows with the columns' different texts.
#[derive(Debug)]
pub struct Learner {
    task: Task,
    label: String,
    options: FeatureOptions,
    columns: Vec<(String, Column)>,
    labels: HashMap<String, u64>,
    rows: u64,
}

#[derive(Debug)]
enum Column {
    Excluded(Option<ValueType>),
    Number(ValueType, Seen),
    Category(ValueType, Counts),
}

/// Of numbers.
#[derive(Debug)]
struct Seen {
    least: f64,
    greatest: f64,
    missing: bool,
}

/// Of texts.
#[derive(Debug, Default)]
struct Counts {
    texts: HashMap<String, u64>,
    missing: bool,
    too_many: bool,
}

impl Learner {
    /// Of rows of that schema. `label` is the column that is predicted.
    ///
    /// # Errors
    ///
    /// Columns that are asked for and are not there, and columns of which no feature can be made and
    /// that are not excluded.
    pub fn new(task: Task, label: &str, schema: &Schema, options: &FeatureOptions) -> Result<Self> {
        let field = schema.field_with_name(label).map_err(|_| {
            TabularError::column(label, "no row has this label; name another column")
        })?;
        let type_ = ValueType::of(label, field.data_type())?;
        if task == Task::TabularRegression && type_ == ValueType::Text {
            return Err(TabularError::column(label, "a regression predicts numbers, not texts"));
        }
        if task == Task::TabularRegression && options.labels.is_some() {
            return Err(TabularError::setting("labels", "a regression has none; leave it out"));
        }
        named(schema, label, options)?;
        let others = schema.fields().iter().filter(|field| field.name() != label);
        let columns = others.map(|field| {
            let (name, kind) = (field.name(), ValueType::of(field.name(), field.data_type()));
            Ok((name.clone(), Column::new(name, kind, options)?))
        });
        Ok(Self {
            task,
            label: label.to_owned(),
            options: options.clone(),
            columns: columns.collect::<Result<_>>()?,
            labels: HashMap::new(),
            rows: 0,
        })
    }

    /// Looks at more training rows.
    ///
    /// # Errors
    ///
    /// Rows without a label, and too many labels.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for (name, known) in &mut self.columns {
            known.add(name, batch)?;
        }
        self.rows += batch.num_rows() as u64;
        let mut missing = 0_u64;
        let labels = column(batch, &self.label)?;
        if self.task == Task::TabularClassification {
            texts(&self.label, labels, |label| match label {
                Some(label) if self.labels.len() <= MOST_LABELS => count(&mut self.labels, label),
                Some(_) => {}
                None => missing += 1,
            })?;
        } else {
            numbers(&self.label, labels, |label| missing += u64::from(label.is_nan()))?;
        }
        if self.labels.len() > MOST_LABELS {
            let detail =
                format!("there are over {MOST_LABELS} labels; a number is for TabularRegression");
            return Err(TabularError::column(&self.label, detail));
        }
        if missing > 0 {
            return Err(TabularError::column(&self.label, no_label(missing)));
        }
        Ok(())
    }

    /// What was learned. [`Features::left_out`] says which columns are none, and why.
    ///
    /// # Errors
    ///
    /// No rows, fewer than two labels, no features, texts that are times.
    pub fn finish(self) -> Result<Features> {
        if self.rows == 0 {
            return Err(TabularError::Data("there are no training rows".to_owned()));
        }
        let mut features = Features {
            task: self.task,
            labels: labels(&self.label, self.labels, self.options.labels, self.task)?,
            label: self.label,
            features: Vec::new(),
            left_out: Vec::new(),
            lists: Vec::new(),
        };
        for (name, column) in self.columns {
            match column.finish(&name)? {
                Ok(feature) => features.features.push(feature),
                Err((reason, type_)) => features.left_out.push(LeftOut { name, type_, reason }),
            }
        }
        if features.features.is_empty() {
            let detail = features.left_out.iter().map(LeftOut::note).collect::<Vec<_>>();
            let detail = format!("there is no column to learn from: {}", detail.join("; "));
            return Err(TabularError::Data(detail));
        }
        Ok(features)
    }
}

/// What to do with rows without a label.
pub(crate) fn no_label(rows: u64) -> String {
    format!("{rows} row(s) have no label; have the preparation drop them (missing: Drop)")
}

fn count(counts: &mut HashMap<String, u64>, text: &str) {
    if let Some(seen) = counts.get_mut(text) {
        *seen += 1;
    } else {
        counts.insert(text.to_owned(), 1);
    }
}

/// Columns that are asked for must be there.
fn named(schema: &Schema, label: &str, options: &FeatureOptions) -> Result<()> {
    let lists: [(&'static str, &[String]); 3] = [
        ("features", options.features.as_deref().unwrap_or_default()),
        ("excluded", &options.excluded),
        ("categories", &options.categories),
    ];
    for (setting, names) in lists {
        for name in names {
            if name == label {
                return Err(TabularError::setting(setting, format!("{name:?} is the label")));
            }
            if schema.field_with_name(name).is_err() {
                let detail = format!("no row has a column {name:?}; name another");
                return Err(TabularError::setting(setting, detail));
            }
        }
    }
    let excluded = |name: &&String| options.excluded.contains(name);
    let mut asked = options.features.iter().flatten().chain(&options.categories);
    match asked.find(excluded) {
        Some(name) => {
            let detail = format!("{name:?} is asked for, too; write it once");
            Err(TabularError::setting("excluded", detail))
        }
        None => Ok(()),
    }
}

impl Column {
    fn new(name: &String, kind: Result<ValueType>, options: &FeatureOptions) -> Result<Self> {
        let unasked = options.features.as_ref().is_some_and(|features| !features.contains(name));
        if unasked || options.excluded.contains(name) {
            return Ok(Self::Excluded(kind.ok()));
        }
        let kind = kind?;
        if kind == ValueType::Text || options.categories.contains(name) {
            return Ok(Self::Category(kind, Counts::default()));
        }
        let seen = Seen { least: f64::INFINITY, greatest: f64::NEG_INFINITY, missing: false };
        Ok(Self::Number(kind, seen))
    }

    fn add(&mut self, name: &str, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Excluded(_) => Ok(()),
            Self::Number(_, seen) => numbers(name, column(batch, name)?, |value| {
                seen.missing |= value.is_nan();
                // `min` and `max` pass over NaN.
                seen.least = seen.least.min(value);
                seen.greatest = seen.greatest.max(value);
            }),
            Self::Category(_, counts) => texts(name, column(batch, name)?, |text| match text {
                None => counts.missing = true,
                Some(_) if counts.too_many => {}
                Some(text) => {
                    count(&mut counts.texts, text);
                    if counts.texts.len() > MOST_TEXTS {
                        *counts = Counts { too_many: true, ..Counts::default() };
                    }
                }
            }),
        }
    }

    fn finish(self, name: &str) -> Result<Result<Feature, (Reason, Option<ValueType>)>> {
        let name_owned = name.to_owned();
        Ok(match self {
            Self::Excluded(type_) => Err((Reason::Excluded, type_)),
            Self::Number(type_, seen) => {
                let varies = seen.least < seen.greatest;
                let known = seen.least <= seen.greatest && seen.missing;
                if varies || known {
                    let missing = seen.missing;
                    Ok(Feature { name: name_owned, type_, missing, vocabulary: None })
                } else {
                    Err((Reason::Constant, Some(type_)))
                }
            }
            Self::Category(type_, counts) => {
                if type_ == ValueType::Text && counts.are_times() {
                    return Err(TabularError::column(name, TIMES));
                }
                let missing = counts.missing;
                match counts.vocabulary(type_) {
                    Ok(vocabulary) => {
                        let vocabulary = Some(vocabulary);
                        Ok(Feature { name: name_owned, type_, missing, vocabulary })
                    }
                    Err(reason) => Err((reason, Some(type_))),
                }
            }
        })
    }
}

impl Counts {
    /// Whether texts are times as RFC 3339 has them.
    fn are_times(&self) -> bool {
        let mut some = self.texts.keys().take(TIMES_SEEN).peekable();
        some.peek().is_some() && some.all(|text| text.parse::<jiff::Timestamp>().is_ok())
    }

    fn vocabulary(self, type_: ValueType) -> Result<Vec<String>, Reason> {
        let different = self.texts.len();
        if self.too_many {
            return Err(Reason::Identifier);
        }
        if different == 0 || (different == 1 && !self.missing) {
            return Err(Reason::Constant);
        }
        // Two rows that differ are no proof of an identifier, and numbers taken as categories are
        // what was asked for.
        if type_ == ValueType::Text && different > 2 && self.texts.values().all(|rows| *rows == 1) {
            return Err(Reason::Identifier);
        }
        let mut texts: Vec<_> = self.texts.into_iter().collect();
        texts.sort_unstable_by(|(one, rows), (other, more)| more.cmp(rows).then(one.cmp(other)));
        texts.truncate(MAX_VOCABULARY);
        Ok(texts.into_iter().map(|(text, _)| text).collect())
    }
}

/// Labels by their numbers.
fn labels(
    column: &str,
    found: HashMap<String, u64>,
    asked: Option<Vec<String>>,
    task: Task,
) -> Result<Vec<String>> {
    if task == Task::TabularRegression {
        return Ok(Vec::new());
    }
    let found: BTreeMap<String, u64> = found.into_iter().collect();
    if found.len() < 2 {
        let detail = "all training rows have the same label; a model has nothing to tell apart";
        return Err(TabularError::column(column, detail));
    }
    let mut names: Vec<String> = found.into_keys().collect();
    let Some(asked) = asked else {
        let number = |name: &String| name.parse::<f64>().ok().filter(|value| value.is_finite());
        if names.iter().all(|name| number(name).is_some()) {
            names.sort_by(|one, other| {
                number(one).partial_cmp(&number(other)).unwrap_or(one.cmp(other))
            });
        }
        return Ok(names);
    };
    let mut sorted = asked.clone();
    sorted.sort_unstable();
    if sorted != names {
        let detail = format!("the training rows have {names:?}; name each of these once");
        return Err(TabularError::setting("labels", detail));
    }
    Ok(asked)
}
