//! The operations that all ranks of a group run together.

use tch::{Kind, Tensor};

use super::ProcessGroup;
use crate::agreement::{Call, Operation, count};
use crate::error::{Error, Result, checked, created};
use crate::reduce_op::ReduceOp;
use crate::sys;
use crate::tensor::{ensure_sendable, pointers};
use crate::work::Work;

/// Collectives. All ranks call the same ones, in the same order, with tensors of
/// the same shape and kind.
impl ProcessGroup {
    /// Replaces `tensor` on all ranks by the reduction over all ranks.
    pub fn all_reduce(&mut self, tensor: &mut Tensor, op: ReduceOp) -> Result<()> {
        self.all_reduce_async(tensor.shallow_clone(), op)?.wait().map(drop)
    }

    /// [`Self::all_reduce`] that goes on while the program does.
    pub fn all_reduce_async(&mut self, tensor: Tensor, op: ReduceOp) -> Result<Work<Tensor>> {
        self.ensure_reducible("all_reduce", &tensor, op)?;
        self.agree(&Call::on(Operation::AllReduce(op), &tensor)?)?;
        let group = self.raw.as_ptr();
        let raw = created("all_reduce", |out, message| {
            // SAFETY: `raw` lives until Drop; the tensor was checked, and the
            // shim takes its own reference to it.
            unsafe { sys::hearth_group_all_reduce(group, tensor.as_ptr(), op.code(), out, message) }
        })?;
        Ok(Work::new(raw, "all_reduce".to_owned(), tensor))
    }

    /// All ranks' `input`, stacked by rank: `[..]` gives `[size, ..]`.
    pub fn all_gather(&mut self, input: &Tensor) -> Result<Tensor> {
        self.all_gather_async(input.shallow_clone())?.wait()
    }

    /// [`Self::all_gather`] that goes on while the program does.
    pub fn all_gather_async(&mut self, input: Tensor) -> Result<Work<Tensor>> {
        ensure_sendable("all_gather", &input, self.device)?;
        self.agree(&Call::on(Operation::AllGather, &input)?)?;
        self.gather_unchecked(input)
    }

    /// Reduces over ranks and gives each rank its slice: input `[size * n, ..]`
    /// gives `[n, ..]`, of which rank r's is rows `r * n ..`.
    ///
    /// Gloo has no algorithm of its own for it: c10d all-reduces a copy and cuts
    /// the slice out, so it costs as much as [`Self::all_reduce`] there.
    pub fn reduce_scatter(&mut self, input: &Tensor, op: ReduceOp) -> Result<Tensor> {
        self.reduce_scatter_async(input.shallow_clone(), op)?.wait()
    }

    /// [`Self::reduce_scatter`] that goes on while the program does.
    pub fn reduce_scatter_async(&mut self, input: Tensor, op: ReduceOp) -> Result<Work<Tensor>> {
        let operation = "reduce_scatter";
        self.ensure_reducible(operation, &input, op)?;
        let mut shape = input.size();
        let size = count(self.size);
        match shape.first_mut() {
            Some(rows) if *rows % size == 0 => *rows /= size,
            _ => {
                let detail =
                    format!("the first dimension of {shape:?} is not divisible by {size} ranks");
                return Err(Error::InvalidTensor { operation, detail });
            }
        }
        self.agree(&Call::on(Operation::ReduceScatter(op), &input)?)?;
        let output = Tensor::empty(shape, (input.kind(), self.device));
        let group = self.raw.as_ptr();
        let raw = created(operation, |out, message| {
            // SAFETY: `raw` lives until Drop; both tensors are dense, of one
            // kind, and their sizes differ by the factor `size`.
            unsafe {
                sys::hearth_group_reduce_scatter(
                    group,
                    output.as_ptr(),
                    input.as_ptr(),
                    op.code(),
                    out,
                    message,
                )
            }
        })?;
        Ok(Work::new(raw, operation.to_owned(), output).holding(input))
    }

    /// Replaces `tensor` on all ranks by that of rank `root`.
    pub fn broadcast(&mut self, tensor: &mut Tensor, root: usize) -> Result<()> {
        self.broadcast_async(tensor.shallow_clone(), root)?.wait().map(drop)
    }

    /// [`Self::broadcast`] that goes on while the program does.
    pub fn broadcast_async(&mut self, tensor: Tensor, root: usize) -> Result<Work<Tensor>> {
        ensure_sendable("broadcast", &tensor, self.device)?;
        let root_rank = self.peer(root)?;
        self.agree(&Call::on(Operation::Broadcast { root }, &tensor)?)?;
        let group = self.raw.as_ptr();
        let raw = created("broadcast", |out, message| {
            // SAFETY: `raw` lives until Drop; the tensor was checked, and the
            // shim takes its own reference to it.
            unsafe { sys::hearth_group_broadcast(group, tensor.as_ptr(), root_rank, out, message) }
        })?;
        Ok(Work::new(raw, "broadcast".to_owned(), tensor))
    }

    /// Broadcasts many tensors, gathered into buffers of 25 MiB: a model's
    /// parameters and buffers before training.
    pub fn broadcast_all(&mut self, tensors: &mut [Tensor], root: usize) -> Result<()> {
        const BUFFER_BYTES: usize = 25 << 20;
        for tensor in &*tensors {
            ensure_sendable("broadcast_all", tensor, self.device)?;
        }
        let root_rank = self.peer(root)?;
        let list: Vec<&Tensor> = tensors.iter().collect();
        self.agree(&Call::on_all(Operation::BroadcastAll { root }, &list))?;
        let list = pointers(&*tensors);
        checked("broadcast_all", |message| {
            // SAFETY: `raw` lives until Drop; `list` points to `tensors`, which
            // were checked and are borrowed until the call returns.
            unsafe {
                sys::hearth_group_broadcast_coalesced(
                    self.raw.as_ptr(),
                    list.as_ptr(),
                    list.len(),
                    BUFFER_BYTES,
                    root_rank,
                    message,
                )
            }
        })
    }

    /// Returns once all ranks have called it.
    pub fn barrier(&mut self) -> Result<()> {
        self.agree(&Call::bare(Operation::Barrier))?;
        let raw = created("barrier", |out, message| {
            // SAFETY: `raw` lives until Drop; the out-pointers are live.
            unsafe { sys::hearth_group_barrier(self.raw.as_ptr(), out, message) }
        })?;
        Work::new(raw, "barrier".to_owned(), ()).wait()
    }

    pub(super) fn ensure_reducible(
        &self,
        operation: &'static str,
        tensor: &Tensor,
        op: ReduceOp,
    ) -> Result<()> {
        ensure_sendable(operation, tensor, self.device)?;
        let floats = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16];
        if op == ReduceOp::Avg && !floats.contains(&tensor.kind()) {
            let detail = format!("the average of {:?} elements is no integer", tensor.kind());
            return Err(Error::InvalidTensor { operation, detail });
        }
        Ok(())
    }
}
