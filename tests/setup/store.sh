#!/usr/bin/env bash
# Builds an image of a feature store for tests, hearth.dev/feature-store:dev, with Valkey, and brings it
# into the nodes of tests/cluster.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/oci.sh"
context=$HEARTH_CACHE/images/contexts/feature-store
server=$("$here/valkey.sh")

rm -rf "$context"
mkdir -p "$context"
cp "$server" "$context/valkey-server"

base_image
image=hearth.dev/feature-store:$(cat "$here/store.Dockerfile" "$server" | sha256sum | cut -c1-12)
build_image "$image" "$here/store.Dockerfile" "$context" --build-arg "BASE=$BASE_IMAGE"
deliver "$image" dev
forget_others "$image"
