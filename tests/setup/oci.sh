#!/usr/bin/env bash
# Sourced by what builds images: one store in the cache, the base image, building
# once for each content, and the way into the nodes of tests/cluster.
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/env.sh"
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=${STORAGE_DRIVER:-overlay}

# Debian's minimum and what our binaries link. Raise the number when this changes.
BASE_PACKAGES=ca-certificates,libstdc++6
BASE_IMAGE=hearth.dev/debian:bookworm-1

# buildah, with a store of the project's own.
images() {
  local verb=$1
  shift
  buildah --root "$HEARTH_CACHE/images/store" --runroot "$HEARTH_CACHE/images/run" "$verb" "$@"
}

image_exists() { images inspect --type image "$1" >/dev/null 2>&1; }

# image_of_tar NAME TAR [CONFIG…]: a layer from a tar archive or file tree, uncompressed.
image_of_tar() {
  local name=$1 tar=$2 container
  shift 2
  container=$(images from scratch)
  images add --quiet "$container" "$tar" / >/dev/null
  [ $# -eq 0 ] || images config "$@" "$container"
  images commit --quiet --disable-compression --rm "$container" "$name" >/dev/null
}

# Makes BASE_IMAGE: from the archive in the cache, or by debootstrap.
base_image() {
  image_exists "$BASE_IMAGE" && return
  local archive work
  archive=$HEARTH_CACHE/images/$(tr '/:' '--' <<<"$BASE_IMAGE").tar
  if [ ! -e "$archive" ]; then
    hearth_say "base image: debootstrap"
    mkdir -p "$HEARTH_CACHE/images"
    work=$(mktemp -d "$HEARTH_CACHE/images/base.XXXXXX")
    debootstrap --variant=minbase --include="$BASE_PACKAGES" bookworm "$work/root" >"$work/log" 2>&1 ||
      { tail -n 20 "$work/log" >&2; rm -rf "$work"; return 1; }
    rm -rf "$work/root"/var/{cache/apt,lib/apt/lists,log}/* "$work/root"/usr/share/{doc,man,locale,info}/*
    tar -C "$work/root" --numeric-owner --one-file-system -cf "$work/base.tar" .
    mv "$work/base.tar" "$archive"
    rm -rf "$work"
  fi
  image_of_tar "$BASE_IMAGE" "$archive" --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
}

# build_image IMAGE DOCKERFILE CONTEXT [OPTION…]: does nothing where the image is there.
build_image() {
  local image=$1 dockerfile=$2 context=$3
  shift 3
  image_exists "$image" && return
  hearth_say "building $image"
  images bud --quiet --pull-never -f "$dockerfile" -t "$image" "$@" "$context" >/dev/null
}

# forget_others IMAGE: removes older images of the same name from the cache.
forget_others() {
  local name=${1%:*} image layout current part
  images images --format '{{.Name}}:{{.Tag}}' | { grep -F "$name:" || true; } | while read -r image; do
    [ "$image" = "$1" ] || images rmi "$image" >/dev/null 2>&1 || true
  done
  current=$(layout_path "$1")
  [ -d "$current" ] || return 0
  for layout in "${current%-*}"-*; do
    [ -e "$layout/index.json" ] && [ "$layout" != "$current" ] || continue
    for part in $(parts_of "$layout" | { grep -vxFf <(parts_of "$current") || true; }); do
      rm -f "$layout/blobs/${part/://}"
    done
    rm -rf "$layout"
  done
}

node_sockets() {
  local socket
  for socket in "$HEARTH_CLUSTER_DIR"/node*/containerd.sock; do [ ! -S "$socket" ] || echo "$socket"; done
}

in_node() {
  local socket=$1
  shift
  ctr --address "$socket" --namespace k8s.io "$@"
}

layout_path() { echo "$HEARTH_CACHE/images/layouts/$(tr '/:' '--' <<<"$1")"; }

# The image as an OCI layout in the cache. All layouts share one folder of blobs, and
# a layer that is there (see keep_layers) is neither read nor compressed again.
layout_of() {
  local layout new blobs=$HEARTH_CACHE/images/blobs
  layout=$(layout_path "$1")
  if [ ! -e "$layout/index.json" ]; then
    mkdir -p "${layout%/*}" "$blobs/sha256"
    new=$(mktemp -d "$layout.XXXXXX")
    ln -s ../../blobs "$new/blobs"
    images push --quiet --compression-format zstd --compression-level 1 "$1" "oci:$new:$1" >&2
    rm -rf "$layout"
    mv -T "$new" "$layout"
  fi
  echo "$layout"
}

# keep_layers IMAGE: its layers as they are among the blobs, once. Images on top of it
# are then written and sent without them.
keep_layers() {
  local work mark
  mark=$(layout_path "$1").kept
  [ ! -e "$mark" ] || return 0
  mkdir -p "$HEARTH_CACHE/images/layouts" "$HEARTH_CACHE/images/blobs/sha256"
  work=$(mktemp -d "$HEARTH_CACHE/images/keep.XXXXXX")
  images push --quiet --disable-compression "$1" "dir:$work" >&2
  find "$work" -type f -regextype egrep -regex '.*/[0-9a-f]{64}' -exec mv -t "$HEARTH_CACHE/images/blobs/sha256" {} +
  rm -rf "$work"
  touch "$mark"
}

# Digests of an image's parts: of its manifest, configuration and layers.
parts_of() {
  python3 - "$1" <<'PYTHON'
import json, pathlib, sys

layout = pathlib.Path(sys.argv[1])
manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
print(manifest)
content = json.loads((layout / "blobs" / manifest.replace(":", "/")).read_text())
for part in [content["config"], *content["layers"]]:
    print(part["digest"])
PYTHON
}

# Parts of a layout that a node lacks, as paths within it.
missing_parts() {
  local socket=$1 layout=$2 have
  have=$(in_node "$socket" content ls -q)
  parts_of "$layout" | { grep -vxFf <(printf '%s\n' "${have:-none}") || true; } | sed 's|^sha256:|blobs/sha256/|'
}

# to_node SOCKET IMAGE [TAG…]: imports what the node lacks of the image.
to_node() {
  local socket=$1 image=$2 layout missing tag
  shift 2
  if ! in_node "$socket" images ls -q | grep -qxF "$image"; then
    layout=$(layout_of "$image")
    missing=$(missing_parts "$socket" "$layout")
    # shellcheck disable=SC2086 # a list of paths without blanks
    tar -C "$layout" -cf - oci-layout index.json $missing |
      in_node "$socket" images import --base-name "${image%:*}" - >/dev/null
  fi
  for tag in "$@"; do
    in_node "$socket" images tag --force "$image" "${image%:*}:$tag" >/dev/null
  done
}

# deliver IMAGE [TAG…]: into all nodes at once, under its own name and these tags.
deliver() {
  local socket job jobs=()
  [ -z "$(node_sockets)" ] || layout_of "$1" >/dev/null
  for socket in $(node_sockets); do
    to_node "$socket" "$@" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job"; done
}
