//! Activation checkpointing: backward makes a part's activations anew instead of
//! keeping them from forward.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::error::Error as StdError;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use tch::Tensor;
use torch_sys::C_tensor;

use super::callback::{Failure, report};
use super::gate::{self, Gate};
use crate::error::{Error, Result, checked};
use crate::sys;
use crate::tensor::pointers;

/// Runs `step`, which makes parts of its forward pass with [`Checkpoints::run`]
/// and runs backward, before it returns, with [`backward`](super::backward()),
/// [`grad`](super::grad()) or a [`Reducer`](crate::Reducer)'s.
///
/// ```no_run
/// # use nccl_rs::autograd::{backward, checkpoints};
/// # fn layer(index: i64, x: &tch::Tensor) -> Result<tch::Tensor, nccl_rs::Error> { todo!() }
/// # let input = tch::Tensor::new();
/// checkpoints(|parts| {
///     let mut hidden = input.shallow_clone();
///     for index in 0..12 {
///         hidden = parts.run(&[&hidden], move |inputs| layer(index, &inputs[0]))?;
///     }
///     backward(&[&hidden.sum(tch::Kind::Float)], &[None], false)
/// })
/// # .unwrap();
/// ```
///
/// A backward that comes later than that is an error, since the closures may
/// borrow what lives as long as the call.
pub fn checkpoints<'env, T>(
    step: impl for<'scope> FnOnce(&'scope Checkpoints<'scope, 'env>) -> T,
) -> T {
    let parts = Checkpoints {
        gate: gate::own(),
        slots: RefCell::default(),
        _scope: PhantomData,
        _env: PhantomData,
    };
    let _end = End { gate: &parts.gate, slots: &parts.slots };
    step(&parts)
}

/// Where parts of a forward pass are checkpointed; see [`checkpoints`].
#[derive(Debug)]
pub struct Checkpoints<'scope, 'env: 'scope> {
    gate: Arc<Gate>,
    slots: RefCell<Vec<Arc<Slot>>>,
    _scope: PhantomData<Cell<&'scope ()>>,
    _env: PhantomData<Cell<&'env ()>>,
}

impl<'scope> Checkpoints<'scope, '_> {
    /// Gives what `part` gives for `inputs`, without keeping what its backward
    /// needs. The first step of that backward runs `part` again, with random
    /// generators (of the CPU and of the inputs' devices) and autocast as they are
    /// now, and then once only: gradients are the same bits as without.
    ///
    /// `inputs` are the tensors of the graph that `part` works on; it captures
    /// parameters and whatever else. Their gradients, and the hooks of these, are
    /// those of one ordinary backward. The inputs are kept, and may not be changed
    /// in place meanwhile.
    ///
    /// The second run ends where the last tensor that backward needs has been
    /// made, by an error from libtorch inside `part`: it should pass errors on
    /// (tch's `f_` functions) rather than panic, which works, but tells of the
    /// panic on standard error. Collectives after that point are not run again.
    ///
    /// Within another part, and without gradients, `part` is just run.
    ///
    /// # Errors
    ///
    /// What `part` fails with, in the first run. In backward, its error's words
    /// (and kind, where it is or comes from this crate's [`Error`]), a panic's, or
    /// that the second run did not do as the first.
    pub fn run<T, E, F>(&'scope self, inputs: &[&Tensor], part: F) -> std::result::Result<T, E>
    where
        F: Fn(&[Tensor]) -> std::result::Result<T, E> + 'scope,
        E: StdError + From<Error> + 'static,
    {
        if let Some(index) = inputs.iter().position(|input| !input.defined()) {
            let detail = format!("input {index} is undefined");
            return Err(Error::InvalidTensor { operation: "checkpoint", detail }.into());
        }
        let own: Vec<Tensor> = inputs.iter().map(|input| input.shallow_clone()).collect();
        let slot = Arc::new(Slot { gate: Arc::clone(&self.gate), part: UnsafeCell::new(None) });
        let Some(recording) = Recording::begin(&slot, &own)? else { return part(&own) };
        // The graph has let go of these.
        self.slots.borrow_mut().retain(|slot| Arc::strong_count(slot) > 1);
        let output = part(&own)?;
        drop(recording);

        let again: Part<'scope> =
            Box::new(move |inputs| part(inputs).map(drop).map_err(|error| Failure::of(&error)));
        // SAFETY: only the lifetime changes, and `End` drops the closure before
        // 'scope ends.
        let again: Part<'static> = unsafe { mem::transmute(again) };
        // SAFETY: this thread owns the gate and waits in no backward, so that
        // nobody reads the slot.
        unsafe { *slot.part.get() = Some(again) };
        self.slots.borrow_mut().push(slot);
        Ok(output)
    }
}

