//! Token ids of a row, and which of them are to be predicted; or its pixels.

use super::facts;
use super::pictures::PixelFormat;

/// A set of positions in a sequence, a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    bytes: Vec<u8>,
}

impl Mask {
    /// No position of `length`.
    pub fn none(length: usize) -> Self {
        Self { bytes: vec![0; length.div_ceil(8)] }
    }

    /// Every position of `length` but the first, before which there is nothing to predict it from.
    pub fn all(length: usize) -> Self {
        let mut mask = Self::none(length);
        for position in 1..length {
            mask.insert(position);
        }
        mask
    }

    /// Adds a position.
    pub fn insert(&mut self, position: usize) {
        self.bytes[position / 8] |= 1 << (position % 8);
    }

    /// Positions in the set.
    pub fn count(&self) -> u32 {
        self.bytes.iter().map(|byte| byte.count_ones()).sum()
    }

    /// Least significant bit first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A tokenized sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Tokens to predict; `None` where the whole row has one answer (a class), or where every
    /// token but the first is one.
    pub targets: Option<Mask>,
}

/// Which tokens of a sequence are to be predicted from those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets<'a> {
    /// None: the sequence has a class instead.
    None,
    /// Every token but the first.
    All,
    /// Those whose bit is set, least significant first. Never the first.
    Bits(&'a [u8]),
}

/// A sequence as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Tokens to predict.
    pub targets: Targets<'a>,
    /// Class id; -1 where there are no classes.
    pub class: i64,
    /// Log-probability of its targets by a reference model; NaN where it is not known.
    pub reference: f32,
}

impl Sequence<'_> {
    /// Whether the token at `position` is to be predicted.
    pub fn is_target(&self, position: usize) -> bool {
        match self.targets {
            Targets::None => false,
            Targets::All => position > 0 && position < self.ids.len(),
            Targets::Bits(bits) => {
                bits.get(position / 8).is_some_and(|byte| byte >> (position % 8) & 1 == 1)
            }
        }
    }

    /// Positions of the tokens to predict, ascending.
    pub fn target_positions(&self) -> impl Iterator<Item = usize> {
        (1..self.ids.len()).filter(|position| self.is_target(*position))
    }

    /// Tokens to predict.
    pub fn target_tokens(&self) -> usize {
        match self.targets {
            Targets::None => 0,
            Targets::All => self.ids.len().saturating_sub(1),
            Targets::Bits(bits) => bits.iter().map(|byte| byte.count_ones() as usize).sum(),
        }
    }
}

/// Sequences read for a forward pass. Reused from pass to pass, it allocates no more once it has
/// held the largest.
#[derive(Debug, Default)]
pub struct Fetched {
    pub(super) bytes: Vec<u8>,
    ids: Vec<u32>,
    bits: Vec<u8>,
    pixels: Vec<u8>,
    pub(super) format: Option<PixelFormat>,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    ids_end: usize,
    bits_end: usize,
    targets: Kind,
    class: i64,
    reference: f32,
}

/// What the sequences of a file are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A class each.
    Classes,
    /// All tokens are predicted. Sequences of one document follow one another.
    Documents,
    /// Some tokens are predicted.
    Masked,
    /// Pictures with a class each.
    Pixels,
}

impl Kind {
    /// Numbers that tell what an input is like ([`super::facts`]).
    pub(super) fn facts(self) -> usize {
        match self {
            Self::Classes => facts::OF_TEXT.len(),
            Self::Pixels => facts::OF_PICTURE.len(),
            Self::Documents | Self::Masked => 0,
        }
    }
}

impl Fetched {
    /// Forgets what was read.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.bits.clear();
        self.pixels.clear();
        self.places.clear();
    }

    /// Sequences.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A sequence.
    pub fn sequence(&self, index: usize) -> Sequence<'_> {
        let place = self.places[index];
        let (ids, bits) = match index.checked_sub(1) {
            Some(before) => (self.places[before].ids_end, self.places[before].bits_end),
            None => (0, 0),
        };
        let targets = match place.targets {
            Kind::Classes | Kind::Pixels => Targets::None,
            Kind::Documents => Targets::All,
            Kind::Masked => Targets::Bits(&self.bits[bits..place.bits_end]),
        };
        let Place { class, reference, .. } = place;
        Sequence { ids: &self.ids[ids..place.ids_end], targets, class, reference }
    }

    /// All sequences, in order.
    pub fn sequences(&self) -> impl ExactSizeIterator<Item = Sequence<'_>> {
        (0..self.len()).map(|index| self.sequence(index))
    }

    /// Token ids of all sequences, in order.
    pub fn ids(&self) -> Vec<&[u32]> {
        self.sequences().map(|sequence| sequence.ids).collect()
    }

    /// Pixels of all pictures in order, 8-bit RGB, and how they become a model's input; `None`
    /// where there are sequences.
    pub fn pixels(&self) -> Option<(&[u8], PixelFormat)> {
        Some((&self.pixels, self.format?))
    }

    /// Takes a sequence of `length` tokens from its bytes: ids as `u32` little-endian, then the
    /// bits of a mask where `kind` has one; or a picture's pixels.
    pub(super) fn push(&mut self, bytes: &[u8], length: usize, kind: Kind, class: i64) {
        if kind == Kind::Pixels {
            self.pixels.extend(bytes);
        } else {
            let (ids, bits) = bytes.split_at(4 * length);
            self.ids.extend(ids.as_chunks::<4>().0.iter().map(|id| u32::from_le_bytes(*id)));
            self.bits.extend(bits);
        }
        self.places.push(Place {
            ids_end: self.ids.len(),
            bits_end: self.bits.len(),
            targets: kind,
            class,
            reference: f32::NAN,
        });
    }

    /// Says what a reference model thinks of the newest sequence.
    pub(super) fn refer(&mut self, reference: f32) {
        if let Some(place) = self.places.last_mut() {
            place.reference = reference;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_can_be_a_target() {
        let mask = Mask::all(10);
        assert_eq!((mask.count(), mask.bytes()), (9, &[0b1111_1110, 0b11][..]));
        let ids = [7; 10];
        let bits =
            Sequence { ids: &ids, targets: Targets::Bits(mask.bytes()), class: -1, reference: 0.0 };
        let all = Sequence { targets: Targets::All, ..bits };
        for sequence in [bits, all] {
            assert_eq!(
                sequence.target_positions().collect::<Vec<_>>(),
                (1..10).collect::<Vec<_>>()
            );
            assert_eq!(sequence.target_tokens(), 9);
            assert!(!sequence.is_target(10));
        }
        assert_eq!(Mask::all(0).count(), 0);
        assert_eq!(Sequence { ids: &[], ..all }.target_tokens(), 0);
    }
}
