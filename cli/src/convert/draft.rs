//! The job as far as it is known: fields of its spec, and what is said about them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields of a spec by their path without `spec.`, in the order in which they came.
pub(super) struct Draft<'a> {
    /// The configuration that is converted.
    input: &'a Map<String, Value>,
    fields: Vec<(String, Value)>,
    /// What is to be known about the result.
    pub(super) notes: Vec<Note>,
}

/// Something to know about the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) kind: NoteKind,
    pub(super) text: String,
}

/// What a note is about, the weightiest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NoteKind {
    /// A field has another name here.
    Renamed,
    /// A field changes no result.
    LeftOut,
    /// A value was written out or taken away.
    Changed,
    /// A field changes the result and cannot be had.
    Refused,
}

impl<'a> Draft<'a> {
    pub(super) fn of(input: &'a Map<String, Value>) -> Self {
        Self { input, fields: Vec::new(), notes: Vec::new() }
    }

    /// Goes on with another file.
    pub(super) fn read_on(&mut self, input: &'a Map<String, Value>) {
        self.input = input;
    }

    /// A value of the configuration that is not null.
    pub(super) fn asked(&self, name: &str) -> Option<&'a Value> {
        self.input.get(name).filter(|value| !value.is_null())
    }

    /// Whether a switch of the configuration is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.asked(name) == Some(&Value::Bool(true))
    }

    pub(super) fn get(&self, place: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| field == place).map(|(_, value)| value)
    }

    /// A figure above 0.
    pub(super) fn is_above_0(&self, place: &str) -> bool {
        self.get(place).and_then(Value::as_f64).is_some_and(|figure| figure > 0.0)
    }

    pub(super) fn set(&mut self, place: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.fields.iter_mut().find(|(field, _)| field == place) {
            Some((_, old)) => *old = value,
            None => self.fields.push((place.to_owned(), value)),
        }
    }

    /// Takes a field away, and says so where it was there.
    pub(super) fn drop_field(&mut self, place: &str, why: &str) {
        let before = self.fields.len();
        self.fields.retain(|(field, _)| field != place);
        if self.fields.len() < before {
            self.note(NoteKind::Changed, format!("{place}: left out: {why}"));
        }
    }

    pub(super) fn note(&mut self, kind: NoteKind, text: String) {
        self.notes.push(Note { kind, text });
    }

    /// The spec without what `defaults` says already.
    pub(super) fn spec(&self, defaults: &BTreeMap<String, Value>) -> serde_yaml_ng::Mapping {
        let mut spec = serde_yaml_ng::Mapping::new();
        for (place, value) in &self.fields {
            if defaults.get(place) != Some(value) {
                put(&mut spec, place, value);
            }
        }
        spec
    }
}

/// Puts a value at a path such as `data.train.text`.
pub(super) fn put(mapping: &mut serde_yaml_ng::Mapping, place: &str, value: &Value) {
    let (first, rest) = place.split_once('.').unwrap_or((place, ""));
    if rest.is_empty() {
        mapping.insert(first.into(), serde_yaml_ng::to_value(value).unwrap_or_default());
        return;
    }
    let inner = mapping
        .entry(first.into())
        .or_insert_with(|| serde_yaml_ng::Value::Mapping(serde_yaml_ng::Mapping::new()));
    if let serde_yaml_ng::Value::Mapping(inner) = inner {
        put(inner, rest, value);
    }
}
