#!/usr/bin/env bash
# Builds all binaries, into $HEARTH_BIN. Usage: tests/setup/build.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/setup/build.sh
tests/setup/tools.sh >&2
source tests/setup/env.sh
eval "$(tests/setup/libtorch.sh)"
cargo build --release --workspace --bins
