//! What all of Hearth's pods share: Pod Security `restricted`, mounts, and
//! where they run.

use std::collections::BTreeMap;
use std::path::Path;

use hearth_crds::pod::{PodPlacement, Resources};
use hearth_crds::source::MOUNT_ROOT;
use hearth_crds::worker_config::{CONFIG_PATH, TERMINATION_LOG};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvFromSource,
    EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, LocalObjectReference, ObjectFieldSelector,
    PersistentVolumeClaimVolumeSource, PodAffinityTerm, PodAntiAffinity, PodSecurityContext,
    PodSpec, Probe, ResourceFieldSelector, ResourceRequirements, SeccompProfile, SecretEnvSource,
    SecretVolumeSource, SecurityContext, Toleration, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::training_job::validate::ClaimUse;

/// User and group of every process in Hearth's images (`nonroot`).
pub const USER: i64 = 65532;

/// How long a node may be silent before its pods are given up.
pub const NODE_SILENCE_SECONDS: i64 = 15;

/// Images and how they are pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Image with `hearth-worker` as its entry point.
    pub worker: String,
    /// Image with `hearth-gateway`.
    pub gateway: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
}

/// Memory of a container whose spec says nothing about it.
#[derive(Clone, Copy, Debug)]
pub struct MemoryDefault {
    /// What is guaranteed.
    pub request: &'static str,
    /// What it may use at most.
    pub limit: &'static str,
}

/// One container that runs a Hearth binary on a configuration file.
pub struct Program<'a> {
    /// Container name.
    pub name: &'a str,
    /// Image.
    pub image: &'a str,
    /// Pull policy.
    pub pull_policy: &'a str,
    /// Arguments of the entry point.
    pub args: Vec<String>,
    /// Resources asked for.
    pub resources: ResourceRequirements,
}

/// The container of a [`Program`], locked down.
pub fn container(program: Program<'_>) -> Container {
    Container {
        name: program.name.to_owned(),
        image: Some(program.image.to_owned()),
        image_pull_policy: Some(program.pull_policy.to_owned()),
        args: Some(program.args),
        resources: Some(program.resources),
        termination_message_path: Some(TERMINATION_LOG.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        env: Some(vec![
            from_field("POD_NAME", "metadata.name"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
            from_field("POD_IP", "status.podIP"),
        ]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount("tmp", "/tmp", false)]),
        ..Container::default()
    }
}

/// The container of `hearth-worker ARGS`, with the resources that its spec asks for.
pub fn worker(
    name: &str,
    images: &Images,
    args: Vec<String>,
    asked: &Resources,
    memory: MemoryDefault,
) -> Container {
    let mut container = container(Program {
        name,
        image: &images.worker,
        pull_policy: &images.pull_policy,
        args,
        resources: requirements(asked, memory),
    });
    tell_share(&mut container, asked);
    container
}

/// A pod of one container with `/tmp`, as an unprivileged user and without
/// API credentials.
pub fn pod(container: Container, placement: &PodPlacement) -> PodSpec {
    let secrets = placement.image_pull_secrets.iter();
    let some = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    let tolerations: Vec<_> =
        placement.tolerations.iter().map(hearth_crds::pod::Toleration::to_core).collect();
    PodSpec {
        containers: vec![container],
        volumes: Some(vec![empty_dir("tmp", None, "4Gi")]),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        node_selector: some(&placement.node_selector),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        priority_class_name: placement.priority_class_name.clone(),
        image_pull_secrets: (!placement.image_pull_secrets.is_empty())
            .then(|| secrets.map(|name| LocalObjectReference { name: name.clone() }).collect()),
        ..PodSpec::default()
    }
}

/// Mounts a Secret at `directory`.
pub fn add_secret(pod: &mut PodSpec, volume: &str, secret: &str, directory: &str) {
    add_keys(pod, volume, (secret, None), directory);
}

/// Mounts one key of a Secret as the file `path`.
pub fn add_key(pod: &mut PodSpec, volume: &str, (secret, key): (&str, &str), path: &str) {
    let path = Path::new(path);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let item = KeyToPath { key: key.to_owned(), path: file, mode: None };
    add_keys(pod, volume, (secret, Some(vec![item])), &directory.to_string_lossy());
}

/// Mounts these keys of a Secret at `directory`: all of them without.
fn add_keys(
    pod: &mut PodSpec,
    volume: &str,
    (secret, items): (&str, Option<Vec<KeyToPath>>),
    directory: &str,
) {
    let source = Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o440),
            items,
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    add_volume(pod, source, &mount(volume, directory, true));
}

/// Mounts the ConfigMap's `config.json` where workers look for it.
pub fn add_config(pod: &mut PodSpec, config_map: &str) {
    let directory = Path::new(CONFIG_PATH).parent().unwrap_or(Path::new("/"));
    add_config_map(pod, "config", config_map, &directory.to_string_lossy());
}

