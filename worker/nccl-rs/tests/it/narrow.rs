//! Products with weights held in bf16 and int8 against libtorch's in f64.

use nccl_rs::narrow::Narrow;
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Rows, columns and depths that fill vectors and tiles, and that do not.
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

fn weights(outputs: i64, inputs: i64) -> [(Tensor, Option<Tensor>); 2] {
    let bf16 = Tensor::randn([outputs, inputs], CPU).to_kind(Kind::BFloat16);
    let int8 = Tensor::randint_low(-127, 128, [outputs, inputs], (Kind::Int8, Device::Cpu));
    [(bf16, None), (int8, Some(Tensor::rand([outputs], CPU) + 0.1))]
}

fn exact(input: &Tensor, weight: &Tensor, scale: Option<&Tensor>, bias: &Tensor) -> Tensor {
    let product = input.to_kind(Kind::Double).matmul(&weight.to_kind(Kind::Double).transpose(0, 1));
    scale.map_or(product.shallow_clone(), |scale| product * scale) + bias
}

#[test]
fn products_are_those_of_the_widened_weight() {
    tch::manual_seed(3);
    for [rows, outputs, inputs] in SHAPES {
        let input = Tensor::randn([rows, inputs], CPU);
        let bias = Tensor::randn([outputs], CPU);
        for (weight, scale) in weights(outputs, inputs) {
            let layer = Narrow::new(&weight, scale.as_ref(), Some(&bias)).unwrap();
            let want = exact(&input, &weight, scale.as_ref(), &bias);
            let size = want.abs().max().double_value(&[]).max(1.0);
            let input = input.view([1, rows, inputs]);
            for got in [layer.forward(&input).unwrap(), layer.forward_portable(&input).unwrap()] {
                assert_eq!(got.size(), [1, rows, outputs]);
                let gap = (got.view([rows, outputs]) - &want).abs().max().double_value(&[]);
                assert!(gap <= 1e-5 * size, "{rows} {outputs} {inputs}: {gap:e} of {size:e}");
            }
        }
    }
}

#[test]
fn a_row_s_product_does_not_depend_on_its_company() {
    tch::manual_seed(4);
    let input = Tensor::randn([8, 200], CPU);
    for (weight, scale) in weights(50, 200) {
        let layer = Narrow::new(&weight, scale.as_ref(), None).unwrap();
        let together = layer.forward(&input).unwrap();
        for row in 0..8 {
            let alone = layer.forward(&input.narrow(0, row, 1)).unwrap();
            assert_eq!(alone, together.narrow(0, row, 1), "row {row}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let weight = Tensor::zeros([4, 8], (Kind::BFloat16, Device::Cpu));
    let layer = Narrow::new(&weight, None, None).unwrap();
    for input in [Tensor::zeros([2, 7], CPU), Tensor::zeros([2, 8], (Kind::Double, Device::Cpu))] {
        assert!(layer.forward(&input).unwrap_err().to_string().contains("[.., 8] of f32"));
    }
    for weight in [Tensor::zeros([4, 8], CPU), Tensor::zeros([4], (Kind::Int8, Device::Cpu))] {
        assert!(Narrow::new(&weight, None, None).is_err());
    }
    assert!(Narrow::new(&weight, Some(&Tensor::zeros([3], CPU)), None).is_err());
}
