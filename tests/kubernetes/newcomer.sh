# The part `newcomer` of run.sh, which sources this file: what README tells a user, then what may happen to a hub, then helm uninstall and what stays.

step "helm install"
installed=$(now_ms)
helm_in install tidegate charts/tidegate --namespace tidegate-system --create-namespace --set test.address=http://hub.default.svc:7171 >/dev/null
step "kubectl apply: a hub and three topics"
kube apply -f deploy/samples/hub-minio.yaml -f deploy/samples/topics.yaml
at_hub hub
first_event() { produce_one clicks; }
within 90 "the first acknowledged event" first_event
timed "helm install -> first acknowledged event" 20 "$installed"
kube wait hub/hub --for condition=Ready --timeout 30s >/dev/null
kube wait topic --all --for condition=Ready --timeout 30s >/dev/null
kube get hub,topic
# What deploy/kind and users of AWS apply, as far as it can be checked here: the API server takes it.
bash -n deploy/kind/up.sh
for file in deploy/kind/minio.yaml deploy/samples/hub-s3.yaml; do
  kube apply --namespace minio --dry-run=server -f $file >/dev/null 2>"$TIDEGATE_CLUSTER/refused" || give_up "$file is refused: $(cat "$TIDEGATE_CLUSTER/refused")"
done

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
client generate clicks -n 2000 >/dev/null
client generate sensors -n 20000 >/dev/null
grpcurl_at() {
  "$cluster" exec grpcurl -plaintext -d '{"topic":"clicks","records":{"records":[{"key":"YWxpY2U=","value":"aGVsbG8="}]}}' "$1" tidegate.v1.ProducerService/Produce >/dev/null
}
grpcurl_at "${hub#http://}"
expect "events in clicks" "$(count clicks)" 2002
"$cluster" exec "$python" tests/clients/roundtrip.py "${hub#http://}" 500 | tail -n 1

step "from outside of the cluster: port-forward, NodePort, LoadBalancer"
"$cluster" exec kubectl port-forward service/hub 17171:7171 >/dev/null &
forward=$!
inside=$hub hub=http://127.0.0.1:17171
within 10 "an event through kubectl port-forward" first_event
hub=$inside
kill "$forward"
listeners() { kube patch hub hub --type merge -p "{\"spec\":{\"listeners\":[{\"name\":\"grpc\",\"port\":7171,\"plaintext\":true,\"exposure\":\"NodePort\",\"nodePort\":30717}$1]}}" >/dev/null; }
listeners ',{"name":"public","port":9000,"plaintext":true,"exposure":"LoadBalancer","annotations":{"example.com/scheme":"internal"}}'
within 10 "a NodePort" field_is service/hub .spec.type NodePort
for node in 10.10.0.11 10.10.0.12; do within 10 "an event through port 30717 of $node" grpcurl_at "$node:30717"; done
within 10 "a Service for the load balancer" field_is service/hub-public .spec.type LoadBalancer
expect "its port, policy and annotation" "$(field service/hub-public '.spec.ports[0].port} {.spec.externalTrafficPolicy} {.metadata.annotations.example\.com/scheme')" "9000 Local internal"
listeners ''
no_balancer() { ! kube get service hub-public; }
within 10 "the load balancer's Service to go with its listener" no_balancer
expect "events in clicks" "$(count clicks)" 2005

step "grow a topic"
kube patch topic clicks --type merge -p '{"spec":{"partitions":6}}'
within 15 "six partitions" field_is topic/clicks .status.partitions 6
refused "partitions never become fewer" kube patch topic clicks --type merge -p '{"spec":{"partitions":2}}'

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
expect "events in clicks after the kill" "$(count clicks)" 2006

step "kill the broker's node, and bring it back"
node=$(field pod/hub-broker-1-0 .spec.nodeName)
"$cluster" node-kill "$node"
within 40 "the node's loss to be seen" kube wait "node/$node" --for condition=Ready=Unknown --timeout 1s
"$cluster" node-start "$node"
back=$(now_ms)
within 90 "an acknowledged event after the node came back" first_event
timed "node started again -> first acknowledged event" 30 "$back"
expect "events in clicks after the node's loss" "$(count clicks)" 2007
expect "readings after the node's loss" "$(count sensors)" 20000
kube wait hub/hub --for condition=Ready --timeout 60s >/dev/null
# Measurements come every 30 s: by now these have.
within 40 "the number of records in the Topic's status" field_is topic/sensors .status.endOffsetTotal 20000
kube get topic

step "lose the volume for good, and recover the hub from its bucket"
lost=$(field hub/hub .status.hubId)
topic_uid=$(field topic/sensors .status.topicUid)
kube delete pvc hub-broker-1 --wait=false >/dev/null
kube delete pod hub-broker-1-0 --grace-period 0 --force >/dev/null 2>&1
within 60 "the Hub to say that its volume is empty" says hub/hub Degraded "the object store's prefix belongs to hub $lost and this volume is empty"
printf '    %s\n' "$(condition hub/hub Degraded)"
recovering=$(now_ms)
kube patch hub hub --type merge -p "{\"spec\":{\"restoreFrom\":{\"hubId\":\"$lost\"}}}"
within 60 "an acknowledged event after the recovery" first_event
timed "restoreFrom -> first acknowledged event" 20 "$recovering"
kube wait hub/hub --for condition=Ready --timeout 30s >/dev/null
within 45 "the Hub to say what it was rebuilt from" field_is hub/hub .status.recovered.fromHubId "$lost"
within 15 "an Event that says what was lost" event_says hub/hub Recovered "the hub was rebuilt from its bucket"
printf '    %s\n' "$(field hub/hub .status.recovered.message)"
expect "readings after the volume's loss" "$(count sensors)" 20000
recovered=$(field hub/hub .status.hubId)
[ "$recovered" != "$lost" ] || give_up "the rebuilt hub has the lost one's identity"
expect "the uid of topic sensors" "$(field topic/sensors .status.topicUid)" "$topic_uid"
clicks=$(count clicks) # what was not tiered is lost, and only that

