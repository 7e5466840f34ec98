//! Peers that are late, dead or gone wrong: each an error, in time, in a process
//! that lives on.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nccl_rs::{
    Error, GroupOptions, Interface, ProcessGroup, ReduceOp, Reducer, ReducerOptions, StoreOptions,
    TcpStore,
};
use tch::{Device, Kind, Tensor};

use crate::ranks::{self, Member};

/// Longer than any test's patience: what ends sooner did not time out.
const LONG: Duration = Duration::from_secs(30);
/// What a lost peer may cost those that are left.
const SOON: Duration = Duration::from_secs(8);

fn options(timeout: Duration, check_agreement: bool) -> GroupOptions {
    GroupOptions { timeout, check_agreement, ..Default::default() }
}

fn tensor() -> Tensor {
    Tensor::ones([1 << 20], (Kind::Float, Device::Cpu))
}

fn failure<T: Debug>(outcome: nccl_rs::Result<T>) -> Result<Error> {
    match outcome {
        Ok(value) => bail!("succeeded with {value:?}"),
        Err(error) => Ok(error),
    }
}

#[test]
fn a_peer_that_never_joins_is_a_timeout() -> Result<()> {
    let store = TcpStore::serve("127.0.0.1:0".parse()?, &StoreOptions::default())?;
    let interface = Interface::Address("127.0.0.1".to_owned());
    let begun = Instant::now();
    let outcome =
        ProcessGroup::gloo(&store, 0, 2, &interface, &options(Duration::from_millis(500), true));
    ensure!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    ensure!(begun.elapsed() < SOON);
    Ok(())
}

#[test]
fn a_peer_that_stays_away_is_a_timeout() -> Result<()> {
    ranks::run("faults::a_peer_that_stays_away_is_a_timeout", 2, |rank| {
        for (name, check_agreement) in [("checked", true), ("unchecked", false)] {
            let timeout = Duration::from_millis(700);
            let mut group =
                rank.group_with(&GroupOptions { name: name.to_owned(), timeout, check_agreement })?;
            if rank.rank == 1 {
                rank.store.wait(&[name], LONG)?;
                continue;
            }
            let begun = Instant::now();
            let error = group.all_reduce(&mut tensor(), ReduceOp::Sum).unwrap_err();
            ensure!(matches!(error, Error::Timeout { .. }), "{error:?}");
            ensure!(error.is_fatal_to_group() && begun.elapsed() >= timeout / 2);
            ensure!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
            rank.store.set(name, &[])?;
        }
        Ok(())
    })
}

fn survives_a_killed_peer(rank: &Member, check_agreement: bool) -> Result<()> {
    let mut group = rank.group_with(&options(LONG, check_agreement))?;
    group.barrier()?;
    if rank.rank == 1 {
        // The parent kills this rank on that word, before it joins the others.
        rank.store.set("kill me", &[])?;
        rank.store.get("never set")?;
    }
    let begun = Instant::now();
    let error = failure(group.all_reduce(&mut tensor(), ReduceOp::Sum))?;
    ensure!(matches!(error, Error::PeerLost { .. }), "{error:?}");
    ensure!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
    // What comes after fails too, at once and without ending the process.
    let error = failure(group.barrier())?;
    ensure!(error.is_fatal_to_group(), "{error:?}");
    Ok(())
}

#[test]
fn a_killed_peer_is_an_error_in_the_agreement() -> Result<()> {
    let name = "faults::a_killed_peer_is_an_error_in_the_agreement";
    ranks::run_with(
        name,
        2,
        |rank| survives_a_killed_peer(rank, true),
        |running| {
            running.store.wait(&["kill me"], LONG)?;
            running.kill(1)
        },
    )
}

#[test]
fn a_killed_peer_is_an_error_in_the_collective() -> Result<()> {
    let name = "faults::a_killed_peer_is_an_error_in_the_collective";
    ranks::run_with(
        name,
        2,
        |rank| survives_a_killed_peer(rank, false),
        |running| {
            running.store.wait(&["kill me"], LONG)?;
            running.kill(1)
        },
    )
}

