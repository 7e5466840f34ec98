#!/usr/bin/env bash
# Unpacks Prometheus and promtool from Debian's package, and the CRDs of prometheus-operator from its
# Go module, and prints the folder that holds them: bin/ and crds/.
#
#   prometheus=$(tests/setup/prometheus.sh)
#
# stdout holds that one line. The package is only unpacked: no service of its starts. Debian's is
# built without Kubernetes' discovery, which the tests do not need.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
OPERATOR=github.com/prometheus-operator/prometheus-operator@v0.85.0

# download PACKAGE: into this folder. A fresh machine has no lists yet.
download() {
  apt-get download -qq "$1" 2>"$work/apt.log" || {
    apt-get update -qq >&2
    apt-get download -qq "$1" >&2
  }
}

home=$HEARTH_CACHE/prometheus-$(hearth_key "${BASH_SOURCE[0]}")
if [ ! -d "$home" ]; then
  hearth_say "Prometheus (19 MB)"
  hearth_work "$home"
  mkdir -p "$work/home/bin" "$work/home/crds" "$work/deb"
  (cd "$work/deb" && download prometheus && dpkg -x prometheus_*.deb files)
  install "$work"/deb/files/usr/bin/{prometheus,promtool} "$work/home/bin"
  module=$(go mod download -json "$OPERATOR" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
  for kind in podmonitors prometheusrules servicemonitors; do
    install -m 644 "$module/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$work/home/crds"
  done
  hearth_keep "$work/home" "$home"
fi
echo "$home"
