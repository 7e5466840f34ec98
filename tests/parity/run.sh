#!/usr/bin/env bash
# Compares Hearth with transformers, in four steps: the committed fixtures are
# what the reference gives now; the Rust tests agree with the fixtures; the
# sample job gives what transformers' Trainer gives; a language model learns from
# conversations what it learns in TRL. Takes about 15 minutes on 2 cores. `make parity`
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/parity/run.sh

python=$(tests/parity/setup.sh)
data=$(tests/setup/data.sh)
source tests/setup/env.sh
eval "$(tests/setup/libtorch.sh)"
out=target/parity
mkdir -p "$out"
out=$(realpath "$out")

# The reference brings its own libtorch.
reference() { env -u LD_LIBRARY_PATH "$python" "$@"; }

reference tests/parity/fixtures.py --data "$data" --smollm2 "$(tests/setup/smollm2.sh)"
reference tests/parity/tables.py
reference tests/parity/table_networks.py
# Photographs that scikit-learn brings.
HEARTH_PARITY_PICTURES=$(reference -c 'import sklearn.datasets, os; print(os.path.join(os.path.dirname(sklearn.datasets.__file__), "images"))')
export HEARTH_PARITY_PICTURES HEARTH_PARITY_REAL=$out/photographs.json
reference tests/parity/images.py "$HEARTH_PARITY_PICTURES" >"$HEARTH_PARITY_REAL"
cargo nextest run --release --workspace --run-ignored all -E 'test(/^parity_/)'
cargo build --release --quiet --workspace --bins
export HEARTH_LIBTORCH_LIB=$LIBTORCH/lib
worker=$HEARTH_BIN/hearth-worker
reference tests/parity/end_to_end.py --data "$data" --worker "$worker" --out "$out/spam"
reference tests/parity/adapters.py --worker "$worker" --out "$out/adapters"
reference tests/parity/compressed.py --worker "$worker" --out "$out/compressed"
reference tests/parity/sft.py --smollm2 "$(tests/setup/smollm2.sh)" --chats "$(tests/setup/chats.sh)" \
  --worker "$worker" --out "$out/sft"
