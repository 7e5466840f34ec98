//! What a rank is about to do, in a form that ranks can compare first.
//!
//! When ranks call different things, or with different shapes, Gloo gives one of
//! them a wrong sum and closes the other's connection, and NCCL hangs. So each
//! collective is preceded by a gather of every rank's [`Call`], of fixed size, and
//! goes on only when all are equal. Pure: the gathering is in `group`.

use std::fmt;

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::reduce_op::ReduceOp;
use crate::tensor::KINDS;

/// Words in an encoded call: operation, argument, kind, dimensions, and a size
/// for each of them.
pub(crate) const WORDS: usize = 16;
const HEADER: usize = 4;
/// The code of a reduce, to which the reduction's own is added.
const REDUCE: i64 = 32;
const MAX_DIMS: usize = WORDS - HEADER;

/// The operations that ranks must call alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    AllReduce(ReduceOp),
    AllGather,
    ReduceScatter(ReduceOp),
    Broadcast {
        root: usize,
    },
    /// Of a list of tensors: the shape is their number, elements and fingerprint.
    BroadcastAll {
        root: usize,
    },
    Barrier,
    AllToAll,
    /// Of unlike numbers of rows: the shape is that of one row.
    AllToAllRows,
    Reduce {
        op: ReduceOp,
        root: usize,
    },
    Gather {
        root: usize,
    },
    Scatter {
        root: usize,
    },
    /// Between two ranks; `tag` is the user's.
    Message {
        tag: u16,
    },
    /// Over a list of parameters, described as for `BroadcastAll`.
    Reducer,
}

/// An operation on tensors of one kind and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    operation: Operation,
    kind: Option<Kind>,
    shape: Vec<i64>,
}

/// What a rank asked for, in the words of the errors.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::AllReduce(op) => write!(f, "all_reduce {op:?}")?,
            Operation::AllGather => write!(f, "all_gather")?,
            Operation::ReduceScatter(op) => write!(f, "reduce_scatter {op:?}")?,
            Operation::Broadcast { root } => write!(f, "broadcast from rank {root}")?,
            Operation::BroadcastAll { root } => write!(f, "broadcast_all from rank {root}")?,
            Operation::Barrier => return write!(f, "barrier"),
            Operation::AllToAll => write!(f, "all_to_all")?,
            Operation::AllToAllRows => write!(f, "all_to_all_rows")?,
            Operation::Reduce { op, root } => write!(f, "reduce {op:?} to rank {root}")?,
            Operation::Gather { root } => write!(f, "gather to rank {root}")?,
            Operation::Scatter { root } => write!(f, "scatter from rank {root}")?,
            Operation::Message { tag } => write!(f, "message {tag}")?,
            Operation::Reducer => write!(f, "reducer")?,
        }
        match (&self.kind, self.shape.as_slice()) {
            (Some(kind), shape) => write!(f, " of {kind:?} {shape:?}"),
            (None, [count, elements, fingerprint]) => write!(
                f,
                " of {count} tensors with {elements} elements (shapes' fingerprint {fingerprint:x})"
            ),
            (None, _) => Ok(()),
        }
    }
}

impl Call {
    /// A call on one tensor.
    pub(crate) fn on(operation: Operation, tensor: &Tensor) -> Result<Self> {
        let shape = tensor.size();
        if shape.len() > MAX_DIMS {
            return Err(Error::InvalidArgument(format!(
                "a tensor of {} dimensions cannot be sent; reshape it to at most {MAX_DIMS}",
                shape.len()
            )));
        }
        Ok(Self { operation, kind: Some(tensor.kind()), shape })
    }

    /// A call on rows of a tensor, of which ranks have different numbers.
    pub(crate) fn on_rows(operation: Operation, tensor: &Tensor) -> Result<Self> {
        let mut call = Self::on(operation, tensor)?;
        call.shape.drain(..call.shape.len().min(1));
        Ok(call)
    }

    /// A call on a list of tensors.
    pub(crate) fn on_all(operation: Operation, tensors: &[&Tensor]) -> Self {
        let elements = tensors.iter().map(|tensor| count(tensor.numel())).sum();
        let words = tensors.iter().flat_map(|tensor| {
            let size = tensor.size();
            let header = [code(tensor.kind()), count(size.len())];
            header.into_iter().chain(size)
        });
        let shape = vec![count(tensors.len()), elements, fingerprint(words)];
        Self { operation, kind: None, shape }
    }

    /// A call that takes no tensor.
    pub(crate) fn bare(operation: Operation) -> Self {
        Self { operation, kind: None, shape: Vec::new() }
    }

    /// The form in which ranks exchange it.
    pub(crate) fn encode(&self) -> [i64; WORDS] {
        let (operation, argument) = match self.operation {
            Operation::AllReduce(op) => (1, i64::from(op.code())),
            Operation::AllGather => (2, 0),
            Operation::ReduceScatter(op) => (3, i64::from(op.code())),
            Operation::Broadcast { root } => (4, count(root)),
            Operation::BroadcastAll { root } => (5, count(root)),
            Operation::Barrier => (6, 0),
            Operation::Message { tag } => (7, i64::from(tag)),
            Operation::Reducer => (8, 0),
            Operation::AllToAll => (9, 0),
            Operation::AllToAllRows => (10, 0),
            Operation::Gather { root } => (11, count(root)),
            Operation::Scatter { root } => (12, count(root)),
            Operation::Reduce { op, root } => (REDUCE + i64::from(op.code()), count(root)),
        };
        let mut words = [0; WORDS];
        words[0] = operation;
        words[1] = argument;
        words[2] = self.kind.map_or(-1, code);
        words[3] = count(self.shape.len());
        words[HEADER..HEADER + self.shape.len()].copy_from_slice(&self.shape);
        words
    }

