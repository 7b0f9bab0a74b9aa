//! Settings of a connection: plain data.

use std::time::Duration;

use crate::{Backoff, Error, Result};

/// How a client reaches its hub.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Where the hub is: `http://host:port`; without a scheme `http://` is meant. Several brokers of one hub are divided by commas. One is enough: the
    /// hub tells of the others. Calls go to any that answers; records are sent to, and read from, the brokers that lead their partitions.
    pub endpoint: String,
    /// Longest time to connect. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest time for a unary call, with its retries. Default 30 s.
    pub request_timeout: Duration,
    /// HTTP/2 receive window of each stream in bytes, 65535 to 2^31-1: bounds what a subscription buffers. Default 4 MiB.
    pub stream_window_bytes: u32,
    /// HTTP/2 receive window of each connection in bytes, 65535 to 2^31-1. Default 16 MiB.
    pub connection_window_bytes: u32,
    /// Largest HTTP/2 frame taken in bytes, 16384 to 16777215. Default 256 KiB: larger frames mean fewer copies and wake-ups.
    pub frame_bytes: u32,
    /// The largest message taken in bytes. Default 64 MiB (a hub answers at most 50 MiB by default).
    pub max_message_bytes: usize,
    /// Waits between tries.
    pub backoff: Backoff,
    /// Goes to any broker of `endpoint` for everything and lets the hub forward: for hubs whose brokers tell addresses that cannot be reached from here.
    /// Such brokers are found out without this too, at the price of a try every few seconds. Default false.
    pub any_broker: bool,
}

impl ClientSettings {
    /// The defaults, for this endpoint.
    pub fn new(endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        let endpoint = if endpoint.contains("://") { endpoint } else { format!("http://{endpoint}") };
        ClientSettings {
            endpoint,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            stream_window_bytes: 4 << 20,
            connection_window_bytes: 16 << 20,
            frame_bytes: 256 << 10,
            max_message_bytes: 64 << 20,
            backoff: Backoff::default(),
            any_broker: false,
        }
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Setting`] that names the first setting that is out of its range.
    pub fn validate(&self) -> Result<()> {
        range("stream_window_bytes", self.stream_window_bytes.into(), 65_535, (1 << 31) - 1)?;
        range("connection_window_bytes", self.connection_window_bytes.into(), 65_535, (1 << 31) - 1)?;
        range("frame_bytes", self.frame_bytes.into(), 16_384, 16_777_215)?;
        range("max_message_bytes", self.max_message_bytes as u64, 4096, u32::MAX.into())
    }
}

/// Checks that a setting lies within its range, both ends included.
pub(crate) fn range(field: &'static str, value: u64, least: u64, greatest: u64) -> Result<()> {
    if (least..=greatest).contains(&value) {
        return Ok(());
    }
    Err(Error::Setting { field, message: format!("{value} is not within {least} to {greatest}") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_setting_out_of_range_is_named() {
        let mut settings = ClientSettings::new("localhost:1");
        settings.validate().unwrap();
        assert_eq!(settings.endpoint, "http://localhost:1");
        settings.frame_bytes = 1;
        let message = settings.validate().unwrap_err().to_string();
        assert_eq!(message, "setting `frame_bytes`: 1 is not within 16384 to 16777215");
    }
}
