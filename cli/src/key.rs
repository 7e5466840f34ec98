//! `hearth key CLIENT`: a new API key, and the Secret's entry for it.

use hearth_crds::api_key::{ApiKey, hexadecimal};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::args::KeyArgs;
use crate::{display, exit};

/// Prints both; the process's exit code.
pub fn run(args: &KeyArgs) -> i32 {
    let key = new_key(rand::random());
    match manifest(args, &key) {
        Ok(text) => {
            display::out(text.trim_end());
            display::err(&format!(
                "the key of {}, which nobody can show again: {key}",
                args.client
            ));
            exit::DONE
        }
        Err(error) => {
            display::err(&format!("hearth key: {error}"));
            exit::FAILED
        }
    }
}

/// A key of 256 random bits. Its beginning lets scanners for leaked secrets find it.
fn new_key(random: [u8; 32]) -> String {
    format!("hearth_{}", hexadecimal(&random))
}

/// A Secret with this client's entry alone: applied on the server's side under a manager of its
/// own, it leaves other entries as they are.
fn manifest(args: &KeyArgs, key: &str) -> Result<String, serde_yaml_ng::Error> {
    let entry = ApiKey::of(key, args.requests_per_minute);
    let text = serde_json::to_vec(&entry).unwrap_or_default();
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(args.secret.clone()),
            namespace: args.namespace.clone(),
            ..ObjectMeta::default()
        },
        data: Some([(args.client.clone(), ByteString(text))].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    serde_yaml_ng::to_string(&secret)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn the_secret_holds_the_hash_and_not_the_key() {
        let args = KeyArgs {
            client: "billing".into(),
            secret: "shop-keys".into(),
            requests_per_minute: NonZeroU32::new(600),
            namespace: Some("team-a".into()),
        };
        let key = new_key([7; 32]);
        assert_eq!(key.len(), "hearth_".len() + 64);
        let text = manifest(&args, &key).unwrap();
        assert!(!text.contains(&key), "{text}");
        let secret: Secret = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(secret.metadata.namespace.as_deref(), Some("team-a"));
        let entry: ApiKey = serde_json::from_slice(&secret.data.unwrap()["billing"].0).unwrap();
        assert_eq!(entry, ApiKey::of(&key, NonZeroU32::new(600)));
        assert_ne!(new_key(rand::random()), new_key(rand::random()));
    }
}
