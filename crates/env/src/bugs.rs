//! Bugs that are put into the hub on purpose, to show that simulation and checker find them.
//!
//! Without the cargo feature `seeded-bugs` nothing of this is in a build: [`on`] is the constant `false`, so that each place that asks is
//! compiled away. With the feature a bug is in force only within `with`, on the thread that called it. The command `tidegate` refuses to be
//! compiled with the feature.

/// True in builds that can have bugs.
pub const ENABLED: bool = cfg!(feature = "seeded-bugs");

/// A bug, each of a kind that some system had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The log says that it synced and did not.
    SkipFsync,
    /// The log does not sync its folder: a new file's name may be gone after a power cut, with what was acknowledged in it.
    SkipFolderSync,
    /// The log answers before it wrote.
    AcknowledgeEarly,
    /// After a failed sync the log syncs again, which succeeds without having written, and goes on.
    RetryFsync,
    /// Damage below what was durable is taken for a torn tail, and all behind it dropped.
    RotIsTornTail,
    /// The log's durable mark is not read: damage at its very end passes for a torn tail.
    ForgetMark,
    /// The durable mark is written before the sync that it speaks of: a power cut between makes an undamaged log look damaged.
    MarkEarly,
    /// What a killed process left in the page cache is taken for durable.
    SkipTailRewrite,
    /// Raft's vote is not read back.
    ForgetVote,
    /// What is known of producers does not survive a restart.
    ForgetProducers,
    /// Groups' positions do not survive a restart.
    ForgetPositions,
    /// The log start is 0 again after a restart (KAFKA-15351).
    ResetLogStart,
    /// The first entry after a start is applied twice.
    ApplyTwice,
    /// The log lets go of what is not in the object store.
    FreeBeforeTier,
    /// Uploads are not read back.
    SkipVerify,
    /// Objects that a listing shows and that one journal does not know are deleted.
    DeleteByListing,
    /// An object's key is made of what is in it, and one that is there is taken for one's own.
    ReuseObjectKey,
    /// Retention believes the wall clock whatever it says.
    BelieveClock,
    /// A topic made again gets the uid of the deleted one.
    ReuseTopicUid,
    /// A batch that leaves a gap in its producer's sequence is taken.
    AcceptGaps,
    /// Raft hears that entries are on the disk when they were only handed to the log.
    RaftAheadOfDisk,
    /// A follower that gave no answer counts as one that has the entries.
    CountUnheard,
    /// A follower keeps entries that another leader's take the place of.
    KeepDivergedTail,
    /// A replica leaves out the first entry after a local checkpoint.
    SkipEntry,
    /// Raft's snapshots cover what lives in the log alone.
    SnapshotAboveTier,
    /// A leader that was deposed behind its back answers for the whole hub.
    StaleReads,
    /// An empty volume takes the identity, and with it the replica ids and votes, of the one that was lost.
    ReuseReplicaId,
    /// Appends whose answer got lost are sent to the leader again.
    RepeatAmbiguous,
    /// Appends on their way to the leader overtake each other.
    ReorderForwarded,
    /// A draining broker is retired while its replicas vote.
    RetireTooSoon,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 30] = [
        Bug::SkipFsync,
        Bug::SkipFolderSync,
        Bug::AcknowledgeEarly,
        Bug::RetryFsync,
        Bug::RotIsTornTail,
        Bug::ForgetMark,
        Bug::MarkEarly,
        Bug::SkipTailRewrite,
        Bug::ForgetVote,
        Bug::ForgetProducers,
        Bug::ForgetPositions,
        Bug::ResetLogStart,
        Bug::ApplyTwice,
        Bug::FreeBeforeTier,
        Bug::SkipVerify,
        Bug::DeleteByListing,
        Bug::ReuseObjectKey,
        Bug::BelieveClock,
        Bug::ReuseTopicUid,
        Bug::AcceptGaps,
        Bug::RaftAheadOfDisk,
        Bug::CountUnheard,
        Bug::KeepDivergedTail,
        Bug::SkipEntry,
        Bug::SnapshotAboveTier,
        Bug::StaleReads,
        Bug::ReuseReplicaId,
        Bug::RepeatAmbiguous,
        Bug::ReorderForwarded,
        Bug::RetireTooSoon,
    ];

    /// Those that take several brokers to be one.
    pub const OF_BROKERS: [Bug; 10] = [
        Bug::RaftAheadOfDisk,
        Bug::CountUnheard,
        Bug::KeepDivergedTail,
        Bug::SkipEntry,
        Bug::SnapshotAboveTier,
        Bug::StaleReads,
        Bug::ReuseReplicaId,
        Bug::RepeatAmbiguous,
        Bug::ReorderForwarded,
        Bug::RetireTooSoon,
    ];
}

/// Whether a bug is in force.
#[cfg(not(feature = "seeded-bugs"))]
pub const fn on(_: Bug) -> bool {
    false
}

/// Whether a bug is in force on this thread.
#[cfg(feature = "seeded-bugs")]
pub fn on(bug: Bug) -> bool {
    ACTIVE.get() == Some(bug)
}

#[cfg(feature = "seeded-bugs")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Runs `body` with a bug in force on this thread. `body` must not unwind: a bug that stays in force would be found where it is not.
#[cfg(feature = "seeded-bugs")]
pub fn with<T>(bug: Option<Bug>, body: impl FnOnce() -> T) -> T {
    let before = ACTIVE.replace(bug);
    let result = body();
    ACTIVE.set(before);
    result
}
