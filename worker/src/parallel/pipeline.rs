//! Stages on several ranks: which pass goes forward or backward when, and the messages between
//! neighbours.

use std::collections::VecDeque;
use std::sync::Arc;

use nccl_rs::Work;
use tch::{Device, Kind, Tensor};

use super::groups::{SharedGroup, locked};
use crate::model::ModelError;

/// Most dimensions of what goes from stage to stage.
const MOST_DIMENSIONS: usize = 6;
/// The messages' tags turn round.
const TAGS: u16 = 1 << 12;

/// What a rank does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Forward of this pass.
    Forward(usize),
    /// Backward of this pass.
    Backward(usize),
}

/// One forward, one backward (Narayanan et al. 2019, PipeDream; without its stale weights): the
/// rank at `place` of `ranks` is at most `ranks - place` passes ahead with forward, so that it
/// keeps the activations of no more than these. With one rank: forward and backward in turn.
pub fn one_forward_one_backward(place: usize, ranks: usize, passes: usize) -> Vec<Action> {
    let ahead = (ranks - 1 - place.min(ranks - 1)).min(passes);
    let mut actions: Vec<Action> = (0..ahead).map(Action::Forward).collect();
    for pass in 0..passes {
        if pass + ahead < passes {
            actions.push(Action::Forward(pass + ahead));
        }
        actions.push(Action::Backward(pass));
    }
    actions
}

/// Messages to and from the ranks before and after.
#[derive(Debug)]
pub struct Pipes {
    forward: SharedGroup,
    backward: SharedGroup,
    device: Device,
    place: usize,
    ranks: usize,
    /// On their way.
    sent: VecDeque<Work<Tensor>>,
    forward_sent: u16,
    forward_received: u16,
    backward_sent: u16,
    backward_received: u16,
}

impl Pipes {
    /// Of the rank at `place` of `ranks`.
    pub fn new(forward: &SharedGroup, backward: &SharedGroup) -> Self {
        let (place, ranks, device) = {
            let group = locked(forward);
            (group.rank(), group.size(), group.device())
        };
        Self {
            forward: Arc::clone(forward),
            backward: Arc::clone(backward),
            device,
            place,
            ranks,
            sent: VecDeque::new(),
            forward_sent: 0,
            forward_received: 0,
            backward_sent: 0,
            backward_received: 0,
        }
    }

    /// Whether this rank has the first stage.
    pub fn is_first(&self) -> bool {
        self.place == 0
    }

    /// Whether this rank has the last stage.
    pub fn is_last(&self) -> bool {
        self.place + 1 == self.ranks
    }

    /// Sends what the last stage here gave.
    pub fn send_forward(&mut self, hidden: &Tensor) -> Result<(), ModelError> {
        let hidden = hidden.detach().f_contiguous()?;
        let mut header = [0i64; MOST_DIMENSIONS + 2];
        let size = hidden.size();
        if size.len() > MOST_DIMENSIONS {
            return Err(ModelError::Pass("a stage gives a tensor of too many dimensions"));
        }
        header[0] = i64::try_from(size.len()).unwrap_or(0);
        header[1] = i64::from(hidden.kind() == Kind::BFloat16);
        header[2..2 + size.len()].copy_from_slice(&size);
        let header = Tensor::f_from_slice(&header)?.f_to_device(self.device)?;
        let (to, tag) = (self.place + 1, next(&mut self.forward_sent));
        let mut group = locked(&self.forward);
        self.sent.push_back(group.send_async(header, to, 2 * tag)?);
        self.sent.push_back(group.send_async(hidden, to, 2 * tag + 1)?);
        drop(group);
        self.reap()
    }

    /// What the stage before the first one here gave.
    pub fn receive_forward(&mut self) -> Result<Tensor, ModelError> {
        let (from, tag) = (self.place - 1, next(&mut self.forward_received));
        let mut group = locked(&self.forward);
        let mut header =
            Tensor::f_zeros([as_i64(MOST_DIMENSIONS) + 2], (Kind::Int64, self.device))?;
        group.recv_unchecked(&mut header, from, 2 * tag)?;
        let header = Vec::<i64>::try_from(header.f_to_device(Device::Cpu)?)?;
        let dimensions = usize::try_from(header[0]).unwrap_or(0).min(MOST_DIMENSIONS);
        let kind = if header[1] == 1 { Kind::BFloat16 } else { Kind::Float };
        let mut hidden = Tensor::f_empty(&header[2..2 + dimensions], (kind, self.device))?;
        group.recv_unchecked(&mut hidden, from, 2 * tag + 1)?;
        Ok(hidden)
    }

    /// Sends the gradient by what came.
    pub fn send_backward(&mut self, gradient: &Tensor) -> Result<(), ModelError> {
        let (to, tag) = (self.place - 1, next(&mut self.backward_sent));
        let gradient = gradient.detach().f_contiguous()?;
        let work = locked(&self.backward).send_async(gradient, to, tag)?;
        self.sent.push_back(work);
        self.reap()
    }

    /// The gradient by what was sent, of the shape of `output`.
    pub fn receive_backward(&mut self, output: &Tensor) -> Result<Tensor, ModelError> {
        let (from, tag) = (self.place + 1, next(&mut self.backward_received));
        let mut gradient = Tensor::f_empty(output.size(), (output.kind(), self.device))?;
        locked(&self.backward).recv_unchecked(&mut gradient, from, tag)?;
        Ok(gradient)
    }

    /// Waits for all that was sent.
    pub fn settle(&mut self) -> Result<(), ModelError> {
        while let Some(work) = self.sent.pop_front() {
            let _ = work.wait()?;
        }
        Ok(())
    }

    /// Lets go of what has arrived.
    fn reap(&mut self) -> Result<(), ModelError> {
        while self.sent.front().is_some_and(Work::is_done) {
            if let Some(work) = self.sent.pop_front() {
                let _ = work.wait()?;
            }
        }
        Ok(())
    }
}

fn next(counter: &mut u16) -> u16 {
    let now = *counter;
    *counter = (now + 1) % TAGS;
    now
}

fn as_i64(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Action::{Backward, Forward};
    use super::*;

    #[test]
    fn one_rank_goes_forward_and_backward_in_turn() {
        assert_eq!(
            one_forward_one_backward(0, 1, 2),
            [Forward(0), Backward(0), Forward(1), Backward(1)]
        );
    }

    #[test]
    fn every_pass_goes_both_ways_and_few_are_under_way() {
        for (ranks, passes) in [(2, 1), (2, 5), (4, 2), (4, 9), (3, 3)] {
            for place in 0..ranks {
                let actions = one_forward_one_backward(place, ranks, passes);
                let (mut forward, mut backward, mut most) = (0, 0, 0);
                for action in actions {
                    match action {
                        Forward(pass) => {
                            assert_eq!(pass, forward);
                            forward += 1;
                        }
                        Backward(pass) => {
                            assert_eq!(pass, backward);
                            backward += 1;
                        }
                    }
                    assert!(backward <= forward);
                    most = most.max(forward - backward);
                }
                assert_eq!((forward, backward), (passes, passes));
                assert!(most <= ranks - place, "{most} passes kept at {place} of {ranks}");
            }
        }
    }
}
