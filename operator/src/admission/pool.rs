//! Nodes, gangs, and which fits where. Pure.

use std::collections::BTreeMap;

use hearth_crds::pod::{PodPlacement, TaintEffect, Toleration, TolerationOperator};

use super::amounts::Amounts;

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, often empty.
    pub value: String,
    /// What it does.
    pub effect: TaintEffect,
}

/// A node that takes pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Devices that pods may have.
    pub devices: Amounts,
}

/// Pods that start together or not at all, all alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gang {
    /// How many.
    pub pods: u32,
    /// Devices of each.
    pub devices: Amounts,
    /// What each counts against a ResourceQuota, by its keys.
    pub charge: Amounts,
    /// Where they may run.
    pub placement: PodPlacement,
}

impl Gang {
    /// Whether its pods may run on this node.
    pub fn may_use(&self, node: &Node) -> bool {
        let labels = &self.placement.node_selector;
        labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && node
                .taints
                .iter()
                .filter(|taint| taint.effect != TaintEffect::PreferNoSchedule)
                .all(|taint| self.placement.tolerations.iter().any(|t| tolerates(t, taint)))
    }

    /// Whether both want the same kind of place.
    pub fn same_place(&self, other: &Self) -> bool {
        self.placement.node_selector == other.placement.node_selector
            && self.placement.tolerations == other.placement.tolerations
            && self.devices.0.keys().eq(other.devices.0.keys())
    }

    /// As people read it: `2 pods with 4 nvidia.com/gpu each`.
    pub fn in_words(&self) -> String {
        let each: Vec<_> = self
            .devices
            .0
            .iter()
            .map(|(name, amount)| format!("{} {name}", super::amounts::written(*amount)))
            .collect();
        let each = each.join(" and ");
        match self.pods {
            1 => format!("1 pod with {each}"),
            pods => format!("{pods} pods with {each} each"),
        }
    }
}

/// `k8s.io/component-helpers/scheduling/corev1/helpers.go`, `ToleratesTaint`.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.is_none_or(|effect| effect == taint.effect);
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator == Some(TolerationOperator::Exists);
    let key_meets = if key.is_empty() { exists } else { key == taint.key };
    let value = toleration.value.as_deref().unwrap_or_default();
    effect && key_meets && (exists || value == taint.value)
}

/// What is free on each node, in the nodes' order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Free(pub Vec<Amounts>);

impl Free {
    /// All that the nodes have.
    pub fn all(nodes: &[Node]) -> Self {
        Self(nodes.iter().map(|node| node.devices.clone()).collect())
    }

    /// How many pods of `gang` find room, at most all of them.
    pub fn room(&self, nodes: &[Node], gang: &Gang) -> u32 {
        let on = |(free, node): (&Amounts, &Node)| {
            if gang.may_use(node) { free.fit(&gang.devices, gang.pods) } else { 0 }
        };
        let sum: u64 = self.0.iter().zip(nodes).map(on).map(u64::from).sum();
        u32::try_from(sum).unwrap_or(u32::MAX).min(gang.pods)
    }

    /// What is left where each of `gangs`, which have no node yet, takes on every node as much
    /// as it could alone: wherever the scheduler puts them, no less is left.
    fn after_worst<'a>(&self, nodes: &[Node], gangs: impl Iterator<Item = &'a Gang>) -> Self {
        let mut left = self.clone();
        for gang in gangs {
            let places = left.0.iter_mut().zip(&self.0).zip(nodes);
            for ((left, free), _) in places.filter(|(_, node)| gang.may_use(node)) {
                let most = free.fit(&gang.devices, gang.pods);
                left.add(&gang.devices, -i128::from(most));
            }
        }
        left
    }
}

/// Whether all pods of `gang` find room after those of `others`, and no pod of those finds
/// less room for it, in whatever order and on whichever nodes the scheduler puts them.
pub fn settle(free: &Free, nodes: &[Node], gang: &Gang, others: &[&Gang]) -> bool {
    let all = || others.iter().copied();
    let found = free.after_worst(nodes, all()).room(nodes, gang);
    found == gang.pods
        && others.iter().enumerate().all(|(at, other)| {
            let rest = || all().enumerate().filter(|(i, _)| *i != at).map(|(_, gang)| gang);
            let before = free.after_worst(nodes, rest()).room(nodes, other);
            let with = rest().chain([gang]);
            free.after_worst(nodes, with).room(nodes, other) == before
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn taints_and_labels_keep_pods_away() {
        let placement = |text| serde_json::from_value::<PodPlacement>(text).unwrap();
        let node = Node {
            labels: [("pool".to_owned(), "a100".to_owned())].into(),
            taints: vec![Taint {
                key: "gpu".into(),
                value: "yes".into(),
                effect: TaintEffect::NoSchedule,
            }],
            ..Node::default()
        };
        for (spec, want) in [
            (json!({}), false),
            (json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]}), true),
            (json!({"tolerations": [{"key": "gpu", "value": "yes"}]}), true),
            (json!({"tolerations": [{"key": "gpu", "value": "no"}]}), false),
            (json!({"tolerations": [{"operator": "Exists"}]}), true),
            (json!({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}), false),
            (
                json!({"tolerations": [{"operator": "Exists"}], "nodeSelector": {"pool": "h100"}}),
                false,
            ),
            (
                json!({"tolerations": [{"operator": "Exists"}], "nodeSelector": {"pool": "a100"}}),
                true,
            ),
        ] {
            let gang = Gang { placement: placement(spec.clone()), ..Gang::default() };
            assert_eq!(gang.may_use(&node), want, "{spec}");
        }
    }
}
