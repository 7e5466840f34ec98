//! Process groups: ranks that run collectives together.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use crate::agreement::{Call, Operation, WORDS, count};
use crate::cuda;
use crate::error::{Error, Result, c_text, checked, created};
use crate::interface::Interface;
use crate::store::{TcpStore, millis};
use crate::sys;
use crate::tensor::{ensure_sendable, pointers};
use crate::work::Work;

/// Which library carries a group's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// TCP between CPUs.
    Gloo,
    /// NVIDIA's, between GPUs.
    Nccl,
}

/// How elements of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Their sum.
    Sum,
    /// Their mean; floating-point tensors only.
    Avg,
    /// The least of them.
    Min,
    /// The greatest of them.
    Max,
}

impl ReduceOp {
    /// The value of c10d's enumeration.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Sum => 0,
            Self::Avg => 1,
            Self::Min => 3,
            Self::Max => 4,
        }
    }

    pub(crate) fn from_code(code: i64) -> Option<Self> {
        let known = [Self::Sum, Self::Avg, Self::Min, Self::Max];
        known.into_iter().find(|op| i64::from(op.code()) == code)
    }
}

/// How to make a group.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    /// Under which the group's members meet in the store. Groups that share a
    /// store need different names, and so do a group and its successor.
    pub name: String,
    /// How long joining, and each collective, may take.
    pub timeout: Duration,
    /// Whether ranks compare what they are about to do before they do it, at
    /// the cost of one small gather a collective. Without it, ranks that call
    /// different things, or with different shapes, end their processes on Gloo
    /// and hang on NCCL.
    pub check_agreement: bool,
}

impl Default for GroupOptions {
    fn default() -> Self {
        Self { name: "default".to_owned(), timeout: Duration::from_mins(5), check_agreement: true }
    }
}

/// This process's membership in a group of ranks.
///
/// Collectives take `&mut self`: their order within a rank is the order of the
/// program, as c10d requires, and no two threads can mix theirs. After an error
/// that [is fatal](Error::is_fatal_to_group) the group is of no more use.
#[derive(Debug)]
pub struct ProcessGroup {
    raw: NonNull<sys::Group>,
    backend: Backend,
    device: Device,
    rank: usize,
    size: usize,
    options: GroupOptions,
    /// Not `Sync`: c10d's groups are for one thread at a time.
    _single_thread: PhantomData<Cell<()>>,
}

// SAFETY: a group is bound to no thread; only simultaneous use is ruled out.
unsafe impl Send for ProcessGroup {}

impl ProcessGroup {
    /// Joins a group for CPU tensors; returns once all `size` ranks have joined.
    pub fn gloo(
        store: &TcpStore,
        rank: usize,
        size: usize,
        interface: &Interface,
        options: &GroupOptions,
    ) -> Result<Self> {
        let (own_rank, world) = rank_and_size(rank, size)?;
        let name = c_text("group name", &options.name)?;
        let timeout = millis(options.timeout)?;
        let text = c_text("interface", interface.text())?;
        let (address, device_name) = match interface {
            Interface::Address(_) => (text.as_ptr(), ptr::null()),
            Interface::Name(_) => (ptr::null(), text.as_ptr()),
        };
        let raw = created(&joining(rank, size, options), |out, message| {
            // SAFETY: the store lives through the call, which clones it; the
            // texts are NUL-ended; the out-pointers are live.
            unsafe {
                sys::hearth_group_gloo(
                    store.as_ptr(),
                    own_rank,
                    world,
                    address,
                    device_name,
                    name.as_ptr(),
                    timeout,
                    out,
                    message,
                )
            }
        })?;
        let (backend, device) = (Backend::Gloo, Device::Cpu);
        Ok(Self::new(raw, backend, device, (rank, size), options))
    }

    /// Joins a group for tensors on the CUDA device number `device`. Needs
    /// [`cuda::load_backend`] first, and `libhearth_nccl.so` (see [`cuda`]).
    pub fn nccl(
        store: &TcpStore,
        rank: usize,
        size: usize,
        device: usize,
        options: &GroupOptions,
    ) -> Result<Self> {
        let (own_rank, world) = rank_and_size(rank, size)?;
        let name = c_text("group name", &options.name)?;
        let timeout = millis(options.timeout)?;
        if !cuda::has_backend() {
            return Err(Error::Unavailable {
                library: "CUDA".to_owned(),
                detail: "libtorch_cuda.so is not loaded, or this machine shows no GPU; NCCL \
                         needs both"
                    .to_owned(),
            });
        }
        let index = i32::try_from(device)
            .map_err(|_| Error::InvalidArgument(format!("there is no CUDA device {device}")))?;
        let library = cuda::nccl_library();
        let library_text = c_text("library", &library)?;
        let raw = created(&joining(rank, size, options), |out, message| {
            // SAFETY: as for Gloo; the library's function has the type that
            // nccl.hpp declares on both sides.
            unsafe {
                sys::hearth_group_nccl(
                    store.as_ptr(),
                    own_rank,
                    world,
                    index,
                    library_text.as_ptr(),
                    name.as_ptr(),
                    timeout,
                    out,
                    message,
                )
            }
        })?;
        let (backend, device) = (Backend::Nccl, Device::Cuda(device));
        Ok(Self::new(raw, backend, device, (rank, size), options))
    }

    fn new(
        raw: NonNull<sys::Group>,
        backend: Backend,
        device: Device,
        (rank, size): (usize, usize),
        options: &GroupOptions,
    ) -> Self {
        let options = options.clone();
        Self { raw, backend, device, rank, size, options, _single_thread: PhantomData }
    }

