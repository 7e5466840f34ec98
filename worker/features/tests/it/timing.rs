//! How long a lookup takes, for whoever asks:
//! `cargo test --release -p hearth-features --test it -- --ignored --nocapture timing`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lookup::row;
use crate::server::Server;

#[tokio::test]
#[ignore = "prints figures"]
async fn one_row_with_twenty_features() {
    let server = Server::start();
    let names: Vec<String> = (0..20).map(|at| format!("feature_{at}")).collect();
    let fields: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "0.125")).collect();
    server.put("hearth:customer:a", 10, &fields);
    let features: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let views = json!([{"name": "customer", "key": "id", "features": features}]);
    let (client, _) = server.client(&json!({"views": views})).await;
    let rows = [row(json!({"id": "a"}))];
    let mut took = Vec::new();
    for _ in 0..20_000 {
        let start = Instant::now();
        let found = client.lookup(&rows).await.unwrap();
        took.push(start.elapsed());
        assert_eq!(found[0].len(), 20);
    }
    took.sort_unstable();
    let at = |share: usize| -> Duration { took[took.len() * share / 1000] };
    println!("1 row x 20 features: p50 {:?}, p99 {:?}, p99.9 {:?}", at(500), at(990), at(999));
}
