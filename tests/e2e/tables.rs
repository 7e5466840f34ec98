//! The sample of transfers: simulated, prepared, learned, and judged at the gateway, by one apply.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use hearth_tests::cluster::{Namespace, Way, condition, kubectl_ok};
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
    namespace.apply(&objects.replace(image, &worker_image())).unwrap();
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
    let row = |number: u32| {
        let amount = f64::from(number * 37 % 900) + 0.5;
        let channel = ["card", "online", "wire", "cash"][number as usize % 4];
        json!({"amount": amount, "channel": channel, "hour": number % 24, "weekday": number % 7})
    };
    let odd = json!({"amount": 9450.0, "channel": "cash", "hour": 3, "weekday": 6});
    let body = json!({"rows": [row(0), odd], "explain": 2}).to_string();
    let answer = http::post(&way.address, "/v1/predict", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    let suspicion = |row: usize| told["outputs"][row]["probabilities"]["true"].as_f64().unwrap();
    assert!(suspicion(1) > suspicion(0), "{told}");
    assert_eq!(told["outputs"][1]["explanation"]["contributions"].as_array().unwrap().len(), 2);

    let times = asked(&way.address, row);
    let at = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000];
    let mut figures = String::new();
    for per_mille in [500, 950, 990, 1000] {
        write!(figures, " p{} {:.1} ms", per_mille / 10, at(per_mille)).unwrap();
    }
    println!("{} requests at {RATE}/s through the gateway:{figures}", times.len());
}
