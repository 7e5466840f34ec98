#!/usr/bin/env bash
# Builds the bundle and installs it on the cluster of tests/cluster from a network namespace with no
# way out: it reaches the API server and a registry on this machine, and has no default route.
# Makes the cluster where it is not up, and then removes it again. Takes a minute.
#
# What this starts ends with it, also when it is killed: processes are told of their parent's death,
# and the namespace with its link goes with its last process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/cluster/lib.sh
LINK=hearth-offline
HOST=169.254.77.1 # this machine, as the namespace sees it
GUEST=169.254.77.2
SECURE=$HOST:5443 # a registry with TLS and a password
PLAIN=$HOST:5080  # one with neither
was_up=
[ ! -e "$KUBECONFIG_ADMIN" ] || was_up=yes
tests/cluster/up.sh
export KUBECONFIG=$KUBECONFIG_ADMIN
registry=$(tests/setup/registry.sh)
scanners=$(tests/security/setup.sh)
hearth_work bundle-test
started=() again=

leave() {
  local id
  # It removes its own folder, which may be elsewhere.
  [ -z "$again" ] || wait "$again" 2>/dev/null || true
  for id in "${started[@]}"; do kill -KILL "$id" 2>/dev/null || true; done
  { wait; } 2>/dev/null
  rm -rf "$work" "$DIR"/node*/certs.d
}
trap leave EXIT

ok() { echo "ok: $SECONDS s: $*"; }
fail() { echo "FAILED: $SECONDS s: $*"; exit 1; }

# start COMMAND…: in the background, and no longer than this script.
start() {
  setpriv --pdeathsig KILL "$@" 9>&- &
  started+=($!)
}

# offline COMMAND…: in the namespace; what it starts ends with it.
offline() {
  setpriv --pdeathsig KILL nsenter --net="/proc/$holder/ns/net" \
    unshare --pid --fork --kill-child env TMPDIR="$work/tmp" "$@"
}

# refused STATUS TEXT COMMAND…: it ends with this status, and says this.
refused() {
  local wanted=$1 text=$2 status=0
  shift 2
  "$@" >"$work/said" 2>&1 || status=$?
  [ "$status" -eq "$wanted" ] && grep -qF -- "$text" "$work/said" && return
  cat "$work/said"
  fail "$*: ended with $status, wanted $wanted and: $text"
}

build() {
  mkdir "$work/site" "$work/tmp"
  bundle=$(bundle/build.sh)
  (cd "${bundle%/*}" && sha256sum --check --quiet "${bundle##*/}.sha256")
  tar -C "$work/site" -xf "$bundle"
  site=$(echo "$work"/site/hearth-*)
  ok "built ${bundle##*/}, $(stat -c %s "$bundle") bytes"
}

# A second bundle under another mask and time zone, its operator image compressed anew. In the
# background, while installing waits for the cluster.
build_again() {
  rm -rf "$HEARTH_CACHE"/images/bundle/hearth-operator:*
  setpriv --pdeathsig KILL unshare --pid --fork --kill-child env TZ=Asia/Tokyo LC_ALL=C \
    bash -c 'umask 077; exec bundle/build.sh "$1"' build "$work/again" >"$work/again.log" 2>&1 9>&- &
  again=$!
}

same_bytes() {
  wait "$again" || fail "the second build: $(tail -n 20 "$work/again.log")"
  again=
  cmp "$bundle" "$work/again/${bundle##*/}" || fail "two builds of the bundle differ"
  ok "a second build gives the same bytes"
}

