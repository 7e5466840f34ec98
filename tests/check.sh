#!/usr/bin/env bash
# Runs the project's checks and ends with a line such as "120 passed, 0 failed".
# Usage: tests/check.sh all|lint|unit|e2e
#
# Every stage writes its full output to target/check/STAGE.log; what fails is
# shown. A stage that others need (setup, build) ends the run when it fails.
set -uo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
logs=target/check
mkdir -p "$logs"
passed=0 failed=0 started=$SECONDS

finish() {
  printf '%s in %d s\n' "$what" $((SECONDS - started))
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
  exit
}

# stage NAME COMMAND…: counts the tests of a nextest run, or 1 for anything else.
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

count() {
  local ran good summary
  summary=$(sed 's/\x1b\[[0-9;]*m//g' "$1" | grep -E 'Summary \[' | tail -n 1)
  good=$(sed -nE 's/.* ([0-9]+) passed.*/\1/p' <<<"$summary")
  ran=$(sed -nE 's/.*\] +([0-9]+)(\/[0-9]+)? tests? run.*/\1/p' <<<"$summary")
  if [ -n "$ran" ]; then
    passed=$((passed + ${good:-0}))
    failed=$((failed + ran - ${good:-0}))
    [ "$2" -eq 0 ] || [ "$ran" -ne "${good:-0}" ] || failed=$((failed + 1))
  elif [ "$2" -eq 0 ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
  fi
}

need() { stage "$@" || finish; }

setup() {
  need setup-tools tests/setup/tools.sh
  source tests/setup/env.sh
  need setup-libtorch tests/setup/libtorch.sh
  eval "$(tests/setup/libtorch.sh 2>/dev/null)"
  need setup-data tests/setup/data.sh
}

lint() {
  stage fmt cargo fmt --all --check
  stage clippy cargo clippy --release --workspace --all-targets -- -D warnings
  stage deny cargo deny check bans licenses sources
  stage typos typos
  stage chart helm lint --strict charts/hearth
}

unit() {
  need build cargo build --release --workspace --bins --tests
  stage unit cargo nextest run --release --workspace -E 'not binary(cluster)'
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
  stage demo tests/demo.sh && tail -n 1 "$logs/demo.log"
  stage e2e cargo nextest run --release --workspace -E 'binary(cluster)'
  if [ -z "$own" ]; then
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
