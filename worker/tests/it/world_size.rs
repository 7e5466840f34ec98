//! Two ranks with batch B compute what one rank with batch 2B computes.

use crate::fixture::Fixture;
use crate::gang::Gang;

const STEPS: i64 = 50;

fn losses(fixture: &Fixture, ranks: usize, batch: u32, accumulation: u32) -> Vec<(i64, f64)> {
    let output = format!("world-{ranks}-{batch}-{accumulation}");
    let config = fixture.config(&output, |config| {
        config["training"]["perDeviceTrainBatchSize"] = batch.into();
        config["training"]["gradientAccumulationSteps"] = accumulation.into();
        config["training"]["maxSteps"] = STEPS.into();
        config["training"]["saveStrategy"] = "No".into();
    });
    Gang::run(&config, ranks).succeeded().losses()
}

fn farthest(a: &[(i64, f64)], b: &[(i64, f64)]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a.1 - b.1).abs()).fold(0.0, f64::max)
}

#[test]
fn two_ranks_with_batch_b_equal_one_rank_with_2b() {
    let fixture = Fixture::new(0.0);
    // 96 rows: the epoch's last global batch of 20 is short, by 16 rows.
    let one = losses(&fixture, 1, 20, 1);
    let two = losses(&fixture, 2, 10, 1);
    assert_eq!(
        one.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        (1..=STEPS).collect::<Vec<_>>()
    );
    let gap = farthest(&one, &two);
    assert!(gap <= 1e-5, "losses differ by {gap:e}");
    // The model learns, so the losses say something.
    let fell = one[0].1 - one.last().unwrap().1;
    assert!(fell > 0.2, "the loss fell by {fell} only");
    // The check can fail: another batch makes other losses.
    assert!(farthest(&one, &losses(&fixture, 1, 16, 1)) > 1e-3);
}

#[test]
fn accumulation_changes_rounding_only() {
    let fixture = Fixture::new(0.0);
    let whole = losses(&fixture, 1, 20, 1);
    let gap = farthest(&whole, &losses(&fixture, 1, 5, 4));
    assert!(gap <= 1e-5, "losses differ by {gap:e}");
    let gap = farthest(&whole, &losses(&fixture, 2, 5, 2));
    assert!(gap <= 1e-5, "losses differ by {gap:e}");
}

#[test]
fn a_global_batch_smaller_than_the_gang_still_trains() {
    let fixture = Fixture::new(0.0);
    // 97 rows in global batches of 16: the last of an epoch holds one row, and
    // the second rank none.
    fixture.write("train.jsonl", &crate::fixture::rows(97));
    for (batch, accumulation) in [(8, 1), (2, 4)] {
        let two = losses(&fixture, 2, batch, accumulation);
        let gap = farthest(&two, &losses(&fixture, 1, 16, 1));
        assert!(gap <= 1e-5, "losses differ by {gap:e}");
    }
}
