//! A task and what its annotators said of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Fields that JSON-MIN adds to a task's own (`convert_to_json_min`).
const OF_THE_TOOL: [&str; 8] = [
    "id",
    "annotator",
    "annotation_id",
    "created_at",
    "updated_at",
    "lead_time",
    "history",
    "agreement",
];

/// Annotations of a task: what they chose is held.
const MOST_ANNOTATIONS: u64 = 10_000;

/// A task.
#[derive(Debug, PartialEq)]
pub(super) struct Task {
    /// First element of it, from 1.
    pub(super) index: u64,
    pub(super) data: Map<String, Value>,
    id: Option<Value>,
    /// Annotations that were not cancelled.
    annotations: u64,
    votes: BTreeMap<String, u64>,
    /// Why some annotation cannot be counted.
    wrong: Option<&'static str>,
}

/// What an element is.
pub(super) enum Parsed {
    /// A task with all of its annotations.
    Whole(Task),
    /// A task with one of them.
    Annotation(Task),
}

/// What becomes of a task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Label(String),
    Unlabelled(String),
    Malformed(String),
}

/// What an annotation says under the label's name.
enum Vote {
    For(String),
    Abstained,
    Wrong(&'static str),
}

/// An element of the export `JSON`. Everything else that it has is passed over: predictions,
/// drafts, who did what and when.
#[derive(Deserialize)]
struct FullTask {
    data: Option<Map<String, Value>>,
    /// `completions` before 1.0.
    #[serde(alias = "completions")]
    annotations: Option<Vec<Annotation>>,
}

#[derive(Deserialize)]
struct Annotation {
    result: Option<Vec<Region>>,
    was_cancelled: Option<bool>,
    /// Before 1.0.
    skipped: Option<bool>,
    ground_truth: Option<bool>,
}

#[derive(Deserialize)]
struct Region {
    from_name: Option<String>,
    value: Option<Choices>,
}

#[derive(Deserialize)]
struct Choices {
    choices: Option<Vec<String>>,
}

const MANY: &str = "an annotation has several choices, and a row has one label; set choice=\"single\" and decide the task";
const TOO_MANY: &str = "the task has more than 10,000 annotations; leave it out";
const NO_CHOICE: &str = "the label's control is no Choices; write the name of one that is";

/// Reads an element of an export; `index` is its number. The reason names no value.
pub(super) fn parse(element: &[u8], label: &str, index: u64) -> Result<Parsed, String> {
    let not = |error: serde_json::Error| {
        format!(
            "the task cannot be read: {:?} error at its column {}",
            error.classify(),
            error.column()
        )
    };
    let full: FullTask = serde_json::from_slice(element).map_err(not)?;
    let task =
        |data| Task { index, data, id: None, annotations: 0, votes: BTreeMap::new(), wrong: None };
    if let FullTask { data: Some(data), annotations } = full {
        let mut task = task(data);
        for annotation in counted(annotations.unwrap_or_default()) {
            task.count(annotation.vote(label));
        }
        return Ok(Parsed::Whole(task));
    }
    let mut fields: Map<String, Value> = serde_json::from_slice(element).map_err(not)?;
    let id = fields.get("id").cloned();
    let vote = min_vote(fields.remove(label));
    fields.retain(|name, _| !OF_THE_TOOL.contains(&name.as_str()));
    let mut task = Task { id, ..task(fields) };
    task.count(vote);
    Ok(Parsed::Annotation(task))
}

/// The annotations that count: those that were not cancelled, and of these the ones that were set
/// as ground truth, where there are any.
fn counted(annotations: Vec<Annotation>) -> Vec<Annotation> {
    let cancelled = |annotation: &Annotation| {
        annotation.was_cancelled == Some(true) || annotation.skipped == Some(true)
    };
    let mut counted = annotations;
    counted.retain(|annotation| !cancelled(annotation));
    if counted.iter().any(|annotation| annotation.ground_truth == Some(true)) {
        counted.retain(|annotation| annotation.ground_truth == Some(true));
    }
    counted
}

impl Annotation {
    fn vote(self, label: &str) -> Vote {
        let regions = self.result.unwrap_or_default();
        let mut regions =
            regions.into_iter().filter(|region| region.from_name.as_deref() == Some(label));
        match (regions.next(), regions.next()) {
            (None, _) => Vote::Abstained,
            (Some(_), Some(_)) => Vote::Wrong(MANY),
            (Some(region), None) => match region.value.and_then(|value| value.choices) {
                Some(choices) => of_choices(choices),
                None => Vote::Wrong(NO_CHOICE),
            },
        }
    }
}

fn of_choices(mut choices: Vec<String>) -> Vote {
    match (choices.pop(), choices.is_empty()) {
        (None, _) => Vote::Abstained,
        (Some(choice), true) => Vote::For(choice),
        (Some(_), false) => Vote::Wrong(MANY),
    }
}

/// A vote of JSON-MIN: one choice is a string, several are `{"choices": [...]}`.
fn min_vote(value: Option<Value>) -> Vote {
    match value {
        None | Some(Value::Null) => Vote::Abstained,
        Some(Value::String(choice)) => Vote::For(choice),
        Some(Value::Object(object)) if object.contains_key("choices") => Vote::Wrong(MANY),
        Some(Value::Array(several)) if several.is_empty() => Vote::Abstained,
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => Vote::Wrong(MANY),
        Some(_) => Vote::Wrong(NO_CHOICE),
    }
}

impl Task {
    /// Whether both are of the same task, as their ids say.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.id.is_some() && self.id == other.id
    }

    /// Adds another's annotations.
    pub(super) fn join(&mut self, other: Self) {
        self.annotations += other.annotations;
        self.wrong = self.wrong.or(other.wrong);
        if self.annotations > MOST_ANNOTATIONS {
            self.wrong = self.wrong.or(Some(TOO_MANY));
            return;
        }
        for (label, votes) in other.votes {
            *self.votes.entry(label).or_default() += votes;
        }
    }

    fn count(&mut self, vote: Vote) {
        self.annotations += 1;
        match vote {
            Vote::For(label) => *self.votes.entry(label).or_default() += 1,
            Vote::Abstained => {}
            Vote::Wrong(why) => self.wrong = self.wrong.or(Some(why)),
        }
    }

    /// The label that most annotators chose.
    pub(super) fn verdict(&self) -> Verdict {
        if let Some(why) = self.wrong {
            return Verdict::Malformed(why.into());
        }
        let most = self.votes.values().max().copied().unwrap_or(0);
        let mut first = self.votes.iter().filter(|(_, votes)| **votes == most);
        match (first.next(), first.count()) {
            (None, _) if self.annotations == 0 => {
                Verdict::Unlabelled("nobody annotated the task, or all cancelled".into())
            }
            (None, _) => Verdict::Unlabelled("no annotation chose under the label's name".into()),
            (Some((label, _)), 0) => Verdict::Label(label.clone()),
            (Some(_), others) => Verdict::Malformed(format!(
                "annotators do not agree: {} choices have {most} vote(s) each; decide the task and export again",
                others + 1
            )),
        }
    }
}
