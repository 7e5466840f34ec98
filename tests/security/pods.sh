#!/usr/bin/env bash
# After the end-to-end tests: the scanners on the pods that ran, by the API server's audit log
# (HEARTH_AUDIT_LOG). With --trivy, trivy is among them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/setup/env.sh
scanners=$(tests/security/setup.sh)
more=()
[[ ${1:-} != --trivy ]] || more=(--trivy "$(tests/security/trivy.sh)")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The server begins another file at 100 MB.
cat "${HEARTH_AUDIT_LOG%.log}"*.log >"$work/audit.log"
PYTHONPATH=tests/security PYTHONDONTWRITEBYTECODE=1 "$scanners/venv/bin/python" tests/security/pods.py \
  --checkov "$scanners/venv/bin/checkov" --kube-score "$scanners/kube-score" "${more[@]}" \
  --audit "$work/audit.log" --out "$work/scan"
