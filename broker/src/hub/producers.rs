//! Producer identities. The catalog gives out numbers; an id is such a number times 64 plus (window - 1), so that every broker knows
//! from a batch alone how many of its producer's batches are to be remembered, after any restart and without asking.

use parking_lot::Mutex;
use tidegate_journal::entry::{Operation, Outcome, Unit};
use tidegate_model::{JournalId, ProducerEpoch, ProducerId};

use super::{Error, Hub, ProducerIdentity};

/// Batches remembered unless a producer asks for another number: Kafka's.
pub(crate) const DEFAULT_WINDOW: u8 = 5;
/// Most batches that can be remembered.
const MOST_WINDOW: u8 = 64;
/// Numbers taken from the catalog at a time; those not given out at a restart are lost, of 2^57.
const BLOCK: u32 = 1000;
/// How long an unused producer name is kept when room is needed.
const NAME_EXPIRE_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// Numbers that the catalog gave to this broker and that are not given out yet.
#[derive(Debug, Default)]
pub(crate) struct IdBlocks {
    /// Next number and one past the last.
    free: Mutex<(i64, i64)>,
}

impl IdBlocks {
    fn take(&self) -> Option<i64> {
        let mut free = self.free.lock();
        let (next, end) = *free;
        (next < end).then(|| {
            free.0 += 1;
            next
        })
    }
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitProducer {
    /// A name kept over restarts; empty: none.
    pub name: String,
    /// Batches to be remembered; 0 stands for 5.
    pub window: u32,
    /// The identity whose epoch shall be raised.
    pub current: Option<(ProducerId, ProducerEpoch)>,
}

/// How many batches of this producer are to be remembered.
pub(crate) fn window_of(id: ProducerId) -> u8 {
    if id.0 < 0 { DEFAULT_WINDOW } else { (id.0 % 64) as u8 + 1 }
}

fn id_of(number: i64, window: u8) -> ProducerId {
    ProducerId(number * 64 + i64::from(window) - 1)
}

impl Hub {
    /// Gives out a producer's identity.
    pub async fn init_producer(&self, asked: InitProducer) -> Result<ProducerIdentity, Error> {
        let window = match asked.window {
            0 => DEFAULT_WINDOW,
            given => u8::try_from(given)
                .ok()
                .filter(|window| *window <= MOST_WINDOW)
                .ok_or_else(|| Error::invalid("max_in_flight_batches", format!("{given} is not within 1 to {MOST_WINDOW}")))?,
        };
        if asked.name.len() > 249 {
            return Err(Error::invalid("name", format!("has {} bytes; at most 249", asked.name.len())));
        }
        if !asked.name.is_empty() {
            return self.named(asked.name).await;
        }
        match asked.current {
            // An anonymous producer's next epoch needs no catalog: only its owner knows the id, and each partition takes the
            // greater epoch when it comes. At the end of the epochs it gets another id.
            Some((id, epoch)) if epoch.0 < 0 || id.0 < 0 => {
                Err(Error::invalid("producer_epoch", format!("id {id} with epoch {epoch} was never given out")))
            }
            Some((id, epoch)) if epoch.0 < i16::MAX - 1 => {
                Ok(ProducerIdentity { id, epoch: ProducerEpoch(epoch.0 + 1), window: window_of(id) })
            }
            _ => self.anonymous(window).await,
        }
    }

    async fn anonymous(&self, window: u8) -> Result<ProducerIdentity, Error> {
        loop {
            if let Some(number) = self.inner.producers.take() {
                return Ok(ProducerIdentity { id: id_of(number, window), epoch: ProducerEpoch(0), window });
            }
            let unit = Unit::of(Operation::AllocateProducerIds { count: BLOCK });
            match self.propose(JournalId::CATALOG, unit).await? {
                Outcome::ProducerIds { first, count } => {
                    *self.inner.producers.free.lock() = (first.0, first.0 + i64::from(count));
                }
                other => return Err(Error::internal(format!("an allocation of producer ids came to {other:?}"))),
            }
        }
    }

    /// A name's id must stay the same under every epoch, or a new incarnation would not fence the old one. The window is a part of the
    /// id, so names always get the widest: remembering more than was asked for does no harm.
    async fn named(&self, name: String) -> Result<ProducerIdentity, Error> {
        let window = MOST_WINDOW;
        let unit = Unit::of(Operation::InitNamedProducer { name, window, expire_ms: NAME_EXPIRE_MS });
        match self.propose(JournalId::CATALOG, unit).await? {
            Outcome::NamedProducer { id, epoch, .. } => Ok(ProducerIdentity { id: id_of(id.0, window), epoch, window }),
            other => Err(Error::internal(format!("an init of a named producer came to {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_its_window_again() {
        for window in 1..=MOST_WINDOW {
            for number in [1, 2, 1 << 40] {
                assert_eq!(window_of(id_of(number, window)), window);
            }
        }
        assert_eq!(window_of(ProducerId(-1)), DEFAULT_WINDOW);
    }
}
