//! docs/training-arguments.md, printed from the table.

use std::fmt::Write as _;

use super::entry::{Entry, Fate};
use super::table::{DPO, OLDER, PEFT, SFT, TRAINING_ARGUMENTS, TRL};
use crate::args::Origin;

const HEAD: &str = "\
<!-- Printed by `hearth convert --fields`; `make docs` writes it anew. -->
# TrainingArguments, field by field

`hearth convert FILE` reads a `TrainingArguments`, `SFTConfig` or `DPOConfig` (JSON or
YAML, as `to_dict()` gives it or as people write it) and prints a TrainingJob. With
`--peft FILE` it reads an `adapter_config.json` besides. This page says what becomes of
each field:

- **supported**: `spec.training` has it under the same name in camelCase, and it does
  what it does there.
- **renamed**: another field of the spec says it.
- **left out**: it changes no result, or Hearth does it in any case. A note says so.
- **refused**: it changes the result and has no counterpart. `hearth convert` ends with
  64 and prints nothing, unless `--lenient` is given.

A value at which a field asks for nothing (mostly its default) is passed over silently.
A supported field that this version's worker does not act on yet is refused when the job
is applied, by its name and with what to write instead; `hearth convert` says so, too.
";

/// The page.
pub(super) fn page() -> String {
    let mut page = HEAD.to_owned();
    section(&mut page, "`transformers.TrainingArguments` 5.24", "", TRAINING_ARGUMENTS);
    section(
        &mut page,
        "Older names, and callbacks",
        "Fields of transformers 4 (up to 4.57), and the arguments of `EarlyStoppingCallback`.",
        OLDER,
    );
    section(
        &mut page,
        "`trl.SFTConfig` and `trl.DPOConfig` 1.16",
        "Fields that both add. The job is for `CausalLM`.",
        TRL,
    );
    section(&mut page, "`trl.SFTConfig` 1.16", "`objective.type` is `SFT`.", SFT);
    section(&mut page, "`trl.DPOConfig` 1.16", "`objective.type` is `DPO`.", DPO);
    section(
        &mut page,
        "`peft.LoraConfig` 0.21",
        "Where no layers are named, the file is refused: PEFT then chooses by the model's family.",
        PEFT,
    );
    page.push_str("\n## Defaults that differ\n\n");
    page.push_str("`hearth convert` writes these out where the file leaves them out.\n\n");
    page.push_str("| Class | Field | Value |\n|-|-|-|\n");
    for origin in [Origin::TrainingArguments, Origin::SftConfig, Origin::DpoConfig] {
        for (name, value) in origin.own_defaults() {
            let _ = writeln!(page, "| `{}` | `{name}` | {value} |", origin.class());
        }
    }
    page
}

fn section(page: &mut String, title: &str, lead: &str, entries: &[Entry]) {
    let _ = write!(page, "\n## {title}\n\n");
    if !lead.is_empty() {
        let _ = write!(page, "{lead}\n\n");
    }
    page.push_str("| Field | | In a TrainingJob | |\n|-|-|-|-|\n");
    for entry in entries {
        let place = entry.place().map(|place| match place.as_str() {
            "metadata.name" => "`metadata.name`".to_owned(),
            place => format!("`spec.{place}`"),
        });
        let (name, place) = (entry.name, place.unwrap_or_default());
        let _ = writeln!(page, "| `{name}` | {} | {place} | {} |", fate(entry), entry.why);
    }
}

fn fate(entry: &Entry) -> &'static str {
    match entry.fate {
        Fate::Same(_) => "supported",
        Fate::Renamed(..) | Fate::Elsewhere(_) => "renamed",
        Fate::LeftOut => "left out",
        Fate::Checked(_) => "left out or refused",
        Fate::Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_in_docs_is_the_tables() {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/training-arguments.md");
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(there == super::page(), "docs/training-arguments.md is stale: run `make docs`");
    }
}
