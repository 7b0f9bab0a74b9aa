#!/usr/bin/env bash
# Lets Kafka 4.1.1's Java client choose partitions for 520 keys and puts its answers into crates/model/tests/kafka-partitions. That file is
# committed; run this only to make it anew. Needs a JDK (javac), not only a JRE.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
libs=$("$here/../tools/kafka.sh")
java -cp "$libs/*" "$here/Partitions.java" >"$here/../../crates/model/tests/kafka-partitions/java-4.1.1.tsv"
