#!/usr/bin/env bash
# Shared by the scripts of this folder: names, addresses, how a process is started
# so that exactly it can be ended again, and what ending a node means.
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../setup/env.sh"

DIR=$HEARTH_CLUSTER_DIR
NODES=${HEARTH_CLUSTER_NODES:-2}
GPUS=${HEARTH_CLUSTER_GPUS:-1} # that each node pretends to have
SERVER=10.244.1.1              # first node's bridge: API server and DNS
SERVICES=10.96.0.0/16
KUBECONFIG_ADMIN=$DIR/kubeconfig
PAUSE_IMAGE=hearth.dev/pause:1
PAUSE_ARCHIVE=$HEARTH_CACHE/pause-$(hearth_key "$(dirname "${BASH_SOURCE[0]}")"/pause.{c,sh}).tar

node_name() { echo "hearth-node-$1"; }
bridge() { echo "hearth$1"; }
node_address() { echo "10.244.$1.1"; }
node_cgroup() { echo "hearth-node$1"; }

# One cluster a machine, and one script at a time that makes or removes it.
exclusively() {
  exec 9>/run/lock/hearth-cluster.lock
  flock --timeout 300 9 || { hearth_say "another up.sh or down.sh has been at work for 5 minutes"; exit 75; }
}

# Kernel's start time of a process: with the id, it names one process for good.
# The name in the file may hold blanks, so it is cut off first.
start_time() {
  local line fields
  read -r line 2>/dev/null <"/proc/$1/stat" || return 0
  read -ra fields <<<"${line##*) }"
  echo "${fields[19]}"
}

# run NAME COMMAND…: starts a process of the cluster in a session of its own.
run() {
  local name=$1
  shift
  mkdir -p "$DIR/pids" "$DIR/log"
  setsid "$@" >>"$DIR/log/$name.log" 2>&1 </dev/null 9>&- &
  echo "$! $(start_time $!)" >"$DIR/pids/$name"
}

# alive NAME: whether the process that was started under this name still runs.
alive() {
  local id started
  read -r id started 2>/dev/null <"$DIR/pids/$1" || return 1
  [ -n "$started" ] && [ "$(start_time "$id")" = "$started" ]
}

# stop SIGNAL NAME…: signals processes and waits until they are gone.
stop() {
  local signal=$1 name id
  shift
  for name in "$@"; do
    alive "$name" || continue
    read -r id _ <"$DIR/pids/$name"
    kill "-$signal" "$id" 2>/dev/null || true
  done
  for name in "$@"; do
    for _ in $(seq 100); do alive "$name" && sleep 0.05 || break; done
    if alive "$name"; then
      read -r id _ <"$DIR/pids/$name"
      kill -KILL "$id" 2>/dev/null || true
    fi
    rm -f "$DIR/pids/$name"
  done
}

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
  local seconds=$1 what=$2 end
  shift 2
  end=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      hearth_say "$what: not within $seconds s; logs are in $DIR/log"
      return 1
    fi
    sleep 0.1
  done
}

# answers HOST PORT PATH: whether plain HTTP there says 200.
answers() {
  local status
  exec 8<>"/dev/tcp/$1/$2" || return 1
  printf 'GET %s HTTP/1.0\r\n\r\n' "$3" >&8
  read -r _ status _ <&8
  exec 8>&-
  [ "$status" = 200 ]
}

admin() { kubectl --kubeconfig "$KUBECONFIG_ADMIN" "$@"; }

# Folders of cgroup controllers, of either version.
cgroup_roots() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo /sys/fs/cgroup
  else
    find /sys/fs/cgroup -mindepth 1 -maxdepth 1 -type d
  fi
}

# The cgroups that were made for nodes: by up.sh, and by a run that was killed.
our_cgroups() {
  local root
  for root in $(cgroup_roots); do
    find "$root" -mindepth 1 -maxdepth 1 -type d -name "$(node_cgroup '[0-9]*')"
  done
}

# Processes in the cgroups of a node's pods.
pod_processes() {
  local root
  for root in $(cgroup_roots); do
    [ -d "$root/$(node_cgroup "$1")" ] || continue
    find "$root/$(node_cgroup "$1")" -name cgroup.procs -exec cat {} + 2>/dev/null || true
  done | sort -un
}

# daemons PATTERN: ids of our programs whose command line has the pattern; an
# editor or a `tail` on our files is not one of them.
daemons() {
  local id
  for id in $(pgrep -f -- "$1" || true); do
    case $(basename "$(readlink "/proc/$id/exe" 2>/dev/null)") in
      kube | containerd | containerd-shim* | runc) echo "$id" ;;
    esac
  done
}

# Ends what runs on a node at once: its daemons, their shims, its pods' processes.
kill_node() {
  local node=$1 id left
  stop KILL "kubelet-$node" "containerd-$node"
  for _ in $(seq 100); do
    left="$(daemons "$DIR/node$node/") $(pod_processes "$node")"
    [ -n "${left// /}" ] || return 0
    for id in $left; do kill -KILL "$id" 2>/dev/null || true; done
    sleep 0.05
  done
  hearth_say "these processes of node $node do not end: $left"
  return 1
}
