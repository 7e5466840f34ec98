#!/usr/bin/env bash
# A real Kubernetes cluster on this machine: etcd, API server, controller manager,
# scheduler, CoreDNS, kube-proxy, and nodes with a kubelet and a containerd each.
# Their programs come from Go modules and Debian; no container engine is needed.
#
# Does nothing where the cluster is up; starts clean where a run was killed.
# Prints how to reach it. What is not as in other clusters:
#   - NetworkPolicies are stored, but nothing enforces them: the CNI is a plain bridge.
#   - Pods reach each other, Services and the API, and nothing outside this machine.
#   - A kubelet starts any image that its node has, under whatever name and by whomever pulled.
#   - GPUs are numbers on the nodes' status; volumes are directories (volume.sh).
# HEARTH_CLUSTER_NODES (2), HEARTH_CLUSTER_GPUS (1, a node), HEARTH_CLUSTER_DIR.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/../setup/tools.sh" cluster
source "$here/lib.sh"

healthy() {
  local node
  for node in $(seq "$NODES"); do alive "kubelet-$node" && alive "containerd-$node" || return 1; done
  alive apiserver && alive controller-manager && alive scheduler && alive proxy && alive dns &&
    admin get --raw /readyz >/dev/null 2>&1
}

# certificate NAME SUBJECT [SUBJECT_ALT_NAMES]
certificate() {
  local name=$1 subject=$2 names=${3:-}
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$subject" \
    -keyout "$DIR/pki/$name.key" -out "$DIR/pki/$name.csr" 2>/dev/null
  openssl x509 -req -in "$DIR/pki/$name.csr" -CA "$DIR/pki/ca.crt" -CAkey "$DIR/pki/ca.key" -CAcreateserial \
    -days 30 -out "$DIR/pki/$name.crt" -extfile <(echo "subjectAltName=${names:-DNS:$name}") 2>/dev/null
}

# kubeconfig NAME USER GROUP: a token, and a file that uses it.
kubeconfig() {
  local name=$1 user=$2 group=$3 token
  token=$(openssl rand -hex 16)
  echo "$token,$user,$user,\"$group\"" >>"$DIR/pki/tokens.csv"
  cat >"$DIR/pki/$name.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: hearth, cluster: {server: "https://$SERVER:6443", certificate-authority-data: $(base64 -w0 "$DIR/pki/ca.crt")}}]
users: [{name: "$user", user: {token: $token}}]
contexts: [{name: hearth, context: {cluster: hearth, user: "$user"}}]
current-context: hearth
YAML
}

credentials() {
  mkdir -m 700 "$DIR/pki"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=hearth-test \
    -keyout "$DIR/pki/ca.key" -out "$DIR/pki/ca.crt" 2>/dev/null
  certificate apiserver /CN=kube-apiserver \
    "IP:$SERVER,IP:10.96.0.1,IP:127.0.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
  openssl genrsa -out "$DIR/pki/service-account.key" 2048 2>/dev/null
  kubeconfig admin admin system:masters
  kubeconfig controller-manager system:kube-controller-manager ""
  kubeconfig scheduler system:kube-scheduler ""
  kubeconfig proxy system:kube-proxy ""
  kubeconfig dns coredns system:masters
  local node
  for node in $(seq "$NODES"); do kubeconfig "node-$node" "system:node:$(node_name "$node")" system:nodes; done
  install -m 600 "$DIR/pki/admin.kubeconfig" "$KUBECONFIG_ADMIN"
}

# What the kernel forwards: between our bridges, and from them to nowhere else.
forwarding() {
  cat /proc/sys/net/ipv4/ip_forward >"$DIR/ip_forward.before"
  echo 1 >/proc/sys/net/ipv4/ip_forward
  nft -f - <<'NFT'
table inet hearth {
  chain forward {
    type filter hook forward priority filter;
    iifname "hearth*" oifname != "hearth*" reject
  }
}
NFT
  # Container engines leave a policy that would drop what passes between bridges.
  if command -v iptables >/dev/null && iptables -S FORWARD 2>/dev/null | grep -q '^-P FORWARD DROP'; then
    touch "$DIR/forward.rule"
    iptables -I FORWARD -i 'hearth+' -o 'hearth+' -j ACCEPT
  fi
}

# Folders that kubelet, containerd and CNI make in fixed places; down.sh removes
# those that were not there before.
note_folders() {
  local folder
  for folder in /var/lib/kubelet /var/log/containers /var/lib/cni /run/containerd /opt/containerd; do
    [ -e "$folder" ] || echo "$folder"
  done >"$DIR/folders.made"
}

