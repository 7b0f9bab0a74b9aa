# Functions of the Kubernetes tests. Source it; `set -euo pipefail` is the caller's.
tools=${TIDEGATE_TOOLS:-$HOME/.cache/tidegate/tools}
export PATH=$tools/bin:$PATH
export TIDEGATE_CLUSTER=${TIDEGATE_CLUSTER:-/tmp/tidegate-newcomer}
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
    kube logs statefulset/hub-broker-1 --tail 20 --all-containers
    kube describe hub,topic | grep -A40 'Status:' | head -n 120
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

# The value of a jsonpath of an object: field KIND/NAME PATH.
field() { kube get "$1" -o "jsonpath={$2}"; }
field_is() { [ "$(field "$1" "$2")" = "$3" ]; }
