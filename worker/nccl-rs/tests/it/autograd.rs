//! Backward from given gradients, mixed precision, and storages that come and go.

use anyhow::{Result, ensure};
use nccl_rs::autograd::{RandomState, autocast, backward, is_enabled, set_grad};
use nccl_rs::{Error, storage};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn leaf(values: &[f32]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

fn close(have: &Tensor, want: &[f32]) -> bool {
    have.allclose(&Tensor::from_slice(want), 1e-6, 1e-6, false)
}

#[test]
fn backward_takes_gradients_of_its_outputs() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let (square, cube) = (x.square(), x.pow_tensor_scalar(3));
    let seed = Tensor::from_slice(&[10.0f32, 1.0]);
    backward(&[&square, &cube.sum(Kind::Float)], &[Some(&seed), None], true)?;
    ensure!(close(&x.grad(), &[20.0 + 3.0, 4.0 + 12.0]), "{:?}", x.grad());
    // Two stages of a pipeline: the later one's input gradient is the seed.
    let sent = square.detach().set_requires_grad(true);
    backward(&[&(&sent * 5.0).sum(Kind::Float)], &[None], false)?;
    let _ = x.grad().zero_();
    backward(&[&square], &[Some(&sent.grad())], false)?;
    ensure!(close(&x.grad(), &[10.0, 20.0]));

    let error = backward(&[&square], &[Some(&seed)], false).unwrap_err();
    ensure!(error.to_string().contains("second time"), "{error}");
    let error = backward(&[&(&x * 2.0)], &[None], false).unwrap_err();
    ensure!(error.to_string().contains("scalar"), "{error}");
    let short = Tensor::from_slice(&[1.0f32]);
    let outcome = backward(&[&(&x * 2.0)], &[Some(&short)], false);
    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    let outcome = backward(&[&(&x * 2.0)], &[], false);
    ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
    Ok(())
}

#[test]
fn autocast_is_on_within_only() -> Result<()> {
    let (a, b) = (Tensor::ones([4, 4], CPU), Tensor::ones([4, 4], CPU));
    let product = || a.matmul(&b).kind();
    ensure!(autocast(Device::Cpu, Kind::BFloat16, product)? == Kind::BFloat16);
    let nested = || autocast(Device::Cpu, Kind::Half, product).map(|inner| (inner, product()));
    ensure!(autocast(Device::Cpu, Kind::BFloat16, nested)?? == (Kind::Half, Kind::BFloat16));
    ensure!(product() == Kind::Float);
    let panicked =
        std::panic::catch_unwind(|| autocast(Device::Cpu, Kind::BFloat16, || panic!("on purpose")));
    ensure!(panicked.is_err() && product() == Kind::Float);

    // A cast kept from before an update would give the old product.
    let weight = Tensor::ones([4, 4], CPU).set_requires_grad(true);
    let first = |w: &Tensor| a.matmul(w).double_value(&[0, 0]);
    ensure!((autocast(Device::Cpu, Kind::BFloat16, || first(&weight))? - 4.0).abs() < 1e-9);
    let _ = weight.detach().fill_(2.0);
    ensure!((autocast(Device::Cpu, Kind::BFloat16, || first(&weight))? - 8.0).abs() < 1e-9);

    let outcome = autocast(Device::Cpu, Kind::Int, || ());
    ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
    let outcome = autocast(Device::Mps, Kind::Half, || ());
    ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
    Ok(())
}

