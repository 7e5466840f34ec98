//! Attention of few new tokens of many texts over keys and values in a pool, on the CPU (Kwon et al.
//! 2023, PagedAttention).

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, created};
use crate::sys;
use crate::tensor::{ensure_cpu, ensure_strided};

/// Which slots of a pool each of the new tokens sees.
#[derive(Debug)]
pub struct Seen {
    /// Slots of all tokens of the texts, one text after the other, i64 `[T]`.
    pub(crate) slots: Tensor,
    /// For each new token where its text begins in `slots`, and how much of it it sees, i64 `[N, 2]`.
    pub(crate) ranges: Tensor,
    /// Those of the new tokens, i64 `[N]`.
    pub(crate) new: Tensor,
    /// The greatest slot, and one more.
    pub(crate) bound: i64,
}

impl Seen {
    /// Of texts with so many new tokens, their last ones, and the slots of all of their tokens. A new
    /// token sees itself and what comes before it.
    pub fn new(texts: &[(usize, &[i64])]) -> Result<Self> {
        const OPERATION: &str = "paged attention";
        let (mut slots, mut ranges, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for (tokens, own) in texts {
            if *tokens > own.len() || own.iter().any(|slot| *slot < 0) {
                let detail = format!("{tokens} new tokens of a text with the slots {own:?}");
                return Err(Error::InvalidTensor { operation: OPERATION, detail });
            }
            let counts = own.len() - tokens + 1..=own.len();
            ranges.extend(counts.flat_map(|count| [slots.len(), count].map(signed)));
            new.extend_from_slice(&own[own.len() - tokens..]);
            slots.extend_from_slice(own);
        }
        let bound = slots.iter().max().map_or(0, |slot| slot + 1);
        let ranges = Tensor::from_slice(&ranges).view([-1, 2]);
        let new = Tensor::from_slice(&new);
        Ok(Self { slots: Tensor::from_slice(&slots), ranges, new, bound })
    }

    /// Softmax attention of `query` `[1, H, N, d]` over `keys` `[slots, G, d]` and `values`
    /// `[slots, G, v]`, f32, with scores times `scale`: `[1, N, H v]`. No gradients. What a token gets
    /// does not depend on the others.
    pub fn attend(
        &self,
        query: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        scale: f64,
    ) -> Result<Tensor> {
        const OPERATION: &str = "paged attention";
        ensure_strided(OPERATION, query, Device::Cpu)?;
        let refuse = |detail: String| Err(Error::InvalidTensor { operation: OPERATION, detail });
        let tokens = self.ranges.size()[0];
        let shape = query.size();
        let &[1, heads, new, width] = shape.as_slice() else {
            return refuse(format!("a query of {shape:?} is not [1, H, N, d]"));
        };
        if new != tokens || query.kind() != Kind::Float || query.stride()[3] != 1 {
            let kind = query.kind();
            return refuse(format!("a query {shape:?} of {kind:?} is not f32 of {tokens} tokens"));
        }
        ensure_cpu(OPERATION, keys, Kind::Float, &[-1, -1, width])?;
        let (slots, groups) = (keys.size()[0], keys.size()[1]);
        ensure_cpu(OPERATION, values, Kind::Float, &[slots, groups, -1])?;
        if self.bound > slots || groups == 0 || heads % groups != 0 {
            return refuse(format!(
                "{heads} heads and slots up to {} do not fit keys of {:?}",
                self.bound,
                keys.size()
            ));
        }
        let raw = created(OPERATION, |out, message| {
            // SAFETY: kinds, sizes and strides were checked, and so was that every slot is one of the
            // pool; ranges are within `slots` and not empty by `new`.
            unsafe {
                sys::hearth_paged_attention(
                    query.as_ptr(),
                    keys.as_ptr(),
                    values.as_ptr(),
                    self.slots.as_ptr(),
                    self.ranges.as_ptr(),
                    scale,
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
