//! Clients that nobody here wrote, against a real hub: Python's grpcio and grpcurl go through every service that clients have.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::process::Command;

use support::{Hub, HubOptions, repository, succeed, tool, tools};

#[test]
fn python_and_grpcurl_make_write_read_and_are_told_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(folder.path(), &HubOptions::default());
    let clients = repository().join("tests/clients");
    let python = tools().join("venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `bash deploy/setup.sh tests`", python.display());
    succeed(Command::new(python).arg(clients.join("roundtrip.py")).args([&hub.client, "5000"]));
    succeed(Command::new("bash").arg(clients.join("grpcurl.sh")).arg(&hub.client));

    // Errors print with their details, for the reflection service knows their types.
    let mut command = Command::new(tool("grpcurl"));
    command.args(["-plaintext", "-d", r#"{"name":"nowhere"}"#, &hub.client, "tidegate.v1.TopicService/DeleteTopic"]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    for expected in ["NotFound", "google.rpc.ErrorInfo", "UNKNOWN_TOPIC", "tidegate.dev"] {
        assert!(text.contains(expected), "no {expected} in: {text}");
    }
    hub.process.terminate();
}
