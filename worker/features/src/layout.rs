//! How features lie in the store.
//!
//! One hash an entity, under `hearth:VIEW:ENTITY`. A view's name holds no colon, so the entity is all that
//! follows the second one and nothing is escaped. Each feature is a field, its value as a text; the field
//! `__time` says when the features were true, in milliseconds since 1970 in UTC: a number that
//! scripts of the server can compare, which RFC 3339 with its offsets is not.

use serde_json::Value;

/// Longest key of an entity, in bytes.
pub const MAX_ENTITY_BYTES: usize = 1024;

/// The store's key of an entity.
pub fn redis_key(view: &str, entity: &str) -> String {
    format!("hearth:{view}:{entity}")
}

/// The entity that a row's field names: a text as it is, a whole number in decimal digits. None for
/// anything else, an empty text, and one of more than [`MAX_ENTITY_BYTES`].
pub fn entity_of(value: &Value) -> Option<String> {
    let entity = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    (1..=MAX_ENTITY_BYTES).contains(&entity.len()).then_some(entity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entities_are_texts_and_whole_numbers() {
        for (value, want) in [
            (json!("a:b c"), Some("a:b c")),
            (json!("007"), Some("007")),
            (json!(7), Some("7")),
            (json!(-7), Some("-7")),
            (json!(u64::MAX), Some("18446744073709551615")),
            (json!(7.0), None),
            (json!(""), None),
            (json!("x".repeat(1025)), None),
            (json!(true), None),
            (json!(null), None),
        ] {
            assert_eq!(entity_of(&value).as_deref(), want, "{value}");
        }
        assert_eq!(redis_key("customer", "a:b"), "hearth:customer:a:b");
    }
}
