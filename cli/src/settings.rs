//! Where a server's settings come from: defaults, then a TOML file, then the environment, then flags.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tidegate_broker::settings::{BrokerSettings, ObjectStoreSettings};
use tidegate_crd::fields::nearest;
use toml::{Table, Value};

use crate::args::ServerArgs;
use crate::telemetry::TelemetrySettings;

/// Variables that begin so are settings: `TIDEGATE_SET_hub__journals=8` is `hub.journals = 8`.
const VARIABLE_PREFIX: &str = "TIDEGATE_SET_";

/// Everything that a server process is told.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ServerSettings {
    /// The broker.
    #[serde(flatten)]
    pub(crate) broker: BrokerSettings,
    /// Logs, traces, metrics.
    pub(crate) telemetry: TelemetrySettings,
}

/// Reads and checks settings. Without a file or flag that names an object store, a directory beside the data is taken.
pub(crate) fn load(args: &ServerArgs, variables: impl Iterator<Item = (String, String)>) -> Result<ServerSettings> {
    let mut table = match &args.config {
        None => Table::new(),
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
            text.parse().with_context(|| format!("{} is not TOML", path.display()))?
        }
    };
    let mut from_environment: Vec<(String, String)> =
        variables.filter_map(|(name, value)| Some((name.strip_prefix(VARIABLE_PREFIX)?.replace("__", "."), value))).collect();
    from_environment.sort();
    for (name, value) in from_environment {
        assign(&mut table, &name, &value).with_context(|| format!("variable {VARIABLE_PREFIX}{}", name.replace('.', "__")))?;
    }
    for setting in &args.set {
        let (name, value) = setting.split_once('=').with_context(|| format!("--set {setting}: write NAME=VALUE"))?;
        assign(&mut table, name.trim(), value.trim()).with_context(|| format!("--set {setting}"))?;
    }
    if let Some(data_dir) = &args.data_dir {
        let text = data_dir.to_str().context("--data-dir is not UTF-8")?;
        insert(&mut table, "hub.data_dir", Value::String(text.to_owned()))?;
    }
    let store_is_named = table.contains_key("object_store");
    let telemetry: TelemetrySettings = match table.remove("telemetry") {
        None => TelemetrySettings::default(),
        Some(value) => value.try_into().map_err(|error: toml::de::Error| explain(&error, "telemetry."))?,
    };
    let mut broker: BrokerSettings = Value::Table(table).try_into().map_err(|error: toml::de::Error| explain(&error, ""))?;
    if !store_is_named {
        broker.object_store = ObjectStoreSettings::Directory { path: beside(&broker.hub.data_dir) };
    }
    broker.validate()?;
    Ok(ServerSettings { broker, telemetry })
}

/// `tidegate-data` -> `tidegate-data-objects`: not below the data, which could be lost while the objects must stay.
fn beside(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
    name.push("-objects");
    data_dir.with_file_name(name)
}

/// Sets one value by its dotted name; the value is TOML (`8`, `true`, `[1]`) or else plain text.
fn assign(table: &mut Table, name: &str, text: &str) -> Result<()> {
    let value = format!("value = {text}").parse::<Table>().ok().and_then(|mut parsed| parsed.remove("value"));
    insert(table, name, value.unwrap_or_else(|| Value::String(text.to_owned())))
}

