//! Tidegate's Kubernetes objects as plain types (`tidegate.dev/v1alpha1`): what `kubectl apply` and `tidegate apply` both read.
//!
//! Owns the shape of manifests, their units (`7d`, `10Gi`, `unlimited`) and their checks. Knows nothing of an API server or a broker.

#![cfg_attr(feature = "kubernetes", allow(unreachable_pub, reason = "the schemas are derived from copies within functions"))]

pub mod fields;
#[cfg(feature = "kubernetes")]
pub mod generate;
#[cfg(feature = "kubernetes")]
pub mod hub;
pub mod manifest;
pub mod quantity;
#[cfg(feature = "kubernetes")]
mod schema;
#[cfg(feature = "kubernetes")]
pub mod status;
pub mod topic;

#[cfg(feature = "kubernetes")]
pub use hub::{Hub, HubSpec};
pub use manifest::{Manifest, ManifestError, ObjectMeta, parse_manifests};
#[cfg(feature = "kubernetes")]
pub use status::{HubStatus, TopicStatus};
#[cfg(feature = "kubernetes")]
pub use topic::Topic;
pub use topic::{
    CleanupPolicy, DeletionPolicy, Management, ResolvedTopic, Retention, Sealing, TimestampType, TopicManifest, TopicSpec,
};

/// The API group and version of all objects here.
pub const API_VERSION: &str = "tidegate.dev/v1alpha1";
