//! Hubs: read what there is, plan the objects that should be, apply them, roll pods, report.

pub mod config;
pub mod labels;
pub mod objects;
pub mod pods;
pub mod prune;
pub mod recovery;
pub mod status;
pub mod wishes;
pub mod workload;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_crd::{Hub, HubStatus};
use uuid::Uuid;

use crate::FIELD_MANAGER;
use crate::catalog::LinkState;
use crate::catalog::link::Target;
use crate::conditions;
use crate::context::{Context, OPERATED_BY, hub_key};
use crate::error::Error;
use crate::topic::params;

/// When a hub in the middle of a change is looked at again, if nothing happens before.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What there is of a hub, beside the object.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The broker's StatefulSet.
    pub workload: Option<StatefulSet>,
    /// Its pod.
    pub pod: Option<Pod>,
    /// Its volume claim.
    pub claim: Option<PersistentVolumeClaim>,
}

/// When a hub in a namespace that goes is looked at again.
const GOING: Duration = Duration::from_secs(60);

/// Brings one hub and its objects together.
pub async fn reconcile(hub: Arc<Hub>, ctx: Arc<Context>) -> Result<Action, Error> {
    ctx.metrics.reconciled("Hub");
    match Box::pin(bring_together(hub, ctx)).await {
        // The API server lets nothing be made in a namespace that is being deleted, and that is as it should be.
        Err(Error::Kube(kube::Error::Api(status))) if status.code == 403 && status.message.contains("is being terminated") => {
            Ok(Action::requeue(GOING))
        }
        outcome => outcome,
    }
}

async fn bring_together(hub: Arc<Hub>, ctx: Arc<Context>) -> Result<Action, Error> {
    let key = hub_key(&hub);
    if hub.metadata.deletion_timestamp.is_some() {
        ctx.links.remove(&key);
        return Ok(Action::await_change());
    }
    if !ctx.is_ours(&hub) {
        ctx.links.remove(&key);
        leave_alone(&ctx, &hub).await?;
        return Ok(Action::await_change());
    }
    let hub = match hub.annotations().get(OPERATED_BY) {
        Some(_) => hub,
        None => Arc::new(claim(&ctx, &hub).await?),
    };
    let found = dereference(&ctx, &hub).await?;
    let mut problems = Vec::new();
    if !hub.spec.paused {
        match pods::claim_problem(&hub, found.claim.as_ref()) {
            Some(problem) => problems.push(("VolumeOfAnotherHub", problem)),
            None => {
                problems.extend(apply(&ctx, &hub).await?);
                roll(&ctx, &hub, &found).await?;
            }
        }
    }
    link(&ctx, &hub, &found);
    let state = ctx.links.get(&key).map(|link| link.state());
    if let Some(LinkState::Synced { hub_id }) = &state {
        label_claim(&ctx, &hub, &found, *hub_id).await?;
        wishes::carry_out(&ctx, &hub).await?;
    }
    let report = status::Measured::gather(&ctx, &key, &found, problems);
    write_status(&ctx, &hub, &report).await?;
    let settled = report.is_settled();
    Ok(if settled { Action::await_change() } else { Action::requeue(LOOK_AGAIN) })
}

/// Another installation has the hub: says so in a condition of its own, beside those of the one that acts, and touches nothing else.
async fn leave_alone(ctx: &Context, hub: &Hub) -> Result<(), Error> {
    let old = hub.status.clone().unwrap_or_default().conditions;
    let note = status::left_alone(&ctx.settings.installation(), &hub.annotations()[OPERATED_BY], &hub.name_any());
    let is_said = |known: &Condition| known.type_ == note.kind && known.message == note.message;
    if old.iter().any(is_said) {
        return Ok(());
    }
    let mut all: Vec<Condition> = old.into_iter().filter(|known| known.type_ != note.kind).collect();
    let now = k8s_openapi::jiff::Timestamp::now();
    all.extend(conditions::merge(&all, std::slice::from_ref(&note), hub.metadata.generation, now));
    // The list is replaced as a whole: only if nobody wrote meanwhile.
    let patch = json!({
        "metadata": {"uid": hub.uid(), "resourceVersion": hub.resource_version()},
        "status": {"conditions": all},
    });
    let api: Api<Hub> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    api.patch_status(&hub.name_any(), &params(), &Patch::Merge(patch)).await?;
    ctx.metrics.status_written("Hub");
    ctx.event(hub, EventType::Warning, "OperatedElsewhere", &note.message);
    Ok(())
}

