//! How many texts may wait for a model.

/// Texts are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Now: too many wait.
    #[error("{waiting} texts wait already, of {depth} that may; try again in a second")]
    Full {
        /// Texts that wait.
        waiting: usize,
        /// Their bound.
        depth: usize,
    },
    /// Ever: they are more than may wait.
    #[error("{asked} texts in one request, and at most {depth} can be queued; send fewer at once")]
    TooMany {
        /// In the request.
        asked: usize,
        /// The bound.
        depth: usize,
    },
    /// The server stops.
    #[error("this server is stopping; another one answers")]
    Closed,
}

/// Whether as many as `asked` could ever wait.
pub fn can_wait(asked: usize, depth: usize) -> Result<(), Refused> {
    if asked > depth { Err(Refused::TooMany { asked, depth }) } else { Ok(()) }
}

/// Whether `asked` more may wait beside those that do.
pub fn may_wait(asked: usize, waiting: usize, depth: usize) -> Result<(), Refused> {
    can_wait(asked, depth)?;
    if waiting + asked > depth { Err(Refused::Full { waiting, depth }) } else { Ok(()) }
}
