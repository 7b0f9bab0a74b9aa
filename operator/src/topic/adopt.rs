//! From the catalog to objects: topics that no object ever had get one; topics whose object has gone are let loose.
//!
//! Adoption is by create, never by taking an existing object over. It needs no order with the user's own apply: whoever is second finds
//! the other's object.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Patch, PostParams};
use kube::core::ObjectMeta;
use kube::{Api, ResourceExt};
use serde_json::json;
use tidegate_crd::topic::{HubRef, Management};
use tidegate_crd::{Hub, Topic, TopicSpec};
use tidegate_model::TopicUid;
use tidegate_proto::operator::v1 as wire;
use tidegate_proto::v1;

use super::plan::{self, ADOPTED};
use super::{bytes_of, settings};
use crate::catalog::link::HubKey;
use crate::catalog::{Entry, Link};
use crate::context::Context;
use crate::error::Error;

/// Field manager of objects that the operator makes for topics.
pub const MANAGER: &str = "tidegate-adoption";

/// Whether an object that the operator made has another manager now for something in its spec: then ours has to leave.
pub fn is_taken_over(fields: &[ManagedFieldsEntry]) -> bool {
    let ours = fields.iter().any(|entry| entry.manager.as_deref() == Some(MANAGER));
    let has_spec = |entry: &ManagedFieldsEntry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some());
    ours && fields.iter().any(|entry| {
        let is_other = !matches!(entry.manager.as_deref(), Some(MANAGER | crate::FIELD_MANAGER));
        is_other && entry.subresource.is_none() && has_spec(entry)
    })
}

/// Takes our manager off an object that somebody else manages now. Values stay as they are; what that manager stops applying goes then, because
/// nobody else claims it.
pub async fn leave(api: &Api<Topic>, object: &Topic) -> Result<Option<Topic>, Error> {
    let name = object.name_any();
    let Some(fresh) = api.get_opt(&name).await?.filter(|fresh| fresh.uid() == object.uid()) else { return Ok(None) };
    if !is_taken_over(fresh.managed_fields()) {
        return Ok(Some(fresh));
    }
    let rest: Vec<&ManagedFieldsEntry> =
        fresh.managed_fields().iter().filter(|entry| entry.manager.as_deref() != Some(MANAGER)).collect();
    let patch = json!({"metadata": {
        "uid": fresh.uid(),
        "resourceVersion": fresh.resource_version(),
        "managedFields": rest,
    }});
    Ok(Some(api.patch(&name, &super::params(), &Patch::Merge(patch)).await?))
}

/// Looks at one entry of a hub's catalog.
pub async fn sweep(ctx: &Context, key: &HubKey, uid: TopicUid) -> Result<(), Error> {
    let Some(hub) = ctx.hub(key) else { return Ok(()) };
    if hub.metadata.deletion_timestamp.is_some() || hub.spec.paused || !ctx.is_ours(&hub) {
        return Ok(());
    }
    let Some(link) = ctx.links.get(key) else { return Ok(()) };
    let Some(entry) = link.synced(|mirror| mirror.by_uid(uid).cloned()).flatten() else { return Ok(()) };
    if entry.deleted || entry.internal {
        return Ok(());
    }
    match &entry.bound {
        Some(_) => detach_if_gone(ctx, &hub, &link, &entry).await,
        None if entry.detached => Ok(()),
        None => adopt(ctx, &hub, &entry).await,
    }
}

/// Lets a topic loose whose object is surely gone: a fresh look finds none, or another uid.
async fn detach_if_gone(ctx: &Context, hub: &Hub, link: &Arc<Link>, entry: &Entry) -> Result<(), Error> {
    let Some(bound) = entry.bound.clone() else { return Ok(()) };
    if ctx.topic_of(&bound).is_some() {
        return Ok(());
    }
    // A deletion that was noted is carried out, not forgotten by letting the topic loose.
    let noted =
        hub.status.iter().flat_map(|status| &status.pending_deletions).any(|wish| wish.topic_uid == entry.uid.to_string());
    if noted {
        return Ok(());
    }
    let api: Api<Topic> = Api::namespaced(ctx.client.clone(), &bound.namespace);
    if api.get_opt(&bound.name).await?.is_some_and(|found| found.uid().as_deref() == Some(&bound.uid)) {
        return Ok(());
    }
    let request = wire::BindTopicRequest {
        topic_uid: bytes_of(entry.uid),
        expected_bound_object: Some(bound.clone().into()),
        bound_object: None,
        management: v1::TopicManagement::Catalog.into(),
        ..Default::default()
    };
    match link.bind(request).await {
        Ok(_) => {
            tracing::info!(hub = %link.key, topic = %entry.name, object = %bound.name, "the topic's object has gone: the topic stays");
            ctx.poke_hub(&link.key);
            Ok(())
        }
        Err(error) if error.is_outdated() => Ok(()),
        Err(error) => Err(Error::Call(error)),
    }
}

