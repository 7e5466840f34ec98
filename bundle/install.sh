#!/usr/bin/env bash
# Installs Hearth from the bundle in which this script lies. It reaches the cluster's API,
# and the registry where one is named, and nothing else.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'TEXT'
Installs Hearth, or upgrades it, without the internet. Checks the bundle's checksums first.

  install.sh --registry HOST[:PORT]/PREFIX   push both images there, then install with them
  install.sh --nodes                         install with images that every node has loaded;
                                             loads them here where this machine is a node
  install.sh --load                          on each node: load the images into containerd
  install.sh --verify                        check the bundle and do no more

Options:
  --plain-http        the registry speaks HTTP, not HTTPS
  --namespace NAME    where the operator runs (hearth-system)
  --timeout TIME      how long to wait until the operator is ready (5m)
  -- OPTION…          the rest goes to helm, such as `-- --set replicas=1`

Environment:
  KUBECONFIG                                     the cluster to install into
  HEARTH_REGISTRY_USER, HEARTH_REGISTRY_PASSWORD for a registry with basic authentication
  CURL_CA_BUNDLE                                 certificates to trust a registry by
  CONTAINERD_ADDRESS                             containerd's socket (/run/containerd/containerd.sock)
  TMPDIR                                         has room for the larger image (/tmp)
TEXT
}

say() { printf 'install.sh: %s\n' "$*" >&2; }

# die STATUS MESSAGE…
die() {
  local status=$1
  shift
  say "$*"
  exit "$status"
}

misused() { die 64 "$*; see install.sh --help"; }

# cluster_only OPTION: refuses what does nothing without a cluster.
cluster_only() {
  case $mode in
    load | verify) misused "$1 goes with --registry and --nodes" ;;
  esac
}

socket=${CONTAINERD_ADDRESS:-/run/containerd/containerd.sock}
mode='' registry='' namespace=hearth-system timeout=5m scheme=https given='' options=()
while [ $# -gt 0 ]; do
  case $1 in
    --registry | --nodes | --load | --verify)
      [ -z "$mode" ] || misused "--$mode and $1 exclude each other"
      mode=${1#--}
      ;;&
    --registry | --namespace | --timeout)
      [ -n "${2:-}" ] || misused "$1 needs a value"
      declare "${1#--}=$2"
      [ "$1" = --registry ] || given=$1
      shift
      ;;
    --nodes | --load | --verify) ;;
    --plain-http) scheme=http ;;
    --help | -h) usage; exit ;;
    --) shift; options=("$@") given=--; break ;;
    *) misused "there is no option $1" ;;
  esac
  shift
done
[ -n "$mode" ] || misused "name one of --registry, --nodes, --load and --verify"
[ -z "$given" ] || cluster_only "$given"
[ "$scheme" = https ] || [ "$mode" = registry ] || misused "--plain-http goes with --registry"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Every file of the bundle is as it was packed, and none is missing.
verify() {
  [ -s "$here/SHA256SUMS" ] || die 65 "$here/SHA256SUMS is missing: unpack the whole bundle"
  if ! (cd "$here" && LC_ALL=C sha256sum --check --strict --quiet SHA256SUMS) >"$work/sums" 2>&1; then
    sed 's/^/  /' "$work/sums" >&2
    die 65 "the bundle is damaged, as above: carry it over again"
  fi
  say "checksums: ok"
}

