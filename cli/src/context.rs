//! A connection to a hub, answers for people or machines, and errors with exit codes.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tidegate_proto::errors::{Failure, Reason};
use tonic::transport::{Channel, Endpoint};

use crate::args::{Connection, Output};
use crate::output::{out, outln};

/// Receive windows for bulk reads: with tonic's defaults a stream is several times slower.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest answer that is taken; a fetch response of the hub has at most 50 MiB by default.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A failure that decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// What the person asked for cannot be meant so.
    #[error("{0}")]
    Usage(String),
    /// The hub is going down.
    #[error("the hub is shutting down: run the command again when it is back")]
    Closing,
    /// The hub could not be reached.
    #[error("cannot reach the hub at {address}: {reason}. Is it running? `tidegate dev` starts one; --address says where it is.")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        reason: String,
    },
    /// The hub answered with an error.
    #[error("{0}")]
    Hub(Failure),
}

impl From<tonic::Status> for CommandError {
    fn from(status: tonic::Status) -> CommandError {
        CommandError::Hub(Failure::from_status(&status))
    }
}

/// The exit code that goes with an error; `tidegate --help` lists them.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<CommandError>() {
        None => 1,
        Some(CommandError::Usage(_)) => 2,
        Some(CommandError::Unreachable { .. } | CommandError::Closing) => 4,
        Some(CommandError::Hub(failure)) => match failure.reason {
            Reason::UnknownTopic | Reason::UnknownPartition | Reason::UnknownGroup => 3,
            Reason::Internal | Reason::CorruptData => 1,
            _ if failure.is_retryable() => 4,
            _ => 5,
        },
    }
}

/// What an error says beyond its message: the field, the limit, the hint.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("{error:#}");
    if let Some(CommandError::Hub(failure)) = error.downcast_ref::<CommandError>() {
        let mut facts: Vec<String> = failure.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
        facts.sort();
        if !facts.is_empty() {
            text.push_str(&format!(" ({})", facts.join(", ")));
        }
    }
    text
}

/// Connects to the hub.
pub(crate) async fn connect(connection: &Connection) -> Result<Channel> {
    let unreachable = |reason: String| CommandError::Unreachable { address: connection.address.clone(), reason };
    let address =
        if connection.address.contains("://") { connection.address.clone() } else { format!("http://{}", connection.address) };
    let endpoint = Endpoint::from_shared(address).map_err(|error| {
        CommandError::Usage(format!("--address {}: {error}; write host:port or http://host:port", connection.address))
    })?;
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(endpoint.connect().await.map_err(|error| unreachable(root_cause(&error)))?)
}

/// Connects to the hub with the client library, for producing and bulk reading.
pub(crate) async fn client(connection: &Connection) -> Result<tidegate_client::Client> {
    // The library connects when it is first used, and repeats that: who calls a command wants to know now.
    connect(connection).await?;
    let settings = tidegate_client::ClientSettings {
        any_broker: connection.any_broker,
        ..tidegate_client::ClientSettings::new(connection.address.as_str())
    };
    tidegate_client::Client::connect_with(settings, None).await.map_err(client_error)
}

/// A client library's error as one that decides the exit code.
pub(crate) fn client_error(error: tidegate_client::Error) -> anyhow::Error {
    match error {
        tidegate_client::Error::Hub(failure) => CommandError::Hub(failure).into(),
        other => other.into(),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

/// Prints an answer: JSON as it is, or rows under a header.
pub(crate) fn print(output: Output, json: &Value, header: &[&str], rows: &[Vec<String>]) {
    match output {
        Output::Json => outln!("{json:#}"),
        Output::Table => out!("{}", table(header, rows)),
    }
}

/// Rows under a header, columns aligned by their widest cell.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    let header: Vec<String> = header.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people: three digits and a binary unit.
pub(crate) fn human_bytes(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if amount < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{amount:.1} {unit}") };
        }
        amount /= 1024.0;
    }
    format!("{amount:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["clicks".to_owned(), "3".to_owned()], vec!["a".to_owned(), "12".to_owned()]];
        assert_eq!(table(&["TOPIC", "PARTITIONS"], &rows), "TOPIC   PARTITIONS\nclicks  3\na       12\n");
    }

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn exit_codes_tell_apart_what_scripts_act_on() {
        let code = |reason| exit_code(&CommandError::Hub(Failure::new(reason, "x")).into());
        assert_eq!(
            [code(Reason::UnknownTopic), code(Reason::Throttled), code(Reason::TopicExists), code(Reason::Internal)],
            [3, 4, 5, 1]
        );
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 1);
    }
}
