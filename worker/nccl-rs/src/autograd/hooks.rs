//! Closures that backward calls with gradients.

use std::error::Error as StdError;
use std::ffi::{c_char, c_void};
use std::mem;
use std::sync::Mutex;

use tch::Tensor;
use torch_sys::C_tensor;

use super::callback::{Failure, report};
use crate::error::{Error, Result, checked};
use crate::sys;

/// A hook that is on a tensor, to take it off again. Dropping it leaves it on for
/// as long as the tensor lives.
#[derive(Debug)]
pub struct Hook {
    tensor: Tensor,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Gradient(u32),
    Accumulated,
}

impl Hook {
    /// Takes the hook off. Not while another thread runs backward.
    pub fn remove(self) -> Result<()> {
        checked("remove a hook", |message| match self.place {
            Place::Gradient(position) => {
                // SAFETY: the tensor is ours, and the position one that it gave.
                unsafe { sys::hearth_hook_gradient_remove(self.tensor.as_ptr(), position, message) }
            }
            Place::Accumulated => {
                // SAFETY: the tensor is ours.
                unsafe { sys::hearth_hook_accumulated_remove(self.tensor.as_ptr(), message) }
            }
        })
    }
}

/// Has `hook` called with the gradient of `tensor` once backward has it whole: of
/// one in the middle of a graph, before what made it is gone through; of a leaf,
/// before `.grad` takes it up. What it gives replaces the gradient and has its
/// shape.
///
/// Backward calls it, of GPU tensors in another thread, and gives its error (as
/// [`Checkpoints::run`](super::Checkpoints::run) says) or its panic. A hook that
/// is called while it runs is an error.
pub fn on_gradient<E: StdError + 'static>(
    tensor: &Tensor,
    mut hook: impl FnMut(&Tensor) -> std::result::Result<Option<Tensor>, E> + Send + 'static,
) -> Result<Hook> {
    ensure_trained("on_gradient", tensor)?;
    let user = boxed(move |gradient| hook(gradient).map_err(|error| Failure::of(&error)));
    let mut position = 0;
    checked("on_gradient", |message| {
        // SAFETY: `user` is what `call` and `let_go` expect; the shim takes it over.
        unsafe {
            sys::hearth_hook_gradient(
                tensor.as_ptr(),
                call,
                let_go,
                user,
                &raw mut position,
                message,
            )
        }
    })?;
    Ok(Hook { tensor: tensor.shallow_clone(), place: Place::Gradient(position) })
}

/// Has `hook` called with the leaf `tensor` after backward added to its `.grad`.
/// One a tensor. Otherwise as [`on_gradient`].
pub fn on_accumulated<E: StdError + 'static>(
    tensor: &Tensor,
    mut hook: impl FnMut(&Tensor) -> std::result::Result<(), E> + Send + 'static,
) -> Result<Hook> {
    ensure_trained("on_accumulated", tensor)?;
    if !tensor.is_leaf() {
        return Err(Error::InvalidTensor {
            operation: "on_accumulated",
            detail: "the tensor is not a leaf, so no gradient is accumulated".to_owned(),
        });
    }
    let user = boxed(move |leaf| hook(leaf).map(|()| None).map_err(|error| Failure::of(&error)));
    checked("on_accumulated", |message| {
        // SAFETY: `user` is what `call` and `let_go` expect; the shim takes it over.
        unsafe { sys::hearth_hook_accumulated(tensor.as_ptr(), call, let_go, user, message) }
    })?;
    Ok(Hook { tensor: tensor.shallow_clone(), place: Place::Accumulated })
}

type Closure = Box<dyn FnMut(&Tensor) -> std::result::Result<Option<Tensor>, Failure> + Send>;

fn boxed(
    closure: impl FnMut(&Tensor) -> std::result::Result<Option<Tensor>, Failure> + Send + 'static,
) -> *const c_void {
    let closure: Closure = Box::new(closure);
    Box::into_raw(Box::new(Mutex::new(closure))).cast_const().cast()
}

fn ensure_trained(operation: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.defined() && tensor.requires_grad() {
        return Ok(());
    }
    let detail = "the tensor requires no gradient".to_owned();
    Err(Error::InvalidTensor { operation, detail })
}

unsafe extern "C" fn let_go(user: *const c_void) {
    // SAFETY: `user` came from `boxed`, and is dropped once.
    drop(unsafe { Box::from_raw(user.cast_mut().cast::<Mutex<Closure>>()) });
}

unsafe extern "C" fn call(
    user: *const c_void,
    tensor: *const C_tensor,
    replacement: *mut *mut C_tensor,
    message: *mut *mut c_char,
) -> i32 {
    report(message, || {
        // SAFETY: `user` came from `boxed`, and the shim keeps it through the call.
        let closure = unsafe { &*user.cast::<Mutex<Closure>>() };
        let mut closure = closure
            .try_lock()
            .map_err(|_| Failure::new("a hook was called while it ran, or after it panicked"))?;
        // SAFETY: the tensor is good through the call; the clone is a reference of
        // its own.
        let tensor = unsafe { Tensor::clone_from_ptr(tensor.cast_mut()) };
        if let Some(mut made) = closure(&tensor)? {
            // SAFETY: the shim's pointer is live, and it takes the tensor over.
            unsafe { *replacement = made.as_mut_ptr() };
            mem::forget(made);
        }
        Ok(())
    })
}
