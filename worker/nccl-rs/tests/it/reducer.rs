//! Two ranks with a batch each against one rank with both batches.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nccl_rs::{Error, GroupOptions, ReduceOp, Reducer, ReducerOptions, waited};
use tch::{Device, Kind, Tensor};

use crate::ranks::{self, Member, assert_close};

const BATCH: i64 = 6;
const WIDTHS: [i64; 4] = [16, 24, 24, 8];

/// A perceptron with the same weights in every process.
fn model() -> Vec<(String, Tensor)> {
    let mut parameters = Vec::new();
    for (layer, width) in WIDTHS.windows(2).enumerate() {
        let weight = wave(&[width[1], width[0]], layer as f64) * 0.3;
        let bias = wave(&[width[1]], layer as f64 + 0.5) * 0.1;
        parameters.push((format!("{layer}.weight"), weight.set_requires_grad(true)));
        parameters.push((format!("{layer}.bias"), bias.set_requires_grad(true)));
    }
    parameters
}

/// Numbers without a generator's state, different enough to find mix-ups.
fn wave(shape: &[i64], phase: f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    ((Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7 + phase).sin()).reshape(shape)
}

/// The micro-batch `index` of rank `rank`.
fn inputs(rank: usize, index: usize) -> Tensor {
    wave(&[BATCH, WIDTHS[0]], 10.0 * rank as f64 + 3.0 * index as f64)
}

fn loss(parameters: &[(String, Tensor)], input: &Tensor) -> Tensor {
    let mut x = input.shallow_clone();
    for layer in parameters.chunks(2) {
        x = x.linear(&layer[0].1, Some(&layer[1].1)).tanh();
    }
    x.square().mean(Kind::Float)
}

fn gradients(parameters: &[(String, Tensor)]) -> Vec<Tensor> {
    parameters.iter().map(|(_, tensor)| tensor.grad().copy()).collect()
}

fn clear(parameters: &[(String, Tensor)]) {
    for (_, tensor) in parameters {
        let _ = tensor.grad().zero_();
    }
}

/// The gradients of one rank whose batch is all ranks' together.
fn reference(batches: &[Tensor]) -> Vec<Tensor> {
    let parameters = model();
    loss(&parameters, &Tensor::cat(batches, 0)).backward();
    gradients(&parameters)
}

fn assert_equal(have: &[Tensor], want: &[Tensor]) -> Result<()> {
    have.iter().zip(want).try_for_each(|(have, want)| assert_close(have, want, 1e-6))
}

/// Buckets so small that the model needs several.
fn small_buckets(gradient_as_bucket_view: bool) -> ReducerOptions {
    ReducerOptions {
        bucket_bytes: 2048,
        first_bucket_bytes: 512,
        gradient_as_bucket_view,
        ..Default::default()
    }
}

#[test]
fn two_ranks_with_a_batch_each_equal_one_with_both() -> Result<()> {
    ranks::run("reducer::two_ranks_with_a_batch_each_equal_one_with_both", 2, |rank| {
        for view in [true, false] {
            let mut group = rank
                .group_with(&GroupOptions { name: format!("view {view}"), ..Default::default() })?;
            let parameters = model();
            let mut reducer = Reducer::new(&parameters, &mut group, &small_buckets(view))?;
            ensure!(reducer.bucket_count() > 2, "{} buckets", reducer.bucket_count());
            for step in 0..3 {
                reducer.backward(&loss(&parameters, &inputs(rank.rank, step)))?;
                let want = reference(&[inputs(0, step), inputs(1, step)]);
                assert_equal(&gradients(&parameters), &want)?;
                clear(&parameters);
            }
            drop(reducer);
            group.shutdown()?;
        }
        Ok(())
    })
}

