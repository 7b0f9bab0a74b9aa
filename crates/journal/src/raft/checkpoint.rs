//! Local checkpoints: the state of a journal in a file, so that a start replays a bounded part of the log (docs/formats/raft.md).
//!
//! A file holds a fixed head, the members, the state's own bytes and a CRC32C over all of it; it is written beside and renamed, so it is
//! whole or not there. The last two are kept, and the newest at or below what may be purged: the log is purged only up to the older
//! of the last two, so that a damaged newest one costs a longer replay and nothing else.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};
use parking_lot::Mutex;
use tidegate_env::Env;
use tidegate_model::JournalId;
use tidegate_wal::Position;

use super::types::{LogId, StoredMembership, decode_membership, encode_membership, log_id, position};
use crate::state::State;

const MAGIC: [u8; 8] = *b"TGJOURCP";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 8 + 2 + 2 + 4 + 24;
const SUFFIX: &str = ".checkpoint";
/// Flag of a checkpoint that a leader sent: the log may end below it.
const RECEIVED: u16 = 1;

/// A state with the place in the log that it stands for, and the members at that place.
#[derive(Clone, Debug)]
pub(super) struct Core {
    pub(super) state: State,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

impl Core {
    pub(super) fn empty() -> Core {
        Core { state: State::new(), applied: None, membership: StoredMembership::default() }
    }

    /// Index of the last entry applied, as the WAL numbers it; 0 before the first.
    pub(super) fn index(&self) -> u64 {
        self.applied.map_or(0, |id| position(&id).index)
    }
}

/// A checkpoint on disk.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) id: LogId,
    pub(super) membership: StoredMembership,
    /// A leader sent it; this replica's log did not lead up to it.
    pub(super) received: bool,
}

impl Kept {
    pub(super) fn index(&self) -> u64 {
        position(&self.id).index
    }
}

/// A checkpoint that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Index of the last entry that it covers.
    pub index: u64,
    /// Length of its file.
    pub bytes: u64,
}

