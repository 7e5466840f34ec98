//! What users and workers do, one story each.

use hearth_tests::cluster::{condition, reason};
use serde_json::{Value, json};

/// A story that ends in a state that does not change any more.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Plural and name of the object that tells how the story goes.
    pub(crate) subject: (&'static str, &'static str),
    /// Its spec.
    pub(crate) spec: fn() -> Value,
    /// What the user does later, in this order.
    pub(crate) steps: &'static [Step],
    /// Whether workers say that they train. Others are never heard.
    pub(crate) heard: bool,
    /// How the workers of a job end; none where they run on.
    pub(crate) ending: fn(job: &str) -> Option<Ending>,
    /// Whether the story is over, by the subject; `null` where it is gone.
    pub(crate) over: fn(&Value) -> bool,
}

/// Something that the user does to the subject.
pub(crate) struct Step {
    /// As soon as the subject is like this.
    pub(crate) when: fn(&Value) -> bool,
    /// The merge patch; the subject is deleted where there is none.
    pub(crate) patch: Option<fn() -> Value>,
}

/// How a worker's container ends.
pub(crate) struct Ending {
    pub(crate) code: i32,
    /// Its termination message.
    pub(crate) message: Value,
}

fn state(object: &Value) -> &str {
    object["status"]["state"].as_str().unwrap_or_default()
}

fn training(change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "task": "SequenceClassification",
        "model": {"source": "pvc://models/minilm"},
        "data": {"train": {"source": "pvc://data/train.jsonl"}, "evalSplit": 0.1},
        "training": {"evalStrategy": "Epoch"},
        "workers": {"replicas": 2, "accelerator": "CPU"},
        "output": {"destination": "pvc://models/out"},
    });
    change(&mut spec);
    spec
}

fn serving(source: &str) -> Value {
    json!({
        "model": {"source": source},
        "serving": {"replicas": 1},
        "gateway": {"replicas": 1, "requestTimeoutSeconds": 1},
    })
}

fn trained(job: &str) -> Option<Ending> {
    // A trial's number is at the end of its name, and is its loss here.
    let loss: f64 = job.trim_end_matches("-train").rsplit('-').next()?.parse().unwrap_or(0.5);
    Some(Ending {
        code: 0,
        message: json!({
            "succeeded": true, "reason": "Completed", "message": "trained 100 steps", "exitCode": 0, "restarts": 0,
            "progress": {"step": 100, "totalSteps": 100, "epoch": 1.0, "evalLoss": loss},
            "model": {"uri": "pvc://models/out/model", "digest": "blake3:00"},
        }),
    })
}

fn compressed() -> Ending {
    Ending {
        code: 0,
        message: json!({
            "succeeded": true, "reason": "Completed", "message": "compressed", "exitCode": 0,
            "compression": {"sizeBeforeBytes": 400, "sizeAfterBytes": 100},
        }),
    }
}

fn refused() -> Ending {
    Ending {
        code: 65,
        message: json!({
            "succeeded": false, "reason": "BadData", "message": "train.jsonl:3 has no label", "exitCode": 65,
            "restarts": 0, "progress": {"step": 0, "totalSteps": 100},
        }),
    }
}

fn runs_on(_: &str) -> Option<Ending> {
    None
}

fn is_running(job: &Value) -> bool {
    // Where pods have no agent that answers, training is never seen to begin.
    !job["status"]["workers"].is_null() || !condition(job, "Running").is_empty()
}

fn succeeded(object: &Value) -> bool {
    condition(object, "Succeeded") == "True"
}

