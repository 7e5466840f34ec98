#!/usr/bin/env bash
# Builds Traefik (MIT), a controller of the Gateway API, from its Go module, and prints the directory that
# holds it:
#
#   traefik             the program
#   gateway-api.yaml    the types that it knows, of the standard channel
#
# For tests/e2e/http_route.rs, which nothing runs by itself: this downloads a gigabyte and takes two
# cores ten minutes. stdout holds that one line; everything else goes to stderr.
set -euo pipefail

VERSION=v3.6.1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/traefik-$(hearth_key "$here/traefik.sh")

if [[ ! -d $home ]]; then
  hearth_work "$home"
  mkdir "$work/home"
  hearth_say "building Traefik $VERSION (ten minutes)"
  # A module with replacements is built in a copy of its own: `go install` takes none.
  module=$(cd "$work" && GOFLAGS=-mod=mod go mod download -json "github.com/traefik/traefik/v3@$VERSION" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')
  cp -r "$module" "$work/source"
  chmod -R u+w "$work/source"
  (cd "$work/source" && GOFLAGS=-mod=mod go build -o "$work/home/traefik" ./cmd/traefik) >&2
  api=$(cd "$work/source" && GOFLAGS=-mod=mod go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)
  for file in "$api"/config/crd/standard/*.yaml; do printf -- '---\n'; cat "$file"; done >"$work/home/gateway-api.yaml"
  hearth_keep "$work/home" "$home"
fi
echo "$home"