# flip FILE: one bit of a byte in its middle.
flip() {
  python3 - "$1" <<'PYTHON'
import os, sys

with open(sys.argv[1], "r+b") as file:
    file.seek(os.path.getsize(sys.argv[1]) // 2)
    byte = file.read(1)[0]
    file.seek(-1, os.SEEK_CUR)
    file.write(bytes([byte ^ 1]))
PYTHON
}

damage() {
  flip "$site/images/hearth-worker.tar"
  refused 65 "images/hearth-worker.tar: FAILED" offline "$site/install.sh" --registry "$SECURE/team/hearth"
  flip "$site/images/hearth-worker.tar"
  flip "$site/IMAGES"
  mv "$site/docs/offline.md" "$work/"
  refused 65 "docs/offline.md: FAILED open or read" offline "$site/install.sh" --load
  grep -qF "IMAGES: FAILED" "$work/said" || fail "only one of two faults is told"
  flip "$site/IMAGES"
  mv "$work/offline.md" "$site/docs/"
  "$site/install.sh" --verify
  ok "a flipped bit and a missing file are refused by name"
}

misuse() {
  refused 64 "name one of" "$site/install.sh"
  refused 64 "exclude each other" "$site/install.sh" --nodes --load
  refused 64 "--registry needs a value" "$site/install.sh" --registry
  refused 64 "goes with --registry and --nodes" "$site/install.sh" --load --timeout 5m
  refused 64 "goes with --registry" "$site/install.sh" --nodes --plain-http
  refused 64 "would be taken for a name on Docker Hub" offline "$site/install.sh" --registry team/hearth
  refused 69 "Set KUBECONFIG" offline env KUBECONFIG=/nonexistent "$site/install.sh" --nodes
  refused 69 "set CONTAINERD_ADDRESS" offline env CONTAINERD_ADDRESS="$work/none.sock" "$site/install.sh" --load
  "$site/install.sh" --help | grep -q -- '--plain-http' || fail "--help does not tell of --plain-http"
  ok "misuse is refused with what to do"
}

apart() { [ -e "/proc/$1/ns/net" ] && ! [ "/proc/$1/ns/net" -ef /proc/self/ns/net ]; }

namespace() {
  start unshare --net sleep infinity
  holder=${started[-1]}
  await 10 "network namespace" apart "$holder"
  ip link add "$LINK" type veth peer name eth0 netns "$holder"
  ip addr add "$HOST/30" dev "$LINK"
  ip link set "$LINK" up
  offline ip addr add "$GUEST/30" dev eth0
  offline ip link set lo up
  offline ip link set eth0 up
  offline ip route add "$SERVER/32" via "$HOST"
}

# 198.51.100.1 is an address for documentation: it is nobody's.
no_way_out() {
  [ -z "$(offline ip -4 route show default; offline ip -6 route show default)" ] || fail "there is a default route"
  refused 1 "Network is unreachable" offline bash -c 'exec 3<>/dev/tcp/198.51.100.1/443'
  offline bash -c "exec 3<>/dev/tcp/$SERVER/6443" || fail "the API server is not reached"
  ok "the namespace reaches the API server and has no way out: $(grep -o 'Network is unreachable' "$work/said")"
}

# serve NAME ADDRESS SCHEME REST: a registry with its own store.
serve() {
  mkdir "$work/$1"
  printf 'version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: %s}}\n%s\n' "$work/$1" "$4" >"$work/$1.yaml"
  start "$registry" serve "$work/$1.yaml" >"$work/$1.log" 2>&1
  await 10 "registry $1" curl --silent --insecure --output /dev/null "$3://$2/v2/"
}

registries() {
  local hash
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=registry \
    -addext "subjectAltName=IP:$HOST" -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
  # A password with what shells, curl and HTTP could trip over.
  password='o"f\f: line$'
  hash=$(PASSWORD=$password perl -e 'print crypt($ENV{PASSWORD}, q($2b$05$abcdefghijklmnopqrstuu))')
  echo "site:$hash" >"$work/htpasswd"
  serve secure "$SECURE" https "http: {addr: '$SECURE', tls: {certificate: $work/tls.crt, key: $work/tls.key}}
auth: {htpasswd: {realm: site, path: $work/htpasswd}}"
  serve plain "$PLAIN" http "http: {addr: '$PLAIN'}"
  # As an administrator tells a node of a registry's certificate.
  local node
  for node in $(seq "$NODES"); do
    mkdir -p "$DIR/node$node/certs.d/$SECURE"
    printf '[host."https://%s"]\nca = "%s"\n' "$SECURE" "$work/tls.crt" >"$DIR/node$node/certs.d/$SECURE/hosts.toml"
  done
}

pod_images() {
  admin -n hearth-system get pods -l app.kubernetes.io/name=hearth --field-selector status.phase=Running \
    -o jsonpath='{range .items[?(@.status.containerStatuses[0].ready)]}{.spec.containers[0].image}{"\n"}{end}' | sort -u
}
operator_runs() { [ "$(pod_images)" = "$1" ]; }

# From archives that each node has loaded: the names are those of IMAGES.
from_nodes() {
  local node operator worker job jobs=()
  read -r operator _ < <(grep hearth-operator "$site/IMAGES")
  read -r worker _ < <(grep hearth-worker "$site/IMAGES")
  for node in $(seq "$NODES"); do
    offline env CONTAINERD_ADDRESS="$DIR/node$node/containerd.sock" "$site/install.sh" --load &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job"; done
  for node in $(seq "$NODES"); do
    [ "$(ctr --address "$DIR/node$node/containerd.sock" -n k8s.io images ls | grep -cE "^($operator|$worker) .*pinned=pinned")" -eq 2 ] ||
      fail "node $node does not hold $operator and $worker, pinned"
  done
  offline env CONTAINERD_ADDRESS="$work/none.sock" "$site/install.sh" --nodes --timeout 60s
  await 20 "operator from $operator" operator_runs "$operator"
  ok "installed from images that the nodes loaded: $operator"
}

secure() {
  offline env HEARTH_REGISTRY_USER=site HEARTH_REGISTRY_PASSWORD="$1" CURL_CA_BUNDLE="$work/tls.crt" \
    "$site/install.sh" --registry "$SECURE/team/hearth" --timeout 60s -- --set 'replicas=1,images.pullSecrets={registry}'
}

from_registry() {
  local operator generation
  operator=$SECURE/team/hearth/hearth-operator@$(awk '/hearth-operator/ {print $2}' "$site/IMAGES")
  admin -n hearth-system create secret docker-registry registry --docker-server "$SECURE" \
    --docker-username site --docker-password "$password" --dry-run=client -o yaml | admin apply -f - >/dev/null
  refused 77 "HEARTH_REGISTRY_PASSWORD" secure wrong
  refused 69 "certificate" offline "$site/install.sh" --registry "$SECURE/team/hearth"
  secure "$password"
  await 20 "operator from $operator" operator_runs "$operator"
  generation=$(admin -n hearth-system get deployments -o jsonpath='{.items[*].metadata.generation}')
  secure "$password" 2>&1 | tee "$work/said"
  [ "$(grep -c ': is there$' "$work/said")" -eq 2 ] || fail "the second run did not see the images of the first"
  [ "$(admin -n hearth-system get deployments -o jsonpath='{.items[*].metadata.generation}')" = "$generation" ] ||
    fail "the second run changed the Deployment"
  ok "installed from a registry with TLS and a password: $operator; a second run changes nothing"
}

# The worker's image, pulled by a kubelet, starts.
worker_starts() {
  local worker
  worker=$SECURE/team/hearth/hearth-worker@$(awk '/hearth-worker/ {print $2}' "$site/IMAGES")
  admin -n hearth-system run offline-worker --image "$worker" --restart=Never \
    --overrides '{"spec": {"imagePullSecrets": [{"name": "registry"}]}}' -- --version >/dev/null
  admin -n hearth-system wait pod/offline-worker --for=jsonpath='{.status.phase}'=Succeeded --timeout=60s >/dev/null ||
    fail "$(admin -n hearth-system describe pod offline-worker | tail -n 20)"
  ok "the worker's image starts: $(admin -n hearth-system logs offline-worker)"
  admin -n hearth-system delete pod offline-worker --wait=false >/dev/null
}

# Over plain HTTP, and read back by digest: every part is what its digest says.
from_plain_registry() {
  local name digest repository part parts
  offline "$site/install.sh" --registry "$PLAIN/hearth" --plain-http --timeout 60s -- --dry-run=server >/dev/null
  while read -r name digest; do
    name=${name##*/}
    repository=http://$PLAIN/v2/hearth/${name%:*}
    curl --silent --fail -H 'Accept: application/vnd.oci.image.manifest.v1+json' "$repository/manifests/$digest" >"$work/manifest"
    sha256sum --check --quiet <<<"${digest#sha256:}  $work/manifest"
    curl --silent --fail --head -H 'Accept: application/vnd.oci.image.manifest.v1+json' "$repository/manifests/${name#*:}" |
      grep -qiF "docker-content-digest: $digest" || fail "the tag ${name#*:} is not $digest"
    parts=$(python3 -c 'import json, sys; m = json.load(sys.stdin); print(*(p["digest"] for p in [m["config"], *m["layers"]]))' <"$work/manifest")
    for part in $parts; do
      [ "$(curl --silent --fail "$repository/blobs/$part" | sha256sum | cut -c1-64)" = "${part#sha256:}" ] ||
        fail "$repository: $part is not what was pushed"
    done
  done <"$site/IMAGES"
  ok "pushed over plain HTTP and pulled by digest"
}

link_gone() { ! ip link show "$LINK"; }

nothing_left() {
  local id
  for id in "${started[@]}"; do [ ! -e "/proc/$id" ] || fail "process $id is left"; done
  await 10 "the link $LINK to go" link_gone
  [ ! -e "$work" ] || fail "$work is left"
  ok "nothing is left"
}

SECONDS=0
build
build_again
TMPDIR=$work/tmp "$scanners/venv/bin/python" tests/bundle/check_sbom.py "$site"
ok "the SBOM is valid CycloneDX 1.6 and complete"
namespace
no_way_out
registries
damage
misuse
from_nodes
from_registry
worker_starts
from_plain_registry
same_bytes
leave
trap - EXIT
nothing_left
if [ -z "$was_up" ]; then
  tests/cluster/down.sh
  tests/cluster/check-clean.sh
fi
