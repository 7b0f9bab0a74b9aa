//! The broker's settings: plain data with documented defaults, checked before anything is opened.
//!
//! It opens nothing and reads no environment. Every problem names the field by its path, the limit and the way out.

mod limits;
mod operator;
mod store;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use limits::Limits;
pub use operator::{OperatorKeys, OperatorSettings};
pub use store::{ObjectStoreSettings, S3StoreSettings};

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting `{field}`: {problem}")]
pub struct SettingError {
    /// Path of the field, as `hub.wal.budget_bytes`.
    pub field: String,
    /// What is wrong, what is allowed and what to do.
    pub problem: String,
}

impl SettingError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        SettingError { field: field.into(), problem: problem.into() }
    }
}

/// Refuses a value outside of a range.
pub(crate) fn within<T: PartialOrd + std::fmt::Display>(field: &str, value: T, least: T, most: T) -> Result<(), SettingError> {
    if value < least || value > most {
        return Err(SettingError::new(field, format!("{value} is not within {least} to {most}")));
    }
    Ok(())
}

/// Everything that one broker process is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSettings {
    /// The hub below the edges.
    pub hub: HubSettings,
    /// Where sealed data goes.
    pub object_store: ObjectStoreSettings,
    /// Where the broker listens.
    pub listeners: ListenerSettings,
    /// Who may call the operator's service.
    pub operator: OperatorSettings,
    /// Bounds of what one request and all requests may take.
    pub limits: Limits,
    /// How long a stop may take, in milliseconds, 0 to 600000; what is not finished then is cut off. Default 30000.
    pub shutdown_deadline_ms: Milliseconds,
}

/// A span in milliseconds.
pub type Milliseconds = u64;

impl Default for BrokerSettings {
    fn default() -> Self {
        BrokerSettings {
            hub: HubSettings::default(),
            object_store: ObjectStoreSettings::default(),
            listeners: ListenerSettings::default(),
            operator: OperatorSettings::default(),
            limits: Limits::default(),
            shutdown_deadline_ms: 30_000,
        }
    }
}

/// Where the broker listens. All are on the loopback interface unless set otherwise: nothing here is encrypted yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerSettings {
    /// gRPC for clients. Default `127.0.0.1:7171`; port 0 takes a free one.
    pub client: SocketAddr,
    /// gRPC for the operator. Default `127.0.0.1:7172`. On any but a loopback address calls are refused unless there is a key under `operator`.
    pub operator: SocketAddr,
    /// HTTP for metrics and probes. Default `127.0.0.1:7173`.
    pub http: SocketAddr,
    /// gRPC for the hub's other brokers. Default none: this broker is alone. Nothing else may reach this port.
    pub peer: Option<SocketAddr>,
    /// The `host:port` that clients are told in metadata. Default: the address that `client` came to.
    pub advertised: Option<String>,
    /// The `host:port` by which other brokers reach `peer`. Default: the address that it came to.
    pub advertised_peer: Option<String>,
    /// The `host:port` by which other brokers and the operator reach `operator`. Default: the address that it came to.
    pub advertised_operator: Option<String>,
}

impl Default for ListenerSettings {
    fn default() -> Self {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        ListenerSettings {
            client: local(7171),
            operator: local(7172),
            http: local(7173),
            peer: None,
            advertised: None,
            advertised_peer: None,
            advertised_operator: None,
        }
    }
}

