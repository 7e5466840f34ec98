//! Raw rows → clean, split, described ones.

pub mod augment;
pub mod import;
pub mod picture;
pub mod table;
pub mod text;
