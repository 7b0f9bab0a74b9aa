//! Moves of partitions between journals, on the catalog's leader: those under way are finished, homes that hold nothing are dropped, journals that
//! were asked for are made, and partitions go to journals that have few.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_journal::entry::{BrokerState, Operation, Unit};
use tidegate_journal::state::{Catalog, MOST_HOMES};
use tidegate_model::{BrokerId, JournalId, PartitionId, TopicPartition};

use crate::hub::{Error, Inner};

/// Partitions that are moved for balance in one round, one after the other.
const MOVES: usize = 4;
/// Between two rounds of a hub of one broker.
const ROUND: Duration = Duration::from_secs(1);
/// Homes that are looked at in one round.
const HOMES: usize = 64;

impl Inner {
    /// One round. What fails is found again by the next.
    pub(crate) async fn move_partitions(self: &Arc<Self>) {
        if let Err(error) = self.add_journals().await {
            tracing::warn!(%error, "journals could not be added and will be again");
        }
        for (at, home, end) in self.oldest_homes().into_iter().take(HOMES) {
            if let Err(error) = self.drop_home(at, home, end).await {
                tracing::debug!(%at, journal = home.journal.0, %error, "an older home could not be looked at");
            }
        }
        if self.moves().is_empty() {
            let balance = self.catalog.read_state(|state| balance(state.catalog(), MOVES));
            for (at, to) in balance {
                if let Err(error) = self.begin_move(at, to).await {
                    tracing::warn!(%at, to = to.0, %error, "a partition could not be sent to another journal");
                }
            }
        }
        for begun in self.moves() {
            if let Err(error) = self.carry_move(&begun).await {
                tracing::warn!(at = %begun.at, to = begun.to.journal.0, %error, "a partition's move waits");
            }
        }
    }

    /// Makes the journals that `hub.journals` asks for and the hub has not. They begin on the broker with the fewest replicas.
    async fn add_journals(self: &Arc<Self>) -> Result<(), Error> {
        let (count, host) = self.catalog.read_state(|state| {
            let fleet = state.catalog().fleet();
            let missing = (self.settings.journals as usize).saturating_sub(fleet.data_journals().count());
            let mut replicas: BTreeMap<BrokerId, usize> = BTreeMap::new();
            for (broker, _) in fleet.brokers().filter(|(_, broker)| broker.state == BrokerState::Active) {
                let silent = !self.reports.heard().contains_key(&broker) && broker != self.broker;
                if !silent {
                    replicas.insert(broker, 0);
                }
            }
            for replica in fleet.data_journals().flat_map(|(_, info)| &info.replicas) {
                replicas.entry(replica.broker).and_modify(|count| *count += 1);
            }
            let host = replicas.into_iter().min_by_key(|(broker, count)| (*count, *broker)).map(|(broker, _)| broker);
            (u32::try_from(missing).unwrap_or(0), host)
        });
        let Some(host) = host.filter(|_| count > 0) else { return Ok(()) };
        tracing::info!(count, host = host.0, "hub.journals was raised: journals are added");
        let add = Operation::AddJournals { count, replicas: vec![host] };
        self.propose(JournalId::CATALOG, Unit::of(add)).await.map(|_| ())
    }
}

/// Moves partitions of a hub of one broker, and opens journals that are added, until it stops.
pub(crate) async fn move_alone(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            () = inner.stopping.cancelled() => return,
            () = async {
                inner.env.clock.sleep(ROUND).await;
                inner.move_partitions().await;
                inner.host().await;
            } => {}
        }
    }
}

/// Which partitions go to which journals, at most so many: from the fullest to the emptiest, while that has less than half of the mean. So only journals that
/// are new, or have lost most of what they had, get any, and a hub in balance stays as it is.
pub(crate) fn balance(catalog: &Catalog, most: usize) -> Vec<(TopicPartition, JournalId)> {
    let mut counts: BTreeMap<JournalId, u32> = catalog.journals().map(|(id, info)| (id, info.partitions)).collect();
    let mean = counts.values().sum::<u32>() / u32::try_from(counts.len().max(1)).unwrap_or(1);
    let mut moves: Vec<(TopicPartition, JournalId)> = Vec::new();
    while moves.len() < most {
        let Some((to, least)) = counts.iter().min_by_key(|(id, count)| (**count, **id)).map(|(id, count)| (*id, *count)) else {
            break;
        };
        let Some((from, greatest)) = counts.iter().max_by_key(|(_, count)| **count).map(|(id, count)| (*id, *count)) else {
            break;
        };
        if least * 2 >= mean || greatest < least + 2 {
            break;
        }
        let taken = |at: &TopicPartition| moves.iter().any(|(moved, _)| moved == at);
        let Some(at) = candidates(catalog, from, to).find(|at| !taken(at)) else { break };
        moves.push((at, to));
        counts.entry(from).and_modify(|count| *count -= 1);
        counts.entry(to).and_modify(|count| *count += 1);
    }
    moves
}

/// Partitions of a journal that may go to another.
fn candidates(catalog: &Catalog, from: JournalId, to: JournalId) -> impl Iterator<Item = TopicPartition> {
    let free = catalog.live_topics().filter(|topic| topic.config.placement_group.is_none());
    free.flat_map(move |topic| {
        let here = (0..).zip(&topic.homes).filter(move |(_, homes)| {
            let last = homes.last().is_some_and(|home| home.journal == from && !home.is_pending());
            last && homes.len() < MOST_HOMES && homes.iter().all(|home| home.journal != to)
        });
        here.map(|(partition, _)| TopicPartition { topic: topic.uid, partition: PartitionId(partition) })
    })
}
