//! Deadlines, and jobs that go by themselves.

use hearth_tests::cluster::{Namespace, await_value, told};
use hearth_tests::jobs;

use crate::support::{PATIENCE, ended, succeeded};

#[test]
fn a_job_that_takes_too_long_fails_with_that_reason_and_keeps_its_checkpoint() {
    let namespace = Namespace::create("e2e-deadline").unwrap();
    jobs::fill(&namespace).unwrap();
    let slow = jobs::training_job("slow", 1, 2_000_000, |job| {
        job["spec"]["activeDeadlineSeconds"] = 25.into();
        job["spec"]["training"]["saveSteps"] = 100.into();
        job["spec"]["training"]["evalStrategy"] = "No".into();
    });
    namespace.apply(&slow).unwrap();
    let failed = ended(&namespace, "slow");
    let said = told(&failed, "Failed");
    assert!(said.contains("DeadlineExceeded") && said.contains("activeDeadlineSeconds"), "{said}");
    assert!(failed["status"]["checkpoint"]["step"].as_i64() > Some(0), "{}", failed["status"]);
}

#[test]
fn a_job_goes_by_itself_and_its_model_stays() {
    let namespace = Namespace::create("e2e-ttl").unwrap();
    jobs::fill(&namespace).unwrap();
    let brief = jobs::training_job("brief", 1, 20, |job| {
        job["spec"]["ttlSecondsAfterFinished"] = 5.into();
    });
    namespace.apply(&brief).unwrap();
    namespace.apply(&jobs::training_job("stays", 1, 20, |_| {})).unwrap();
    let left = |kind: &str| namespace.list(kind, "").map(|all| all.len());
    succeeded(&namespace, "stays");
    await_value(PATIENCE, || Ok((left("trainingjobs")?, left("jobs")?)), &|n| *n == (1, 1))
        .unwrap();
    assert!(namespace.volume("models").join("brief/model/model.safetensors").exists());
    let applied = jobs::training_job("stays", 1, 20, |_| {});
    assert_eq!(namespace.diff(&applied).unwrap(), "", "an applied job is OutOfSync");
}
