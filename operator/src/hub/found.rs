//! What there is of a hub in the cluster, beside the object.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tidegate_crd::Hub;

use super::fleet::Broker;
use super::labels::{HUB, Names, SELECTOR};
use super::pods;
use crate::context::Context;
use crate::error::Error;

/// The taint by which somebody says that a node is gone for good.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The label by which volumes are bound to a node.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What there is of a hub, by the brokers' numbers.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// StatefulSets.
    pub workloads: BTreeMap<u32, StatefulSet>,
    /// Pods.
    pub pods: BTreeMap<u32, Pod>,
    /// Volume claims.
    pub claims: BTreeMap<u32, PersistentVolumeClaim>,
    /// Brokers whose volume can be reached from nodes only that are gone for good.
    pub lost: BTreeSet<u32>,
}

impl Found {
    /// As the plan wants it.
    pub fn brokers(&self) -> BTreeMap<u32, Broker> {
        let ids: BTreeSet<u32> = self.workloads.keys().chain(self.claims.keys()).chain(self.pods.keys()).copied().collect();
        let broker = |id: u32| Broker {
            has_workload: self.workloads.get(&id).is_some_and(|workload| workload.metadata.deletion_timestamp.is_none()),
            has_claim: self.claims.get(&id).is_some_and(|claim| claim.metadata.deletion_timestamp.is_none()),
            ready: self.pods.get(&id).is_some_and(pods::is_ready),
            outdated: pods::is_outdated(self.pods.get(&id), self.workloads.get(&id)),
            node_lost: self.lost.contains(&id),
            known: None,
        };
        ids.into_iter().map(|id| (id, broker(id))).collect()
    }
}

/// Reads it all.
pub async fn dereference(ctx: &Context, hub: &Hub) -> Result<Found, Error> {
    let namespace = hub.namespace().unwrap_or_default();
    let names = Names::of(hub);
    let workloads: Api<StatefulSet> = Api::namespaced(ctx.client.clone(), &namespace);
    let all_pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(ctx.client.clone(), &namespace);
    let ours = ListParams::default().labels(&format!("{SELECTOR},{HUB}={}", hub.name_any()));
    let (workloads, all_pods, claims) = tokio::join!(workloads.list(&ours), all_pods.list(&ours), claims.list(&ours));
    let of_pod = |pod: &Pod| names.broker(pod.metadata.name.as_deref()?.strip_suffix("-0")?);
    let mut found = Found {
        workloads: workloads?.into_iter().filter_map(|workload| Some((names.broker(&workload.name_any())?, workload))).collect(),
        pods: all_pods?.into_iter().filter_map(|pod| Some((of_pod(&pod)?, pod))).collect(),
        claims: claims?.into_iter().filter_map(|claim| Some((names.broker(&claim.name_any())?, claim))).collect(),
        lost: BTreeSet::new(),
    };
    // The only broker's volume is not given up for a node: its hub is recovered from the bucket, when somebody says so.
    if found.claims.len() > 1 {
        for (id, claim) in found.claims.iter().filter(|(id, _)| !found.pods.get(id).is_some_and(pods::is_ready)) {
            if is_lost(ctx, claim).await? {
                found.lost.insert(*id);
            }
        }
    }
    Ok(found)
}

/// Whether a volume can be reached from nodes only that are gone for good: deleted, or declared out of service. Without the right to look (an operator for one
/// namespace has none), nothing is taken for lost.
async fn is_lost(ctx: &Context, claim: &PersistentVolumeClaim) -> Result<bool, Error> {
    let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()) else { return Ok(false) };
    let volumes: Api<PersistentVolume> = Api::all(ctx.client.clone());
    let Some(volume) = allowed(volumes.get_opt(volume).await)?.flatten() else { return Ok(false) };
    let hosts = hosts(&volume);
    if hosts.is_empty() {
        return Ok(false);
    }
    let nodes: Api<Node> = Api::all(ctx.client.clone());
    for host in hosts {
        match allowed(nodes.get_opt(&host).await)? {
            Some(node) if node.as_ref().is_none_or(is_out_of_service) => {}
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// `None` if it may not be read.
fn allowed<T>(answer: Result<T, kube::Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The nodes that a volume is bound to; empty if it can be reached from anywhere, or is bound to something else than nodes.
fn hosts(volume: &PersistentVolume) -> Vec<String> {
    let affinity =
        volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()).and_then(|affinity| affinity.required.as_ref());
    let Some(affinity) = affinity else { return Vec::new() };
    let of_term = |term: &NodeSelectorTerm| {
        let named = term.match_expressions.iter().flatten().find(|rule| rule.key == HOSTNAME && rule.operator == "In");
        named.and_then(|rule| rule.values.clone()).unwrap_or_default()
    };
    let terms: Vec<Vec<String>> = affinity.node_selector_terms.iter().map(of_term).collect();
    // Terms are alternatives: one that names no node may be met by any.
    if terms.iter().any(Vec::is_empty) { Vec::new() } else { terms.concat() }
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(terms: &Value) -> PersistentVolume {
        serde_json::from_value(json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}})).unwrap()
    }

    #[test]
    fn a_volume_is_bound_to_nodes_only_if_each_alternative_names_some() {
        let host = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node2"]}]});
        let zone = json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a"]}]});
        assert_eq!(hosts(&volume(&json!([host]))), ["node2"]);
        assert!(hosts(&volume(&json!([host, zone]))).is_empty());
        assert!(hosts(&volume(&json!([]))).is_empty() && hosts(&PersistentVolume::default()).is_empty());
    }

    #[test]
    fn only_somebodys_word_takes_a_node_out_of_service() {
        let node = |taint: &str| -> Node {
            serde_json::from_value(json!({"spec": {"taints": [{"key": taint, "effect": "NoExecute"}]}})).unwrap()
        };
        assert!(is_out_of_service(&node(OUT_OF_SERVICE)));
        assert!(!is_out_of_service(&node("node.kubernetes.io/unreachable")));
    }
}
