//! Opening a log.

use std::collections::BTreeMap;

use tidegate_model::JournalId;

use crate::JournalLog;

/// What an opened log holds.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Each journal that was ever written to.
    pub journals: BTreeMap<JournalId, JournalLog>,
}
