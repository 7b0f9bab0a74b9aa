//! Who leads what, as far as a client knows: learned from each answer to a question for metadata and from brokers' acknowledgements, shared by all
//! producers and consumers of one client. It makes no calls.
//!
//! A hub of one broker has nobody to choose, and a broker that failed is left alone for a moment: then there is no leader, and any broker will do.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_proto::v1;
use tokio::time::Instant;

/// A broker to which a connection failed is left alone for so long, twice as long each time until it is reached, and at most [`AVOID_MOST`].
const AVOID: Duration = Duration::from_secs(2);
const AVOID_MOST: Duration = Duration::from_secs(64);

/// What is known, shared.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    known: Mutex<Known>,
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    brokers: BTreeMap<u32, String>,
    /// The leader of each partition, by topic.
    topics: HashMap<String, Vec<Option<u32>>>,
    /// Until when, and after how many failures in a row.
    avoided: HashMap<u32, (Instant, u32)>,
}

impl Leaders {
    /// Counts what was learned; whoever remembers it sees that something may be different.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Takes in an answer.
    pub(crate) fn learn(&self, metadata: &v1::GetMetadataResponse) {
        let mut known = self.known.lock();
        let brokers = metadata.brokers.iter().filter(|broker| !broker.endpoint.is_empty());
        let brokers: BTreeMap<u32, String> = brokers.map(|broker| (broker.broker_id, broker.endpoint.clone())).collect();
        if brokers.is_empty() {
            return;
        }
        let mut news = known.brokers != brokers;
        known.brokers = brokers;
        for topic in metadata.topics.iter().filter(|topic| topic.error.is_none()) {
            let leaders: Vec<Option<u32>> = topic.partitions.iter().map(|partition| partition.leader).collect();
            news |= known.topics.get(&topic.name) != Some(&leaders);
            known.topics.insert(topic.name.clone(), leaders);
        }
        if news {
            self.version.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes in that a partition is led by a broker. False if that broker is not known.
    pub(crate) fn moved(&self, topic: &str, partition: i32, broker: u32) -> bool {
        let mut known = self.known.lock();
        if !known.brokers.contains_key(&broker) {
            return false;
        }
        if let Some(place) = place(&mut known.topics, topic, partition) {
            *place = Some(broker);
        }
        true
    }

    /// Takes in that a partition is led by the broker at an endpoint. False if no broker is known there.
    pub(crate) fn moved_to(&self, topic: &str, partition: i32, endpoint: &str) -> bool {
        let broker = {
            let known = self.known.lock();
            known.brokers.iter().find(|(_, at)| *at == endpoint).map(|(broker, _)| *broker)
        };
        broker.is_some_and(|broker| self.moved(topic, partition, broker))
    }

    /// A broker could not be reached, or says goodbye: until when it is left alone.
    pub(crate) fn failed(&self, broker: u32) -> Instant {
        let mut known = self.known.lock();
        let now = Instant::now();
        let entry = known.avoided.entry(broker).or_insert((now, 0));
        entry.0 = now + AVOID.saturating_mul(1 << entry.1.min(10)).min(AVOID_MOST);
        entry.1 = entry.1.saturating_add(1);
        let until = entry.0;
        drop(known);
        self.version.fetch_add(1, Ordering::AcqRel);
        until
    }

    /// A broker was reached.
    pub(crate) fn reached(&self, broker: u32) {
        self.known.lock().avoided.remove(&broker);
    }

    /// The broker to go to for a partition; `None` where any is as good.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<u32> {
        let mut known = self.known.lock();
        if known.brokers.len() < 2 {
            return None;
        }
        let leader = (*place(&mut known.topics, topic, partition)?)?;
        let avoided = known.avoided.get(&leader).is_some_and(|(until, _)| Instant::now() < *until);
        (!avoided && known.brokers.contains_key(&leader)).then_some(leader)
    }

    /// Where a broker is.
    pub(crate) fn endpoint(&self, broker: u32) -> Option<String> {
        self.known.lock().brokers.get(&broker).cloned()
    }

    /// Where all brokers are, by number.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.known.lock().brokers.values().cloned().collect()
    }

    /// Lets the next refresh ask for a topic.
    pub(crate) fn want(&self, topic: &str) {
        self.known.lock().topics.entry(topic.to_owned()).or_default();
    }

    /// The topics that somebody asked for.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.known.lock().topics.keys().cloned().collect()
    }
}

fn place<'a>(topics: &'a mut HashMap<String, Vec<Option<u32>>>, topic: &str, partition: i32) -> Option<&'a mut Option<u32>> {
    topics.get_mut(topic)?.get_mut(usize::try_from(partition).ok()?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn answer(brokers: &[u32], leaders: &[Option<u32>]) -> v1::GetMetadataResponse {
        let broker = |id: &u32| v1::Broker { broker_id: *id, endpoint: format!("broker-{id}:1") };
        let partition = |(number, leader): (usize, &Option<u32>)| v1::PartitionMetadata {
            partition: number as i32,
            leader: *leader,
            ..Default::default()
        };
        let partitions = leaders.iter().enumerate().map(partition).collect();
        v1::GetMetadataResponse {
            brokers: brokers.iter().map(broker).collect(),
            topics: vec![v1::TopicMetadata { name: "t".to_owned(), partitions, ..Default::default() }],
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_gone_to_unless_it_is_the_only_broker_or_failed_a_moment_ago() {
        let leaders = Leaders::default();
        leaders.learn(&answer(&[1], &[Some(1)]));
        assert_eq!(leaders.leader("t", 0), None, "there is no choice");
        leaders.learn(&answer(&[1, 2, 3], &[Some(1), None]));
        let version = leaders.version();
        leaders.learn(&answer(&[1, 2, 3], &[Some(1), None]));
        assert_eq!(leaders.version(), version, "nothing new");
        assert_eq!((leaders.leader("t", 0), leaders.leader("t", 1), leaders.leader("t", 2)), (Some(1), None, None));
        assert!(leaders.moved("t", 0, 2) && leaders.moved_to("t", 1, "broker-3:1"));
        assert!(
            !leaders.moved("t", 0, 9) && !leaders.moved_to("t", 1, "elsewhere:1"),
            "whoever is not known has to be asked for"
        );
        assert_eq!((leaders.leader("t", 0), leaders.leader("t", 1)), (Some(2), Some(3)));
        leaders.failed(2);
        assert_eq!((leaders.leader("t", 0), leaders.leader("t", 1)), (None, Some(3)));
        tokio::time::advance(AVOID).await;
        assert_eq!(leaders.leader("t", 0), Some(2));
        leaders.failed(2);
        tokio::time::advance(AVOID).await;
        assert_eq!(leaders.leader("t", 0), None, "twice as long the second time");
        leaders.reached(2);
        assert_eq!(leaders.leader("t", 0), Some(2));
    }
}
