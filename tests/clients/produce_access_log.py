"""Appends the lines of an access log: key = the client's address, time = the line's own, partition by the hub (murmur2 of the key).

usage: produce_access_log.py HOST:PORT TOPIC FILE
"""

import datetime
import sys

import grpc
import tidegate_stubs

tidegate_stubs.load()

from tidegate.v1 import producer_pb2, producer_pb2_grpc, record_pb2  # noqa: E402

RECORDS_A_CALL = 500


def record(line: bytes) -> record_pb2.Record:
    time = line[line.index(b"[") + 1 : line.index(b"]")].decode()
    parsed = datetime.datetime.strptime(time, "%d/%b/%Y:%H:%M:%S %z")
    return record_pb2.Record(key=line.split(b" ", 1)[0], value=line, timestamp_ms=int(parsed.timestamp()) * 1000)


def main(address: str, topic: str, path: str) -> None:
    with open(path, "rb") as file:
        lines = [line for line in file.read().split(b"\n") if line]
    stored = 0
    with grpc.insecure_channel(address) as channel:
        producer = producer_pb2_grpc.ProducerServiceStub(channel)
        for start in range(0, len(lines), RECORDS_A_CALL):
            records = record_pb2.RecordList(records=[record(line) for line in lines[start : start + RECORDS_A_CALL]])
            answer = producer.Produce(producer_pb2.ProduceRequest(topic=topic, records=records), timeout=60)
            for result in answer.results:
                if result.HasField("error"):
                    sys.exit(f"partition {result.partition}: {result.error.message}")
                stored += result.record_count
    print(f"{stored} of {len(lines)} lines stored")
    if stored != len(lines):
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:4])
