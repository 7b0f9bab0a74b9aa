//! Whether this broker still belongs to the hub. One that was retired is told nothing any more by the catalog, so that it could wait for ever
//! when it is started again: after a while without the catalog's leader it asks the others, and ends with what they say.
//!
//! A broker whose report was taken once since its start never asks: if it is retired later, whoever had it retired stops it.

use std::sync::Arc;
use std::time::Duration;

use tidegate_journal::entry::BrokerState;
use tidegate_model::BrokerId;
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::request::Ask;

use crate::hub::Inner;

/// So long a broker waits for the catalog's leader before it asks others, and between two rounds of questions.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest that one broker may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// What a broker that was started knows of its place.
#[derive(Debug, Default)]
pub(crate) struct Place {
    is_sure: bool,
    asked: Option<Duration>,
}

impl Place {
    /// Takes in whether the catalog's leader took a report just now, and asks around if it is due.
    pub(crate) async fn learn(&mut self, inner: &Arc<Inner>, was_heard: bool) {
        self.is_sure |= was_heard;
        let now = inner.env.clock.monotonic();
        let since = *self.asked.get_or_insert(now);
        if self.is_sure || now.saturating_sub(since) < PATIENCE {
            return;
        }
        self.asked = Some(now);
        if let Some(revision) = inner.retired_by().await {
            self.is_sure = true;
            inner.end_retired(revision);
        }
    }
}

impl Inner {
    /// What this broker's catalog says of a broker.
    pub(super) fn standing(&self, ask: &wired::AskStanding) -> wired::Standing {
        self.catalog.read_state(|state| {
            let fleet = state.catalog().fleet();
            let retired = fleet.broker(BrokerId(ask.broker)).is_some_and(|known| known.state == BrokerState::Retired);
            wired::Standing { retired, revision: fleet.revision() }
        })
    }

    /// The revision of the fleet in which this broker is retired, if any broker in reach knows that it is.
    async fn retired_by(&self) -> Option<u64> {
        let ask = wired::AskStanding { broker: self.broker.0 };
        let own = self.standing(&ask);
        if own.retired {
            return Some(own.revision);
        }
        let mut addresses: Vec<String> = self.neighbours.all().into_iter().map(|(_, address)| address).collect();
        addresses.extend(self.settings.fleet.join.iter().cloned());
        for address in addresses {
            match self.ask(&address, Ask::Standing(ask), DEADLINE).await {
                Ok(Ok(Told::Standing(told))) if told.retired => return Some(told.revision),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(address, %error, "a broker did not say whether this one is retired"),
                Err(error) => tracing::debug!(%error, "a broker cannot be asked whether this one is retired"),
            }
        }
        None
    }

    /// Lets the process end, with what to do.
    fn end_retired(&self, revision: u64) {
        let reason = format!(
            "broker {} was retired by its hub (the catalog's fleet revision {revision} says so) and can never take part again: remove this \
             process and its volume {}, or start it with an unused hub.broker_id and an empty hub.data_dir",
            self.broker,
            self.settings.data_dir.display()
        );
        tracing::error!("{reason}");
        self.journal_failed.send_replace(Some(reason.into()));
    }
}
