//! A hub rebuilt from its bucket alone, on another machine: it has all that was tiered, byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker::Hub;
use tidegate_broker::hub::PartitionRef;
use tidegate_broker::recover::recover;
use tidegate_broker::settings::Limits;
use tidegate_checker::{Event, Seen, Source};
use tidegate_env::Random;
use tidegate_env::sim::{Ended, SimDisk};
use tidegate_model::TopicPartition;
use tidegate_tier::ObjectStore;

use crate::Run;
use crate::life::settings;
use crate::records::parse;

/// Records of a partition by offset.
type Content = BTreeMap<i64, Seen>;

impl Run {
    /// Rebuilds the hub from a copy of its bucket, after everything was tiered and checkpointed, and compares it with the last full reads.
    pub(crate) fn rebuild(&mut self) -> Result<(), String> {
        let mut elsewhere = self.simulation.on(SimDisk::new(self.random.next_u64()));
        elsewhere.patience = Duration::from_secs(600);
        let (store, places) = {
            let world = self.world.lock();
            let topics = world.topics.iter();
            let places: Vec<_> = topics.flat_map(|topic| topic.keys().map(|at| (at, topic.place(at.partition)))).collect();
            (world.store.copied(self.seed), places)
        };
        let ended = elsewhere.live(|env, _| async move {
            let store: Arc<dyn ObjectStore> = Arc::new(store.in_life(&env.clock));
            let told = recover(&settings(), &env, Arc::clone(&store)).await.map_err(|error| format!("recover: {error}"))?;
            if !told.lost.is_empty() || !told.missing.is_empty() {
                return Err(format!("all was tiered, and recover says that something is lost: {told:?}"));
            }
            let hub = Hub::open(settings(), &Limits::default(), &env, store).await.map_err(|error| format!("open: {error}"))?;
            let mut read = BTreeMap::new();
            for (at, place) in places {
                read.insert(at, content(&hub, &place).await?);
            }
            Ok(read)
        });
        let read: BTreeMap<TopicPartition, Content> = match ended {
            Ended::Output(read) => read.map_err(|problem| format!("rebuilt from the bucket: {problem}"))?,
            Ended::PowerCut | Ended::Stuck => return Err("rebuilding from the bucket does not come to an end".to_owned()),
        };
        let panics = elsewhere.panics();
        if !panics.is_empty() {
            return Err(format!("rebuilding from the bucket panicked: {panics:?}"));
        }
        for (at, expected) in self.read_from_the_tier() {
            // Retention may have gone on between the read and the checkpoint; the newest record is there in any case.
            let found = read.get(&at).cloned().unwrap_or_default();
            let same = found.iter().all(|(offset, record)| expected.get(offset) == Some(record));
            if !same || found.keys().next_back() != expected.keys().next_back() {
                let range = |content: &Content| (content.keys().next().copied(), content.keys().next_back().copied());
                let (before, now) = (range(&expected), range(&found));
                return Err(format!("{at}: rebuilt from the bucket it is {now:?}, not {before:?}, or differs within"));
            }
        }
        self.report.recovered += 1;
        Ok(())
    }

    /// What the last full reads from the tier gave.
    fn read_from_the_tier(&self) -> BTreeMap<TopicPartition, Content> {
        let history = self.world.lock().recorder.history().unwrap_or_default();
        let mut reads = BTreeMap::new();
        let mut contents: BTreeMap<TopicPartition, Content> = BTreeMap::new();
        for entry in history.entries {
            match entry.event {
                Event::ReadBegin { read, at, source: Source::Tier, .. } => {
                    reads.insert(read, at);
                    contents.insert(at, Content::new());
                }
                Event::ReadPart { read, records } => {
                    if let Some(content) = reads.get(&read).and_then(|at| contents.get_mut(at)) {
                        content.extend(records.into_iter().map(|record| (record.offset, record)));
                    }
                }
                _ => {}
            }
        }
        contents
    }
}

async fn content(hub: &Hub, place: &PartitionRef) -> Result<Content, String> {
    let marks = hub.marks_of(place).map_err(|error| error.to_string())?;
    let (mut next, mut content) = (marks.log_start, Content::new());
    while next < marks.high_watermark {
        let fetched = hub.read(place, next, 1 << 16).await.map_err(|error| error.to_string())?;
        content.extend(parse(&fetched.chunks, next)?.into_iter().map(|record| (record.offset, record)));
        next = fetched.next;
    }
    Ok(content)
}