# each_image COMMAND…: runs it for each image, with its name in nodes, its digest and its archive.
each_image() {
  local name digest file
  while read -r name digest; do
    file=${name##*/}
    "$@" "$name" "$digest" "$here/images/${file%%:*}.tar" </dev/null
  done <"$here/IMAGES"
}

# request METHOD URL [CURL_OPTION…]: sets $status; the answer's headers lie in $work/headers.
# Who we are is told to the registry alone, not to a store of blobs that it names.
request() {
  local method=(--request "$1") url=$2 who=()
  shift 2
  [ "${method[1]}" != HEAD ] || method=(--head)
  [[ $url != "$base"/* ]] || who=(--config "$work/who")
  status=$(curl --silent --show-error --connect-timeout 10 --speed-limit 1 --speed-time 60 "${method[@]}" "${who[@]}" \
    --dump-header "$work/headers" --output "$work/answer" --write-out '%{http_code}' "$@" "$url" 2>"$work/error") ||
    die 69 "registry $registry: $(head -n 1 "$work/error")"
  case $status in
    401) die 77 "registry $registry wants to know who asks, or does not know ${HEARTH_REGISTRY_USER:-nobody}:" \
      "set HEARTH_REGISTRY_USER and HEARTH_REGISTRY_PASSWORD (basic authentication; tokens are not supported)" ;;
    403) die 77 "registry $registry does not let ${HEARTH_REGISTRY_USER:-us} do $1 $url" ;;
  esac
}

unexpected() { die 69 "registry $registry: $1 answers $status: $(head -c 300 "$work/answer" 2>/dev/null)"; }

# Where the registry wants a blob: a URL, or a path on itself.
upload_url() {
  local url
  url=$(sed -nE 's/^location:[[:space:]]*([^[:space:]]+)[[:space:]]*$/\1/Ip' "$work/headers" | tail -n 1)
  case $url in
    http://* | https://*) ;;
    /*) url=$base$url ;;
    *) unexpected "an upload without a Location" ;;
  esac
  [[ $url == *\?* ]] && echo "$url&digest=$1" || echo "$url?digest=$1"
}

push_blob() {
  local repository=$1 file=$2 digest url
  digest=sha256:${file##*/}
  request HEAD "$repository/blobs/$digest"
  [ "$status" != 200 ] || return 0
  request POST "$repository/blobs/uploads/" --header 'Content-Length: 0'
  [ "$status" = 202 ] || unexpected "the start of an upload"
  url=$(upload_url "$digest")
  request PUT "$url" --upload-file "$file" --header 'Content-Type: application/octet-stream'
  [ "$status" = 201 ] || unexpected "the upload of $digest"
}

# push NAME DIGEST ARCHIVE: the manifest last, so that an image which is there is whole.
push() {
  local short=${1##*/} digest=$2 archive=$3 repository manifest blob
  repository=$base/v2/${registry#*/}/${short%:*}
  manifest=$work/image/blobs/${digest/://}
  request HEAD "$repository/manifests/$digest" --header "Accept: $MANIFEST"
  if [ "$status" = 200 ]; then
    say "$registry/$short: is there"
    return
  fi
  say "$registry/$short: pushing"
  rm -rf "$work/image"
  mkdir "$work/image"
  tar -C "$work/image" -xf "$archive" || die 74 "no room for $archive in $work: set TMPDIR"
  for blob in "$work"/image/blobs/sha256/*; do
    [ "$blob" = "$manifest" ] || push_blob "$repository" "$blob"
  done
  request PUT "$repository/manifests/${short##*:}" --upload-file "$manifest" --header "Content-Type: $MANIFEST"
  [ "$status" = 201 ] || unexpected "the manifest of $short"
  request HEAD "$repository/manifests/$digest" --header "Accept: $MANIFEST"
  [ "$status" = 200 ] || unexpected "the manifest $digest, just pushed,"
}

check_registry() {
  local host=${registry%%/*}
  command -v curl >/dev/null || die 69 "--registry needs curl"
  [[ $registry =~ ^[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$ ]] ||
    misused "--registry is HOST[:PORT]/PREFIX, such as registry.local/hearth, not $registry"
  [[ $host == *[.:]* || $host == localhost ]] ||
    misused "--registry: $host would be taken for a name on Docker Hub: give its domain or port"
}

# Sets up what `request` uses; a password must not show in the list of processes.
registry_access() {
  local escaped
  MANIFEST=application/vnd.oci.image.manifest.v1+json
  base=$scheme://${registry%%/*}
  (umask 077 && : >"$work/who")
  if [ -n "${HEARTH_REGISTRY_USER:-}" ]; then
    escaped=$(sed 's/[\\"]/\\&/g' <<<"$HEARTH_REGISTRY_USER:${HEARTH_REGISTRY_PASSWORD:-}")
    echo "user = \"$escaped\"" >"$work/who"
  fi
}

# load NAME DIGEST ARCHIVE: pinned, so that a node short of space keeps what it could not get again.
load() {
  say "loading $1"
  ctr --address "$socket" --namespace k8s.io images import "$3" >/dev/null ||
    die 69 "containerd does not take $3, as above: it needs to run, room on its disk, and root to ask it"
  ctr --address "$socket" --namespace k8s.io images label "$1" io.cri-containerd.pinned=pinned >/dev/null
}

is_node() { command -v ctr >/dev/null && [ -S "$socket" ]; }

load_here() {
  command -v ctr >/dev/null || die 69 "there is no ctr: run --load on a node with containerd, or use --registry"
  [ -S "$socket" ] || die 69 "containerd has no socket $socket: set CONTAINERD_ADDRESS to its socket"
  each_image load
}

what_to_run_on_nodes() {
  local names=''
  ! command -v kubectl >/dev/null || names=$(kubectl get nodes -o jsonpath='{.items[*].metadata.name}')
  say "on ${names:-every node of the cluster}, where not done: tar -xf ${here##*/}.tar && ${here##*/}/install.sh --load"
}

find_helm() {
  helm=$here/bin/helm
  "$helm" version >/dev/null 2>&1 || helm=$(command -v helm) ||
    die 69 "the bundle's helm is for Linux on x86-64: install helm 4 here"
}

# One line for `--set`: an image as the cluster is to name it.
set_image() {
  local name=$1 digest=$2 short=${1##*/}
  short=${short%%:*}
  [ "$mode" = nodes ] || name=$registry/$short@$digest
  echo "images.${short#hearth-}=$name"
}

cluster_answers() {
  "$helm" list --namespace "$namespace" >"$work/answer" 2>"$work/error" ||
    die 69 "the cluster does not answer: $(tail -n 1 "$work/error"). Set KUBECONFIG to a file for the cluster"
}

install_chart() {
  local images
  images=$(each_image set_image | paste -sd,)
  "$helm" upgrade --install hearth "$here"/chart/hearth-*.tgz --namespace "$namespace" --create-namespace \
    --reset-then-reuse-values --set "$images" --wait --timeout "$timeout" "${options[@]}" ||
    die 70 "helm did not succeed, as above; kubectl get pods,events --namespace $namespace says more." \
      "When it is put right, run this again"
  say "done, with $images"
}

[ "$mode" != registry ] || check_registry
verify
case $mode in
  verify) exit ;;
  load) load_here; exit ;;
esac
find_helm
cluster_answers
if [ "$mode" = registry ]; then
  registry_access
  each_image push
else
  ! is_node || load_here
  what_to_run_on_nodes
fi
install_chart
