//! Deletions of topics that were asked for while the hub was out of reach: written down in the Hub's status before the object goes, carried
//! out when the hub is back. A wish names the topic's uid and the object that was bound to it; what changed hands since is left alone.

use kube::api::Patch;
use kube::{Api, ResourceExt};
use serde_json::json;
use tidegate_crd::Hub;
use tidegate_crd::status::PendingDeletion;
use tidegate_model::TopicUid;
use tidegate_proto::operator::v1 as wire;
use uuid::Uuid;

use crate::catalog::ObjectId;
use crate::context::{Context, hub_key};
use crate::error::Error;
use crate::topic::plan::Wish;
use crate::topic::{bytes_of, params};

/// Writes a wish down. When this returns, it is durable.
pub async fn note(ctx: &Context, hub: &Hub, wish: &Wish, object: &ObjectId) -> Result<(), Error> {
    let api: Api<Hub> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    // Read freshly: a list is replaced as a whole, by compare-and-swap.
    let Some(fresh) = api.get_opt(&hub.name_any()).await? else { return Ok(()) };
    let mut wishes = pending(&fresh);
    let uid = wish.uid.to_string();
    if wishes.iter().any(|known| known.topic_uid == uid) {
        return Ok(());
    }
    wishes.push(PendingDeletion {
        topic_uid: uid,
        topic_name: wish.name.clone(),
        object_name: object.name.clone(),
        object_uid: object.uid.clone(),
    });
    replace(&api, &fresh, &wishes).await
}

/// Carries out what was wished, now that the hub is back.
pub async fn carry_out(ctx: &Context, hub: &Hub) -> Result<(), Error> {
    if pending(hub).is_empty() {
        return Ok(());
    }
    let api: Api<Hub> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    let Some(fresh) = api.get_opt(&hub.name_any()).await? else { return Ok(()) };
    if fresh.uid() != hub.uid() {
        return Ok(());
    }
    let Some(link) = ctx.links.get(&hub_key(&fresh)) else { return Ok(()) };
    for wish in pending(&fresh) {
        let Some(uid) = Uuid::parse_str(&wish.topic_uid).ok().map(TopicUid) else { continue };
        let Some(entry) = link.synced(|mirror| mirror.by_uid(uid).cloned()) else { return Ok(()) };
        // Bound to another object since: the wish is void. Not bound at all: nobody was bound since either.
        let Some(entry) = entry.filter(|entry| !entry.deleted) else { continue };
        if entry.bound.as_ref().is_some_and(|bound| bound.uid != wish.object_uid) {
            continue;
        }
        let request = wire::DeleteTopicRequest {
            topic_uid: bytes_of(uid),
            expected_revision: Some(entry.revision),
            expected_bound_object: entry.bound.clone().map(Into::into),
            ..Default::default()
        };
        match link.delete(request).await {
            Ok(()) => {
                tracing::info!(hub = %link.key, topic = %wish.topic_name, "deleted a topic as was asked while the hub was away")
            }
            Err(error) => return Err(Error::Call(error)),
        }
    }
    replace(&api, &fresh, &[]).await
}

fn pending(hub: &Hub) -> Vec<PendingDeletion> {
    hub.status.as_ref().map(|status| status.pending_deletions.clone()).unwrap_or_default()
}

async fn replace(api: &Api<Hub>, hub: &Hub, wishes: &[PendingDeletion]) -> Result<(), Error> {
    let patch = json!({
        "metadata": {"uid": hub.uid(), "resourceVersion": hub.resource_version()},
        "status": {"pendingDeletions": wishes},
    });
    api.patch_status(&hub.name_any(), &params(), &Patch::Merge(patch)).await?;
    Ok(())
}
