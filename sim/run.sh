#!/usr/bin/env bash
# Simulations of hubs of several brokers, thousands of seeds, in a build that is quick to run. Goes on where it was stopped: each commit has its
# own list of seeds that held. Usage: sim/run.sh [FIRST SEED [SEEDS [JOBS]]], by default 100, 10000, 2. The log and the list lie in the build folder.
set -euo pipefail
cd "$(dirname "$0")/.."
first=${1:-100} seeds=${2:-10000} jobs=${3:-2}
target=${CARGO_TARGET_DIR:-target}
commit=$(git rev-parse --short HEAD)
git diff --quiet HEAD -- || commit=$commit-altered-$(git diff HEAD | sha256sum | cut -c1-8)
cargo build --quiet --package tidegate-sim --profile campaign
mkdir -p "$target/simulated"
progress=$target/simulated/brokers-$commit.txt
echo "commit $commit: seeds $first to $((first + seeds - 1)), $jobs at a time; which held: $progress"
# A copy, so that another build meanwhile does not change what runs.
cp "$target/campaign/tidegate-sim" "$target/simulated/tidegate-sim-$commit"
exec nice -n 19 "$target/simulated/tidegate-sim-$commit" --brokers --start "$first" --seeds "$seeds" --jobs "$jobs" --keep-going --progress "$progress"