    /// The inverse of [`Self::encode`]; none for what no rank of this version sends.
    fn decode(words: &[i64]) -> Option<Self> {
        let argument = usize::try_from(words[1]).ok()?;
        let operation = match words[0] {
            1 => Operation::AllReduce(ReduceOp::from_code(words[1])?),
            2 => Operation::AllGather,
            3 => Operation::ReduceScatter(ReduceOp::from_code(words[1])?),
            4 => Operation::Broadcast { root: argument },
            5 => Operation::BroadcastAll { root: argument },
            6 => Operation::Barrier,
            7 => Operation::Message { tag: u16::try_from(argument).ok()? },
            8 => Operation::Reducer,
            9 => Operation::AllToAll,
            10 => Operation::AllToAllRows,
            11 => Operation::Gather { root: argument },
            12 => Operation::Scatter { root: argument },
            code => {
                let op = ReduceOp::from_code(code.checked_sub(REDUCE)?)?;
                Operation::Reduce { op, root: argument }
            }
        };
        let kind = usize::try_from(words[2]).ok().and_then(|code| KINDS.get(code).copied());
        let dims = usize::try_from(words[3]).ok().filter(|dims| *dims <= MAX_DIMS)?;
        Some(Self { operation, kind, shape: words[HEADER..HEADER + dims].to_vec() })
    }

    /// Compares all ranks' encoded calls, rank 0's first, with this rank's own.
    pub(crate) fn agrees_with(&self, everyone: &[i64], own_rank: usize) -> Result<()> {
        let own = self.encode();
        let odd = everyone.chunks_exact(WORDS).enumerate().find(|(_, theirs)| *theirs != own);
        let Some((rank, theirs)) = odd else { return Ok(()) };
        let theirs = Self::decode(theirs)
            .map_or_else(|| "something this version does not know".to_owned(), |c| c.to_string());
        Err(Error::Mismatch {
            operation: self.to_string(),
            detail: format!("rank {rank} calls {theirs}, rank {own_rank} calls {self}"),
        })
    }
}

fn code(kind: Kind) -> i64 {
    // Kinds that cannot be sent are refused before they get here.
    (0_i64..).zip(KINDS).find(|(_, known)| *known == kind).map_or(-1, |(code, _)| code)
}

/// Nothing in memory is so many that its count passes `i64::MAX`.
pub(crate) fn count(things: usize) -> i64 {
    i64::try_from(things).unwrap_or(i64::MAX)
}

/// FNV-1a over the words' bytes, with the sign bit cleared.
fn fingerprint(words: impl Iterator<Item = i64>) -> i64 {
    let bytes = words.flat_map(i64::to_le_bytes);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: &[i64]) -> Tensor {
        Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu))
    }

    #[test]
    fn calls_survive_the_wire() {
        let tensor = floats(&[2, 3]);
        for call in [
            Call::on(Operation::AllReduce(ReduceOp::Avg), &tensor).unwrap(),
            Call::on(Operation::ReduceScatter(ReduceOp::Max), &tensor).unwrap(),
            Call::on(Operation::Broadcast { root: 3 }, &tensor).unwrap(),
            Call::on(Operation::Message { tag: 9 }, &tensor).unwrap(),
            Call::on_all(Operation::Reducer, &[&tensor, &tensor]),
            Call::bare(Operation::Barrier),
            Call::on(Operation::AllToAll, &tensor).unwrap(),
            Call::on_rows(Operation::AllToAllRows, &tensor).unwrap(),
            Call::on(Operation::Reduce { op: ReduceOp::Min, root: 2 }, &tensor).unwrap(),
            Call::on(Operation::Gather { root: 1 }, &tensor).unwrap(),
            Call::on(Operation::Scatter { root: 1 }, &tensor).unwrap(),
        ] {
            assert_eq!(Call::decode(&call.encode()).as_ref(), Some(&call), "{call}");
        }
    }

    #[test]
    fn a_different_shape_is_told_with_its_rank() {
        let own = Call::on(Operation::AllReduce(ReduceOp::Sum), &floats(&[4])).unwrap();
        let other = Call::on(Operation::AllReduce(ReduceOp::Sum), &floats(&[3])).unwrap();
        let table = [own.encode(), other.encode()].concat();
        let error = own.agrees_with(&table, 0).unwrap_err().to_string();
        assert_eq!(
            error,
            "all_reduce Sum of Float [4]: ranks disagree: rank 1 calls all_reduce Sum of Float \
             [3], rank 0 calls all_reduce Sum of Float [4]"
        );
    }

    #[test]
    fn lists_with_equal_totals_but_other_shapes_differ() {
        let one = Call::on_all(Operation::Reducer, &[&floats(&[2, 3]), &floats(&[1])]);
        let two = Call::on_all(Operation::Reducer, &[&floats(&[3, 2]), &floats(&[1])]);
        assert_ne!(one.encode(), two.encode());
    }
}
