#!/usr/bin/env bash
# The convenient way by grpcurl and reflection alone: makes a topic, appends two records, reads them back, checks an error, deletes the topic.
# usage: grpcurl.sh HOST:PORT
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
grpcurl=$("$here/../tools/grpcurl.sh")
address=$1
topic=grpcurl-$$-$RANDOM

fail() { echo "FAILED: $1" >&2; echo "$2" >&2; exit 1; }
call() { "$grpcurl" -plaintext -max-time 30 -d "$2" "$address" "tidegate.v1.$1" 2>&1; }
expect() { [[ "$2" == *"$3"* ]] || fail "$1: no $3 in the answer" "$2"; }

services=$("$grpcurl" -plaintext -max-time 30 "$address" list)
for service in ProducerService ConsumerService GroupService MetadataService TopicService; do
  expect "list by reflection" "$services" "tidegate.v1.$service"
done
[[ "$services" != *operator* ]] || fail "the operator's service is on the clients' port" "$services"
expect "list by reflection" "$services" grpc.health.v1.Health
expect "health" "$("$grpcurl" -plaintext -max-time 30 "$address" grpc.health.v1.Health/Check)" SERVING

expect "create" "$(call TopicService/CreateTopic "{\"name\":\"$topic\",\"settings\":{\"partitions\":2}}")" topicUid
# base64: k1, v1, k2, v2
records='{"records":[{"key":"azE=","value":"djE="},{"key":"azI=","value":"djI="}]}'
produced=$(call ProducerService/Produce "{\"topic\":\"$topic\",\"partition\":1,\"records\":$records}")
expect "produce" "$produced" '"recordCount": 2'
fetched=$(call ConsumerService/Fetch "{\"partitions\":[{\"topic\":\"$topic\",\"partition\":1}],\"maxWaitMs\":1000,\"format\":\"RECORD_FORMAT_RECORDS\"}")
expect "fetch" "$fetched" '"value": "djE="'
expect "fetch" "$fetched" '"value": "djI="'
expect "fetch" "$fetched" '"highWatermark": "2"'
subscribed=$(call ConsumerService/Subscribe "{\"subscriptions\":[{\"topic\":\"$topic\",\"start\":{\"offset\":1}}],\"format\":\"RECORD_FORMAT_RECORDS\",\"mode\":\"SUBSCRIBE_MODE_UNTIL_END\"}" || true)
expect "subscribe from an offset that one partition does not have" "$subscribed" OFFSET_OUT_OF_RANGE
subscribed=$(call ConsumerService/Subscribe "{\"subscriptions\":[{\"topic\":\"$topic\",\"partitions\":[1],\"start\":{\"offset\":1}}],\"format\":\"RECORD_FORMAT_RECORDS\",\"mode\":\"SUBSCRIBE_MODE_UNTIL_END\"}")
expect "subscribe" "$subscribed" '"value": "djI="'
[[ "$subscribed" != *'"value": "djE="'* ]] || fail "subscribe: a record before the offset" "$subscribed"
expect "metadata" "$(call MetadataService/GetMetadata "{\"topics\":[\"$topic\"]}")" '"partition": 1'
missing=$(call ConsumerService/Fetch "{\"partitions\":[{\"topic\":\"$topic-nowhere\"}]}" || true)
expect "an unknown topic" "$missing" UNKNOWN_TOPIC
bad=$(call TopicService/AlterTopic "{\"name\":\"$topic\",\"settings\":{\"partitions\":1}}" || true)
expect "fewer partitions" "$bad" INVALID_ARGUMENT
expect "fewer partitions" "$bad" partitions
expect "delete" "$(call TopicService/DeleteTopic "{\"name\":\"$topic\"}")" restorableUntilMs
echo "grpcurl: made, wrote, read, refused and deleted a topic through reflection"
