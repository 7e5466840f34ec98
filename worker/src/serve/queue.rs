//! Which requests are computed together, and when.
//!
//! In: arrivals, and the time. Out: the next batch, or until when to wait.
//! Absent on purpose: clocks, threads, the model. The task that computes is in
//! [`super::engine`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::backlog::{Refused, may_wait};

/// Bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most texts in a batch; at least 1.
    pub batch: usize,
    /// Longest wait of a text for others.
    pub delay: Duration,
    /// Most texts that wait.
    pub depth: usize,
}

/// Texts that wait, oldest first.
#[derive(Debug)]
pub struct Queue<T> {
    bounds: Bounds,
    waiting: VecDeque<(Duration, T)>,
    closed: bool,
}

/// What the computing task does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Compute these.
    Batch(Vec<T>),
    /// A batch could still fill up; ask again then, or when a text arrives.
    WaitUntil(Duration),
    /// Nothing waits.
    Idle,
    /// Nothing waits, and nothing will come.
    Closed,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, waiting: VecDeque::new(), closed: false }
    }

    /// Adds the texts of one request, all or none.
    pub fn offer(&mut self, texts: Vec<T>, now: Duration) -> Result<(), Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        may_wait(texts.len(), self.waiting.len(), self.bounds.depth)?;
        self.waiting.extend(texts.into_iter().map(|text| (now, text)));
        Ok(())
    }

    /// The next batch: as soon as it is full, or its oldest text has waited
    /// long enough, or nothing more will come.
    pub fn next(&mut self, now: Duration) -> Next<T> {
        let Some((oldest, _)) = self.waiting.front() else {
            return if self.closed { Next::Closed } else { Next::Idle };
        };
        let due = *oldest + self.bounds.delay;
        if self.waiting.len() < self.bounds.batch && now < due && !self.closed {
            return Next::WaitUntil(due);
        }
        let size = self.waiting.len().min(self.bounds.batch);
        Next::Batch(self.waiting.drain(..size).map(|(_, text)| text).collect())
    }

    /// Takes nothing more; what waits is still computed.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Texts that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn queue() -> Queue<u32> {
        Queue::new(Bounds { batch: 4, delay: at(5), depth: 8 })
    }

    #[test]
    fn a_lone_text_waits_for_company_and_no_longer() {
        let mut queue = queue();
        assert_eq!(queue.next(at(0)), Next::Idle);
        queue.offer(vec![1], at(10)).unwrap();
        assert_eq!(queue.next(at(11)), Next::WaitUntil(at(15)));
        queue.offer(vec![2], at(14)).unwrap();
        assert_eq!(queue.next(at(14)), Next::WaitUntil(at(15)), "the oldest sets the time");
        assert_eq!(queue.next(at(15)), Next::Batch(vec![1, 2]));
        assert_eq!(queue.next(at(15)), Next::Idle);
    }

    #[test]
    fn a_full_batch_goes_at_once_in_order_of_arrival() {
        let mut queue = queue();
        queue.offer(vec![1, 2], at(0)).unwrap();
        queue.offer(vec![3, 4, 5], at(1)).unwrap();
        assert_eq!(queue.next(at(1)), Next::Batch(vec![1, 2, 3, 4]));
        assert_eq!(queue.next(at(1)), Next::WaitUntil(at(6)));
        assert_eq!(queue.next(at(6)), Next::Batch(vec![5]));
    }

    #[test]
    fn no_delay_means_no_wait() {
        let mut queue = Queue::new(Bounds { batch: 4, delay: at(0), depth: 8 });
        queue.offer(vec![1], at(7)).unwrap();
        assert_eq!(queue.next(at(7)), Next::Batch(vec![1]));
    }

    #[test]
    fn a_request_is_taken_whole_or_refused() {
        let mut queue = queue();
        queue.offer(vec![0; 6], at(0)).unwrap();
        assert_eq!(queue.offer(vec![1; 3], at(0)), Err(Refused::Full { waiting: 6, depth: 8 }));
        assert_eq!(queue.len(), 6);
        queue.offer(vec![1; 2], at(0)).unwrap();
        let refused = queue.offer(vec![1; 9], at(0));
        assert_eq!(refused, Err(Refused::TooMany { asked: 9, depth: 8 }));
    }

    #[test]
    fn a_closed_queue_hands_out_what_waits_at_once() {
        let mut queue = queue();
        queue.offer(vec![1, 2, 3, 4, 5], at(0)).unwrap();
        queue.close();
        assert_eq!(queue.offer(vec![6], at(0)), Err(Refused::Closed));
        assert_eq!(queue.next(at(0)), Next::Batch(vec![1, 2, 3, 4]));
        assert_eq!(queue.next(at(0)), Next::Batch(vec![5]));
        assert_eq!(queue.next(at(0)), Next::Closed);
    }
}
