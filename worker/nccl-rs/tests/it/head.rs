//! The output layer by blocks against the whole logits and libtorch's own losses.

use anyhow::{Result, ensure};
use nccl_rs::Error;
use nccl_rs::autograd::{autocast, backward};
use nccl_rs::head::{Head, Teacher};
use tch::{Device, Kind, Reduction, Tensor};

use crate::ranks::assert_close;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const ROWS: i64 = 23;
const CLASSES: i64 = 301;
const WIDTH: i64 = 40;

struct Case {
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
}

impl Case {
    fn new() -> Self {
        tch::manual_seed(5);
        Self {
            hidden: Tensor::randn([ROWS, WIDTH], CPU).set_requires_grad(true),
            weight: (Tensor::randn([CLASSES, WIDTH], CPU) * 0.3).set_requires_grad(true),
            targets: Tensor::randint(CLASSES, [ROWS], (Kind::Int64, Device::Cpu)),
        }
    }

    fn head(&self, block: i64) -> Head<'_> {
        Head { hidden: &self.hidden, weight: &self.weight, targets: &self.targets, block }
    }

    /// Gradients by hidden and weight of what `loss` gives, and its value.
    fn gradients(&self, loss: impl FnOnce(&Self) -> Tensor) -> Result<[Tensor; 3]> {
        let value = loss(self);
        // Not 1, so that a factor left out is seen.
        let seed = value.detach().full_like(0.37);
        backward(&[&value], &[Some(&seed)], false)?;
        let take = |leaf: &Tensor| {
            let gradient = leaf.grad().copy();
            let _ = leaf.grad().zero_();
            gradient
        };
        Ok([value.detach(), take(&self.hidden), take(&self.weight)])
    }
}

fn compare(
    case: &Case,
    own: impl Fn(&Case) -> Tensor,
    plain: impl Fn(&Case) -> Tensor,
) -> Result<()> {
    let (have, want) = (case.gradients(own)?, case.gradients(plain)?);
    for (have, want) in have.iter().zip(&want) {
        let scale = want.abs().max().double_value(&[]).max(1.0);
        assert_close(have, want, 1e-5 * scale)?;
    }
    Ok(())
}

fn plain(case: &Case, smoothing: f64) -> Tensor {
    let logits = case.hidden.linear::<Tensor>(&case.weight, None).to_kind(Kind::Float);
    logits.cross_entropy_loss::<Tensor>(&case.targets, None, Reduction::Sum, -100, smoothing)
}

#[test]
fn losses_and_gradients_are_those_of_the_whole_logits() -> Result<()> {
    let case = Case::new();
    for block in [1, 8, ROWS, 1000] {
        for smoothing in [0.0, 0.2] {
            compare(
                &case,
                |case| case.head(block).cross_entropy(smoothing).unwrap(),
                |case| plain(case, smoothing),
            )?;
        }
        let (loss, hits) = case.head(block).score()?;
        ensure!(loss == case.head(block).cross_entropy(0.0)?);
        let answers = case.hidden.linear::<Tensor>(&case.weight, None).argmax(1, false);
        ensure!(hits == answers.eq_tensor(&case.targets).sum(Kind::Int64));
    }
    Ok(())
}

#[test]
fn each_row_has_its_own_factor_by_its_log_probability() -> Result<()> {
    let case = Case::new();
    let factors = Tensor::randn([ROWS], CPU);
    for block in [1, 8, 1000] {
        compare(
            &case,
            |case| (case.head(block).log_probs().unwrap() * &factors).sum(Kind::Float),
            |case| {
                let logits = case.hidden.linear::<Tensor>(&case.weight, None);
                let all = logits.log_softmax(1, Kind::Float);
                let own = all.gather(1, &case.targets.unsqueeze(1), false).squeeze_dim(1);
                (own * &factors).sum(Kind::Float)
            },
        )?;
    }
    Ok(())
}

#[test]
fn a_teacher_of_another_width_is_learned_from() -> Result<()> {
    let case = Case::new();
    let (hidden, weight) =
        (Tensor::randn([ROWS, 17], CPU), Tensor::randn([CLASSES, 17], CPU) * 0.5);
    let (temperature, alpha) = (2.5, 0.3);
    let teacher = Teacher { hidden: &hidden, weight: &weight, temperature, alpha };
    for block in [8, 1000] {
        compare(
            &case,
            |case| case.head(block).distillation(0.1, teacher).unwrap(),
            |case| {
                let soft = |logits: Tensor| (logits / temperature).log_softmax(1, Kind::Float);
                let own = soft(case.hidden.linear::<Tensor>(&case.weight, None));
                let other = soft(hidden.linear::<Tensor>(&weight, None));
                let divergence = own.kl_div(&other, Reduction::Sum, true);
                divergence * (alpha * temperature * temperature) + plain(case, 0.1) * (1.0 - alpha)
            },
        )?;
    }
    Ok(())
}

#[test]
fn products_follow_autocast_and_frozen_weights_get_no_gradient() -> Result<()> {
    let case = Case::new();
    let both = |case: &Case, own: bool| {
        autocast(Device::Cpu, Kind::BFloat16, || {
            if own { case.head(8).cross_entropy(0.0).unwrap() } else { plain(case, 0.0) }
        })
        .unwrap()
    };
    let have = case.gradients(|case| both(case, true))?;
    let want = case.gradients(|case| both(case, false))?;
    for (have, want) in have.iter().zip(&want) {
        ensure!(have.kind() == Kind::Float);
        let scale = want.abs().max().double_value(&[]);
        assert_close(have, want, 8e-3 * scale)?;
    }
    // It does compute in bf16.
    let exact = case.head(8).cross_entropy(0.0)?;
    ensure!((&exact - &have[0]).abs().double_value(&[]) > 1e-6);

    let frozen = Case { weight: case.weight.detach(), ..Case::new() };
    frozen.head(8).cross_entropy(0.0)?.backward();
    ensure!(frozen.hidden.grad().defined() && !frozen.weight.grad().defined());
    let silent = tch::no_grad(|| case.head(8).cross_entropy(0.0))?;
    ensure!(!silent.requires_grad() && silent == exact.detach());
    Ok(())
}

#[test]
fn a_graph_that_is_kept_gives_the_same_gradient_again() -> Result<()> {
    let case = Case::new();
    let loss = case.head(8).cross_entropy(0.0)?;
    backward(&[&loss], &[None], true)?;
    let once = case.weight.grad().copy();
    backward(&[&loss], &[None], false)?;
    assert_close(&case.weight.grad(), &(once * 2.0), 1e-6)?;
    ensure!(backward(&[&loss], &[None], false).is_err(), "it is freed");
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::new();
    let wide = Tensor::zeros([CLASSES, WIDTH + 1], CPU);
    let few = case.targets.narrow(0, 0, ROWS - 1);
    let whole = case.targets.to_kind(Kind::Int);
    for head in [
        Head { weight: &wide, ..case.head(8) },
        Head { targets: &few, ..case.head(8) },
        Head { targets: &whole, ..case.head(8) },
        case.head(0),
    ] {
        let outcome = head.cross_entropy(0.0);
        assert!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
        assert!(matches!(head.log_probs(), Err(Error::InvalidTensor { .. })));
    }
    let beyond = Tensor::full([ROWS], CLASSES, (Kind::Int64, Device::Cpu));
    assert!(Head { targets: &beyond, ..case.head(8) }.cross_entropy(0.0).is_err());
    let teacher =
        Teacher { hidden: &case.hidden, weight: &case.weight, temperature: 0.0, alpha: 1.0 };
    assert!(case.head(8).distillation(0.0, teacher).is_err());
}
