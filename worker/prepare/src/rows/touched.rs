//! The fields that preparation looks into, and of what kind they must be.

use std::collections::BTreeSet;
use std::path::Path;

use hearth_crds::features::{Feature, FeatureJoin, FeatureType};
use hearth_crds::preparation::{ColumnType, Preparation, PrepareConfig, SplitBy};
use indexmap::IndexMap;

use crate::error::PrepareError;
use crate::source::{Fields, Json, Kind};

/// Fields that preparation looks into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    texts: Vec<String>,
    label: Option<String>,
    image: Option<String>,
    /// Whether labels are classes: strings, or whole numbers. Those of a table may be any number.
    classes: bool,
    split: Option<(SplitBy, String)>,
    /// Column of the time of windows.
    time: Option<String>,
    /// Other columns that a setting names.
    others: BTreeSet<String>,
    /// Columns of CSV that hold texts, whatever they look like.
    verbatim: BTreeSet<String>,
}

impl Touched {
    pub(crate) fn new(config: &PrepareConfig) -> Self {
        let classes = !config.text_fields.is_empty() || config.image.is_some();
        let split = config.preparation.split.as_ref().filter(|_| config.eval_split.is_some());
        let split = split.and_then(|split| Some((split.by, split.field.clone()?)));
        let (texts, label) = (config.text_fields.clone(), config.label.clone());
        let (others, verbatim) = columns(&config.preparation);
        let table = config.preparation.augment.as_ref().and_then(|augment| augment.table.as_ref());
        let windows = table.and_then(|table| table.windows.as_ref());
        let time = windows.map(|windows| windows.time.clone());
        Self { texts, label, image: config.image.clone(), classes, split, time, others, verbatim }
    }

    /// What a join looks into of its features' source.
    pub(crate) fn of_features(join: &FeatureJoin) -> Self {
        let key = join.source_key.as_ref().unwrap_or(&join.key);
        let time = join.source_time.as_ref().unwrap_or(&join.time);
        let column = |feature: &Feature| feature.field.as_ref().unwrap_or(&feature.name).clone();
        let texts = join.features.iter().filter(|feature| feature.type_ == FeatureType::Text);
        Self {
            others: [key, time]
                .into_iter()
                .cloned()
                .chain(join.features.iter().map(column))
                .collect(),
            verbatim: [key].into_iter().cloned().chain(texts.map(column)).collect(),
            ..Self::default()
        }
    }

    /// Fields of texts.
    pub(crate) fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Field of the label.
    pub(crate) fn label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Field of the picture.
    pub(crate) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Whether labels are classes.
    pub(crate) fn classes(&self) -> bool {
        self.classes
    }

    /// Field by which rows are split, and how.
    pub(crate) fn split(&self) -> Option<(SplitBy, &str)> {
        self.split.as_ref().map(|(by, field)| (*by, field.as_str()))
    }

    /// Column of the time of windows.
    pub(crate) fn time(&self) -> Option<&str> {
        self.time.as_deref()
    }

