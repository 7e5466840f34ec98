//! A store that is slow, dead, or comes back.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hearth_features::{Access, FeatureClient, LookupError, Outcome, Reason};
use serde_json::json;

use crate::lookup::row;
use crate::server::{Server, client, free_port, settings};

/// Beyond the timeout, for a machine that does other things, too.
const SLACK: Duration = Duration::from_millis(700);

/// The features' reason to be absent, and how long that took to say.
async fn failure(client: &FeatureClient) -> (Reason, Duration) {
    let start = Instant::now();
    let error = client.lookup(&[row(json!({"id": "a"}))]).await.unwrap_err();
    match error {
        LookupError::Row { reason, .. } => (reason, start.elapsed()),
        LookupError::TooMany { .. } => panic!("{error}"),
    }
}

async fn visits(client: &FeatureClient) -> i64 {
    let found = client.lookup(&[row(json!({"id": "a"}))]).await.unwrap();
    found[0]["visits"].as_i64().unwrap()
}

#[tokio::test]
async fn a_store_that_stops_costs_its_timeout_a_few_times_and_then_nothing() {
    let server = Server::start();
    server.put("hearth:customer:a", 10, &[("visits", "5")]);
    let more = json!({"timeoutMilliseconds": 300, "onFailure": "Fail"});
    let (client, metrics) = server.client(&more).await;
    assert_eq!(visits(&client).await, 5);
    server.signal("STOP");
    for _ in 0..3 {
        let (reason, took) = failure(&client).await;
        assert_eq!(reason, Reason::Timeout);
        assert!(took < Duration::from_millis(300) + SLACK, "{took:?}");
    }
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(failure(&client).await.0, Reason::Down);
    }
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
    assert_eq!(metrics.count("customer", Outcome::Timeout), 3);
    assert_eq!(metrics.count("customer", Outcome::Error), 100);
    server.signal("CONT");
    assert!(client.connected(Duration::from_secs(20)).await);
    assert_eq!(visits(&client).await, 5);
}

#[tokio::test]
async fn a_pause_shorter_than_three_requests_keeps_the_connection() {
    let server = Server::start();
    server.put("hearth:customer:a", 10, &[("visits", "5")]);
    let (client, metrics) = server.client(&json!({"timeoutMilliseconds": 400})).await;
    server.command::<()>(&["CLIENT", "PAUSE", "600"]);
    assert_eq!(visits(&client).await, 0, "the default");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(visits(&client).await, 5);
    assert_eq!(metrics.count("customer", Outcome::Timeout), 1);
    let told: String = server.command(&["CLIENT", "LIST"]);
    assert_eq!(told.lines().count(), 2, "the client's and this one's: {told}");
}

#[tokio::test]
async fn a_store_that_was_killed_is_found_again() {
    let mut server = Server::start();
    server.put("hearth:customer:a", 10, &[("visits", "5")]);
    let (client, _) =
        server.client(&json!({"timeoutMilliseconds": 500, "onFailure": "Fail"})).await;
    assert_eq!(visits(&client).await, 5);
    server.kill();
    let (reason, took) = failure(&client).await;
    assert_eq!(reason, Reason::Down);
    assert!(took < Duration::from_millis(500) + SLACK, "{took:?}");
    server.start_again();
    server.put("hearth:customer:a", 10, &[("visits", "6")]);
    assert!(client.connected(Duration::from_secs(20)).await);
    assert_eq!(visits(&client).await, 6);
}

#[tokio::test]
async fn a_request_that_meets_a_store_started_anew_is_answered() {
    let mut server = Server::start();
    let more = json!({"timeoutMilliseconds": 5000, "onFailure": "Fail"});
    let (client, _) = server.client(&more).await;
    server.kill();
    server.start_again();
    server.put("hearth:customer:a", 10, &[("visits", "6")]);
    assert_eq!(visits(&client).await, 6, "over a connection made within the request");
}

#[tokio::test]
async fn a_process_starts_without_its_store() {
    let more = json!({"timeoutMilliseconds": 500});
    let (client, metrics) = client(&settings(free_port(), &more), Access::default()).await;
    assert_eq!(visits(&client).await, 0, "the default");
    assert_eq!(metrics.count("customer", Outcome::Error), 1);
}

#[tokio::test]
async fn a_dead_store_is_not_tried_at_every_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let tried = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tried);
    let stop = Arc::new(AtomicUsize::new(0));
    let stopped = Arc::clone(&stop);
    let door = std::thread::spawn(move || {
        while stopped.load(Ordering::Relaxed) == 0 {
            match listener.accept() {
                Ok(_) => drop(counter.fetch_add(1, Ordering::Relaxed)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    let more = json!({"timeoutMilliseconds": 500, "onFailure": "Fail"});
    let (client, _) = client(&settings(port, &more), Access::default()).await;
    let start = Instant::now();
    let mut asked = 0;
    while start.elapsed() < Duration::from_secs(2) {
        assert_eq!(failure(&client).await.0, Reason::Down);
        asked += 1;
        tokio::task::yield_now().await;
    }
    drop(client);
    stop.store(1, Ordering::Relaxed);
    door.join().unwrap();
    let tried = tried.load(Ordering::Relaxed);
    assert!((2..=12).contains(&tried), "{tried} attempts");
    assert!(asked > 50 * tried, "{asked} requests, {tried} attempts");
}
