# The part `faults` of run.sh, which sources this file: what a person sees when something is wrong, and that it mends once it is put right. All in the
# namespace `faults`, which is deleted at the end with everything in it.

in_faults=(-n faults)
namespaced() { kube -n faults "$@"; }
keys() { namespaced create secret generic "$1" --from-literal AWS_ACCESS_KEY_ID=tidegate-test --from-literal "AWS_SECRET_ACCESS_KEY=$2" --dry-run=client -o yaml | namespaced apply -f - >/dev/null; }

# hub_yaml NAME [S3] [BROKERS] [SECRET]: a hub with flow-style fields that are put before the usual ones, which hold where they are not given.
hub_yaml() {
  cat <<YAML
---
apiVersion: tidegate.dev/v1alpha1
kind: Hub
metadata: {name: $1, namespace: faults}
spec:
  brokers: {${3:+$3, }template: {resources: {requests: {cpu: 10m, memory: 64Mi}}${5:+, $5}}}
  objectStore: {s3: {${2:-bucket: tidegate, endpoint: "http://minio.minio.svc:9000"}, credentials: {secret: {name: ${4:-good}}}}}
  listeners: [{name: grpc, port: 7171, plaintext: true}]
YAML
}
ready() { field_is "hub/$1" '.status.conditions[?(@.type=="Ready")].status' True "${in_faults[@]}"; }
# seen HUB REASON TEXT: the Hub is degraded for that reason, says so in words, and there is an Event.
seen() {
  within 60 "hub $1 to say $2" says "hub/$1" Degraded "$2: " "${in_faults[@]}"
  within 60 "hub $1 to say \"$3\"" says "hub/$1" Degraded "$3" "${in_faults[@]}"
  within 10 "an Event $2 of hub $1" event_says "hub/$1" "$2" "" "${in_faults[@]}"
  printf '    %-18s %s\n' "$1" "$(condition "hub/$1" Degraded "${in_faults[@]}" | cut -c1-260)"
}

step "hubs that cannot start"
helm_in install tidegate charts/tidegate --namespace tidegate-system --create-namespace --wait --timeout 60s >/dev/null
kube create namespace faults >/dev/null
keys good tidegate-test
keys wrong-keys not-the-key
{
  hub_yaml good
  hub_yaml no-secret "" "" missing
  hub_yaml wrong-keys "" "" wrong-keys
  hub_yaml wrong-bucket 'bucket: nobodys-bucket, endpoint: "http://minio.minio.svc:9000"'
  hub_yaml no-store 'bucket: tidegate, endpoint: "http://10.10.0.1:9999"'
  hub_yaml no-class "" 'storage: {className: no-such-class}'
  hub_yaml no-image "" "" "" 'image: "registry.invalid/tidegate:0.0.0"'
  hub_yaml no-node "" "" "" 'nodeSelector: {disk: faster-than-light}'
} | kube apply -f - >/dev/null
seen no-secret ConfigurationMissing 'secret "missing" not found'
seen no-image ImageNotPulled 'image registry.invalid/tidegate:0.0.0 cannot be pulled'
seen no-node Unschedulable "didn't match Pod's node affinity/selector"
seen no-class VolumeNotBound 'storage class `no-such-class`'
seen wrong-keys BrokerFails 'SignatureDoesNotMatch'
seen wrong-bucket BrokerFails NoSuchBucket
seen no-store BrokerFails 'Connection refused'

step "put right, they start"
keys missing tidegate-test
keys wrong-keys tidegate-test
namespaced patch hub no-image --type json -p '[{"op":"remove","path":"/spec/brokers/template/image"}]' >/dev/null
namespaced patch hub no-node --type json -p '[{"op":"remove","path":"/spec/brokers/template/nodeSelector"}]' >/dev/null
namespaced patch hub no-store --type merge -p '{"spec":{"objectStore":{"s3":{"endpoint":"http://minio.minio.svc:9000"}}}}' >/dev/null
mkdir "$TIDEGATE_CLUSTER/minio/nobodys-bucket"
# Brokers that ended are started again by the kubelet with growing pauses, up to 40 s after this time.
for name in good no-secret no-image no-node no-store wrong-keys wrong-bucket; do within 90 "hub $name to be ready" ready "$name"; done
refused "className is fixed" kube -n faults patch hub no-class --type merge -p '{"spec":{"brokers":{"storage":{"className":"local"}}}}'
namespaced delete hub no-class no-secret no-image no-node no-store wrong-bucket --timeout 30s >/dev/null

