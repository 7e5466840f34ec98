//! Rows in, models and predictions out.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod data;
mod hostile;
mod parity;
mod predicting;
mod training;
