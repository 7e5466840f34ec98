//! Products with quantized weights against dense ones with what the weights stand for.

use anyhow::{Result, ensure};
use nccl_rs::Error;
use nccl_rs::autograd::{autocast, backward};
use nccl_rs::frozen::{Bits, Frozen};
use tch::{Device, Kind, Tensor};

use crate::ranks::assert_close;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn size(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

#[test]
fn values_stand_for_the_weight_within_half_a_step() -> Result<()> {
    tch::manual_seed(4);
    // Rows of whole groups, of groups of 64, and of groups that are not full.
    for columns in [256, 576, 50] {
        let weight = Tensor::randn([12, columns], CPU);
        let _ = weight.get(3).zero_();
        for (bits, most, bytes) in [(Bits::Eight, 127.0, 1.0), (Bits::Four, 7.0, 0.5)] {
            let frozen = Frozen::quantize(&weight, bits)?;
            let back = frozen.dequantize()?;
            ensure!((back.size(), back.kind()) == (weight.size(), Kind::Float));
            let step = weight.abs().amax([1i64], true) / most;
            let off = ((&back - &weight).abs() - step * 0.5001).max().double_value(&[]);
            ensure!(off <= 0.0, "{bits:?} of {columns}: {off} over half a step");
            ensure!(back.get(3) == weight.get(3), "a row of zeros stays one");
            let held = (size(&frozen.values) + size(&frozen.scales)) as f64 / weight.numel() as f64;
            let filled = if columns == 50 && bits == Bits::Four { 64.0 / 50.0 } else { 1.0 };
            ensure!(held < bytes * filled + 0.17, "{bits:?} of {columns}: {held} bytes a value");
        }
    }
    Ok(())
}

#[test]
fn products_and_gradients_are_those_of_the_dequantized_weight() -> Result<()> {
    tch::manual_seed(6);
    for columns in [256, 50] {
        for bits in [Bits::Eight, Bits::Four] {
            let weight = Tensor::randn([24, columns], CPU);
            let bias = Tensor::randn([24], CPU);
            let frozen = Frozen::quantize(&weight, bits)?;
            let dense = frozen.dequantize()?;
            let seed = Tensor::randn([2, 5, 24], CPU);
            let run = |own: bool, kind: Option<Kind>| -> Result<(Tensor, Tensor)> {
                tch::manual_seed(7);
                let input = Tensor::randn([2, 5, columns], CPU).set_requires_grad(true);
                let make = || {
                    if own {
                        frozen.linear(&input, Some(&bias)).unwrap()
                    } else {
                        input.linear(&dense, Some(&bias))
                    }
                };
                let output =
                    kind.map_or_else(&make, |kind| autocast(Device::Cpu, kind, make).unwrap());
                backward(&[&output], &[Some(&seed.to_kind(output.kind()))], false)?;
                Ok((output.detach(), input.grad()))
            };
            for (kind, tolerance) in [(None, 1e-5), (Some(Kind::BFloat16), 1e-6)] {
                let (have, want) = (run(true, kind)?, run(false, kind)?);
                ensure!(have.0.kind() == want.0.kind());
                let scale = want.0.abs().max().to_kind(Kind::Float).double_value(&[]);
                assert_close(&have.0, &want.0, tolerance * scale)?;
                assert_close(&have.1, &want.1, tolerance * scale)?;
            }
        }
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() -> Result<()> {
    let frozen = Frozen::quantize(&Tensor::ones([4, 64], CPU), Bits::Four)?;
    let bias = Tensor::ones([5], CPU);
    for outcome in [
        frozen.linear(&Tensor::ones([2, 63], CPU), None),
        frozen.linear(&Tensor::ones([2, 64], CPU), Some(&bias)),
        Frozen::quantize(&bias, Bits::Eight).map(|frozen| frozen.values),
    ] {
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    }
    Ok(())
}
