//! Rows that every rank sends to every other.

use std::ptr;

use tch::Tensor;

use super::{ProcessGroup, unreadable};
use crate::agreement::{Call, Operation, count};
use crate::error::{Error, Result, created};
use crate::sys;
use crate::tensor::ensure_sendable;
use crate::work::Work;

/// All-to-all.
impl ProcessGroup {
    /// Sends the r-th of `size` equal parts of dimension 0 to rank r: `[size * n, ..]`
    /// gives `[size * n, ..]`, rows `r * n ..` of which are rank r's.
    pub fn all_to_all(&mut self, input: &Tensor) -> Result<Tensor> {
        self.all_to_all_async(input.shallow_clone())?.wait()
    }

    /// [`Self::all_to_all`] that goes on while the program does.
    pub fn all_to_all_async(&mut self, input: Tensor) -> Result<Work<Tensor>> {
        const OPERATION: &str = "all_to_all";
        ensure_sendable(OPERATION, &input, self.device)?;
        let shape = input.size();
        if shape.first().is_none_or(|rows| rows % count(self.size) != 0) {
            let detail =
                format!("the first dimension of {shape:?} is not divisible by {} ranks", self.size);
            return Err(Error::InvalidTensor { operation: OPERATION, detail });
        }
        self.agree(&Call::on(Operation::AllToAll, &input)?)?;
        let output = input.empty_like();
        let group = self.raw.as_ptr();
        let raw = created(OPERATION, |out, message| {
            // SAFETY: `raw` lives until Drop; both tensors are dense and alike, and
            // their rows are divisible by the size.
            unsafe {
                sys::hearth_group_all_to_all(
                    group,
                    output.as_ptr(),
                    input.as_ptr(),
                    ptr::null(),
                    ptr::null(),
                    out,
                    message,
                )
            }
        })?;
        Ok(Work::new(raw, OPERATION.to_owned(), output).holding(input))
    }

    /// Sends `sent[r]` rows of `input` to rank r, those for rank 0 first, and gives
    /// the `received[r]` rows of each rank r, rank 0's first. Ranks learn what they
    /// receive by an [`Self::all_to_all`] of what they send.
    pub fn all_to_all_rows(
        &mut self,
        input: &Tensor,
        sent: &[usize],
        received: &[usize],
    ) -> Result<Tensor> {
        self.all_to_all_rows_async(input.shallow_clone(), sent, received)?.wait()
    }

    /// [`Self::all_to_all_rows`] that goes on while the program does.
    pub fn all_to_all_rows_async(
        &mut self,
        input: Tensor,
        sent: &[usize],
        received: &[usize],
    ) -> Result<Work<Tensor>> {
        const OPERATION: &str = "all_to_all_rows";
        ensure_sendable(OPERATION, &input, self.device)?;
        let counts = self.row_counts(OPERATION, &input, sent, received)?;
        let mut shape = input.size();
        shape[0] = counts.received.iter().sum();
        let output = Tensor::empty(shape, (input.kind(), self.device));
        let group = self.raw.as_ptr();
        let raw = created(OPERATION, |out, message| {
            // SAFETY: `raw` lives until Drop; both tensors are dense, of one kind and
            // row, and have as many rows as the `size` counts together.
            unsafe {
                sys::hearth_group_all_to_all(
                    group,
                    output.as_ptr(),
                    input.as_ptr(),
                    counts.received.as_ptr(),
                    counts.sent.as_ptr(),
                    out,
                    message,
                )
            }
        })?;
        Ok(Work::new(raw, OPERATION.to_owned(), output).holding(input))
    }

    /// The counts, after a look at them here and, where the options ask for it, a
    /// comparison with all ranks'.
    pub(super) fn row_counts(
        &mut self,
        operation: &'static str,
        input: &Tensor,
        sent: &[usize],
        received: &[usize],
    ) -> Result<RowCounts> {
        if sent.len() != self.size || received.len() != self.size {
            return Err(Error::InvalidArgument(format!(
                "{operation}: rows to {} and from {} ranks, of {}",
                sent.len(),
                received.len(),
                self.size
            )));
        }
        let total: usize = sent.iter().sum();
        if input.size().first() != Some(&count(total)) {
            let detail = format!("{total} rows are to be sent of {:?}", input.size());
            return Err(Error::InvalidTensor { operation, detail });
        }
        let as_counts = |list: &[usize]| list.iter().copied().map(count).collect();
        let counts = RowCounts { sent: as_counts(sent), received: as_counts(received) };
        if sent[self.rank] != received[self.rank] {
            return Err(Error::InvalidArgument(format!(
                "{operation}: rank {} sends itself {} rows, but receives {}",
                self.rank, sent[self.rank], received[self.rank]
            )));
        }
        self.agree(&Call::on_rows(Operation::AllToAllRows, input)?)?;
        self.agree_on_rows(operation, &counts)?;
        Ok(counts)
    }

    /// Every rank looks at every pair, so that all give the same answer.
    fn agree_on_rows(&mut self, operation: &'static str, counts: &RowCounts) -> Result<()> {
        if !self.options.check_agreement || self.size == 1 {
            return Ok(());
        }
        let own = [counts.sent.as_slice(), &counts.received].concat();
        let own = Tensor::from_slice(&own).to_device(self.device);
        let table = self.gather_unchecked(own)?.wait()?.flatten(0, -1);
        let table = Vec::<i64>::try_from(table).map_err(unreadable)?;
        let size = self.size;
        for (from, to) in (0..size).flat_map(|from| (0..size).map(move |to| (from, to))) {
            let sent = table[from * 2 * size + to];
            let received = table[to * 2 * size + size + from];
            if sent != received {
                return Err(Error::Mismatch {
                    operation: operation.to_owned(),
                    detail: format!(
                        "rank {from} sends {sent} rows to rank {to}, which receives {received}"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// Rows to and from each rank.
pub(super) struct RowCounts {
    pub(super) sent: Vec<i64>,
    pub(super) received: Vec<i64>,
}
