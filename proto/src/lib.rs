//! The gRPC interface of Tidegate as Rust: generated messages, services and clients of `tidegate.v1` and
//! `tidegate.operator.v1`, errors with `google.rpc.ErrorInfo`, and conversions to and from the words of `tidegate-model`.
//!
//! It knows no transport settings, no hub and no clock. Field documentation is in the .proto files; it is the authority
//! for units, ranges and defaults.

pub mod convert;
pub mod errors;
pub mod framing;
pub mod token;

/// Package `tidegate.v1`: what clients speak.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("tidegate.v1");

    /// The serialised `FileDescriptorSet` of this package and its imports, for the reflection service.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate_v1.bin"));
}

/// Package `tidegate.operator.v1`: what the Kubernetes operator speaks, on a port of its own.
pub mod operator {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tidegate.operator.v1");

        /// The serialised `FileDescriptorSet` of this package and its imports, for the reflection service.
        pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tidegate_operator_v1.bin"));
    }
}

/// Package `tidegate.peer.v1`: what brokers speak among themselves, on a port of its own.
pub mod peer {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tidegate.peer.v1");
    }
}

/// What brokers of one hub ask of each other.
pub mod internal {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tidegate.internal.v1");
    }
}
