//! Texts in the store, and the values that they stand for.

use hearth_crds::features::FeatureType;
use serde_json::{Number, Value};

/// Largest whole number that a float holds without gaps below it.
pub(crate) const MAX_INTEGER: i64 = 1 << 53;

/// What would do, for messages.
pub(crate) fn wanted(type_: FeatureType) -> &'static str {
    match type_ {
        FeatureType::Number => "a finite number",
        FeatureType::Integer => "a whole number up to 2^53",
        FeatureType::Boolean => "true or false",
        FeatureType::Text => "a text",
    }
}

/// The value that a text stands for; none where it is not of the type.
pub(crate) fn parse(text: &str, type_: FeatureType) -> Option<Value> {
    match type_ {
        FeatureType::Number => Number::from_f64(number(text)?).map(Value::Number),
        FeatureType::Integer => Some(integer(text)?.into()),
        FeatureType::Boolean => boolean(text).map(Value::Bool),
        FeatureType::Text => Some(text.into()),
    }
}

/// A finite number. `inf`, `nan` and hexadecimal ones are none.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// A whole number, written with or without `.0`.
pub(crate) fn integer(text: &str) -> Option<i64> {
    let read = text.parse().ok().or_else(|| whole(number(text)?));
    read.filter(|number| (-MAX_INTEGER..=MAX_INTEGER).contains(number))
}

/// The whole number that a float is.
#[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
pub(crate) fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() <= MAX_INTEGER as f64).then_some(number as i64)
}

pub(crate) fn boolean(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// The shortest text that reads as the same number.
pub(crate) fn shortest(number: f64) -> Option<String> {
    Some(match whole(number) {
        Some(whole) => whole.to_string(),
        None => Number::from_f64(number)?.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn texts_are_read_as_their_type() {
        use FeatureType::{Boolean, Integer, Number, Text};
        for (text, type_, want) in [
            ("1.5", Number, Some(json!(1.5))),
            ("-3", Number, Some(json!(-3.0))),
            ("1e3", Number, Some(json!(1000.0))),
            ("nan", Number, None),
            ("inf", Number, None),
            ("1e999", Number, None),
            ("", Number, None),
            (" 1", Number, None),
            ("12", Integer, Some(json!(12))),
            ("12.0", Integer, Some(json!(12))),
            ("12.5", Integer, None),
            ("9007199254740992", Integer, Some(json!(9_007_199_254_740_992_i64))),
            ("9007199254740993", Integer, None),
            ("true", Boolean, Some(json!(true))),
            ("1", Boolean, None),
            ("", Text, Some(json!(""))),
            ("12", Text, Some(json!("12"))),
        ] {
            assert_eq!(parse(text, type_), want, "{text:?} as {type_:?}");
        }
    }

    proptest! {
        #[test]
        fn the_shortest_text_reads_as_the_same_number(given in proptest::num::f64::NORMAL | proptest::num::f64::ZERO) {
            let read = number(&shortest(given).unwrap()).unwrap();
            // The sign of zero is not kept.
            prop_assert_eq!(read.to_bits(), (given + 0.0).to_bits());
        }
    }
}
