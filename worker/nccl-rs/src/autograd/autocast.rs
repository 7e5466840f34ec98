//! Automatic mixed precision.

use tch::{Device, Kind};

use crate::error::{Error, Result, checked};
use crate::sys;

/// Runs `body` with autocast on for tensors of `device`'s type: matrix products and
/// attention work in `kind`, bf16 or f16, on copies of f32 tensors that are cast
/// once; sums, norms and losses stay in f32. What was in force before comes back
/// after, also by a panic, and the copies go with the outermost call.
///
/// Backward belongs outside: it takes the kinds of forward by itself.
pub fn autocast<T>(device: Device, kind: Kind, body: impl FnOnce() -> T) -> Result<T> {
    let device_type = match device {
        Device::Cpu => 0,
        Device::Cuda(_) => 1,
        _ => return Err(Error::InvalidArgument(format!("there is no autocast on {device:?}"))),
    };
    // The values of c10::ScalarType.
    let kind = match kind {
        Kind::Half => 5,
        Kind::BFloat16 => 15,
        _ => {
            return Err(Error::InvalidArgument(format!(
                "autocast works in BFloat16 or Half, not in {kind:?}"
            )));
        }
    };
    let mut state = sys::Autocast { device_type, enabled: true, kind };
    checked("autocast", |message| {
        // SAFETY: `state` is live; the shim replaces it by what was in force.
        unsafe { sys::hearth_autocast_enter(&raw mut state, message) }
    })?;
    let _before = Before(state);
    Ok(body())
}

/// Puts back what was in force.
struct Before(sys::Autocast);

impl Drop for Before {
    fn drop(&mut self) {
        // It sets flags of this thread: that has no way to fail.
        checked("leave autocast", |message| {
            // SAFETY: the state is one that hearth_autocast_enter gave.
            unsafe { sys::hearth_autocast_exit(&raw const self.0, message) }
        })
        .ok();
    }
}
