//! Raw rows → clean, split, described ones.

pub mod text;
