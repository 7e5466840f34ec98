//! Plans: one golden file a sample, and properties over any valid spec.

use std::collections::BTreeSet;

use hearth_crds::source::Source;
use hearth_crds::{HyperparamSweep, ModelDeployment, TrainingJob};
use hearth_operator::children::{Child, Live, LiveChildren, Plan, Write, difference};
use hearth_operator::deployment::observed::Model;
use hearth_operator::deployment::policy::{Compression, Decision};
use hearth_operator::deployment::{self, target};
use hearth_operator::seen::Seen;
use hearth_operator::training_job::{self, Backend};
use hearth_operator::{observed, plan_check, sweep};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

pub(crate) fn training_plan(mut job: TrainingJob) -> Plan {
    job.metadata.namespace = Some("team-a".into());
    job.metadata.uid = Some("11111111-2222-3333-4444-555555555555".into());
    let valid = training_job::validate::job(&job, &Backend::Cluster).unwrap();
    let seen = training_job::gather::Observed::default();
    training_job::plan::build(&valid, &seen, &crate::common::settings(), false)
}

/// The plan at the time when the new revision is compressed and gets traffic.
fn deployment_plan(mut deployment: ModelDeployment) -> Plan {
    deployment.metadata.namespace = Some("team-a".into());
    deployment.metadata.uid = Some("99999999-2222-3333-4444-555555555555".into());
    let valid = deployment::validate::deployment(&deployment).unwrap();
    let model = Model::Here {
        uri: Source::parse("pvc://models/spam/model").unwrap(),
        digest: Some("blake3:00".into()),
    };
    let target = target::of(&valid, (&model, &model), "hearth-worker:test").unwrap();
    let decision = Decision {
        compress: Compression::Present,
        serve: true,
        route: Some(target.revision.clone()),
        routed_at: Some(Timestamp::from_second(1_800_000_000).unwrap()),
        keep: BTreeSet::from([target.revision.clone()]),
        ..Decision::default()
    };
    let live = LiveChildren::new();
    deployment::plan::build(&valid, Some(&target), &decision, &live, &crate::common::settings())
}

/// The first trials.
fn sweep_plan(mut sweep: HyperparamSweep) -> Plan {
    sweep.metadata.namespace = Some("team-a".into());
    sweep.metadata.uid = Some("55555555-2222-3333-4444-555555555555".into());
    let valid = sweep::validate::sweep(&sweep).unwrap();
    let jobs = sweep::policy::decide(&valid, &sweep::gather::Observed::default()).start;
    let children = jobs.into_iter().map(|job| Child::TrainingJob(Box::new(job))).collect();
    Plan { children, ..Plan::default() }
}

fn plan_of(text: &str) -> Plan {
    let document: Value = serde_yaml_ng::from_str(text).unwrap();
    match document["kind"].as_str() {
        Some("TrainingJob") => training_plan(serde_json::from_value(document).unwrap()),
        Some("ModelDeployment") => deployment_plan(serde_json::from_value(document).unwrap()),
        Some("HyperparamSweep") => sweep_plan(serde_json::from_value(document).unwrap()),
        kind => panic!("no plan for kind {kind:?}"),
    }
}

/// What the caches show after all of a plan was written.
fn live_after(plan: &Plan) -> LiveChildren {
    let view = |child: &Child| {
        let seen: Seen = serde_json::from_value(child.manifest()).unwrap();
        let live = Live { uid: "live".into(), ..observed::live(&seen) };
        (child.id(), live)
    };
    plan.children.iter().map(view).collect()
}

fn owner(plan: &Plan) -> String {
    plan.children[0].metadata().owner_references.as_ref().unwrap()[0].uid.clone()
}

#[test]
fn each_sample_keeps_its_reviewed_plan() {
    // Of a folder, what Hearth plans; the rest of it is applied as it stands.
    insta::glob!("../../../manifests/samples", "{*,*/training,*/deployment}.yaml", |path| {
        let plan = plan_of(&std::fs::read_to_string(path).unwrap());
        assert_eq!(plan_check::faults(&plan), Vec::<String>::new());
        let objects: Vec<_> = plan.children.iter().map(Child::to_value).collect();
        insta::assert_yaml_snapshot!(objects);
    });
}

