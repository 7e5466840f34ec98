//! How a compressed model's numbers are stored. Pure.

use hearth_crds::model_deployment::Quantization;
use tch::Kind;

use crate::export::gguf::Mix;

/// How the weight of a linear layer is stored, and with which numbers what comes in is multiplied.
/// All are symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// i8, a scale for each row; activations of 8 bits, a scale for each token, found as they come.
    Int8,
    /// Integers of 8 or 4 bits, packed into i32, a scale for each row or for each `group` columns;
    /// activations as they are.
    Packed {
        /// Of a value.
        bits: u32,
        /// Columns that share a scale; the whole row without.
        group: Option<i64>,
    },
    /// Floats e4m3 (Micikevicius et al. 2022), a scale for each row; activations of the same kind,
    /// a scale for each token.
    Float8,
}

/// Largest finite float of e4m3.
pub const FLOAT8_MAX: f64 = 448.0;
/// Sizes of groups, the largest first.
pub const GROUPS: [i64; 3] = [128, 64, 32];

impl Scheme {
    /// Bits of a weight's whole numbers, and columns that share a scale; `None` of floats.
    pub fn whole(self) -> Option<(u32, Option<i64>)> {
        match self {
            Self::Int8 => Some((8, None)),
            Self::Packed { bits, group } => Some((bits, group)),
            Self::Float8 => None,
        }
    }

    /// The one of a layer with so many columns: in groups of at most `group`. `None` where the layer
    /// stays as it is, since its columns are no multiple of any group.
    pub fn of(quantization: Quantization, group: i64, columns: i64) -> Option<Self> {
        match quantization {
            Quantization::INT8 => Some(Self::Int8),
            Quantization::INT8WeightOnly => Some(Self::Packed { bits: 8, group: None }),
            Quantization::INT4 => {
                let fits = |size: &i64| *size <= group && columns % size == 0;
                let group = GROUPS.into_iter().find(fits)?;
                Some(Self::Packed { bits: 4, group: Some(group) })
            }
            Quantization::FP8 => Some(Self::Float8),
            Quantization::FP32
            | Quantization::FP16
            | Quantization::BF16
            | Quantization::Q8_0
            | Quantization::Q4_0
            | Quantization::Q4KM => None,
        }
    }
}

/// The kind that all floats of the model get; `None` where they keep their own.
pub fn floats(quantization: Quantization) -> Option<Kind> {
    match quantization {
        Quantization::FP32 => Some(Kind::Float),
        Quantization::FP16 => Some(Kind::Half),
        Quantization::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

/// The mix of a GGUF file; `None` of what is a Hugging Face directory.
pub fn mix(quantization: Quantization) -> Option<Mix> {
    match quantization {
        Quantization::Q8_0 => Some(Mix::Q8_0),
        Quantization::Q4_0 => Some(Mix::Q4_0),
        Quantization::Q4KM => Some(Mix::Q4KM),
        _ => None,
    }
}

/// For people.
pub fn told(quantization: Quantization) -> &'static str {
    match quantization {
        Quantization::INT8 => "int8",
        Quantization::INT8WeightOnly => "int8 weights",
        Quantization::INT4 => "int4 weights",
        Quantization::FP8 => "fp8",
        Quantization::FP32 => "float32",
        Quantization::FP16 => "float16",
        Quantization::BF16 => "bfloat16",
        Quantization::Q8_0 => "Q8_0",
        Quantization::Q4_0 => "Q4_0",
        Quantization::Q4KM => "Q4_K_M",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_the_largest_that_fit_the_columns() {
        for (asked, columns, group) in [
            (128, 384, Some(128)),
            (128, 576, Some(64)),
            (128, 96, Some(32)),
            (32, 384, Some(32)),
            (128, 40, None),
        ] {
            let packed = group.map(|group| Scheme::Packed { bits: 4, group: Some(group) });
            assert_eq!(Scheme::of(Quantization::INT4, asked, columns), packed, "{columns}");
        }
    }
}
