use super::*;
use hearth_crds::latency::{BUCKETS, Latencies, bucket};
use hearth_crds::routing::{Figures, Outcomes, STABLE};
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn rollout(value: Value) -> Rollout {
    serde_json::from_value(value).unwrap()
}

fn canary() -> Rollout {
    rollout(json!({"strategy": "Canary",
        "steps": [{"weight": 0, "shadowPercent": 50, "holdSeconds": 10}, {"weight": 10, "holdSeconds": 60}, {"weight": 50}],
        "analysis": {"maxErrorRate": 0.05, "maxP95Milliseconds": 200, "minRequests": 10}}))
}

fn progress(step: usize) -> Progress {
    Progress { revision: "r2".into(), program: String::new(), step, since: at(0), found: None }
}

fn figures(requests: u64, failed: u64, seconds: f64) -> Figures {
    let mut counts = [0; BUCKETS];
    counts[bucket(seconds)] = requests;
    Figures { requests, failed, latencies: Latencies::of(counts) }
}

/// The whole step and its newest interval, of one variant.
fn counted(name: &str, total: Figures, window: Figures) -> Counted {
    let variant = VariantFigures { name: name.into(), total, window, ..VariantFigures::default() };
    Counted { complete: true, variants: vec![variant] }
}

fn good(name: &str, requests: u64) -> Counted {
    counted(name, figures(requests, 0, 0.05), figures(requests, 0, 0.05))
}

fn reason(next: &Next) -> &'static str {
    match next {
        Next::Stay { reason, .. } => reason,
        Next::Advance => "advance",
        Next::Promote => "promote",
        Next::Reject { reason, .. } => reason.as_str(),
    }
}

#[test]
fn a_step_ends_when_time_traffic_and_people_agree() {
    let none = Figures::default;
    let order = |text: &str| Order::parse(text, "r2");
    let late = counted(CANARY, figures(1000, 10, 0.05), figures(10, 9, 0.05));
    let early = counted(CANARY, figures(100, 50, 0.05), figures(10, 0, 0.05));
    let slow = counted(CANARY, figures(100, 0, 0.3), none());
    let few = counted(CANARY, figures(9, 9, 0.05), figures(9, 9, 0.05));
    let unheard = Counted { complete: false, ..good(CANARY, 10) };
    for (case, step, counted, order, second, want) in [
        ("time", 1, good(CANARY, 10), None, 59, "Holding"),
        ("requests", 1, good(CANARY, 9), None, 60, "Measuring"),
        ("both", 1, good(CANARY, 10), None, 60, "advance"),
        ("a silent gateway", 1, unheard, None, 60, "Measuring"),
        ("nothing counted", 1, Counted::default(), None, 60, "Measuring"),
        ("newest requests fail", 1, late.clone(), None, 1, "TooManyErrors"),
        ("first requests failed", 1, early, None, 1, "TooManyErrors"),
        ("slow", 1, slow, None, 1, "TooSlow"),
        ("too few to judge", 1, few, None, 60, "Measuring"),
        ("copies are good", 0, good(SHADOW, 10), None, 10, "advance"),
        ("copies fail", 0, counted(SHADOW, figures(10, 9, 0.1), none()), None, 1, "TooManyErrors"),
        ("another variant is good", 0, good(CANARY, 10), None, 10, "Measuring"),
        ("a person is waited for", 2, good(CANARY, 10), None, 10_000, "WaitingForPromotion"),
        ("a person goes on", 2, good(CANARY, 10), order("promote r2 2"), 1, "advance"),
        (
            "of an earlier step",
            2,
            good(CANARY, 10),
            order("promote r2 1"),
            1,
            "WaitingForPromotion",
        ),
        ("all at once", 0, good(SHADOW, 1), order("promote r2"), 1, "promote"),
        ("another revision", 1, good(CANARY, 1), order("promote r3"), 1, "Holding"),
        ("not judged yet, but waved on", 1, good(CANARY, 1), order("promote r2 1"), 1, "advance"),
        ("waved on, and bad", 1, late.clone(), order("promote r2 1"), 1, "TooManyErrors"),
        ("paused", 1, good(CANARY, 10), order("pause r2"), 60, "Paused"),
        ("paused, and bad", 1, late, order("pause r2"), 60, "TooManyErrors"),
        ("resumed", 1, good(CANARY, 10), order("resume r2"), 60, "advance"),
        ("sent back", 1, good(CANARY, 10), order("rollback r2"), 1, "SentBack"),
        ("no such verb", 1, good(CANARY, 10), order("dance r2"), 60, "advance"),
        ("past the end", 3, good(CANARY, 10), None, 0, "promote"),
    ] {
        let next = next(&canary(), &mut progress(step), &counted, order.as_ref(), at(second));
        assert_eq!(reason(&next), want, "{case}: {next:?}");
    }
}

