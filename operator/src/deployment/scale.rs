//! How many servers a revision should have, by the requests and tokens that are in flight.

use hearth_crds::model_deployment::Autoscaling;
use hearth_crds::routing::{Load, Measured};

use super::observed::ServerLoad;

/// How much there is to do for one revision, at all gateways or servers together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// In flight, mean of 10 s.
    pub recent: f64,
    /// Highest such mean within the time after which servers may end.
    pub peak: f64,
    /// All that were asked have watched it for that long, and said so.
    pub settled: bool,
}

impl Traffic {
    /// Of those who told; `asked` should have.
    fn sum<'a>(loads: impl Iterator<Item = &'a Load>, asked: usize, window: u32) -> Self {
        let mut traffic = Self::default();
        let mut whole = 0;
        for load in loads {
            traffic.recent += load.recent;
            // Peaks of several need not have been at once; their sum is never too low.
            traffic.peak += load.peak;
            whole += usize::from(load.watched_seconds >= window);
        }
        traffic.settled = whole == asked;
        traffic
    }
}

/// The requests of a revision, from what gateways said; `None`: one did not answer.
pub fn requests(
    autoscaling: &Autoscaling,
    answers: &[Option<Measured>],
    revision: &str,
) -> Traffic {
    let loads = answers.iter().flatten().flat_map(|measured| &measured.loads);
    let of_revision = loads.filter(|load| load.revision == revision);
    let mut traffic = Traffic::sum(of_revision, answers.len(), window(autoscaling));
    traffic.settled &= !answers.is_empty();
    traffic
}

/// The tokens of a revision, from what its servers said. Where they count none, or there are none,
/// nothing is to be waited for.
pub fn tokens(autoscaling: &Autoscaling, answers: &[ServerLoad]) -> Traffic {
    let loads = answers.iter().filter_map(|answer| match answer {
        ServerLoad::Tokens(load) => Some(load),
        ServerLoad::Silent | ServerLoad::NoTokens => None,
    });
    let asked = answers.iter().filter(|answer| **answer != ServerLoad::NoTokens).count();
    Traffic::sum(loads, asked, window(autoscaling))
}

fn window(autoscaling: &Autoscaling) -> u32 {
    autoscaling.scale_down_delay_seconds.unsigned_abs()
}

/// The servers that a revision should have. More come as soon as they are needed, fewer only where
/// fewer would have been enough for all of `scaleDownDelaySeconds`.
pub fn wanted(autoscaling: &Autoscaling, now: i32, requests: &Traffic, tokens: &Traffic) -> i32 {
    let (least, most) = (autoscaling.min_replicas, autoscaling.max_replicas);
    let enough = |requests: f64, tokens: f64| {
        let for_tokens = autoscaling.target_tokens_in_flight.map_or(0, |each| pods(tokens, each));
        pods(requests, autoscaling.target_requests_in_flight).max(for_tokens)
    };
    let up = enough(requests.recent, tokens.recent);
    let down = enough(requests.peak, tokens.peak).max(up);
    let settled =
        requests.settled && (tokens.settled || autoscaling.target_tokens_in_flight.is_none());
    let wanted = if up > now {
        up
    } else if settled && down < now {
        down
    } else {
        now
    };
    wanted.clamp(least, most)
}

