//! Buckets of a TrainingJob: for its checkpoints, and those that its rows come from. Pure.

use hearth_crds::source::Source;
use hearth_crds::training_job::{CheckpointStorage, DataSpec};

use crate::fault::Fault;
use crate::source_rules::{Backend, reachable_rows};

/// What is wrong with a bucket for checkpoints.
pub(super) fn checkpoint_fault(storage: &CheckpointStorage, backend: &Backend) -> Option<Fault> {
    const FIELD: &str = "spec.output.checkpoints";
    match Source::parse(&storage.destination) {
        Ok(Source::S3 { .. }) if storage.secret_name.is_some() && *backend != Backend::Cluster => {
            Some(Fault::invalid(
                format!("{FIELD}.secretName"),
                "a local run has no secrets",
                "remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ))
        }
        Ok(Source::S3 { .. }) => None,
        Ok(other) => Some(Fault::invalid(
            format!("{FIELD}.destination"),
            format!("{other} is no bucket"),
            "use s3://BUCKET/PREFIX, or remove checkpoints to keep them below output.destination",
        )),
        Err(error) => Some(Fault::invalid(
            format!("{FIELD}.destination"),
            error.to_string(),
            "use s3://BUCKET/PREFIX",
        )),
    }
}

/// Where rows for training and for evaluation are.
pub(super) fn rows(data: &DataSpec, backend: &Backend) -> [Option<Result<Source, Fault>>; 2] {
    let prepared = data.preparation.is_some();
    [("train", Some(&data.train)), ("eval", data.eval.as_ref())].map(|(name, rows)| {
        let field = format!("spec.data.{name}.source");
        rows.map(|rows| reachable_rows(&field, &rows.source, backend, prepared))
    })
}

/// What is wrong with a Secret for buckets that rows come from.
pub(super) fn secret_fault(data: &DataSpec, backend: &Backend) -> Option<Fault> {
    const FIELD: &str = "spec.data.secretName";
    data.secret_name.as_ref()?;
    if !data.is_in_bucket() {
        let problem = "is for rows in a bucket, and no source of data.train and data.eval is one";
        return Some(Fault::invalid(FIELD, problem, "remove it, or use s3://BUCKET/KEY"));
    }
    (*backend != Backend::Cluster).then(|| {
        Fault::invalid(
            FIELD,
            "a local run has no secrets",
            "remove it, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_rules::LocalMachine;
    use crate::training_job::validate::tests::sample;
    use crate::training_job::validate::{ClaimUse, job};
    use serde_json::{Value, json};

    #[test]
    fn rows_in_a_bucket_are_valid_where_they_are_prepared() {
        let bucket = |secret: Value| {
            sample(|j| {
                j["spec"]["data"] = json!({
                    "train": {"source": "s3://bucket/rows/"}, "secretName": secret,
                    "eval": {"source": "pvc://data/eval.jsonl"}, "preparation": {}});
            })
        };
        let valid = job(&bucket("keys".into()), &Backend::Cluster).unwrap();
        let claims: Vec<_> = valid.prepare_claims().into_iter().collect();
        assert_eq!(claims, [("data", ClaimUse::Read), ("models", ClaimUse::Write)]);
        let machine = LocalMachine {
            claims: ["models", "data"].map(|claim| (claim.into(), "/srv".into())).into(),
            coordinator_port: 1,
        };
        let local = Backend::Local(machine);
        assert!(job(&bucket(Value::Null), &local).is_ok());
        let faults = job(&bucket("keys".into()), &local).unwrap_err();
        assert!(faults.to_string().starts_with("spec.data.secretName: a local run"), "{faults}");
    }
}
