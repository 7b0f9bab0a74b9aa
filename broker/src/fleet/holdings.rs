//! The notes on a volume of which replica of each data journal it holds (docs/formats/identity.md).
//!
//! A note is written once a replica has started and before anybody can hear it. So a start that finds the note and not the log knows that the log was taken
//! away, and does not begin under the old id as if it had never voted (I7). When all of the replica's bytes have gone the note stays and says so: a catalog
//! that lags after a power cut may show the replica as wanted still.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_env::Env;
use tidegate_model::JournalId;

/// Version of a note that this build writes, and the greatest it reads.
const FORMAT: u32 = 1;
const SUFFIX: &str = ".json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    format: u32,
    journal: u32,
    replica: u64,
    /// It was taken back, and nothing is left of it.
    #[serde(default, skip_serializing_if = "is_false")]
    gone: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The notes of one volume.
pub(crate) struct Holdings {
    env: Env,
    folder: PathBuf,
    notes: Mutex<Notes>,
}

/// The replica of each journal.
#[derive(Clone, Default)]
struct Notes {
    held: BTreeMap<JournalId, u64>,
    gone: BTreeMap<JournalId, u64>,
}

impl Notes {
    fn take(&mut self, note: &Note) {
        let journal = JournalId(note.journal);
        let (to, from) = if note.gone { (&mut self.gone, &mut self.held) } else { (&mut self.held, &mut self.gone) };
        from.remove(&journal);
        to.insert(journal, note.replica);
    }
}

impl Holdings {
    /// Reads all notes.
    ///
    /// # Errors
    /// The disk's; `InvalidData` for a note that is damaged or newer than this build. Each names the file.
    pub(crate) async fn open(env: &Env, data_dir: &Path) -> io::Result<Holdings> {
        let folder = data_dir.join("replicas");
        let (disk, path) = (env.disk.clone(), folder.clone());
        let read = move || {
            disk.create_dir_all_durably(&path)?;
            let mut notes = Notes::default();
            for entry in disk.list(&path)?.into_iter().filter(|entry| entry.name.ends_with(SUFFIX)) {
                let file = path.join(&entry.name);
                let note = parse(&disk.read(&file)?).map_err(|problem| {
                    let text = format!("{}: {problem}", file.display());
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                notes.take(&note);
            }
            Ok::<_, io::Error>(notes)
        };
        let notes = env.run_blocking(read).await?;
        Ok(Holdings { env: env.clone(), folder, notes: Mutex::new(notes) })
    }

    /// The replica of a journal that is on this volume.
    pub(crate) fn get(&self, journal: JournalId) -> Option<u64> {
        self.notes.lock().held.get(&journal).copied()
    }

    /// The last replica of a journal that was on this volume, if there is none now.
    pub(crate) fn gone(&self, journal: JournalId) -> Option<u64> {
        self.notes.lock().gone.get(&journal).copied()
    }

    /// All that are there.
    pub(crate) fn all(&self) -> BTreeMap<JournalId, u64> {
        self.notes.lock().held.clone()
    }

    /// Notes a replica, in the place of an earlier one. Durable on return.
    pub(crate) async fn note(&self, journal: JournalId, replica: u64) -> io::Result<()> {
        if self.get(journal) == Some(replica) {
            return Ok(());
        }
        self.write(Note { format: FORMAT, journal: journal.0, replica, gone: false }).await
    }

    /// Notes that a replica is gone. Durable on return.
    pub(crate) async fn strike(&self, journal: JournalId) -> io::Result<()> {
        match self.get(journal) {
            Some(replica) => self.write(Note { format: FORMAT, journal: journal.0, replica, gone: true }).await,
            None => Ok(()),
        }
    }

    async fn write(&self, note: Note) -> io::Result<()> {
        let (disk, path) = (self.env.disk.clone(), self.path(JournalId(note.journal)));
        let text = serde_json::to_vec(&note)?;
        self.env.run_blocking(move || disk.write_atomically(&path, &text)).await?;
        self.notes.lock().take(&note);
        Ok(())
    }

    fn path(&self, journal: JournalId) -> PathBuf {
        self.folder.join(format!("{:08}{SUFFIX}", journal.0))
    }
}

fn parse(text: &[u8]) -> Result<Note, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |error: serde_json::Error| {
        format!("is damaged ({error}): remove it if the write-ahead log is the volume's own, else empty the volume")
    };
    let Format { format } = serde_json::from_slice(text).map_err(damaged)?;
    if format > FORMAT {
        return Err(format!("has format {format}, this build knows {FORMAT}: run a newer build"));
    }
    serde_json::from_slice(text).map_err(damaged)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files")]

    use super::*;

    #[tokio::test]
    async fn notes_are_there_again_and_struck_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::real();
        let holdings = Holdings::open(&env, folder.path()).await.unwrap();
        for (journal, replica) in [(1, 7), (2, (1 << 32) | 7), (1, (3 << 32) | 7), (4, 7)] {
            holdings.note(JournalId(journal), replica).await.unwrap();
        }
        holdings.strike(JournalId(4)).await.unwrap();
        holdings.strike(JournalId(5)).await.unwrap();
        let again = Holdings::open(&env, folder.path()).await.unwrap();
        assert_eq!(again.all(), BTreeMap::from([(JournalId(1), (3 << 32) | 7), (JournalId(2), (1 << 32) | 7)]));
        assert_eq!(again.all(), holdings.all());
        // What was there once is known, until a later one comes.
        assert_eq!((again.gone(JournalId(4)), again.gone(JournalId(5)), again.gone(JournalId(1))), (Some(7), None, None));
        again.note(JournalId(4), (1 << 32) | 7).await.unwrap();
        assert_eq!((again.get(JournalId(4)), again.gone(JournalId(4))), (Some((1 << 32) | 7), None));
    }

    #[tokio::test]
    async fn a_damaged_and_a_newer_note_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let env = Env::real();
        Holdings::open(&env, folder.path()).await.unwrap().note(JournalId(1), 7).await.unwrap();
        let path = folder.path().join("replicas/00000001.json");
        // The bytes of format 1: they stay readable.
        assert_eq!(std::fs::read(&path).unwrap(), br#"{"format":1,"journal":1,"replica":7}"#);
        for (text, said) in [("{\"format\":1,\"jour", "damaged"), ("{\"format\":2,\"any\":[]}", "run a newer build")] {
            std::fs::write(&path, text).unwrap();
            let error = Holdings::open(&env, folder.path()).await.err().unwrap().to_string();
            assert!(error.contains("00000001.json") && error.contains(said), "{error}");
        }
    }
}
