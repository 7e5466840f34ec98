//! What joins a row.

use std::fs;
use std::sync::Arc;

use hearth_features::{Access, FeatureClient, LookupError, Outcome, Password, Reason, Row};
use serde_json::{Value, json};

use crate::server::{Server, client, settings};

pub(crate) fn row(value: Value) -> Row {
    serde_json::from_value(value).unwrap()
}

fn defaults() -> Row {
    row(json!({"visits": 0, "spent": 0.5, "city": "?", "vip": false}))
}

fn full(server: &Server, entity: &str, age: u64) {
    let fields = [("visits", "12"), ("spent", "0.1"), ("city", "Bad:en"), ("vip", "true")];
    server.put(&format!("hearth:customer:{entity}"), age, &fields);
}

fn reason(error: &LookupError) -> Reason {
    match error {
        LookupError::Row { reason, .. } => *reason,
        LookupError::TooMany { .. } => panic!("{error}"),
    }
}

#[tokio::test]
async fn rows_get_what_is_stored_or_defaults() {
    let server = Server::start();
    full(&server, "a:1", 10);
    full(&server, "old", 3700);
    full(&server, "7", 10);
    server.put("hearth:customer:part", 10, &[("visits", "3")]);
    server.command::<i64>(&["HSET", "hearth:customer:timeless", "visits", "3"]);
    let (client, metrics) = server.client(&json!({})).await;
    let stored = row(json!({"visits": 12, "spent": 0.1, "city": "Bad:en", "vip": true}));
    let part = row(json!({"visits": 3, "spent": 0.5, "city": "?", "vip": false}));
    for (id, want) in [
        (json!("a:1"), &stored),
        (json!(7), &stored),
        (json!("part"), &part),
        (json!("old"), &defaults()),
        (json!("timeless"), &defaults()),
        (json!("nobody"), &defaults()),
        (json!(null), &defaults()),
    ] {
        let found = client.lookup(&[row(json!({"id": id}))]).await.unwrap();
        assert_eq!(&found[0], want, "{id}");
    }
    let counted =
        [Outcome::Hit, Outcome::Stale, Outcome::Missing, Outcome::Error, Outcome::Timeout]
            .map(|outcome| metrics.count("customer", outcome));
    assert_eq!(counted, [3, 2, 2, 0, 0]);
    assert_eq!(metrics.defaults_and_kept(), (4 * 4 + 3, 0));
}

#[tokio::test]
async fn what_a_request_holds_is_kept() {
    let server = Server::start();
    full(&server, "a", 10);
    let (client, metrics) = server.client(&json!({})).await;
    let mut rows = [row(json!({"id": "a", "visits": 99, "city": null, "other": 1}))];
    client.join(&mut rows).await.unwrap();
    let want =
        json!({"id": "a", "visits": 99, "city": null, "other": 1, "spent": 0.1, "vip": true});
    assert_eq!(Value::Object(rows[0].clone()), want);
    assert_eq!(metrics.defaults_and_kept(), (0, 2));
    // A row that holds all features needs no key, and asks for nothing.
    let mut held = defaults();
    held.insert("id".into(), json!([]));
    assert!(client.lookup(&[held]).await.unwrap()[0].is_empty());
    assert_eq!(metrics.count("customer", Outcome::Hit), 1);
}

#[tokio::test]
async fn a_feature_without_a_default_is_asked_for_by_name() {
    let server = Server::start();
    server.put("hearth:card:c1", 10, &[("secret", "s3cret")]);
    let views = json!([{"name": "card", "key": "card", "features": [
        {"name": "secret", "type": "Text"}, {"name": "limit"},
    ]}]);
    let (client, _) = server.client(&json!({"views": views})).await;
    for (card, want) in [
        (json!("c1"), (Reason::NoFeature, "entity \"c1\", feature \"limit\"")),
        (json!("c2"), (Reason::NoEntity, "entity \"c2\", feature \"secret\"")),
        (json!(1.5), (Reason::NoKey, "view \"card\", feature \"secret\"")),
    ] {
        let error = client.lookup(&[row(json!({"card": card}))]).await.unwrap_err();
        let said = error.to_string();
        assert_eq!(reason(&error), want.0, "{said}");
        assert!(said.contains(want.1) && !said.contains("s3cret"), "{said}");
        assert!(!error.is_passing());
    }
}

