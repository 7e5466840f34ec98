//! Integrated gradients (Sundararajan, Taly & Yan 2017, arXiv:1703.01365): what moves a raw score from that of
//! a baseline to that of a row.
//!
//! The way is a straight line between both in what the network sees of their features: for numbers a line
//! between the numbers, for categories one between their vectors. The integral is a sum over the middles of
//! [`STEPS`] parts; what it misses of the whole, the residual, is shared out by the size of contributions, so that
//! they sum to the difference of both raw scores.

use hearth_tabular::NetworkConfig;
use tch::{Kind, Tensor};

use super::net::{Batch, Net, Noise, size};
use super::tensors::{NetworkError, values};

/// Parts of the way; the paper finds 20 to 300 enough.
pub(super) const STEPS: usize = 64;
/// Rows that are computed at a time.
const AT_ONCE: usize = 1024;

/// What moves the raw score of each row's class.
pub(super) struct Gradients {
    /// `[B, F]`, numbers first, before the residual is shared out.
    pub(super) parts: Vec<f64>,
    /// `[B]`.
    pub(super) scores: Vec<f64>,
    /// `[B]`: the baseline's.
    pub(super) bases: Vec<f64>,
}

/// Integrated gradients of rows.
pub(super) fn gradients(
    net: &Net,
    (batch, base): (&Batch, &Batch),
    classes: &[usize],
) -> Result<Gradients, NetworkError> {
    let classes: Vec<i64> = classes.iter().map(|class| size(*class)).collect();
    let of_rows = Tensor::f_from_slice(&classes)?.f_unsqueeze(1)?;
    let (row, base) =
        tch::no_grad(|| Ok::<_, NetworkError>((net.embed(batch)?, net.embed(base)?)))?;
    let way = row.f_sub(&base)?;
    let mut sum = way.f_zeros_like()?;
    let together = (AT_ONCE / classes.len().max(1)).clamp(1, STEPS);
    let middles: Vec<f32> = (0..STEPS).map(|step| (step as f32 + 0.5) / STEPS as f32).collect();
    for middles in middles.chunks(together) {
        let copies = size(middles.len());
        // `[S, B, …]`, S being steps that are computed together.
        let mut shape = way.size();
        shape.insert(0, copies);
        let mut ones = vec![1; shape.len()];
        ones[0] = copies;
        let middles = Tensor::f_from_slice(middles)?.f_view(ones.as_slice())?;
        let points = way.f_unsqueeze(0)?.f_mul(&middles)?.f_add(&base)?;
        let points = points.f_flatten(0, 1)?.f_detach()?.f_set_requires_grad(true)?;
        let scores = net.score(&points, &mut Noise::Off)?;
        let own = scores.f_gather(1, &of_rows.f_repeat([copies, 1])?, false)?;
        let total = own.f_sum(Kind::Float)?;
        let gradients = Tensor::f_run_backward(&[total], &[points], false, false)?;
        let gradients = gradients[0].f_view(shape.as_slice())?;
        sum = sum.f_add(&gradients.f_sum_dim_intlist([0].as_slice(), false, Kind::Float)?)?;
    }
    tch::no_grad(|| {
        let parts = way.f_mul(&sum.f_div_scalar(STEPS as f64)?)?;
        let of = |embedded: &Tensor| net.score(embedded, &mut Noise::Off);
        let scores = of(&row)?.f_gather(1, &of_rows, false)?;
        let base = of(&base)?.f_expand([size(classes.len()), -1], false)?;
        Ok(Gradients {
            parts: doubles(&net.by_feature(&parts)?)?,
            scores: doubles(&scores)?,
            bases: doubles(&base.f_gather(1, &of_rows, false)?)?,
        })
    })
}

fn doubles(tensor: &Tensor) -> Result<Vec<f64>, NetworkError> {
    Ok(values(tensor)?.into_iter().map(f64::from).collect())
}

/// Contributions, `[B, F + 1]`, in the order of the features and in the unit of what is predicted, the
/// base last.
pub(super) fn told(gradients: &Gradients, config: &NetworkConfig) -> Vec<f64> {
    let order = config.order();
    let (mean, deviation) = config.target.map_or((0.0, 1.0), |scale| (scale.mean, scale.deviation));
    let mut all = Vec::with_capacity(gradients.scores.len() * (order.len() + 1));
    let rows = gradients.parts.chunks_exact(order.len().max(1));
    for ((parts, score), base) in rows.zip(&gradients.scores).zip(&gradients.bases) {
        let mut row = vec![0.0; order.len() + 1];
        for (feature, part) in order.iter().zip(completed(parts, score - base)) {
            row[*feature] = deviation * part;
        }
        row[order.len()] = mean + deviation * base;
        all.extend(row);
    }
    all
}

/// Parts that sum to `whole`: each takes a share of what is missing, by its size.
pub(super) fn completed(parts: &[f64], whole: f64) -> Vec<f64> {
    let residual = whole - parts.iter().sum::<f64>();
    let sizes: f64 = parts.iter().map(|part| part.abs()).sum();
    let even = 1.0 / parts.len().max(1) as f64;
    let share = |part: f64| if sizes > 0.0 { part.abs() / sizes } else { even };
    parts.iter().map(|part| part + residual * share(*part)).collect()
}
