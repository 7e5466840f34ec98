#!/usr/bin/env bash
# Fetches ONNX Runtime's library for CPUs (MIT), out of a PyPI wheel of 28 MB, and prints its path.
#
#   export ORT_DYLIB_PATH=$(tests/setup/onnxruntime.sh)
#
# stdout holds that one line; everything else goes to stderr. The wheel is pinned by hash and only
# unpacked. The directory appears whole or not at all.
set -euo pipefail

WHEEL="onnxruntime==1.32.0 --hash=sha256:5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/onnxruntime-$(hearth_key "$here/onnxruntime.sh")

if [[ ! -d $home ]]; then
  [[ $(uname -sm) == "Linux x86_64" ]] || hearth_die "the pinned wheel is for Linux on x86_64, not $(uname -sm)"
  hearth_work "$home"
  mkdir "$work/home"
  hearth_say "fetching ONNX Runtime (28 MB)"
  hearth_wheel "$WHEEL" "$work"
  python3 - "$work"/*.whl "$work/home" <<'PYTHON'
import pathlib, sys, zipfile

home = pathlib.Path(sys.argv[2])
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for inside, name in [
        ("onnxruntime/capi/libonnxruntime.so.1.32.0", "libonnxruntime.so"),
        ("onnxruntime/LICENSE", "LICENSE"),
        ("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.txt"),
    ]:
        (home / name).write_bytes(wheel.read(inside))
PYTHON
  chmod -R a+rX "$work/home"
  hearth_keep "$work/home" "$home"
fi
echo "$home/libonnxruntime.so"
