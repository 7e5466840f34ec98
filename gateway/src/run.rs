//! Wires it all: routing table, admin port, traffic, drain.

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Args;
use crate::entrance::Entrance;
use crate::keys::Keys;
use crate::proxy::{Gateway, Patience};
use crate::server::{Door, Drain, Drained, serve};
use crate::state::State;
use crate::tls::Tls;
use crate::tokens::{Expected, Tokens};
use crate::{admin, source};

/// Serves until SIGTERM, then drains. Not async: a caller would compile all of it once more.
pub fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(serve_until_stopped(args))
}

async fn serve_until_stopped(args: Args) -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("TLS was set up twice"))?;

    let state = State::new();
    let follow = args.clone();
    let shared = state.clone();
    match (follow.config_map, follow.namespace, follow.routing) {
        (_, _, Some(file)) => {
            tokio::spawn(async move { source::file::follow(&file, shared).await });
        }
        (Some(name), Some(namespace), None) => {
            let client = kube::Client::try_default().await.context(
                "cannot tell how to reach the Kubernetes API (neither in a pod nor KUBECONFIG)",
            )?;
            tokio::spawn(source::config_map::follow(client, namespace, name, shared));
        }
        _ => anyhow::bail!("give --namespace and --config-map, or --routing"),
    }

    let admin_port = bind(args.admin_listen).await?;
    let traffic = bind(args.listen).await?;
    let router = admin::router(state.clone());
    tokio::spawn(async move { axum::serve(admin_port, router).await });
    let marked = state.clone();
    tokio::spawn(async move { marked.mark_windows().await });
    tracing::info!(traffic = %args.listen, admin = %args.admin_listen, "listening");

    let patience = Patience {
        head: args.head_timeout,
        client_idle: args.client_idle_timeout,
        answer_idle: args.answer_idle_timeout,
        reach: args.reach_timeout,
    };
    let drain = Drain { delay: args.drain_delay, timeout: args.drain_timeout };
    let stop = Box::pin(stopped()?);
    let entrance = entrance(&args);
    let tls = args.tls.map(Tls::read).transpose()?;
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move { tls.follow().await });
    }
    let door = Door { listener: traffic, tls };
    match serve(door, Gateway::new(state, patience, entrance), drain, args.max_connections, stop)
        .await
    {
        Drained::Clean => tracing::info!("every request was answered"),
        Drained::Cut(open) => tracing::warn!(open, "time is up; connections were cut"),
    }
    Ok(())
}

/// Who may ask. Changes are followed.
fn entrance(args: &Args) -> Entrance {
    let keys = args.api_keys.clone().map(Keys::read);
    if let Some(keys) = keys.clone() {
        tokio::spawn(async move { keys.follow().await });
    }
    let oidc = &args.oidc;
    let named =
        oidc.oidc_keys.clone().zip(oidc.oidc_issuer.clone()).zip(oidc.oidc_audience.clone());
    let tokens = named.map(|((directory, issuer), audience)| {
        let requests_per_minute = oidc.oidc_requests_per_minute;
        Tokens::read(directory, Expected { issuer, audience, requests_per_minute })
    });
    if let Some(tokens) = tokens.clone() {
        tokio::spawn(async move { tokens.follow().await });
    }
    Entrance { keys, tokens }
}

async fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// SIGTERM, or SIGINT at a terminal.
fn stopped() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
