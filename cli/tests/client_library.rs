//! The Rust client against a real hub in its own process: codecs, partitions, batching, seeking by time, administration, restarts.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use support::{Hub, HubOptions, free_port};
use tidegate_client::proto::v1;
use tidegate_client::{Client, Compression, Delivery, Reason, Record, Start};

const CODECS: [Compression; 5] = [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

async fn start() -> (tempfile::TempDir, Hub, Client) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    // Starting waits on the thread: not on the runtime's.
    let hub = tokio::task::spawn_blocking(move || Hub::start(&path, &HubOptions::default())).await.unwrap();
    let client = Client::connect(format!("http://{}", hub.client)).await.unwrap();
    (folder, hub, client)
}

fn new_topic(name: &str, partitions: u32) -> v1::CreateTopicRequest {
    let settings = v1::TopicSettings { partitions: Some(partitions), ..Default::default() };
    v1::CreateTopicRequest { name: name.to_owned(), settings: Some(settings), validate_only: false }
}

/// All records of a topic by partition.
async fn read_all(client: &Client, topic: &str) -> BTreeMap<i32, Vec<tidegate_client::Consumed>> {
    let mut consumer = client.consumer().assign(topic, Start::Earliest).until_end().build().await.unwrap();
    let mut read: BTreeMap<i32, Vec<_>> = BTreeMap::new();
    while let Some(record) = consumer.next().await.unwrap() {
        read.entry(record.partition).or_default().push(record);
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_records_of_every_codec_come_back_from_where_kafkas_client_would_have_put_them() {
    let (_folder, _hub, client) = start().await;
    for codec in CODECS {
        let topic = format!("{codec:?}").to_lowercase();
        client.admin().create_topic(new_topic(&topic, 12)).await.unwrap();
        let producer = client.producer().compression(codec).batch_bytes(4096).build().unwrap();
        let mut deliveries = Vec::new();
        for number in 0..500 {
            let record = Record::new(topic.as_str()).key(format!("key-{number}")).value(format!("value {number} ").repeat(20));
            deliveries.push(producer.send(record.header("n", number.to_string())).await.unwrap());
        }
        producer.close().await.unwrap();
        for (number, delivery) in deliveries.into_iter().enumerate() {
            let stored = delivery.wait().await.unwrap();
            let expected = tidegate_model::partition_for_key(format!("key-{number}").as_bytes(), 12);
            assert_eq!(stored.partition, expected.0, "{codec:?} {number}");
        }
        let read = read_all(&client, &topic).await;
        assert_eq!(read.values().map(Vec::len).sum::<usize>(), 500, "{codec:?}");
        for record in read.values().flatten() {
            let number = String::from_utf8(record.headers[0].1.clone().unwrap().to_vec()).unwrap();
            assert_eq!(record.key.as_deref(), Some(format!("key-{number}").as_bytes()));
            assert_eq!(record.value.as_deref(), Some(format!("value {number} ").repeat(20).as_bytes()), "{codec:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_without_a_key_fill_a_batch_of_one_partition_after_another() {
    let (_folder, _hub, client) = start().await;
    client.admin().create_topic(new_topic("t", 8)).await.unwrap();
    // A linger that never ends here: only full batches go.
    let producer = client.producer().batch_bytes(1024).linger(Duration::from_secs(60)).build().unwrap();
    let mut deliveries = Vec::new();
    for number in 0..1000 {
        deliveries.push(producer.send(Record::new("t").value(format!("{number:0100}"))).await.unwrap());
    }
    producer.flush().await.unwrap();
    let mut partitions = Vec::new();
    for delivery in deliveries {
        partitions.push(delivery.wait().await.unwrap().partition);
    }
    let runs = partitions.chunk_by(|one, next| one == next).map(<[i32]>::len).collect::<Vec<_>>();
    let used: std::collections::BTreeSet<i32> = partitions.iter().copied().collect();
    assert!(used.len() > 4, "the records are spread: {used:?}");
    let (last, whole) = runs.split_last().unwrap();
    assert!(*last > 0 && whole.iter().all(|run| *run >= 5), "each batch of some records stays together: {runs:?}");
    producer.close().await.unwrap();
    // Batches that go because their linger is over are followed by another partition's, too.
    let producer = client.producer().linger(Duration::ZERO).build().unwrap();
    let mut used = std::collections::BTreeSet::new();
    for _ in 0..60 {
        used.insert(producer.send(Record::new("t").value("x")).await.unwrap().wait().await.unwrap().partition);
    }
    assert!(used.len() > 4, "the records are spread: {used:?}");
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_without_acknowledgement_is_there_when_the_producer_has_closed() {
    const RECORDS: usize = 20_000;
    let (_folder, hub, client) = start().await;
    client.admin().create_topic(new_topic("t", 2)).await.unwrap();
    let builder = client.producer().acknowledged(false);
    assert!(builder.clone().build().unwrap_err().to_string().contains("`acknowledged`"), "sequences need acknowledgements");
    let producer = builder.idempotent(false).batch_bytes(1024).build().unwrap();
    let mut last = None;
    for number in 0..RECORDS {
        let record = Record::new("t").partition((number % 2) as i32).value(number.to_string());
        last = Some(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    assert_eq!(last.unwrap().wait().await.unwrap().offset, -1, "nobody says where it stands");
    producer.close().await.unwrap();
    assert_eq!((producer.refused_batches(), producer.buffered_bytes()), (0, 0));
    let read = read_all(&client, "t").await;
    for partition in 0..2usize {
        let values = read[&(partition as i32)].iter().map(|record| record.value.clone().unwrap());
        assert!(values.eq((partition..RECORDS).step_by(2).map(|number| number.to_string())), "all of {partition}, in order");
    }

    // What the hub refuses is counted, and what it cannot be asked any more is told by closing.
    let producer = client.producer().idempotent(false).acknowledged(false).build().unwrap();
    producer.send(Record::new("t").partition(0).value("one")).await.unwrap().wait().await.unwrap();
    client.admin().delete_topic(v1::DeleteTopicRequest { name: "t".to_owned(), ..Default::default() }).await.unwrap();
    producer.send(Record::new("t").partition(0).value("two")).await.unwrap().wait().await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(producer.refused_batches(), 1);
    client.admin().create_topic(new_topic("u", 1)).await.unwrap();
    let producer = client.producer().idempotent(false).acknowledged(false).build().unwrap();
    producer.send(Record::new("u").value("one")).await.unwrap().wait().await.unwrap();
    tokio::task::spawn_blocking(move || drop(hub)).await.unwrap();
    let closed = producer.close().await;
    assert!(closed.is_err(), "{closed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_waits_for_its_linger_and_no_longer() {
    let (_folder, _hub, client) = start().await;
    client.admin().create_topic(new_topic("t", 1)).await.unwrap();
    let producer = client.producer().linger(Duration::from_millis(300)).build().unwrap();
    producer.send(Record::new("t").value("first")).await.unwrap().wait().await.unwrap();
    let start = std::time::Instant::now();
    let waiting = producer.send(Record::new("t").value("a")).await.unwrap();
    let together = producer.send(Record::new("t").value("b")).await.unwrap();
    waiting.wait().await.unwrap();
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(280), "sent after {waited:?}, before the linger of 300 ms was over");
    assert!(together.is_decided(), "both went in one batch");
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_seeks_by_time_offset_and_end() {
    let (_folder, _hub, client) = start().await;
    client.admin().create_topic(new_topic("t", 1)).await.unwrap();
    let producer = client.producer().build().unwrap();
    // Out of order: the first at or after a time is meant, not the nearest.
    for time in [1000, 3000, 2000, 4000] {
        let record = Record::new("t").value(time.to_string()).timestamp_ms(time);
        producer.send(record).await.unwrap().wait().await.unwrap();
    }
    let mut consumer = client.consumer().assign("t", Start::Timestamp(1500)).build().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().offset, 1);
    for (place, offset) in [
        (Start::Timestamp(2500), 1),
        (Start::Timestamp(3001), 3),
        (Start::Timestamp(0), 0),
        (Start::Offset(2), 2),
        (Start::Earliest, 0),
    ] {
        consumer.seek("t", 0, place).await.unwrap();
        assert_eq!(consumer.next().await.unwrap().unwrap().offset, offset, "{place:?}");
    }
    consumer.seek("t", 0, Start::Timestamp(4001)).await.unwrap();
    assert_eq!(consumer.position("t", 0), Some(4), "behind the last record is the end");
    consumer.seek("t", 0, Start::Latest).await.unwrap();
    producer.send(Record::new("t").value("new")).await.unwrap().wait().await.unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().offset, 4);
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_where_nobody_listens_cost_a_client_no_call() {
    let (_folder, hub, _) = start().await;
    let nobody = || format!("http://127.0.0.1:{}", free_port());
    let list = format!("{}, http://{}, {}", nobody(), hub.client, nobody());
    // Each client begins somewhere else in the list.
    for number in 0..12 {
        let client = Client::connect(list.as_str()).await.unwrap();
        client.admin().create_topic(new_topic(&format!("topic-{number}"), 1)).await.unwrap();
        let producer = client.producer().build().unwrap();
        let record = Record::new(format!("topic-{number}")).value("a value");
        assert_eq!(producer.send(record).await.unwrap().wait().await.unwrap().offset, 0);
        producer.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_and_groups_are_administered() {
    let (_folder, _hub, client) = start().await;
    let admin = client.admin();
    let made = admin.create_topic(new_topic("t", 1)).await.unwrap();
    admin.create_topic(new_topic("other", 1)).await.unwrap();
    let exists = admin.create_topic(new_topic("t", 1)).await.unwrap_err();
    assert_eq!(exists.reason(), Some(Reason::TopicExists));
    let mask = prost_types::FieldMask { paths: vec!["partitions".to_owned(), "retention_ms".to_owned()] };
    let settings = v1::TopicSettings { partitions: Some(3), retention_ms: Some(60_000), ..Default::default() };
    let alter = v1::AlterTopicRequest {
        name: "t".to_owned(),
        settings: Some(settings),
        update_mask: Some(mask),
        expected_revision: Some(made.revision),
        ..Default::default()
    };
    let altered = admin.alter_topic(alter.clone()).await.unwrap();
    assert_eq!(altered.settings.unwrap().partitions, Some(3));
    assert_eq!(admin.alter_topic(alter).await.unwrap_err().reason(), Some(Reason::RevisionMismatch));
    assert_eq!(admin.describe_topic("t").await.unwrap().partitions.len(), 3);
    // The new partitions take records at once, from this producer as well as from those that knew the topic before.
    let producer = client.producer().build().unwrap();
    producer.send(Record::new("t").partition(2).value("x")).await.unwrap().wait().await.unwrap();
    let listed = admin.list_topics(v1::ListTopicsRequest { name_prefix: "t".to_owned(), ..Default::default() }).await.unwrap();
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["t"]);

    let mut consumer = client.consumer().assign("t", Start::Earliest).group("g").until_end().build().await.unwrap();
    while consumer.next().await.unwrap().is_some() {}
    consumer.commit().await.unwrap();
    let groups = admin.list_groups().await.unwrap();
    assert_eq!((groups.len(), groups[0].group.as_str()), (1, "g"));
    let committed = admin.describe_group("g").await.unwrap().partitions;
    let offsets: Vec<i64> = committed.iter().map(|partition| partition.committed.as_ref().unwrap().offset).collect();
    assert_eq!(offsets, [0, 0, 1]);
    admin.delete_group("g").await.unwrap();
    assert_eq!(admin.describe_group("g").await.unwrap_err().reason(), Some(Reason::UnknownGroup));

    admin.delete_topic(v1::DeleteTopicRequest { name: "t".to_owned(), ..Default::default() }).await.unwrap();
    assert_eq!(admin.describe_topic("t").await.unwrap_err().reason(), Some(Reason::UnknownTopic));
    admin.undelete_topic(v1::UndeleteTopicRequest { name: "t".to_owned(), ..Default::default() }).await.unwrap();
    assert_eq!(read_all(&client, "t").await[&2].len(), 1);
    producer.close().await.unwrap();
}

/// Kills the hub (SIGKILL) and starts it again on the same port and data.
async fn kill_and_start(mut hub: Hub, folder: &Path, options: &HubOptions) -> Hub {
    let (folder, options) = (folder.to_owned(), options.clone());
    let restart = tokio::task::spawn_blocking(move || {
        hub.process.kill();
        Hub::start(&folder, &options)
    });
    restart.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_and_a_consumer_go_on_over_kills_of_the_hub_without_loss_or_repetition() {
    const RECORDS: usize = 3000;
    let folder = tempfile::tempdir().unwrap();
    let options = HubOptions::default().set("listeners.client", format!("127.0.0.1:{}", free_port()));
    let (path, first) = (folder.path().to_owned(), options.clone());
    let mut hub = tokio::task::spawn_blocking(move || Hub::start(&path, &first)).await.unwrap();
    let client = Client::connect(format!("http://{}", hub.client)).await.unwrap();
    client.admin().create_topic(new_topic("t", 2)).await.unwrap();
    let reader = client.clone();
    let reading = tokio::spawn(async move {
        let mut consumer = reader.consumer().assign("t", Start::Earliest).build().await.unwrap();
        let mut read: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for _ in 0..RECORDS {
            let record = consumer.next().await.unwrap().unwrap();
            read.entry(record.partition).or_default().push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
        }
        read
    });
    let producer = client.producer().batch_bytes(1024).linger(Duration::from_millis(1)).buffer_bytes(64 << 10).build().unwrap();
    let mut deliveries: Vec<Delivery> = Vec::new();
    for number in 0..RECORDS {
        // Records are in flight when the hub dies: the buffer holds several hundred.
        if number == 1000 || number == 2000 {
            hub = kill_and_start(hub, folder.path(), &options).await;
        }
        let record = Record::new("t").partition((number % 2) as i32).value(format!("{number:064}"));
        deliveries.push(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
    for delivery in deliveries {
        delivery.wait().await.unwrap();
    }
    let read = tokio::time::timeout(support::PATIENCE, reading).await.expect("all records are read").unwrap();
    for partition in 0..2 {
        let expected: Vec<String> =
            (0..RECORDS).filter(|number| number % 2 == partition).map(|number| format!("{number:064}")).collect();
        assert_eq!(read[&(partition as i32)], expected, "partition {partition}: once each and in order");
    }
    hub.process.terminate();
}
