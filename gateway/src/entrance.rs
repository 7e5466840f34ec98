//! Who may ask: clients with an API key, and whom an OpenID Connect issuer vouches for. A request
//! needs one of them; where neither is asked for, anybody comes in.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::Quota;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};

use crate::keys::Keys;
use crate::reply::Refusal;
use crate::tokens::Tokens;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What lets a request in.
#[derive(Clone, Debug, Default)]
pub struct Entrance {
    /// API keys.
    pub keys: Option<Arc<Keys>>,
    /// Tokens of an issuer.
    pub tokens: Option<Arc<Tokens>>,
}

impl Entrance {
    /// Lets a request in, and takes its key or token from it.
    pub(crate) fn admit(&self, headers: &mut HeaderMap) -> Result<(), Refusal> {
        if self.keys.is_none() && self.tokens.is_none() {
            return Ok(());
        }
        let counted = self.check(headers)?;
        headers.remove(AUTHORIZATION);
        headers.remove(X_API_KEY);
        counted
    }

    /// Whether the request may come in at all, and whether at this time.
    fn check(&self, headers: &HeaderMap) -> Result<Result<(), Refusal>, Refusal> {
        let given = presented(headers).ok_or_else(|| Refusal::NoKey { needed: self.needed() })?;
        if let Some(client) = self.keys.as_ref().and_then(|keys| keys.client(given)) {
            return Ok(client.count());
        }
        match &self.tokens {
            Some(tokens) if self.keys.is_none() || looks_like_a_token(given) => {
                tokens.subject(given).map(|subject| tokens.count(&subject))
            }
            _ => Err(Refusal::UnknownKey),
        }
    }

    /// What a request without anything should bring.
    fn needed(&self) -> String {
        let key = "an API key (\"Authorization: Bearer KEY\" or \"X-API-Key: KEY\")";
        let token = |tokens: &Tokens| {
            format!("a token of {} (\"Authorization: Bearer TOKEN\")", tokens.issuer())
        };
        match (&self.keys, &self.tokens) {
            (Some(_), Some(tokens)) => format!("{key} or {}", token(tokens)),
            (None, Some(tokens)) => token(tokens),
            (_, None) => key.to_owned(),
        }
    }
}

/// The rate of one client: so many requests a minute, up to a tenth of them at once.
pub(crate) fn quota(requests_per_minute: NonZeroU32) -> Quota {
    let at_once = NonZeroU32::new(requests_per_minute.get() / 10).unwrap_or(NonZeroU32::MIN);
    Quota::per_minute(requests_per_minute).allow_burst(at_once)
}

/// `Authorization: Bearer KEY`, as OpenAI's clients send it, or `X-API-Key: KEY`.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(X_API_KEY) {
        return Some(key.as_bytes());
    }
    let bearer = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, key) = bearer.split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// A token has three parts (RFC 7519), and no key that `kubectl hearth key` makes has a dot.
fn looks_like_a_token(given: &[u8]) -> bool {
    given.split(|byte| *byte == b'.').count() == 3
}
