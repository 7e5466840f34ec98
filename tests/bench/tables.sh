#!/usr/bin/env bash
# How well the sample against money laundering tells transfers apart, and trees and networks real applications for
# mortgages, beside LightGBM for Python and a logistic regression, on the same split; the same as JSON in
# target/bench/{tables,loans}.json. `make bench-tables`; some minutes, once its packages are there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/bench/tables.sh "$@"

source tests/bench/worker.sh
PEERS=(lightgbm==4.7.0 pandas==2.3.3 pyarrow==21.0.0 pyyaml==6.0.3 scikit-learn==1.9.1)
venv=$HEARTH_CACHE/tables-$(printf '%s\n' "${PEERS[@]}" | hearth_key)
if [ ! -d "$venv" ]; then
  hearth_work "$venv"
  python3 -m venv "$work/home" >&2
  "$work/home/bin/pip" install --quiet "${PEERS[@]}" >&2
  hearth_keep "$work/home" "$venv"
fi
sample=manifests/samples/anti-money-laundering
room=$(mktemp -d)
trap 'rm -rf "$room" "${work:-$room}"' EXIT
read -ra arguments < <(sed -n 's/^ *args: \[\(.*\)\]$/\1/p' "$sample/transfers.yaml" | tr -d ',"')
"$HEARTH_WORKER" "${arguments[@]/\/data/$room}"
PATH=$(dirname "$HEARTH_WORKER"):$PATH hearth run "$sample/training.yaml" --volume transfers="$room"
"$venv/bin/python3" tests/bench/tables.py --data "$room"/model/data/????????????????/ \
  --model "$room/model/model" --out target/bench/tables.json "$@"
"$venv/bin/python3" tests/bench/loans.py --rows "$(tests/setup/loans.sh)" --worker "$HEARTH_WORKER" \
  --out target/bench/loans.json
