#!/usr/bin/env bash
# A real Kubernetes of two nodes on this machine, without Docker, a registry or the network: etcd, API server, controllers, scheduler, and for each node
# a kubelet, kube-proxy and containerd in namespaces of their own; CoreDNS; MinIO as the Service minio.minio.svc:9000 (user and password: tidegate-test, bucket: tidegate).
#
#   cluster.sh up                     starts it and waits until both nodes are ready (some ten seconds, about 1 GB of memory)
#   cluster.sh exec COMMAND…          runs a command where the cluster's addresses can be reached, with KUBECONFIG set
#   cluster.sh load ARCHIVE…          puts image archives on all nodes
#   cluster.sh node-kill NODE         kills every process of a node at once, as a power cut does; its disks stay
#   cluster.sh node-start NODE        starts it again
#   cluster.sh down                   ends everything and deletes the folder
#
# The folder is ${TIDEGATE_CLUSTER:-/tmp/tidegate-cluster}; with different folders several clusters run side by side. It needs root, and the programs that
# `deploy/setup.sh cluster` installs. Everything lives in one set of namespaces whose first process ends with `down`: nothing stays behind.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
folder=${TIDEGATE_CLUSTER:-/tmp/tidegate-cluster}
cgroup=tidegate-cluster-$(printf %s "$folder" | sha256sum | cut -c1-8)

# The cluster's first process as this machine numbers it; fails when there is none.
first_process() {
  local outer
  outer=$(cat "$folder/pid" 2>/dev/null) || return 1
  [ "$(cat "/proc/$outer/comm" 2>/dev/null)" = unshare ] || return 1
  pgrep -P "$outer" | head -n1 | grep .
}

enter() {
  local first
  first=$(first_process) || fail "no cluster runs in $folder: cluster.sh up"
  nsenter -t "$first" -a --wd="$PWD" env KUBECONFIG="$folder/kubeconfig" PATH="$bin:$PATH" "$@"
}

up() {
  [ "$(id -u)" = 0 ] || fail "it needs root"
  case $folder in /run/* | /var/*) fail "the folder may not lie in /run or /var (TIDEGATE_CLUSTER is $folder)" ;; esac
  [ ${#folder} -le 60 ] || fail "the folder's path is longer than 60 bytes, too long for sockets in it (TIDEGATE_CLUSTER is $folder)"
  ! first_process >/dev/null || fail "a cluster runs in $folder already"
  for program in containerd runc conntrack iptables ip socat openssl unshare nsenter curl; do
    command -v "$program" >/dev/null || fail "$program is missing: deploy/setup.sh cluster"
  done
  for program in kube-apiserver kubelet coredns helm minio; do [ -x "$bin/$program" ] || fail "$program is missing: deploy/setup.sh cluster"; done
  remove
  mkdir -p "$folder/log"
  say "starting a cluster of two nodes in $folder"
  CGROUP=$cgroup setsid unshare --mount --pid --fork --kill-child --mount-proc --net --uts --ipc bash "$here/control-plane.sh" "$folder" \
    >"$folder/log/up.log" 2>&1 </dev/null &
  echo $! >"$folder/pid"
  if ! watched=$! until_true 120 "the nodes" test -e "$folder/ready"; then
    tail -n 5 "$folder"/log/up.log "$folder"/log/node?.log >&2
    end
    fail "the cluster did not start; its logs are in $folder/log"
  fi
  say "ready after ${SECONDS} s: ${0} exec kubectl get nodes"
}

# Ends the processes that are left in the cluster's cgroups (there are none unless something went wrong) and removes the folder.
remove() {
  local pass
  for pass in 1 2 3 4 5; do
    find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2>/dev/null || true
    find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup" | grep -q . || break
    sleep 0.2
  done
  rm -rf "$folder"
}

# Ends every process; the folder stays.
end() {
  local outer first
  if first=$(first_process); then
    outer=$(cat "$folder/pid")
    kill -KILL "$first" 2>/dev/null || true
    until_true 30 "the cluster's end" bash -c "! kill -0 $outer" || true
  fi
}

down() {
  end
  remove
}

load() {
  local archive node imports=() import
  for archive in "$@"; do
    for node in "$folder"/node[0-9]/; do
      ctr --address "${node}containerd.sock" --namespace k8s.io images import "$archive" >/dev/null &
      imports+=($!)
    done
  done
  for import in "${imports[@]}"; do wait "$import" || fail "an image was not loaded"; done
}

# Nodes are started and ended from inside, where their process numbers are known.
node_kill() { enter bash -c "kill -KILL \$(cat '$folder/$1/first-process')"; }
node_start() { enter env CGROUP="$cgroup" bash "$here/node.sh" start "$folder" "$1"; }

command=${1:-}
shift || true
case $command in
  up) up ;;
  down) down ;;
  exec) enter "$@" ;;
  load) load "$@" ;;
  node-kill) node_kill "${1:?which node}" ;;
  node-start) node_start "${1:?which node}" ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
