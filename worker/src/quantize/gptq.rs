//! Rounding that makes up for its own error (Frantar et al. 2023, GPTQ).
//!
//! Columns are rounded one after another, those of the largest inputs first (`act_order` of the
//! reference implementation, with groups as they lie); what each loses is taken from the columns
//! that are left, in the proportion that the inputs' second moments say.

use tch::{Device, Kind, Tensor};

use super::tensors::{Rounded, divisor, nearest, scales, spread};
use crate::model::ModelError;

/// Columns whose corrections are made one by one; later ones get theirs at once.
const BLOCK: i64 = 128;
/// Shares of the mean of the diagonal that are added to it, the smallest that works.
const DAMPING: [f64; 3] = [0.01, 0.1, 1.0];

/// Second moments of a layer's inputs.
#[derive(Debug)]
pub struct Moments {
    /// f32 `[K, K]`: sum of `x xᵀ`.
    sum: Tensor,
    rows: i64,
}

impl Moments {
    /// Of nothing yet, for `columns` inputs.
    pub fn new(columns: i64) -> Result<Self, ModelError> {
        Ok(Self { sum: Tensor::f_zeros([columns, columns], (Kind::Float, Device::Cpu))?, rows: 0 })
    }

    /// Counts inputs `[.., K]`.
    pub fn add(&mut self, input: &Tensor) -> Result<(), ModelError> {
        let columns = self.sum.size()[0];
        let rows = input.detach().f_reshape([-1, columns])?.f_to_kind(Kind::Float)?;
        self.rows += rows.size()[0];
        self.sum = self.sum.f_addmm(&rows.f_tr()?, &rows)?;
        Ok(())
    }
}

/// Rounds a weight `[N, K]` to whole numbers of `bits`, so that what it gives for inputs of these
/// `moments` changes least. Without inputs, each number is rounded to the nearest.
pub fn round(
    weight: &Tensor,
    moments: &Moments,
    bits: u32,
    group: Option<i64>,
) -> Result<Rounded, ModelError> {
    tch::no_grad(|| {
        if moments.rows == 0 {
            return super::tensors::round(weight, bits, group);
        }
        let columns = weight.size()[1];
        let moments = moments.sum.f_div_scalar(moments.rows as f64)?;
        let importance = moments.f_diag(0)?;
        // As the moments are damped: a column that was never seen counts a little, too.
        let damping =
            importance.f_mean(Kind::Float)?.f_mul_scalar(DAMPING[0])?.f_clamp_min(1e-12)?;
        let counted = importance.f_add(&damping)?;
        let scales = scales(weight, bits, group, Some(&counted))?;
        let order = importance.f_argsort(-1, true)?;
        let Some(shares) = shares(&moments.f_index_select(0, &order)?.f_index_select(1, &order)?)?
        else {
            return super::tensors::round(weight, bits, group);
        };
        let steps = divisor(&spread(&scales, columns)?)?.f_index_select(1, &order)?;
        let values = corrected(&weight.f_index_select(1, &order)?, &steps, &shares, bits)?;
        let back = order.f_argsort(-1, false)?;
        Ok(Rounded { values: values.f_index_select(1, &back)?, scales })
    })
}

/// How much of a column's error each later one takes: rows of the upper triangle `U`, `UᵀU` being
/// the inverse of the damped moments. `None` where they have no inverse.
fn shares(moments: &Tensor) -> Result<Option<Tensor>, ModelError> {
    let mean = moments.f_diag(0)?.f_mean(Kind::Float)?;
    for damping in DAMPING {
        let added = mean.f_mul_scalar(damping)?.f_clamp_min(1e-12)?;
        let identity = Tensor::f_eye(moments.size()[0], (Kind::Float, Device::Cpu))?;
        let damped = moments.f_add(&identity.f_mul(&added)?)?;
        let upper = damped
            .f_linalg_cholesky(false)
            .and_then(|lower| lower.f_cholesky_inverse(false)?.f_linalg_cholesky(true));
        match upper {
            Ok(upper) if i64::try_from(&upper.f_isfinite()?.f_all()?)? == 1 => {
                return Ok(Some(upper));
            }
            // Not positive definite in f32: more damping.
            _ => {}
        }
    }
    Ok(None)
}

