//! API keys of a gateway: a Secret with one entry a client, which holds the key's hash. The key
//! itself is written nowhere.

use std::fmt::Write as _;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// One entry of the Secret; its name is the client's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKey {
    /// SHA-256 of the key, in hexadecimal. Keys are random and long, so that no slower hash is
    /// needed.
    pub sha256: String,
    /// Requests that one gateway pod lets in in a minute, up to a tenth of them at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<NonZeroU32>,
}

impl ApiKey {
    /// The entry of this key.
    pub fn of(key: &str, requests_per_minute: Option<NonZeroU32>) -> Self {
        Self { sha256: hexadecimal(&hash(key.as_bytes())), requests_per_minute }
    }

    /// The hash as bytes; `None` where it is not 64 hexadecimal digits.
    pub fn bytes(&self) -> Option<[u8; 32]> {
        let digits = self.sha256.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(bytes)
    }
}

/// SHA-256 of a key.
pub fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Two digits a byte.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    #[test]
    fn an_entry_holds_the_hash() {
        let entry = ApiKey::of("abc", None);
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(entry.sha256, want);
        assert_eq!(entry.bytes(), Some(hash(b"abc")));
        for bad in ["", "1234", &want.replace('b', "g"), &format!("{want}00")] {
            assert_eq!(ApiKey { sha256: bad.into(), requests_per_minute: None }.bytes(), None);
        }
    }
}
