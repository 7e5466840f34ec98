//! Collectives that are under way.

use std::ptr::NonNull;
use std::time::Duration;

use tch::Tensor;

use crate::error::{Result, checked};
use crate::sys;

/// A collective under way, and what it gives once it is done.
///
/// It holds the tensors that c10d reads and writes: nobody can touch them
/// through it before [`Self::wait`] returns. (A shallow clone made earlier still
/// can; its contents are undefined until then.) Dropping a work waits for it and
/// forgets its error, so wait for each.
#[must_use = "a collective is done, and its error known, only after wait()"]
#[derive(Debug)]
pub struct Work<T> {
    pending: Pending,
    output: T,
    /// What is read meanwhile.
    input: Option<Tensor>,
}

impl<T> Work<T> {
    pub(crate) fn new(raw: NonNull<sys::Work>, operation: String, output: T) -> Self {
        Self { pending: Pending { raw, operation, waited: false }, output, input: None }
    }

    pub(crate) fn holding(self, input: Tensor) -> Self {
        Self { input: Some(input), ..self }
    }

    /// Blocks until the collective is done, at most about the group's timeout.
    pub fn wait(mut self) -> Result<T> {
        self.pending.wait()?;
        drop(self.input);
        Ok(self.output)
    }

    /// Whether [`Self::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        // SAFETY: `raw` lives until Drop.
        unsafe { sys::hearth_work_done(self.pending.raw.as_ptr()) }
    }
}

/// What this thread has waited for other ranks since it began: in [`Work::wait`], in the
/// collectives that backward runs through, and for the last buckets of
/// [`Reducer::backward`](crate::Reducer::backward). On GPUs it is no measure of the peers, since
/// the host waits for kernels, too.
pub fn waited() -> Duration {
    // SAFETY: reads a number of this thread's own.
    let nanoseconds = unsafe { sys::hearth_waited_nanoseconds() };
    Duration::from_nanos(nanoseconds.unsigned_abs())
}

/// The part that has to be waited for, apart from the output, so that
/// `Work::wait` can move the output out.
#[derive(Debug)]
struct Pending {
    raw: NonNull<sys::Work>,
    operation: String,
    waited: bool,
}

// SAFETY: c10d's works are waited for from any thread; their state is locked.
unsafe impl Send for Pending {}

impl Pending {
    fn wait(&mut self) -> Result<()> {
        self.waited = true;
        checked(&self.operation, |message| {
            // SAFETY: `raw` lives until Drop, and `message` is live.
            unsafe { sys::hearth_work_wait(self.raw.as_ptr(), message) }
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.waited {
            // Who drops a work has no use for its error, only for its end.
            self.wait().ok();
        }
        // SAFETY: made by a hearth_group_ function, and freed only here.
        unsafe { sys::hearth_work_free(self.raw.as_ptr()) };
    }
}
