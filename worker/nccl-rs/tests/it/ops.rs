//! The list operators against the same formulas in plain tensor code.

use anyhow::{Result, ensure};
use nccl_rs::Error;
use nccl_rs::ops::{
    AdamW, AdamWLists, Sgd, SgdLists, clip_grad_norm_, cpu_capability, fused_adamw_, fused_sgd_,
    total_norm, zero_,
};
use tch::{Device, Kind, Tensor};

use crate::ranks::assert_close;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const HYPER: AdamW =
    AdamW { learning_rate: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

struct State {
    parameters: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl State {
    fn new(kind: Kind) -> Self {
        tch::manual_seed(11);
        let shapes: [&[i64]; 3] = [&[31, 17], &[7], &[]];
        let parameters: Vec<Tensor> =
            shapes.iter().map(|shape| Tensor::randn(*shape, (kind, Device::Cpu))).collect();
        let zeros = || parameters.iter().map(Tensor::zeros_like).collect();
        let (exp_avgs, exp_avg_sqs) = (zeros(), zeros());
        let steps = parameters.iter().map(|_| Tensor::zeros([0i64; 0], CPU)).collect();
        Self { parameters, exp_avgs, exp_avg_sqs, steps }
    }

    fn fused_step(&self, gradients: &[Tensor]) -> Result<(), Error> {
        let lists = AdamWLists {
            parameters: &self.parameters,
            gradients,
            exp_avgs: &self.exp_avgs,
            exp_avg_sqs: &self.exp_avg_sqs,
            steps: &self.steps,
        };
        fused_adamw_(&HYPER, &lists)
    }

    /// The formula in fused_adamw_'s documentation, one operation at a time.
    fn plain_step(&mut self, gradients: &[Tensor], step: i32) {
        for (i, gradient) in gradients.iter().enumerate() {
            let m = &self.exp_avgs[i] * HYPER.beta1 + gradient * (1.0 - HYPER.beta1);
            let v = &self.exp_avg_sqs[i] * HYPER.beta2 + gradient.square() * (1.0 - HYPER.beta2);
            let unbiased_m = &m / (1.0 - HYPER.beta1.powi(step));
            let unbiased_v = &v / (1.0 - HYPER.beta2.powi(step));
            let decayed = &self.parameters[i] * (1.0 - HYPER.learning_rate * HYPER.weight_decay);
            self.parameters[i] =
                decayed - unbiased_m / (unbiased_v.sqrt() + HYPER.eps) * HYPER.learning_rate;
            self.exp_avgs[i] = m;
            self.exp_avg_sqs[i] = v;
        }
    }
}

#[test]
fn fused_adamw_equals_the_formula() -> Result<()> {
    for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::Double, 1e-12)] {
        let fused = State::new(kind);
        let mut plain = State::new(kind);
        for step in 1..=20 {
            let gradients: Vec<Tensor> = fused
                .parameters
                .iter()
                .map(|parameter| (parameter * f64::from(step)).cos())
                .collect();
            fused.fused_step(&gradients)?;
            plain.plain_step(&gradients, step);
        }
        for (have, want) in [
            (&fused.parameters, &plain.parameters),
            (&fused.exp_avgs, &plain.exp_avgs),
            (&fused.exp_avg_sqs, &plain.exp_avg_sqs),
        ] {
            have.iter()
                .zip(want)
                .try_for_each(|(have, want)| assert_close(have, want, tolerance))?;
        }
        ensure!(fused.steps.iter().all(|step| (step.double_value(&[]) - 20.0).abs() < 1e-9));
    }
    Ok(())
}

#[test]
fn fused_adamw_works_on_leaves_that_require_gradients() -> Result<()> {
    let mut state = State::new(Kind::Float);
    state.parameters =
        state.parameters.iter().map(|parameter| parameter.set_requires_grad(true)).collect();
    let before = state.parameters[0].detach().copy();
    let gradients: Vec<Tensor> = state.parameters.iter().map(Tensor::ones_like).collect();
    state.fused_step(&gradients)?;
    ensure!(state.parameters[0].is_leaf() && state.parameters[0].requires_grad());
    ensure!(state.parameters[0].detach() != before);
    Ok(())
}

#[test]
fn fused_adamw_refuses_what_it_cannot_do() -> Result<()> {
    let state = State::new(Kind::Float);
    let outcome = state.fused_step(&[]);
    ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
    let undefined: Vec<Tensor> = state.parameters.iter().map(|_| Tensor::new()).collect();
    let outcome = state.fused_step(&undefined);
    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    let half: Vec<Tensor> = state.parameters.iter().map(|p| p.to_kind(Kind::BFloat16)).collect();
    let error = state.fused_step(&half).unwrap_err();
    ensure!(error.to_string().contains("BFloat16"), "{error}");
    // Nothing was touched.
    ensure!(state.steps.iter().all(|step| step.double_value(&[]).abs() < f64::EPSILON));
    Ok(())
}

