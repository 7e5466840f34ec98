//! Pictures: bytes → pixels, which of them show the same, and what is made of them.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "colours and places are computed as floats, and what is cut off is meant to be"
)]

pub mod augment;
pub mod decode;
pub mod hash;
pub mod near;
