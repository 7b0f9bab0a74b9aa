//! Topics and groups over a real disk: making, changing, deleting, restoring, retention, committed offsets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use common::*;
use tidegate_broker::hub::{Caller, Error, GroupOffset, Listing, PartitionRef};
use tidegate_journal::entry::{BoundObject, Management};
use tidegate_model::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicSettings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_made_changed_listed_deleted_and_restored_with_their_data() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    let topic = create(&hub, "b", 1).await;
    create(&hub, "a", 1).await;
    let taken = hub.create_topic(new_topic("b", TopicSettings::default()), &Caller::Client).await.unwrap_err();
    assert_eq!(taken, Error::TopicExists { topic: "b".to_owned(), uid: topic.uid });
    say(&hub, "b", 0, "kept").await;

    let grown = TopicSettings { partitions: 3, retention_ms: Some(86_400_000), ..topic.settings.clone() };
    let altered = hub.alter_topic(topic.uid, Some(topic.revision), grown.clone(), &Caller::Client).await.unwrap();
    assert_eq!(altered.settings, grown);
    assert_eq!(say(&hub, "b", 2, "new partition").await, Offset(0));
    let stale = hub.alter_topic(topic.uid, Some(topic.revision), grown.clone(), &Caller::Client).await.unwrap_err();
    assert_eq!(stale, Error::RevisionMismatch { revision: altered.revision });
    let shrunk = hub.alter_topic(topic.uid, None, topic.settings.clone(), &Caller::Client).await.unwrap_err();
    assert!(matches!(shrunk, Error::Invalid { field, .. } if field == "settings.partitions"));

    let deleted = hub.delete_topic(topic.uid, None, &Caller::Client).await.unwrap();
    assert!(deleted.deleted.is_some());
    assert!(matches!(append(&hub, "b", 0, batch(&["x"], &[1])).await, Err(Error::UnknownTopic { .. })));
    let names = |listing| hub.list_topics("", "", 10, listing).into_iter().map(|topic| topic.name).collect::<Vec<_>>();
    assert_eq!(names(Listing::Living), ["a"]);
    assert_eq!(names(Listing::WithDeleted), ["a", "b"]);
    let restored = hub.undelete_topic(topic.uid, &Caller::Client).await.unwrap();
    assert_eq!(restored.uid, topic.uid);
    assert_eq!(values(&read_all(&hub, "b", 0, 0).await), ["kept"]);
    close(hub).await;

    let hub = open(untiered(directory.path()), directory.path()).await;
    assert_eq!(hub.topic("b").unwrap().settings, grown);
    assert_eq!(values(&read_all(&hub, "b", 2, 0).await), ["new partition"]);
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_made_again_never_shows_the_data_of_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(settings(directory.path()), directory.path()).await;
    let first = create(&hub, "events", 1).await;
    say(&hub, "events", 0, "old").await;
    tiered(&hub, "events", 0).await;
    hub.delete_topic(first.uid, None, &Caller::Client).await.unwrap();
    let second = create(&hub, "events", 1).await;
    assert_ne!(second.uid, first.uid);
    assert!(read_all(&hub, "events", 0, 0).await.is_empty());
    let lost = hub.undelete_topic(first.uid, &Caller::Client).await.unwrap_err();
    assert!(matches!(lost, Error::TopicExists { .. }), "{lost:?}");
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topics_objects_go_when_its_time_to_be_restored_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut short = settings(directory.path());
    short.undelete_ms = 200;
    let hub = open(short, directory.path()).await;
    let topic = create(&hub, "events", 1).await;
    say(&hub, "events", 0, "x").await;
    tiered(&hub, "events", 0).await;
    let store = store(directory.path()).await;
    let objects = async || {
        let all = store.list("", None, 1000).await.unwrap();
        all.into_iter().filter(|object| object.key.contains("/objects/")).count()
    };
    assert_eq!(objects().await, 1);
    hub.delete_topic(topic.uid, None, &Caller::Client).await.unwrap();
    until("the topic is forgotten", async || hub.topic_described(topic.uid).is_err()).await;
    until("its object is deleted", async || objects().await == 0).await;
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_object_manages_only_the_operator_changes() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    let object = BoundObject { namespace: "shop".to_owned(), name: "orders".to_owned(), uid: "u1".to_owned() };
    let epoch = hub.claim_operator().await.unwrap();
    let operator = |object: &BoundObject| Caller::Operator { epoch, object: Some(object.clone()) };
    let mut new = new_topic("orders", TopicSettings::default());
    (new.bound, new.management) = (Some(object.clone()), Management::Object);
    let topic = hub.create_topic(new, &operator(&object)).await.unwrap();
    let refused = hub.delete_topic(topic.uid, None, &Caller::Client).await.unwrap_err();
    assert_eq!(refused, Error::TopicManaged { topic: "orders".to_owned(), object: "shop/orders".to_owned() });
    let stranger = BoundObject { uid: "u2".to_owned(), ..object.clone() };
    let refused = hub.delete_topic(topic.uid, None, &operator(&stranger)).await.unwrap_err();
    assert!(matches!(refused, Error::BindingMismatch { .. }));
    let newer = hub.claim_operator().await.unwrap();
    assert_eq!(newer, epoch + 1);
    let fenced = hub.delete_topic(topic.uid, None, &operator(&object)).await.unwrap_err();
    assert_eq!(fenced, Error::OperatorFenced { given: epoch, current: newer });
    close(hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_by_time_and_by_bytes_raises_the_log_start_in_tier_and_tail() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(settings(directory.path()), directory.path()).await;
    let timed = TopicSettings { retention_ms: Some(3_600_000), ..TopicSettings::default() };
    hub.create_topic(new_topic("timed", timed), &Caller::Client).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    append(&hub, "timed", 0, batch(&["old"], &[now - 7_200_000])).await.unwrap();
    append(&hub, "timed", 0, batch(&["new"], &[now])).await.unwrap();
    until("the old record is dropped", async || hub.marks_of(&PartitionRef::new("timed", 0)).unwrap().log_start == Offset(1))
        .await;
    assert_eq!(values(&read_all(&hub, "timed", 0, 1).await), ["new"]);

    let sized = TopicSettings { retention_bytes_per_partition: Some(5000), ..TopicSettings::default() };
    hub.create_topic(new_topic("sized", sized), &Caller::Client).await.unwrap();
    for round in 0..10 {
        say(&hub, "sized", 0, &format!("{round}{}", "x".repeat(1000))).await;
    }
    let at = PartitionRef::new("sized", 0);
    until("only what fits is kept", async || hub.marks_of(&at).unwrap().log_start >= Offset(5)).await;
    let kept = hub.marks_of(&at).unwrap();
    assert!(kept.log_start <= Offset(6), "{kept:?}: no more than needed is dropped");
    let out = hub.read(&at, Offset(0), 1).await.unwrap_err();
    assert!(matches!(out, Error::OffsetOutOfRange { .. }));
    close(hub).await;
}

