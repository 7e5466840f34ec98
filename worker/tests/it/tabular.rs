//! Models of tables: simulated transfers are prepared, learned by trees, and served.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use hearth_worker::event::RankEvent;
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::serve_http::Server;

/// Runs a command of the worker that takes a configuration.
fn worker(arguments: &[&str]) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_hearth-worker")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Transfers of 90 days, prepared: the last fifth is held out.
pub(crate) fn transfers(fixture: &Fixture) {
    let raw = fixture.path("raw");
    let directory = raw.to_string_lossy();
    worker(&["simulate", "--directory", &directory, "--accounts", "400", "--cases", "20"]);
    let config = json!({
        "version": "hearth.dev/worker/v1",
        "job": {"namespace": "local", "name": "tiny", "uid": "u-1"},
        "train": {"path": raw.join("transfers.parquet"), "uri": "pvc://data/transfers.parquet",
                  "format": "Parquet", "text": "text", "label": "suspicious"},
        "evalSplit": 0.2, "textFields": [], "label": "suspicious", "cleaning": {},
        "maxBadRows": 0,
        "preparation": {
            "split": {"by": "Time", "field": "at"},
            "table": {"columns": {"amount": {"type": "Number", "min": 0},
                                  "channel": {"type": "Category", "missing": "Mode"}}}
        },
        "output": fixture.path("data"), "outputUri": "pvc://data/prepared",
    });
    let path = fixture.write("prepare.json", &config.to_string());
    worker(&["prepare", "--config", &path.to_string_lossy()]);
}

pub(crate) fn job(
    fixture: &Fixture,
    output: &str,
    change: impl FnOnce(&mut Value),
) -> std::path::PathBuf {
    fixture.config(output, |config| {
        config["task"] = "TabularClassification".into();
        config.as_object_mut().unwrap().remove("model");
        config["data"] = json!({
            "train": {"path": fixture.path("raw/transfers.parquet"), "format": "Parquet",
                      "uri": "pvc://data/transfers.parquet", "text": "text", "label": "suspicious"},
            "eval": null, "evalSplit": 0.2, "clean": [],
            "prepared": fixture.path("data/jobs/u-1.json"), "maxBadRows": 0
        });
        config["training"] = json!({"seed": 7});
        config["tabular"] = json!({
            "exclude": ["at", "id", "sender", "receiver", "typology"],
            "trees": {"nEstimators": 60, "numLeaves": 15, "subsample": 0.9, "subsampleFreq": 1,
                      "colsampleBytree": 0.8},
            "calibration": "Isotonic",
            "threshold": {"falsePositiveRate": 0.02}
        });
        change(config);
    })
}

