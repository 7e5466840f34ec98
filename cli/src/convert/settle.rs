//! What follows from several fields at once, after each has been taken.

use serde_json::Value;

use super::draft::{Draft, NoteKind};
use crate::args::Origin;

/// Makes the draft one that means what the configuration meant, and that the API
/// server accepts.
pub(super) fn settle(draft: &mut Draft<'_>, origin: Origin) {
    own_defaults(draft, origin);
    match origin {
        Origin::TrainingArguments => {}
        Origin::SftConfig => draft.set("objective.type", "SFT"),
        Origin::DpoConfig => draft.set("objective.type", "DPO"),
    }
    save_when_best(draft);
    if draft.get("training.lrSchedulerType") == Some(&"Constant".into())
        && draft.is_above_0("training.warmupSteps")
    {
        draft.drop_field("training.warmupSteps", "the schedule `constant` has no warm-up");
    }
    let optimizer = draft.get("training.optim").cloned().unwrap_or_else(|| "AdamW".into());
    if optimizer != "AdamW" {
        for field in ["adamBeta1", "adamBeta2", "adamEpsilon"] {
            draft.drop_field(&format!("training.{field}"), "it is AdamW's alone");
        }
    }
    let strategy = draft.get("training.evalStrategy").cloned();
    if strategy.is_none_or(|strategy| strategy == "No") {
        for field in ["evalDelay", "earlyStoppingPatience", "earlyStoppingThreshold"] {
            draft.drop_field(&format!("training.{field}"), "nothing is evaluated");
        }
    }
    if draft.get("training.earlyStoppingPatience").is_none() {
        draft.drop_field("training.earlyStoppingThreshold", "it needs early_stopping_patience");
    }
}

/// Writes out what a field left out means there, where it means something else here.
fn own_defaults(draft: &mut Draft<'_>, origin: Origin) {
    for (name, value) in origin.own_defaults() {
        let place = format!("training.{}", super::entry::camel_case(name));
        let half = *name == "bf16" && draft.is_on("fp16");
        if draft.get(&place).is_some() || half {
            continue;
        }
        if let Ok(value) = serde_json::from_str::<Value>(value) {
            let text = format!("{place}: {value}, the default of {}", origin.class());
            draft.set(&place, value);
            draft.note(NoteKind::Changed, text);
        }
    }
    if origin == Origin::TrainingArguments {
        let text = "training.maxLength: TrainingArguments does not say at how many tokens rows are \
                    cut; here it is 512 where left out";
        draft.note(NoteKind::Changed, text.to_owned());
    }
}

/// `save_strategy: best` is a save at each evaluation; the best one is kept.
fn save_when_best(draft: &mut Draft<'_>) {
    if draft.asked("save_strategy") != Some(&"best".into()) {
        return;
    }
    let strategy = draft.get("training.evalStrategy").cloned().unwrap_or_else(|| "No".into());
    if strategy == "Steps" {
        let every = draft.get("training.evalSteps").or_else(|| draft.get("training.loggingSteps"));
        let every = every.cloned().unwrap_or_else(|| 10.into());
        draft.set("training.saveSteps", every);
    }
    draft.set("training.saveStrategy", strategy);
    let text = "training.saveStrategy: as training.evalStrategy, for save_strategy best";
    draft.note(NoteKind::Changed, text.to_owned());
}
