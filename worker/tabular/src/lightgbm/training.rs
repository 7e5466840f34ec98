//! Data, and a booster that grows tree by tree.

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::ptr;

use lightgbm3_sys as sys;

use super::handle::{FREE_BOOSTER, FREE_DATA, Handle, c_len, c_text, checked, refused};
use crate::error::Result;

/// Numbers by row. Invariant: `values.len()` is a multiple of `columns`, which is not 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) values: &'a [f64],
    pub(crate) columns: usize,
}

impl<'a> Matrix<'a> {
    /// `None` where the invariant does not hold.
    pub(crate) fn new(values: &'a [f64], columns: usize) -> Option<Self> {
        let whole = columns > 0 && values.len().is_multiple_of(columns);
        whole.then_some(Self { values, columns })
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len() / self.columns
    }
}

/// Rows in LightGBM's form.
#[derive(Debug)]
pub(crate) struct Data {
    handle: Handle,
    rows: usize,
}

impl Data {
    /// Bins rows; as `like` is binned, where it is given.
    pub(crate) fn new(matrix: Matrix<'_>, parameters: &str, like: Option<&Self>) -> Result<Self> {
        const DOING: &str = "bin the rows";
        let (rows, columns) = (c_len(DOING, matrix.rows())?, c_len(DOING, matrix.columns)?);
        let parameters = c_text(DOING, parameters)?;
        let like = like.map_or(ptr::null_mut(), |like| like.handle.as_ptr());
        let handle = Handle::made(DOING, FREE_DATA, |out| {
            // SAFETY: `values` holds rows times columns doubles (Matrix's invariant), which are
            // copied; the text ends with NUL; `like` is null or lives; `out` is live.
            unsafe {
                sys::LGBM_DatasetCreateFromMat(
                    matrix.values.as_ptr().cast(),
                    dtype(sys::C_API_DTYPE_FLOAT64),
                    rows,
                    columns,
                    1,
                    parameters.as_ptr(),
                    like,
                    out,
                )
            }
        })?;
        Ok(Self { handle, rows: matrix.rows() })
    }

    /// Names of the features, of letters, digits, `_`, `-` and `.`.
    pub(crate) fn name(&mut self, names: &[String]) -> Result<()> {
        const DOING: &str = "name the features";
        let names: Vec<CString> =
            names.iter().map(|name| c_text(DOING, name)).collect::<Result<_>>()?;
        let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let count = c_len(DOING, pointers.len())?;
        // SAFETY: `count` texts that end with NUL and live through the call, which copies them.
        let code = unsafe {
            sys::LGBM_DatasetSetFeatureNames(self.handle.as_ptr(), pointers.as_mut_ptr(), count)
        };
        checked(DOING, code)
    }

    /// One label a row: the number of the class, or what is to be predicted.
    pub(crate) fn label(&mut self, labels: &[f32]) -> Result<()> {
        self.field("label", &Values::Single(labels), 1)
    }

    /// One weight a row.
    pub(crate) fn weight(&mut self, weights: &[f32]) -> Result<()> {
        self.field("weight", &Values::Single(weights), 1)
    }

    /// Raw scores to go on from: those of all rows for the first class, then for the next.
    pub(crate) fn start(&mut self, scores: &[f64], classes: usize) -> Result<()> {
        self.field("init_score", &Values::Double(scores), classes)
    }

    fn field(&mut self, name: &'static str, values: &Values<'_>, each: usize) -> Result<()> {
        const DOING: &str = "take a field of the rows";
        let (start, len, kind): (*const c_void, _, _) = match values {
            Values::Single(values) => {
                (values.as_ptr().cast(), values.len(), sys::C_API_DTYPE_FLOAT32)
            }
            Values::Double(values) => {
                (values.as_ptr().cast(), values.len(), sys::C_API_DTYPE_FLOAT64)
            }
        };
        if len != self.rows * each {
            return Err(refused(DOING, format!("{name}: {len} values for {} rows", self.rows)));
        }
        let (text, len) = (c_text(DOING, name)?, c_len(DOING, len)?);
        // SAFETY: `len` values of that kind, which are copied; the text ends with NUL.
        let code = unsafe {
            sys::LGBM_DatasetSetField(self.handle.as_ptr(), text.as_ptr(), start, len, dtype(kind))
        };
        checked(DOING, code)
    }
}

/// Numbers as LightGBM takes them.
enum Values<'a> {
    Single(&'a [f32]),
    Double(&'a [f64]),
}

/// A booster that grows. It reads its data as long as it lives.
#[derive(Debug)]
pub(crate) struct Training<'d> {
    handle: Handle,
    data: PhantomData<&'d Data>,
}

