#!/usr/bin/env bash
# Removes the cluster with all that it left: processes, mounts, network, cgroups,
# files. Works on whatever a killed run left, and where there is nothing.
set -euo pipefail
source "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"

# Numbers of nodes of which anything is left.
nodes() {
  {
    find "$DIR" -mindepth 1 -maxdepth 1 -name 'node[0-9]*' -printf '%f\n' 2>/dev/null | tr -d node
    our_cgroups | sed 's/.*node//'
    our_links | tr -d hearth
  } | sort -un
}

our_links() { ip -o link show type bridge | sed -nE 's/^[0-9]+: (hearth[0-9]+):.*/\1/p'; }

# Sockets of shims lie in a folder that all of the machine's containerds share.
shim_sockets() {
  find "$DIR"/node*/state -name address -exec cat {} + 2>/dev/null | grep -oE '/run/containerd/s/[0-9a-f]+' | sort -u || true
}

unmount_all() {
  local mount
  awk -v dir="$DIR/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r mount; do
    mount=$(printf '%b' "$mount")
    umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true
  done
}

remove_cgroups() {
  local cgroup
  our_cgroups | while read -r cgroup; do
    for _ in $(seq 50); do
      find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
      [ -d "$cgroup" ] || break
      sleep 0.1
    done
  done
}

remove_network() {
  local family link
  # Without our folder the tables may be those of a cluster that is not ours.
  if [ -d "$DIR" ]; then
    for family in ip ip6; do nft delete table "$family" kube-proxy 2>/dev/null || true; done
  fi
  nft delete table inet hearth 2>/dev/null || true
  if [ -e "$DIR/forward.rule" ]; then
    iptables -D FORWARD -i 'hearth+' -o 'hearth+' -j ACCEPT 2>/dev/null || true
  fi
  for link in $(our_links); do ip link delete "$link" 2>/dev/null || true; done
  [ ! -s "$DIR/ip_forward.before" ] || cat "$DIR/ip_forward.before" >/proc/sys/net/ipv4/ip_forward
}

# Kubelet and the CNI plugins keep a little in folders that no option moves.
remove_strays() {
  rm -f /var/lib/cni/results/hearth[0-9]-*
  find /var/log/containers -maxdepth 1 -type l -lname "$DIR/*" -delete 2>/dev/null || true
  if [ -e "$DIR/folders.made" ]; then
    local folder
    while read -r folder; do rm -rf --one-file-system "$folder"; done <"$DIR/folders.made"
  fi
}

exclusively
sockets=$(shim_sockets)
# Nothing of theirs is to be kept, so they need no time to end well.
for node in $(nodes); do kill_node "$node" & done
stop KILL proxy dns scheduler controller-manager apiserver etcd
wait
for id in $(daemons "$DIR/"); do kill -KILL "$id" 2>/dev/null || true; done
unmount_all
remove_cgroups
remove_network
remove_strays
for socket in $sockets; do rm -f "$socket"; done
rm -rf --one-file-system "$DIR" "$KUBECACHEDIR"
