//! The condition `Drifted`: whether requests are like the rows that the model learned from.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_crds::condition::{Finding, Truth, finding, model_deployment as types};
use hearth_crds::model_deployment::Drift;

use crate::deployment::observed::{Observed, ServerDrift};
use crate::deployment::validate::ValidDeployment;

/// Time until servers are asked again.
pub(super) const LOOK_EVERY: Duration = Duration::from_mins(1);
/// Most features that are named.
const NAMED: usize = 5;

/// What servers said, where that is asked for.
pub(super) fn drifted(valid: &ValidDeployment, seen: &Observed) -> Option<Finding> {
    let asked = valid.spec.serving.drift.as_ref()?;
    let say =
        |truth, reason, message: String| Some(finding(types::DRIFTED, truth, reason, message));
    let not_watched = seen.drift.iter().find_map(|told| match told {
        ServerDrift::NotWatched(why) => Some(why.as_deref()),
        ServerDrift::Told(_) | ServerDrift::Silent => None,
    });
    if let Some(why) = not_watched {
        let why = why.unwrap_or("servers of this version watch models of tables alone");
        let message = format!(
            "What this model is asked is not compared with what it learned from: {why}. Remove serving.drift, or serve a \
             model of tables or a classifier that was trained here."
        );
        return say(Truth::Unknown, "NotWatched", message);
    }
    let Some(worst) = worst(&seen.drift) else {
        let message =
            "Servers compare requests with training rows from 500 rows on, and there were fewer.";
        return say(Truth::Unknown, "TooFewRows", message.to_owned());
    };
    let far = far(asked, worst);
    if far.is_empty() {
        let message = format!("No population stability index is above {}.", asked.max_psi);
        return say(Truth::False, "AsTrained", message);
    }
    let named: Vec<String> =
        far.iter().take(NAMED).map(|(name, psi)| format!("{name} ({psi:.1})")).collect();
    let more = far.len().checked_sub(NAMED + 1).map(|more| format!(" and {} more", more + 1));
    let message = format!(
        "Requests are far from the training rows by {}{}: the population stability index is above {}. Look at what \
         changed, and train anew with newer rows.",
        named.join(", "),
        more.unwrap_or_default(),
        asked.max_psi
    );
    say(Truth::True, "Shifted", message)
}

/// The highest index of each feature at any server, the score as `the score`; nothing where no server had
/// enough rows.
fn worst(told: &[ServerDrift]) -> Option<BTreeMap<String, f64>> {
    let mut worst = BTreeMap::new();
    for report in told.iter().filter_map(|told| match told {
        ServerDrift::Told(report) => Some(report),
        ServerDrift::Silent | ServerDrift::NotWatched(_) => None,
    }) {
        for shift in &report.shifts {
            let name = shift.feature.clone().unwrap_or_else(|| "the score".to_owned());
            let psi: &mut f64 = worst.entry(name).or_default();
            *psi = psi.max(shift.psi);
        }
    }
    (!worst.is_empty()).then_some(worst)
}

/// Those that are too far, the farthest first.
fn far(asked: &Drift, worst: BTreeMap<String, f64>) -> Vec<(String, f64)> {
    let mut far: Vec<_> = worst.into_iter().filter(|(_, psi)| *psi > asked.max_psi).collect();
    far.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    far
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::validate::{deployment, tests::sample};
    use hearth_crds::routing::{DriftReport, Shift};

    fn told(shifts: &[(&str, f64)]) -> ServerDrift {
        let shifts = shifts.iter().map(|(name, psi)| Shift {
            feature: (!name.is_empty()).then(|| (*name).to_owned()),
            psi: *psi,
        });
        ServerDrift::Told(DriftReport { rows: 900, shifts: shifts.collect(), not_watched: None })
    }

    fn said(answers: Vec<ServerDrift>) -> (Truth, &'static str, String) {
        let mut valid = deployment(&sample(|_| {})).unwrap();
        assert_eq!(drifted(&valid, &Observed::default()), None);
        valid.spec.serving.drift = Some(Drift { max_psi: 0.25 });
        let seen = Observed { drift: answers, ..Observed::default() };
        let found = drifted(&valid, &seen).unwrap();
        (found.status, found.reason, found.message)
    }

    #[test]
    fn the_farthest_are_named_first_over_all_servers() {
        let answers = vec![
            told(&[("amount", 0.3), ("", 0.1), ("hour", 0.2)]),
            ServerDrift::Silent,
            told(&[("amount", 0.1), ("", 1.25)]),
        ];
        let (truth, reason, message) = said(answers);
        assert_eq!((truth, reason), (Truth::True, "Shifted"));
        assert!(message.contains("by the score (1.2), amount (0.3): the"), "{message}");
        let many: Vec<(String, f64)> = (0..9).map(|n| (format!("f{n}"), 1.0)).collect();
        let many: Vec<(&str, f64)> = many.iter().map(|(name, psi)| (name.as_str(), *psi)).collect();
        let (.., message) = said(vec![told(&many)]);
        assert!(message.contains("f4 (1.0) and 4 more: the"), "{message}");
    }

    #[test]
    fn what_is_near_few_or_not_watched_is_told_as_such() {
        let near = told(&[("amount", 0.25), ("", 0.0)]);
        assert_eq!((said(vec![near]).0, said(Vec::new()).1), (Truth::False, "TooFewRows"));
        assert_eq!(said(vec![ServerDrift::Silent, told(&[])]).1, "TooFewRows");
        for (why, want) in [
            (Some("it generates text".to_owned()), "learned from: it generates text. Remove"),
            (None, "of tables alone. Remove"),
        ] {
            let answers = vec![told(&[("a", 9.0)]), ServerDrift::NotWatched(why)];
            let (truth, reason, message) = said(answers);
            assert_eq!((truth, reason), (Truth::Unknown, "NotWatched"));
            assert!(message.contains(want), "{message}");
        }
    }
}