/// Mounts a ConfigMap at `directory`.
pub fn add_config_map(pod: &mut PodSpec, volume: &str, config_map: &str, directory: &str) {
    let source = Volume {
        name: volume.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    add_volume(pod, source, &mount(volume, directory, true));
}

/// Mounts claims at `/mnt/hearth/CLAIM`.
///
/// The claim itself is never attached read-only: one pod may read a claim that
/// another one writes, and a read-only attachment would refuse the second.
pub fn add_claims(pod: &mut PodSpec, claims: &BTreeMap<&str, ClaimUse>) {
    for (index, (claim, used)) in claims.iter().enumerate() {
        // A claim's name may be longer than a volume's, so volumes are numbered.
        let name = format!("claim-{index}");
        let volume = claim_volume(&name, claim);
        let path = format!("{MOUNT_ROOT}/{claim}");
        add_volume(pod, volume, &mount(&name, &path, *used == ClaimUse::Read));
    }
}

/// Runs `first` before the pod's container, which reads at `directory` what `first` wrote to the
/// claim there. What else the container has, `first` has, too.
pub fn add_cache(pod: &mut PodSpec, mut first: Container, claim: &str, directory: &str) {
    let behind = |volume: &&Volume| {
        volume.persistent_volume_claim.as_ref().is_some_and(|of| of.claim_name == claim)
    };
    let volumes = pod.volumes.get_or_insert_default();
    // Kubelets mount a claim once a pod, under one volume's name.
    let name = volumes.iter().find(behind).map(|volume| volume.name.clone());
    let name = name.unwrap_or_else(|| {
        let volume = claim_volume("node-cache", claim);
        volumes.push(volume.clone());
        volume.name
    });
    for container in &mut pod.containers {
        first.volume_mounts.clone_from(&container.volume_mounts);
        container.volume_mounts.get_or_insert_default().push(mount(&name, directory, true));
    }
    first.volume_mounts.get_or_insert_default().push(mount(&name, directory, false));
    pod.init_containers = Some(vec![first]);
}

/// Shared memory for NCCL, which keeps its queues there.
pub fn add_shared_memory(pod: &mut PodSpec) {
    let volume = empty_dir("shm", Some("Memory"), "1Gi");
    add_volume(pod, volume, &mount("shm", "/dev/shm", false));
}

fn add_volume(pod: &mut PodSpec, volume: Volume, mount: &VolumeMount) {
    pod.volumes.get_or_insert_default().push(volume);
    for container in &mut pod.containers {
        container.volume_mounts.get_or_insert_default().push(mount.clone());
    }
}

fn claim_volume(name: &str, claim: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            ..PersistentVolumeClaimVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn empty_dir(name: &str, medium: Option<&str>, limit: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: Some(Quantity(limit.to_owned())),
        }),
        ..Volume::default()
    }
}

/// A secret's keys as environment variables.
pub fn from_secret(name: &str) -> EnvFromSource {
    EnvFromSource {
        secret_ref: Some(SecretEnvSource { name: name.to_owned(), optional: Some(false) }),
        ..EnvFromSource::default()
    }
}

/// An environment variable from the pod's own fields.
pub fn from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// Tells the worker how many cores to count on where the pod has a CPU request
/// and no limit: threads in number of the node's cores would wait for each other
/// on cores that other pods use.
fn tell_share(container: &mut Container, asked: &Resources) {
    if asked.limits.contains_key("cpu") || !asked.requests.contains_key("cpu") {
        return;
    }
    container.env.get_or_insert_default().push(EnvVar {
        name: "HEARTH_CPUS".to_owned(),
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(ResourceFieldSelector {
                container_name: Some(container.name.clone()),
                // Rounded up to whole cores by the kubelet.
                divisor: Some(Quantity("1".to_owned())),
                resource: "requests.cpu".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

/// Resources as asked for; memory filled in where nothing is said, so that a
/// pod that leaks takes no node down with it.
pub(crate) fn requirements(asked: &Resources, memory: MemoryDefault) -> ResourceRequirements {
    let mut wanted = asked.to_requirements();
    let limits = wanted.limits.get_or_insert_default();
    let limited = limits.contains_key("memory");
    limits.entry("memory".into()).or_insert_with(|| Quantity(memory.limit.into()));
    let requests = wanted.requests.get_or_insert_default();
    if !limited {
        requests.entry("memory".into()).or_insert_with(|| Quantity(memory.request.into()));
    }
    if !limits.contains_key("cpu") {
        requests.entry("cpu".into()).or_insert_with(|| Quantity("100m".into()));
    }
    if requests.is_empty() {
        wanted.requests = None;
    }
    wanted
}

/// Keeps pods with these labels on different nodes where there is room.
pub fn apart(labels: BTreeMap<String, String>) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        topology_key: "kubernetes.io/hostname".to_owned(),
                        label_selector: Some(LabelSelector {
                            match_labels: Some(labels),
                            ..LabelSelector::default()
                        }),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// Tolerates a silent node for `seconds` only; Kubernetes' default is 300.
pub fn leave_lost_nodes_after(pod: &mut PodSpec, seconds: i64) {
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        pod.tolerations.get_or_insert_default().push(Toleration {
            key: Some(taint.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoExecute".to_owned()),
            toleration_seconds: Some(seconds),
            ..Toleration::default()
        });
    }
}

/// A probe of `path` on `port`, every `period` seconds.
pub fn http_probe(path: &str, port: u16, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(port)),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}
