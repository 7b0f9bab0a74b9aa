//! Takes the steps of a plan. Whatever deletes carries the uid of what was seen.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tidegate_crd::Hub;
use tidegate_proto::operator::v1::ClusterBrokerState;

use super::fleet::{Plan, Step};
use super::found::Found;
use super::labels::Names;
use crate::context::{Context, hub_key};
use crate::error::Error;

/// Takes all steps. What the hub refuses is noted under what is waited for, and planned anew.
pub async fn take(ctx: &Context, hub: &Hub, found: &Found, plan: &mut Plan) -> Result<(), Error> {
    let names = Names::of(hub);
    for id in plan.new.iter().filter(|id| found.workloads.len() + found.claims.len() > 0 && !found.workloads.contains_key(id)) {
        ctx.event(hub, EventType::Normal, "BrokerAdded", &format!("broker {id} was made, as {}", names.workload(*id)));
    }
    for step in plan.steps.clone() {
        match step {
            Step::Replace { broker, why } => {
                let Some(pod) = found.pods.get(&broker) else { continue };
                if delete::<Pod>(ctx, hub, pod).await? {
                    ctx.event(hub, EventType::Normal, "PodReplaced", &format!("{}: {why}", pod.name_any()));
                }
            }
            Step::Remove(broker) => {
                if let Some(workload) = found.workloads.get(&broker) {
                    delete::<StatefulSet>(ctx, hub, workload).await?;
                }
                if let Some(claim) = found.claims.get(&broker)
                    && delete::<PersistentVolumeClaim>(ctx, hub, claim).await?
                {
                    let note = format!(
                        "broker {broker} holds nothing any more: {} and its volume claim were deleted",
                        names.workload(broker)
                    );
                    ctx.event(hub, EventType::Normal, "BrokerRemoved", &note);
                }
            }
            Step::Drain { broker, why } => {
                let Some(link) = ctx.links.get(&hub_key(hub)) else { continue };
                match link.set_broker_state(broker, ClusterBrokerState::Draining).await {
                    Ok(()) => {
                        let note = format!("broker {broker} leaves, {why}: its leaders, then its copies go to other brokers");
                        ctx.event(hub, EventType::Normal, "BrokerDraining", &note);
                    }
                    Err(error) => plan.waits.push(format!("broker {broker} cannot be drained yet: {error}")),
                }
            }
            Step::SetFactor(factor) => {
                let Some(link) = ctx.links.get(&hub_key(hub)) else { continue };
                if let Err(error) = link.set_replication_factor(factor).await {
                    plan.waits.push(format!("the number of copies cannot be set yet: {error}"));
                }
            }
        }
    }
    Ok(())
}

/// Deletes exactly what was seen; false if it had changed or gone since, or is going.
async fn delete<K>(ctx: &Context, hub: &Hub, object: &K) -> Result<bool, Error>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    if object.meta().deletion_timestamp.is_some() {
        return Ok(false);
    }
    let api: Api<K> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
    match api.delete(&object.name_any(), &params).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