/// The hub below the edges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HubSettings {
    /// Directory of everything local: identity, write-ahead log, checkpoints, block cache. Default `./tidegate-data`.
    pub data_dir: PathBuf,
    /// Keys of the object store begin so; may be empty. One hub for each prefix of a bucket. Letters, digits, `.`, `_`, `-`, parts divided by
    /// `/`. Fixed at the first start.
    pub store_prefix: String,
    /// Number of this broker within its hub; fixed at the first start. Default 1.
    pub broker_id: u32,
    /// Data journals made at the first start, 1 to 64. Default 4.
    pub journals: u32,
    /// The write-ahead log.
    pub wal: WalSettings,
    /// Proposals and checkpoints of each journal.
    pub journal: JournalSettings,
    /// Moving data to the object store and reading it back.
    pub tier: TierSettings,
    /// Time between two looks at what retention drops, in milliseconds, 100 to 3600000. Default 30000.
    pub retention_interval_ms: Milliseconds,
    /// How long a deleted topic can be restored, in milliseconds, up to 30 days. Default 24 h.
    pub undelete_ms: Milliseconds,
    /// How long an object stays in the store after the decision to delete it, so that readers under way can finish, in milliseconds, up to
    /// 7 days. Default 10 min.
    pub object_grace_ms: Milliseconds,
    /// Committed offsets of groups are forgotten when none of a group was renewed for so long, in milliseconds, at least 1 min. Default 30 days.
    pub offsets_retention_ms: Milliseconds,
    /// Time between a change of a topic's settings, a leap of the wall clock or a start, and the first drop by retention, in milliseconds, so that a
    /// mistake can be taken back. Default 60000.
    pub retention_grace_ms: Milliseconds,
    /// The process, to be named to a second one that wants the same directory; set by whoever starts the broker.
    #[serde(skip)]
    pub process_id: u32,
    /// Partitions of all topics together, 1 to 100000. Default 10000.
    pub max_partitions: u32,
    /// This broker among others.
    pub fleet: FleetSettings,
}

/// A broker among others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetSettings {
    /// Addresses for peers (`host:port`) of brokers of the hub that an empty volume comes into. Default none: it bootstraps a hub of its own.
    pub join: Vec<String>,
    /// The zone this broker runs in, to spread replicas over. Default empty: unknown.
    pub zone: String,
    /// The node this broker runs on, to spread replicas over. Default empty: unknown.
    pub node: String,
    /// A broker that was silent for so long is lost: its replicas are rebuilt elsewhere, if there is where. In milliseconds, 5 s to 7 days. Default 5 min.
    pub lost_after_ms: Milliseconds,
    /// How fast this broker copies replicas to others, all copies together and beyond what is written meanwhile; voters are never held back. In bytes
    /// per second, 1 MiB to 1 TiB. Default 64 MiB.
    pub copy_bytes_per_second: u64,
}

impl Default for FleetSettings {
    fn default() -> Self {
        FleetSettings {
            join: Vec::new(),
            zone: String::new(),
            node: String::new(),
            lost_after_ms: 5 * 60 * 1000,
            copy_bytes_per_second: 64 << 20,
        }
    }
}

impl Default for HubSettings {
    fn default() -> Self {
        HubSettings {
            data_dir: PathBuf::from("tidegate-data"),
            store_prefix: String::new(),
            broker_id: 1,
            journals: 4,
            wal: WalSettings::default(),
            journal: JournalSettings::default(),
            tier: TierSettings::default(),
            retention_interval_ms: 30_000,
            undelete_ms: 24 * 60 * 60 * 1000,
            object_grace_ms: 10 * 60 * 1000,
            offsets_retention_ms: 30 * 24 * 60 * 60 * 1000,
            retention_grace_ms: 60_000,
            process_id: 0,
            max_partitions: 10_000,
            fleet: FleetSettings::default(),
        }
    }
}

/// The write-ahead log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalSettings {
    /// Length of one file in bytes, 1 MiB to 1 GiB, a multiple of 4096; half a file must hold `limits.max_message_bytes` and 64 KiB. Default 64 MiB.
    pub file_bytes: u64,
    /// Bytes that all files together may take, at least four files. Default 4 GiB.
    pub budget_bytes: u64,
    /// Share of the budget above which the hub calls out, in percent, 1 to 99. Default 75.
    pub soft_percent: u8,
    /// Part of the budget kept for operations that free space, in bytes. Default 16 MiB.
    pub control_reserve_bytes: u64,
}

impl Default for WalSettings {
    fn default() -> Self {
        WalSettings { file_bytes: 64 << 20, budget_bytes: 4 << 30, soft_percent: 75, control_reserve_bytes: 16 << 20 }
    }
}

