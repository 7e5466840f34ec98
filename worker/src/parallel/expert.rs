//! Experts that are spread over ranks (Lepikhin et al. 2020, GShard): each rank holds some of a
//! layer's experts whole; tokens go to the ranks of their experts, and come back.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use nccl_rs::storage;
use tch::{Device, Tensor};

use super::groups::{SharedGroup, locked};
use crate::error::Error;
use crate::model::module::{Leaf, Module};
use crate::model::parts::experts::{Compute, Spread, by_expert};
use crate::model::{Model, ModelError};

/// Keeps this rank's experts of each layer; the names of the tensors of all others, whose memory
/// is gone.
pub fn spread(model: &mut Model, group: &SharedGroup) -> Result<BTreeSet<String>, Error> {
    let (place, ways) = {
        let group = locked(group);
        (group.rank(), group.size())
    };
    let mut absent = BTreeSet::new();
    let experts = |model: &mut Model| {
        model.network_mut().mixtures().first().map_or(0, |(_, mixture)| mixture.experts.len())
    };
    let count = experts(model);
    if count == 0 || !count.is_multiple_of(ways) {
        return Err(model
            .config
            .unsupported(format!(
                "parallelism.expert {ways} does not divide the model's {count} experts a layer; use one that does"
            ))
            .into());
    }
    let own = place * count / ways..(place + 1) * count / ways;
    for (_, mixture) in model.network_mut().mixtures() {
        for (index, expert) in mixture.experts.iter().enumerate() {
            if !own.contains(&index) {
                for (name, tensor) in tensors_of(expert) {
                    storage::release(&tensor)?;
                    absent.insert(name);
                }
            }
        }
        mixture.spread = Some(Box::new(Exchange { group: Arc::clone(group), own: own.clone() }));
    }
    Ok(absent)
}

/// Tensors of a part of a model, by name.
pub(super) fn tensors_of(module: &dyn Module) -> Vec<(String, Tensor)> {
    let mut found = Vec::new();
    module.leaves(&mut |leaf| match leaf {
        Leaf::Weight(weight) => found.push((weight.name.clone(), weight.tensor.shallow_clone())),
        Leaf::Linear(linear) => found.extend(linear.tensors()),
    });
    found
}

/// Takes rows to their experts' ranks and back.
#[derive(Debug)]
struct Exchange {
    group: SharedGroup,
    own: Range<usize>,
}

impl Spread for Exchange {
    fn apply(
        &self,
        rows: &Tensor,
        counts: &[i64],
        compute: &Compute<'_>,
    ) -> Result<Tensor, ModelError> {
        let device = rows.device();
        let (theirs, ways) = {
            let mut group = locked(&self.group);
            let told = Tensor::f_from_slice(counts)?.f_to_device(device)?;
            let theirs = group.all_to_all(&told)?.f_to_device(Device::Cpu)?;
            (Vec::<i64>::try_from(theirs)?, group.size())
        };
        let of_rank = counts.len() / ways;
        let sum = |counts: &[i64]| counts.chunks(of_rank).map(total).collect::<Vec<_>>();
        let (sent, received) = (sum(counts), sum(&theirs));
        let arrived = locked(&self.group).exchange_rows(rows, &sent, &received)?;

        // Rows come by rank, and there by expert; they are computed by expert.
        let (order, own_counts) = by_expert_first(&theirs, of_rank);
        let order = Tensor::f_from_slice(&order)?.f_to_device(device)?;
        let sorted = arrived.f_index_select(0, &order)?;
        let first = self.own.start;
        let outputs =
            by_expert(&sorted, &own_counts, &|expert, rows| compute(first + expert, rows))?;
        let back = outputs.f_index_select(0, &order.f_argsort(0, false)?)?;
        Ok(locked(&self.group).exchange_rows(&back, &received, &sent)?)
    }
}

fn total(counts: &[i64]) -> usize {
    counts.iter().map(|count| usize::try_from(*count).unwrap_or(0)).sum()
}

/// Of rows that lie by rank and then by expert, with `counts` of each: the order that puts them by
/// expert and then by rank, and the rows of each expert.
fn by_expert_first(counts: &[i64], experts: usize) -> (Vec<i64>, Vec<i64>) {
    let starts: Vec<i64> = counts
        .iter()
        .scan(0, |next, count| {
            *next += count;
            Some(*next - count)
        })
        .collect();
    let (mut order, mut of_expert) = (Vec::new(), Vec::with_capacity(experts));
    for expert in 0..experts {
        let before = order.len();
        for (start, count) in starts.iter().zip(counts).skip(expert).step_by(experts) {
            order.extend(*start..start + count);
        }
        of_expert.push(i64::try_from(order.len() - before).unwrap_or(i64::MAX));
    }
    (order, of_expert)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_all_ranks_come_together_by_expert() {
        // Two experts here; three ranks send 2 + 1, 0 + 2 and 1 + 0 rows.
        let (order, counts) = by_expert_first(&[2, 1, 0, 2, 1, 0], 2);
        assert_eq!(order, [0, 1, 5, 2, 3, 4]);
        assert_eq!(counts, [3, 3]);
        assert_eq!(by_expert_first(&[0, 0], 1), (vec![], vec![0]));
    }
}
