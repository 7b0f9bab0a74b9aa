//! A broker with its sockets, and what to expect of a refusal.

use std::path::Path;

use tidegate_broker::settings::{BrokerSettings, ListenerSettings, ObjectStoreSettings};
use tidegate_broker::{RunningBroker, serve};
use tidegate_env::Env;
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::topic_service_client::TopicServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::common::untiered;

pub(crate) fn settings(directory: &Path) -> BrokerSettings {
    let any = "127.0.0.1:0".parse().unwrap();
    BrokerSettings {
        hub: untiered(directory),
        object_store: ObjectStoreSettings::Directory { path: directory.join("store") },
        listeners: ListenerSettings { client: any, operator: any, http: any, ..ListenerSettings::default() },
        shutdown_deadline_ms: 10_000,
        ..BrokerSettings::default()
    }
}

pub(crate) async fn connect(address: std::net::SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

pub(crate) async fn start(settings: BrokerSettings) -> (RunningBroker, Channel) {
    let broker = serve(settings, Env::real()).await.unwrap();
    let channel = connect(broker.client_addr).await;
    (broker, channel)
}

pub(crate) async fn create_topic(channel: &Channel, name: &str, partitions: u32) -> v1::Topic {
    let settings = v1::TopicSettings { partitions: Some(partitions), ..v1::TopicSettings::default() };
    let request = v1::CreateTopicRequest { name: name.to_owned(), settings: Some(settings), validate_only: false };
    TopicServiceClient::new(channel.clone()).create_topic(request).await.unwrap().into_inner().topic.unwrap()
}

/// The failure of a call, whose code must be the one that goes with its reason, and whose reason must be stated, not guessed from the code.
pub(crate) fn failed<T: std::fmt::Debug>(outcome: Result<Response<T>, Status>, reason: Reason) -> Failure {
    let status = outcome.expect_err("the call must be refused");
    let failure = Failure::from_status(&status);
    assert!(!status.details().is_empty(), "no ErrorInfo: {status:?}");
    assert_eq!(failure.reason, reason, "{status:?}");
    assert_eq!(status.code(), failure.code(), "{status:?}");
    failure
}

/// What a refusal must be: its reason, facts for programs, and words for people (which name field, limit and way out).
pub(crate) struct Expected {
    pub(crate) reason: Reason,
    pub(crate) facts: Vec<(&'static str, &'static str)>,
    pub(crate) words: &'static [&'static str],
}

impl Expected {
    pub(crate) fn check(&self, input: &str, failure: &Failure) {
        assert_eq!(failure.reason, self.reason, "{input}: {failure:?}");
        for (key, value) in &self.facts {
            assert_eq!(failure.metadata.get(*key).map(String::as_str), Some(*value), "{input}: {key} of {failure:?}");
        }
        for word in self.words {
            assert!(failure.message.contains(word), "{input}: no `{word}` in: {failure}");
        }
    }
}
