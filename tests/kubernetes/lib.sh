# Functions of the Kubernetes tests. Source it; `set -euo pipefail` is the caller's.
tools=${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}
export PATH=$tools/bin:$PATH
export TIDEGATE_CLUSTER=${TIDEGATE_CLUSTER:-/tmp/tidegate-newcomer-$$}
cluster=deploy/cluster/cluster.sh

now_ms() { date +%s%3N; }
started=$(now_ms)
steps=0

# Says what comes, with the time since the start.
step() {
  steps=$((steps + 1))
  printf '\033[1m==> %2d. %s\033[0m (%d s)\n' "$steps" "$*" "$((($(now_ms) - started) / 1000))"
}

# Ends the test and shows what a person would look at first.
give_up() {
  printf '\nFAILED: %s\n' "$*" >&2
  {
    kube get hub,topic,pods,pvc,jobs -A -o wide
    kube get events -A --sort-by .lastTimestamp | tail -n 25
    kube -n tidegate-system logs deployment/tidegate-operator --tail 40 --all-containers
    kube logs --selector app.kubernetes.io/name=tidegate-broker --tail 20 --all-containers
    kube describe hub,topic -A | grep -A40 'Status:' | head -n 120
  } 2>&1 | sed 's/^/    /' >&2
  exit 1
}

kube() { "$cluster" exec kubectl "$@"; }
helm_in() { "$cluster" exec helm "$@"; }

# within SECONDS WHAT COMMAND…: waits until the command succeeds.
within() {
  local deadline=$(($(now_ms) + $1 * 1000)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$(now_ms)" -lt "$deadline" ] || give_up "waited in vain for $what: $*"
    sleep 0.1
  done
}

# expect WHAT IS WANTED
expect() { [ "$2" = "$3" ] || give_up "$1: $2 instead of $3"; }

# timed NAME GOAL_SECONDS SINCE_MS: notes how long something took; three times the goal is a failure.
timings=()
timed() {
  local took=$(($(now_ms) - $3))
  timings+=("$(printf '%-58s %6d.%03d s   (goal %s s)' "$1" $((took / 1000)) $((took % 1000)) "$2")")
  printf '    %s: %d.%03d s (goal %s s)\n' "$1" $((took / 1000)) $((took % 1000)) "$2"
  [ "$took" -le $(($2 * 3000)) ] || give_up "$1 took $took ms, more than three times the goal of $2 s"
}

# The value of a jsonpath of an object: field KIND/NAME PATH [FLAG…].
field() { kube get "$1" -o "jsonpath={$2}" "${@:3}"; }
field_is() { [ "$(field "$1" "$2" "${@:4}")" = "$3" ]; }
# condition KIND/NAME TYPE [FLAG…]: status, reason and message.
condition() {
  local at=".status.conditions[?(@.type==\"$2\")]"
  kube get "$1" -o "jsonpath={$at.status} {$at.reason}: {$at.message}" "${@:3}"
}
# says KIND/NAME TYPE TEXT [FLAG…]: whether a condition reads so.
says() { grep -qF -- "$3" <<<"$(condition "$1" "$2" "${@:4}")"; }
# event_says KIND/NAME REASON TEXT [FLAG…]: whether there is such an Event.
event_says() {
  local kind=${1%/*} said
  said=$(kube get events --field-selector "involvedObject.kind=${kind^},involvedObject.name=${1#*/},reason=$2" -o 'jsonpath={.items[*].message}' "${@:4}")
  [ -n "$said" ] && grep -qF -- "$3" <<<"$said"
}
# refused TEXT COMMAND…: the command fails and says so.
refused() {
  local text=$1 said
  shift
  if said=$("$@" 2>&1); then give_up "accepted: $*"; fi
  grep -qF -- "$text" <<<"$said" || give_up "refused, but not for \"$text\": $said"
  printf '    refused: %s\n' "$(grep -m1 -F -- "$text" <<<"$said")"
}

# The command line against the hub at $hub.
client() { "$cluster" exec env TIDEGATE_ADDRESS="$hub" "$tidegate" "$@"; }
# at_hub NAME [NAMESPACE]: from now on, `client` talks to that hub.
at_hub() {
  address() { [ -n "$(field "service/$1" .spec.clusterIP -n "${2:-default}")" ]; }
  within 60 "the service of hub $1" address "$@"
  hub=http://$(field "service/$1" .spec.clusterIP -n "${2:-default}"):7171
}
# reached TOPIC: waits until the hub's Service leads to the hub: a node's rules learn of a pod that is ready up to a second later, and refuse
# connections until then. After the API server was away for a minute, kube-proxy asks it again within another.
reached() { within 90 "the hub to be reached by its Service" client topic describe "$1"; }
count() {
  reached "$1"
  client consume "$1" | wc -l
}
produce_one() { printf 'hello\n' | client produce "$1"; }

# flow_start TOPIC [EVENTS]: appends an event (or so many of 100 bytes) about each 200 ms, one call after the other, until flow_stop, which prints how
# many calls were not acknowledged at once and leaves the number of the acknowledged events in $flowed.
flow_start() {
  reached "$1"
  flow_of=${2:-1}
  for ((event = 0; event < flow_of; event++)); do printf '%099d\n' "$event"; done >"$TIDEGATE_CLUSTER/flow-events"
  : >"$TIDEGATE_CLUSTER/flow"
  : >"$TIDEGATE_CLUSTER/flow-errors"
  (
    until [ -e "$TIDEGATE_CLUSTER/flow-end" ] || ! [ -e "$TIDEGATE_CLUSTER/flow-events" ]; do
      began=$(now_ms)
      if timeout 20 "$cluster" exec env TIDEGATE_ADDRESS="$hub" "$tidegate" produce "$1" <"$TIDEGATE_CLUSTER/flow-events" >/dev/null 2>>"$TIDEGATE_CLUSTER/flow-errors"; then
        echo "acknowledged $(($(now_ms) - began))"
      else
        echo "failed $? at $(date -u +%H:%M:%S.%N)" | tee -a "$TIDEGATE_CLUSTER/flow-errors"
      fi >>"$TIDEGATE_CLUSTER/flow"
      sleep 0.2
    done
  ) &
  flow=$!
}
# How long the acknowledged calls took, in milliseconds, the program's start included.
flow_took() { sed -n 's/^acknowledged //p' "$TIDEGATE_CLUSTER/flow" | sort -n; }
flow_stop() {
  : >"$TIDEGATE_CLUSTER/flow-end"
  wait "$flow"
  rm "$TIDEGATE_CLUSTER/flow-end"
  local calls
  calls=$(grep -c acknowledged "$TIDEGATE_CLUSTER/flow" || true)
  flowed=$((calls * flow_of))
  failures=$(grep -c failed "$TIDEGATE_CLUSTER/flow" || true)
  printf '    meanwhile %s events were acknowledged, each call within %s ms, half of them within %s; %s calls failed\n' "$flowed" \
    "$(flow_took | tail -n 1)" "$(flow_took | sed -n "$(((calls + 1) / 2))p")" "$failures"
  [ "$failures" = 0 ] || sed 's/^/    /' "$TIDEGATE_CLUSTER/flow-errors"
}

namespace_gone() { ! kube get namespace "$1"; }
no_definitions() { kube delete crd hubs.tidegate.dev topics.tidegate.dev --timeout 60s >/dev/null; }
