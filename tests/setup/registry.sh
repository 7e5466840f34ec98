#!/usr/bin/env bash
# Unpacks a container registry (Debian's docker-registry) and prints the program's path.
#
#   registry=$(tests/setup/registry.sh)
#
# stdout holds that one line. The package is only unpacked: no service of its starts.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# A fresh machine has no lists yet.
download() {
  apt-get download -qq -o APT::Sandbox::User=root docker-registry 2>"$work/apt.log" || {
    apt-get update -qq >&2
    apt-get download -qq -o APT::Sandbox::User=root docker-registry >&2
  }
}

home=$HEARTH_CACHE/registry-$(hearth_key "${BASH_SOURCE[0]}")
if [ ! -d "$home" ]; then
  hearth_say "docker-registry (5 MB)"
  hearth_work "$home"
  mkdir "$work/deb" "$work/home"
  (cd "$work/deb" && download && dpkg -x docker-registry_*.deb files)
  install "$work/deb/files/usr/bin/docker-registry" "$work/home"
  install -m 644 "$work/deb/files/usr/share/doc/docker-registry/copyright" "$work/home"
  hearth_keep "$work/home" "$home"
fi
echo "$home/docker-registry"
