//! Tidegate's Kubernetes objects as plain types (`tidegate.dev/v1alpha1`): what `kubectl apply` and `tidegate apply` both read.
//!
//! Owns the shape of manifests, their units (`7d`, `10Gi`, `unlimited`) and their checks. Knows nothing of an API server or a broker.

pub mod fields;
pub mod manifest;
pub mod quantity;
pub mod topic;

pub use manifest::{Manifest, ManifestError, ObjectMeta, parse_manifests};
pub use topic::{
    CleanupPolicy, DeletionPolicy, Management, ResolvedTopic, Retention, Sealing, TimestampType, TopicManifest, TopicSpec,
};

/// The API group and version of all objects here.
pub const API_VERSION: &str = "tidegate.dev/v1alpha1";
