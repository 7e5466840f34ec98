//! Clients with an API key, each at a rate of its own.
//!
//! Keys are the files of a directory, a mounted Secret: name of the client, and an [`ApiKey`] as
//! JSON. A change is taken over within seconds. What cannot be read lets nobody in.

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, RateLimiter};
use hearth_crds::api_key::{ApiKey, hash};

use crate::entrance::quota;
use crate::reply::Refusal;

/// Time between two looks at the directory.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// All keys.
#[derive(Debug)]
pub struct Keys {
    directory: PathBuf,
    clients: RwLock<Arc<Clients>>,
}

type Clients = HashMap<[u8; 32], Arc<Client>>;

#[derive(Debug)]
pub(crate) struct Client {
    name: String,
    entry: ApiKey,
    limiter: Option<DefaultDirectRateLimiter>,
}

impl Keys {
    /// The keys of a directory, which may have none yet.
    pub fn read(directory: PathBuf) -> Arc<Self> {
        let keys = Self { directory, clients: RwLock::default() };
        keys.read_again();
        Arc::new(keys)
    }

    /// Takes over what changes, for ever.
    pub async fn follow(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.read_again();
        }
    }

    fn read_again(&self) {
        let before = Arc::clone(&self.clients.read().unwrap_or_else(PoisonError::into_inner));
        let mut clients = Clients::new();
        for (name, text) in files(&self.directory) {
            let entry = match serde_json::from_str::<ApiKey>(&text) {
                Ok(entry) => entry,
                Err(error) => {
                    tracing::warn!(client = name, %error, "an API key cannot be read");
                    continue;
                }
            };
            let Some(bytes) = entry.bytes() else {
                tracing::warn!(client = name, "sha256 of an API key must be 64 hexadecimal digits");
                continue;
            };
            // A limit goes on where nothing changed.
            let same = before.get(&bytes).filter(|old| old.entry == entry && old.name == name);
            let client = same.cloned().unwrap_or_else(|| Arc::new(Client::new(name, entry)));
            clients.insert(bytes, client);
        }
        if clients.len() != before.len() {
            tracing::info!(keys = clients.len(), "API keys read");
        }
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(clients);
    }

    /// Whose key this is. It is looked up by its hash: how long that takes says nothing about it.
    pub(crate) fn client(&self, key: &[u8]) -> Option<Arc<Client>> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.get(&hash(key)).cloned()
    }
}

impl Client {
    fn new(name: String, entry: ApiKey) -> Self {
        let limiter = entry.requests_per_minute.map(|rate| RateLimiter::direct(quota(rate)));
        Self { name, entry, limiter }
    }

    /// Lets it in at its rate.
    pub(crate) fn count(&self) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.check().map_err(|not_until| Refusal::KeyBusy {
            client: self.name.clone(),
            limit: self.entry.requests_per_minute.map_or(0, NonZeroU32::get),
            seconds: not_until.wait_time_from(DefaultClock::default().now()).as_secs() + 1,
        })
    }
}

/// Names and contents of a directory's files. A mounted Secret has links beside its entries,
/// whose names begin with a dot.
fn files(directory: &Path) -> Vec<(String, String)> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "API keys cannot be read");
            return Vec::new();
        }
    };
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
        let path = entry.path();
        path.is_file().then(|| fs::read_to_string(path).ok()).flatten().map(|text| (name, text))
    };
    entries.flatten().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::header::HeaderName;

    use super::*;
    use crate::entrance::Entrance;

    fn door(keys: &Arc<Keys>) -> Entrance {
        Entrance { keys: Some(Arc::clone(keys)), tokens: None }
    }

    fn with(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
    }

    fn write(directory: &Path, name: &str, entry: &ApiKey) {
        use std::io::Write as _;
        let text = serde_json::to_string(entry).unwrap();
        fs::File::create(directory.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn a_key_is_taken_from_either_header_and_goes_no_further() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "ann", &ApiKey::of("k-ann", None));
        write(directory.path(), ".hidden", &ApiKey::of("k-hidden", None));
        write(directory.path(), "bad", &ApiKey { sha256: "x".into(), requests_per_minute: None });
        let keys = Keys::read(directory.path().into());
        for (header, value, good) in [
            ("authorization", "Bearer k-ann", true),
            ("authorization", "bearer  k-ann ", true),
            ("x-api-key", "k-ann", true),
            ("authorization", "Basic k-ann", false),
            ("authorization", "Bearer k-hidden", false),
            ("authorization", "Bearer", false),
            ("x-api-key", "", false),
            ("cookie", "k-ann", false),
        ] {
            let mut headers = with(header, value);
            assert_eq!(door(&keys).admit(&mut headers).is_ok(), good, "{header}: {value}");
            assert_eq!(headers.is_empty(), good, "{header}: {value}");
        }
        fs::remove_file(directory.path().join("ann")).unwrap();
        keys.read_again();
        assert_eq!(door(&keys).admit(&mut with("x-api-key", "k-ann")), Err(Refusal::UnknownKey));
    }

    #[test]
    fn a_client_has_a_rate_of_its_own_that_a_reload_does_not_reset() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "ann", &ApiKey::of("k-ann", NonZeroU32::new(30)));
        write(directory.path(), "ben", &ApiKey::of("k-ben", NonZeroU32::new(30)));
        let keys = Keys::read(directory.path().into());
        let ask = |key: &str| door(&keys).admit(&mut with("x-api-key", key));
        let let_in = (0..3).filter(|_| ask("k-ann").is_ok()).count();
        assert_eq!(let_in, 3, "a tenth of a minute's at once");
        keys.read_again();
        let refused = ask("k-ann").unwrap_err();
        assert!(
            matches!(&refused, Refusal::KeyBusy { client, limit: 30, seconds: 1..=3 } if client == "ann"),
            "{refused:?}"
        );
        assert_eq!(ask("k-ben"), Ok(()));
    }
}
