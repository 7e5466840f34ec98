//! A model's text is checked before LightGBM reads it: its reader takes sizes, children and
//! boundaries of sets as they come, so that a damaged text would read beyond what there is, or walk in
//! circles. What passes here is a forest of proper trees whose indices are all in range.
//!
//! The format is that of `GBDT::SaveModelToString` and `Tree::ToString`, version `v4`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::MAX_LEAVES;

/// What a model takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Features of a row.
    pub(crate) features: usize,
    /// Raw scores of a row: 1 unless there are more than two classes.
    pub(crate) classes: usize,
    /// Trees of each class.
    pub(crate) iterations: usize,
    /// LightGBM's name of the loss.
    pub(crate) objective: String,
}

/// Why a text is refused.
pub(super) type Checked<T> = Result<T, String>;

/// Lines `key=value`, each key once.
pub(super) type Fields<'t> = BTreeMap<&'t str, &'t str>;

const HEADER: [&str; 9] = [
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "feature_infos",
    "tree_sizes",
];
const TREE: [&str; 18] = [
    "num_leaves",
    "num_cat",
    "split_feature",
    "split_gain",
    "threshold",
    "decision_type",
    "left_child",
    "right_child",
    "leaf_value",
    "leaf_weight",
    "leaf_count",
    "internal_value",
    "internal_weight",
    "internal_count",
    "cat_boundaries",
    "cat_threshold",
    "is_linear",
    "shrinkage",
];
/// Most features, and most classes.
const MOST: usize = 1 << 20;
/// Bit of `decision_type`: the split is on categories.
pub(super) const CATEGORICAL: i64 = 1;

/// The shape of a model whose text LightGBM may read.
pub(super) fn checked_model(text: &str) -> Checked<Shape> {
    if text.bytes().any(|byte| matches!(byte, 0 | b'\r')) {
        return Err("the text has bytes that no model has".to_owned());
    }
    let (start, header) = header(text)?;
    let features = whole::<usize>(&header, "max_feature_idx", 0..=MOST)? + 1;
    let classes = whole::<usize>(&header, "num_class", 1..=MOST)?;
    let each = whole::<usize>(&header, "num_tree_per_iteration", 1..=MOST)?;
    let objective = field(&header, "objective")?;
    let fits = match objective {
        "binary sigmoid:1" | "regression" | "regression_l1" | "huber" => classes == 1,
        other => other == format!("multiclass num_class:{classes}") && classes > 1,
    };
    if !fits || each != classes {
        return Err(format!("the objective {objective:?} of {classes} classes is none of ours"));
    }
    for name in ["feature_names", "feature_infos"] {
        if field(&header, name)?.split(' ').filter(|part| !part.is_empty()).count() != features {
            return Err(format!("{name} names other than {features} features"));
        }
    }
    let blocks = blocks(text, start, &header)?;
    for (number, block) in blocks.iter().enumerate() {
        tree(block, number, features).map_err(|detail| format!("tree {number}: {detail}"))?;
    }
    let trees = blocks.len();
    if !trees.is_multiple_of(each) {
        return Err(format!("{trees} trees for {each} classes"));
    }
    let rest = text.find("\nend of trees\n").ok_or("the trees have no end")?;
    let linear = |(at, key): (usize, &str)| !text[rest + at + key.len()..].starts_with("0]");
    if text[rest..].match_indices("[linear_tree: ").any(linear) {
        return Err("it has linear leaves, which are none of ours".to_owned());
    }
    Ok(Shape { features, classes, iterations: trees / each, objective: objective.to_owned() })
}

/// The lines of each tree; the first begins at `at`.
pub(super) fn blocks<'t>(
    text: &'t str,
    mut at: usize,
    header: &Fields<'t>,
) -> Checked<Vec<&'t str>> {
    let mut blocks = Vec::new();
    for size in field(header, "tree_sizes")?.split(' ') {
        let size: usize = parsed("tree_sizes", size)?;
        let end = at.checked_add(size).ok_or("tree_sizes overflow")?;
        blocks.push(text.get(at..end).ok_or("a tree ends beyond the text")?);
        at = end;
    }
    if text.get(at..).is_none_or(|rest| !rest.starts_with("end of trees\n")) {
        return Err("tree_sizes are not those of the trees".to_owned());
    }
    Ok(blocks)
}

/// Where the first tree begins, and what is said before.
pub(super) fn header(text: &str) -> Checked<(usize, Fields<'_>)> {
    let body = text.find("\nTree=0\n").ok_or("no tree begins in it")? + 1;
    let mut lines = text[..body].lines();
    if lines.next() != Some("tree") {
        return Err("it does not begin as a model of trees".to_owned());
    }
    Ok((body, fields(lines.filter(|line| !line.is_empty()), &HEADER)?))
}

/// What a tree says of itself.
pub(super) fn tree_fields(block: &str, number: usize) -> Checked<Fields<'_>> {
    let rest = block.strip_prefix(&format!("Tree={number}\n")).ok_or("it does not begin here")?;
    let (lines, end) = rest.split_once("\n\n").ok_or("it has no end")?;
    if end.bytes().any(|byte| byte != b'\n') {
        return Err("text follows its end".to_owned());
    }
    fields(lines.lines(), &TREE)
}

fn tree(block: &str, number: usize, features: usize) -> Checked<()> {
    let fields = tree_fields(block, number)?;
    let leaves = whole::<usize>(&fields, "num_leaves", 1..=MAX_LEAVES as usize)?;
    finite(&fields, "leaf_value", leaves)?;
    if field(&fields, "is_linear")? != "0" {
        return Err("it has linear leaves, which are none of ours".to_owned());
    }
    let categorical = whole::<usize>(&fields, "num_cat", 0..=leaves - 1)?;
    if leaves > 1 { splits(&fields, leaves, categorical, features) } else { Ok(()) }
}

