#!/usr/bin/env bash
# Runs the project's checks and ends with a line such as "120 passed, 0 failed".
# Usage: tests/check.sh all|lint|unit|e2e
#
# Runs in a copy of the tree (tests/setup/in-copy.sh). Every stage writes its full
# output to target/check/STAGE.log; what fails is shown. A stage that others need
# (setup, build) ends the run when it fails.
set -uo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/check.sh "$what"
logs=target/check
mkdir -p "$logs"
passed=0 failed=0 started=$SECONDS

finish() {
  printf '%s in %d s\n' "$what" $((SECONDS - started))
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
  exit
}

# stage NAME COMMAND…: counts the tests that it ran, or 1 where it ran none.
stage() {
  local name=$1 from=$SECONDS log=$logs/$1.log
  shift
  printf '%-16s ' "$name"
  if "$@" >"$log" 2>&1 </dev/null; then local rc=0; else local rc=$?; fi
  count "$log" "$rc"
  if [ "$rc" -eq 0 ]; then
    printf 'ok    %4d s\n' $((SECONDS - from))
  else
    printf 'FAILED %3d s, %s\n' $((SECONDS - from)) "$log"
    grep -E '^ +(FAIL|SIGKILL|SIGABRT|TIMEOUT|LEAK-FAIL)' "$log" | sort -u | head -40
    tail -n 60 "$log"
  fi
  return "$rc"
}

# Of a nextest run, or of cargo test's crates; a failure that neither counts is one.
count() {
  local good bad plain
  plain=$(sed 's/\x1b\[[0-9;]*m//g' "$1")
  read -r good bad < <(awk '
    /^ +Summary \[/ {
      ran = passed = 0
      for (i = 1; i < NF; i++) {
        if ($(i + 1) ~ /^tests?$/) { split($i, of, "/"); ran = of[1] }
        if ($(i + 1) ~ /^passed/) passed = $i
      }
      good += passed; bad += ran - passed
    }
    /^test result: / { good += $4; bad += $6 }
    END { print good + 0, bad + 0 }' <<<"$plain")
  if [ "$2" -eq 0 ] && [ "$good" -eq 0 ]; then good=1; fi
  if [ "$2" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  passed=$((passed + good)) failed=$((failed + bad))
}

need() { stage "$@" || finish; }

setup() {
  need setup-tools tests/setup/tools.sh
  source tests/setup/env.sh
  need setup-libtorch tests/setup/libtorch.sh
  eval "$(tests/setup/libtorch.sh 2>/dev/null)"
  need setup-data tests/setup/data.sh
  need setup-tensorboard tests/setup/tensorboard.sh
}

lint() {
  # Before anything else can bring it up to date.
  stage lock cargo fetch --locked
  stage fmt cargo fmt --all --check
  stage clippy cargo clippy --release --workspace --all-targets -- -D warnings
  stage deny cargo deny check bans licenses sources
  stage typos typos
  stage chart helm lint --strict charts/hearth
}

unit() {
  need build cargo build --release --workspace --bins --tests
  # In one process a crate: loading libtorch takes longer than any of these.
  stage unit cargo test --release --workspace --lib --no-fail-fast
  stage integration cargo nextest run --release --workspace -E 'not kind(lib) & not binary(cluster) & not binary(faults)'
  stage faults tests/faults/run.sh
  stage serving tests/serving/run.sh
  stage bench-smoke env HEARTH_WORKER="$HEARTH_BIN/hearth-worker" tests/bench/train.sh --smoke
  stage bench-serve-smoke env HEARTH_WORKER="$HEARTH_BIN/hearth-worker" tests/bench/serve.sh --smoke
  stage bench-data-smoke env HEARTH_WORKER="$HEARTH_BIN/hearth-worker" tests/bench/data.sh --smoke
  stage bench-operator-smoke tests/bench/operator.sh --smoke
  stage bench-gateway-smoke tests/bench/gateway.sh --smoke
  stage security tests/security/run.sh
  stage monitoring env HEARTH_BINARIES="$HEARTH_BIN" tests/monitoring/run.sh
  stage nccl-links worker/nccl-rs/build-nccl.sh "$HEARTH_CACHE/nccl"
}

# On the cluster in KUBECONFIG, or on one that is made and removed again.
e2e() {
  local own=${KUBECONFIG:-}
  if [ -z "$own" ]; then
    need cluster-up tests/cluster/up.sh
    trap 'tests/cluster/down.sh >"$logs/cluster-down.log" 2>&1' EXIT
    export KUBECONFIG=$HEARTH_CLUSTER_DIR/kubeconfig
    export HEARTH_AUDIT_LOG=$HEARTH_CLUSTER_DIR/audit.log
  fi
  stage smoke tests/cluster/smoke.sh
  need images tests/setup/images.sh
  # Loads images into the nodes: a cluster of ours only.
  [ -n "$own" ] || need store-image tests/setup/store.sh
  need sample-cells tests/setup/cells.sh
  need sample-scans tests/setup/scans.sh
  [ -n "$own" ] || stage bundle tests/bundle/run.sh
  stage demo tests/demo.sh && tail -n 1 "$logs/demo.log"
  stage kustomize tests/kustomize.sh
  # Alone: it ends the operator's processes twice.
  stage upgrade cargo nextest run --release --workspace -E 'binary(cluster) & test(/^upgrade::/)'
  stage admission helm upgrade hearth charts/hearth --namespace hearth-system --reuse-values \
    --set admission.enabled=true,admission.minRuntimeSeconds=5 --wait --timeout 3m
  # More than cores: these wait for the cluster most of the time.
  stage e2e cargo nextest run --release --workspace --test-threads 3 -E 'binary(cluster) & not test(/^upgrade::/)'
  if [ -z "$own" ]; then
    stage rbac-used tests/security/rbac-used.sh
    stage pods-scanned tests/security/pods.sh
    trap - EXIT
    stage cluster-down tests/cluster/down.sh
    stage nothing-left tests/cluster/check-clean.sh
  fi
}

setup
case $what in
  all) lint; unit; e2e ;;
  lint) lint ;;
  unit) unit ;;
  e2e) need build cargo build --release --workspace --bins; e2e ;;
  *) echo "usage: $0 all|lint|unit|e2e" >&2; exit 64 ;;
esac
finish
