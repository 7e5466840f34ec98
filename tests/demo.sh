#!/usr/bin/env bash
# The main job from end to end, on a real cluster: trains a spam filter on two
# nodes, compresses it to INT8, serves it, and asks it about real mail.
#
# Uses the cluster in KUBECONFIG, or makes one (tests/cluster). On a cluster of
# your own, set as well:
#   HEARTH_REGISTRY        where to push the two images, such as registry.local/hearth
#   HEARTH_STORAGE_CLASS   a StorageClass whose volumes several nodes can mount
# Its last line is `demo: ok f1=… int8_f1=… p50_ms=… seconds=…`;
# target/demo/report.json holds the same and more.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/demo.sh
namespace=hearth-demo
out=target/demo
mkdir -p "$out"
started=$SECONDS

step() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*"; }
forward=
cleanup() { [ -z "$forward" ] || kill "$forward" 2>/dev/null || true; }
trap cleanup EXIT

step "Tools, libtorch and data (cached in ${HEARTH_CACHE:-~/.cache/hearth})"
tests/setup/tools.sh >"$out/tools.log" 2>&1 || { tail -n 20 "$out/tools.log"; exit 1; }
source tests/setup/env.sh
libtorch=$(tests/setup/libtorch.sh)
eval "$libtorch"
data=$(tests/setup/data.sh)

step "Building hearth, hearth-operator, hearth-gateway and hearth-worker"
cargo build --release --quiet --workspace --bins
hearth=$HEARTH_BIN/hearth

if [ -z "${KUBECONFIG:-}" ]; then
  step "Starting a cluster: one control plane, two nodes (make cluster-down removes it)"
  tests/cluster/up.sh
  export KUBECONFIG=$HEARTH_CLUSTER_DIR/kubeconfig
  own_cluster=yes
else
  own_cluster=${HEARTH_OWN_CLUSTER:-$([ "$KUBECONFIG" = "$HEARTH_CLUSTER_DIR/kubeconfig" ] && echo yes || echo no)}
fi

step "Images"
eval "$(tests/setup/images.sh)"

step "helm install hearth"
helm upgrade --install hearth charts/hearth --namespace hearth-system --create-namespace \
  --set "images.operator=$HEARTH_OPERATOR_IMAGE,images.worker=$HEARTH_WORKER_IMAGE" \
  --wait --timeout 3m

step "Namespace $namespace, with the claims models and data"
kubectl delete namespace "$namespace" --ignore-not-found --wait=true
kubectl create namespace "$namespace"
kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted
for claim in models data; do
  if [ "$own_cluster" = yes ]; then
    rm -rf "${HEARTH_CLUSTER_DIR:?}/volumes/$namespace/$claim"
    tests/cluster/volume.sh "$namespace" "$claim" "$HEARTH_CLUSTER_DIR/volumes/$namespace/$claim"
  else
    kubectl apply -n "$namespace" -f - <<YAML
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: $claim}
spec:
  storageClassName: ${HEARTH_STORAGE_CLASS:?set HEARTH_STORAGE_CLASS to a class whose volumes several nodes can mount}
  accessModes: [ReadWriteMany]
  resources: {requests: {storage: 2Gi}}
YAML
  fi
done
sed "s|IMAGE|$HEARTH_WORKER_IMAGE|" tests/demo/loader.yaml | kubectl apply -n "$namespace" -f -
kubectl wait -n "$namespace" pod/loader --for=condition=Ready --timeout=120s
tar -C "$data" -cf - minilm | kubectl exec -i -n "$namespace" loader -- tar -xf - -C /mnt/models --no-same-owner
tar -C "$data" -cf - spam-train.jsonl spam-eval.jsonl | kubectl exec -i -n "$namespace" loader -- tar -xf - -C /mnt/data --no-same-owner
kubectl delete -n "$namespace" pod/loader --wait=false

step "kubectl apply -f manifests/samples/spam.yaml"
kubectl apply -n "$namespace" -f manifests/samples/spam.yaml
train_from=$SECONDS
"$hearth" watch spam -n "$namespace" --timeout 20m
train_seconds=$((SECONDS - train_from))
kubectl get -n "$namespace" trainingjobs
kubectl get -n "$namespace" pods -o wide

step "kubectl apply -f manifests/samples/spam-deployment.yaml"
kubectl apply -n "$namespace" -f manifests/samples/spam-deployment.yaml
"$hearth" watch spam -n "$namespace" --kind ModelDeployment --timeout 10m
kubectl get -n "$namespace" modeldeployments

step "Asking it about mail that it never saw"
kubectl port-forward -n "$namespace" service/spam :80 >"$out/port-forward.log" 2>&1 &
forward=$!
for _ in $(seq 100); do
  address=$(sed -nE 's/.*(127\.0\.0\.1:[0-9]+).*/\1/p' "$out/port-forward.log" | head -n 1)
  [ -n "$address" ] && break
  kill -0 "$forward" || { cat "$out/port-forward.log"; exit 1; }
  sleep 0.1
done
kubectl get -n "$namespace" trainingjob spam -o json >"$out/trainingjob.json"
kubectl get -n "$namespace" modeldeployment spam -o json >"$out/modeldeployment.json"
kubectl describe -n "$namespace" trainingjob spam >"$out/describe.txt"
python3 tests/demo/ask.py --address "$address" --mails "$data/mails" --eval "$data/spam-eval.jsonl" \
  --job "$out/trainingjob.json" --deployment "$out/modeldeployment.json" \
  --train-seconds "$train_seconds" --seconds $((SECONDS - started)) --report "$out/report.json"
