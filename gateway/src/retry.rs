//! When a request that failed is sent again.
//!
//! A server pod that goes away takes its connections with it: idle ones are
//! found closed when the next request is written to them, requests on their
//! way are reset, and new connections are refused until the Service has
//! forgotten the pod. None of that may be seen by a client (Invariant 15), so
//!
//! - a connection that was never made is tried again, whatever the request: no
//!   byte of it was sent;
//! - a connection that broke before the answer began is replaced, where the
//!   request's body so far is at hand (at most [`REPLAY_BYTES`]). The request
//!   may then be computed twice, which changes nothing: answers depend on the
//!   request and the model alone.
//!
//! An answer that has begun is never repeated. A server's own refusal (429,
//! 503) is an answer.

use std::time::Duration;

/// Most of a request's body that is kept for sending it again.
pub const REPLAY_BYTES: usize = 64 << 10;
/// Attempts after the first for a connection that cannot be made; with the
/// waits, about 2.5 s.
const CONNECT_RETRIES: u32 = 8;
/// Attempts after the first for a connection that broke.
const BROKEN_RETRIES: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(640);

/// How an attempt failed before an answer began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// No connection.
    NotConnected,
    /// The connection broke. `replayable`: the whole body sent so far is at hand.
    Broken {
        /// Whether the request can be sent again from its start.
        replayable: bool,
    },
    /// The server answered something that is no HTTP.
    Nonsense,
}

/// How long to wait before the next attempt, or `None` where there is none.
/// `failed`: attempts so far, at least 1. `jitter`: uniform in `0.0..1.0`; it
/// keeps clients that failed together from coming back together.
pub fn wait(attempt: Attempt, failed: u32, jitter: f64) -> Option<Duration> {
    let most = match attempt {
        Attempt::NotConnected => CONNECT_RETRIES,
        Attempt::Broken { replayable: true } => BROKEN_RETRIES,
        Attempt::Broken { replayable: false } | Attempt::Nonsense => 0,
    };
    (failed <= most).then(|| {
        let doublings = failed.saturating_sub(1).min(16);
        let full = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_is_sent_again_and_not_for_ever() {
        for (name, attempt, failed, again) in [
            ("first refusal", Attempt::NotConnected, 1, true),
            ("last refusal", Attempt::NotConnected, 8, true),
            ("one too many", Attempt::NotConnected, 9, false),
            ("reset, body at hand", Attempt::Broken { replayable: true }, 3, true),
            ("reset for the fourth time", Attempt::Broken { replayable: true }, 4, false),
            ("reset, body gone", Attempt::Broken { replayable: false }, 1, false),
            ("no HTTP", Attempt::Nonsense, 1, false),
        ] {
            assert_eq!(wait(attempt, failed, 0.5).is_some(), again, "{name}");
        }
    }

    #[test]
    fn waits_grow_and_stay_short() {
        let waits = |jitter| -> Vec<Duration> {
            (1..=8).filter_map(|n| wait(Attempt::NotConnected, n, jitter)).collect()
        };
        let (shortest, longest) = (waits(0.0), waits(1.0));
        assert!(shortest.is_sorted() && longest.is_sorted());
        assert_eq!((shortest[0], longest[0]), (Duration::from_millis(10), FIRST_WAIT));
        assert!(longest.iter().sum::<Duration>() < Duration::from_secs(3));
    }
}
