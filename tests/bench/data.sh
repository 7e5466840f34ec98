#!/usr/bin/env bash
# Speed and memory of preparing texts against Hugging Face's datasets doing the same steps, on one core;
# the same as JSON in target/bench/data.json. `make bench-data`; some five minutes on a core that does
# nothing else.
#
#   tests/bench/data.sh [--megabytes N] [--runs N]
#   tests/bench/data.sh --smoke       a few megabytes, Hearth alone: does it work?
#
# HEARTH_WORKER names a binary to measure; without it, this checkout's is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/bench/data.sh "$@"

source tests/bench/worker.sh
PEERS=(datasets==5.2.0 dill==0.4.1 numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1)
if [[ ${1:-} == --smoke ]]; then
  exec python3 tests/bench/data.py --worker "$HEARTH_WORKER" --megabytes 4 --runs 1 --out target/bench/data-smoke.json
fi
venv=$HEARTH_CACHE/datasets-$(printf '%s\n' "${PEERS[@]}" | hearth_key)
if [ ! -d "$venv" ]; then
  hearth_work "$venv"
  python3 -m venv "$work/home" >&2
  "$work/home/bin/pip" install --quiet "${PEERS[@]}" >&2
  hearth_keep "$work/home" "$venv"
fi
exec python3 tests/bench/data.py --worker "$HEARTH_WORKER" --peer "$venv/bin/python3" --out target/bench/data.json "$@"