/// Whole numbers `[N, K]` for a weight and its steps, both with their columns in the order of
/// `shares`. What was pruned stays 0, and what its neighbours would have moved it by goes on to
/// others (Frantar and Alistarh 2023, SparseGPT).
fn corrected(
    weight: &Tensor,
    steps: &Tensor,
    shares: &Tensor,
    bits: u32,
) -> Result<Tensor, ModelError> {
    let columns = weight.size()[1];
    let left = weight.copy();
    let pruned = weight.f_eq(0.0)?;
    let mut values = Vec::new();
    let mut first = 0;
    while first < columns {
        let count = BLOCK.min(columns - first);
        let block = left.f_narrow(1, first, count)?;
        let own = shares.f_narrow(0, first, count)?;
        let mut errors = Vec::new();
        for column in 0..count {
            let place = first + column;
            let step = steps.f_select(1, place)?;
            let number = block.f_select(1, column)?;
            let value = nearest(&number.f_div(&step)?, bits)?
                .f_masked_fill(&pruned.f_select(1, place)?, 0.0)?;
            let share = own.f_select(0, column)?;
            let error = number.f_sub(&value.f_mul(&step)?)?.f_div(&share.f_select(0, place)?)?;
            let shares = share.f_narrow(0, place, count - column)?;
            let mut later = block.f_narrow(1, column, count - column)?;
            let _ = later.f_addr_(&error.f_neg()?, &shares)?;
            values.push(value);
            errors.push(error);
        }
        let end = first + count;
        if end < columns {
            let errors = Tensor::f_stack(&errors, 1)?;
            let taken = errors.f_matmul(&own.f_narrow(1, end, columns - end)?)?;
            let _ = left.f_narrow(1, end, columns - end)?.f_sub_(&taken)?;
        }
        first = end;
    }
    Ok(Tensor::f_stack(&values, 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean square of what rounding changes in the layer's output.
    fn lost(weight: &Tensor, rounded: &Rounded, inputs: &Tensor) -> f64 {
        let error = rounded.dequantize().unwrap() - weight;
        inputs.matmul(&error.tr()).square().mean(Kind::Float).double_value(&[])
    }

    #[test]
    fn correction_loses_less_where_inputs_belong_together() {
        tch::manual_seed(5);
        let options = (Kind::Float, Device::Cpu);
        // 192 inputs made of 48 causes: more than one block of columns.
        let inputs = Tensor::randn([512, 48], options).matmul(&Tensor::randn([48, 192], options));
        let weight = Tensor::randn([64, 192], options);
        let mut moments = Moments::new(192).unwrap();
        for half in inputs.chunk(2, 0) {
            moments.add(&half.view([2, -1, 192])).unwrap();
        }
        for group in [None, Some(32)] {
            let plain = super::super::tensors::round(&weight, 4, group).unwrap();
            let better = round(&weight, &moments, 4, group).unwrap();
            let (plain, better) = (lost(&weight, &plain, &inputs), lost(&weight, &better, &inputs));
            assert!(better < 0.5 * plain, "{group:?}: {better} after correction, {plain} without");
        }
    }

    #[test]
    fn inputs_that_say_nothing_leave_the_nearest_numbers() {
        tch::manual_seed(6);
        let options = (Kind::Float, Device::Cpu);
        let weight = Tensor::randn([8, 64], options);
        let plain = super::super::tensors::round(&weight, 4, Some(32)).unwrap();
        let mut moments = Moments::new(64).unwrap();
        let unseen = round(&weight, &moments, 4, Some(32)).unwrap();
        assert!(unseen.values.equal(&plain.values));
        // Inputs without correlation: each error stays its own.
        moments.add(&(Tensor::eye(64, options) * 3.0)).unwrap();
        let apart = round(&weight, &moments, 4, Some(32)).unwrap();
        assert!(apart.values.equal(&plain.values));
        // A layer that saw nothing but zeros.
        let mut zeros = Moments::new(64).unwrap();
        zeros.add(&Tensor::zeros([4, 64], options)).unwrap();
        assert!(round(&weight, &zeros, 4, Some(32)).unwrap().values.equal(&plain.values));
    }
}