#[test]
fn accumulation_without_sync_is_one_reduction() -> Result<()> {
    ranks::run("reducer::accumulation_without_sync_is_one_reduction", 2, |rank| {
        for view in [true, false] {
            let mut group = rank
                .group_with(&GroupOptions { name: format!("view {view}"), ..Default::default() })?;
            let parameters = model();
            let mut reducer = Reducer::new(&parameters, &mut group, &small_buckets(view))?;
            for _step in 0..2 {
                // Two micro-batches of B, and their mean, are one batch of 2B.
                reducer.backward_no_sync(&(loss(&parameters, &inputs(rank.rank, 0)) / 2.0))?;
                let alone: Vec<Tensor> =
                    reference(&[inputs(rank.rank, 0)]).iter().map(|g| g / 2.0).collect();
                assert_equal(&gradients(&parameters), &alone)?;

                reducer.backward(&(loss(&parameters, &inputs(rank.rank, 1)) / 2.0))?;
                let all = [inputs(0, 0), inputs(0, 1), inputs(1, 0), inputs(1, 1)];
                assert_equal(&gradients(&parameters), &reference(&all))?;
                clear(&parameters);
            }
            drop(reducer);
            group.shutdown()?;
        }
        Ok(())
    })
}

#[test]
fn ranks_hold_the_same_bits() -> Result<()> {
    ranks::run("reducer::ranks_hold_the_same_bits", 3, |rank| {
        let mut group = rank.group()?;
        let parameters = model();
        let mut reducer = Reducer::new(&parameters, &mut group, &small_buckets(true))?;
        reducer.backward(&loss(&parameters, &inputs(rank.rank, 0)))?;
        for gradient in gradients(&parameters) {
            let everyone = group.all_gather(&gradient)?;
            ensure!((0..3).all(|r| everyone.get(r) == gradient));
        }
        drop(reducer);
        Ok(group.shutdown()?)
    })
}

/// Rank 0 trains a model whose backward makes the head's gradient first, then
/// computes for long, then makes the stem's. Rank 1 answers with two all-reduces
/// of its own and tells how far apart they ended: about that computation when the
/// head's bucket travels meanwhile, and next to nothing when both wait for the end.
fn reduces_during_backward(rank: &Member) -> Result<()> {
    const WIDTH: i64 = 384;
    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
    let mut group = rank.group_with(&GroupOptions {
        // Rank 1 stands in for a reducer, which does not announce its buckets.
        check_agreement: false,
        ..Default::default()
    })?;
    if rank.rank == 1 {
        let mut bucket = || group.all_reduce_async(Tensor::zeros([WIDTH], CPU), ReduceOp::Sum);
        let (head, stem) = (bucket()?, bucket()?);
        drop(head.wait()?);
        let head_ended = Instant::now();
        drop(stem.wait()?);
        let gap = head_ended.elapsed().as_secs_f64();
        rank.store.set("gap", &gap.to_le_bytes())?;
        return Ok(group.shutdown()?);
    }
    let stem = Tensor::zeros([WIDTH], CPU).set_requires_grad(true);
    let head = Tensor::ones([WIDTH], CPU).set_requires_grad(true);
    let (input, frozen) = (wave(&[WIDTH, WIDTH], 0.0), wave(&[WIDTH, WIDTH], 1.0) / 20.0);
    let loss = || {
        let deep = (0..24).fold(&input + &stem, |x, _| x.matmul(&frozen).tanh());
        (deep * &head).mean(Kind::Float)
    };
    let named =
        [("stem".to_owned(), stem.shallow_clone()), ("head".to_owned(), head.shallow_clone())];
    let mut reducer = Reducer::new(&named, &mut group, &small_buckets(true))?;
    ensure!(reducer.bucket_count() == 2);
    let mut computation = f64::MAX;
    for _ in 0..3 {
        let loss = loss();
        let begun = Instant::now();
        reducer.backward_no_sync(&loss)?;
        computation = computation.min(begun.elapsed().as_secs_f64());
    }
    reducer.backward(&loss())?;
    let gap = f64::from_le_bytes(rank.store.get("gap")?.try_into().expect("8 bytes"));
    eprintln!("backward takes {computation:.4} s, the buckets ended {gap:.4} s apart");
    ensure!(gap > computation * 0.3, "{gap} s apart, in {computation} s of backward");
    drop(reducer);
    Ok(group.shutdown()?)
}

#[test]
fn the_first_bucket_travels_while_backward_goes_on() -> Result<()> {
    ranks::run(
        "reducer::the_first_bucket_travels_while_backward_goes_on",
        2,
        reduces_during_backward,
    )
}

