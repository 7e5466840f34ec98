#!/usr/bin/env bash
# Installs the scanners (checkov from PyPI, kube-score from its Go module) and prints their folder:
# venv/bin/checkov, venv/bin/python and kube-score.
#
#   scanners=$(tests/security/setup.sh)
#
# trivy is not among them (trivy.sh): its Go module takes longer to build than all other tools together.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../setup/env.sh"
KUBE_SCORE=v1.20.0
requirements=$here/requirements.txt
home=$HEARTH_CACHE/scanners-$(hearth_key "${BASH_SOURCE[0]}" "$requirements")

# A virtual environment cannot be moved, so it is built in place and marked when whole.
install() {
  hearth_say "installing checkov and kube-score into $home (two minutes, once)"
  rm -rf "$home"
  hearth_venv "$home/venv" "$requirements"
  GOBIN=$home CGO_ENABLED=0 go install -trimpath -ldflags '-s -w' "github.com/zegl/kube-score/cmd/kube-score@$KUBE_SCORE" >&2
  touch "$home/complete"
}

mkdir -p "$HEARTH_CACHE"
exec 9>"$home.lock"
flock 9
[ -e "$home/complete" ] || install
echo "$home"
