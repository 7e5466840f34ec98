//! The draft as a TrainingJob's YAML. What was not given is there as a comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hearth_crds::TrainingArguments;
use hearth_crds::peft::Peft;
use serde_json::{Value, json};
use serde_yaml_ng::Mapping;

use super::draft::{Draft, put};

/// Sections of a spec, in the order in which people read them.
const SECTIONS: [&str; 10] = [
    "task",
    "model",
    "objective",
    "data",
    "distillation",
    "peft",
    "training",
    "parallelism",
    "workers",
    "output",
];

/// What a job needs and a configuration does not say: the section that is a comment
/// without it, its path, what stands for it, and the option that gives it.
const NEEDED: [(&str, &str, &str, &str); 4] = [
    ("task", "task", "SequenceClassification", "--task"),
    ("model", "model.source", "pvc://CLAIM/PATH", "--model"),
    ("data", "data.train.source", "pvc://CLAIM/FILE.jsonl", "--train"),
    ("output", "output.destination", "pvc://CLAIM/PATH", "--output"),
];

/// The document, whole where `whole`: placeholders then stand uncommented.
pub(super) fn render(draft: &Draft<'_>, name: Option<&str>, whole: bool) -> String {
    let mut spec = draft.spec(&defaults());
    let missing: BTreeMap<&str, &str> = NEEDED
        .iter()
        .filter(|(_, place, ..)| draft.get(place).is_none())
        .map(|(section, place, placeholder, option)| {
            put(&mut spec, place, &json!(placeholder));
            (*section, *option)
        })
        .collect();
    let evaluates = draft.get("training.evalStrategy").is_some_and(|when| *when != "No")
        || draft.get("training.evalOnStart") == Some(&Value::Bool(true));
    let no_rows = draft.get("data.eval.source").is_none();
    if no_rows {
        // What names fields of evaluation rows has nothing to be a part of.
        if let Some(data) = spec.get_mut("data").and_then(serde_yaml_ng::Value::as_mapping_mut) {
            data.shift_remove("eval");
        }
    }
    let mut text = "apiVersion: hearth.dev/v1alpha1\nkind: TrainingJob\nmetadata:\n".to_owned();
    let _ = match name {
        Some(name) => writeln!(text, "  name: {name}"),
        None if whole => writeln!(text, "  name: placeholder"),
        None => writeln!(text, "  # name: NAME # give it with --name"),
    };
    text.push_str("spec:\n");
    for section in SECTIONS {
        let Some(value) = spec.get(section) else { continue };
        let mut one = Mapping::new();
        one.insert(section.into(), value.clone());
        let lines = serde_yaml_ng::to_string(&one).unwrap_or_default();
        let option = missing.get(section).filter(|_| !whole);
        for (number, line) in lines.lines().enumerate() {
            let _ = match option {
                None => writeln!(text, "  {line}"),
                Some(option) if number == 0 => writeln!(text, "  # {line} # give it with {option}"),
                Some(_) => writeln!(text, "  # {line}"),
            };
        }
        if section == "data" && evaluates && no_rows {
            text.push_str(match (whole, option) {
                (true, _) => "    eval: {source: \"pvc://CLAIM/FILE.jsonl\"}\n",
                (false, None) => "    # eval: {source: pvc://CLAIM/FILE.jsonl} # give it with --eval, or write evalSplit: 0.1\n",
                (false, Some(_)) => "  #   eval: {source: pvc://CLAIM/FILE.jsonl} # give it with --eval, or write evalSplit: 0.1\n",
            });
        }
    }
    text
}

/// What a job's fields are where they are left out.
fn defaults() -> BTreeMap<String, Value> {
    let mut defaults = BTreeMap::new();
    let training = serde_json::to_value(TrainingArguments::default());
    let peft = serde_json::to_value(Peft::default());
    for (section, fields) in [("training", training), ("peft", peft)] {
        let fields = fields.unwrap_or_default();
        for (name, value) in fields.as_object().into_iter().flatten() {
            // The kind of adapter is written even so, that there be adapters.
            if (section, name.as_str()) != ("peft", "type") {
                defaults.insert(format!("{section}.{name}"), value.clone());
            }
        }
    }
    defaults.insert("output.keepCheckpoints".into(), json!(3));
    defaults
}
