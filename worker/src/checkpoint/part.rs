//! Boxes out of tensors: how a tensor is divided among ranks, and how one
//! division is cut into another. Pure but for [`Part`].

use std::ops::Range;

use tch::Tensor;

/// Ranks that hold an equal copy of a part; one of them writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holders {
    /// All.
    Every,
    /// These, the same list on each.
    These(Vec<usize>),
}

/// A rank's part of a tensor of the training state: the whole, or a box out of it.
#[derive(Debug)]
pub struct Part {
    /// Name of the whole tensor.
    pub name: String,
    /// Shape of the whole tensor.
    pub shape: Vec<i64>,
    /// Where the part lies in it.
    pub region: Region,
    /// The part.
    pub tensor: Tensor,
    /// Who else has it.
    pub holders: Holders,
}

/// A box within a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// First index in each dimension.
    pub offsets: Vec<i64>,
    /// Length in each dimension.
    pub shape: Vec<i64>,
}

impl Part {
    /// A tensor that every rank holds whole.
    pub fn whole(name: String, tensor: Tensor) -> Self {
        let shape = tensor.size();
        let region = Region { offsets: vec![0; shape.len()], shape: shape.clone() };
        Self { name, shape, region, tensor, holders: Holders::Every }
    }

    /// The box at `offsets` of a tensor of `shape`.
    pub fn slice(
        name: String,
        shape: Vec<i64>,
        offsets: Vec<i64>,
        tensor: Tensor,
        holders: Holders,
    ) -> Self {
        let region = Region { offsets, shape: tensor.size() };
        Self { name, shape, region, tensor, holders }
    }

    /// Whether it is the whole tensor.
    pub fn is_whole(&self) -> bool {
        self.region.shape == self.shape
    }

    /// Its name within a shard: the tensor's, with the place of a box.
    pub fn key(&self) -> String {
        if self.is_whole() {
            return self.name.clone();
        }
        let offsets: Vec<String> = self.region.offsets.iter().map(i64::to_string).collect();
        format!("{}@{}", self.name, offsets.join(","))
    }
}

impl Region {
    /// Elements.
    pub fn volume(&self) -> i64 {
        self.shape.iter().product()
    }

    /// Whether it lies within a tensor of `shape`.
    pub fn fits(&self, shape: &[i64]) -> bool {
        self.offsets.len() == shape.len()
            && self.shape.len() == shape.len()
            && (self.offsets.iter().zip(&self.shape).zip(shape)).all(|((offset, length), whole)| {
                *offset >= 0
                    && *length >= 0
                    && offset.checked_add(*length).is_some_and(|end| end <= *whole)
            })
    }

    /// What two boxes of one tensor have in common; `None` where that is nothing.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let mut common = Self { offsets: Vec::new(), shape: Vec::new() };
        for dimension in 0..self.shape.len() {
            let start = self.offsets[dimension].max(other.offsets[dimension]);
            let end = (self.offsets[dimension] + self.shape[dimension])
                .min(other.offsets[dimension] + other.shape[dimension]);
            if start >= end {
                return None;
            }
            common.offsets.push(start);
            common.shape.push(end - start);
        }
        Some(common)
    }

    /// The same box, seen from the first corner of `outer`, which contains it.
    #[must_use]
    pub fn within(&self, outer: &Self) -> Self {
        let offsets = self.offsets.iter().zip(&outer.offsets).map(|(own, outer)| own - outer);
        Self { offsets: offsets.collect(), shape: self.shape.clone() }
    }

    /// Cuts the box into boxes of at most `most` elements, in row-major order.
    pub fn blocks(&self, most: i64) -> Vec<Self> {
        let Some(dimension) = self.shape.iter().position(|length| *length > 1) else {
            return vec![self.clone()];
        };
        if self.volume() <= most {
            return vec![self.clone()];
        }
        let row = self.volume() / self.shape[dimension];
        let rows = (most / row).max(1);
        let mut blocks = Vec::new();
        let mut done = 0;
        while done < self.shape[dimension] {
            let mut block = self.clone();
            block.offsets[dimension] += done;
            block.shape[dimension] = rows.min(self.shape[dimension] - done);
            done += block.shape[dimension];
            blocks.extend(block.blocks(most));
        }
        blocks
    }

    /// The box's elements as ranges of a row-major tensor of `shape`, which
    /// contains it: in order, each as long as it can be.
    pub fn runs(&self, shape: &[i64]) -> Vec<Range<i64>> {
        if self.volume() == 0 {
            return Vec::new();
        }
        // Dimensions from `split` on are contiguous: all behind it are whole.
        let mut split = shape.len();
        let mut length = 1;
        while split > 0 {
            split -= 1;
            length *= self.shape[split];
            if self.shape[split] != shape[split] {
                break;
            }
        }
        let strides: Vec<i64> =
            (0..shape.len()).map(|dimension| shape[dimension + 1..].iter().product()).collect();
        let first: i64 =
            self.offsets.iter().zip(&strides).map(|(offset, stride)| offset * stride).sum();
        let mut starts = vec![first];
        for (length, stride) in self.shape[..split].iter().zip(&strides) {
            starts = (starts.iter())
                .flat_map(|start| (0..*length).map(move |at| start + at * stride))
                .collect();
        }
        starts.into_iter().map(|start| start..start + length).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(offsets: &[i64], shape: &[i64]) -> Region {
        Region { offsets: offsets.to_vec(), shape: shape.to_vec() }
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        for (name, cut, shape, want) in [
            ("a scalar", region(&[], &[]), &[][..], &[(0, 1)][..]),
            ("the whole", region(&[0, 0], &[3, 4]), &[3, 4], &[(0, 12)][..]),
            ("rows", region(&[1, 0], &[2, 4]), &[3, 4], &[(4, 12)][..]),
            ("columns", region(&[0, 1], &[3, 2]), &[3, 4], &[(1, 3), (5, 7), (9, 11)][..]),
            (
                "a plane of a cube",
                region(&[0, 1, 0], &[2, 1, 3]),
                &[2, 2, 3],
                &[(3, 6), (9, 12)][..],
            ),
            ("nothing", region(&[0, 0], &[0, 4]), &[3, 4], &[][..]),
        ] {
            let runs = cut.runs(shape);
            let pairs: Vec<_> = runs.iter().map(|run| (run.start, run.end)).collect();
            assert_eq!(pairs, want, "{name}");
        }
    }

    #[test]
    fn blocks_cover_a_box_once_and_are_small() {
        let whole = region(&[1, 2, 0], &[3, 4, 5]);
        for most in 1..=60 {
            let blocks = whole.blocks(most);
            assert!(blocks.iter().all(|block| block.volume() <= most), "{most}");
            assert_eq!(blocks.iter().map(Region::volume).sum::<i64>(), 60, "{most}");
            let runs: Vec<_> = blocks.iter().flat_map(|block| block.runs(&[4, 6, 5])).collect();
            let merged: Vec<i64> = runs.into_iter().flatten().collect();
            let want: Vec<i64> = whole.runs(&[4, 6, 5]).into_iter().flatten().collect();
            assert_eq!(merged, want, "{most}");
        }
    }

    #[test]
    fn boxes_that_only_touch_have_nothing_in_common() {
        let left = region(&[0, 0], &[2, 2]);
        assert_eq!(left.intersect(&region(&[0, 2], &[2, 2])), None);
        assert_eq!(left.intersect(&region(&[1, 1], &[2, 2])), Some(region(&[1, 1], &[1, 1])));
    }
}
