//! Identifiers and positions, one newtype each, so that no bare integer crosses a module boundary.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

newtype!(
    /// Position of a record in a partition; assigned densely from 0. `-1` stands for "unknown" on the wire only.
    Offset(i64)
);
newtype!(
    /// Number of a partition within its topic, from 0.
    PartitionId(i32)
);
newtype!(
    /// Identity of a topic for its whole life; a topic made again under an old name gets a new one.
    TopicUid(Uuid)
);
newtype!(
    /// Identity of a hub, minted once when its first broker bootstraps.
    HubId(Uuid)
);
newtype!(
    /// Number of a journal (a Raft group) within its hub; 0 is the catalog.
    JournalId(u32)
);
newtype!(
    /// Number of a broker within its hub; never used twice.
    BrokerId(u32)
);
newtype!(
    /// A partition's count of leader changes; never falls.
    LeaderEpoch(i32)
);
newtype!(
    /// Identity of an idempotent producer; `-1` stands for "none".
    ProducerId(i64)
);
newtype!(
    /// Incarnation of a producer id; a higher one fences all lower ones. `-1` stands for "none".
    ProducerEpoch(i16)
);
newtype!(
    /// A producer's count of records for one partition; wraps from `i32::MAX` to 0. `-1` stands for "none".
    Sequence(i32)
);
newtype!(
    /// Milliseconds since the Unix epoch; `-1` stands for "none".
    TimestampMs(i64)
);

impl JournalId {
    /// The journal that holds the catalog.
    pub const CATALOG: JournalId = JournalId(0);
}

/// One partition of one topic, by the topic's uid (names can be reused, uids cannot).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicUid,
    /// The partition within it.
    pub partition: PartitionId,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}
