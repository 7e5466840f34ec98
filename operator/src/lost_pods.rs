//! Pods that hang on a dead node.
//!
//! When a node dies, Kubernetes marks its pods for deletion, but only the
//! node's kubelet could report that they ended. The Job waits for that report
//! before it makes the next pod of the index, since two pods of one index
//! would write the same checkpoint. A pod whose time for ending has passed, on
//! a node that has been silent for the tolerated time, is therefore marked as
//! failed by us, as Kubernetes' own pod garbage collector does for nodes that
//! are gone (`pkg/controller/podgc`).

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::children::LostPod;
use crate::observed::PodView;

/// Kubernetes' termination grace period where a pod sets none.
pub const DEFAULT_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// Room for a kubelet that is merely slow to report.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);

/// How long a pod on a silent node has to save a checkpoint before it counts
/// as lost; its grace period would be two minutes.
const GRACE_ON_SILENT_NODE: SignedDuration = SignedDuration::from_secs(10);

/// Nodes whose readiness must be known: of pods that are being deleted and
/// have not ended.
pub fn suspects(pods: &[PodView]) -> BTreeSet<String> {
    let waiting = |pod: &&PodView| pod.deadline.is_some() && !pod.is_over();
    pods.iter().filter(waiting).filter_map(|pod| pod.node.clone()).collect()
}

/// The pods to give up. `silent` are the nodes that are not ready or are gone;
/// `grace` is the pods' termination grace period, which their deletion
/// deadline includes.
pub fn lost_pods(
    pods: &[PodView],
    silent: &BTreeSet<String>,
    grace: SignedDuration,
    now: Timestamp,
) -> Vec<LostPod> {
    pods.iter()
        .filter(|pod| !pod.is_over())
        .filter_map(|pod| Some((pod, pod.node.as_ref()?, pod.deadline?)))
        .filter(|(_, node, _)| silent.contains(*node))
        .filter(|(_, _, deadline)| {
            let asked_to_end = deadline.checked_sub(grace).unwrap_or(*deadline);
            now.duration_since(asked_to_end) >= GRACE_ON_SILENT_NODE
                || now.duration_since(*deadline) >= PATIENCE
        })
        .map(|(pod, node, _)| LostPod {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            node: node.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::Phase;

    #[test]
    fn only_overdue_pods_of_silent_nodes_are_lost() {
        let now = Timestamp::from_second(1_000).unwrap();
        let grace = SignedDuration::from_secs(120);
        let pod = |phase, deadline: Option<i64>| PodView {
            name: "p".into(),
            node: Some("n".into()),
            phase,
            deadline: deadline.map(|second| Timestamp::from_second(second).unwrap()),
            ..PodView::default()
        };
        let asked = |seconds_ago: i64| Some(1_000 - seconds_ago + 120);
        for (case, silent, pod, lost) in [
            ("node answers", false, pod(Phase::Running, asked(60)), false),
            ("not being deleted", true, pod(Phase::Running, None), false),
            ("just asked to end", true, pod(Phase::Running, asked(3)), false),
            ("asked long ago", true, pod(Phase::Running, asked(11)), true),
            ("never started", true, pod(Phase::Pending, asked(11)), true),
            ("ended by itself", true, pod(Phase::Failed, asked(60)), false),
        ] {
            let nodes = if silent { BTreeSet::from(["n".to_owned()]) } else { BTreeSet::new() };
            let found = lost_pods(&[pod], &nodes, grace, now);
            assert_eq!(!found.is_empty(), lost, "{case}");
        }
    }
}
