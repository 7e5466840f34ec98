//! Rows between neighbours of a rare label: SMOTE and, where columns hold texts, SMOTE-NC (Chawla,
//! Bowyer, Hall and Kegelmeyer, arXiv:1106.1813, sections 4.2 and 6.1).

use std::collections::BTreeMap;

use hearth_crds::preparation::Smote;
use rand::Rng;
use rand::seq::SliceRandom;

use super::statistics::NumberStatistics;
use super::{ColumnValues, number};
use crate::augment::random;

/// Rows of a label among which neighbours are looked for; of more, so many are drawn.
const CANDIDATES: usize = 1 << 14;

/// Rows that were made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRows {
    /// The columns that were given, of new rows.
    pub columns: Vec<ColumnValues>,
    /// Labels of the new rows.
    pub labels: Vec<String>,
}

/// Makes rows until each label has its share of the most frequent one's. `columns` are those of the
/// training rows, without the label; rows whose label is missing count for nothing.
///
/// A new row lies on the line between a row, drawn, and one of its nearest rows of the same label,
/// drawn too; its texts are the most frequent among the nearest, the first in the alphabet of
/// several. Near is by Euclidean distance over numbers in units of their column's standard
/// deviation; a text that differs counts as one such unit (the paper's median of deviations, which
/// are all 1 in that unit), and so does a number that only one of the two has. A label's only row is
/// repeated.
pub fn smote(
    columns: &[ColumnValues],
    labels: &[Option<&str>],
    spec: &Smote,
    seed: u64,
) -> NewRows {
    let mut by_label: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, label) in labels.iter().enumerate() {
        if let Some(label) = label {
            by_label.entry(label).or_default().push(row);
        }
    }
    let most = by_label.values().map(Vec::len).max().unwrap_or(0);
    let space = Space::new(columns);
    let mut made: Vec<Made> = Vec::new();
    let mut new_labels = Vec::new();
    for (label, rows) in by_label {
        let missing = share_of(most, spec.share).saturating_sub(rows.len());
        let neighbors = usize::try_from(spec.neighbors).unwrap_or(1);
        let mut random = random(seed, "smote", label.as_bytes(), 0);
        made.extend(between(&space, &rows, neighbors, missing, &mut random));
        new_labels.resize(made.len(), label.to_owned());
    }
    let columns = columns.iter().map(|column| new_column(column, &made)).collect();
    NewRows { columns, labels: new_labels }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
fn share_of(count: usize, share: f64) -> usize {
    (count as f64 * share).ceil() as usize
}

/// How a row is made.
struct Made {
    row: usize,
    neighbor: usize,
    /// How far on the way to the neighbour, from 0 to 1.
    way: f64,
    nearest: Vec<usize>,
}

fn between(
    space: &Space<'_>,
    rows: &[usize],
    neighbors: usize,
    count: usize,
    random: &mut impl Rng,
) -> Vec<Made> {
    let mut candidates = rows.to_vec();
    candidates.shuffle(random);
    candidates.truncate(CANDIDATES);
    let mut known: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut made = Vec::with_capacity(count);
    for _ in 0..count {
        let row = rows[random.random_range(0..rows.len())];
        let nearest =
            known.entry(row).or_insert_with(|| space.nearest(row, &candidates, neighbors));
        let neighbor = match nearest.len() {
            0 => row,
            some => nearest[random.random_range(0..some)],
        };
        made.push(Made { row, neighbor, way: random.random(), nearest: nearest.clone() });
    }
    made
}

fn new_column(column: &ColumnValues, made: &[Made]) -> ColumnValues {
    match column {
        ColumnValues::Number(values) => {
            let value = |made: &Made| {
                let own = number(values[made.row])?;
                let other = number(values[made.neighbor]).unwrap_or(own);
                Some(own + made.way * (other - own))
            };
            ColumnValues::Number(made.iter().map(value).collect())
        }
        ColumnValues::Category(values) => {
            let value = |made: &Made| match most_frequent(values, &made.nearest) {
                Some(text) => text.clone(),
                None => values[made.row].clone(),
            };
            ColumnValues::Category(made.iter().map(value).collect())
        }
    }
}

/// The most frequent value of these rows; `None` of no rows.
fn most_frequent<'a>(values: &'a [Option<String>], rows: &[usize]) -> Option<&'a Option<String>> {
    let mut counts: BTreeMap<&Option<String>, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(&values[*row]).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    counts.into_iter().find(|(_, count)| *count == most).map(|(value, _)| value)
}

/// Columns with the units of their distances.
struct Space<'a> {
    columns: Vec<(&'a ColumnValues, f64)>,
}

impl<'a> Space<'a> {
    fn new(columns: &'a [ColumnValues]) -> Self {
        let unit = |column: &ColumnValues| match column {
            ColumnValues::Number(values) => {
                let mut statistics = NumberStatistics::default();
                for value in values {
                    statistics.push(*value);
                }
                statistics.deviation().filter(|deviation| *deviation > 0.0).unwrap_or(1.0)
            }
            ColumnValues::Category(_) => 1.0,
        };
        Self { columns: columns.iter().map(|column| (column, unit(column))).collect() }
    }

