//! Keys go where Kafka's Java client would send them: its own answers for 520 keys of every length up to 64 bytes.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files")]

use tidegate_model::partitioner::{murmur2, partition_for_key};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn hashes_and_partitions_are_those_of_kafkas_own_client() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka-partitions/java-4.1.1.tsv");
    let answers = std::fs::read_to_string(path).unwrap();
    assert_eq!(answers.lines().count(), 520);
    for line in answers.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let key = bytes(columns[0]);
        assert_eq!(murmur2(&key), columns[1].parse::<i32>().unwrap(), "{line}");
        for (partitions, column) in [1, 3, 12, 1000].into_iter().zip(&columns[2..]) {
            assert_eq!(partition_for_key(&key, partitions).0, column.parse::<i32>().unwrap(), "{partitions} partitions: {line}");
        }
    }
}
