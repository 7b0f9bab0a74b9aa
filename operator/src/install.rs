//! What the chart's hooks have the program do: bring definitions up to date before an upgrade, stop the operator before an uninstall.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

/// Field manager of the definitions.
const MANAGER: &str = "tidegate-crds";
/// Time between two looks at the operator's pods, and how many looks are taken: a pod has 20 s to stop.
const LOOK: (Duration, u32) = (Duration::from_millis(500), 90);

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The API server.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// The operator's pods stay.
    #[error("pods of Deployment {deployment} are still there after {seconds} s: delete them, and run this again")]
    StillThere {
        /// NAMESPACE/NAME.
        deployment: String,
        /// How long was waited.
        seconds: u64,
    },
}

/// Brings the installed definitions to those of this program; answers their names. Fields of ours that others changed are set back.
pub async fn apply_definitions(client: &Client) -> Result<Vec<String>, InstallError> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut names = Vec::new();
    for definition in tidegate_crd::generate::definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&definition)).await?;
        names.push(name);
    }
    Ok(names)
}

/// Scales the operator's Deployment to nothing and waits until its pods have gone: a running one would put finalizers back.
pub async fn stop(client: &Client, namespace: &str, name: &str) -> Result<(), InstallError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let deployment = match deployments.patch(name, &PatchParams::default(), &patch).await {
        Ok(deployment) => deployment,
        // Nothing runs that would have to stop.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let labels = deployment.spec.selector.match_labels.unwrap_or_default();
    let selector = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for _ in 0..LOOK.1 {
        if pods.list(&ListParams::default().labels(&selector)).await?.items.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(LOOK.0).await;
    }
    Err(InstallError::StillThere { deployment: format!("{namespace}/{name}"), seconds: u64::from(LOOK.1) * 500 / 1000 })
}
