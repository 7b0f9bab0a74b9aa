//! Why a step could not be done; each is tried again.

use crate::catalog::CallError;

/// Why a reconciliation ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    /// A broker.
    #[error("the hub: {0}")]
    Call(#[source] CallError),
    /// Our own data.
    #[error("cannot write as JSON: {0}")]
    Serialisation(#[source] serde_json::Error),
    /// Our own data as TOML.
    #[error("cannot write the broker's settings: {0}")]
    Settings(#[from] toml::ser::Error),
}

impl Error {
    /// A label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Error::Kube(kube::Error::Api(status)) if status.code == 409 => "conflict",
            Error::Kube(kube::Error::Api(_)) => "api_refused",
            Error::Kube(_) => "api_unreachable",
            Error::Call(_) => "hub",
            Error::Serialisation(_) | Error::Settings(_) => "internal",
        }
    }
}
