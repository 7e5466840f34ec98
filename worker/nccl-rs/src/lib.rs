//! libtorch's c10d for Rust: the [store](TcpStore) over which ranks meet, the
//! [process groups](ProcessGroup) in which they talk (Gloo between CPUs, NCCL
//! between GPUs), [DDP's reducer](Reducer), what tch lacks of [`autograd`], and the
//! operators that it lacks ([`ops`], [`fused`], [`head`], [`frozen`], [`qlinear`],
//! [`storage`]).
//!
//! Three layers. `cpp/` wraps the C++ in functions that give a status and a
//! message, and lets no exception out. `sys` declares these. Everything else is
//! safe: it checks tensors before they cross, owns what the shim makes, and frees
//! it. Tensors are tch's.
//!
//! `examples/mean.rs` is the shortest program that uses them.
//!
//! # When ranks fail
//!
//! Every wait has a timeout. A peer that dies gives [`Error::PeerLost`] to those
//! that talk to it, one that stays away [`Error::Timeout`]; after either the group
//! [is of no more use](Error::is_fatal_to_group), and all ranks meet again in a
//! new one under another name. A rank that calls something else than its peers
//! gets, as they do, [`Error::Mismatch`] before any data moves.
//!
//! # Determinism
//!
//! With two ranks, a sum is the same bits whatever the order, since addition
//! commutes. With more, it depends on the ring's order, which is fixed by the
//! ranks, the tensor's length and, in a [`Reducer`], by its buckets, which never
//! change: the same job gives the same bits again.

#![expect(unsafe_code, reason = "FFI")]

mod agreement;
pub mod autograd;
pub mod cuda;
pub mod decoder;
mod error;
pub mod frozen;
pub mod fused;
mod group;
pub mod head;
mod interface;
mod mesh;
pub mod narrow;
pub mod ops;
pub mod paged;
pub mod qlinear;
mod reduce_op;
mod reducer;
pub mod storage;
mod store;
mod sys;
mod tensor;
mod work;

pub use error::{Error, Result};
pub use group::{AbortHandle, Backend, GroupOptions, ProcessGroup};
pub use interface::Interface;
pub use mesh::{Mesh, Transport};
pub use reduce_op::ReduceOp;
pub use reducer::{Reducer, ReducerOptions};
pub use store::{StoreOptions, TcpStore};
pub use work::{Work, waited};
