//! Owners of what LightGBM makes, and what its calls return.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::NonNull;

use lightgbm3_sys as sys;

use crate::error::{Result, TabularError};

/// Which function frees a handle.
type Free = unsafe extern "C" fn(*mut c_void) -> c_int;

/// A handle of LightGBM's, freed when dropped.
#[derive(Debug)]
pub(super) struct Handle {
    raw: NonNull<c_void>,
    free: Free,
}

impl Handle {
    /// Takes what `make` writes into its out-pointer, which is ours to free with `free`.
    pub(super) fn made(
        doing: &'static str,
        free: Free,
        make: impl FnOnce(*mut *mut c_void) -> c_int,
    ) -> Result<Self> {
        hush();
        let mut raw = std::ptr::null_mut();
        checked(doing, make(&raw mut raw))?;
        let raw = NonNull::new(raw);
        let raw = raw.ok_or_else(|| refused(doing, "it made nothing".to_owned()))?;
        Ok(Self { raw, free })
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.raw.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: LightGBM made it, nobody else frees it, and `free` is the function for its kind.
        unsafe { (self.free)(self.raw.as_ptr()) };
    }
}

// What LightGBM exports are C++ functions declared `extern "C"` whose pointers are `*mut c_void`.
pub(super) const FREE_DATA: Free = sys::LGBM_DatasetFree;
pub(super) const FREE_BOOSTER: Free = sys::LGBM_BoosterFree;
pub(super) const FREE_FAST: Free = sys::LGBM_FastConfigFree;

/// What a call returned, as an error with LightGBM's reason where it failed.
pub(super) fn checked(doing: &'static str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: takes nothing; gives a buffer of this thread that lives as long as the thread.
    let text = unsafe { sys::LGBM_GetLastError() };
    if text.is_null() {
        return Err(refused(doing, "it does not say why".to_owned()));
    }
    // SAFETY: ends with NUL, and nothing writes to it before it is copied.
    let text = unsafe { CStr::from_ptr(text) };
    Err(refused(doing, text.to_string_lossy().trim().to_owned()))
}

pub(super) fn refused(doing: &'static str, detail: String) -> TabularError {
    TabularError::Engine { doing, detail }
}

/// A text for C.
pub(super) fn c_text(doing: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| refused(doing, "the text has a NUL".to_owned()))
}

/// A length for C.
pub(super) fn c_len(doing: &'static str, len: usize) -> Result<i32> {
    i32::try_from(len).map_err(|_| refused(doing, format!("{len} are more than {}", i32::MAX)))
}

/// Sends what LightGBM says on this thread to `tracing`; where it goes is a variable of the thread.
pub(super) fn hush() {
    thread_local! { static DONE: Cell<bool> = const { Cell::new(false) }; }
    if DONE.replace(true) {
        return;
    }
    // SAFETY: a function that lives forever, and takes what it is called with.
    unsafe { sys::LGBM_RegisterLogCallback(Some(log)) };
}

unsafe extern "C" fn log(text: *const c_char) {
    if text.is_null() {
        return;
    }
    // SAFETY: LightGBM passes a text that ends with NUL and lives through the call.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_string_lossy();
    // A message comes in three parts: its level, itself, and the end of its line.
    if !text.trim().is_empty() && !text.starts_with("[LightGBM]") {
        tracing::debug!("LightGBM: {}", text.trim());
    }
}