/// Makes an object for a topic that never had one.
async fn adopt(ctx: &Context, hub: &Hub, entry: &Entry) -> Result<(), Error> {
    if hub.spec.adoption.topics == tidegate_crd::hub::AdoptedTopics::None {
        return Ok(());
    }
    let namespace = hub.namespace().unwrap_or_default();
    let hub_name = hub.name_any();
    let uid = entry.uid.to_string();
    let claimed = ctx.topics.find(|topic| {
        let name = topic.metadata.name.as_deref().unwrap_or_default();
        topic.metadata.namespace.as_deref() == Some(&namespace)
            && topic.spec.hub_ref.as_ref().is_some_and(|hub| hub.name == hub_name)
            && (topic.spec.topic_name(name) == entry.name || plan::recorded_text(topic) == Some(&uid))
    });
    if let Some(object) = claimed {
        ctx.poke_topic(&object);
        return Ok(());
    }
    let api: Api<Topic> = Api::namespaced(ctx.client.clone(), &namespace);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    for name in [object_name(&entry.name), object_name_with(&entry.name, entry.uid)] {
        let object = object_for(entry, &name, &hub_name);
        match api.create(&params, &object).await {
            Ok(object) => {
                tracing::info!(topic = %entry.name, object = %name, "made an object for a topic that was made through gRPC");
                ctx.event(&object, kube::runtime::events::EventType::Normal, "Adopted", "made for a topic that had no object");
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // Somebody else's object of that name: does it claim the topic? Then its own turn comes.
                let found = api.get_opt(&name).await?;
                let claims =
                    |found: &Topic| found.spec.topic_name(&name) == entry.name || plan::recorded(found) == Some(entry.uid);
                if found.as_ref().is_none_or(claims) {
                    return Ok(());
                }
            }
            // The namespace is going: nothing is made there.
            Err(kube::Error::Api(status)) if status.code == 403 && status.message.contains("terminated") => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn object_for(entry: &Entry, name: &str, hub: &str) -> Topic {
    let spec = TopicSpec {
        hub_ref: Some(HubRef { name: hub.to_owned() }),
        topic_name: (entry.name != name).then(|| entry.name.clone()),
        management: Management::Catalog,
        placement_group: entry.settings.placement_group.clone(),
        ..TopicSpec::default()
    };
    Topic {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some([(ADOPTED.to_owned(), entry.uid.to_string())].into()),
            ..ObjectMeta::default()
        },
        spec: settings::following(&spec, &entry.settings),
        status: None,
    }
}

/// A topic's name as an object's: lower case, `-` for what is not allowed there.
fn object_name(topic: &str) -> String {
    let mapped: String =
        topic.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' }).collect();
    let parts: Vec<&str> = mapped.split('.').map(|part| part.trim_matches('-')).filter(|part| !part.is_empty()).collect();
    let name = parts.join(".");
    if name.is_empty() { "topic".to_owned() } else { name }
}

/// The same made unmistakable.
fn object_name_with(topic: &str, uid: TopicUid) -> String {
    let short: String = uid.to_string().chars().take(8).collect();
    let mut name = object_name(topic);
    name.truncate(230);
    format!("{}-{short}", name.trim_end_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_names_that_kubernetes_takes() {
        for (topic, object) in [("clicks", "clicks"), ("Click_Events.v2", "click-events.v2"), ("_a..b_", "a.b"), ("___", "topic")]
        {
            assert_eq!(object_name(topic), object);
        }
        let uid = TopicUid(uuid::Uuid::from_u128(7 << 96));
        assert_eq!(object_name_with(&"x".repeat(249), uid).len(), 239);
    }
}
