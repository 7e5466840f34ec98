use super::*;
use crate::deployment::target;
use crate::deployment::validate::{self, tests::sample};
use crate::observed::Exit;
use hearth_crds::routing::{Limits, RoutingTable, Variant};
use hearth_crds::source::Source;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn valid() -> ValidDeployment {
    validate::deployment(&sample(|_| {})).unwrap()
}

fn target(digest: &str) -> Target {
    let uri = Source::parse("pvc://models/spam/model").unwrap();
    let model = Model::Here { uri, digest: Some(digest.into()) };
    target::of(&valid(), &model, "w:1").unwrap()
}

fn table(revision: &str) -> RoutingTable {
    let variant = Variant {
        name: "stable".into(),
        revision: revision.into(),
        backend: String::new(),
        weight: 100,
    };
    let limits =
        Limits { max_body_bytes: 1, max_in_flight_requests: 1, request_timeout_seconds: 60 };
    RoutingTable { deployment: "spam".into(), variants: vec![variant], limits }
}

fn server(of: &Target, complete: bool) -> (String, Workload) {
    let workload = Workload {
        wanted: 2,
        available: if complete { 2 } else { 1 },
        complete,
        artifact: of.artifact.as_ref().map(|artifact| artifact.id.clone()),
        ..Workload::default()
    };
    (of.revision.clone(), workload)
}

fn job(end: JobEnd) -> JobView {
    JobView { uid: "j".into(), ended: Some(end), ..JobView::default() }
}

fn quantized(code: i32, before: f64, after: f64) -> Vec<PodView> {
    let report = CompressionReport {
        metric_before: Some(before),
        metric_after: Some(after),
        ..CompressionReport::default()
    };
    let result = WorkerResult {
        succeeded: code == 0,
        reason: "GateFailed".into(),
        message: "f1 fell by more than 0.005".into(),
        exit_code: code,
        restarts: 0,
        progress: None,
        evaluations: Vec::new(),
        checkpoint: None,
        model: None,
        compression: Some(report),
    };
    let exit = Exit { code, message: result.to_termination_message(), ..Exit::default() };
    vec![PodView { exit: Some(exit), phase: Phase::Failed, ..PodView::default() }]
}

#[test]
fn a_first_revision_is_compressed_started_and_routed() {
    let new = target("d1");
    let mut seen = Observed::default();
    let first = decide(&valid(), Some(&new), &seen, at(0));
    assert!(first.compress && !first.serve && first.route.is_none());

    seen.quantize = Some(job(JobEnd::Complete { at: Some(at(5)) }));
    seen.quantize_pods = quantized(0, 0.98, 0.979);
    let second = decide(&valid(), Some(&new), &seen, at(6));
    assert!(second.serve && second.route.is_none());
    assert_eq!(second.compression.as_ref().and_then(|r| r.metric_after), Some(0.979));

    seen.servers = [server(&new, false)].into();
    let third = decide(&valid(), Some(&new), &seen, at(7));
    assert_eq!(third.stage, Stage::Starting("1 of 2 servers are ready".into()));
    assert_eq!(third.route, None);

    seen.servers = [server(&new, true)].into();
    let fourth = decide(&valid(), Some(&new), &seen, at(8));
    assert_eq!(fourth.route.as_ref(), Some(&new.revision));
    assert_eq!(fourth.routed_at, Some(at(8)));

    seen.routing = Some(table(&new.revision));
    seen.routed_at = Some(at(8));
    seen.gateway = Some(Workload { available: 1, ..Workload::default() });
    let last = decide(&valid(), Some(&new), &seen, at(9));
    assert_eq!(last.stage, Stage::Live);
    assert_eq!(last.routed_at, Some(at(8)));
}

#[test]
fn the_old_revision_stays_until_gateways_and_requests_have_left_it() {
    let (old, new) = (target("d1"), target("d2"));
    let base = Observed {
        servers: [server(&old, true), server(&new, true)].into(),
        routing: Some(table(&new.revision)),
        routed_at: Some(at(100)),
        gateway: Some(Workload { available: 2, ..Workload::default() }),
        ..Observed::default()
    };
    let here = || Some(new.revision.clone());
    let there = || Some(old.revision.clone());
    for (case, gateways, now, gone) in [
        ("one gateway is behind", Some(vec![here(), there()]), 1_000, false),
        ("one gateway is silent", Some(vec![here(), None]), 1_000, false),
        ("no gateway was found", Some(vec![]), 1_000, false),
        ("nobody was asked", None, 1_000, false),
        ("requests may be under way", Some(vec![here(), here()]), 164, false),
        ("all have left", Some(vec![here(), here()]), 165, true),
    ] {
        let seen = Observed { gateways_at: gateways, ..base.clone() };
        let decision = decide(&valid(), Some(&new), &seen, at(now));
        assert_eq!(!decision.keep.contains(&old.revision), gone, "{case}");
        assert_eq!(decision.stage == Stage::Live, gone, "{case}");
        assert_eq!(decision.route.as_ref(), Some(&new.revision), "{case}");
    }
}

#[test]
fn a_failed_gate_leaves_the_old_revision_alone() {
    let (old, new) = (target("d1"), target("d2"));
    let seen = Observed {
        servers: [server(&old, true)].into(),
        routing: Some(table(&old.revision)),
        quantize: Some(job(JobEnd::Failed {
            reason: "PodFailurePolicy".into(),
            message: "failed".into(),
            at: Some(at(1)),
        })),
        quantize_pods: quantized(76, 0.98, 0.91),
        ..Observed::default()
    };
    let decision = decide(&valid(), Some(&new), &seen, at(2));
    let message = "f1 fell by more than 0.005 (before 0.9800, after 0.9100)".to_owned();
    assert_eq!(decision.stage, Stage::Refused { reason: "GateFailed", message });
    assert_eq!(decision.route.as_ref(), Some(&old.revision));
    assert!(decision.keep.contains(&old.revision) && !decision.serve);
}

#[test]
fn going_back_to_a_revision_that_still_serves_needs_no_compression() {
    let old = target("d1");
    let seen = Observed {
        servers: [server(&old, true)].into(),
        routing: Some(table(&old.revision)),
        gateway: Some(Workload { available: 1, ..Workload::default() }),
        ..Observed::default()
    };
    let decision = decide(&valid(), Some(&old), &seen, at(2));
    assert!(!decision.compress && decision.serve);
    assert_eq!(decision.stage, Stage::Live);
}

#[test]
fn a_model_that_went_away_does_not_stop_what_serves() {
    let old = target("d1");
    let seen = Observed {
        servers: [server(&old, true)].into(),
        routing: Some(table(&old.revision)),
        model: Model::Missing {
            reason: "MissingTrainingJob",
            message: "gone".into(),
            hopeless: false,
        },
        ..Observed::default()
    };
    let decision = decide(&valid(), None, &seen, at(2));
    assert!(decision.keep.contains(&old.revision));
    assert_eq!(decision.route.as_ref(), Some(&old.revision));
}

#[test]
fn a_missing_claim_is_named() {
    let seen = Observed { missing_claims: vec!["data".into()], ..Observed::default() };
    let decision = decide(&valid(), Some(&target("d1")), &seen, at(2));
    let Stage::Waiting { reason, message, .. } = decision.stage else { panic!("not waiting") };
    assert_eq!(reason, "MissingClaim");
    assert!(message.contains("PersistentVolumeClaim data"), "{message}");
    assert!(!decision.compress && !decision.serve);
}
