#!/usr/bin/env bash
# Runs fuzz targets by libFuzzer: `fuzz/run.sh SECONDS [TARGET...]` (all targets by default). Needs no nightly compiler and no cargo-fuzz: the
# coverage counters are flags that stable rustc hands to LLVM, for our own crates only. Our code has no `unsafe`, so no sanitizer is used;
# `cargo fuzz run TARGET` adds AddressSanitizer where a nightly is installed. Inputs that fail are left in fuzz/artifacts, those that reach
# more code in fuzz/grown.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
export CARGO_TARGET_DIR=${FUZZ_TARGET_DIR:-target}
RUSTC_WRAPPER="$PWD/rustc.sh" cargo build --locked --bins
targets=("$@")
[ ${#targets[@]} -gt 0 ] || for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
for target in "${targets[@]}"; do
  mkdir -p "artifacts/$target" "grown/$target"
  echo "== $target, $seconds s"
  "$CARGO_TARGET_DIR/debug/$target" -max_total_time="$seconds" -rss_limit_mb=1024 -malloc_limit_mb=256 -timeout=10 -max_len=65536 \
    -print_final_stats=1 -artifact_prefix="artifacts/$target/" "grown/$target" "corpus/$target" 2>&1 | tail -n 12
done
