//! Windows over time series.

use std::collections::BTreeMap;

use hearth_crds::preparation::Windows;

use super::ColumnValues;
use super::augment::normal;
use crate::augment::random;

/// The rows of each window: series in the order of their names, each by time, rows of the same time
/// in the order in which they came. `times` are of any unit; `series` has a name for each
/// row, or is `None` where all are of one. Rows at a series' end that fill no window are in none.
pub fn windows<Time: Ord>(
    times: &[Time],
    series: Option<&[&str]>,
    spec: &Windows,
) -> Vec<Vec<usize>> {
    let (length, stride) = (positive(spec.length), positive(spec.stride));
    let mut by_series: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for row in 0..times.len() {
        let name = series.map_or("", |names| names[row]);
        by_series.entry(name).or_default().push(row);
    }
    let mut all = Vec::new();
    for mut rows in by_series.into_values() {
        rows.sort_by(|one, other| times[*one].cmp(&times[*other]));
        all.extend(rows.windows(length).step_by(stride).map(<[usize]>::to_vec));
    }
    all
}

fn positive(value: i32) -> usize {
    usize::try_from(value).unwrap_or(0).max(1)
}

/// Makes a new window of one: all numbers times one number around 1, then noise. `deviations` are
/// those of the columns; columns without one stay as they are. `window` tells the window from others,
/// such as the hash of what it holds; there may be several copies of it.
pub fn vary(
    columns: &mut [ColumnValues],
    deviations: &[Option<f64>],
    spec: &Windows,
    seed: u64,
    (window, copy): (u128, u64),
) {
    let mut random = random(seed, "window", &window.to_le_bytes(), copy);
    let factor = spec.scale.map_or(1.0, |scale| 1.0 + scale * normal(&mut random));
    for (column, deviation) in columns.iter_mut().zip(deviations) {
        let (ColumnValues::Number(values), Some(deviation)) = (column, deviation) else { continue };
        for value in values.iter_mut().flatten() {
            let noise = spec.jitter.map_or(0.0, |jitter| jitter * deviation * normal(&mut random));
            *value = *value * factor + noise;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(length: i32, stride: i32) -> Windows {
        Windows { time: "t".to_owned(), series: None, length, stride, jitter: None, scale: None }
    }

    #[test]
    fn windows_are_by_series_and_time() {
        let times = [3, 1, 2, 1, 4];
        assert_eq!(windows(&times, None, &spec(2, 2)), [vec![1, 3], vec![2, 0]]);
        assert_eq!(windows(&times, None, &spec(3, 1)), [[1, 3, 2], [3, 2, 0], [2, 0, 4]]);
        let series = ["b", "b", "a", "a", "b"];
        assert_eq!(windows(&times, Some(&series), &spec(2, 1)), [[3, 2], [1, 0], [0, 4]]);
        assert!(windows(&times, None, &spec(6, 1)).is_empty());
    }

    #[test]
    fn new_windows_are_scaled_as_one_and_have_noise() {
        let window = [
            ColumnValues::Number(vec![Some(1.0), None, Some(4.0)]),
            ColumnValues::Category(vec![None; 3]),
        ];
        let varied = |jitter, scale, number| {
            let mut columns = window.clone();
            vary(
                &mut columns,
                &[Some(2.0), None],
                &Windows { jitter, scale, ..spec(3, 1) },
                9,
                number,
            );
            columns
        };
        assert_eq!(varied(None, None, (0, 0)), window);
        let numbers = |columns: [ColumnValues; 2]| match columns {
            [ColumnValues::Number(values), _] => (values[0].unwrap(), values[2].unwrap()),
            _ => panic!("numbers stay numbers"),
        };
        let (one, other) = numbers(varied(None, Some(0.1), (0, 0)));
        assert!((other / one - 4.0).abs() < 1e-12 && (one - 1.0).abs() > 1e-6);
        let (one, other) = numbers(varied(Some(0.1), None, (0, 0)));
        assert!(
            (one - 1.0).abs() < 1.0
                && (other - 4.0).abs() < 1.0
                && (other / one - 4.0).abs() > 1e-6
        );
        assert_eq!(varied(Some(0.1), Some(0.1), (3, 1)), varied(Some(0.1), Some(0.1), (3, 1)));
        assert_ne!(varied(Some(0.1), None, (3, 1)), varied(Some(0.1), None, (3, 0)));
    }
}
