//! Ending a group's operations from outside.

use std::ptr::NonNull;

use crate::error::{Result, checked};
use crate::sys;

/// Aborts a group from another thread; see
/// [`ProcessGroup::abort_handle`](super::ProcessGroup::abort_handle).
#[derive(Debug)]
pub struct AbortHandle {
    raw: *mut sys::Abort,
}

// SAFETY: the shim's handle is a weak reference and an atomic flag.
unsafe impl Send for AbortHandle {}
// SAFETY: as above; of calls at the same time, the flag lets one through.
unsafe impl Sync for AbortHandle {}

impl AbortHandle {
    pub(super) fn new(group: NonNull<sys::Group>) -> Self {
        // SAFETY: the group is alive, and the handle refers to it weakly.
        Self { raw: unsafe { sys::hearth_abort_new(group.as_ptr()) } }
    }

    /// Ends what the group has under way, here and at the peers, with
    /// [`Error::PeerLost`](crate::Error::PeerLost). Does nothing where the group is gone.
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
