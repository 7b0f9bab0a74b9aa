//! Where the other brokers were, noted on the volume (docs/formats/identity.md). The catalog says it, and the catalog can only be read once its
//! replicas have found each other: after all brokers died at once none of them would ever hear of another without this note.
//!
//! A note is only a hint: it may be old, damaged or missing. What a wrong broker answers is refused by its identity.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_env::Env;
use tidegate_model::BrokerId;

const FILE: &str = "peers.json";
const FORMAT: u32 = 1;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    format: u32,
    /// Number of the broker → its `host:port` for peers.
    peers: BTreeMap<u32, String>,
}

/// The note of one volume.
pub(crate) struct Neighbours {
    env: Env,
    path: PathBuf,
    noted: Mutex<BTreeMap<u32, String>>,
}

impl Neighbours {
    /// Reads the note; what cannot be read says nothing.
    pub(crate) async fn open(env: &Env, data_dir: &Path) -> Neighbours {
        let path = data_dir.join(FILE);
        let (disk, file) = (env.disk.clone(), path.clone());
        let read = env.run_blocking(move || disk.metadata(&file)?.map(|_| disk.read(&file)).transpose()).await;
        let peers = match read.map(|bytes| bytes.map(|bytes| serde_json::from_slice::<Note>(&bytes))) {
            Ok(Some(Ok(note))) if note.format == FORMAT => note.peers,
            Ok(None) => BTreeMap::new(),
            other => {
                tracing::warn!(path = %path.display(), ?other, "the note of where other brokers were is of no use, and is made anew");
                BTreeMap::new()
            }
        };
        Neighbours { env: env.clone(), path, noted: Mutex::new(peers) }
    }

    /// Where they were.
    pub(crate) fn all(&self) -> Vec<(BrokerId, String)> {
        self.noted.lock().iter().map(|(broker, address)| (BrokerId(*broker), address.clone())).collect()
    }

    /// Notes where they are, durably, if it is news. A disk that refuses is said and is tried again with the next news.
    pub(crate) async fn note(&self, addresses: &[(BrokerId, String)]) {
        let peers: BTreeMap<u32, String> = addresses.iter().map(|(broker, address)| (broker.0, address.clone())).collect();
        if peers.is_empty() || *self.noted.lock() == peers {
            return;
        }
        let note = Note { format: FORMAT, peers: peers.clone() };
        let (disk, path) = (self.env.disk.clone(), self.path.clone());
        let write = move || {
            let text = serde_json::to_vec_pretty(&note).map_err(std::io::Error::other)?;
            disk.write_atomically(&path, &text)
        };
        match self.env.run_blocking(write).await {
            Ok(()) => *self.noted.lock() = peers,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "where other brokers are could not be noted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files")]

    use super::*;

    #[tokio::test]
    async fn what_was_noted_is_known_after_a_restart_and_a_damaged_note_says_nothing() {
        let (folder, env) = (tempfile::tempdir().unwrap(), Env::real());
        let known = Neighbours::open(&env, folder.path()).await;
        assert!(known.all().is_empty());
        let addresses = vec![(BrokerId(2), "b:1".to_owned()), (BrokerId(3), "c:1".to_owned())];
        known.note(&addresses).await;
        // A catalog that says nothing yet is no news.
        known.note(&[]).await;
        assert_eq!(Neighbours::open(&env, folder.path()).await.all(), addresses);
        for damaged in ["", "{\"format\": 1, \"peers\": 7}", "{\"format\": 9, \"peers\": {}}"] {
            std::fs::write(folder.path().join(FILE), damaged).unwrap();
            let again = Neighbours::open(&env, folder.path()).await;
            assert!(again.all().is_empty());
            again.note(&addresses).await;
            assert_eq!(Neighbours::open(&env, folder.path()).await.all(), addresses);
        }
    }
}
