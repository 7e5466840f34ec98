//! What earlier passes of the same texts left: keys and values, or MLA's latents and rotary keys.

use std::fmt;

use nccl_rs::decoder::Places;
use nccl_rs::paged::Seen;
use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::parts::attention::{Scores, attend, attend_after};

/// What is remembered, and how.
#[derive(Debug)]
pub enum Memory {
    /// Of rows of one length, side by side.
    Rows(Rows),
    /// Of many texts, in a pool.
    Paged(Paged),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Rows(Rows::default())
    }
}

/// Two tensors a layer `[B, G, T, ..]`, joined to by each pass.
#[derive(Debug, Default)]
pub struct Rows {
    layers: Vec<Option<(Tensor, Tensor)>>,
    /// Tokens remembered.
    pub(super) length: i64,
}

impl Rows {
    fn remember(
        &mut self,
        layer: usize,
        first: Tensor,
        second: Tensor,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let known = layer_of(&mut self.layers, layer);
        let joined = match known {
            Some((old_first, old_second)) => {
                (Tensor::f_cat(&[old_first, &first], 2)?, Tensor::f_cat(&[old_second, &second], 2)?)
            }
            None => (first, second),
        };
        *known = Some((joined.0.shallow_clone(), joined.1.shallow_clone()));
        Ok(joined)
    }
}

/// A pool of slots, each with room for one token in every layer (Kwon et al. 2023, PagedAttention).
/// Who has which is decided elsewhere.
#[derive(Debug)]
pub struct Pool {
    /// Two tensors a layer `[slots, G, ..]`, made when the first token comes.
    layers: Vec<Option<(Tensor, Tensor)>>,
    slots: i64,
}

impl Pool {
    /// Of so many slots.
    pub fn new(slots: i64) -> Self {
        Self { layers: Vec::new(), slots }
    }

    /// Bytes that one token takes in all layers that there are.
    pub fn bytes_per_slot(&self) -> u64 {
        let bytes = |of: &Tensor| of.numel() as u64 * of.kind().elt_size_in_bytes() as u64;
        let all: u64 = self.layers.iter().flatten().map(|(a, b)| bytes(a) + bytes(b)).sum();
        all / u64::try_from(self.slots).unwrap_or(1).max(1)
    }

    /// The two tensors of a layer, for tokens like `first` and `second` `[N, G, ..]`.
    fn layer(
        &mut self,
        layer: usize,
        first: &Tensor,
        second: &Tensor,
    ) -> Result<&mut (Tensor, Tensor), ModelError> {
        let place = (first.kind(), first.device());
        self.layer_of(layer, (&first.size()[1..], &second.size()[1..]), place)
    }

    /// The two tensors of a layer, with so much room for each token. Memory is taken from the system
    /// page by page as slots are used.
    fn layer_of(
        &mut self,
        layer: usize,
        (first, second): (&[i64], &[i64]),
        place: (Kind, Device),
    ) -> Result<&mut (Tensor, Tensor), ModelError> {
        let slots = self.slots;
        let room = |each: &[i64]| {
            let size: Vec<i64> = std::iter::once(slots).chain(each.iter().copied()).collect();
            Tensor::f_empty(size, place)
        };
        let known = layer_of(&mut self.layers, layer);
        let made = match known.take() {
            Some(made) => made,
            None => (room(first)?, room(second)?),
        };
        Ok(known.insert(made))
    }
}

/// The new tokens of one text in a pass.
#[derive(Debug)]
struct Stretch {
    /// New tokens, the text's last ones.
    tokens: i64,
    /// Slots of all of the text's tokens so far, the new ones included, i64 `[T]`.
    slots: Tensor,
}

/// Stretches side by side.
#[derive(Debug)]
struct Run {
    stretches: Vec<Stretch>,
    /// New tokens of all of them.
    tokens: i64,
    /// What these see, where each stretch is short.
    seen: Option<Seen>,
}

/// The new tokens of many texts, one row `[1, N]`.
#[derive(Debug)]
pub struct Stretches {
    /// In the row's order.
    runs: Vec<Run>,
    /// Slots of the new tokens, i64 `[N]`.
    slots: Tensor,
}

/// Most new tokens of a text that go through the pool one by one. For more it is cheaper to gather
/// the text's keys and values.
const SHORT: usize = 8;

/// Where a pass remembers the new tokens of many texts.
#[derive(Debug)]
pub struct Paged {
    /// What is known of all texts.
    pub pool: Pool,
    /// Their new tokens.
    pub stretches: Stretches,
}

impl Stretches {
    /// Of stretches of `tokens` new tokens, with the slots of all tokens of their texts.
    pub fn new(texts: &[(usize, &[i64])], device: Device) -> Result<Self, ModelError> {
        let new = texts.iter().flat_map(|(tokens, slots)| &slots[slots.len() - tokens..]);
        let new: Vec<i64> = new.copied().collect();
        let is_short = |(tokens, _): &(usize, &[i64])| *tokens <= SHORT;
        let runs = texts.chunk_by(|one, next| is_short(one) && is_short(next));
        Ok(Self {
            runs: runs.map(|run| Run::new(run, device)).collect::<Result<_, _>>()?,
            slots: Tensor::f_from_slice(&new)?.f_to_device(device)?,
        })
    }
}

