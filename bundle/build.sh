#!/usr/bin/env bash
# Packs what an installation without the internet needs into one tar, and prints its path:
# both images, the chart, helm, CRDs, samples, documentation, an SBOM, install.sh, checksums.
# Usage: bundle/build.sh [FOLDER]   (target/bundle)
#
# The same tree and the same images (tests/setup/images.sh names them by what is in them)
# give the same bytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-target/bundle}")
images=$(env -u HEARTH_REGISTRY tests/setup/images.sh)
eval "$images"
source tests/setup/oci.sh
for tool in helm zstd; do
  command -v "$tool" >/dev/null || hearth_die "$tool is missing: run tests/setup/tools.sh"
done
version=$(sed -n 's/^version: //p' charts/hearth/Chart.yaml)
hearth_work bundle
bundle=$work/hearth-$version

# packed FOLDER NAME…: a tar of them that says nothing of who packed it, and when.
packed() {
  tar -C "$1" --sort=name --format=gnu --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - "${@:2}"
}

# layout IMAGE TAGGED: the image as an OCI layout that a node imports as TAGGED. Compressing takes
# longest of all, so the newest is kept in the cache, under the image's ID: one that was built again
# has its tag, and other times in it.
layout() {
  local name=${2##*/} home
  home=$HEARTH_CACHE/images/bundle/$name-$(images inspect --type image --format '{{.FromImageID}}' "$1" | cut -c1-12)
  if [ ! -d "$home" ]; then
    mkdir -p "$work/new" "${home%/*}"
    images push --quiet --format oci --compression-format zstd --compression-level 3 "$1" "oci:$work/new:$2" >&2
    python3 - "$work/new/index.json" "$2" <<'PYTHON'
import json, pathlib, sys

path, tagged = pathlib.Path(sys.argv[1]), sys.argv[2]
(image,) = json.loads(path.read_text())["manifests"]
image["annotations"] = {
    "io.containerd.image.name": tagged,
    "org.opencontainers.image.ref.name": tagged.rpartition(":")[2],
}
path.write_text(json.dumps({"schemaVersion": 2, "manifests": [image]}, indent=2) + "\n")
PYTHON
    rm -rf "${home%/*}/${name%:*}":*
    hearth_keep "$work/new" "$home"
  fi
  ln -s "$home" "$work/layouts/${name%:*}"
}

# archive IMAGE: its OCI archive, and its line in IMAGES.
archive() {
  local name=${1%:*} tagged
  tagged=$name:$version-${1##*:}
  layout "$1" "$tagged"
  packed "$work/layouts/${name##*/}" oci-layout index.json blobs >"$bundle/images/${name##*/}.tar"
  echo "$tagged $(sed -nE 's/.*"digest": "(.*)",/\1/p' "$work/layouts/${name##*/}/index.json")" >>"$bundle/IMAGES"
}

# The chart as `helm package` makes it, without its times.
chart() {
  helm package charts/hearth --destination "$work" >/dev/null
  mkdir "$work/chart" "$bundle/chart"
  tar -C "$work/chart" -xf "$work/hearth-$version.tgz"
  packed "$work/chart" hearth | gzip -9 --no-name >"$bundle/chart/hearth-$version.tgz"
}

# What git knows of these: nothing that only lies about goes into the bundle.
documents() {
  local file
  git ls-files -z -- '*.md' LICENSE manifests ':!tests' | while IFS= read -r -d '' file; do
    install -D -m 644 "$file" "$bundle/$file"
  done
}

mkdir -p "$bundle/images" "$bundle/bin" "$work/layouts"
hearth_say "images"
archive "$HEARTH_OPERATOR_IMAGE"
archive "$HEARTH_WORKER_IMAGE"
chart
documents
install -m 755 bundle/install.sh "$bundle/install.sh"
install -m 755 "$(readlink -f "$(command -v helm)")" "$bundle/bin/helm"
hearth_say "SBOM"
python3 bundle/sbom.py "$bundle" "$work/layouts" >"$work/sbom.cdx.json"
mv "$work/sbom.cdx.json" "$bundle/"
(cd "$bundle" && find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >SHA256SUMS)

mkdir -p "$out"
packed "$work" "hearth-$version" >"$work/hearth-$version.tar"
(cd "$work" && sha256sum "hearth-$version.tar" >"hearth-$version.tar.sha256")
mv "$work/hearth-$version.tar" "$work/hearth-$version.tar.sha256" "$out/"
echo "$out/hearth-$version.tar"
