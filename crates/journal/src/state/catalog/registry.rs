//! Producer ids and the operator's epoch.

use tidegate_model::{ProducerEpoch, ProducerId, TimestampMs};

use super::{Catalog, NamedProducer};
use crate::entry::{Outcome, Refusal};
use crate::state::groups::check_name;
use crate::state::producers::{DEFAULT_WINDOW, GREATEST_WINDOW};

/// Most producer ids given out at once.
pub const MOST_PRODUCER_IDS: u32 = 1_000_000;
/// Most producer names kept.
pub const MOST_NAMED_PRODUCERS: u32 = 100_000;

impl Catalog {
    pub(crate) fn check_producer_ids(&self, count: u32) -> Result<(), Refusal> {
        if count == 0 || count > MOST_PRODUCER_IDS {
            let problem = format!("is {count}; give 1 to {MOST_PRODUCER_IDS}");
            return Err(Refusal::Invalid { field: "count", problem });
        }
        if self.next_producer_id.checked_add(i64::from(count)).is_none() {
            return Err(Refusal::Invalid { field: "count", problem: "is more than there are producer ids left".to_owned() });
        }
        Ok(())
    }

    pub(crate) fn allocate_producer_ids(&mut self, count: u32) -> Outcome {
        let first = ProducerId(self.next_producer_id);
        self.next_producer_id = self.next_producer_id.saturating_add(i64::from(count));
        Outcome::ProducerIds { first, count }
    }

    pub(crate) fn check_named_producer(&self, name: &str, window: u8, expire_ms: i64, now: TimestampMs) -> Result<(), Refusal> {
        check_name("name", name)?;
        if window > GREATEST_WINDOW {
            let problem = format!("is {window}; give at most {GREATEST_WINDOW}");
            return Err(Refusal::Invalid { field: "window", problem });
        }
        if expire_ms <= 0 {
            let problem = format!("is {expire_ms}; give at least 1 ms");
            return Err(Refusal::Invalid { field: "expire_ms", problem });
        }
        let is_full = self.named.len() >= MOST_NAMED_PRODUCERS as usize;
        let can_forget = self.expiries.first().is_some_and(|(expires, _)| *expires <= now);
        if is_full && !can_forget && !self.named.contains_key(name) {
            return Err(Refusal::NamedProducersFull { limit: MOST_NAMED_PRODUCERS });
        }
        self.check_producer_ids(1)
    }

    pub(crate) fn init_named_producer(&mut self, name: &str, window: u8, expire_ms: i64, now: TimestampMs) -> Outcome {
        let window = if window == 0 { DEFAULT_WINDOW } else { window };
        let expires = TimestampMs(now.0.saturating_add(expire_ms));
        let known = self.named.get(name).map(|producer| (producer.id, producer.epoch, producer.expires));
        if let Some((.., before)) = known {
            self.expiries.remove(&(before, name.to_owned()));
        } else if self.named.len() >= MOST_NAMED_PRODUCERS as usize
            && let Some((_, oldest)) = self.expiries.pop_first()
        {
            self.named.remove(&oldest);
        }
        // Kafka keeps the last epoch for fencing; whoever comes to it gets a new id.
        let (id, epoch) = match known {
            Some((id, epoch, _)) if epoch.0 < i16::MAX - 1 => (id, ProducerEpoch(epoch.0 + 1)),
            _ => {
                let id = ProducerId(self.next_producer_id);
                self.next_producer_id = self.next_producer_id.saturating_add(1);
                (id, ProducerEpoch(0))
            }
        };
        self.named.insert(name.to_owned(), NamedProducer { id, epoch, window, expires });
        self.expiries.insert((expires, name.to_owned()));
        Outcome::NamedProducer { id, epoch, window }
    }

    pub(crate) fn check_operator_epoch(&self, epoch: u64) -> Result<(), Refusal> {
        if epoch < self.operator_epoch {
            return Err(Refusal::StaleOperator { given: epoch, current: self.operator_epoch });
        }
        Ok(())
    }
}
