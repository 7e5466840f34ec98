//! Leader election against a Lease in memory, 10 times as fast as in a cluster.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_operator::lease::{Elector, Timing};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common;

/// A second of a cluster is 100 ms here.
const SECOND: Duration = Duration::from_millis(100);
const FAST: Timing = Timing {
    duration: Duration::from_millis(15 * 100),
    renew_deadline: Duration::from_secs(1),
    retry_period: Duration::from_millis(2 * 100),
};

/// The Lease; writes name the version that they build on.
#[derive(Default)]
struct Server {
    lease: Value,
    version: u64,
    down: bool,
    writes: u32,
}

impl Server {
    fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        let failure = |code: u16| {
            let reason = match code {
                404 => "NotFound",
                409 => "Conflict",
                _ => "ServiceUnavailable",
            };
            (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code,
            "reason": reason, "message": "no"}),
            )
        };
        if self.down {
            return failure(503);
        }
        match *method {
            Method::GET if self.lease.is_null() => failure(404),
            Method::GET => (200, self.lease.clone()),
            Method::POST if !self.lease.is_null() => failure(409),
            _ => {
                let sent: Value = serde_json::from_slice(body).unwrap();
                let based_on = sent["metadata"]["resourceVersion"].as_str();
                if *method == Method::PATCH && based_on != Some(&self.version.to_string()) {
                    return failure(409);
                }
                self.writes += 1;
                self.version += 1;
                self.lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": "l", "resourceVersion": self.version.to_string()},
                    "spec": sent["spec"]});
                (200, self.lease.clone())
            }
        }
    }
}

fn candidate(server: &Arc<Mutex<Server>>, identity: &str) -> Elector {
    let server = server.clone();
    let client =
        common::client(move |head, body| server.lock().unwrap().answer(&head.method, body));
    Elector::with_timing(client, ("ns", "l"), identity, FAST)
}

fn holder(server: &Arc<Mutex<Server>>) -> String {
    let server = server.lock().unwrap();
    server.lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_leads_and_the_other_follows_within_twenty_seconds_of_its_death() {
    let server = Arc::new(Mutex::new(Server::default()));
    let (a, b) = (candidate(&server, "a"), candidate(&server, "b"));
    a.acquire().await;
    assert_eq!(holder(&server), "a");
    // While it renews, nobody else gets it.
    let both = tokio::time::timeout(SECOND * 60, async {
        tokio::select! { _ = a.hold() => "lost", () = b.acquire() => "two lead" }
    });
    assert!(both.await.is_err());
    // It died: it renews no more.
    let died = Instant::now();
    b.acquire().await;
    assert!(died.elapsed() <= SECOND * 40, "{:?}", died.elapsed());
    assert!(died.elapsed() >= SECOND * 11, "{:?}", died.elapsed());
    assert_eq!(holder(&server), "b");
    // It was only asleep: it must find out at its first attempt.
    let why = a.hold().await.to_string();
    assert!(why.contains("b holds it"), "{why}");
}

#[tokio::test]
async fn a_leader_that_cannot_renew_gives_up_before_its_lease_runs_out() {
    let server = Arc::new(Mutex::new(Server::default()));
    let a = candidate(&server, "a");
    a.acquire().await;
    server.lock().unwrap().down = true;
    let began = Instant::now();
    let why = a.hold().await.to_string();
    assert!(began.elapsed() >= SECOND * 8);
    assert!(began.elapsed() < SECOND * 30, "{:?}", began.elapsed());
    assert!(why.contains("not renewed"), "{why}");
}

#[tokio::test]
async fn a_short_outage_costs_nothing() {
    let server = Arc::new(Mutex::new(Server::default()));
    let a = candidate(&server, "a");
    a.acquire().await;
    let outage = async {
        tokio::time::sleep(SECOND * 3).await;
        server.lock().unwrap().down = true;
        tokio::time::sleep(SECOND * 6).await;
        server.lock().unwrap().down = false;
        tokio::time::sleep(SECOND * 30).await;
    };
    tokio::select! { lost = a.hold() => panic!("{lost}"), () = outage => {} }
    assert!(server.lock().unwrap().writes > 8);
}

#[tokio::test]
async fn a_lease_given_back_is_taken_at_once() {
    let server = Arc::new(Mutex::new(Server::default()));
    let (a, b) = (candidate(&server, "a"), candidate(&server, "b"));
    a.acquire().await;
    a.release().await;
    assert_eq!(holder(&server), "");
    let began = Instant::now();
    b.acquire().await;
    assert!(began.elapsed() < FAST.duration);
}
