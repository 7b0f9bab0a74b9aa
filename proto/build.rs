//! Compiles the .proto files without a system `protoc`, and keeps their descriptors for gRPC reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

/// What clients see; the reflection service of the client port shows exactly these.
const CLIENT_FILES: [&str; 7] = [
    "tidegate/v1/error.proto",
    "tidegate/v1/record.proto",
    "tidegate/v1/producer.proto",
    "tidegate/v1/consumer.proto",
    "tidegate/v1/group.proto",
    "tidegate/v1/metadata.proto",
    "tidegate/v1/topic.proto",
];
const OPERATOR_FILES: [&str; 2] = ["tidegate/operator/v1/operator.proto", "tidegate/operator/v1/cluster.proto"];
const PEER_FILES: [&str; 1] = ["tidegate/peer/v1/peer.proto"];
const INTERNAL_FILES: [&str; 1] = ["tidegate/internal/v1/fleet.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=tidegate");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let client = protox::compile(CLIENT_FILES, ["."])?;
    fs::write(out.join("tidegate_v1.bin"), client.encode_to_vec())?;
    let operator = protox::compile(OPERATOR_FILES, ["."])?;
    fs::write(out.join("tidegate_operator_v1.bin"), operator.encode_to_vec())?;

    let all = protox::compile(CLIENT_FILES.iter().chain(&OPERATOR_FILES).chain(&PEER_FILES).chain(&INTERNAL_FILES), ["."])?;
    // Payload fields are reference-counted slices of the received message: nothing is copied when they are decoded.
    tonic_prost_build::configure().bytes(".").compile_fds(all)?;
    Ok(())
}
