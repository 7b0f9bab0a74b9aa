#!/usr/bin/env bash
# All tests: installs what they need, builds, runs unit, property, simulation and end-to-end tests against real Kafka tools, MinIO, versitygw,
# grpcurl, Python and an OpenTelemetry Collector, then a newcomer's path and faults on a real Kubernetes. CONTRIBUTING.md says how long the first run takes.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/setup.sh tests
export CARGO_TARGET_DIR=${TIDEGATE_TARGET_DIR:-$HOME/.cache/tidegate/target}
profile=${TIDEGATE_PROFILE:-dev}

say "building"
cargo build --workspace --all-targets --profile "$profile"
say "linting the gRPC interface"
(cd proto && "$TIDEGATE_TOOLS/bin/buf" lint)
say "reading our record batches by Kafka's own tool"
bash tests/kafka/dump-log.sh
say "running the tests"
cargo test --workspace --profile "$profile"
say "running simulations with faults: hubs of one broker for 45 seconds, replicated journals for 20, hubs of several brokers for 55"
cargo run --quiet --package tidegate-sim --profile "$profile" -- --start 100 --seeds 1000 --seconds 45
cargo run --quiet --package tidegate-sim --profile "$profile" -- --replicas --start 100 --seeds 1000 --seconds 20
cargo run --quiet --package tidegate-sim --profile "$profile" -- --brokers --start 144 --seeds 120 --seconds 55 --jobs 2
say "running simulations of hubs with bugs on purpose: each must be found"
cargo test --package tidegate-sim --features seeded-bugs --test bugs --test bugs_of_brokers --profile "$profile"
say "linting the Helm chart, and comparing what it renders"
bash tests/kubernetes/chart.sh
say "testing on a real Kubernetes of two nodes"
TIDEGATE_BUILT=1 bash tests/kubernetes/run.sh
