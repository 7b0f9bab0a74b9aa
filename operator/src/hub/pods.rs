//! What a pod's and a volume claim's state means, and when a pod is replaced. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use tidegate_crd::Hub;

use super::labels::{HUB_ID, HUB_UID};

/// Whether a pod's readiness probe says yes.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod is of an older template than its StatefulSet's, as far as the controller has seen that one. One that is going is not.
pub fn is_outdated(pod: Option<&Pod>, workload: Option<&StatefulSet>) -> bool {
    let (Some(pod), Some(workload)) = (pod, workload) else { return false };
    let Some(status) = workload.status.as_ref() else { return false };
    // The controller has to have seen the newest template, or the revision would be the one before.
    if pod.metadata.deletion_timestamp.is_some() || status.observed_generation != workload.metadata.generation {
        return false;
    }
    let present = pod.labels().get("controller-revision-hash");
    present.zip(status.update_revision.as_ref()).is_some_and(|(present, wanted)| present != wanted)
}

/// Why the volume claim must not be used, if so: a new Hub never starts on another hub's volume by accident.
pub fn claim_problem(hub: &Hub, claim: Option<&PersistentVolumeClaim>) -> Option<String> {
    let claim = claim?;
    let made_for = claim.labels().get(HUB_UID)?;
    if Some(made_for) == hub.uid().as_ref() {
        return None;
    }
    let name = claim.name_any();
    match (claim.labels().get(HUB_ID), &hub.spec.restore_from) {
        (Some(id), Some(from)) if *id == from.hub_id => None,
        (Some(id), _) => Some(format!(
            "volume claim {name} holds hub {id}, which was here before: set spec.restoreFrom.hubId to {id} to take it up, or delete the claim"
        )),
        (None, _) => Some(format!(
            "volume claim {name} was made for a Hub that was here before and never served: delete the claim, or give this Hub another name"
        )),
    }
}

/// Why a pod does not serve, as far as the cluster says: one word and a sentence.
pub fn trouble(pod: &Pod, claim: Option<&PersistentVolumeClaim>) -> Option<(&'static str, String)> {
    if is_ready(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let unscheduled =
        status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let why = condition.message.clone().unwrap_or_default();
        if let Some(problem) = claim.and_then(|claim| unbound(claim, &why)) {
            return Some(("VolumeNotBound", problem));
        }
        return Some(("Unschedulable", format!("no node takes pod {}: {why}", pod.name_any())));
    }
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(|container| container_trouble(pod, container))
}

/// What the scheduler says of a claim that gets no volume tells nobody which class it waits for.
fn unbound(claim: &PersistentVolumeClaim, why: &str) -> Option<String> {
    let is_pending = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
    if !is_pending || !(why.contains("unbound immediate PersistentVolumeClaims") || why.contains("storageclass")) {
        return None;
    }
    let name = claim.name_any();
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    Some(match class.filter(|class| !class.is_empty()) {
        Some(class) => format!(
            "volume claim {name} gets no volume: storage class `{class}` (spec.brokers.storage.className) does not exist or makes none; see kubectl get storageclass, and kubectl describe pvc {name}"
        ),
        None => format!(
            "volume claim {name} gets no volume: the cluster has no default storage class; name one in spec.brokers.storage.className of a new Hub"
        ),
    })
}

fn container_trouble(pod: &Pod, container: &ContainerStatus) -> Option<(&'static str, String)> {
    let state = container.state.as_ref()?;
    let ended = |end: &k8s_openapi::api::core::v1::ContainerStateTerminated| {
        let said = end.message.as_deref().unwrap_or("it said nothing").trim().lines().last().unwrap_or_default().to_owned();
        format!("{} ended with code {}: {}", container.name, end.exit_code, shortened(&said))
    };
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.clone().unwrap_or_default();
        return match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                Some(("ImageNotPulled", format!("image {} cannot be pulled: {message}", container.image)))
            }
            "CreateContainerConfigError" | "CreateContainerError" => {
                Some(("ConfigurationMissing", format!("{}: {message}", pod.name_any())))
            }
            "CrashLoopBackOff" => {
                let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
                Some(("BrokerFails", last.map_or(message, ended)))
            }
            _ => None,
        };
    }
    state.terminated.as_ref().filter(|end| end.exit_code != 0).map(|end| ("BrokerFails", ended(end)))
}

fn shortened(text: &str) -> String {
    text.chars().take(600).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
    use serde_json::{Value, json};

    use super::trouble;

    fn unscheduled(why: &str) -> Pod {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
        serde_json::from_value(json!({"metadata": {"name": "hub-broker-1-0"}, "status": {"conditions": [condition]}})).unwrap()
    }

    fn claim(class: &Value, phase: &str) -> PersistentVolumeClaim {
        let claim =
            json!({"metadata": {"name": "hub-broker-1"}, "spec": {"storageClassName": class}, "status": {"phase": phase}});
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn a_claim_without_a_volume_names_its_class() {
        let pod = unscheduled("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found");
        let (reason, message) = trouble(&pod, Some(&claim(&json!("fast"), "Pending"))).unwrap();
        assert_eq!(reason, "VolumeNotBound");
        assert!(message.contains("storage class `fast`"), "{message}");
        let (_, message) = trouble(&pod, Some(&claim(&Value::Null, "Pending"))).unwrap();
        assert!(message.contains("no default storage class"), "{message}");
    }

    #[test]
    fn other_reasons_keep_the_schedulers_words() {
        let pod = unscheduled("0/2 nodes are available: 2 Insufficient cpu.");
        let (reason, message) = trouble(&pod, Some(&claim(&json!("fast"), "Pending"))).unwrap();
        assert_eq!(reason, "Unschedulable");
        assert!(message.contains("Insufficient cpu"), "{message}");
        let bound = unscheduled("pod has unbound immediate PersistentVolumeClaims");
        assert_eq!(trouble(&bound, Some(&claim(&json!("fast"), "Bound"))).unwrap().0, "Unschedulable");
    }
}
