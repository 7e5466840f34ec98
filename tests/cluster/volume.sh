#!/usr/bin/env bash
# A claim backed by a directory of this machine, which all nodes share and every
# user may write. Usage: volume.sh NAMESPACE CLAIM DIRECTORY
# Does nothing where the claim is bound. Goes to the cluster in KUBECONFIG, or to
# the one of up.sh.
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
[ $# -eq 3 ] || { echo "usage: $0 NAMESPACE CLAIM DIRECTORY" >&2; exit 64; }
namespace=$1 claim=$2 directory=$(realpath -m "$3")
export KUBECONFIG=${KUBECONFIG:-$KUBECONFIG_ADMIN}
label=hearth.dev/claim=$namespace.$claim

mkdir -p "$directory"
chmod 0777 "$directory"
if [ "$(kubectl -n "$namespace" get pvc "$claim" --ignore-not-found -o jsonpath='{.status.phase}')" = Bound ]; then
  exit
fi
# A volume whose claim is gone stays Released for good: each claim gets a new one.
kubectl delete pv -l "$label" --wait=false >/dev/null
volume=$namespace-$claim-$(date +%s%N | tail -c 9)
kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: PersistentVolume
metadata: {name: $volume, labels: {hearth.dev/claim: $namespace.$claim}}
spec:
  storageClassName: hearth-hostpath
  capacity: {storage: 100Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  claimRef: {namespace: $namespace, name: $claim}
  hostPath: {path: $directory, type: Directory}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $claim, namespace: $namespace}
spec:
  storageClassName: hearth-hostpath
  volumeName: $volume
  accessModes: [ReadWriteMany]
  resources: {requests: {storage: 1Gi}}
YAML
kubectl -n "$namespace" wait --for=jsonpath='{.status.phase}'=Bound "pvc/$claim" --timeout=30s >/dev/null
