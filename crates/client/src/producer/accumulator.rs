//! Where records gather: one open batch for each partition that has something to send, under one lock.
//!
//! It does not know the stream, tries or sequences; full and overdue batches leave it in order through `take`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_model::TimestampMs;
use tidegate_model::batch::{BatchBuilder, Compression, Header, RecordBatch};
use tidegate_model::partitioner::partition_for_key;
use tidegate_proto::v1;
use tokio::time::Instant;

use super::batch::{Batch, Body};
use super::delivery::{Delivery, Outcome};
use super::record::Record;
use super::{Settings, Undecided};
use crate::{Error, Result};

/// What a batch may take beyond the charges of its records: its header, and a codec's frame around bytes that do not compress.
const BATCH_OVERHEAD_BYTES: usize = 256;

/// Number of a (topic, partition) within one producer.
pub(super) type LaneId = usize;

/// What became of a record.
pub(super) enum Pushed {
    /// It is in a batch. `wake`: the sender has to look.
    Into { delivery: Delivery, wake: bool },
    /// The topic's partitions have to be looked up first; here is the record again.
    UnknownTopic(Record),
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    /// By partition number.
    lanes: Vec<LaneId>,
    /// Bytes that a batch may have as the hub takes it.
    max_message_bytes: usize,
    /// Where records without key and partition go until that batch is full.
    sticky: i32,
}

struct Open {
    builder: Box<BatchBuilder>,
    outcome: Arc<Outcome>,
    records: u32,
    charge: usize,
    bytes: usize,
    begun: Instant,
    id: u64,
}

struct Lane {
    topic: Arc<str>,
    partition: i32,
    open: Option<Open>,
}

pub(super) struct Accumulator {
    batch_bytes: usize,
    linger: Duration,
    compression: Compression,
    delivery_timeout: Duration,
    topics: HashMap<Arc<str>, Topic>,
    lanes: Vec<Lane>,
    /// Open batches in the order in which they were begun, so in the order of their linger's end. May name batches that are full already.
    lingering: VecDeque<(Instant, LaneId, u64)>,
    sealed: VecDeque<(LaneId, Batch)>,
    undecided: Undecided,
    next_id: u64,
    closed: Option<String>,
}

impl std::fmt::Debug for Accumulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accumulator").field("lanes", &self.lanes.len()).field("closed", &self.closed).finish()
    }
}

impl Accumulator {
    pub(super) fn new(settings: &Settings) -> Self {
        Accumulator {
            batch_bytes: settings.batch_bytes,
            linger: settings.linger,
            compression: settings.compression,
            delivery_timeout: settings.delivery_timeout,
            topics: HashMap::new(),
            lanes: Vec::new(),
            lingering: VecDeque::new(),
            sealed: VecDeque::new(),
            undecided: HashMap::new(),
            next_id: 0,
            closed: None,
        }
    }

