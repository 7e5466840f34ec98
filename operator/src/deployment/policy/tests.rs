use super::*;
use crate::deployment::observed::ServerLoad;
use crate::deployment::rollout::Rejected;
use crate::deployment::target;
use crate::deployment::validate::{self, tests::sample};
use crate::observed::{Exit, JobEnd, JobView, Phase};
use hearth_crds::routing::{
    CANARY, Figures, Limits, Load, Measured, RoutingTable, STABLE, Variant, VariantFigures,
};
use hearth_crds::source::Source;
use hearth_crds::worker_config::WorkerResult;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn valid() -> ValidDeployment {
    validate::deployment(&sample(|_| {})).unwrap()
}

fn target(digest: &str) -> Target {
    let uri = Source::parse("pvc://models/spam/model").unwrap();
    let model = Model::Here { uri, digest: Some(digest.into()) };
    target::of(&valid(), (&model, &model), "w:1").unwrap()
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
    RoutingTable::new("spam".into(), vec![variant], limits)
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
        notes: Vec::new(),
        data: None,
    };
    let exit = Exit { code, message: result.to_termination_message(), ..Exit::default() };
    vec![PodView { exit: Some(exit), phase: Phase::Failed, ..PodView::default() }]
}

#[test]
fn a_first_revision_is_compressed_started_and_routed() {
    let new = target("d1");
    let mut seen = Observed::default();
    let first = decide(&valid(), Some(&new), &seen, at(0));
    assert!(first.compress == Compression::Present && !first.serve && first.route.is_none());

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
    let here = || Some(BTreeSet::from([new.revision.clone()]));
    let there = || Some(BTreeSet::from([old.revision.clone()]));
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
    assert!(decision.compress == Compression::Absent && decision.serve);
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
    assert!(decision.compress == Compression::Absent && !decision.serve);
}

/// A deployment that rolls out in two steps.
fn canary() -> ValidDeployment {
    let object = sample(|d| {
        d["spec"]["rollout"] = json!({"strategy": "Canary",
            "steps": [{"weight": 10, "holdSeconds": 60}, {"weight": 50, "holdSeconds": 60}],
            "analysis": {"maxErrorRate": 0.01, "minRequests": 20}});
    });
    validate::deployment(&object).unwrap()
}

/// What was observed after `decision` was carried out.
fn after(decision: &Decision, before: &Observed) -> Observed {
    let mut table = table("");
    let share = decision.canary.as_ref().map_or(0, |canary| canary.step.weight);
    let variant = |name: &str, revision: &str, weight| Variant {
        name: name.into(),
        revision: revision.into(),
        backend: String::new(),
        weight,
    };
    table.variants = vec![variant(STABLE, decision.route.as_ref().unwrap(), 100 - share)];
    table.variants.extend(decision.canary.iter().map(|c| variant(CANARY, &c.revision, share)));
    Observed {
        gateways_at: Some(vec![Some(table.reached())]),
        routing: Some(table),
        routed_at: decision.routed_at,
        record: decision.record.clone(),
        measured: Vec::new(),
        ..before.clone()
    }
}

/// What a gateway counted of the step that `decision` began.
fn counts(decision: &Decision, requests: u64, failed: u64) -> Vec<Option<Measured>> {
    let figures = Figures { requests, failed, ..Figures::default() };
    let of = |name: &str, total: Figures| VariantFigures {
        name: name.into(),
        window: total.clone(),
        total,
        ..VariantFigures::default()
    };
    vec![Some(Measured {
        id: decision.canary.as_ref().unwrap().measure.id.clone(),
        variants: vec![of(STABLE, Figures::default()), of(CANARY, figures)],
        ..Measured::default()
    })]
}

/// The old revision serves, the new one is ready.
fn two_revisions() -> (Target, Target, Observed) {
    let (old, new) = (target("d1"), target("d2"));
    let seen = Observed {
        servers: [server(&old, true), server(&new, true)].into(),
        routing: Some(table(&old.revision)),
        gateway: Some(Workload { available: 1, ..Workload::default() }),
        ..Observed::default()
    };
    (old, new, seen)
}

fn share(decision: &Decision) -> Option<u32> {
    decision.canary.as_ref().map(|canary| canary.step.weight)
}