#[test]
fn blue_green_holds_the_old_revision_while_the_new_one_is_judged() {
    assert_eq!(steps(&Rollout::default()), []);
    let judged = rollout(json!({"analysis": {"maxErrorRate": 0.1, "intervalSeconds": 30}}));
    let [step] = &steps(&judged)[..] else { panic!("one step") };
    assert_eq!((step.weight, step.hold), (100, Some(SignedDuration::from_secs(60))));
}

fn outcomes(old: u64, new: u64) -> Counted {
    let of = |name: &str, succeeded| VariantFigures {
        name: name.into(),
        outcomes: Outcomes { reported: 1000, succeeded },
        ..VariantFigures::default()
    };
    Counted { complete: true, variants: vec![of(STABLE, old), of(CANARY, new)] }
}

#[test]
fn a_comparison_is_judged_once_and_followed_as_the_spec_says() {
    let spec = |on_verdict: &str| {
        rollout(
            json!({"strategy": "ABTest", "experiment": {"minOutcomes": 1000, "onVerdict": on_verdict}}),
        )
    };
    for (on_verdict, old, new, want) in [
        ("Promote", 500, 600, "promote"),
        ("Promote", 500, 400, "NotBetter"),
        ("Promote", 500, 505, "NotBetter"),
        ("Wait", 500, 600, "WaitingForPromotion"),
        ("Wait", 500, 400, "WaitingForPromotion"),
    ] {
        let next = next(&spec(on_verdict), &mut progress(0), &outcomes(old, new), None, at(9));
        assert_eq!(reason(&next), want, "{on_verdict} {old} {new}: {next:?}");
    }
    let mut progress = progress(0);
    let open = Counted { complete: false, ..outcomes(500, 600) };
    assert_eq!(reason(&next(&spec("Wait"), &mut progress, &open, None, at(1))), "Comparing");
    assert!(progress.found.is_none());
    next(&spec("Wait"), &mut progress, &outcomes(500, 600), None, at(2));
    // Later counts do not change what was found.
    let later = next(&spec("Wait"), &mut progress, &outcomes(600, 500), None, at(3));
    assert!(
        matches!(&later, Next::Stay { message, .. } if message.contains("is better")),
        "{later:?}"
    );
}

#[test]
fn counts_of_gateways_add_up_and_those_of_other_steps_are_left_out() {
    let of = |id: &str, requests| {
        let variants = good(CANARY, requests).variants;
        Some(Measured { id: id.into(), variants, ..Measured::default() })
    };
    let requests = |counted: &Counted| counted.of(CANARY).map(|f| f.total.requests);
    for (case, answers, complete, want) in [
        ("two", vec![of("r2/0", 3), of("r2/0", 4)], true, Some(7)),
        ("one is behind", vec![of("r2/0", 3), of("r1/2", 40)], false, Some(3)),
        ("one is silent", vec![of("r2/0", 3), None], false, Some(3)),
        ("none is there", vec![], false, None),
    ] {
        let counted = Counted::sum(&answers, "r2/0");
        assert_eq!((counted.complete, requests(&counted)), (complete, want), "{case}");
    }
}