fn splits(fields: &Fields<'_>, leaves: usize, sets: usize, features: usize) -> Checked<()> {
    let nodes = leaves - 1;
    let bounded = |name, len, range: RangeInclusive<i64>| -> Checked<Vec<i64>> {
        let values: Vec<i64> = values(fields, name, len)?;
        let all = values.iter().all(|value| range.contains(value));
        all.then_some(values).ok_or_else(|| format!("{name} is out of range"))
    };
    let least = -signed(leaves);
    let left = bounded("left_child", nodes, least..=signed(nodes) - 1)?;
    let right = bounded("right_child", nodes, least..=signed(nodes) - 1)?;
    connected(&left, &right)?;
    bounded("split_feature", nodes, 0..=signed(features) - 1)?;
    bounded("internal_count", nodes, 1..=i64::from(i32::MAX))?;
    bounded("leaf_count", leaves, 0..=i64::from(i32::MAX))?;
    let decisions = bounded("decision_type", nodes, 0..=11)?;
    let thresholds: Vec<f64> = values(fields, "threshold", nodes)?;
    // One without end tells missing values from all others.
    if thresholds.iter().any(|threshold| threshold.is_nan()) {
        return Err("threshold is no number".to_owned());
    }
    for (decision, threshold) in decisions.iter().zip(&thresholds) {
        let set = *threshold >= 0.0 && *threshold < sets as f64 && threshold.fract() == 0.0;
        if decision & CATEGORICAL != 0 && !set {
            return Err("a split is on a set of categories that is not there".to_owned());
        }
    }
    if sets == 0 {
        return Ok(());
    }
    let members: Vec<u32> = all(fields, "cat_threshold")?;
    let bounds = bounded("cat_boundaries", sets + 1, 0..=signed(members.len()))?;
    let whole = bounds.first() == Some(&0) && bounds.last() == Some(&signed(members.len()));
    if !whole || !bounds.is_sorted() {
        return Err("cat_boundaries do not cut cat_threshold".to_owned());
    }
    Ok(())
}

/// From the root all splits and leaves are reached, each once. Invariant: children are in range.
fn connected(left: &[i64], right: &[i64]) -> Checked<()> {
    let nodes = left.len();
    let mut seen = vec![false; 2 * nodes + 1];
    let mut open = vec![0_i64];
    while let Some(child) = open.pop() {
        // Splits first, then leaves, which are counted from -1 down.
        let place = usize::try_from(child).unwrap_or_else(|_| nodes + unsigned(-1 - child));
        if std::mem::replace(&mut seen[place], true) {
            return Err("a split or leaf has two parents".to_owned());
        }
        if child >= 0 {
            open.extend([left[unsigned(child)], right[unsigned(child)]]);
        }
    }
    if seen.contains(&false) {
        return Err("a split or leaf has no parent".to_owned());
    }
    Ok(())
}

fn fields<'t>(lines: impl Iterator<Item = &'t str>, known: &[&str]) -> Checked<Fields<'t>> {
    let mut fields = Fields::new();
    for line in lines {
        let (key, value) = line.split_once('=').ok_or("a line has no value")?;
        if !known.contains(&key) || value.contains('=') || fields.insert(key, value).is_some() {
            return Err(format!("the line {key:?} has no place in it"));
        }
    }
    Ok(fields)
}

fn field<'t>(fields: &Fields<'t>, name: &str) -> Checked<&'t str> {
    fields.get(name).copied().ok_or_else(|| format!("{name} is missing"))
}

fn parsed<T: FromStr>(name: &str, text: &str) -> Checked<T> {
    text.parse().map_err(|_| format!("{name} has a value that is no number"))
}

fn whole<T: FromStr + PartialOrd>(
    fields: &Fields<'_>,
    name: &str,
    range: RangeInclusive<T>,
) -> Checked<T> {
    let value = parsed(name, field(fields, name)?)?;
    range.contains(&value).then_some(value).ok_or_else(|| format!("{name} is out of range"))
}

pub(super) fn all<T: FromStr>(fields: &Fields<'_>, name: &str) -> Checked<Vec<T>> {
    field(fields, name)?.split(' ').map(|text| parsed(name, text)).collect()
}

fn values<T: FromStr>(fields: &Fields<'_>, name: &str, len: usize) -> Checked<Vec<T>> {
    let values: Vec<T> = all(fields, name)?;
    let found = values.len();
    (found == len).then_some(values).ok_or_else(|| format!("{name} has {found} values, not {len}"))
}

fn finite(fields: &Fields<'_>, name: &str, len: usize) -> Checked<Vec<f64>> {
    let values: Vec<f64> = values(fields, name, len)?;
    let all = values.iter().all(|value| value.is_finite());
    all.then_some(values).ok_or_else(|| format!("{name} is not finite"))
}

/// Sizes here are within [`MOST`] or a text's bytes.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// Of a child that is known to be in range.
fn unsigned(child: i64) -> usize {
    usize::try_from(child).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_must_make_one_tree() {
        assert_eq!(connected(&[1, -1], &[-3, -2]), Ok(()));
        for (left, right) in [
            ([1, 0], [-1, -2]),   // a circle
            ([1, -1], [-1, -2]),  // two parents
            ([-1, -2], [-3, -3]), // a split that nothing reaches
        ] {
            assert!(connected(&left, &right).is_err(), "{left:?} {right:?}");
        }
    }
}
