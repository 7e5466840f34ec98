//! Products with weights held in bf16, int8 and int4 against libtorch's in f64.

use nccl_rs::narrow::{Level, Narrow};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const LEVELS: [Level; 3] = [Level::Portable, Level::Avx2, Level::Avx512];

/// Rows, columns and depths that fill vectors, tiles and groups, and that do not.
const SHAPES: [[i64; 3]; 8] = [
    [1, 1, 1],
    [1, 64, 64],
    [2, 7, 33],
    [3, 33, 16],
    [4, 31, 48],
    [5, 70, 100],
    [9, 130, 576],
    [64, 257, 128],
];

/// A layer, and the weight that it stands for.
struct Held {
    layer: Narrow,
    weight: Tensor,
}

fn whole(outputs: i64, inputs: i64, low: i64, high: i64) -> Tensor {
    Tensor::randint_low(low, high, [outputs, inputs], (Kind::Int8, Device::Cpu))
}

/// Every way to hold a weight of these sizes.
fn held(outputs: i64, inputs: i64, bias: Option<&Tensor>) -> nccl_rs::Result<Vec<Held>> {
    let bf16 = Tensor::randn([outputs, inputs], CPU).to_kind(Kind::BFloat16);
    let mut all = vec![Held { layer: Narrow::halves(&bf16, bias)?, weight: bf16 }];
    let (int8, int4) = (whole(outputs, inputs, -127, 128), whole(outputs, inputs, -8, 8));
    let scale = Tensor::rand([outputs], CPU) + 0.1;
    for (layer, values) in
        [(Narrow::bytes(&int8, &scale, bias), &int8), (Narrow::nibbles(&int4, &scale, bias), &int4)]
    {
        all.push(Held { layer: layer?, weight: values * scale.view([-1, 1]) });
    }
    for group in [32, 64, 256].into_iter().filter(|group| inputs % group == 0) {
        let exact = Tensor::rand([outputs, inputs / group], CPU) + 0.1;
        for scale in [exact.to_kind(Kind::Half).to_kind(Kind::Float), exact] {
            let spread = scale.repeat_interleave_self_int(group, 1, inputs);
            for (layer, values) in [
                (Narrow::bytes(&int8, &scale, bias), &int8),
                (Narrow::nibbles(&int4, &scale, bias), &int4),
            ] {
                all.push(Held { layer: layer?, weight: values * &spread });
            }
        }
    }
    Ok(all)
}

#[test]
fn products_are_those_of_the_widened_weight() {
    tch::manual_seed(3);
    for [rows, outputs, inputs] in SHAPES {
        let input = Tensor::randn([rows, inputs], CPU);
        let bias = Tensor::randn([outputs], CPU);
        for (nth, held) in held(outputs, inputs, Some(&bias)).unwrap().iter().enumerate() {
            let weight = held.weight.to_kind(Kind::Double).transpose(0, 1);
            let want = input.to_kind(Kind::Double).matmul(&weight) + &bias;
            let size = want.abs().max().double_value(&[]).max(1.0);
            for level in LEVELS {
                let got = held.layer.forward_at(&input.view([1, rows, inputs]), level).unwrap();
                assert_eq!(got.size(), [1, rows, outputs]);
                let gap = (got.view([rows, outputs]) - &want).abs().max().double_value(&[]);
                let shape = [rows, outputs, inputs];
                assert!(gap <= 1e-4 * size, "{nth} {level:?} {shape:?}: {gap:e} of {size:e}");
            }
        }
    }
}

#[test]
fn a_row_s_product_does_not_depend_on_its_company() {
    tch::manual_seed(4);
    let input = Tensor::randn([7, 192], CPU);
    for held in held(50, 192, None).unwrap() {
        for level in LEVELS {
            let together = held.layer.forward_at(&input, level).unwrap();
            for row in 0..7 {
                let alone = held.layer.forward_at(&input.narrow(0, row, 1), level).unwrap();
                assert_eq!(alone, together.narrow(0, row, 1), "row {row}");
            }
        }
    }
}

#[test]
fn what_stands_out_takes_nothing_from_other_groups() {
    let mut input = Tensor::ones([1, 256], CPU);
    let _ = input.narrow(1, 200, 1).fill_(1e6);
    let weight = Tensor::ones([1, 256], (Kind::Int8, Device::Cpu));
    let _ = weight.narrow(1, 200, 1).zero_();
    let layer = Narrow::bytes(&weight, &Tensor::ones([1], CPU), None).unwrap();
    let got = layer.forward(&input).unwrap().double_value(&[0, 0]);
    // The group of 128 columns that it is in is lost, and no other.
    assert!((got - 128.0).abs() < 1e-3, "{got}");
    input = input.clamp(-1.0, 1.0);
    let got = layer.forward(&input).unwrap().double_value(&[0, 0]);
    assert!((got - 255.0).abs() < 1e-2, "{got}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let weight = Tensor::zeros([4, 8], (Kind::BFloat16, Device::Cpu));
    let layer = Narrow::halves(&weight, None).unwrap();
    for input in [Tensor::zeros([2, 7], CPU), Tensor::zeros([2, 8], (Kind::Double, Device::Cpu))] {
        assert!(layer.forward(&input).unwrap_err().to_string().contains("[.., 8] of f32"));
    }
    for weight in [Tensor::zeros([4, 8], CPU), Tensor::zeros([4], (Kind::Int8, Device::Cpu))] {
        assert!(Narrow::halves(&weight, None).is_err());
    }
    let bytes = Tensor::zeros([4, 96], (Kind::Int8, Device::Cpu));
    for scale in [&[3][..], &[4, 2], &[4, 5], &[4, 0]] {
        assert!(Narrow::bytes(&bytes, &Tensor::zeros(scale, CPU), None).is_err(), "{scale:?}");
    }
}
