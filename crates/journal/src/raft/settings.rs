//! What a journal can be set to.

use super::error::StartError;

/// What an entry may have around its units, generously: versions, times, preconditions, the operations' own fields.
pub const ENTRY_OVERHEAD_BYTES: usize = 64 << 10;

/// Settings of one journal; the same for all journals of a broker, but for the replica id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    /// This replica's id: given out once for (journal, broker, incarnation), never used again after its data was lost.
    pub replica: u64,
    /// Bytes of data units that may wait or be on their way, 1 MiB to 2 GiB. Default 64 MiB.
    pub data_bytes: u32,
    /// The same for units without appends (tier, trim, commits, catalog), which never wait behind data. Default 16 MiB.
    pub control_bytes: u32,
    /// Bytes that a single unit may have. With [`ENTRY_OVERHEAD_BYTES`] it must fit into half a WAL file. Default 16 MiB.
    pub unit_bytes: usize,
    /// An entry is closed once it has this many bytes; only what waits while others are on their way comes to so many. Default 1 MiB.
    pub entry_target_bytes: usize,
    /// An entry holds at most this many bytes unless a single unit is larger; must fit into half a WAL file as a unit must. Default 1 MiB.
    pub entry_limit_bytes: usize,
    /// Entries on their way at once, 1 to 16. With the entry's size it bounds what a journal takes: a busy machine answers an entry after 50 ms. Default 8.
    pub entries_in_flight: usize,
    /// A local checkpoint is taken after this many bytes of log, 1 KiB or more. Default 64 MiB. A start replays up to twice as much if
    /// the newest checkpoint is damaged.
    pub checkpoint_bytes: u64,
    /// With several members: milliseconds between heartbeats, 10 to 10,000. Elections begin after three to six times as long without one.
    /// Default 50.
    pub heartbeat_ms: u64,
    /// With several members: milliseconds for which appends are refused because a voter's log is full, 0 to an hour. After that it is left behind, if
    /// the others are a majority. Default 30,000.
    pub room_patience_ms: u64,
}

impl JournalSettings {
    /// The defaults for a replica.
    pub fn new(replica: u64) -> JournalSettings {
        JournalSettings {
            replica,
            data_bytes: 64 << 20,
            control_bytes: 16 << 20,
            unit_bytes: 16 << 20,
            entry_target_bytes: 1 << 20,
            entry_limit_bytes: 1 << 20,
            entries_in_flight: 8,
            checkpoint_bytes: 64 << 20,
            heartbeat_ms: 50,
            room_patience_ms: 30_000,
        }
    }
}

impl JournalSettings {
    /// The defaults for a replica, made smaller where the WAL's longest payload asks for it ([`tidegate_wal::Settings::max_payload_bytes`]).
    pub fn fitting(replica: u64, payload_bytes: usize) -> JournalSettings {
        let room = payload_bytes.saturating_sub(ENTRY_OVERHEAD_BYTES);
        let defaults = JournalSettings::new(replica);
        JournalSettings {
            unit_bytes: defaults.unit_bytes.min(room),
            entry_target_bytes: defaults.entry_target_bytes.min(room / 2),
            entry_limit_bytes: defaults.entry_limit_bytes.min(room),
            ..defaults
        }
    }

    /// Checks every field, against the longest payload that the WAL takes, too.
    pub(super) fn validate(&self, payload_bytes: usize) -> Result<(), StartError> {
        let unit_bytes = self.unit_bytes;
        let within = |field, given: u64, least: u64, most: u64, problem| {
            if (least..=most).contains(&given) { Ok(()) } else { Err(StartError::Setting { field, given, problem }) }
        };
        within("data_bytes", self.data_bytes.into(), 1 << 20, 2 << 30, "it must be 1 MiB to 2 GiB")?;
        within("control_bytes", self.control_bytes.into(), 1 << 20, 2 << 30, "it must be 1 MiB to 2 GiB")?;
        within("unit_bytes", self.unit_bytes as u64, 4 << 10, 1 << 30, "it must be 4 KiB to 1 GiB")?;
        for (field, bytes) in [("unit_bytes", unit_bytes), ("entry_limit_bytes", self.entry_limit_bytes)] {
            if bytes.saturating_add(ENTRY_OVERHEAD_BYTES) > payload_bytes {
                return Err(StartError::BeyondFile { field, bytes, payload_bytes });
            }
        }
        within("entry_target_bytes", self.entry_target_bytes as u64, 1, 64 << 20, "it must be 1 byte to 64 MiB")?;
        within(
            "entry_limit_bytes",
            self.entry_limit_bytes as u64,
            self.entry_target_bytes as u64,
            64 << 20,
            "it must be entry_target_bytes to 64 MiB",
        )?;
        within("entries_in_flight", self.entries_in_flight as u64, 1, 16, "it must be 1 to 16")?;
        within("heartbeat_ms", self.heartbeat_ms, 10, 10_000, "it must be 10 ms to 10 s")?;
        within("room_patience_ms", self.room_patience_ms, 0, 3_600_000, "it must be at most an hour")?;
        within("checkpoint_bytes", self.checkpoint_bytes, 1 << 10, u64::MAX, "it must be 1 KiB or more")
    }
}
