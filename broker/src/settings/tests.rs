//! Settings: the defaults hold, problems name their field.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn the_defaults_are_valid_and_listen_on_loopback() {
    let settings = BrokerSettings::default();
    settings.validate().unwrap();
    assert!(settings.listeners.client.ip().is_loopback());
    assert!(settings.listeners.operator.ip().is_loopback());
    assert!(settings.listeners.http.ip().is_loopback());
}

#[test]
fn a_bad_value_is_refused_with_its_path() {
    let mut settings = BrokerSettings::default();
    settings.hub.wal.budget_bytes = 1;
    let error = settings.validate().unwrap_err();
    assert_eq!(error.field, "hub.wal.budget_bytes");
    assert!(error.to_string().contains("268435456"), "{error}");

    let mut settings = BrokerSettings::default();
    settings.limits.max_compression_ratio = 1;
    assert_eq!(settings.validate().unwrap_err().field, "limits.max_compression_ratio");
}

#[test]
fn a_log_whose_files_are_too_small_for_the_largest_batch_is_refused() {
    let mut settings = BrokerSettings::default();
    settings.hub.wal.file_bytes = 1 << 20;
    settings.hub.wal.control_reserve_bytes = 1 << 20;
    let error = settings.validate().unwrap_err();
    assert_eq!(error.field, "limits.max_message_bytes");
    assert!(error.to_string().contains("hub.wal.file_bytes"), "{error}");
    settings.limits.max_message_bytes = 256 << 10;
    settings.validate().unwrap();
    settings.hub.wal.file_bytes = (1 << 20) + 1;
    assert_eq!(settings.validate().unwrap_err().field, "hub.wal.file_bytes");
}
