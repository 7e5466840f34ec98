//! Whom a gateway lets in: clients with a key, people whom an issuer vouches for, over TLS.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hearth_tests::cluster::{Namespace, Way, await_value, condition, kubectl_ok};
use hearth_tests::http::{self, Answer};
use hearth_tests::tiny;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::support::PATIENCE;

const NAMESPACE: &str = "e2e-entrance";
const HOST: &str = "shop.e2e-entrance.svc";
const ISSUER: &str = "https://login.example.com/realms/a";
const ASK: &str = r#"{"model": "shop", "input": "free money"}"#;
/// Until kubelets have written a change, and gateways have read it.
const TAKEN_OVER: Duration = Duration::from_secs(90);

/// The address, and how to get through to it.
struct Door {
    way: Way,
    tls: Arc<ClientConfig>,
}

impl Door {
    fn ask(&self, credentials: &str) -> anyhow::Result<Answer> {
        let name = ServerName::try_from(HOST)?;
        let connection = ClientConnection::new(self.tls.clone(), name)?;
        let stream = StreamOwned::new(connection, http::connect(&self.way.address)?);
        let lines = ["Content-Type: application/json", credentials];
        let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        http::send(stream, http::request("POST", "/v1/embeddings", HOST, &lines, ASK))
    }

    fn status(&self, credentials: &str) -> anyhow::Result<u16> {
        self.ask(credentials).map(|answer| answer.status)
    }

    /// Waits until these credentials get this answer.
    fn becomes(&self, credentials: &str, status: u16) {
        let there = |found: &u16| *found == status;
        await_value(TAKEN_OVER, || self.status(credentials), &there).unwrap();
    }
}

/// A certificate for the deployment's address, as a Secret; what trusts it alone.
fn certify(namespace: &Namespace) -> Arc<ClientConfig> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "shop-tls"},
        "stringData": {"tls.crt": cert.pem(), "tls.key": signing_key.serialize_pem()},
    });
    namespace.apply(&secret.to_string()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// A new key of a client, as a person makes one.
fn key(client: &str, more: &[&str]) -> String {
    let program = PathBuf::from(std::env::var_os("HEARTH_BIN").unwrap()).join("hearth");
    let arguments = ["key", client, "--secret", "shop-keys", "-n", NAMESPACE];
    let said = Command::new(program).args(arguments).args(more).output().unwrap();
    let told = String::from_utf8(said.stderr).unwrap();
    assert!(said.status.success(), "{told}");
    let manager = format!("hearth-key-{client}");
    let manifest = String::from_utf8(said.stdout).unwrap();
    let apply = ["apply", "--server-side", "--field-manager", &manager, "-f", "-"];
    kubectl_ok(&apply, Some(&manifest)).unwrap();
    let key = told.trim().rsplit(' ').next().unwrap().to_owned();
    assert!(!manifest.contains(&key), "the Secret holds the key itself");
    key
}

/// An issuer's key.
struct Signer {
    kid: &'static str,
    key: EncodingKey,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Self { kid, key: EncodingKey::from_ec_der(&pair.serialize_der()) }
    }

    /// Makes this the only key that the issuer has.
    fn publish(&self, namespace: &Namespace) {
        let mut public = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        public.common.key_id = Some(self.kid.to_owned());
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "issuer-keys"},
            "data": {"jwks.json": json!({"keys": [public]}).to_string()},
        });
        namespace.apply(&map.to_string()).unwrap();
    }

    fn token(&self, subject: &str, audience: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"iss": ISSUER, "aud": audience, "sub": subject, "exp": now + 600});
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(Algorithm::ES256) };
        bearer(&encode(&header, &claims, &self.key).unwrap())
    }
}

fn bearer(what: &str) -> String {
    format!("Authorization: Bearer {what}")
}

fn deployment() -> String {
    json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "shop"},
        "spec": {
            "model": {"source": "pvc://models/tiny"},
            "gateway": {
                "apiKeys": {"secretName": "shop-keys"}, "tls": {"secretName": "shop-tls"},
                "oidc": {"issuer": ISSUER, "audience": "shop", "jwksConfigMapName": "issuer-keys",
                         "requestsPerMinute": 20},
            },
            "serving": {"resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "50m"}}},
        },
    })
    .to_string()
}

