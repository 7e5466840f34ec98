//! TrainingJobs on the tiny model, as YAML.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::{cluster::Namespace, tiny};

/// A TrainingJob of `steps` steps on `workers` pods of one rank each. Its model and
/// data are those of [`fill`]; `change` edits it before it is written.
pub fn training_job(
    name: &str,
    workers: u32,
    steps: u32,
    change: impl FnOnce(&mut Value),
) -> String {
    let mut job = json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
        "spec": {
            "task": "SequenceClassification",
            "model": {"source": "pvc://models/tiny"},
            "data": {"train": {"source": "pvc://data/rows.jsonl"}, "evalSplit": 0.1,
                     "clean": ["StripControl", "CollapseWhitespace"]},
            "training": {"perDeviceTrainBatchSize": 8, "maxSteps": steps, "learningRate": 1e-3,
                         "loggingSteps": 20, "evalStrategy": "Steps", "evalSteps": 200,
                         "saveSteps": 200, "loadBestModelAtEnd": false, "maxLength": 32},
            "workers": {"replicas": workers, "accelerator": "CPU",
                        "resources": {"limits": {"memory": "2Gi"}, "requests": {"cpu": "50m", "memory": "64Mi"}}},
            "output": {"destination": format!("pvc://models/{name}"), "keepCheckpoints": 3}
        }
    });
    change(&mut job);
    job.to_string()
}

/// Writes the tiny model and its rows into the namespace's claims.
pub fn fill(namespace: &Namespace) -> Result<()> {
    fill_directories(&namespace.volume("models"), &namespace.volume("data"))
}

/// Writes `tiny/` into `models` and `rows.jsonl` into `data`.
pub fn fill_directories(models: &Path, data: &Path) -> Result<()> {
    tiny::write_model(&models.join("tiny"), 1)?;
    tiny::write_rows(&data.join("rows.jsonl"), 400, 2)
}
