# Functions of the parts of run.sh that have a hub of many brokers, in a namespace of its own. Each part begins without hubs, and ends without
# definitions, hubs and operators.

in_fleet=(-n fleet)
fleet() { kube -n fleet "$@"; }
of_hub() { field hub/hub "$1" "${in_fleet[@]}"; }
# whole BROKERS COPIES: as many brokers serve, nothing lacks a copy, and the Hub says that it is Ready.
whole() {
  [ "$(of_hub '.status.brokersReady} {.status.replicationFactor} {.status.underReplicatedJournals} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Progressing")].status')" = "$1/$1 $2 0 True False" ]
}
# Numbers of the brokers that there are.
brokers() { of_hub '.status.brokers[*].id'; }
nodes_of_brokers() { fleet get pod -l tidegate.dev/hub=hub -o 'jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}' | sort -u | wc -l; }
# Every event that was acknowledged is there; one whose call failed may be there.
all_there() {
  local found
  found=$(count clicks)
  [ "$found" -ge "$events" ] && [ "$found" -le $((events + doubtful)) ] || give_up "$found events, and $events were acknowledged ($doubtful calls failed)"
  printf '    %s events, all that were acknowledged\n' "$found"
}
flow_ends() {
  flow_stop
  events=$((events + flowed)) doubtful=$((doubtful + failures * flow_of))
}
events=0 doubtful=0

# many_begin BROKERS HOW: an operator, and in a namespace of its own a hub whose spec.brokers says HOW, whole with so many brokers, and Topic clicks.
# Its data goes to a place of its own in the bucket, where that of another part stays.
many_begin() {
  helm_in upgrade --install tidegate charts/tidegate --namespace tidegate-system --create-namespace >/dev/null
  kube create namespace fleet >/dev/null
  fleet create secret generic hub-s3 --from-literal AWS_ACCESS_KEY_ID=tidegate-test --from-literal AWS_SECRET_ACCESS_KEY=tidegate-test >/dev/null
  fleet apply -f - >/dev/null <<YAML
apiVersion: tidegate.dev/v1alpha1
kind: Hub
metadata: {name: hub}
spec:
  brokers: {$2, template: {resources: {requests: {cpu: 10m, memory: 64Mi}}}}
  objectStore: {s3: {bucket: tidegate, prefix: many-$(now_ms), endpoint: "http://minio.minio.svc:9000", credentials: {secret: {name: hub-s3}}}}
---
apiVersion: tidegate.dev/v1alpha1
kind: Topic
metadata: {name: clicks}
spec: {hubRef: {name: hub}, partitions: 8}
YAML
  within 120 "the hub to be whole with so many brokers: $1" whole "$1" "$1"
  fleet wait topic/clicks --for condition=Ready --timeout 30s >/dev/null
  at_hub hub fleet
}

# Nothing is left.
many_end() {
  step "and away"
  fleet delete topic --all --timeout 30s >/dev/null
  kube delete namespace fleet --wait=false >/dev/null
  within 120 "namespace fleet to go" namespace_gone fleet
  helm_in uninstall tidegate --namespace tidegate-system --wait --timeout 90s >/dev/null
  no_definitions
  kube delete namespace tidegate-system >/dev/null
}
