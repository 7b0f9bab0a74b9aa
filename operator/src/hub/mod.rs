//! Hubs: read what there is, plan the objects that should be, apply them, roll pods, report.

pub mod autoscale;
pub mod config;
pub mod fleet;
pub mod found;
pub mod labels;
pub mod objects;
pub mod pods;
pub mod prune;
pub mod recovery;
pub mod status;
pub mod steps;
pub mod wishes;
pub mod workload;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_crd::{Hub, HubStatus};
use tidegate_proto::operator::v1 as wire;
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

/// Time between two looks at the load of a hub that scales by it.
const LOOK_AT_LOAD: Duration = Duration::from_secs(15);

/// When one of several brokers in the middle of a change is looked at again: what the hub says of them is not watched.
const LOOK_AGAIN_SOON: Duration = Duration::from_secs(2);

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
    let found = found::dereference(&ctx, &hub).await?;
    let (told, view) = look(&ctx, &hub, &found).await;
    let mut plan = fleet::plan(&view);
    let mut problems = Vec::new();
    if !hub.spec.paused {
        problems.extend(
            found
                .claims
                .values()
                .find_map(|claim| pods::claim_problem(&hub, Some(claim)))
                .map(|problem| ("VolumeOfAnotherHub", problem)),
        );
        if problems.is_empty() {
            problems.extend(apply(&ctx, &hub, &crew(&view, &plan)).await?);
            steps::take(&ctx, &hub, &found, &mut plan).await?;
        }
    }
    let serves = found.pods.values().any(pods::is_ready) || (found.pods.is_empty() && ctx.network.endpoint(&hub, None).is_some());
    link(&ctx, &hub, &found);
    let state = ctx.links.get(&key).map(|link| link.state());
    if let Some(LinkState::Synced { hub_id }) = &state {
        label_claims(&ctx, &hub, &found, &view, *hub_id).await?;
        wishes::carry_out(&ctx, &hub).await?;
    }
    let report = status::Measured::gather(&ctx, &key, &found, status::Fleet { told, view, plan }, problems);
    write_status(&ctx, &hub, &report).await?;
    if serves {
        // Not before the Hub says so itself.
        ctx.serves(&hub).await;
    }
    Ok(match report.is_settled() {
        // The load is looked at, for nothing tells of it.
        true if hub.spec.brokers.autoscaling.is_some() => Action::requeue(LOOK_AT_LOAD),
        true => Action::await_change(),
        false if report.fleet.view.wanted > 1 || report.fleet.view.brokers.len() > 1 => Action::requeue(LOOK_AGAIN_SOON),
        false => Action::requeue(LOOK_AGAIN),
    })
}

/// What the cluster and the hub itself say of the brokers.
async fn look(ctx: &Context, hub: &Hub, found: &found::Found) -> (Option<wire::DescribeClusterResponse>, fleet::View) {
    let mut brokers = found.brokers();
    let link = ctx.links.get(&hub_key(hub)).filter(|link| matches!(link.state(), LinkState::Synced { .. }));
    let told = match link {
        Some(link) => link.cluster().await.inspect_err(|error| tracing::debug!(%error, "the hub does not say how it is")).ok(),
        None => None,
    };
    let whole = told.as_ref().map(|told| fleet::learn(&mut brokers, told));
    let (base, wanted) = wanted(ctx, hub, &brokers, told.as_ref());
    let asked = hub.spec.replication_factor.and_then(|n| u32::try_from(n).ok());
    let factor = asked.unwrap_or(if base >= 3 { 3 } else { 1 });
    (told, fleet::View { wanted, factor, update: hub.spec.update_strategy.kind, brokers, whole })
}

/// The fewest brokers that there shall ever be, and how many there shall be now.
fn wanted(
    ctx: &Context,
    hub: &Hub,
    brokers: &BTreeMap<u32, fleet::Broker>,
    told: Option<&wire::DescribeClusterResponse>,
) -> (u32, u32) {
    let number = |n: i32| u32::try_from(n).unwrap_or(1).max(1);
    let Some(scaling) = &hub.spec.brokers.autoscaling else {
        let replicas = number(hub.spec.brokers.replicas.unwrap_or(1));
        return (replicas, replicas);
    };
    let bounds = autoscale::Bounds::of(scaling);
    let staying = brokers.values().filter(|broker| broker.is_there() && !broker.is_draining() && !broker.is_retired());
    let present = u32::try_from(staying.count()).unwrap_or(u32::MAX).max(1);
    let key = hub_key(hub);
    let numbers = ctx.links.get(&key).and_then(|link| link.numbers());
    let store_is_away = numbers.is_some_and(|numbers| numbers.tier_problem.is_some());
    let load = told.map(|told| autoscale::Load::of(told, store_is_away));
    let mut histories = ctx.scaling.lock();
    let history = histories.entry(key).or_default();
    let (wanted, why) = autoscale::wanted(&bounds, history, ctx.begun.elapsed(), present, load.as_ref());
    if history.is_news(wanted, present) {
        ctx.event(hub, EventType::Normal, "Scaling", &format!("the load asks for {wanted} brokers instead of {present} ({why})"));
    }
    (bounds.least, wanted)
}