#[tokio::test]
async fn wrong_types_fail_their_entity_alone() {
    let server = Server::start();
    full(&server, "good", 10);
    server.command::<i64>(&["RPUSH", "hearth:customer:list", "s3cret"]);
    server.put("hearth:customer:text", 10, &[("visits", "s3cret"), ("spent", "2")]);
    let rows = ["good", "list", "text"].map(|id| row(json!({"id": id})));
    let (client, metrics) = server.client(&json!({})).await;
    let found = client.lookup(&rows).await.unwrap();
    assert_eq!(found[0]["visits"], 12);
    assert_eq!(found[1], defaults());
    assert_eq!((&found[2]["visits"], &found[2]["spent"]), (&json!(0), &json!(2.0)));
    assert_eq!(metrics.count("customer", Outcome::Error), 2);
    let (strict, _) = server.client(&json!({"onFailure": "Fail"})).await;
    for (at, want) in [(1, Reason::Refused), (2, Reason::Unreadable)] {
        let error = strict.lookup(&rows[at..=at]).await.unwrap_err();
        assert_eq!(reason(&error), want);
        assert!(error.is_passing() && !error.to_string().contains("s3cret"), "{error}");
    }
    // Nothing stored is no failure.
    assert_eq!(strict.lookup(&[row(json!({"id": "no"}))]).await.unwrap()[0], defaults());
}

#[tokio::test]
async fn many_rows_ask_for_each_entity_once() {
    let server = Server::start();
    (0..10).for_each(|id| full(&server, &id.to_string(), 10));
    let (client, _) = server.client(&json!({})).await;
    let rows: Vec<Row> = (0..1000).map(|at| row(json!({"id": at % 10}))).collect();
    let found = client.lookup(&rows).await.unwrap();
    assert!(found.len() == 1000 && found.iter().all(|features| features["visits"] == 12));
    let told: String = server.command(&["INFO", "commandstats"]);
    assert!(told.contains("cmdstat_hmget:calls=10,"), "{told}");
    let rows: Vec<Row> = (0..16_385).map(|id| row(json!({"id": id}))).collect();
    let error = client.lookup(&rows).await.unwrap_err();
    assert_eq!(error, LookupError::TooMany { asked: 16_385, most: 16_384 });
}

#[tokio::test]
async fn requests_at_once_get_their_own_features() {
    let server = Server::start();
    for id in 0..64 {
        server.put(&format!("hearth:customer:{id}"), 10, &[("visits", &id.to_string())]);
    }
    let (client, _) = server.client(&json!({})).await;
    let client = Arc::new(client);
    let tasks = (0..64).map(|id| {
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            for _ in 0..50 {
                let found = client.lookup(&[row(json!({"id": id}))]).await.unwrap();
                assert_eq!(found[0]["visits"], id);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn passwords_are_asked_for_and_may_change() {
    let server = Server::with_password("correct horse");
    full(&server, "a", 10);
    let rows = [row(json!({"id": "a"}))];
    let more = json!({"passwordSecret": {"name": "redis", "key": "password"}, "onFailure": "Fail"});
    let store = settings(server.port, &more);
    let missing = FeatureClient::start(&store, Access::default(), metrics()).await.err().unwrap();
    assert!(missing.to_string().contains("\"password\" of Secret \"redis\""), "{missing}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    write(&file, "wrong");
    let access = Access { password: Some(Password::File(file.clone())), authorities: None };
    assert!(!format!("{access:?}").contains("wrong"));
    let (client, _) = client(&store, access).await;
    let error = client.lookup(&rows).await.unwrap_err();
    assert_eq!(reason(&error), Reason::Down, "{error}");
    write(&file, "correct horse\n");
    assert!(client.connected(std::time::Duration::from_secs(20)).await);
    assert_eq!(client.lookup(&rows).await.unwrap()[0]["visits"], 12);
}

#[tokio::test]
async fn addresses_that_would_leak_or_mislead_are_refused() {
    for (url, want) in [
        ("redis://user:pa55@h:1/0", "move it into a Secret"),
        ("http://h", "write redis://"),
        ("rediss://h:1/0#insecure", "write redis://"),
        ("redis://h:1/x", "not an address"),
        ("redis://", "not an address"),
    ] {
        let store = settings(1, &json!({"url": url}));
        let error = FeatureClient::start(&store, Access::default(), metrics()).await.err().unwrap();
        let said = error.to_string();
        assert!(said.contains(want) && !said.contains("pa55"), "{url}: {said}");
    }
}

fn metrics() -> hearth_features::FeatureMetrics {
    hearth_features::FeatureMetrics::new(&mut prometheus_client::registry::Registry::default())
}

#[expect(clippy::disallowed_methods, reason = "a file of a test")]
fn write(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
}
