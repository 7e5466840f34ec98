#!/usr/bin/env bash
# Builds the two images from target/release by their Dockerfiles, and brings them
# to the cluster: into the nodes of tests/cluster where it is up, or to
# $HEARTH_REGISTRY where that is set. Does only what changed.
#
# Each image is tagged with a hash of what is in it, which the output names, and
# in the nodes with :dev as well.
# Prints for eval: HEARTH_OPERATOR_IMAGE=… HEARTH_WORKER_IMAGE=…
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
"$here/tools.sh" images
source "$here/oci.sh"
target=${CARGO_TARGET_DIR:-$root/target}/release
registry=${HEARTH_REGISTRY:-hearth.dev}
[ -n "${LIBTORCH:-}" ] || eval "$("$here/libtorch.sh")"
contexts=$HEARTH_CACHE/images/contexts

# strip_to FOLDER BINARY…: without debug information, which is most of a binary;
# only where the binary is newer. Symbols stay, for backtraces.
strip_to() {
  local folder=$1 binary
  shift
  mkdir -p "$folder"
  for binary in "$@"; do
    [ -x "$target/$binary" ] || { hearth_say "$target/$binary is missing: run make build"; exit 66; }
    # By content key of the source: two checkouts share this folder.
    if [ "$(cat "$folder.$binary.from" 2>/dev/null)" != "$(stat -c '%n %s %y' "$target/$binary")" ]; then
      strip --strip-debug -o "$folder/$binary" "$target/$binary"
      stat -c '%n %s %y' "$target/$binary" >"$folder.$binary.from"
    fi
  done
}

# libtorch's folder is named by its content; links spare a copy of half a gigabyte.
libtorch_to() {
  local folder=$1
  [ "$(cat "$folder.from" 2>/dev/null)" = "$LIBTORCH" ] && return
  rm -rf "$folder"
  mkdir -p "$folder"
  find -L "$LIBTORCH/lib" -maxdepth 1 -type f -name '*.so*' -size +4k -print0 |
    xargs -0 -I{} sh -c 'ln -L "$1" "$2" 2>/dev/null || cp -L "$1" "$2"' _ {} "$folder/"
  echo "$LIBTORCH" >"$folder.from"
}

# publish NAME DOCKERFILE CONTEXT KEY_OF…: builds, delivers, and says the image's name.
publish() {
  local name=$1 dockerfile=$2 context=$3 image
  shift 3
  image=$registry/$name:$({ echo "$BASE_IMAGE $*"; cat "$dockerfile"; find "$context" -maxdepth 1 -type f -exec sha256sum {} + | sort; } | sha256sum | cut -c1-12)
  build_image "$image" "$dockerfile" "$context" --build-arg "BASE=$BASE_IMAGE"
  if [ -n "${HEARTH_REGISTRY:-}" ]; then
    images push --quiet "$image" "docker://$image" >&2
  else
    deliver "$image" dev
  fi
  forget_others "$image"
  echo "$image"
}

base_image
strip_to "$contexts/operator" hearth-operator hearth-gateway
strip_to "$contexts/worker" hearth-worker
libtorch_to "$contexts/worker/libtorch"
operator=$(publish hearth-operator "$root/operator/Dockerfile" "$contexts/operator")
worker=$(publish hearth-worker "$root/worker/Dockerfile" "$contexts/worker" "$LIBTORCH")
echo "export HEARTH_OPERATOR_IMAGE=$operator HEARTH_WORKER_IMAGE=$worker"
