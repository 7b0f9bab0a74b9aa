#!/usr/bin/env bash
# A newcomer's path, on a real Kubernetes of two nodes on this machine (deploy/cluster): install the chart, apply a Hub and Topics, produce and consume
# with three clients, grow a topic, lose a pod, lose a node, uninstall. Prints timings; fails at three times a goal. Needs root and some minutes.
#
#   tests/kubernetes/run.sh           builds what is missing, runs, takes the cluster down
#   TIDEGATE_STATIC_IMAGE=1 tests/kubernetes/run.sh   the same with a static image as users get it, which takes longer to build
#   TIDEGATE_TEST_IMAGE=FILE tests/kubernetes/run.sh  the same with an archive of the image tidegate:0.1.0 that is there
#   tests/kubernetes/run.sh --keep    leaves the cluster up (TIDEGATE_CLUSTER, default /tmp/tidegate-newcomer)
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "run.sh: the cluster needs root" >&2; exit 1; }
source tests/kubernetes/lib.sh
keep=${1:-}

step "programs of the cluster and the image"
[ -n "${TIDEGATE_SKIP_SETUP:-}" ] || source deploy/setup.sh cluster
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${TIDEGATE_TARGET_DIR:-$HOME/.cache/tidegate/target}}
image=$CARGO_TARGET_DIR/container/tidegate-test.tar
profile=${TIDEGATE_PROFILE:-dev}
if [ -n "${TIDEGATE_TEST_IMAGE:-}" ]; then
  image=$TIDEGATE_TEST_IMAGE
elif [ -n "${TIDEGATE_STATIC_IMAGE:-}" ]; then
  rustup target add "$(uname -m)-unknown-linux-musl" >/dev/null 2>&1
  cargo xtask image --profile image --tag docker.io/library/tidegate:0.1.0 --output "$image"
else
  cargo xtask image --profile "$profile" --host --tag docker.io/library/tidegate:0.1.0 --output "$image"
fi
cargo build --quiet --package tidegate --profile "$profile"
[ "$profile" = dev ] && profile=debug
tidegate=$CARGO_TARGET_DIR/$profile/tidegate
python=$(tests/tools/python.sh)

step "a cluster of two nodes with MinIO"
"$cluster" down
[ "$keep" = --keep ] || trap '"$cluster" down' EXIT
"$cluster" up
"$cluster" load "$image"

step "helm install"
installed=$(now_ms)
helm_in install tidegate charts/tidegate --namespace tidegate-system --create-namespace
step "kubectl apply: a hub and three topics"
kube apply -f deploy/samples/hub-minio.yaml -f deploy/samples/topics.yaml
address() { field service/hub .spec.clusterIP; }
within 60 "the hub's service" address
hub=http://$(address):7171
client() { "$cluster" exec env TIDEGATE_ADDRESS="$hub" "$tidegate" "$@"; }
first_event() { printf 'hello\n' | client produce clicks; }
within 90 "the first acknowledged event" first_event
timed "helm install -> first acknowledged event" 20 "$installed"
kube wait hub/hub --for condition=Ready --timeout 30s
kube wait topic --all --for condition=Ready --timeout 30s
kube get hub,topic

step "apply -> Topic Ready"
applied=$(now_ms)
kube apply -f - <<YAML
apiVersion: tidegate.dev/v1alpha1
kind: Topic
metadata: {name: quick}
spec: {hubRef: {name: hub}, partitions: 2, deletionPolicy: Delete}
YAML
kube wait topic/quick --for condition=Ready --timeout 30s
timed "apply -> Topic Ready" 2 "$applied"

step "produce with the command line, grpcurl and Python; consume"
count() { client consume "$1" | wc -l; }
client generate clicks -n 2000 >/dev/null
client generate sensors -n 20000 >/dev/null
"$cluster" exec grpcurl -plaintext -d '{"topic":"clicks","records":{"records":[{"key":"YWxpY2U=","value":"aGVsbG8="}]}}' \
  "${hub#http://}" tidegate.v1.ProducerService/Produce >/dev/null
