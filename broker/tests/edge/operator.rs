//! The operator's service: tokens, and changes that are conditional.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_broker::settings::BrokerSettings;
use tidegate_proto::errors::Reason;
use tidegate_proto::operator::v1 as wire;
use tidegate_proto::operator::v1::operator_service_client::OperatorServiceClient;
use tidegate_proto::operator::v1::watch_topics_response::Event;
use tidegate_proto::token::{Call, Signed, SigningKey, sign};
use tidegate_proto::v1;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::transport::Channel;

use crate::support::{connect, create_topic, failed, settings, start};

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

fn keyed(directory: &std::path::Path, key: &SigningKey) -> BrokerSettings {
    let file = directory.join("operator.pub");
    std::fs::write(&file, key.public_pem()).unwrap();
    let mut settings = settings(directory);
    settings.operator.public_key_file = Some(file);
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_key_only_signed_calls_are_taken_and_each_token_for_its_request_only() {
    let directory = tempfile::tempdir().unwrap();
    let key = Arc::new(SigningKey::from_seed(&[1; 32]));
    let (broker, channel) = start(keyed(directory.path(), &key)).await;
    let hub = broker.hub_id.0;
    let topic = create_topic(&channel, "events", 1).await;
    let other = connect(broker.operator_addr).await;

    let mut signed = OperatorServiceClient::new(Signed::new(other.clone(), Arc::clone(&key), hub, now));
    let claimed = signed.claim_epoch(wire::ClaimEpochRequest::default()).await.unwrap().into_inner();
    let context = Some(wire::OperatorContext { operator_epoch: claimed.operator_epoch, hub_id: claimed.hub_id });
    let watch = wire::WatchTopicsRequest { context: context.clone(), after_revision: 0 };
    let mut watching = signed.watch_topics(watch).await.unwrap().into_inner();
    assert!(matches!(watching.message().await.unwrap().unwrap().event, Some(Event::Topic(found)) if found == topic));

    let mut bare = OperatorServiceClient::new(other.clone());
    let problem = |outcome| failed(outcome, Reason::Unauthenticated).metadata["problem"].clone();
    assert_eq!(problem(bare.claim_epoch(wire::ClaimEpochRequest::default()).await), "absent");
    let stranger = Arc::new(SigningKey::from_seed(&[2; 32]));
    let mut stranger = OperatorServiceClient::new(Signed::new(other.clone(), stranger, hub, now));
    assert_eq!(problem(stranger.claim_epoch(wire::ClaimEpochRequest::default()).await), "signature");
    let mut elsewhere = OperatorServiceClient::new(Signed::new(other.clone(), Arc::clone(&key), uuid::Uuid::from_u128(1), now));
    let refused = failed(elsewhere.claim_epoch(wire::ClaimEpochRequest::default()).await, Reason::Unauthenticated);
    assert_eq!((refused.metadata["problem"].as_str(), refused.metadata["hub_id"].as_str()), ("audience", &*hub.to_string()));
    let mut late = OperatorServiceClient::new(Signed::new(other, Arc::clone(&key), hub, || now() - 120));
    assert_eq!(problem(late.claim_epoch(wire::ClaimEpochRequest::default()).await), "time");

    // A token that was seen on the wire does not serve for another request or another method.
    let path = "/tidegate.operator.v1.OperatorService/ClaimEpoch";
    let token = sign(&key, &Call { hub, method: path, now: now() }, &[]);
    let with_token = |request| {
        let mut request = tonic::Request::new(request);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    let holder = wire::ClaimEpochRequest { holder: "thief".to_owned(), ..wire::ClaimEpochRequest::default() };
    assert_eq!(problem(bare.claim_epoch(with_token(holder)).await), "digest");
    let mut delete = tonic::Request::new(wire::DeleteTopicRequest::default());
    delete.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let refused = failed(bare.delete_topic(delete).await, Reason::Unauthenticated);
    assert_eq!(refused.metadata["problem"], "method");
    let after = signed.claim_epoch(wire::ClaimEpochRequest::default()).await.unwrap().into_inner();
    assert_eq!(after.operator_epoch, claimed.operator_epoch + 1, "nothing that was refused had an effect");
    drop(watching);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_a_broker_that_others_can_reach_refuses_every_call() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.listeners.operator = "0.0.0.0:0".parse().unwrap();
    let (broker, channel) = start(settings).await;
    create_topic(&channel, "events", 1).await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], broker.operator_addr.port()));
    let mut client = OperatorServiceClient::new(connect(address).await);
    let refused = failed(client.claim_epoch(wire::ClaimEpochRequest::default()).await, Reason::Unauthenticated);
    assert_eq!(refused.metadata["problem"], "no_key");
    assert!(refused.message.contains("operator.public_key_file"), "{refused}");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_cannot_be_read_stops_the_start_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("operator.pub");
    let refused = async |settings: BrokerSettings| {
        let error = tidegate_broker::serve(settings, tidegate_env::Env::real()).await.err().expect("refused");
        error.to_string()
    };
    let mut missing = settings(directory.path());
    missing.operator.public_key_file = Some(file.clone());
    assert!(refused(missing.clone()).await.contains("operator.public_key_file"));
    std::fs::write(&file, "not a key").unwrap();
    let text = refused(missing.clone()).await;
    assert!(text.contains("operator.public_key_file") && text.contains("openssl pkey"), "{text}");
    missing.operator.public_key = Some("AAAA".to_owned());
    assert!(refused(missing).await.contains("one of the two"));
    let mut short = settings(directory.path());
    short.operator.public_key = Some("AAAA".to_owned());
    assert!(refused(short).await.contains("setting `operator.public_key`"));
}

