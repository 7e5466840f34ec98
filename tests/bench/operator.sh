#!/usr/bin/env bash
# Many jobs at once on a real control plane, against Kubeflow Trainer with JobSet and against a
# plain client; the same as JSON in target/bench/operator.json. `make bench-operator`; takes
# about 25 minutes on 2 cores that do nothing else.
#
#   tests/bench/operator.sh
#   tests/bench/operator.sh --smoke      Hearth and the floor, a minute and a half: does it work?
#
# HEARTH_BENCH_JOBS (100,1000), HEARTH_BENCH_RUNS (3) and HEARTH_BENCH_WORKERS (2, of a job);
# HEARTH_BENCH_ALONE: more sizes, at which Hearth alone runs, once.
# HEARTH_OPERATOR and HEARTH_LOAD name binaries to measure and to measure with; without them,
# this checkout's are built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}${HEARTH_OPERATOR:-}" ] || exec tests/setup/in-copy.sh tests/bench/operator.sh "$@"

source tests/setup/env.sh
tests/setup/tools.sh cluster
if [ -z "${HEARTH_OPERATOR:-}" ]; then
  # All of the workspace, as everything else builds it: other features would compile it anew.
  eval "$(tests/setup/libtorch.sh)"
  cargo build --release --quiet --workspace --bins --example load
  HEARTH_OPERATOR=$HEARTH_BIN/hearth-operator
  HEARTH_LOAD=$HEARTH_BIN/examples/load
fi
common=(--operator "$HEARTH_OPERATOR" --load "$HEARTH_LOAD" --kube "$HEARTH_CACHE/bin/kube")

if [[ ${1:-} == --smoke ]]; then
  exec python3 tests/bench/scale.py --smoke "${common[@]}" --out target/bench/operator-smoke.json
fi
peers=$(tests/setup/peers.sh)
exec python3 tests/bench/scale.py "${common[@]}" --peers "$peers" --jobs "${HEARTH_BENCH_JOBS:-100,1000}" \
  --alone "${HEARTH_BENCH_ALONE:-}" \
  --runs "${HEARTH_BENCH_RUNS:-3}" --workers "${HEARTH_BENCH_WORKERS:-2}" --out target/bench/operator.json "$@"