fn position(topic: &str, partition: i32, offset: i64) -> GroupOffset {
    GroupOffset {
        topic: topic.to_owned(),
        partition: PartitionId(partition),
        offset: Offset(offset),
        leader_epoch: Some(LeaderEpoch(0)),
        metadata: "note".to_owned(),
        time: TimestampMs(0),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_groups_positions_survive_a_restart_and_go_with_the_group() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 2).await;
    let outcomes = hub
        .commit_offsets("readers", &[position("events", 0, 7), position("events", 9, 1), position("events", 1, 3)])
        .await
        .unwrap();
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
    assert!(matches!(outcomes[1], Err(Error::UnknownPartition { partition: 9, .. })));
    close(hub).await;

    let hub = open(untiered(directory.path()), directory.path()).await;
    let offsets = hub.fetch_offsets("readers").unwrap();
    let found: Vec<_> = offsets.iter().map(|offset| (offset.partition.0, offset.offset.0, offset.metadata.as_str())).collect();
    assert_eq!(found, [(0, 7, "note"), (1, 3, "note")]);
    assert_eq!(hub.list_groups("", 10).0.len(), 1);
    hub.delete_group("readers").await.unwrap();
    assert!(hub.fetch_offsets("readers").unwrap().is_empty());
    assert_eq!(hub.delete_group("readers").await.unwrap_err(), Error::UnknownGroup { group: "readers".to_owned() });
    assert!(
        matches!(hub.commit_offsets("", &[position("events", 0, 1)]).await, Err(Error::Invalid { field, .. }) if field == "group")
    );
    close(hub).await;
}
