//! A journal that begins with a state instead of nothing: for a hub that is rebuilt from its bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::{EmptyNode, Membership};
use tidegate_model::JournalId;
use tidegate_wal::{Position as LogPosition, Write};
use tokio::sync::oneshot;

use super::checkpoint::{Checkpoints, Core, encode};
use super::journal::{Journal, JournalParts};
use super::types::{StoredMembership, log_id};
use crate::state::{Lost, Position, State};

impl Journal {
    /// Writes the local checkpoint and the log's beginning for a journal that goes on from `state`, with `replica` as its only voter. What
    /// only the state's lost log held is cut off and answered. Durable on return; start the journal after the log was opened anew.
    ///
    /// # Errors
    /// The disk's, or `AlreadyExists` if the journal has a checkpoint here.
    pub async fn seed(id: JournalId, replica: u64, state: State, parts: &JournalParts) -> io::Result<Vec<Lost>> {
        let (checkpoints, found) = Checkpoints::open(id, parts.checkpoint_dir.clone(), &parts.env).await?;
        if found.is_some() {
            let folder = parts.checkpoint_dir.display();
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("journal {id} has a checkpoint in {folder} already"),
            ));
        }
        // The first term of the new log is greater, so the first leader raises every partition's epoch.
        let at = LogPosition { term: 0, leader: replica, index: 1 };
        let (state, lost) = state.salvage(Position { term: at.term, index: at.index });
        let first = log_id(at);
        let members = Membership::new_with_defaults(
            vec![BTreeSet::from([replica])],
            BTreeMap::from([(replica, EmptyNode::new())]).into_keys(),
        );
        let core = Core { state, applied: first, membership: StoredMembership::new(first, members) };
        if let Some(encoded) = encode(id, &core) {
            checkpoints.write(encoded, u64::MAX).await?;
        }
        let (done, written) = oneshot::channel();
        let purge = Write::Purge { journal: id, at };
        parts.wal.submit(vec![purge], Some(Box::new(move |result| drop(done.send(result)))));
        match written.await {
            Ok(Ok(())) => Ok(lost),
            Ok(Err(failed)) => Err(io::Error::other(failed.to_string())),
            Err(_) => Err(io::Error::other("the log ended before the journal's beginning was written")),
        }
    }
}
