#!/usr/bin/env bash
# Builds what `make bench-operator` compares with, Kubeflow Trainer and JobSet, from their
# Go modules, and prints the folder: trainer, jobset, and their manifests.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
TRAINER=github.com/kubeflow/trainer/v2@v2.3.0
JOBSET=sigs.k8s.io/jobset@v0.12.0

# build MODULE PACKAGE NAME: compiles one program; sets $source to its module's folder.
build() {
  source=$(go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
  (cd "$source" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$work/home/$3" "$2") >&2
}

home=$HEARTH_CACHE/peers-$(echo "$TRAINER $JOBSET" | hearth_key)
if [ ! -d "$home" ]; then
  hearth_say "building Kubeflow Trainer and JobSet (5 minutes on two cores, once)"
  hearth_work "$home"
  mkdir -p "$work/home/crds"
  build "$JOBSET" . jobset
  install -m 644 "$source"/config/components/crd/bases/*.yaml "$work/home/crds"
  install -m 644 "$source/config/components/webhook/manifests.yaml" "$work/home/jobset-webhooks.yaml"
  build "$TRAINER" ./cmd/trainer-controller-manager trainer
  install -m 644 "$source"/manifests/base/crds/trainer.*.yaml "$work/home/crds"
  install -m 644 "$source/manifests/base/webhook/manifests.yaml" "$work/home/trainer-webhooks.yaml"
  install -m 644 "$source/manifests/base/runtimes/torch_distributed.yaml" "$work/home/runtime.yaml"
  hearth_keep "$work/home" "$home"
fi
echo "$home"
