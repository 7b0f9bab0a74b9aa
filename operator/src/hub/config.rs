//! The brokers' settings file, one for all of a hub; what differs from broker to broker comes as variables of its pod. Pure. Field names are the
//! broker's own; its parser refuses unknown ones, and a test feeds it this file.

use kube::ResourceExt;
use serde_json::{Map, Value, json};
use tidegate_crd::Hub;
use tidegate_crd::hub::{Addressing, LogFormat};
use tidegate_crd::quantity::parse_bytes;

use crate::error::Error;

/// Where the file is mounted.
pub const FOLDER: &str = "/etc/tidegate";
/// The file.
pub const FILE: &str = "settings.toml";
/// Where the volume is mounted.
pub const DATA: &str = "/var/lib/tidegate";
/// The port of HTTP for metrics and probes.
pub const HTTP_PORT: u16 = 7173;
/// The port of the brokers' client listener; Services map their own ports to it.
pub const CLIENT_PORT: u16 = 7171;
/// The port of the brokers' listener for each other.
pub const PEER_PORT: u16 = 7174;

/// Bytes of the volume, whatever is written in the object.
fn volume_bytes(hub: &Hub) -> u64 {
    parse_bytes(hub.spec.brokers.storage.size.as_ref()).ok().flatten().unwrap_or(10 << 30)
}

/// The keys of a hub begin so: its own, or its namespace and name.
pub fn prefix(hub: &Hub) -> String {
    let own = hub.spec.object_store.s3.as_ref().and_then(|s3| s3.prefix.clone());
    own.unwrap_or_else(|| format!("{}/{}", hub.namespace().unwrap_or_default(), hub.name_any()))
}

/// The settings file as TOML.
pub fn settings(hub: &Hub, public_key: &str) -> Result<String, Error> {
    let spec = &hub.spec;
    let volume = volume_bytes(hub);
    // The log may take half of the volume; the block cache a tenth; the rest is for checkpoints and air.
    let mut hub_settings = json!({
        "data_dir": DATA,
        "store_prefix": prefix(hub),
        "wal": {"budget_bytes": volume / 2},
        "tier": {"cache_disk_bytes": volume / 10},
    });
    set(&mut hub_settings, "journals", spec.journals.map(|n| json!(n)));
    set(&mut hub_settings, "max_partitions", spec.limits.max_partitions.map(|n| json!(n)));
    let mut limits = json!({});
    set(&mut limits, "max_connections", spec.limits.max_connections.map(|n| json!(n)));
    let message = spec.limits.max_message_bytes.as_ref().and_then(|size| parse_bytes(size.as_ref()).ok().flatten());
    set(&mut limits, "max_message_bytes", message.map(|bytes| json!(bytes)));
    let mut telemetry = json!({
        "log_format": match spec.observability.log_format { LogFormat::Json => "json", LogFormat::Text => "text" },
    });
    set(&mut telemetry, "log_filter", spec.observability.log_filter.as_ref().map(|filter| json!(filter)));
    set(&mut telemetry, "otlp_endpoint", spec.observability.otlp_endpoint.as_ref().map(|endpoint| json!(endpoint)));
    let grace = spec.brokers.template.termination_grace_period_seconds.unwrap_or(60);
    let document = json!({
        "shutdown_deadline_ms": (grace - 3).max(1) * 1000,
        "hub": hub_settings,
        "object_store": object_store(hub),
        "listeners": {
            "client": format!("0.0.0.0:{CLIENT_PORT}"),
            "operator": format!("0.0.0.0:{}", crate::catalog::network::OPERATOR_PORT),
            "http": format!("0.0.0.0:{HTTP_PORT}"),
            "peer": format!("0.0.0.0:{PEER_PORT}"),
        },
        "limits": limits,
        "operator": {"public_key": public_key},
        "telemetry": telemetry,
    });
    Ok(toml::to_string(&document)?)
}

fn object_store(hub: &Hub) -> Value {
    let Some(s3) = &hub.spec.object_store.s3 else { return json!({}) };
    let mut settings = json!({"bucket": s3.bucket, "path_style": s3.addressing == Addressing::Path});
    set(&mut settings, "endpoint", s3.endpoint.as_ref().map(|endpoint| json!(endpoint)));
    set(&mut settings, "region", s3.region.as_ref().map(|region| json!(region)));
    json!({"s3": settings})
}

fn set(object: &mut Value, field: &str, value: Option<Value>) {
    let fields: Option<&mut Map<String, Value>> = object.as_object_mut();
    if let (Some(fields), Some(value)) = (fields, value) {
        fields.insert(field.to_owned(), value);
    }
}
