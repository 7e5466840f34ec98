//! Two processes, one with `RANK=0` and one with `RANK=1`, take the mean of what they hold.

use std::net::SocketAddr;

use nccl_rs::{GroupOptions, Interface, ProcessGroup, ReduceOp, StoreOptions, TcpStore};
use tch::Tensor;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rank: usize = std::env::var("RANK")?.parse()?;
    let address: SocketAddr = "127.0.0.1:29500".parse()?;
    let store = if rank == 0 {
        TcpStore::serve(address, &StoreOptions::default())?
    } else {
        TcpStore::connect("127.0.0.1", 29500, &StoreOptions::default())?
    };
    let interface = Interface::facing("127.0.0.1", 29500)?;
    let mut group = ProcessGroup::gloo(&store, rank, 2, &interface, &GroupOptions::default())?;

    let mut tensor = Tensor::from_slice(&[rank as f32, 1.0]);
    group.all_reduce(&mut tensor, ReduceOp::Avg)?;
    assert_eq!(Vec::<f32>::try_from(&tensor)?, [0.5, 1.0]);
    group.shutdown()?;
    Ok(())
}
