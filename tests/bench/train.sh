#!/usr/bin/env bash
# Speed and memory of fine-tuning against transformers' Trainer and TRL; the same as
# JSON in target/bench/train.json. `make bench-train`; takes about 15 minutes on
# 2 cores that do nothing else.
#
#   tests/bench/train.sh [--runs N]
#   tests/bench/train.sh --smoke      Hearth alone, a few seconds: does it work?
#
# HEARTH_WORKER names a binary to measure; without it, this checkout's is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/bench/train.sh "$@"

source tests/bench/worker.sh

if [[ ${1:-} == --smoke ]]; then
  exec python3 tests/bench/train.py --smoke --worker "$HEARTH_WORKER" --out target/bench/train-smoke.json
fi
reference=$(tests/parity/setup.sh)
data=$(tests/setup/data.sh)
smollm2=$(tests/setup/smollm2.sh)
chats=$(tests/setup/chats.sh)
exec python3 tests/bench/train.py --worker "$HEARTH_WORKER" --data "$data" --smollm2 "$smollm2" \
  --chats "$chats" --reference "$reference" --out target/bench/train.json "$@"
