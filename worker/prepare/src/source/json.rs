//! One row of JSON, read with bounds: a short line cannot fill the memory, nor the stack.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Levels of arrays and objects in one another.
const MAX_DEPTH: u32 = 64;
/// Values in a row, nested ones included. Each takes 16 times the bytes of a `1,`.
const MAX_VALUES: usize = 1_000_000;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Also whole numbers that 64 bits with a sign do not hold.
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Self>),
    Object(Fields<'a>),
}

/// Fields in their order; no name stands twice.
pub(crate) type Fields<'a> = Vec<(Cow<'a, str>, Json<'a>)>;

impl Json<'_> {
    /// A value's kind under JSON's names.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// Appends it as JSON.
    pub(crate) fn render(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Self::Int(number) => out.push_str(&number.to_string()),
            Self::Float(number) => out.push_str(&serde_json::Value::from(*number).to_string()),
            Self::Text(text) => quote(text, out),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.render(out);
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    quote(name, out);
                    out.push(':');
                    value.render(out);
                }
                out.push('}');
            }
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Fields of a row, or what is wrong with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Fields<'_>, String> {
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    let left = Cell::new(MAX_VALUES);
    let mut input = serde_json::Deserializer::from_str(text);
    let value = Seed { depth: 0, left: &left }
        .deserialize(&mut input)
        .and_then(|value| input.end().map(|()| value))
        .map_err(|error| format!("not a JSON object: {error}"))?;
    match value {
        Json::Object(fields) => Ok(fields),
        other => Err(format!("not a JSON object: it is {}", other.kind())),
    }
}

#[derive(Clone, Copy)]
struct Seed<'l> {
    depth: u32,
    left: &'l Cell<usize>,
}

impl Seed<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Json<'de>, D::Error> {
        let left = self.left.get();
        if left == 0 {
            return Err(de::Error::custom(format_args!("more than {MAX_VALUES} values")));
        }
        self.left.set(left - 1);
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(number).map_or(Json::Float(number as f64), Json::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Json<'de>, A::Error> {
        let deeper = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = input.next_element_seed(deeper)? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut input: A) -> Result<Json<'de>, A::Error> {
        let deeper = self.deeper()?;
        let mut fields: Fields<'de> = Vec::new();
        while let Some(name) = input.next_key_seed(Name)? {
            fields.push((name, input.next_value_seed(deeper)?));
        }
        refuse_twice(&fields)?;
        Ok(Json::Object(fields))
    }
}

/// Of a name that stands twice readers take the one value or the other.
fn refuse_twice<E: de::Error>(fields: &Fields<'_>) -> Result<(), E> {
    let twice = |name: &str| E::custom(format_args!("field {name:?} stands twice"));
    if fields.len() <= 16 {
        for (index, (name, _)) in fields.iter().enumerate() {
            if fields[..index].iter().any(|(other, _)| other == name) {
                return Err(twice(name));
            }
        }
        return Ok(());
    }
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(twice(pair[0])),
        None => Ok(()),
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_row_is_named() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64));
        let many = format!("{{\"a\":[{}1]}}", "1,".repeat(MAX_VALUES));
        for (row, want) in [
            ("[1]", "not a JSON object: it is an array"),
            ("{\"a\":1", "EOF while parsing"),
            ("{\"a\":1} x", "trailing characters"),
            ("{\"a\":1,\"a\":2}", "field \"a\" stands twice"),
            (&deep, "nested deeper than 64 levels"),
            (&many, "more than 1000000 values"),
        ] {
            let told = parse(row.as_bytes()).unwrap_err();
            assert!(told.contains(want), "{told}");
        }
        assert_eq!(parse(b"\xff").unwrap_err(), "not UTF-8");
    }

    #[test]
    fn whole_numbers_stay_whole_while_64_bits_hold_them() {
        let row =
            parse(b"{\"a\":-9223372036854775808,\"b\":9223372036854775808,\"c\":1.0}").unwrap();
        let values: Vec<_> = row.into_iter().map(|(_, value)| value).collect();
        assert_eq!(
            values,
            [Json::Int(i64::MIN), Json::Float(9_223_372_036_854_775_808.0), Json::Float(1.0)]
        );
    }

    fn any_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1e9..1e9f64).prop_map(Into::into),
            "\\PC{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map("[a-z]{1,3}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn rendering_gives_back_what_was_read(value in any_value()) {
            let text = serde_json::json!({ "v": value }).to_string();
            let fields = parse(text.as_bytes()).unwrap();
            let mut again = String::new();
            Json::Object(fields).render(&mut again);
            prop_assert_eq!(again, text);
        }
    }
}
