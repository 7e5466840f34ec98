//! A ModelDeployment's life against an API server in memory.

use std::sync::{Arc, Mutex};

use crate::common::World;
use serde_json::{Value, json};

const MD: &str = "modeldeployments/shop";

fn world() -> World {
    let world = World::with_claims();
    world.put(
        "modeldeployments",
        json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "shop", "uid": "u-2", "generation": 1},
            "spec": {
                "model": {"fromTrainingJob": "spam"},
                "compression": {"quantization": "INT8",
                    "gate": {"data": {"source": "pvc://data/eval.jsonl"}, "maxDrop": 0.005}},
            },
        }),
    );
    world
}

fn trained(world: &World, digest: &str) {
    world.put(
        "trainingjobs",
        json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "spam", "uid": format!("u-{digest}")},
            "spec": {
                "task": "SequenceClassification",
                "model": {"source": "pvc://models/minilm"},
                "data": {"train": {"source": "pvc://data/train.jsonl"}},
                "output": {"destination": "pvc://models/spam"},
            },
            "status": {"restarts": 0, "model": {"uri": "pvc://models/spam/model", "digest": digest}},
        }),
    );
}

fn only(world: &World, prefix: &str) -> String {
    let keys: Vec<_> = world.keys().into_iter().filter(|key| key.starts_with(prefix)).collect();
    assert_eq!(keys.len(), 1, "{prefix}: {keys:?}");
    keys[0].clone()
}

/// A pod of the quantize Job `key`.
fn put_quantize_pod(world: &World, key: &str, status: &Value) {
    let made = world.get(key);
    world.put(
        "pods",
        json!({
            "metadata": {
                "name": format!("{}-x", key.trim_start_matches("jobs/")),
                "labels": made["spec"]["template"]["metadata"]["labels"],
                "annotations": made["spec"]["template"]["metadata"]["annotations"],
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j",
                    "uid": made["metadata"]["uid"], "controller": true}],
            },
            "spec": {"containers": []},
            "status": status,
        }),
    );
}