/// Why a file is no checkpoint that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Invalid {
    #[error("it has {given} bytes, at least {needed} are needed")]
    Short { given: usize, needed: usize },
    #[error("its checksum does not match its content")]
    Checksum,
    #[error("it does not start with the checkpoint magic")]
    Magic,
    #[error("its format version {given} is newer than {VERSION}: run a newer build")]
    Version { given: u16 },
    #[error("it belongs to journal {given}")]
    Journal { given: u32 },
    #[error("its members are damaged: {0}")]
    Members(#[from] super::types::CodecError),
    #[error("its state is damaged: {0}")]
    State(#[from] crate::state::StateDecodeError),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// The checkpoints of one journal.
pub(super) struct Checkpoints {
    journal: JournalId,
    folder: PathBuf,
    env: Env,
    kept: Mutex<Vec<Kept>>,
    /// The last entry that the log has no more. A checkpoint up to there hides nothing, whatever the state in it says of what is tiered: a
    /// leader that sent it knew more.
    purged: AtomicU64,
}

impl Checkpoints {
    /// Opens the folder (made if missing) and gives the newest valid checkpoint, if there is any. One that a newer build wrote is an error.
    pub(super) async fn open(journal: JournalId, folder: PathBuf, env: &Env) -> io::Result<(Checkpoints, Option<Core>)> {
        let (disk, path) = (env.disk.clone(), folder.clone());
        let (kept, newest) = env
            .run_blocking(move || {
                disk.create_dir_all_durably(&path)?;
                let mut names = disk.list(&path)?;
                names.retain(|entry| entry.name.starts_with(&prefix(journal)));
                let (mut kept, mut newest) = (Vec::new(), None);
                for entry in names.iter().rev().filter(|entry| entry.name.ends_with(SUFFIX)) {
                    match disk.read(&path.join(&entry.name)).map_err(Invalid::from).and_then(|bytes| decode(journal, &bytes)) {
                        Ok((core, found)) => {
                            kept.insert(0, found);
                            newest.get_or_insert(core);
                        }
                        // Going on without it would undo what a newer build wrote.
                        Err(problem @ Invalid::Version { .. }) => {
                            let text = format!("{}: {problem}", path.join(&entry.name).display());
                            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
                        }
                        Err(problem) => tracing::warn!(
                            journal = journal.0,
                            file = %path.join(&entry.name).display(),
                            %problem,
                            "a checkpoint is unusable: going on from an older one"
                        ),
                    }
                }
                Ok::<_, io::Error>((kept, newest))
            })
            .await?;
        Ok((Checkpoints { journal, folder, env: env.clone(), kept: Mutex::new(kept), purged: AtomicU64::new(0) }, newest))
    }

    /// Says that the log begins behind this entry.
    pub(super) fn purged_to(&self, index: u64) {
        self.purged.fetch_max(index, Ordering::Relaxed);
    }

    /// The newest checkpoint that reaches what the log still has and whose index is at or below `releasable`, or at or below what the log was purged
    /// up to.
    pub(super) fn at_or_below(&self, releasable: u64) -> Option<Kept> {
        let kept = self.kept.lock();
        self.chosen(&kept, releasable).map(|place| kept[place].clone())
    }

    /// The oldest checkpoint from which the log goes on.
    pub(super) fn oldest_that_reaches_the_log(&self) -> Option<Kept> {
        let purged = self.purged.load(Ordering::Relaxed);
        self.kept.lock().iter().find(|kept| kept.index() >= purged).cloned()
    }

    fn chosen(&self, kept: &[Kept], releasable: u64) -> Option<usize> {
        let purged = self.purged.load(Ordering::Relaxed);
        let newest = kept.iter().rposition(|kept| (purged..=releasable.max(purged)).contains(&kept.index()));
        // The log was purged up to the entry before a checkpoint, which was at or below `releasable` then: after a start the state may have to learn it again.
        newest.or_else(|| kept.iter().position(|kept| purged > 0 && kept.index() == purged + 1))
    }

    /// Whether the newest checkpoint came from a leader.
    pub(super) fn newest_was_received(&self) -> bool {
        self.kept.lock().last().is_some_and(|kept| kept.received)
    }

    /// How far the log may be purged for the sake of a start: to the older of the last two.
    pub(super) fn replay_floor(&self) -> u64 {
        let kept = self.kept.lock();
        kept.len().checked_sub(2).map_or(0, |older| kept[older].index())
    }

    /// The bytes of a kept checkpoint, verified.
    pub(super) async fn read(&self, kept: &Kept) -> io::Result<Vec<u8>> {
        let (disk, path, journal) = (self.env.disk.clone(), self.path(kept.index()), self.journal);
        self.env
            .run_blocking(move || {
                let bytes = disk.read(&path)?;
                decode(journal, &bytes).map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem))?;
                Ok(bytes)
            })
            .await
    }

    /// Writes a checkpoint durably and removes those that are no longer needed: all but the last two and the one that [`Checkpoints::at_or_below`]
    /// gives. One that a newer one overtook on its way to the disk, such as a leader's snapshot, takes its place before that one.
    pub(super) async fn write(&self, encoded: Encoded, releasable: u64) -> io::Result<CheckpointInfo> {
        let info = CheckpointInfo { index: encoded.kept.index(), bytes: encoded.bytes.len() as u64 };
        let (disk, path) = (self.env.disk.clone(), self.path(info.index));
        self.env.run_blocking(move || disk.write_atomically(&path, &encoded.bytes)).await?;
        let superfluous = {
            let mut kept = self.kept.lock();
            let place = kept.partition_point(|other| other.index() < info.index);
            match kept.get_mut(place) {
                Some(same) if same.index() == info.index => *same = encoded.kept,
                _ => kept.insert(place, encoded.kept),
            }
            let floor = kept.len().saturating_sub(2);
            let needed = self.chosen(&kept, releasable);
            let mut place = 0;
            let (keep, drop): (Vec<Kept>, Vec<Kept>) = kept.drain(..).partition(|_| {
                place += 1;
                place > floor || needed == Some(place - 1)
            });
            *kept = keep;
            drop
        };
        let (disk, paths) = (self.env.disk.clone(), superfluous.iter().map(|old| self.path(old.index())).collect::<Vec<_>>());
        self.env.run_blocking(move || remove(&*disk, &paths)).await;
        Ok(info)
    }

    /// Whether one of them, all of which are durable, reaches an entry.
    pub(super) fn reach(&self, index: u64) -> bool {
        self.kept.lock().iter().any(|kept| kept.index() >= index)
    }

    /// Whether the disk has room for a checkpoint of so many bytes beside those that are there.
    pub(super) async fn have_room_for(&self, bytes: u64) -> io::Result<bool> {
        let (disk, folder) = (self.env.disk.clone(), self.folder.clone());
        let free = self.env.run_blocking(move || disk.free_bytes(&folder)).await?;
        Ok(free >= bytes)
    }

    fn path(&self, index: u64) -> PathBuf {
        self.folder.join(format!("{}{index:020}{SUFFIX}", prefix(self.journal)))
    }
}

