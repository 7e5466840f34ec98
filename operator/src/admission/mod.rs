//! Admission without Kueue: which TrainingJobs get devices, and which wait.
//!
//! Only the policy is here, pure and tested. Nothing calls it yet: what gathers its view
//! from the watches and carries out its decisions is to come.

pub mod amounts;
mod back_fill;
pub mod policy;
pub mod pool;
#[cfg(test)]
mod tests;
