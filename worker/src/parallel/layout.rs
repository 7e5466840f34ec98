//! Which rank does what: ranks in a grid of pipeline, data, expert and tensor, the last fastest.
//! Pure.
//!
//! Ranks that differ along `data` or `expert` learn from different samples (along `expert` they
//! hold different experts, and equal copies of all else); those that differ along `pipeline` or
//! `tensor` work on the same samples.

use hearth_crds::training_job::{Parallelism, Sharding};
use nccl_rs::Mesh;

use crate::config::ConfigError;

/// Ranks that hold a part of the stages each.
pub const PIPELINE: &str = "pipeline";
/// Ranks that learn from different samples.
pub const DATA: &str = "data";
/// Ranks that hold different experts.
pub const EXPERT: &str = "expert";
/// Ranks that hold a part of each layer.
pub const TENSOR: &str = "tensor";

/// A rank's place in the grid.
#[derive(Clone, Debug)]
pub struct Layout {
    mesh: Mesh,
    rank: usize,
    sharding: Sharding,
    /// Along pipeline, data, expert, tensor.
    place: [usize; 4],
    sizes: [usize; 4],
}

impl Layout {
    /// Of `rank` among `world_size`; data parallelism fills what `ways` leaves.
    pub fn new(ways: &Parallelism, rank: usize, world_size: usize) -> Result<Self, ConfigError> {
        let refuse = |detail: String| ConfigError::Setting { field: "parallelism", detail };
        let count = |ways: i32| usize::try_from(ways).unwrap_or(0);
        let [pipeline, expert, tensor] = [ways.pipeline, ways.expert, ways.tensor].map(count);
        let split = pipeline.saturating_mul(expert).saturating_mul(tensor);
        if split == 0 || !world_size.is_multiple_of(split) {
            return Err(refuse(format!(
                "pipeline {pipeline} x expert {expert} x tensor {tensor} = {split} ranks do not \
                 divide the {world_size} that run; change one of them, or workers.replicas"
            )));
        }
        let sizes = [pipeline, world_size / split, expert, tensor];
        let axes = [(PIPELINE, sizes[0]), (DATA, sizes[1]), (EXPERT, sizes[2]), (TENSOR, sizes[3])];
        let mesh = Mesh::new(&axes).map_err(|error| refuse(error.to_string()))?;
        let place = mesh.coordinates(rank).map_err(|error| refuse(error.to_string()))?;
        let place = [place[0], place[1], place[2], place[3]];
        // Sharding among one is none.
        let sharding = if sizes[1] * sizes[2] > 1 { ways.sharding } else { Sharding::None };
        Ok(Self { mesh, rank, sharding, place, sizes })
    }

    /// The grid.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// What ranks with different samples share.
    pub fn sharding(&self) -> Sharding {
        self.sharding
    }

    /// Which share of a batch is this rank's, of [`Self::shares`].
    pub fn share(&self) -> usize {
        self.place[1] * self.sizes[2] + self.place[2]
    }

    /// Ranks that learn from different samples.
    pub fn shares(&self) -> usize {
        self.sizes[1] * self.sizes[2]
    }

    /// Whether each rank holds the whole model, so that DDP is all that is needed.
    pub fn is_plain(&self) -> bool {
        self.sharding == Sharding::None && self.sizes[0] * self.sizes[2] * self.sizes[3] == 1
    }

    /// Whether a forward pass of this rank takes other ranks' part in it.
    pub fn in_lockstep(&self) -> bool {
        self.sharding == Sharding::Full || self.sizes[0] * self.sizes[2] * self.sizes[3] > 1
    }

    /// Whether the losses of this rank's samples are to be counted here: several ranks see each.
    pub fn reports(&self) -> bool {
        self.place[3] == 0 && self.place[0] + 1 == self.sizes[0]
    }

    /// Place and size along an axis.
    pub fn along(&self, axis: &str) -> (usize, usize) {
        let index = [PIPELINE, DATA, EXPERT, TENSOR].iter().position(|name| *name == axis);
        index.map_or((0, 1), |index| (self.place[index], self.sizes[index]))
    }

    /// The ranks that differ from this one along these axes only, in order.
    pub fn ranks(&self, over: &[&str]) -> Vec<usize> {
        self.mesh.ranks(self.rank, over).unwrap_or_default()
    }

    /// The stages of this rank, of `stages`: near-equal runs of them.
    pub fn own_stages(&self, stages: usize) -> std::ops::Range<usize> {
        self.stages_of(self.place[0], stages)
    }

    /// [`Self::own_stages`] of the ranks at `place` along the pipeline.
    pub fn stages_of(&self, place: usize, stages: usize) -> std::ops::Range<usize> {
        let size = self.sizes[0];
        stages * place / size..stages * (place + 1) / size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(sharding: Sharding, ways: [i32; 3], rank: usize, world: usize) -> Layout {
        let [pipeline, expert, tensor] = ways;
        Layout::new(&Parallelism { sharding, tensor, pipeline, expert }, rank, world).unwrap()
    }

    #[test]
    fn data_fills_what_is_left_and_shares_go_over_data_and_expert() {
        let shares: Vec<(usize, usize, bool)> = (0..8)
            .map(|rank| {
                let layout = layout(Sharding::None, [1, 2, 2], rank, 8);
                (layout.share(), layout.shares(), layout.reports())
            })
            .collect();
        let want: Vec<_> = (0..8).map(|rank| (rank / 2, 4, rank % 2 == 0)).collect();
        assert_eq!(shares, want);
        assert!(layout(Sharding::None, [1, 1, 1], 1, 4).is_plain());
        assert!(!layout(Sharding::Optimizer, [1, 1, 1], 1, 4).is_plain());
        let alone = layout(Sharding::Full, [1, 1, 1], 0, 1);
        assert!(alone.is_plain() && !alone.in_lockstep(), "one rank shares with nobody");
    }

    #[test]
    fn stages_are_dealt_once_and_the_last_rank_reports() {
        for (stages, ways) in [(4, 2), (5, 2), (26, 4), (4, 4)] {
            let mut next = 0;
            for rank in 0..ways {
                let layout =
                    layout(Sharding::None, [i32::try_from(ways).unwrap(), 1, 1], rank, ways);
                let own = layout.own_stages(stages);
                assert_eq!(own.start, next);
                assert!(!own.is_empty());
                assert_eq!(layout.reports(), rank + 1 == ways);
                next = own.end;
            }
            assert_eq!(next, stages);
        }
    }

    #[test]
    fn a_world_that_cannot_be_divided_is_refused_by_name() {
        let ways = Parallelism { tensor: 2, ..Parallelism::default() };
        let refused = Layout::new(&ways, 0, 3).unwrap_err().to_string();
        assert!(refused.starts_with("parallelism: ") && refused.contains("tensor 2"), "{refused}");
    }
}
