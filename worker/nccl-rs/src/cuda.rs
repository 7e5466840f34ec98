//! CUDA and NCCL, which are loaded at run time where they are installed, so that
//! one worker binary serves machines with and without GPUs.
//!
//! `libtorch_cuda.so` is looked for as the loader does (`LD_LIBRARY_PATH`, the
//! system's directories). `libhearth_nccl.so`, which `build-nccl.sh` makes, is
//! looked for at `$HEARTH_NCCL_LIBRARY`, then beside the executable, then as the
//! loader does.

use std::env;

use crate::error::{Result, checked};
use crate::sys;

const NCCL_LIBRARY: &str = "libhearth_nccl.so";

/// Loads libtorch's CUDA half. Call it once, before any tensor is made: it
/// registers the GPU's kernels with libtorch.
///
/// [`Error::Unavailable`](crate::Error::Unavailable) where it, or a library that
/// it needs, is not installed.
pub fn load_backend() -> Result<()> {
    checked("libtorch_cuda.so", |message| {
        // SAFETY: `message` is live; the library's initializers are libtorch's.
        unsafe { sys::hearth_cuda_load(message) }
    })
}

/// Whether tensors can be on a GPU: the backend is loaded and a device is there.
pub fn has_backend() -> bool {
    // SAFETY: it takes nothing and only reads libtorch's state.
    unsafe { sys::hearth_cuda_present() }
}

/// What to give the loader for `libhearth_nccl.so`.
pub(crate) fn nccl_library() -> String {
    if let Ok(path) = env::var("HEARTH_NCCL_LIBRARY") {
        return path;
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(NCCL_LIBRARY)));
    match beside {
        Some(path) if path.exists() => path.to_string_lossy().into_owned(),
        _ => NCCL_LIBRARY.to_owned(),
    }
}