#[test]
fn a_canary_that_does_well_takes_over_step_by_step() {
    let (old, new, seen) = two_revisions();
    let decide = |seen: &Observed, second| decide(&canary(), Some(&new), seen, at(second));
    let first = decide(&seen, 0);
    assert_eq!(share(&first), Some(10));
    let mut seen = after(&first, &seen);
    // Time alone is not enough, and neither are requests.
    for (second, requests, want) in [(61, 19, 10), (59, 20, 10), (60, 20, 50)] {
        seen.measured = counts(&first, requests, 0);
        assert_eq!(share(&decide(&seen, second)), Some(want), "{second} {requests}");
    }
    let second = decide(&seen, 60);
    assert_eq!(second.record.current.as_ref().unwrap().step, 1);
    let mut seen = after(&second, &seen);
    seen.measured = counts(&first, 1000, 0);
    assert_eq!(share(&decide(&seen, 200)), Some(50), "counts of another step count nothing");
    seen.measured = counts(&second, 20, 0);
    let done = decide(&seen, 120);
    assert_eq!((done.route.as_ref(), share(&done)), (Some(&new.revision), None));
    assert!(done.keep.contains(&old.revision) && done.record.current.is_none());
    let gone = decide(&after(&done, &seen), 120 + 65);
    assert!(!gone.keep.contains(&old.revision));
    assert_eq!(gone.stage, Stage::Live);
}

#[test]
fn a_bad_canary_goes_and_stays_away_until_something_changes() {
    let (old, new, seen) = two_revisions();
    let first = decide(&canary(), Some(&new), &seen, at(0));
    let mut seen = after(&first, &seen);
    seen.measured = counts(&first, 20, 1);
    let back = decide(&canary(), Some(&new), &seen, at(10));
    assert!(
        matches!(&back.stage, Stage::RolledBack { reason: "TooManyErrors", message }
        if message.contains("5.00 % of 20 newest requests failed")),
        "{:?}",
        back.stage
    );
    assert_eq!((back.route.as_ref(), share(&back)), (Some(&old.revision), None));
    assert!(back.keep.contains(&new.revision), "requests may be under way");
    let seen = after(&back, &seen);
    let later = decide(&canary(), Some(&new), &seen, at(10 + 65));
    assert!(!later.serve && !later.keep.contains(&new.revision), "its servers go");
    assert!(matches!(later.stage, Stage::RolledBack { .. }));

    let with_order = |order: &str| ValidDeployment { order: Some(order.into()), ..canary() };
    let retry = |second| with_order(&format!("retry {} {}", new.revision, at(second)));
    let patient = {
        let mut valid = canary();
        valid.spec.rollout.analysis.as_mut().unwrap().max_error_rate = Some(0.5);
        valid
    };
    for (case, valid, tried) in [
        ("nothing", canary(), false),
        ("a retry before it was sent back", retry(9), false),
        ("a retry", retry(11), true),
        ("other limits", patient, true),
        ("an order about another revision", with_order("retry r7 2099-01-01T00:00:00Z"), false),
    ] {
        assert_eq!(decide(&valid, Some(&new), &seen, at(100)).serve, tried, "{case}");
    }
}

#[test]
fn a_canary_without_servers_gets_no_traffic_and_keeps_its_place() {
    let (_, new, seen) = two_revisions();
    let first = decide(&canary(), Some(&new), &seen, at(0));
    let mut seen = after(&first, &seen);
    seen.servers.get_mut(&new.revision).unwrap().available = 0;
    seen.servers.get_mut(&new.revision).unwrap().complete = false;
    let held = decide(&canary(), Some(&new), &seen, at(10));
    assert_eq!(share(&held), None);
    assert_eq!(held.record.current, first.record.current);
    assert!(matches!(held.stage, Stage::Starting(_)));
    assert!(held.keep.contains(&new.revision));
}

#[test]
fn a_newer_revision_replaces_one_that_is_being_tried() {
    let (old, new, seen) = two_revisions();
    let first = decide(&canary(), Some(&new), &seen, at(0));
    let mut seen = after(&first, &seen);
    let newest = target("d3");
    seen.servers.extend([server(&newest, true)]);
    let next = decide(&canary(), Some(&newest), &seen, at(10));
    assert_eq!(next.canary.as_ref().unwrap().revision, newest.revision);
    assert!(next.keep.contains(&new.revision), "requests may be under way");
    let later = decide(&canary(), Some(&newest), &after(&next, &seen), at(75));
    assert!(!later.keep.contains(&new.revision));
    assert_eq!(later.route, Some(old.revision));
}

