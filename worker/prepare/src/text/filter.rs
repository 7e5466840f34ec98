//! Texts that are no use.

use hearth_crds::preparation::TextFilter;

/// Why a text goes. `Display` is its name in the data card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Fewer characters than `minCharacters`.
    TooShort,
}

/// Tells which texts go.
#[derive(Clone, Debug)]
pub struct Filter {}

impl Filter {
    /// A filter as the spec has it.
    pub fn new(filter: &TextFilter) -> Self {
        let _ = filter;
        Self {}
    }

    /// Why the cleaned `text` goes; `None`: it stays.
    pub fn refusal(&self, text: &str) -> Option<Refusal> {
        let _ = text;
        None
    }
}
