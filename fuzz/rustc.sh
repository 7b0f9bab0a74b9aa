#!/usr/bin/env bash
# Compiles our own crates with the coverage counters that libFuzzer steers by, and all others as ever. For RUSTC_WRAPPER; see run.sh.
set -euo pipefail
case " $* " in
*" --crate-name tidegate_xtask "* | *" --crate-name build_script_"* | *" --print "*) ;;
*" --crate-name tidegate_"* | *"fuzz_targets/"*)
  set -- "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
  ;;
esac
exec "$@"
