//! The fleet: brokers, journals, and which broker holds a replica of which journal.
//!
//! What stands here is what was decided, not what is: whether a replica votes and how far it is, only its journal knows. Invariants: a replica
//! id is given out once; a journal has at most one replica for each (broker, incarnation); a retired broker holds no replica and never comes
//! back.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_env::bugs::{self, Bug};
use tidegate_model::{BrokerId, JournalId, TimestampMs};
use uuid::Uuid;

use crate::entry::{BrokerState, Operation, Outcome, Refusal};

/// The greatest replication factor: five voters survive the loss of two.
pub const GREATEST_REPLICATION_FACTOR: u32 = 5;
/// Most data journals of a hub, and most added at once.
const MOST_JOURNALS: u32 = 1024;
/// Most brokers known, retired ones included.
const MOST_BROKERS: usize = 10_000;
/// Most bytes of a listener's name, an address, a zone or a node.
const TEXT_BYTES: usize = 255;
/// Most addresses of a broker.
const MOST_ADDRESSES: usize = 16;

/// A broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    /// Written on its volume once.
    pub incarnation: Uuid,
    /// Listener name and `host:port`.
    pub addresses: Vec<(String, String)>,
    /// The zone it runs in; empty where unknown.
    pub zone: String,
    /// The node it runs on; empty where unknown.
    pub node: String,
    /// Whether it may hold replicas.
    pub state: BrokerState,
    /// When it last registered, in entry time.
    pub registered: TimestampMs,
}

impl Broker {
    /// Its address for a listener.
    pub fn address(&self, listener: &str) -> Option<&str> {
        self.addresses.iter().find(|(name, _)| name == listener).map(|(_, address)| address.as_str())
    }
}

/// A replica of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Its id in the journal's Raft group: the broker's number in the low half, in the high half how many replicas of this journal the
    /// broker had before. Never given out twice in a journal.
    pub id: u64,
    /// The broker that holds it.
    pub broker: BrokerId,
    /// The volume that holds it; on any other volume of that broker it is lost.
    pub incarnation: Uuid,
}

/// A journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JournalInfo {
    /// Its replicas, voting or not yet, in the order in which they were added.
    pub replicas: Vec<Replica>,
    /// The replica that begins the journal's log alone; all others join it. 0: none yet.
    pub founder: u64,
    /// How many partitions live in it, those of tombstones included.
    pub partitions: u32,
    /// How many replica ids each broker was given.
    pub(crate) given: BTreeMap<BrokerId, u32>,
}

impl JournalInfo {
    /// The replica on a volume.
    pub fn replica_on(&self, broker: BrokerId, incarnation: Uuid) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.broker == broker && replica.incarnation == incarnation)
    }

    /// Whether a replica id was given out and taken back: it never comes again.
    pub fn is_gone(&self, replica: u64) -> bool {
        let (broker, generation) = (BrokerId(replica as u32), (replica >> 32) as u32);
        let was_given = self.given.get(&broker).is_some_and(|given| generation < *given);
        was_given && self.replicas.iter().all(|known| known.id != replica)
    }

    fn add(&mut self, broker: BrokerId, incarnation: Uuid) -> u64 {
        let generation = self.given.entry(broker).or_insert(0);
        let id = (u64::from(*generation) << 32) | u64::from(broker.0);
        *generation += 1;
        self.replicas.push(Replica { id, broker, incarnation });
        if self.founder == 0 {
            self.founder = id;
        }
        id
    }
}

/// Brokers and journals.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    pub(crate) brokers: BTreeMap<BrokerId, Broker>,
    /// The catalog too, once a broker is registered.
    pub(crate) journals: BTreeMap<JournalId, JournalInfo>,
    pub(crate) replication_factor: u32,
    pub(crate) revision: u64,
    /// How many of the first data journals keep groups' positions; 0: all. A group's journal never changes, however many are added.
    pub(crate) group_journals: u32,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet { brokers: BTreeMap::new(), journals: BTreeMap::new(), replication_factor: 1, revision: 0, group_journals: 0 }
    }
}

impl Fleet {
    /// One broker.
    pub fn broker(&self, broker: BrokerId) -> Option<&Broker> {
        self.brokers.get(&broker)
    }

