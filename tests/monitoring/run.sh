#!/usr/bin/env bash
# Alert rules, monitors and the dashboard of the chart: promtool's tests, then every expression on
# the figures of real processes, which a real Prometheus scrapes. Takes half a minute.
#
# HEARTH_BINARIES names the folder of hearth-operator, hearth-gateway and hearth-worker; without
# it, this checkout's are built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}${HEARTH_BINARIES:-}" ] || exec tests/setup/in-copy.sh tests/monitoring/run.sh

source tests/setup/env.sh
eval "$(tests/setup/libtorch.sh)"
export HEARTH_LIBTORCH_LIB=$LIBTORCH/lib
prometheus=$(tests/setup/prometheus.sh)
if [ -z "${HEARTH_BINARIES:-}" ]; then
  tests/setup/tools.sh
  cargo build --release --quiet --workspace --bins
  HEARTH_BINARIES=$HEARTH_BIN
fi

"$prometheus/bin/promtool" check rules charts/hearth/files/alerts.yaml
"$prometheus/bin/promtool" test rules tests/monitoring/alerts_test.yaml
export PYTHONDONTWRITEBYTECODE=1
exec python3 tests/monitoring/check.py --binaries "$HEARTH_BINARIES" --prometheus "$prometheus" \
  --kube "$HEARTH_CACHE/bin/kube" --helm "$HEARTH_CACHE/bin/helm"
