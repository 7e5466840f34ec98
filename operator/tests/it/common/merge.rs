//! What server-side apply does to an object, as far as the operator relies on it.

use serde_json::Value;

/// The field manager of a request.
pub(super) fn manager(query: &str) -> String {
    let named = query.split('&').find_map(|part| part.strip_prefix("fieldManager="));
    named.unwrap_or_default().to_owned()
}

/// Takes away what a manager applied before and leaves out now.
pub(super) fn forget(from: &mut Value, before: &Value, now: &Value) {
    let (Value::Object(from), Value::Object(before)) = (from, before) else { return };
    from.retain(|name, _| !before.contains_key(name) || now.get(name).is_some());
    for (name, value) in from {
        forget(value, before.get(name).unwrap_or(&Value::Null), &now[name]);
    }
}

/// Puts what is applied over what is there.
pub(super) fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
