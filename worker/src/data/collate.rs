//! Makes tensors of token rows and of pictures.

use tch::{Device, TchError, Tensor};

use super::pictures::normalize;
use super::sequence::{Fetched, Sequence};

/// A padded batch. `B` rows, `T` tokens of the longest.
#[derive(Debug)]
pub struct Batch {
    /// i64 `[B, T]`.
    pub input_ids: Tensor,
    /// i64 `[B, T]`, 1 where there is a token; `None` where no row is padded.
    pub attention_mask: Option<Tensor>,
}

/// Pads `rows` to the longest with `pad` and moves them to `device`.
///
/// Invariant: `rows` is not empty.
pub fn collate(rows: &[&[u32]], pad: u32, device: Device) -> Result<Batch, TchError> {
    let longest = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let padded = rows.iter().any(|row| row.len() < longest);
    let mut ids = vec![i64::from(pad); rows.len() * longest];
    let mut mask = if padded { vec![0i64; ids.len()] } else { Vec::new() };
    for (index, row) in rows.iter().enumerate() {
        let start = index * longest;
        for (slot, id) in ids[start..].iter_mut().zip(*row) {
            *slot = i64::from(*id);
        }
        if padded {
            mask[start..start + row.len()].fill(1);
        }
    }
    let shape = [signed(rows.len()), signed(longest)];
    let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_view(shape)?.f_to_device(device);
    Ok(Batch {
        input_ids: tensor(&ids)?,
        attention_mask: padded.then(|| tensor(&mask)).transpose()?,
    })
}

/// Pictures as a model's input, f32 `[B, 3, H, W]`; `None` where `batch` holds sequences.
pub fn collate_pixels(batch: &Fetched, device: Device) -> Result<Option<Tensor>, TchError> {
    let Some((bytes, format)) = batch.pixels() else { return Ok(None) };
    normalize(bytes, batch.len(), format, device).map(Some)
}

/// A batch for a decoder. `B` rows, `T` tokens of the longest; `N` tokens to predict.
#[derive(Debug)]
pub struct CausalBatch {
    /// i64 `[B, T]`.
    pub input_ids: Tensor,
    /// i64 `[N]`: positions in the flattened `[B·T]` whose output predicts the token after, by
    /// row and then by place.
    pub select: Tensor,
    /// i64 `[N]`: ids of those tokens.
    pub targets: Tensor,
    /// Tokens to predict of each sequence; they add up to `N`.
    pub target_tokens: Vec<i64>,
    /// Of a packed batch, of one row: lengths of the sequences in it.
    pub lengths: Option<Vec<i64>>,
}

/// Pads sequences on the right to the longest with `pad`, a row each, and moves them to `device`.
///
/// Invariant: `sequences` is not empty.
pub fn collate_causal(
    sequences: &Fetched,
    pad: u32,
    device: Device,
) -> Result<CausalBatch, TchError> {
    let longest = sequences.sequences().map(|sequence| sequence.ids.len()).max().unwrap_or(0);
    let mut batch = Flat::new(sequences, longest * sequences.len());
    for sequence in sequences.sequences() {
        batch.add(sequence);
        batch.ids.resize(batch.rows * longest, i64::from(pad));
    }
    batch.into_tensors([signed(sequences.len()), signed(longest)], None, device)
}

/// Puts sequences one behind the other into one row and moves it to `device`. The first token of
/// a sequence is not predicted from the one before.
///
/// Invariant: `sequences` is not empty.
pub fn collate_packed(sequences: &Fetched, device: Device) -> Result<CausalBatch, TchError> {
    let lengths: Vec<i64> =
        sequences.sequences().map(|sequence| signed(sequence.ids.len())).collect();
    let total = lengths.iter().sum();
    let mut batch = Flat::new(sequences, usize::try_from(total).unwrap_or(0));
    sequences.sequences().for_each(|sequence| batch.add(sequence));
    batch.into_tensors([1, total], Some(lengths), device)
}