    pub(super) fn knows(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    pub(super) fn topic_names(&self) -> Vec<String> {
        self.topics.keys().map(ToString::to_string).collect()
    }

    /// Takes in a topic's partitions; they may have grown.
    pub(super) fn learn(&mut self, metadata: &v1::TopicMetadata) {
        let name: Arc<str> = Arc::from(metadata.name.as_str());
        let topic = self.topics.entry(name.clone()).or_insert_with(|| Topic {
            name: name.clone(),
            lanes: Vec::new(),
            max_message_bytes: 0,
            sticky: 0,
        });
        topic.max_message_bytes = match usize::try_from(metadata.max_message_bytes) {
            Ok(0) | Err(_) => 1 << 20,
            Ok(bytes) => bytes,
        };
        while topic.lanes.len() < metadata.partitions.len() {
            let partition = i32::try_from(topic.lanes.len()).unwrap_or(i32::MAX);
            topic.lanes.push(self.lanes.len());
            self.lanes.push(Lane { topic: topic.name.clone(), partition, open: None });
        }
        topic.sticky = random_partition(topic.lanes.len());
    }

    /// Puts a record into its partition's open batch; seals the batch before or after if that makes it full.
    pub(super) fn push(&mut self, record: Record, charge: usize, now: Instant) -> Result<Pushed> {
        self.check_open()?;
        let Some(topic) = self.topics.get_mut(&*record.topic) else {
            return Ok(Pushed::UnknownTopic(record));
        };
        let most = topic.max_message_bytes.saturating_sub(BATCH_OVERHEAD_BYTES);
        if charge > most {
            let message = format!(
                "key, value and headers take {charge} bytes, and topic `{}` takes {most}; raise its max_message_bytes or \
                 split the record",
                topic.name
            );
            return Err(Error::Record { field: "value", message });
        }
        let partition = choose(topic, &record)?;
        let limit = self.batch_bytes.min(most);
        let mut lane = topic.lanes[partition as usize];
        let sticky = record.partition.is_none() && record.key.is_none();

        let mut wake = false;
        if sticky && !self.fits(lane, charge, limit) {
            wake = self.lanes[lane].open.is_some();
            self.seal(lane);
            lane = self.move_sticky(&record.topic).unwrap_or(lane);
        }
        if self.lanes[lane].open.as_ref().is_some_and(|open| open.bytes + charge > limit) {
            self.seal(lane);
            wake = true;
        }
        let begun = self.lanes[lane].open.is_none();
        if begun {
            self.begin(lane, now);
        }
        let open = self.lanes[lane].open.as_mut().expect("begun above if there was none");
        let delivery = Delivery { outcome: open.outcome.clone(), index: open.records };
        let timestamp = TimestampMs(record.timestamp_ms.unwrap_or_else(unix_ms));
        let headers: Vec<Header> = record.headers.into_iter().map(|(name, value)| Header { key: name.into(), value }).collect();
        open.builder.push(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        open.records += 1;
        open.charge += charge;
        open.bytes += charge;
        if open.bytes >= limit {
            self.seal(lane);
            wake = true;
        }
        Ok(Pushed::Into { delivery, wake: wake || begun })
    }

    /// Puts a whole batch behind what its partition has.
    pub(super) fn push_batch(&mut self, topic: &str, partition: i32, batch: RecordBatch, now: Instant) -> Result<Delivery> {
        self.check_open()?;
        let known = self.topics.get(topic);
        let limit = known.map_or(usize::MAX, |topic| topic.max_message_bytes);
        let bytes = batch.bytes().len();
        if bytes > limit {
            let message = format!("{bytes} bytes, and topic `{topic}` takes {limit}; raise its max_message_bytes or split it");
            return Err(Error::Record { field: "batch", message });
        }
        let lanes = known.map(|topic| topic.lanes.as_slice()).unwrap_or_default();
        let lane = *usize::try_from(partition)
            .ok()
            .and_then(|index| lanes.get(index))
            .ok_or_else(|| no_such_partition(topic, partition, lanes.len()))?;
        self.seal(lane);
        let outcome = Arc::new(Outcome::new(self.lanes[lane].topic.clone(), partition));
        let id = self.number(&outcome);
        let records = u32::try_from(batch.header().record_count).unwrap_or(0);
        let deadline = now + self.delivery_timeout;
        let batch = Batch::waiting(id, outcome.clone(), Body::Built(batch), records, bytes, deadline);
        self.sealed.push_back((lane, batch));
        Ok(Delivery { outcome, index: 0 })
    }

    fn check_open(&self) -> Result<()> {
        match &self.closed {
            Some(reason) => Err(Error::Closed { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    fn number(&mut self, outcome: &Arc<Outcome>) -> u64 {
        self.next_id += 1;
        self.undecided.insert(self.next_id, outcome.clone());
        self.next_id
    }

    fn begin(&mut self, lane: LaneId, now: Instant) {
        let outcome = Arc::new(Outcome::new(self.lanes[lane].topic.clone(), self.lanes[lane].partition));
        let id = self.number(&outcome);
        self.lingering.push_back((now + self.linger, lane, id));
        let builder = Box::new(BatchBuilder::new(self.compression));
        self.lanes[lane].open = Some(Open { builder, outcome, records: 0, charge: 0, bytes: 0, begun: now, id });
    }

    fn seal(&mut self, lane: LaneId) {
        let state = &mut self.lanes[lane];
        let Some(open) = state.open.take() else { return };
        let deadline = open.begun + self.delivery_timeout;
        let batch = Batch::waiting(open.id, open.outcome, Body::Building(open.builder), open.records, open.charge, deadline);
        self.sealed.push_back((lane, batch));
    }

    /// True if an open batch has room for a record of this charge.
    fn fits(&self, lane: LaneId, charge: usize, limit: usize) -> bool {
        self.lanes[lane].open.as_ref().is_some_and(|open| open.bytes + charge <= limit)
    }

    /// Another partition for the next batch of records without a key; gives its lane.
    fn move_sticky(&mut self, topic: &str) -> Option<LaneId> {
        let topic = self.topics.get_mut(topic)?;
        let count = i32::try_from(topic.lanes.len()).ok().filter(|count| *count > 1)?;
        topic.sticky = (topic.sticky + 1 + random_partition(topic.lanes.len() - 1)) % count;
        topic.lanes.get(topic.sticky as usize).copied()
    }

    /// Seals the batches whose linger has ended, and hands out all that is sealed, in order for each lane.
    pub(super) fn take(&mut self, now: Instant) -> VecDeque<(LaneId, Batch)> {
        while let Some((until, lane, id)) = self.lingering.front().copied() {
            let current = self.lanes[lane].open.as_ref().is_some_and(|open| open.id == id);
            if current && until > now && self.closed.is_none() {
                break;
            }
            self.lingering.pop_front();
            if current {
                self.seal(lane);
            }
        }
        std::mem::take(&mut self.sealed)
    }

    /// When the next batch's linger ends.
    pub(super) fn next_linger(&self) -> Option<Instant> {
        self.lingering.front().map(|(until, ..)| *until)
    }

    /// Seals everything, and names all batches that are not decided.
    pub(super) fn flush(&mut self) -> Vec<Arc<Outcome>> {
        for (_, lane, id) in std::mem::take(&mut self.lingering) {
            if self.lanes[lane].open.as_ref().is_some_and(|open| open.id == id) {
                self.seal(lane);
            }
        }
        self.undecided.values().cloned().collect()
    }

    /// A batch was decided.
    pub(super) fn forget(&mut self, id: u64) {
        self.undecided.remove(&id);
    }

    /// Takes no more records.
    pub(super) fn close(&mut self) {
        self.closed.get_or_insert_with(|| "close() was called".to_owned());
    }

    /// Takes no more records, for this reason.
    pub(super) fn close_because(&mut self, reason: &str) {
        self.closed = Some(reason.to_owned());
    }

    /// Why it takes no more records.
    pub(super) fn closed_because(&self) -> Option<&str> {
        self.closed.as_deref()
    }

    /// Takes no more records, for this reason, and names all batches that are not decided.
    pub(super) fn fail(&mut self, reason: &str) -> Undecided {
        self.closed = Some(reason.to_owned());
        self.sealed.clear();
        self.lingering.clear();
        self.lanes.iter_mut().for_each(|lane| lane.open = None);
        std::mem::take(&mut self.undecided)
    }

    /// True when it is closed and everything is decided.
    pub(super) fn is_done(&self) -> bool {
        self.closed.is_some() && self.undecided.is_empty()
    }

    /// True when no batch is undecided.
    pub(super) fn is_idle(&self) -> bool {
        self.undecided.is_empty()
    }
}

/// The partition of a record: the one it names, or by its key, or the sticky one.
fn choose(topic: &Topic, record: &Record) -> Result<i32> {
    let count = topic.lanes.len();
    match (record.partition, &record.key) {
        (Some(partition), _) if usize::try_from(partition).is_ok_and(|index| index < count) => Ok(partition),
        (Some(partition), _) => Err(no_such_partition(&topic.name, partition, count)),
        (None, _) if count == 0 => Err(no_such_partition(&topic.name, 0, 0)),
        (None, Some(key)) => Ok(partition_for_key(key, u32::try_from(count).unwrap_or(u32::MAX)).0),
        (None, None) => Ok(topic.sticky),
    }
}

fn no_such_partition(topic: &str, partition: i32, count: usize) -> Error {
    Error::Record {
        field: "partition",
        message: format!("topic `{topic}` has partitions 0 to {}, not {partition}", count.saturating_sub(1)),
    }
}

fn random_partition(count: usize) -> i32 {
    use rand::RngExt;
    if count < 2 {
        return 0;
    }
    i32::try_from(rand::rng().random_range(0..count)).unwrap_or(0)
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
