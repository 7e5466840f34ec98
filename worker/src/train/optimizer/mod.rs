//! Optimizers over a list of parameters: what changes weights, and what it remembers.

mod adafactor;
mod adamw;
mod sgd;

use tch::{Kind, Tensor};

use crate::config::Optim;
use crate::error::Error;
use crate::model::{Parameter, Role};

use adafactor::Adafactor;
use adamw::AdamW;
use sgd::Sgd;

/// An optimizer and its state.
pub enum Optimizer {
    /// AdamW (Loshchilov and Hutter 2019).
    AdamW(AdamW),
    /// Gradient descent with momentum.
    Sgd(Sgd),
    /// Adafactor (Shazeer and Stern 2018).
    Adafactor(Adafactor),
}

impl Optimizer {
    /// An optimizer of `parameters` with nothing remembered, after `steps_done` steps.
    pub fn new(parameters: &[Parameter], optim: &Optim, steps_done: u64) -> Result<Self, Error> {
        Ok(match optim {
            Optim::AdamW(adam) => Self::AdamW(AdamW::new(parameters, *adam, steps_done)?),
            Optim::Sgd(settings) => Self::Sgd(Sgd::new(parameters, *settings)?),
            Optim::Adafactor { weight_decay } => {
                Self::Adafactor(Adafactor::new(parameters, *weight_decay, steps_done)?)
            }
        })
    }

    /// One step at learning rate `rate`, from the parameters' gradients. As in PyTorch, a
    /// parameter without a gradient is left alone.
    pub fn step(&mut self, rate: f64) -> Result<(), Error> {
        match self {
            Self::AdamW(adamw) => adamw.step(rate),
            Self::Sgd(sgd) => sgd.step(rate),
            Self::Adafactor(adafactor) => adafactor.step(rate),
        }
    }

    /// What is remembered of each parameter, named for a checkpoint. The tensors share memory
    /// with the optimizer.
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        match self {
            Self::AdamW(adamw) => adamw.moments(),
            Self::Sgd(sgd) => sgd.moments(),
            Self::Adafactor(adafactor) => adafactor.moments(),
        }
    }
}

/// Parameters by their weight decay: with `weight_decay`, and without.
fn by_decay(parameters: &[Parameter], weight_decay: f64) -> [(Vec<&Parameter>, f64); 2] {
    let (decayed, others) =
        parameters.iter().partition(|parameter| parameter.role == Role::Decayed);
    [(decayed, weight_decay), (others, 0.0)]
}

/// The parameters of a group that have a gradient.
struct Moved {
    places: Vec<usize>,
    gradients: Vec<Tensor>,
}

impl Moved {
    fn of(parameters: &[Tensor]) -> Self {
        let gradients = parameters.iter().map(Tensor::grad).enumerate();
        let (places, gradients) = gradients.filter(|(_, gradient)| gradient.defined()).unzip();
        Self { places, gradients }
    }

    /// Their part of `all`; none of an empty list.
    fn pick(&self, all: &[Tensor]) -> Vec<Tensor> {
        self.places.iter().filter_map(|place| Some(all.get(*place)?.shallow_clone())).collect()
    }
}

fn names_and_tensors(members: &[&Parameter]) -> (Vec<String>, Vec<Tensor>) {
    members.iter().map(|member| (member.name.clone(), member.tensor.shallow_clone())).unzip()
}

/// Whether some steps may pass by a parameter: experts to which no token goes have no gradient.
/// The steps of all others are the run's.
fn counts_its_own_steps(name: &str) -> bool {
    name.contains(".experts.")
}

/// A count of steps as kernels want it: an f32 scalar, exact up to 2²⁴.
fn step_count(steps_done: u64, device: tch::Device) -> Result<Tensor, tch::TchError> {
    Tensor::f_full([] as [i64; 0], steps_done as f64, (Kind::Float, device))
}

/// The step counts that a checkpoint must hold.
fn own_steps<'a>(
    names: &'a [String],
    steps: &'a [Tensor],
) -> impl Iterator<Item = (String, Tensor)> + 'a {
    let own = names.iter().zip(steps).filter(|(name, _)| counts_its_own_steps(name));
    own.map(|(name, step)| (format!("step.{name}"), step.shallow_clone()))
}

