//! Settings, checked: what CEL cannot say, and what a caller that is no cluster may write.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_crds::features::{
    Feature, FeatureStore, FeatureType, FeatureView, OnFailure, TIME_FIELD,
};
use serde_json::Value;

use crate::error::ConfigError;
use crate::value;

/// Views whose features have different names, and defaults that can be read.
#[derive(Clone, Debug)]
pub struct Views {
    pub(crate) all: Vec<View>,
    pub(crate) timeout: Duration,
    pub(crate) on_failure: OnFailure,
}

#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) name: String,
    /// As it stands in the store's keys.
    pub(crate) entity: String,
    pub(crate) key: String,
    pub(crate) features: Vec<Wanted>,
    /// Milliseconds.
    pub(crate) max_age: Option<i64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    /// Its name in the store, and in files that are loaded there.
    pub(crate) field: String,
    pub(crate) type_: FeatureType,
    pub(crate) default: Option<Value>,
}

impl Views {
    /// Checks a store's views. Its URL is [`crate::Store`]'s matter.
    pub fn new(store: &FeatureStore) -> Result<Self, ConfigError> {
        let milliseconds = u64::try_from(store.timeout_milliseconds).unwrap_or(0);
        if milliseconds == 0 {
            return Err(ConfigError::new("timeoutMilliseconds", "must be at least 1"));
        }
        if store.views.is_empty() {
            return Err(ConfigError::new("views", "name at least one"));
        }
        let (mut names, mut features) = (BTreeSet::new(), BTreeSet::new());
        let mut views = Vec::with_capacity(store.views.len());
        for view in &store.views {
            let setting = format!("views[{}]", view.name);
            if !names.insert(&view.name) {
                return Err(ConfigError::new(setting, "two views have this name"));
            }
            for feature in &view.features {
                if !features.insert(&feature.name) {
                    let detail = format!("two features are called {:?}: rename one", feature.name);
                    return Err(ConfigError::new(setting, detail));
                }
            }
            views.push(View::new(view)?);
        }
        let timeout = Duration::from_millis(milliseconds);
        Ok(Self { all: views, timeout, on_failure: store.on_failure })
    }
}

impl View {
    pub(crate) fn new(view: &FeatureView) -> Result<Self, ConfigError> {
        let fault = |detail| Err(ConfigError::new(format!("views[{}]", view.name), detail));
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let entity = view.entity.as_ref().unwrap_or(&view.name);
        if entity.is_empty() || !entity.chars().chain(view.name.chars()).all(plain) {
            return fault("the name is letters, digits, dots, dashes and underscores");
        }
        if view.key.is_empty() || view.features.is_empty() {
            return fault("name a key and at least one feature");
        }
        if view.features.iter().any(|feature| feature.name == view.key) {
            return fault("key is what the request gives, and no feature");
        }
        if view.max_age_seconds.is_some_and(|age| age < 1) {
            return fault("maxAgeSeconds must be at least 1");
        }
        let features = view.features.iter().map(|feature| Wanted::new(&view.name, feature));
        Ok(Self {
            name: view.name.clone(),
            entity: entity.clone(),
            key: view.key.clone(),
            features: features.collect::<Result<_, _>>()?,
            max_age: view.max_age_seconds.map(|seconds| i64::from(seconds) * 1000),
        })
    }
}

impl Wanted {
    fn new(view: &str, feature: &Feature) -> Result<Self, ConfigError> {
        let setting = || format!("views[{view}].features[{}]", feature.name);
        let field = feature.field.as_ref().unwrap_or(&feature.name);
        if feature.name.is_empty() || field.is_empty() || field == TIME_FIELD {
            return Err(ConfigError::new(setting(), "a feature needs a name other than __time"));
        }
        let default = feature.default.as_ref().map(|text| {
            value::parse(text, feature.type_).ok_or_else(|| {
                let detail = format!("default is not {}", value::wanted(feature.type_));
                ConfigError::new(setting(), detail)
            })
        });
        let default = default.transpose()?;
        let (name, field) = (feature.name.clone(), field.clone());
        Ok(Self { name, field, type_: feature.type_, default })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(views: &Value) -> String {
        let store = json!({"url": "redis://h", "views": views});
        let store: FeatureStore = serde_json::from_value(store).unwrap();
        Views::new(&store).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn settings_that_mean_nothing_are_refused() {
        let view =
            |name: &str, features: Value| json!({"name": name, "key": "id", "features": features});
        let a = json!([{"name": "a"}]);
        for (want, views) in [
            ("", json!([view("v", a.clone()), view("w", json!([{"name": "b"}]))])),
            ("name at least one", json!([])),
            (
                "two views have this name",
                json!([view("v", a.clone()), view("v", json!([{"name": "b"}]))]),
            ),
            ("two features are called", json!([view("v", a.clone()), view("w", a.clone())])),
            ("the name is letters", json!([view("v:w", a.clone())])),
            (
                "the name is letters",
                json!([{"name": "v", "entity": "a:b", "key": "id", "features": a}]),
            ),
            ("other than __time", json!([view("v", json!([{"name": "a", "field": "__time"}]))])),
            ("at least one feature", json!([view("v", json!([]))])),
            ("and no feature", json!([view("v", json!([{"name": "id"}]))])),
            ("other than __time", json!([view("v", json!([{"name": "__time"}]))])),
            ("default is not a finite", json!([view("v", json!([{"name": "a", "default": "x"}]))])),
            (
                "default is not true",
                json!([view("v", json!([{"name": "a", "type": "Boolean", "default": "1"}]))]),
            ),
        ] {
            let said = refusal(&views);
            assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{want}: {said}");
        }
    }
}
