//! Features of entities (a customer, an account, a machine) that a Redis or Valkey server keeps.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Field of a hash in the store that says when its features were true.
pub const TIME_FIELD: &str = "__time";

/// A server with features, and which of them join a row. docs/features.md says how they are kept.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeatureStore {
    /// `redis://[USER@]HOST[:PORT][/DB]`, or `rediss://` for TLS. No password: `passwordSecret`.
    #[schemars(
        length(min = 1, max = 512),
        regex(
            pattern = r"^rediss?://([A-Za-z0-9._-]+@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[0-9]{1,4})?$"
        )
    )]
    pub url: String,
    /// The server's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<PasswordSecret>,
    /// Features that are joined, by what they describe.
    #[schemars(length(min = 1, max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub views: Vec<FeatureView>,
    /// Longest that a request waits for its features.
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 10_000))]
    pub timeout_milliseconds: i32,
    /// What becomes of a request that the store does not answer.
    #[serde(default)]
    pub on_failure: OnFailure,
}

impl FeatureStore {
    /// The port of `url`: what it says, else Redis' own.
    pub fn port(&self) -> u16 {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        // An IPv6 address has colons of its own, in brackets.
        let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
        after.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(6379)
    }
}

/// A key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordSecret {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which of its keys.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// What becomes of a request that the store does not answer: it is down, takes longer than
/// `timeoutMilliseconds`, refuses, or holds what cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// As if nothing were stored: features become their defaults, and a request that needs a
    /// feature without one fails.
    #[default]
    Defaults,
    /// It fails.
    Fail,
}

/// Features of one kind of entity.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.features.all(f, f.name != self.key)").message("key is what the request gives, and no feature").field_path(".key"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeatureView {
    /// Name; where `entity` is left out, as it stands in the store's keys.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// Kind of entity, as it stands in the store's keys (`hearth:ENTITY:KEY`), where two views look up the same
    /// one: who pays and who is paid, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub entity: Option<String>,
    /// Field of a request's row that holds the entity's key: a text or a whole number.
    #[schemars(length(min = 1, max = 256))]
    pub key: String,
    /// Features that join the row.
    #[schemars(length(min = 1, max = 128))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub features: Vec<Feature>,
    /// Oldest that features may be to be used; any age where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub max_age_seconds: Option<i32>,
}

/// Features that join rows to learn from, each as it was at the row's time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.features.all(f, f.name != self.key && f.name != self.time)").message("key and time are columns of the rows, and no features").field_path(".features"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FeatureJoin {
    /// Rows of features, each true from its time on: a Parquet file, or a directory of them,
    /// `pvc://CLAIM/PATH`. They are held in memory, up to 1 GiB.
    #[schemars(length(min = 1, max = 1024))]
    pub source: String,
    /// Column that holds the entity's key: a text or a whole number. The newest of its rows that
    /// was there at the row's time joins the row.
    #[schemars(length(min = 1, max = 256))]
    pub key: String,
    /// Column of the row's time: a timestamp, a date, RFC 3339 or milliseconds since 1970.
    #[schemars(length(min = 1, max = 256))]
    pub time: String,
    /// The key's column in `source`; named as `key` where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub source_key: Option<String>,
    /// The time's column in `source`; named as `time` where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub source_time: Option<String>,
    /// Features that join. Here, `field` is a column of `source`.
    #[schemars(length(min = 1, max = 128))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub features: Vec<Feature>,
    /// Seconds from the time of a row of features until it is in the store that servers ask. With 0,
    /// a row sees features of its very own time, be they written because of it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 315_360_000))]
    pub delay_seconds: i32,
    /// Oldest that features may be to be used; any age where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 315_360_000))]
    pub max_age_seconds: Option<i32>,
}

/// A feature.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(has(self.field) ? self.field : self.name) != '__time'").message("__time is when features were true, and none of them").field_path(".name"),
    validation = Rule::new("!has(self.default) || self.type != 'Number' || self.default.matches('^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]{1,3})?$')").message("default is no number").field_path(".default"),
    validation = Rule::new("!has(self.default) || self.type != 'Integer' || self.default.matches('^-?[0-9]{1,16}$')").message("default is no whole number").field_path(".default"),
    validation = Rule::new("!has(self.default) || self.type != 'Boolean' || self.default == 'true' || self.default == 'false'").message("default is neither true nor false").field_path(".default"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Feature {
    /// Name in the row that it joins; where `field` is left out, in the store, too.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its field of the hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub field: Option<String>,
    /// How its text in the store is read.
    #[serde(default, rename = "type")]
    pub type_: FeatureType,
    /// Its value where there is none, as a text that is read as `type`. Without, a request that
    /// needs it fails, and a row to learn from has no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub default: Option<String>,
}

/// How a feature's text is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeatureType {
    /// A finite number.
    #[default]
    Number,
    /// A whole number, up to 2^53 either way.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// As it is.
    Text,
}

fn twenty() -> i32 {
    20
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::cel::{Validator, compile_schema};
    use schemars::generate::SchemaSettings;
    use serde_json::{Value, json};

    fn refusal(change: impl FnOnce(&mut Value)) -> String {
        let mut store = json!({
            "url": "redis://store:6379/0",
            "views": [{"name": "customer", "key": "customer_id", "features": [
                {"name": "visits", "default": "-1.5e3"},
                {"name": "orders", "type": "Integer", "default": "3"},
                {"name": "vip", "type": "Boolean", "default": "false"},
                {"name": "city", "type": "Text", "default": "?"},
            ]}],
        });
        change(&mut store);
        let settings = SchemaSettings::openapi3().with(|s| s.inline_subschemas = true);
        let schema = settings.into_generator().into_root_schema_for::<FeatureStore>();
        let rules = compile_schema(&schema.to_value());
        // Defaults are there, as the API server has put them in.
        let store: FeatureStore = serde_json::from_value(store).unwrap();
        let store = serde_json::to_value(store).unwrap();
        match Validator::new().validate_compiled(&rules, &store, None) {
            Ok(()) => String::new(),
            Err(faults) => faults.to_string(),
        }
    }

    #[test]
    fn every_rule_speaks() {
        type Change = fn(&mut Value);
        let feature = |at: usize| format!("/views/0/features/{at}");
        let cases: Vec<(&str, String, Value)> = vec![
            ("and no feature", "/views/0/key".into(), json!("visits")),
            ("__time is when", feature(0) + "/name", json!("__time")),
            ("is no number", feature(0) + "/default", json!("many")),
            ("is no number", feature(0) + "/default", json!("inf")),
            ("is no whole number", feature(1) + "/default", json!("1.5")),
            ("neither true nor false", feature(2) + "/default", json!("1")),
        ];
        assert_eq!(refusal((|_| {}) as Change), "");
        for (want, at, value) in cases {
            let said = refusal(|store| *store.pointer_mut(&at).unwrap() = value.clone());
            assert!(said.contains(want), "{at} {value}: {said}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_unknown_is_refused() {
        let store = json!({"url": "redis://h", "views": []});
        let read: FeatureStore = serde_json::from_value(store).unwrap();
        assert_eq!((read.timeout_milliseconds, read.on_failure), (20, OnFailure::Defaults));
        let unknown = json!({"url": "redis://h", "views": [], "password": "x"});
        assert!(serde_json::from_value::<FeatureStore>(unknown).is_err());
    }
}
