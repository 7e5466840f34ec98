//! Texts: what they are cleaned of, which are no use, which say the same.

pub mod clean;
pub mod filter;
pub mod html;
pub(crate) mod language;
pub mod mask;
pub mod normal;
mod scan;
mod shingle;
pub mod similar;
pub(crate) mod units;