#[test]
#[expect(unsafe_code, reason = "to make a tensor over foreign memory")]
fn a_released_storage_is_an_error_until_it_is_back() -> Result<()> {
    let weight = Tensor::ones([1000, 10], CPU).set_requires_grad(true);
    let kept = weight.detach().copy();
    let view = weight.detach().narrow(0, 5, 10);
    let x = Tensor::ones([2, 10], CPU).set_requires_grad(true);
    let y = x.linear(&weight, None::<&Tensor>);
    storage::release(&weight)?;
    storage::release(&weight)?;
    ensure!(storage::bytes(&weight)? == 0 && storage::bytes(&view)? == 0);
    ensure!(weight.size() == [1000, 10]);
    for error in [
        weight.f_square().unwrap_err().to_string(),
        view.f_sum(Kind::Float).unwrap_err().to_string(),
        view.shallow_clone().f_zero_().unwrap_err().to_string(),
        x.f_linear(&weight, None::<&Tensor>).unwrap_err().to_string(),
        backward(&[&y.sum(Kind::Float)], &[None], true).unwrap_err().to_string(),
        storage::refill(&[weight.detach()], &[kept.shallow_clone()]).unwrap_err().to_string(),
    ] {
        ensure!(error.contains("storage is released"), "{error}");
    }

    // What backward saved is there again, under the same version.
    storage::restore(&weight)?;
    storage::restore(&weight)?;
    ensure!(storage::bytes(&weight)? == 40_000);
    storage::refill(&[weight.shallow_clone()], &[kept.shallow_clone()])?;
    backward(&[&y.sum(Kind::Float)], &[None], false)?;
    ensure!(x.grad() == Tensor::full([2, 10], 1000.0, CPU));
    ensure!(view.sum(Kind::Float).double_value(&[]) > 99.0 && weight.requires_grad());

    let outcome = storage::refill(&[weight.detach()], &[view.shallow_clone()]);
    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    let data = [1.0f32, 2.0];
    // SAFETY: the data outlives the tensor, which only reads it.
    let foreign =
        unsafe { Tensor::from_blob(data.as_ptr().cast(), &[2], &[1], Kind::Float, Device::Cpu) };
    let error = storage::release(&foreign).unwrap_err();
    ensure!(error.to_string().contains("not libtorch's own"), "{error}");
    Ok(())
}

#[test]
fn a_gradient_can_be_given_and_taken_away() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let gradient = Tensor::from_slice(&[3.0f32, 4.0]);
    set_grad(&x, Some(&gradient))?;
    ensure!(x.grad().data_ptr() == gradient.data_ptr(), "a gradient is not copied");
    backward(&[&x.sum(Kind::Float)], &[None], false)?;
    ensure!(close(&x.grad(), &[4.0, 5.0]), "backward adds to it");
    set_grad(&x, None)?;
    ensure!(!x.grad().defined());
    for wrong in [Tensor::zeros([3], CPU), gradient.to_kind(Kind::Double), Tensor::new()] {
        let outcome = set_grad(&x, Some(&wrong));
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    }
    ensure!(is_enabled() && !tch::no_grad(is_enabled));
    Ok(())
}

#[test]
fn random_numbers_can_be_drawn_again() -> Result<()> {
    tch::manual_seed(4);
    let before = RandomState::save(Device::Cpu)?;
    let first = Tensor::rand([8], CPU);
    let other = Tensor::rand([8], CPU);
    before.restore()?;
    ensure!(Tensor::rand([8], CPU) == first && first != other);
    ensure!(RandomState::save(Device::Mps).is_err());
    Ok(())
}

#[test]
fn a_part_takes_the_place_of_the_whole() -> Result<()> {
    let weight = Tensor::arange(6, CPU).reshape([3, 2]).set_requires_grad(true);
    let tied = weight.shallow_clone();
    backward(&[&weight.sum(Kind::Float)], &[None], false)?;
    let part = weight.detach().narrow(0, 1, 2).copy();
    storage::replace(&weight, &part)?;
    ensure!(tied.size() == [2, 2] && tied.requires_grad() && !tied.grad().defined());
    ensure!(storage::bytes(&tied)? == 16, "the whole is gone");
    backward(&[&(tied.square()).sum(Kind::Float)], &[None], false)?;
    ensure!(weight.grad() == &part * 2.0);
    let outcome = storage::replace(&(&weight * 2.0), &part);
    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    let outcome = storage::replace(&weight, &part.to_kind(Kind::Double));
    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
    Ok(())
}
