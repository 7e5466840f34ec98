//! Trees as data, for what is to compute them elsewhere.
//!
//! How a row goes is `Tree::NumericalDecision` and `Tree::CategoricalDecision` of LightGBM's `tree.h`.

use super::check::{CATEGORICAL, Checked, all, blocks, checked_model, header, tree_fields};

/// All trees of a model: a class's raw score is the sum of its trees' leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Forest {
    /// Raw scores of a row; tree `n` adds to class `n % classes`.
    pub classes: usize,
    /// The trees.
    pub trees: Vec<Tree>,
}

/// A tree. The first split is its root; one of one leaf has none.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// Splits.
    pub splits: Vec<Split>,
    /// What leaves add.
    pub leaves: Vec<f64>,
}

/// Where rows part.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Number of the feature.
    pub feature: usize,
    /// Which rows go left.
    pub test: Test,
    /// Where these go.
    pub left: Child,
    /// Where all others go.
    pub right: Child,
}

/// Which rows go left.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// Those of numbers up to this one.
    AtMost {
        /// The greatest.
        threshold: f64,
        /// Whether rows without a number do, too.
        missing: bool,
    },
    /// Those of these categories, in ascending order. Rows without one never do.
    Among(Vec<u32>),
}

/// A split or a leaf, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// A split.
    Split(usize),
    /// A leaf.
    Leaf(usize),
}

impl Forest {
    /// Of a model's text.
    pub(crate) fn of(text: &str) -> Checked<Self> {
        let shape = checked_model(text)?;
        let (start, header) = header(text)?;
        let blocks = blocks(text, start, &header)?;
        let trees = blocks.iter().enumerate().map(|(number, block)| tree(block, number));
        Ok(Self { classes: shape.classes, trees: trees.collect::<Checked<_>>()? })
    }
}

/// A tree that was found to be a proper one.
fn tree(block: &str, number: usize) -> Checked<Tree> {
    let fields = tree_fields(block, number)?;
    let leaves: Vec<f64> = all(&fields, "leaf_value")?;
    if leaves.len() == 1 {
        return Ok(Tree { splits: Vec::new(), leaves });
    }
    let sets = if all::<usize>(&fields, "num_cat")? == [0] {
        Vec::new()
    } else {
        sets(&all(&fields, "cat_boundaries")?, &all(&fields, "cat_threshold")?)
    };
    let features: Vec<usize> = all(&fields, "split_feature")?;
    let decisions: Vec<i64> = all(&fields, "decision_type")?;
    let thresholds: Vec<f64> = all(&fields, "threshold")?;
    let [left, right] = [all(&fields, "left_child")?, all(&fields, "right_child")?];
    let split = |(place, feature): (usize, &usize)| {
        Ok(Split {
            feature: *feature,
            test: test(decisions[place], thresholds[place], &sets)?,
            left: child(left[place]),
            right: child(right[place]),
        })
    };
    let splits = features.iter().enumerate().map(split).collect::<Checked<_>>()?;
    Ok(Tree { splits, leaves })
}

/// Members of each set: a bit for each category, 32 in a word.
fn sets(bounds: &[usize], words: &[u32]) -> Vec<Vec<u32>> {
    let members = |words: &[u32]| {
        let bits = (0_u32..).zip(words).flat_map(|(number, word)| {
            (0..u32::BITS).filter(move |bit| word >> bit & 1 == 1).map(move |bit| 32 * number + bit)
        });
        bits.collect()
    };
    bounds.windows(2).map(|cut| members(&words[cut[0]..cut[1]])).collect()
}

fn test(decision: i64, threshold: f64, sets: &[Vec<u32>]) -> Checked<Test> {
    /// Bit of `decision_type`: what is missing goes left.
    const DEFAULT_LEFT: i64 = 2;
    /// Kinds of missing values, two bits of `decision_type` from the third on.
    const NONE: i64 = 0;
    const ZERO: i64 = 1;
    if decision & CATEGORICAL != 0 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the check found it to be the place of a set"
        )]
        let place = threshold as usize;
        return Ok(Test::Among(sets[place].clone()));
    }
    let missing = match decision >> 2 {
        ZERO => return Err("its zeros are missing values, which ours never are".to_owned()),
        // Where training rows missed none, one that does counts as 0.
        NONE => 0.0 <= threshold,
        _ => decision & DEFAULT_LEFT != 0,
    };
    Ok(Test::AtMost { threshold, missing })
}

/// Leaves are counted from -1 down.
fn child(number: i64) -> Child {
    let place = |number| usize::try_from(number).unwrap_or_default();
    if number < 0 { Child::Leaf(place(-1 - number)) } else { Child::Split(place(number)) }
}
