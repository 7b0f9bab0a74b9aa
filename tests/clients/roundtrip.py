"""Everything a client needs, by grpcio alone: makes a topic, appends over one ProduceStream as an idempotent producer, reads the records back by
Fetch and by Subscribe, looks up offsets by time, commits for a group, and checks that errors name their reason and field.

usage: roundtrip.py HOST:PORT [RECORDS]
"""

import queue
import sys
import uuid

import grpc
import tidegate_stubs

tidegate_stubs.load()

from tidegate.v1 import (  # noqa: E402
    consumer_pb2,
    consumer_pb2_grpc,
    group_pb2,
    group_pb2_grpc,
    producer_pb2,
    producer_pb2_grpc,
    record_pb2,
    topic_pb2,
    topic_pb2_grpc,
)

PARTITIONS = 3
RECORDS_A_FRAME = 100
BASE_TIME_MS = 1_700_000_000_000


def check(truth: bool, what: str) -> None:
    if not truth:
        sys.exit(f"FAILED: {what}")


def value_of(number: int) -> bytes:
    return f"event {number} \u2713".encode()


def reason_of(error: grpc.RpcError) -> bytes:
    """The raw google.rpc.Status of a failed call: holds reason, domain and field as plain strings."""
    details = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    check(len(details) == 1, f"an error carries details: {error}")
    return details[0]


def frames_for(topic: str, partition: int, numbers: list[int], identity, first_id: int):
    sequence = 0
    for start in range(0, len(numbers), RECORDS_A_FRAME):
        part = numbers[start : start + RECORDS_A_FRAME]
        records = [
            record_pb2.Record(
                key=str(number).encode(),
                value=value_of(number),
                timestamp_ms=BASE_TIME_MS + number,
                headers=[record_pb2.Header(key="n", value=str(number).encode())],
            )
            for number in part
        ]
        yield producer_pb2.ProduceStreamRequest(
            request_id=first_id + start // RECORDS_A_FRAME,
            topic=topic,
            partition=partition,
            compression=record_pb2.COMPRESSION_ZSTD,
            sequence=producer_pb2.ProducerSequence(
                producer_id=identity.producer_id, producer_epoch=identity.producer_epoch, base_sequence=sequence
            ),
            records=record_pb2.RecordList(records=records),
        )
        sequence += len(part)


def produce(channel, topic: str, numbers: dict[int, list[int]]) -> None:
    stub = producer_pb2_grpc.ProducerServiceStub(channel)
    identity = stub.InitProducer(producer_pb2.InitProducerRequest(max_in_flight_batches=5), timeout=30)
    outbox: queue.SimpleQueue = queue.SimpleQueue()
    answers = stub.ProduceStream(iter(outbox.get, None), timeout=120)
    opened = next(answers)
    check(opened.opened.max_in_flight_bytes > 0, "the hub states its terms first")
    # Five frames in flight for a partition, as agreed: each acknowledgement lets the next one go.
    waiting = {p: list(frames_for(topic, p, numbers[p], identity, p << 32)) for p in numbers}
    last = {p: frames[-1] for p, frames in waiting.items()}
    outstanding = {p: [] for p in numbers}
    next_offset = {p: 0 for p in numbers}

    def fill(partition: int) -> None:
        while waiting[partition] and len(outstanding[partition]) < 5:
            frame = waiting[partition].pop(0)
            outstanding[partition].append(frame)
            outbox.put(frame)

    for partition in numbers:
        fill(partition)
    while any(outstanding.values()):
        for ack in next(answers).acks:
            partition = ack.request_id >> 32
            frame = outstanding[partition].pop(0)
            check(not ack.HasField("error"), f"frame {ack.request_id}: {ack.error.message}")
            check(ack.request_id == frame.request_id, "acknowledgements are in order for each partition")
            check(ack.base_offset == next_offset[partition], f"offsets are dense: {ack}")
            next_offset[partition] += len(frame.records.records)
            fill(partition)
    # The last frame again, as after a lost answer: nothing is stored twice.
    outbox.put(last[0])
    repeated = next(answers).acks[0]
    check(repeated.duplicate and not repeated.HasField("error"), f"a frame sent again is a duplicate: {repeated}")
    outbox.put(None)
    check(list(answers) == [], "after half-closing the stream ends with OK")


def same(records, numbers: list[int], first_offset: int, what: str) -> None:
    for index, (record, number) in enumerate(zip(records, numbers, strict=True)):
        check(record.offset == first_offset + index, f"{what}: offset {record.offset}, expected {first_offset + index}")
        check(record.value == value_of(number), f"{what}: value at {record.offset}")
        check(record.key == str(number).encode() and record.headers[0].value == record.key, f"{what}: key at {record.offset}")
        check(record.timestamp_ms == BASE_TIME_MS + number, f"{what}: time at {record.offset}")


