//! Tokens of an OpenID Connect issuer over real sockets.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::any;
use hearth_crds::api_key::ApiKey;
use hearth_gateway::entrance::Entrance;
use hearth_gateway::keys::Keys;
use hearth_gateway::proxy::Patience;
use hearth_gateway::tokens::{Expected, Tokens};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::support::{Guard, QUICK, Running, backend, get, status, to};

const ISSUER: &str = "https://login.example.com/realms/a";
/// `{"alg":"none","typ":"JWT"}`
const UNSIGNED: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
/// What of PKCS #8 is before the key itself, for RSA with 2048 bits.
const PKCS8_HEAD: usize = 26;

/// An issuer's key.
struct Signer {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn rsa(kid: &'static str) -> Self {
        let size = rcgen::RsaKeySize::_2048;
        let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size).unwrap();
        let key = EncodingKey::from_rsa_der(&pair.serialize_der()[PKCS8_HEAD..]);
        Self { kid, algorithm: Algorithm::RS256, key }
    }

    fn curve(kid: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        Self { kid, algorithm: Algorithm::ES256, key }
    }

    fn public(&self) -> Value {
        let mut key = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        key.common.key_id = Some(self.kid.to_owned());
        serde_json::to_value(key).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// Claims that are in order, but for `change`.
fn claims(change: &Value) -> Value {
    let now = jiff::Zoned::now().timestamp().as_second();
    let mut claims = json!({"iss": ISSUER, "aud": ["shop", "other"], "sub": "ann",
        "iat": now, "nbf": now, "exp": now + 300});
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn publish(directory: &Path, keys: &[Value]) {
    let text = json!({"keys": keys}).to_string();
    File::create(directory.join("jwks.json")).unwrap().write_all(text.as_bytes()).unwrap();
}

fn read(directory: &Path, requests_per_minute: Option<u32>) -> Arc<Tokens> {
    let expected = Expected {
        issuer: ISSUER.to_owned(),
        audience: "shop".to_owned(),
        requests_per_minute: requests_per_minute.and_then(NonZeroU32::new),
    };
    Tokens::read(directory.into(), expected)
}

/// A gateway before a backend that says which headers it got.
async fn guarded(entrance: Entrance) -> Running {
    let tell = any(async |headers: HeaderMap| format!("{headers:?}"));
    let table = to(backend(Router::new().fallback(tell)).await);
    let guard = Guard { entrance, tls: None };
    Running::guarded(Some(table), Patience::default(), QUICK, guard).await
}

async fn ask(gateway: &Running, bearer: &str) -> String {
    let line = format!("\r\nAuthorization: Bearer {bearer}\r\n\r\n");
    gateway.raw(&get("/v1/classify").replace("\r\n\r\n", &line)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_token_that_is_in_order_lets_in() {
    let directory = tempfile::tempdir().unwrap();
    let (rsa, curve, strange) = (Signer::rsa("r1"), Signer::curve("c1"), Signer::rsa("r1"));
    let secret = json!({"kty": "oct", "kid": "h1", "alg": "HS256", "k": "c2VjcmV0"});
    let mut cipher = Signer::rsa("e1");
    let mut for_ciphers = cipher.public();
    for_ciphers["use"] = "enc".into();
    publish(directory.path(), &[rsa.public(), curve.public(), secret, for_ciphers]);
    let tokens = Some(read(directory.path(), None));
    let gateway = guarded(Entrance { keys: None, tokens }).await;

    for signer in [&rsa, &curve] {
        let token = signer.sign(&claims(&json!({})));
        let good = ask(&gateway, &token).await;
        assert!(status(&good) == 200 && !good.contains(&token), "{good}");
    }
    let none = gateway.raw(&get("/v1/classify")).await;
    assert!(status(&none) == 401 && none.contains(ISSUER), "{none}");
    assert!(none.contains("www-authenticate: Bearer\r\n"), "{none}");

    let now = jiff::Zoned::now().timestamp().as_second();
    let of = |change: Value| rsa.sign(&claims(&change));
    let good = of(json!({}));
    let payload = good.split('.').nth(1).unwrap();
    let by_secret = |secret: &[u8], kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(&json!({})), &EncodingKey::from_secret(secret)).unwrap()
    };
    let public = rsa.public();
    let modulus = public["n"].as_str().unwrap();
    let mut critical = Header { kid: Some("r1".into()), ..Header::new(Algorithm::RS256) };
    critical.crit = Some(vec!["b64".into()]);
    let mut longer = Header { kid: Some("r1".into()), ..Header::new(Algorithm::RS512) };
    let rs512 = encode(&longer, &claims(&json!({})), &rsa.key).unwrap();
    longer.alg = Algorithm::RS256;
    longer.kid = None;
    let unnamed = encode(&longer, &claims(&json!({})), &rsa.key).unwrap();
    cipher.kid = "e1";
    for (case, token, why) in [
        ("expired", of(json!({"exp": now - 60})), "it has expired"),
        ("no end", of(json!({"exp": null})), "it has no exp"),
        ("a strange end", of(json!({"exp": "soon"})), "it has no exp"),
        ("not yet", of(json!({"nbf": now + 600})), "it is not valid yet"),
        ("for another", of(json!({"aud": "bank"})), "it is not for shop (aud)"),
        ("for nobody", of(json!({"aud": null})), "it has no aud"),
        ("of another", of(json!({"iss": "https://evil.example.com"})), "its issuer (iss) is not"),
        ("of several", of(json!({"iss": [ISSUER, "x"]})), "no JSON Web Token that can be read"),
        ("of nobody", of(json!({"sub": null})), "it has no sub"),
        ("unsigned", format!("{UNSIGNED}.{payload}."), "no JSON Web Token that can be read"),
        ("without its signature", good[..=good.rfind('.').unwrap()].to_owned(), "signature"),
        ("signed by another", strange.sign(&claims(&json!({}))), "its signature is wrong"),
        ("HS256 by the public key", by_secret(modulus.as_bytes(), "r1"), "neither with RS256"),
        ("HS256 by the whole key", by_secret(public.to_string().as_bytes(), "r1"), "neither with"),
        ("HS256 by a secret in the set", by_secret(b"secret", "h1"), "neither with RS256"),
        ("RS512", rs512, "neither with RS256"),
        ("a key for ciphers", cipher.sign(&claims(&json!({}))), "its key (kid) is not among"),
        ("an unknown key", Signer { kid: "r2", ..strange }.sign(&claims(&json!({}))), "(kid)"),
        (
            "a key with another's name",
            Signer { kid: "c1", ..Signer::rsa("") }.sign(&json!({})),
            "(kid)",
        ),
        ("no name among several keys", unnamed, "its key (kid) is not among"),
        ("critical", encode(&critical, &claims(&json!({})), &rsa.key).unwrap(), "can be read"),
        ("words", "a.b.c".to_owned(), "no JSON Web Token that can be read"),
        ("a key", "sk-123".to_owned(), "no JSON Web Token that can be read"),
    ] {
        let answer = ask(&gateway, &token).await;
        assert_eq!(status(&answer), 401, "{case}: {answer}");
        assert!(answer.contains(why), "{case}: {answer}");
        let challenge = "www-authenticate: Bearer error=\"invalid_token\", error_description=\"";
        assert!(answer.contains(challenge), "{case}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_of_the_issuer_are_taken_over_and_old_ones_let_nobody_in() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (Signer::rsa("r1"), Signer::curve("c2"));
    publish(directory.path(), &[old.public()]);
    let tokens = read(directory.path(), None);
    let gateway = guarded(Entrance { keys: None, tokens: Some(Arc::clone(&tokens)) }).await;
    let sign = |signer: &Signer| signer.sign(&claims(&json!({})));
    assert_eq!(status(&ask(&gateway, &sign(&old)).await), 200);
    assert_eq!(status(&ask(&gateway, &sign(&new)).await), 401);
    // Of an issuer with one key, a token need not name it.
    let unnamed = Header::new(Algorithm::RS256);
    let unnamed = encode(&unnamed, &claims(&json!({})), &old.key).unwrap();
    assert_eq!(status(&ask(&gateway, &unnamed).await), 200);

    publish(directory.path(), &[new.public()]);
    tokens.read_again();
    assert_eq!(status(&ask(&gateway, &sign(&old)).await), 401);
    assert_eq!(status(&ask(&gateway, &sign(&new)).await), 200);

    for text in ["", "{", "[]", r#"{"keys": [{"kty": "RSA", "kid": "r1", "n": "!", "e": "AQAB"}]}"#]
    {
        File::create(directory.path().join("jwks.json"))
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        tokens.read_again();
        assert_eq!(status(&ask(&gateway, &sign(&new)).await), 401, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_or_a_token_lets_in_and_each_subject_has_a_rate_of_its_own() {
    let (secrets, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let entry = serde_json::to_string(&ApiKey::of("k.with.dots", None)).unwrap();
    File::create(secrets.path().join("ben")).unwrap().write_all(entry.as_bytes()).unwrap();
    let signer = Signer::curve("c1");
    publish(directory.path(), &[signer.public()]);
    let entrance = Entrance {
        keys: Some(Keys::read(secrets.path().into())),
        tokens: Some(read(directory.path(), Some(20))),
    };
    let gateway = guarded(entrance).await;

    for _ in 0..4 {
        assert_eq!(status(&ask(&gateway, "k.with.dots").await), 200);
    }
    let of = |subject: &str| signer.sign(&claims(&json!({"sub": subject})));
    for _ in 0..2 {
        assert_eq!(status(&ask(&gateway, &of("ann")).await), 200, "a tenth of a minute's at once");
    }
    let busy = ask(&gateway, &of("ann")).await;
    assert!(status(&busy) == 429 && busy.contains("retry-after: "), "{busy}");
    assert!(busy.contains("client ann may send 20 requests a minute"), "{busy}");
    assert_eq!(status(&ask(&gateway, &of("cleo")).await), 200);

    let none = gateway.raw(&get("/v1/classify")).await;
    assert!(none.contains("an API key") && none.contains("or a token of https://"), "{none}");
    let wrong = ask(&gateway, "k-unknown").await;
    assert!(status(&wrong) == 401 && wrong.contains("API key is not known"), "{wrong}");
    let wrong = ask(&gateway, "a.b.c").await;
    assert!(status(&wrong) == 401 && wrong.contains("no JSON Web Token"), "{wrong}");
}
