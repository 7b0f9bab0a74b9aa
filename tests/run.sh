#!/usr/bin/env bash
# All tests: installs what they need, builds, runs unit, property, simulation and end-to-end tests. About ten minutes on two cores the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
source deploy/setup.sh tests
export CARGO_TARGET_DIR=${TIDEGATE_TARGET_DIR:-$HOME/.cache/tidegate/target}
cargo build --workspace --all-targets --profile "${TIDEGATE_PROFILE:-dev}"
cargo test --workspace --profile "${TIDEGATE_PROFILE:-dev}"
