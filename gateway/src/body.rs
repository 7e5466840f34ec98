//! A request's body on its way to a backend: counted, timed, and kept while it
//! is small, so that it can be sent again.
//!
//! Nothing waits for a whole body: each piece goes on as it comes, and a copy
//! (a reference to the same bytes) stays here until there are more than
//! [`REPLAY_BYTES`] of them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::idle::IdleLimit;
use crate::reply::Refusal;
use crate::retry::REPLAY_BYTES;

/// What a request's body may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Largest body.
    pub(crate) bytes: u64,
    /// Longest wait for the next piece.
    pub(crate) idle: Duration,
}

/// A body that attempts share; clones are handles to the same body.
#[derive(Clone, Debug)]
pub(crate) struct Upload(Arc<Mutex<Received>>);

#[derive(Debug)]
struct Received {
    incoming: Incoming,
    limits: BodyLimits,
    idle: IdleLimit,
    /// Pieces so far, unless they became too many.
    kept: Option<Vec<Bytes>>,
    bytes: u64,
    /// Exact length, where the client said it.
    length: Option<u64>,
    ended: bool,
    refusal: Option<Refusal>,
    /// The attempt that may read; an older one may still live for a moment.
    attempt: u32,
}

impl Upload {
    /// Takes charge of a body. A length beyond the limit is refused at once.
    pub(crate) fn new(incoming: Incoming, limits: BodyLimits) -> Result<Self, Refusal> {
        let length = incoming.size_hint().exact();
        if length.is_some_and(|length| length > limits.bytes) {
            return Err(Refusal::BodyTooLarge { limit: limits.bytes });
        }
        let received = Received {
            ended: incoming.is_end_stream(),
            incoming,
            limits,
            idle: IdleLimit::new(limits.idle),
            kept: Some(Vec::new()),
            bytes: 0,
            length,
            refusal: None,
            attempt: 0,
        };
        Ok(Self(Arc::new(Mutex::new(received))))
    }

    /// The body from its beginning, for the next attempt; `None` where the
    /// beginning is gone.
    pub(crate) fn attempt(&self) -> Option<AttemptBody> {
        let mut received = self.lock();
        received.kept.as_ref()?;
        received.attempt += 1;
        let attempt = received.attempt;
        drop(received);
        Some(AttemptBody { upload: self.clone(), attempt, next: 0, sent: 0 })
    }

    /// Whether everything sent so far can be sent again.
    pub(crate) fn is_replayable(&self) -> bool {
        let received = self.lock();
        received.kept.is_some() && received.refusal.is_none()
    }

    /// What is wrong with the body, if anything.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.lock().refusal.clone()
    }

    /// All of it, where it was small enough to be kept.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        let received = self.lock();
        let pieces =
            received.kept.as_ref().filter(|_| received.ended && received.refusal.is_none());
        pieces.map(|pieces| match pieces.as_slice() {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        })
    }

    /// Whether the client has sent all of it.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        // Nothing panics while it holds the lock in a state that is half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    /// The next piece from the client.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
                ready!(self.idle.poll_over(cx));
                return Poll::Ready(Some(Err(self.refuse(Refusal::BodyTimeout))));
            };
            self.idle.came();
            match frame {
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Some(Err(_)) => {
                    return Poll::Ready(Some(Err(self.refuse(Refusal::BodyBroken))));
                }
                // Trailers stay here: their fields belong to the connection.
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Poll::Ready(Some(self.take(piece)));
                    }
                }
            }
        }
    }

    fn take(&mut self, piece: Bytes) -> Result<Bytes, Refusal> {
        self.bytes += piece.len() as u64;
        if self.bytes > self.limits.bytes {
            return Err(self.refuse(Refusal::BodyTooLarge { limit: self.limits.bytes }));
        }
        if self.bytes > REPLAY_BYTES as u64 {
            self.kept = None;
        } else if let Some(kept) = &mut self.kept {
            kept.push(piece.clone());
        }
        self.ended |= self.incoming.is_end_stream();
        Ok(piece)
    }

    fn refuse(&mut self, refusal: Refusal) -> Refusal {
        self.ended = true;
        self.refusal = Some(refusal.clone());
        refusal
    }
}

/// One attempt's view of an [`Upload`].
#[derive(Debug)]
pub(crate) struct AttemptBody {
    upload: Upload,
    attempt: u32,
    /// Kept pieces that this attempt has sent.
    next: usize,
    sent: u64,
}

/// An attempt's body ended before its time: its upload was refused, or a later
/// attempt took over.
#[derive(Debug, thiserror::Error)]
#[error("the request's body ended before its time")]
pub(crate) struct Cut;

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let upload = self.upload.clone();
        let mut received = upload.lock();
        if received.attempt != self.attempt {
            return Poll::Ready(Some(Err(Cut)));
        }
        let again = received.kept.as_ref().and_then(|kept| kept.get(self.next)).cloned();
        let piece = match again {
            Some(piece) => piece,
            None => match ready!(received.poll_piece(cx)) {
                None if received.refusal.is_none() => return Poll::Ready(None),
                None | Some(Err(_)) => return Poll::Ready(Some(Err(Cut))),
                Some(Ok(piece)) => piece,
            },
        };
        self.next += 1;
        self.sent += piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let received = self.upload.lock();
        received.ended && received.refusal.is_none() && self.sent == received.bytes
    }

    fn size_hint(&self) -> SizeHint {
        match self.upload.lock().length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
            None => SizeHint::default(),
        }
    }
}