/// Whose objects are applied.
fn crew(view: &fleet::View, plan: &fleet::Plan) -> objects::Crew {
    // The eldest one that is there; lost ones go on being counted, so that nobody else becomes the founder before they have left.
    let there = view.brokers.iter().filter(|(_, broker)| broker.is_there() && !broker.is_retired()).map(|(id, _)| *id);
    let founder = there.chain(plan.kept.iter().copied()).min().unwrap_or(labels::FIRST);
    objects::Crew { brokers: plan.kept.iter().copied().collect(), founder, may_leave: fleet::may_leave(view) }
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

/// Applies what should be. Answers what was refused and does not keep the rest from being done.
async fn apply(ctx: &Context, hub: &Hub, crew: &objects::Crew) -> Result<Vec<status::Problem>, Error> {
    let plan = objects::plan(hub, &ctx.settings, &ctx.links.public_key(), crew)?;
    let mut problems = Vec::new();
    problems.extend(put(ctx, hub, &plan.service_account).await?);
    problems.extend(put(ctx, hub, &plan.config).await?);
    problems.extend(put(ctx, hub, &plan.headless).await?);
    problems.extend(put(ctx, hub, &plan.peers).await?);
    for service in &plan.services {
        problems.extend(put(ctx, hub, service).await?);
    }
    prune::services(ctx, hub, &plan).await?;
    problems.extend(put(ctx, hub, &plan.budget).await?);
    problems.extend(put(ctx, hub, &plan.network_policy).await?);
    // A volume claim is there before the pod that needs it: one without it has lost it.
    for claim in &plan.claims {
        match put(ctx, hub, claim).await {
            Ok(contested) => problems.extend(contested),
            // A class that cannot grow volumes: everything else goes on.
            Err(Error::Kube(kube::Error::Api(status))) if status.code == 403 || status.code == 422 => {
                problems.push(("VolumeNotChanged", format!("the volume cannot be changed: {}", status.message)));
            }
            Err(error) => return Err(error),
        }
    }
    for workload in &plan.workloads {
        problems.extend(put(ctx, hub, workload).await?);
    }
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

/// Points the link at a broker that serves; at the same one as long as it does.
fn link(ctx: &Context, hub: &Hub, found: &found::Found) {
    let known = hub.status.as_ref().and_then(|status| status.hub_id.as_deref()).and_then(|id| Uuid::parse_str(id).ok());
    // A hub that is restored from its own bucket comes back under a new identity.
    let restored = hub.spec.restore_from.as_ref().and_then(|from| Uuid::parse_str(&from.hub_id).ok());
    let key = hub_key(hub);
    let present = ctx.links.get(&key).and_then(|link| link.endpoint());
    let ready: Vec<String> =
        found.pods.values().filter(|pod| pods::is_ready(pod)).filter_map(|pod| ctx.network.endpoint(hub, Some(pod))).collect();
    let endpoint = present
        .filter(|present| ready.contains(present))
        .or_else(|| ready.first().cloned())
        .or_else(|| found.pods.values().find_map(|pod| ctx.network.endpoint(hub, Some(pod))))
        .or_else(|| ctx.network.endpoint(hub, None));
    let target = Target { endpoint, hub_id: known.filter(|known| restored != Some(*known)) };
    ctx.links.ensure(&key, &hub.uid().unwrap_or_default(), target);
}

/// Writes on the volume claims of brokers that came in whose data they hold.
async fn label_claims(ctx: &Context, hub: &Hub, found: &found::Found, view: &fleet::View, hub_id: Uuid) -> Result<(), Error> {
    for (id, claim) in &found.claims {
        let is_in = view.brokers.get(id).is_some_and(|broker| broker.known.is_some());
        if !is_in || claim.labels().get(labels::HUB_ID).is_some_and(|known| *known == hub_id.to_string()) {
            continue;
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
        let patch = json!({"metadata": {"uid": claim.uid(), "labels": {labels::HUB_ID: hub_id.to_string()}}});
        let params = PatchParams { field_manager: Some(labels::IDENTITY_MANAGER.to_owned()), ..PatchParams::default() };
        api.patch(&claim.name_any(), &params, &Patch::Merge(patch)).await?;
    }
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
