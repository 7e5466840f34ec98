//! Certificates: `tls.crt` and `tls.key` of a directory, a mounted Secret. A new certificate is
//! taken over within seconds, for connections that begin then.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Time between two looks at the directory.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The certificate in force.
pub struct Tls {
    directory: PathBuf,
    in_force: RwLock<(Vec<u8>, TlsAcceptor)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Tls {
    /// The certificate of a directory. Fails where there is none that can be used.
    pub fn read(directory: PathBuf) -> Result<Arc<Self>> {
        let in_force = RwLock::new(read(&directory)?);
        Ok(Arc::new(Self { directory, in_force }))
    }

    /// Takes over what changes, for ever. What cannot be used changes nothing.
    pub async fn follow(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.read_again();
        }
    }

    fn read_again(&self) {
        match read(&self.directory) {
            Ok(new) => {
                let mut in_force = self.in_force.write().unwrap_or_else(PoisonError::into_inner);
                if new.0 != in_force.0 {
                    tracing::info!("a new certificate is in force");
                    *in_force = new;
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the certificate in force stays");
            }
        }
    }

    /// Begins connections.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

/// The certificate's text, and what begins connections with it.
fn read(directory: &Path) -> Result<(Vec<u8>, TlsAcceptor)> {
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    let text = std::fs::read(&certificate)
        .with_context(|| format!("cannot read {}", certificate.display()))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} holds no certificates in PEM", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(&key)
        .with_context(|| format!("{} holds no private key in PEM", key.display()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .with_context(|| {
            format!("{} and {} do not go together", certificate.display(), key.display())
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((text, TlsAcceptor::from(Arc::new(config))))
}
