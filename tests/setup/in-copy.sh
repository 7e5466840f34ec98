#!/usr/bin/env bash
# Runs a command in a copy of this working tree, $HEARTH_CACHE/checkout.
# Usage: tests/setup/in-copy.sh COMMAND…
#
# The copy holds what a commit of the tree would, so nothing else can make a test
# pass; and a file is written anew only where its content changed, so cargo compiles
# what changed since the last run, wherever the clone lies. target/ leads back here.
set -euo pipefail
[ -z "${HEARTH_COPY:-}" ] || exec "$@"
cd "$(dirname "$0")/../.."
source tests/setup/env.sh
mkdir -p target "$HEARTH_CACHE"
copy=$HEARTH_CACHE/checkout
[ -z "${KUBECONFIG:-}" ] || export KUBECONFIG=$(realpath "$KUBECONFIG")

# One run at a time: another's would change files under it.
if [ -z "${HEARTH_COPY_LOCKED:-}" ]; then
  flock --nonblock "$copy.lock" true || hearth_say "another run uses $copy; waiting for it"
  HEARTH_COPY_LOCKED=yes exec flock --close "$copy.lock" "$0" "$@"
fi

[ -d "$copy/.git" ] || git init --quiet "$copy"
in_tree() { GIT_DIR=$copy/.git GIT_WORK_TREE=$PWD GIT_INDEX_FILE=$copy/.git/incoming git "$@"; }
in_tree add --all .
tree=$(in_tree write-tree)
git -C "$copy" read-tree --reset -u "$tree"
git -C "$copy" clean -ffdqx
ln -s "$PWD/target" "$copy/target"
cd "$copy"
HEARTH_COPY=$copy exec "$@"