#[test]
fn transfers_are_learned_and_served() {
    let fixture = Fixture::new(0.0);
    transfers(&fixture);
    let trained = Gang::run(&job(&fixture, "job", |_| {}), 1).succeeded();
    let [metrics] = trained
        .of_rank_0(|event| match event {
            RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
            _ => None,
        })
        .try_into()
        .unwrap();
    println!("{metrics:?}");
    assert!(metrics.roc_auc.unwrap() > 0.8 && metrics.average_precision.unwrap() > 0.2);
    let [chosen] = trained
        .of_rank_0(|event| match event {
            RankEvent::Note { reason, message } if reason == "ThresholdChosen" => {
                Some(message.clone())
            }
            _ => None,
        })
        .try_into()
        .unwrap();
    assert!(chosen.contains("the label \"true\"") && chosen.contains("recall"), "{chosen}");
    let card = fs::read(fixture.path("job/model/hearth.json")).unwrap();
    let card: Value = serde_json::from_slice(&card).unwrap();
    assert_eq!(card["labels"], json!(["false", "true"]));

    let model = fixture.path("job/model");
    let server = Server::of(fixture, model, |_| {});
    let usual = json!({"amount": 30.5, "channel": "card", "hour": 14, "weekday": 2});
    let structured = json!({"amount": 9400, "channel": "cash", "hour": 3, "weekday": 2});
    let asked = json!({"rows": [usual, structured], "explain": 2});
    let answer = server.post("/v1/predict", &asked.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let suspicion = |row: usize| answer["outputs"][row]["probabilities"]["true"].as_f64().unwrap();
    assert!(suspicion(0) < 0.01 && suspicion(1) > 5.0 * suspicion(0), "{answer}");
    assert_eq!(answer["outputs"][0]["label"], "false");
    let why = answer["outputs"][1]["explanation"]["contributions"].as_array().unwrap();
    assert_eq!(why.len(), 2, "{answer}");
    assert!(why.iter().any(|one| one["feature"] == "amount"), "{answer}");

    // The same by the two other protocols.
    let instances = json!({"instances": [usual, structured]}).to_string();
    let told = server.post("/v1/models/tiny:predict", &instances).json();
    assert_eq!(told["predictions"][1]["probabilities"], answer["outputs"][1]["probabilities"]);
    let tensors = json!({"inputs": [
        {"name": "amount", "shape": [2], "datatype": "FP64", "data": [30.5, 9400.0]},
        {"name": "channel", "shape": [2], "datatype": "BYTES", "data": ["card", "cash"]},
        {"name": "hour", "shape": [2], "datatype": "INT64", "data": [14, 3]},
        {"name": "weekday", "shape": [2], "datatype": "INT64", "data": [2, 2]},
    ]});
    let told = server.post("/v2/models/tiny/infer", &tensors.to_string()).json();
    assert_eq!(told["outputs"][1]["data"][3].as_f64(), Some(suspicion(1)), "{told}");

    for (row, word) in [
        (json!({"amuont": 3, "channel": "card", "hour": 1, "weekday": 1}), "amuont"),
        (json!({"amount": "much", "channel": "card", "hour": 1, "weekday": 1}), "amount"),
        (json!({"channel": "card", "hour": 1, "weekday": 1}), "amount"),
    ] {
        let refused = server.post("/v1/predict", &json!({"rows": [row]}).to_string());
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body.contains(word) && refused.body.contains("row 0"), "{}", refused.body);
    }
    let none = server.post("/v1/classify", "{}");
    assert_eq!(none.status, 404);
    assert!(none.body.contains("/v1/predict"), "{}", none.body);

    // A column that training rows did not have like this is told of.
    let odd: Vec<Value> = (0..600)
        .map(|row| json!({"amount": 1e6, "channel": "wire", "hour": row % 24, "weekday": row % 7}))
        .collect();
    assert_eq!(server.post("/v1/predict", &json!({"rows": odd}).to_string()).status, 200);
    let shifted = |metrics: &str, name: &str| -> Option<f64> {
        let line = metrics
            .lines()
            .find(|line| line.starts_with("hearth_inference_drift_psi{") && line.contains(name))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let began = std::time::Instant::now();
    let metrics = loop {
        let metrics = server.get("/metrics").body;
        if shifted(&metrics, "name=\"amount\"").is_some() {
            break metrics;
        }
        assert!(began.elapsed().as_secs() < 60, "{metrics}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    assert!(shifted(&metrics, "name=\"amount\"").unwrap() > 0.25, "{metrics}");
    assert!(shifted(&metrics, "name=\"hour\"").unwrap() < 5.0, "{metrics}");
}

/// Loads of six machines, prepared as windows of four: a machine fails where its last two loads are high.
fn windows(fixture: &Fixture) {
    let mut text = String::from("at,machine,state,load,failed\n");
    let load = |machine: u32, at: u32| {
        let hash = blake3::hash(&[machine.to_le_bytes(), at.to_le_bytes()].concat());
        u32::from(hash.as_bytes()[0]) % 100
    };
    for at in 1..=400 {
        for machine in 0..6 {
            let now = load(machine, at);
            let failed = now + load(machine, at - 1) > 120;
            let state = if now > 50 { "busy" } else { "idle" };
            writeln!(text, "{at},m{machine},{state},{now},{failed}").unwrap();
        }
    }
    let raw = fixture.write("series.csv", &text);
    let config = json!({
        "version": "hearth.dev/worker/v1",
        "job": {"namespace": "local", "name": "tiny", "uid": "u-1"},
        "train": {"path": raw, "uri": "pvc://data/series.csv", "format": "CSV", "text": "text",
                  "label": "failed"},
        "evalSplit": 0.2, "textFields": [], "label": "failed", "cleaning": {}, "maxBadRows": 0,
        "preparation": {
            "split": {"by": "Time", "field": "at"},
            "table": {"columns": {"load": {"type": "Number", "min": 0, "max": 100}}},
            "augment": {"table": {"windows": {
                "time": "at", "series": "machine", "length": 4, "stride": 1
            }}}
        },
        "output": fixture.path("data"), "outputUri": "pvc://data/prepared",
    });
    let path = fixture.write("prepare.json", &config.to_string());
    worker(&["prepare", "--config", &path.to_string_lossy()]);
}

#[test]
fn windows_of_a_time_series_are_learned_and_served() {
    let fixture = Fixture::new(0.0);
    windows(&fixture);
    let of_loads = |config: &mut Value| {
        config["data"]["train"]["label"] = "failed".into();
        config["tabular"] = json!({
            "exclude": ["at", "machine", "state"],
            "trees": {"nEstimators": 60, "numLeaves": 15}
        });
    };
    let trained = Gang::run(&job(&fixture, "job", of_loads), 1).succeeded();
    let [metrics] = trained
        .of_rank_0(|event| match event {
            RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
            _ => None,
        })
        .try_into()
        .unwrap();
    assert!(metrics.roc_auc.unwrap() > 0.95, "{metrics:?}");
    // Lists of texts are no features.
    let texts = |config: &mut Value| {
        of_loads(config);
        config["tabular"]["exclude"] = json!(["at", "machine"]);
    };
    let (_, message) = Gang::run(&job(&fixture, "texts", texts), 1).failure();
    assert!(message.contains("\"state\"") && message.contains("exclude it"), "{message}");

    let model = fixture.path("job/model");
    let config: Value =
        serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["lists"], json!([{"name": "load", "length": 4}]));
    let server = Server::of(fixture, model, |_| {});
    let rows = json!([{"load": [1, 2, 90, 95]}, {"load": [90, 95, 1, 2]}]);
    let asked = json!({"rows": rows, "explain": 4}).to_string();
    let answer = server.post("/v1/predict", &asked);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["outputs"][0]["label"], "true", "{answer}");
    assert_eq!(answer["outputs"][1]["label"], "false", "{answer}");
    let why = answer["outputs"][0]["explanation"]["contributions"].as_array().unwrap();
    let mut first: Vec<_> = why[..2].iter().map(|one| one["feature"].as_str().unwrap()).collect();
    first.sort_unstable();
    assert_eq!(first, ["load[2]", "load[3]"], "{answer}");

    let tensors = json!({"inputs": [{"name": "load", "shape": [2, 4], "datatype": "FP64",
                                     "data": [1, 2, 90, 95, 90, 95, 1, 2]}]});
    let told = server.post("/v2/models/tiny/infer", &tensors.to_string()).json();
    assert_eq!(told["outputs"][0]["data"], json!(["true", "false"]), "{told}");
    let about = server.get("/v2/models/tiny").json();
    assert_eq!(about["inputs"][0]["shape"], json!([-1, 4]), "{about}");
    for (row, want) in [
        (json!({"load": [1, 2, 3]}), "field \\\"load\\\" is a list of 3; write one of 4 numbers"),
        (json!({"load": 7}), "is no list; write one of 4 numbers"),
        (json!({"load[0]": 7}), "is no column that the model knows"),
        (json!({"load": [1, 2, 3, 101]}), "is above max"),
        (json!({"load": [1, 2, "x", 4]}), "is a text; write a number"),
    ] {
        let refused = server.post("/v1/predict", &json!({"rows": [row]}).to_string());
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body.contains(want), "{}", refused.body);
    }

    let odd = vec![json!({"load": [50, 50, 50, 99]}); 600];
    assert_eq!(server.post("/v1/predict", &json!({ "rows": odd }).to_string()).status, 200);
    let report = server.get("/drift").json();
    let features: Vec<_> = report["shifts"].as_array().unwrap().iter().collect();
    let last = features.iter().find(|shift| shift["feature"] == "load[3]").unwrap();
    assert!(last["psi"].as_f64().unwrap() > 0.25, "{report}");
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_model() {
    let fixture = Fixture::new(0.0);
    transfers(&fixture);
    let long = |config: &mut Value| config["tabular"]["trees"]["nEstimators"] = 400.into();
    let whole = Gang::run(&job(&fixture, "whole", long), 1).succeeded();
    let stopped = job(&fixture, "stopped", long);
    let mut gang = Gang::start(&stopped, 1);
    gang.until(|_, event| matches!(event, RankEvent::Step(report) if report.step == 20));
    gang.signal(0, "-TERM");
    let ended = gang.wait();
    assert_eq!(ended.codes, [Some(143)], "{}", ended.log);
    assert_eq!(ended.failure().0, "Terminated");
    let resumed = Gang::run(&stopped, 1).succeeded();
    assert!(resumed.resumed_from().unwrap() >= 20);
    let trees = |output: &str| fs::read(fixture.path(output).join("model/model.txt")).unwrap();
    assert!(trees("whole") == trees("stopped"), "the trees differ");
    assert_eq!(whole.losses().last(), resumed.losses().last());
}

