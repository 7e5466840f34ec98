//! The one table: what becomes of each field of the configurations that are read.
//!
//! `hearth convert` acts by it, and docs/training-arguments.md is printed from it.

mod older;
mod peft;
mod training_arguments;
mod trl;

use super::entry::Entry;
use crate::args::Origin;
pub(super) use older::OLDER;
pub(super) use peft::PEFT;
pub(super) use training_arguments::TRAINING_ARGUMENTS;
pub(super) use trl::{DPO, SFT, TRL};

impl Origin {
    /// Name of the class.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::TrainingArguments => "TrainingArguments",
            Self::SftConfig => "SFTConfig",
            Self::DpoConfig => "DPOConfig",
        }
    }

    /// By the fields that one class alone has.
    pub(super) fn guess(names: &[&str]) -> Self {
        let has = |entries: &[Entry], others: &[Entry]| {
            names.iter().any(|name| find(entries, name).is_some() && find(others, name).is_none())
        };
        if has(DPO, SFT) {
            Self::DpoConfig
        } else if has(SFT, &[]) || has(TRL, &[]) {
            Self::SftConfig
        } else {
            Self::TrainingArguments
        }
    }

    /// The tables that hold its fields, older names last.
    pub(super) fn tables(self) -> Vec<&'static [Entry]> {
        match self {
            Self::TrainingArguments => vec![TRAINING_ARGUMENTS, OLDER],
            Self::SftConfig => vec![TRAINING_ARGUMENTS, TRL, SFT, OLDER],
            Self::DpoConfig => vec![TRAINING_ARGUMENTS, TRL, DPO, OLDER],
        }
    }

    /// What a field that is left out means there, where it means something else here.
    pub(super) fn own_defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::TrainingArguments => &[("logging_steps", "500")],
            Self::SftConfig => &[
                ("learning_rate", "2e-5"),
                ("bf16", "true"),
                ("gradient_checkpointing", "true"),
                ("max_length", "1024"),
            ],
            Self::DpoConfig => &[
                ("learning_rate", "1e-6"),
                ("bf16", "true"),
                ("gradient_checkpointing", "true"),
                ("max_length", "1024"),
            ],
        }
    }
}

/// The entry of a name.
pub(super) fn find(entries: &[Entry], name: &str) -> Option<Entry> {
    entries.iter().find(|entry| entry.name == name).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::entry::Fate;
    use hearth_crds::{TrainingArguments, TrainingJob};
    use kube::CustomResourceExt as _;
    use std::collections::BTreeSet;

    /// The names in a fixture; its comments say how it was made.
    fn names(fixture: &'static str) -> BTreeSet<&'static str> {
        fixture.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    }

    fn known(tables: &[&[Entry]]) -> BTreeSet<&'static str> {
        tables.iter().flat_map(|entries| entries.iter().map(|entry| entry.name)).collect()
    }

    #[test]
    fn every_field_of_each_release_is_in_the_table() {
        let arguments = names(include_str!("../fixtures/TrainingArguments-5.24.0.txt"));
        assert_eq!(arguments.len(), 114);
        assert_eq!(known(&[TRAINING_ARGUMENTS]), arguments);
        for (fixture, tables) in [
            (
                include_str!("../fixtures/TrainingArguments-4.57.1.txt"),
                Origin::TrainingArguments.tables(),
            ),
            (include_str!("../fixtures/SFTConfig-1.16.0.txt"), Origin::SftConfig.tables()),
            (include_str!("../fixtures/DPOConfig-1.16.0.txt"), Origin::DpoConfig.tables()),
            (include_str!("../fixtures/LoraConfig-0.21.2.txt"), vec![PEFT]),
        ] {
            let (fields, known) = (names(fixture), known(&tables));
            assert!(fields.len() > 20);
            let missing: Vec<_> = fields.difference(&known).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }

    #[test]
    fn no_class_has_two_entries_for_one_field() {
        for origin in [Origin::TrainingArguments, Origin::SftConfig, Origin::DpoConfig] {
            let tables = origin.tables();
            let entries: usize = tables.iter().map(|entries| entries.len()).sum();
            assert_eq!(known(&tables).len(), entries, "{origin:?}");
        }
    }

    #[test]
    fn every_entry_is_sound() {
        let crd = serde_json::to_value(TrainingJob::crd()).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        for entries in [TRAINING_ARGUMENTS, OLDER, TRL, SFT, DPO, PEFT] {
            let mut seen = BTreeSet::new();
            for entry in entries {
                let name = entry.name;
                assert!(seen.insert(name), "{name} is there twice");
                let neutral = serde_json::from_str::<Vec<serde_json::Value>>(entry.neutral);
                assert!(neutral.is_ok(), "{name}: {}", entry.neutral);
                let explained = matches!(entry.fate, Fate::Same(_) | Fate::Renamed(..));
                assert!(explained || !entry.why.is_empty(), "{name} is not explained");
                if let Some(place) = entry.place().filter(|place| place != "metadata.name") {
                    let node = place.split('.').fold(spec, |node, part| &node["properties"][part]);
                    assert!(node.is_object(), "{name}: the spec has no {place}");
                }
            }
        }
    }

    #[test]
    fn every_hyperparameter_of_a_job_can_be_reached() {
        let mut places: BTreeSet<String> = BTreeSet::new();
        for entries in [TRAINING_ARGUMENTS, OLDER, TRL] {
            places.extend(entries.iter().filter_map(Entry::place));
        }
        let all = TrainingArguments {
            eval_steps: Some(1),
            early_stopping_patience: Some(1),
            ddp_bucket_cap_mb: Some(1),
            data_seed: Some(1),
            ..TrainingArguments::default()
        };
        let fields = serde_json::to_value(all).unwrap();
        // Hearth's own: no trainer has it.
        let own = "learningRateRangeTest";
        for name in fields.as_object().unwrap().keys().filter(|name| *name != own) {
            assert!(places.contains(&format!("training.{name}")), "{name}");
        }
    }

    #[test]
    fn classes_are_told_by_their_fields() {
        for (names, want) in [
            (vec!["learning_rate", "beta"], Origin::DpoConfig),
            (vec!["learning_rate", "packing"], Origin::SftConfig),
            (vec!["learning_rate", "max_length"], Origin::SftConfig),
            (vec!["learning_rate"], Origin::TrainingArguments),
        ] {
            assert_eq!(Origin::guess(&names), want, "{names:?}");
        }
    }
}
