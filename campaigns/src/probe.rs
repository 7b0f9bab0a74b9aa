//! Single appends and reads without the client library's retries, so that a refusal shows as it is.

use std::time::Duration;

use anyhow::{Context, Result};
use tidegate_client::proto::v1;
use tidegate_client::proto::v1::producer_service_client::ProducerServiceClient;
use tidegate_client::{Client, Failure, Start};

/// A topic of its own to try things on.
#[derive(Debug)]
pub struct Probe {
    client: Client,
    topic: String,
}

impl Probe {
    /// Makes the topic, with one record in it.
    ///
    /// # Errors
    /// If the hub refuses.
    pub async fn make(client: &Client, topic: &str) -> Result<Probe> {
        client.admin().create_topic(v1::CreateTopicRequest { name: topic.to_owned(), ..Default::default() }).await?;
        let probe = Probe { client: client.clone(), topic: topic.to_owned() };
        probe.append(100).await?;
        Ok(probe)
    }

    /// Appends one record of so many bytes.
    ///
    /// # Errors
    /// The hub's refusal.
    pub async fn append(&self, bytes: usize) -> Result<(), Failure> {
        let record = v1::Record { value: Some(vec![b'p'; bytes].into()), ..Default::default() };
        let records = v1::RecordList { records: vec![record] };
        let request = v1::ProduceRequest {
            topic: self.topic.clone(),
            partition: Some(0),
            timeout_ms: 10_000,
            payload: Some(v1::produce_request::Payload::Records(records)),
            ..Default::default()
        };
        let answer = ProducerServiceClient::new(self.client.transport()).produce(request).await;
        let answer = answer.map_err(|status| Failure::from_status(&status))?.into_inner();
        match answer.results.into_iter().find_map(|result| result.error) {
            Some(error) => Err(Failure::from(error)),
            None => Ok(()),
        }
    }

    /// Reads the newest record: it lies in the log, and needs no object store.
    ///
    /// # Errors
    /// If none comes within ten seconds.
    pub async fn read(&self) -> Result<()> {
        let newest = self.client.admin().list_offsets(&[(&self.topic, 0, Start::Latest)]).await?;
        let newest = newest.first().context("the hub lists no offset")?.offset - 1;
        let mut consumer = self.client.consumer().assign_partitions(&self.topic, &[0], Start::Offset(newest)).build().await?;
        let record = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.context("no record within 10 s")??;
        record.context("the subscription ended").map(drop)
    }
}
