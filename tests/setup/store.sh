#!/usr/bin/env bash
# Builds an image of a feature store for tests, hearth.dev/feature-store:dev, and brings it into the nodes
# of tests/cluster: Debian's Redis, and what it links but the C library.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/oci.sh"
context=$HEARTH_CACHE/images/contexts/feature-store
server=$(readlink -f "$(command -v redis-server)")

rm -rf "$context"
mkdir -p "$context/lib"
cp "$server" "$context/valkey-server"
ldd "$server" | awk '$2 == "=>" && $1 !~ /^lib[cm]\.so/ { print $3 }' | while read -r library; do
  cp -L "$library" "$context/lib/"
done

base_image
image=hearth.dev/feature-store:$(cat "$here/store.Dockerfile" "$server" "$context"/lib/* | sha256sum | cut -c1-12)
build_image "$image" "$here/store.Dockerfile" "$context" --build-arg "BASE=$BASE_IMAGE"
deliver "$image" dev
forget_others "$image"
