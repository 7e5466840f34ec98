//! Trees as an ONNX graph: one `TreeEnsembleRegressor` of ONNX's classical operators.
//!
//! Input: `features`, f64 `[batch, N]`, as LightGBM takes them: a category by its number, NaN where a value
//! is missing. Output: `scores`, f32 `[batch, classes]`, raw ones.
//!
//! These operators know no sets of categories. So each set that a tree asks about is a column of its own,
//! 1 for its members, which a table gives of the category's number, and trees compare numbers alone.

use std::collections::BTreeMap;

use hearth_tabular::{Child, Forest, Split, Test, Tree};

use super::neural::size;
use crate::onnx::graph::{Dim, Graph, Numbers, Setting, Value};

const ROWS: Dim = Dim::Any("batch");

/// Sets of categories that trees ask about, by the feature.
#[derive(Debug, Default)]
struct Sets<'f> {
    of: BTreeMap<usize, BTreeMap<&'f [u32], usize>>,
}

/// Puts `forest`, which takes `features`, into a graph.
pub(super) fn describe(graph: &mut Graph, forest: &Forest, features: usize) {
    let given = graph.input("features", Numbers::Double, &[ROWS, Dim::Fixed(size(features))]);
    let sets = Sets::of(forest);
    let mut columns = vec![given.clone()];
    for (feature, members) in &sets.of {
        columns.push(member_columns(graph, &given, *feature, members));
    }
    let asked = if let [given] = &columns[..] {
        given.clone()
    } else {
        let columns: Vec<&Value> = columns.iter().collect();
        graph.node("Concat", "columns", &columns, vec![Setting::Int("axis", 1)])
    };
    let mut nodes = Nodes::default();
    for (number, tree) in forest.trees.iter().enumerate() {
        nodes.add(tree, number, number % forest.classes, &|split| sets.place(split, features));
    }
    let settings = nodes.settings(forest.classes);
    let scores = graph.classical("TreeEnsembleRegressor", "trees", &[&asked], settings);
    graph.output("scores", &scores, Numbers::Float, &[ROWS, Dim::Fixed(size(forest.classes))]);
}

impl<'f> Sets<'f> {
    fn of(forest: &'f Forest) -> Self {
        let mut sets = Self::default();
        for split in forest.trees.iter().flat_map(|tree| &tree.splits) {
            if let Test::Among(members) = &split.test {
                let known = sets.of.entry(split.feature).or_default();
                let next = known.len();
                known.entry(members).or_insert(next);
            }
        }
        sets
    }

    /// The column that a split asks about.
    fn place(&self, split: &Split, features: usize) -> usize {
        let Test::Among(members) = &split.test else { return split.feature };
        let before = self.of.range(..split.feature).map(|(_, sets)| sets.len());
        let own = self.of.get(&split.feature).and_then(|sets| sets.get(&members[..]));
        features + before.sum::<usize>() + own.copied().unwrap_or_default()
    }
}

/// f64 `[batch, sets]`: whether a row's category is a member of each.
fn member_columns(
    graph: &mut Graph,
    given: &Value,
    feature: usize,
    sets: &BTreeMap<&[u32], usize>,
) -> Value {
    let name = |part: &str| format!("feature_{feature}.{part}");
    let last = sets.keys().filter_map(|members| members.last()).max().copied().unwrap_or_default();
    let place = graph.ints(&name("place"), &[size(feature)]);
    let value =
        graph.node("Gather", &name("value"), &[given, &place], vec![Setting::Int("axis", 1)]);
    // Below all categories and above all members there is a row of the table that is in no set.
    let none = graph.double(&name("none"), -1.0);
    let beyond = graph.double(&name("beyond"), f64::from(last) + 1.0);
    let missing = graph.node("IsNaN", &name("missing"), &[&value], Vec::new());
    let known = graph.node("Where", &name("known"), &[&missing, &none, &value], Vec::new());
    let bounded = graph.node("Clip", &name("bounded"), &[&known, &none, &beyond], Vec::new());
    let to_int = vec![Setting::Int("to", Numbers::Int64 as i64)];
    let code = graph.node("Cast", &name("code"), &[&bounded], to_int);
    let one = graph.ints(&name("one"), &[1]);
    let row = graph.node("Add", &name("row"), &[&code, &one], Vec::new());
    let width = sets.len();
    let mut table = vec![0_u8; (last as usize + 3) * width];
    for (members, set) in sets {
        for member in *members {
            table[(*member as usize + 1) * width + set] = 1;
        }
    }
    let table = graph.bytes(&name("sets"), &[i64::from(last) + 3, size(width)], table);
    let member = graph.node("Gather", &name("member"), &[&table, &row], Vec::new());
    let flat = graph.node("Flatten", &name("members"), &[&member], vec![Setting::Int("axis", 1)]);
    let to_double = vec![Setting::Int("to", Numbers::Double as i64)];
    graph.node("Cast", &name("columns"), &[&flat], to_double)
}

