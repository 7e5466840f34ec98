#!/usr/bin/env bash
# Speed and memory of serving against llama.cpp, ONNX Runtime and transformers, and against what memory
# gives; the same as JSON in target/bench/serve.json. `make bench-serve`; takes about half an hour on
# 2 cores that do nothing else, 8 GB of memory and 6 GB of disk.
#
#   tests/bench/serve.sh [--runs N] [--threads N,…] [--parts language,large,classifier]
#   tests/bench/serve.sh --smoke      Hearth alone, a few seconds: does it work?
#
# HEARTH_WORKER names a binary to measure; without it, this checkout's is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/bench/serve.sh "$@"

source tests/bench/worker.sh

if [[ ${1:-} == --smoke ]]; then
  exec python3 tests/bench/serve.py --smoke --worker "$HEARTH_WORKER" --out target/bench/serve-smoke.json
fi
reference=$(tests/parity/setup.sh)
clients=$(tests/serving/setup.sh)
data=$(tests/setup/data.sh)
smollm2=$(tests/setup/smollm2.sh)
llama=$(tests/setup/llama.sh)
onnxruntime=$(tests/setup/onnxruntime.sh)
command -v cc >/dev/null || hearth_apt gcc libc6-dev
exec python3 tests/bench/serve.py --worker "$HEARTH_WORKER" --data "$data" --smollm2 "$smollm2" --llama "$llama" \
  --reference "$reference" --clients "$clients" --onnxruntime "$onnxruntime" --scratch "$HEARTH_CACHE" \
  --out target/bench/serve.json "$@"
