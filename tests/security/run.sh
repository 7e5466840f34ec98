#!/usr/bin/env bash
# Checks that what the chart and the operator make is safe, without a cluster: scanners on the
# rendered chart and on planned pods, and the admission policies on a real API server that listens
# on loopback and ends with the script. With --trivy, trivy is among the scanners.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/setup/env.sh
tests/setup/tools.sh >&2
scanners=$(tests/security/setup.sh)
more=()
[[ ${1:-} != --trivy ]] || more=(--trivy "$(tests/security/trivy.sh)")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=tests/security:tests/bench PYTHONDONTWRITEBYTECODE=1

python3 -m unittest discover --start-directory tests/security --pattern 'test_*.py'
"$scanners/venv/bin/python" tests/security/scan.py --checkov "$scanners/venv/bin/checkov" \
  --kube-score "$scanners/kube-score" "${more[@]}" --out "$work/scan"
"$scanners/venv/bin/python" tests/security/policies.py --kube "$HEARTH_CACHE/bin/kube" --out "$work/plane"
