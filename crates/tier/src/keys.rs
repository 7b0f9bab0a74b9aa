//! Names of objects. A hub's objects lie below one prefix of a bucket; a key carries the hub's uid, what it is for, and a fresh uuid, and
//! is never used twice.
//!
//! ```text
//! <prefix>/hub.json                                      marker: which hub the prefix belongs to
//! <prefix>/<hub>/journals/<journal>/objects/<uuid>       tier object of one journal
//! <prefix>/<hub>/topics/<topic uid>/<partition>/<uuid>   manifest object of one partition
//! <prefix>/<hub>/checkpoints/<journal>/<index>-<uuid>    checkpoint of one journal's state
//! ```
//!
//! Journal numbers have 10 digits, indexes 20, so that a listing is in their order.

use tidegate_model::{HubId, JournalId, TopicPartition};
use uuid::Uuid;

use crate::store::{StoreError, validate_key};

/// Makes the keys of one hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Empty, or ending with a slash.
    prefix: String,
    hub: HubId,
}

/// The key of the marker of a prefix. `prefix` may be empty and may end with a slash.
///
/// # Errors
/// [`StoreError::InvalidKey`] if the prefix cannot begin a key.
pub fn marker(prefix: &str) -> Result<String, StoreError> {
    Ok(format!("{}hub.json", normalised(prefix)?))
}

fn normalised(prefix: &str) -> Result<String, StoreError> {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if prefix.is_empty() {
        return Ok(String::new());
    }
    validate_key(prefix)?;
    if prefix.len() > 512 {
        return Err(StoreError::InvalidKey { key: prefix.to_owned(), why: "a hub's prefix may have at most 512 bytes" });
    }
    Ok(format!("{prefix}/"))
}

impl Keys {
    /// Keys of `hub` below `prefix`, which may be empty and may end with a slash.
    ///
    /// # Errors
    /// [`StoreError::InvalidKey`] if the prefix cannot begin a key.
    pub fn new(prefix: &str, hub: HubId) -> Result<Keys, StoreError> {
        Ok(Keys { prefix: normalised(prefix)?, hub })
    }

    /// The hub.
    pub fn hub(&self) -> HubId {
        self.hub
    }

    /// The marker of the hub's prefix.
    pub fn marker(&self) -> String {
        format!("{}hub.json", self.prefix)
    }

    /// What all keys of the hub but the marker's start with.
    pub fn all(&self) -> String {
        format!("{}{}/", self.prefix, self.hub)
    }

    /// What the keys of a journal's tier objects start with.
    pub fn objects(&self, journal: JournalId) -> String {
        format!("{}journals/{:010}/objects/", self.all(), journal.0)
    }

    /// A tier object.
    pub fn object(&self, journal: JournalId, fresh: Uuid) -> String {
        format!("{}{fresh}", self.objects(journal))
    }

    /// A manifest object.
    pub fn manifest(&self, at: TopicPartition, fresh: Uuid) -> String {
        format!("{}topics/{}/{:010}/{fresh}", self.all(), at.topic, at.partition.0)
    }

    /// What the keys of all checkpoints start with; the next part is the journal.
    pub fn all_checkpoints(&self) -> String {
        format!("{}checkpoints/", self.all())
    }

    /// What the keys of a journal's checkpoints start with.
    pub fn checkpoints(&self, journal: JournalId) -> String {
        format!("{}{:010}/", self.all_checkpoints(), journal.0)
    }

    /// A checkpoint of the state after the entry at `index`.
    pub fn checkpoint(&self, journal: JournalId, index: u64, fresh: Uuid) -> String {
        format!("{}{index:020}-{fresh}", self.checkpoints(journal))
    }

    /// The journal and index of a checkpoint's key, `None` for any other key.
    pub fn parse_checkpoint(&self, key: &str) -> Option<(JournalId, u64)> {
        let (journal, name) = key.strip_prefix(&self.all_checkpoints())?.split_once('/')?;
        let (index, fresh) = name.split_once('-')?;
        Uuid::parse_str(fresh).ok()?;
        if journal.len() != 10 || index.len() != 20 {
            return None;
        }
        Some((JournalId(journal.parse().ok()?), index.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::{PartitionId, TopicUid};

    fn keys(prefix: &str) -> Keys {
        Keys::new(prefix, HubId(Uuid::from_u128(1))).unwrap()
    }

    #[test]
    fn keys_are_what_the_document_says() {
        let (keys, fresh) = (keys("a/b/"), Uuid::from_u128(2));
        assert_eq!(keys.marker(), "a/b/hub.json");
        assert_eq!(
            keys.object(JournalId(7), fresh),
            "a/b/00000000-0000-0000-0000-000000000001/journals/0000000007/objects/00000000-0000-0000-0000-000000000002"
        );
        let at = TopicPartition { topic: TopicUid(Uuid::from_u128(3)), partition: PartitionId(4) };
        assert_eq!(
            keys.manifest(at, fresh),
            "a/b/00000000-0000-0000-0000-000000000001/topics/00000000-0000-0000-0000-000000000003/0000000004/00000000-0000-0000-0000-000000000002"
        );
    }

    #[test]
    fn a_checkpoint_key_says_its_journal_and_index_and_sorts_by_them() {
        let keys = keys("");
        let (nine, ten) = (keys.checkpoint(JournalId(1), 9, Uuid::nil()), keys.checkpoint(JournalId(1), 10, Uuid::nil()));
        assert!(nine < ten);
        assert_eq!(keys.parse_checkpoint(&ten), Some((JournalId(1), 10)));
        assert_eq!(keys.parse_checkpoint(&keys.marker()), None);
        assert_eq!(keys.parse_checkpoint(&ten.replace("00000010-", "10-")), None);
    }

    #[test]
    fn all_keys_are_valid_even_under_the_longest_prefix_and_a_bad_prefix_is_refused() {
        let keys = keys(&["p"; 256].join("/"));
        validate_key(&keys.checkpoint(JournalId(u32::MAX), u64::MAX, Uuid::max())).unwrap();
        for bad in ["/", "a//b", "../x", "a b", ".hidden"] {
            assert!(matches!(Keys::new(bad, HubId::default()), Err(StoreError::InvalidKey { .. })) || bad == "/", "{bad}");
        }
    }
}
