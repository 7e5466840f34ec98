//! Every collective's numbers, and the store's operations.

use std::time::Duration;

use anyhow::{Result, ensure};
use nccl_rs::{Error, GroupOptions, Interface, ProcessGroup, ReduceOp, StoreOptions, TcpStore};
use tch::{Device, Kind, Tensor};

use crate::ranks::{self, Member};

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("a flat tensor of f64")
}

#[test]
fn all_reduce_gives_sum_mean_least_and_greatest() -> Result<()> {
    ranks::run("collectives::all_reduce_gives_sum_mean_least_and_greatest", 2, |rank| {
        let mut group = rank.group()?;
        let own = [[1.0, -2.0], [5.0, 4.0]][rank.rank];
        for (op, want) in [
            (ReduceOp::Sum, [6.0, 2.0]),
            (ReduceOp::Avg, [3.0, 1.0]),
            (ReduceOp::Min, [1.0, -2.0]),
            (ReduceOp::Max, [5.0, 4.0]),
        ] {
            for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16] {
                let mut tensor = Tensor::from_slice(&own).to_kind(kind);
                group.all_reduce(&mut tensor, op)?;
                ensure!(numbers(&tensor) == want, "{op:?} of {kind:?} gave {tensor:?}");
            }
            for kind in [Kind::Int8, Kind::Int, Kind::Int64] {
                let mut tensor = Tensor::from_slice(&own).to_kind(kind);
                let outcome = group.all_reduce(&mut tensor, op);
                if op == ReduceOp::Avg {
                    ensure!(matches!(outcome, Err(Error::InvalidTensor { .. })), "{outcome:?}");
                } else {
                    outcome?;
                    ensure!(numbers(&tensor) == want, "{op:?} of {kind:?} gave {tensor:?}");
                }
            }
        }
        Ok(group.shutdown()?)
    })
}

#[test]
fn three_ranks_gather_scatter_and_broadcast() -> Result<()> {
    ranks::run("collectives::three_ranks_gather_scatter_and_broadcast", 3, |rank| {
        let mut group = rank.group()?;
        let own = rank.rank as f32;

        let gathered = group.all_gather(&Tensor::from_slice(&[own, own + 0.5]))?;
        ensure!(gathered.size() == [3, 2]);
        ensure!(numbers(&gathered) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], "{gathered:?}");

        // Row j of rank i holds 10 i + j, so the sum of row j is 30 + 3 j.
        let rows = Tensor::arange(3, (Kind::Float, Device::Cpu)) + f64::from(own) * 10.0;
        let rows = rows.reshape([3, 1]);
        let slice = group.reduce_scatter(&rows, ReduceOp::Sum)?;
        ensure!(slice.size() == [1, 1]);
        ensure!(numbers(&slice) == [30.0 + 3.0 * f64::from(own)], "{slice:?}");
        let slice = group.reduce_scatter(&rows, ReduceOp::Avg)?;
        ensure!(numbers(&slice) == [10.0 + f64::from(own)], "{slice:?}");

        let mut tensor = Tensor::from_slice(&[own]);
        group.broadcast(&mut tensor, 2)?;
        ensure!(numbers(&tensor) == [2.0]);

        let mut model: Vec<Tensor> = (0..5)
            .map(|i| Tensor::full([i + 1, 2], f64::from(own), (Kind::Float, Device::Cpu)))
            .collect();
        model.push(Tensor::from_slice(&[i64::try_from(rank.rank)?]));
        group.broadcast_all(&mut model, 1)?;
        ensure!(model.iter().all(|tensor| numbers(tensor).iter().all(|x| (*x - 1.0).abs() < 1e-9)));

        group.barrier()?;
        Ok(group.shutdown()?)
    })
}

