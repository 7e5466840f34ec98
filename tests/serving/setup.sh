#!/usr/bin/env bash
# Installs OpenAI's clients for Python and Node, and for Python Triton's, ONNX and ONNX Runtime, and
# prints their folder: venv/bin/python and node_modules.
#
#   clients=$(tests/serving/setup.sh)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/../setup/env.sh"
home=$HEARTH_CACHE/openai-$(hearth_key "${BASH_SOURCE[0]}" "$here/requirements.txt" "$here/package-lock.json")

# A virtual environment cannot be moved, so it is built in place and marked when whole.
install() {
  hearth_say "installing OpenAI's and Triton's clients into $home"
  rm -rf "$home"
  hearth_venv "$home/venv" "$here/requirements.txt"
  cp "$here/package.json" "$here/package-lock.json" "$home/"
  npm ci --prefix "$home" --silent --no-audit --no-fund >&2
  touch "$home/complete"
}

mkdir -p "$HEARTH_CACHE"
exec 9>"$home.lock"
flock 9
[ -e "$home/complete" ] || install
echo "$home"
