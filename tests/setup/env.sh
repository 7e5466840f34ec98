#!/usr/bin/env bash
# Sourced by every script and by the Makefile: where things are, and small helpers.

# A failure inside $(…) ends a script that runs under `set -e`, too.
shopt -s inherit_errexit

HEARTH_CACHE=$(realpath -m "${HEARTH_CACHE:-$HOME/.cache/hearth}")
export HEARTH_CACHE
# What tests/cluster keeps while it is up; removed by tests/cluster/down.sh.
export HEARTH_CLUSTER_DIR=${HEARTH_CLUSTER_DIR:-/var/lib/hearth-cluster}
# What tests/setup/in-copy.sh builds. No other checkout may build there: cargo tells by a file's
# time whether it was built, and the times of one checkout mean nothing in another.
export HEARTH_BIN=$HEARTH_CACHE/target/release
[ -z "${HEARTH_COPY:-}" ] || export CARGO_TARGET_DIR=$HEARTH_CACHE/target
# The C++ of nccl-rs takes 40 s, that of LightGBM eleven minutes of one core; a fresh clone finds it
# compiled. CMake takes the launcher from the environment.
if command -v ccache >/dev/null; then
  CCACHE_BASEDIR=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  export CCACHE_BASEDIR CCACHE_DIR=$HEARTH_CACHE/ccache CXX=${CXX:-ccache g++}
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache
fi
# kubectl's notes on what a server offers; not in the home of whoever tests.
export KUBECACHEDIR=$HEARTH_CACHE/kubectl
case ":$PATH:" in
  *":$HEARTH_CACHE/bin:"*) ;;
  *) export PATH=$HEARTH_CACHE/bin:$PATH ;;
esac

# A line of progress on standard error, where results on standard output are left alone.
hearth_say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }

# hearth_key FILE…: 12 characters that change when a file's content does.
hearth_key() { cat "$@" | sha256sum | cut -c1-12; }

hearth_die() { hearth_say "$*"; exit 1; }

# hearth_apt PACKAGE…: installs Debian packages.
hearth_apt() {
  [ $# -gt 0 ] || return 0
  hearth_say "apt-get install $*"
  [ "$(id -u)" -eq 0 ] || hearth_die "that needs root: install them by hand, or run this as root"
  apt-get update -qq >&2 &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# hearth_wheel PINS FOLDER: downloads wheels of any platform, pinned by hash, into a folder.
hearth_wheel() {
  python3 -m pip --version >/dev/null 2>&1 || hearth_apt python3-pip
  printf '%s\n' "$1" >"$2/pins.txt"
  python3 -m pip download --quiet --no-cache-dir --disable-pip-version-check --no-deps \
    --require-hashes --only-binary=:all: --dest "$2" --requirement "$2/pins.txt" >&2
}

# hearth_venv FOLDER REQUIREMENTS: a virtual environment with these packages, pinned by hash and
# complete. It cannot be moved: the caller marks it when it is whole.
hearth_venv() {
  [[ $(uname -sm) == "Linux x86_64" ]] || hearth_die "the pinned wheels are for Linux on x86_64, not $(uname -sm)"
  python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    hearth_die "the pinned wheels are for Python 3.11; this is $(python3 --version)"
  python3 -c 'import ensurepip, venv' 2>/dev/null || hearth_apt python3-venv
  python3 -m venv "$1"
  "$1/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps \
    --require-hashes --only-binary=:all: --requirement "$2" >&2
}

# hearth_work HOME: sets $work to a folder in which to build HOME, which goes when
# the script ends. What killed runs left goes once they cannot be running any more.
hearth_work() {
  mkdir -p "$HEARTH_CACHE"
  find "$HEARTH_CACHE" -maxdepth 1 -name '.work-*' -mmin +120 -exec rm -rf {} +
  work=$(mktemp -d "$HEARTH_CACHE/.work-$(basename "$1").XXXXXX")
  trap 'rm -rf "$work"' EXIT
}

# hearth_keep FOLDER HOME: gives a whole folder its name. Where another run was
# first, its folder is as good as this one.
hearth_keep() {
  mv -T "$1" "$2" 2>/dev/null || [ -d "$2" ] || hearth_die "cannot move $1 to $2"
}
