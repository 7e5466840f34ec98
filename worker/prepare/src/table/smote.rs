//! Rows between neighbours of a rare label: SMOTE and, where columns hold texts, SMOTE-NC (Chawla,
//! Bowyer, Hall and Kegelmeyer, arXiv:1106.1813, sections 4.2 and 6.1).

use std::collections::BTreeMap;
use std::sync::OnceLock;

use hearth_crds::preparation::Smote;
use rand::Rng;
use rand::seq::SliceRandom;

use super::statistics::{NumberStatistics, Wanted};
use super::{ColumnValues, number};
use crate::augment::random;

/// Rows of a label among which neighbours are looked for; of more, so many are drawn.
const CANDIDATES: usize = 1 << 14;

/// Rows that are made at a time.
pub const BLOCK: u64 = 1 << 12;

/// Rows that were made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRows {
    /// The columns that were given, of new rows.
    pub columns: Vec<ColumnValues>,
    /// Labels of the new rows.
    pub labels: Vec<String>,
    /// The given row that each began at.
    pub of: Vec<usize>,
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
    let most = by_label.values().map(Vec::len).max().unwrap_or(0) as u64;
    let rare = by_label.into_iter().map(|(label, rows)| {
        let missing = missing(most, rows.len() as u64, spec);
        Rare { label: label.to_owned(), rows, missing }
    });
    let units = columns.iter().map(unit).collect();
    let smoter = Smoter::new(columns.to_vec(), units, rare.collect(), (spec, seed));
    let mut all = smoter.empty();
    for block in smoter.blocks() {
        let NewRows { columns, labels, of } = smoter.block(block);
        all.columns.iter_mut().zip(columns).for_each(|(all, new)| all.append(new));
        all.labels.extend(labels);
        all.of.extend(of);
    }
    all
}

/// Rows that a label of `count` rows is short of its share of the most frequent one's.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
pub fn missing(most: u64, count: u64, spec: &Smote) -> u64 {
    ((most as f64 * spec.share).ceil() as u64).saturating_sub(count)
}

/// The standard deviation of a column of numbers; 1 where it has none.
fn unit(column: &ColumnValues) -> f64 {
    let ColumnValues::Number(values) = column else { return 1.0 };
    let mut statistics = NumberStatistics::new(Wanted { exact: 0, distinct: 0 });
    for value in values {
        statistics.push(*value);
    }
    statistics.deviation().filter(|deviation| *deviation > 0.0).unwrap_or(1.0)
}

/// A label that lacks rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rare {
    /// The label.
    pub label: String,
    /// Its rows.
    pub rows: Vec<usize>,
    /// Rows to be made.
    pub missing: u64,
}

/// A block of rows of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmoteBlock {
    rare: usize,
    number: u64,
    /// Rows of it.
    pub rows: u64,
}

/// Makes rows block by block, each block by itself: threads may share one.
#[derive(Debug)]
pub struct Smoter {
    columns: Vec<ColumnValues>,
    /// Of each column's distances.
    units: Vec<f64>,
    rare: Vec<Rare>,
    /// Of each label, the rows among which neighbours are looked for.
    candidates: Vec<Vec<usize>>,
    /// Of each row, once it is asked for.
    nearest: Vec<OnceLock<Vec<usize>>>,
    neighbors: usize,
    seed: u64,
}

/// How a row is made.
struct Made<'a> {
    row: usize,
    neighbor: usize,
    /// How far on the way to the neighbour, from 0 to 1.
    way: f64,
    nearest: &'a [usize],
}

impl Smoter {
    /// Of the rows of rare labels, and of the units of the columns' distances.
    pub fn new(
        columns: Vec<ColumnValues>,
        units: Vec<f64>,
        rare: Vec<Rare>,
        (spec, seed): (&Smote, u64),
    ) -> Self {
        let draw = |rare: &Rare| {
            let mut candidates = rare.rows.clone();
            candidates.shuffle(&mut random(seed, "smote candidates", rare.label.as_bytes(), 0));
            candidates.truncate(CANDIDATES);
            candidates
        };
        let rows = columns.first().map_or(0, ColumnValues::len);
        Self {
            columns,
            units,
            candidates: rare.iter().map(draw).collect(),
            rare,
            nearest: std::iter::repeat_with(OnceLock::new).take(rows).collect(),
            neighbors: usize::try_from(spec.neighbors).unwrap_or(1),
            seed,
        }
    }

