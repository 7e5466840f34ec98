//! Models kept on nodes: two pods copy once, and a pod that cannot have its copy says why.

use std::path::Path;
use std::process::Command;

use hearth_tests::cluster::{Namespace, Way, await_value, condition, kubectl, kubectl_ok, told};
use hearth_tests::{http, tiny};
use serde_json::{Value, json};

use crate::support::PATIENCE;

const VOLUME: &str = "e2e-node-cache";
const PODS: &str = "hearth.dev/name=shop,app.kubernetes.io/component=server";

/// What an administrator gives: a directory that is there on each node, as a `local` volume, which
/// the claim `node-models` is bound to. As long as the test runs.
struct NodeVolume;

impl NodeVolume {
    /// The nodes of tests/cluster are one machine, so that the directory is one, too.
    fn give(namespace: &Namespace, directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        kubectl_ok(&["delete", "pv", VOLUME, "--ignore-not-found"], None).unwrap();
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": VOLUME},
            "spec": {
                "storageClassName": "node-models", "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": namespace.name, "name": "node-models"},
                "local": {"path": directory},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]}},
            },
        });
        kubectl_ok(&["apply", "-f", "-"], Some(&volume.to_string())).unwrap();
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "node-models"},
            "spec": {
                "storageClassName": "node-models", "volumeName": VOLUME,
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        namespace.apply(&claim.to_string()).unwrap();
        Self
    }
}

impl Drop for NodeVolume {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "pv", VOLUME, "--ignore-not-found", "--wait=false"], None);
    }
}

fn deployment(name: &str, (model, replicas): (&str, u32), cache: &Value) -> String {
    json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name},
        "spec": {
            "model": {"source": format!("pvc://models/{model}")},
            "serving": {"replicas": replicas, "nodeCache": cache,
                        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "50m"}}},
        },
    })
    .to_string()
}

/// What each pod's `cache` did.
fn outcomes(namespace: &Namespace, pods: usize) -> Vec<String> {
    let reasons = || {
        let pods = namespace.list("pods", PODS)?;
        let reason = |pod: &Value| {
            let ended = &pod["status"]["initContainerStatuses"][0]["state"]["terminated"];
            let told: Value = serde_json::from_str(ended["message"].as_str()?).ok()?;
            Some(told["reason"].as_str()?.to_owned())
        };
        let mut reasons: Vec<_> = pods.iter().filter_map(reason).collect();
        reasons.sort();
        Ok(reasons)
    };
    await_value(PATIENCE, reasons, &|reasons: &Vec<String>| reasons.len() == pods).unwrap()
}

/// Whether somebody holds the one copy.
fn is_held(directory: &Path) -> bool {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let copies: Vec<_> = paths.filter(|path| path.is_dir()).collect();
    let [copy] = &copies[..] else { panic!("{copies:?}") };
    let lock = copy.with_extension("lock");
    let taken = Command::new("flock").arg("--nonblock").arg(lock).arg("true").status().unwrap();
    !taken.success()
}

#[test]
fn pods_of_a_node_share_one_copy_of_their_model() {
    let namespace = Namespace::create("e2e-node-cache").unwrap();
    for (name, seed) in [("tiny", 1), ("other", 2)] {
        tiny::write_model(&namespace.volume("models").join(name), seed).unwrap();
    }
    let directory = namespace.volume("node");
    let _volume = NodeVolume::give(&namespace, &directory);
    let cache = json!({"claimName": "node-models"});
    namespace.apply(&deployment("shop", ("tiny", 2), &cache)).unwrap();
    // A model that may not be kept, and a claim that is not there.
    let small = json!({"claimName": "node-models", "maxBytes": 10});
    namespace.apply(&deployment("small", ("other", 1), &small)).unwrap();
    let fast = json!({"claimName": "fast"});
    namespace.apply(&deployment("nowhere", ("other", 1), &fast)).unwrap();
    let progressing = |name: &str, part: &str| {
        let said = |d: &Value| told(d, "Progressing").contains(part);
        namespace.wait("modeldeployment", name, PATIENCE, said).unwrap()
    };
    progressing("nowhere", "PersistentVolumeClaim fast");

    assert_eq!(outcomes(&namespace, 2), ["CacheHit", "CacheMiss"]);
    namespace.apply(&deployment("shop", ("tiny", 3), &cache)).unwrap();
    assert_eq!(outcomes(&namespace, 3), ["CacheHit", "CacheHit", "CacheMiss"]);
    let ready =
        |d: &Value| condition(d, "Ready") == "True" && condition(d, "Progressing") == "False";
    namespace.wait("modeldeployment", "shop", PATIENCE, ready).unwrap();
    let way = Way::open(&namespace, "shop", 80).unwrap();
    let ask = r#"{"model": "shop", "input": "free money"}"#;
    let answer = http::post(&way.address, "/v1/embeddings", ask).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(is_held(&directory), "no server holds its copy");
    for pod in namespace.list("pods", PODS).unwrap() {
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
        let cache = mounts.iter().find(|mount| mount["mountPath"] == "/mnt/hearth-node-cache");
        assert_eq!(cache.unwrap()["readOnly"], true);
        let name = pod["metadata"]["name"].as_str().unwrap();
        let log = namespace.kubectl(&["logs", name, "-c", "server"]).unwrap();
        assert!(log.contains("the model is read from the node's copy"), "{log}");
    }
    progressing("small", "serving.nodeCache.maxBytes allows 10 for all; raise it");
}