#[test]
fn messages_go_between_two_ranks() -> Result<()> {
    ranks::run("collectives::messages_go_between_two_ranks", 2, |rank| {
        let mut group = rank.group()?;
        let payload = Tensor::arange(6, (Kind::Float, Device::Cpu)).reshape([2, 3]);
        if rank.rank == 0 {
            group.send(&payload, 1, 7)?;
            // The wrong shape is told to both, and the group goes on.
            let outcome = group.send(&payload, 1, 8);
            ensure!(matches!(outcome, Err(Error::Mismatch { .. })), "{outcome:?}");
            let mut back = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
            group.recv(&mut back, 1, 9)?;
            ensure!(back == &payload * 2.0);
        } else {
            let mut tensor = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
            group.recv(&mut tensor, 0, 7)?;
            ensure!(tensor == payload);
            let mut short = Tensor::zeros([2], (Kind::Float, Device::Cpu));
            let outcome = group.recv(&mut short, 0, 8);
            ensure!(matches!(outcome, Err(Error::Mismatch { .. })), "{outcome:?}");
            group.send(&(tensor * 2.0), 0, 9)?;
        }
        let outcome = group.send(&payload, rank.rank, 1);
        ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
        Ok(group.shutdown()?)
    })
}

#[test]
fn two_ranks_send_to_each_other_at_once() -> Result<()> {
    ranks::run("collectives::two_ranks_send_to_each_other_at_once", 2, |rank| {
        let mut group = rank.group()?;
        let other = 1 - rank.rank;
        let mut sent = Vec::new();
        for number in 0..3_u8 {
            let message = Tensor::from_slice(&[10.0 * rank.rank as f32 + f32::from(number)]);
            sent.push(group.send_async(message, other, 3)?);
        }
        for number in 0..3_u8 {
            let mut message = Tensor::zeros([1], (Kind::Float, Device::Cpu));
            group.recv_unchecked(&mut message, other, 3)?;
            let want = 10.0 * other as f64 + f64::from(number);
            ensure!(numbers(&message) == [want], "in the order in which they were sent");
        }
        for work in sent {
            let _ = work.wait()?;
        }
        Ok(group.shutdown()?)
    })
}

#[test]
fn several_works_are_under_way_at_once() -> Result<()> {
    ranks::run("collectives::several_works_are_under_way_at_once", 2, |rank| {
        let mut group = rank.group()?;
        let works = (0..8)
            .map(|i| {
                let tensor = Tensor::full([1000], i, (Kind::Float, Device::Cpu));
                group.all_reduce_async(tensor, ReduceOp::Sum)
            })
            .collect::<Result<Vec<_>, _>>()?;
        for (i, work) in works.into_iter().enumerate() {
            let tensor = work.wait()?;
            ensure!(numbers(&tensor).iter().all(|x| (*x - 2.0 * i as f64).abs() < 1e-9));
        }
        let dropped = group.all_gather_async(Tensor::from_slice(&[1.0f32]))?;
        drop(dropped);
        Ok(group.shutdown()?)
    })
}

#[test]
fn ranks_that_disagree_are_told_and_go_on() -> Result<()> {
    ranks::run("collectives::ranks_that_disagree_are_told_and_go_on", 2, |rank| {
        let mut group = rank.group()?;
        let own = i64::try_from(rank.rank)?;

        let mut longer = Tensor::zeros([3 + own], (Kind::Float, Device::Cpu));
        let error = group.all_reduce(&mut longer, ReduceOp::Sum).unwrap_err();
        ensure!(matches!(error, Error::Mismatch { .. }) && !error.is_fatal_to_group(), "{error}");
        ensure!(error.to_string().contains("Float [3]"), "{error}");
        ensure!(error.to_string().contains("Float [4]"), "{error}");

        let mut tensor = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        let outcome = if rank.rank == 0 {
            group.barrier()
        } else {
            group.all_reduce(&mut tensor, ReduceOp::Sum)
        };
        ensure!(matches!(outcome, Err(Error::Mismatch { .. })), "{outcome:?}");
        let outcome = group.broadcast(&mut tensor, rank.rank);
        ensure!(matches!(outcome, Err(Error::Mismatch { .. })), "{outcome:?}");

        group.all_reduce(&mut (tensor + 1.0), ReduceOp::Sum)?;
        Ok(group.shutdown()?)
    })
}

