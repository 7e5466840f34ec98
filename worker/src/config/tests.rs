use super::*;
use serde_json::json;

fn example() -> serde_json::Value {
    serde_json::json!({
        "version": CONFIG_VERSION,
        "job": {"namespace": "local", "name": "t", "uid": ""},
        "task": "SequenceClassification", "accelerator": "CPU", "model": "/m",
        "data": {
            "train": {"path": "/d.jsonl", "uri": "file:///d.jsonl", "text": "text", "label": "label"},
            "eval": null, "evalSplit": 0.1, "clean": [], "maxBadRows": 0
        },
        "training": TrainingArguments::default(),
        "parallelism": {"sharding": "None", "tensor": 1, "pipeline": 1},
        "replicas": 2, "processesPerWorker": 2, "output": "/o", "outputUri": "file:///o",
        "keepCheckpoints": 3, "maxRestarts": 1, "coordinatorHost": "h", "coordinatorPort": 8470
    })
}

fn resolve(pointer: &str, value: serde_json::Value) -> Result<Config, ConfigError> {
    let mut document = example();
    if !pointer.is_empty() {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[field] = value;
    }
    Config::resolve(serde_json::from_value(document).unwrap())
}

#[test]
fn defaults_resolve() {
    let config = resolve("", serde_json::Value::Null).unwrap();
    assert_eq!(config.ranks_per_machine.get(), 2);
    assert_eq!(config.global_batch(4), 32);
    assert_eq!(config.length, Length::Epochs(3.0));
    assert_eq!(config.evaluate, Interval::Never);
}

#[test]
fn what_is_not_acted_on_is_refused_by_its_field() {
    for (pointer, value, field) in [
        ("/model", serde_json::Value::Null, "model"),
        ("/data/train/image", "file_name".into(), "data.image"),
        ("/objective", json!({"type": "DPO"}), "objective.type"),
        (
            "/distillation",
            json!({"teacher": "/t", "temperature": 0.0, "alpha": 0.5}),
            "distillation.temperature",
        ),
        (
            "/distillation",
            json!({"teacher": "/t", "temperature": 1.0, "alpha": 1.5}),
            "distillation.alpha",
        ),
        ("/peft", json!({"r": 0}), "peft.r"),
        ("/peft", json!({"loraDropout": 1.0}), "peft.loraDropout"),
        ("/training/labelSmoothingFactor", 1.5.into(), "training.labelSmoothingFactor"),
        ("/data/train/messages", "turns".into(), "data.messages"),
        ("/data/train/prompt", "q".into(), "data.prompt"),
        ("/data/train/completion", "a".into(), "data.completion"),
        ("/data/train/chosen", "a".into(), "data.chosen"),
        ("/data/train/rejected", "a".into(), "data.rejected"),
        ("/training/perDeviceTrainBatchSize", 0.into(), "training.perDeviceTrainBatchSize"),
        ("/training/momentum", 0.9.into(), "training.momentum"),
        ("/training/earlyStoppingPatience", 2.into(), "training.earlyStoppingPatience"),
        ("/training/evalDelay", 2.into(), "training.evalDelay"),
        ("/training/ddpBucketCapMb", 0.into(), "training.ddpBucketCapMb"),
        ("/training/labelSmoothingFactor", 1.into(), "training.labelSmoothingFactor"),
        ("/training/learningRate", (-1).into(), "training.learningRate"),
        ("/training/numTrainEpochs", 0.into(), "training.numTrainEpochs"),
        ("/training/maxLength", 2.into(), "training.maxLength"),
        ("/training/loadBestModelAtEnd", true.into(), "training.loadBestModelAtEnd"),
        ("/data/evalSplit", 0.95.into(), "data.evalSplit"),
    ] {
        let error = resolve(pointer, value).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field}: ")), "{pointer}: {error}");
    }
}

#[test]
fn pictures_have_no_text() {
    for (pointer, value, field) in [
        ("/data/clean", json!(["StripControl"]), "data.clean"),
        ("/training/maxLength", 16.into(), "training.maxLength"),
        ("/data/train/text", "caption".into(), "data.text"),
    ] {
        let mut document = example();
        document["task"] = "ImageClassification".into();
        let resolve = |document: &serde_json::Value| {
            Config::resolve(serde_json::from_value(document.clone()).unwrap())
        };
        assert!(resolve(&document).is_ok());
        *document.pointer_mut(pointer).unwrap() = value;
        let error = resolve(&document).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field}: ")), "{error}");
    }
}

#[test]
fn what_does_not_go_with_a_split_model_is_refused() {
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut document = example();
        document["parallelism"]["pipeline"] = 2.into();
        change(&mut document);
        Config::resolve(serde_json::from_value(document).unwrap()).map_err(|e| e.to_string())
    };
    assert!(refused(&|_| ()).is_ok());
    let adapters = refused(&|document| document["peft"] = json!({"r": 4}));
    assert!(adapters.unwrap_err().starts_with("peft: "));
}

#[test]
fn preferences_have_a_loss_and_columns_of_their_own() {
    let with = |pointer: &str, value: serde_json::Value| {
        let mut document = example();
        document["task"] = "CausalLM".into();
        document["objective"] = json!({"type": "DPO", "beta": 0.3});
        document["data"]["train"]["chosen"] = "good".into();
        if let Some((parent, field)) = pointer.rsplit_once('/') {
            document.pointer_mut(parent).unwrap()[field] = value;
        }
        Config::resolve(serde_json::from_value(document).unwrap())
    };
    let resolved = with("", serde_json::Value::Null).unwrap();
    assert_eq!(resolved.lesson, Lesson::Preferences { beta: 0.3 });
    for (pointer, value, field) in [
        ("/objective", json!({"type": "SFT"}), "data.chosen"),
        ("/objective", json!({"type": "DPO", "packing": true}), "objective.packing"),
        ("/data/train/messages", "turns".into(), "data.messages"),
        ("/training/labelSmoothingFactor", 0.1.into(), "training.labelSmoothingFactor"),
        ("/peft", json!({"loraDropout": 0.1}), "peft.loraDropout"),
        (
            "/distillation",
            json!({"teacher": "/t", "temperature": 2.0, "alpha": 0.5}),
            "distillation",
        ),
    ] {
        let error = with(pointer, value).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field}: ")), "{pointer}: {error}");
    }
}

#[test]
fn an_evaluation_without_data_is_refused() {
    let mut document = example();
    document["data"]["evalSplit"] = serde_json::Value::Null;
    document["training"]["evalStrategy"] = "Epoch".into();
    let refused = Config::resolve(serde_json::from_value(document).unwrap());
    assert!(refused.unwrap_err().to_string().starts_with("training.evalStrategy: "));
}

#[test]
fn the_fingerprint_follows_results_and_nothing_else() {
    let of = |pointer, value| resolve(pointer, value).unwrap().fingerprint;
    let base = of("/replicas", 2.into());
    assert_eq!(base, of("/replicas", 1.into()));
    assert_eq!(base, of("/training/loggingSteps", 3.into()));
    assert_ne!(base, of("/training/learningRate", 1e-3.into()));
    assert_ne!(base, of("/training/seed", 1.into()));
}
