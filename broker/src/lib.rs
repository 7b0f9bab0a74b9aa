//! One broker: the hub (journals, tierer, retention), and the edges over it (gRPC, HTTP).
//!
//! Everything below the edges takes time, randomness, threads, disk and object store from outside, so that a whole hub runs in a
//! simulation. It knows no command line and no Kubernetes.

mod chunks;
pub mod fleet;
mod grpc;
mod http;
pub mod hub;
pub mod identity;
pub mod metrics;
pub mod peers;
pub mod placement;
pub mod recover;
mod retention;
mod running;
pub mod settings;
pub mod stores;
mod tierer;

pub use hub::Hub;
pub use running::{RunningBroker, ServeError, serve, serve_with};