fn prefix(journal: JournalId) -> String {
    format!("{:08}-", journal.0)
}

/// A file that stays because it could not be removed is overwritten or removed another time: it costs room only.
fn remove(disk: &dyn tidegate_env::Disk, paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = disk.remove_file(path) {
            tracing::warn!(file = %path.display(), %error, "an old checkpoint cannot be removed");
        }
    }
}

/// A checkpoint ready to be written.
pub(super) struct Encoded {
    bytes: Vec<u8>,
    kept: Kept,
}

impl Encoded {
    /// The same, marked as one that a leader sent.
    pub(super) fn received(mut self) -> Encoded {
        self.kept.received = true;
        self.bytes[10..12].copy_from_slice(&RECEIVED.to_le_bytes());
        let content = self.bytes.len() - 4;
        let crc = checksum(CrcAlgorithm::Crc32Iscsi, &self.bytes[..content]) as u32;
        self.bytes[content..].copy_from_slice(&crc.to_le_bytes());
        self
    }

    #[cfg(test)]
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Encodes a state; `None` before the first entry.
pub(super) fn encode(journal: JournalId, core: &Core) -> Option<Encoded> {
    let id = core.applied?;
    let mut out = BytesMut::new();
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u32_le(journal.0);
    put_position(&mut out, position(&id));
    put_position(&mut out, core.membership.log_id().as_ref().map(position).unwrap_or_default());
    encode_membership(core.membership.membership(), &mut out);
    let state = core.state.encode();
    out.put_u64_le(state.len() as u64);
    out.put_slice(&state);
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &out) as u32;
    out.put_u32_le(crc);
    let kept = Kept { id, membership: core.membership.clone(), received: false };
    Some(Encoded { bytes: out.to_vec(), kept })
}

fn put_position(out: &mut BytesMut, at: Position) {
    out.put_u64_le(at.term);
    out.put_u64_le(at.leader);
    out.put_u64_le(at.index);
}

/// Reads a checkpoint back. Nothing is believed before the checksum was right.
pub(super) fn decode(journal: JournalId, bytes: &[u8]) -> Result<(Core, Kept), Invalid> {
    let needed = HEAD_BYTES + 24 + 4 + 8 + 4;
    if bytes.len() < needed {
        return Err(Invalid::Short { given: bytes.len(), needed });
    }
    if bytes[..8] != MAGIC {
        return Err(Invalid::Magic);
    }
    let (content, mut crc) = bytes.split_at(bytes.len() - 4);
    if checksum(CrcAlgorithm::Crc32Iscsi, content) as u32 != crc.get_u32_le() {
        return Err(Invalid::Checksum);
    }
    let mut rest = &content[8..];
    let given = rest.get_u16_le();
    if given > VERSION {
        return Err(Invalid::Version { given });
    }
    let received = rest.get_u16_le() & RECEIVED != 0;
    let given = rest.get_u32_le();
    if given != journal.0 {
        return Err(Invalid::Journal { given });
    }
    let id = get_log_id(&mut rest).ok_or(Invalid::Short { given: 0, needed })?;
    let changed = get_log_id(&mut rest);
    let members = decode_membership(&mut rest)?;
    let length = rest.try_get_u64_le().map_err(|_| Invalid::Short { given: bytes.len(), needed })? as usize;
    let state = rest
        .get(..length)
        .ok_or(Invalid::Short { given: bytes.len(), needed: (bytes.len() - rest.len()).saturating_add(length) })?;
    let membership = StoredMembership::new(changed, members);
    let core = Core { state: State::decode(state)?, applied: Some(id), membership: membership.clone() };
    Ok((core, Kept { id, membership, received }))
}

fn get_log_id(rest: &mut &[u8]) -> Option<LogId> {
    let (term, leader, index) = (rest.get_u64_le(), rest.get_u64_le(), rest.get_u64_le());
    log_id(Position { term, leader, index })
}

/// What a local checkpoint file holds, for people and their tools.
#[derive(Clone, Debug)]
pub struct InspectedCheckpoint {
    /// The journal that it is of.
    pub journal: JournalId,
    /// The last entry that is part of the state.
    pub at: Position,
    /// The state.
    pub state: State,
}