fn insert(table: &mut Table, name: &str, value: Value) -> Result<()> {
    let mut parts: Vec<&str> = name.split('.').collect();
    let last = parts.pop().filter(|last| !last.is_empty()).context("a setting needs a name such as `hub.journals`")?;
    let mut at = table;
    for part in parts {
        let below = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(below) = below else { bail!("`{part}` in `{name}` is a value, not a group of settings") };
        at = below;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// Serde's message behind the setting's whole name, with the known name that is nearest to an unknown one.
fn explain(error: &toml::de::Error, prefix: &str) -> anyhow::Error {
    let text = error.to_string();
    // toml ends its text with a line "in `hub.wal`".
    let (message, place) = match text.trim_end().rsplit_once("\nin `") {
        Some((message, place)) => (message, place.trim_end_matches('`')),
        None => (text.trim_end(), ""),
    };
    let group = [prefix.trim_end_matches('.'), place].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((unknown, known)) if message.starts_with("unknown field") => {
            let full = |name: &str| if group.is_empty() { name.to_owned() } else { format!("{group}.{name}") };
            let hint = nearest(unknown, known.iter().copied()).map(|meant| format!("; did you mean `{}`?", full(meant)));
            let message = message.replacen(unknown, &full(unknown), 1);
            anyhow::anyhow!("settings: {message}{}", hint.unwrap_or_default())
        }
        _ if group.is_empty() => anyhow::anyhow!("settings: {message}"),
        _ if message.starts_with("invalid type: string") && !message.contains("a string") => {
            anyhow::anyhow!("settings: `{group}`: {message}: write a plain number; sizes are in bytes, times in milliseconds")
        }
        _ => anyhow::anyhow!("settings: `{group}`: {message} (`tidegate config` shows it as it is now or by default)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(set: &[&str]) -> ServerArgs {
        ServerArgs { config: None, set: set.iter().map(|text| (*text).to_owned()).collect(), data_dir: None }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.toml");
        std::fs::write(&path, "[hub]\njournals = 2\nbroker_id = 5\n[hub.tier]\nuploads = 3\n").unwrap();
        let mut args = args(&["hub.journals=8"]);
        args.config = Some(path);
        let variables = [
            ("TIDEGATE_SET_hub__journals".to_owned(), "4".to_owned()),
            ("TIDEGATE_SET_hub__broker_id".to_owned(), "6".to_owned()),
        ];
        let settings = load(&args, variables.into_iter()).unwrap();
        let hub = settings.broker.hub;
        assert_eq!((hub.journals, hub.broker_id, hub.tier.uploads), (8, 6, 3));
    }

    #[test]
    fn the_object_store_lies_beside_the_data_unless_named() {
        let mut args = args(&[]);
        args.data_dir = Some("/x".into());
        let settings = load(&args, std::iter::empty()).unwrap();
        assert_eq!(settings.broker.object_store, ObjectStoreSettings::Directory { path: "/x-objects".into() });
        let settings = load(&super::tests::args(&["object_store.s3.bucket=events"]), std::iter::empty()).unwrap();
        assert!(matches!(settings.broker.object_store, ObjectStoreSettings::S3(_)));
    }

    #[test]
    fn a_wrong_setting_is_named_with_the_way_out() {
        for (set, expected) in [
            ("hub.jurnals=8", "did you mean `hub.journals`?"),
            ("hub.wal.file_byte=8", "unknown field `hub.wal.file_byte`"),
            ("hubb.journals=8", "did you mean `hub`?"),
            ("hub.journals=0", "hub.journals"),
            ("hub.journals=many", "`hub.journals`: invalid type"),
            ("listeners.client=here", "`listeners.client`: invalid socket address"),
            ("telemetry.log_format=xml", "`telemetry.log_format`: unknown variant `xml`"),
            ("telemetry.log_formt=xml", "did you mean `telemetry.log_format`?"),
            ("hub.journals=-1", "journals"),
            ("hub.journals=65", "hub.journals`: 65 is not within 1 to 64"),
            ("hub.wal.file_bytes=0", "hub.wal.file_bytes"),
            ("hub.wal.file_bytes=64MiB", "sizes are in bytes"),
            ("hub.wal.budget_bytes=99999999999999999999", "budget_bytes"),
            ("hub.tier.seal_age_ms=10m", "times in milliseconds"),
            ("hub.tier.seal_age_ms=1", "hub.tier.seal_age_ms"),
            ("hub.wal.file_bytes=1048576", "raise hub.wal.file_bytes"),
            ("limits.max_in_flight_bytes=1000", "limits.max_in_flight_bytes"),
            ("limits.max_conections=5", "did you mean `limits.max_connections`"),
            ("operator.public_key=abc", "openssl pkey"),
            ("=3", "needs a name"),
        ] {
            let error = format!("{:#}", load(&args(&[set]), std::iter::empty()).unwrap_err());
            assert!(error.contains(expected), "{set}: {error}");
        }
    }

    #[test]
    fn what_config_prints_can_be_loaded_again() {
        let settings = load(&args(&["hub.journals=3"]), std::iter::empty()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.toml");
        std::fs::write(&path, toml::to_string_pretty(&settings).unwrap()).unwrap();
        let mut again = args(&[]);
        again.config = Some(path);
        assert_eq!(load(&again, std::iter::empty()).unwrap().broker, settings.broker);
    }
}
