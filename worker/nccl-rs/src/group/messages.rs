//! Messages between two ranks of a group.

use tch::Tensor;

use super::{ProcessGroup, unreadable};
use crate::agreement::{Call, Operation, WORDS};
use crate::error::{Error, Result, created};
use crate::sys;
use crate::tensor::ensure_sendable;
use crate::work::Work;

/// Messages between two ranks.
impl ProcessGroup {
    /// Sends `tensor` to rank `to`, which has to [`Self::recv`] it under the same
    /// tag; returns once it has. Two ranks that send to each other at the same
    /// time wait for each other until the timeout.
    pub fn send(&mut self, tensor: &Tensor, to: usize, tag: u16) -> Result<()> {
        ensure_sendable("send", tensor, self.device)?;
        let peer = self.other_peer(to)?;
        if self.options.check_agreement {
            let call = Call::on(Operation::Message { tag }, tensor)?;
            let own = self.words(&call.encode());
            self.send_unchecked(&own, peer, wire_tag(tag, Leg::Header))?;
            let mut theirs = self.words(&[0; WORDS]);
            self.recv_raw(&mut theirs, peer, wire_tag(tag, Leg::Answer))?;
            call.agrees_with(&pair(self.rank, &call, to, &theirs)?, self.rank)?;
        }
        self.send_unchecked(tensor, peer, wire_tag(tag, Leg::Data))
    }

    /// Fills `tensor` with what rank `from` sends under the same tag. Shape and
    /// kind have to be the sender's.
    pub fn recv(&mut self, tensor: &mut Tensor, from: usize, tag: u16) -> Result<()> {
        ensure_sendable("recv", tensor, self.device)?;
        let peer = self.other_peer(from)?;
        if self.options.check_agreement {
            let call = Call::on(Operation::Message { tag }, tensor)?;
            let mut theirs = self.words(&[0; WORDS]);
            self.recv_raw(&mut theirs, peer, wire_tag(tag, Leg::Header))?;
            let own = self.words(&call.encode());
            self.send_unchecked(&own, peer, wire_tag(tag, Leg::Answer))?;
            call.agrees_with(&pair(self.rank, &call, from, &theirs)?, self.rank)?;
        }
        self.recv_raw(tensor, peer, wire_tag(tag, Leg::Data))
    }

    /// [`Self::send`] that goes on while the program does, without a comparison of what
    /// is sent and what is expected: those who use it agree on shapes by other means.
    /// For [`Self::recv_unchecked`].
    pub fn send_async(&mut self, tensor: Tensor, to: usize, tag: u16) -> Result<Work<Tensor>> {
        ensure_sendable("send", &tensor, self.device)?;
        let peer = self.other_peer(to)?;
        let raw = created("send", |out, message| {
            let tag = wire_tag(tag, Leg::Data);
            // SAFETY: `raw` lives until Drop; the tensor was checked, and the work
            // holds it.
            unsafe {
                sys::hearth_group_send(self.raw.as_ptr(), tensor.as_ptr(), peer, tag, out, message)
            }
        })?;
        Ok(Work::new(raw, format!("send to rank {peer}"), tensor))
    }

    /// [`Self::recv`] of what comes by [`Self::send_async`].
    pub fn recv_unchecked(&mut self, tensor: &mut Tensor, from: usize, tag: u16) -> Result<()> {
        ensure_sendable("recv", tensor, self.device)?;
        let peer = self.other_peer(from)?;
        self.recv_raw(tensor, peer, wire_tag(tag, Leg::Data))
    }

    fn send_unchecked(&mut self, tensor: &Tensor, peer: i32, tag: i32) -> Result<()> {
        let raw = created("send", |out, message| {
            // SAFETY: `raw` lives until Drop; the tensor was checked.
            unsafe {
                sys::hearth_group_send(self.raw.as_ptr(), tensor.as_ptr(), peer, tag, out, message)
            }
        })?;
        Work::new(raw, format!("send to rank {peer}"), ()).wait()
    }

    fn recv_raw(&mut self, tensor: &mut Tensor, peer: i32, tag: i32) -> Result<()> {
        let raw = created("recv", |out, message| {
            // SAFETY: `raw` lives until Drop; the tensor was checked.
            unsafe {
                sys::hearth_group_recv(self.raw.as_ptr(), tensor.as_ptr(), peer, tag, out, message)
            }
        })?;
        Work::new(raw, format!("recv from rank {peer}"), ()).wait()
    }

    fn other_peer(&self, rank: usize) -> Result<i32> {
        if rank == self.rank {
            return Err(Error::InvalidArgument(format!("rank {rank} cannot message itself")));
        }
        self.peer(rank)
    }
}

/// The parts of a checked message between two ranks.
#[derive(Clone, Copy)]
enum Leg {
    Header,
    Answer,
    Data,
}

/// c10d's tag for one leg of the user's message `tag`.
fn wire_tag(tag: u16, leg: Leg) -> i32 {
    i32::from(tag) * 4 + leg as i32
}

/// Two ranks' encoded calls at their places in a table of ranks, so that they are
/// compared as a collective's are. The places between hold this rank's own.
fn pair(own_rank: usize, own: &Call, other_rank: usize, other: &Tensor) -> Result<Vec<i64>> {
    let mut table = own.encode().repeat(own_rank.max(other_rank) + 1);
    let words = Vec::<i64>::try_from(other).map_err(unreadable)?;
    table[other_rank * WORDS..(other_rank + 1) * WORDS].copy_from_slice(&words);
    Ok(table)
}