#[test]
fn the_linter_finds_what_it_looks_for() {
    type Harm = fn(&mut Value);
    let text = std::fs::read_to_string("../manifests/samples/spam.yaml").unwrap();
    let cases: [(&str, Harm); 8] = [
        ("may run as root", |j| {
            j["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = false.into();
        }),
        ("shares a namespace", |j| j["spec"]["template"]["spec"]["hostNetwork"] = true.into()),
        ("kind that it may not have", |j| {
            j["spec"]["template"]["spec"]["volumes"][0] =
                json!({"name": "tmp", "hostPath": {"path": "/"}});
        }),
        ("token", |j| {
            j["spec"]["template"]["spec"]["automountServiceAccountToken"] = true.into();
        }),
        ("keeps capabilities", |j| {
            j["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"] =
                json!({});
        }),
        ("no memory limit", |j| {
            j["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({});
        }),
        ("controlling owner", |j| j["metadata"]["ownerReferences"] = json!([])),
        ("DNS label", |j| j["metadata"]["name"] = "a".repeat(64).into()),
    ];
    for (want, harm) in cases {
        let mut plan = plan_of(&text);
        let Some(Child::Job(job)) = plan.children.last_mut() else { panic!("no Job") };
        let mut value = serde_json::to_value(&*job).unwrap();
        harm(&mut value);
        **job = serde_json::from_value(value).unwrap();
        let faults = plan_check::faults(&plan).join("\n");
        assert!(faults.contains(want), "{want}: {faults}");
    }
}

#[test]
fn nothing_is_sent_where_nothing_changed_and_only_what_did() {
    let text = std::fs::read_to_string("../manifests/samples/spam-deployment.yaml").unwrap();
    let plan = plan_of(&text);
    let owner = owner(&plan);
    let mut live = live_after(&plan);
    assert_eq!(difference(&plan, &live, &owner).unwrap(), []);
    // Somebody edits the routing table.
    let (id, table) = live.iter_mut().find(|(id, _)| id.name == "spam-routing").unwrap();
    table.data = Some([("routing.json".to_owned(), "{}".to_owned())].into());
    let id = id.clone();
    let writes = difference(&plan, &live, &owner).unwrap();
    assert!(matches!(&writes[..], [Write::Update(found, _)] if *found == id), "{writes:?}");
    // Two pods become three.
    let scaled = plan_of(&text.replace("replicas: 2", "replicas: 3"));
    let writes = difference(&scaled, &live_after(&plan), &owner).unwrap();
    let [Write::Update(id, body)] = &writes[..] else { panic!("{writes:?}") };
    assert!(id.name.starts_with("spam-server-"), "{id:?}");
    assert_eq!(body["spec"]["replicas"], 3);
}

/// The server's pod of a deployment whose node keeps models in `claim`.
fn cached(claim: &str) -> Value {
    let plan = deployment_plan(
        serde_json::from_value(json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "spam"},
            "spec": {
                "model": {"fromTrainingJob": "spam"},
                "serving": {
                    "nodeCache": {"claimName": claim, "maxBytes": 8_000_000_000_i64},
                    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"},
                                  "requests": {"cpu": 2}},
                },
            },
        }))
        .unwrap(),
    );
    assert_eq!(plan_check::faults(&plan), Vec::<String>::new());
    let is_server =
        |child: &&Child| matches!(child, Child::Deployment(_)) && child.name().contains("-server-");
    let config = plan
        .children
        .iter()
        .find(|child| matches!(child, Child::ConfigMap(_)) && child.name().contains("-server-"));
    let config = config.unwrap().to_value()["data"]["config.json"].clone();
    let config: Value = serde_json::from_str(config.as_str().unwrap()).unwrap();
    assert_eq!(
        config["nodeCache"],
        json!({"path": "/mnt/hearth-node-cache", "claim": claim, "maxBytes": 8_000_000_000_i64})
    );
    let server = plan.children.iter().find(is_server).unwrap().to_value();
    server["spec"]["template"]["spec"].clone()
}

#[test]
fn a_model_is_copied_to_the_node_before_the_server_reads_it_there() {
    let pod = cached("fast");
    let (copier, server) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(copier["args"], json!(["cache", "--config", "/etc/hearth/config.json"]));
    assert_eq!(copier["image"], server["image"]);
    assert_eq!(copier["securityContext"], server["securityContext"]);
    // What the server gets but its GPU: the pod asks for no more than without the cache.
    assert_eq!(copier["resources"]["limits"], json!({"memory": "8Gi"}));
    assert_eq!(copier["resources"]["requests"], server["resources"]["requests"]);
    let mounted = |container: &Value, path: &str| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path).unwrap();
        (mount["name"].as_str().unwrap().to_owned(), mount["readOnly"] == true)
    };
    let (model, cache) = ("/mnt/hearth/models", "/mnt/hearth-node-cache");
    assert_eq!(mounted(copier, model), ("claim-0".into(), true));
    assert_eq!(mounted(copier, cache), ("node-cache".into(), false));
    assert_eq!(mounted(server, cache), ("node-cache".into(), true));
    let volume = |name: &str, pod: &Value| {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes.iter().filter(|volume| volume["name"] == name).count()
    };
    assert_eq!(volume("node-cache", &pod), 1);
    // The models' own claim: one volume, since a kubelet mounts a claim once a pod.
    let pod = cached("models");
    assert_eq!(volume("node-cache", &pod), 0);
    let (copier, server) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(mounted(copier, cache), ("claim-0".into(), false));
    assert_eq!(mounted(copier, model), ("claim-0".into(), true));
    assert_eq!(mounted(server, cache), ("claim-0".into(), true));
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        "[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,60}[a-z0-9])?){0,2}",
    ]
}

