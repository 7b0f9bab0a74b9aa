//! What outlives the hub's processes: the store, the clients with all they remember, the history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_broker::hub::{PartitionRef, ProducerIdentity};
use tidegate_checker::{Event, Recorder, Sent, Value};
use tidegate_env::sim::{SimClock, SimRandom};
use tidegate_env::{Clock, Random};
use tidegate_model::{PartitionId, RecordBatch, TopicPartition, TopicSettings, TopicUid};

use crate::store::SimStore;

/// Time by which one of the topics keeps its records: far longer than any run, far shorter than the clock's leaps.
pub(crate) const RETENTION_MS: i64 = 60 * 60 * 1000;
/// Bytes that another keeps of each partition.
const RETENTION_BYTES: u64 = 48 << 10;

/// What a topic is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Keeps everything.
    Lasting,
    /// Keeps the last bytes.
    ByBytes,
    /// Keeps an hour.
    ByTime,
    /// Is deleted and made again.
    Fleeting,
}

/// A topic as clients know it.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
    pub(crate) partitions: u32,
    /// As the catalog has it, once somebody looked.
    pub(crate) uid: Option<TopicUid>,
    /// Deleted, and to be restored.
    pub(crate) to_restore: Option<TopicUid>,
}

impl Topic {
    pub(crate) fn settings(&self) -> TopicSettings {
        let plain = TopicSettings { partitions: self.partitions, ..TopicSettings::default() };
        match self.kind {
            Kind::ByBytes => TopicSettings { retention_bytes_per_partition: Some(RETENTION_BYTES), ..plain },
            Kind::ByTime => TopicSettings { retention_ms: Some(RETENTION_MS), ..plain },
            Kind::Lasting | Kind::Fleeting => plain,
        }
    }

    /// Whether retention may drop old records.
    pub(crate) fn forgets(&self) -> bool {
        matches!(self.kind, Kind::ByBytes | Kind::ByTime)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = TopicPartition> {
        let topic = self.uid;
        (0..self.partitions as i32)
            .filter_map(move |partition| topic.map(|topic| TopicPartition { topic, partition: PartitionId(partition) }))
    }

    pub(crate) fn place(&self, partition: PartitionId) -> PartitionRef {
        PartitionRef { topic_uid: self.uid, ..PartitionRef::new(self.name, partition.0) }
    }
}

/// A batch whose fate the producer does not know yet.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) batch: RecordBatch,
    pub(crate) records: Vec<Sent>,
    pub(crate) sequence: i32,
    /// Whether an earlier try may have been stored.
    pub(crate) maybe_stored: bool,
}

/// What a producer remembers of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    pub(crate) next_sequence: i32,
    pub(crate) pending: Vec<Pending>,
    /// The last batch that was acknowledged, and where: to be sent once more now and then.
    pub(crate) last: Option<(Pending, Option<i64>)>,
}

/// A producing client, which outlives the hub's processes.
#[derive(Clone, Debug)]
pub(crate) struct Producer {
    pub(crate) process: u32,
    pub(crate) idempotent: bool,
    pub(crate) identity: Option<ProducerIdentity>,
    pub(crate) lanes: BTreeMap<TopicPartition, Lane>,
}

/// A consuming client. One in each group.
#[derive(Clone, Debug)]
pub(crate) struct Consumer {
    pub(crate) process: u32,
    pub(crate) group: u32,
    /// Where it goes on, and whether it chose that place.
    pub(crate) positions: BTreeMap<TopicPartition, (i64, bool)>,
}

