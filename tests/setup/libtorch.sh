#!/usr/bin/env bash
# Installs libtorch 2.11.0 and prints the environment that builds and runs the
# worker against it.
#
#   eval "$(tests/setup/libtorch.sh)"
#
# stdout holds `export` lines only; everything else goes to stderr.
#
# Everything comes from package registries: PyPI wheels (pinned by SHA-256) and
# Debian's libgloo-dev, whose headers alone are unpacked. The result is
# $HEARTH_CACHE/libtorch-KEY, where KEY hashes the pins and this layout:
#
#   build-version     2.11.0, which torch-sys compares with what it was written for
#   include/ lib/     libtorch for the CPU; lib/libtorch.so is a linker script, so
#                     that nothing linked with -ltorch needs CUDA to start
#   gloo/include/     Gloo's headers, which the wheel lacks
#   cuda/include/     CUDA runtime and NCCL headers, to compile the NCCL library
#   cuda/lib/         libtorch_cuda.so and libc10_cuda.so, to link it (running it
#                     needs the whole CUDA runtime as well)
#   licenses/
#
# The directory is built under a temporary name and renamed, so that a killed
# run leaves no half of it, and one that exists is whole.
set -euo pipefail

VERSION=2.11.0
# Raise when the layout above changes.
LAYOUT=1
PINS="torch==$VERSION --hash=sha256:7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a
nvidia-cuda-cupti==13.0.85 --hash=sha256:4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-nccl-cu13==2.28.9 --hash=sha256:e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42"

source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
home=$HEARTH_CACHE/libtorch-$(printf '%s\n%s\n' "$LAYOUT" "$PINS" | hearth_key)

# The compiler is asked for on every run: the cache may outlive the machine.
need_tools() {
  local missing=()
  command -v g++ >/dev/null || missing+=(g++)
  command -v python3 >/dev/null || missing+=(python3)
  if [[ ! -d $home ]] && ! python3 -m pip --version >/dev/null 2>&1; then
    missing+=(python3-pip)
  fi
  hearth_apt "${missing[@]}"
}

# The wheels' files do not depend on the Python at hand, so its version is named.
download_wheels() {
  local dir=$1
  printf '%s\n' "$PINS" >"$dir/pins.txt"
  python3 -m pip download --quiet --no-cache-dir --disable-pip-version-check --no-deps --require-hashes \
    --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_18_x86_64 --platform manylinux2014_x86_64 \
    --platform manylinux_2_17_x86_64 \
    --dest "$dir" --requirement "$dir/pins.txt" >&2
}

download_gloo_headers() {
  local dir=$1
  if ! (cd "$dir" && apt-get download -qq -o APT::Sandbox::User=root libgloo-dev >&2); then
    apt-get update -qq >&2
    (cd "$dir" && apt-get download -qq -o APT::Sandbox::User=root libgloo-dev >&2)
  fi
  dpkg-deb -x "$dir"/libgloo-dev_*.deb "$dir/gloo"
}

# Takes out of the wheels what the layout holds, and nothing else.
lay_out() {
  python3 - "$1" "$2" <<'PYTHON'
import pathlib, shutil, sys, zipfile

wheels, home = map(pathlib.Path, sys.argv[1:])
CPU = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1"}
CUDA = {"libtorch_cuda.so", "libc10_cuda.so"}
RUNTIME = {"libcudart.so.13", "libcupti.so.13"}


def place(member):
    """Where a wheel's member goes under the libtorch directory, or None."""
    parts = member.split("/")
    name = parts[-1]
    if member.startswith("torch/include/"):
        return "/".join(["include", *parts[2:]])
    if member.startswith("torch/lib/") and name in CPU:
        return f"lib/{name}"
    if member.startswith("torch/lib/") and name in CUDA:
        return f"cuda/lib/{name}"
    if parts[0] == "nvidia" and name in RUNTIME:
        return f"lib/{name}"
    if parts[0] == "nvidia" and "include" in parts:
        return "/".join(["cuda/include", *parts[parts.index("include") + 1 :]])
    if ".dist-info" in parts[0] and ("license" in name.lower() or "notice" in name.lower()):
        return f"licenses/{parts[0].split('-')[0]}/{name}"
    return None


for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            target = place(member)
            if target is None or member.endswith("/"):
                continue
            path = home / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)

absent = [
    name
    for folder, names in (("lib", CPU | RUNTIME), ("cuda/lib", CUDA))
    for name in names
    if not (home / folder / name).is_file()
]
if absent:
    sys.exit(f"libtorch: the wheels lack {', '.join(sorted(absent))}")
PYTHON
}

install_libtorch() {
  hearth_work "$home"
  mkdir "$work/wheels" "$work/home"
  hearth_say "downloading libtorch $VERSION (about 740 MB)"
  download_wheels "$work/wheels"
  download_gloo_headers "$work/wheels"
  hearth_say "unpacking into $home"
  lay_out "$work/wheels" "$work/home"
  mkdir -p "$work/home/gloo"
  mv "$work/wheels/gloo/usr/include" "$work/home/gloo/include"
  echo 'INPUT(-ltorch_cpu -lc10)' >"$work/home/lib/libtorch.so"
  echo "$VERSION" >"$work/home/build-version"
  hearth_keep "$work/home" "$home"
}

[[ $(uname -sm) == "Linux x86_64" ]] || hearth_die "the pinned wheels are for Linux on x86_64, not $(uname -sm)"
need_tools
[[ -d $home ]] || install_libtorch

cat <<EXPORTS
export LIBTORCH='$home'
export LD_LIBRARY_PATH='$home/lib'"\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
export HEARTH_GLOO_INCLUDE='$home/gloo/include'
export HEARTH_TORCH_CUDA='$home/cuda'
unset LIBTORCH_USE_PYTORCH LIBTORCH_STATIC LIBTORCH_INCLUDE LIBTORCH_LIB LIBTORCH_CXX11_ABI
EXPORTS
