//! How a journal begins: what Raft is set to, what a fresh replica does, and whether what was stored can be gone on from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::{Config, EmptyNode, Raft, RaftState, SnapshotPolicy};
use tidegate_model::JournalId;
use tidegate_wal::{JournalLog, Position, Wal, Write};
use tokio::sync::oneshot;

use super::checkpoint::{Checkpoints, Core};
use super::error::StartError;
use super::journal::JournalParts;
use super::machine::Machine;
use super::settings::JournalSettings;
use super::store::LogStore;
use super::types::{TypeConfig, decode_vote, position};

/// A lease is so many times a heartbeat.
const LEASE_BEATS: u64 = 6;

/// What a replica does that finds nothing stored of its journal. One that finds something goes on from there, whatever this says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Makes the journal with these voters, this replica among them. Each of them may be started so, with the same set: they agree on one
    /// beginning. Never for a journal that exists: a second beginning would be a second journal.
    Bootstrap {
        /// Their replica ids.
        voters: BTreeSet<u64>,
    },
    /// Waits to be added by the journal's leader ([`super::Journal::add_learner`]); knows nothing until then.
    Join,
    /// Nothing must be missing: an empty replica was emptied by somebody and must not vote under this id (I7).
    Restart,
    /// As `Restart`, for a replica that joined: it may have been stopped before the entry came, or was durable, that made it a member, and waits for it then.
    Return,
}

/// The settings of openraft. Its clock is off until there are other members: an idle journal costs nothing, and a single voter needs no
/// heartbeat to keep its lease. Snapshots and purges happen only when we say so.
///
/// With its clock off, its three times are only a lease (the last one) and how long it waits: `heartbeat_interval` for the answer to a heartbeat,
/// `election_timeout_min` for votes and for the log of whoever is to take over. An answer counts from when its question was sent, so that it is worth
/// something as long as the lease, and waiting less than that makes a busy machine, whose answers are late and good, look like a dead one.
pub(super) fn config(settings: &JournalSettings) -> Arc<Config> {
    let lease_ms = settings.heartbeat_ms * LEASE_BEATS;
    let config = Config {
        cluster_name: String::from("tidegate"),
        heartbeat_interval: lease_ms - 2,
        election_timeout_min: lease_ms - 1,
        election_timeout_max: lease_ms,
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        enable_pre_vote: Some(true),
        // Each start leads under a new term, so that its first entry tells what the terms before it committed.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        // However far a follower is behind, it gets entries as long as the log has them.
        replication_lag_threshold: u64::MAX,
        install_snapshot_timeout: 600_000,
        // More than the peers have on their way at once; their bytes are bounded by the peers' budgets.
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        state_machine_channel_size: Some(64),
        ..Config::default()
    };
    Arc::new(config.validate().expect("settings were validated, and the rest is constant"))
}

/// Sets a replica going: elects itself if it is alone, waits for others if it is not.
pub(super) async fn begin(
    journal: JournalId,
    raft: &Raft<TypeConfig, Machine>,
    replica: u64,
    beginning: &Beginning,
    stored: bool,
) -> Result<(), StartError> {
    let failed = |reason: String| StartError::Raft { journal, reason };
    if !stored {
        match beginning {
            Beginning::Bootstrap { voters } => {
                let members: BTreeMap<u64, EmptyNode> = voters.iter().map(|id| (*id, EmptyNode::new())).collect();
                return raft.initialize(members).await.map_err(|error| failed(error.to_string()));
            }
            Beginning::Join => return Ok(()),
            Beginning::Restart | Beginning::Return => {
                let _ = raft.shutdown().await;
                return Err(StartError::NothingStored { journal, replica });
            }
        }
    }
    let look = move |state: &RaftState<TypeConfig>| {
        let members = state.membership_state.effective();
        (members.membership().nodes().any(|(id, _)| *id == replica), members.voter_ids().eq([replica]))
    };
    let (member, alone) = raft.with_raft_state(look).await.map_err(|error| failed(error.to_string()))?;
    if alone {
        return raft.trigger().elect(false).await.map_err(|error| failed(error.to_string()));
    }
    // A joining replica may have been stopped before the entry came that made it a member.
    if !member && !matches!(beginning, Beginning::Join | Beginning::Return) {
        let _ = raft.shutdown().await;
        return Err(StartError::NotAMember { journal, replica });
    }
    Ok(())
}

/// Checks that state and log meet: nothing between them is missing, and the log did not lose what the state was built from.
pub(super) fn check_reach(id: JournalId, core: &Core, store: &LogStore, parts: &JournalParts) -> Result<(), StartError> {
    if core.index() < store.purged_index() {
        return Err(StartError::NoCheckpoint { journal: id, path: parts.checkpoint_dir.clone(), purged: store.purged_index() });
    }
    if core.index() > store.last_index() {
        return Err(StartError::LogLost { journal: id, checkpoint: core.index(), last: store.last_index() });
    }
    Ok(())
}

/// Finishes what a crash cut off between an installed snapshot and the log's purge up to it. Only a log that still has a vote of the snapshot's term
/// or a later one is believed to be that replica's own: whoever took the snapshot had given it.
pub(super) async fn recover_installed(
    id: JournalId,
    recovered: Option<JournalLog>,
    newest: Option<&Core>,
    checkpoints: &Checkpoints,
    wal: &Wal,
) -> Result<Option<JournalLog>, StartError> {
    let (Some(log), Some(core)) = (&recovered, newest) else { return Ok(recovered) };
    let Some(at) = core.applied.as_ref().map(position) else { return Ok(recovered) };
    let failed = |reason: String| StartError::Raft { journal: id, reason };
    let vote = log.vote.as_deref().map(decode_vote).transpose().map_err(|error| failed(error.to_string()))?;
    let ends = log.last.map_or(0, |last| last.index);
    if !checkpoints.newest_was_received() || ends >= at.index || vote.is_none_or(|vote| vote.leader_id.term < at.term) {
        return Ok(recovered);
    }
    let (done, written) = oneshot::channel();
    wal.submit(vec![Write::Purge { journal: id, at }], Some(Box::new(move |result| drop(done.send(result)))));
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed(String::from("the write-ahead log ended"))),
    }
    let position = Position { term: at.term, leader: at.leader, index: at.index };
    let mut log = log.clone();
    (log.purged, log.last, log.first_index, log.committed) = (Some(position), Some(position), position.index + 1, None);
    Ok(Some(log))
}
