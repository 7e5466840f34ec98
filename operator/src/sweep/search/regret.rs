//! The searches on functions whose minima are known, against Optuna's figures
//! (tests/parity/search.py made the fixture).

use std::f64::consts::PI;

use serde::Deserialize;

use super::space::{Condition, Coordinate, Dimension, Domain, Point, Range, Space};
use super::{Method, Trial, next};

/// As in the fixture.
const SEEDS: u64 = 30;
const TRIALS: usize = 50;

/// Median over seeds of the lowest value found, less the minimum.
#[derive(Deserialize)]
struct Optuna {
    branin: f64,
    hartmann6: f64,
    mixed: f64,
}

fn dimension(min: f64, max: f64) -> Dimension {
    Dimension { domain: Domain::Range(Range { min, max, log: false, integer: false }), when: None }
}

fn number(point: &Point, index: usize) -> f64 {
    match point.0[index] {
        Some(Coordinate::Number(number)) => number,
        other => panic!("{other:?} is no number"),
    }
}

/// Branin and Hoo 1972; its minimum is 0.397887.
fn branin(point: &Point) -> f64 {
    let (x, y) = (number(point, 0), number(point, 1));
    let bowl = y - 5.1 / (4.0 * PI * PI) * x * x + 5.0 / PI * x - 6.0;
    bowl * bowl + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x.cos() + 10.0 - 0.397_887
}

/// Hartmann 1973 in six dimensions; its minimum is -3.32237.
fn hartmann6(point: &Point) -> f64 {
    const HEIGHTS: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
    const STEEPNESS: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const CENTRES: [[f64; 6]; 4] = [
        [1312.0, 1696.0, 5569.0, 124.0, 8283.0, 5886.0],
        [2329.0, 4135.0, 8307.0, 3736.0, 1004.0, 9991.0],
        [2348.0, 1451.0, 3522.0, 2883.0, 3047.0, 6650.0],
        [4047.0, 8828.0, 8732.0, 5743.0, 1091.0, 381.0],
    ];
    let peak = |index: usize| {
        let far: f64 = (0..6)
            .map(|axis| {
                let away = number(point, axis) - CENTRES[index][axis] * 1e-4;
                STEEPNESS[index][axis] * away * away
            })
            .sum();
        HEIGHTS[index] * (-far).exp()
    };
    3.322_37 - (0..4).map(peak).sum::<f64>()
}

/// An optimizer, a learning rate, a number of layers, and what some optimizers have besides; its
/// minimum is 0.
fn mixed(point: &Point) -> f64 {
    let rate = number(point, 1).log10();
    let layers = 0.05 * (number(point, 2) - 5.0).abs();
    layers
        + match point.0[0] {
            Some(Coordinate::Choice(0)) => {
                0.1 + 0.3 * (rate + 1.5).powi(2) + 2.0 * (number(point, 3) - 0.9).powi(2)
            }
            Some(Coordinate::Choice(1)) => {
                0.25 * (rate + 3.2).powi(2) + 0.1 * (number(point, 4).log10() + 2.3).powi(2)
            }
            _ => 0.3 + 0.2 * (rate + 3.0).powi(2),
        }
}

fn mixed_space() -> Space {
    let range = |min, max, log, integer, when: Option<usize>| Dimension {
        domain: Domain::Range(Range { min, max, log, integer }),
        when: when.map(|choice| Condition { dimension: 0, choices: vec![choice] }),
    };
    let names = ["SGD", "AdamW", "Adafactor"].map(Into::into).into();
    Space::new(vec![
        Dimension { domain: Domain::Choices(names), when: None },
        range(1e-5, 1.0, true, false, None),
        range(1.0, 8.0, false, true, None),
        range(0.0, 0.99, false, false, Some(0)),
        range(1e-4, 1e-1, true, false, Some(1)),
    ])
}

fn median_regret(space: &Space, method: Method, of: fn(&Point) -> f64) -> f64 {
    let lowest = |seed: u64| {
        let mut trials: Vec<Trial> = Vec::new();
        for _ in 0..TRIALS {
            let point = next(space, method, seed, &trials).expect("a range is never used up");
            let loss = Some(of(&point));
            trials.push(Trial { point, loss, stopped: false });
        }
        trials.iter().filter_map(|trial| trial.loss).fold(f64::INFINITY, f64::min)
    };
    let mut found: Vec<f64> = (0..SEEDS).map(lowest).collect();
    found.sort_by(f64::total_cmp);
    let half = found.len() / 2;
    f64::midpoint(found[half - 1], found[half])
}

#[test]
fn tpe_comes_as_near_to_the_minimum_as_optuna_s() {
    let fixture = include_str!("../../../../tests/parity/optuna.json");
    let optuna: Optuna = serde_json::from_str(fixture).unwrap();
    let square = Space::new(vec![dimension(-5.0, 10.0), dimension(0.0, 15.0)]);
    let cube = Space::new((0..6).map(|_| dimension(0.0, 1.0)).collect());
    for (name, space, of, theirs) in [
        ("Branin", square, branin as fn(&Point) -> f64, optuna.branin),
        ("Hartmann-6", cube, hartmann6, optuna.hartmann6),
        ("mixed", mixed_space(), mixed, optuna.mixed),
    ] {
        let [random, tpe] =
            [Method::Random, Method::Tpe].map(|method| median_regret(&space, method, of));
        eprintln!("{name}: regret {tpe:.4}, Optuna's {theirs:.4}, at random {random:.4}");
        assert!(tpe <= 1.1 * theirs, "{name}: {tpe} for {theirs}");
        assert!(tpe < random, "{name}: {tpe} and {random} at random");
    }
}

#[test]
fn the_next_trial_follows_from_the_trials_so_far_alone() {
    let space = mixed_space();
    for method in [Method::Random, Method::Sobol, Method::Tpe] {
        let mut trials: Vec<Trial> = Vec::new();
        for number in 0..30 {
            let point = next(&space, method, 7, &trials).unwrap();
            assert_eq!(next(&space, method, 7, &trials), Some(point.clone()), "{method:?}");
            assert_ne!(next(&space, method, 8, &trials), Some(point.clone()), "{method:?}");
            // Some fail, some run.
            let loss = (number % 3 > 0).then(|| mixed(&point));
            trials.push(Trial { point, loss, stopped: false });
        }
        assert!((1..30).all(|number| trials[number].point != trials[number - 1].point));
    }
}