    /// All blocks, label after label.
    pub fn blocks(&self) -> Vec<SmoteBlock> {
        let blocks = |(rare, of): (usize, &Rare)| {
            let missing = if of.rows.is_empty() { 0 } else { of.missing };
            (0..missing.div_ceil(BLOCK)).map(move |number| {
                let rows = BLOCK.min(missing - number * BLOCK);
                SmoteBlock { rare, number, rows }
            })
        };
        self.rare.iter().enumerate().flat_map(blocks).collect()
    }

    /// The rows of a block.
    pub fn block(&self, block: SmoteBlock) -> NewRows {
        let rare = &self.rare[block.rare];
        let mut random = random(self.seed, "smote", rare.label.as_bytes(), block.number);
        let made: Vec<Made<'_>> =
            (0..block.rows).map(|_| self.between(block.rare, &mut random)).collect();
        NewRows {
            columns: self.columns.iter().map(|column| new_column(column, &made)).collect(),
            labels: vec![rare.label.clone(); made.len()],
            of: made.iter().map(|made| made.row).collect(),
        }
    }

    /// The given rows.
    pub fn columns(&self) -> &[ColumnValues] {
        &self.columns
    }

    fn empty(&self) -> NewRows {
        let columns = self.columns.iter().map(|column| column.take(&[])).collect();
        NewRows { columns, labels: Vec::new(), of: Vec::new() }
    }

    fn between(&self, rare: usize, random: &mut impl Rng) -> Made<'_> {
        let rows = &self.rare[rare].rows;
        let row = rows[random.random_range(0..rows.len())];
        let nearest = self.nearest[row].get_or_init(|| self.nearest(row, &self.candidates[rare]));
        let neighbor = match nearest.len() {
            0 => row,
            some => nearest[random.random_range(0..some)],
        };
        Made { row, neighbor, way: random.random(), nearest }
    }

    /// The rows nearest to one, itself not among them, the nearest first.
    fn nearest(&self, row: usize, candidates: &[usize]) -> Vec<usize> {
        let others = candidates.iter().filter(|other| **other != row);
        let mut others: Vec<(f64, usize)> =
            others.map(|other| (self.squared_distance(row, *other), *other)).collect();
        let order = |one: &(f64, usize), other: &(f64, usize)| {
            one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))
        };
        if others.len() > self.neighbors {
            others.select_nth_unstable_by(self.neighbors, order);
            others.truncate(self.neighbors);
        }
        others.sort_unstable_by(order);
        others.into_iter().map(|(_, other)| other).collect()
    }

    fn squared_distance(&self, one: usize, other: usize) -> f64 {
        let squared = |(column, unit): (&ColumnValues, &f64)| match column {
            ColumnValues::Number(values) => match (number(values[one]), number(values[other])) {
                (Some(one), Some(other)) => ((one - other) / unit).powi(2),
                (None, None) => 0.0,
                _ => 1.0,
            },
            ColumnValues::Category(values) => f64::from(u8::from(values[one] != values[other])),
        };
        self.columns.iter().zip(&self.units).map(squared).sum()
    }
}

fn new_column(column: &ColumnValues, made: &[Made<'_>]) -> ColumnValues {
    match column {
        ColumnValues::Number(values) => {
            let value = |made: &Made<'_>| {
                let own = number(values[made.row])?;
                let other = number(values[made.neighbor]).unwrap_or(own);
                Some(own + made.way * (other - own))
            };
            ColumnValues::Number(made.iter().map(value).collect())
        }
        ColumnValues::Category(values) => {
            let value = |made: &Made<'_>| match most_frequent(values, made.nearest) {
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
        let units = vec![unit(&small), unit(&large)];
        let smoter = Smoter::new(vec![small, large], units, Vec::new(), (&spec(1, 1.0), 0));
        assert_eq!(smoter.nearest(0, &[0, 1, 2, 3]), [2]);
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

    #[test]
    fn a_block_is_the_same_whichever_is_made_first() {
        let column = numbers(&(0..20).map(f64::from).collect::<Vec<_>>());
        let rare =
            || vec![Rare { label: "a".to_owned(), rows: (0..20).collect(), missing: BLOCK + 10 }];
        let of = || Smoter::new(vec![column.clone()], vec![1.0], rare(), (&spec(3, 1.0), 7));
        let (one, other) = (of(), of());
        let blocks = one.blocks();
        assert_eq!(blocks.iter().map(|block| block.rows).collect::<Vec<_>>(), [BLOCK, 10]);
        let first = one.block(blocks[0]);
        let second = one.block(blocks[1]);
        assert_eq!((other.block(blocks[1]), other.block(blocks[0])), (second, first));
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
