//! Names and labels of a hub's objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use kube::{Resource, ResourceExt};
use tidegate_crd::Hub;

/// The Hub that an object belongs to, by name.
pub const HUB: &str = "tidegate.dev/hub";
/// The identity of the hub whose data a volume holds.
pub const HUB_ID: &str = "tidegate.dev/hub-id";
/// Uid of the Hub object that a volume was made for.
pub const HUB_UID: &str = "tidegate.dev/hub-uid";
/// The broker's number.
pub const BROKER: &str = "tidegate.dev/broker";
/// Field manager of the label that says whose data a volume holds: a server-side apply of the rest must not take it off.
pub const IDENTITY_MANAGER: &str = "tidegate-identity";
/// Selects everything that the operator made.
pub const SELECTOR: &str = "app.kubernetes.io/managed-by=tidegate-operator";

/// Number of a hub's first broker, which makes the hub; all others come into it.
pub const FIRST: u32 = 1;

/// Names of a hub's objects.
pub struct Names<'a> {
    hub: &'a str,
}

impl<'a> Names<'a> {
    /// Of a hub.
    pub fn of(hub: &'a Hub) -> Names<'a> {
        Names { hub: hub.metadata.name.as_deref().unwrap_or_default() }
    }

    /// A broker's StatefulSet and volume claim.
    pub fn workload(&self, broker: u32) -> String {
        format!("{}-broker-{broker}", self.hub)
    }

    /// A broker's pod.
    pub fn pod(&self, broker: u32) -> String {
        format!("{}-0", self.workload(broker))
    }

    /// The broker whose StatefulSet or volume claim has this name.
    pub fn broker(&self, workload: &str) -> Option<u32> {
        workload.strip_prefix(self.hub)?.strip_prefix("-broker-")?.parse().ok().filter(|id| *id > 0)
    }

    /// The headless Service by which a new broker finds those that serve.
    pub fn peers(&self) -> String {
        format!("{}-peers", self.hub)
    }

    /// The headless Service, and ConfigMap and ServiceAccount.
    pub fn brokers(&self) -> String {
        format!("{}-brokers", self.hub)
    }

    /// The Service of a listener: the first one has the hub's name.
    pub fn listener(&self, index: usize, name: &str) -> String {
        if index == 0 { self.hub.to_owned() } else { format!("{}-{name}", self.hub) }
    }
}

/// Labels that select a hub's pods.
pub fn selector(hub: &Hub) -> BTreeMap<String, String> {
    BTreeMap::from([("app.kubernetes.io/name".to_owned(), "tidegate-broker".to_owned()), (HUB.to_owned(), hub.name_any())])
}

/// Labels of a hub's objects.
pub fn labels(hub: &Hub) -> BTreeMap<String, String> {
    let mut labels = selector(hub);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "tidegate-operator".to_owned());
    labels.insert("app.kubernetes.io/part-of".to_owned(), "tidegate".to_owned());
    labels.insert("app.kubernetes.io/instance".to_owned(), hub.name_any());
    labels
}

/// Metadata of an object that goes with the hub.
pub fn owned(hub: &Hub, name: String) -> ObjectMeta {
    ObjectMeta { owner_references: owner(hub).map(|owner| vec![owner]), ..kept(hub, name) }
}

/// Metadata of an object that stays when the hub goes.
pub fn kept(hub: &Hub, name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: hub.namespace(), labels: Some(labels(hub)), ..ObjectMeta::default() }
}

fn owner(hub: &Hub) -> Option<OwnerReference> {
    hub.controller_owner_ref(&())
}
