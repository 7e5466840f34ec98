//! Batches of rows: what is wrong with them, what they are cleaned of, and by what they are told
//! apart. No files, no clocks.

pub(crate) mod arrays;
mod check;
pub(crate) mod columns;
mod key;
pub(crate) mod pictures;
mod process;
mod texts;
mod touched;
pub(crate) mod value;
mod viewer;

pub(crate) use key::{KEY_BYTES, Key, contents, times};
pub(crate) use pictures::Pictures;
pub(crate) use process::{Processed, Recipe};
pub(crate) use texts::Pieces;
pub(crate) use touched::Touched;