/// Rows laid out one behind the other.
struct Flat {
    ids: Vec<i64>,
    select: Vec<i64>,
    targets: Vec<i64>,
    target_tokens: Vec<i64>,
    /// Sequences so far.
    rows: usize,
}

impl Flat {
    fn new(sequences: &Fetched, tokens: usize) -> Self {
        let targets: usize = sequences.sequences().map(|sequence| sequence.target_tokens()).sum();
        Self {
            ids: Vec::with_capacity(tokens),
            select: Vec::with_capacity(targets),
            targets: Vec::with_capacity(targets),
            target_tokens: Vec::with_capacity(sequences.len()),
            rows: 0,
        }
    }

    fn add(&mut self, sequence: Sequence<'_>) {
        let start = self.ids.len();
        self.ids.extend(sequence.ids.iter().map(|id| i64::from(*id)));
        for position in sequence.target_positions() {
            self.select.push(signed(start + position - 1));
            self.targets.push(i64::from(sequence.ids[position]));
        }
        self.target_tokens.push(signed(sequence.target_tokens()));
        self.rows += 1;
    }

    fn into_tensors(
        self,
        shape: [i64; 2],
        lengths: Option<Vec<i64>>,
        device: Device,
    ) -> Result<CausalBatch, TchError> {
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        Ok(CausalBatch {
            input_ids: tensor(&self.ids)?.f_view(shape)?,
            select: tensor(&self.select)?,
            targets: tensor(&self.targets)?,
            target_tokens: self.target_tokens,
            lengths,
        })
    }
}

/// Sizes of tensors in memory fit `i64`.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::sequence::Kind;
    use super::*;

    #[test]
    fn rows_are_padded_on_the_right_and_masked() {
        let batch = collate(&[&[5, 6, 7], &[8]], 9, Device::Cpu).unwrap();
        let ids: Vec<Vec<i64>> = Vec::try_from(batch.input_ids).unwrap();
        assert_eq!(ids, [[5, 6, 7], [8, 9, 9]]);
        let mask: Vec<Vec<i64>> = Vec::try_from(batch.attention_mask.unwrap()).unwrap();
        assert_eq!(mask, [[1, 1, 1], [1, 0, 0]]);
    }

    /// Two sequences: [5, 6, 7] with targets 6 and 7, and [8, 9] with target 9.
    fn fetched() -> Fetched {
        let mut fetched = Fetched::default();
        for (ids, mask) in [(&[5u32, 6, 7][..], 0b110u8), (&[8, 9], 0b10)] {
            let mut bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            bytes.push(mask);
            fetched.push(&bytes, ids.len(), Kind::Masked, -1);
        }
        fetched
    }

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.flatten(0, -1)).unwrap()
    }

    #[test]
    fn a_position_predicts_the_token_after_it() {
        let batch = collate_causal(&fetched(), 1, Device::Cpu).unwrap();
        assert_eq!(batch.input_ids.size(), [2, 3]);
        assert_eq!(numbers(&batch.input_ids), [5, 6, 7, 8, 9, 1]);
        assert_eq!(
            (numbers(&batch.select), numbers(&batch.targets)),
            (vec![0, 1, 3], vec![6, 7, 9])
        );
        assert_eq!((batch.target_tokens, batch.lengths), (vec![2, 1], None));
    }

    #[test]
    fn packed_sequences_do_not_predict_one_another() {
        let batch = collate_packed(&fetched(), Device::Cpu).unwrap();
        assert_eq!(batch.input_ids.size(), [1, 5]);
        assert_eq!(numbers(&batch.input_ids), [5, 6, 7, 8, 9]);
        assert_eq!(
            (numbers(&batch.select), numbers(&batch.targets)),
            (vec![0, 1, 3], vec![6, 7, 9])
        );
        assert_eq!((batch.target_tokens, batch.lengths), (vec![2, 1], Some(vec![3, 2])));
    }

    #[test]
    fn rows_of_one_length_need_no_mask() {
        assert!(collate(&[&[1, 2], &[3, 4]], 0, Device::Cpu).unwrap().attention_mask.is_none());
    }
}
