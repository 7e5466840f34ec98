//! Work on chunks by several threads, taken back in the order of the chunks.
//!
//! Invariants:
//! 1. What comes out does not depend on the number of threads: chunk `k` goes to thread
//!    `k mod n` and is taken from it in that order.
//! 2. Memory is bounded: by the length of the channels, and by [`IN_FLIGHT`] bytes of chunks that
//!    are read and not yet taken back, but for one chunk that is larger by itself.

use std::num::NonZeroUsize;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

/// Chunks that wait before and after a thread.
const WAITING: usize = 2;
/// Most bytes of chunks under way.
const IN_FLIGHT: u64 = 64 << 20;

/// Puts the chunks that `read` gives through `work` on threads, and what comes of them through
/// `take` on this one. The first error, in the order of chunks, ends all.
pub(crate) fn in_order<C, T, E>(
    threads: NonZeroUsize,
    read: impl FnOnce(&mut dyn FnMut(C, u64) -> bool) -> Result<(), E> + Send,
    work: impl Fn(C) -> Result<T, E> + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E>
where
    C: Send,
    T: Send,
    E: Send,
{
    let budget = Budget::default();
    thread::scope(|scope| {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..threads.get() {
            let (input, chunks) = sync_channel::<Result<(C, u64), E>>(WAITING);
            let (done, output) = sync_channel(WAITING);
            let work = &work;
            scope.spawn(move || {
                for chunk in chunks {
                    let made = chunk.and_then(|(chunk, size)| Ok((work(chunk)?, size)));
                    if done.send(made).is_err() {
                        return;
                    }
                }
            });
            inputs.push(input);
            outputs.push(output);
        }
        // Lets the reader go, however this ends.
        let _closing = Closing(&budget);
        let reserving = &budget;
        scope.spawn(move || {
            let mut next = inputs.iter().cycle();
            let mut send = |chunk: Result<(C, u64), E>| {
                next.next().is_some_and(|input| input.send(chunk).is_ok())
            };
            let ended = read(&mut |chunk, size| reserving.reserve(size) && send(Ok((chunk, size))));
            if let Err(error) = ended {
                send(Err(error));
            }
        });
        for output in outputs.iter().cycle() {
            // The reader has ended, and this would have been the next chunk.
            let Ok(made) = output.recv() else { break };
            let (made, size) = made?;
            take(made)?;
            budget.release(size);
        }
        Ok(())
    })
}

/// Bytes under way.
#[derive(Default)]
struct Budget {
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Budget {
    /// Waits until there is room for `size` bytes; false: nobody wants them any more.
    fn reserve(&self, size: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.1 && state.0 > 0 && state.0 + size > IN_FLIGHT {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.0 += size;
        !state.1
    }

    fn release(&self, size: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= size;
        self.changed.notify_all();
    }
}

struct Closing<'a>(&'a Budget);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squares(threads: usize, size: u64, stop_at: Option<u64>) -> Result<Vec<u64>, u64> {
        let mut out = Vec::new();
        in_order(
            NonZeroUsize::new(threads).unwrap(),
            |send| {
                for number in 0..100 {
                    if !send(number, size) {
                        break;
                    }
                }
                Ok(())
            },
            |number: u64| {
                if Some(number) == stop_at { Err(number) } else { Ok(number * number) }
            },
            |square| {
                out.push(square);
                Ok(())
            },
        )
        .map(|()| out)
    }

    #[test]
    fn results_come_in_the_order_of_chunks() {
        let want: Vec<u64> = (0..100).map(|number| number * number).collect();
        for threads in 1..5 {
            // The second size is beyond the budget: chunks go one at a time.
            for size in [1, IN_FLIGHT + 1] {
                assert_eq!(squares(threads, size, None), Ok(want.clone()), "{threads} {size}");
            }
        }
    }

    #[test]
    fn an_error_ends_all_and_nobody_hangs() {
        for threads in 1..5 {
            for size in [1, IN_FLIGHT] {
                assert_eq!(squares(threads, size, Some(7)), Err(7));
            }
        }
    }
}
