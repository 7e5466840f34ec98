//! What the values of a column are like, value by value, in bounded memory.

use std::collections::BTreeMap;

use datasketches::tdigest::TDigestMut;

use super::{ColumnValues, number};

/// Most numbers of which quantiles are exact; of more, they are a t-digest's.
const EXACT: usize = 1 << 20;
/// Compression of the t-digest.
const COMPRESSION: u16 = 500;
/// Most different values that are counted; of more, there is no mode.
const DISTINCT: usize = 1 << 16;
/// Bytes of a text that is counted; a column that holds a longer one has no mode.
const TEXT_BYTES: usize = 1 << 10;

/// How much of a column is remembered: the memory that its statistics take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Numbers of which quantiles are exact; none where 0.
    pub exact: usize,
    /// Different values that are counted for the mode; no mode where 0.
    pub distinct: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { exact: EXACT, distinct: DISTINCT }
    }
}

impl Wanted {
    /// Quantiles, and a mode, of a column where so many others want them, too: all of them together
    /// take no more than some of them would alone.
    pub fn of(quantiles: bool, mode: bool, others: usize) -> Self {
        let share = |most: usize| (8 * most / (others + 1)).clamp(most >> 8, most);
        Self {
            exact: if quantiles { share(EXACT) } else { 0 },
            distinct: if mode { share(DISTINCT) } else { 0 },
        }
    }
}

/// Statistics of a column.
#[derive(Clone, Debug)]
pub enum Statistics {
    /// Of numbers.
    Number(NumberStatistics),
    /// Of texts.
    Category(CategoryStatistics),
}

impl Statistics {
    /// Of a column of the kind of `values`, without values as yet.
    pub fn like(values: &ColumnValues, wanted: Wanted) -> Self {
        match values {
            ColumnValues::Number(_) => Self::Number(NumberStatistics::new(wanted)),
            ColumnValues::Category(_) => Self::Category(CategoryStatistics::new(wanted)),
        }
    }

    /// Adds values. Those of the other kind are not looked at.
    pub fn extend(&mut self, values: &ColumnValues) {
        match (self, values) {
            (Self::Number(statistics), ColumnValues::Number(values)) => {
                for value in values {
                    statistics.push(*value);
                }
            }
            (Self::Category(statistics), ColumnValues::Category(values)) => {
                for value in values {
                    statistics.push(value.as_deref());
                }
            }
            _ => {}
        }
    }
}

/// Statistics of numbers.
#[derive(Clone, Debug)]
pub struct NumberStatistics {
    count: u64,
    missing: u64,
    mean: f64,
    /// Sum of squared distances from the mean.
    squares: f64,
    exact: usize,
    values: Sample,
    modes: Counts<u64>,
}

/// Values for quantiles.
#[derive(Clone, Debug)]
enum Sample {
    All(Vec<f64>),
    Digest(Box<TDigestMut>),
}

impl Default for Sample {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl Default for NumberStatistics {
    fn default() -> Self {
        Self::new(Wanted::default())
    }
}

impl NumberStatistics {
    /// Of no values as yet.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            count: 0,
            missing: 0,
            mean: 0.0,
            squares: 0.0,
            exact: wanted.exact,
            values: Sample::default(),
            modes: Counts::new(wanted.distinct),
        }
    }

    /// Adds a value.
    pub fn push(&mut self, value: Option<f64>) {
        let Some(value) = number(value) else {
            self.missing += 1;
            return;
        };
        self.count += 1;
        // Welford 1962, as Knuth gives it (The Art of Computer Programming, 4.2.2).
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
        self.modes.push(value.to_bits());
        match &mut self.values {
            _ if self.exact == 0 => {}
            Sample::All(values) if values.len() < self.exact => values.push(value),
            Sample::All(values) => {
                let mut digest = TDigestMut::new(COMPRESSION).unwrap_or_default();
                values.iter().chain([&value]).for_each(|value| digest.update(*value));
                self.values = Sample::Digest(Box::new(digest));
            }
            Sample::Digest(digest) => digest.update(value),
        }
    }

    /// Values that are there.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Values that are missing.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Mean; `None` of no values, and of numbers too large to be added.
    pub fn mean(&self) -> Option<f64> {
        number((self.count > 0).then_some(self.mean))
    }

    /// Standard deviation of the values themselves (divided by their count); `None` of no values,
    /// and of numbers too large to be squared.
    pub fn deviation(&self) -> Option<f64> {
        number((self.count > 0).then(|| (self.squares / self.count as f64).sqrt()))
    }

    /// The values at `ranks`, from 0 (least) to 1 (greatest), between two values in proportion
    /// (numpy's `linear`). Of more than 2^20 values they are those of a t-digest (Dunning,
    /// arXiv:1902.04023) of compression 500, whose rank is off by less than 1 %. `None` of no
    /// values, and where they were not [`Wanted`].
    pub fn quantiles<const N: usize>(&self, ranks: [f64; N]) -> Option<[f64; N]> {
        match &self.values {
            Sample::All(values) if values.is_empty() => None,
            Sample::All(values) => {
                let mut values = values.clone();
                values.sort_unstable_by(f64::total_cmp);
                Some(ranks.map(|rank| interpolated(&values, rank)))
            }
            Sample::Digest(digest) => {
                let digest = digest.clone().freeze();
                let value = |rank: f64| digest.quantile(rank.clamp(0.0, 1.0)).ok().flatten();
                let values: Option<Vec<f64>> = ranks.iter().map(|rank| value(*rank)).collect();
                values?.try_into().ok()
            }
        }
    }

    /// The most frequent value, the least of several; `None` of no values, and of more
    /// different ones than are counted, 65,536 at most.
    pub fn mode(&self) -> Option<f64> {
        let modes = self.modes.most_frequent()?.map(|bits| f64::from_bits(*bits));
        modes.min_by(f64::total_cmp)
    }
}

