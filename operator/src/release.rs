//! `tidegate-operator release`: takes our finalizers off Topics, so that an uninstalled operator traps no namespace. Deletes nothing.

use kube::api::{ListParams, Patch};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tidegate_crd::{Hub, Topic};

use crate::context::OPERATED_BY;
use crate::topic::params;
use crate::topic::plan::FINALIZER;

/// Releases all objects of a namespace, or of all; answers how many.
pub async fn release(client: &Client, namespace: Option<&str>) -> Result<usize, kube::Error> {
    let mut released = 0;
    let topics: Api<Topic> = namespace.map_or_else(|| Api::all(client.clone()), |name| Api::namespaced(client.clone(), name));
    for topic in topics.list(&ListParams::default()).await? {
        if !topic.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            continue;
        }
        let rest: Vec<&String> = topic.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = json!({"metadata": {"uid": topic.uid(), "resourceVersion": topic.resource_version(), "finalizers": rest}});
        let api: Api<Topic> = Api::namespaced(client.clone(), &topic.namespace().unwrap_or_default());
        api.patch(&topic.name_any(), &params(), &Patch::Merge(patch)).await?;
        released += 1;
    }
    // Another installation may take the hubs up.
    let hubs: Api<Hub> = namespace.map_or_else(|| Api::all(client.clone()), |name| Api::namespaced(client.clone(), name));
    for hub in hubs.list(&ListParams::default()).await? {
        if hub.annotations().contains_key(OPERATED_BY) {
            let patch = json!({"metadata": {"uid": hub.uid(), "annotations": {OPERATED_BY: null}}});
            let api: Api<Hub> = Api::namespaced(client.clone(), &hub.namespace().unwrap_or_default());
            api.patch(&hub.name_any(), &params(), &Patch::Merge(patch)).await?;
            released += 1;
        }
    }
    Ok(released)
}
