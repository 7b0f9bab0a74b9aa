# The part `releases` of run.sh, which sources this file: helm upgrade from an earlier release, an uninstall whose hook does not run, and an operator
# for one namespace with a first hub. It begins and ends without definitions, hubs and operators.

# namespace NAME: one that refuses pods beyond the `restricted` Pod Security level, with the Secret of the test's MinIO.
namespace() {
  kube create namespace "$1" >/dev/null
  kube label namespace "$1" pod-security.kubernetes.io/enforce=restricted >/dev/null
  kube -n "$1" create secret generic hub-s3 --from-literal AWS_ACCESS_KEY_ID=tidegate-test --from-literal AWS_SECRET_ACCESS_KEY=tidegate-test >/dev/null
}

step "helm install of an earlier release"
namespace shop
helm_in install tidegate tests/kubernetes/chart/releases/tidegate-0.0.9.tgz --namespace tidegate-system --create-namespace >/dev/null
kube -n shop apply -f deploy/samples/hub-minio.yaml -f - >/dev/null <<YAML
apiVersion: tidegate.dev/v1alpha1
kind: Topic
metadata: {name: orders}
spec: {hubRef: {name: hub}, deletionPolicy: Delete}
YAML
kube -n shop wait topic/orders --for condition=Ready --timeout 60s
at_hub hub shop
records_column() { kube -n shop get topic | grep -q RECORDS; }
restore_field() { kube explain hub.spec.restoreFrom; }
if records_column || restore_field >/dev/null 2>&1; then give_up "the earlier release's definitions are no older than today's"; fi

step "helm upgrade: the definitions too, and nobody notices"
pod=$(field pod/hub-broker-1-0 .metadata.uid -n shop)
flow_start orders
helm_in upgrade tidegate charts/tidegate --namespace tidegate-system --wait --timeout 90s >/dev/null || give_up "helm upgrade"
within 20 "the new field" restore_field
within 20 "the new column" records_column
kube diff --server-side --force-conflicts -f charts/tidegate/crds >"$TIDEGATE_CLUSTER/diff" || give_up "the definitions differ from the chart's: $(cat "$TIDEGATE_CLUSTER/diff")"
kube -n shop patch topic orders --type merge -p '{"spec":{"partitions":2}}' >/dev/null
within 20 "the new operator to act" field_is topic/orders .status.partitions 2 -n shop
expect "the broker's pod, whose template is the same" "$(field pod/hub-broker-1-0 .metadata.uid -n shop)" "$pod"

step "helm rollback"
helm_in rollback tidegate 1 --namespace tidegate-system --wait --timeout 90s >/dev/null || give_up "helm rollback"
kube -n shop patch topic orders --type merge -p '{"spec":{"partitions":3}}' >/dev/null
within 20 "the earlier release to act" field_is topic/orders .status.partitions 3 -n shop
restore_field >/dev/null || give_up "a rollback took fields away that objects may have"
flow_stop
expect "calls that failed during upgrade and rollback" "$failures" 0
expect "events" "$(count orders)" "$flowed"

step "an uninstall whose hook does not run, and the manual way out"
helm_in uninstall tidegate --namespace tidegate-system --no-hooks --wait --timeout 60s >/dev/null
expect "the finalizer that nobody looks after" "$(field topic/orders .metadata.finalizers -n shop)" '["tidegate.dev/topic"]'
kube delete namespace shop --wait=false >/dev/null
only_topic() { [ "$(kube -n shop get hub,topic,pod -o name)" = topic.tidegate.dev/orders ]; }
within 90 "all but the topic to go" only_topic
kube -n shop patch topic orders --type merge -p '{"metadata":{"finalizers":null}}'
within 60 "the namespace to go" namespace_gone shop
ls "$TIDEGATE_CLUSTER"/minio/tidegate/shop/hub >/dev/null || give_up "the bucket's data has gone with the namespace"
no_definitions

step "an operator for one namespace, with a first hub in the same install"
namespace team-a
namespace team-b
cat >"$TIDEGATE_CLUSTER/team.yaml" <<YAML
watchNamespace: team-a
hub:
  create: true
  spec:
    objectStore: {s3: {bucket: tidegate, endpoint: "http://minio.minio.svc:9000", credentials: {secret: {name: hub-s3}}}}
    listeners: [{name: grpc, port: 7171, plaintext: true}]
YAML
helm_in install team charts/tidegate --namespace team-operator --create-namespace --values "$TIDEGATE_CLUSTER/team.yaml" | grep -A20 NOTES | sed 's/^/    /'
kube label namespace team-operator pod-security.kubernetes.io/enforce=restricted >/dev/null
kube -n team-b apply -f deploy/samples/hub-minio.yaml >/dev/null 2>&1
kube -n team-a wait hub/hub --for condition=Ready --timeout 60s
helm_in test team --namespace team-operator >/dev/null || give_up "helm test"
may() { kube auth can-i "$1" "$2" -n "$3" --as system:serviceaccount:team-operator:team-tidegate-operator 2>/dev/null || true; }
expect "patching topics in its namespace" "$(may patch topics team-a)" yes
expect "reading topics elsewhere" "$(may list topics team-b)" no
expect "reading Secrets in its namespace" "$(may get secrets team-a)" no
expect "deleting volumes" "$(may delete persistentvolumes team-a)" no
expect "the status of a hub elsewhere" "$(field hub/hub .status -n team-b)" ""
at_hub hub team-a
helm_in uninstall team --namespace team-operator --wait --timeout 90s >/dev/null
expect "the first hub" "$(kube -n team-a get hub -o name)" hub.tidegate.dev/hub
client topic create after >/dev/null
produce_one after >/dev/null
expect "events of the hub without its operator" "$(count after)" 1
for name in team-a team-b team-operator; do kube delete namespace "$name" --wait=false >/dev/null; done
for name in team-a team-b team-operator; do within 90 "namespace $name to go" namespace_gone "$name"; done
no_definitions
