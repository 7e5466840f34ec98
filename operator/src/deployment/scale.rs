//! How many servers a revision should have, by the requests that are in flight.

use hearth_crds::model_deployment::Autoscaling;
use hearth_crds::routing::Measured;

/// The traffic of one revision, at all gateways together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Requests in flight, mean of 10 s.
    pub recent: f64,
    /// Highest such mean within the time after which servers may end.
    pub peak: f64,
    /// Every gateway has watched it for that long at its present weight, and said so.
    pub settled: bool,
}

/// The traffic of a revision, from what gateways said; `None`: one did not answer.
pub fn traffic(autoscaling: &Autoscaling, answers: &[Option<Measured>], revision: &str) -> Traffic {
    let window = autoscaling.scale_down_delay_seconds.unsigned_abs();
    let loads = answers.iter().flatten().flat_map(|measured| &measured.loads);
    let mut traffic = Traffic::default();
    let mut whole = 0;
    for load in loads.filter(|load| load.revision == revision) {
        traffic.recent += load.recent;
        // Peaks of several gateways need not have been at once; their sum is never too low.
        traffic.peak += load.peak;
        whole += usize::from(load.watched_seconds >= window);
    }
    traffic.settled = !answers.is_empty() && whole == answers.len();
    traffic
}

/// The servers that a revision should have. More come as soon as they are needed, fewer only where
/// fewer would have been enough for all of `scaleDownDelaySeconds`.
pub fn wanted(autoscaling: &Autoscaling, now: i32, traffic: &Traffic) -> i32 {
    let (least, most) = (autoscaling.min_replicas, autoscaling.max_replicas);
    let enough = |in_flight: f64| pods(in_flight, autoscaling.target_requests_in_flight);
    let up = enough(traffic.recent);
    let down = enough(traffic.peak).max(up);
    let wanted = if up > now {
        up
    } else if traffic.settled && down < now {
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
    use hearth_crds::routing::Load;
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
            let traffic = Traffic { recent, peak, settled };
            assert_eq!(wanted(&autoscaling(0, 6), now, &traffic), want, "{case}");
        }
        assert_eq!(
            wanted(&autoscaling(1, 6), 1, &Traffic { settled: true, ..Traffic::default() }),
            1
        );
        assert_eq!(wanted(&autoscaling(2, 6), 1, &Traffic::default()), 2);
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
        let of = |answers: &[Option<Measured>]| traffic(&autoscaling(0, 6), answers, "r1");
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
            let once = wanted(&spec, now, &traffic);
            prop_assert!((0..=12).contains(&once));
            prop_assert_eq!(wanted(&spec, once, &traffic), once, "the same traffic, the same number");
        }
    }
}
