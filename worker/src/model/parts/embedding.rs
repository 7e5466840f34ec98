//! Rows of a table, by number.

use tch::Tensor;

use crate::model::ModelError;
use crate::model::module::{Weight, module};

/// A table of vectors.
#[derive(Debug)]
pub struct Embedding {
    /// `[rows, D]`.
    pub weight: Weight,
}
module!(Embedding: weight);

impl Embedding {
    /// ids i64 `[..]` → `[.., D]`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Ok(Tensor::f_embedding(&self.weight.tensor, ids, -1, false, false)?)
    }
}
