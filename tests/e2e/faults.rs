//! Ranks, pods and nodes that die in the middle of training.

use std::time::{Duration, Instant};

use hearth_tests::cluster::{Namespace, condition};
use hearth_tests::{jobs, processes};
use serde_json::Value;

use crate::support::{Node, PATIENCE, agent_pod, succeeded, under_way};

const STEPS: u32 = 1200;
/// Enough that a job still trains after two pods were lost, each for a while.
const MANY_STEPS: u32 = 4800;

fn weights(namespace: &Namespace, job: &str) -> Vec<u8> {
    std::fs::read(namespace.volume("models").join(job).join("model/model.safetensors")).unwrap()
}

/// The twin runs undisturbed with the same spec; equal weights mean that nothing
/// was lost, repeated or drawn anew.
#[test]
fn a_killed_rank_is_replaced_in_place_and_training_ends_bit_for_bit_equal() {
    let namespace = Namespace::create("e2e-rank").unwrap();
    jobs::fill(&namespace).unwrap();
    namespace.apply(&jobs::training_job("twin", 2, STEPS, |_| {})).unwrap();
    let calm = succeeded(&namespace, "twin");
    namespace.apply(&jobs::training_job("hit", 2, STEPS, |_| {})).unwrap();
    under_way(&namespace, "hit", 300);
    let pod = agent_pod(&namespace, "hit", 1);
    let rank = processes::of_pod(&pod, "train").unwrap();
    processes::signal(rank[0], "KILL").unwrap();
    let killed = Instant::now();
    // A fast machine may be done before anybody looks.
    let again = |j: &Value| {
        j["status"]["restarts"].as_i64() >= Some(1)
            && ["Running", "Succeeded"].iter().any(|kind| condition(j, kind) == "True")
    };
    namespace.wait("trainingjob", "hit", Duration::from_mins(1), again).unwrap();
    let back = killed.elapsed();
    assert!(back < Duration::from_secs(20), "status showed training again only after {back:?}");
    let hit = succeeded(&namespace, "hit");
    assert_eq!(hit["status"]["restarts"], 1);
    assert_eq!(hit["status"]["progress"]["loss"], calm["status"]["progress"]["loss"]);
    assert!(weights(&namespace, "hit") == weights(&namespace, "twin"), "the weights differ");
    let same_pod = agent_or_done(&namespace, "hit", 1);
    assert_eq!(same_pod["metadata"]["uid"], pod["metadata"]["uid"], "the pod was recreated");
    let events = namespace.kubectl(&["get", "events", "-o", "json"]).unwrap();
    assert!(events.contains("RankKilled"), "no event names the killed rank");
}

/// The agent's pod of an index, ended or not.
fn agent_or_done(namespace: &Namespace, job: &str, index: u32) -> Value {
    let selector =
        format!("hearth.dev/name={job},batch.kubernetes.io/job-completion-index={index}");
    namespace.list("pods", &selector).unwrap().remove(0)
}

#[test]
fn training_goes_on_after_the_coordinators_pod_and_another_agents_pod_died() {
    let namespace = Namespace::create("e2e-agent").unwrap();
    jobs::fill(&namespace).unwrap();
    namespace.apply(&jobs::training_job("hit", 2, MANY_STEPS, |_| {})).unwrap();
    for (round, index) in [(1, 1), (2, 0)] {
        let before = under_way(&namespace, "hit", 200 * round);
        let step = before["status"]["checkpoint"]["step"].as_i64().unwrap();
        for id in processes::of_pod(&agent_pod(&namespace, "hit", index), "agent").unwrap() {
            processes::signal(id, "KILL").unwrap();
        }
        // Running again, too: what dies while no rank runs is no failure of the job.
        let on = |j: &Value| {
            j["status"]["restarts"].as_i64() >= Some(round)
                && condition(j, "Running") == "True"
                && j["status"]["progress"]["step"].as_i64() > Some(step)
        };
        namespace.wait("trainingjob", "hit", PATIENCE, on).unwrap();
    }
    let ended = succeeded(&namespace, "hit");
    assert_eq!(ended["status"]["progress"]["step"], MANY_STEPS);
}

/// Needs the nodes of tests/cluster: it kills one's kubelet, containerd and shims.
#[test]
fn training_goes_on_after_a_node_died() {
    let namespace = Namespace::create("e2e-node").unwrap();
    jobs::fill(&namespace).unwrap();
    namespace.apply(&jobs::training_job("hit", 2, MANY_STEPS, |_| {})).unwrap();
    under_way(&namespace, "hit", 300);
    let pod = agent_pod(&namespace, "hit", 1);
    let node = pod["spec"]["nodeName"].as_str().unwrap().to_owned();
    let dead = Node::of(&node);
    dead.kill();
    let moved = |j: &Value| {
        j["status"]["restarts"].as_i64() >= Some(1) && condition(j, "Running") == "True"
    };
    namespace.wait("trainingjob", "hit", PATIENCE, moved).unwrap();
    let now = agent_pod(&namespace, "hit", 1);
    assert_ne!(now["spec"]["nodeName"], node.as_str());
    succeeded(&namespace, "hit");
}