    /// This process's rank, below [`Self::size`].
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Which library carries the data.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Where the collectives' tensors have to be.
    pub fn device(&self) -> Device {
        self.device
    }

    /// How long a collective may take.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

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

    fn gather_unchecked(&mut self, input: Tensor) -> Result<Work<Tensor>> {
        let mut shape = vec![count(self.size)];
        shape.extend(input.size());
        let output = Tensor::empty(shape, (input.kind(), self.device));
        let group = self.raw.as_ptr();
        let raw = created("all_gather", |out, message| {
            // SAFETY: `raw` lives until Drop; both tensors are dense, of one
            // kind, and their sizes differ by the factor `size`.
            unsafe {
                sys::hearth_group_all_gather(group, output.as_ptr(), input.as_ptr(), out, message)
            }
        })?;
        Ok(Work::new(raw, "all_gather".to_owned(), output).holding(input))
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
            self.recv_unchecked(&mut theirs, peer, wire_tag(tag, Leg::Answer))?;
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
            self.recv_unchecked(&mut theirs, peer, wire_tag(tag, Leg::Header))?;
            let own = self.words(&call.encode());
            self.send_unchecked(&own, peer, wire_tag(tag, Leg::Answer))?;
            call.agrees_with(&pair(self.rank, &call, from, &theirs)?, self.rank)?;
        }
        self.recv_unchecked(tensor, peer, wire_tag(tag, Leg::Data))
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

    fn recv_unchecked(&mut self, tensor: &mut Tensor, peer: i32, tag: i32) -> Result<()> {
        let raw = created("recv", |out, message| {
            // SAFETY: `raw` lives until Drop; the tensor was checked.
            unsafe {
                sys::hearth_group_recv(self.raw.as_ptr(), tensor.as_ptr(), peer, tag, out, message)
            }
        })?;
        Work::new(raw, format!("recv from rank {peer}"), ()).wait()
    }

    /// Ends what is under way, here and at the peers, with [`Error::PeerLost`].
    pub fn abort(&mut self) -> Result<()> {
        self.abort_handle().abort()
    }

    /// What another thread needs to [`Self::abort`] this group while a collective
    /// blocks this one.
    pub fn abort_handle(&self) -> AbortHandle {
        // SAFETY: `raw` lives until Drop, and the handle refers to it weakly.
        AbortHandle { raw: unsafe { sys::hearth_abort_new(self.raw.as_ptr()) } }
    }

    /// Leaves the group in good order; all ranks have to call it.
    pub fn shutdown(mut self) -> Result<()> {
        // A rank that leaves early would be a lost peer to one that is behind.
        self.barrier()?;
        checked("shutdown", |message| {
            // SAFETY: `raw` lives until Drop, at the end of this function.
            unsafe { sys::hearth_group_shutdown(self.raw.as_ptr(), message) }
        })
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::Group {
        self.raw.as_ptr()
    }

    /// Compares `call` with every rank's, where the options ask for it.
    pub(crate) fn agree(&mut self, call: &Call) -> Result<()> {
        if !self.options.check_agreement || self.size == 1 {
            return Ok(());
        }
        let own = self.words(&call.encode());
        let table = self.gather_unchecked(own)?.wait()?;
        call.agrees_with(
            &Vec::<i64>::try_from(table.flatten(0, -1)).map_err(unreadable)?,
            self.rank,
        )
    }

    fn words(&self, words: &[i64; WORDS]) -> Tensor {
        Tensor::from_slice(words).to_device(self.device)
    }

    fn ensure_reducible(
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

    fn peer(&self, rank: usize) -> Result<i32> {
        i32::try_from(rank).ok().filter(|_| rank < self.size).ok_or_else(|| {
            Error::InvalidArgument(format!("there is no rank {rank} among {} ranks", self.size))
        })
    }

    fn other_peer(&self, rank: usize) -> Result<i32> {
        if rank == self.rank {
            return Err(Error::InvalidArgument(format!("rank {rank} cannot message itself")));
        }
        self.peer(rank)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by a hearth_group_ function, and freed only here.
        unsafe { sys::hearth_group_free(self.raw.as_ptr()) };
    }
}

/// Aborts a group from another thread; see [`ProcessGroup::abort_handle`].
#[derive(Debug)]
pub struct AbortHandle {
    raw: *mut sys::Abort,
}

// SAFETY: the shim's handle is a weak reference and an atomic flag.
unsafe impl Send for AbortHandle {}
// SAFETY: as above; of calls at the same time, the flag lets one through.
unsafe impl Sync for AbortHandle {}

impl AbortHandle {
    /// Ends what the group has under way, here and at the peers, with
    /// [`Error::PeerLost`]. Does nothing where the group is gone.
    pub fn abort(&self) -> Result<()> {
        checked("abort", |message| {
            // SAFETY: `raw` lives until Drop.
            unsafe { sys::hearth_abort_trigger(self.raw, message) }
        })
    }
}

impl Drop for AbortHandle {
    fn drop(&mut self) {
        // SAFETY: made by hearth_abort_new, and freed only here.
        unsafe { sys::hearth_abort_free(self.raw) };
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

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn unreadable(error: tch::TchError) -> Error {
    Error::Torch { operation: "read a gathered tensor".to_owned(), detail: error.to_string() }
}

fn joining(rank: usize, size: usize, options: &GroupOptions) -> String {
    format!("join group {:?} as rank {rank} of {size}", options.name)
}

fn rank_and_size(rank: usize, size: usize) -> Result<(i32, i32)> {
    match (i32::try_from(rank), i32::try_from(size)) {
        (Ok(own), Ok(world)) if own < world => Ok((own, world)),
        _ => Err(Error::InvalidArgument(format!("rank {rank} is not below the size {size}"))),
    }
}
