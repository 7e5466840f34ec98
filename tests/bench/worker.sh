# Sourced by the benchmarks of the worker: libtorch, and HEARTH_WORKER, the binary to measure; without
# one, this checkout's is built.
source tests/setup/env.sh
eval "$(tests/setup/libtorch.sh)"
export HEARTH_LIBTORCH_LIB=$LIBTORCH/lib
if [[ -z ${HEARTH_WORKER:-} ]]; then
  cargo build --release --quiet --workspace --bins
  HEARTH_WORKER=$HEARTH_BIN/hearth-worker
fi