    /// All of them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let split = self.split.as_ref().map(|(_, field)| field);
        let fields = self.texts.iter().chain(&self.label).chain(&self.image).chain(split);
        fields.chain(&self.others).map(String::as_str)
    }

    /// What is wrong with the kinds of a row's values. What is missing or empty is told later, for
    /// all formats alike.
    pub(crate) fn check(&self, fields: &Fields<'_>) -> Result<(), String> {
        let of =
            |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        for name in &self.texts {
            match of(name) {
                None | Some(Json::Null | Json::Text(_)) => {}
                Some(Json::List(messages)) => {
                    for (index, message) in messages.iter().enumerate() {
                        check_message(message)
                            .map_err(|what| format!("field {name:?}[{index}] {what}"))?;
                    }
                }
                Some(other) => {
                    return Err(format!(
                        "field {name:?} is {}, neither a string nor an array of messages",
                        other.kind()
                    ));
                }
            }
        }
        if let (Some(name), true) = (&self.label, self.classes) {
            match of(name) {
                None | Some(Json::Null | Json::Text(_) | Json::Int(_)) => {}
                Some(other) => {
                    return Err(format!(
                        "field {name:?} is {}, neither a string nor a whole number",
                        other.kind()
                    ));
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a row beside the others of its source.
    pub(crate) fn fits(
        &self,
        fields: &Fields<'_>,
        kinds: &IndexMap<String, Kind>,
    ) -> Result<(), String> {
        for name in self.texts.iter().filter(|name| kinds.get(*name) == Some(&Kind::Text)) {
            if fields.iter().any(|(of, value)| of == name && matches!(value, Json::List(_))) {
                return Err(format!("field {name:?} holds messages, and a string in other rows"));
            }
        }
        Ok(())
    }

    /// Makes the kinds that were found those that are needed. Texts of CSV are texts even where
    /// all are digits, and its labels classes.
    pub(crate) fn settle(
        &self,
        kinds: &mut IndexMap<String, Kind>,
        csv: bool,
        path: &Path,
    ) -> Result<(), PrepareError> {
        for name in &self.texts {
            // Where no row has it, every row is malformed, and told to lack it.
            kinds.entry(name.clone()).or_insert(Kind::Text);
            match kinds.get_mut(name) {
                Some(kind) if csv => *kind = Kind::Text,
                None | Some(Kind::Null | Kind::Text) => {}
                Some(Kind::List(item)) => match &mut **item {
                    item @ Kind::Null => {
                        let parts = ["role", "content"].map(|part| (part.to_owned(), Kind::Text));
                        *item = Kind::Struct(parts.into());
                    }
                    Kind::Struct(fields) => {
                        for part in ["role", "content"] {
                            *fields.entry(part.to_owned()).or_default() = Kind::Text;
                        }
                    }
                    _ => {
                        let detail = format!(
                            "messages of field {name:?} have too many different names; keep those that vary as one field of JSON"
                        );
                        return Err(PrepareError::damaged(path, 0, detail));
                    }
                },
                Some(_) => return Err(PrepareError::internal("a text field that is no text")),
            }
        }
        for name in self.verbatim.iter().filter(|_| csv) {
            if let Some(kind) = kinds.get_mut(name) {
                *kind = Kind::Text;
            }
        }
        if let Some(kind) = self.label.as_ref().and_then(|name| kinds.get_mut(name))
            && csv
            && self.classes
            && *kind != Kind::Int
        {
            *kind = Kind::Text;
        }
        Ok(())
    }
}

/// Columns of tables that settings name; and which of them hold texts.
fn columns(asked: &Preparation) -> (BTreeSet<String>, BTreeSet<String>) {
    let specs = || asked.table.iter().flat_map(|table| &table.columns);
    let table = asked.augment.as_ref().and_then(|augment| augment.table.as_ref());
    let windows = table.and_then(|table| table.windows.as_ref());
    let mut all: BTreeSet<String> = specs().map(|(name, _)| name.clone()).collect();
    all.extend(table.iter().flat_map(|table| table.crosses.iter().flatten().cloned()));
    all.extend(windows.iter().flat_map(|of| [&of.time].into_iter().chain(&of.series).cloned()));
    let texts = specs().filter(|(_, spec)| {
        matches!(spec.type_, Some(ColumnType::Category | ColumnType::Text | ColumnType::Timestamp))
    });
    let mut texts: BTreeSet<String> = texts.map(|(name, _)| name.clone()).collect();
    // A row has what joins it only once it is read.
    let joined = asked.join.iter().flat_map(|join| &join.features).map(|feature| &feature.name);
    let joined: BTreeSet<&String> = joined.collect();
    all.retain(|name| !joined.contains(name));
    all.extend(asked.join.iter().flat_map(|join| [&join.key, &join.time]).cloned());
    texts.extend(asked.join.iter().map(|join| join.key.clone()));
    (all, texts)
}

/// A message has a role, and a string as its content or none.
fn check_message(message: &Json<'_>) -> Result<(), String> {
    let Json::Object(fields) = message else {
        return Err(format!("is {}, not a message {{role, content}}", message.kind()));
    };
    for (part, empty) in [("role", false), ("content", true)] {
        match fields.iter().find(|(name, _)| name == part).map(|(_, value)| value) {
            Some(Json::Text(_)) => {}
            Some(Json::Null) | None if empty => {}
            None => return Err(format!("has no {part}")),
            Some(other) => {
                let kind = other.kind();
                return Err(format!("has a {part} that is {kind}, not a string"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::parse;

    #[test]
    fn rows_of_the_wrong_kind_are_named() {
        let touched = Touched {
            texts: vec!["t".into()],
            label: Some("l".into()),
            image: None,
            classes: true,
            ..Touched::default()
        };
        for (row, want) in [
            (r#"{"t": 3}"#, r#"field "t" is a number, neither a string nor an array of messages"#),
            (r#"{"t": ["a"]}"#, r#"field "t"[0] is a string, not a message {role, content}"#),
            (r#"{"t": [{"content": "a"}]}"#, r#"field "t"[0] has no role"#),
            (
                r#"{"t": [{"role": "user", "content": ["a"]}]}"#,
                r#"field "t"[0] has a content that is an array, not a string"#,
            ),
            (
                r#"{"t": "a", "l": 1.5}"#,
                r#"field "l" is a number, neither a string nor a whole number"#,
            ),
        ] {
            assert_eq!(
                touched.check(&parse(row.as_bytes()).unwrap()),
                Err(want.to_owned()),
                "{row}"
            );
        }
        for row in [r#"{"t": "a", "l": 1}"#, r#"{"t": [{"role": "user", "content": null}]}"#, "{}"]
        {
            assert_eq!(touched.check(&parse(row.as_bytes()).unwrap()), Ok(()), "{row}");
        }
        let table = Touched { classes: false, ..touched };
        assert_eq!(table.check(&parse(br#"{"l": 1.5}"#).unwrap()), Ok(()));
    }

    #[test]
    fn messages_among_strings_do_not_fit() {
        let touched = Touched { texts: vec!["t".into()], ..Touched::default() };
        let kinds = [("t".to_owned(), Kind::Text)].into();
        let row = parse(br#"{"t": [{"role": "user", "content": "a"}]}"#).unwrap();
        assert!(touched.fits(&row, &kinds).unwrap_err().contains("a string in other rows"));
    }
}
