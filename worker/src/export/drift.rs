//! `drift.json`: how what a classifier learned from is spread, and what it says of it. A server compares
//! requests with that.

use std::io;
use std::path::Path;

use hearth_tabular::drift::Histogram;
use serde::{Deserialize, Serialize};

use crate::data::facts::Facts;
use crate::files::{read_json, write_json};

/// Name of the file.
pub const DRIFT: &str = "drift.json";
/// Changes when older workers could misread the file.
const FORMAT_VERSION: u32 = 1;
/// Scores are compared in steps of a ten-thousandth: a batch's size and fewer bits move them by less, and
/// equal inputs would else fall on both sides of an edge.
const STEPS: f64 = 1e4;

/// What requests are compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DriftReference {
    format_version: u32,
    /// What inputs are like, by name.
    pub inputs: Vec<InputHistogram>,
    /// The rows of which that is.
    pub inputs_of: RowsOf,
    /// The probability of the second of two labels, of the likeliest of more.
    pub score: Histogram,
    /// The labels that are answered, by their ids.
    pub label: Histogram,
    /// The rows of which score and label are.
    pub outputs_of: RowsOf,
}

/// How a number that inputs are told by is spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputHistogram {
    /// Its name.
    pub name: String,
    /// Its histogram.
    pub histogram: Histogram,
}

/// Rows that a histogram is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RowsOf {
    /// What they are for.
    pub side: RowsSide,
    /// How many were drawn.
    pub rows: u32,
    /// Of how many.
    pub of: u32,
}

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowsSide {
    /// Training.
    Train,
    /// Evaluation.
    Eval,
}

/// What a classifier answers: what of it is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answered {
    /// See [`DriftReference::score`].
    pub score: f64,
    /// The id of the label.
    pub label: f64,
}

impl Answered {
    /// Of the probabilities of all labels, and the one that is answered.
    pub fn of(probabilities: &[f32], label: usize) -> Self {
        let score = match probabilities {
            [_, second] => *second,
            all => all.iter().copied().fold(0.0, f32::max),
        };
        Self { score: (f64::from(score) * STEPS).round() / STEPS, label: label as f64 }
    }
}

impl DriftReference {
    /// Of what inputs are like, called `names`, and of what is answered with one of so many `labels`.
    pub fn new(
        (names, inputs, inputs_of): (&[&str], &[Facts], RowsOf),
        (answers, labels, outputs_of): (&[Answered], usize, RowsOf),
    ) -> Self {
        let column = |number: usize| {
            let values = inputs.iter().map(|facts| facts.get(number).copied().unwrap_or(f32::NAN));
            Histogram::of_numbers(values.map(f64::from))
        };
        let inputs = names.iter().enumerate().map(|(number, name)| InputHistogram {
            name: (*name).to_owned(),
            histogram: column(number),
        });
        Self {
            format_version: FORMAT_VERSION,
            inputs: inputs.collect(),
            inputs_of,
            score: Histogram::of_numbers(answers.iter().map(|answer| answer.score)),
            label: Histogram::of_classes(answers.iter().map(|answer| answer.label), labels),
            outputs_of,
        }
    }

    /// Histograms of the inputs, of the score and of the label, in that order.
    pub fn histograms(&self) -> impl Iterator<Item = &Histogram> {
        self.inputs.iter().map(|input| &input.histogram).chain([&self.score, &self.label])
    }

    /// Reads the file of a directory; `None` where it has none.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        read_json(&directory.join(DRIFT))
    }

    /// Writes the file into a directory.
    pub fn write(&self, directory: &Path) -> io::Result<()> {
        write_json(&directory.join(DRIFT), self)
    }

    /// What is wrong with a file's, where inputs are told by `names` and there are so many `labels`.
    pub fn fault(&self, names: &[&str], labels: usize) -> Option<String> {
        if self.format_version != FORMAT_VERSION {
            let found = self.format_version;
            return Some(format!("it has format {found}, of which only {FORMAT_VERSION} is read"));
        }
        if let Some(fault) = self.histograms().find_map(Histogram::fault) {
            return Some(fault.to_owned());
        }
        let own: Vec<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
        if own != names {
            return Some(format!("it is of {own:?}, and this model's inputs have {names:?}"));
        }
        let known = self.label.edges.last().is_none_or(|last| *last < labels as f64);
        (!known || !self.label.category)
            .then(|| format!("its labels are not the {labels} of config.json"))
    }
}

