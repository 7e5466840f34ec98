//! Flags.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use hearth_crds::routing::{GATEWAY_ADMIN_PORT, GATEWAY_PORT};

/// Forwards requests to the servers of a ModelDeployment.
///
/// Where requests go is a routing table: the key `routing.json` of a ConfigMap,
/// which the gateway watches (it needs `get` and `watch` on that one object), or
/// a file. While neither can be read, the last good table stands.
#[derive(Clone, Debug, Parser)]
#[command(name = "hearth-gateway", version)]
pub struct Args {
    /// Namespace of the ConfigMap.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NS")]
    pub namespace: Option<String>,
    /// ConfigMap that holds the routing table.
    #[arg(long, value_name = "NAME", required_unless_present = "routing", requires = "namespace")]
    pub config_map: Option<String>,
    /// File that holds the routing table, instead of a ConfigMap.
    #[arg(long, value_name = "FILE", conflicts_with = "config_map")]
    pub routing: Option<PathBuf>,
    /// Address for traffic.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = any(GATEWAY_PORT))]
    pub listen: SocketAddr,
    /// Directory with one file a client: its API key's hash. Requests without a key are refused.
    #[arg(long, value_name = "DIR")]
    pub api_keys: Option<PathBuf>,
    /// Tokens.
    #[command(flatten)]
    pub oidc: OidcArgs,
    /// Directory with tls.crt and tls.key: traffic is encrypted.
    #[arg(long, value_name = "DIR")]
    pub tls: Option<PathBuf>,
    /// Address for /healthz, /readyz, /metrics and /routing.
    #[arg(long, value_name = "ADDR:PORT", default_value_t = any(GATEWAY_ADMIN_PORT))]
    pub admin_listen: SocketAddr,
    /// After SIGTERM: how long to be unready before the port is closed.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain_delay: Duration,
    /// After that: longest wait for requests in flight.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Longest wait for a request's head, and for the next request of a connection.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub head_timeout: Duration,
    /// Longest that a client may pause while it sends a body or reads an answer.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub client_idle_timeout: Duration,
    /// Longest that a server may pause within an answer.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub answer_idle_timeout: Duration,
    /// Longest that a request waits for a server that takes connections.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub reach_timeout: Duration,
    /// Open connections; more wait. An idle one takes about 20 KiB.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    pub max_connections: usize,
    /// Form of log lines.
    #[arg(long, env = "HEARTH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Tokens of an OpenID Connect issuer. Requests with one come in, too.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(requires_all = ["oidc_keys", "oidc_issuer", "oidc_audience"], multiple = true)]
pub struct OidcArgs {
    /// Directory with jwks.json: the issuer's public keys.
    #[arg(long, value_name = "DIR")]
    pub oidc_keys: Option<PathBuf>,
    /// Who signs tokens: their `iss`.
    #[arg(long, value_name = "URL")]
    pub oidc_issuer: Option<String>,
    /// For whom tokens must be: one of their `aud`.
    #[arg(long, value_name = "TEXT")]
    pub oidc_audience: Option<String>,
    /// Requests a minute of each subject, up to a tenth of them at once.
    #[arg(long, value_name = "N")]
    pub oidc_requests_per_minute: Option<NonZeroU32>,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

/// `500ms`, `5s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "write a time such as 500ms, 5s or 2m".to_owned())?;
    parsed.try_into().map_err(|_| "a time cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("hearth-gateway").chain(line.split_whitespace()))
    }

    #[test]
    fn a_table_comes_from_exactly_one_place() {
        assert!(parse("--namespace a --config-map b").is_ok());
        assert!(parse("--routing f").is_ok());
        for line in
            ["", "--config-map b", "--namespace a", "--namespace a --config-map b --routing f"]
        {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn tokens_need_keys_an_issuer_and_an_audience() {
        let all = "--oidc-keys /k --oidc-issuer https://i --oidc-audience a";
        assert!(parse(&format!("--routing f {all} --oidc-requests-per-minute 60")).is_ok());
        assert!(parse("--routing f").is_ok());
        for part in all.split(" --").map(|part| part.trim_start_matches('-')) {
            assert!(parse(&format!("--routing f --{part}")).is_err(), "{part}");
        }
    }

    #[test]
    fn times_have_units() {
        let args = parse("--routing f --drain-delay 500ms --drain-timeout 2m").unwrap();
        assert_eq!(args.drain_delay, Duration::from_millis(500));
        assert_eq!(args.drain_timeout, Duration::from_mins(2));
        for bad in ["5", "-5s", "soon"] {
            assert!(parse(&format!("--routing f --drain-delay={bad}")).is_err(), "{bad}");
        }
    }
}