    /// The rows nearest to one, itself not among them, the nearest first.
    fn nearest(&self, row: usize, candidates: &[usize], count: usize) -> Vec<usize> {
        let others = candidates.iter().filter(|other| **other != row);
        let mut others: Vec<(f64, usize)> =
            others.map(|other| (self.squared_distance(row, *other), *other)).collect();
        let order = |one: &(f64, usize), other: &(f64, usize)| {
            one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))
        };
        if others.len() > count {
            others.select_nth_unstable_by(count, order);
            others.truncate(count);
        }
        others.sort_unstable_by(order);
        others.into_iter().map(|(_, other)| other).collect()
    }

    fn squared_distance(&self, one: usize, other: usize) -> f64 {
        let squared = |(column, unit): &(&ColumnValues, f64)| match column {
            ColumnValues::Number(values) => match (number(values[one]), number(values[other])) {
                (Some(one), Some(other)) => ((one - other) / unit).powi(2),
                (None, None) => 0.0,
                _ => 1.0,
            },
            ColumnValues::Category(values) => f64::from(u8::from(values[one] != values[other])),
        };
        self.columns.iter().map(squared).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(values: &[f64]) -> ColumnValues {
        ColumnValues::Number(values.iter().map(|value| Some(*value)).collect())
    }

    fn texts(values: &[&str]) -> ColumnValues {
        ColumnValues::Category(values.iter().map(|value| Some((*value).to_owned())).collect())
    }

    fn spec(neighbors: i32, share: f64) -> Smote {
        Smote { neighbors, share }
    }

    #[test]
    fn rare_labels_get_their_share() {
        let labels: Vec<Option<&str>> =
            [vec![Some("a"); 10], vec![Some("b"); 3], vec![Some("c"); 7], vec![None; 20]].concat();
        let column = numbers(&(0..40).map(f64::from).collect::<Vec<_>>());
        let new = smote(&[column], &labels, &spec(5, 0.6), 1);
        assert_eq!(new.labels, ["b", "b", "b"]);
        assert_eq!(new.columns[0].len(), 3);
    }

    #[test]
    fn new_rows_are_between_a_row_and_its_nearest() {
        // Two pairs far from each other: with one neighbour, nothing is between the pairs.
        let one =
            numbers(&[0.0, 1.0, 100.0, 101.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]);
        let other =
            numbers(&[0.0, 2.0, 200.0, 202.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]);
        let labels = [vec![Some("rare"); 4], vec![Some("often"); 10]].concat();
        let new = smote(&[one, other], &labels, &spec(1, 1.0), 2);
        let [ColumnValues::Number(xs), ColumnValues::Number(ys)] = &new.columns[..] else {
            panic!("numbers stay numbers")
        };
        assert_eq!(xs.len(), 6);
        for (x, y) in xs.iter().zip(ys).map(|(x, y)| (x.unwrap(), y.unwrap())) {
            assert!((0.0..=1.0).contains(&x) || (100.0..=101.0).contains(&x), "{x}");
            assert!((y - 2.0 * x).abs() < 1e-9, "{x} {y}");
        }
    }

    #[test]
    fn columns_of_large_numbers_do_not_decide_alone() {
        // By plain distance, row 1 is nearest to row 0; in units of deviations, row 2 is.
        let small = numbers(&[0.0, 1.0, 0.1, 9.0]);
        let large = numbers(&[0.0, 1000.0, 2000.0, 90_000.0]);
        assert_eq!(Space::new(&[small, large]).nearest(0, &[0, 1, 2, 3], 1), [2]);
    }

    #[test]
    fn texts_are_the_most_frequent_of_the_nearest() {
        let column = numbers(&[0.0, 0.1, 0.2, 0.3, 7.0, 7.0, 7.0, 7.0, 7.0]);
        let kinds = texts(&["y", "x", "x", "x", "z", "z", "z", "z", "z"]);
        let labels = [vec![Some("rare"); 4], vec![Some("often"); 5]].concat();
        let new = smote(&[column, kinds], &labels, &spec(3, 1.0), 3);
        assert_eq!(new.columns[1], texts(&["x"]));
    }

    #[test]
    fn the_only_row_of_a_label_is_repeated_and_missing_values_stay() {
        let column = ColumnValues::Number(vec![Some(1.0), Some(2.0), Some(3.0)]);
        let holes = ColumnValues::Number(vec![None, Some(2.0), Some(3.0)]);
        let new =
            smote(&[column, holes], &[Some("one"), Some("two"), Some("two")], &spec(5, 1.0), 0);
        assert_eq!(new.columns, [numbers(&[1.0]), ColumnValues::Number(vec![None])]);
    }

    proptest! {
        #[test]
        fn labels_are_level_values_within_bounds_and_the_seed_decides(
            rows in prop::collection::vec((-1e3..1e3_f64, "[ab]"), 1..60), seed in any::<u64>()
        ) {
            let column = numbers(&rows.iter().map(|row| row.0).collect::<Vec<_>>());
            let labels: Vec<Option<&str>> = rows.iter().map(|row| Some(row.1.as_str())).collect();
            let new = smote(std::slice::from_ref(&column), &labels, &spec(5, 1.0), seed);
            let count = |label: &str| {
                let old = rows.iter().filter(|row| row.1 == label).count();
                (old > 0).then(|| old + new.labels.iter().filter(|new| *new == label).count())
            };
            if let (Some(a), Some(b)) = (count("a"), count("b")) {
                prop_assert_eq!(a, b);
            }
            let ColumnValues::Number(values) = &new.columns[0] else { panic!("numbers stay numbers") };
            for (value, label) in values.iter().zip(&new.labels) {
                let old = rows.iter().filter(|row| row.1 == *label).map(|row| row.0);
                let bounds = old.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
                let value = value.unwrap();
                prop_assert!(bounds.0 - 1e-9 <= value && value <= bounds.1 + 1e-9);
            }
            prop_assert_eq!(smote(&[column], &labels, &spec(5, 1.0), seed), new);
        }
    }
}
