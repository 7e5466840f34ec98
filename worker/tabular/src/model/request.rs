//! Rows as JSON objects → numbers, mended as training rows were.

use std::collections::HashSet;

use hearth_crds::preparation::{Column, ColumnType};
use hearth_prepare::table::ColumnValues;
use hearth_prepare::table::augment::cross;
use hearth_prepare::table::rule::flaw;
use hearth_prepare::table::rules::{LearnedColumn, TableRules, crossed_name};
use serde_json::{Map, Value};

use crate::columns::ValueType;
use crate::error::{Result, TabularError};
use crate::features::{Feature, Features, Lookup};
use crate::lists::{ListColumn, by_place, place_name, spread_rows};

/// Rows to predict, `[rows, features]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    pub(super) values: Vec<f64>,
    pub(super) rows: usize,
}

impl Rows {
    /// How many.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }
}

/// What is read of a row, and what it becomes.
#[derive(Debug)]
pub(super) struct Inputs {
    columns: Vec<Input>,
    /// Features made of two columns: their numbers, and the feature's.
    crosses: Vec<(usize, usize, usize)>,
    lookups: Vec<Lookup>,
    /// Columns of lists, which rows have under the names of these.
    lists: Vec<ListColumn>,
    /// Names that a row may have.
    known: HashSet<String>,
}

/// A column that is read.
#[derive(Debug)]
struct Input {
    name: String,
    type_: ValueType,
    feature: Option<usize>,
    rule: Option<LearnedColumn>,
    crossed: bool,
}

impl Inputs {
    /// What is wrong with rules that do not go with the features, as an error.
    pub(super) fn new(features: &Features, rules: Option<&TableRules>) -> Result<Self, String> {
        let pairs = rules.map(|rules| rules.crosses.as_slice()).unwrap_or_default();
        let places = by_place(&features.lists);
        // Rules and crosses are of columns: of lists, each place has those of its column.
        let column_of = |name: &str| match places.get(name) {
            Some((column, place)) => ((*column).to_owned(), Some(*place)),
            None => (name.to_owned(), None),
        };
        let pair_of = |name: &str| {
            let (column, place) = column_of(name);
            let pair = pairs.iter().find(|pair| crossed_name(pair) == column)?;
            Some(pair.clone().map(|name| match place {
                Some(place) => place_name(&name, place),
                None => name,
            }))
        };
        let names = features.features.iter().map(|feature| &feature.name);
        let names = names.chain(features.left_out.iter().map(|column| &column.name));
        let names = names.filter(|name| !places.contains_key(*name));
        let known = names.chain(features.lists.iter().map(|list| &list.name));
        let mut inputs = Self {
            columns: Vec::new(),
            crosses: Vec::new(),
            lookups: features.lookups(),
            lists: features.lists.clone(),
            known: known.chain([&features.label]).cloned().collect(),
        };
        let rule =
            |name: &str| rules.and_then(|rules| rules.columns.get(&column_of(name).0)).cloned();
        for (number, feature) in features.features.iter().enumerate() {
            if pair_of(&feature.name).is_none() {
                inputs.columns.push(Input {
                    name: feature.name.clone(),
                    type_: feature.type_,
                    feature: Some(number),
                    rule: rule(&feature.name),
                    crossed: false,
                });
            }
        }
        for (number, feature) in features.features.iter().enumerate() {
            if let Some([one, other]) = pair_of(&feature.name) {
                let mut source = |name: &String| inputs.source(features, name, rule(name));
                let cross = (source(&one)?, source(&other)?, number);
                inputs.crosses.push(cross);
            }
        }
        Ok(inputs)
    }

    /// The number of a column of which a cross is made.
    fn source(
        &mut self,
        features: &Features,
        name: &str,
        rule: Option<LearnedColumn>,
    ) -> Result<usize, String> {
        if let Some(known) = self.columns.iter().position(|input| input.name == name) {
            self.columns[known].crossed = true;
            return Ok(known);
        }
        let left_out = features.left_out.iter().find(|column| column.name == name);
        let type_ = left_out.and_then(|column| column.type_);
        let type_ = type_.ok_or_else(|| {
            format!("a feature is made of {name:?}, which is unknown; do not exclude it")
        })?;
        self.columns.push(Input {
            name: name.to_owned(),
            type_,
            feature: None,
            rule,
            crossed: true,
        });
        Ok(self.columns.len() - 1)
    }

