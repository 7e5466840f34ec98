//! The int8 linear against f32, and the rounding against its definition.

use anyhow::{Result, ensure};
use nccl_rs::Error;
use nccl_rs::qlinear::{ActivationBits, QLinear, activation_bits, quantize_rows, quantize_weight};
use tch::{Device, Kind, Tensor};

use crate::ranks::assert_close;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// The error's size over the output's, both as 2-norms.
fn relative_error(have: &Tensor, want: &Tensor) -> f64 {
    ((have - want).norm() / want.norm()).double_value(&[])
}

#[test]
fn the_product_is_within_the_stated_error_of_f32() -> Result<()> {
    tch::manual_seed(5);
    let (out, inner) = (1024, 576);
    let weight = Tensor::randn([out, inner], CPU) * 0.05;
    let bias = Tensor::randn([out], CPU);
    let (values, scale) = quantize_weight(&weight)?;
    let layer = QLinear::new(&values, &scale, Some(&bias))?;
    let stated = match activation_bits()? {
        ActivationBits::Seven => 0.02,
        ActivationBits::Eight => 0.0125,
    };
    for shape in [&[1, inner][..], &[2, 3, inner], &[33, inner], &[256, inner]] {
        let input = Tensor::randn(shape, CPU) * 3.0;
        let want = input.linear(&weight, Some(&bias));
        let have = layer.forward(&input)?;
        ensure!(have.size() == want.size() && have.kind() == Kind::Float);
        let error = relative_error(&have, &want);
        eprintln!("{:?} {shape:?}: relative error {error:.4}", activation_bits()?);
        ensure!(error < stated && error > 1e-4, "relative error {error} for {shape:?}");
    }
    Ok(())
}

#[test]
fn the_product_of_integers_is_exact() -> Result<()> {
    // Inputs that quantize without rounding: whole multiples of a row's scale.
    tch::manual_seed(6);
    let limit = i64::from(activation_bits()?.limit());
    let integers = Tensor::randint_low(-limit, limit + 1, [17, 96], CPU);
    let _ = integers.select(1, 0).fill_(limit);
    let weight = Tensor::randint_low(-127, 128, [40, 96], CPU);
    let layer = QLinear::new(&weight.to_kind(Kind::Int8), &Tensor::ones([40], CPU), None)?;
    let row_scale = (Tensor::arange(17, CPU) + 1.0).reshape([17, 1]);
    let want = integers.matmul(&weight.tr()) * &row_scale;
    let have = layer.forward(&(integers * row_scale))?;
    ensure!(relative_error(&have, &want) < 1e-6);
    Ok(())
}

#[test]
fn rows_are_rounded_to_their_own_scale() -> Result<()> {
    tch::manual_seed(7);
    for bits in [ActivationBits::Seven, ActivationBits::Eight] {
        let rows = Tensor::randn([9, 77], CPU) * (Tensor::arange(9, CPU) + 0.5).reshape([9, 1]);
        let quantized = quantize_rows(&rows, bits)?;
        let scales = rows.abs().amax([1i64], true) / f64::from(bits.limit());
        assert_close(&quantized.scales, &scales.squeeze_dim(1), 1e-6)?;
        let centred = quantized.values.to_kind(Kind::Float) - quantized.zero_point as f64;
        ensure!(centred.abs().max().double_value(&[]) <= f64::from(bits.limit()));
        let steps = (centred * &scales - &rows) / &scales;
        ensure!(steps.abs().max().double_value(&[]) < 0.5 + 1e-4, "off by more than half a step");
    }
    Ok(())
}

#[test]
fn zero_and_broken_rows_keep_their_meaning() -> Result<()> {
    let (values, scale) = quantize_weight(&Tensor::ones([4, 8], CPU))?;
    let layer = QLinear::new(&values, &scale, None)?;
    let input = Tensor::ones([4, 8], CPU);
    let _ = input.get(0).fill_(0.0);
    let _ = input.get(1).get(3).fill_(f64::NAN);
    let _ = input.get(2).get(3).fill_(f64::INFINITY);
    let output = layer.forward(&input)?;
    ensure!(output.get(0).abs().max().double_value(&[]) < f64::MIN_POSITIVE);
    ensure!(output.get(1).isfinite().any().int64_value(&[]) == 0, "a NaN was lost");
    ensure!(output.get(2).isfinite().any().int64_value(&[]) == 0, "an infinity was lost");
    assert_close(&output.get(3), &Tensor::full([4], 8.0, CPU), 1e-4)?;

    let (values, scale) = quantize_weight(&Tensor::zeros([2, 3], CPU))?;
    ensure!(
        values.abs().max().int64_value(&[]) == 0
            && scale.max().double_value(&[]) < f64::MIN_POSITIVE
    );
    Ok(())
}

#[test]
fn no_rows_give_no_rows() -> Result<()> {
    let (values, scale) = quantize_weight(&Tensor::ones([4, 8], CPU))?;
    let layer = QLinear::new(&values, &scale, None)?;
    ensure!(layer.forward(&Tensor::ones([0, 8], CPU))?.size() == [0, 4]);
    Ok(())
}

#[test]
fn unfit_weights_and_inputs_are_refused() -> Result<()> {
    let weight = Tensor::ones([4, 8], (Kind::Int8, Device::Cpu));
    let scale = Tensor::ones([4], CPU);
    let layer = QLinear::new(&weight, &scale, None)?;
    let refused = |outcome: Result<Tensor, Error>| match outcome {
        Err(Error::InvalidTensor { .. }) => Ok(()),
        other => anyhow::bail!("{other:?}"),
    };
    refused(layer.forward(&Tensor::ones([2, 7], CPU)))?;
    refused(layer.forward(&Tensor::ones([2, 8], (Kind::Double, Device::Cpu))))?;
    refused(layer.forward(&Tensor::from(1.0f32)))?;
    for (weight, scale) in [
        (weight.to_kind(Kind::Float), scale.shallow_clone()),
        (weight.tr(), scale.shallow_clone()),
        (weight.shallow_clone(), Tensor::ones([8], CPU)),
    ] {
        ensure!(matches!(QLinear::new(&weight, &scale, None), Err(Error::InvalidTensor { .. })));
    }
    Ok(())
}