fn zeros_like(tensors: &[Tensor]) -> Result<Vec<Tensor>, tch::TchError> {
    tch::no_grad(|| tensors.iter().map(Tensor::f_zeros_like).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SgdSettings;

    /// A matrix with weight decay and a vector without, and their gradients.
    fn parameters() -> Vec<Parameter> {
        let tensor = |values: &[f32], shape: &[i64]| {
            Tensor::from_slice(values).view(shape).set_requires_grad(true)
        };
        let parameter =
            |name: &str, role, tensor| Parameter { name: name.to_owned(), tensor, role, stage: 0 };
        vec![
            parameter("w", Role::Decayed, tensor(&[0.5, -1.0, 2.0, 0.25, -0.75, 1.5], &[2, 3])),
            parameter("b", Role::Plain, tensor(&[0.1, -0.2], &[2])),
        ]
    }

    /// The loss `(w·x + b)²/2`, summed, over inputs that differ by step.
    fn backward(parameters: &[Parameter], step: usize) {
        let x = Tensor::from_slice(&[1.0f32, -0.5, 0.25 + step as f32]);
        let y = parameters[0].tensor.matmul(&x) + &parameters[1].tensor;
        for parameter in parameters {
            let mut gradient = parameter.tensor.grad();
            if gradient.defined() {
                let _ = gradient.zero_();
            }
        }
        (y.square() * 0.5).sum(Kind::Float).backward();
    }

    fn after_steps(optim: &Optim, steps: usize) -> (Vec<Parameter>, Optimizer) {
        let parameters = parameters();
        let mut optimizer = Optimizer::new(&parameters, optim, 0).unwrap();
        for step in 0..steps {
            backward(&parameters, step);
            optimizer.step(0.05).unwrap();
        }
        (parameters, optimizer)
    }

    fn values(parameters: &[Parameter]) -> Vec<f32> {
        let flat: Vec<Tensor> = parameters.iter().map(|p| p.tensor.detach().view(-1)).collect();
        Vec::try_from(Tensor::cat(&flat, 0)).unwrap()
    }

    fn all() -> [Optim; 3] {
        let adam =
            crate::config::Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        [
            Optim::AdamW(adam),
            Optim::Sgd(SgdSettings { momentum: 0.9, weight_decay: 0.1 }),
            Optim::Adafactor { weight_decay: 0.1 },
        ]
    }

    /// As tests/parity/optimizers.py has them of PyTorch's AdamW and SGD and transformers'
    /// Adafactor.
    #[test]
    fn steps_are_those_of_pytorch() {
        let want: Vec<Vec<f64>> =
            serde_json::from_str(include_str!("../../../../tests/parity/fixtures/optimizers.json"))
                .unwrap();
        for (optim, want) in all().iter().zip(want) {
            let got = values(&after_steps(optim, 4).0);
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{optim:?}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn a_resumed_optimizer_goes_on_as_if_never_stopped() {
        for optim in all() {
            let (through, _) = after_steps(&optim, 4);
            let (parameters, before) = after_steps(&optim, 2);
            let mut resumed = Optimizer::new(&parameters, &optim, 2).unwrap();
            for ((_, mut new), (_, old)) in resumed.moments().into_iter().zip(before.moments()) {
                tch::no_grad(|| new.copy_(&old));
            }
            for step in 2..4 {
                backward(&parameters, step);
                resumed.step(0.05).unwrap();
            }
            assert_eq!(values(&parameters), values(&through), "{optim:?}");
        }
    }

    #[test]
    fn a_parameter_without_a_gradient_stays() {
        for optim in all() {
            let parameters = parameters();
            let mut optimizer = Optimizer::new(&parameters, &optim, 0).unwrap();
            parameters[1].tensor.square().sum(Kind::Float).backward();
            optimizer.step(0.05).unwrap();
            let moved = values(&parameters);
            assert_eq!(moved[..6], [0.5, -1.0, 2.0, 0.25, -0.75, 1.5], "{optim:?}");
            assert!(moved[6] < 0.1, "{optim:?}");
        }
    }
}