prop_compose! {
    fn jobs()(
        name in names(),
        claims in proptest::collection::vec(names(), 3),
        replicas in 1..1025,
        processes in 1..9,
        gpus in 0..9,
        has_eval in any::<bool>(),
        suspend in any::<bool>(),
        queue in proptest::option::of("[a-z]{1,20}"),
        memory in proptest::option::of(1..512),
        secrets in proptest::collection::vec("[a-z]{1,12}", 0..3),
    ) -> Value {
        let mut limits = json!({"nvidia.com/gpu": gpus});
        if let Some(memory) = memory {
            limits["memory"] = json!(format!("{memory}Gi"));
        }
        let mut job = json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": name},
            "spec": {
                "task": "SequenceClassification",
                "model": {"source": format!("pvc://{}/m", claims[0])},
                "data": {"train": {"source": format!("pvc://{}/d.jsonl", claims[1])}},
                "workers": {"replicas": replicas, "processesPerWorker": processes,
                    "accelerator": if gpus >= processes { "CUDA" } else { "CPU" },
                    "resources": {"limits": limits}, "imagePullSecrets": secrets},
                "output": {"destination": format!("pvc://{}/o", claims[2])},
                "suspend": suspend && queue.is_none(),
            },
        });
        if has_eval {
            job["spec"]["data"]["eval"] = json!({"source": format!("pvc://{}/e.jsonl", claims[1])});
        }
        if let Some(queue) = queue {
            job["metadata"]["labels"] = json!({"kueue.x-k8s.io/queue-name": queue});
        }
        job
    }
}

prop_compose! {
    fn deployments()(
        name in names(),
        claim in names(),
        replicas in 1..1001,
        gateways in 1..101,
        compress in any::<bool>(),
        timeout in 1..86_401,
        cache in proptest::option::of(names()),
    ) -> Value {
        let mut deployment = json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {
                "model": {"source": format!("pvc://{claim}/m")},
                "serving": {"replicas": replicas},
                "gateway": {"replicas": gateways, "requestTimeoutSeconds": timeout},
            },
        });
        if let Some(cache) = cache {
            deployment["spec"]["serving"]["nodeCache"] = json!({"claimName": cache});
        }
        if compress {
            deployment["spec"]["compression"] = json!({"quantization": "INT8",
                "gate": {"data": {"source": format!("pvc://{claim}/e.jsonl")}, "maxDrop": 0.01}});
        }
        deployment
    }
}

fn check(plan: &Plan, again: &Plan) -> Result<(), TestCaseError> {
    prop_assert_eq!(plan_check::faults(plan), Vec::<String>::new());
    prop_assert_eq!(plan, again, "equal inputs give equal plans");
    let writes = difference(plan, &live_after(plan), &owner(plan)).unwrap();
    prop_assert_eq!(writes, vec![], "after it is written, nothing is left to write");
    for child in &plan.children {
        prop_assert!(child.name().len() <= 63, "{}", child.name());
        // Pods of a Job are NAME-INDEX-RANDOM, and host names NAME-INDEX.
        if matches!(child, Child::Job(_)) {
            prop_assert!(child.name().len() + "-1023-xxxxx".len() <= 63, "{}", child.name());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_valid_job_has_a_good_plan(job in jobs()) {
        let plan = || training_plan(serde_json::from_value(job.clone()).unwrap());
        check(&plan(), &plan())?;
    }

    #[test]
    fn any_valid_deployment_has_a_good_plan(deployment in deployments()) {
        let plan = || deployment_plan(serde_json::from_value(deployment.clone()).unwrap());
        check(&plan(), &plan())?;
    }
}

#[test]
fn generated_files_are_those_in_the_repository() {
    for (path, text) in hearth_operator::crd_files::files().unwrap() {
        let there = std::fs::read_to_string(std::path::Path::new("..").join(&path));
        assert!(
            there.is_ok_and(|there| there == text),
            "{} is stale: run `make crds`",
            path.display()
        );
    }
}