fn object(name: &str, uid: &str) -> v1::BoundObject {
    v1::BoundObject { namespace: "shop".to_owned(), name: name.to_owned(), uid: uid.to_owned() }
}

async fn claim(client: &mut OperatorServiceClient<Channel>) -> Option<wire::OperatorContext> {
    let operator_epoch = client.claim_epoch(wire::ClaimEpochRequest::default()).await.unwrap().into_inner().operator_epoch;
    Some(wire::OperatorContext { operator_epoch, hub_id: Bytes::new() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_a_revision_and_one_too_old_starts_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.hub.undelete_ms = 0;
    let (broker, channel) = start(settings).await;
    let mut client = OperatorServiceClient::new(connect(broker.operator_addr).await);
    let context = claim(&mut client).await;
    let first = create_topic(&channel, "first", 1).await;
    let second = create_topic(&channel, "second", 1).await;
    assert!(second.revision > first.revision);

    // After the first topic's revision only the second is news.
    let watch = wire::WatchTopicsRequest { context: context.clone(), after_revision: first.revision };
    let mut following = client.watch_topics(watch).await.unwrap().into_inner();
    let event = following.message().await.unwrap().unwrap();
    assert_eq!(event.revision, second.revision);
    assert!(matches!(event.event, Some(Event::Topic(topic)) if topic.name == "second"));
    let bookmark = following.message().await.unwrap().unwrap();
    assert!(matches!(bookmark.event, Some(Event::Bookmark(bookmark)) if !bookmark.initial_topics_sent));

    // A topic that is deleted and forgotten leaves nothing to tell those who come late: they start over.
    let delete = v1::DeleteTopicRequest { name: "first".to_owned(), ..v1::DeleteTopicRequest::default() };
    TopicServiceClient::new(channel.clone()).delete_topic(delete).await.unwrap();
    loop {
        if let Some(Event::Tombstone(tombstone)) = following.message().await.unwrap().unwrap().event {
            assert_eq!((tombstone.name.as_str(), &tombstone.topic_uid), ("first", &first.topic_uid));
            break;
        }
    }
    crate::common::until("the topic is forgotten", async || {
        let request = v1::UndeleteTopicRequest { topic_uid: first.topic_uid.clone(), name: String::new() };
        TopicServiceClient::new(channel.clone())
            .undelete_topic(request)
            .await
            .is_err_and(|status| status.code() == tonic::Code::NotFound)
    })
    .await;
    let late = wire::WatchTopicsRequest { context: context.clone(), after_revision: second.revision };
    let mut late = client.watch_topics(late).await.unwrap().into_inner();
    let compacted = loop {
        match late.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    failed(compacted.map(tonic::Response::new), Reason::RevisionCompacted);
    let mut again = client.watch_topics(wire::WatchTopicsRequest { context, after_revision: 0 }).await.unwrap().into_inner();
    assert!(matches!(again.message().await.unwrap().unwrap().event, Some(Event::Topic(topic)) if topic.name == "second"));
    drop((following, again));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_topic_is_conditional() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let mut client = OperatorServiceClient::new(connect(broker.operator_addr).await);
    let context = claim(&mut client).await;
    let create = wire::CreateTopicRequest {
        context: context.clone(),
        name: "orders".to_owned(),
        bound_object: Some(object("orders", "u1")),
        ..wire::CreateTopicRequest::default()
    };
    let made = client.create_topic(create.clone()).await.unwrap().into_inner();
    assert!(made.created);
    let topic = made.topic.unwrap();
    // Sent twice it finds what it made; another object with the same name does not get the topic.
    let again = client.create_topic(create.clone()).await.unwrap().into_inner();
    assert_eq!((again.created, again.topic.unwrap().topic_uid), (false, topic.topic_uid.clone()));
    let rival = wire::CreateTopicRequest { bound_object: Some(object("rival", "u2")), ..create.clone() };
    failed(client.create_topic(rival).await, Reason::TopicExists);
    let nobody = wire::CreateTopicRequest { bound_object: None, ..create.clone() };
    assert_eq!(failed(client.create_topic(nobody).await, Reason::InvalidArgument).metadata["field"], "bound_object");
    let anonymous = wire::CreateTopicRequest { context: None, ..create };
    assert_eq!(failed(client.create_topic(anonymous).await, Reason::InvalidArgument).metadata["field"], "context");

    let alter = wire::AlterTopicRequest {
        context: context.clone(),
        topic_uid: topic.topic_uid.clone(),
        expected_revision: Some(topic.revision),
        expected_bound_object: Some(object("orders", "u1")),
        settings: Some(v1::TopicSettings { partitions: Some(3), ..v1::TopicSettings::default() }),
    };
    let stranger = wire::AlterTopicRequest { expected_bound_object: Some(object("orders", "u2")), ..alter.clone() };
    failed(client.alter_topic(stranger).await, Reason::BindingMismatch);
    let altered = client.alter_topic(alter.clone()).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(altered.settings.unwrap().partitions, Some(3));
    let stale = failed(client.alter_topic(alter.clone()).await, Reason::RevisionMismatch);
    assert_eq!(stale.metadata["revision"], altered.revision.to_string());
    let short = wire::AlterTopicRequest { topic_uid: Bytes::from_static(b"short"), ..alter };
    assert_eq!(failed(client.alter_topic(short).await, Reason::InvalidArgument).metadata["field"], "topic_uid");
    rebind_and_delete(&mut client, &channel, context, &topic).await;
    broker.shutdown().await;
}

async fn rebind_and_delete(
    client: &mut OperatorServiceClient<Channel>,
    channel: &Channel,
    context: Option<wire::OperatorContext>,
    topic: &v1::Topic,
) {
    let bind = wire::BindTopicRequest {
        context: context.clone(),
        topic_uid: topic.topic_uid.clone(),
        expected_bound_object: Some(object("orders", "u1")),
        bound_object: Some(object("orders", "u2")),
        ..wire::BindTopicRequest::default()
    };
    client.bind_topic(bind.clone()).await.unwrap();
    failed(client.bind_topic(bind).await, Reason::BindingMismatch);
    let delete = wire::DeleteTopicRequest {
        context,
        topic_uid: topic.topic_uid.clone(),
        expected_bound_object: Some(object("orders", "u1")),
        ..wire::DeleteTopicRequest::default()
    };
    failed(client.delete_topic(delete.clone()).await, Reason::BindingMismatch);
    let delete = wire::DeleteTopicRequest { expected_bound_object: Some(object("orders", "u2")), ..delete };
    let tombstone = client.delete_topic(delete.clone()).await.unwrap().into_inner().tombstone.unwrap();
    assert!(tombstone.restorable_until_ms > tombstone.delete_time_ms);
    assert_eq!(client.delete_topic(delete.clone()).await.unwrap().into_inner().tombstone.unwrap(), tombstone);
    let unknown = wire::DeleteTopicRequest { topic_uid: Bytes::from_static(&[9; 16]), ..delete };
    failed(client.delete_topic(unknown).await, Reason::UnknownTopic);

    // The delete can be undone by a client, and the topic is what it was.
    let mut topics = TopicServiceClient::new(channel.clone());
    let restored = topics
        .undelete_topic(v1::UndeleteTopicRequest { topic_uid: topic.topic_uid.clone(), name: String::new() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(restored.topic.unwrap().settings.unwrap().partitions, Some(3));
    let listed = topics.list_topics(v1::ListTopicsRequest::default()).await.unwrap().into_inner().topics;
    assert_eq!(listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["orders"]);
}