    /// Reads rows.
    pub(super) fn rows(&self, features: &Features, rows: &[Map<String, Value>]) -> Result<Rows> {
        for (row, fields) in rows.iter().enumerate() {
            if let Some(unknown) = fields.keys().find(|name| !self.known.contains(*name)) {
                let detail = "is no column that the model knows; correct its name, or leave it out";
                return Err(TabularError::row(row, unknown, detail));
            }
        }
        if self.lists.is_empty() {
            return self.numbers(features, rows);
        }
        self.numbers(features, &spread_rows(rows, &self.lists)?)
    }

    /// Reads rows whose names are known and whose lists are spread.
    fn numbers(&self, features: &Features, rows: &[Map<String, Value>]) -> Result<Rows> {
        let width = features.features.len();
        let mut values = vec![f64::NAN; rows.len() * width];
        let mut sources: Vec<Option<ColumnValues>> = Vec::with_capacity(self.columns.len());
        for input in &self.columns {
            if input.rule.is_none() && !input.crossed {
                let Some(number) = input.feature else { continue };
                let (feature, lookup) = (&features.features[number], &self.lookups[number]);
                for (row, fields) in rows.iter().enumerate() {
                    let value = input.value(fields, lookup, feature);
                    let value =
                        value.map_err(|detail| TabularError::row(row, &input.name, detail))?;
                    values[row * width + number] = there(value, feature, row)?;
                }
                sources.push(None);
                continue;
            }
            let column = input.column(rows)?;
            if let Some(number) = input.feature {
                let feature = (&features.features[number], &self.lookups[number]);
                put(&column, feature, values.iter_mut().skip(number).step_by(width))?;
            }
            sources.push(Some(column));
        }
        for (one, other, number) in &self.crosses {
            if let (Some(Some(one)), Some(Some(other))) = (sources.get(*one), sources.get(*other)) {
                let feature = (&features.features[*number], &self.lookups[*number]);
                put(&cross(one, other), feature, values.iter_mut().skip(*number).step_by(width))?;
            }
        }
        Ok(Rows { values, rows: rows.len() })
    }
}

/// A missing value, where training rows had some.
fn there(value: f64, feature: &Feature, row: usize) -> Result<f64> {
    if value.is_nan() && !feature.missing {
        let detail = "is missing, and every training row had it; give its value";
        return Err(TabularError::row(row, &feature.name, detail));
    }
    Ok(value)
}

/// Puts a mended column where the rows have their feature.
fn put<'p>(
    column: &ColumnValues,
    (feature, lookup): (&Feature, &Lookup),
    mut places: impl Iterator<Item = &'p mut f64>,
) -> Result<()> {
    for row in 0..column.len() {
        let value = match column {
            ColumnValues::Number(values) => {
                let value = values[row].map(|value| stored(value, feature.type_));
                match value {
                    Some(value) if feature.is_category() => {
                        lookup.number(Some(&text_of(value, feature.type_)))
                    }
                    value => value.unwrap_or(f64::NAN),
                }
            }
            ColumnValues::Category(values) => {
                let text = values[row].as_deref();
                if feature.is_category() { lookup.number(text) } else { flag_of(text) }
            }
        };
        let value = there(value, feature, row)?;
        if let Some(place) = places.next() {
            *place = value;
        }
    }
    Ok(())
}

/// A number as the column of training rows holds it.
#[expect(clippy::cast_possible_truncation, reason = "training rows had 32 bits of it")]
fn stored(value: f64, type_: ValueType) -> f64 {
    match type_ {
        ValueType::Float32 => f64::from(value as f32),
        _ => value,
    }
}

/// A number as the preparation writes it as a text.
#[expect(clippy::cast_possible_truncation, reason = "a float of 32 bits")]
fn text_of(value: f64, type_: ValueType) -> String {
    match type_ {
        ValueType::Float32 => f64::from(value as f32).to_string(),
        _ => value.to_string(),
    }
}

fn flag_of(text: Option<&str>) -> f64 {
    match text {
        Some("true") => 1.0,
        Some("false") => 0.0,
        _ => f64::NAN,
    }
}

/// What a field's value is, where it is of its column's type.
enum Read<'v> {
    Missing,
    Number(f64),
    Text(&'v str),
    Flag(bool),
}