/// Proposals and checkpoints of each journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSettings {
    /// Bytes of appends in flight for one journal, 1 MiB to 2 GiB. Default 64 MiB.
    pub in_flight_bytes: u64,
    /// Bytes of newest entries of all journals kept in memory, 64 KiB to 64 GiB. Default 256 MiB.
    pub tail_cache_bytes: u64,
    /// Bytes of entries after which a local checkpoint is taken and the log lets go of what is tiered, at most 128 MiB (a start replays up to
    /// twice as much). Default 64 MiB.
    pub checkpoint_bytes: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        JournalSettings { in_flight_bytes: 64 << 20, tail_cache_bytes: 256 << 20, checkpoint_bytes: 64 << 20 }
    }
}

/// Moving data to the object store and reading it back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TierSettings {
    /// Bytes of one partition after which they are sealed, 64 KiB to 1 GiB. A topic may set its own. Default 32 MiB.
    pub seal_bytes: u64,
    /// Age of a partition's oldest untiered record after which it is sealed, in milliseconds, at least 100. A topic may set its own. Default 10 min.
    pub seal_age_ms: Milliseconds,
    /// Bytes of one tier object that holds several partitions, 1 MiB to 1 GiB; a partition with more gets objects of its own. Default 32 MiB.
    pub object_bytes: u64,
    /// Objects of one journal that are uploaded at a time, 1 to 16. Default 2.
    pub uploads: u32,
    /// Time between two looks for something to seal, in milliseconds, 10 to 60000. Default 1000.
    pub interval_ms: Milliseconds,
    /// Time after which a failed upload is tried again, in milliseconds; doubles up to sixty times as long. Default 500.
    pub retry_ms: Milliseconds,
    /// Time between two checkpoints of a journal's state in the object store, in milliseconds, at least 1000. Default 5 min.
    pub checkpoint_interval_ms: Milliseconds,
    /// Memory for blocks read back, in bytes. Default 128 MiB.
    pub cache_memory_bytes: u64,
    /// Disk for blocks read back, in bytes; 0 keeps none. Default 1 GiB.
    pub cache_disk_bytes: u64,
}

impl Default for TierSettings {
    fn default() -> Self {
        TierSettings {
            seal_bytes: 32 << 20,
            seal_age_ms: 10 * 60 * 1000,
            object_bytes: 32 << 20,
            uploads: 2,
            interval_ms: 1000,
            retry_ms: 500,
            checkpoint_interval_ms: 5 * 60 * 1000,
            cache_memory_bytes: 128 << 20,
            cache_disk_bytes: 1 << 30,
        }
    }
}

impl BrokerSettings {
    /// Checks every field.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.hub.validate()?;
        self.object_store.validate()?;
        self.operator.validate()?;
        self.limits.validate()?;
        self.check_room()?;
        within("shutdown_deadline_ms", self.shutdown_deadline_ms, 0, 600_000)?;
        let ListenerSettings { advertised, advertised_peer, advertised_operator, .. } = &self.listeners;
        let advertised = [
            ("listeners.advertised", advertised),
            ("listeners.advertised_peer", advertised_peer),
            ("listeners.advertised_operator", advertised_operator),
        ];
        for (field, address) in advertised {
            if address.as_deref().is_some_and(|address| !address.contains(':')) {
                return Err(SettingError::new(field, "must be `host:port`, as `hub.example.com:7171`"));
            }
        }
        if self.listeners.peer.is_none() && !self.hub.fleet.join.is_empty() {
            return Err(SettingError::new(
                "listeners.peer",
                "is not set, and hub.fleet.join is: other brokers must reach this one",
            ));
        }
        Ok(())
    }
}

