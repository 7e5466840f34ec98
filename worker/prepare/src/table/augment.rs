//! Columns and rows made of others: crosses, and numbers with noise.

use rand::Rng;

use super::{ColumnValues, number};
use crate::augment::random;

/// Of two columns of numbers their product, of others their values joined by `_`; missing where one
/// of them is.
pub fn cross(one: &ColumnValues, other: &ColumnValues) -> ColumnValues {
    if let (ColumnValues::Number(one), ColumnValues::Number(other)) = (one, other) {
        let product =
            |(one, other): (&Option<f64>, &Option<f64>)| Some(number(*one)? * number(*other)?);
        return ColumnValues::Number(one.iter().zip(other).map(product).collect());
    }
    let joined = |row| Some(format!("{}_{}", text(one, row)?, text(other, row)?));
    ColumnValues::Category((0..one.len().min(other.len())).map(joined).collect())
}

fn text(values: &ColumnValues, row: usize) -> Option<String> {
    match values {
        ColumnValues::Number(values) => number(values[row]).map(|value| value.to_string()),
        ColumnValues::Category(values) => values[row].clone(),
    }
}

/// Noise for the numbers of a table.
#[derive(Clone, Debug)]
pub struct Noise {
    /// Standard deviation of each column's noise, in the column's own unit; `None`: it has none,
    /// such as texts and the label.
    pub deviations: Vec<Option<f64>>,
    /// Decides what is drawn.
    pub seed: u64,
}

impl Noise {
    /// Adds noise to rows for their copy of that number. `contents` tell each row from others, such
    /// as the hash of what it holds: noise depends on them, not on the batch in which a row comes.
    /// Whole numbers do not stay whole.
    pub fn add(&self, columns: &mut [ColumnValues], contents: &[u128], copy: u64) {
        for (row, content) in contents.iter().enumerate() {
            let mut random = random(self.seed, "noise", &content.to_le_bytes(), copy);
            for (column, deviation) in columns.iter_mut().zip(&self.deviations) {
                if let (ColumnValues::Number(values), Some(deviation)) = (column, deviation) {
                    let noise = deviation * normal(&mut random);
                    values[row] = values[row].map(|value| value + noise);
                }
            }
        }
    }
}

/// A standard normal number (Box and Muller 1958), by `libm`, so that it is the same on all
/// machines.
pub(super) fn normal(random: &mut impl Rng) -> f64 {
    let radius = libm::sqrt(-2.0 * libm::log(1.0 - random.random::<f64>()));
    radius * libm::cos(std::f64::consts::TAU * random.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crosses_multiply_numbers_and_join_others() {
        let numbers = ColumnValues::Number(vec![Some(2.0), None, Some(1.5)]);
        let texts = ColumnValues::Category(vec![Some("a".to_owned()), Some("b".to_owned()), None]);
        let squares = ColumnValues::Number(vec![Some(4.0), None, Some(2.25)]);
        assert_eq!(cross(&numbers, &numbers), squares);
        let joined = ColumnValues::Category(vec![Some("a_2".to_owned()), None, None]);
        assert_eq!(cross(&texts, &numbers), joined);
    }

    #[test]
    fn noise_is_normal_and_the_same_in_any_batch() {
        let noise = Noise { deviations: vec![Some(0.5), None], seed: 4 };
        let rows = 20_000;
        let column = ColumnValues::Number(vec![Some(10.0); rows]);
        let mut whole = [column.clone(), column.clone()];
        let contents: Vec<u128> = (0..rows as u128).collect();
        noise.add(&mut whole, &contents, 0);
        assert_eq!(whole[1], column);
        let ColumnValues::Number(values) = &whole[0] else { panic!("numbers stay numbers") };
        let values: Vec<f64> = values.iter().map(|value| value.unwrap() - 10.0).collect();
        let mean = values.iter().sum::<f64>() / rows as f64;
        let deviation =
            (values.iter().map(|value| value * value).sum::<f64>() / rows as f64).sqrt();
        // Five standard errors.
        assert!(mean.abs() < 5.0 * 0.5 / (rows as f64).sqrt(), "{mean}");
        assert!((deviation - 0.5).abs() < 5.0 * 0.5 / (2.0 * rows as f64).sqrt(), "{deviation}");
        let mut batch = [column.take(&[0, 1]), column.take(&[0, 1])];
        noise.add(&mut batch, &[7, 8], 0);
        assert_eq!(batch[0], whole[0].take(&[7, 8]));
        noise.add(&mut batch, &[7, 8], 1);
        assert_ne!(batch[0], whole[0].take(&[7, 8]));
    }
}