/// All of them.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "suspended",
        subject: ("trainingjobs", "spam"),
        spec: || training(|spec| spec["suspend"] = true.into()),
        steps: &[],
        heard: false,
        ending: runs_on,
        over: |job| reason(job, "Running") == "Suspended",
    },
    Scenario {
        name: "refused",
        subject: ("trainingjobs", "spam"),
        spec: || training(|spec| spec["model"]["source"] = "hf://org/model".into()),
        steps: &[],
        heard: false,
        ending: runs_on,
        over: |job| condition(job, "Accepted") == "False",
    },
    Scenario {
        name: "trained",
        subject: ("trainingjobs", "spam"),
        spec: || training(|_| {}),
        steps: &[],
        heard: false,
        ending: trained,
        over: succeeded,
    },
    Scenario {
        name: "failed",
        subject: ("trainingjobs", "spam"),
        spec: || training(|spec| spec["workers"]["replicas"] = 1.into()),
        steps: &[],
        heard: false,
        ending: |_| Some(refused()),
        over: |job| condition(job, "Failed") == "True",
    },
    Scenario {
        name: "resumed",
        subject: ("trainingjobs", "spam"),
        spec: || training(|spec| spec["suspend"] = true.into()),
        steps: &[Step {
            when: |job| reason(job, "Running") == "Suspended",
            patch: Some(|| json!({"spec": {"suspend": false}})),
        }],
        heard: false,
        ending: trained,
        over: succeeded,
    },
    Scenario {
        name: "paused",
        subject: ("trainingjobs", "spam"),
        spec: || training(|_| {}),
        steps: &[Step { when: is_running, patch: Some(|| json!({"spec": {"suspend": true}})) }],
        heard: false,
        ending: runs_on,
        over: |job| reason(job, "Running") == "Suspended",
    },
    Scenario {
        name: "stopped",
        subject: ("trainingjobs", "spam"),
        spec: || training(|_| {}),
        steps: &[Step {
            when: is_running,
            patch: Some(|| json!({"spec": {"stop": {"message": "good enough"}}})),
        }],
        heard: false,
        ending: runs_on,
        over: |job| condition(job, "Stopped") == "True",
    },
    Scenario {
        name: "resized",
        subject: ("trainingjobs", "spam"),
        spec: || training(|spec| spec["workers"]["replicas"] = 1.into()),
        steps: &[
            Step {
                when: |job| job["status"]["workers"] == 1,
                patch: Some(|| json!({"spec": {"workers": {"replicas": 3}}})),
            },
            Step {
                when: |job| job["status"]["workers"] == 3,
                patch: Some(|| json!({"spec": {"workers": {"replicas": 2}}})),
            },
        ],
        heard: true,
        ending: runs_on,
        over: |job| job["status"]["workers"] == 2 && job["status"]["observedGeneration"] == 3,
    },
    Scenario {
        name: "expired",
        subject: ("trainingjobs", "spam"),
        spec: || training(|spec| spec["ttlSecondsAfterFinished"] = 1.into()),
        steps: &[],
        heard: false,
        ending: trained,
        over: Value::is_null,
    },
    Scenario {
        name: "deleted",
        subject: ("trainingjobs", "spam"),
        spec: || training(|_| {}),
        steps: &[Step { when: is_running, patch: None }],
        heard: false,
        ending: runs_on,
        over: Value::is_null,
    },
    Scenario {
        name: "swept",
        subject: ("hyperparamsweeps", "search"),
        spec: || {
            json!({
                "objective": {"metric": "loss", "goal": "Minimize"},
                "algorithm": {"type": "TPE", "seed": 3},
                "parameters": [{"path": "training.learningRate",
                                "range": {"min": 1e-5, "max": 1e-2, "scale": "Log"}}],
                "trials": {"max": 3, "parallel": 2},
                "job": training(|spec| spec["workers"]["replicas"] = 1.into()),
            })
        },
        steps: &[],
        heard: false,
        ending: trained,
        over: succeeded,
    },
    Scenario {
        name: "served",
        subject: ("modeldeployments", "shop"),
        spec: || {
            let mut spec = serving("pvc://models/first");
            spec["compression"] = json!({"quantization": "INT8"});
            spec
        },
        steps: &[],
        heard: false,
        ending: |_| Some(compressed()),
        over: |shop| condition(shop, "Ready") == "True" && state(shop) == "Ready",
    },
    Scenario {
        name: "replaced",
        subject: ("modeldeployments", "shop"),
        spec: || serving("pvc://models/first"),
        steps: &[Step {
            when: |shop| condition(shop, "Ready") == "True" && state(shop) == "Ready",
            patch: Some(|| json!({"spec": {"model": {"source": "pvc://models/second"}}})),
        }],
        heard: false,
        ending: runs_on,
        over: |shop| {
            shop["status"]["observedGeneration"] == 2
                && condition(shop, "Progressing") == "False"
                && shop["status"]["canary"].is_null()
        },
    },
];

/// The one of this name.
pub(crate) fn named(name: &str) -> &'static Scenario {
    ALL.iter().find(|scenario| scenario.name == name).unwrap()
}
