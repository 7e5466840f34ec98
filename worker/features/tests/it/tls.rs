//! A server behind TLS, whose users have names.

use std::fs;
use std::path::Path;

use hearth_features::{Access, Password};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tempfile::tempdir;

use crate::lookup::row;
use crate::server::{Server, client, free_port, settings};

/// Writes a server's certificate and key; the authority's certificate is returned, too.
#[expect(clippy::disallowed_methods, reason = "files of a test")]
fn certificates(dir: &Path) -> String {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let server = server.signed_by(&key, &authority).unwrap();
    fs::write(dir.join("ca.pem"), authority.pem()).unwrap();
    fs::write(dir.join("cert.pem"), server.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    authority.pem()
}

#[tokio::test]
async fn a_server_is_known_by_its_certificate_and_a_user_by_name() {
    let dir = tempdir().unwrap();
    let authority = certificates(dir.path());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let port = free_port();
    let server = Server::with(
        &[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &path("cert.pem"),
            "--tls-key-file",
            &path("key.pem"),
            "--tls-ca-cert-file",
            &path("ca.pem"),
            "--tls-auth-clients",
            "no",
        ],
        None,
    );
    server.put("hearth:customer:a", 10, &[("visits", "5")]);
    let rules = ["on", ">pa55", "~hearth:*", "+hmget", "+ping", "+select"];
    server.command::<()>(&[&["ACL", "SETUSER", "reader"], rules.as_slice()].concat());

    let url = format!("rediss://reader@localhost:{port}/0");
    let store = settings(port, &json!({"url": url}));
    let access = |authorities: Option<String>| Access {
        password: Some(Password::Text("pa55".to_owned())),
        authorities: authorities.map(String::into_bytes),
    };
    let (known, _) = client(&store, access(Some(authority))).await;
    let found = known.lookup(&[row(json!({"id": "a"}))]).await.unwrap();
    assert_eq!(found[0]["visits"], 5);
    let (unknown, _) = client(&store, access(None)).await;
    let found = unknown.lookup(&[row(json!({"id": "a"}))]).await.unwrap();
    assert_eq!(found[0]["visits"], 0, "the default: nobody vouches for the server");
}
