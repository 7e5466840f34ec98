//! How the server is reached: address, user, password, certificates.

use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, fs};

use hearth_crds::features::{FeatureStore, PasswordSecret};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisError, TlsCertificates,
};

use crate::error::ConfigError;

/// A password, or where it lies.
#[derive(Clone)]
pub enum Password {
    /// The password.
    Text(String),
    /// A file that holds it, as a mounted Secret does: read at each connection, so that it may change. One
    /// line end at its end is not part of it.
    File(PathBuf),
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => out.write_str("Text(…)"),
            Self::File(path) => out.debug_tuple("File").field(path).finish(),
        }
    }
}

/// What settings do not hold.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// What `passwordSecret` names.
    pub password: Option<Password>,
    /// Certificates in PEM that a `rediss://` server is checked by; the machine's where left out.
    pub authorities: Option<Vec<u8>>,
}

/// A server that can be connected to.
#[derive(Clone, Debug)]
pub struct Store {
    info: ConnectionInfo,
    access: Access,
    secret: Option<PasswordSecret>,
}

impl Store {
    /// Checks the address. Connects to nothing.
    pub fn new(store: &FeatureStore, access: Access) -> Result<Self, ConfigError> {
        let fault = |detail: &str| ConfigError::new("url", detail);
        let scheme = store.url.split_once("://").map(|(scheme, _)| scheme);
        if !matches!(scheme, Some("redis" | "rediss")) || store.url.contains(['?', '#']) {
            return Err(fault(
                "write redis://HOST:PORT/DB, or rediss:// for TLS, and nothing behind it",
            ));
        }
        let info = store.url.as_str().into_connection_info();
        let info = info.map_err(|_| fault("not an address: write redis://HOST:PORT/DB"))?;
        if info.redis_settings().password().is_some() {
            return Err(fault(
                "holds a password: move it into a Secret, and name that as passwordSecret",
            ));
        }
        if let (Some(secret), None) = (&store.password_secret, &access.password) {
            let detail = format!("key {:?} of Secret {:?} was not given", secret.key, secret.name);
            return Err(ConfigError::new("passwordSecret", detail));
        }
        if let ConnectionAddr::TcpTls { .. } = info.addr() {
            // The client takes the process's provider. Where there is one already, it stays.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { info, access, secret: store.password_secret.clone() })
    }

    /// `HOST:PORT`, for messages.
    pub fn address(&self) -> String {
        self.info.addr().to_string()
    }

    /// Connects within `within`; each answer afterwards may take as long as `answer`.
    pub(crate) async fn connect(
        &self,
        within: Duration,
        answer: Duration,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(within))
            .set_response_timeout(Some(answer));
        self.client()?.get_multiplexed_async_connection_with_config(&config).await
    }

    fn client(&self) -> Result<Client, RedisError> {
        let mut info = self.info.clone();
        if let Some(password) = self.password()? {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        match (info.addr(), &self.access.authorities) {
            (ConnectionAddr::TcpTls { .. }, Some(pem)) => {
                let root_cert = Some(pem.clone());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            }
            _ => Client::open(info),
        }
    }

    fn password(&self) -> Result<Option<String>, RedisError> {
        Ok(match &self.access.password {
            None => None,
            Some(Password::Text(text)) => Some(text.clone()),
            Some(Password::File(path)) => {
                let text = fs::read_to_string(path)?;
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Some(text.strip_suffix('\r').unwrap_or(text).to_owned())
            }
        })
    }

    /// Why there is no connection, for logs.
    pub(crate) fn why(&self, error: &RedisError) -> String {
        let denied = error.kind() == redis::ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
        match (&self.secret, denied) {
            (Some(secret), true) => format!(
                "it refuses the password: correct key {:?} of Secret {:?}",
                secret.key, secret.name
            ),
            (None, true) => "it asks for a password: name its Secret as passwordSecret".to_owned(),
            _ => error.to_string(),
        }
    }
}