/// The quantize Job that has not ended does.
fn quantize_ends(world: &World, code: i32) {
    let quantizes = |key: &String| key.starts_with("jobs/shop-quantize-");
    let open: Vec<_> = world
        .keys()
        .into_iter()
        .filter(|key| quantizes(key) && world.get(key)["status"].is_null())
        .collect();
    let [key] = &open[..] else { panic!("{open:?}") };
    let now = world.now();
    let told = json!({"succeeded": code == 0, "reason": if code == 0 { "Completed" } else { "GateFailed" },
        "message": if code == 0 { "compressed" } else { "f1 fell by more than 0.005" }, "exitCode": code,
        "compression": {"sizeBeforeBytes": 400, "sizeAfterBytes": 100,
                        "metricBefore": 0.98, "metricAfter": if code == 0 { 0.979 } else { 0.9 }}});
    let terminated = json!({"exitCode": code, "message": told.to_string(), "finishedAt": now});
    let status = json!({"phase": if code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": [{
        "name": "quantize", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": terminated}}]});
    put_quantize_pod(world, key, &status);
    world.change(key, |job| {
        job["status"] = json!({"conditions": [{"type": if code == 0 { "Complete" } else { "Failed" },
            "status": "True", "message": "the Job ended", "lastTransitionTime": now}]});
    });
}

fn becomes_available(world: &World, key: &str) {
    world.change(key, |deployment| {
        let wanted = deployment["spec"]["replicas"].clone();
        deployment["metadata"]["generation"] = json!(1);
        deployment["status"] = json!({"observedGeneration": 1, "updatedReplicas": wanted,
            "availableReplicas": wanted});
    });
}

fn server_of(world: &World, revision: &str) -> String {
    only(world, &format!("deployments/shop-server-{revision}"))
}

fn routed(world: &World) -> Value {
    let table = world.get("configmaps/shop-routing");
    serde_json::from_str(table["data"]["routing.json"].as_str().unwrap()).unwrap()
}

/// Brings the first revision to traffic; gives its name.
async fn first_revision(world: &World) -> String {
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Progressing"), "True MissingTrainingJob");
    trained(world, "blake3:01");
    world.deploy("shop").await.unwrap();
    assert_eq!(world.get(MD)["status"]["state"], "Compressing");
    quantize_ends(world, 0);
    world.deploy("shop").await.unwrap();
    let key = only(world, "deployments/shop-server-");
    let revision = key.trim_start_matches("deployments/shop-server-").to_owned();
    assert_eq!(world.get(MD)["status"]["canary"]["revision"], revision.as_str());
    assert_eq!(routed(world)["variants"], json!([]));
    becomes_available(world, &key);
    becomes_available(world, "deployments/shop-gateway");
    world.deploy("shop").await.unwrap();
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Ready"), "True Serving");
    assert_eq!(world.condition(MD, "Progressing"), "False Complete");
    assert_eq!(routed(world)["variants"][0]["revision"], revision.as_str());
    revision
}

#[tokio::test]
async fn a_compression_that_waits_takes_what_it_asks_for_now_and_one_that_runs_goes_on() {
    let world = world();
    trained(&world, "blake3:01");
    world.deploy("shop").await.unwrap();
    let key = only(&world, "jobs/shop-quantize-");
    let asks = |memory: &str| {
        world.change(MD, |deployment| {
            deployment["metadata"]["generation"] = json!(2);
            deployment["spec"]["compression"]["resources"] = json!({"limits": {"memory": memory}});
        });
    };
    let limit = || {
        let pod = &world.get(&key)["spec"]["template"]["spec"];
        pod["containers"][0]["resources"]["limits"]["memory"].clone()
    };
    let pod_is = |phase: &str| put_quantize_pod(&world, &key, &json!({"phase": phase}));
    assert_eq!(limit(), "16Gi");
    pod_is("Pending");
    asks("2Gi");
    world.deploy("shop").await.unwrap();
    assert!(!world.keys().contains(&key), "its pods cannot be changed");
    world.deploy("shop").await.unwrap();
    assert_eq!(limit(), "2Gi");

    pod_is("Running");
    asks("3Gi");
    world.deploy("shop").await.unwrap();
    assert_eq!(limit(), "2Gi");
    // It ran out of memory: another try comes with what is asked for now.
    pod_is("Failed");
    world.deploy("shop").await.unwrap();
    world.deploy("shop").await.unwrap();
    assert_eq!(limit(), "3Gi");
    world.deploy("shop").await.unwrap();
    world.writes();
    world.deploy("shop").await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_model_is_compressed_served_replaced_and_then_nothing_is_written() {
    let world = world();
    let first = first_revision(&world).await;
    let status = world.get(MD)["status"].clone();
    assert_eq!(status["address"], "http://shop.team-a.svc");
    assert_eq!(status["stable"]["weight"], 100);
    assert_eq!(status["stable"]["digest"], "blake3:01");
    assert_eq!(status["stable"]["compression"]["metricAfter"], 0.979);
    assert!(status["canary"].is_null());
    world.writes();
    for _ in 0..3 {
        world.pass(600);
        world.deploy("shop").await.unwrap();
    }
    assert_eq!(world.writes(), Vec::<String>::new());

    // The job is trained anew: a new revision, beside the old one.
    trained(&world, "blake3:02");
    world.deploy("shop").await.unwrap();
    quantize_ends(&world, 0);
    world.deploy("shop").await.unwrap();
    assert_eq!(routed(&world)["variants"][0]["revision"], first.as_str());
    let second = world.get(MD)["status"]["canary"]["revision"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    becomes_available(&world, &server_of(&world, &second));
    world.deploy("shop").await.unwrap();
    assert_eq!(routed(&world)["variants"][0]["revision"], second.as_str());
    assert!(world.keys().contains(&format!("deployments/shop-server-{first}")));

    // The gateway has it, but requests may still be under way.
    let (table, _) = gateway(&world, "127.90.90.1").await;
    *table.lock().unwrap() = routed(&world);
    world.pass(30);
    world.deploy("shop").await.unwrap();
    assert!(world.keys().contains(&format!("deployments/shop-server-{first}")));
    world.pass(60);
    world.deploy("shop").await.unwrap();
    let left: Vec<_> = world.keys().into_iter().filter(|key| key.contains(&first)).collect();
    assert_eq!(left, Vec::<String>::new());
    world.deploy("shop").await.unwrap();
    assert_eq!(world.get(MD)["status"]["stable"]["revision"], second.as_str());
    assert_eq!(world.condition(MD, "Ready"), "True Serving");
    world.writes();
    world.pass(600);
    world.deploy("shop").await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_node_that_cannot_keep_the_model_is_told() {
    let world = world();
    world.change(MD, |d| {
        d["spec"]["compression"] = Value::Null;
        d["spec"]["serving"] = json!({"nodeCache": {"claimName": "fast"}});
    });
    trained(&world, "blake3:01");
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Progressing"), "True MissingClaim");
    let said = world.told(MD, "Progressing");
    assert!(said.contains("PersistentVolumeClaim fast"), "{said}");

    world.put("persistentvolumeclaims", json!({"metadata": {"name": "fast"}}));
    world.deploy("shop").await.unwrap();
    let server = world.get(&only(&world, "deployments/shop-server-"));
    let told = json!({"succeeded": false, "reason": "CacheFull", "exitCode": 1,
        "message": "the model's 9 bytes do not fit into the node's cache"});
    world.put(
        "pods",
        json!({
            "metadata": {
                "name": "shop-server-x",
                "labels": server["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r",
                    "uid": "r", "controller": true}],
            },
            "spec": {"containers": []},
            "status": {"phase": "Pending",
                "initContainerStatuses": [{"name": "cache",
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                    "lastState": {"terminated": {"exitCode": 1, "message": told.to_string()}}}],
                "containerStatuses": [{"name": "server",
                    "state": {"waiting": {"reason": "PodInitializing"}}}]},
        }),
    );
    world.deploy("shop").await.unwrap();
    let said = world.told(MD, "Progressing");
    assert!(said.contains("its last words: the model's 9 bytes do not fit"), "{said}");
}

#[tokio::test]
async fn a_failed_gate_tells_its_figures_and_the_old_revision_serves_on() {
    let world = world();
    let first = first_revision(&world).await;
    trained(&world, "blake3:02");
    world.deploy("shop").await.unwrap();
    quantize_ends(&world, 76);
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Degraded"), "True GateFailed");
    let said = world.told(MD, "Degraded");
    assert!(said.contains("before 0.9800, after 0.9000"), "{said}");
    assert_eq!(world.condition(MD, "Ready"), "True Serving");
    assert_eq!(world.get(MD)["status"]["stable"]["revision"], first.as_str());
    world.writes();
    world.deploy("shop").await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn gateways_may_read_their_own_table_and_nothing_else() {
    let world = world();
    first_revision(&world).await;
    let rules = &world.get("roles/shop-gateway")["rules"];
    assert_eq!(
        *rules,
        json!([{"apiGroups": [""], "resources": ["configmaps"],
                "resourceNames": ["shop-routing"], "verbs": ["get", "watch"]}])
    );
}

#[tokio::test]
async fn what_this_version_does_not_do_is_refused() {
    let world = world();
    world.change(MD, |d| {
        d["spec"]["serving"] = json!({"resources": {"limits": {"nvidia.com/gpu": 1}}});
    });
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Degraded"), "True Unsupported");
    assert_eq!(world.condition(MD, "Ready"), "False NothingServed");
    assert!(world.told(MD, "Degraded").contains("spec.serving.resources"));
    world.writes();
    world.deploy("shop").await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_failed_write_at_any_place_changes_nothing_in_the_end() {
    let run = async |fail: Option<(usize, bool)>| {
        let world = world();
        trained(&world, "blake3:01");
        if let Some((count, after_effect)) = fail {
            world.fail_after(count, after_effect);
        }
        let mut quantized = false;
        for _ in 0..14 {
            let _ = world.deploy("shop").await;
            let keys = world.keys();
            if !quantized && keys.iter().any(|key| key.starts_with("jobs/")) {
                quantize_ends(&world, 0);
                quantized = true;
            }
            for key in keys.iter().filter(|key| key.starts_with("deployments/")) {
                if world.get(key)["status"].is_null() {
                    becomes_available(&world, key);
                }
            }
        }
        assert_eq!(world.condition(MD, "Ready"), "True Serving", "{fail:?}");
        let writes = world.writes().len();
        world.deploy("shop").await.unwrap();
        assert_eq!(world.writes(), Vec::<String>::new(), "{fail:?}");
        (world.keys(), writes)
    };
    let (keys, writes) = run(None).await;
    for count in 0..writes {
        for after_effect in [false, true] {
            let (found, _) = run(Some((count, after_effect))).await;
            assert_eq!(found, keys, "after write {count}");
        }
    }
}

/// A gateway pod at this address, and what it will say of its figures.
async fn gateway(world: &World, address: &str) -> (Arc<Mutex<Value>>, Arc<Mutex<Value>>) {
    let (table, measured) = (Arc::new(Mutex::new(Value::Null)), Arc::new(Mutex::new(json!({}))));
    let documents = [("/routing", table.clone()), ("/measured", measured.clone())];
    crate::common::serve(&format!("{address}:9090"), &documents).await;
    world.put(
        "pods",
        json!({
            "metadata": {"name": "shop-gateway-x", "annotations": {"hearth.dev/parent": "shop"},
                "labels": world.get("deployments/shop-gateway")["spec"]["template"]["metadata"]["labels"]},
            "spec": {"containers": []},
            "status": {"phase": "Running", "podIP": address},
        }),
    );
    (table, measured)
}

/// A deployment whose second revision is ready to be tried; both revisions.
async fn second_revision(world: &World, rollout: Value) -> (String, String) {
    world.change(MD, |d| d["spec"]["rollout"] = rollout);
    let first = first_revision(world).await;
    trained(world, "blake3:02");
    world.deploy("shop").await.unwrap();
    quantize_ends(world, 0);
    world.deploy("shop").await.unwrap();
    let second = world.get(MD)["status"]["canary"]["revision"].as_str().unwrap().to_owned();
    becomes_available(world, &server_of(world, &second));
    (first, second)
}

fn figures(table: &Value, requests: u64, failed: u64) -> Value {
    let figures = json!({"requests": requests, "failed": failed, "latencies": [[64, requests]]});
    let of = |name: &str, figures: &Value| {
        json!({"name": name, "assigned": requests, "total": figures, "window": figures,
            "outcomes": {"reported": 0, "succeeded": 0}})
    };
    json!({"id": table["measure"]["id"], "variants": [of("stable", &figures), of("canary", &figures)]})
}

fn weights(world: &World) -> Vec<(String, u64)> {
    let table = routed(world);
    let variants = table["variants"].as_array().unwrap();
    let of =
        |v: &Value| (v["revision"].as_str().unwrap().to_owned(), v["weight"].as_u64().unwrap());
    variants.iter().map(of).collect()
}

#[tokio::test]
async fn a_canary_is_measured_and_takes_over() {
    let world = world();
    let rollout = json!({"strategy": "Canary",
        "steps": [{"weight": 10, "holdSeconds": 30}, {"weight": 50}],
        "analysis": {"maxErrorRate": 0.01, "minRequests": 50}});
    let (first, second) = second_revision(&world, rollout).await;
    let (table, measured) = gateway(&world, "127.90.90.2").await;
    world.deploy("shop").await.unwrap();
    assert_eq!(weights(&world), [(first.clone(), 90), (second.clone(), 10)]);
    assert_eq!(world.get(MD)["status"]["state"], "RollingOut");
    assert_eq!(world.condition(MD, "Ready"), "True Serving");
    *table.lock().unwrap() = routed(&world);

    // Nobody asks: nothing happens, and nothing is written.
    world.pass(31);
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Progressing"), "True Measuring");
    world.writes();
    world.pass(3);
    world.deploy("shop").await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());

    *measured.lock().unwrap() = figures(&routed(&world), 100, 0);
    world.deploy("shop").await.unwrap();
    assert_eq!(weights(&world), [(first.clone(), 50), (second.clone(), 50)]);
    let status = world.get(MD)["status"].clone();
    assert_eq!((&status["rollout"]["step"], &status["rollout"]["steps"]), (&json!(2), &json!(2)));
    *measured.lock().unwrap() = figures(&routed(&world), 200, 1);
    world.pass(60);
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Progressing"), "True WaitingForPromotion");
    let told = &world.get(MD)["status"]["canary"]["traffic"];
    assert_eq!((&told["requests"], &told["errorRate"]), (&json!(200), &json!(0.005)));

    world.change(MD, |d| {
        d["metadata"]["annotations"] =
            json!({"hearth.dev/rollout-order": format!("promote {second} 1")});
    });
    world.deploy("shop").await.unwrap();
    assert_eq!(weights(&world), [(second.clone(), 100)]);
    *table.lock().unwrap() = routed(&world);
    world.pass(70);
    world.deploy("shop").await.unwrap();
    world.deploy("shop").await.unwrap();
    assert_eq!(world.condition(MD, "Progressing"), "False Complete");
    assert!(!world.keys().iter().any(|key| key.contains(&first)));
    let status = world.get(MD)["status"].clone();
    assert!(status["rollout"].is_null() && status["stable"]["traffic"].is_null(), "{status}");
}

#[tokio::test]
async fn a_bad_canary_is_sent_back_and_the_old_revision_never_stops() {
    let world = world();
    let rollout = json!({"analysis": {"maxErrorRate": 0.01, "minRequests": 50}});
    let (first, second) = second_revision(&world, rollout).await;
    let (table, measured) = gateway(&world, "127.90.90.3").await;
    world.deploy("shop").await.unwrap();
    // Blue and green: all traffic, but the old revision stays until the new one is judged.
    assert_eq!(weights(&world), [(first.clone(), 0), (second.clone(), 100)]);
    *table.lock().unwrap() = routed(&world);
    *measured.lock().unwrap() = figures(&routed(&world), 100, 2);
    world.pass(3);
    world.deploy("shop").await.unwrap();
    assert_eq!(weights(&world), [(first.clone(), 100)]);
    assert_eq!(world.condition(MD, "Degraded"), "True TooManyErrors");
    assert_eq!(world.condition(MD, "Ready"), "True Serving");
    let told = world.told(MD, "Degraded");
    assert!(told.contains("2.00 % of 100 newest requests failed"), "{told}");
    assert_eq!(world.get(MD)["status"]["rejected"]["revision"], second.as_str());
    assert!(world.keys().contains(&format!("deployments/shop-server-{second}")));

    world.pass(70);
    *table.lock().unwrap() = routed(&world);
    world.deploy("shop").await.unwrap();
    world.deploy("shop").await.unwrap();
    assert!(!world.keys().contains(&format!("deployments/shop-server-{second}")));
    world.writes();
    world.pass(600);
    world.deploy("shop").await.unwrap();
    assert_eq!(world.writes(), Vec::<String>::new());
    assert_eq!(weights(&world), [(first, 100)]);
}

const ROUTE: &str = "httproutes/shop";

fn is_routed(world: &World, gateways: &Value) {
    world.change(MD, |shop| {
        shop["spec"]["model"] = json!({"source": "pvc://models/spam"});
        shop["spec"].as_object_mut().unwrap().remove("compression");
        shop["spec"]["routing"] = "HTTPRoute".into();
        shop["spec"]["httpRoute"] = json!({"parentRefs": gateways});
    });
}

#[tokio::test]
async fn an_http_route_leads_to_the_gateway_and_goes_when_it_is_not_asked_for() {
    let world = world();
    world.gateway_api(true);
    let gateways = json!([{"name": "edge", "namespace": "infra"}, {"name": "inner"}]);
    is_routed(&world, &gateways);
    for _ in 0..2 {
        world.deploy("shop").await.unwrap();
    }
    let route = world.get(ROUTE);
    assert_eq!(route["apiVersion"], "gateway.networking.k8s.io/v1");
    assert_eq!(route["spec"]["parentRefs"], gateways);
    assert_eq!(route["spec"]["rules"], json!([{"backendRefs": [{"name": "shop", "port": 80}]}]));
    assert_eq!(route["metadata"]["ownerReferences"][0]["uid"], "u-2");
    assert_eq!(world.condition(MD, "Routed"), "Unknown Waiting");
    world.writes();
    world.deploy("shop").await.unwrap();
    assert!(world.writes().is_empty());

    let accepted = |type_: &str, status: &str| {
        json!({"conditions": [{"type": type_, "status": status, "reason": "NotAllowedByListeners",
            "message": "namespace team-a is not allowed"}]})
    };
    for (parents, want) in [
        (json!([accepted("Accepted", "True")]), "Unknown Waiting"),
        (json!([accepted("Accepted", "True"), accepted("Accepted", "False")]), "False Refused"),
        (json!([accepted("Accepted", "True"), accepted("ResolvedRefs", "False")]), "False Refused"),
        (json!([accepted("Accepted", "True"), accepted("Accepted", "True")]), "True Accepted"),
    ] {
        world.change(ROUTE, |route| route["status"]["parents"] = parents);
        world.deploy("shop").await.unwrap();
        assert_eq!(world.condition(MD, "Routed"), want);
    }
    // Some controllers say nothing but the reason.
    let mut mute = accepted("Accepted", "False");
    mute["conditions"][0]["message"] = "".into();
    world.change(ROUTE, |route| route["status"]["parents"] = json!([mute]));
    world.deploy("shop").await.unwrap();
    let told = world.told(MD, "Routed");
    assert!(told.contains("NotAllowedByListeners: its listeners take no routes of this"), "{told}");

    // The operator dies before it has deleted the route; the next one finds the mark.
    world.change(MD, |shop| {
        shop["spec"]["routing"] = "Gateway".into();
        shop["spec"].as_object_mut().unwrap().remove("httpRoute");
    });
    world.fail_after(0, false);
    assert!(world.deploy("shop").await.is_err());
    world.restart();
    for _ in 0..3 {
        world.deploy("shop").await.unwrap();
    }
    assert!(world.get(ROUTE).is_null());
    assert_eq!(world.condition(MD, "Routed"), "absent");
    let marks = &world.get("configmaps/shop-routing")["metadata"]["annotations"];
    assert!(marks["hearth.dev/http-route"].is_null(), "{marks}");
    world.writes();
    world.deploy("shop").await.unwrap();
    assert!(world.writes().is_empty());
}

#[tokio::test]
async fn without_the_gateway_api_a_condition_says_so_until_it_is_there() {
    let world = world();
    is_routed(&world, &json!([{"name": "edge"}]));
    for _ in 0..2 {
        world.deploy("shop").await.unwrap();
    }
    assert_eq!(world.condition(MD, "Routed"), "False NoGatewayAPI");
    assert!(world.told(MD, "Routed").contains("install the Gateway API"));
    assert!(world.events().iter().any(|event| event["reason"] == "NotRouted"));
    assert!(world.keys().contains(&"services/shop".to_owned()), "it serves all the same");
    world.writes();
    world.deploy("shop").await.unwrap();
    assert!(world.writes().is_empty());
    world.gateway_api(true);
    for _ in 0..2 {
        world.deploy("shop").await.unwrap();
    }
    assert!(!world.get(ROUTE).is_null());
    assert_eq!(world.condition(MD, "Routed"), "Unknown Waiting");
}

#[tokio::test]
async fn gateways_mount_the_keys_of_an_issuer_and_know_whose_tokens_let_in() {
    let world = world();
    world.change(MD, |shop| {
        shop["spec"]["model"] = json!({"source": "pvc://models/spam"});
        shop["spec"].as_object_mut().unwrap().remove("compression");
        shop["spec"]["gateway"] = json!({"oidc": {"issuer": "https://login.example.com/a",
            "audience": "shop", "jwksConfigMapName": "issuer-keys", "requestsPerMinute": 60}});
    });
    world.deploy("shop").await.unwrap();
    let pod = &world.get("deployments/shop-gateway")["spec"]["template"]["spec"];
    let args: Vec<_> = pod["containers"][0]["args"].as_array().unwrap().iter().collect();
    for flag in [
        "--oidc-keys=/etc/hearth/oidc",
        "--oidc-issuer=https://login.example.com/a",
        "--oidc-audience=shop",
        "--oidc-requests-per-minute=60",
    ] {
        assert!(args.iter().any(|arg| *arg == flag), "{flag}: {args:?}");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().any(|volume| volume["configMap"]["name"] == "issuer-keys"));
}
