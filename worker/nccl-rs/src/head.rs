//! A language model's output layer together with its loss, by blocks of rows.
//!
//! The logits `[N, V]` of a long batch are the largest tensor of a training step, and
//! a plain loss keeps two or three of their size. Here memory holds those of one block,
//! forward and backward, as in Liger-Kernel's `FusedLinearCrossEntropy` (Hsu et al.
//! 2024, arXiv:2410.10989).
//!
//! Shapes: `N` rows, `D` width, `V` classes. Under
//! [`autocast`](crate::autograd::autocast()), products are in its kind; logits and
//! losses are always in f32.

use std::ptr;

use tch::{Kind, Tensor};

use crate::error::{Error, Result, checked, created};
use crate::sys;
use crate::tensor::{device_of, ensure_strided};

/// Bytes of a block's logits, about.
const BLOCK_BYTES: i64 = 64 << 20;

/// Rows of a block of about 64 MiB of f32 logits over `classes`.
pub fn block_rows(classes: i64) -> i64 {
    (BLOCK_BYTES / (4 * classes.max(1))).max(16)
}

/// An output layer and what it reads.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// `[N, D]`.
    pub hidden: &'a Tensor,
    /// `[V, D]`.
    pub weight: &'a Tensor,
    /// i64 `[N]`, each from 0 to `V - 1`.
    pub targets: &'a Tensor,
    /// Rows whose logits are in memory at a time, such as [`block_rows`] says.
    pub block: i64,
}

/// What is learned from another model (Hinton et al. 2015).
#[derive(Clone, Copy, Debug)]
pub struct Teacher<'a> {
    /// `[N, E]`.
    pub hidden: &'a Tensor,
    /// `[V, E]`.
    pub weight: &'a Tensor,
    /// Divides the logits of both.
    pub temperature: f64,
    /// Share of the teacher's part.
    pub alpha: f64,
}

impl Head<'_> {
    /// Sum of the rows' cross-entropies, a scalar in f32. `label_smoothing` of each
    /// target is spread over all classes, as in `torch.nn.functional.cross_entropy`.
    ///
    /// The gradients are computed with it, where any is wanted, and wait for backward's
    /// factor: a sum's is the same for all rows.
    pub fn cross_entropy(&self, label_smoothing: f64) -> Result<Tensor> {
        Ok(self.loss(label_smoothing, None, false)?.0)
    }

    /// As [`Self::cross_entropy`], without label smoothing; and the number of rows whose
    /// largest logit is the target's, i64.
    pub fn score(&self) -> Result<(Tensor, Tensor)> {
        let (loss, hits) = self.loss(0.0, None, true)?;
        hits.map(|hits| (loss, hits)).ok_or_else(|| Error::Torch {
            operation: "linear loss".to_owned(),
            detail: "the shim counted nothing".to_owned(),
        })
    }

    /// `alpha T² KL(teacher ‖ own)` at temperature `T`, plus `1 - alpha` times the
    /// [cross-entropy](Self::cross_entropy), summed over rows. The teacher gets no gradient.
    pub fn distillation(&self, label_smoothing: f64, teacher: Teacher<'_>) -> Result<Tensor> {
        Ok(self.loss(label_smoothing, Some(teacher), false)?.0)
    }

    /// Logarithms of the targets' probabilities, f32 `[N]`. Backward computes the logits
    /// once more.
    pub fn log_probs(&self) -> Result<Tensor> {
        const OPERATION: &str = "linear log-probabilities";
        self.check(OPERATION)?;
        let raw = created(OPERATION, |out, message| {
            // SAFETY: hidden and weight are dense of one device and width, and there is
            // a target for each row, as `check` saw; libtorch checks the targets' range.
            unsafe {
                sys::hearth_linear_log_probs(
                    self.block,
                    self.hidden.as_ptr(),
                    self.weight.as_ptr(),
                    self.targets.as_ptr(),
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
    }

    fn loss(
        &self,
        smoothing: f64,
        teacher: Option<Teacher<'_>>,
        count: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        const OPERATION: &str = "linear loss";
        self.check(OPERATION)?;
        if let Some(Teacher { hidden, weight, temperature, .. }) = teacher {
            ensure_product(OPERATION, hidden, weight)?;
            let (rows, classes) = (self.hidden.size()[0], self.weight.size()[0]);
            if (hidden.size()[0], weight.size()[0]) != (rows, classes) || temperature <= 0.0 {
                let detail = format!(
                    "a teacher over {rows} rows and {classes} classes at a temperature above 0 is wanted, not one over {} and {} at {temperature}",
                    hidden.size()[0],
                    weight.size()[0]
                );
                return Err(Error::InvalidTensor { operation: OPERATION, detail });
            }
        }
        let options = sys::LinearLoss {
            block: self.block,
            smoothing,
            temperature: teacher.map_or(1.0, |teacher| teacher.temperature),
            alpha: teacher.map_or(0.0, |teacher| teacher.alpha),
        };
        let (hidden, weight) =
            teacher.map_or((ptr::null(), ptr::null()), |t| (t.hidden.as_ptr(), t.weight.as_ptr()));
        let (mut loss, mut hits) = (ptr::null_mut(), ptr::null_mut());
        let counted = if count { &raw mut hits } else { ptr::null_mut() };
        checked(OPERATION, |message| {
            // SAFETY: as for `log_probs`; the teacher's tensors are both null or fit.
            unsafe {
                sys::hearth_linear_loss(
                    &raw const options,
                    self.hidden.as_ptr(),
                    self.weight.as_ptr(),
                    self.targets.as_ptr(),
                    hidden,
                    weight,
                    &raw mut loss,
                    counted,
                    message,
                )
            }
        })?;
        // SAFETY: the call went well, so the shim gave a tensor of its own making.
        let loss = unsafe { Tensor::from_ptr(loss) };
        // SAFETY: what is not null, the shim made for this call.
        let hits = (!hits.is_null()).then(|| unsafe { Tensor::from_ptr(hits) });
        Ok((loss, hits))
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        ensure_product(operation, self.hidden, self.weight)?;
        ensure_strided(operation, self.targets, self.hidden.device())?;
        let refuse = |detail: String| Err(Error::InvalidTensor { operation, detail });
        let rows = self.hidden.size()[0];
        if (self.targets.kind(), self.targets.size()) != (Kind::Int64, vec![rows]) {
            return refuse(format!(
                "targets Int64 [{rows}] are wanted, not {:?} {:?}",
                self.targets.kind(),
                self.targets.size()
            ));
        }
        if self.block < 1 {
            return refuse(format!("a block of {} rows is none", self.block));
        }
        Ok(())
    }
}

/// `hidden [N, D]` and `weight [V, D]` can be multiplied.
fn ensure_product(operation: &'static str, hidden: &Tensor, weight: &Tensor) -> Result<()> {
    let device = device_of(operation, hidden)?;
    ensure_strided(operation, hidden, device)?;
    ensure_strided(operation, weight, device)?;
    let (rows, classes) = (hidden.size(), weight.size());
    match (rows.as_slice(), classes.as_slice()) {
        ([_, width], [_, inputs]) if width == inputs => {}
        _ => {
            let detail = format!("{rows:?} and {classes:?} are not [N, D] and [V, D]");
            return Err(Error::InvalidTensor { operation, detail });
        }
    }
    for tensor in [hidden, weight] {
        if ![Kind::Float, Kind::BFloat16, Kind::Half].contains(&tensor.kind()) {
            let detail = format!("it works on floats, not on {:?}", tensor.kind());
            return Err(Error::InvalidTensor { operation, detail });
        }
    }
    Ok(())
}