#[test]
fn tchs_own_backward_reduces_after_prepare() -> Result<()> {
    ranks::run("reducer::tchs_own_backward_reduces_after_prepare", 2, |rank| {
        let mut group = rank.group()?;
        let parameters = model();
        let mut reducer = Reducer::new(&parameters, &mut group, &small_buckets(true))?;
        let loss = loss(&parameters, &inputs(rank.rank, 0));
        reducer.prepare_for_backward(&[&loss])?;
        loss.f_backward()?;
        assert_equal(&gradients(&parameters), &reference(&[inputs(0, 0), inputs(1, 0)]))?;
        drop(reducer);
        Ok(group.shutdown()?)
    })
}

#[test]
fn an_unused_parameter_is_an_error_unless_looked_for() -> Result<()> {
    ranks::run("reducer::an_unused_parameter_is_an_error_unless_looked_for", 2, |rank| {
        for look in [false, true] {
            let mut group = rank
                .group_with(&GroupOptions { name: format!("look {look}"), ..Default::default() })?;
            let mut parameters = model();
            let idle = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
            parameters.push(("idle".to_owned(), idle));
            let options = ReducerOptions { find_unused_parameters: look, ..small_buckets(true) };
            let mut reducer = Reducer::new(&parameters, &mut group, &options)?;
            let used = &parameters[..parameters.len() - 1];
            let outcome = reducer.backward(&loss(used, &inputs(rank.rank, 0)));
            if look {
                outcome?;
                assert_equal(&gradients(used), &reference(&[inputs(0, 0), inputs(1, 0)]))?;
            } else {
                let error = outcome.unwrap_err().to_string();
                ensure!(error.contains("did not receive grad"), "{error}");
            }
        }
        Ok(())
    })
}

#[test]
fn unlike_models_and_frozen_parameters_are_refused() -> Result<()> {
    ranks::run("reducer::unlike_models_and_frozen_parameters_are_refused", 2, |rank| {
        let mut group = rank.group()?;
        let mut parameters = model();
        if rank.rank == 1 {
            parameters.pop();
        }
        let error = Reducer::new(&parameters, &mut group, &small_buckets(true)).unwrap_err();
        ensure!(matches!(error, Error::Mismatch { .. }), "{error:?}");
        ensure!(error.to_string().contains("5 tensors"), "{error}");

        let frozen = [("frozen".to_owned(), Tensor::ones([2], (Kind::Float, Device::Cpu)))];
        let error = Reducer::new(&frozen, &mut group, &small_buckets(true)).unwrap_err();
        ensure!(error.to_string().contains("parameter frozen"), "{error}");
        let error = Reducer::new(&[], &mut group, &small_buckets(true)).unwrap_err();
        ensure!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
        Ok(group.shutdown()?)
    })
}

/// What of a call is waiting for the other rank, which is late by a second where `late` says so.
fn wait_in(late: bool, call: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
    if late {
        std::thread::sleep(Duration::from_secs(1));
    }
    let before = waited();
    call()?;
    Ok(waited().saturating_sub(before))
}

#[test]
fn the_wait_for_a_late_rank_is_the_others() -> Result<()> {
    ranks::run("reducer::the_wait_for_a_late_rank_is_the_others", 2, |rank| {
        let mut group = rank.group()?;
        let parameters = model();
        let mut reducer = Reducer::new(&parameters, &mut group, &small_buckets(true))?;
        let input = inputs(rank.rank, 0);
        let mut backward = || Ok(reducer.backward(&loss(&parameters, &input))?);
        wait_in(false, &mut backward)?;
        let in_backward = wait_in(rank.rank == 1, &mut backward)?;
        let mut one = Tensor::ones([1], (Kind::Float, Device::Cpu));
        let in_sum =
            wait_in(rank.rank == 0, &mut || Ok(group.all_reduce(&mut one, ReduceOp::Sum)?))?;
        for (what, wait, waits) in
            [("backward", in_backward, rank.rank == 0), ("sum", in_sum, rank.rank == 1)]
        {
            let right = if waits { wait.as_millis() > 700 } else { wait.as_millis() < 300 };
            ensure!(right, "rank {} waited {wait:?} in its {what}", rank.rank);
        }
        Ok(group.shutdown()?)
    })
}
