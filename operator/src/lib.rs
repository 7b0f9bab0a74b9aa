//! Tidegate's Kubernetes operator: turns `Hub` and `Topic` objects into pods and topics, and reports what brokers measure.
//!
//! Each reconciler is a pipeline: read, decide (pure), act, report. It never is in the data path, and nothing that it does loses data by
//! absence: whatever destroys names a uid and rests on an object that asks for it.

pub mod backoff;
pub mod catalog;
pub mod client;
pub mod conditions;
pub mod context;
pub mod controller;
pub mod error;
pub mod http;
pub mod hub;
pub mod install;
pub mod key;
pub mod lease;
pub mod metrics;
pub mod reasons;
pub mod release;
pub mod settings;
pub mod telemetry;
pub mod topic;

/// Our field manager for server-side apply.
pub const FIELD_MANAGER: &str = "tidegate-operator";