    /// All brokers, retired ones too.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = (BrokerId, &Broker)> {
        self.brokers.iter().map(|(id, broker)| (*id, broker))
    }

    /// A journal, the catalog included.
    pub fn journal(&self, journal: JournalId) -> Option<&JournalInfo> {
        self.journals.get(&journal)
    }

    /// All journals, the catalog first.
    pub fn journals(&self) -> impl ExactSizeIterator<Item = (JournalId, &JournalInfo)> {
        self.journals.iter().map(|(id, journal)| (*id, journal))
    }

    /// All journals but the catalog.
    pub fn data_journals(&self) -> impl Iterator<Item = (JournalId, &JournalInfo)> {
        self.journals.range(JournalId(1)..).map(|(id, journal)| (*id, journal))
    }

    /// The journals that keep groups' positions, by which a group's name is hashed. They stay the same when others are added.
    pub fn group_journals(&self) -> impl ExactSizeIterator<Item = JournalId> {
        let all = self.journals.range(JournalId(1)..).map(|(id, _)| *id);
        let count = if self.group_journals == 0 { usize::MAX } else { self.group_journals as usize };
        all.take(count).collect::<Vec<_>>().into_iter()
    }

    pub(crate) fn data_journal(&self, journal: JournalId) -> Option<&JournalInfo> {
        (journal != JournalId::CATALOG).then(|| self.journals.get(&journal)).flatten()
    }

    pub(crate) fn has_data_journals(&self) -> bool {
        self.journals.keys().next_back().is_some_and(|last| *last != JournalId::CATALOG)
    }

    /// How many voters a journal shall have.
    pub fn replication_factor(&self) -> u32 {
        self.replication_factor
    }

    /// Counts the changes of all that stands here, partitions' numbers excepted.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The journals that shall have a replica on a volume.
    pub fn replicas_on(&self, broker: BrokerId, incarnation: Uuid) -> impl Iterator<Item = (JournalId, &Replica)> {
        self.journals.iter().filter_map(move |(id, info)| Some((*id, info.replica_on(broker, incarnation)?)))
    }
}

/// What a broker says of itself.
#[derive(Clone, Copy)]
struct Registration<'a> {
    broker: BrokerId,
    incarnation: Uuid,
    replaces: Option<Uuid>,
    addresses: &'a [(String, String)],
    zone: &'a str,
    node: &'a str,
}

/// Whether an operation is one of this file.
pub(crate) fn is_of_fleet(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::RegisterBroker { .. }
            | Operation::SetBrokerState { .. }
            | Operation::AddJournals { .. }
            | Operation::AddReplica { .. }
            | Operation::RemoveReplica { .. }
            | Operation::SetReplicationFactor { .. }
    )
}

fn registration(operation: &Operation) -> Option<Registration<'_>> {
    let Operation::RegisterBroker { broker, incarnation, replaces, addresses, zone, node } = operation else { return None };
    Some(Registration { broker: *broker, incarnation: *incarnation, replaces: *replaces, addresses, zone, node })
}

