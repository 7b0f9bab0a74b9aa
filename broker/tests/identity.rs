//! Which directories and prefixes a hub refuses, and that it says why.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use tidegate_broker::hub::OpenError;
use tidegate_broker::identity::IdentityError;
use tidegate_broker::recover::recover;
use tidegate_env::Env;
use tidegate_env::intercepted::{Intercept, InterceptedDisk};
use tidegate_model::Offset;

fn refusal(opened: Result<tidegate_broker::Hub, OpenError>) -> IdentityError {
    match opened {
        Err(OpenError::Identity(error)) => error,
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_is_refused_and_told_who_has_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = untiered(directory.path());
    first.process_id = 4711;
    let hub = open(first, directory.path()).await;
    let error = refusal(try_open(untiered(directory.path()), directory.path()).await);
    let text = error.to_string();
    assert!(matches!(error, IdentityError::InUse { .. }));
    assert!(text.contains("process 4711") && text.contains("data"), "{text}");
    close(hub).await;
    close(open(untiered(directory.path()), directory.path()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_directory_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(directory.path().join("data")).unwrap();
    std::fs::write(directory.path().join("data/thesis.txt"), "years of work").unwrap();
    let error = refusal(try_open(untiered(directory.path()), directory.path()).await);
    assert!(matches!(&error, IdentityError::Foreign { found, .. } if found == "thesis.txt"), "{error}");
    assert!(!directory.path().join("data/wal").exists());
    assert!(!directory.path().join("store/hub.json").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_volume_never_bootstraps_over_an_occupied_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(untiered(directory.path()), directory.path()).await;
    let id = hub.id();
    close(hub).await;
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();
    let error = refusal(try_open(untiered(directory.path()), directory.path()).await);
    assert!(matches!(error, IdentityError::Occupied { hub } if hub == id), "{error}");
    assert!(error.to_string().contains("tidegate recover"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_refuses_another_hubs_prefix_another_broker_id_and_a_newer_format() {
    let directory = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    close(open(untiered(directory.path()), directory.path()).await).await;
    close(open(untiered(other.path()), other.path()).await).await;
    let error = refusal(try_open(untiered(directory.path()), other.path()).await);
    assert!(matches!(error, IdentityError::OtherHub { .. }), "{error}");

    let mut second = untiered(directory.path());
    second.broker_id = 2;
    let error = refusal(try_open(second, directory.path()).await);
    assert!(matches!(error, IdentityError::OtherBroker { .. }), "{error}");

    let path = directory.path().join("data/identity.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = refusal(try_open(untiered(directory.path()), directory.path()).await);
    assert!(matches!(error, IdentityError::Newer { found: 2, .. }), "{error}");
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let error = refusal(try_open(untiered(directory.path()), directory.path()).await);
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_rebuilt_from_its_bucket_alone_and_says_what_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let hub = open(settings(directory.path()), directory.path()).await;
    let topic = create(&hub, "events", 2).await;
    for round in 0..10 {
        say(&hub, "events", 0, &format!("tiered-{round}")).await;
    }
    tiered(&hub, "events", 0).await;
    let keep = tidegate_model::TopicSettings { seal_age_ms: Some(3_600_000), partitions: 2, ..topic.settings.clone() };
    hub.alter_topic(topic.uid, None, keep, &tidegate_broker::hub::Caller::Client).await.unwrap();
    say(&hub, "events", 0, "only in the log").await;
    let position = tidegate_broker::hub::GroupOffset {
        topic: "events".to_owned(),
        partition: tidegate_model::PartitionId(0),
        offset: Offset(4),
        leader_epoch: None,
        metadata: String::new(),
        time: tidegate_model::TimestampMs(0),
    };
    hub.commit_offsets("readers", &[position]).await.unwrap();
    hub.checkpoint_to_store().await.unwrap();
    let old = hub.id();
    close(hub).await;

    // The volume is gone; an empty one takes its place.
    std::fs::remove_dir_all(directory.path().join("data")).unwrap();
    let fresh = settings(directory.path());
    let report = recover(&fresh, &Env::real(), store(directory.path()).await).await.unwrap();
    assert_eq!(report.from, old);
    assert_ne!(report.hub, old);
    assert!(report.missing.is_empty());
    let lost: Vec<_> = report.lost.iter().map(|(name, lost)| (name.as_str(), lost.from, lost.end)).collect();
    assert_eq!(lost, [("events", Offset(10), Offset(11))]);

    for round in 0..2 {
        let hub = open(fresh.clone(), directory.path()).await;
        assert_eq!(hub.id(), report.hub);
        assert_eq!(hub.topic("events").unwrap().uid, topic.uid);
        let expected: Vec<_> = (0..10).map(|round| format!("tiered-{round}")).collect();
        assert_eq!(values(&read_all(&hub, "events", 0, 0).await)[..10], expected);
        assert_eq!(hub.fetch_offsets("readers").unwrap()[0].offset, Offset(4));
        assert_eq!(say(&hub, "events", 0, "after").await, Offset(10 + round));
        assert_eq!(say(&hub, "events", 1, "other").await, Offset(round));
        close(hub).await;
    }
}

/// Only so many files can be put into place.
struct Cut {
    renames_left: AtomicU64,
}

impl Intercept for Cut {
    fn rename(&self) -> io::Result<()> {
        let left = self.renames_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        left.map(drop).map_err(|_| io::Error::other("cut off by the test"))
    }
}

/// Wherever a recovery ends that was cut off on the disk, nobody takes the half of a hub for a hub, and the same command again brings it back whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_is_cut_off_at_any_file_is_done_by_the_next_one() {
    let kept = tempfile::tempdir().unwrap();
    let hub = open(settings(kept.path()), kept.path()).await;
    create(&hub, "events", 1).await;
    say(&hub, "events", 0, "kept").await;
    tiered(&hub, "events", 0).await;
    hub.checkpoint_to_store().await.unwrap();
    close(hub).await;

    let (mut unfinished, mut cuts) = (0, 0);
    loop {
        let directory = tempfile::tempdir().unwrap();
        copy(&kept.path().join("store"), &directory.path().join("store"));
        let real = Env::real();
        let disk = InterceptedDisk { disk: Arc::clone(&real.disk), by: Cut { renames_left: AtomicU64::new(cuts) } };
        let cut = Env { disk: Arc::new(disk), ..real.clone() };
        let to = settings(directory.path());
        let done = recover(&to, &cut, store(directory.path()).await).await.is_ok();
        if !done {
            // One that had all but the last touches may begin; what it is, is asked below.
            unfinished += match try_open(to.clone(), directory.path()).await {
                Err(OpenError::Identity(IdentityError::Unfinished { .. })) => 1,
                Err(OpenError::Identity(IdentityError::Occupied { .. })) => 0,
                Err(other) => panic!("after {cuts} files: {other}"),
                Ok(hub) => {
                    close(hub).await;
                    0
                }
            };
            match recover(&to, &real, store(directory.path()).await).await {
                Ok(_) | Err(tidegate_broker::recover::RecoverError::NotEmpty { .. }) => {}
                Err(other) => panic!("after {cuts} files: {other}"),
            }
        }
        let hub = open(to, directory.path()).await;
        assert_eq!(values(&read_all(&hub, "events", 0, 0).await), ["kept"], "after {cuts} files");
        close(hub).await;
        assert!(!directory.path().join("data/recovering").exists(), "after {cuts} files");
        if done {
            break;
        }
        cuts += 1;
    }
    assert!(unfinished > 0 && cuts > 3, "{unfinished} of {cuts} cuts left a half");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_marker_in_the_store_keeps_a_new_hub_out_but_not_one_that_has_its_volume() {
    let directory = tempfile::tempdir().unwrap();
    // Held to the end: the folder is locked as long as some hub's last task has it.
    let shared = store(directory.path()).await;
    let hub = open(untiered(directory.path()), directory.path()).await;
    create(&hub, "events", 1).await;
    say(&hub, "events", 0, "kept").await;
    close(hub).await;
    let marker = directory.path().join("store/hub.json");
    let whole = std::fs::read(&marker).unwrap();
    std::fs::write(&marker, &whole[..whole.len() / 2]).unwrap();

    // Its own volume says what it needs to know; nothing goes to the store until the marker is whole again.
    let hub = open(untiered(directory.path()), directory.path()).await;
    assert_eq!(say(&hub, "events", 0, "and goes on").await, Offset(1));
    close(hub).await;

    // An empty volume cannot know whose the prefix is. The advice is about the store, and never to empty a directory.
    let other = tempfile::tempdir().unwrap();
    let error = refusal(
        tidegate_broker::Hub::open(untiered(other.path()), &tidegate_broker::settings::Limits::default(), &Env::real(), shared)
            .await,
    );
    let text = error.to_string();
    assert!(matches!(error, IdentityError::DamagedMarker { .. }) && !text.contains("empty the directory"), "{text}");
}