def fetch_all(channel, topic: str, numbers: dict[int, list[int]]) -> None:
    stub = consumer_pb2_grpc.ConsumerServiceStub(channel)
    for partition, expected in numbers.items():
        records, offset = [], 0
        while len(records) < len(expected):
            wanted = consumer_pb2.FetchPartition(topic=topic, partition=partition, offset=offset, max_bytes=64 << 10)
            request = consumer_pb2.FetchRequest(partitions=[wanted], max_wait_ms=1000, format=record_pb2.RECORD_FORMAT_RECORDS)
            data = stub.Fetch(request, timeout=30).partitions[0]
            check(not data.HasField("error"), f"fetch: {data.error.message}")
            check(data.next_offset > offset, "each answer brings records")
            records += data.records
            offset = data.next_offset
        same(records, expected, 0, f"fetch of partition {partition}")


def subscribe_all(channel, topic: str, numbers: dict[int, list[int]]) -> None:
    stub = consumer_pb2_grpc.ConsumerServiceStub(channel)
    request = consumer_pb2.SubscribeRequest(
        subscriptions=[
            consumer_pb2.Subscription(topic=topic, start=record_pb2.Position(named=record_pb2.NAMED_POSITION_EARLIEST))
        ],
        format=record_pb2.RECORD_FORMAT_RECORDS,
        mode=consumer_pb2.SUBSCRIBE_MODE_UNTIL_END,
    )
    seen = {partition: [] for partition in numbers}
    answers = stub.Subscribe(request, timeout=60)
    check(len(next(answers).opened.partitions) == len(numbers), "the first message names all partitions")
    for answer in answers:
        if answer.HasField("data"):
            check(not answer.data.HasField("error"), f"subscribe: {answer.data.error.message}")
            seen[answer.data.partition] += answer.data.records
    for partition, expected in numbers.items():
        same(seen[partition], expected, 0, f"subscription of partition {partition}")


def offsets_by_time(channel, topic: str, numbers: dict[int, list[int]]) -> None:
    stub = consumer_pb2_grpc.ConsumerServiceStub(channel)
    middle = len(numbers[1]) // 2
    place = record_pb2.Position(timestamp_ms=BASE_TIME_MS + numbers[1][middle])
    asked = consumer_pb2.ListOffsetsPartition(topic=topic, partition=1, position=place)
    found = stub.ListOffsets(consumer_pb2.ListOffsetsRequest(partitions=[asked]), timeout=30).offsets[0]
    check(found.offset == middle, f"offset by time: {found}, expected {middle}")


def groups(channel, topic: str) -> None:
    stub = group_pb2_grpc.GroupServiceStub(channel)
    group = f"group-{uuid.uuid4().hex}"
    offset = group_pb2.CommittedOffset(topic=topic, partition=2, offset=7, metadata="by python")
    results = stub.CommitOffsets(group_pb2.CommitOffsetsRequest(group=group, offsets=[offset]), timeout=30).results
    check(not any(result.HasField("error") for result in results), f"commit: {results}")
    found = stub.FetchOffsets(group_pb2.FetchOffsetsRequest(group=group), timeout=30).offsets
    check([(o.partition, o.offset, o.metadata) for o in found] == [(2, 7, "by python")], f"committed: {found}")
    stub.DeleteGroup(group_pb2.DeleteGroupRequest(group=group), timeout=30)


def errors(channel, topic: str) -> None:
    producer = producer_pb2_grpc.ProducerServiceStub(channel)
    records = record_pb2.RecordList(records=[record_pb2.Record(value=b"x")])
    try:
        producer.Produce(producer_pb2.ProduceRequest(topic=f"{topic}-nowhere", records=records), timeout=30)
        check(False, "producing to an unknown topic fails")
    except grpc.RpcError as error:
        check(error.code() == grpc.StatusCode.NOT_FOUND, f"unknown topic: {error}")
        details = reason_of(error)
        check(b"UNKNOWN_TOPIC" in details and b"tidegate.dev" in details, f"unknown topic: {details!r}")
    topics = topic_pb2_grpc.TopicServiceStub(channel)
    try:
        settings = topic_pb2.TopicSettings(partitions=0)
        topics.CreateTopic(topic_pb2.CreateTopicRequest(name=f"{topic}-x", settings=settings), timeout=30)
        check(False, "a topic without partitions is refused")
    except grpc.RpcError as error:
        check(error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"no partitions: {error}")
        check(b"partitions" in reason_of(error), "the field is named")


def main(address: str, count: int) -> None:
    topic = f"roundtrip-{uuid.uuid4().hex}"
    numbers = {p: list(range(p, count, PARTITIONS)) for p in range(PARTITIONS)}
    with grpc.insecure_channel(address) as channel:
        topics = topic_pb2_grpc.TopicServiceStub(channel)
        settings = topic_pb2.TopicSettings(partitions=PARTITIONS)
        topics.CreateTopic(topic_pb2.CreateTopicRequest(name=topic, settings=settings), timeout=30)
        produce(channel, topic, numbers)
        fetch_all(channel, topic, numbers)
        subscribe_all(channel, topic, numbers)
        offsets_by_time(channel, topic, numbers)
        groups(channel, topic)
        errors(channel, topic)
        topics.DeleteTopic(topic_pb2.DeleteTopicRequest(name=topic), timeout=30)
    print(f"{count} records went to {PARTITIONS} partitions and came back in order, by Fetch and by Subscribe")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5000)
