//! Who the hub knows the producer as: asked for once, and again when a sequence is broken.

use std::future::Future;
use std::pin::Pin;

use tidegate_model::{ProducerEpoch, ProducerId};
use tidegate_proto::errors::{Failure, Reason};
use tidegate_proto::v1;
use tidegate_proto::v1::producer_service_client::ProducerServiceClient;

use super::Shared;
use super::batch::Identity;
use crate::{Client, Error, Result};

/// An identity on its way, and how many batches a partition may have in flight.
pub(super) type Renewal = Pin<Box<dyn Future<Output = Result<(Identity, usize)>> + Send>>;

/// Waits for a new identity if one is on its way, else for ever.
pub(super) async fn renewal(pending: &mut Option<Renewal>) -> Result<(Identity, usize)> {
    match pending {
        Some(renewal) => renewal.await,
        None => std::future::pending().await,
    }
}

/// Asks for a new epoch.
pub(super) async fn renew(shared: &Shared, old: Identity) -> Result<(Identity, usize)> {
    match initialise(shared, Some(old)).await {
        // The answer to an earlier try may have been lost. Nobody else can have a nameless id, so another one does as well.
        Err(Error::Hub(failure)) if failure.reason == Reason::ProducerFenced && shared.settings.name.is_none() => {
            initialise(shared, None).await
        }
        other => other,
    }
}

/// Asks for an identity, or a new epoch of one: and how many batches a partition may have in flight.
pub(super) async fn initialise(shared: &Shared, old: Option<Identity>) -> Result<(Identity, usize)> {
    let client: &Client = &shared.client;
    let request = v1::InitProducerRequest {
        name: shared.settings.name.clone().unwrap_or_default(),
        max_in_flight_batches: shared.settings.max_in_flight_batches,
        producer_id: old.map(|old| old.id.0),
        producer_epoch: old.map(|old| old.epoch.0.into()),
    };
    let service = ProducerServiceClient::new(client.transport());
    let answer = client
        .retry(request, |request| {
            let mut service = service.clone();
            async move { service.init_producer(request).await }
        })
        .await?;
    let epoch = i16::try_from(answer.producer_epoch)
        .map_err(|_| Failure::new(Reason::Internal, format!("the hub gave out producer epoch {}", answer.producer_epoch)))?;
    let granted = answer.max_in_flight_batches.clamp(1, shared.settings.max_in_flight_batches);
    Ok((Identity { id: ProducerId(answer.producer_id), epoch: ProducerEpoch(epoch) }, granted as usize))
}
