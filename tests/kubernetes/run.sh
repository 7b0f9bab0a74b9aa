#!/usr/bin/env bash
# Tests on a real Kubernetes on this machine (deploy/cluster), in parts that run one after the other on one cluster of two nodes, or four for the last two:
#
#   newcomer   what README tells a user, from helm install over lost pods, nodes and volumes to helm uninstall, with timings
#   releases   helm upgrade from an earlier release, an operator for one namespace with a first hub, helm rollback
#   faults     what a person sees when something is wrong: Secrets, buckets, classes, images, nodes, the API server, definitions
#   scale      a hub of many brokers: kubectl scale up and down under load, a rolling restart, what is refused
#   fleet      the same on four nodes, one of which is lost for good (over three minutes)
#   load       a hub that scales by its load, on four nodes, one of which is marked as out of service
#
#   tests/kubernetes/run.sh [--keep] [PART…]   builds what is missing, runs (default: the first four), takes the cluster down; --keep leaves it up
#
# Timings are printed; one that takes three times its goal fails the test. It needs root and the right to make namespaces, mounts and interfaces: where
# it hasn't them, it says what was skipped and succeeds, unless TIDEGATE_KUBERNETES=required. Other variables:
#   TIDEGATE_CLUSTER=FOLDER       the cluster's folder; default: one of its own, with --keep /tmp/tidegate-newcomer
#   TIDEGATE_STATIC_IMAGE=1       a static image as users get it, which takes longer to build
#   TIDEGATE_BUILT=1              the binaries that `cargo build --workspace --all-targets` has just left
#   TIDEGATE_TEST_IMAGE=FILE      an archive of the image tidegate:0.1.0 that is there
set -euo pipefail
cd "$(dirname "$0")/../.."
keep='' parts=()
for argument in "$@"; do
  case $argument in
    --keep) keep=yes ;;
    newcomer | releases | faults | scale | fleet | load) parts+=("$argument") ;;
    *) sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
[ ${#parts[@]} -gt 0 ] || parts=(newcomer releases faults scale)
if [ -n "$keep" ]; then export TIDEGATE_CLUSTER=${TIDEGATE_CLUSTER:-/tmp/tidegate-newcomer}; else export TIDEGATE_CLUSTER_OWNER=$$; fi
source tests/kubernetes/lib.sh

step "programs of the cluster and the image"
[ -n "${TIDEGATE_SKIP_SETUP:-}" ] || [ "$(id -u)" != 0 ] || source deploy/setup.sh cluster
if ! reason=$("$cluster" possible 2>&1); then
  printf '\033[1mSKIPPED\033[0m the tests on Kubernetes (%s): %s\n' "${parts[*]}" "$reason" >&2
  [ "${TIDEGATE_KUBERNETES:-}" != required ] || exit 1
  exit 0
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${TIDEGATE_TARGET_DIR:-$HOME/.cache/tidegate/target}}
image=$CARGO_TARGET_DIR/container/tidegate-test.tar
profile=${TIDEGATE_PROFILE:-dev}
if [ -n "${TIDEGATE_TEST_IMAGE:-}" ]; then
  image=$TIDEGATE_TEST_IMAGE
elif [ -n "${TIDEGATE_STATIC_IMAGE:-}" ]; then
  rustup target add "$(uname -m)-unknown-linux-musl" >/dev/null 2>&1
  cargo xtask image --profile image --tag docker.io/library/tidegate:0.1.0 --output "$image"
else
  [ -n "${TIDEGATE_BUILT:-}" ] && how=--built || how=--host
  cargo xtask image --profile "$profile" $how --tag docker.io/library/tidegate:0.1.0 --output "$image"
fi
# As the image does it, so that nothing is built twice.
[ -n "${TIDEGATE_BUILT:-}" ] || cargo build --quiet --package tidegate --bin tidegate --package tidegate-operator --bin tidegate-operator --profile "$profile"
[ "$profile" = dev ] && profile=debug
tidegate=$CARGO_TARGET_DIR/$profile/tidegate
python=$(tests/tools/python.sh)

[[ " ${parts[*]} " != *" fleet "* && " ${parts[*]} " != *" load "* ]] || export TIDEGATE_NODES=4
step "a cluster of ${TIDEGATE_NODES:-2} nodes with MinIO"
"$cluster" down
[ -n "$keep" ] || trap '"$cluster" down' EXIT
"$cluster" up
"$cluster" load "$image"

for part in "${parts[@]}"; do source "tests/kubernetes/$part.sh"; done

printf '\n'
printf '    %s\n' "${timings[@]}"
printf '\033[1mpassed\033[0m (%s) in %d s\n' "${parts[*]}" "$((($(now_ms) - started) / 1000))"