impl Run {
    fn new(texts: &[(usize, &[i64])], device: Device) -> Result<Self, ModelError> {
        let stretch = |(tokens, slots): &(usize, &[i64])| {
            let slots = Tensor::f_from_slice(slots)?.f_to_device(device)?;
            Ok::<_, ModelError>(Stretch { tokens: i64::try_from(*tokens).unwrap_or(0), slots })
        };
        let stretches = texts.iter().map(stretch).collect::<Result<Vec<_>, _>>()?;
        let short = device == Device::Cpu && texts.iter().all(|(tokens, _)| *tokens <= SHORT);
        Ok(Self {
            tokens: stretches.iter().map(|stretch| stretch.tokens).sum(),
            stretches,
            seen: short.then(|| Seen::new(texts)).transpose()?,
        })
    }
}

impl Paged {
    /// Remembers tokens `[1, G, N, ..]` of a layer; its two tensors `[slots, G, ..]`.
    fn remember(
        &mut self,
        layer: usize,
        first: &Tensor,
        second: &Tensor,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let rows = |of: &Tensor| of.f_squeeze_dim(0)?.f_transpose(0, 1);
        let (first, second) = (rows(first)?, rows(second)?);
        let (firsts, seconds) = self.pool.layer(layer, &first, &second)?;
        let _ = firsts.f_index_copy_(0, &self.stretches.slots, &first)?;
        let _ = seconds.f_index_copy_(0, &self.stretches.slots, &second)?;
        Ok((firsts.shallow_clone(), seconds.shallow_clone()))
    }
}

impl Memory {
    /// Where the new tokens of a pass are remembered in layer `layer`, `[G, d]` for keys and values
    /// each, and what they see, where all of them go through the pool one by one.
    pub(super) fn direct(
        &mut self,
        layer: usize,
        each: [i64; 2],
    ) -> Result<Option<(Places<'_>, i64)>, ModelError> {
        let Self::Paged(Paged { pool, stretches }) = self else { return Ok(None) };
        let [Run { seen: Some(seen), tokens, .. }] = stretches.runs.as_slice() else {
            return Ok(None);
        };
        let (keys, values) = pool.layer_of(layer, (&each, &each), (Kind::Float, Device::Cpu))?;
        Ok(Some((Places { keys, values, seen }, *tokens)))
    }
}

/// What attention reads of new tokens.
pub struct Attended<'a> {
    /// `[B, H, Q, d]`.
    pub query: &'a Tensor,
    /// What is remembered of each, two tensors `[B, G, Q, ..]`.
    pub new: (Tensor, Tensor),
    /// How scores become weights.
    pub scores: Scores,
    /// Makes keys `[B, G, T, d]` and values `[B, G, T, v]` of what is remembered, where it is something
    /// else.
    pub widen: Option<Widen<'a>>,
}

/// What is remembered → keys and values.
pub type Widen<'a> = &'a dyn Fn(Tensor, Tensor) -> Result<(Tensor, Tensor), ModelError>;

impl fmt::Debug for Attended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attended").field("query", &self.query.size()).finish_non_exhaustive()
    }
}

impl Memory {
    /// Remembers the new tokens of layer `layer`, and lets them look at all that is remembered of
    /// their texts: `[B, Q, H·v]`. `mask` says who sees whom among rows.
    pub(super) fn attend(
        &mut self,
        layer: usize,
        attended: Attended<'_>,
        mask: &super::network::Mask,
    ) -> Result<Tensor, ModelError> {
        let Attended { query, new: (first, second), scores, widen } = attended;
        let widened = |first, second| match widen {
            Some(widen) => widen(first, second),
            None => Ok((first, second)),
        };
        let paged = match self {
            Self::Rows(rows) => {
                let (first, second) = rows.remember(layer, first, second)?;
                let (key, value) = widened(first, second)?;
                return attend(query, &key, &value, mask, scores);
            }
            Self::Paged(paged) => paged,
        };
        let (firsts, seconds) = paged.remember(layer, &first, &second)?;
        let is_direct = widen.is_none() && query.kind() == Kind::Float;
        let mut start = 0;
        let mut mixed = Vec::with_capacity(paged.stretches.runs.len());
        for run in &paged.stretches.runs {
            if let Some(seen) = run.seen.as_ref().filter(|_| is_direct) {
                let query = query.f_narrow(2, start, run.tokens)?;
                let scale = scores.scale_of(&query);
                mixed.push(seen.attend(&query, (&firsts, &seconds), scale)?);
                start += run.tokens;
                continue;
            }
            for stretch in &run.stretches {
                let known = |all: &Tensor| {
                    all.f_index_select(0, &stretch.slots)?.f_transpose(0, 1)?.f_unsqueeze(0)
                };
                let (key, value) = widened(known(&firsts)?, known(&seconds)?)?;
                let query = query.f_narrow(2, start, stretch.tokens)?;
                mixed.push(attend_after(&query, &key, &value, scores)?);
                start += stretch.tokens;
            }
        }
        if let [one] = &mixed[..] {
            return Ok(one.shallow_clone());
        }
        Ok(Tensor::f_cat(&mixed, 1)?)
    }
}

/// Who sees whom where `queries` tokens are the last of `keys`: bool `[1, 1, Q, T]`.
pub(super) fn seen_after(queries: i64, keys: i64, device: Device) -> Result<Tensor, ModelError> {
    let seen = Tensor::f_ones([queries, keys], (Kind::Bool, device))?;
    Ok(seen.f_tril(keys - queries)?.f_view([1, 1, queries, keys])?)
}

fn layer_of(
    layers: &mut Vec<Option<(Tensor, Tensor)>>,
    layer: usize,
) -> &mut Option<(Tensor, Tensor)> {
    if layers.len() <= layer {
        layers.resize_with(layer + 1, || None);
    }
    &mut layers[layer]
}
