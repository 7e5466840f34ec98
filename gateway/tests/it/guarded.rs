//! API keys and TLS over real sockets.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::any;
use hearth_crds::api_key::ApiKey;
use hearth_gateway::entrance::Entrance;
use hearth_gateway::keys::Keys;
use hearth_gateway::proxy::Patience;
use hearth_gateway::tls::Tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::support::{Guard, QUICK, Running, backend, connect, get, soon, status, to};

fn write(file: &Path, text: &str) {
    File::create(file).unwrap().write_all(text.as_bytes()).unwrap();
}

/// A backend that says which headers it got.
async fn telling() -> std::net::SocketAddr {
    let tell = any(async |headers: HeaderMap| format!("{headers:?}"));
    backend(Router::new().fallback(tell)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_a_key_comes_in_and_the_key_goes_no_further() {
    let directory = tempfile::tempdir().unwrap();
    let entry = ApiKey::of("k-ann", NonZeroU32::new(20));
    write(&directory.path().join("ann"), &serde_json::to_string(&entry).unwrap());
    let guard = Guard {
        entrance: Entrance { keys: Some(Keys::read(directory.path().into())), tokens: None },
        tls: None,
    };
    let gateway =
        Running::guarded(Some(to(telling().await)), Patience::default(), QUICK, guard).await;
    let with = |line: &str| get("/v1/classify").replace("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"));

    let none = gateway.raw(&get("/v1/classify")).await;
    assert!(status(&none) == 401 && none.contains("www-authenticate: Bearer"), "{none}");
    let wrong = gateway.raw(&with("Authorization: Bearer k-ben")).await;
    assert!(status(&wrong) == 401 && wrong.contains("not known"), "{wrong}");
    for _ in 0..2 {
        let good = gateway.raw(&with("Authorization: Bearer k-ann")).await;
        assert!(status(&good) == 200 && !good.contains("k-ann"), "{good}");
    }
    let busy = gateway.raw(&with("X-API-Key: k-ann")).await;
    assert!(status(&busy) == 429 && busy.contains("retry-after: "), "{busy}");
    assert!(busy.contains("client ann may send 20 requests a minute"), "{busy}");
}

/// Writes a certificate for `localhost` of an authority of its own; the authority's.
fn certify(directory: &Path) -> RootCertStore {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    write(&directory.join("tls.crt"), &cert.pem());
    write(&directory.join("tls.key"), &signing_key.serialize_pem());
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    roots
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_encrypted_and_plain_text_gets_nothing() {
    let _ = crypto::aws_lc_rs::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let roots = certify(directory.path());
    let guard = Guard {
        entrance: Entrance::default(),
        tls: Some(Tls::read(directory.path().into()).unwrap()),
    };
    let patience = Patience { head: Duration::from_millis(500), ..Patience::default() };
    let gateway = Running::guarded(Some(to(telling().await)), patience, QUICK, guard).await;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connect(gateway.address).await;
    let mut stream = soon(connector.connect(name, stream)).await.unwrap();
    stream.write_all(get("/").as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(
        status(&answer) == 200 && answer.contains(r#""x-forwarded-proto": "https""#),
        "{answer}"
    );

    let plain = gateway.raw(&get("/")).await;
    assert!(!plain.contains("200 OK") && !plain.contains("x-forwarded"), "{plain:?}");
    // One who says nothing is not waited for.
    let mut silent = connect(gateway.address).await;
    let mut rest = Vec::new();
    assert_eq!(soon(silent.read_to_end(&mut rest)).await.unwrap(), 0);

    write(&directory.path().join("tls.key"), "no key");
    let error = format!("{:#}", Tls::read(directory.path().into()).unwrap_err());
    assert!(error.contains("tls.key holds no private key in PEM"), "{error}");
}
