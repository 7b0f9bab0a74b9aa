# The parts `fleet` and `scale` of run.sh, which sources this file: a hub of one broker grows to three under load, is rolled, loses a node for good, heals,
# and shrinks back, on four nodes; `scale` does it without the lost node, on two. It begins without hubs, and ends without definitions, hubs and operators.

source tests/kubernetes/many.sh

# Two nodes of four share the last one.
zone=0
for node in $(kube get node -o 'jsonpath={.items[*].metadata.name}'); do
  kube label node "$node" --overwrite "topology.kubernetes.io/zone=zone-$((zone < 2 ? ++zone : 3))" >/dev/null
done

step "a hub of one broker"
many_begin 1 'replicas: 1'

step "kubectl scale: three brokers, three copies, while events are taken"
flow_start clicks
scaled=$(now_ms)
fleet scale hub hub --replicas 3
within 120 "the hub to be whole with three brokers" whole 3 3
timed "kubectl scale 1 -> 3 until all journals have three copies" 40 "$scaled"
leads() { [[ $(of_hub .status.leaders) =~ ^[1-9]+/[1-9]+/[1-9]+$ ]]; }
within 60 "each broker to lead something" leads
flow_ends
expect "calls that failed while the hub grew" "$failures" 0
all_there
fleet get hub
spread=3
[ "${TIDEGATE_NODES:-2}" -ge 3 ] || spread=2 # there are no more
expect "nodes that hold a broker" "$(nodes_of_brokers)" "$spread"
zones=$(fleet get pod -l tidegate.dev/hub=hub -o 'jsonpath={range .items[*]}{.metadata.labels.topology\.kubernetes\.io/zone}{"\n"}{end}' | sort -u | wc -l)
expect "zones of brokers, which the cluster told their pods" "$zones" "$spread"
expect "how many pods a drain may take" "$(field pdb/hub-brokers .spec.maxUnavailable "${in_fleet[@]}")" 1
expect "the first broker's pod, which nobody had to restart" "$(field pod/hub-broker-1-0 '.status.containerStatuses[0].restartCount' "${in_fleet[@]}")" 0

step "fewer brokers than copies are refused"
refused "fewer than 3 brokers cannot hold 3 copies" fleet scale hub hub --replicas 2
refused "below spec.replicationFactor" fleet patch hub hub --type merge -p '{"spec":{"replicationFactor":5}}'

step "a rolling restart: one broker at a time, leaders first"
flow_start clicks
rolled=$(now_ms)
before=$(fleet get pod -l tidegate.dev/hub=hub -o 'jsonpath={.items[*].metadata.uid}')
fleet patch hub hub --type merge -p '{"spec":{"brokers":{"template":{"annotations":{"example.com/restarted":"1"}}}}}' >/dev/null
all_new() {
  local uid
  for uid in $before; do ! grep -qF "$uid" <<<"$(fleet get pod -l tidegate.dev/hub=hub -o 'jsonpath={.items[*].metadata.uid}')" || return 1; done
}
within 180 "all three pods to be new" all_new
within 60 "the hub to be whole again" whole 3 3
timed "rolling restart of three brokers" 60 "$rolled"
flow_ends
expect "calls that failed during the roll" "$failures" 0
all_there

lose_a_node() {
  local node claim lost
  step "a node is lost for good, with its volume"
  flow_start clicks
  node=$(field pod/hub-broker-3-0 .spec.nodeName "${in_fleet[@]}")
  claim=$(field pvc/hub-broker-3 .metadata.uid "${in_fleet[@]}")
  "$cluster" node-kill "$node"
  lost=$(now_ms)
  silent() { [ "$(of_hub .status.brokersReady)" = 2/3 ]; }
  within 60 "the Hub to say that a broker is missing" silent
  expect "the claim of a broker that is only silent" "$(field pvc/hub-broker-3 .metadata.uid "${in_fleet[@]}")" "$claim"
  kube delete node "$node" >/dev/null # somebody's word that it does not come back
  healed() { whole 3 3 && [[ $(brokers) =~ 4 ]]; }
  within 150 "a fourth broker in the place of the third" healed
  timed "node killed -> three copies of everything again" 90 "$lost"
  within 10 "an Event about the broker that leaves" event_says hub/hub BrokerDraining "broker 3 leaves, its node or volume has gone for good" "${in_fleet[@]}"
  no_claim() { ! fleet get pvc hub-broker-3; }
  within 120 "the lost volume's claim to go" no_claim
  flow_ends
  all_there
}
[ "$part" != fleet ] || lose_a_node

step "back to one broker and one copy, as asked for"
flow_start clicks
shrunk_at=$(now_ms)
fleet patch hub hub --type merge -p '{"spec":{"replicationFactor":1}}' >/dev/null
fleet scale hub hub --replicas 1 >/dev/null
shrunk() { whole 1 1; }
within 90 "the hub to be whole with one broker" shrunk
timed "3 -> 1 brokers until nothing is left to move" 60 "$shrunk_at"
one_claim() { [ "$(fleet get pvc -o name)" = persistentvolumeclaim/hub-broker-1 ]; }
within 60 "the volumes of the others to go" one_claim
flow_ends
all_there

many_end
