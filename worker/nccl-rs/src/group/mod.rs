//! Process groups: ranks that run collectives together.

mod abort;
mod collectives;
mod differentiable;
mod messages;
mod rooted;
mod rows;

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::time::Duration;

use tch::{Device, Tensor};

use crate::agreement::{Call, WORDS, count};
use crate::cuda;
use crate::error::{Error, Result, c_text, checked, created};
use crate::interface::Interface;
use crate::store::{TcpStore, millis};
use crate::sys;
use crate::work::Work;

pub use abort::AbortHandle;

/// Which library carries a group's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// TCP between CPUs.
    Gloo,
    /// NVIDIA's, between GPUs.
    Nccl,
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
    /// different things, or with different shapes, get wrong numbers or lose one
    /// another on Gloo, and hang on NCCL.
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

    /// Ends what is under way, here and at the peers, with [`Error::PeerLost`].
    pub fn abort(&mut self) -> Result<()> {
        self.abort_handle().abort()
    }

    /// What another thread needs to [`Self::abort`] this group while a collective
    /// blocks this one.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle::new(self.raw)
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

    /// An all-gather that is not preceded by one.
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

    fn words(&self, words: &[i64; WORDS]) -> Tensor {
        Tensor::from_slice(words).to_device(self.device)
    }

    fn peer(&self, rank: usize) -> Result<i32> {
        i32::try_from(rank).ok().filter(|_| rank < self.size).ok_or_else(|| {
            Error::InvalidArgument(format!("there is no rank {rank} among {} ranks", self.size))
        })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // SAFETY: made by a hearth_group_ function, and freed only here.
        unsafe { sys::hearth_group_free(self.raw.as_ptr()) };
    }
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