impl Fleet {
    pub(crate) fn check_operation(&self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::SetBrokerState { broker, incarnation, state } => self.check_broker_state(*broker, *incarnation, *state),
            Operation::AddJournals { count, replicas } => self.check_add_journals(*count, replicas),
            Operation::AddReplica { journal, broker, incarnation } => self.check_add_replica(*journal, *broker, *incarnation),
            Operation::RemoveReplica { journal, replica } => self.check_remove_replica(*journal, *replica),
            Operation::SetReplicationFactor { factor } => Fleet::check_replication_factor(*factor),
            operation => registration(operation).map_or(Ok(()), |new| self.check_register(new)),
        }
    }

    /// Does what was checked.
    pub(crate) fn perform(&mut self, operation: &Operation, now: TimestampMs) -> Outcome {
        match operation {
            Operation::SetBrokerState { broker, state, .. } => self.set_broker_state(*broker, *state),
            Operation::AddJournals { count, replicas } => self.add_journals(*count, replicas),
            Operation::AddReplica { journal, broker, incarnation } => self.add_replica(*journal, *broker, *incarnation),
            Operation::RemoveReplica { journal, replica } => self.remove_replica(*journal, *replica),
            Operation::SetReplicationFactor { factor } => self.set_replication_factor(*factor),
            operation => registration(operation).map_or(Outcome::Done, |new| self.register(new, now)),
        }
    }

    fn check_register(&self, new: Registration<'_>) -> Result<(), Refusal> {
        let texts = new.addresses.iter().flat_map(|(listener, address)| [listener.as_str(), address]).chain([new.zone, new.node]);
        if texts.clone().any(|text| text.len() > TEXT_BYTES) || new.addresses.len() > MOST_ADDRESSES {
            let problem = format!("are too many or too long; give at most {MOST_ADDRESSES} of at most {TEXT_BYTES} bytes");
            return Err(Refusal::Invalid { field: "addresses, zone and node", problem });
        }
        if new.broker.0 == 0 {
            return Err(Refusal::Invalid { field: "broker", problem: "is 0; give 1 or more".to_owned() });
        }
        match self.brokers.get(&new.broker) {
            Some(known) if known.state == BrokerState::Retired => Err(Refusal::BrokerRetired { broker: new.broker }),
            Some(known) if known.incarnation != new.incarnation && new.replaces != Some(known.incarnation) => {
                Err(Refusal::BrokerIncarnation { broker: new.broker, current: known.incarnation })
            }
            None if self.brokers.len() >= MOST_BROKERS => {
                let problem = format!("would be one more than {MOST_BROKERS}, the most that a hub remembers");
                Err(Refusal::Invalid { field: "broker", problem })
            }
            _ => Ok(()),
        }
    }

    /// The first broker ever also founds the catalog's own journal.
    fn register(&mut self, new: Registration<'_>, now: TimestampMs) -> Outcome {
        let state = self.brokers.get(&new.broker).map_or(BrokerState::Active, |known| known.state);
        let broker = Broker {
            incarnation: new.incarnation,
            addresses: new.addresses.to_vec(),
            zone: new.zone.to_owned(),
            node: new.node.to_owned(),
            state,
            registered: now,
        };
        self.brokers.insert(new.broker, broker);
        let catalog = self.journals.entry(JournalId::CATALOG).or_default();
        if catalog.founder == 0 {
            catalog.add(new.broker, new.incarnation);
        }
        self.revision += 1;
        Outcome::Done
    }

    fn check_broker(&self, broker: BrokerId, incarnation: Option<Uuid>) -> Result<&Broker, Refusal> {
        let known = self.brokers.get(&broker).ok_or(Refusal::UnknownBroker { broker })?;
        match incarnation {
            Some(given) if given != known.incarnation => Err(Refusal::BrokerIncarnation { broker, current: known.incarnation }),
            _ => Ok(known),
        }
    }

    /// A broker that may be given replicas.
    fn check_host(&self, broker: BrokerId, incarnation: Option<Uuid>) -> Result<(), Refusal> {
        match self.check_broker(broker, incarnation)?.state {
            BrokerState::Active => Ok(()),
            state => Err(Refusal::BrokerNotActive { broker, state }),
        }
    }

    fn check_broker_state(&self, broker: BrokerId, incarnation: Uuid, state: BrokerState) -> Result<(), Refusal> {
        let known = self.check_broker(broker, Some(incarnation))?;
        match (known.state, state) {
            (BrokerState::Retired, BrokerState::Retired) => Ok(()),
            (BrokerState::Retired, _) => Err(Refusal::BrokerRetired { broker }),
            (_, BrokerState::Retired) => {
                let holds = |info: &&JournalInfo| info.replicas.iter().any(|replica| replica.broker == broker);
                let journals = self.journals.values().filter(holds).count() as u32;
                if journals == 0 || bugs::on(Bug::RetireTooSoon) { Ok(()) } else { Err(Refusal::BrokerBusy { broker, journals }) }
            }
            _ => Ok(()),
        }
    }

    fn set_broker_state(&mut self, broker: BrokerId, state: BrokerState) -> Outcome {
        if let Some(known) = self.brokers.get_mut(&broker) {
            known.state = state;
            self.revision += 1;
        }
        Outcome::Done
    }

    fn check_add_journals(&self, count: u32, replicas: &[BrokerId]) -> Result<(), Refusal> {
        let room = MOST_JOURNALS - (self.data_journals().count() as u32).min(MOST_JOURNALS);
        if count == 0 || count > room {
            let problem = format!("is {count}; give 1 to {room} (a hub has at most {MOST_JOURNALS} data journals)");
            return Err(Refusal::Invalid { field: "count", problem });
        }
        let distinct: BTreeSet<_> = replicas.iter().collect();
        if replicas.is_empty() || distinct.len() != replicas.len() || replicas.len() > GREATEST_REPLICATION_FACTOR as usize {
            let problem = format!("has {} elements; give 1 to {GREATEST_REPLICATION_FACTOR} different brokers", replicas.len());
            return Err(Refusal::Invalid { field: "replicas", problem });
        }
        replicas.iter().try_for_each(|broker| self.check_host(*broker, None))
    }

    fn add_journals(&mut self, count: u32, replicas: &[BrokerId]) -> Outcome {
        let before = self.data_journals().count() as u32;
        if self.group_journals == 0 && before > 0 {
            self.group_journals = before;
        }
        let first = self.journals.last_key_value().map_or(JournalId::CATALOG, |(last, _)| *last).0 + 1;
        for journal in first..first + count {
            let mut info = JournalInfo::default();
            for broker in replicas {
                let incarnation = self.brokers.get(broker).map_or(Uuid::nil(), |known| known.incarnation);
                info.add(*broker, incarnation);
            }
            self.journals.insert(JournalId(journal), info);
        }
        self.revision += 1;
        Outcome::JournalsAdded { first: JournalId(first), count }
    }

    fn check_add_replica(&self, journal: JournalId, broker: BrokerId, incarnation: Uuid) -> Result<(), Refusal> {
        let info = self.journals.get(&journal).ok_or(Refusal::UnknownJournal { journal })?;
        if info.replica_on(broker, incarnation).is_some() {
            return Ok(());
        }
        if info.given.get(&broker).is_some_and(|given| *given == u32::MAX) {
            return Err(Refusal::Invalid { field: "broker", problem: "has had all replica ids that there are".to_owned() });
        }
        self.check_host(broker, Some(incarnation))
    }

    fn add_replica(&mut self, journal: JournalId, broker: BrokerId, incarnation: Uuid) -> Outcome {
        let info = self.journals.entry(journal).or_default();
        if let Some(replica) = info.replica_on(broker, incarnation) {
            return Outcome::Replica { id: replica.id };
        }
        let id = info.add(broker, incarnation);
        self.revision += 1;
        Outcome::Replica { id }
    }

    fn check_remove_replica(&self, journal: JournalId, replica: u64) -> Result<(), Refusal> {
        let info = self.journals.get(&journal).ok_or(Refusal::UnknownJournal { journal })?;
        let is_last = info.replicas.len() == 1 && info.replicas[0].id == replica;
        if is_last { Err(Refusal::LastReplica { journal }) } else { Ok(()) }
    }

    fn remove_replica(&mut self, journal: JournalId, replica: u64) -> Outcome {
        if let Some(info) = self.journals.get_mut(&journal) {
            info.replicas.retain(|known| known.id != replica);
            self.revision += 1;
        }
        Outcome::Done
    }

    pub(crate) fn check_replication_factor(factor: u32) -> Result<(), Refusal> {
        if factor % 2 == 1 && factor <= GREATEST_REPLICATION_FACTOR {
            return Ok(());
        }
        let problem = format!("is {factor}; give 1, 3 or {GREATEST_REPLICATION_FACTOR}: an even number survives no more losses");
        Err(Refusal::Invalid { field: "replication_factor", problem })
    }

    fn set_replication_factor(&mut self, factor: u32) -> Outcome {
        self.replication_factor = factor;
        self.revision += 1;
        Outcome::Done
    }

    /// Forgets all brokers and replicas, for a hub that is rebuilt from its bucket: none of them has any data of it.
    pub(crate) fn disband(&mut self) {
        self.brokers.clear();
        for info in self.journals.values_mut() {
            (info.replicas, info.given, info.founder) = (Vec::new(), BTreeMap::new(), 0);
        }
        self.revision += 1;
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        for (journal, info) in &self.journals {
            let mut seen = BTreeSet::new();
            for replica in &info.replicas {
                let (broker, generation) = (BrokerId(replica.id as u32), (replica.id >> 32) as u32);
                let known = self.brokers.get(&replica.broker);
                if broker != replica.broker || info.given.get(&broker).is_none_or(|given| generation >= *given) {
                    return Err(format!("I7: journal {journal} has replica {} that was not given out", replica.id));
                }
                if !seen.insert((replica.broker, replica.incarnation)) {
                    return Err(format!("journal {journal} has two replicas on one volume of broker {broker}"));
                }
                if known.is_none_or(|known| known.state == BrokerState::Retired) {
                    return Err(format!("journal {journal} has a replica on broker {broker}, which is retired or unknown"));
                }
            }
        }
        Fleet::check_replication_factor(self.replication_factor).map_err(|refusal| refusal.to_string())
    }
}
