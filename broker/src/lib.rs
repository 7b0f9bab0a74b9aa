//! One broker: the hub (journals, tierer, retention), and the edges over it (gRPC, HTTP).
//!
//! Everything below the edges takes time, randomness, threads, disk and object store from outside, so that a whole hub runs in a
//! simulation. It knows no command line and no Kubernetes.

pub mod settings;
