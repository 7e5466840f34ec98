//! A model that no longer changes.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use lightgbm3_sys as sys;

use super::check::{Shape, checked_model};
use super::handle::{FREE_BOOSTER, FREE_FAST, Handle, c_len, c_text, checked, refused};
use super::training::Matrix;
use crate::error::Result;

/// Most rows that are predicted at the same time; more wait.
const LANES: usize = 16;

/// A loaded model.
///
/// All predictions go through LightGBM's single-row configurations ("fast" ones), made while the
/// model has one owner. They cost a row nothing (a batch call goes through its rows in the same way),
/// and they are what makes sharing sound: a batch call sets variables of the shared booster anew
/// (`InitPredict` in `gbdt.h`) under a lock that others share.
#[derive(Debug)]
pub(crate) struct Predictor {
    // In this order they are dropped: configurations point to the booster.
    raw: Lanes,
    contributions: Lanes,
    booster: Handle,
    shape: Shape,
}

/// Configurations for one kind of prediction, of which each is used by one thread at a time:
/// LightGBM locks them (`single_row_predictor_mutex` in `c_api.cpp`).
#[derive(Debug)]
struct Lanes {
    fast: Vec<Handle>,
    next: AtomicUsize,
}

// SAFETY: nothing in LightGBM's objects is bound to a thread.
unsafe impl Send for Predictor {}
// SAFETY: once made, `&self` reaches LightGBM in two ways only. SingleRowFast, which holds a lock of
// its own over its buffers and a shared lock over the booster, and reads the booster's trees; and
// BoosterMerge, to which the booster is a `const` other whose trees are copied. Nothing writes to it.
unsafe impl Sync for Predictor {}

impl Predictor {
    /// Reads a model's text, checked first: LightGBM's reader trusts what it reads.
    pub(crate) fn from_text(text: &str) -> Result<Self> {
        const DOING: &str = "read the model";
        let shape = checked_model(text).map_err(|detail| refused(DOING, detail))?;
        let text = c_text(DOING, text)?;
        let mut iterations = 0;
        let booster = Handle::made(DOING, FREE_BOOSTER, |out| {
            // SAFETY: the text ends with NUL and is a whole model (`checked_model`).
            unsafe { sys::LGBM_BoosterLoadModelFromString(text.as_ptr(), &raw mut iterations, out) }
        })?;
        let lanes = available_parallelism().map_or(1, NonZeroUsize::get).min(LANES);
        let raw = Lanes::new(&booster, &shape, sys::C_API_PREDICT_RAW_SCORE, lanes)?;
        let contributions = Lanes::new(&booster, &shape, sys::C_API_PREDICT_CONTRIB, lanes)?;
        Ok(Self { raw, contributions, booster, shape })
    }

    /// What the model takes and gives.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Raw scores, `[rows, classes]`: log-odds, what a softmax takes, or the prediction itself.
    pub(crate) fn scores(&self, rows: Matrix<'_>) -> Result<Vec<f64>> {
        self.raw.run(rows, &self.shape, self.shape.classes)
    }

    /// Contributions to raw scores, `[rows, classes, features + 1]`, the base value last (exact
    /// TreeSHAP: Lundberg, Erion & Lee 2018, arXiv:1802.03888, algorithm 2).
    pub(crate) fn contributions(&self, rows: Matrix<'_>) -> Result<Vec<f64>> {
        let each = self.shape.classes * (self.shape.features + 1);
        self.contributions.run(rows, &self.shape, each)
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.booster.as_ptr()
    }
}

impl Lanes {
    fn new(booster: &Handle, shape: &Shape, kind: u32, lanes: usize) -> Result<Self> {
        const DOING: &str = "prepare predictions";
        let columns = c_len(DOING, shape.features)?;
        let parameters = c_text(DOING, "num_threads=1 verbosity=-1")?;
        let lane = |_| {
            Handle::made(DOING, FREE_FAST, |out| {
                // SAFETY: the booster outlives its configurations (order of Predictor's fields).
                unsafe {
                    sys::LGBM_BoosterPredictForMatSingleRowFastInit(
                        booster.as_ptr(),
                        kind.cast_signed(),
                        0,
                        -1,
                        sys::C_API_DTYPE_FLOAT64.cast_signed(),
                        columns,
                        parameters.as_ptr(),
                        out,
                    )
                }
            })
        };
        let fast = (0..lanes).map(lane).collect::<Result<_>>()?;
        Ok(Self { fast, next: AtomicUsize::new(0) })
    }

    /// `each` numbers a row.
    fn run(&self, rows: Matrix<'_>, shape: &Shape, each: usize) -> Result<Vec<f64>> {
        const DOING: &str = "predict";
        super::handle::hush();
        if rows.columns != shape.features {
            let detail = format!("{} features where {} are known", rows.columns, shape.features);
            return Err(refused(DOING, detail));
        }
        // Any lane is right; taking turns keeps threads apart.
        let lane = &self.fast[self.next.fetch_add(1, Ordering::Relaxed) % self.fast.len()];
        let mut out = vec![0.0; rows.rows() * each];
        for (row, out) in rows.values.chunks_exact(rows.columns).zip(out.chunks_exact_mut(each)) {
            let mut written = 0;
            // SAFETY: the row has as many values as the configuration was made for; there is room
            // for `each` numbers, which is what LightGBM writes for this shape and kind.
            let code = unsafe {
                sys::LGBM_BoosterPredictForMatSingleRowFast(
                    lane.as_ptr(),
                    row.as_ptr().cast(),
                    &raw mut written,
                    out.as_mut_ptr(),
                )
            };
            checked(DOING, code)?;
        }
        Ok(out)
    }
}