/// A network in place of trees.
pub(crate) fn network(config: &mut Value) {
    config["training"] = json!({
        "perDeviceTrainBatchSize": 256, "learningRate": 2e-3, "weightDecay": 1e-5, "seed": 7,
        "numTrainEpochs": 3.0, "lrSchedulerType": "Cosine", "evalStrategy": "Epoch",
        "earlyStoppingPatience": 5, "loggingSteps": 5
    });
    config["objective"] = json!({"type": "Classification", "classWeights": "Balanced"});
    let tabular = config["tabular"].as_object_mut().unwrap();
    tabular.remove("trees");
    tabular.insert(
        "neural".into(),
        json!({"architecture": "FTTransformer", "blocks": 1, "dToken": 16, "attentionHeads": 2}),
    );
}

#[test]
fn transfers_are_learned_and_served_by_a_network() {
    let fixture = Fixture::new(0.0);
    transfers(&fixture);
    let trained = Gang::run(&job(&fixture, "job", network), 1).succeeded();
    let [metrics] = trained
        .of_rank_0(|event| match event {
            RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
            _ => None,
        })
        .try_into()
        .unwrap();
    println!("{metrics:?}");
    assert!(metrics.roc_auc.unwrap() > 0.7, "{metrics:?}");
    assert!(trained.losses().len() > 2);
    let config = fs::read(fixture.path("job/model/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["architectures"], json!(["FTTransformer"]));
    assert_eq!(config["neural"]["shape"]["dToken"], 16);
    assert!(config["calibration"].is_object() && config["threshold"].is_object());
    assert!(fixture.path("job/model/model.safetensors").exists());
    let journal = fs::read_to_string(fixture.path("job/metrics.jsonl")).unwrap();
    // One a pass, and that of the rows that chose nothing.
    assert_eq!(journal.lines().filter(|line| line.contains("\"eval\"")).count(), 4, "{journal}");

    let model = fixture.path("job/model");
    let server = Server::of(fixture, model, |_| {});
    let usual = json!({"amount": 30.5, "channel": "card", "hour": 14, "weekday": 2});
    let structured = json!({"amount": 9400, "channel": "cash", "hour": 3, "weekday": 2});
    let asked = json!({"rows": [usual, structured], "explain": 2});
    let answer = server.post("/v1/predict", &asked.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let suspicion = |row: usize| answer["outputs"][row]["probabilities"]["true"].as_f64().unwrap();
    assert!(suspicion(1) > 2.0 * suspicion(0), "{answer}");
    assert_eq!(answer["outputs"][0]["threshold"], config["threshold"]["value"]);
    let why = &answer["outputs"][1]["explanation"];
    let told = why["contributions"].as_array().unwrap();
    assert_eq!(told.len(), 2, "{answer}");
    let parts: f64 = told.iter().map(|part| part["contribution"].as_f64().unwrap()).sum();
    let of = |name: &str| why[name].as_f64().unwrap();
    let off = of("base") + parts + of("others") - of("rawScore");
    assert!(off.abs() < 1e-3, "{answer}");
    let refused = json!({"rows": [{"amuont": 3}]});
    assert_eq!(server.post("/v1/predict", &refused.to_string()).status, 400);
    assert_eq!(server.get("/v2/models/tiny").json()["platform"], "hearth_libtorch");
}

#[test]
fn a_network_that_was_stopped_ends_with_the_same_weights() {
    let fixture = Fixture::new(0.0);
    transfers(&fixture);
    let long = |config: &mut Value| {
        network(config);
        config["training"]["numTrainEpochs"] = 10.into();
    };
    let whole = Gang::run(&job(&fixture, "whole", long), 1).succeeded();
    let stopped = job(&fixture, "stopped", long);
    let mut gang = Gang::start(&stopped, 1);
    gang.until(|_, event| matches!(event, RankEvent::Step(report) if report.step >= 10));
    gang.signal(0, "-TERM");
    let ended = gang.wait();
    assert_eq!(ended.codes, [Some(143)], "{}", ended.log);
    let resumed = Gang::run(&stopped, 1).succeeded();
    assert!(resumed.resumed_from().unwrap() >= 10);
    for file in ["model.safetensors", "config.json"] {
        let read = |output: &str| fs::read(fixture.path(output).join("model").join(file)).unwrap();
        assert!(read("whole") == read("stopped"), "{file} differs");
    }
    assert_eq!(whole.losses().last(), resumed.losses().last());
}

#[test]
fn what_networks_have_no_use_for_is_refused() {
    type Change = fn(&mut Value);
    let fixture = Fixture::new(0.0);
    transfers(&fixture);
    let cases: [(Change, &str); 3] = [
        (|c| c["training"]["bf16"] = true.into(), "training"),
        (|c| c["tabular"]["neural"]["layers"] = 2.into(), "neural"),
        (|c| c["tabular"]["trees"] = json!({}), "tabular.trees"),
    ];
    for (number, (change, word)) in cases.into_iter().enumerate() {
        let config = job(&fixture, &format!("bad-{number}"), |config| {
            network(config);
            change(config);
        });
        let ended = Gang::run(&config, 1);
        let (told, message) = ended.failure();
        assert_eq!(told, "BadConfig", "{message}");
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn what_cannot_be_learned_says_why() {
    type Change = fn(&mut Value);
    let fixture = Fixture::new(0.0);
    transfers(&fixture);
    let cases: [(Change, &str, &str); 3] = [
        (|c| c["tabular"]["exclude"] = json!(["nothing"]), "BadConfig", "nothing"),
        (|c| c["data"]["train"]["label"] = "amuont".into(), "BadConfig", "amuont"),
        (
            |c| c["tabular"]["trees"]["minChildSamples"] = 1_000_000.into(),
            "BadData",
            "minChildSamples",
        ),
    ];
    for (number, (change, reason, word)) in cases.into_iter().enumerate() {
        let ended = Gang::run(&job(&fixture, &format!("bad-{number}"), change), 1);
        let (told, message) = ended.failure();
        assert_eq!(told, reason, "{message}");
        assert!(message.contains(word), "{message}");
    }
}
