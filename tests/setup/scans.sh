#!/usr/bin/env bash
# Fetches what the sample of medical images learns from, and prints the directory that holds it:
#
#   scans=$(tests/setup/scans.sh)
#
#   train/, eval/   DICOM files by modality: CT, MR, US (pydicom's test files; MIT, and public data of
#                   their makers), and slices of a CT volume of InVesalius (GPL-2)
#   series/         all slices of that volume, each a file; data/scans.py says how
#
# stdout holds that one line; everything else goes to stderr. All are pinned by hash and only
# unpacked: no code of theirs runs. The directory appears whole or not at all.
set -euo pipefail

FILES="pydicom-data==1.0.0 --hash=sha256:622ac97265f1d91f76b5120b5bd6eb0f57737c392ef863b72c71779c91e33637
pydicom==3.0.2 --hash=sha256:abf971a5440f84dbaf42c4b6758e30e62480902584f8b270b9a5d146e278a07b"
VOLUME=invesalius-examples
VOLUME_SHA256=f2f14bdfef6dc3812eafc5013d133c6c18370aaab5666b78d54af2e7db432f97

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/scans-$(hearth_key "$here/scans.sh" "$here/data/scans.py")

if [[ ! -d $home ]]; then
  hearth_work "$home"
  hearth_say "fetching files of scanners (36 MB)"
  hearth_wheel "$FILES" "$work"
  hearth_say "fetching a CT volume (19 MB)"
  download() { (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$VOLUME" >&2); }
  # A machine on which nothing was installed yet knows of no packages.
  download 2>/dev/null || { apt-get update -qq >&2 && download; }
  echo "$VOLUME_SHA256  $(echo "$work/$VOLUME"_*.deb)" | sha256sum --check --quiet >&2 ||
    hearth_die "$VOLUME is not the package that was pinned; compare it before changing VOLUME_SHA256"
  dpkg-deb --extract "$work/$VOLUME"_*.deb "$work/volume"
  python3 "$here/data/scans.py" "$work"/pydicom_data-*.whl "$work"/pydicom-*.whl \
    "$work/volume/usr/share/doc/$VOLUME/examples/Cranium.inv3" "$work/home"
  chmod -R a+rX "$work/home"
  hearth_keep "$work/home" "$home"
fi
echo "$home"
