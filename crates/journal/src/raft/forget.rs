//! Taking away all that a volume holds of a journal: for a replica that went elsewhere, so that its bytes go and the same journal may come
//! back under another replica id.

use std::io;

use tidegate_model::JournalId;
use tidegate_wal::Write;
use tokio::sync::oneshot;

use super::journal::{Journal, JournalParts};

impl Journal {
    /// Removes the local checkpoints of a journal, then its log with its votes. The journal must have been shut down, or not be started yet; what is
    /// still asked of an old handle finds nothing. Durable on return; may be repeated after it was cut off anywhere.
    ///
    /// Only for a replica that the journal's members do not count any more: a voter that forgets what it voted may vote twice (I7).
    ///
    /// # Errors
    /// The disk's, or the log has failed.
    pub async fn forget(id: JournalId, parts: &JournalParts) -> io::Result<()> {
        let (disk, folder) = (parts.env.disk.clone(), parts.checkpoint_dir.clone());
        let remove = move || {
            if disk.metadata(&folder)?.is_some() {
                disk.remove_dir_all(&folder)?;
                if let Some(above) = folder.parent() {
                    disk.sync_dir(above)?;
                }
            }
            Ok::<_, io::Error>(())
        };
        // A log without its checkpoint does not start; a checkpoint without its log would neither, but could be taken for lost data.
        parts.env.run_blocking(remove).await?;
        let (done, written) = oneshot::channel();
        parts.wal.submit(vec![Write::Forget { journal: id }], Some(Box::new(move |result| drop(done.send(result)))));
        written.await.map_err(|_| io::Error::other("the write-ahead log ended"))?.map_err(io::Error::other)?;
        // The callers of earlier appends were called before: nothing of the journal comes into the cache any more.
        parts.cache.forget(id);
        Ok(())
    }
}
