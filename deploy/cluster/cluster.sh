#!/usr/bin/env bash
# A real Kubernetes of two nodes (TIDEGATE_NODES=1 to 9 for another number) on this machine, without Docker, a registry or the network: etcd, API server, controllers, scheduler, and for each node
# a kubelet, kube-proxy and containerd in namespaces of their own; CoreDNS; MinIO as the Service minio.minio.svc:9000 (user and password: tidegate-test, bucket: tidegate).
#
#   cluster.sh up                     starts it and waits until all nodes are ready (some ten seconds, about 1 GB of memory)
#   cluster.sh exec COMMAND…          runs a command where the cluster's addresses can be reached, with KUBECONFIG set
#   cluster.sh load ARCHIVE…          puts image archives on all nodes
#   cluster.sh node-kill NODE         kills every process of a node at once, as a power cut does; its disks stay
#   cluster.sh node-start NODE        starts it again
#   cluster.sh api-down               kills the API server, controllers and scheduler, and keeps them from coming back until:
#   cluster.sh api-up
#   cluster.sh possible               says what this machine lacks, if anything; fails then
#   cluster.sh down                   ends everything and deletes the folder
#
# The folder is ${TIDEGATE_CLUSTER:-/tmp/tidegate-cluster}; with different folders several clusters run side by side. It needs root, and the programs that
# `deploy/setup.sh cluster` installs. With TIDEGATE_CLUSTER_OWNER=PROCESS it ends when that process has ended, however that came. Everything lives in one set of namespaces whose first process ends with `down`: nothing stays behind.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
folder=${TIDEGATE_CLUSTER:-/tmp/tidegate-cluster}
cgroup=tidegate-cluster-$(printf %s "$folder" | sha256sum | cut -c1-8)

# The processes that hold this folder's clusters (one, unless something went wrong), found by what they run: a file with their number could be lost.
outer_processes() {
  local process
  for process in $(pgrep -f -- "control-plane.sh $folder\$"); do
    [ "$(cat "/proc/$process/comm" 2>/dev/null)" != unshare ] || echo "$process"
  done
}

# The cluster's first process as this machine numbers it; fails when there is none.
first_process() {
  local outer
  outer=$(outer_processes | head -n1)
  [ -n "$outer" ] && pgrep -P "$outer" | head -n1 | grep .
}

enter() {
  local first
  first=$(first_process) || fail "no cluster runs in $folder: cluster.sh up"
  nsenter -t "$first" -a --wd="$PWD" env KUBECONFIG="$folder/kubeconfig" PATH="$bin:$PATH" "$@"
}

# A container without privileges may be root and still not be allowed what a cluster needs.
possible() {
  [ "$(id -u)" = 0 ] || fail "it needs root"
  local out work
  work=$(mktemp -d)
  out=$(unshare --mount --pid --fork --mount-proc --net --uts --ipc bash -c "
    set -e; mount --make-rshared /; mkdir $work/{lower,upper,work,all}; mount -t tmpfs tmpfs $work/lower
    ip link set lo up; ip link add node0 type bridge; ip link add veth1 type veth peer name veth2; iptables -t nat -L -n >/dev/null; sysctl -qw net.ipv4.ip_forward=1
    mount -t overlay overlay -o lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/work $work/all" 2>&1) || { rm -rf "$work"; fail "namespaces, mounts and interfaces of its own are not allowed here: $out"; }
  rm -rf "$work"
  local groups=/sys/fs/cgroup
  [ -e $groups/cgroup.controllers ] || groups=$groups/memory
  mkdir "$groups/$cgroup-possible" 2>/dev/null && rmdir "$groups/$cgroup-possible" || fail "$groups cannot be written: containers need groups of their own"
}

up() {
  [ "$(id -u)" = 0 ] || fail "it needs root"
  local count=${TIDEGATE_NODES:-2}
  [[ $count =~ ^[1-9]$ ]] || fail "TIDEGATE_NODES is $count: give 1 to 9"
  case $folder in /run/* | /var/*) fail "the folder may not lie in /run or /var (TIDEGATE_CLUSTER is $folder)" ;; esac
  [ ${#folder} -le 60 ] || fail "the folder's path is longer than 60 bytes, too long for sockets in it (TIDEGATE_CLUSTER is $folder)"
  ! first_process >/dev/null || fail "a cluster runs in $folder already"
  for program in containerd runc conntrack iptables ip socat openssl unshare nsenter curl; do
    command -v "$program" >/dev/null || fail "$program is missing: deploy/setup.sh cluster"
  done
  for program in kube-apiserver kubelet coredns helm minio; do [ -x "$bin/$program" ] || fail "$program is missing: deploy/setup.sh cluster"; done
  remove
  mkdir -p "$folder/log"
  say "starting a cluster of $count nodes in $folder"
  CGROUP=$cgroup NODES=$count setsid unshare --mount --pid --fork --kill-child --mount-proc --net --uts --ipc bash "$here/control-plane.sh" "$folder" \
    >"$folder/log/up.log" 2>&1 </dev/null &
  if ! watched=$! until_true 120 "the nodes" test -e "$folder/ready"; then
    tail -n 5 "$folder"/log/up.log "$folder"/log/node?.log >&2
    end
    fail "the cluster did not start; its logs are in $folder/log"
  fi
  [ -z "${TIDEGATE_CLUSTER_OWNER:-}" ] || setsid bash -c "while kill -0 $TIDEGATE_CLUSTER_OWNER; do sleep 1; done; $here/cluster.sh down" >/dev/null 2>&1 </dev/null &
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
  # Mounts of processes that are just ending may still be there.
  until_true 20 "the folder's end" rm -rf "$folder" || rm -rf "$folder"
}

# Ends every process; the folder stays.
end() {
  local outer first
  for outer in $(outer_processes); do
    for first in $(pgrep -P "$outer"); do kill -KILL "$first" 2>/dev/null || true; done
    until_true 60 "the cluster's end" bash -c "! kill -0 $outer" || fail "the cluster's processes do not end"
  done
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
api_down() { enter bash -c ": >'$folder/api-down'; kill -KILL \$(cat '$folder/kube-apiserver.pid' '$folder/kube-controller-manager.pid' '$folder/kube-scheduler.pid')"; }
api_up() { rm -f "$folder/api-down"; }
node_kill() { enter bash -c "kill -KILL \$(cat '$folder/$1/first-process')"; }
node_start() { enter env CGROUP="$cgroup" NODES="$(find "$folder" -maxdepth 1 -name 'node[0-9]' | wc -l)" bash "$here/node.sh" start "$folder" "$1"; }

command=${1:-}
shift || true
case $command in
  up) up ;;
  down) down ;;
  exec) enter "$@" ;;
  load) load "$@" ;;
  api-down) api_down ;;
  api-up) api_up ;;
  possible) possible ;;
  node-kill) node_kill "${1:?which node}" ;;
  node-start) node_start "${1:?which node}" ;;
  *) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