expect "events in clicks" "$(count clicks)" 2002
"$cluster" exec "$python" tests/clients/roundtrip.py "${hub#http://}" 500 | tail -n 1
within 75 "the number of records in the Topic's status" field_is topic/clicks .status.endOffsetTotal 2002
kube get topic

step "grow a topic"
kube patch topic clicks --type merge -p '{"spec":{"partitions":6}}'
within 15 "six partitions" field_is topic/clicks .status.partitions 6
! kube patch topic clicks --type merge -p '{"spec":{"partitions":2}}' 2>"$TIDEGATE_CLUSTER/refused" || give_up "fewer partitions were accepted"
sed 's/^/    refused: /' "$TIDEGATE_CLUSTER/refused"

step "data reaches MinIO"
tiered() { client topic describe sensors -o json | "$python" -c 'import json,sys; print(sum(int(p.get("tieredEndOffset", 0)) for p in json.load(sys.stdin)["partitions"]))'; }
all_tiered() { [ "$(tiered)" = 20000 ]; }
within 90 "20000 tiered readings" all_tiered
find "$TIDEGATE_CLUSTER/minio/tidegate" -type f | grep -q . || give_up "nothing is in the bucket"
expect "readings, now from MinIO" "$(count sensors)" 20000

step "kill the broker's pod"
before=$(field pod/hub-broker-1-0 .metadata.uid)
killed=$(now_ms)
kube delete pod hub-broker-1-0 --grace-period 0 --force 2>/dev/null
# The old process may still answer for a moment: it is the new pod's answer that counts.
replaced() { [ "$(field pod/hub-broker-1-0 .metadata.uid)" != "$before" ] && field_is pod/hub-broker-1-0 '.status.containerStatuses[0].ready' true; }
within 60 "a new pod" replaced
within 60 "an acknowledged event after the kill" first_event
timed "pod kill -> first acknowledged event" 10 "$killed"
expect "events in clicks after the kill" "$(count clicks)" 2003

step "kill the broker's node, and bring it back"
node=$(field pod/hub-broker-1-0 .spec.nodeName)
"$cluster" node-kill "$node"
within 40 "the node's loss to be seen" kube wait "node/$node" --for condition=Ready=Unknown --timeout 1s
"$cluster" node-start "$node"
within 90 "an acknowledged event after the node came back" first_event
expect "events in clicks after the node's loss" "$(count clicks)" 2004
expect "readings after the node's loss" "$(count sensors)" 20000
kube wait hub/hub --for condition=Ready --timeout 60s

step "helm test and helm upgrade"
helm_in test tidegate --namespace tidegate-system >/dev/null || give_up "helm test"
helm_in upgrade tidegate charts/tidegate --namespace tidegate-system --set operator.log=debug --wait --timeout 90s >/dev/null || give_up "helm upgrade"
expect "events in clicks after the upgrade" "$(count clicks)" 2004

step "delete topics under both policies"
kube delete topic quick transactions --timeout 30s
gone() { ! client topic describe "$1"; }
within 15 "topic quick (deletionPolicy Delete) to go" gone quick
client topic describe transactions >/dev/null || give_up "topic transactions (deletionPolicy Retain) has gone with its object"

step "helm uninstall: the hub goes on serving, objects and data stay"
helm_in uninstall tidegate --namespace tidegate-system --wait --timeout 90s
expect "events in clicks without an operator" "$(count clicks)" 2004
first_event >/dev/null
expect "CustomResourceDefinitions left" "$(kube get crd -o name | grep -c tidegate.dev)" 2
expect "finalizers left" "$(kube get topic -A -o 'jsonpath={.items[*].metadata.finalizers}')" ""
expect "what is left of the chart" "$(kube get all,sa,role,rolebinding,clusterrole,clusterrolebinding -A -l app.kubernetes.io/instance=tidegate -o name | grep -v namespace/)" ""

printf '\n'
printf '    %s\n' "${timings[@]}"
printf '\033[1mpassed\033[0m in %d s\n' "$((($(now_ms) - started) / 1000))"
