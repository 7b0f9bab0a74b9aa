#!/usr/bin/env bash
# The first process of a test cluster's namespaces; cluster.sh starts it. Its network holds the control plane, CoreDNS and MinIO at 10.10.0.1 and a bridge
# to the nodes 10.10.0.11, 10.10.0.12 …; services are 10.96.0.0/16, pods 10.244.NODE.0/24.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
folder=$1
nodes=""
for number in $(seq "${NODES:-2}"); do nodes="$nodes node$number"; done
pki="$folder/pki"
address=10.10.0.1

# What programs write to their customary places goes away with the namespaces.
mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p "$folder/var/upper" "$folder/var/work" /run/lock
mount -t overlay overlay -o "lowerdir=/var,upperdir=$folder/var/upper,workdir=$folder/var/work" /var
hostname control-plane
# Programs that are run here find brokers by their names, as those in pods do.
printf 'nameserver %s\nsearch svc.cluster.local cluster.local\noptions ndots:5\n' $address >"$folder/resolv.conf"
mount --bind "$folder/resolv.conf" /etc/resolv.conf

start() {
  local name=$1
  shift
  "$@" >"$folder/log/$name.log" 2>&1 &
}

network() {
  local node
  ip link set lo up
  ip link add node0 type bridge
  ip addr add $address/24 dev node0
  ip link set node0 up
  ip route add default via 10.10.0.254
  sysctl -qw net.ipv4.ip_forward=1
  for node in $nodes; do ip route add "10.244.${node#node}.0/24" via "10.10.0.1${node#node}"; done
}

certificates() {
  local node
  make_authority "$pki"
  make_certificate "$pki" apiserver /CN=kube-apiserver "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$address,IP:10.96.0.1"
  make_certificate "$pki" kubelet-client /O=system:masters/CN=apiserver-kubelet-client
  make_certificate "$pki" admin /O=system:masters/CN=admin
  make_certificate "$pki" controller-manager /CN=system:kube-controller-manager
  make_certificate "$pki" scheduler /CN=system:kube-scheduler
  make_certificate "$pki" proxy /CN=system:kube-proxy
  for node in $nodes; do make_certificate "$pki" "$node" "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:10.10.0.1${node#node}"; done
  for user in admin controller-manager scheduler proxy $nodes; do make_kubeconfig "$folder/$user.kubeconfig" "https://$address:6443" "$pki" "$user"; done
  cp "$folder/admin.kubeconfig" "$folder/kubeconfig"
}

# keep PROGRAM FLAG…: runs a program again whenever it has ended, but not while the file api-down is there (cluster.sh api-down).
keep() {
  local program=$1
  shift
  while :; do
    until [ ! -e "$folder/api-down" ]; do sleep 0.2; done
    "$bin/$program" "$@" &
    echo $! >"$folder/$program.pid"
    wait $! || true
    sleep 0.1
  done
}

control_plane() {
  start etcd "$bin/etcd" --name test --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  start kube-apiserver keep kube-apiserver --etcd-servers http://127.0.0.1:2379 --bind-address 0.0.0.0 --advertise-address $address \
    --service-cluster-ip-range 10.96.0.0/16 --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
    --client-ca-file "$pki/ca.crt" --service-account-key-file "$pki/service-accounts.key" --service-account-signing-key-file "$pki/service-accounts.key" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
    --kubelet-certificate-authority "$pki/ca.crt" --kubelet-client-certificate "$pki/kubelet-client.crt" --kubelet-client-key "$pki/kubelet-client.key" \
    --kubelet-preferred-address-types InternalIP --allow-privileged
}

# They end when the API server has no roles for them yet: after it is ready.
controllers() {
  local kubeconfig="$folder/controller-manager.kubeconfig"
  # Controllers that cannot renew their lease end, and count a node's silence anew when they begin again. There is one here, without a lease: it goes with
  # the API server, or it would take all nodes for lost when that comes back. The scheduler goes too: one that lives on looks again only after a minute.
  start kube-controller-manager keep kube-controller-manager --kubeconfig "$kubeconfig" --authentication-kubeconfig "$kubeconfig" \
    --authorization-kubeconfig "$kubeconfig" --leader-elect=false --use-service-account-credentials --root-ca-file "$pki/ca.crt" \
    --service-account-private-key-file "$pki/service-accounts.key" --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key" \
    --node-monitor-period 1s --node-monitor-grace-period 12s --kube-api-qps 200 --kube-api-burst 400
  kubeconfig="$folder/scheduler.kubeconfig"
  start kube-scheduler keep kube-scheduler --kubeconfig "$kubeconfig" --authentication-kubeconfig "$kubeconfig" --authorization-kubeconfig "$kubeconfig" --leader-elect=false
}

# Cluster DNS, the local volumes' class, and MinIO's service.
manifests() {
  cat <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec: {clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
endpoints: [{addresses: [$address]}]
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: tidegate.dev/local
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Delete
---
apiVersion: v1
kind: Namespace
metadata: {name: minio}
---
apiVersion: v1
kind: Service
metadata: {name: minio, namespace: minio}
spec: {ports: [{name: s3, port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: minio-1, namespace: minio, labels: {kubernetes.io/service-name: minio}}
addressType: IPv4
endpoints: [{addresses: [$address]}]
ports: [{name: s3, port: 9000}]
YAML
}

addons() {
  cat >"$folder/Corefile" <<CORE
.:53 {
  bind $address
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $folder/kubeconfig
    ttl 5
  }
}
CORE
  start coredns "$bin/coredns" -conf "$folder/Corefile"
  start local-provisioner "$bin/local-provisioner" --kubeconfig "$folder/kubeconfig" --folder "$folder/volumes"
  # Services and node ports can be reached from here too.
  proxy_config node1 "$folder/kube-proxy.yaml"
  start kube-proxy "$bin/kube-proxy" --config "$folder/kube-proxy.yaml"
}

export KUBECONFIG="$folder/kubeconfig" PATH="$bin:$PATH"
network
certificates
mkdir -p "$folder/volumes" "$folder/minio/tidegate" # a folder of MinIO's is a bucket
MINIO_ROOT_USER=tidegate-test MINIO_ROOT_PASSWORD=tidegate-test start minio "$bin/minio" server --quiet --address $address:9000 "$folder/minio"
control_plane
for node in $nodes; do bash "$here/node.sh" start "$folder" "$node"; done
until_true 60 "the API server" kubectl get --raw /readyz
controllers
kubectl create clusterrolebinding kube-proxy --clusterrole system:node-proxier --user system:kube-proxy
manifests | kubectl apply -f -
addons
for node in $nodes; do until_true 60 "$node" bash -c "kubectl get node $node -o 'jsonpath={.status.conditions[?(@.type==\"Ready\")].status}' | grep -q True"; done
until_true 30 "the default service account" kubectl get serviceaccount default
: >"$folder/ready"
# Processes whose parents have gone become this one's children: bash reaps them while it waits.
while :; do sleep 3600 & wait $!; done