/// Says whose the hub is; the first one to say so has it.
async fn claim(ctx: &Context, hub: &Hub) -> Result<Hub, Error> {
    let api: Api<Hub> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    let patch = json!({"metadata": {
        "uid": hub.uid(),
        "resourceVersion": hub.resource_version(),
        "annotations": {OPERATED_BY: ctx.settings.installation()},
    }});
    Ok(api.patch(&hub.name_any(), &params(), &Patch::Merge(patch)).await?)
}

async fn dereference(ctx: &Context, hub: &Hub) -> Result<Found, Error> {
    let namespace = hub.namespace().unwrap_or_default();
    let names = labels::Names::of(hub);
    let workloads: Api<StatefulSet> = Api::namespaced(ctx.client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &namespace);
    let (workload_name, pod_name) = (names.workload(), names.pod());
    let (workload, pod, claim) =
        tokio::join!(workloads.get_opt(&workload_name), pods.get_opt(&pod_name), claims.get_opt(&workload_name),);
    Ok(Found { workload: workload?, pod: pod?, claim: claim? })
}

/// Applies what should be. Answers what was refused and does not keep the rest from being done.
async fn apply(ctx: &Context, hub: &Hub) -> Result<Vec<status::Problem>, Error> {
    let plan = objects::plan(hub, &ctx.settings, &ctx.links.public_key())?;
    let mut problems = Vec::new();
    problems.extend(put(ctx, hub, &plan.service_account).await?);
    problems.extend(put(ctx, hub, &plan.config).await?);
    problems.extend(put(ctx, hub, &plan.headless).await?);
    for service in &plan.services {
        problems.extend(put(ctx, hub, service).await?);
    }
    prune::services(ctx, hub, &plan).await?;
    problems.extend(put(ctx, hub, &plan.budget).await?);
    problems.extend(put(ctx, hub, &plan.network_policy).await?);
    match put(ctx, hub, &plan.claim).await {
        Ok(contested) => problems.extend(contested),
        // A class that cannot grow volumes: everything else goes on.
        Err(Error::Kube(kube::Error::Api(status))) if status.code == 403 || status.code == 422 => {
            problems.push(("VolumeNotChanged", format!("the volume cannot be changed: {}", status.message)));
        }
        Err(error) => return Err(error),
    }
    problems.extend(put(ctx, hub, &plan.workload).await?);
    Ok(problems)
}

/// A field that somebody else sets is set back at most so often: two that insist must not fight as fast as they can.
const SET_BACK_EVERY: Duration = Duration::from_secs(9);

/// Server-side apply under our field manager. What others changed in our fields is set back, with an Event that names them; if they insist, that
/// is a problem for people, and their value stands for a while.
async fn put<K>(ctx: &Context, hub: &Hub, object: &K) -> Result<Option<status::Problem>, Error>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(ctx.client.clone(), &object.namespace().unwrap_or_default());
    let name = object.name_any();
    let patch = Patch::Apply(object);
    let conflict = match api.patch(&name, &PatchParams::apply(FIELD_MANAGER), &patch).await {
        Ok(_) => return Ok(None),
        Err(kube::Error::Api(status)) if status.code == 409 && status.message.starts_with("Apply failed") => status.message,
        Err(error) => return Err(error.into()),
    };
    let which = format!("{} {name}", K::kind(&()));
    let insists = {
        let mut contested = ctx.contested.lock();
        contested.retain(|_, since| since.elapsed() < SET_BACK_EVERY);
        contested.contains_key(&(hub_key(hub), which.clone()))
    };
    if insists {
        let message = format!(
            "another field manager keeps changing what the operator sets in {which}: take the fields out of its hands, or set them in this Hub. {conflict}"
        );
        return Ok(Some(("FieldsContested", message)));
    }
    api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &patch).await?;
    ctx.contested.lock().insert((hub_key(hub), which.clone()), std::time::Instant::now());
    ctx.event(hub, EventType::Warning, "FieldsSetBack", &format!("{which}: {conflict}"));
    Ok(None)
}

