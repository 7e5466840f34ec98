#!/usr/bin/env bash
# One node of the cluster. Usage: node.sh prepare|start|kill|fence N
#   prepare  its network, cgroups and containerd
#   start    containerd and kubelet, again or for the first time
#   kill     as a power failure: kubelet, containerd, shims and every pod's processes
#   fence    tells Kubernetes that a killed node is really off, as an administrator
#            or a cloud's controller does (the taint out-of-service): its pods are
#            then removed. `start` takes it back.
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
FENCE=node.kubernetes.io/out-of-service

network() {
  local node=$1 home=$DIR/node$1
  ip link show "$(bridge "$node")" >/dev/null 2>&1 || ip link add "$(bridge "$node")" type bridge
  ip addr replace "$(node_address "$node")/24" dev "$(bridge "$node")"
  ip link set "$(bridge "$node")" up
  # containerd watches the folder: it must not see half a file.
  [ ! -e "$home/cni/10-hearth.conflist" ] || return 0
  mkdir -p "$home/cni"
  cat >"$home/cni.new" <<JSON
{"cniVersion": "0.4.0", "name": "hearth$node", "plugins": [
  {"type": "bridge", "bridge": "$(bridge "$node")", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$home/ipam",
            "ranges": [[{"subnet": "10.244.$node.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "loopback"}]}
JSON
  mv "$home/cni.new" "$home/cni/10-hearth.conflist"
}

# Version 1's cpuset starts empty in a new group, and refuses processes until it is filled.
cgroups() {
  local root part group
  for root in $(cgroup_roots); do
    group=$root/$(node_cgroup "$1")
    mkdir -p "$group"
    for part in cpuset.cpus cpuset.mems; do
      [ -e "$root/$part" ] && [ -e "$group/$part" ] || continue
      [ -n "$(cat "$group/$part")" ] || cat "$root/$part" >"$group/$part"
    done
  done
}

containerd_config() {
  local home=$DIR/node$1
  cat >"$home/containerd.toml" <<TOML
version = 2
root = "$home/root"
state = "$home/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = "$home/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "$home/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
restrict_oom_score_adj = true
disable_apparmor = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "$home/runc"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$home/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "$home/certs.d"
TOML
}

kubelet_config() {
  local node=$1 home=$DIR/node$1
  mkdir -p "$home/logs" "$home/kubelet"
  : >"$home/resolv.conf"
  cat >"$home/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_address "$node")
healthzBindAddress: $(node_address "$node")
containerRuntimeEndpoint: unix://$home/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$(node_cgroup "$node")
failCgroupV1: false
failSwapOn: false
podLogsDir: $home/logs
resolvConf: $home/resolv.conf
volumePluginDir: $home/plugins
clusterDomain: cluster.local
clusterDNS: [$SERVER]
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $DIR/pki/ca.crt}}
authorization: {mode: AlwaysAllow}
nodeStatusUpdateFrequency: 2s
nodeStatusReportFrequency: 10s
nodeLeaseDurationSeconds: 8
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 64Mi}
serializeImagePulls: false
imagePullCredentialsVerificationPolicy: NeverVerify
maxPods: 100
shutdownGracePeriod: 0s
syncFrequency: 10s
logging: {verbosity: 2}
YAML
}

prepare_node() {
  local node=$1 home=$DIR/node$1
  network "$node"
  cgroups "$node"
  containerd_config "$node"
  alive "containerd-$node" || run "containerd-$node" env TMPDIR="$home" containerd --config "$home/containerd.toml"
  await 30 "containerd of node $node" ctr --address "$home/containerd.sock" version
  if ! ctr --address "$home/containerd.sock" -n k8s.io images ls -q | grep -qx "$PAUSE_IMAGE"; then
    ctr --address "$home/containerd.sock" -n k8s.io images import "$PAUSE_ARCHIVE" >/dev/null
  fi
}

node_json() { admin get node "$(node_name "$1")" -o jsonpath="$2"; }

# The kubelet of this start has reported, not only the one before it.
reported_since() {
  local at
  at=$(node_json "$1" '{.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}')
  [ -n "$at" ] && [ "$(date -d "$at" +%s)" -ge "$2" ]
}

# The device plugin's part: scheduler and kubelet honour these counts. A kubelet
# that registers anew takes them back, so they are looked at after its report.
pretend_gpus() {
  local patch
  patch=$(printf '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "%s"}]' "$GPUS")
  [ "$(node_json "$1" '{.status.capacity.nvidia\.com/gpu}')" = "$GPUS" ] ||
    admin patch node "$(node_name "$1")" --subresource=status --type=json -p "$patch"
  [ "$(node_json "$1" '{.status.allocatable.nvidia\.com/gpu}')" = "$GPUS" ]
}

start_node() {
  local node=$1 home=$DIR/node$1 from
  from=$(date +%s)
  prepare_node "$node"
  kubelet_config "$node"
  alive "kubelet-$node" || run "kubelet-$node" kube kubelet --config "$home/kubelet.yaml" \
    --kubeconfig "$DIR/pki/node-$node.kubeconfig" --root-dir "$home/kubelet" --cert-dir "$home/kubelet-pki" \
    --hostname-override "$(node_name "$node")" --node-ip "$(node_address "$node")" --node-labels "hearth.dev/node=$node"
  await 60 "node $node" reported_since "$node" "$from"
  admin taint node "$(node_name "$node")" "$FENCE-" >/dev/null 2>&1 || true
  await 30 "GPUs of node $node" pretend_gpus "$node"
}

case ${1:-}:${2:-} in
  prepare:[1-9]) prepare_node "$2" ;;
  start:[1-9]) start_node "$2" ;;
  kill:[1-9]) kill_node "$2" ;;
  fence:[1-9]) admin taint node "$(node_name "$2")" "$FENCE=nodeshutdown:NoExecute" --overwrite >/dev/null ;;
  *)
    echo "usage: $0 prepare|start|kill|fence N" >&2
    exit 64
    ;;
esac
