//! What the planner knows: brokers, journals with their members, loads. Plain data; whoever measures it fills it in.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_journal::entry::BrokerState;
use tidegate_journal::state::Replica;
use tidegate_model::{BrokerId, JournalId};
use uuid::Uuid;

/// A broker as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerView {
    /// Its volume.
    pub incarnation: Uuid,
    /// Its zone; empty where unknown.
    pub zone: String,
    /// Its node; empty where unknown.
    pub node: String,
    /// What the catalog says of it.
    pub state: BrokerState,
    /// What is heard of it.
    pub health: Health,
    /// Its disk or its network is slow: it is to lead nothing while others are not.
    pub slow: bool,
}

/// What is heard of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Alive,
    /// It has not been heard of for a moment: nothing new is given to it, nothing is taken away.
    Silent,
    /// It has not been heard of for so long that its replicas are rebuilt elsewhere.
    Lost,
}

/// A journal as its leader reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalView {
    /// The replicas that the catalog has given out.
    pub replicas: Vec<Replica>,
    /// Those of them whose broker says that their data is lost, though its volume is the same. They never come back, and stand above with the greatest
    /// incarnation.
    pub lost: BTreeSet<u64>,
    /// What its leader says; `None` while none is known.
    pub led: Option<Led>,
    /// Bytes in and out per second, averaged over some time.
    pub load: f64,
    /// Whether its leader may be moved for balance: it was not moved lately.
    pub settled: bool,
}

/// What a journal's leader says of its members.
#[derive(Clone, Debug, PartialEq)]
pub struct Led {
    /// The leader's replica id.
    pub leader: u64,
    /// The replicas that vote; during a change of voters those before and after it.
    pub voters: BTreeSet<u64>,
    /// Those of them that vote only before, or only after, a change that is under way or was cut off with its leader.
    pub unsettled: BTreeSet<u64>,
    /// Those that do not.
    pub learners: BTreeSet<u64>,
    /// Members that hold, but for a moment's worth, all that the leader has.
    pub in_sync: BTreeSet<u64>,
}

/// What is planned for.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetView {
    /// All brokers that are not retired.
    pub brokers: BTreeMap<BrokerId, BrokerView>,
    /// All journals, the catalog too.
    pub journals: BTreeMap<JournalId, JournalView>,
    /// Voters that a journal shall have.
    pub replication_factor: usize,
}

/// Bounds of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Journals to which a replica is being added for balance, repair or a drain at the same time.
    pub moves: usize,
    /// Steps of one plan.
    pub steps: usize,
    /// Leaders stay while the busiest broker has less than this part more than the mean.
    pub hysteresis: f64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { moves: 2, steps: 16, hysteresis: 0.2 }
    }
}

/// One thing to do. Each is safe to do twice, and safe to leave undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Commit a new replica to the catalog.
    AddReplica {
        /// The journal.
        journal: JournalId,
        /// The broker that shall hold it.
        broker: BrokerId,
    },
    /// Let a replica of the catalog learn.
    AddLearner {
        /// The journal.
        journal: JournalId,
        /// The replica.
        replica: u64,
    },
    /// Change who votes.
    ChangeVoters {
        /// The journal.
        journal: JournalId,
        /// Who votes from then on.
        voters: BTreeSet<u64>,
    },
    /// Hand leadership over.
    TransferLeader {
        /// The journal.
        journal: JournalId,
        /// To this voter.
        to: u64,
    },
    /// Hand leadership over for the sake of balance alone: it can wait.
    BalanceLeader {
        /// The journal.
        journal: JournalId,
        /// To this voter.
        to: u64,
    },
    /// Drop a member that does not vote.
    RemoveLearner {
        /// The journal.
        journal: JournalId,
        /// The replica.
        replica: u64,
    },
    /// Commit to the catalog that a replica is gone.
    RemoveReplica {
        /// The journal.
        journal: JournalId,
        /// The replica.
        replica: u64,
    },
    /// Commit to the catalog that a drained broker is retired.
    Retire {
        /// The broker.
        broker: BrokerId,
    },
}

impl FleetView {
    /// The replica can be counted on: its volume is its broker's present one, the broker takes part and is not lost.
    pub(super) fn is_good(&self, replica: &Replica) -> bool {
        self.brokers.get(&replica.broker).is_some_and(|broker| {
            broker.incarnation == replica.incarnation && broker.state == BrokerState::Active && broker.health != Health::Lost
        })
    }

    /// The replica's broker takes part and has its volume, as far as is known, whether or not anything is heard of it.
    pub(super) fn is_awaited(&self, replica: &Replica) -> bool {
        let broker = self.brokers.get(&replica.broker);
        broker.is_some_and(|broker| broker.incarnation == replica.incarnation && broker.state == BrokerState::Active)
    }

    pub(super) fn is_alive(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|broker| broker.health == Health::Alive)
    }

    /// The broker is slow, and another one that lives is not.
    pub(super) fn is_slow(&self, broker: BrokerId) -> bool {
        let lives = |broker: &&BrokerView| broker.health == Health::Alive && broker.state == BrokerState::Active;
        self.brokers.get(&broker).is_some_and(|broker| broker.slow)
            && self.brokers.values().filter(lives).any(|broker| !broker.slow)
    }

    pub(super) fn zone(&self, broker: BrokerId) -> &str {
        self.brokers.get(&broker).map_or("", |broker| &broker.zone)
    }

    pub(super) fn node(&self, broker: BrokerId) -> &str {
        self.brokers.get(&broker).map_or("", |broker| &broker.node)
    }

    /// Good replicas of data journals on each active broker that is not lost.
    pub(super) fn counts(&self) -> BTreeMap<BrokerId, usize> {
        let hosts =
            self.brokers.iter().filter(|(_, broker)| broker.state == BrokerState::Active && broker.health != Health::Lost);
        let mut counts: BTreeMap<BrokerId, usize> = hosts.map(|(id, _)| (*id, 0)).collect();
        let data = self.journals.iter().filter(|(id, _)| **id != JournalId::CATALOG);
        for replica in data.flat_map(|(_, journal)| &journal.replicas).filter(|replica| self.is_good(replica)) {
            counts.entry(replica.broker).and_modify(|count| *count += 1);
        }
        counts
    }
}
