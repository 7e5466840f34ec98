#!/usr/bin/env bash
# Installs the Python reference (torch, transformers, scikit-learn and what they
# need) and prints the path of its interpreter.
#
#   python=$(tests/parity/setup.sh)
#
# stdout holds that one line; everything else goes to stderr. It is a virtual
# environment in $HEARTH_CACHE/parity-KEY, where KEY hashes this script and
# requirements.txt. `make test` does not need it; `make parity` does.
#
# PyPI's torch for Linux is the CUDA build: to be imported it wants ten CUDA
# libraries, 2 GB of wheels, of which nothing is called on a machine without a
# GPU. Here they are empty libraries of the right names, and Python is told to
# bind functions when they are first called instead of when a library is loaded.
set -euo pipefail

# What libtorch_cuda.so and libtorch_nvshmem.so link to, besides the CUDA runtime.
CUDA_LIBRARIES="libcublas.so.13 libcublasLt.so.13 libcudnn.so.9 libcufft.so.12 libcufile.so.0
libcurand.so.10 libcusparse.so.12 libcusparseLt.so.0 libnccl.so.2 libnvshmem_host.so.3"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../setup/env.sh"
home=$HEARTH_CACHE/parity-$(hearth_key "$here/setup.sh" "$here/requirements.txt")

need_tools() {
  local missing=()
  command -v cc >/dev/null || missing+=(gcc libc6-dev)
  command -v python3 >/dev/null || missing+=(python3)
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  hearth_apt "${missing[@]}"
}

# A virtual environment cannot be moved, so it is built in place and marked when whole.
install_reference() {
  hearth_say "installing torch and transformers (620 MB) into $home"
  rm -rf "$home"
  python3 -m venv "$home"
  "$home/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps \
    --require-hashes --only-binary=:all: --requirement "$here/requirements.txt" >&2
  local packages
  packages=$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  for library in $CUDA_LIBRARIES; do
    cc -x c -shared -nostdlib -Wl,-soname,"$library" -o "$packages/torch/lib/$library" /dev/null
  done
  echo 'import os, sys; sys.setdlopenflags(os.RTLD_LAZY)' >"$packages/lazy_binding.pth"
  "$home/bin/python" -c 'import torch, transformers, sklearn; torch.ones(2, 2) @ torch.ones(2, 2)' >&2
  touch "$home/complete"
}

mkdir -p "$HEARTH_CACHE"
exec 9>"$home.lock"
flock 9
if [[ ! -e $home/complete ]]; then
  [[ $(uname -sm) == "Linux x86_64" ]] || hearth_die "the pinned wheels are for Linux on x86_64, not $(uname -sm)"
  need_tools
  python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    hearth_die "the pinned wheels are for Python 3.11; this is $(python3 --version)"
  install_reference
fi
echo "$home/bin/python"