impl Input {
    /// A row's value; the error says what is wrong with it.
    fn value(
        &self,
        fields: &Map<String, Value>,
        lookup: &Lookup,
        feature: &Feature,
    ) -> Result<f64, String> {
        Ok(match self.read(fields)? {
            Read::Missing => f64::NAN,
            Read::Number(value) if feature.is_category() => {
                lookup.number(Some(&text_of(value, self.type_)))
            }
            Read::Number(value) => stored(value, self.type_),
            Read::Text(text) => lookup.number(Some(text)),
            Read::Flag(flag) if feature.is_category() => {
                lookup.number(Some(if flag { "true" } else { "false" }))
            }
            Read::Flag(flag) => f64::from(u8::from(flag)),
        })
    }

    /// The values of all rows, mended.
    fn column(&self, rows: &[Map<String, Value>]) -> Result<ColumnValues> {
        let mut column = if matches!(self.type_, ValueType::Text | ValueType::Boolean) {
            ColumnValues::Category(Vec::with_capacity(rows.len()))
        } else {
            ColumnValues::Number(Vec::with_capacity(rows.len()))
        };
        for (row, fields) in rows.iter().enumerate() {
            let read = self.read(fields).and_then(|read| self.flawless(read));
            let read = read.map_err(|detail| TabularError::row(row, &self.name, detail))?;
            match &mut column {
                ColumnValues::Number(values) => values.push(match read {
                    Read::Number(value) => Some(value),
                    _ => None,
                }),
                ColumnValues::Category(values) => values.push(match read {
                    Read::Text(text) => Some(text.to_owned()),
                    Read::Flag(flag) => Some(flag.to_string()),
                    Read::Missing | Read::Number(_) => None,
                }),
            }
        }
        if let Some(learned) = &self.rule {
            // A row that training would have dropped has to be answered: its mended value is taken.
            learned.rule.apply(&mut column, &mut vec![true; rows.len()]);
        }
        Ok(column)
    }

    /// A number that the preparation would not have taken for malformed.
    fn flawless<'v>(&self, read: Read<'v>) -> Result<Read<'v>, String> {
        let (Read::Number(value), Some(learned)) = (&read, &self.rule) else { return Ok(read) };
        let LearnedColumn { type_, min, max, .. } = learned;
        let spec = Column { type_: Some(*type_), min: *min, max: *max, ..Column::default() };
        match flaw(&spec, *value) {
            Some(flaw) => Err(format!("{flaw}, as no training row's is")),
            None => Ok(read),
        }
    }

    fn read<'v>(&self, fields: &'v Map<String, Value>) -> Result<Read<'v>, String> {
        let wrong = |found: &str, wanted: &str| Err(format!("is {found}; write {wanted}"));
        let named = |value: &Value| match value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        let Some(value) = fields.get(&self.name) else { return Ok(Read::Missing) };
        match (self.type_, value) {
            (_, Value::Null) => Ok(Read::Missing),
            (
                ValueType::Number | ValueType::Float32 | ValueType::Integer,
                Value::Number(number),
            ) => {
                let value = number.as_f64().filter(|value| value.is_finite());
                value.map(Read::Number).ok_or_else(|| "is no finite number".to_owned())
            }
            (ValueType::Number | ValueType::Float32 | ValueType::Integer, other) => {
                wrong(named(other), "a number")
            }
            (ValueType::Boolean, Value::Bool(flag)) => Ok(Read::Flag(*flag)),
            (ValueType::Boolean, Value::Number(number)) if number.as_f64() == Some(0.0) => {
                Ok(Read::Flag(false))
            }
            (ValueType::Boolean, Value::Number(number)) if number.as_f64() == Some(1.0) => {
                Ok(Read::Flag(true))
            }
            (ValueType::Boolean, other) => wrong(named(other), "true or false"),
            (ValueType::Text, Value::String(text)) => Ok(self.text(text)),
            (ValueType::Text, other) => wrong(named(other), "a text"),
        }
    }

    /// The preparation takes an empty time for a missing one.
    fn text<'v>(&self, text: &'v str) -> Read<'v> {
        let time = self.rule.as_ref().is_some_and(|rule| rule.type_ == ColumnType::Timestamp);
        if time && text.trim().is_empty() { Read::Missing } else { Read::Text(text) }
    }
}
