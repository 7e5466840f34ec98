#!/usr/bin/env bash
# What the gateway adds to the time of an answer: a server that answers at once, asked directly and
# through the gateway, in turn, 500 requests a second, 10 s each, five times. The same as JSON in
# target/bench/gateway.json. `make bench-gateway`; two minutes.
#
#   tests/bench/gateway.sh
#   tests/bench/gateway.sh --smoke      A second each: does it work?
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -n "${HEARTH_COPY:-}" ] || exec tests/setup/in-copy.sh tests/bench/gateway.sh "$@"

source tests/setup/env.sh
[[ ${1:-} != --smoke ]] || export HEARTH_BENCH_SECONDS=1
# All of the workspace, as everything else builds it: other features would compile it anew.
eval "$(tests/setup/libtorch.sh)"
cargo build --release --quiet --workspace --bins --tests
cargo test --release --quiet --workspace --test it -- --ignored --exact --nocapture overhead::overhead
