//! Fused operators against the same formulas in plain tensor code.

use anyhow::{Result, ensure};
use nccl_rs::Error;
use nccl_rs::autograd::backward;
use nccl_rs::fused::{dropout, philox, rms_norm, rotary};
use tch::{Device, Kind, Tensor};

use crate::ranks::assert_close;

fn leaf(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind).set_requires_grad(true)
}

/// A copy in f64, whose rounding does not count.
fn exact(tensor: &Tensor) -> Tensor {
    tensor.detach().to_kind(Kind::Double).set_requires_grad(true)
}

fn compare(have: &Tensor, want: &Tensor, kind: Kind) -> Result<()> {
    ensure!(have.kind() == kind);
    let scale = want.detach().abs().max().double_value(&[]);
    let tolerance = scale.max(1.0) * if kind == Kind::Float { 2e-6 } else { 8e-3 };
    assert_close(&have.detach().to_kind(Kind::Double), &want.detach(), tolerance)
}

#[test]
fn rms_norm_equals_the_formula() -> Result<()> {
    tch::manual_seed(2);
    for kind in [Kind::Float, Kind::BFloat16] {
        for shape in [&[3, 5, 576][..], &[7, 19], &[1], &[300, 128], &[0, 8]] {
            let (x, weight) = (leaf(shape, kind), leaf(&shape[shape.len() - 1..], kind));
            let (x64, weight64) = (exact(&x), exact(&weight));
            let have = rms_norm(&x, &weight, 1e-5)?;
            let mean = x64.square().mean_dim(-1, true, Kind::Double);
            let want = &x64 * (mean + 1e-5).rsqrt() * &weight64;
            let seed = Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            backward(&[&have], &[Some(&seed)], false)?;
            backward(&[&want], &[Some(&seed.to_kind(Kind::Double))], false)?;
            if shape[0] == 0 {
                ensure!(weight.grad() == weight.grad().zeros_like());
                continue;
            }
            compare(&have, &want, kind)?;
            compare(&x.grad(), &x64.grad(), kind)?;
            compare(&weight.grad(), &weight64.grad(), kind)?;
        }
    }
    let x = leaf(&[2, 4], Kind::Float);
    for (x, weight) in [
        (x.tr(), leaf(&[2], Kind::Float)),
        (x.shallow_clone(), leaf(&[2], Kind::Float)),
        (x.shallow_clone(), leaf(&[4], Kind::BFloat16)),
        (x.to_kind(Kind::Double), leaf(&[4], Kind::Double)),
    ] {
        let outcome = rms_norm(&x, &weight, 1e-5);
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    }
    Ok(())
}

#[test]
fn rotary_equals_the_formula() -> Result<()> {
    tch::manual_seed(3);
    for kind in [Kind::Float, Kind::BFloat16] {
        // As projections give heads, [B, T, H, D], and apart from one another.
        let flat = leaf(&[2, 6, 3, 48], kind);
        let flat64 = exact(&flat);
        let angles = Tensor::randn([6, 20], (Kind::Float, Device::Cpu)) * 3.0;
        let (cos, sin) = (angles.cos(), angles.sin());
        let heads = |flat: &Tensor| flat.transpose(1, 2).narrow(3, 0, 40);
        let have = rotary(&heads(&flat), &cos, &sin)?;
        let (first, second) = (heads(&flat64).narrow(3, 0, 20), heads(&flat64).narrow(3, 20, 20));
        let want =
            Tensor::cat(&[&first * &cos - &second * &sin, &second * &cos + &first * &sin], 3);
        let seed = Tensor::randn([2, 3, 6, 40], (Kind::Float, Device::Cpu)).to_kind(kind);
        backward(&[&have], &[Some(&seed)], false)?;
        backward(&[&want], &[Some(&seed.to_kind(Kind::Double))], false)?;
        compare(&have, &want, kind)?;
        compare(&flat.grad(), &flat64.grad(), kind)?;

        for (x, cos) in [
            (heads(&flat).transpose(2, 3), cos.shallow_clone()),
            (heads(&flat), cos.narrow(0, 0, 5)),
            (heads(&flat), cos.to_kind(Kind::BFloat16)),
            (flat.narrow(3, 0, 41), cos.shallow_clone()),
            (flat.select(0, 0), cos.shallow_clone()),
        ] {
            let outcome = rotary(&x, &cos, &sin);
            ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
        }
        // One head for all, expanded.
        let shared = leaf(&[1, 1, 6, 40], kind).expand([2, 3, 6, 40], false);
        let turned = rotary(&shared, &cos, &sin)?;
        ensure!(turned.select(1, 0) == turned.select(1, 2));
    }
    Ok(())
}

#[test]
fn philox_gives_the_numbers_of_its_authors() {
    // kat_vectors of Random123, those whose upper half of the counter is 0.
    assert_eq!(philox(0, 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_ne!(philox(1, 0), philox(0, 0));
    assert_ne!(philox(0, 1), philox(0, 0));
}

#[test]
fn dropout_zeroes_a_share_scales_the_rest_and_does_the_same_in_backward() -> Result<()> {
    for kind in [Kind::Float, Kind::BFloat16] {
        let ones = || Tensor::ones([313, 331], (kind, Device::Cpu)).set_requires_grad(true);
        let drawn = |seed: i64, threads: i32| -> Result<(Tensor, Tensor)> {
            tch::set_num_threads(threads);
            tch::manual_seed(seed);
            let x = ones();
            let y = dropout(&x, 0.25)?;
            backward(&[&y], &[Some(&(ones().detach() * 3.0))], false)?;
            Ok((y.detach().to_kind(Kind::Float), x.grad().to_kind(Kind::Float)))
        };
        let (y, gradient) = drawn(7, 2)?;
        let dropped = y.eq(0.0).to_kind(Kind::Float);
        let share = dropped.mean(Kind::Double).double_value(&[]);
        ensure!((share - 0.25).abs() < 0.005, "{share}");
        // Neighbours know nothing of each other: along rows and columns both go together in p^2.
        for (a, b) in [
            (dropped.narrow(1, 0, 330), dropped.narrow(1, 1, 330)),
            (dropped.narrow(0, 0, 312), dropped.narrow(0, 1, 312)),
        ] {
            let both = (a * b).mean(Kind::Double).double_value(&[]);
            ensure!((both - 0.0625).abs() < 0.005, "{both}");
        }
        let kept = y.max().double_value(&[]);
        ensure!((kept - 4.0 / 3.0).abs() < 0.01, "{kept}");
        ensure!(gradient.allclose(&(&y * 3.0), 0.01, 0.0, false));
        ensure!(drawn(7, 1)?.0 == y && drawn(8, 1)?.0 != y);
    }
    let x = leaf(&[5, 7], Kind::Float);
    tch::manual_seed(1);
    let turned = dropout(&x.tr(), 0.5)?;
    ensure!(turned.size() == [7, 5]);
    ensure!(dropout(&x, 0.0)?.allclose(&x, 0.0, 0.0, false));
    ensure!(dropout(&leaf(&[0, 3], Kind::Float), 0.5)?.size() == [0, 3]);
    ensure!(matches!(dropout(&x, 1.0), Err(Error::InvalidArgument(_))));
    ensure!(matches!(dropout(&x.to_kind(Kind::Double), 0.5), Err(Error::InvalidTensor { .. })));
    Ok(())
}
