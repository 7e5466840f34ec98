//! Typed paths into a job's spec: `training.learningRate`. Pure.

use hearth_crds::TrainingJobSpec;
use serde_json::Value;

/// Sets `path` in a spec that is written as JSON.
pub fn set(spec: &mut Value, path: &str, value: Value) {
    let mut place = spec;
    for part in path.split('.') {
        if !place.is_object() {
            *place = Value::Object(serde_json::Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

/// The spec with `path` set, or why a job cannot hold that there.
pub fn typed(spec: &Value, path: &str, value: &Value) -> Result<TrainingJobSpec, String> {
    let mut changed = spec.clone();
    set(&mut changed, path, value.clone());
    let read: TrainingJobSpec =
        serde_json::from_value(changed).map_err(|error| error.to_string())?;
    let back = serde_json::to_value(&read).unwrap_or_default();
    let kept = path.split('.').fold(&back, |place, part| &place[part]);
    // A field that no type knows is dropped in silence.
    if same(kept, value) { Ok(read) } else { Err("a TrainingJob has no such field".to_owned()) }
}

/// Whether two values say the same: 1 and 1.0 do.
pub fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a.to_bits() == b.to_bits())
}
