//! Tokens of an OpenID Connect issuer (RFC 7519), checked by the issuer's public keys.
//!
//! The keys are a file (`jwks.json` of a directory, a mounted ConfigMap), since nothing here needs a
//! way out of the cluster. A change is taken over within seconds. What cannot be read lets nobody
//! in. How a token is signed is the key's to say, never the token's: RS256 by an RSA key, ES256 by
//! one on the curve P-256.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use governor::RateLimiter;
use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use crate::entrance::quota;
use crate::reply::Refusal;

/// Time between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Name of the file.
const FILE: &str = "jwks.json";
/// How far the issuer's clock and this machine's may differ.
const CLOCKS_DIFFER_SECONDS: u64 = 30;

/// What a token must say.
#[derive(Clone, Debug)]
pub struct Expected {
    /// `iss`.
    pub issuer: String,
    /// One of `aud`.
    pub audience: String,
    /// Requests a minute of each subject.
    pub requests_per_minute: Option<NonZeroU32>,
}

type Limiter = RateLimiter<String, HashMapStateStore<String>, DefaultClock>;

/// The issuer's keys, by name and by the algorithm that they are for.
type IssuerKeys = HashMap<(Option<String>, Algorithm), DecodingKey>;

/// Checks tokens.
pub struct Tokens {
    directory: PathBuf,
    expected: Expected,
    keys: RwLock<(String, Arc<IssuerKeys>)>,
    limiter: Option<Limiter>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// What is read of a token.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    /// One text: an issuer that is one of several is none.
    #[serde(default, rename = "iss")]
    _issuer: String,
}

impl Tokens {
    /// The keys of a directory, which may have none yet.
    pub fn read(directory: PathBuf, expected: Expected) -> Arc<Self> {
        let limiter = expected.requests_per_minute.map(|rate| RateLimiter::hashmap(quota(rate)));
        let tokens = Self { directory, expected, keys: RwLock::default(), limiter };
        tokens.read_again();
        Arc::new(tokens)
    }

    /// Takes over what changes, for ever, and forgets subjects that have not asked for a while.
    pub async fn follow(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.read_again();
            if let Some(limiter) = &self.limiter {
                limiter.retain_recent();
            }
        }
    }

    /// Looks at the file.
    pub fn read_again(&self) {
        let path = self.directory.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "the issuer's keys cannot be read");
            String::new()
        });
        let mut in_force = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if in_force.0 != text {
            let keys = keys_of(&text);
            tracing::info!(keys = keys.len(), "the issuer's keys read");
            *in_force = (text, Arc::new(keys));
        }
    }

    /// Whose tokens these are.
    pub(crate) fn issuer(&self) -> &str {
        &self.expected.issuer
    }

    /// The subject that a token speaks for.
    pub(crate) fn subject(&self, token: &[u8]) -> Result<String, Refusal> {
        self.verify(token).map_err(|error| Refusal::BadToken { why: self.why(&error) })
    }

    /// Lets a subject in at its rate.
    pub(crate) fn count(&self, subject: &str) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        limiter.check_key(&subject.to_owned()).map_err(|not_until| Refusal::KeyBusy {
            client: subject.to_owned(),
            limit: self.expected.requests_per_minute.map_or(0, NonZeroU32::get),
            seconds: not_until.wait_time_from(DefaultClock::default().now()).as_secs() + 1,
        })
    }

    fn verify(&self, token: &[u8]) -> Result<String, Error> {
        let header = decode_header(token)?;
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner).1);
        // No extension is known here, so a token that needs one is none (RFC 7515, 4.1.11).
        if header.crit.is_some() {
            return Err(ErrorKind::InvalidToken.into());
        }
        if ![Algorithm::RS256, Algorithm::ES256].contains(&header.alg) {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        // An issuer with one key need not name it.
        let only = || keys.iter().next().filter(|_| keys.len() == 1);
        let only = || only().filter(|((_, algorithm), _)| *algorithm == header.alg);
        let key = match &header.kid {
            Some(name) => keys.get(&(Some(name.clone()), header.alg)),
            None => only().map(|(_, key)| key),
        };
        let key = key.ok_or(ErrorKind::InvalidKeyFormat)?;
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.expected.issuer]);
        validation.set_audience(&[&self.expected.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = CLOCKS_DIFFER_SECONDS;
        Ok(decode::<Claims>(token, key, &validation)?.claims.sub)
    }

    /// In words, without what the token says: they go into a header field.
    fn why(&self, error: &Error) -> String {
        let Expected { issuer, audience, .. } = &self.expected;
        match error.kind() {
            ErrorKind::ExpiredSignature => "it has expired".to_owned(),
            ErrorKind::ImmatureSignature => "it is not valid yet".to_owned(),
            ErrorKind::InvalidIssuer => format!("its issuer (iss) is not {issuer}"),
            ErrorKind::InvalidAudience => format!("it is not for {audience} (aud)"),
            ErrorKind::InvalidSignature => "its signature is wrong".to_owned(),
            ErrorKind::InvalidAlgorithm => "it is signed neither with RS256 nor ES256".to_owned(),
            ErrorKind::InvalidKeyFormat => {
                format!("its key (kid) is not among those of {issuer} that are known here")
            }
            ErrorKind::MissingRequiredClaim(claim) => format!("it has no {claim}"),
            _ => "it is no JSON Web Token that can be read".to_owned(),
        }
    }
}

/// The keys of a set that can be used; none of a text that is no set.
fn keys_of(text: &str) -> IssuerKeys {
    let set = serde_json::from_str::<JwkSet>(text).unwrap_or_else(|error| {
        tracing::warn!(%error, "{FILE} is no JSON Web Key Set: nobody comes in by a token");
        JwkSet { keys: Vec::new() }
    });
    let used = set.keys.iter().filter_map(|key| {
        let algorithm = algorithm_of(key)?;
        let read = DecodingKey::from_jwk(key);
        let read = read.inspect_err(|error| tracing::warn!(%error, "a key cannot be used")).ok()?;
        Some(((key.common.key_id.clone(), algorithm), read))
    });
    used.collect()
}

/// What a key is for, where that is something we take.
fn algorithm_of(key: &Jwk) -> Option<Algorithm> {
    if !matches!(key.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    match (&key.algorithm, key.common.key_algorithm) {
        (AlgorithmParameters::RSA(_), None | Some(KeyAlgorithm::RS256)) => Some(Algorithm::RS256),
        (AlgorithmParameters::EllipticCurve(point), None | Some(KeyAlgorithm::ES256))
            if point.curve == EllipticCurve::P256 =>
        {
            Some(Algorithm::ES256)
        }
        _ => None,
    }
}