impl BrokerSettings {
    /// The largest batch must fit into half a file of the log, with what the log puts around it.
    fn check_room(&self) -> Result<(), SettingError> {
        let room = crate::hub::unit_bytes(&self.hub);
        if self.limits.max_message_bytes as usize > room {
            let problem = format!(
                "{} is above {room}, which is what half a file of the log holds: lower it, or raise hub.wal.file_bytes, now {}",
                self.limits.max_message_bytes, self.hub.wal.file_bytes
            );
            return Err(SettingError::new("limits.max_message_bytes", problem));
        }
        Ok(())
    }
}

impl HubSettings {
    /// Checks every field.
    pub fn validate(&self) -> Result<(), SettingError> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(SettingError::new("hub.data_dir", "is empty: name a directory"));
        }
        within("hub.broker_id", self.broker_id, 1, u32::MAX - 1)?;
        within("hub.journals", self.journals, 1, 64)?;
        within("hub.wal.file_bytes", self.wal.file_bytes, 1 << 20, 1 << 30)?;
        if !self.wal.file_bytes.is_multiple_of(4096) {
            let problem = format!("{} is no multiple of 4096, the block of file systems", self.wal.file_bytes);
            return Err(SettingError::new("hub.wal.file_bytes", problem));
        }
        within("hub.wal.budget_bytes", self.wal.budget_bytes, 4 * self.wal.file_bytes, 1 << 50)?;
        within("hub.wal.soft_percent", self.wal.soft_percent, 1, 99)?;
        within("hub.wal.control_reserve_bytes", self.wal.control_reserve_bytes, 1 << 16, self.wal.budget_bytes / 4)?;
        within("hub.journal.in_flight_bytes", self.journal.in_flight_bytes, 1 << 20, 2 << 30)?;
        within("hub.journal.tail_cache_bytes", self.journal.tail_cache_bytes, 64 << 10, 64 << 30)?;
        within("hub.journal.checkpoint_bytes", self.journal.checkpoint_bytes, 1 << 10, 128 << 20)?;
        within("hub.tier.seal_bytes", self.tier.seal_bytes, 64 << 10, 1 << 30)?;
        within("hub.tier.seal_age_ms", self.tier.seal_age_ms, 100, 365 * 24 * 60 * 60 * 1000)?;
        within("hub.tier.object_bytes", self.tier.object_bytes, 1 << 20, 1 << 30)?;
        within("hub.tier.uploads", self.tier.uploads, 1, 16)?;
        within("hub.tier.interval_ms", self.tier.interval_ms, 10, 60_000)?;
        within("hub.tier.retry_ms", self.tier.retry_ms, 10, 60_000)?;
        within("hub.tier.checkpoint_interval_ms", self.tier.checkpoint_interval_ms, 1000, 24 * 60 * 60 * 1000)?;
        within("hub.tier.cache_memory_bytes", self.tier.cache_memory_bytes, 1 << 20, 1 << 40)?;
        within("hub.tier.cache_disk_bytes", self.tier.cache_disk_bytes, 0, 1 << 50)?;
        within("hub.retention_interval_ms", self.retention_interval_ms, 100, 3_600_000)?;
        within("hub.undelete_ms", self.undelete_ms, 0, 30 * 24 * 60 * 60 * 1000)?;
        within("hub.object_grace_ms", self.object_grace_ms, 0, 7 * 24 * 60 * 60 * 1000)?;
        within("hub.offsets_retention_ms", self.offsets_retention_ms, 60_000, u64::MAX / 2)?;
        within("hub.retention_grace_ms", self.retention_grace_ms, 0, 30 * 24 * 60 * 60 * 1000)?;
        within("hub.fleet.lost_after_ms", self.fleet.lost_after_ms, 5_000, 7 * 24 * 60 * 60 * 1000)?;
        within("hub.fleet.copy_bytes_per_second", self.fleet.copy_bytes_per_second, 1 << 20, 1 << 40)?;
        if let Some(address) = self.fleet.join.iter().find(|address| !address.contains(':')) {
            return Err(SettingError::new("hub.fleet.join", format!("`{address}` is not `host:port`")));
        }
        within("hub.max_partitions", self.max_partitions, 1, 100_000)
    }
}
