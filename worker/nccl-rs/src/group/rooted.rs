//! Collectives in which one rank, the root, gives or gets all.

use std::ptr;

use tch::Tensor;

use super::ProcessGroup;
use crate::agreement::{Call, Operation, count};
use crate::error::{Error, Result, created};
use crate::reduce_op::ReduceOp;
use crate::sys;
use crate::tensor::ensure_sendable;
use crate::work::Work;

/// To and from one rank.
impl ProcessGroup {
    /// Replaces `tensor` on rank `root` by the reduction over all ranks. Elsewhere
    /// it holds anything after.
    pub fn reduce(&mut self, tensor: &mut Tensor, op: ReduceOp, root: usize) -> Result<()> {
        self.ensure_reducible("reduce", tensor, op)?;
        let root_rank = self.peer(root)?;
        self.agree(&Call::on(Operation::Reduce { op, root }, tensor)?)?;
        let group = self.raw.as_ptr();
        let raw = created("reduce", |out, message| {
            // SAFETY: `raw` lives until Drop; the tensor was checked, and the shim
            // takes its own reference to it.
            unsafe {
                sys::hearth_group_reduce(group, tensor.as_ptr(), op.code(), root_rank, out, message)
            }
        })?;
        Work::new(raw, "reduce".to_owned(), ()).wait()
    }

    /// On rank `root`, all ranks' `input` stacked by rank: `[..]` gives `[size, ..]`.
    pub fn gather(&mut self, input: &Tensor, root: usize) -> Result<Option<Tensor>> {
        ensure_sendable("gather", input, self.device)?;
        let root_rank = self.peer(root)?;
        self.agree(&Call::on(Operation::Gather { root }, input)?)?;
        let mut shape = vec![count(self.size)];
        shape.extend(input.size());
        let output = (root == self.rank).then(|| Tensor::empty(shape, (input.kind(), self.device)));
        let group = self.raw.as_ptr();
        let raw = created("gather", |out, message| {
            // SAFETY: `raw` lives until Drop; the input was checked, and the output
            // has room for `size` of it.
            unsafe {
                sys::hearth_group_gather(
                    group,
                    output.as_ref().map_or(ptr::null(), Tensor::as_ptr),
                    input.as_ptr(),
                    root_rank,
                    out,
                    message,
                )
            }
        })?;
        Work::new(raw, "gather".to_owned(), output).wait()
    }

    /// Fills `output` `[..]` with this rank's slice of `input` `[size, ..]`, which
    /// rank `root` gives, and no other.
    pub fn scatter(
        &mut self,
        output: &mut Tensor,
        input: Option<&Tensor>,
        root: usize,
    ) -> Result<()> {
        const OPERATION: &str = "scatter";
        ensure_sendable(OPERATION, output, self.device)?;
        let root_rank = self.peer(root)?;
        if input.is_some() != (root == self.rank) {
            return Err(Error::InvalidArgument(format!(
                "{OPERATION}: rank {root} alone gives an input, and this is rank {}",
                self.rank
            )));
        }
        if let Some(input) = input {
            ensure_sendable(OPERATION, input, self.device)?;
            let mut shape = vec![count(self.size)];
            shape.extend(output.size());
            if (input.size(), input.kind()) != (shape.clone(), output.kind()) {
                let detail = format!(
                    "the input is {:?} {:?}, not {:?} {shape:?}",
                    input.kind(),
                    input.size(),
                    output.kind()
                );
                return Err(Error::InvalidTensor { operation: OPERATION, detail });
            }
        }
        self.agree(&Call::on(Operation::Scatter { root }, output)?)?;
        let group = self.raw.as_ptr();
        let raw = created(OPERATION, |out, message| {
            // SAFETY: `raw` lives until Drop; the output was checked, and the input
            // holds `size` of it.
            unsafe {
                sys::hearth_group_scatter(
                    group,
                    output.as_ptr(),
                    input.map_or(ptr::null(), Tensor::as_ptr),
                    root_rank,
                    out,
                    message,
                )
            }
        })?;
        Work::new(raw, OPERATION.to_owned(), ()).wait()
    }
}
