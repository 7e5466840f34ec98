//! DDP's Reducer: gradients averaged over ranks while backward makes them.

use std::cell::Cell;
use std::ffi::{CString, c_char};
use std::marker::PhantomData;
use std::ptr::NonNull;

use tch::Tensor;

use crate::agreement::{Call, Operation};
use crate::autograd::{self, seeds};
use crate::error::{Error, Result, c_text, checked, created};
use crate::group::ProcessGroup;
use crate::sys;
use crate::tensor::{ensure_sendable, pointers};

/// How gradients are put into buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReducerOptions {
    /// Bytes of gradients that go over the network together.
    pub bucket_bytes: usize,
    /// The same for the bucket that is ready first, the one with the last
    /// parameters: small, so that the network is busy early.
    pub first_bucket_bytes: usize,
    /// Whether each `.grad` is a view into its bucket, which saves a copy and
    /// its memory. Then a gradient may not be replaced or detached in place,
    /// only zeroed or undefined.
    pub gradient_as_bucket_view: bool,
    /// Whether some parameters may take no part in a loss. It costs a walk over
    /// the graph and one more all-reduce a step; without it such a loss is an
    /// error.
    pub find_unused_parameters: bool,
}

impl Default for ReducerOptions {
    fn default() -> Self {
        Self {
            bucket_bytes: 25 << 20,
            first_bucket_bytes: 1 << 20,
            gradient_as_bucket_view: true,
            find_unused_parameters: false,
        }
    }
}

/// Averages the gradients of a list of parameters over the ranks of a group.
///
/// Buckets keep the order of the parameters' list for good: DDP in Python
/// rebuilds them after the first step, in the order in which gradients came,
/// which would make a resumed run add in another order than an uninterrupted one.
#[derive(Debug)]
pub struct Reducer {
    raw: NonNull<sys::Reducer>,
    /// Set by an error that leaves buckets half reduced.
    broken: bool,
    _single_thread: PhantomData<Cell<()>>,
}

// SAFETY: the reducer is bound to no thread; its hooks lock its state.
unsafe impl Send for Reducer {}

impl Reducer {
    /// Attaches to `parameters`: leaf tensors that require gradients, of the same
    /// shapes in the same order on every rank, which is checked. Their values are
    /// the caller's to make equal, with [`ProcessGroup::broadcast_all`]. The
    /// names are for messages.
    pub fn new(
        parameters: &[(String, Tensor)],
        group: &mut ProcessGroup,
        options: &ReducerOptions,
    ) -> Result<Self> {
        for (name, tensor) in parameters {
            ensure_trainable(name, tensor, group)?;
        }
        if parameters.is_empty() || options.bucket_bytes == 0 || options.first_bucket_bytes == 0 {
            return Err(Error::InvalidArgument(
                "a reducer needs at least one parameter, and buckets of at least one byte"
                    .to_owned(),
            ));
        }
        let tensors: Vec<&Tensor> = parameters.iter().map(|(_, tensor)| tensor).collect();
        group.agree(&Call::on_all(Operation::Reducer, &tensors))?;

        let names = parameters
            .iter()
            .map(|(name, _)| c_text("parameter name", name))
            .collect::<Result<Vec<CString>>>()?;
        let name_pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let list = pointers(tensors);
        let raw_options = sys::ReducerOptions {
            bucket_bytes: options.bucket_bytes,
            first_bucket_bytes: options.first_bucket_bytes,
            gradient_as_bucket_view: options.gradient_as_bucket_view,
            find_unused_parameters: options.find_unused_parameters,
        };
        let raw = created("attach the reducer", |out, message| {
            // SAFETY: both lists hold `list.len()` pointers that are good until
            // the call returns; the shim takes references to tensors and group.
            unsafe {
                sys::hearth_reducer_new(
                    list.as_ptr(),
                    name_pointers.as_ptr(),
                    list.len(),
                    group.as_ptr(),
                    &raw const raw_options,
                    out,
                    message,
                )
            }
        })?;
        Ok(Self { raw, broken: false, _single_thread: PhantomData })
    }

    /// The number of buckets, which go over the network one by one.
    pub fn bucket_count(&self) -> usize {
        // SAFETY: `raw` lives until Drop.
        unsafe { sys::hearth_reducer_buckets(self.raw.as_ptr()) }
    }

    /// Runs backward from the scalar `loss`, adding to what `.grad` holds, and
    /// averages the sums over ranks. When it returns, every rank holds the same
    /// gradients.
    pub fn backward(&mut self, loss: &Tensor) -> Result<()> {
        self.backward_from(&[loss], &[None])
    }

    /// [`Self::backward`] from the outputs of a pipeline's stage, given the loss's
    /// gradients by them as for [`autograd::backward`](crate::autograd::backward()).
    pub fn backward_from(
        &mut self,
        outputs: &[&Tensor],
        gradients: &[Option<&Tensor>],
    ) -> Result<()> {
        const OPERATION: &str = "backward with gradient reduction";
        let seeds = seeds(OPERATION, outputs, gradients)?;
        self.prepare_for_backward(outputs)?;
        let list = pointers(outputs.iter().copied());
        let outcome = checked(OPERATION, |message| {
            // SAFETY: `raw` lives until Drop; both lists hold `list.len()` entries;
            // libtorch checks the rest.
            unsafe {
                sys::hearth_reducer_backward(
                    self.raw.as_ptr(),
                    list.as_ptr(),
                    seeds.as_ptr(),
                    list.len(),
                    message,
                )
            }
        });
        self.broken = outcome.is_err();
        outcome
    }

    /// Runs backward from the scalar `loss`, adding to this rank's `.grad` only:
    /// all micro-batches of an accumulation but its last. (DDP's `no_sync`.)
    pub fn backward_no_sync(&mut self, loss: &Tensor) -> Result<()> {
        self.ensure_whole()?;
        autograd::backward(&[loss], &[None], false)
    }

    /// Has the next backward from `outputs`, run by other means than
    /// [`Self::backward`], reduce gradients. Its error then comes from there.
    pub fn prepare_for_backward(&mut self, outputs: &[&Tensor]) -> Result<()> {
        self.ensure_whole()?;
        let list = pointers(outputs.iter().copied());
        let outcome = checked("prepare the reducer", |message| {
            // SAFETY: `raw` lives until Drop; `list` is good through the call.
            unsafe {
                sys::hearth_reducer_prepare(self.raw.as_ptr(), list.as_ptr(), list.len(), message)
            }
        });
        self.broken = outcome.is_err();
        outcome
    }

    fn ensure_whole(&self) -> Result<()> {
        if self.broken {
            return Err(Error::InvalidArgument(
                "the reducer's gradients are half reduced since its last error; make a new \
                 group and a new reducer"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl Drop for Reducer {
    fn drop(&mut self) {
        // SAFETY: made by hearth_reducer_new, and freed only here. It takes its
        // hooks off the parameters.
        unsafe { sys::hearth_reducer_free(self.raw.as_ptr()) };
    }
}

fn ensure_trainable(name: &str, tensor: &Tensor, group: &ProcessGroup) -> Result<()> {
    ensure_sendable("attach the reducer", tensor, group.device())?;
    if tensor.requires_grad() && tensor.is_leaf() {
        return Ok(());
    }
    Err(Error::InvalidTensor {
        operation: "attach the reducer",
        detail: format!(
            "parameter {name} is not a leaf that requires gradients; leave frozen ones out"
        ),
    })
}
