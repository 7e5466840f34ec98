//! Ranks in a grid with named axes, and the groups along these.

use crate::error::{Error, Result};
use crate::group::{GroupOptions, ProcessGroup};
use crate::interface::Interface;
use crate::store::TcpStore;

/// All ranks in a grid, the last axis fastest: with axes `data` of 2 and `tensor` of
/// 3, rank 4 is at data 1, tensor 1. Axes whose ranks talk most belong last, where
/// neighbours are on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    axes: Vec<(String, usize)>,
}

/// What carries a mesh's groups.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TCP between CPUs.
    Gloo(Interface),
    /// NVIDIA's, from the CUDA device of this number.
    Nccl(usize),
}

impl Mesh {
    /// A grid of these axes: at least one rank along each, every name once and in
    /// letters, digits, `-` and `_`.
    pub fn new(axes: &[(&str, usize)]) -> Result<Self> {
        let mut size = 1_usize;
        for (index, (name, length)) in axes.iter().enumerate() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(Error::InvalidArgument(format!("an axis cannot be named {name:?}")));
            }
            if axes[..index].iter().any(|(other, _)| other == name) {
                return Err(Error::InvalidArgument(format!("the mesh has axis {name} twice")));
            }
            size = size.checked_mul(*length).filter(|size| *size > 0).ok_or_else(|| {
                Error::InvalidArgument(format!("axis {name} cannot have {length} ranks"))
            })?;
        }
        Ok(Self { axes: axes.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect() })
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.axes.iter().map(|(_, size)| size).product()
    }

    /// The names and sizes of the axes.
    pub fn axes(&self) -> &[(String, usize)] {
        &self.axes
    }

    /// Where `rank` is along each axis.
    pub fn coordinates(&self, rank: usize) -> Result<Vec<usize>> {
        if rank >= self.size() {
            return Err(Error::InvalidArgument(format!(
                "there is no rank {rank} in a mesh of {}",
                self.size()
            )));
        }
        let mut left = rank;
        let mut coordinates: Vec<usize> = self
            .axes
            .iter()
            .rev()
            .map(|(_, size)| {
                let here = left % size;
                left /= size;
                here
            })
            .collect();
        coordinates.reverse();
        Ok(coordinates)
    }

    /// The ranks, in order, that differ from `rank` along the axes `over` only: its
    /// group along one axis, or over several.
    pub fn ranks(&self, rank: usize, over: &[&str]) -> Result<Vec<usize>> {
        let own = self.coordinates(rank)?;
        let over = self.indexes(over)?;
        let mut ranks = Vec::new();
        for other in 0..self.size() {
            let theirs = self.coordinates(other)?;
            let same = |axis: &usize| over.contains(axis) || own[*axis] == theirs[*axis];
            if (0..self.axes.len()).all(|axis| same(&axis)) {
                ranks.push(other);
            }
        }
        Ok(ranks)
    }

    /// Joins this rank's group over the axes `over`, ranked in the order of
    /// [`Self::ranks`]. All ranks of the mesh join the same ones in the same order,
    /// since each returns when its members have joined. `options.name` is that of
    /// the mesh; the group's own is made from it, the axes and the members.
    pub fn join(
        &self,
        store: &TcpStore,
        (rank, over): (usize, &[&str]),
        transport: &Transport,
        options: &GroupOptions,
    ) -> Result<ProcessGroup> {
        let ranks = self.ranks(rank, over)?;
        let own = ranks.iter().position(|other| *other == rank).unwrap_or_default();
        let name = format!("{}/{}/{}", options.name, over.join("+"), ranks[0]);
        let options = GroupOptions { name, ..options.clone() };
        match transport {
            Transport::Gloo(interface) => {
                ProcessGroup::gloo(store, own, ranks.len(), interface, &options)
            }
            Transport::Nccl(device) => {
                ProcessGroup::nccl(store, own, ranks.len(), *device, &options)
            }
        }
    }

    /// [`Self::join`] along each axis in turn: a group an axis, in the order of the
    /// axes; none where an axis has one rank.
    pub fn join_each(
        &self,
        store: &TcpStore,
        rank: usize,
        transport: &Transport,
        options: &GroupOptions,
    ) -> Result<Vec<Option<ProcessGroup>>> {
        let join = |(name, size): &(String, usize)| match size {
            1 => Ok(None),
            _ => self.join(store, (rank, &[name.as_str()]), transport, options).map(Some),
        };
        self.axes.iter().map(join).collect()
    }

    fn indexes(&self, names: &[&str]) -> Result<Vec<usize>> {
        let index = |name: &&str| {
            self.axes.iter().position(|(axis, _)| axis == name).ok_or_else(|| {
                Error::InvalidArgument(format!("the mesh has no axis {name}: {:?}", self.axes))
            })
        };
        names.iter().map(index).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_axis_is_the_fastest() {
        let mesh = Mesh::new(&[("data", 2), ("pipeline", 3), ("tensor", 2)]).unwrap();
        assert_eq!(mesh.size(), 12);
        assert_eq!(mesh.coordinates(0).unwrap(), [0, 0, 0]);
        assert_eq!(mesh.coordinates(7).unwrap(), [1, 0, 1]);
        assert_eq!(mesh.coordinates(11).unwrap(), [1, 2, 1]);
        for (over, want) in [
            (&["tensor"][..], &[6, 7][..]),
            (&["pipeline"], &[7, 9, 11]),
            (&["data"], &[1, 7]),
            (&["data", "tensor"], &[0, 1, 6, 7]),
            (&["tensor", "data"], &[0, 1, 6, 7]),
            (&[], &[7]),
        ] {
            assert_eq!(mesh.ranks(7, over).unwrap(), want, "{over:?}");
        }
    }

    #[test]
    fn every_axis_cuts_the_ranks_into_equal_groups() {
        let mesh = Mesh::new(&[("a", 3), ("b", 1), ("c", 4)]).unwrap();
        for (name, size) in mesh.axes() {
            let mut seen = vec![0; mesh.size()];
            for rank in 0..mesh.size() {
                let ranks = mesh.ranks(rank, &[name]).unwrap();
                assert_eq!(ranks.len(), *size);
                assert!(ranks.contains(&rank) && ranks.is_sorted());
                for other in &ranks {
                    seen[*other] += 1;
                    assert_eq!(mesh.ranks(*other, &[name]).unwrap(), ranks);
                }
            }
            assert!(seen.iter().all(|count| count == size));
        }
    }

    #[test]
    fn odd_meshes_are_refused() {
        for axes in [&[("a", 0)][..], &[("a", 2), ("a", 2)], &[("", 1)], &[("a/b", 1)]] {
            assert!(matches!(Mesh::new(axes), Err(Error::InvalidArgument(_))), "{axes:?}");
        }
        assert!(Mesh::new(&[("a", usize::MAX), ("b", 2)]).is_err());
        let mesh = Mesh::new(&[("a", 2)]).unwrap();
        assert!(mesh.coordinates(2).is_err());
        assert!(mesh.ranks(0, &["b"]).unwrap_err().to_string().contains("no axis b"));
    }
}
