#!/usr/bin/env bash
# Lists what a cluster left on this machine; fails where there is anything.
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"

left() {
  local id
  for id in $(daemons "$DIR/"); do echo "process: $id $(tr '\0' ' ' <"/proc/$id/cmdline")"; done
  awk -v dir="$DIR/" 'index($5, dir) == 1 {print "mount: " $5}' /proc/self/mountinfo
  ip -o link show | sed -nE 's/^[0-9]+: ([^:@]+).*/\1/p' | grep -E '^hearth[0-9]+$' | sed 's/^/link: /' || true
  ip -o link show type veth | sed -nE 's/.*master (hearth[0-9]+).*/veth of: \1/p'
  nft list tables 2>/dev/null | grep -E 'kube-proxy|inet hearth' | sed 's/^/nftables: /' || true
  iptables-save 2>/dev/null | grep -F hearth+ | sed 's/^/iptables: /' || true
  ip -4 route show root 10.244.0.0/16 | sed 's/^/route: /'
  our_cgroups | sed 's/^/cgroup: /'
  find /run/netns -maxdepth 1 -name 'cni-*' -printf 'network namespace: %p\n' 2>/dev/null || true
  find /var/lib/cni/results -name 'hearth[0-9]-*' -printf 'file: %p\n' 2>/dev/null || true
  find /var/log/containers -lname "$DIR/*" -printf 'file: %p\n' 2>/dev/null || true
  [ ! -e "$DIR" ] || echo "folder: $DIR"
}

found=$(left)
[ -z "$found" ] || { printf 'The cluster left:\n%s\n' "$found"; exit 1; }
echo "Nothing is left of the cluster."
