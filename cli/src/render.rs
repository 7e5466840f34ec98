//! States as text. Pure: every line is a function of what was seen.

use hearth_crds::training_job::{CheckpointStatus, TrainingJobStatus, TrainingProgress};
use hearth_crds::worker_config::{WorkerState, WorkerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// A training job at one moment, on either back end.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    /// What it does, in a word.
    pub(crate) state: String,
    pub(crate) progress: TrainingProgress,
    pub(crate) checkpoint: Option<CheckpointStatus>,
    pub(crate) restarts: u32,
    /// The newest failure that was recovered from, in a sentence.
    pub(crate) failure: Option<String>,
    /// What workers told that stops nothing, as `LossFlat: the loss is …`.
    pub(crate) notes: Vec<String>,
}

impl From<&WorkerStatus> for Snapshot {
    fn from(status: &WorkerStatus) -> Self {
        let failure = status.last_failure.as_ref();
        Self {
            state: word(status.state).to_owned(),
            progress: status.progress.clone(),
            checkpoint: status.checkpoint.clone(),
            restarts: status.restarts,
            failure: failure.map(|failure| format!("{}: {}", failure.reason, failure.message)),
            notes: status
                .notes
                .iter()
                .map(|note| format!("{}: {}", note.reason, note.message))
                .collect(),
        }
    }
}

impl From<&TrainingJobStatus> for Snapshot {
    fn from(status: &TrainingJobStatus) -> Self {
        Self {
            state: status.state.clone().unwrap_or_else(|| "Pending".to_owned()).to_lowercase(),
            progress: status.progress.clone().unwrap_or_default(),
            checkpoint: status.checkpoint.clone(),
            restarts: status.restarts.unsigned_abs(),
            failure: None,
            // The condition Diagnosis has them, and conditions are shown.
            notes: Vec::new(),
        }
    }
}

fn word(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Training => "training",
        WorkerState::Evaluating => "evaluating",
        WorkerState::Exporting => "exporting",
        WorkerState::Restarting => "restarting",
        WorkerState::Resizing => "resizing",
        WorkerState::Succeeded => "succeeded",
        WorkerState::Failed => "failed",
    }
}

/// What stands behind a progress bar that shows the step itself.
pub(crate) fn bar_text(now: &Snapshot) -> String {
    let progress = &now.progress;
    let mut parts = Vec::new();
    if now.state != "training" && now.state != "running" {
        parts.push(now.state.clone());
    }
    push(&mut parts, "loss", progress.loss);
    push(&mut parts, "f1", progress.f1);
    if let Some(rate) = progress.tokens_per_second {
        parts.push(format!("{} tok/s", count(rate)));
    }
    if let Some(eta) = progress.eta.as_ref().filter(|_| progress.step < progress.total_steps) {
        parts.push(format!("ETA {eta}"));
    }
    parts.join("  ")
}

/// A line of a log.
pub(crate) fn line(now: &Snapshot) -> String {
    let progress = &now.progress;
    if progress.total_steps == 0 {
        return now.state.clone();
    }
    let mut parts = vec![
        format!("step {}/{}", progress.step, progress.total_steps),
        format!("epoch {:.2}", progress.epoch),
    ];
    push(&mut parts, "loss", progress.loss);
    push(&mut parts, "f1", progress.f1);
    if let Some(rate) = progress.tokens_per_second {
        parts.push(format!("{} tokens/s", count(rate)));
    }
    if let Some(eta) = progress.eta.as_ref().filter(|_| progress.step < progress.total_steps) {
        parts.push(format!("ETA {eta}"));
    }
    parts.join("  ")
}

/// What happened between two moments, one sentence each.
pub(crate) fn news(before: &Snapshot, now: &Snapshot) -> Vec<String> {
    let mut news = Vec::new();
    if now.restarts > before.restarts {
        let why = now.failure.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        news.push(format!("restart {}{why}", now.restarts));
    }
    let (was, is) = (&before.progress, &now.progress);
    if is.eval_loss.is_some() && (is.eval_loss, is.f1) != (was.eval_loss, was.f1) {
        news.push(format!("evaluation: {}", metrics(is)));
    }
    if let Some(checkpoint) = &now.checkpoint
        && before.checkpoint.as_ref().map(|c| c.step) != Some(checkpoint.step)
    {
        let best = checkpoint.best.map(|best| format!(" (best: step {best})")).unwrap_or_default();
        news.push(format!("checkpoint of step {}{best}", checkpoint.step));
    }
    news.extend(now.notes.iter().filter(|note| !before.notes.contains(note)).cloned());
    news
}

/// The figures of the newest evaluation: `loss 0.0911  accuracy 0.9880  f1 0.9812`.
pub(crate) fn metrics(progress: &TrainingProgress) -> String {
    let mut parts = Vec::new();
    push(&mut parts, "loss", progress.eval_loss);
    push(&mut parts, "accuracy", progress.accuracy);
    push(&mut parts, "f1", progress.f1);
    // The same figure with two classes' macro average would only confuse.
    if progress.f1_macro != progress.f1 {
        push(&mut parts, "f1 macro", progress.f1_macro);
    }
    push(&mut parts, "ROC AUC", progress.roc_auc);
    push(&mut parts, "average precision", progress.average_precision);
    push(&mut parts, "R2", progress.r2);
    parts.join("  ")
}

