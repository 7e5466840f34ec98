//! Two replicas, one of which is paused while it leads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::Notify;

use crate::cluster::until;
use crate::operator::{Bug, Operator, Settings};
use crate::play::{LIMIT, Play, reference};
use crate::proxy::{Deed, Proxy};
use crate::scenario::named;

/// What the paused leader did once it went on.
struct Aftermath {
    exited: bool,
    /// Its writes, but for the one that was under way when it was paused.
    writes: usize,
}

/// The leader is paused with a write under way. Another takes over and brings the story to its
/// end; then the first goes on, and its write reaches the server.
async fn paused_leader(bug: Option<Bug>) -> Result<Aftermath> {
    let scenario = named("trained");
    let (want, _) = reference(scenario).await?;
    let first = Play::with_election(scenario, bug, true).await?;
    let (arrived, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, held) = (arrived.clone(), released.clone());
    first.proxy.rules(Box::new(move |call| {
        if call.write == 4 {
            told.notify_one();
            Deed::Hold(held.clone())
        } else {
            Deed::Pass
        }
    }));
    first.begin().await?;
    tokio::time::timeout(LIMIT, arrived.notified()).await?;
    first.operator.signal("STOP")?;
    let paused_at = first.proxy.writes();

    let proxy = Proxy::start(first.cluster.client.clone()).await?;
    let namespace = &first.cluster.namespace;
    let settings = Settings { namespace, port: proxy.port, name: "b", leader_elect: true, bug };
    let second = Operator::new(&settings)?;
    second.start()?;
    first.comes_to(want).await?;
    ensure!(proxy.writes() > 0, "the second replica never led");

    first.proxy.calm();
    released.notify_one();
    first.operator.signal("CONT")?;
    let gone = until(Duration::from_secs(20), "its end", async || Ok(first.operator.ended())).await;
    first.comes_to(want).await?;
    let exited = gone.is_ok_and(|status| !status.success());
    Ok(Aftermath { exited, writes: first.proxy.writes() - paused_at })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_ends_and_writes_no_more() {
    let aftermath = paused_leader(None).await.unwrap();
    assert!(aftermath.exited, "it goes on as if it led");
    assert_eq!(aftermath.writes, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_does_not_look_at_its_lease_is_caught() {
    let aftermath = paused_leader(Some("keeps-leading")).await.unwrap();
    assert!(!aftermath.exited, "the planted bug is not caught");
}
