#!/usr/bin/env bash
# Measures Tidegate beside Kafka 4.1.1 (and, if asked for, NATS 2.15.1) on this machine: installs what is missing, builds, runs. Arguments go to tidegate-bench
# (--help shows them); the defaults take under ten minutes once everything is built.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/setup.sh build
need_packages mvn:maven java:default-jre-headless
export CARGO_TARGET_DIR=${TIDEGATE_TARGET_DIR:-$HOME/.cache/tidegate/target}
KAFKA_LIBS=$(bash tests/tools/kafka.sh)
NATS_SERVER=$(bash tests/tools/nats.sh)
export KAFKA_LIBS NATS_SERVER

say "building with --release"
cargo build --release -p tidegate -p tidegate-bench
say "$(java -version 2>&1 | head -n1); $(git rev-parse --short HEAD) of $(git log -1 --format=%cs); $(date -u +%FT%TZ)"
"$CARGO_TARGET_DIR/release/tidegate-bench" "$@"
