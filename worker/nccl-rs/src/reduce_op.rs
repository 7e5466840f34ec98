//! Reductions.

/// How elements of several ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    /// Their sum.
    Sum,
    /// Their mean; floating-point tensors only.
    Avg,
    /// The least of them.
    Min,
    /// The greatest of them.
    Max,
}

impl ReduceOp {
    /// The value of c10d's enumeration.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Sum => 0,
            Self::Avg => 1,
            Self::Min => 3,
            Self::Max => 4,
        }
    }

    pub(crate) fn from_code(code: i64) -> Option<Self> {
        let known = [Self::Sum, Self::Avg, Self::Min, Self::Max];
        known.into_iter().find(|op| i64::from(op.code()) == code)
    }
}
