//! What a person said about a rollout: the annotation [`names::ANNOTATION_ORDER`] of the
//! ModelDeployment, which `kubectl hearth` writes. It stands until another replaces it, and
//! concerns one revision, so that it cannot meet another one by accident.

use k8s_openapi::jiff::Timestamp;

/// An order about one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// All steps up to this one (from 0) need not be waited for.
    PassStep(usize),
    /// Take over now.
    Promote,
    /// Go no further.
    Pause,
    /// Go on.
    Resume,
    /// Send it back.
    Rollback,
    /// Try a revision again that was sent back before this time.
    Retry(Timestamp),
}

impl Order {
    /// The order of an annotation about `revision`: `VERB REVISION [ARGUMENT]`.
    pub fn parse(text: &str, revision: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (verb, about, argument) = (words.next()?, words.next()?, words.next());
        if about != revision {
            return None;
        }
        match (verb, argument) {
            ("promote", None) => Some(Self::Promote),
            ("promote", Some(step)) => step.parse().ok().map(Self::PassStep),
            ("pause", None) => Some(Self::Pause),
            ("resume", None) => Some(Self::Resume),
            ("rollback", None) => Some(Self::Rollback),
            ("retry", Some(time)) => time.parse().ok().map(Self::Retry),
            _ => None,
        }
    }
}