#[test]
fn an_abort_ends_what_is_under_way() -> Result<()> {
    ranks::run("faults::an_abort_ends_what_is_under_way", 2, |rank| {
        let mut group = rank.group_with(&options(LONG, false))?;
        group.barrier()?;
        let begun = Instant::now();
        if rank.rank == 0 {
            let handle = group.abort_handle();
            let work = group.all_reduce_async(tensor(), ReduceOp::Sum)?;
            ensure!(!work.is_done());
            std::thread::scope(|scope| scope.spawn(|| handle.abort()).join().unwrap())?;
            let error = work.wait().unwrap_err();
            ensure!(
                matches!(&error, Error::PeerLost { detail, .. } if detail.contains("aborted")),
                "{error:?}"
            );
            rank.store.set("aborted", &[])?;
            drop(group);
            handle.abort()?;
        } else {
            rank.store.wait(&["aborted"], LONG)?;
            let error = group.all_reduce(&mut tensor(), ReduceOp::Sum).unwrap_err();
            ensure!(matches!(error, Error::PeerLost { .. }), "{error:?}");
            drop(group);
        }
        ensure!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
        Ok(())
    })
}

fn survives_a_peer_killed_in_backward(rank: &Member) -> Result<()> {
    let mut group = rank.group_with(&options(LONG, true))?;
    let weight = tensor().set_requires_grad(true);
    let named = [("weight".to_owned(), weight.shallow_clone())];
    let mut reducer = Reducer::new(&named, &mut group, &ReducerOptions::default())?;
    reducer.backward(&(&weight * 2.0).sum(Kind::Float))?;
    if rank.rank == 1 {
        rank.store.set("kill me", &[])?;
        rank.store.get("never set")?;
    }
    let begun = Instant::now();
    let loss = (&weight * 2.0).sum(Kind::Float);
    let error = failure(reducer.backward(&loss))?;
    ensure!(matches!(error, Error::PeerLost { .. }), "{error:?}");
    ensure!(begun.elapsed() < SOON, "took {:?}", begun.elapsed());
    let error = failure(reducer.backward(&(&weight * 2.0).sum(Kind::Float)))?;
    ensure!(error.to_string().contains("half reduced"), "{error}");
    Ok(())
}

#[test]
fn a_peer_that_dies_in_backward_is_an_error() -> Result<()> {
    let name = "faults::a_peer_that_dies_in_backward_is_an_error";
    ranks::run_with(name, 2, survives_a_peer_killed_in_backward, |running| {
        running.store.wait(&["kill me"], LONG)?;
        running.kill(1)
    })
}

#[test]
fn a_store_that_is_not_there_is_an_error() -> Result<()> {
    let options = StoreOptions { timeout: Duration::from_millis(300), world_size: None };
    // A port that was free a moment ago.
    let port = TcpStore::serve("127.0.0.1:0".parse()?, &options)?.port();
    let outcome = TcpStore::connect("127.0.0.1", port, &options);
    ensure!(matches!(outcome, Err(Error::Timeout { .. } | Error::PeerLost { .. })), "{outcome:?}");
    let outcome = TcpStore::connect("no host\0", port, &options);
    ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
    let zero = StoreOptions { timeout: Duration::ZERO, world_size: None };
    let outcome = TcpStore::connect("127.0.0.1", port, &zero);
    ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
    Ok(())
}

#[test]
fn a_store_whose_server_died_is_an_error() -> Result<()> {
    let options = StoreOptions { timeout: Duration::from_secs(2), world_size: None };
    let server = TcpStore::serve("127.0.0.1:0".parse()?, &options)?;
    let client = TcpStore::connect("127.0.0.1", server.port(), &options)?;
    drop(server);
    let error = client.get("key").unwrap_err();
    ensure!(matches!(error, Error::PeerLost { .. }), "{error:?}");
    Ok(())
}

#[test]
fn an_interface_that_is_not_there_is_an_error() -> Result<()> {
    let store = TcpStore::serve("127.0.0.1:0".parse()?, &StoreOptions::default())?;
    let interface = Interface::Name("hearth-none0".to_owned());
    let outcome = ProcessGroup::gloo(&store, 0, 1, &interface, &GroupOptions::default());
    ensure!(outcome.unwrap_err().to_string().contains("hearth-none0"));
    let outcome = ProcessGroup::gloo(&store, 2, 2, &interface, &GroupOptions::default());
    ensure!(matches!(outcome, Err(Error::InvalidArgument(_))), "{outcome:?}");
    Ok(())
}

#[test]
fn nccl_and_cuda_that_are_absent_are_told() -> Result<()> {
    let store = TcpStore::serve("127.0.0.1:0".parse()?, &StoreOptions::default())?;
    if nccl_rs::cuda::has_backend() {
        return Ok(());
    }
    let outcome = ProcessGroup::nccl(&store, 0, 1, 0, &GroupOptions::default());
    ensure!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    if let Err(error) = nccl_rs::cuda::load_backend() {
        ensure!(error.to_string().starts_with("cannot load libtorch_cuda.so: "), "{error}");
    }
    Ok(())
}
