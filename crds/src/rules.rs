//! The CEL rules of TrainingJobs, compiled once a thread: kube's `validate_cel` compiles them at
//! every call, and a sweep asks for each of its trials.

use std::cell::OnceCell;

use kube::CustomResourceExt;
use kube::core::cel::{CompiledSchema, ValidationErrors, Validator, compile_schema};

use crate::TrainingJob;

thread_local! {
    static RULES: OnceCell<(Validator, CompiledSchema)> = const { OnceCell::new() };
}

/// The rules that a new TrainingJob breaks.
pub fn training_job(job: &TrainingJob) -> Result<(), ValidationErrors> {
    let object = serde_json::to_value(job).unwrap_or_default();
    RULES.with(|rules| {
        let (validator, rules) = rules.get_or_init(|| {
            let crd = serde_json::to_value(TrainingJob::crd()).unwrap_or_default();
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            (Validator::new(), compile_schema(schema))
        });
        validator.validate_compiled(rules, &object, None)
    })
}