control_plane() {
  # The audit log holds every write, and every request of the operator; pods and what isolates them whole.
  cat >"$DIR/audit.yaml" <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: RequestResponse
  verbs: [create, patch]
  resources: [{group: "", resources: [pods]}, {group: networking.k8s.io, resources: [networkpolicies]}]
- {level: Metadata, userGroups: ["system:serviceaccounts:hearth-system"]}
- {level: None, verbs: [get, list, watch]}
- {level: Metadata}
YAML
  run etcd kube etcd --data-dir "$DIR/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:23790 --advertise-client-urls http://127.0.0.1:23790 \
    --listen-peer-urls http://127.0.0.1:23800 --initial-advertise-peer-urls http://127.0.0.1:23800 \
    --initial-cluster default=http://127.0.0.1:23800
  run apiserver kube kube-apiserver --etcd-servers http://127.0.0.1:23790 --secure-port 6443 --bind-address "$SERVER" \
    --advertise-address "$SERVER" --service-cluster-ip-range "$SERVICES" --allow-privileged=true \
    --tls-cert-file "$DIR/pki/apiserver.crt" --tls-private-key-file "$DIR/pki/apiserver.key" \
    --client-ca-file "$DIR/pki/ca.crt" --token-auth-file "$DIR/pki/tokens.csv" --authorization-mode Node,RBAC \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$DIR/pki/service-account.key" \
    --service-account-signing-key-file "$DIR/pki/service-account.key" --cert-dir "$DIR/pki" \
    --kubelet-client-certificate "$DIR/pki/kubelet-client.crt" --kubelet-client-key "$DIR/pki/kubelet-client.key" \
    --kubelet-preferred-address-types InternalIP --audit-policy-file "$DIR/audit.yaml" \
    --audit-log-path "$DIR/audit.log" --default-not-ready-toleration-seconds 5 --default-unreachable-toleration-seconds 5
}

controllers() {
  run controller-manager kube kube-controller-manager --kubeconfig "$DIR/pki/controller-manager.kubeconfig" \
    --service-account-private-key-file "$DIR/pki/service-account.key" --root-ca-file "$DIR/pki/ca.crt" \
    --use-service-account-credentials --leader-elect=false --node-monitor-period 1s --node-monitor-grace-period 10s \
    --kube-api-qps 200 --kube-api-burst 400 --bind-address 127.0.0.1 --flex-volume-plugin-dir "$DIR/flexvolume" \
    --controllers '*,-node-ipam-controller,-node-route-controller,-service-lb-controller,-cloud-node-lifecycle-controller'
  run scheduler kube kube-scheduler --kubeconfig "$DIR/pki/scheduler.kubeconfig" --leader-elect=false \
    --kube-api-qps 200 --kube-api-burst 400 --bind-address 127.0.0.1
}

service_network() {
  cat >"$DIR/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
bindAddress: $SERVER
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: $DIR/pki/proxy.kubeconfig}
hostnameOverride: $(node_name 1)
detectLocalMode: InterfaceNamePrefix
detectLocal: {interfaceNamePrefix: hearth}
nftables: {masqueradeAll: true, minSyncPeriod: 200ms}
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
  run proxy kube kube-proxy --config "$DIR/proxy.yaml"
  cat >"$DIR/Corefile" <<COREFILE
.:53 {
  bind $SERVER
  errors
  ready 127.0.0.1:8181
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $DIR/pki/dns.kubeconfig
    ttl 1
  }
  cache 1
}
COREFILE
  run dns kube coredns -conf "$DIR/Corefile"
}

# on_all_nodes VERB: node.sh on all of them at once.
on_all_nodes() {
  local node job jobs=()
  for node in $(seq "$NODES"); do
    "$here/node.sh" "$1" "$node" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job"; done
}

exclusively
if healthy; then
  hearth_say "is up; export KUBECONFIG=$KUBECONFIG_ADMIN"
  exit
fi
[ "$(id -u)" -eq 0 ] || { hearth_say "needs root: it makes bridges, mounts and cgroups"; exit 77; }
flock --unlock 9
"$here/down.sh"
exclusively
if ip -4 route show root 10.244.0.0/16 | grep . >&2 || ip -4 route show root "$SERVICES" | grep . >&2; then
  hearth_say "this machine routes the cluster's addresses (10.244.0.0/16, $SERVICES) elsewhere, as above"
  exit 69
fi
SECONDS=0
mkdir -p "$DIR"
[ -e "$PAUSE_ARCHIVE" ] || "$here/pause.sh"
note_folders
forwarding
ip link add "$(bridge 1)" type bridge
ip addr add "$SERVER/24" dev "$(bridge 1)"
ip link set "$(bridge 1)" up
# So that this machine reaches Services too, whatever its default route is.
ip route add "$SERVICES" dev "$(bridge 1)" src "$SERVER"
credentials
hearth_say "$SECONDS s: etcd, API server, $NODES containerd"
control_plane
on_all_nodes prepare
await 60 "API server" admin get --raw /readyz
hearth_say "$SECONDS s: controllers, scheduler, kube-proxy, CoreDNS, $NODES kubelets"
controllers
service_network
on_all_nodes start
for node in $(seq "$NODES"); do
  admin wait --for=condition=Ready "node/$(node_name "$node")" --timeout=60s >/dev/null
done
await 30 "service account" admin -n default get serviceaccount default
await 30 "CoreDNS" answers 127.0.0.1 8181 /ready
admin apply -f "$here/objects.yaml" >/dev/null
hearth_say "up in $SECONDS s; export KUBECONFIG=$KUBECONFIG_ADMIN"
