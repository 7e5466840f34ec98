//! Collectives that autograd goes back through: what splits a model over ranks.
//!
//! The pairs are those of Megatron-LM (Shoeybi et al. 2019; Korthikanti et al.
//! 2022 for the sequence). Backward runs the other one of the pair, in the thread
//! and at the time that libtorch chooses; all ranks have to go back through the
//! same ones. Its failure is the error of
//! [`autograd::backward`](crate::autograd::backward()). It asks no rank whether it
//! agrees: graphs of ranks that agreed in forward do.

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use super::ProcessGroup;
use crate::agreement::{Call, Operation, count};
use crate::error::{Error, Result, created};
use crate::reduce_op::ReduceOp;
use crate::sys;
use crate::tensor::ensure_strided;

/// The values of shim.h.
#[derive(Clone, Copy)]
enum Pair {
    Copy = 0,
    Reduce = 1,
    GatherSum = 2,
    ScatterSum = 3,
    Split = 4,
    Join = 5,
}

/// Collectives with gradients, of floating-point tensors of any strides. A
/// negative dimension counts from the last.
impl ProcessGroup {
    /// `input` as it is; backward sums the gradient over ranks. Before a layer of
    /// which each rank has a part of the columns.
    pub fn copy_to_ranks(&mut self, input: &Tensor) -> Result<Tensor> {
        self.paired("copy_to_ranks", Pair::Copy, input, None)
    }

    /// The sum over ranks; backward passes the gradient on as it is. After a layer
    /// of which each rank has a part of the rows.
    pub fn sum_of_ranks(&mut self, input: &Tensor) -> Result<Tensor> {
        self.paired("sum_of_ranks", Pair::Reduce, input, Some(Operation::AllReduce(ReduceOp::Sum)))
    }

    /// All ranks' `input`, joined along `dim`; backward gives each rank its part of
    /// the gradients' sum. Before a layer that each rank applies in its own way to
    /// the whole sequence.
    pub fn gather_parts(&mut self, input: &Tensor, dim: i64) -> Result<Tensor> {
        self.along("gather_parts", Pair::GatherSum, input, dim)
    }

    /// This rank's part, along `dim`, of the sum over ranks; backward joins the
    /// parts' gradients. After a layer with a part of the rows, back to a part of
    /// the sequence.
    pub fn scatter_sum(&mut self, input: &Tensor, dim: i64) -> Result<Tensor> {
        self.along("scatter_sum", Pair::ScatterSum, input, dim)
    }

    /// This rank's part of `input`, which is the same on all ranks, along `dim`;
    /// backward joins the parts' gradients.
    pub fn split_to_ranks(&mut self, input: &Tensor, dim: i64) -> Result<Tensor> {
        self.along("split_to_ranks", Pair::Split, input, dim)
    }

    /// All ranks' `input`, joined along `dim`, for what all ranks then do alike;
    /// backward gives each rank its part of the gradient.
    pub fn join_of_ranks(&mut self, input: &Tensor, dim: i64) -> Result<Tensor> {
        self.along("join_of_ranks", Pair::Join, input, dim)
    }

    /// [`Self::all_to_all_rows`]; backward sends the rows' gradients back. To the
    /// ranks of a mixture's experts, and from them.
    pub fn exchange_rows(
        &mut self,
        input: &Tensor,
        sent: &[usize],
        received: &[usize],
    ) -> Result<Tensor> {
        const OPERATION: &str = "exchange_rows";
        self.ensure_differentiable(OPERATION, input)?;
        let counts = self.row_counts(OPERATION, input, sent, received)?;
        let group = self.raw.as_ptr();
        let raw = created(OPERATION, |out: *mut *mut C_tensor, message| {
            // SAFETY: `raw` lives until Drop, and the shim takes a reference to what
            // it holds; the counts are `size` each, and the input has so many rows.
            unsafe {
                sys::hearth_group_exchange(
                    group,
                    input.as_ptr(),
                    counts.received.as_ptr(),
                    counts.sent.as_ptr(),
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
    }

    fn along(
        &mut self,
        operation: &'static str,
        pair: Pair,
        input: &Tensor,
        dim: i64,
    ) -> Result<Tensor> {
        self.ensure_differentiable(operation, input)?;
        let shape = input.size();
        let index = if dim < 0 { dim + count(shape.len()) } else { dim };
        let Some(length) = usize::try_from(index).ok().and_then(|index| shape.get(index)) else {
            let detail = format!("there is no dimension {dim} in {shape:?}");
            return Err(Error::InvalidTensor { operation, detail });
        };
        let cuts = matches!(pair, Pair::ScatterSum | Pair::Split);
        if cuts && length % count(self.size) != 0 {
            let detail =
                format!("dimension {dim} of {shape:?} is not divisible by {} ranks", self.size);
            return Err(Error::InvalidTensor { operation, detail });
        }
        let agreed = match pair {
            Pair::GatherSum | Pair::Join => Some(Operation::AllGather),
            Pair::ScatterSum => Some(Operation::ReduceScatter(ReduceOp::Sum)),
            Pair::Copy | Pair::Reduce | Pair::Split => None,
        };
        self.run_pair((operation, pair), input, index, agreed)
    }

    fn paired(
        &mut self,
        operation: &'static str,
        pair: Pair,
        input: &Tensor,
        agreed: Option<Operation>,
    ) -> Result<Tensor> {
        self.ensure_differentiable(operation, input)?;
        self.run_pair((operation, pair), input, 0, agreed)
    }

    fn run_pair(
        &mut self,
        (operation, pair): (&'static str, Pair),
        input: &Tensor,
        dim: i64,
        agreed: Option<Operation>,
    ) -> Result<Tensor> {
        if let Some(agreed) = agreed {
            self.agree(&Call::on(agreed, input)?)?;
        }
        let group = self.raw.as_ptr();
        let raw = created(operation, |out: *mut *mut C_tensor, message| {
            // SAFETY: `raw` lives until Drop, and the shim takes a reference to what
            // it holds; the input and its dimension were checked.
            unsafe {
                sys::hearth_group_differentiable(
                    group,
                    pair as i32,
                    input.as_ptr(),
                    dim,
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
    }

    fn ensure_differentiable(&self, operation: &'static str, input: &Tensor) -> Result<()> {
        ensure_strided(operation, input, self.device)?;
        let floats = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16];
        if floats.contains(&input.kind()) {
            return Ok(());
        }
        let detail = format!("a tensor of {:?} has no gradient", input.kind());
        Err(Error::InvalidTensor { operation, detail })
    }
}
