# Functions that apiserver.sh and cluster.sh share. Source it; `set -euo pipefail` is the caller's.
tools="${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}"
bin="$tools/bin"

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Waits until a command succeeds: `until_true SECONDS WHAT COMMAND…`. With `watched` set to a process id it gives up as soon as that has ended.
until_true() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "gave up waiting for $what" >&2; return 1; }
    [ -z "${watched:-}" ] || kill -0 "$watched" 2>/dev/null || { echo "its process ended while waiting for $what" >&2; return 1; }
    sleep 0.05
  done
}

# A certificate authority and a service account key in the folder $1, unless they are there.
make_authority() {
  mkdir -p "$1"
  [ -e "$1/ca.crt" ] && return 0
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj /CN=tidegate-test-cluster \
    -addext keyUsage=critical,digitalSignature,keyCertSign,cRLSign -keyout "$1/ca.key" -out "$1/ca.crt" 2>/dev/null
  openssl ecparam -name prime256v1 -genkey -noout -out "$1/service-accounts.key" 2>/dev/null
}

# make_certificate PKI NAME SUBJECT [SUBJECT-ALTERNATIVE-NAMES]: PKI/NAME.crt and .key for servers and clients, signed by the authority there.
make_certificate() {
  local pki=$1 name=$2 subject=$3 names=${4:-}
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "$subject" -keyout "$pki/$name.key" -out "$pki/$name.csr" 2>/dev/null
  {
    echo "keyUsage=critical,digitalSignature"
    echo "extendedKeyUsage=serverAuth,clientAuth"
    [ -z "$names" ] || echo "subjectAltName=$names"
  } >"$pki/$name.ext"
  openssl x509 -req -in "$pki/$name.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -set_serial "0x$(openssl rand -hex 8)" -days 3650 \
    -extfile "$pki/$name.ext" -out "$pki/$name.crt" 2>/dev/null
  rm "$pki/$name.csr" "$pki/$name.ext"
}

# make_kubeconfig FILE SERVER PKI NAME: a self-contained kubeconfig for the certificate PKI/NAME.
make_kubeconfig() {
  local file=$1 server=$2 pki=$3 name=$4
  cat >"$file" <<YAML
apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "$server", certificate-authority-data: "$(base64 -w0 <"$pki/ca.crt")"}}]
contexts: [{name: test, context: {cluster: test, user: "$name"}}]
users: [{name: "$name", user: {client-certificate-data: "$(base64 -w0 <"$pki/$name.crt")", client-key-data: "$(base64 -w0 <"$pki/$name.key")"}}]
YAML
  chmod 600 "$file"
}

# proxy_config NODE FILE: kube-proxy's settings. Limits of connection tracking belong to the machine and stay as they are.
proxy_config() {
  cat >"$2" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
hostnameOverride: $1
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: $folder/proxy.kubeconfig}
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
YAML
}
