#!/usr/bin/env bash
# Lets a real Kafka 4.1.1 write segments with each codec, from its own Java producer and from librdkafka, and puts them into
# crates/model/tests/kafka-segments. Those files are committed; run this only to make them anew.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out="$here/../../crates/model/tests/kafka-segments"
libs=$("$here/../tools/kafka.sh")
work=$(mktemp -d)
port=${KAFKA_PORT:-19092}
broker_pid=
trap '[ -z "$broker_pid" ] || { kill "$broker_pid" 2>/dev/null || true; wait "$broker_pid" 2>/dev/null || true; }; rm -rf "$work"' EXIT

java_tool() { java -Xmx256m -cp "$libs/*" "$@"; }

cat >"$work/server.properties" <<P
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((port + 1))
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$((port + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$work/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
P
java_tool kafka.tools.StorageTool format -t "$(java_tool kafka.tools.StorageTool random-uuid 2>/dev/null)" -c "$work/server.properties" >&2
java -Xmx512m -cp "$libs/*" kafka.Kafka "$work/server.properties" >"$work/broker.log" 2>&1 &
broker_pid=$!
for _ in $(seq 120); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  sleep 0.5 # a broker that starts has nothing else to wait on
done

server="127.0.0.1:$port"
# Key, value and a header of each record; the same for all producers: see expected() in kafka_segments.rs.
seq 0 299 | awk '{ printf "n:%d\tkey-%d\tvalue %d, which says the same thing the same way the same number of times\n", $1, $1 % 7, $1 }' >"$work/lines"

for codec in none gzip snappy lz4 zstd; do
  java_tool org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$server" --topic "java-$codec" \
    --compression-codec "$codec" --property parse.key=true --property parse.headers=true --property headers.separator=, <"$work/lines" >/dev/null
done

python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install confluent-kafka
"$work/venv/bin/python" - "$server" <<'P'
import sys
from confluent_kafka import Producer
for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
    p = Producer({"bootstrap.servers": sys.argv[1], "compression.type": codec, "enable.idempotence": True, "linger.ms": 500})
    for i in range(300):
        value = f"value {i}, which says the same thing the same way the same number of times"
        p.produce(f"librdkafka-{codec}", key=f"key-{i % 7}", value=value, headers=[("n", str(i))])
    assert p.flush(30) == 0
# One committed and one aborted transaction: their markers are control batches.
p = Producer({"bootstrap.servers": sys.argv[1], "transactional.id": "t"})
p.init_transactions()
for commit in (True, False):
    p.begin_transaction()
    for i in range(3):
        p.produce("transactions", key=f"key-{i}", value=f"value {i}")
    p.flush(30)
    p.commit_transaction() if commit else p.abort_transaction()
P

kill "$broker_pid"; wait "$broker_pid" || true; broker_pid=
mkdir -p "$out"
for directory in "$work"/data/{java,librdkafka,transactions}*-0; do
  name=$(basename "$directory")
  cp "$directory/00000000000000000000.log" "$out/${name%-0}.log"
done
ls -l "$out" >&2
