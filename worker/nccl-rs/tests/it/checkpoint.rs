//! Activation checkpointing against plain autograd.

use std::cell::Cell;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use nccl_rs::autograd::{autocast, backward, checkpoints};
use nccl_rs::{Error, GroupOptions, Reducer, ReducerOptions};
use tch::{Device, Kind, TchError, Tensor};

use crate::ranks;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
const WIDTH: i64 = 32;

/// A block's error, as a model has it.
#[derive(Debug, thiserror::Error)]
enum BlockError {
    #[error("libtorch failed in the block")]
    Torch(#[from] TchError),
    #[error("an operator failed in the block")]
    Operator(#[from] Error),
}

/// A transformer's block without heads, with dropout.
struct Block {
    parameters: Vec<Tensor>,
}

impl Block {
    fn new() -> Self {
        let shapes: [&[i64]; 4] =
            [&[3 * WIDTH, WIDTH], &[WIDTH], &[4 * WIDTH, WIDTH], &[WIDTH, 4 * WIDTH]];
        let parameters =
            shapes.iter().map(|shape| (Tensor::randn(*shape, CPU) * 0.1).set_requires_grad(true));
        Self { parameters: parameters.collect() }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, BlockError> {
        let [qkv, norm, up, down] = self.parameters.as_slice() else { unreachable!() };
        let normed = x.f_rms_norm([WIDTH], Some(norm), 1e-6)?;
        let parts = normed.f_linear(qkv, None::<&Tensor>)?.f_chunk(3, -1)?;
        let attended = Tensor::f_scaled_dot_product_attention(
            &parts[0],
            &parts[1],
            &parts[2],
            None::<&Tensor>,
            0.1,
            true,
            None,
            false,
        )?;
        let x = x.f_add(&attended.f_dropout(0.2, true)?)?;
        let hidden = x.f_linear(up, None::<&Tensor>)?.f_gelu("none")?.f_dropout(0.3, true)?;
        Ok(x.f_add(&hidden.f_linear(down, None::<&Tensor>)?)?)
    }
}

fn blocks() -> Vec<Block> {
    tch::manual_seed(5);
    (0..3).map(|_| Block::new()).collect()
}

fn input() -> Tensor {
    (Tensor::arange(2 * 8 * WIDTH, CPU) * 0.37).sin().reshape([2, 8, WIDTH])
}

fn gradients(blocks: &[Block]) -> Vec<Tensor> {
    let parameters = blocks.iter().flat_map(|block| &block.parameters);
    parameters.map(|parameter| parameter.grad().copy()).collect()
}

/// Gradients of the parameters and the input, and a random number after.
fn plain(steps: usize) -> Result<(Vec<Tensor>, Tensor)> {
    let blocks = blocks();
    let input = input().set_requires_grad(true);
    for step in 0..steps {
        tch::manual_seed(100 + i64::try_from(step)?);
        let mut hidden = input.shallow_clone();
        for block in &blocks {
            hidden = block.forward(&hidden)?;
        }
        backward(&[&hidden.square().sum(Kind::Float)], &[None], false)?;
    }
    let mut all = gradients(&blocks);
    all.push(input.grad());
    Ok((all, Tensor::rand([4], CPU)))
}

#[test]
fn gradients_are_the_same_bits_with_dropout() -> Result<()> {
    let (want, random) = plain(2)?;
    let blocks = blocks();
    let input = input().set_requires_grad(true);
    for step in 0..2 {
        tch::manual_seed(100 + step);
        checkpoints(|parts| -> Result<()> {
            let mut hidden = input.shallow_clone();
            for block in &blocks {
                hidden = parts.run(&[&hidden], |inputs| block.forward(&inputs[0]))?;
            }
            Ok(backward(&[&hidden.square().sum(Kind::Float)], &[None], false)?)
        })?;
    }
    let mut have = gradients(&blocks);
    have.push(input.grad());
    ensure!(have == want, "gradients differ");
    ensure!(Tensor::rand([4], CPU) == random, "the generator is elsewhere");
    Ok(())
}

#[test]
fn an_input_without_a_graph_still_gives_parameters_their_gradients() -> Result<()> {
    let blocks = blocks();
    tch::manual_seed(1);
    let calls = Cell::new(0);
    checkpoints(|parts| -> Result<()> {
        let hidden = parts.run(&[&input()], |inputs| {
            calls.set(calls.get() + 1);
            blocks[0].forward(&inputs[0])
        })?;
        // Twice: what the second run made serves both.
        let loss = hidden.sum(Kind::Float);
        backward(&[&loss], &[None], true)?;
        Ok(backward(&[&loss], &[None], false)?)
    })?;
    ensure!(calls.get() == 2, "{} calls", calls.get());
    let twice = gradients(&blocks[..1]);
    blocks[0].parameters.iter().for_each(|parameter| {
        let _ = parameter.grad().zero_();
    });
    tch::manual_seed(1);
    backward(&[&blocks[0].forward(&input())?.sum(Kind::Float)], &[None], false)?;
    ensure!(gradients(&blocks[..1]).iter().zip(&twice).all(|(once, twice)| once * 2.0 == *twice));
    Ok(())
}

#[test]
fn nested_parts_are_the_outer_ones_share() -> Result<()> {
    let (want, _) = plain(1)?;
    let blocks = blocks();
    let input = input().set_requires_grad(true);
    tch::manual_seed(100);
    checkpoints(|parts| -> Result<()> {
        let blocks = &blocks;
        let hidden = parts.run(&[&input], move |inputs| {
            blocks.iter().try_fold(inputs[0].shallow_clone(), |hidden, block| {
                parts.run(&[&hidden], move |inputs| block.forward(&inputs[0]))
            })
        })?;
        Ok(backward(&[&hidden.square().sum(Kind::Float)], &[None], false)?)
    })?;
    let mut have = gradients(&blocks);
    have.push(input.grad());
    ensure!(have == want);
    Ok(())
}

/// Bytes of this process in memory.
fn resident() -> Result<i64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse::<i64>()? * 1024)
}

#[test]
fn activations_are_not_kept() -> Result<()> {
    // In a process of its own, whose memory nobody else changes.
    ranks::run("checkpoint::activations_are_not_kept", 1, |_| {
        const BYTES: i64 = 8 << 20;
        let part = |inputs: &[Tensor]| -> Result<Tensor, BlockError> {
            (0..8).try_fold(inputs[0].shallow_clone(), |x, _| Ok(x.f_tanh()?))
        };
        let leaf = Tensor::ones([BYTES / 4], CPU).set_requires_grad(true);
        let before = resident()?;
        let mut hidden = leaf.shallow_clone();
        for _ in 0..4 {
            hidden = part(&[hidden])?;
        }
        let plain = resident()? - before;
        backward(&[&hidden.sum(Kind::Float)], &[None], false)?;
        let want = leaf.grad().copy();
        let _ = leaf.grad().zero_();
        drop(hidden);

        let before = resident()?;
        let checkpointed = checkpoints(|parts| -> Result<i64> {
            let mut hidden = leaf.shallow_clone();
            for _ in 0..4 {
                hidden = parts.run(&[&hidden], part)?;
            }
            let used = resident()? - before;
            backward(&[&hidden.sum(Kind::Float)], &[None], false)?;
            Ok(used)
        })?;
        ensure!(leaf.grad() == want);
        eprintln!("forward keeps {plain} bytes, {checkpointed} with checkpoints");
        // 32 activations against 4, and what malloc holds back of freed ones.
        ensure!(plain > 30 * BYTES, "{plain}");
        ensure!(checkpointed < 12 * BYTES, "{checkpointed}");
        Ok(())
    })
}

fn weight() -> Tensor {
    Tensor::full([3], 2.0, CPU).set_requires_grad(true)
}

/// What backward says of a part that gives `second` when it is run again.
fn second_run(second: impl Fn(&Tensor) -> Result<Tensor, BlockError>) -> Error {
    let calls = Cell::new(0);
    let weight = weight();
    checkpoints(|parts| {
        let output = parts
            .run(&[&weight], |inputs| {
                calls.set(calls.get() + 1);
                if calls.get() == 1 { Ok(inputs[0].f_sin()?) } else { second(&inputs[0]) }
            })
            .expect("the first run");
        backward(&[&output.sum(Kind::Float)], &[None], false).expect_err("the second run fails")
    })
}

#[test]
fn errors_of_the_second_run_come_out_of_backward() -> Result<()> {
    let lost = || Error::PeerLost { operation: "all_reduce".to_owned(), detail: "gone".to_owned() };
    let error = second_run(|_| Err(lost().into()));
    ensure!(matches!(&error, Error::PeerLost { .. }), "{error:?}");
    ensure!(error.to_string().contains("in the block: all_reduce: lost a peer: gone"), "{error}");

    let error = second_run(|x| Ok(x.f_reshape([7])?));
    ensure!(error.to_string().contains("in the block: "), "{error}");
    let error = second_run(|_| panic!("on purpose"));
    ensure!(error.to_string().contains("panicked: on purpose"), "{error}");
    let error = second_run(|x| Ok(x.shallow_clone()));
    ensure!(error.to_string().contains("saved 1 tensors, now 0"), "{error}");
    let error = second_run(|x| Ok(x.f_narrow(0, 0, 2)?.f_sin()?));
    ensure!(error.to_string().contains("saved tensor 0 was [3] Float"), "{error}");
    Ok(())
}

#[test]
fn errors_of_the_first_run_come_out_as_they_are() -> Result<()> {
    let weight = weight();
    let error = checkpoints(|parts| {
        parts.run(&[&weight], |inputs| Ok::<_, BlockError>(inputs[0].f_sin()?.f_reshape([7])?))
    });
    ensure!(matches!(error, Err(BlockError::Torch(_))), "{error:?}");
    let error = checkpoints(|parts| {
        parts.run(&[&Tensor::new()], |inputs| Ok::<_, Error>(inputs[0].shallow_clone()))
    });
    ensure!(matches!(error, Err(Error::InvalidTensor { .. })), "{error:?}");
    // What is left is whole: the next graph keeps its tensors.
    backward(&[&weight.sin().sum(Kind::Float)], &[None], false)?;
    Ok(())
}

#[test]
fn a_late_backward_and_a_changed_input_are_errors() -> Result<()> {
    let sine = |inputs: &[Tensor]| Ok::<_, Error>(inputs[0].sin());
    let output = checkpoints(|parts| parts.run(&[&weight()], sine))?;
    let error = backward(&[&output.sum(Kind::Float)], &[None], false).unwrap_err();
    ensure!(error.to_string().contains("after the end of the `checkpoints` call"), "{error}");

    let error = checkpoints(|parts| -> Result<Error> {
        let mut middle = weight() * 2.0;
        let output = parts.run(&[&middle], sine)?;
        let _ = middle.detach_().zero_();
        Ok(backward(&[&output.sum(Kind::Float)], &[None], false).unwrap_err())
    })?;
    ensure!(error.to_string().contains("changed in place"), "{error}");

    let error = checkpoints(|parts| -> Result<_> {
        let loss = parts.run(&[&weight()], sine)?.sum(Kind::Float);
        let elsewhere = std::thread::spawn(move || backward(&[&loss], &[None], false));
        Ok(elsewhere.join().expect("no panic").unwrap_err())
    })?;
    ensure!(error.to_string().contains("its own thread"), "{error}");
    Ok(())
}

#[test]
fn a_part_that_panics_for_want_of_more_is_done() -> Result<()> {
    let weight = weight();
    checkpoints(|parts| -> Result<()> {
        // The second run ends at exp, with a panic of tch's.
        let output = parts.run(&[&weight], |inputs| Ok::<_, Error>(inputs[0].sin().exp() + 1.0))?;
        Ok(backward(&[&output.sum(Kind::Float)], &[None], false)?)
    })?;
    ensure!(weight.grad().isfinite().all() == Tensor::from(true));
    Ok(())
}

#[test]
fn the_second_run_casts_as_the_first() -> Result<()> {
    let loss = |x: &Tensor, w: &Tensor| x.f_linear(w, None::<&Tensor>)?.f_tanh();
    let x = input().reshape([16, WIDTH]);
    let plain = blocks()[0].parameters[2].detach().set_requires_grad(true);
    let output = autocast(Device::Cpu, Kind::BFloat16, || loss(&x, &plain))??;
    ensure!(output.kind() == Kind::BFloat16);
    backward(&[&output.sum(Kind::Float)], &[None], false)?;

    let weight = plain.detach().copy().set_requires_grad(true);
    checkpoints(|parts| -> Result<()> {
        let output = autocast(Device::Cpu, Kind::BFloat16, || {
            parts.run(&[&x], |inputs| Ok::<_, BlockError>(loss(&inputs[0], &weight)?))
        })??;
        Ok(backward(&[&output.sum(Kind::Float)], &[None], false)?)
    })?;
    ensure!(weight.grad() == plain.grad());
    Ok(())
}

#[test]
fn the_reducer_averages_checkpointed_gradients() -> Result<()> {
    ranks::run("checkpoint::the_reducer_averages_checkpointed_gradients", 2, |rank| {
        for unused in [false, true] {
            let name = format!("unused {unused}");
            let mut group = rank.group_with(&GroupOptions { name, ..Default::default() })?;
            let blocks = blocks();
            let mut named: Vec<(String, Tensor)> = blocks
                .iter()
                .flat_map(|block| &block.parameters)
                .enumerate()
                .map(|(index, tensor)| (index.to_string(), tensor.shallow_clone()))
                .collect();
            if unused {
                named.push(("idle".to_owned(), weight()));
            }
            let options = ReducerOptions {
                bucket_bytes: 4096,
                first_bucket_bytes: 1024,
                find_unused_parameters: unused,
                ..Default::default()
            };
            let mut reducer = Reducer::new(&named, &mut group, &options)?;
            // A tied weight is used within a part and outside.
            let tied = &blocks[0].parameters[1];
            let loss = |hidden: &Tensor| (hidden * tied).square().mean(Kind::Float);
            let own = input() + rank.rank as f64;
            tch::manual_seed(9);
            checkpoints(|parts| -> Result<()> {
                let mut hidden = own.shallow_clone();
                for block in &blocks {
                    hidden = parts.run(&[&hidden], |inputs| block.forward(&inputs[0]))?;
                }
                Ok(reducer.backward(&loss(&hidden))?)
            })?;
            let have = gradients(&blocks);
            drop(reducer);

            let mut want: Vec<Tensor> = have.iter().map(Tensor::zeros_like).collect();
            for other in 0..rank.size {
                let alone = self::blocks();
                let tied = &alone[0].parameters[1];
                tch::manual_seed(9);
                let mut hidden = input() + other as f64;
                for block in &alone {
                    hidden = block.forward(&hidden)?;
                }
                (hidden * tied).square().mean(Kind::Float).backward();
                for (sum, gradient) in want.iter_mut().zip(gradients(&alone)) {
                    *sum += gradient / 2.0;
                }
            }
            for (have, want) in have.iter().zip(&want) {
                ranks::assert_close(have, want, 1e-6)?;
            }
            group.shutdown()?;
        }
        Ok(())
    })
}
