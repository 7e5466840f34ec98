//! Which tensor gets which type: the mixes of llama.cpp's `llama-quantize`. Pure.

use crate::import::blocks::BlockType;

/// A mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// 8 bits, a scale for each 32 columns.
    Q8_0,
    /// 4 bits, a scale for each 32 columns; the head 6 or 8 bits.
    Q4_0,
    /// 4 bits, a scale and a minimum for each 32 columns; what loses most has 6 bits.
    Q4KM,
}

impl Mix {
    /// `general.file_type`.
    pub fn file_type(self) -> u32 {
        match self {
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
        }
    }

    /// The type of a matrix of `columns`, by llama.cpp's name of it, in a model of `layers`.
    /// `tied`: the embeddings are the head, too.
    pub fn of(self, name: &str, columns: i64, layers: usize, tied: bool) -> BlockType {
        let is_head = name == "output.weight" || (tied && name == "token_embd.weight");
        let (layer, part) = layer_and_part(name);
        let wanted = match self {
            Self::Q8_0 => BlockType::Q8_0,
            Self::Q4_0 | Self::Q4KM if is_head => BlockType::Q6K,
            Self::Q4_0 => BlockType::Q4_0,
            Self::Q4KM if loses_most(part) && gets_more_bits(layer, layers) => BlockType::Q6K,
            Self::Q4KM => BlockType::Q4K,
        };
        let fits = |kind: &BlockType| columns.unsigned_abs().is_multiple_of(kind.block().0);
        let instead = match wanted {
            BlockType::Q4K => BlockType::Q5_0,
            BlockType::Q6K => BlockType::Q8_0,
            _ => BlockType::F16,
        };
        [wanted, instead].into_iter().find(fits).unwrap_or(BlockType::F16)
    }
}

fn layer_and_part(name: &str) -> (usize, &str) {
    let split = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    split.map_or((0, name), |(layer, part)| (layer.parse().unwrap_or(0), part))
}

fn loses_most(part: &str) -> bool {
    matches!(part, "attn_v.weight" | "ffn_down.weight")
}

/// `use_more_bits`: the first and the last eighth of the layers, and each third of the others.
fn gets_more_bits(layer: usize, layers: usize) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_llama_quantize() {
        use BlockType::{F16, Q4_0, Q4K, Q5_0, Q6K, Q8_0};
        for (mix, name, columns, tied, want) in [
            (Mix::Q8_0, "token_embd.weight", 576, true, Q8_0),
            (Mix::Q8_0, "blk.0.attn_q.weight", 48, true, F16),
            (Mix::Q4_0, "blk.0.attn_q.weight", 576, true, Q4_0),
            (Mix::Q4_0, "token_embd.weight", 1024, true, Q6K),
            (Mix::Q4_0, "token_embd.weight", 576, true, Q8_0),
            (Mix::Q4_0, "token_embd.weight", 576, false, Q4_0),
            (Mix::Q4KM, "output.weight", 1024, false, Q6K),
            (Mix::Q4KM, "blk.4.attn_q.weight", 1024, true, Q4K),
            (Mix::Q4KM, "blk.4.attn_q.weight", 576, true, Q5_0),
            (Mix::Q4KM, "blk.0.ffn_down.weight", 1536, true, Q6K),
            (Mix::Q4KM, "blk.3.ffn_down.weight", 1536, true, Q4K),
            (Mix::Q4KM, "blk.29.attn_v.weight", 576, true, Q8_0),
            (Mix::Q4KM, "blk.5.attn_v.weight", 1024, true, Q6K),
            (Mix::Q4KM, "blk.5.attn_v.weight", 40, true, F16),
        ] {
            assert_eq!(mix.of(name, columns, 30, tied), want, "{mix:?} {name} {columns} {tied}");
        }
    }
}
