//! Bounds of what requests may take. Each is enforced at an edge, with an error that names it and a counter.

use serde::{Deserialize, Serialize};

use super::{SettingError, within};

/// Bounds of what one request, one connection and all of them may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest record batch in bytes unless a topic allows less, 1 KiB to 64 MiB. Default 1 MiB.
    pub max_message_bytes: u32,
    /// Largest request message (and ProduceStream frame) in bytes. Default 16 MiB.
    pub max_request_bytes: u32,
    /// Connections of clients at a time, 1 to 100000. Default 2000.
    pub max_connections: u32,
    /// Bytes to which one compressed batch may grow. Default 64 MiB.
    pub max_decompressed_bytes: u32,
    /// How many times its size a compressed batch may grow, 2 to 10000. Default 100.
    pub max_compression_ratio: u32,
    /// Largest fetch answer in bytes; a single larger batch is answered all the same. Default 50 MiB.
    pub max_fetch_bytes: u32,
    /// Headers of one record together, and HTTP/2 header lists, in bytes. Default 64 KiB.
    pub max_headers_bytes: u32,
    /// Bytes of a ProduceStream that may be unacknowledged. Default 16 MiB.
    pub max_stream_in_flight_bytes: u32,
    /// Bytes of requests and answers under way in the whole broker, at least the largest of each. Default 512 MiB.
    pub max_in_flight_bytes: u64,
    /// HTTP/2 streams of one connection at a time. Default 256.
    pub max_streams_per_connection: u32,
    /// Longest wait of a fetch in milliseconds. Default 60000.
    pub max_wait_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_message_bytes: 1 << 20,
            max_request_bytes: 16 << 20,
            max_connections: 2000,
            max_decompressed_bytes: 64 << 20,
            max_compression_ratio: 100,
            max_fetch_bytes: 50 << 20,
            max_headers_bytes: 64 << 10,
            max_stream_in_flight_bytes: 16 << 20,
            max_in_flight_bytes: 512 << 20,
            max_streams_per_connection: 256,
            max_wait_ms: 60_000,
        }
    }
}

impl Limits {
    /// Checks every field.
    pub fn validate(&self) -> Result<(), SettingError> {
        within("limits.max_message_bytes", self.max_message_bytes, 1 << 10, 64 << 20)?;
        within("limits.max_request_bytes", self.max_request_bytes, self.max_message_bytes, 256 << 20)?;
        within("limits.max_connections", self.max_connections, 1, 100_000)?;
        within("limits.max_decompressed_bytes", self.max_decompressed_bytes, self.max_message_bytes, 1 << 30)?;
        within("limits.max_compression_ratio", self.max_compression_ratio, 2, 10_000)?;
        within("limits.max_fetch_bytes", self.max_fetch_bytes, self.max_message_bytes, 1 << 30)?;
        within("limits.max_headers_bytes", self.max_headers_bytes, 1 << 10, 1 << 20)?;
        within("limits.max_stream_in_flight_bytes", self.max_stream_in_flight_bytes, self.max_message_bytes, 1 << 30)?;
        // An answer or a request that could never be admitted would be refused for ever.
        let largest = self.max_request_bytes.max(self.max_fetch_bytes);
        within("limits.max_in_flight_bytes", self.max_in_flight_bytes, largest.into(), 1 << 40)?;
        within("limits.max_streams_per_connection", self.max_streams_per_connection, 1, 100_000)?;
        within("limits.max_wait_ms", self.max_wait_ms, 1, 3_600_000)
    }
}
