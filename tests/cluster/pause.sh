#!/usr/bin/env bash
# Makes the archive $PAUSE_ARCHIVE: the image of every pod's first process, which holds
# the pod's namespaces and does nothing else.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/lib.sh"
source "$here/../setup/oci.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"
gcc -Os -static -s -o "$work/root/pause" "$here/pause.c"
image_of_tar "$PAUSE_IMAGE" "$work/root" --entrypoint '["/pause"]' --user 65535:65535
images push --quiet "$PAUSE_IMAGE" "docker-archive:$work/pause.tar:$PAUSE_IMAGE"
mkdir -p "$HEARTH_CACHE"
mv "$work/pause.tar" "$PAUSE_ARCHIVE"
