//! Raw rows → clean, split, described ones.

pub mod augment;
pub mod picture;
pub mod table;
pub mod text;
