#!/usr/bin/env bash
# After the end-to-end tests: what the operator may do on the cluster in KUBECONFIG against what it
# did, by the API server's audit log (HEARTH_AUDIT_LOG).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../setup/env.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kubectl get clusterroles,clusterrolebindings,roles,rolebindings --all-namespaces --output json >"$work/rbac.json"
# The server begins another file at 100 MB.
cat "${HEARTH_AUDIT_LOG%.log}"*.log >"$work/audit.log"
python3 "$here/rbac_used.py" --account hearth-system/hearth-operator --audit "$work/audit.log" \
  --rbac "$work/rbac.json" --unused "$here/unused-verbs.txt"
