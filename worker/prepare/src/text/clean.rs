//! Cleaning steps, the same in preparation, in training, in the gate and in serving.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hearth_crds::preparation::{Cleaning, PersonalData};

/// Personal data that was replaced, by kind.
pub type Masked = BTreeMap<PersonalData, u64>;

/// Why texts cannot be cleaned so.
#[derive(Debug, thiserror::Error)]
pub enum CleaningError {
    /// A pattern that is no regular expression.
    #[error("data.replace[{index}].pattern: {detail}")]
    Pattern {
        /// Which of the replacements.
        index: usize,
        /// What is wrong with it.
        detail: String,
    },
}

/// Cleans texts.
#[derive(Clone, Debug)]
pub struct Cleaner {}

impl Cleaner {
    /// Compiles what `cleaning` says.
    pub fn new(cleaning: &Cleaning) -> Result<Self, CleaningError> {
        let _ = cleaning;
        Ok(Self {})
    }

    /// The cleaned text; `masked` counts what was replaced.
    pub fn clean<'a>(&self, text: &'a str, masked: &mut Masked) -> Cow<'a, str> {
        let _ = masked;
        Cow::Borrowed(text)
    }
}
