//! Whether a gang may start before one that was there first. Pure.

use super::amounts::Amounts;
use super::policy::View;
use super::pool::{Free, Gang, Node};

/// Gangs on one node of which all ways to end are looked at.
const SUBSETS: usize = 10;

/// Whether `gang`, put anywhere, may make `head` wait longer: whether on some node, after some
/// of those that hold it have ended, fewer of the head's pods find room than without. Nobody
/// can say while pods of `floating` that may land there have no node.
pub(super) fn may_delay<'a>(
    view: &View,
    free: &Free,
    mut floating: impl Iterator<Item = &'a Gang>,
    (head, gang): (&Gang, &Gang),
) -> bool {
    let touches = |gang: &Gang| {
        let wants = head.devices.0.keys().any(|name| gang.devices.get(name) > 0);
        wants && view.nodes.iter().any(|node| head.may_use(node) && gang.may_use(node))
    };
    if !touches(gang) {
        return false;
    }
    let shared = |(node, _): &(&Node, &Amounts)| head.may_use(node) && gang.may_use(node);
    let mut nodes = view.nodes.iter().zip(&free.0).filter(shared);
    floating.any(touches) || nodes.any(|(node, free)| less_on(view, (node, free), (head, gang)))
}

fn less_on(view: &View, (node, free): (&Node, &Amounts), (head, gang): (&Gang, &Gang)) -> bool {
    let most = node.devices.fit(&gang.devices, gang.pods);
    let of = |holder: &super::policy::Holder| {
        let pods = holder.bound.get(&node.name).copied().filter(|pods| *pods > 0)?;
        let mut amounts = Amounts::default();
        amounts.add(&holder.claim.gang.devices, pods.into());
        Some(amounts)
    };
    let taken: Vec<Amounts> = view.holders.iter().filter_map(of).collect();
    if taken.len() > SUBSETS {
        return most > 0;
    }
    (0..1_usize << taken.len()).any(|ended| {
        let mut left = free.clone();
        for (at, amounts) in taken.iter().enumerate() {
            if ended & (1 << at) != 0 {
                left.add(amounts, 1);
            }
        }
        let without = left.fit(&head.devices, head.pods);
        // More may land here later, as those that ended make room.
        (1..=most).any(|pods| {
            let mut with = left.clone();
            with.add(&gang.devices, -i128::from(pods));
            let lands = gang.devices.0.keys().all(|name| with.get(name) >= 0);
            lands && with.fit(&head.devices, head.pods) < without
        })
    })
}
