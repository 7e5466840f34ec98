#!/usr/bin/env bash
# Builds the two images from $HEARTH_BIN by their Dockerfiles, and brings them
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
target=$HEARTH_BIN
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

# Links spare a copy of half a gigabyte; libtorch.so is a linker script, for builds only.
libtorch_to() {
  local library
  rm -rf "$1"
  mkdir -p "$1/lib"
  for library in "$LIBTORCH"/lib/*.so*; do
    [ "$(basename "$library")" != libtorch.so ] || continue
    ln -L "$library" "$1/lib/" 2>/dev/null || cp -L "$library" "$1/lib/"
  done
  cp -R "$LIBTORCH/licenses" "$1/"
}

# onnxruntime_to FOLDER: ONNX Runtime's library and what its licence asks for.
onnxruntime_to() {
  local home
  home=$(dirname "$("$here/onnxruntime.sh")")
  mkdir -p "$1"
  cp -u "$home"/{libonnxruntime.so,LICENSE,ThirdPartyNotices.txt} "$1/"
}

# name_for NAME DOCKERFILE FOLDER FROM: with a tag that hashes all that the image is made of.
name_for() {
  local key
  key=$({ echo "$4"; cat "$2"; find "$3" -maxdepth 1 -type f -exec sha256sum {} + | sort; } | sha256sum | cut -c1-12)
  echo "$registry/$1:$key"
}

# publish NAME DOCKERFILE FOLDER FROM: builds, delivers, and says the image's name.
publish() {
  local image
  image=$(name_for "$@")
  build_image "$image" "$2" "$3" --build-arg "BASE=$4"
  if [ -n "${HEARTH_REGISTRY:-}" ]; then
    images push --quiet "$image" "docker://$image" >&2
  else
    deliver "$image" dev
  fi
  forget_others "$image"
  echo "$image"
}

# libtorch on the base, once for each libtorch: its folder is named by its content.
libtorch_image() {
  local image
  image=$(registry=hearth.dev name_for libtorch "$root/worker/libtorch.Dockerfile" "$LIBTORCH" "$BASE_IMAGE ${LIBTORCH##*/}")
  if ! image_exists "$image"; then
    libtorch_to "$contexts/libtorch"
    build_image "$image" "$root/worker/libtorch.Dockerfile" "$contexts/libtorch" --build-arg "BASE=$BASE_IMAGE"
  fi
  keep_layers "$image"
  forget_others "$image"
  echo "$image"
}

base_image
keep_layers "$BASE_IMAGE"
libtorch=$(libtorch_image)
strip_to "$contexts/operator" hearth-operator hearth-gateway
strip_to "$contexts/worker" hearth-worker
onnxruntime_to "$contexts/worker"
operator=$(publish hearth-operator "$root/operator/Dockerfile" "$contexts/operator" "$BASE_IMAGE")
worker=$(publish hearth-worker "$root/worker/Dockerfile" "$contexts/worker" "$libtorch")
echo "export HEARTH_OPERATOR_IMAGE=$operator HEARTH_WORKER_IMAGE=$worker"
