#!/usr/bin/env bash
# Builds trivy from its Go module and prints the program's path. Seven minutes on 2 cores, once: so `make test`
# does without, and `make scan` has it. Its rules are in the program, and it is never let ask for others.
#
#   trivy=$(tests/security/trivy.sh)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../setup/env.sh"
TRIVY=v0.74.0
home=$HEARTH_CACHE/trivy-$TRIVY

mkdir -p "$HEARTH_CACHE"
exec 9>"$home.lock"
flock 9
if [ ! -x "$home/trivy" ]; then
  hearth_work "$home"
  mkdir "$work/home"
  hearth_say "building trivy $TRIVY into $home (seven minutes, once)"
  # It uses Go's new JSON packages, which are an experiment in Go 1.26.
  GOEXPERIMENT=jsonv2 GOBIN=$work/home CGO_ENABLED=0 \
    go install -trimpath -ldflags '-s -w' "github.com/aquasecurity/trivy/cmd/trivy@$TRIVY" >&2
  hearth_keep "$work/home" "$home"
fi
echo "$home/trivy"
