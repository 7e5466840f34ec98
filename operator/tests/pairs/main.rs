//! Pairs of specs: a user writes A, then B, then A again.
//!
//! Of each pair, the API server's rules ([`admission`]) refuse a spec, or the operator comes to rest
//! and says how the object stands; a spec that it does not accept changes nothing; B after A is
//! as B alone; and A after B is as A was. [`fields`] checks that no field is ignored.
//!
//! `HEARTH_PAIRS` is how many pairs there are in all: 10,000 take a core 85 s. `HEARTH_PAIRS_SEED` draws
//! others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod admission;
mod cluster;
#[path = "../it/common/mod.rs"]
mod common;
mod edits;
mod fields;
mod life;
mod surroundings;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tokio::runtime::Runtime;

use admission::Admission;
use cluster::Gateway;
use edits::{Edits, pairs};
use life::{Kind, Planted, Stage, Way, live};

/// Pairs in all where nobody asks for more.
const PAIRS: u32 = 5_000;

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

/// A runtime, and the surroundings of objects of one kind.
fn stage(kind: Kind, address: &'static str) -> (Runtime, Stage) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let gateway = runtime.block_on(Gateway::start(address));
    let stage = Stage { kind, admission: Admission::of(kind.name()), gateway, planted: None };
    (runtime, stage)
}

/// Runs a share of the pairs; at least `least` percent of them are carried out, both A and B.
fn run(kind: Kind, address: &'static str, percent: u32, least: u32) {
    let (runtime, stage) = stage(kind, address);
    let cases = number("HEARTH_PAIRS", PAIRS) * percent / 100;
    let ways = draw(&runtime, &stage, cases).unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{cases} pairs of {}: {ways:?}", kind.name());
    let carried_out = ways.get(&Way::CarriedOut).copied().unwrap_or_default();
    assert!(carried_out * 100 >= cases * least, "too few pairs are carried out: {ways:?}");
}

/// Runs so many pairs; how many came how far, or the least pair that fails, with its seed.
fn draw(runtime: &Runtime, stage: &Stage, cases: u32) -> Result<BTreeMap<Way, u32>, String> {
    let seed = number("HEARTH_PAIRS_SEED", 1);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let ways = RefCell::new(BTreeMap::<Way, u32>::new());
    let failed =
        TestRunner::new_with_rng(config, rng).run(&pairs(&Edits::of(stage.kind)), |pair| {
            let way =
                runtime.block_on(live(stage, &pair.a, &pair.b)).map_err(TestCaseError::fail)?;
            *ways.borrow_mut().entry(way).or_default() += 1;
            Ok(())
        });
    failed.map_err(|error| format!("HEARTH_PAIRS_SEED={seed}: {error}"))?;
    Ok(ways.into_inner())
}

#[test]
fn training_jobs_go_there_and_back() {
    run(Kind::TrainingJob, "127.90.91.1", 50, 8);
}

#[test]
fn sweeps_go_there_and_back() {
    run(Kind::Sweep, "127.90.91.2", 15, 20);
}

#[test]
fn deployments_go_there_and_back() {
    run(Kind::ModelDeployment, "127.90.91.3", 35, 20);
}

/// That the test can fail.
#[test]
fn what_is_left_of_b_is_found_with_the_least_pair() {
    let (runtime, mut stage) = stage(Kind::ModelDeployment, "127.90.91.4");
    stage.planted = Some(Planted::Leaves);
    let said = draw(&runtime, &stage, 100).unwrap_err();
    assert!(said.contains("children of A differ:\n  .configmaps/it-left"), "{said}");
    assert!(said.contains("HEARTH_PAIRS_SEED=1") && said.contains("\nA: {"), "{said}");
}
