#!/usr/bin/env bash
# Installs TensorBoard and prints the path of its interpreter.
#
#   python=$(tests/setup/tensorboard.sh)
#
# stdout holds that one line; everything else goes to stderr. It is a virtual
# environment in $HEARTH_CACHE/tensorboard-KEY, where KEY hashes this script and
# the requirements (45 MB of wheels).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
requirements=$here/tensorboard/requirements.txt
home=$HEARTH_CACHE/tensorboard-$(hearth_key "${BASH_SOURCE[0]}" "$requirements")

# A virtual environment cannot be moved, so it is built in place and marked when whole.
install() {
  hearth_say "installing TensorBoard (45 MB) into $home"
  rm -rf "$home"
  hearth_venv "$home" "$requirements"
  "$home/bin/python" -c 'from tensorboard.backend.event_processing import event_accumulator' >&2
  touch "$home/complete"
}

mkdir -p "$HEARTH_CACHE"
exec 9>"$home.lock"
flock 9
[ -e "$home/complete" ] || install
echo "$home/bin/python"
