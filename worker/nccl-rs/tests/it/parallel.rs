//! What splits a model over ranks: meshes, rows from all to all, and collectives
//! with gradients, against the same maths in one process.

use std::time::Duration;

use anyhow::{Result, ensure};
use nccl_rs::autograd::backward;
use nccl_rs::{Error, GroupOptions, Interface, Mesh, ProcessGroup, ReduceOp, Transport};
use tch::{Device, Kind, Tensor};

use crate::ranks::{self, assert_close};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn wave(shape: &[i64], phase: f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    (Tensor::arange(count, CPU) * 0.7 + phase).sin().reshape(shape)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("a flat tensor of f64")
}

#[test]
fn rows_go_from_all_to_all() -> Result<()> {
    ranks::run("parallel::rows_go_from_all_to_all", 3, |rank| {
        let mut group = rank.group()?;
        let own = rank.rank as f64;
        for kind in [Kind::Float, Kind::BFloat16, Kind::Int64] {
            let rows = (Tensor::arange(3, CPU).reshape([3, 1]) + own * 10.0).to_kind(kind);
            let received = group.all_to_all(&rows)?;
            ensure!(numbers(&received) == [own, 10.0 + own, 20.0 + own], "{received:?}");
        }
        // Rank r sends s rows to rank s, and so nothing to rank 0.
        let rows = (Tensor::arange(3, CPU) + own * 10.0).reshape([3, 1]).expand([3, 2], false);
        let received = group.all_to_all_rows(&rows.contiguous(), &[0, 1, 2], &[rank.rank; 3])?;
        let want: &[f64] = match rank.rank {
            0 => &[],
            1 => &[0.0, 0.0, 10.0, 10.0, 20.0, 20.0],
            _ => &[1.0, 1.0, 2.0, 2.0, 11.0, 11.0, 12.0, 12.0, 21.0, 21.0, 22.0, 22.0],
        };
        ensure!(received.size() == [3 * i64::try_from(rank.rank)?, 2]);
        ensure!(numbers(&received) == want, "{received:?}");

        // Rank 1 expects one row too many of rank 0: all are told, and go on.
        let sent = [1, 1, 1];
        let received = if rank.rank == 1 { [2, 1, 1] } else { [1, 1, 1] };
        let error = group.all_to_all_rows(&rows.contiguous(), &sent, &received).unwrap_err();
        ensure!(matches!(error, Error::Mismatch { .. }), "{error:?}");
        ensure!(error.to_string().contains("rank 0 sends 1 rows to rank 1, which"), "{error}");

        let outcome = group.all_to_all(&Tensor::zeros([4], CPU));
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
        let outcome = group.all_to_all_rows(&Tensor::zeros([4], CPU), &[1, 1, 1], &[1, 1, 1]);
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
        let outcome = group.all_to_all_rows(&Tensor::zeros([4], CPU), &[4], &[4]);
        ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
        Ok(group.shutdown()?)
    })
}

#[test]
fn one_rank_gives_and_gets_all() -> Result<()> {
    ranks::run("parallel::one_rank_gives_and_gets_all", 3, |rank| {
        let mut group = rank.group()?;
        let own = rank.rank as f64;
        for (op, want) in
            [(ReduceOp::Sum, 6.0), (ReduceOp::Avg, 2.0), (ReduceOp::Min, 1.0), (ReduceOp::Max, 3.0)]
        {
            let mut tensor = Tensor::from(own + 1.0);
            group.reduce(&mut tensor, op, 1)?;
            ensure!(rank.rank != 1 || numbers(&tensor) == [want], "{op:?}: {tensor:?}");
        }
        let gathered = group.gather(&Tensor::from_slice(&[own, -own]), 2)?;
        ensure!(gathered.is_some() == (rank.rank == 2));
        if let Some(gathered) = gathered {
            ensure!(gathered.size() == [3, 2]);
            ensure!(numbers(&gathered) == [0.0, 0.0, 1.0, -1.0, 2.0, -2.0]);
        }
        let mut slice = Tensor::zeros([2], CPU);
        let whole = Tensor::arange(6, CPU).reshape([3, 2]);
        group.scatter(&mut slice, (rank.rank == 0).then_some(&whole), 0)?;
        ensure!(numbers(&slice) == [2.0 * own, 2.0 * own + 1.0], "{slice:?}");

        let outcome = group.scatter(&mut slice, (rank.rank != 0).then_some(&whole), 0);
        ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
        let outcome = group.gather(&slice, rank.rank);
        ensure!(matches!(outcome, Err(Error::Mismatch { .. })), "{outcome:?}");
        Ok(group.shutdown()?)
    })
}

