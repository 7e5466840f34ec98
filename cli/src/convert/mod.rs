//! `hearth convert FILE`: a TrainingJob from a configuration of transformers or TRL.
//!
//! [`table`] says what becomes of each field, and is all that does; [`settle`] looks
//! at several fields at once; [`yaml`] prints. Nothing is printed where a field
//! changes the result and has no counterpart, unless the user is lenient.

mod draft;
mod entry;
mod page;
mod settle;
mod table;
mod take;
#[cfg(test)]
mod tests;
mod yaml;

use std::path::Path;

use hearth_operator::training_job::validate;
use serde_json::{Map, Value};

use crate::args::{ConvertArgs, Origin, is_name};
use crate::{display, exit};
use draft::{Draft, Note, NoteKind};
use entry::{Entry, Fate};
use table::{PEFT, find};

/// Exit code of a configuration that cannot be converted (`EX_USAGE`).
const USAGE: i32 = 64;
/// Exit code of a file that is not there (`EX_NOINPUT`).
const NO_INPUT: i32 = 66;

/// Why there is no job.
#[derive(Debug, thiserror::Error)]
enum ConvertError {
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: std::io::Error },
    #[error("{file} holds no configuration: {detail}; write a JSON or YAML object")]
    Parse { file: String, detail: String },
    #[error(
        "the job would not be what was asked for: correct the fields above, or leave them out with --lenient"
    )]
    Refused,
}

/// A job, and what is to be known about it.
struct Converted {
    yaml: String,
    notes: Vec<Note>,
}

/// Converts the file; the process's exit code.
pub fn run(args: &ConvertArgs) -> i32 {
    if args.fields {
        display::out(page::page().trim_end());
        return exit::DONE;
    }
    match convert(args) {
        Ok(yaml) => {
            display::out(yaml.trim_end());
            exit::DONE
        }
        Err(error) => {
            display::err(&format!("hearth convert: {error}"));
            if matches!(error, ConvertError::Read { .. }) { NO_INPUT } else { USAGE }
        }
    }
}

fn convert(args: &ConvertArgs) -> Result<String, ConvertError> {
    let file = args.file.as_deref().unwrap_or(Path::new("-"));
    let input = read(file)?;
    let adapters = args.peft.as_deref().map(read).transpose()?;
    let names: Vec<&str> = input.keys().map(String::as_str).collect();
    let origin = args.from.unwrap_or_else(|| Origin::guess(&names));
    let converted = job(&input, adapters.as_ref(), origin, args);
    let refused = converted.notes.iter().any(|note| note.kind == NoteKind::Refused);
    for note in &converted.notes {
        display::err(&line(note));
    }
    if refused && !args.lenient {
        return Err(ConvertError::Refused);
    }
    let title = format!("# From {} ({}) by `hearth convert`.", file.display(), origin.class());
    let comments: Vec<_> = converted.notes.iter().map(|note| format!("# {}", line(note))).collect();
    Ok([&[title], comments.as_slice(), &[converted.yaml]].concat().join("\n"))
}

fn line(note: &Note) -> String {
    let kind = match note.kind {
        NoteKind::Renamed => "renamed",
        NoteKind::LeftOut => "left out",
        NoteKind::Changed => "note",
        NoteKind::Refused => "refused",
    };
    format!("{kind}: {}", note.text)
}

fn read(file: &Path) -> Result<Map<String, Value>, ConvertError> {
    let name = file.display().to_string();
    let text = crate::documents::read(file)
        .map_err(|source| ConvertError::Read { file: name.clone(), source })?;
    // JSON is YAML, too, but for what Python writes for an infinite number.
    let parsed = serde_yaml_ng::from_str::<Value>(&text);
    match parsed {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ConvertError::Parse { file: name, detail: "it is no object".into() }),
        Err(error) => Err(ConvertError::Parse { file: name, detail: error.to_string() }),
    }
}

