//! One error type for the crate, and the door through which every call to the
//! shim goes.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};

use crate::sys;

/// Why an operation of this crate failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A peer did not come in time.
    #[error("{operation}: timed out: {detail}")]
    Timeout {
        /// What was under way.
        operation: String,
        /// libtorch's words.
        detail: String,
    },
    /// A connection to a peer was closed, or this process aborted the group.
    #[error("{operation}: lost a peer: {detail}")]
    PeerLost {
        /// What was under way.
        operation: String,
        /// libtorch's words.
        detail: String,
    },
    /// Ranks disagree on what to do next; found before any data moved, so the
    /// group is still good.
    #[error("{operation}: ranks disagree: {detail}")]
    Mismatch {
        /// What this rank asked for.
        operation: String,
        /// Which rank asked for what.
        detail: String,
    },
    /// A tensor cannot be used in the operation.
    #[error("{operation}: {detail}")]
    InvalidTensor {
        /// What was asked for.
        operation: &'static str,
        /// What is wrong with the tensor.
        detail: String,
    },
    /// A library that is loaded at run time is absent.
    #[error("cannot load {library}: {detail}")]
    Unavailable {
        /// Its file name.
        library: String,
        /// The loader's words.
        detail: String,
    },
    /// An argument is out of range.
    #[error("{0}")]
    InvalidArgument(String),
    /// Anything else that libtorch threw.
    #[error("{operation}: {detail}")]
    Torch {
        /// What was under way.
        operation: String,
        /// libtorch's words.
        detail: String,
    },
}

impl Error {
    /// Whether a process group that gave this error is beyond use: every rank
    /// has to leave it and meet in a new one.
    pub fn is_fatal_to_group(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::PeerLost { .. } | Self::Torch { .. } => true,
            Self::Mismatch { .. }
            | Self::InvalidTensor { .. }
            | Self::Unavailable { .. }
            | Self::InvalidArgument(_) => false,
        }
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Runs a call to the shim and turns its status and message into a result.
pub(crate) fn checked(operation: &str, call: impl FnOnce(*mut *mut c_char) -> i32) -> Result<()> {
    let mut message: *mut c_char = ptr::null_mut();
    let status = call(&raw mut message);
    let text = take_text(message);
    if status == sys::OK {
        return Ok(());
    }
    let operation = operation.to_owned();
    let detail = text.unwrap_or_else(|| "libtorch gave no message".to_owned());
    Err(match status {
        sys::TIMEOUT => Error::Timeout { operation, detail },
        sys::PEER_LOST => Error::PeerLost { operation, detail },
        sys::UNAVAILABLE => Error::Unavailable { library: operation, detail },
        _ => Error::Torch { operation, detail },
    })
}

/// Like [`checked`], for a call that makes an object.
pub(crate) fn created<T>(
    operation: &str,
    call: impl FnOnce(*mut *mut T, *mut *mut c_char) -> i32,
) -> Result<NonNull<T>> {
    let mut object: *mut T = ptr::null_mut();
    checked(operation, |message| call(&raw mut object, message))?;
    NonNull::new(object).ok_or_else(|| Error::Torch {
        operation: operation.to_owned(),
        detail: "the shim gave no object".to_owned(),
    })
}

/// Copies a message of the shim's and frees it.
pub(crate) fn take_text(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: the shim stores null or a NUL-ended string from strdup.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().trim_end().to_owned();
    // SAFETY: it came from malloc, and nothing else points to it.
    unsafe { sys::hearth_message_free(message) };
    Some(text)
}

/// A C string, or the argument that cannot be one.
pub(crate) fn c_text(what: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::InvalidArgument(format!("{what} {text:?} holds a NUL")))
}
