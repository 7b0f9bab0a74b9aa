# The part `load` of run.sh: a hub grows and shrinks by what it is asked to take, and loses a node that somebody marked as out of service meanwhile.

source tests/kubernetes/many.sh

step "a hub that scales by its load"
many_begin 3 'autoscaling: {minReplicas: 3, maxReplicas: 4, targets: {bytesInPerSecond: 10Ki}, scaleUpAfter: 5s, scaleDownAfter: 20s}'

step "more load than three brokers shall take"
flow_start clicks 2000
loaded=$(now_ms)
within 120 "a fourth broker" whole 4 3
timed "load above the target until four brokers serve" 60 "$loaded"
expect "an Event that says why" "$(event_says hub/hub Scaling "bytes in" "${in_fleet[@]}" && echo yes)" yes
fleet get hub

step "a node is marked as out of service, and its broker's place is taken"
node=$(field pod/hub-broker-4-0 .spec.nodeName "${in_fleet[@]}")
"$cluster" node-kill "$node"
lost=$(now_ms)
# The operator may have been on that node: the taint moves it, too.
kube taint node "$node" node.kubernetes.io/out-of-service=nodeshutdown:NoExecute >/dev/null
replaced() { whole 4 3 && ! [[ " $(brokers) " =~ " 4 " ]]; }
within 180 "another broker in the place of the fourth" replaced
timed "node killed -> out of service -> four brokers again" 120 "$lost"
flow_ends
all_there

step "the load ends, and the hub shrinks"
calm=$(now_ms)
within 150 "the hub to be whole with three brokers" whole 3 3
timed "load ended -> three brokers (20 s of them waiting)" 60 "$calm"
all_there

many_end
