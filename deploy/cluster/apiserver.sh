#!/usr/bin/env bash
# Usage: apiserver.sh FOLDER
# An etcd and a kube-apiserver on free loopback ports, without controllers, nodes or root: what an operator's tests need. Once they serve, FOLDER/kubeconfig
# is an administrator's and FOLDER/ready exists. Both end with this script: at SIGTERM, SIGINT or SIGKILL, or when the pipe on its standard input closes.
# A test may take the API server away: it makes FOLDER/down, kills the process that FOLDER/kube-apiserver.pid names, and removes FOLDER/down to have it back.
# Nothing outlives FOLDER, several may run side by side. Programs are built when they are missing (tools/kubernetes.sh).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
[ $# = 1 ] || fail "usage: apiserver.sh FOLDER"
mkdir -p "$1"
folder=$(cd "$1" && pwd)
rm -f "$folder/ready"
"$here/tools/kubernetes.sh" >/dev/null
command -v openssl >/dev/null || fail "openssl is missing: apt-get install openssl"

children=()
stop() {
  rm -f "$folder/ready"
  [ ${#children[@]} = 0 ] || kill -KILL "${children[@]}" 2>/dev/null || true
  [ ${#children[@]} = 0 ] || wait "${children[@]}" 2>/dev/null || true
  children=()
}
trap stop EXIT
trap 'exit 0' TERM INT

pki="$folder/pki"
make_authority "$pki"
[ -e "$pki/apiserver.crt" ] || make_certificate "$pki" apiserver /CN=kube-apiserver DNS:localhost,DNS:kubernetes.default.svc,IP:127.0.0.1
[ -e "$pki/admin.crt" ] || make_certificate "$pki" admin /O=system:masters/CN=admin

# A port that nobody listens on, below the range that the kernel gives to clients.
free_port() {
  local port
  while :; do
    port=$((10000 + (RANDOM * 32768 + RANDOM) % 22000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}

# Children die with this script, even when it is killed.
start() {
  local log=$1
  shift
  setpriv --pdeathsig KILL "$@" >"$folder/$log.log" 2>&1 &
  children+=($!)
}

start_api_server() {
  start kube-apiserver "$bin/kube-apiserver" --etcd-servers "http://127.0.0.1:$client" --bind-address 127.0.0.1 --secure-port "$port" \
    --advertise-address 127.0.0.1 --endpoint-reconciler-type none --service-cluster-ip-range 10.96.0.0/16 \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --service-account-key-file "$pki/service-accounts.key" --service-account-signing-key-file "$pki/service-accounts.key" \
    --service-account-issuer https://kubernetes.default.svc --authorization-mode RBAC --disable-admission-plugins ServiceAccount \
    --enable-admission-plugins OwnerReferencesPermissionEnforcement # some clusters ask so who may name an owner
  echo "${children[-1]}" >"$folder/kube-apiserver.pid"
}

serve() {
  local peer
  client=$(free_port) peer=$(free_port) port=$(free_port)
  start etcd "$bin/etcd" --name test --data-dir "$folder/etcd" --unsafe-no-fsync --log-level warn \
    --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "test=http://127.0.0.1:$peer"
  start_api_server
  make_kubeconfig "$folder/kubeconfig" "https://127.0.0.1:$port" "$pki" admin
  watched=${children[1]} until_true 60 "the API server ($folder/kube-apiserver.log)" "$bin/kubectl" --kubeconfig "$folder/kubeconfig" get --raw /readyz
}

# A port may be taken between the look and the use: other ports then.
rm -rf "$folder/etcd"
for attempt in 1 2 3; do
  serve && break
  [ "$attempt" -lt 3 ] || fail "the API server did not start; see $folder/etcd.log and $folder/kube-apiserver.log"
  stop
  rm -rf "$folder/etcd"
done
: >"$folder/ready"

# The end of a pipe on standard input means that whoever started this has gone.
if [ -p /dev/stdin ]; then
  exec 3<&0 # a shell gives background commands /dev/null
  (cat <&3 >/dev/null; kill -TERM $$ 2>/dev/null) &
fi
while wait -n "${children[@]}" || true; [ -e "$folder/down" ] && kill -0 "${children[0]}" 2>/dev/null; do
  until [ ! -e "$folder/down" ]; do sleep 0.05; done
  children=("${children[0]}")
  start_api_server
done
fail "etcd or the API server ended by itself; see the logs in $folder"