impl<'d> Training<'d> {
    /// Begins with no trees.
    pub(crate) fn new(train: &'d Data, eval: Option<&'d Data>, parameters: &str) -> Result<Self> {
        const DOING: &str = "begin training";
        let parameters = c_text(DOING, parameters)?;
        let handle = Handle::made(DOING, FREE_BOOSTER, |out| {
            // SAFETY: the data lives longer than the booster ('d); the text ends with NUL.
            unsafe { sys::LGBM_BoosterCreate(train.handle.as_ptr(), parameters.as_ptr(), out) }
        })?;
        if let Some(eval) = eval {
            // SAFETY: both live, the data longer than the booster ('d).
            let code =
                unsafe { sys::LGBM_BoosterAddValidData(handle.as_ptr(), eval.handle.as_ptr()) };
            checked(DOING, code)?;
        }
        Ok(Self { handle, data: PhantomData })
    }

    /// Changes parameters, from the next tree on.
    pub(crate) fn reset(&mut self, parameters: &str) -> Result<()> {
        const DOING: &str = "change parameters";
        let parameters = c_text(DOING, parameters)?;
        // SAFETY: the handle lives and is ours alone (`&mut`); the text ends with NUL.
        let code =
            unsafe { sys::LGBM_BoosterResetParameter(self.handle.as_ptr(), parameters.as_ptr()) };
        checked(DOING, code)
    }

    /// Adds a tree a class; `false` where no leaf can be split any more, so none was added.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let mut finished = 0;
        // SAFETY: the handle lives and is ours alone (`&mut`); the out-pointer is live.
        let code =
            unsafe { sys::LGBM_BoosterUpdateOneIter(self.handle.as_ptr(), &raw mut finished) };
        checked("add a tree", code)?;
        Ok(finished == 0)
    }

    /// The loss on training rows, or on those for evaluation. One metric is asked for in the
    /// parameters, so one number comes.
    pub(crate) fn loss(&self, eval: bool) -> Result<f64> {
        const DOING: &str = "evaluate";
        let mut count = 0;
        // SAFETY: the handle lives; the out-pointer is live.
        let code = unsafe { sys::LGBM_BoosterGetEvalCounts(self.handle.as_ptr(), &raw mut count) };
        checked(DOING, code)?;
        if count != 1 {
            return Err(refused(DOING, format!("{count} metrics where one was asked for")));
        }
        let mut loss = f64::NAN;
        // SAFETY: room for the one number; out-pointers are live.
        let code = unsafe {
            sys::LGBM_BoosterGetEval(
                self.handle.as_ptr(),
                i32::from(eval),
                &raw mut count,
                &raw mut loss,
            )
        };
        checked(DOING, code)?;
        Ok(loss)
    }

    /// Puts the trees of another model before these.
    pub(crate) fn prepend(&mut self, earlier: &super::Predictor) -> Result<()> {
        // SAFETY: both live; the trees are copied. `earlier` is only read.
        let code = unsafe { sys::LGBM_BoosterMerge(self.handle.as_ptr(), earlier.as_ptr()) };
        checked("join models", code)
    }

    /// The model's text, of its first `iterations`; of all where that is 0.
    pub(crate) fn text(&self, iterations: u32) -> Result<String> {
        const DOING: &str = "write the model";
        let iterations = i32::try_from(iterations).unwrap_or(i32::MAX);
        let mut buffer: Vec<u8> = vec![0; 1 << 20];
        loop {
            let room = i64::try_from(buffer.len()).unwrap_or(i64::MAX);
            let mut needed = 0;
            // SAFETY: `room` bytes are there; LightGBM writes none where they do not suffice.
            let code = unsafe {
                sys::LGBM_BoosterSaveModelToString(
                    self.handle.as_ptr(),
                    0,
                    iterations,
                    0,
                    room,
                    &raw mut needed,
                    buffer.as_mut_ptr().cast(),
                )
            };
            checked(DOING, code)?;
            let needed = usize::try_from(needed).unwrap_or_default();
            if needed > buffer.len() {
                buffer = vec![0; needed];
                continue;
            }
            buffer.truncate(needed.saturating_sub(1));
            return String::from_utf8(buffer).map_err(|_| refused(DOING, "it is no UTF-8".into()));
        }
    }
}

/// A constant of the header as the functions take it.
fn dtype(kind: u32) -> i32 {
    kind.cast_signed()
}
