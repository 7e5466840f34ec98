//! Which thread may run a closure that is not `Send`.
//!
//! libtorch runs backward of CPU tensors in the thread that asked for it, and that
//! of GPU tensors in a thread of its own, while the one that asked waits. So a
//! closure of thread A may run in A, or elsewhere while A waits in this crate's
//! backward, but never two of A's at once.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

thread_local! {
    static OWN: Arc<Gate> = Arc::new(Gate::new());
}

/// Guards the closures of one thread.
#[derive(Debug)]
pub(crate) struct Gate {
    owner: ThreadId,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Backward calls that the owner waits in.
    waits: usize,
    /// Who runs closures, and how many within one another.
    holder: Option<(ThreadId, usize)>,
}

/// The right to run closures, until it is dropped.
pub(crate) struct Held<'a>(&'a Gate);

/// The owner waits in backward, until this is dropped.
pub(crate) struct Waiting {
    gate: Arc<Gate>,
    /// Its thread's: it cannot be sent elsewhere.
    _single_thread: PhantomData<*const Cell<()>>,
}

/// The gate of the calling thread.
pub(crate) fn own() -> Arc<Gate> {
    OWN.with(Arc::clone)
}

/// To be held while the calling thread is in libtorch's backward.
pub(crate) fn wait_in_backward() -> Waiting {
    let gate = own();
    gate.lock().waits += 1;
    Waiting { gate, _single_thread: PhantomData }
}

impl Gate {
    fn new() -> Self {
        Self {
            owner: thread::current().id(),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    /// Lets the calling thread run closures of the owner's, or says why not.
    pub(crate) fn hold(&self) -> Result<Held<'_>, &'static str> {
        let caller = thread::current().id();
        let mut state = self.lock();
        if caller != self.owner && state.waits == 0 {
            return Err("backward through a checkpoint has to be run by its own thread, with \
                        nccl_rs' backward");
        }
        state.holder = match state.holder {
            None => Some((caller, 1)),
            Some((holder, depth)) if holder == caller => Some((caller, depth + 1)),
            Some(_) => return Err("the checkpoints of one thread are on two devices"),
        };
        Ok(Held(self))
    }

    /// Returns once no other thread runs closures of the owner's.
    pub(crate) fn settle(&self) {
        drop(self.settled());
    }

    fn settled(&self) -> MutexGuard<'_, State> {
        let caller = thread::current().id();
        let elsewhere = |state: &mut State| state.holder.is_some_and(|(other, _)| other != caller);
        self.changed.wait_while(self.lock(), elsewhere).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.holder = match state.holder {
            Some((holder, depth)) if depth > 1 => Some((holder, depth - 1)),
            _ => None,
        };
        self.0.changed.notify_all();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // After an error libtorch's other threads may still be at work.
        self.gate.settled().waits -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_thread_may_run_closures_only_while_the_owner_waits() {
        let gate = own();
        let elsewhere = |gate: &Gate| {
            thread::scope(|scope| scope.spawn(|| gate.hold().map(drop)).join().unwrap())
        };
        assert!(elsewhere(&gate).unwrap_err().contains("its own thread"));
        let waiting = wait_in_backward();
        elsewhere(&gate).unwrap();
        let held = gate.hold().unwrap();
        let nested = gate.hold().unwrap();
        drop(nested);
        assert!(elsewhere(&gate).unwrap_err().contains("two devices"));
        drop(held);
        elsewhere(&gate).unwrap();
        drop(waiting);
        assert!(elsewhere(&gate).is_err());
    }
}