type Part<'a> = Box<dyn Fn(&[Tensor]) -> std::result::Result<(), Failure> + 'a>;

/// A closure, which the graph refers to and the scope empties.
struct Slot {
    gate: Arc<Gate>,
    /// Written by the gate's owner when no other thread holds the gate; read by
    /// who holds it.
    part: UnsafeCell<Option<Part<'static>>>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("gate", &self.gate).finish_non_exhaustive()
    }
}

// SAFETY: the closure is run and dropped as the gate allows: by its own thread, or
// while that thread waits.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

/// Empties the slots when the scope ends, also by a panic.
struct End<'a> {
    gate: &'a Gate,
    slots: &'a RefCell<Vec<Arc<Slot>>>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.gate.settle();
        for slot in self.slots.take() {
            // SAFETY: this thread owns the gate, and no other holds it.
            let part = unsafe { (*slot.part.get()).take() };
            drop(part);
        }
    }
}

/// The first run of a part.
struct Recording(NonNull<sys::Checkpoint>);

impl Recording {
    fn begin(slot: &Arc<Slot>, inputs: &[Tensor]) -> Result<Option<Self>> {
        let list = pointers(inputs);
        let user = Arc::into_raw(Arc::clone(slot)).cast::<c_void>();
        let mut raw = ptr::null_mut();
        let outcome = checked("checkpoint", |message| {
            // SAFETY: `user` is a reference to the slot that `let_go` drops; the
            // list is good through the call.
            unsafe {
                sys::hearth_checkpoint_begin(
                    run_again,
                    let_go,
                    user,
                    list.as_ptr(),
                    list.len(),
                    &raw mut raw,
                    message,
                )
            }
        });
        let recording = NonNull::new(raw).map(Self);
        if recording.is_none() {
            // SAFETY: the shim took no reference, so this one is still here.
            unsafe { let_go(user) };
        }
        outcome?;
        Ok(recording)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // SAFETY: made by hearth_checkpoint_begin in this thread, and ended once.
        unsafe { sys::hearth_checkpoint_end(self.0.as_ptr()) };
    }
}

unsafe extern "C" fn let_go(user: *const c_void) {
    // SAFETY: `user` came from Arc::into_raw, and is dropped once.
    drop(unsafe { Arc::from_raw(user.cast::<Slot>()) });
}

unsafe extern "C" fn run_again(
    user: *const c_void,
    inputs: *const *const C_tensor,
    count: usize,
    message: *mut *mut std::ffi::c_char,
) -> i32 {
    report(message, || {
        // SAFETY: the shim keeps its reference to the slot through the call.
        let slot = unsafe { &*user.cast::<Slot>() };
        let _held = slot.gate.hold().map_err(Failure::new)?;
        // SAFETY: this thread holds the gate.
        let part = unsafe { &*slot.part.get() };
        let part = part.as_ref().ok_or_else(|| {
            Failure::new("backward came after the end of the `checkpoints` call it belongs to")
        })?;
        // SAFETY: the shim gives `count` tensors, good through the call.
        let list = unsafe { slice::from_raw_parts(inputs, count) };
        let inputs: Vec<Tensor> = list
            .iter()
            // SAFETY: as above; the clone is a reference of its own.
            .map(|input| unsafe { Tensor::clone_from_ptr(input.cast_mut()) })
            .collect();
        part(&inputs)
    })
}
