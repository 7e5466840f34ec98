//! The space of a search: dimensions with values to choose from or a range to draw from, some of
//! them there only where another has certain values. Pure.

use serde_json::{Number, Value};

/// Decimal digits of a drawn number, behind the first.
const DIGITS: usize = 5;

/// The dimensions, in the order in which they are decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Space {
    dimensions: Vec<Dimension>,
}

/// One dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Dimension {
    /// What may be drawn.
    pub domain: Domain,
    /// Without it, the dimension is there always.
    pub when: Option<Condition>,
}

/// What may be drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// One of these.
    Choices(Vec<Value>),
    /// A number within a range.
    Range(Range),
}

/// Numbers from `min` to `max`, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Lower end; above 0 on a logarithmic scale.
    pub min: f64,
    /// Upper end.
    pub max: f64,
    /// Spread evenly in the logarithm.
    pub log: bool,
    /// Whole numbers.
    pub integer: bool,
}

/// The dimension is there where an earlier one is, and has one of these values.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// Index of the earlier dimension, which has choices.
    pub dimension: usize,
    /// Indices of its choices.
    pub choices: Vec<usize>,
}

/// A place along one dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Coordinate {
    /// Index of a choice.
    Choice(usize),
    /// A number within the range.
    Number(f64),
}

/// A place in the space: a coordinate for each dimension, none for those that are not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point(pub Vec<Option<Coordinate>>);

impl Space {
    /// Of dimensions whose conditions name earlier ones.
    pub fn new(dimensions: Vec<Dimension>) -> Self {
        Self { dimensions }
    }

    /// The dimensions.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// Decides dimension by dimension; `draw` is asked for those that are there.
    pub fn decide(&self, mut draw: impl FnMut(usize, &Domain) -> Coordinate) -> Point {
        let mut point = Point(Vec::with_capacity(self.dimensions.len()));
        for (index, dimension) in self.dimensions.iter().enumerate() {
            let there = dimension.is_there(&point);
            point.0.push(there.then(|| draw(index, &dimension.domain)));
        }
        point
    }

    /// What a point says of each dimension that is there, by index.
    pub fn values(&self, point: &Point) -> Vec<(usize, Value)> {
        let with = self.dimensions.iter().zip(&point.0).enumerate();
        with.filter_map(|(index, (dimension, place))| {
            Some((index, dimension.domain.value((*place)?)?))
        })
        .collect()
    }
}

impl Dimension {
    /// Whether it is there, given the dimensions before it.
    pub fn is_there(&self, before: &Point) -> bool {
        self.when.as_ref().is_none_or(|when| {
            matches!(before.0.get(when.dimension), Some(Some(Coordinate::Choice(choice)))
                if when.choices.contains(choice))
        })
    }
}

impl Domain {
    /// The place at a share of the domain from 0 to 1.
    pub fn at(&self, share: f64) -> Coordinate {
        match self {
            Self::Choices(values) => {
                let borders = (1..values.len()).map(|border| border as f64 / values.len() as f64);
                Coordinate::Choice(borders.take_while(|border| share >= *border).count())
            }
            Self::Range(range) => {
                let (low, high) = range.ends();
                Coordinate::Number(range.number(low + share * (high - low)))
            }
        }
    }

    /// As it stands in YAML.
    pub fn value(&self, place: Coordinate) -> Option<Value> {
        match (self, place) {
            (Self::Choices(values), Coordinate::Choice(choice)) => values.get(choice).cloned(),
            // Whole numbers stand without a point.
            (Self::Range(range), Coordinate::Number(number)) if range.integer => {
                serde_json::from_str(&format!("{number:.0}")).ok()
            }
            (Self::Range(_), Coordinate::Number(number)) => {
                Number::from_f64(number).map(Value::Number)
            }
            _ => None,
        }
    }
}

impl Range {
    /// Ends on the scale on which numbers are spread evenly; of whole numbers each has an interval
    /// of one around it.
    pub fn ends(&self) -> (f64, f64) {
        let half = if self.integer { 0.5 } else { 0.0 };
        (self.scaled(self.min - half), self.scaled(self.max + half))
    }

    /// A number on that scale.
    pub fn scaled(&self, number: f64) -> f64 {
        if self.log { number.ln() } else { number }
    }

    /// The number at a place of that scale: whole, or of a few digits.
    pub fn number(&self, scaled: f64) -> f64 {
        let number = if self.log { scaled.exp() } else { scaled };
        let number = if self.integer { number.round() } else { short(number) };
        number.clamp(self.min, self.max)
    }
}

/// The nearest number of few decimal digits.
fn short(number: f64) -> f64 {
    format!("{number:.DIGITS$e}").parse().unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn range(min: f64, max: f64, log: bool, integer: bool) -> Domain {
        Domain::Range(Range { min, max, log, integer })
    }

    fn value(domain: &Domain, share: f64) -> Value {
        domain.value(domain.at(share)).unwrap()
    }

    #[test]
    fn shares_cover_a_domain_evenly_on_its_scale() {
        let rate = range(1e-5, 1e-1, true, false);
        assert_eq!(value(&rate, 0.0), json!(1e-5));
        assert_eq!(value(&rate, 0.5), json!(1e-3));
        assert_eq!(value(&rate, 1.0), json!(1e-1));
        assert_eq!(value(&range(0.0, 1.0, false, false), 1.0 / 3.0), json!(0.333_333));
        let layers = range(1.0, 4.0, false, true);
        let drawn: Vec<Value> =
            (0..8).map(|step| value(&layers, (f64::from(step) + 0.5) / 8.0)).collect();
        assert_eq!(drawn, [1, 1, 2, 2, 3, 3, 4, 4].map(|layer| json!(layer)));
        let names = Domain::Choices(vec![json!("a"), json!("b"), json!("c")]);
        let drawn: Vec<Value> = [0.0, 0.4, 0.7, 1.0].map(|share| value(&names, share)).into();
        assert_eq!(drawn, [json!("a"), json!("b"), json!("c"), json!("c")]);
    }

    #[test]
    fn a_dimension_is_there_where_its_condition_holds_and_so_on_down() {
        let choices =
            |names: &[&str]| Domain::Choices(names.iter().map(|name| json!(name)).collect());
        let when = |dimension, choice| Some(Condition { dimension, choices: vec![choice] });
        let space = Space::new(vec![
            Dimension { domain: choices(&["SGD", "AdamW"]), when: None },
            Dimension { domain: choices(&["yes", "no"]), when: when(0, 0) },
            Dimension { domain: range(0.0, 0.99, false, false), when: when(1, 0) },
        ]);
        let there = |choice: [usize; 2]| -> Vec<usize> {
            let point = space.decide(|index, domain| match choice.get(index) {
                Some(choice) => Coordinate::Choice(*choice),
                None => domain.at(0.5),
            });
            space.values(&point).into_iter().map(|(index, _)| index).collect()
        };
        assert_eq!(there([0, 0]), [0, 1, 2]);
        assert_eq!(there([0, 1]), [0, 1]);
        assert_eq!(there([1, 0]), [0]);
    }
}
