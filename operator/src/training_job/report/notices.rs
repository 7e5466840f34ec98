//! Events for what changed. Pure.

use hearth_crds::condition::{self, training_job as types};
use hearth_crds::training_job::TrainingJobStatus;

use super::Verdict;
use super::findings::{choices, diagnoses, told};
use crate::apply::Notice;
use crate::training_job::policy::{Outcome, Stage};

/// Events for what changed.
pub fn notices(
    before: &TrainingJobStatus,
    after: &TrainingJobStatus,
    verdict: &Verdict<'_>,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |warning, reason, note: &str| {
        notices.push(Notice { warning, reason, note: note.to_owned() });
    };
    if before.start_time.is_none() && after.start_time.is_some() {
        say(false, "Started", "All workers have joined and training has begun.");
    }
    if let (Some(then), Some(now)) = (before.workers, after.workers)
        && then != now
    {
        let step = after.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        let workers = if now == 1 { "worker" } else { "workers" };
        let note = format!(
            "Training goes on with {now} {workers} instead of {then}, from the checkpoint of step {step}."
        );
        say(false, "Resized", &note);
    }
    if after.restarts > before.restarts {
        let why = match verdict {
            Verdict::Stage(_, _, Stage::Running(status)) => {
                let failure = status.last_failure.as_ref();
                failure.map(|failure| format!("{} ({})", failure.message, failure.reason))
            }
            _ => None,
        };
        let why = why.unwrap_or_else(|| "a rank was lost".into());
        let note = format!("Restart {}: {why}", after.restarts);
        say(true, "Restarted", &note);
    }
    if let Verdict::Stage(_, seen, Stage::Ended(Outcome::Succeeded(Some(result)))) = verdict
        && !condition::is_true(&before.conditions, types::SUCCEEDED)
    {
        for (reason, note) in choices(&result.notes) {
            say(false, reason, &told(note, &seen.pods));
        }
    }
    if let Verdict::Stage(_, seen, Stage::Running(status)) = verdict {
        let known = condition::get(&before.conditions, types::DIAGNOSIS);
        let is_new = |message: &str| known.is_none_or(|known| !known.message.contains(message));
        for (reason, note) in diagnoses(&status.notes).filter(|(_, note)| is_new(&note.message)) {
            say(true, reason, &told(note, &seen.pods));
        }
    }
    for (type_, bad) in [
        (types::ACCEPTED, true),
        (types::ADMITTED, true),
        (types::SUCCEEDED, false),
        (types::FAILED, false),
        (types::STOPPED, false),
    ] {
        let Some(now) = condition::get(&after.conditions, type_) else { continue };
        let then = condition::get(&before.conditions, type_);
        let changed =
            then.is_none_or(|then| then.status != now.status || (bad && then.reason != now.reason));
        let worth_telling = if bad { now.status == "False" } else { now.status == "True" };
        let calm = ["Suspended", "Queued"].contains(&now.reason.as_str());
        if changed && worth_telling && !calm {
            let reason = match type_ {
                types::SUCCEEDED => "Succeeded",
                types::FAILED => "Failed",
                types::STOPPED => "Stopped",
                types::ADMITTED if now.reason == "Preempted" => "Preempted",
                types::ADMITTED => "NotAdmitted",
                _ => "NotAccepted",
            };
            say(![types::SUCCEEDED, types::STOPPED].contains(&type_), reason, &now.message);
        }
    }
    notices
}