step "delete the Hub, make it again on the volume that stayed"
kube delete hub hub --timeout 30s
no_pod() { ! kube get pod hub-broker-1-0; }
within 90 "the broker's end" no_pod
expect "the hub whose data the volume claim holds" "$(field pvc/hub-broker-1 '.metadata.labels.tidegate\.dev/hub-id')" "$recovered"
within 15 "an Event that says what stays" event_says hub/hub Kept "hub-broker-1"
kube apply -f deploy/samples/hub-minio.yaml
within 30 "the Hub to say whose volume is there" says hub/hub Degraded "set spec.restoreFrom.hubId to $recovered to take it up"
kube patch hub hub --type merge -p "{\"spec\":{\"restoreFrom\":{\"hubId\":\"$recovered\"}}}"
kube wait hub/hub --for condition=Ready --timeout 60s
kube wait topic --all --for condition=Ready --timeout 30s >/dev/null
at_hub hub
expect "events in clicks on the old volume" "$(count clicks)" "$clicks"
expect "the hub's identity" "$(field hub/hub .status.hubId)" "$recovered"

step "helm test"
helm_in test tidegate --namespace tidegate-system >/dev/null || give_up "helm test"
within 15 "the test's topic to go again, and its object with it" bash -c "! $cluster exec kubectl get topic helm-test"

step "delete topics under both policies"
kube delete topic quick transactions --timeout 30s
gone() { ! client topic describe "$1"; }
within 15 "topic quick (deletionPolicy Delete) to go" gone quick
client topic describe transactions >/dev/null || give_up "topic transactions (deletionPolicy Retain) has gone with its object"
kube patch topic clicks --type merge -p '{"spec":{"deletionPolicy":"Delete"}}' >/dev/null
within 15 "a finalizer on a topic that goes with its object" field_is topic/clicks .metadata.finalizers '["tidegate.dev/topic"]'

step "helm uninstall: the hub goes on serving, objects and data stay"
flow_start clicks
helm_in uninstall tidegate --namespace tidegate-system --wait --timeout 90s
expect "CustomResourceDefinitions left" "$(kube get crd -o name | grep -c tidegate.dev)" 2
expect "topics left" "$(field topic '.items[*].metadata.name')" "clicks sensors"
expect "finalizers left" "$(field topic '.items[*].metadata.finalizers')" ""
labelled() { kube get all,cm,secret,sa,role,rolebinding,clusterrole,clusterrolebinding,networkpolicy,pdb,lease -A -l "app.kubernetes.io/instance=tidegate" -o name; }
expect "what is left of the chart" "$(labelled)" ""

step "helm install again: everything is taken up"
pod=$(field pod/hub-broker-1-0 .metadata.uid)
helm_in install tidegate charts/tidegate --namespace tidegate-system --wait --timeout 60s >/dev/null
within 30 "the finalizer to be back" field_is topic/clicks .metadata.finalizers '["tidegate.dev/topic"]'
kube apply -f - >/dev/null <<YAML
apiVersion: tidegate.dev/v1alpha1
kind: Topic
metadata: {name: after}
spec: {hubRef: {name: hub}}
YAML
kube wait topic/after --for condition=Ready --timeout 30s
flow_stop
expect "calls that failed while the operator was away" "$failures" 0
clicks=$((clicks + flowed))
expect "events in clicks" "$(count clicks)" "$clicks"
expect "the broker's pod, which nobody touched" "$(field pod/hub-broker-1-0 .metadata.uid)" "$pod"
expect "the uid of topic sensors" "$(field topic/sensors .status.topicUid)" "$topic_uid"

step "delete everything, and see what is left"
kube delete topic --all --timeout 30s
kube delete hub --all --timeout 30s
within 90 "the broker's end" no_pod
helm_in uninstall tidegate --namespace tidegate-system --wait --timeout 90s >/dev/null
left() { kube get all,cm,pvc,sa,role,rolebinding,networkpolicy,pdb,hub,topic -n "$1" -o name | grep -vE 'kube-root-ca.crt|serviceaccount/default|service/kubernetes' | sort | tr '\n' ' '; }
expect "left in the hub's namespace: the volume" "$(left default)" "persistentvolumeclaim/hub-broker-1 "
expect "left in the operator's namespace: what helm test ran" "$(left tidegate-system)" ""
expect "left in the whole cluster" "$(kube get clusterrole,clusterrolebinding -o name | grep -c tidegate || true)" 0
expect "Secrets left beside the user's own" "$(kube get secret -A -o name | grep -v hub-s3)" secret/tidegate-operator-key
kube delete crd hubs.tidegate.dev topics.tidegate.dev >/dev/null
kube delete pvc hub-broker-1 >/dev/null
kube delete namespace tidegate-system >/dev/null
no_volume() { [ -z "$(kube get pv -o name)" ]; }
within 20 "the volume to go with its claim" no_volume
