//! The objects that a hub should have, but for its pods' (see [`super::workload`]). Pure. Which brokers there are is [`super::fleet`]'s to say.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use serde_json::{Value, json};
use tidegate_crd::Hub;
use tidegate_crd::hub::{Exposure, Listener};

use super::labels::{BROKER, HUB_UID, Names, kept, owned, selector};
use super::{config, workload};
use crate::catalog::network::OPERATOR_PORT;
use crate::error::Error;
use crate::settings::Settings;

/// All objects of a hub.
#[derive(Clone, Debug)]
pub struct Objects {
    /// Who the pods are; it has no rights.
    pub service_account: ServiceAccount,
    /// The brokers' settings file.
    pub config: ConfigMap,
    /// Names for pods, also for those that are not ready.
    pub headless: Service,
    /// Those that serve, for a broker that comes in.
    pub peers: Service,
    /// One for each listener.
    pub services: Vec<Service>,
    /// How many pods a drain may take at a time.
    pub budget: PodDisruptionBudget,
    /// Who may talk to whom.
    pub network_policy: NetworkPolicy,
    /// The brokers' volumes, by number; they stay when the hub goes.
    pub claims: Vec<PersistentVolumeClaim>,
    /// The brokers, by number.
    pub workloads: Vec<StatefulSet>,
}

/// The brokers that a hub should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crew {
    /// Their numbers.
    pub brokers: Vec<u32>,
    /// The one that makes the hub where there is none, or rebuilds it; the others come into it.
    pub founder: u32,
    /// Pods that a drain of nodes may take at a time.
    pub may_leave: u32,
}

impl Crew {
    /// The first broker alone.
    pub fn alone() -> Crew {
        Crew { brokers: vec![super::labels::FIRST], founder: super::labels::FIRST, may_leave: 1 }
    }
}

/// What a hub should have.
pub fn plan(hub: &Hub, settings: &Settings, public_key: &str, crew: &Crew) -> Result<Objects, Error> {
    let config = config_map(hub, public_key)?;
    let workload = |broker: &u32| workload::stateful_set(hub, settings, &config, *broker, *broker == crew.founder);
    let workloads = crew.brokers.iter().map(workload).collect::<Result<_, _>>()?;
    Ok(Objects {
        service_account: ServiceAccount {
            metadata: owned(hub, Names::of(hub).brokers()),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        headless: headless(hub)?,
        peers: peers(hub)?,
        services: hub
            .spec
            .listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| service(hub, index, listener))
            .collect::<Result<_, _>>()?,
        budget: budget(hub, crew.may_leave)?,
        network_policy: network_policy(hub, settings)?,
        claims: crew.brokers.iter().map(|broker| claim(hub, *broker)).collect::<Result<_, _>>()?,
        config,
        workloads,
    })
}

/// Reads an object written as JSON; a mistake there is found by the tests of this file's snapshots.
pub(super) fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(Error::Serialisation)
}

fn config_map(hub: &Hub, public_key: &str) -> Result<ConfigMap, Error> {
    let text = config::settings(hub, public_key)?;
    Ok(ConfigMap {
        metadata: owned(hub, Names::of(hub).brokers()),
        data: Some([(config::FILE.to_owned(), text)].into()),
        ..ConfigMap::default()
    })
}

fn headless(hub: &Hub) -> Result<Service, Error> {
    typed(json!({
        "metadata": owned(hub, Names::of(hub).brokers()),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": selector(hub),
            "ports": [
                {"name": "grpc", "port": config::CLIENT_PORT, "targetPort": "client", "appProtocol": "kubernetes.io/h2c"},
                {"name": "http", "port": config::HTTP_PORT, "targetPort": "http"},
                {"name": "peer", "port": config::PEER_PORT, "targetPort": "peer", "appProtocol": "kubernetes.io/h2c"},
            ],
        },
    }))
}

/// A broker that comes in is not ready, so it does not find itself.
fn peers(hub: &Hub) -> Result<Service, Error> {
    typed(json!({
        "metadata": owned(hub, Names::of(hub).peers()),
        "spec": {
            "clusterIP": "None",
            "selector": selector(hub),
            "ports": [{"name": "peer", "port": config::PEER_PORT, "targetPort": "peer", "appProtocol": "kubernetes.io/h2c"}],
        },
    }))
}