/// Splits and leaves of all trees, an item each in lists of equal length.
#[derive(Default)]
struct Nodes {
    trees: Vec<i64>,
    places: Vec<i64>,
    modes: Vec<&'static str>,
    features: Vec<i64>,
    values: Vec<f64>,
    missing: Vec<i64>,
    /// Where rows go for which the test holds, and all others.
    next: [Vec<i64>; 2],
    leaf_trees: Vec<i64>,
    leaf_places: Vec<i64>,
    classes: Vec<i64>,
    weights: Vec<f64>,
}

impl Nodes {
    fn add(&mut self, tree: &Tree, number: usize, class: usize, column: &dyn Fn(&Split) -> usize) {
        let splits = tree.splits.len();
        let place = |child| match child {
            Child::Split(place) => size(place),
            Child::Leaf(place) => size(splits + place),
        };
        for (own, split) in tree.splits.iter().enumerate() {
            // Members have a 1, and are above: they go where the test fails.
            let (value, missing, next) = match &split.test {
                Test::AtMost { threshold, missing } => {
                    (*threshold, *missing, [split.left, split.right])
                }
                Test::Among(_) => (0.5, false, [split.right, split.left]),
            };
            let next = next.map(place);
            let test = ("BRANCH_LEQ", size(column(split)), value, missing);
            self.push((number, size(own)), test, next);
        }
        for (own, weight) in tree.leaves.iter().enumerate() {
            let own = size(splits + own);
            self.push((number, own), ("LEAF", 0, 0.0, false), [0, 0]);
            self.leaf_trees.push(size(number));
            self.leaf_places.push(own);
            self.classes.push(size(class));
            self.weights.push(*weight);
        }
    }

    fn push(
        &mut self,
        (tree, place): (usize, i64),
        (mode, feature, value, missing): (&'static str, i64, f64, bool),
        [holds, fails]: [i64; 2],
    ) {
        self.trees.push(size(tree));
        self.places.push(place);
        self.modes.push(mode);
        self.features.push(feature);
        self.values.push(value);
        self.missing.push(missing.into());
        self.next[0].push(holds);
        self.next[1].push(fails);
    }

    fn settings(self, classes: usize) -> Vec<Setting> {
        let [holds, fails] = self.next;
        vec![
            Setting::Text("aggregate_function", "SUM"),
            Setting::Text("post_transform", "NONE"),
            Setting::Int("n_targets", size(classes)),
            Setting::Ints("nodes_treeids", self.trees),
            Setting::Ints("nodes_nodeids", self.places),
            Setting::Texts("nodes_modes", self.modes),
            Setting::Ints("nodes_featureids", self.features),
            Setting::Doubles("nodes_values_as_tensor", self.values),
            Setting::Ints("nodes_missing_value_tracks_true", self.missing),
            Setting::Ints("nodes_truenodeids", holds),
            Setting::Ints("nodes_falsenodeids", fails),
            Setting::Ints("target_treeids", self.leaf_trees),
            Setting::Ints("target_nodeids", self.leaf_places),
            Setting::Ints("target_ids", self.classes),
            Setting::Doubles("target_weights_as_tensor", self.weights),
        ]
    }
}

/// Rows of values, `[rows, features]`, that go many ways: at a threshold, beyond it, in sets and out of
/// them, and without a value.
pub(crate) fn samples(forest: &Forest, features: usize) -> Vec<f64> {
    const ROWS: usize = 64;
    let mut values = vec![vec![f64::NAN, 0.0]; features];
    for split in forest.trees.iter().flat_map(|tree| &tree.splits) {
        let of = &mut values[split.feature];
        match &split.test {
            Test::AtMost { threshold, .. } => {
                of.extend(
                    [*threshold, threshold.next_up()].into_iter().filter(|at| at.is_finite()),
                );
            }
            Test::Among(members) => of.extend(members.iter().map(|member| f64::from(*member))),
        }
    }
    for of in &mut values {
        of.sort_by(f64::total_cmp);
        of.dedup();
    }
    let row = |row: usize| {
        let of = move |(feature, of): (usize, &Vec<f64>)| {
            let any = blake3::hash(&[row.to_le_bytes(), feature.to_le_bytes()].concat());
            let [a, b, c, d, ..] = *any.as_bytes();
            of[u32::from_le_bytes([a, b, c, d]) as usize % of.len()]
        };
        values.iter().enumerate().map(of).collect::<Vec<f64>>()
    };
    (0..ROWS).flat_map(row).collect()
}