#[expect(clippy::cast_possible_truncation, reason = "a conversion from f64 stops at the bounds")]
fn pods(in_flight: f64, each: i32) -> i32 {
    (in_flight / f64::from(each)).ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn autoscaling(min: i32, max: i32) -> Autoscaling {
        serde_json::from_value(serde_json::json!({"minReplicas": min, "maxReplicas": max,
            "targetRequestsInFlight": 4, "scaleDownDelaySeconds": 60}))
        .unwrap()
    }

    #[test]
    fn servers_come_at_once_and_go_when_they_were_not_needed_for_long() {
        for (case, now, recent, peak, settled, want) in [
            ("as it is", 2, 5.0, 8.0, true, 2),
            ("more are needed", 2, 9.0, 9.0, false, 3),
            ("many more are needed than there may be", 2, 90.0, 90.0, true, 6),
            ("fewer are enough now", 4, 1.0, 15.0, true, 4),
            ("fewer were enough for long", 4, 1.0, 5.0, true, 2),
            ("not known for long enough", 4, 1.0, 1.0, false, 4),
            ("nobody asks", 1, 0.0, 0.0, true, 0),
            ("somebody asked", 1, 0.0, 0.01, true, 1),
            ("the first request", 0, 0.05, 0.05, false, 1),
            ("none is needed", 0, 0.0, 0.0, true, 0),
        ] {
            let requests = Traffic { recent, peak, settled };
            let wanted = wanted(&autoscaling(0, 6), now, &requests, &Traffic::default());
            assert_eq!(wanted, want, "{case}");
        }
        let none = Traffic { settled: true, ..Traffic::default() };
        assert_eq!(wanted(&autoscaling(1, 6), 1, &none, &none), 1);
        assert_eq!(wanted(&autoscaling(2, 6), 1, &Traffic::default(), &none), 2);
    }

    #[test]
    fn servers_are_enough_for_tokens_as_for_requests() {
        let spec = Autoscaling { target_tokens_in_flight: Some(1000), ..autoscaling(0, 6) };
        let traffic = |recent: f64, peak: f64, settled| Traffic { recent, peak, settled };
        for (case, now, requests, tokens, want) in [
            ("many tokens of few requests", 1, (1.0, 1.0, true), (2500.0, 2500.0, true), 3),
            ("few tokens of many requests", 1, (9.0, 9.0, true), (90.0, 90.0, true), 3),
            ("there were many tokens", 3, (1.0, 1.0, true), (90.0, 2500.0, true), 3),
            ("there were few for long", 3, (1.0, 1.0, true), (90.0, 900.0, true), 1),
            ("a server is silent, or new", 3, (1.0, 1.0, true), (90.0, 900.0, false), 3),
        ] {
            let of = |(recent, peak, settled)| traffic(recent, peak, settled);
            assert_eq!(wanted(&spec, now, &of(requests), &of(tokens)), want, "{case}");
        }
    }

    #[test]
    fn the_tokens_are_those_of_all_servers() {
        let said = |recent: f64, watched_seconds| {
            let peak = 2.0 * recent;
            ServerLoad::Tokens(Load { revision: "r1".into(), recent, peak, watched_seconds })
        };
        let of = |answers: &[ServerLoad]| {
            let Traffic { recent, peak, settled } = tokens(&autoscaling(0, 6), answers);
            (recent, peak, settled)
        };
        assert_eq!(of(&[said(100.0, 60), said(50.0, 60)]), (150.0, 300.0, true));
        assert_eq!(of(&[said(100.0, 60), said(50.0, 10)]), (150.0, 300.0, false));
        assert_eq!(of(&[said(100.0, 60), ServerLoad::Silent]), (100.0, 200.0, false));
        assert_eq!(of(&[ServerLoad::NoTokens]), (0.0, 0.0, true));
        assert_eq!(of(&[]), (0.0, 0.0, true));
    }

    #[test]
    fn the_traffic_is_that_of_all_gateways_and_one_that_is_silent_keeps_servers() {
        let said = |recent: f64, watched_seconds| {
            let load = |revision: &str| Load {
                revision: revision.into(),
                recent,
                peak: 2.0 * recent,
                watched_seconds,
            };
            Some(Measured { loads: vec![load("r1"), load("r2")], ..Measured::default() })
        };
        let of = |answers: &[Option<Measured>]| requests(&autoscaling(0, 6), answers, "r1");
        assert_eq!(
            of(&[said(1.0, 60), said(2.0, 60)]),
            Traffic { recent: 3.0, peak: 6.0, settled: true }
        );
        assert!(!of(&[said(1.0, 60), said(2.0, 59)]).settled);
        assert_eq!(of(&[said(1.0, 60), None]), Traffic { recent: 1.0, peak: 2.0, settled: false });
        let behind = Some(Measured::default());
        assert!(!of(&[said(1.0, 60), behind]).settled, "it does not know the revision yet");
        assert!(!of(&[]).settled);
    }

    proptest! {
        #[test]
        fn the_number_is_within_bounds_and_comes_to_rest(
            now in 0..20, recent in 0.0..200.0_f64, above in 0.0..50.0_f64, settled: bool
        ) {
            let spec = autoscaling(0, 12);
            let traffic = Traffic { recent, peak: recent + above, settled };
            let none = Traffic::default();
            let once = wanted(&spec, now, &traffic, &none);
            prop_assert!((0..=12).contains(&once));
            prop_assert_eq!(wanted(&spec, once, &traffic, &none), once, "the same traffic, the same number");
        }
    }
}
