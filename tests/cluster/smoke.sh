#!/usr/bin/env bash
# Shows that the cluster of up.sh is one: scheduling by GPUs, pods on two nodes that
# find each other by name and talk, Services, logs, exec, port-forward, Pod Security.
# Makes the cluster where it is not up; after success it then removes it and looks for
# leftovers, after a failure it leaves it to be looked at.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"
source "$here/../setup/oci.sh"
was_up=
[ ! -e "$KUBECONFIG_ADMIN" ] || was_up=yes
"$here/up.sh"
context=$(mktemp -d)
forward=
leave() {
  [ -z "$forward" ] || kill "$forward" 2>/dev/null || true
  rm -rf "$context"
  admin delete namespace smoke --ignore-not-found --wait=false >/dev/null || true
}
trap leave EXIT

ours() { admin -n smoke "$@"; }
field() { ours get "$1" "$2" -o jsonpath="$3"; }

# check WHAT COMMAND…: says so, or ends with what the command said. Bash ignores
# `set -e` in the command, so the functions below say `|| return` themselves.
check() {
  local what=$1 said
  shift
  if said=$("$@" 2>&1); then
    echo "ok: $SECONDS s: $what${said:+ ($(tail -n 1 <<<"$said"))}"
  else
    printf 'FAILED: %s\n%s\n' "$what" "$said"
    ours get pods -o wide
    ours get events | tail -n 20
    exit 1
  fi
}

image() {
  cp /bin/busybox "$here/smoke/smoke" "$context/"
  base_image
  keep_layers "$BASE_IMAGE"
  image=hearth.dev/smoke:$({ echo "$BASE_IMAGE"; cat "$here"/smoke/{Dockerfile,smoke} /bin/busybox; } | sha256sum | cut -c1-12)
  build_image "$image" "$here/smoke/Dockerfile" "$context" --build-arg "BASE=$BASE_IMAGE"
  deliver "$image"
  forget_others "$image"
}

nodes_ready() {
  admin wait --for=condition=Ready nodes --all --timeout=30s >/dev/null || return 1
  local count
  count=$(admin get nodes --no-headers | wc -l)
  [ "$count" -eq "$NODES" ] && echo "$count nodes"
}

ready_pods() { [ "$(field deployment web '{.status.readyReplicas}')" = "$1" ]; }
only_gpus_run() {
  await 60 "ready pods" ready_pods $((NODES * GPUS)) || return 1
  local pending
  pending=$(ours get pods -l app=web --field-selector status.phase=Pending -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="PodScheduled")].message}{"\n"}{end}')
  [ "$(wc -l <<<"$pending")" -eq 1 ] && grep 'Insufficient nvidia.com/gpu' <<<"$pending"
}

both_nodes() {
  local used
  used=$(ours get pods -l "$1" -o jsonpath='{range .items[*]}{.spec.nodeName}{"\n"}{end}' | grep . | sort -u | wc -l)
  [ "$used" -eq "$NODES" ] && echo "$used nodes"
}

from_machine() { timeout 10 "$here/smoke/smoke" "$@"; }
from_pod() { ours exec "$pod" -- smoke "$@"; }
# all_answer FROM HOST PORT: every pod behind a Service, where one asks often enough.
all_answer() {
  local seen
  seen=$("$1" names "$2" "$3" | sort -u)
  [ "$(wc -l <<<"$seen")" -eq $((NODES * GPUS)) ] && tr '\n' ' ' <<<"$seen"
}

refused() {
  { ours run privileged --image "$image" --privileged --restart=Never 2>&1 || true; } | grep -oE 'violates PodSecurity "[^"]*"'
}

heard() {
  ours wait --for=condition=Complete job/pair --timeout=90s >/dev/null || return 1
  local log
  log=$(ours logs -l job-name=pair --tail=-1)
  grep -q '^pair-0 heard from pair-1$' <<<"$log" && grep -q '^pair-1 heard from pair-0$' <<<"$log" && tr '\n' ';' <<<"$log"
}

forwarded() {
  await 10 "port-forward" grep -q 127.0.0.1 "$context/forward" || return 1
  from_machine get 127.0.0.1 "$(sed -nE '1s/.*127\.0\.0\.1:([0-9]+).*/\1/p' "$context/forward")" /name
}

# 198.51.100.1 is an address for documentation: it is nobody's.
nothing_outside() {
  ours exec "$pod" -- bash -c '! timeout 3 bash -c "echo >/dev/tcp/198.51.100.1/80" 2>&1' && echo "rejected"
}

image
admin delete namespace smoke --ignore-not-found >/dev/null
admin create namespace smoke >/dev/null
admin label namespace smoke pod-security.kubernetes.io/enforce=restricted >/dev/null
await 30 "service account" ours get serviceaccount default
sed "s|IMAGE|$image|; s|REPLICAS|$((NODES * GPUS + 1))|" "$here/smoke/objects.yaml" | ours apply -f - >/dev/null

check "nodes are ready" nodes_ready
check "as many pods run as there are GPUs; one more waits" only_gpus_run
check "they are on all nodes" both_nodes app=web
check "a pod that Pod Security forbids is refused" refused
pod=$(ours get pods -l app=web --field-selector status.phase=Running -o jsonpath='{.items[0].metadata.name}')
check "exec" ours exec "$pod" -- hostname
check "a Service's name answers in a pod, from every pod behind it" all_answer from_pod web 80
check "a Service's address answers on this machine" all_answer from_machine "$(field service web '{.spec.clusterIP}')" 80
check "a NodePort answers on this machine" from_machine names "$(node_address 1)" "$(field service web '{.spec.ports[0].nodePort}')"
ours port-forward service/web :80 >"$context/forward" 2>&1 &
forward=$!
check "port-forward" forwarded
check "pods of an Indexed Job find each other by name and talk" heard
check "they were on all nodes" both_nodes app=pair
check "pods reach nothing outside this machine" nothing_outside
leave
trap - EXIT
if [ -z "$was_up" ]; then
  "$here/down.sh"
  "$here/check-clean.sh"
fi
