//! A layer of a decoder (Llama and its like) over few new tokens of many texts, in one call: norms,
//! attention over keys and values in a pool, and the feed-forward part gated by SiLU. What comes out
//! is what its parts ([`crate::fused`], [`crate::narrow`], [`crate::paged`]) give one by one.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, created};
use crate::narrow::Narrow;
use crate::paged::Seen;
use crate::sys;
use crate::tensor::{ensure_cpu, ensure_dense};

const OPERATION: &str = "decoder layer";

/// What a layer is made of; `D` wide, with `H` query heads and `G` key-value heads of `d` elements.
#[derive(Debug)]
pub struct DecoderLayer<'a> {
    /// Scale `[D]` of the norm before attention, and its eps.
    pub input_norm: (&'a Tensor, f64),
    /// The same of the norm before the feed-forward part.
    pub post_norm: (&'a Tensor, f64),
    /// Scale `[d]` of a norm of each query head, and its eps.
    pub query_norm: Option<(&'a Tensor, f64)>,
    /// The same of key heads.
    pub key_norm: Option<(&'a Tensor, f64)>,
    /// `[H d, D]`.
    pub query: &'a Narrow,
    /// `[G d, D]`.
    pub key: &'a Narrow,
    /// `[G d, D]`.
    pub value: &'a Narrow,
    /// `[D, H d]`.
    pub output: &'a Narrow,
    /// `[I, D]`.
    pub gate: &'a Narrow,
    /// `[I, D]`.
    pub up: &'a Narrow,
    /// `[D, I]`.
    pub down: &'a Narrow,
    /// `d`.
    pub head_size: i64,
}

/// Where new tokens are remembered, and what they see.
#[derive(Debug)]
pub struct Places<'a> {
    /// Keys f32 `[slots, G, d]`; those of the new tokens are written.
    pub keys: &'a Tensor,
    /// Values of the same shape.
    pub values: &'a Tensor,
    /// The slots of the new tokens, and which they see.
    pub seen: &'a Seen,
}

impl DecoderLayer<'_> {
    /// Dense `hidden` `[.., D]` f32 of `N` new tokens, whose heads turn by `cos` and `sin`
    /// `[N, d / 2]`, to what the layer makes of it, in the same shape. No gradients.
    pub fn forward(
        &self,
        hidden: &Tensor,
        (cos, sin): (&Tensor, &Tensor),
        places: &Places<'_>,
    ) -> Result<Tensor> {
        ensure_dense(OPERATION, hidden, Device::Cpu)?;
        let shape = hidden.size();
        let width = shape.last().copied().unwrap_or_default();
        self.check(width)?;
        let rows = hidden.view([-1, width]);
        ensure_cpu(OPERATION, &rows, Kind::Float, &[-1, width])?;
        self.check_places(rows.size()[0], places)?;
        for table in [cos, sin] {
            ensure_cpu(OPERATION, table, Kind::Float, &[rows.size()[0], self.head_size / 2])?;
        }
        let of_heads = |norm: Option<(&Tensor, f64)>| {
            norm.map_or((std::ptr::null(), 0.0), |(weight, eps)| (weight.as_ptr(), eps))
        };
        let (query_norm, query_eps) = of_heads(self.query_norm);
        let (key_norm, key_eps) = of_heads(self.key_norm);
        let layer = sys::DecoderLayer {
            input_norm: self.input_norm.0.as_ptr(),
            post_norm: self.post_norm.0.as_ptr(),
            query_norm,
            key_norm,
            input_eps: self.input_norm.1,
            post_eps: self.post_norm.1,
            query_eps,
            key_eps,
            query: self.query.layer(),
            key: self.key.layer(),
            value: self.value.layer(),
            output: self.output.layer(),
            gate: self.gate.layer(),
            up: self.up.layer(),
            down: self.down.layer(),
            head_size: self.head_size,
        };
        let raw = created(OPERATION, |out, message| {
            // SAFETY: kinds and sizes were checked, every slot is one of the pool, and what `layer`
            // points to lives as long as `self`.
            unsafe {
                sys::hearth_decoder_layer_forward(
                    &raw const layer,
                    rows.as_ptr(),
                    cos.as_ptr(),
                    sin.as_ptr(),
                    places.keys.as_ptr(),
                    places.values.as_ptr(),
                    places.seen.new.as_ptr(),
                    places.seen.slots.as_ptr(),
                    places.seen.ranges.as_ptr(),
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) }.view(&shape[..]))
    }

    /// Whether the parts fit each other.
    fn check(&self, width: i64) -> Result<()> {
        for (norm, _) in [self.input_norm, self.post_norm] {
            ensure_cpu(OPERATION, norm, Kind::Float, &[width])?;
        }
        for (norm, _) in [self.query_norm, self.key_norm].into_iter().flatten() {
            ensure_cpu(OPERATION, norm, Kind::Float, &[self.head_size])?;
        }
        let ([queries, _], [keys, _]) = (self.query.size(), self.key.size());
        let [inner, _] = self.gate.size();
        let fits = self.head_size > 0
            && self.head_size % 2 == 0
            && keys > 0
            && keys % self.head_size == 0
            && queries % keys == 0
            && self.query.size() == [queries, width]
            && self.key.size() == [keys, width]
            && self.value.size() == [keys, width]
            && self.output.size() == [width, queries]
            && self.gate.size() == [inner, width]
            && self.up.size() == [inner, width]
            && self.down.size() == [width, inner];
        if fits {
            Ok(())
        } else {
            refused(format!("its parts do not fit {width} columns: {self:?}"))
        }
    }

    fn check_places(&self, tokens: i64, places: &Places<'_>) -> Result<()> {
        let groups = self.key.size()[0] / self.head_size;
        for pool in [places.keys, places.values] {
            ensure_cpu(OPERATION, pool, Kind::Float, &[-1, groups, self.head_size])?;
        }
        let (slots, seen) = (places.keys.size()[0], places.seen);
        if seen.new.size() == [tokens] && places.values.size()[0] == slots && seen.bound <= slots {
            return Ok(());
        }
        refused(format!(
            "{tokens} new tokens do not fit {:?} that see slots up to {} of {slots}",
            seen.new.size(),
            seen.bound
        ))
    }
}

fn refused<T>(detail: String) -> Result<T> {
    Err(Error::InvalidTensor { operation: OPERATION, detail })
}
