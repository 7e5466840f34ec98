//! The schemas keep Kubernetes' conventions, and their CEL rules say what they must.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use hearth_crds::hyperparam_sweep::{AlgorithmType, Asha};
use hearth_crds::training_job::Stop;
use hearth_crds::{HyperparamSweep, ModelDeployment, TrainingJob, all_crds};
use serde_json::{Value, json};

const JOB: &str = r"
apiVersion: hearth.dev/v1alpha1
kind: TrainingJob
metadata: {name: spam, namespace: default}
spec:
  task: SequenceClassification
  model: {source: pvc://models/minilm}
  data: {train: {source: pvc://data/spam.jsonl}, evalSplit: 0.1}
  training: {evalStrategy: Steps, evalSteps: 50, saveSteps: 50, loadBestModelAtEnd: true, metricForBestModel: f1}
  workers: {replicas: 2, resources: {limits: {nvidia.com/gpu: 1}}}
  output: {destination: pvc://models/spam}
";

fn job(change: impl FnOnce(&mut Value)) -> TrainingJob {
    let mut value: Value = serde_yaml_ng::from_str(JOB).unwrap();
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn refusal(job: &TrainingJob) -> String {
    match job.validate_cel() {
        Ok(()) => String::new(),
        Err(faults) => faults.to_string(),
    }
}

#[test]
fn a_plain_job_is_accepted_and_defaults_are_hugging_faces() {
    let job = job(|_| {});
    assert_eq!(refusal(&job), "");
    assert!((job.spec.training.learning_rate - 5e-5).abs() < f64::EPSILON);
    assert_eq!(job.spec.workers.resources.gpus(), 1);
    assert_eq!(job.spec.output.keep_checkpoints, 3);
}

#[test]
fn every_rule_of_a_job_speaks() {
    type Change = fn(&mut Value);
    let cases: Vec<(&str, Change)> = vec![
        ("needs an evaluation", |j| j["spec"]["training"]["evalStrategy"] = "No".into()),
        ("saveStrategy equal", |j| j["spec"]["training"]["saveStrategy"] = "Epoch".into()),
        ("multiple of training.evalSteps", |j| j["spec"]["training"]["saveSteps"] = 75.into()),
        ("needs data to evaluate on", |j| {
            j["spec"]["data"].as_object_mut().unwrap().remove("evalSplit");
        }),
        ("not both", |j| j["spec"]["data"]["eval"] = json!({"source": "pvc://d/e"})),
        ("above 0", |j| j["spec"]["training"]["numTrainEpochs"] = 0.into()),
        ("must be a multiple of", |j| j["spec"]["parallelism"] = json!({"tensor": 3})),
        ("x parallelism.expert", |j| j["spec"]["parallelism"] = json!({"expert": 4})),
        ("needs data to evaluate on", |j| {
            j["spec"]["training"] = json!({"evalOnStart": true});
            j["spec"]["data"].as_object_mut().unwrap().remove("evalSplit");
        }),
        ("need evaluations", |j| j["spec"]["training"] = json!({"evalDelay": 5})),
        ("need evaluations", |j| j["spec"]["training"] = json!({"earlyStoppingPatience": 5})),
        ("needs training.earlyStoppingPatience", |j| {
            j["spec"]["training"]["earlyStoppingThreshold"] = 0.1.into();
        }),
        ("has no warm-up", |j| {
            j["spec"]["training"]["lrSchedulerType"] = "Constant".into();
            j["spec"]["training"]["warmupSteps"] = 5.into();
        }),
        ("momentum needs training.optim SGD", |j| j["spec"]["training"]["momentum"] = 0.9.into()),
        ("need training.optim AdamW", |j| {
            j["spec"]["training"]["optim"] = "SGD".into();
            j["spec"]["training"]["adamBeta2"] = 0.95.into();
        }),
        ("does not fit the task", |j| j["spec"]["objective"] = json!({"type": "SFT"})),
        ("does not fit the task", |j| {
            j["spec"]["task"] = "CausalLM".into();
            j["spec"]["objective"] = json!({"type": "Classification"});
        }),
        ("does not fit the task", |j| {
            j["spec"]["task"] = "TabularRegression".into();
            j["spec"]["objective"] = json!({"type": "Classification"});
        }),
        ("assistantOnlyLoss needs", |j| classify(j, "assistantOnlyLoss", &true.into())),
        ("packing needs", |j| classify(j, "packing", &true.into())),
        ("beta needs", |j| classify(j, "beta", &0.2.into())),
        ("classWeights needs", |j| {
            j["spec"]["task"] = "CausalLM".into();
            j["spec"]["objective"] = json!({"type": "SFT", "classWeights": "Balanced"});
        }),
        ("a loss of its own", |j| {
            j["spec"]["task"] = "CausalLM".into();
            j["spec"]["objective"] = json!({"type": "DPO"});
            j["spec"]["distillation"] = json!({"teacher": {"source": "pvc://models/large"}});
        }),
        ("linear layers", |j| {
            j["spec"]["task"] = "TabularClassification".into();
            j["spec"]["peft"] = json!({});
        }),
        ("not both", |j| {
            j["spec"]["tabular"] = json!({"trees": {}, "neural": {"architecture": "MLP"}});
        }),
        ("are of architecture MLP", |j| {
            j["spec"]["tabular"] = json!({"neural": {"architecture": "FTTransformer", "width": 8}});
        }),
        ("are of architecture FTTransformer", |j| {
            j["spec"]["tabular"] = json!({"neural": {"architecture": "MLP", "blocks": 2}});
        }),
        ("need rows that were held out", |j| {
            j["spec"]["tabular"] = json!({"trees": {"earlyStoppingRounds": 5}});
            j["spec"]["data"].as_object_mut().unwrap().remove("evalSplit");
        }),
    ];
    for (want, change) in cases {
        let said = refusal(&job(change));
        assert!(said.contains(want), "{want}: {said}");
    }
}

fn classify(job: &mut Value, field: &str, value: &Value) {
    job["spec"]["objective"] = json!({"type": "Classification", field: value});
}

#[test]
fn a_language_models_job_is_accepted() {
    let tuned = job(|j| {
        j["spec"]["task"] = "CausalLM".into();
        j["spec"]["objective"] = json!({"type": "SFT", "assistantOnlyLoss": true, "packing": true});
        j["spec"]["peft"] = json!({"r": 16, "targetModules": ["q_proj", "v_proj"]});
        j["spec"]["distillation"] = json!({"teacher": {"source": "pvc://models/large"}});
        j["spec"]["training"] = json!({"optim": "SGD", "momentum": 0.9});
        j["spec"]["parallelism"] = json!({"expert": 2});
    });
    assert_eq!(refusal(&tuned), "");
    let peft = tuned.spec.peft.unwrap();
    assert_eq!((peft.r, peft.lora_alpha, peft.merge_on_export), (16, 8, true));
}

#[test]
fn a_running_jobs_spec_is_frozen_but_its_workers_are_not() {
    let before = job(|_| {});
    let other_data = job(|j| j["spec"]["data"]["train"]["source"] = "pvc://data/x.jsonl".into());
    let resized = job(|j| j["spec"]["workers"]["replicas"] = 4.into());
    assert!(other_data.validate_cel_update(&before).is_err());
    for (field, value) in [
        ("objective", json!({"type": "Classification", "classWeights": "Balanced"})),
        ("distillation", json!({"teacher": {"source": "pvc://models/large"}})),
        ("peft", json!({"r": 4})),
    ] {
        let changed = job(|j| j["spec"][field] = value.clone());
        assert!(changed.validate_cel_update(&before).is_err(), "{field} was added");
        assert!(before.validate_cel_update(&changed).is_err(), "{field} was removed");
        assert!(changed.validate_cel_update(&changed).is_ok(), "{field} stays");
    }
    assert!(resized.validate_cel_update(&before).is_ok());
}

#[test]
fn a_deployment_names_exactly_one_model() {
    for (model, good) in [
        (r#"{"fromTrainingJob": "spam"}"#, true),
        (r#"{"fromTrainingJob": "spam", "source": "pvc://m/x"}"#, false),
        ("{}", false),
    ] {
        let text = format!(
            r#"{{"apiVersion":"hearth.dev/v1alpha1","kind":"ModelDeployment","metadata":{{"name":"x"}},"spec":{{"model":{model}}}}}"#
        );
        let deployment: ModelDeployment = serde_json::from_str(&text).unwrap();
        assert_eq!(deployment.validate_cel().is_ok(), good, "{model}");
    }
}

#[test]
fn a_runtime_fits_its_compression_and_devices() {
    let gpu = r#"{"limits": {"nvidia.com/gpu": 1}}"#;
    for (runtime, resources, compression, good) in [
        ("Libtorch", "{}", r#"{"quantization": "INT8"}"#, true),
        ("OnnxRuntime", "{}", "null", true),
        ("OnnxRuntime", "{}", r#"{"quantization": "FP16"}"#, true),
        ("OnnxRuntime", "{}", r#"{"quantization": "INT8"}"#, false),
        ("TensorRT", gpu, "null", true),
        ("TensorRT", "{}", "null", false),
        ("TensorRT", r#"{"limits": {"cpu": 1}}"#, "null", false),
    ] {
        let text = format!(
            r#"{{"apiVersion":"hearth.dev/v1alpha1","kind":"ModelDeployment","metadata":{{"name":"x"}},"spec":{{"model":{{"fromTrainingJob":"spam"}},"compression":{compression},"serving":{{"runtime":"{runtime}","resources":{resources}}}}}}}"#
        );
        let deployment: ModelDeployment = serde_json::from_str(&text).unwrap();
        assert_eq!(deployment.validate_cel().is_ok(), good, "{runtime} {resources} {compression}");
    }
}

#[test]
fn a_stop_is_for_good() {
    let job: TrainingJob = serde_yaml_ng::from_str(JOB).unwrap();
    let mut stopped = job.clone();
    stopped.spec.stop = Some(Stop::default());
    stopped.validate_cel_update(&job).unwrap();
    let said = job.validate_cel_update(&stopped).unwrap_err().to_string();
    assert!(said.contains("stop is for good"), "{said}");
    let mut other = stopped.clone();
    other.spec.stop.as_mut().unwrap().message = "not needed".into();
    other.validate_cel_update(&stopped).unwrap();
}

#[test]
fn a_sweep_is_checked_by_the_schema() {
    let job: Value = serde_yaml_ng::from_str(JOB).unwrap();
    let sweep: HyperparamSweep = serde_json::from_value(json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "HyperparamSweep", "metadata": {"name": "x"},
        "spec": {
            "objective": {"metric": "f1", "goal": "Maximize"}, "trials": {"max": 2}, "job": job["spec"],
            "parameters": [{"path": "training.learningRate", "values": [1e-5, 3e-5]}]
        }
    }))
    .unwrap();
    sweep.validate_cel().unwrap();
    let mut asha = sweep.clone();
    asha.spec.algorithm.type_ = AlgorithmType::ASHA;
    let said = asha.validate_cel().unwrap_err().to_string();
    assert!(said.contains("algorithm.asha belongs to type ASHA"), "{said}");
    asha.spec.algorithm.asha = Some(Asha { first_rung_steps: 100, reduction_factor: 3 });
    let said = asha.validate_cel().unwrap_err().to_string();
    assert!(said.contains("last rung is job.training.maxSteps"), "{said}");
    asha.spec.job.training.max_steps = 900;
    asha.validate_cel().unwrap();
    let mut other = sweep.clone();
    other.spec.algorithm.seed = 3;
    assert!(other.validate_cel_update(&sweep).is_err(), "a search has one seed");
    let mut early = sweep.clone();
    early.spec.early_stopping = serde_json::from_value(json!({"type": "MedianStopping"})).unwrap();
    early.validate_cel_update(&sweep).unwrap();
    sweep.validate_cel_update(&early).unwrap();
    early.spec.job.training.max_steps = 100;
    early.spec.early_stopping.as_mut().unwrap().start_step = 99;
    early.validate_cel().unwrap();
    early.spec.early_stopping.as_mut().unwrap().start_step = 100;
    let said = early.validate_cel().unwrap_err().to_string();
    assert!(said.contains("no trial would ever be stopped"), "{said}");
    early.spec.job.training.max_steps = 900;
    early.spec.algorithm.type_ = AlgorithmType::ASHA;
    early.spec.algorithm.asha = Some(Asha { first_rung_steps: 100, reduction_factor: 3 });
    let said = early.validate_cel().unwrap_err().to_string();
    assert!(said.contains("ASHA ends trials itself"), "{said}");
    let mut more = sweep.clone();
    more.spec.trials.max = 9;
    more.validate_cel_update(&sweep).unwrap();
}

#[test]
fn schemas_are_described_bounded_and_small() {
    for crd in all_crds() {
        let name = crd.metadata.name.clone().unwrap();
        let value = serde_json::to_value(&crd).unwrap();
        let size = value.to_string().len();
        assert!(
            size < 100_000,
            "{name}: {size} bytes; kubectl apply keeps 262,144 in an annotation"
        );
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let mut faults = Vec::new();
        inspect(&schema["spec"], "spec", &mut faults);
        assert!(faults.is_empty(), "{name}: {faults:#?}");
    }
}

/// Formats that the API server knows; it warns of all others at each `kubectl apply`.
const FORMATS: [&str; 4] = ["int32", "int64", "double", "date-time"];

/// Every field has a description, every list an upper bound, and every format is known.
fn inspect(node: &Value, path: &str, faults: &mut Vec<String>) {
    if node["type"] == "array" && node["maxItems"].is_null() {
        faults.push(format!("{path}: list without maxItems"));
    }
    if node["format"].as_str().is_some_and(|format| !FORMATS.contains(&format)) {
        faults.push(format!("{path}: format {}", node["format"]));
    }
    if node["properties"].is_object() && node["additionalProperties"] == false {
        faults.push(format!("{path}: additionalProperties beside properties is not structural"));
    }
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if child["description"].is_null() {
            faults.push(format!("{path}: no description"));
        }
        inspect(child, &path, faults);
    }
    if node["items"].is_object() {
        inspect(&node["items"], &format!("{path}[]"), faults);
    }
}