step "a roll to an image that cannot be pulled, and back"
at_hub good faults
kube apply -f - >/dev/null <<YAML
apiVersion: tidegate.dev/v1alpha1
kind: Topic
metadata: {name: kept, namespace: faults}
spec: {hubRef: {name: good}}
---
apiVersion: tidegate.dev/v1alpha1
kind: Topic
metadata: {name: goes, namespace: faults}
spec: {hubRef: {name: good}, deletionPolicy: Delete}
YAML
namespaced wait topic kept goes --for condition=Ready --timeout 30s >/dev/null
client generate kept -n 100 >/dev/null 2>&1 || for _ in 1 2 3; do produce_one kept >/dev/null; done
kept=$(count kept)
namespaced patch hub good --type merge -p '{"spec":{"brokers":{"template":{"image":"registry.invalid/tidegate:9.9.9"}}}}' >/dev/null
seen good ImageNotPulled 'registry.invalid/tidegate:9.9.9'
namespaced patch hub good --type json -p '[{"op":"remove","path":"/spec/brokers/template/image"}]' >/dev/null
within 60 "the hub with its old image" ready good
expect "events after the bad roll" "$(count kept)" "$kept"

step "the API server is away for a minute"
flow_start kept
"$cluster" api-down
away() { ! kube get --raw /readyz --request-timeout 1s; }
within 10 "the API server's end" away
# The data path goes on meanwhile: each call of the flow has to succeed, and there have to be many of them.
sleep 60 # not a wait: how long the fault lasts
meanwhile=$(grep -c acknowledged "$TIDEGATE_CLUSTER/flow" || true)
[ "$meanwhile" -ge 60 ] || give_up "only $meanwhile events were acknowledged in the minute without an API server"
"$cluster" api-up
within 60 "the API server" kube get --raw /readyz
namespaced patch topic kept --type merge -p '{"spec":{"partitions":2}}' >/dev/null
within 60 "the operator to act again" field_is topic/kept .status.partitions 2 "${in_faults[@]}"
flow_stop
expect "calls to the hub that failed meanwhile" "$failures" 0
kept=$((kept + flowed))
expect "events" "$(count kept)" "$kept"

step "the definitions are deleted, with all hubs and topics, and installed again"
id=$(field hub/good .status.hubId "${in_faults[@]}")
no_definitions
# Whether the brokers end now, or go on until the definitions are back, is up to the cluster's garbage collector: it may no longer know what a Hub was.
expect "the hub whose data the volume claim holds" "$(field pvc/good-broker-1 '.metadata.labels.tidegate\.dev/hub-id' "${in_faults[@]}")" "$id"
kube apply -f charts/tidegate/crds >/dev/null
kube wait crd hubs.tidegate.dev topics.tidegate.dev --for condition=Established --timeout 30s >/dev/null
{
  hub_yaml good
  echo "  restoreFrom: {hubId: $id}"
} | kube apply -f - >/dev/null
kube apply -f - >/dev/null <<YAML
apiVersion: tidegate.dev/v1alpha1
kind: Topic
metadata: {name: kept, namespace: faults}
spec: {hubRef: {name: good}, partitions: 2}
YAML
within 90 "the hub to be ready again" ready good
namespaced wait topic kept --for condition=Ready --timeout 90s
at_hub good faults
expect "events" "$(count kept)" "$kept"

step "the namespace is deleted with everything in it"
kube delete namespace faults --wait=false >/dev/null
within 120 "namespace faults to go" namespace_gone faults
no_volumes() { [ -z "$(kube get pv -o name)" ]; }
within 30 "volumes whose class says Delete to go" no_volumes
find "$TIDEGATE_CLUSTER/minio/tidegate/faults/good" -type f | grep -q . || give_up "the bucket's data has gone with the namespace"