#[test]
fn fused_sgd_equals_the_formula() -> Result<()> {
    for (momentum, dampening, nesterov) in
        [(0.0, 0.0, false), (0.9, 0.0, false), (0.9, 0.3, false), (0.9, 0.0, true)]
    {
        let hyper = Sgd { learning_rate: 0.05, momentum, dampening, weight_decay: 0.1, nesterov };
        let parameters = State::new(Kind::Float).parameters;
        let mut plain = State::new(Kind::Float).parameters;
        let velocities: Vec<Tensor> = parameters.iter().map(Tensor::empty_like).collect();
        let velocities = if momentum > 0.0 { velocities } else { Vec::new() };
        let mut v: Vec<Tensor> = plain.iter().map(Tensor::zeros_like).collect();
        for step in 0..6 {
            let gradients: Vec<Tensor> =
                parameters.iter().map(|p| (p * f64::from(step + 1)).cos()).collect();
            let lists = SgdLists {
                parameters: &parameters,
                gradients: &gradients,
                velocities: &velocities,
            };
            fused_sgd_(&hyper, &lists, step == 0)?;
            for (i, gradient) in gradients.iter().enumerate() {
                let g = gradient + &plain[i] * hyper.weight_decay;
                v[i] = match step {
                    0 => g.copy(),
                    _ => &v[i] * momentum + &g * (1.0 - dampening),
                };
                let direction = if nesterov { g + &v[i] * momentum } else { v[i].copy() };
                plain[i] = &plain[i] - direction * hyper.learning_rate;
            }
        }
        for (have, want) in parameters.iter().zip(&plain) {
            assert_close(have, want, 1e-5)?;
        }
    }
    let hyper = Sgd {
        learning_rate: 0.1,
        momentum: 0.0,
        dampening: 0.0,
        weight_decay: 0.0,
        nesterov: true,
    };
    let lists = SgdLists { parameters: &[], gradients: &[], velocities: &[] };
    ensure!(matches!(fused_sgd_(&hyper, &lists, true), Err(Error::InvalidArgument(_))));
    Ok(())
}

#[test]
fn zeroing_passes_over_what_is_undefined() -> Result<()> {
    let tensors = [Tensor::ones([3], CPU), Tensor::new(), Tensor::ones([2, 2], CPU)];
    zero_(&tensors)?;
    ensure!(tensors[0] == Tensor::zeros([3], CPU) && tensors[2] == Tensor::zeros([2, 2], CPU));
    zero_(&[Tensor::new()])?;
    let outcome = zero_(&[Tensor::ones([2, 3], CPU).tr()]);
    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    Ok(())
}

#[test]
fn clipping_scales_to_the_norm_and_leaves_small_and_broken_ones() -> Result<()> {
    let make = || vec![Tensor::from_slice(&[3.0f32, 0.0]), Tensor::full([1, 1], 4.0, CPU)];
    let gradients = make();
    ensure!((total_norm(&gradients)? - 5.0).abs() < 1e-6);
    ensure!((clip_grad_norm_(&gradients, 1.0)? - 5.0).abs() < 1e-6);
    assert_close(&gradients[0], &Tensor::from_slice(&[0.6f32, 0.0]), 1e-6)?;
    assert_close(&gradients[1], &Tensor::full([1, 1], 0.8, CPU), 1e-6)?;

    let gradients = make();
    ensure!((clip_grad_norm_(&gradients, 6.0)? - 5.0).abs() < 1e-6);
    ensure!(gradients == make());

    let broken = [Tensor::from_slice(&[f32::NAN, 1.0]), Tensor::from_slice(&[2.0f32])];
    ensure!(clip_grad_norm_(&broken, 1.0)?.is_nan());
    ensure!((broken[1].double_value(&[0]) - 2.0).abs() < 1e-9);

    ensure!(total_norm(&[])?.abs() < f64::EPSILON);
    let outcome = total_norm(&[Tensor::new()]);
    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    Ok(())
}

#[test]
fn the_cpu_tells_its_instructions() -> Result<()> {
    let name = cpu_capability()?;
    ensure!(["DEFAULT", "AVX2", "AVX512"].contains(&name.as_str()), "{name}");
    Ok(())
}
