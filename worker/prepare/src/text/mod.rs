//! Texts: what they are cleaned of, which are no use, which say the same.

pub mod clean;
pub mod filter;
pub mod similar;