#[test]
fn the_groups_of_a_mesh_share_a_store() -> Result<()> {
    ranks::run("parallel::the_groups_of_a_mesh_share_a_store", 4, |rank| {
        let mesh = Mesh::new(&[("data", 2), ("pipeline", 1), ("tensor", 2)])?;
        let transport = Transport::Gloo(Interface::Address("127.0.0.1".to_owned()));
        let options = GroupOptions { timeout: Duration::from_secs(20), ..Default::default() };
        let mut groups = mesh.join_each(&rank.store, rank.rank, &transport, &options)?;
        let over = (rank.rank, &["data", "tensor"][..]);
        let mut all = mesh.join(&rank.store, over, &transport, &options)?;
        ensure!(groups[1].is_none());
        let own = rank.rank as f32;
        for (index, over) in [(0, "data"), (2, "tensor")] {
            let group = groups[index].as_mut().expect("a group of two");
            let ranks = mesh.ranks(rank.rank, &[over])?;
            ensure!(group.size() == 2 && ranks[group.rank()] == rank.rank);
            let gathered = group.all_gather(&Tensor::from(own))?;
            let want: Vec<f64> = ranks.iter().map(|rank| *rank as f64).collect();
            ensure!(numbers(&gathered) == want, "{over}: {gathered:?}");
        }
        let mut sum = Tensor::from(own);
        all.all_reduce(&mut sum, ReduceOp::Sum)?;
        ensure!(numbers(&sum) == [6.0]);
        Ok(all.shutdown()?)
    })
}

/// Two layers of a perceptron, and an input.
fn layers() -> (Tensor, Tensor, Tensor) {
    (wave(&[8, 6], 0.1) * 0.4, wave(&[6, 8], 0.2) * 0.4, wave(&[4, 4, 6], 0.3))
}

fn dense(x: &Tensor, up: &Tensor, down: &Tensor) -> Tensor {
    x.linear(up, None::<&Tensor>).gelu("none").linear(down, None::<&Tensor>)
}

/// Gradients of the layers and the input in one process.
fn reference() -> (Tensor, [Tensor; 3]) {
    let (up, down, x) = layers();
    let leaves = [up, down, x].map(|leaf| leaf.set_requires_grad(true));
    let loss = dense(&leaves[2], &leaves[0], &leaves[1]).square().mean(Kind::Float);
    loss.backward();
    (loss.detach(), leaves.map(|leaf| leaf.grad()))
}

/// Where this rank's part of the eight hidden units starts, and its length.
fn share(group: &ProcessGroup) -> (i64, i64) {
    let [size, rank] = [group.size(), group.rank()].map(|n| i64::try_from(n).expect("a small n"));
    (8 / size * rank, 8 / size)
}

/// This rank's columns of the first layer and rows of the second, as leaves.
fn shares(group: &ProcessGroup) -> (Tensor, Tensor) {
    let (up, down, _) = layers();
    let (start, part) = share(group);
    let leaf = |tensor: Tensor| tensor.contiguous().copy().set_requires_grad(true);
    (leaf(up.narrow(0, start, part)), leaf(down.narrow(1, start, part)))
}

fn assert_shares(group: &ProcessGroup, up: &Tensor, down: &Tensor) -> Result<()> {
    let (_, [want_up, want_down, _]) = reference();
    let (start, part) = share(group);
    assert_close(&up.grad(), &want_up.narrow(0, start, part), 1e-6)?;
    assert_close(&down.grad(), &want_down.narrow(1, start, part), 1e-6)
}

#[test]
fn a_layer_split_over_ranks_is_the_whole() -> Result<()> {
    ranks::run("parallel::a_layer_split_over_ranks_is_the_whole", 2, |rank| {
        let mut group = rank.group()?;
        let (want_loss, [_, _, want_x]) = reference();
        let (up, down) = shares(&group);
        let x = layers().2.set_requires_grad(true);
        let copied = group.copy_to_ranks(&x)?;
        let y = group.sum_of_ranks(&dense(&copied, &up, &down))?;
        let loss = y.square().mean(Kind::Float);
        assert_close(&loss.detach(), &want_loss, 1e-6)?;
        backward(&[&loss], &[None], false)?;
        assert_shares(&group, &up, &down)?;
        assert_close(&x.grad(), &want_x, 1e-6)?;
        Ok(group.shutdown()?)
    })
}