/// Conditions that are new or have changed, as `Running=True (Training): 2 ranks train`.
pub(crate) fn condition_news(before: &[Condition], now: &[Condition]) -> Vec<String> {
    let changed = now.iter().filter(|condition| {
        let same = |old: &&Condition| {
            old.type_ == condition.type_
                && (&old.status, &old.reason, &old.message)
                    == (&condition.status, &condition.reason, &condition.message)
        };
        !before.iter().any(|old| same(&old))
    });
    changed.map(condition).collect()
}

/// One condition.
pub(crate) fn condition(condition: &Condition) -> String {
    let Condition { type_, status, reason, message, .. } = condition;
    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("{type_}={status} ({reason}){message}")
}

/// `45s`, `3m20s`, `2h05m`.
pub(crate) fn time(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

fn push(parts: &mut Vec<String>, name: &str, figure: Option<f64>) {
    if let Some(figure) = figure {
        parts.push(format!("{name} {figure:.4}"));
    }
}

/// `870`, `12.3k`, `4.56M`.
fn count(figure: f64) -> String {
    match figure {
        ..1e3 => format!("{figure:.0}"),
        1e3..1e6 => format!("{:.1}k", figure / 1e3),
        _ => format!("{:.2}M", figure / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_crds::worker_config::Failure;

    fn training(step: i64) -> Snapshot {
        let status = WorkerStatus {
            state: WorkerState::Training,
            progress: TrainingProgress {
                step,
                total_steps: 450,
                epoch: 0.8,
                loss: Some(0.312_44),
                tokens_per_second: Some(12_345.6),
                eta: Some("1m20s".into()),
                ..TrainingProgress::default()
            },
            ..WorkerStatus::default()
        };
        Snapshot::from(&status)
    }

    fn evaluated(step: i64) -> Snapshot {
        let mut now = training(step);
        now.progress.eval_loss = Some(0.0911);
        now.progress.accuracy = Some(0.988);
        now.progress.f1 = Some(0.9812);
        now.progress.f1_macro = Some(0.9866);
        now
    }

    #[test]
    fn lines_of_a_run() {
        let starting = Snapshot::from(&WorkerStatus::default());
        let mut done = evaluated(450);
        done.state = "exporting".into();
        let lines = [
            line(&starting),
            line(&training(120)),
            line(&evaluated(160)),
            bar_text(&starting),
            bar_text(&training(120)),
            bar_text(&evaluated(160)),
            bar_text(&done),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r"
        starting
        step 120/450  epoch 0.80  loss 0.3124  12.3k tokens/s  ETA 1m20s
        step 160/450  epoch 0.80  loss 0.3124  f1 0.9812  12.3k tokens/s  ETA 1m20s
        starting
        loss 0.3124  12.3k tok/s  ETA 1m20s
        loss 0.3124  f1 0.9812  12.3k tok/s  ETA 1m20s
        exporting  loss 0.3124  f1 0.9812  12.3k tok/s
        ");
    }

    #[test]
    fn news_of_a_run() {
        let before = training(150);
        let mut now = evaluated(160);
        now.checkpoint =
            Some(CheckpointStatus { step: 160, best: Some(120), ..CheckpointStatus::default() });
        let mut restarted = now.clone();
        let status = WorkerStatus {
            restarts: 1,
            last_failure: Some(Failure {
                rank: Some(1),
                reason: "RankKilled".into(),
                message: "rank 1 was killed by signal 9".into(),
            }),
            ..WorkerStatus::default()
        };
        let from_status = Snapshot::from(&status);
        (restarted.restarts, restarted.failure) = (from_status.restarts, from_status.failure);
        let all = [news(&before, &now), news(&now, &now), news(&now, &restarted)].concat();
        insta::assert_snapshot!(all.join("\n"), @r"
        evaluation: loss 0.0911  accuracy 0.9880  f1 0.9812  f1 macro 0.9866
        checkpoint of step 160 (best: step 120)
        restart 1: RankKilled: rank 1 was killed by signal 9
        ");
    }

    #[test]
    fn a_clusters_job_reads_the_same() {
        let status = TrainingJobStatus {
            state: Some("Running".into()),
            progress: Some(training(120).progress),
            ..TrainingJobStatus::default()
        };
        let now = Snapshot::from(&status);
        assert_eq!(line(&now), line(&training(120)));
        assert_eq!(bar_text(&now), bar_text(&training(120)));
        assert_eq!(line(&Snapshot::from(&TrainingJobStatus::default())), "pending");
    }

    #[test]
    fn conditions_are_told_when_they_change() {
        let condition = |status: &str, message: &str| Condition {
            type_: "Admitted".into(),
            status: status.into(),
            reason: "Quota".into(),
            message: message.into(),
            observed_generation: None,
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            ),
        };
        let (waits, goes) = (condition("False", "no GPU is free"), condition("True", ""));
        let told = [
            condition_news(&[], std::slice::from_ref(&waits)),
            condition_news(std::slice::from_ref(&waits), std::slice::from_ref(&waits)),
            condition_news(&[waits], &[goes]),
        ];
        assert_eq!(
            told.concat(),
            ["Admitted=False (Quota): no GPU is free", "Admitted=True (Quota)"]
        );
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0.4, 870.0, 12_345.0, 4_560_000.0].map(count), ["0", "870", "12.3k", "4.56M"]);
        assert_eq!([5, 200, 7_500].map(time), ["5s", "3m20s", "2h05m"]);
    }
}