#[cfg(test)]
mod tests {
    use hearth_tabular::drift::{Drift, Shift};

    use super::*;

    const NAMES: [&str; 2] = ["characters", "tokens"];

    /// Texts of 100 to 199 characters and more, and answers that follow from their length.
    fn rows(longer: f32) -> (Vec<Facts>, Vec<Answered>) {
        let lengths = (0..2000_u16).map(|row| f32::from(row % 100) + 100.0 + longer);
        lengths
            .map(|length| {
                let score = (length - 100.0) / 200.0;
                let facts = vec![length, (length / 4.0).floor()];
                (facts, Answered::of(&[1.0 - score, score], usize::from(score >= 0.5)))
            })
            .unzip()
    }

    fn reference() -> DriftReference {
        let (inputs, answers) = rows(0.0);
        let of = RowsOf { side: RowsSide::Train, rows: 2000, of: 2000 };
        DriftReference::new((&NAMES, &inputs, of), (&answers, 2, of))
    }

    fn shifts(longer: f32) -> Vec<Shift> {
        let reference = reference();
        let mut drift = Drift::by(reference.histograms());
        let (inputs, answers) = rows(longer);
        for (facts, answer) in inputs.iter().zip(&answers) {
            let values = facts.iter().copied().map(f64::from).chain([answer.score, answer.label]);
            drift.count(reference.histograms().zip(values));
        }
        drift.apart(reference.histograms())
    }

    #[test]
    fn longer_texts_are_told_and_alike_ones_are_not() {
        for shift in shifts(0.0) {
            assert!(shift.psi < 1e-9, "{shift:?}");
        }
        let moved = shifts(80.0);
        assert_eq!(moved.len(), 4);
        for shift in &moved {
            assert!(shift.psi > 0.25, "{moved:?}");
        }
        // Of 100 lengths, 80 are longer than all; a category has no order.
        assert!((moved[0].ks.unwrap() - 0.8).abs() < 0.06, "{moved:?}");
        assert_eq!(moved[3].ks, None);
    }

    #[test]
    fn the_score_is_of_the_second_of_two_labels_and_of_the_likeliest_of_more() {
        assert_eq!(Answered::of(&[0.75, 0.25], 0), Answered { score: 0.25, label: 0.0 });
        assert_eq!(Answered::of(&[0.25, 0.5, 0.25], 1), Answered { score: 0.5, label: 1.0 });
        let near = [0.500_01, 0.499_99].map(|score| Answered::of(&[1.0 - score, score], 1).score);
        assert_eq!(near[0].to_bits(), near[1].to_bits());
    }

    #[test]
    fn what_is_written_is_read_and_what_does_not_fit_is_told() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(DriftReference::read(home.path()).unwrap(), None);
        let reference = reference();
        reference.write(home.path()).unwrap();
        assert_eq!(DriftReference::read(home.path()).unwrap().as_ref(), Some(&reference));
        assert_eq!(reference.fault(&NAMES, 2), None);
        assert!(reference.fault(&["characters"], 2).unwrap().contains("\"tokens\""));
        assert!(reference.fault(&NAMES, 1).unwrap().contains("labels"));
        let mut other = reference.clone();
        other.score.shares.pop();
        assert!(other.fault(&NAMES, 2).is_some());
        let newer = DriftReference { format_version: 9, ..reference };
        assert!(newer.fault(&NAMES, 2).unwrap().contains("format 9"));
    }
}