#[test]
fn a_split_sequence_is_the_whole() -> Result<()> {
    ranks::run("parallel::a_split_sequence_is_the_whole", 2, |rank| {
        let mut group = rank.group()?;
        let (want_loss, [_, _, want_x]) = reference();
        for dim in [0, 1, -2] {
            let (up, down) = shares(&group);
            let x = layers().2.set_requires_grad(true);
            let part = group.split_to_ranks(&x, dim)?;
            let whole = group.gather_parts(&part, dim)?;
            let y = group.scatter_sum(&dense(&whole, &up, &down), dim)?;
            // Each rank's part of the mean; their sum is the loss.
            let loss = y.square().sum(Kind::Float) / x.numel() as f64;
            let mut sum = loss.detach().copy();
            group.all_reduce(&mut sum, ReduceOp::Sum)?;
            assert_close(&sum, &want_loss, 1e-6)?;
            backward(&[&loss], &[None], false)?;
            assert_shares(&group, &up, &down)?;
            assert_close(&x.grad(), &want_x, 1e-6)?;
        }
        // The output's parts, joined for a loss that all ranks compute alike.
        let x = layers().2.set_requires_grad(true);
        let part = group.split_to_ranks(&x, 2)?;
        ensure!(part.size() == [4, 4, 3]);
        let y = group.join_of_ranks(&(part * 3.0), 2)?;
        assert_close(&y.detach(), &(x.detach() * 3.0), 0.0)?;
        backward(&[&y], &[Some(&wave(&[4, 4, 6], 1.0))], false)?;
        assert_close(&x.grad(), &(wave(&[4, 4, 6], 1.0) * 3.0), 1e-6)?;

        let outcome = group.split_to_ranks(&Tensor::zeros([3], CPU), 0);
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
        let outcome = group.gather_parts(&x, 3);
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
        let outcome = group.copy_to_ranks(&x.to_kind(Kind::Int64));
        ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
        Ok(group.shutdown()?)
    })
}

#[test]
fn rows_come_back_with_their_gradients() -> Result<()> {
    ranks::run("parallel::rows_come_back_with_their_gradients", 2, |rank| {
        let mut group = rank.group()?;
        // Rank 0 sends 1 row to itself and 2 to rank 1, which sends 3 and none.
        let (sent, received) = [([1, 2], [1, 3]), ([3, 0], [2, 0])][rank.rank];
        let x = wave(&[3, 2], rank.rank as f64).set_requires_grad(true);
        let there = group.exchange_rows(&x, &sent, &received)?;
        let scaled = there * (rank.rank as f64 + 2.0);
        let back = group.exchange_rows(&scaled, &received, &sent)?;
        let factors = [[2.0, 3.0, 3.0], [2.0, 2.0, 2.0]][rank.rank];
        let factors = Tensor::from_slice(&factors).to_kind(Kind::Float).unsqueeze(1);
        assert_close(&back.detach(), &(x.detach() * &factors), 1e-6)?;
        backward(&[&back.square().sum(Kind::Float)], &[None], false)?;
        assert_close(&x.grad(), &(x.detach() * factors.square() * 2.0), 1e-5)?;
        Ok(group.shutdown()?)
    })
}

#[test]
fn a_lost_peer_and_a_late_one_are_errors_of_backward() -> Result<()> {
    ranks::run("parallel::a_lost_peer_and_a_late_one_are_errors_of_backward", 2, |rank| {
        // Joining has to be done in it, too, on a machine that is busy.
        let timeout = Duration::from_secs(4);
        let options = GroupOptions { name: "late".to_owned(), timeout, check_agreement: false };
        let mut late = rank.group_with(&options)?;
        let options =
            GroupOptions { name: "lost".to_owned(), check_agreement: false, ..Default::default() };
        let mut lost = rank.group_with(&options)?;
        if rank.rank == 1 {
            lost.barrier()?;
            drop(lost);
            rank.store.wait(&["done"], Duration::from_secs(20))?;
            return Ok(());
        }
        let x = wave(&[4], 0.0).set_requires_grad(true);
        lost.barrier()?;
        let y = lost.copy_to_ranks(&x)?;
        let error = backward(&[&y.sum(Kind::Float)], &[None], false).unwrap_err();
        ensure!(matches!(error, Error::PeerLost { .. }), "{error:?}");
        let y = late.copy_to_ranks(&x)?;
        let error = backward(&[&y.sum(Kind::Float)], &[None], false).unwrap_err();
        ensure!(matches!(error, Error::Timeout { .. }), "{error:?}");
        ensure!(!x.grad().defined());
        rank.store.set("done", &[])?;
        Ok(())
    })
}
