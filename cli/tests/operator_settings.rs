//! The settings files that the operator writes (its committed snapshots) are read by the command that brokers run.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::path::Path;
use std::process::Command;

#[test]
fn every_settings_file_of_the_operator_is_one_that_a_broker_starts_with() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../operator/tests/snapshots");
    let mut read = 0;
    for file in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["config", "--config", file.to_str().unwrap(), "--output", "json"])
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
        let settings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(settings["hub"]["data_dir"], "/var/lib/tidegate");
        let is_full = file.file_name().unwrap() == "full.settings.toml";
        assert_eq!(settings["telemetry"]["log_format"], if is_full { "text" } else { "json" });
        read += 1;
    }
    assert!(read >= 3, "{read} files were found in {}", folder.display());
}
