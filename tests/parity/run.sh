#!/usr/bin/env bash
# Compares Hearth with transformers, in three steps: the committed fixtures are
# what the reference gives now; the Rust tests agree with the fixtures; the
# sample job gives what transformers' Trainer gives. Takes about 10 minutes on
# 2 cores. `make parity`
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/parity/run.sh

python=$(tests/parity/setup.sh)
data=$(tests/setup/data.sh)
source tests/setup/env.sh
eval "$(tests/setup/libtorch.sh)"
out=target/parity
mkdir -p "$out"

# The reference brings its own libtorch.
reference() { env -u LD_LIBRARY_PATH "$python" "$@"; }

reference tests/parity/fixtures.py --data "$data" --smollm2 "$(tests/setup/smollm2.sh)"
cargo nextest run --release --workspace -E 'test(/^parity_/)'
cargo build --release --quiet --workspace --bins
HEARTH_LIBTORCH_LIB=$LIBTORCH/lib reference tests/parity/end_to_end.py --data "$data" \
  --worker "$HEARTH_BIN/hearth-worker" --out "$(realpath "$out")"
HEARTH_LIBTORCH_LIB=$LIBTORCH/lib reference tests/parity/adapters.py \
  --worker "$HEARTH_BIN/hearth-worker" --out "$(realpath "$out")"
