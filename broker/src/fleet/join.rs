//! How a broker comes into a hub that exists: it asks any of the peers it was given which hub theirs is, writes that on its volume, and then has
//! itself registered. Each step can be repeated.

use std::time::Duration;

use tidegate_env::Env;
use tidegate_model::HubId;
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;

use super::{Network, wire};
use crate::hub::Error;
use crate::identity::Identity;

/// One question to one peer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two rounds over all peers.
const PAUSE: Duration = Duration::from_millis(500);

/// What a broker says of itself when it comes in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Newcomer<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) zone: &'a str,
    pub(crate) node: &'a str,
}

/// Asks the peers, over and over, which hub theirs is.
pub(crate) async fn hello(env: &Env, network: &Network, peers: &[String]) -> Result<HubId, Error> {
    let ask = Ask::Hello(wired::Hello {});
    match until_told(env, network, peers, &wired::Request { ask: Some(ask), ..wired::Request::default() }).await? {
        Told::Welcome(welcome) => Ok(HubId(wire::uuid_in("hub_id", &welcome.hub_id)?)),
        other => Err(Error::internal(format!("a peer answered a greeting with {other:?}"))),
    }
}

/// Has the broker registered; answers its replica id in the catalog's journal.
pub(crate) async fn join(env: &Env, network: &Network, peers: &[String], newcomer: Newcomer<'_>) -> Result<u64, Error> {
    let identity = newcomer.identity;
    let join = wired::Join {
        broker: identity.broker_id.0,
        incarnation: wire::uuid_out(identity.incarnation),
        addresses: network.advertised.iter().cloned().collect(),
        zone: newcomer.zone.to_owned(),
        node: newcomer.node.to_owned(),
    };
    let request =
        wired::Request { hub_id: wire::uuid_out(identity.hub_id.0), from: identity.broker_id.0, ask: Some(Ask::Join(join)) };
    match until_told(env, network, peers, &request).await? {
        Told::Joined(joined) => Ok(joined.catalog_replica),
        other => Err(Error::internal(format!("a peer answered a registration with {other:?}"))),
    }
}

/// The first answer that is not of the moment. What a peer refuses for good ends it.
async fn until_told(env: &Env, network: &Network, peers: &[String], request: &wired::Request) -> Result<Told, Error> {
    loop {
        for address in peers {
            let told = tokio::select! {
                biased;
                told = network.transport.ask(address, request.clone()) => told,
                () = env.clock.sleep(DEADLINE) => continue,
            };
            match told.map(|answer| answer.told) {
                Ok(Some(Told::Error(error))) => {
                    let failure = tidegate_proto::errors::Failure::from(error);
                    if !failure.is_retryable() {
                        return Err(Error::Told(Box::new(failure)));
                    }
                    tracing::info!(%address, %failure, "a peer cannot let this broker in yet");
                }
                Ok(Some(told)) => return Ok(told),
                Ok(None) => tracing::warn!(%address, "a peer answered nothing: run one version on all brokers"),
                Err(error) => tracing::info!(%address, %error, "a peer cannot be reached"),
            }
        }
        env.clock.sleep(PAUSE).await;
    }
}
