//! What is wrong with a spec: where, what, and what to do.

use std::fmt;

/// One thing that is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, for example `spec.training.bf16`.
    pub field: String,
    /// What is wrong, a clause without a full stop.
    pub problem: String,
    /// What to do about it, a clause without a full stop.
    pub fix: String,
    /// Whether the value is wrong, or right but not offered by this version.
    pub kind: FaultKind,
}

/// Whether a value is wrong, or not offered by this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No version could run this.
    Invalid,
    /// A later version may.
    Unsupported,
}

impl Fault {
    /// A value that no version could run.
    pub fn invalid(
        field: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            fix: fix.into(),
            kind: FaultKind::Invalid,
        }
    }

    /// A value that this version does not offer.
    pub fn unsupported(
        field: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { kind: FaultKind::Unsupported, ..Self::invalid(field, problem, fix) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.problem, self.fix)
    }
}

/// Everything that is wrong with a spec; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SpecFaults(Vec<Fault>);

impl SpecFaults {
    /// `value` where there are no faults, else all of them.
    pub fn unless_empty<T>(faults: Vec<Fault>, value: T) -> Result<T, Self> {
        if faults.is_empty() { Ok(value) } else { Err(Self(faults)) }
    }

    /// The faults, in the order of the spec.
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }

    /// Condition reason: `Unsupported` where that is all, else `Invalid`.
    pub fn reason(&self) -> &'static str {
        if self.0.iter().all(|fault| fault.kind == FaultKind::Unsupported) {
            "Unsupported"
        } else {
            "Invalid"
        }
    }
}

impl From<Fault> for SpecFaults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl fmt::Display for SpecFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, fault) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}
