//! Who may act: a leader that was paused past its Lease, two operators at one hub, two installations and one hub.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tidegate_operator::catalog::link::{HubKey, LinkSettings, LinkState, Target};
use tidegate_operator::catalog::{CallError, Links};
use tidegate_operator::lease::Term;
use tidegate_operator::settings::Settings;
use tidegate_proto::operator::v1 as wire;
use tidegate_proto::token::SigningKey;
use tidegate_proto::v1;
use tokio::sync::mpsc;

use crate::bed::{Bed, eventually, uid_of};
use crate::program::{Program, broker_at_pod};

async fn holder(bed: &Bed) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(bed.client.clone(), &bed.namespace);
    leases.get_opt("tidegate-operator").await.unwrap()?.spec?.holder_identity
}

/// Versions of all objects that an operator writes.
async fn versions(bed: &Bed) -> Vec<(String, Option<String>)> {
    let topics = bed.topics().list(&ListParams::default()).await.unwrap();
    let hubs = bed.hubs().list(&ListParams::default()).await.unwrap();
    let topics = topics.iter().map(|topic| (topic.name_any(), topic.resource_version()));
    topics.chain(hubs.iter().map(|hub| (hub.name_any(), hub.resource_version()))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_paused_past_its_lease_does_nothing_more() {
    let bed = Bed::new("paused").await;
    let broker = broker_at_pod(&bed).await;
    bed.hub("hub").await;
    let mut first = Program::start(&bed, "first", 3600);
    bed.topic("before", json!({})).await;
    bed.until("before", "Serving").await;
    assert!(holder(&bed).await.unwrap().starts_with("first_"));
    let second = Program::start(&bed, "second", 3600);
    eventually("the second stands by", || async { (second.metric("tidegate_operator_api_calls_total").await > 0).then_some(()) })
        .await;
    assert_eq!(second.metric("tidegate_operator_leading").await, 0);
    let epoch = broker.hub().operator_epoch();
    first.signal("STOP");
    let paused = Instant::now();
    bed.topic("meanwhile", json!({})).await;
    bed.topic("before", json!({"partitions": 3})).await;
    bed.until("meanwhile", "Serving").await;
    bed.until("before", "Serving").await;
    println!("pause -> the second has caught up: {:.1?}", paused.elapsed());
    assert!(holder(&bed).await.unwrap().starts_with("second_"));
    assert!(broker.hub().operator_epoch() > epoch, "the brokers know that somebody else leads");
    let settled = quiet(&bed).await;
    let epoch = broker.hub().operator_epoch();
    // It wakes up with two changes in its watches that it has not worked on.
    first.signal("CONT");
    let resumed = Instant::now();
    let code = loop {
        if let Some(code) = first.ended() {
            break code;
        }
        assert!(resumed.elapsed() < Duration::from_secs(10), "it should end by itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(code, 1, "it ends, so that a new process begins anew");
    assert_eq!(versions(&bed).await, settled, "it wrote nothing");
    assert_eq!(broker.hub().operator_epoch(), epoch, "it claimed nothing");
    // The one that leads goes on.
    bed.topic("after", json!({})).await;
    bed.until("after", "Serving").await;
    assert!(holder(&bed).await.unwrap().starts_with("second_"));
    drop(second);
    broker.shutdown().await;
}

/// Waits until nothing was written for a second; answers how everything is then.
async fn quiet(bed: &Bed) -> Vec<(String, Option<String>)> {
    let started = Instant::now();
    let mut last = (versions(bed).await, Instant::now());
    while last.1.elapsed() < Duration::from_secs(1) {
        assert!(started.elapsed() < Duration::from_secs(60), "it does not become quiet");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = versions(bed).await;
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

fn links(holder: &str) -> (Links, mpsc::Receiver<tidegate_operator::catalog::link::Told>) {
    let (told, telling) = mpsc::channel(1024);
    let settings = LinkSettings {
        holder: holder.into(),
        measure_every: Duration::from_secs(3600),
        key: Arc::new(SigningKey::from_seed(&[7; 32])),
        term: Term::endless(),
    };
    (Links::new(settings, told), telling)
}

fn named(name: &str) -> wire::CreateTopicRequest {
    let object = v1::BoundObject { namespace: "shop".into(), name: name.into(), uid: uuid::Uuid::new_v4().to_string() };
    wire::CreateTopicRequest { name: name.into(), bound_object: Some(object), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deposed_operator_still_sends_is_refused_by_the_broker() {
    let bed = Bed::new("epochs").await;
    let broker = bed.broker("hub").await;
    let endpoint = Some(format!("http://{}", broker.operator_addr));
    let key = HubKey { namespace: bed.namespace.clone(), name: "hub".into() };
    let (old, _told) = links("old");
    let (new, _also) = links("new");
    let old = old.ensure(&key, "uid", Target { endpoint: endpoint.clone(), hub_id: None });
    eventually("the old operator is linked", || async { old.synced(|_| ()) }).await;
    old.create(named("early")).await.unwrap();
    let new = new.ensure(&key, "uid", Target { endpoint, hub_id: None });
    eventually("the new operator is linked", || async { new.synced(|mirror| mirror.by_name("early").map(drop)).flatten() }).await;
    let early = new.synced(|mirror| mirror.by_name("early").unwrap().clone()).unwrap();
    // The old one does not know yet: its delete is on its way.
    let delete = wire::DeleteTopicRequest {
        topic_uid: bytes::Bytes::copy_from_slice(early.uid.0.as_bytes()),
        expected_bound_object: early.bound.clone().map(Into::into),
        ..Default::default()
    };
    let refused = old.delete(delete).await.unwrap_err();
    assert!(refused.is_fenced() || matches!(refused, CallError::Unreachable), "{refused}");
    assert!(broker.hub().topic("early").is_ok(), "the topic is there");
    eventually("the old operator knows", || async { (old.state() == LinkState::Fenced).then_some(()) }).await;
    assert!(matches!(old.create(named("late")).await, Err(CallError::Unreachable)));
    new.create(named("late")).await.unwrap();
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_connects_again_claims_nothing_anew_though_no_object_names_the_hub_yet() {
    let bed = Bed::new("again").await;
    let broker = bed.broker("hub").await;
    let target = Target { endpoint: Some(format!("http://{}", broker.operator_addr)), hub_id: None };
    let key = HubKey { namespace: bed.namespace.clone(), name: "hub".into() };
    let (links, _told) = links("only");
    let link = links.ensure(&key, "uid", target);
    eventually("it is linked", || async { link.synced(|_| ()) }).await;
    let epoch = broker.hub().operator_epoch();
    broker.shutdown().await;
    eventually("it is not linked", || async { link.synced(|_| ()).is_none().then_some(()) }).await;
    let broker = bed.broker("hub").await;
    eventually("it is linked again", || async { link.synced(|_| ()) }).await;
    link.create(named("later")).await.unwrap();
    assert_eq!(broker.hub().operator_epoch(), epoch, "whoever took over meanwhile would have been deposed");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_another_installation_acts_on_is_left_alone_with_a_condition() {
    let bed = Bed::new("installs").await;
    let broker = bed.broker("hub").await;
    bed.hub("hub").await;
    let owner = bed.operator();
    bed.topic("clicks", json!({"deletionPolicy": "Delete"})).await;
    let uid = uid_of(&bed.until("clicks", "Serving").await);
    let epoch = broker.hub().operator_epoch();
    let settings = Settings { lease_name: "other".into(), ..bed.settings() };
    let other = bed.operator_as(settings, bed.client.clone(), Arc::default());
    let hubs = bed.hubs();
    let find = |kind: &'static str| {
        let hubs = hubs.clone();
        async move {
            let status = hubs.get("hub").await.unwrap().status?;
            status.conditions.into_iter().find(|condition| condition.type_ == kind)
        }
    };
    let note = eventually("the other one says that it stays out", || find("OperatedElsewhere")).await;
    let (ours, theirs) = (format!("{}/operator", bed.namespace), format!("{}/other", bed.namespace));
    assert!(note.message.contains(&ours) && note.message.contains(&theirs), "{}", note.message);
    // The owner goes on, and keeps the note while it writes its own conditions.
    bed.topic("clicks", json!({"deletionPolicy": "Delete", "partitions": 2})).await;
    bed.until("clicks", "Serving").await;
    bed.topic("views", json!({})).await;
    bed.until("views", "Serving").await;
    eventually("the owner counts two topics", || async {
        (hubs.get("hub").await.unwrap().status?.topics == Some(2)).then_some(())
    })
    .await;
    assert!(find("OperatedElsewhere").await.is_some());
    assert!(find("Ready").await.is_some());
    assert_eq!(broker.hub().operator_epoch(), epoch, "the other one claimed nothing");
    // A topic that goes is the owner's to delete: nobody else lets it go before.
    owner.stop().await;
    bed.delete("clicks").await;
    eventually("the object waits for its operator", || async {
        bed.topics().get("clicks").await.unwrap().metadata.deletion_timestamp.map(drop)
    })
    .await;
    let owner = bed.operator();
    bed.gone("clicks").await;
    assert!(broker.hub().topic("clicks").is_err(), "topic {uid} was deleted, as its object asked");
    // The owner leaves for good, the way an uninstall does it: the other one takes the hub up, and its note goes.
    owner.stop().await;
    tidegate_operator::release::release(&bed.client, Some(&bed.namespace)).await.unwrap();
    bed.topic("taken-up", json!({})).await;
    bed.until("taken-up", "Serving").await;
    assert!(broker.hub().operator_epoch() > epoch);
    eventually("the note is gone", || async { find("OperatedElsewhere").await.is_none().then_some(()) }).await;
    other.stop().await;
    broker.shutdown().await;
}