/// Replaces an outdated pod.
async fn roll(ctx: &Context, hub: &Hub, found: &Found) -> Result<(), Error> {
    let Some(pod) = found.pod.as_ref() else { return Ok(()) };
    let Some(why) = pods::replace(hub, found) else { return Ok(()) };
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: pod.resource_version() }),
        ..DeleteParams::default()
    };
    match api.delete(&pod.name_any(), &params).await {
        Ok(_) => ctx.event(hub, EventType::Normal, "PodReplaced", &format!("{}: {why}", pod.name_any())),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Points the link at the broker.
fn link(ctx: &Context, hub: &Hub, found: &Found) {
    let known = hub.status.as_ref().and_then(|status| status.hub_id.as_deref()).and_then(|id| Uuid::parse_str(id).ok());
    // A hub that is restored from its own bucket comes back under a new identity.
    let restored = hub.spec.restore_from.as_ref().and_then(|from| Uuid::parse_str(&from.hub_id).ok());
    let target = Target {
        endpoint: ctx.network.endpoint(hub, found.pod.as_ref()),
        hub_id: known.filter(|known| restored != Some(*known)),
    };
    ctx.links.ensure(&hub_key(hub), &hub.uid().unwrap_or_default(), target);
}

/// Writes on the volume claim whose data it holds.
async fn label_claim(ctx: &Context, hub: &Hub, found: &Found, hub_id: Uuid) -> Result<(), Error> {
    let Some(claim) = &found.claim else { return Ok(()) };
    if claim.labels().get(labels::HUB_ID).is_some_and(|known| *known == hub_id.to_string()) {
        return Ok(());
    }
    let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    let patch = json!({"metadata": {"uid": claim.uid(), "labels": {labels::HUB_ID: hub_id.to_string()}}});
    let params = PatchParams { field_manager: Some(labels::IDENTITY_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(&claim.name_any(), &params, &Patch::Merge(patch)).await?;
    Ok(())
}

/// Tries of a status whose object was changed by somebody else meanwhile.
const STATUS_TRIES: usize = 5;

/// Writes the status if it says anything new. Lists are replaced as a whole, so it rests on the newest object: our store may be behind.
async fn write_status(ctx: &Context, hub: &Hub, report: &status::Measured) -> Result<(), Error> {
    let api: Api<Hub> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    let mut present = hub.clone();
    for tries in 1.. {
        let old = present.status.clone().unwrap_or_default();
        let new = status::status_of(&present, report, &ctx.settings.installation(), k8s_openapi::jiff::Timestamp::now());
        if new == old {
            return Ok(());
        }
        match patch_status(&api, &present, &new).await {
            Ok(()) => {
                said(ctx, hub, &old, &new);
                return Ok(());
            }
            Err(Error::Kube(kube::Error::Api(status))) if status.code == 409 && tries < STATUS_TRIES => {}
            Err(error) => return Err(error),
        }
        match api.get_opt(&hub.name_any()).await?.filter(|fresh| fresh.uid() == hub.uid()) {
            Some(fresh) => present = fresh,
            None => return Ok(()),
        }
    }
    Ok(())
}

async fn patch_status(api: &Api<Hub>, hub: &Hub, status: &HubStatus) -> Result<(), Error> {
    let mut patch = serde_json::to_value(status).map_err(Error::Serialisation)?;
    if let Some(fields) = patch.as_object_mut() {
        // Wishes are written where they are noted and carried out.
        fields.remove("pendingDeletions");
    }
    let patch = json!({"metadata": {"uid": hub.uid(), "resourceVersion": hub.resource_version()}, "status": patch});
    api.patch_status(&hub.name_any(), &params(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn said(ctx: &Context, hub: &Hub, old: &HubStatus, new: &HubStatus) {
    ctx.metrics.status_written("Hub");
    if let Some((kind, reason, message)) = status::turned(old, new) {
        ctx.event(hub, kind, &reason, &message);
    }
    if let Some(recovered) = new.recovered.as_ref().filter(|_| new.recovered != old.recovered) {
        let kind = if recovery::is_loss(recovered) { EventType::Warning } else { EventType::Normal };
        ctx.event(hub, kind, "Recovered", &recovered.message);
    }
}
