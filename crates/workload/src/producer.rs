//! One producer: sends bursts to partitions of its choice, pipelined, and writes down what became of each record.
//!
//! After an unknown outcome it goes on under a new identity: another producer id with the hub, another process in the history.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tidegate_checker::Outcome;
use tidegate_client::{Delivery, Error, Producer};

use crate::value::{record, value_of};
use crate::{Shared, WorkloadError};

/// Most records of one burst to one partition.
const MOST_OF_A_BURST: u32 = 24;
/// Records of one process that may be undecided. With the longest filler that is well below a megabyte.
const MOST_UNDECIDED: usize = 1000;

/// A record on its way.
struct Sending {
    id: u64,
    delivery: Delivery,
}

/// Sends until told to stop, then waits for what is under way.
pub(crate) async fn run(shared: Shared, number: u32) -> Result<(), WorkloadError> {
    let mut random = SmallRng::seed_from_u64(shared.settings.seed ^ (u64::from(number) << 20));
    while !shared.stop.is_cancelled() {
        one_identity(&shared, number, &mut random).await?;
    }
    Ok(())
}

/// One identity's life: until something had an unknown outcome, or the end.
async fn one_identity(shared: &Shared, number: u32, random: &mut SmallRng) -> Result<(), WorkloadError> {
    let process = shared.next_process();
    let timeout = shared.settings.delivery_timeout(number);
    let producer = shared.client.producer().delivery_timeout(timeout).linger(Duration::from_millis(2)).build()?;
    let mut undecided: VecDeque<Sending> = VecDeque::new();
    let mut sent = 0;
    let mut certain = true;
    let mut due = tokio::time::Instant::now();
    while certain && !shared.stop.is_cancelled() && sent < u32::MAX - MOST_OF_A_BURST {
        let burst = random.random_range(1..=MOST_OF_A_BURST);
        let partition = random.random_range(0..shared.settings.partitions);
        for _ in 0..burst {
            match send(shared, &producer, process, partition, sent).await {
                Ok(sending) => undecided.push_back(sending),
                Err(()) => certain = false,
            }
            sent += 1;
        }
        certain &= settle(shared, &mut undecided, MOST_UNDECIDED).await;
        due = (due + shared.settings.pause(burst)).max(tokio::time::Instant::now() - Duration::from_millis(200));
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep_until(due) => {}
        }
    }
    // Each delivery tells its own fate; what closing says of them together is no news.
    let _summary = producer.close().await;
    settle(shared, &mut undecided, 0).await;
    Ok(())
}

/// Hands one record over. It is in the history before the hub can have it.
async fn send(shared: &Shared, producer: &Producer, process: u32, partition: i32, number: u32) -> Result<Sending, ()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let (record, sent) = record(&shared.settings.topic, partition, value_of(process, number), now);
    let id = shared.recorder.send(process, shared.at(partition), vec![sent]);
    match producer.send(record).await {
        Ok(delivery) => Ok(Sending { id, delivery }),
        Err(_) => {
            // It was never put into a batch.
            shared.recorder.sent(id, Outcome::Fail);
            shared.counts.refused(1);
            Err(())
        }
    }
}

/// Writes down what is decided, waiting until at most `most` are not. False if an outcome is unknown.
async fn settle(shared: &Shared, undecided: &mut VecDeque<Sending>, most: usize) -> bool {
    let mut certain = true;
    while undecided.len() > most || undecided.front().is_some_and(|sending| sending.delivery.is_decided()) {
        let Some(sending) = undecided.pop_front() else { break };
        let outcome = match sending.delivery.wait().await {
            Ok(stored) => {
                shared.counts.acknowledged(1);
                Outcome::Ok((stored.offset >= 0).then_some(stored.offset))
            }
            // The only error that says by itself that no try was sent. Any refusal may have been preceded by a try whose answer was lost.
            Err(Error::DeliveryTimeout { may_be_stored: false, .. }) => {
                shared.counts.refused(1);
                Outcome::Fail
            }
            Err(error) => {
                tracing::debug!("a record's outcome is unknown: {error}");
                shared.counts.unknown(1);
                certain = false;
                Outcome::Info
            }
        };
        shared.recorder.sent(sending.id, outcome);
    }
    certain
}
