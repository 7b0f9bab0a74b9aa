//! Services of listeners that a Hub no longer has.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, ResourceExt};
use tidegate_crd::Hub;

use super::labels::{HUB, SELECTOR};
use super::objects::Objects;
use crate::context::Context;
use crate::error::Error;

/// Deletes Services that this very Hub owns and the plan does not have. A Service that somebody else made is never among them.
pub async fn services(ctx: &Context, hub: &Hub, plan: &Objects) -> Result<(), Error> {
    let api: Api<Service> = Api::namespaced(ctx.client.clone(), &hub.namespace().unwrap_or_default());
    let ours = ListParams::default().labels(&format!("{SELECTOR},{HUB}={}", hub.name_any()));
    for service in superfluous(hub, plan, api.list(&ours).await?.items) {
        let preconditions = Preconditions { uid: service.uid(), resource_version: service.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&service.name_any(), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn superfluous(hub: &Hub, plan: &Objects, found: Vec<Service>) -> Vec<Service> {
    let wanted: BTreeSet<String> = plan.services.iter().chain([&plan.headless, &plan.peers]).map(ResourceExt::name_any).collect();
    let is_owned = |service: &Service| {
        service.metadata.deletion_timestamp.is_none()
            && service.owner_references().iter().any(|owner| Some(&owner.uid) == hub.metadata.uid.as_ref())
    };
    found.into_iter().filter(|service| is_owned(service) && !wanted.contains(&service.name_any())).collect()
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use tidegate_crd::Hub;

    use super::superfluous;
    use crate::hub::objects::{Crew, plan};
    use crate::settings::Settings;

    fn hub(listeners: &serde_json::Value) -> Hub {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "tidegate.dev/v1alpha1", "kind": "Hub", "metadata": {"name": "hub", "namespace": "shop", "uid": "u-1"},
            "spec": {"objectStore": {"s3": {"bucket": "events"}}, "listeners": listeners},
        }))
        .unwrap()
    }

    fn settings() -> Settings {
        Settings {
            namespace: None,
            broker_image: "tidegate:1".to_owned(),
            metrics_listen: ([127, 0, 0, 1], 0).into(),
            lease_namespace: "system".to_owned(),
            lease_name: "operator".to_owned(),
            identity: "me".to_owned(),
            measure_seconds: 30,
            status_writes_per_second: 5,
            api_calls_per_second: 100,
            deletion_patience: None,
        }
    }

    #[test]
    fn only_own_services_of_removed_listeners_go() {
        let before = hub(&serde_json::json!([
            {"name": "grpc", "port": 7171, "plaintext": true},
            {"name": "public", "port": 9000, "plaintext": true, "exposure": "LoadBalancer"},
        ]));
        let after = hub(&serde_json::json!([{"name": "grpc", "port": 7171, "plaintext": true}]));
        let mut found = plan(&before, &settings(), "key", &Crew::alone()).unwrap().services;
        let mut foreign = found[1].clone();
        foreign.metadata.name = Some("hub-somebodys".to_owned());
        foreign.metadata.owner_references = None;
        let mut of_an_older_hub = found[1].clone();
        of_an_older_hub.metadata.name = Some("hub-older".to_owned());
        of_an_older_hub.owner_references_mut()[0].uid = "u-0".to_owned();
        found.extend([foreign, of_an_older_hub]);

        let gone = superfluous(&after, &plan(&after, &settings(), "key", &Crew::alone()).unwrap(), found.clone());
        assert_eq!(gone.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["hub-public"]);
        assert!(superfluous(&before, &plan(&before, &settings(), "key", &Crew::alone()).unwrap(), found).is_empty());
    }
}
