//! What can go wrong with a reconcile, and what is done about it.

use std::time::Duration;

use crate::children::{Kind, NameTaken};

/// One API request failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// No answer in time.
    #[error("no answer from the API server in {} s", .0.as_secs())]
    Timeout(Duration),
}

/// Something that a decision needs could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}")]
pub struct GatherError {
    /// What was read.
    pub what: String,
    /// Why not.
    pub source: CallError,
}

/// The cluster could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A request was refused.
    #[error("cannot write {} {name}", kind.as_str())]
    Write {
        /// Kind of the object.
        kind: Kind,
        /// Its name.
        name: String,
        /// Why not.
        source: CallError,
    },
    /// A pod could not be marked as failed.
    #[error("cannot mark pod {name} as failed")]
    FailPod {
        /// The pod.
        name: String,
        /// Why not.
        source: CallError,
    },
    /// A name is taken.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
}

/// A reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// While reading.
    #[error(transparent)]
    Gather(#[from] GatherError),
    /// While writing children.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// While writing status.
    #[error("cannot write the status of {name}")]
    Status {
        /// The object.
        name: String,
        /// Why not.
        source: CallError,
    },
}

/// What kind of failure it is: the label of `hearth_reconcile_errors_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// The API server refuses the content (400, 422), or a name is taken.
    Rejected,
    /// Quota, admission or RBAC (401, 403).
    Forbidden,
    /// Somebody else was faster (404, 409).
    Conflict,
    /// The API server is too busy (429, 5xx).
    Busy,
    /// It was not reached or did not answer.
    Unreachable,
}

impl Category {
    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Forbidden => "forbidden",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether users must be told in a condition: a retry alone will not help.
    pub fn needs_a_person(self) -> bool {
        match self {
            Self::Rejected | Self::Forbidden => true,
            Self::Conflict | Self::Busy | Self::Unreachable => false,
        }
    }
}

impl CallError {
    /// What kind of failure it is.
    pub fn category(&self) -> Category {
        match self {
            Self::Api(kube::Error::Api(status)) => match status.code {
                401 | 403 => Category::Forbidden,
                404 | 409 | 410 => Category::Conflict,
                400..=499 if status.code != 429 => Category::Rejected,
                _ => Category::Busy,
            },
            Self::Api(_) | Self::Timeout(_) => Category::Unreachable,
        }
    }

    /// What the API server said, or what broke.
    pub fn said(&self) -> String {
        match self {
            Self::Api(kube::Error::Api(status)) => status.message.clone(),
            other => crate::agent_client::chain(other),
        }
    }
}

impl ReconcileError {
    /// What kind of failure it is.
    pub fn category(&self) -> Category {
        match self {
            Self::Gather(GatherError { source, .. })
            | Self::Apply(ApplyError::Write { source, .. } | ApplyError::FailPod { source, .. })
            | Self::Status { source, .. } => source.category(),
            Self::Apply(ApplyError::NameTaken(_)) => Category::Rejected,
        }
    }

    /// A sentence for a condition.
    pub fn sentence(&self) -> String {
        match self {
            Self::Gather(GatherError { source, .. })
            | Self::Apply(ApplyError::Write { source, .. } | ApplyError::FailPod { source, .. })
            | Self::Status { source, .. } => format!("{self}: {}", source.said()),
            Self::Apply(ApplyError::NameTaken(taken)) => taken.to_string(),
        }
    }
}

/// How long to wait after the `failures`-th failure in a row of one object:
/// doubling from 1 s (5 s where a person must act) to 5 min, and up to a
/// quarter more by `jitter` in 0..1, so that many objects do not return at once.
pub fn retry_after(category: Category, failures: u32, jitter: f64) -> Duration {
    let first = if category.needs_a_person() { 5.0 } else { 1.0 };
    let doublings = i32::try_from(failures.saturating_sub(1).min(16)).unwrap_or(16);
    let seconds = (first * 2f64.powi(doublings)).min(300.0);
    Duration::from_secs_f64(seconds * (1.0 + jitter.clamp(0.0, 1.0) / 4.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_categories() {
        for (code, want) in [
            (400, Category::Rejected),
            (403, Category::Forbidden),
            (404, Category::Conflict),
            (409, Category::Conflict),
            (422, Category::Rejected),
            (429, Category::Busy),
            (500, Category::Busy),
            (503, Category::Busy),
        ] {
            let status = kube::core::Status { code, ..kube::core::Status::failure("no", "No") };
            let error = CallError::Api(kube::Error::Api(Box::new(status)));
            assert_eq!(error.category(), want, "{code}");
        }
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let seconds = |failures| retry_after(Category::Busy, failures, 0.0).as_secs();
        assert_eq!([1, 2, 3, 4, 9, 10, 100].map(seconds), [1, 2, 4, 8, 256, 300, 300]);
        assert_eq!(retry_after(Category::Rejected, 1, 1.0), Duration::from_millis(6250));
    }
}
