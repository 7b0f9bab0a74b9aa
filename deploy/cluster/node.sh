#!/usr/bin/env bash
# A node of a test cluster. `node.sh start FOLDER NODE` makes namespaces for it (mounts, processes, network) and starts `node.sh run FOLDER NODE` in them, which
# is the node's first process: when that is killed, so are kubelet, containerd, shims and containers, as in a power cut.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
action=$1 folder=$2 node=$3
number=${node#node}
home="$folder/$node"

# The node's folder in each hierarchy of cgroup v1, or in the one of v2.
make_cgroups() {
  local root
  for root in /sys/fs/cgroup/*/; do
    [ -e "$root/cgroup.procs" ] || continue
    mkdir -p "$root/$CGROUP/$node"
    # A new cpuset is empty, and takes no process before it has processors and memory.
    for file in cpuset.cpus cpuset.mems; do
      [ -e "$root/$CGROUP/$file" ] || continue
      cat "$root/$file" >"$root/$CGROUP/$file"
      cat "$root/$file" >"$root/$CGROUP/$node/$file"
    done
  done
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then mkdir -p "/sys/fs/cgroup/$CGROUP/$node"; fi
}

start() {
  mkdir -p "$home"
  make_cgroups
  ip link delete "veth$number" 2>/dev/null || true
  setsid unshare --mount --pid --fork --kill-child --mount-proc --net --uts --ipc bash "$0" run "$folder" "$node" >"$folder/log/$node.log" 2>&1 </dev/null &
  local outer=$!
  watched=$outer until_true 10 "$node's namespaces" pgrep -P "$outer"
  local first
  first=$(pgrep -P "$outer")
  echo "$first" >"$home/first-process"
  watched=$outer until_true 10 "$node's own network" bash -c "[ \"\$(readlink /proc/$first/ns/net)\" != \"\$(readlink /proc/self/ns/net)\" ]"
  ip link add "veth$number" type veth peer name eth0 netns "$first"
  ip link set "veth$number" master node0 up
}

network() {
  until_true 10 "the link" ip link show eth0
  ip link set lo up
  ip addr add "10.10.0.1$number/24" dev eth0
  ip link set eth0 up
  ip route add default via 10.10.0.1
  local other
  for other in $(seq "${NODES:-2}"); do [ "$other" = "$number" ] || ip route add "10.244.$other.0/24" via "10.10.0.1$other"; done
  sysctl -qw net.ipv4.ip_forward=1
}

configure() {
  mkdir -p "$home/cni" "$home/volume-plugins" "$home/pod-logs"
  : >"$home/resolv.conf"
  cat >"$home/cni/10-pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{"subnet": "10.244.$number.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  cat >"$home/containerd.toml" <<TOML
version = 2
root = "$home/containerd"
state = "/run/containerd-state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "$home/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "tidegate.dev/test/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$home/cni"
TOML
  cat >"$home/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $folder/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $folder/pki/$node.crt
tlsPrivateKeyFile: $folder/pki/$node.key
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: $home/resolv.conf
containerRuntimeEndpoint: unix://$home/containerd.sock
cgroupRoot: /$CGROUP/$node
cgroupDriver: cgroupfs
failCgroupV1: false
enforceNodeAllocatable: []
oomScoreAdj: 0
failSwapOn: false
podLogsDir: $home/pod-logs
volumePluginDir: $home/volume-plugins
nodeLeaseDurationSeconds: 8
nodeStatusUpdateFrequency: 2s
# The machine's disk may be fuller than a node's should be.
evictionHard: {memory.available: 50Mi}
imageGCHighThresholdPercent: 100
YAML
  proxy_config "$node" "$home/kube-proxy.yaml"
}

run() {
  mount --make-rshared /
  mount -t tmpfs tmpfs /run
  mkdir -p /run/lock
  hostname "$node"
  rm -f "$home/containerd.sock"
  network
  configure
  export PATH="$bin:$PATH"
  containerd --config "$home/containerd.toml" >"$folder/log/$node-containerd.log" 2>&1 &
  until_true 30 "containerd" ctr --address "$home/containerd.sock" --namespace k8s.io version
  ctr --address "$home/containerd.sock" --namespace k8s.io images list -q | grep -q . || import_pause
  until_true 60 "the API server" kubectl --kubeconfig "$folder/$node.kubeconfig" get --raw /readyz
  kubelet --config "$home/kubelet.yaml" --kubeconfig "$folder/$node.kubeconfig" --root-dir "$home/kubelet" --hostname-override "$node" \
    --node-ip "10.10.0.1$number" --node-labels "topology.kubernetes.io/zone=zone-$number" >"$folder/log/$node-kubelet.log" 2>&1 &
  kube-proxy --config "$home/kube-proxy.yaml" >"$folder/log/$node-kube-proxy.log" 2>&1 &
  while :; do sleep 3600 & wait $!; done
}

import_pause() {
  "$here/image.sh" "$home/pause.tar" tidegate.dev/test/pause:1 "$bin/kubernetes-pause" /pause
  ctr --address "$home/containerd.sock" --namespace k8s.io images import "$home/pause.tar"
}

case $action in start) start ;; run) run ;; esac
