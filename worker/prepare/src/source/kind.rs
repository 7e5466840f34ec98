//! What a field holds, over all rows.
//!
//! Invariant: [`Kind::join`] does not depend on the order of rows but for the order of fields,
//! which is that in which they are first seen.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::json::Json;

/// Most columns of a table, nested ones counted.
pub(crate) const MAX_COLUMNS: usize = 10_000;
/// Most names of a nested object; one with more is no struct but a map, and is kept as its JSON.
const MAX_NAMES: usize = 1_000;

/// What a field holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// Nothing so far.
    #[default]
    Null,
    Bool,
    Int,
    /// Numbers, of which some are not whole.
    Float,
    /// Texts; also what is of several kinds, as its JSON.
    Text,
    List(Box<Self>),
    Struct(IndexMap<String, Self>),
}

impl Kind {
    /// What holds both.
    pub(crate) fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (_, Self::Null)
            | (Self::Bool, Self::Bool)
            | (Self::Int, Self::Int)
            | (Self::Float, Self::Float | Self::Int)
            | (Self::Text, _) => {}
            (Self::Null, other) => *self = other,
            (Self::Int, Self::Float) => *self = Self::Float,
            (Self::List(item), Self::List(other)) => item.join(*other),
            (Self::Struct(fields), Self::Struct(others)) => {
                for (name, kind) in others {
                    fields.entry(name).or_default().join(kind);
                }
                if fields.len() > MAX_NAMES {
                    *self = Self::Text;
                }
            }
            _ => *self = Self::Text,
        }
    }

    /// What holds `value`, too.
    pub(crate) fn see(&mut self, value: &Json<'_>) {
        match (&mut *self, value) {
            (Self::Text, _) | (_, Json::Null) => {}
            (Self::List(item), Json::List(values)) => {
                for value in values {
                    item.see(value);
                }
            }
            (Self::Struct(fields), Json::Object(values)) => {
                see_fields(fields, values);
                if fields.len() > MAX_NAMES {
                    *self = Self::Text;
                }
            }
            (Self::Null, Json::List(_)) => {
                *self = Self::List(Box::default());
                self.see(value);
            }
            (Self::Null, Json::Object(_)) => {
                *self = Self::Struct(IndexMap::new());
                self.see(value);
            }
            (_, Json::Bool(_)) => self.join(Self::Bool),
            (_, Json::Int(_)) => self.join(Self::Int),
            (_, Json::Float(_)) => self.join(Self::Float),
            (_, Json::Text(_) | Json::List(_) | Json::Object(_)) => self.join(Self::Text),
        }
    }

    /// Columns that it takes.
    pub(crate) fn columns(&self) -> usize {
        match self {
            Self::List(item) => item.columns(),
            Self::Struct(fields) => fields.values().map(Self::columns).sum::<usize>().max(1),
            _ => 1,
        }
    }

    /// As Arrow has it. A field without any value holds texts, as does an object without fields.
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Null | Self::Text => DataType::Utf8,
            Self::List(item) => DataType::List(Arc::new(item_field(item))),
            Self::Struct(fields) if fields.is_empty() => DataType::Utf8,
            Self::Struct(fields) => DataType::Struct(arrow_fields(fields)),
        }
    }
}

/// The field of a list's items.
pub(crate) fn item_field(item: &Kind) -> Field {
    Field::new("item", item.data_type(), true)
}

/// Sees the fields of a row.
pub(crate) fn see_fields(fields: &mut IndexMap<String, Kind>, values: &super::json::Fields<'_>) {
    for (place, (name, value)) in values.iter().enumerate() {
        // Most rows have the same fields at the same places.
        match fields.get_index_mut(place) {
            Some((known, kind)) if known == name => kind.see(value),
            _ => {
                if let Some(kind) = fields.get_mut(name.as_ref()) {
                    kind.see(value);
                } else {
                    fields.entry(name.to_string()).or_default().see(value);
                }
            }
        }
    }
}

/// Fields as Arrow has them.
pub(crate) fn arrow_fields(fields: &IndexMap<String, Kind>) -> Fields {
    fields.iter().map(|(name, kind)| Field::new(name, kind.data_type(), true)).collect()
}

/// Fields as Arrow's schema.
pub(crate) fn schema(fields: &IndexMap<String, Kind>) -> Arc<Schema> {
    Arc::new(Schema::new(arrow_fields(fields)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::json;
    use proptest::prelude::*;

    fn of(rows: &[&str]) -> Kind {
        let mut kind = Kind::Struct(IndexMap::new());
        for row in rows {
            kind.see(&Json::Object(json::parse(row.as_bytes()).unwrap()));
        }
        kind
    }

    #[test]
    fn fields_hold_what_all_rows_do() {
        for (rows, want) in [
            (vec![r#"{"a":1}"#, r#"{"a":2}"#], Kind::Int),
            (vec![r#"{"a":1}"#, r#"{"a":2.5}"#], Kind::Float),
            (vec![r#"{"a":null}"#, r#"{"a":true}"#], Kind::Bool),
            (vec![r#"{"a":1}"#, r#"{"a":"x"}"#], Kind::Text),
            (vec![r#"{"a":[1]}"#, r#"{"a":{"b":1}}"#], Kind::Text),
            (vec![r#"{"a":[]}"#, r#"{"a":[1,2.5]}"#], Kind::List(Box::new(Kind::Float))),
            (vec![r#"{"a":null}"#], Kind::Null),
            (
                vec![r#"{"a":{"b":1}}"#, r#"{"a":{"c":"x"}}"#],
                Kind::Struct([("b".into(), Kind::Int), ("c".into(), Kind::Text)].into()),
            ),
        ] {
            let Kind::Struct(fields) = of(&rows) else { panic!() };
            assert_eq!(fields["a"], want, "{rows:?}");
        }
    }

    #[test]
    fn a_map_of_many_names_is_kept_as_json() {
        let names: Vec<String> = (0..=MAX_NAMES).map(|name| format!("\"{name}\":1")).collect();
        let Kind::Struct(fields) = of(&[&format!("{{\"a\":{{{}}}}}", names.join(","))]) else {
            panic!()
        };
        assert_eq!(fields["a"], Kind::Text);
    }

    fn any_kind() -> impl Strategy<Value = Kind> {
        let leaf = prop_oneof![
            Just(Kind::Null),
            Just(Kind::Bool),
            Just(Kind::Int),
            Just(Kind::Float),
            Just(Kind::Text)
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|kind| Kind::List(Box::new(kind))),
                proptest::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|fields| Kind::Struct(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_order_of_rows_does_not_matter(a in any_kind(), b in any_kind(), c in any_kind()) {
            let join = |kinds: [&Kind; 3]| {
                let mut all = Kind::Null;
                for kind in kinds {
                    all.join(kind.clone());
                }
                all
            };
            let want = join([&a, &b, &c]);
            prop_assert_eq!(&join([&c, &a, &b]), &want);
            prop_assert_eq!(&join([&b, &a, &c]), &want);
            let mut right = b.clone();
            right.join(c);
            let mut left = a;
            left.join(right);
            prop_assert_eq!(left, want);
        }
    }
}
