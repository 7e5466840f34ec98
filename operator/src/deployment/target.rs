//! What a deployment should come to: the revision that its spec and its model
//! call for.

use std::path::PathBuf;

use hearth_crds::model_deployment::{Compression, Serving};
use hearth_crds::names;
use hearth_crds::pruning::Pruning;
use hearth_crds::source::Source;

use super::observed::Model;
use super::validate::ValidDeployment;

/// The wanted revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Hash of all that may change answers or how they are computed.
    pub revision: String,
    /// The directory that is served.
    pub model: Source,
    /// Digest of the source model, where known.
    pub digest: Option<String>,
    /// The compression that makes `model`, where there is one.
    pub artifact: Option<Artifact>,
}

/// A compressed model.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Hash of what it is made from, and how.
    pub id: String,
    /// The model that is compressed.
    pub from: Source,
    /// The deployment's model, where `from` was trained from it.
    pub reference: Option<Source>,
    /// Name of the Job that makes it.
    pub job: String,
}

impl Target {
    /// Name of the servers' Deployment, Service and ConfigMap.
    pub fn server_name(&self, valid: &ValidDeployment) -> String {
        server_name(valid, &self.revision)
    }
}

/// Name of a revision's servers.
pub fn server_name(valid: &ValidDeployment, revision: &str) -> String {
    valid.child_name(&format!("server-{revision}"))
}

/// The target, where the model is here; `origin` is the deployment's own, which was trained on or
/// taught it, where it is another. The number of pods is no part of the revision: a scaled revision is
/// the same one.
pub fn of(
    valid: &ValidDeployment,
    (model, origin): (&Model, &Model),
    worker_image: &str,
) -> Option<Target> {
    let Model::Here { uri, digest } = model else { return None };
    let reference = match origin {
        Model::Here { uri: own, .. } if own != uri => Some(own.clone()),
        _ => None,
    };
    let artifact = valid.spec.compression.as_ref().map(|compression| {
        let format = (compression.quantization, compression.group_size());
        let how = (format, &compression.calibration, &compression.gate, &compression.destination);
        let mut id = names::digest(&(uri.to_string(), digest, how));
        if let Some(pruning) = pruning_of(compression) {
            id = names::digest(&(id, pruning));
        }
        let job = valid.child_name(&format!("quantize-{id}"));
        let suffix = format!("{}-{id}", compression.quantization.as_str());
        (Artifact { id, from: uri.clone(), reference, job }, suffix)
    });
    let served = match &artifact {
        Some((_, suffix)) => valid.destination.clone().unwrap_or_else(|| beside(uri, suffix)),
        None => uri.clone(),
    };
    let artifact = artifact.map(|(artifact, _)| artifact);
    let serving = Serving { replicas: 0, autoscaling: None, ..valid.spec.serving.clone() };
    let settings = (&serving, valid.spec.gateway.max_body_bytes, worker_image);
    let made = artifact.as_ref().map(|artifact| artifact.id.as_str());
    let revision = names::digest(&(served.to_string(), digest, made, settings));
    Some(Target { revision, model: served, digest: digest.clone(), artifact })
}

/// What is pruned where the model is compressed; what is trained after it was pruned there.
pub fn pruning_of(compression: &Compression) -> Option<&Pruning> {
    compression.pruning.as_ref().filter(|_| compression.training.is_none())
}

/// The directory `NAME-SUFFIX` beside a directory `NAME`.
pub(super) fn beside(source: &Source, suffix: &str) -> Source {
    let rename = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.with_file_name(format!("{name}-{suffix}"))
    };
    match source {
        Source::Pvc { claim, path } => Source::Pvc { claim: claim.clone(), path: rename(path) },
        Source::File { path } => Source::File { path: rename(path) },
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::validate::{self, tests::sample};
    use serde_json::{Value, json};

    fn target(change: impl FnOnce(&mut Value), digest: &str, image: &str) -> Target {
        let valid = validate::deployment(&sample(change)).unwrap();
        let uri = Source::parse("pvc://models/spam/model").unwrap();
        let model = Model::Here { uri, digest: Some(digest.into()) };
        of(&valid, (&model, &model), image).unwrap()
    }

    #[test]
    fn a_revision_follows_what_is_served_and_not_how_often() {
        let plain = target(|_| {}, "d1", "w:1");
        let scaled = target(|d| d["spec"]["serving"]["replicas"] = 5.into(), "d1", "w:1");
        let retrained = target(|_| {}, "d2", "w:1");
        let upgraded = target(|_| {}, "d1", "w:2");
        let batched = target(|d| d["spec"]["serving"]["maxBatchSize"] = 8.into(), "d1", "w:1");
        assert_eq!(plain, scaled);
        assert_ne!(plain.revision, retrained.revision);
        assert_ne!(plain.revision, batched.revision);
        assert_ne!(plain.revision, upgraded.revision);
        assert_ne!(plain.artifact, retrained.artifact);
        // A new image serves the same compressed model.
        assert_eq!(plain.artifact, upgraded.artifact);
    }

    #[test]
    fn a_model_that_was_trained_on_is_compared_with_the_deployments() {
        let valid = validate::deployment(&sample(|_| {})).unwrap();
        let at = |uri: &str| Model::Here { uri: Source::parse(uri).unwrap(), digest: None };
        let (own, trained) = (at("pvc://models/spam/model"), at("pvc://models/small/model"));
        let reference =
            |model| of(&valid, (model, &own), "w:1").unwrap().artifact.unwrap().reference;
        assert_eq!(reference(&own), None);
        assert_eq!(reference(&trained).unwrap().to_string(), "pvc://models/spam/model");
    }

    #[test]
    fn what_is_pruned_is_another_artifact() {
        let plain = target(|_| {}, "d1", "w:1");
        let pruned = target(
            |d| d["spec"]["compression"]["pruning"] = json!({"type": "SemiStructured"}),
            "d1",
            "w:1",
        );
        assert_ne!(plain.artifact.unwrap().id, pruned.artifact.unwrap().id);
    }

    #[test]
    fn a_compressed_model_is_beside_its_source_or_where_it_is_told() {
        let plain = target(|_| {}, "d1", "w:1");
        let id = plain.artifact.unwrap().id;
        assert_eq!(plain.model.to_string(), format!("pvc://models/spam/model-int8-{id}"));
        let told = target(
            |d| d["spec"]["compression"]["destination"] = "pvc://small/spam".into(),
            "d1",
            "w:1",
        );
        assert_eq!(told.model.to_string(), "pvc://small/spam");
        let plain = target(|d| d["spec"]["compression"] = json!(null), "d1", "w:1");
        assert_eq!(plain.model.to_string(), "pvc://models/spam/model");
        assert!(plain.artifact.is_none());
    }
}