/// The job that means what the configuration means.
fn job(
    input: &Map<String, Value>,
    adapters: Option<&Map<String, Value>>,
    origin: Origin,
    args: &ConvertArgs,
) -> Converted {
    let mut draft = Draft::of(input);
    take_all(&mut draft, input, &origin.tables(), origin.class());
    settle::settle(&mut draft, origin);
    if let Some(adapters) = adapters {
        draft.read_on(adapters);
        take_all(&mut draft, adapters, &[PEFT], "LoraConfig");
        draft.set("peft.type", "LoRA");
        if draft.asked("target_modules").is_none() {
            let text = "target_modules: PEFT would choose by the model's family: name the layers";
            draft.note(NoteKind::Refused, text.into());
        }
    }
    let task = args.task.map(|task| format!("{task:?}")).or_else(|| guess_task(origin, adapters));
    let options = [
        ("task", task.as_ref()),
        ("model.source", args.model.as_ref()),
        ("data.train.source", args.train.as_ref()),
        ("data.eval.source", args.eval.as_ref()),
        ("output.destination", args.output.as_ref()),
    ];
    for (place, value) in options {
        if let Some(value) = value {
            draft.set(place, value.as_str());
        }
    }
    let run_name = input.get("run_name").and_then(Value::as_str).filter(|name| is_name(name));
    let name = args.name.as_deref().or(run_name);
    check(&mut draft, name);
    draft.notes.sort_by_key(|note| note.kind);
    Converted { yaml: yaml::render(&draft, name, false), notes: draft.notes }
}

/// Takes every field by its entry.
fn take_all(draft: &mut Draft<'_>, input: &Map<String, Value>, tables: &[&[Entry]], class: &str) {
    // In the table's order, whatever the file's order is: older names come last.
    for entry in tables.iter().copied().flatten() {
        if let Some(value) = input.get(entry.name) {
            take_one(draft, entry, value);
        }
    }
    let known = |name: &str| tables.iter().any(|table| find(table, name).is_some());
    for name in input.keys().filter(|name| !known(name)) {
        let text = format!("{name}: is no field of {class}: remove it or correct its name");
        draft.note(NoteKind::Refused, text);
    }
}

fn take_one(draft: &mut Draft<'_>, entry: &Entry, value: &Value) {
    if entry.is_neutral(value) {
        return;
    }
    let (name, why) = (entry.name, entry.why);
    let place = entry.place().unwrap_or_default();
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    let taken = match entry.fate {
        Fate::Same(take) => take(value, &place, draft).map(|()| None),
        Fate::Renamed(_, take) => take(value, &place, draft)
            .map(|()| Some((NoteKind::Renamed, format!("{name}: to {place}{because}")))),
        Fate::Elsewhere(_) => Ok(Some((NoteKind::Renamed, format!("{name}: {place}{because}")))),
        Fate::LeftOut => Ok(Some((NoteKind::LeftOut, format!("{name}{because}")))),
        Fate::Checked(take) => take(value, &place, draft)
            .map(|()| Some((NoteKind::LeftOut, format!("{name}{because}")))),
        Fate::Refused => Err(why.to_owned()),
    };
    match taken {
        Ok(Some((kind, text))) => draft.note(kind, text),
        Ok(None) => {}
        Err(problem) => draft.note(NoteKind::Refused, format!("{name}: {problem}")),
    }
}

/// Tells what an API server would refuse, and what this version does not do yet.
fn check(draft: &mut Draft<'_>, name: Option<&str>) {
    match hearth_operator::document::training_job(&yaml::render(draft, name, true)) {
        Err(faults) => {
            for fault in faults.faults() {
                draft.note(NoteKind::Refused, fault.to_string());
            }
        }
        Ok(job) => {
            for fault in validate::unsupported(&job.spec) {
                let known = fault.field != "spec.task" || draft.get("task").is_some();
                if known {
                    draft.note(NoteKind::Changed, format!("not yet run: {fault}"));
                }
            }
        }
    }
}

fn guess_task(origin: Origin, adapters: Option<&Map<String, Value>>) -> Option<String> {
    let of_adapters = adapters.and_then(|adapters| adapters.get("task_type"));
    match (origin, of_adapters.and_then(Value::as_str)) {
        (Origin::SftConfig | Origin::DpoConfig, _) | (_, Some("CAUSAL_LM")) => {
            Some("CausalLM".into())
        }
        (_, Some("SEQ_CLS")) => Some("SequenceClassification".into()),
        _ => None,
    }
}
