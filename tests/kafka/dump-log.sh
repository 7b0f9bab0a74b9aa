#!/usr/bin/env bash
# Has Kafka's own DumpLogSegments read files of record batches that Tidegate wrote, each record of them, and fails where Kafka finds
# anything invalid. Without arguments: the golden files of crates/model. The files begin with offset 0.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- "$here"/../../crates/model/tests/golden/*.log
libs=$("$here/../tools/kafka.sh")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in "$@"; do
  # The name of a segment is its first offset; DumpLogSegments insists on one.
  segment="$work/00000000000000000000.log"
  cp "$file" "$segment"
  java -Xmx256m -cp "$libs/*" kafka.tools.DumpLogSegments --deep-iteration --print-data-log --files "$segment" >"$work/out" 2>"$work/err" || {
    cat "$work/out" "$work/err" >&2
    echo "dump-log.sh: Kafka could not read $file" >&2
    exit 1
  }
  batches=$(grep -c '^baseOffset: ' "$work/out" || true)
  valid=$(grep -c '^baseOffset: .*isvalid: true' "$work/out" || true)
  records=$(grep -c '^| offset: ' "$work/out" || true)
  if [ "$batches" -eq 0 ] || [ "$batches" -ne "$valid" ] || [ "$records" -eq 0 ] || grep -qiE 'not valid|mismatch|invalid bytes|non-consecutive' "$work/out"; then
    cat "$work/out" "$work/err" >&2
    echo "dump-log.sh: Kafka finds $file invalid: $valid of $batches batches are valid, $records records" >&2
    exit 1
  fi
  echo "$(basename "$file"): Kafka reads $batches batches, $records records, all valid"
done