/// Whether bytes begin as a local checkpoint file does.
pub fn is_checkpoint(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// Reads a local checkpoint file of any journal.
///
/// # Errors
/// What is wrong with the file, in words.
pub fn inspect_checkpoint(bytes: &[u8]) -> Result<InspectedCheckpoint, String> {
    let journal = bytes.get(12..16).map_or(0, |mut number| number.get_u32_le());
    let (core, kept) = decode(JournalId(journal), bytes).map_err(|problem| problem.to_string())?;
    Ok(InspectedCheckpoint { journal: JournalId(journal), at: position(&kept.id), state: core.state })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on what must not be")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_below_what_the_log_was_purged_to_is_no_snapshot() {
        let (env, _handle) = Env::simulated(1);
        let (checkpoints, _) = Checkpoints::open(JournalId(1), PathBuf::from("/checkpoints"), &env).await.unwrap();
        let at = |index| {
            let applied = log_id(Position { term: 1, leader: 0, index });
            encode(JournalId(1), &Core { applied, ..Core::empty() }).unwrap()
        };
        checkpoints.write(at(89), 0).await.unwrap();
        // A leader's snapshot: the state in it does not know yet that all of it is tiered.
        checkpoints.write(at(169).received(), u64::MAX).await.unwrap();
        checkpoints.purged_to(169);
        checkpoints.write(at(250), 100).await.unwrap();
        checkpoints.write(at(300), 100).await.unwrap();
        assert_eq!(checkpoints.at_or_below(100).map(|kept| kept.index()), Some(169));
        assert_eq!(checkpoints.at_or_below(260).map(|kept| kept.index()), Some(250));
    }

    #[tokio::test(start_paused = true)]
    async fn a_checkpoint_that_was_overtaken_takes_no_newer_ones_place() -> Result<(), Box<dyn std::error::Error>> {
        let (env, _handle) = Env::simulated(1);
        let (checkpoints, _) = Checkpoints::open(JournalId(1), PathBuf::from("/checkpoints"), &env).await?;
        let at = |index| {
            let applied = log_id(Position { term: 1, leader: 0, index });
            encode(JournalId(1), &Core { applied, ..Core::empty() }).ok_or("nothing was applied")
        };
        checkpoints.write(at(74)?, 88).await?;
        checkpoints.write(at(403)?.received(), u64::MAX).await?;
        checkpoints.purged_to(403);
        // It was begun before the leader's snapshot came.
        checkpoints.write(at(160)?, 402).await?;
        assert!(checkpoints.newest_was_received());
        for index in [424, 436, 451] {
            checkpoints.write(at(index)?, 420).await?;
        }
        assert_eq!(checkpoints.at_or_below(420).map(|kept| kept.index()), Some(403), "what 424 hides is in the log alone");
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_start_the_checkpoint_that_the_log_was_purged_for_is_the_snapshot_though_the_state_lags() {
        let (env, _handle) = Env::simulated(1);
        let (checkpoints, _) = Checkpoints::open(JournalId(1), PathBuf::from("/checkpoints"), &env).await.unwrap();
        let at = |index| {
            let applied = log_id(Position { term: 1, leader: 0, index });
            encode(JournalId(1), &Core { applied, ..Core::empty() }).unwrap()
        };
        checkpoints.write(at(32), 41).await.unwrap();
        checkpoints.write(at(41), 41).await.unwrap();
        checkpoints.purged_to(40);
        for releasable in [0, 35, 40, 41, 45] {
            assert_eq!(checkpoints.at_or_below(releasable).map(|kept| kept.index()), Some(41), "{releasable}");
        }
        // It stays until another one can take its place.
        for index in [50, 60, 70] {
            checkpoints.write(at(index), 35).await.unwrap();
        }
        assert_eq!(checkpoints.at_or_below(35).map(|kept| kept.index()), Some(41));
        assert_eq!(checkpoints.at_or_below(60).map(|kept| kept.index()), Some(60));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_checkpoint_that_the_log_was_purged_for_an_older_one_is_no_snapshot_either() {
        let (env, _handle) = Env::simulated(1);
        let (checkpoints, _) = Checkpoints::open(JournalId(1), PathBuf::from("/checkpoints"), &env).await.unwrap();
        for index in [12, 33, 70] {
            let applied = log_id(Position { term: 1, leader: 0, index });
            let encoded = encode(JournalId(1), &Core { applied, ..Core::empty() }).unwrap();
            checkpoints.write(encoded, 12).await.unwrap();
        }
        checkpoints.purged_to(41);
        assert_eq!(checkpoints.at_or_below(62).map(|kept| kept.index()), None);
        assert_eq!(checkpoints.oldest_that_reaches_the_log().map(|kept| kept.index()), Some(70));
    }
}
