//! The sample of transfers: simulated, prepared, learned, and judged at the gateway with what a store
//! knows of their accounts, by one apply.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use hearth_tests::cluster::{Namespace, Way, condition, kubectl_ok, told};
use hearth_tests::http;
use serde_json::{Value, json};

use crate::support::{PATIENCE, sample, succeeded};

/// Requests a second, and for how long.
const RATE: u32 = 200;
const SECONDS: u32 = 10;

/// Image of workers of this cluster.
fn worker_image() -> String {
    let all =
        kubectl_ok(&["-n", "hearth-system", "get", "deployments", "-o", "json"], None).unwrap();
    let words = all.split(|c: char| c.is_whitespace() || "\"=,".contains(c));
    let mut images = words.filter(|word| word.contains("hearth-worker:"));
    images.next().expect("the operator names an image of workers").to_owned()
}

/// Probability that a transfer is suspicious.
fn suspicion(address: &str, row: &Value) -> f64 {
    let body = json!({"rows": [row]}).to_string();
    let answer = http::post(address, "/v1/predict", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    told["outputs"][0]["probabilities"]["true"].as_f64().unwrap()
}

/// The probability of two rows that must be judged alike. A busy machine's store may be late, and its features
/// are not waited for.
fn agreed(address: &str, one: &Value, other: &Value) -> f64 {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let (said, wanted) = (suspicion(address, one), suspicion(address, other));
        if (said - wanted).abs() < 1e-12 {
            return said;
        }
        assert!(Instant::now() < end, "{said} of {one}, and {wanted} of {other}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// A row and what the store knows of its two accounts, as `serving.features` names it.
fn with_features(store: &mut redis::Connection, deployment: &Value, row: &Value) -> Value {
    let mut row = row.clone();
    let views = deployment["spec"]["serving"]["features"]["views"].as_array().unwrap();
    for view in views {
        let account = row[view["key"].as_str().unwrap()].as_str().unwrap();
        let key = format!("hearth:accounts:{account}");
        let known: HashMap<String, String> = redis::cmd("HGETALL").arg(key).query(store).unwrap();
        assert!(known.len() > 12, "of account {account}: {known:?}");
        for feature in view["features"].as_array().unwrap() {
            let value: f64 = known[feature["field"].as_str().unwrap()].parse().unwrap();
            row[feature["name"].as_str().unwrap()] = value.into();
        }
    }
    row
}

/// Sends rows at a steady rate over four connections at once; milliseconds that each took, sorted.
fn asked(address: &str, row: impl Fn(u32) -> Value + Sync) -> Vec<f64> {
    let (row, began) = (&row, Instant::now());
    let ask = |thread: u32| {
        let mut times = Vec::new();
        for number in (thread..RATE * SECONDS).step_by(4) {
            let due = Duration::from_secs(1) * number / RATE;
            std::thread::park_timeout(due.saturating_sub(began.elapsed()));
            let body = json!({"rows": [row(number)]}).to_string();
            let sent = Instant::now();
            let answer = http::post(address, "/v1/predict", &body).unwrap();
            times.push(sent.elapsed().as_secs_f64() * 1e3);
            assert_eq!(answer.status, 200, "{}", answer.body);
        }
        times
    };
    let mut times: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || ask(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    times.sort_by(f64::total_cmp);
    times
}

#[test]
fn transfers_are_simulated_learned_and_judged() {
    let namespace = Namespace::create("e2e-tables").unwrap();
    namespace.claim("transfers").unwrap();
    let objects = sample("anti-money-laundering");
    let image = "hearth.dev/hearth-worker:0.1.0";
    assert!(objects.contains(image), "{objects}");
    let objects = objects.replace(image, &worker_image());
    // The tests' store: tests/setup/store.sh.
    let objects = objects.replace("docker.io/valkey/valkey:8.1", "hearth.dev/feature-store:dev");
    namespace.apply(&objects).unwrap();
    let job = succeeded(&namespace, "transfers");
    let progress = &job["status"]["progress"];
    println!("{progress}");
    assert!(progress["rocAuc"].as_f64().unwrap() > 0.8, "{progress}");
    let config = namespace.volume("transfers").join("model/model/config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    println!("{}", config["metrics"]);

    let ready =
        |d: &Value| condition(d, "Ready") == "True" && condition(d, "Progressing") == "False";
    namespace.wait("modeldeployment", "transfers", PATIENCE, ready).unwrap();
    let way = Way::open(&namespace, "transfers", 80).unwrap();
    let loaded = |job: &Value| job["status"]["succeeded"] == 1;
    namespace.wait("job", "load-features", PATIENCE, loaded).unwrap();
    let account = |number: u32| format!("A{number:07}");
    let row = |number: u32| {
        let amount = f64::from(number * 37 % 900) + 0.5;
        let channel = ["card", "online", "wire", "cash"][number as usize % 4];
        json!({"sender": account(number % 1999 + 1), "receiver": account(number * 7 % 1999 + 1), "amount": amount,
            "channel": channel, "hour": number % 24, "weekday": number % 7})
    };
    let odd = json!({"sender": "CASH", "receiver": account(17), "amount": 9450.0, "channel": "cash", "hour": 3,
        "weekday": 6});
    let body = json!({"rows": [row(0), odd], "explain": 2}).to_string();
    let answer = http::post(&way.address, "/v1/predict", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answered: Value = serde_json::from_str(&answer.body).unwrap();
    let probability = |row: usize| &answered["outputs"][row]["probabilities"]["true"];
    assert!(probability(1).as_f64() > probability(0).as_f64(), "{answered}");
    assert_eq!(answered["outputs"][1]["explanation"]["contributions"].as_array().unwrap().len(), 2);

    let times = asked(&way.address, row);
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    let mut figures = String::new();
    for per_mille in [500, 950, 990, 1000] {
        write!(figures, " p{} {:.1} ms", per_mille / 10, at(per_mille)).unwrap();
    }
    println!("{} requests at {RATE}/s through the gateway:{figures}", times.len());

    // These transfers are made up, and no simulator's.
    let drifted = |d: &Value| condition(d, "Drifted") == "True";
    let deployment = namespace.wait("modeldeployment", "transfers", PATIENCE, drifted).unwrap();
    println!("{}", told(&deployment, "Drifted"));
    let store = Way::open(&namespace, "features", 6379).unwrap();
    let client = redis::Client::open(format!("redis://{}", store.address)).unwrap();
    let mut store = client.get_connection().unwrap();
    let known = with_features(&mut store, &deployment, &odd);
    let joined = agreed(&way.address, &odd, &known);
    // What changes in the store counts from the next request on.
    let near = [("nearReported7d", 9), ("cashCount7d", 9), ("inCount24h", 9)];
    let mut change = redis::cmd("HSET");
    change.arg("hearth:accounts:A0000017");
    for (name, value) in near {
        change.arg(name).arg(value);
    }
    change.exec(&mut store).unwrap();
    let known = with_features(&mut store, &deployment, &odd);
    let changed = agreed(&way.address, &odd, &known);
    println!("suspicion {joined}, and {changed} once more cash came near what is reported");
    assert!(changed > joined);

    // Without the store, transfers are judged as those of accounts of which nothing is known.
    namespace.kubectl(&["scale", "deployment", "features", "--replicas=0"]).unwrap();
    let unknown = json!({"sender": "new", "receiver": "new", "amount": 9450.0, "channel": "cash",
        "hour": 3, "weekday": 6});
    agreed(&way.address, &odd, &unknown);
}
