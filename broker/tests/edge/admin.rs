//! Topics as clients change them: pages, masks, revisions, deletes that are taken back.

use bytes::Bytes;
use tidegate_proto::errors::Reason;
use tidegate_proto::v1;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::transport::Channel;

use crate::support::{create_topic, failed, settings, start};

async fn names(client: &mut TopicServiceClient<Channel>, request: v1::ListTopicsRequest) -> (Vec<String>, Vec<usize>) {
    let (mut names, mut pages, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = v1::ListTopicsRequest { page_token: token, ..request.clone() };
        let page = client.list_topics(request).await.unwrap().into_inner();
        pages.push(page.topics.len());
        names.extend(page.topics.into_iter().map(|topic| topic.name));
        token = page.next_page_token;
        if token.is_empty() {
            return (names, pages);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_listed_by_pages_by_prefix_and_with_those_that_can_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let mut client = TopicServiceClient::new(channel.clone());
    for name in ["b", "a-2", "a-1", "c", "a-3"] {
        create_topic(&channel, name, 1).await;
    }
    let all = v1::ListTopicsRequest { page_size: 2, ..v1::ListTopicsRequest::default() };
    let (found, pages) = names(&mut client, all.clone()).await;
    assert_eq!(found, ["a-1", "a-2", "a-3", "b", "c"]);
    assert_eq!(pages, [2, 2, 1]);
    let prefixed = v1::ListTopicsRequest { name_prefix: "a-".to_owned(), ..all.clone() };
    assert_eq!(names(&mut client, prefixed).await.0, ["a-1", "a-2", "a-3"]);
    // Two of one name, of which one is deleted: no page parts them, none is left out.
    client.delete_topic(v1::DeleteTopicRequest { name: "a-2".to_owned(), ..Default::default() }).await.unwrap();
    create_topic(&channel, "a-2", 1).await;
    let deleted = v1::ListTopicsRequest { include_deleted: true, ..all };
    assert_eq!(names(&mut client, deleted).await.0, ["a-1", "a-2", "a-2", "a-3", "b", "c"]);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alteration_takes_what_is_named_under_the_revision_that_was_seen() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let mut client = TopicServiceClient::new(channel.clone());
    let made = create_topic(&channel, "events", 2).await;
    let alter = |settings: v1::TopicSettings| v1::AlterTopicRequest {
        name: "events".to_owned(),
        settings: Some(settings),
        ..v1::AlterTopicRequest::default()
    };
    let retained = v1::TopicSettings { retention_ms: Some(86_400_000), ..v1::TopicSettings::default() };
    let dry = v1::AlterTopicRequest { validate_only: true, ..alter(retained.clone()) };
    client.alter_topic(dry).await.unwrap();
    let now = client
        .describe_topic(v1::DescribeTopicRequest { name: "events".to_owned(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(now.topic.unwrap(), made, "nothing was changed");
    assert_eq!(now.partitions.len(), 2);
    let first = v1::AlterTopicRequest { expected_revision: Some(made.revision), ..alter(retained) };
    let altered = client.alter_topic(first.clone()).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(altered.settings.as_ref().unwrap().partitions, Some(2), "what is not named stays");
    failed(client.alter_topic(first).await, Reason::RevisionMismatch);
    // A mask takes a setting back to its default.
    let mask = prost_types::FieldMask { paths: vec!["retention_ms".to_owned()] };
    let reset = v1::AlterTopicRequest { update_mask: Some(mask), ..alter(v1::TopicSettings::default()) };
    let altered = client.alter_topic(reset.clone()).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(altered.settings.unwrap().retention_ms, None);
    let mask = prost_types::FieldMask { paths: vec!["colour".to_owned()] };
    let unknown = v1::AlterTopicRequest { update_mask: Some(mask), ..reset };
    assert_eq!(failed(client.alter_topic(unknown).await, Reason::InvalidArgument).metadata["field"], "update_mask");
    let shrink = alter(v1::TopicSettings { partitions: Some(1), ..v1::TopicSettings::default() });
    let refused = failed(client.alter_topic(shrink).await, Reason::InvalidArgument);
    assert_eq!(refused.metadata["field"], "settings.partitions");
    assert!(refused.message.contains("make a new topic"), "{refused}");
    let other = v1::AlterTopicRequest { topic_uid: Bytes::from_static(&[7; 16]), ..alter(v1::TopicSettings::default()) };
    failed(client.alter_topic(other).await, Reason::TopicUidMismatch);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delete_is_taken_back_by_name_or_by_uid_while_the_name_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let (broker, channel) = start(settings(directory.path())).await;
    let mut client = TopicServiceClient::new(channel.clone());
    let delete = || v1::DeleteTopicRequest { name: "events".to_owned(), ..v1::DeleteTopicRequest::default() };
    let by_name = || v1::UndeleteTopicRequest { name: "events".to_owned(), ..v1::UndeleteTopicRequest::default() };
    let by_uid = |uid: &Bytes| v1::UndeleteTopicRequest { topic_uid: uid.clone(), ..v1::UndeleteTopicRequest::default() };
    failed(client.undelete_topic(by_name()).await, Reason::TopicNotRestorable);
    let refused = failed(client.undelete_topic(v1::UndeleteTopicRequest::default()).await, Reason::InvalidArgument);
    assert_eq!(refused.metadata["field"], "topic_uid");
    let first = create_topic(&channel, "events", 1).await;
    let stale = v1::DeleteTopicRequest { expected_revision: Some(first.revision + 1), ..delete() };
    failed(client.delete_topic(stale).await, Reason::RevisionMismatch);
    let gone = client.delete_topic(delete()).await.unwrap().into_inner().topic.unwrap();
    assert!(gone.restorable_until_ms > gone.delete_time_ms && gone.delete_time_ms.is_some());
    let back = client.undelete_topic(by_name()).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((back.topic_uid, back.delete_time_ms), (first.topic_uid.clone(), None));
    // A second topic of the name: the first comes back only when the name is free, and then by its uid, for there are two.
    client.delete_topic(delete()).await.unwrap();
    let second = create_topic(&channel, "events", 1).await;
    failed(client.undelete_topic(by_uid(&first.topic_uid)).await, Reason::TopicExists);
    client.delete_topic(delete()).await.unwrap();
    let refused = failed(client.undelete_topic(by_name()).await, Reason::InvalidArgument);
    assert!(refused.message.contains("several deleted topics"), "{refused}");
    let back = client.undelete_topic(by_uid(&second.topic_uid)).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(back.topic_uid, second.topic_uid);
    broker.shutdown().await;
}
