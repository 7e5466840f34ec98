//! Makes tensors of token rows.

use tch::{Device, TchError, Tensor};

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

/// Sizes of tensors in memory fit `i64`.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_padded_on_the_right_and_masked() {
        let batch = collate(&[&[5, 6, 7], &[8]], 9, Device::Cpu).unwrap();
        let ids: Vec<Vec<i64>> = Vec::try_from(batch.input_ids).unwrap();
        assert_eq!(ids, [[5, 6, 7], [8, 9, 9]]);
        let mask: Vec<Vec<i64>> = Vec::try_from(batch.attention_mask.unwrap()).unwrap();
        assert_eq!(mask, [[1, 1, 1], [1, 0, 0]]);
    }

    #[test]
    fn rows_of_one_length_need_no_mask() {
        assert!(collate(&[&[1, 2], &[3, 4]], 0, Device::Cpu).unwrap().attention_mask.is_none());
    }
}