/// The value at a rank of sorted values, of which there are some.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
fn interpolated(sorted: &[f64], rank: f64) -> f64 {
    let place = rank.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = place as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Statistics of texts.
#[derive(Clone, Debug)]
pub struct CategoryStatistics {
    count: u64,
    missing: u64,
    counts: Counts<String>,
}

impl Default for CategoryStatistics {
    fn default() -> Self {
        Self::new(Wanted::default())
    }
}

impl CategoryStatistics {
    /// Of no values as yet.
    pub fn new(wanted: Wanted) -> Self {
        Self { count: 0, missing: 0, counts: Counts::new(wanted.distinct) }
    }

    /// Adds a value.
    pub fn push(&mut self, value: Option<&str>) {
        match value {
            None => self.missing += 1,
            Some(value) => {
                self.count += 1;
                self.counts.push_borrowed(value);
            }
        }
    }

    /// Values that are there.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Values that are missing.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// The most frequent value, the first in the alphabet of several; `None` of no values, of
    /// more different ones than are counted, and of long ones.
    pub fn mode(&self) -> Option<&str> {
        self.counts.most_frequent()?.next().map(String::as_str)
    }
}

/// How often each value is there, of not too many.
#[derive(Clone, Debug)]
struct Counts<Value> {
    /// `None`: too many.
    of: Option<BTreeMap<Value, u64>>,
    most: usize,
}

impl<Value: Ord> Counts<Value> {
    fn new(most: usize) -> Self {
        Self { of: (most > 0).then(BTreeMap::new), most }
    }

    fn push(&mut self, value: Value) {
        if let Some(counts) = &mut self.of {
            *counts.entry(value).or_default() += 1;
        }
        self.forget_too_many();
    }

    fn forget_too_many(&mut self) {
        self.of = self.of.take().filter(|counts| counts.len() <= self.most);
    }

    /// The most frequent values, in order.
    fn most_frequent(&self) -> Option<impl Iterator<Item = &Value>> {
        let counts = self.of.as_ref()?;
        let most = *counts.values().max()?;
        Some(counts.iter().filter(move |(_, count)| **count == most).map(|(value, _)| value))
    }
}

impl Counts<String> {
    fn push_borrowed(&mut self, value: &str) {
        match self.of.as_mut().and_then(|counts| counts.get_mut(value)) {
            Some(count) => *count += 1,
            None if value.len() > TEXT_BYTES => self.of = None,
            None => self.push(value.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: impl IntoIterator<Item = Option<f64>>) -> NumberStatistics {
        let mut statistics = NumberStatistics::default();
        values.into_iter().for_each(|value| statistics.push(value));
        statistics
    }

    #[test]
    fn numbers_are_counted_averaged_and_ranked() {
        let statistics =
            of([Some(1.0), None, Some(4.0), Some(2.0), Some(f64::NAN), Some(2.0), Some(-3.0)]);
        assert_eq!((statistics.count(), statistics.missing()), (5, 2));
        assert_eq!(statistics.mean(), Some(1.2));
        // numpy.std([1, 4, 2, 2, -3]) and numpy.quantile(..., [0, 0.25, 0.5, 0.9, 1]).
        assert!((statistics.deviation().unwrap() - 2.315_167_380_558_045).abs() < 1e-12);
        let quantiles = statistics.quantiles([0.0, 0.25, 0.5, 0.9, 1.0]).unwrap();
        for (quantile, want) in quantiles.into_iter().zip([-3.0, 1.0, 2.0, 3.2, 4.0]) {
            assert!((quantile - want).abs() < 1e-12, "{quantile} {want}");
        }
        assert_eq!(statistics.mode(), Some(2.0));
    }

    #[test]
    fn nothing_has_no_statistics() {
        let none = of([None]);
        assert_eq!((none.mean(), none.deviation(), none.mode()), (None, None, None));
        assert_eq!(none.quantiles([0.5]), None);
        assert_eq!(CategoryStatistics::default().mode(), None);
    }

    #[test]
    fn many_numbers_are_ranked_within_a_hundredth() {
        let count = EXACT + 200_000;
        // A permutation of 0..count, since 7919 shares no factor with it.
        let statistics = of((0..count).map(|i| Some((i * 7919 % count) as f64)));
        assert!(matches!(statistics.values, Sample::Digest(_)));
        let ranks = [0.01, 0.25, 0.5, 0.75, 0.99];
        for (value, rank) in statistics.quantiles(ranks).unwrap().into_iter().zip(ranks) {
            assert!((value / count as f64 - rank).abs() < 0.01, "{rank}: {value}");
        }
        assert_eq!(statistics.mode(), None);
    }

    #[test]
    fn the_mode_of_texts_is_the_first_of_the_most_frequent() {
        let mut statistics = CategoryStatistics::default();
        for value in [Some("b"), Some("a"), None, Some("b"), Some("a"), Some("c")] {
            statistics.push(value);
        }
        assert_eq!(statistics.mode(), Some("a"));
        assert_eq!((statistics.count(), statistics.missing()), (5, 1));
    }

    proptest! {
        #[test]
        fn mean_and_deviation_are_those_of_two_passes(values in prop::collection::vec(-1e6..1e6_f64, 1..200)) {
            let statistics = of(values.iter().copied().map(Some));
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
            prop_assert!((statistics.mean().unwrap() - mean).abs() < 1e-6);
            prop_assert!((statistics.deviation().unwrap() - variance.sqrt()).abs() < 1e-4);
        }
    }
}