#[test]
fn a_spec_that_goes_back_ends_the_rollout() {
    let (old, new, seen) = two_revisions();
    let first = decide(&canary(), Some(&new), &seen, at(0));
    let seen = after(&first, &seen);
    let back = decide(&canary(), Some(&old), &seen, at(10));
    assert_eq!((back.route.as_ref(), share(&back)), (Some(&old.revision), None));
    assert_eq!(back.record, Record::default());
    let rejected = Rejected {
        revision: new.revision.clone(),
        program: String::new(),
        reason: crate::deployment::rollout::Reason::TooSlow,
        message: String::new(),
        at: at(5),
    };
    let record = Record { current: None, rejected: Some(rejected) };
    let seen = Observed { record: record.clone(), ..after(&back, &seen) };
    assert_eq!(decide(&canary(), Some(&old), &seen, at(20)).record, record, "it is remembered");
}

/// A deployment whose servers follow the traffic.
fn scaled(change: impl FnOnce(&mut serde_json::Value)) -> ValidDeployment {
    let object = sample(|d| {
        d["spec"]["serving"] = json!({"replicas": 2, "autoscaling": {"minReplicas": 0,
            "maxReplicas": 8, "targetRequestsInFlight": 4, "scaleDownDelaySeconds": 60}});
        change(d);
    });
    validate::deployment(&object).unwrap()
}

fn load(revisions: &[(&str, f64)]) -> Vec<Option<Measured>> {
    let of = |(revision, load): &(&str, f64)| Load {
        revision: (*revision).into(),
        recent: *load,
        peak: *load,
        watched_seconds: 60,
    };
    let loads = revisions.iter().map(of).collect();
    vec![Some(Measured { loads, ..Measured::default() })]
}

#[test]
fn servers_follow_the_traffic_and_none_is_left_where_nobody_asks() {
    let (old, new, seen) = two_revisions();
    let valid = scaled(|_| {});
    let alone = Observed { servers: [server(&old, true)].into(), ..seen.clone() };
    for (in_flight, want) in [(0.0, 0), (3.0, 1), (13.0, 4), (99.0, 8)] {
        let seen = Observed { measured: load(&[(&old.revision, in_flight)]), ..alone.clone() };
        let decision = decide(&valid, Some(&old), &seen, at(0));
        assert_eq!(decision.replicas, [(old.revision.clone(), want)].into(), "{in_flight}");
        assert_eq!(decision.stage, Stage::Live);
    }
    let first = Observed { routing: None, servers: BTreeMap::new(), ..alone.clone() };
    let quantize = Observed {
        quantize: Some(job(JobEnd::Complete { at: Some(at(5)) })),
        quantize_pods: quantized(0, 0.98, 0.979),
        ..first
    };
    let begin = decide(&valid, Some(&old), &quantize, at(6));
    assert_eq!(begin.replicas, [(old.revision.clone(), 2)].into(), "as many as the spec says");

    let by_tokens =
        scaled(|d| d["spec"]["serving"]["autoscaling"]["targetTokensInFlight"] = json!(1000));
    let tokens = |recent| {
        let (revision, peak) = (old.revision.clone(), recent);
        let load = Load { revision, recent, peak, watched_seconds: 60 };
        BTreeMap::from([(old.revision.clone(), vec![ServerLoad::Tokens(load)])])
    };
    for (requests, in_flight, want) in [(3.0, 4500.0, 5), (13.0, 100.0, 4)] {
        let mut seen = alone.clone();
        seen.measured = load(&[(&old.revision, requests)]);
        seen.server_loads = tokens(in_flight);
        let decision = decide(&by_tokens, Some(&old), &seen, at(0));
        assert_eq!(decision.replicas, [(old.revision.clone(), want)].into(), "{in_flight}");
    }

    // A new revision begins with as many servers as the old one has, which keeps its own.
    let canary = scaled(|d| {
        d["spec"]["rollout"] = json!({"strategy": "Canary", "steps": [{"weight": 100}]});
    });
    let mut seen = seen;
    seen.servers.get_mut(&old.revision).unwrap().wanted = 5;
    seen.measured = load(&[(&old.revision, 18.0), (&new.revision, 0.0)]);
    let tried = decide(&canary, Some(&new), &seen, at(0));
    let want = [(old.revision.clone(), 5), (new.revision.clone(), 5)].into();
    assert_eq!(tried.replicas, want);
    seen = after(&tried, &seen);
    seen.servers.get_mut(&new.revision).unwrap().wanted = 5;
    seen.measured = load(&[(&old.revision, 0.0), (&new.revision, 30.0)]);
    let moved = decide(&canary, Some(&new), &seen, at(10));
    let want = [(old.revision.clone(), 5), (new.revision.clone(), 8)].into();
    assert_eq!(moved.replicas, want, "the old one could take all of it back");
}
