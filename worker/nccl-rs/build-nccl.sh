#!/usr/bin/env bash
# Builds OUT_DIR/libhearth_nccl.so, the library through which the worker uses
# NCCL, and checks that it is whole. Needs no GPU, no driver and no cargo:
#
#   eval "$(tests/setup/libtorch.sh)"
#   worker/nccl-rs/build-nccl.sh OUT_DIR
#
# The linker resolves every symbol against libtorch_cuda and libtorch. What those
# need in turn (cuBLAS, cuDNN, NCCL itself) is found when the worker runs on a
# machine that has them.
set -euo pipefail

die() {
  echo "build-nccl: $*" >&2
  exit 1
}

[[ $# -eq 1 ]] || die "usage: build-nccl.sh OUT_DIR"
# shellcheck disable=SC2016 # for the reader to run
advice='run: eval "$(tests/setup/libtorch.sh)"'
[[ -e ${LIBTORCH:-}/lib/libtorch_cpu.so ]] || die "LIBTORCH does not name a libtorch; $advice"
[[ -e ${HEARTH_TORCH_CUDA:-}/lib/libtorch_cuda.so ]] ||
  die "HEARTH_TORCH_CUDA does not name libtorch's CUDA half; $advice"

out=$1
cpp=$(cd "$(dirname "${BASH_SOURCE[0]}")/cpp" && pwd)
library=$out/libhearth_nccl.so
mkdir -p "$out"
# Renamed when it is whole, so that a reader never sees half of it.
draft=$(mktemp "$out/.libhearth_nccl.XXXXXX")
trap 'rm -f "$draft"' EXIT

# What the library is made from, in one number.
recipe=$(cat "${BASH_SOURCE[0]}" "$cpp"/{nccl.cpp,nccl.hpp,status.hpp,shim.h} <(echo "$LIBTORCH") |
  sha256sum | cut -d' ' -f1)

compile() {
  # --no-undefined: our own symbols. --allow-shlib-undefined: not libtorch_cuda's.
  ${CXX:-g++} -std=c++20 -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra \
    -DUSE_C10D_NCCL \
    -isystem "$LIBTORCH/include" -isystem "$LIBTORCH/include/torch/csrc/api/include" \
    -isystem "$cpp/cuda_handles" \
    -isystem "$HEARTH_TORCH_CUDA/include" -isystem "$HEARTH_TORCH_CUDA/include/cccl" \
    "$cpp/nccl.cpp" -o "$draft" \
    -L"$HEARTH_TORCH_CUDA/lib" -L"$LIBTORCH/lib" \
    -Wl,--no-as-needed -ltorch_cuda -lc10_cuda -ltorch_cpu -lc10 \
    -Wl,--no-undefined -Wl,--allow-shlib-undefined \
    -Wl,-soname,libhearth_nccl.so
}

if [[ $(cat "$library.recipe" 2>/dev/null) == "$recipe" && -e $library ]]; then
  cp "$library" "$draft"
else
  compile
fi

exported=$(nm -D --defined-only "$draft")
grep -q ' T hearth_nccl_create$' <<<"$exported" || die "hearth_nccl_create is not exported"
needed=$(readelf -d "$draft")
for name in libtorch_cuda.so libc10_cuda.so libtorch_cpu.so libc10.so; do
  grep -q "NEEDED.*\[$name\]" <<<"$needed" || die "$name is not among the needed libraries"
done

# Every symbol that libtorch is to give, it gives: the linker said so for these
# headers, this says so for these libraries.
missing=$(comm -23 \
  <(nm -D --undefined-only "$draft" | awk '$1 == "U" && $2 ~ /^_ZNK?(3c10|2at|4c10d|5torch)/ {print $2}' | sort -u) \
  <(for so in "$HEARTH_TORCH_CUDA"/lib/libtorch_cuda.so "$HEARTH_TORCH_CUDA"/lib/libc10_cuda.so \
    "$LIBTORCH"/lib/libtorch_cpu.so "$LIBTORCH"/lib/libc10.so; do
    nm -D --defined-only "$so"
  done | awk '{print $3}' | sort -u))
[[ -z $missing ]] || die "libtorch lacks: $(tr '\n' ' ' <<<"$missing")"

chmod 755 "$draft"
mv "$draft" "$library"
echo "$recipe" >"$library.recipe"
echo "build-nccl: $library resolves all its symbols" >&2