#[test]
fn keys_and_tokens_let_in_over_tls_until_they_are_taken_back() {
    let namespace = Namespace::create(NAMESPACE).unwrap();
    tiny::write_model(&namespace.volume("models").join("tiny"), 1).unwrap();
    let tls = certify(&namespace);
    let (ann, ben) = (key("ann", &["--requests-per-minute", "20"]), key("ben", &[]));
    let first = Signer::new("one");
    first.publish(&namespace);
    namespace.apply(&deployment()).unwrap();
    let ready = |d: &Value| condition(d, "Ready") == "True";
    let there = namespace.wait("modeldeployment", "shop", PATIENCE, ready).unwrap();
    assert_eq!(there["status"]["address"], format!("https://{HOST}"));
    let door = Door { way: Way::open(&namespace, "shop", 443).unwrap(), tls };

    let nobody = door.ask("").unwrap();
    assert!(nobody.status == 401 && nobody.head.contains("www-authenticate: Bearer"), "{nobody:?}");
    assert_eq!(door.status(&bearer("hearth_guessed")).unwrap(), 401);
    let good = door.ask(&bearer(&ben)).unwrap();
    assert!(good.status == 200 && good.body.contains("embedding"), "{good:?}");
    // A tenth of the rate at once.
    for _ in 0..2 {
        assert_eq!(door.status(&format!("X-API-Key: {ann}")).unwrap(), 200);
    }
    let busy = door.ask(&bearer(&ann)).unwrap();
    assert!(busy.status == 429 && busy.head.contains("retry-after: "), "{busy:?}");
    assert!(busy.body.contains("client ann"), "{busy:?}");
    assert_eq!(door.status(&bearer(&ben)).unwrap(), 200, "another client's rate is its own");

    let token = first.token("cleo", "shop");
    for _ in 0..2 {
        assert_eq!(door.status(&token).unwrap(), 200);
    }
    assert_eq!(door.status(&token).unwrap(), 429);
    assert_eq!(door.status(&first.token("dan", "shop")).unwrap(), 200);
    let other = door.ask(&first.token("dan", "elsewhere")).unwrap();
    assert!(other.status == 401 && other.head.contains("invalid_token"), "{other:?}");
    let forged = Signer { kid: "one", ..Signer::new("two") }.token("dan", "shop");
    assert_eq!(door.status(&forged).unwrap(), 401);

    only_what_is_encrypted_and_trusted(&door);
    taken_back(&namespace, &door, (&ben, &first));
}

/// Neither plain HTTP, nor a certificate that the client does not know.
fn only_what_is_encrypted_and_trusted(door: &Door) {
    let plain = http::post(&door.way.address, "/v1/embeddings", ASK);
    assert!(!plain.is_ok_and(|answer| answer.status == 200), "plain HTTP was answered");
    let stranger = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let connection =
        ClientConnection::new(Arc::new(stranger), ServerName::try_from(HOST).unwrap()).unwrap();
    let stream = StreamOwned::new(connection, http::connect(&door.way.address).unwrap());
    let refused = http::send(stream, http::request("GET", "/v1/models", HOST, &[], ""));
    assert!(format!("{:#}", refused.unwrap_err()).contains("UnknownIssuer"));
}

/// A client's entry goes, and the issuer has another key: in running gateways, without a restart.
fn taken_back(namespace: &Namespace, door: &Door, (ben, first): (&str, &Signer)) {
    let removal = r#"[{"op": "remove", "path": "/data/ben"}]"#;
    namespace.kubectl(&["patch", "secret", "shop-keys", "--type", "json", "-p", removal]).unwrap();
    let second = Signer::new("two");
    second.publish(namespace);
    door.becomes(&bearer(ben), 401);
    door.becomes(&first.token("eve", "shop"), 401);
    // Each time another subject, as each has a rate.
    let mut asked = 0;
    let status = || {
        asked += 1;
        door.status(&second.token(&format!("finn-{asked}"), "shop"))
    };
    await_value(TAKEN_OVER, status, &|status| *status == 200).unwrap();
    let secret = namespace.get("secret", "shop-keys").unwrap();
    let entries: Vec<_> = secret["data"].as_object().unwrap().keys().collect();
    assert_eq!(entries, ["ann"]);
    let gateways = namespace.list("pods", "app.kubernetes.io/component=gateway").unwrap();
    for pod in gateways {
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    }
}