/// All of it.
pub(crate) struct World {
    pub(crate) random: SimRandom,
    pub(crate) store: SimStore,
    pub(crate) recorder: Recorder,
    pub(crate) topics: Vec<Topic>,
    pub(crate) producers: Vec<Producer>,
    pub(crate) consumers: Vec<Consumer>,
    /// When each offset was stored at the earliest, in true time, for topics that keep an hour.
    pub(crate) sent_at: BTreeMap<TopicPartition, BTreeMap<i64, i64>>,
    /// Up to where somebody was told that each partition reaches, by an acknowledgement or by an answer to a read.
    ends: BTreeMap<TopicPartition, i64>,
    /// Acknowledgements so far.
    pub(crate) acknowledgements: u64,
    /// Uids of topics that were deleted for certain.
    pub(crate) forgotten: BTreeSet<TopicUid>,
    /// Uids of topics whose deletion was asked for; it may have been cut off.
    maybe_gone: BTreeSet<TopicUid>,
    clock: Arc<Mutex<Option<Arc<SimClock>>>>,
    next_value: Value,
    next_process: u32,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let clock: Arc<Mutex<Option<Arc<SimClock>>>> = Arc::default();
        let time = Arc::clone(&clock);
        // Asked by whoever records, also after a life: then the time of its end does not matter.
        let now = move || time.lock().as_ref().map_or(0, |clock| clock.monotonic().as_micros() as u64);
        let topic = |kind, name, partitions| Topic { kind, name, partitions, uid: None, to_restore: None };
        let topics = vec![
            topic(Kind::Lasting, "lasting", 3),
            topic(Kind::ByBytes, "by-bytes", 1),
            topic(Kind::ByTime, "by-time", 1),
            topic(Kind::Fleeting, "fleeting", 2),
        ];
        let mut world = World {
            random: SimRandom::new(seed ^ 0x5eed),
            store: SimStore::new(seed ^ 0x5707e),
            recorder: Recorder::new(Arc::new(now)).in_memory(),
            topics,
            producers: Vec::new(),
            consumers: Vec::new(),
            sent_at: BTreeMap::new(),
            ends: BTreeMap::new(),
            acknowledgements: 0,
            forgotten: BTreeSet::new(),
            maybe_gone: BTreeSet::new(),
            clock,
            next_value: 1,
            next_process: 0,
        };
        for number in 0..3 {
            let producer = world.producer(number > 0);
            world.producers.push(producer);
        }
        for group in 0..2 {
            let process = world.process();
            world.consumers.push(Consumer { process, group, positions: BTreeMap::new() });
        }
        world
    }

    /// A producer that nobody knows yet.
    pub(crate) fn producer(&mut self, idempotent: bool) -> Producer {
        Producer { process: self.process(), idempotent, identity: None, lanes: BTreeMap::new() }
    }

    pub(crate) fn process(&mut self) -> u32 {
        self.next_process += 1;
        self.next_process
    }

    pub(crate) fn values(&mut self, many: u64) -> Vec<Value> {
        let first = self.next_value;
        self.next_value += many;
        (first..first + many).collect()
    }

    pub(crate) fn begin_life(&mut self, clock: &Arc<SimClock>) {
        *self.clock.lock() = Some(Arc::clone(clock));
    }

    /// Its runtime is gone: no clock of it may be asked any more.
    pub(crate) fn end_life(&mut self) {
        *self.clock.lock() = None;
    }

    /// Takes note of a topic as it was made or found.
    pub(crate) fn found(&mut self, number: usize, uid: TopicUid) {
        if self.topics[number].uid == Some(uid) {
            return;
        }
        self.topics[number].uid = Some(uid);
        if self.maybe_gone.remove(&uid) {
            // The delete did not come about: the hub still knows the sequences of producers that have forgotten theirs.
            for number in 0..self.producers.len() {
                self.producers[number] = self.producer(self.producers[number].idempotent);
            }
        }
        let topic = &self.topics[number];
        if topic.forgets() {
            let keys: Vec<_> = topic.keys().collect();
            keys.into_iter().for_each(|at| self.recorder.add(Event::MayTrim { at }));
        }
    }

    /// Takes note that a topic is, or may be, gone for good.
    pub(crate) fn gone(&mut self, number: usize) {
        for at in self.topics[number].keys().collect::<Vec<_>>() {
            self.recorder.add(Event::Gone { at });
            self.producers.iter_mut().for_each(|producer| drop(producer.lanes.remove(&at)));
            self.consumers.iter_mut().for_each(|consumer| _ = consumer.positions.remove(&at));
        }
        self.maybe_gone.extend(self.topics[number].uid.take());
    }

    /// A key of a topic that is there, with the topic's number.
    pub(crate) fn any_key(&self) -> Option<(usize, TopicPartition)> {
        let keys: Vec<(usize, TopicPartition)> =
            self.topics.iter().enumerate().flat_map(|(number, topic)| topic.keys().map(move |at| (number, at))).collect();
        keys.get(self.random.below(keys.len() as u64) as usize).copied()
    }

    /// Takes note that somebody was told that a partition reaches up to `end`.
    pub(crate) fn told_end(&mut self, at: TopicPartition, end: i64) {
        let known = self.ends.entry(at).or_default();
        *known = end.max(*known);
    }

    /// Up to where somebody was told that a partition reaches: who asks from now on is told no less.
    pub(crate) fn known_end(&self, at: TopicPartition) -> i64 {
        self.ends.get(&at).copied().unwrap_or(0)
    }

    /// The topic that has a key.
    pub(crate) fn topic_of(&self, at: TopicPartition) -> Option<&Topic> {
        self.topics.iter().find(|topic| topic.uid == Some(at.topic))
    }

    /// A log start was told: nothing younger than an hour may be gone by age.
    pub(crate) fn told_log_start(&mut self, at: TopicPartition, log_start: i64, now_ms: i64) {
        let Some(sent) = self.sent_at.get_mut(&at) else { return };
        let kept = sent.split_off(&log_start);
        let trimmed = std::mem::replace(sent, kept);
        if let Some((offset, since)) = trimmed.iter().next_back().filter(|(_, since)| now_ms - *since < RETENTION_MS) {
            let age = now_ms - since;
            self.recorder.alarm(format!("{at}: offset {offset} was dropped by age after {age} ms, not {RETENTION_MS}"));
        }
    }
}
