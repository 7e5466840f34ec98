//! Rust that libtorch calls: its errors and panics become statuses and messages.

use std::any::Any;
use std::error::Error as StdError;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;
use crate::sys;

/// Why a closure failed, in the form in which it goes through libtorch.
#[derive(Debug)]
pub(crate) struct Failure {
    status: i32,
    text: String,
}

impl Failure {
    /// The error with its causes. This crate's errors keep their kind.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut chain = vec![error];
        let mut next = error.source();
        while let Some(cause) = next {
            chain.push(cause);
            next = cause.source();
        }
        let status = match chain.iter().find_map(|error| error.downcast_ref::<Error>()) {
            Some(Error::Timeout { .. }) => sys::TIMEOUT,
            Some(Error::PeerLost { .. }) => sys::PEER_LOST,
            Some(Error::Unavailable { .. }) => sys::UNAVAILABLE,
            _ => sys::FAILED,
        };
        let text: Vec<String> = chain.iter().map(ToString::to_string).collect();
        Self { status, text: text.join(": ") }
    }

    pub(crate) fn new(text: &str) -> Self {
        Self { status: sys::FAILED, text: text.to_owned() }
    }

    fn panicked(payload: &(dyn Any + Send)) -> Self {
        let words = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        Self::new(&format!("a closure panicked: {}", words.unwrap_or("without words")))
    }
}

/// Runs `body`; gives its status and leaves its message.
pub(crate) fn report(message: *mut *mut c_char, body: impl FnOnce() -> Result<(), Failure>) -> i32 {
    // The closures' captures are only seen again by closures that may fail, too.
    let outcome = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(Failure::panicked(payload.as_ref())));
    let Err(failure) = outcome else { return sys::OK };
    let text = CString::new(failure.text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the text is NUL-ended; the shim copies it.
    let copy = unsafe { sys::hearth_message_new(text.as_ptr()) };
    // SAFETY: the shim's pointer is live during the callback.
    unsafe { *message = copy };
    failure.status
}