fn service(hub: &Hub, index: usize, listener: &Listener) -> Result<Service, Error> {
    let mut metadata = owned(hub, Names::of(hub).listener(index, &listener.name));
    metadata.annotations = (!listener.annotations.is_empty()).then(|| listener.annotations.clone());
    let mut port =
        json!({"name": listener.name, "port": listener.port, "targetPort": "client", "appProtocol": "kubernetes.io/h2c"});
    if let Some(node_port) = listener.node_port {
        port["nodePort"] = json!(node_port);
    }
    let mut spec = json!({"type": listener.exposure.service_type(), "selector": selector(hub), "ports": [port]});
    if listener.exposure == Exposure::LoadBalancer {
        spec["externalTrafficPolicy"] = json!("Local");
    }
    typed(json!({"metadata": metadata, "spec": spec}))
}

fn budget(hub: &Hub, may_leave: u32) -> Result<PodDisruptionBudget, Error> {
    typed(json!({
        "metadata": owned(hub, Names::of(hub).brokers()),
        "spec": {"maxUnavailable": may_leave, "selector": {"matchLabels": selector(hub)}},
    }))
}

/// Clients come from anywhere; only the operator comes to its port, and only brokers to theirs. Brokers reach each other, name servers, the object
/// store and the collector, by port.
fn network_policy(hub: &Hub, settings: &Settings) -> Result<NetworkPolicy, Error> {
    let mut outward = vec![json!({"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]})];
    let mut ports: Vec<u16> = Vec::new();
    let s3 = hub.spec.object_store.s3.as_ref();
    ports.extend(s3.map(|s3| s3.endpoint.as_deref().map_or(443, port_of)));
    if s3.and_then(|s3| s3.credentials.as_ref()).is_some_and(|credentials| credentials.web_identity.is_some()) {
        ports.push(443);
    }
    ports.extend(hub.spec.observability.otlp_endpoint.as_deref().map(port_of));
    ports.sort_unstable();
    ports.dedup();
    let peer = json!([{"protocol": "TCP", "port": config::PEER_PORT}]);
    let brokers = json!([{"podSelector": {"matchLabels": selector(hub)}}]);
    outward.push(json!({"ports": peer, "to": brokers}));
    outward.push(json!({"ports": ports.iter().map(|port| json!({"protocol": "TCP", "port": port})).collect::<Vec<_>>()}));
    typed(json!({
        "metadata": owned(hub, Names::of(hub).brokers()),
        "spec": {
            "podSelector": {"matchLabels": selector(hub)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"ports": [{"protocol": "TCP", "port": config::CLIENT_PORT}]},
                {"ports": [{"protocol": "TCP", "port": config::HTTP_PORT}], "from": [{"namespaceSelector": {}}]},
                {"ports": peer, "from": brokers},
                {"ports": [{"protocol": "TCP", "port": OPERATOR_PORT}], "from": [{
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.lease_namespace}},
                    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "tidegate-operator"}},
                }]},
            ],
            "egress": outward,
        },
    }))
}

/// The port of a URL.
fn port_of(url: &str) -> u16 {
    let default = if url.starts_with("http://") { 80 } else { 443 };
    url.parse::<http::Uri>().ok().and_then(|uri| uri.port_u16()).unwrap_or(default)
}

fn claim(hub: &Hub, broker: u32) -> Result<PersistentVolumeClaim, Error> {
    let mut metadata = kept(hub, Names::of(hub).workload(broker));
    if let Some(labels) = &mut metadata.labels {
        labels.insert(BROKER.to_owned(), broker.to_string());
        labels.insert(HUB_UID.to_owned(), hub.uid().unwrap_or_default());
    }
    let storage = &hub.spec.brokers.storage;
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage.size.as_ref()}}});
    if let Some(class) = &storage.class_name {
        spec["storageClassName"] = json!(class);
    }
    typed(json!({"metadata": metadata, "spec": spec}))
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
