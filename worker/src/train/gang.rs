//! What ranks say to each other outside of gradients.
//!
//! Invariant: every rank calls the collective methods in the same order.

use std::time::Duration;

use hearth_crds::training_job::Parallelism;
use nccl_rs::{
    GroupOptions, Mesh, ProcessGroup, ReduceOp, StoreOptions, TcpStore, Transport, Work,
};
use tch::{Device, Tensor};

use super::rank::Rank;
use crate::error::Error;
use crate::parallel::Layout;

/// Longest wait for a message.
const LONGEST_READ: Duration = Duration::from_hours(1);

/// The ranks of one generation. A rank that trains alone needs no network.
pub struct Gang {
    rank: usize,
    world_size: usize,
    layout: Layout,
    device: Device,
    store: Option<TcpStore>,
    group: Option<ProcessGroup>,
}

/// A sum over ranks on its way.
#[must_use]
pub enum PendingSum {
    /// Of one rank.
    Done(Vec<f64>),
    /// Of several.
    Waiting(Work<Tensor>),
}

impl PendingSum {
    /// The sum.
    pub fn wait(self) -> Result<Vec<f64>, Error> {
        match self {
            Self::Done(values) => Ok(values),
            Self::Waiting(work) => Ok(Vec::try_from(work.wait()?.f_to_device(Device::Cpu)?)?),
        }
    }
}

impl Gang {
    /// Meets the other ranks at the master's store.
    pub fn meet(rank: &Rank, device: Device, ways: &Parallelism) -> Result<Self, Error> {
        let layout = Layout::new(ways, rank.rank, rank.world_size)?;
        let mut gang = Self {
            rank: rank.rank,
            world_size: rank.world_size,
            layout,
            device,
            store: None,
            group: None,
        };
        if rank.world_size > 1 {
            let options = StoreOptions { timeout: rank.timeout, world_size: Some(rank.world_size) };
            gang.store = Some(if rank.rank == 0 {
                TcpStore::serve(rank.listen_address()?, &options)?
            } else {
                TcpStore::connect(&rank.master_address, rank.master_port, &options)?
            });
        }
        Ok(gang)
    }

    /// Makes the process group, before the first collective.
    pub fn connect(&mut self, rank: &Rank) -> Result<(), Error> {
        let Some(store) = &self.store else { return Ok(()) };
        let options = group_options(rank, "train");
        self.group = Some(if let Device::Cuda(device) = self.device {
            ProcessGroup::nccl(store, rank.rank, rank.world_size, device, &options)?
        } else {
            let interface = rank.interface()?;
            ProcessGroup::gloo(store, rank.rank, rank.world_size, &interface, &options)?
        });
        Ok(())
    }

    /// Joins this rank's group `name` over axes of a grid. All ranks join the same ones in the
    /// same order.
    pub fn join(
        &self,
        rank: &Rank,
        (mesh, name, over): (&Mesh, &str, &[&str]),
    ) -> Result<ProcessGroup, Error> {
        let Some(store) = &self.store else {
            return Err(Error::Internal(format!("one rank alone has no group {name}")));
        };
        let transport = match self.device {
            Device::Cuda(device) => Transport::Nccl(device),
            _ => Transport::Gloo(rank.interface()?),
        };
        Ok(mesh.join(store, (self.rank, over), &transport, &group_options(rank, name))?)
    }

    /// Waits until all ranks are here, however long they take to read what they need.
    pub fn assemble(&self, what: &str) -> Result<(), Error> {
        self.tell(&format!("{what}-{}", self.rank), b"here")?;
        (0..self.world_size).try_for_each(|rank| self.read(&format!("{what}-{rank}")).map(drop))
    }

    /// Which rank does what.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Whether this is rank 0, which decides and reports.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// The process group; `None` where one rank trains alone.
    pub fn group(&mut self) -> Option<&mut ProcessGroup> {
        self.group.as_mut()
    }

    /// Starts to sum `values` over all ranks.
    pub fn start_sum(&mut self, values: &[f64]) -> Result<PendingSum, Error> {
        let Some(group) = &mut self.group else { return Ok(PendingSum::Done(values.to_vec())) };
        let tensor = Tensor::f_from_slice(values)?.f_to_device(self.device)?;
        Ok(PendingSum::Waiting(group.all_reduce_async(tensor, ReduceOp::Sum)?))
    }

    /// Sums `values` over all ranks.
    pub fn sum(&mut self, values: &[f64]) -> Result<Vec<f64>, Error> {
        self.start_sum(values)?.wait()
    }

    /// Leaves a message that every rank can [`read`](Self::read).
    pub fn tell(&self, key: &str, message: &[u8]) -> Result<(), Error> {
        match &self.store {
            Some(store) => Ok(store.set(key, message)?),
            None => Ok(()),
        }
    }

    /// Waits for a message. Empty where one rank trains alone. What is waited
    /// for may take long (reading data, hashing a checkpoint); a rank that
    /// died is noticed at once, as its connection to the store ends.
    pub fn read(&self, key: &str) -> Result<Vec<u8>, Error> {
        let Some(store) = &self.store else { return Ok(Vec::new()) };
        store.wait(&[key], LONGEST_READ)?;
        Ok(store.get(key)?)
    }

    /// What rank 0 decides, told to all.
    pub fn follow_leader(
        &self,
        key: &str,
        decide: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<Vec<u8>, Error> {
        if self.leads() {
            let decision = decide()?;
            self.tell(key, &decision)?;
            Ok(decision)
        } else {
            self.read(key)
        }
    }
}

fn group_options(rank: &Rank, name: &str) -> GroupOptions {
    GroupOptions {
        name: format!("{name}-{}", rank.generation),
        timeout: rank.timeout,
        ..GroupOptions::default()
    }
}
