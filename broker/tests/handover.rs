//! Leaders that are handed over under load: nobody waits for a timer, nothing is refused without a word of who leads, order is kept.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files and clocks")]

mod common;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::network::*;
use common::*;
use tidegate_broker::hub::{Append, Error, Hub, PartitionRef};
use tidegate_model::Offset;

/// Far more than a transfer takes on a machine that does nothing else, and less than a client's patience.
const LONGEST: Duration = Duration::from_secs(3);
const WINDOW: usize = 8;

/// Appends of one broker to one partition, some on their way at a time.
struct Writer {
    hub: Hub,
    partition: i32,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    /// The longest time between two acknowledgements.
    async fn run(self) -> Duration {
        let (mut flying, mut last_end, mut longest) = (VecDeque::new(), None::<Offset>, Duration::ZERO);
        let mut last = Instant::now();
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) && flying.is_empty() {
                break;
            }
            if !self.stop.load(Ordering::Relaxed) {
                let value = format!("{}-{number}", self.hub.broker());
                let append = Append { at: PartitionRef::new("events", self.partition), batches: vec![batch(&[&value], &[1])] };
                flying.push_back(self.hub.submit(append).await.unwrap());
            }
            if flying.len() < WINDOW && !self.stop.load(Ordering::Relaxed) {
                continue;
            }
            match flying.pop_front().unwrap().await {
                Ok(appended) => {
                    let now = Instant::now();
                    longest = longest.max(now - last);
                    last = now;
                    assert!(last_end.is_none_or(|end| end < appended.base_offset), "stored out of order");
                    last_end = Some(appended.base_offset);
                    self.done.fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::NotLeader { endpoint: Some(_), .. }) => {}
                // A machine that stands still for longer than a lease loses leaders. Whoever knew of one must have named it.
                Err(Error::NotLeader { leader: None, endpoint: None, .. }) => {}
                Err(error) => panic!("refused without a way out: {error}"),
            }
        }
        longest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_in_order_and_soon_while_leaders_are_handed_over() {
    let (cluster, hubs) = Cluster::three().await;
    let stop = Arc::new(AtomicBool::new(false));
    let (mut writers, mut counts) = (Vec::new(), Vec::new());
    for hub in hubs.values() {
        for partition in 0..2 {
            let done = Arc::new(AtomicU64::new(0));
            counts.push(Arc::clone(&done));
            let writer = Writer { hub: hub.clone(), partition, done, stop: Arc::clone(&stop) };
            writers.push(tokio::spawn(writer.run()));
        }
    }
    let goes_on = async || {
        let before: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        until("each writer's records are taken", async || {
            let ended = writers.iter().any(tokio::task::JoinHandle::is_finished);
            assert!(!ended, "a writer gave up");
            counts.iter().zip(&before).all(|(count, before)| count.load(Ordering::Relaxed) > before + 3 * WINDOW as u64)
        })
        .await;
    };
    goes_on().await;
    for round in 0..9 {
        let hub = &hubs[&(1 + round % 3)];
        // A machine that stands still for too long fails a transfer, or brings a leader back.
        until("the broker leads nothing", async || {
            hub.hand_over().await;
            hub.cluster_status().journals.iter().all(|journal| journal.leader != Some(hub.broker()))
        })
        .await;
        goes_on().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut longest = Vec::new();
    for writer in writers {
        longest.push(writer.await.unwrap());
    }
    longest.sort_unstable();
    println!("longest waits between two acknowledgements of a writer: {longest:?}");
    assert!(longest.iter().all(|wait| *wait < LONGEST), "{longest:?}");
    cluster.stop_all(hubs).await;
}
