//! The journals that this broker holds a replica of. They come and go while the hub runs; handles that were taken out stay usable.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tidegate_journal::Journal;
use tidegate_model::JournalId;

/// The data journals of this broker, shared.
#[derive(Debug, Default)]
pub(crate) struct Hosted {
    journals: RwLock<Arc<BTreeMap<JournalId, Journal>>>,
}

impl Hosted {
    pub(crate) fn new(journals: BTreeMap<JournalId, Journal>) -> Hosted {
        Hosted { journals: RwLock::new(Arc::new(journals)) }
    }

    pub(crate) fn get(&self, id: JournalId) -> Option<Journal> {
        self.journals.read().get(&id).cloned()
    }

    /// All of them at this moment.
    pub(crate) fn all(&self) -> Arc<BTreeMap<JournalId, Journal>> {
        Arc::clone(&self.journals.read())
    }

    pub(crate) fn insert(&self, journal: Journal) {
        let mut place = self.journals.write();
        let mut journals = BTreeMap::clone(&place);
        journals.insert(journal.id(), journal);
        *place = Arc::new(journals);
    }

    pub(crate) fn remove(&self, id: JournalId) {
        let mut place = self.journals.write();
        let mut journals = BTreeMap::clone(&place);
        journals.remove(&id);
        *place = Arc::new(journals);
    }
}