/// A group of one rank, for what is refused before anything is sent.
fn alone() -> Result<(TcpStore, ProcessGroup)> {
    let store = TcpStore::serve("127.0.0.1:0".parse()?, &StoreOptions::default())?;
    let interface = Interface::facing("127.0.0.1", store.port())?;
    ensure!(interface == Interface::Address("127.0.0.1".to_owned()));
    let group = ProcessGroup::gloo(&store, 0, 1, &interface, &GroupOptions::default())?;
    Ok((store, group))
}

#[test]
fn unfit_tensors_and_ranks_are_refused() -> Result<()> {
    let (_store, mut group) = alone()?;
    let whole = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu));
    for (name, mut tensor) in [
        ("undefined", Tensor::new()),
        ("not contiguous", whole.tr()),
        ("not dense", whole.to_sparse_sparse_dim(2)),
        ("cannot be sent", whole.to_kind(Kind::Bool)),
    ] {
        let error = group.all_reduce(&mut tensor, ReduceOp::Sum).unwrap_err();
        ensure!(matches!(error, Error::InvalidTensor { .. }), "{error:?}");
        ensure!(error.to_string().contains(name), "{name}: {error}");
    }
    let scalar = Tensor::from(1.0f32);
    ensure!(matches!(
        group.reduce_scatter(&scalar, ReduceOp::Sum),
        Err(Error::InvalidTensor { .. })
    ));
    let mut tensor = whole.copy();
    ensure!(matches!(group.broadcast(&mut tensor, 1), Err(Error::InvalidArgument(_))));
    ensure!(matches!(group.send(&whole, 0, 0), Err(Error::InvalidArgument(_))));
    Ok(())
}

#[test]
fn a_store_keeps_counts_waits_and_forgets() -> Result<()> {
    let options = StoreOptions { timeout: Duration::from_millis(300), world_size: None };
    let server = TcpStore::serve("127.0.0.1:0".parse()?, &options)?;
    let client = TcpStore::connect("127.0.0.1", server.port(), &options)?;

    client.set("bytes", &[0, 255, 10])?;
    client.set("empty", &[])?;
    ensure!(server.get("bytes")? == [0, 255, 10]);
    ensure!(server.get("empty")?.is_empty());
    ensure!(client.add("count", 2)? == 2 && server.add("count", 3)? == 5);
    server.wait(&["bytes", "count"], Duration::from_secs(1))?;
    ensure!(server.contains("bytes")? && server.delete("bytes")? && !client.contains("bytes")?);
    ensure!(!client.delete("bytes")?);

    let outcome = client.get("bytes");
    ensure!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    let outcome = client.wait(&["bytes"], Duration::from_millis(50));
    ensure!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    ensure!(matches!(client.set("a\0b", &[]), Err(Error::InvalidArgument(_))));
    let taken = TcpStore::serve(format!("127.0.0.1:{}", server.port()).parse()?, &options);
    ensure!(matches!(taken, Err(Error::InvalidArgument(_))), "{taken:?}");
    Ok(())
}

#[test]
fn a_server_waits_for_its_world() -> Result<()> {
    let options = StoreOptions { timeout: Duration::from_millis(300), world_size: Some(2) };
    let outcome = TcpStore::serve("127.0.0.1:0".parse()?, &options);
    ensure!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    Ok(())
}

#[test]
fn groups_with_names_of_their_own_share_a_store() -> Result<()> {
    fn body(rank: &Member) -> Result<()> {
        let timeout = Duration::from_secs(20);
        let named =
            |name: &str| GroupOptions { name: name.to_owned(), timeout, ..Default::default() };
        let mut first = rank.group_with(&named("generation-1"))?;
        let mut second = rank.group_with(&named("generation-2"))?;
        for group in [&mut second, &mut first] {
            let mut tensor = Tensor::from_slice(&[1.0f32]);
            group.all_reduce(&mut tensor, ReduceOp::Sum)?;
            ensure!(numbers(&tensor) == [2.0]);
        }
        first.shutdown()?;
        Ok(second.shutdown()?)
    }
    ranks::run("collectives::groups_with_names_of_their_own_share_a_store", 2, body)
}
