#!/usr/bin/env bash
# Tests of the operator against a bad API server and its own sudden end (tests/faults/main.rs).
#
#   tests/faults/run.sh [FILTER…]      arguments of the test program
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/faults/run.sh "$@"

source tests/setup/env.sh
tests/setup/tools.sh cluster
eval "$(tests/setup/libtorch.sh)"
# All of the workspace, as everything else builds it: other features would compile it anew.
cargo build --release --quiet --workspace --bins
cargo build --release --quiet --workspace --bin hearth-operator-planted --features hearth-operator/planted
rm -rf target/faults
exec python3 tests/faults/run.py --operator "$HEARTH_BIN/hearth-operator" --kube "$HEARTH_CACHE/bin/kube" \
  --logs target/faults cargo test --release --workspace --test faults -- --nocapture --test-threads 12 "$@"
