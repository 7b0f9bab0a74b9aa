//! The clients of a soak, each a task that goes on until it is told to stop and counts what it does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tidegate_client::consumer::OffsetReset;
use tidegate_client::proto::errors::Failure;
use tidegate_client::proto::v1;
use tidegate_client::proto::v1::producer_service_client::ProducerServiceClient;
use tidegate_client::{Client, ClientSettings, Error, Record, Start};
use tokio_util::sync::CancellationToken;

/// The topic of the full load, and its partitions. Every second record goes to partition 0.
pub(crate) const TOPIC: &str = "soak-load";
pub(crate) const PARTITIONS: i32 = 8;
/// Bytes of each record.
const RECORD_BYTES: usize = 1000;
/// An answer that takes longer is a stall.
const STALL: Duration = Duration::from_secs(1);

/// What the clients count.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicU64,
    pub(crate) topics: AtomicU64,
    pub(crate) slow_reads: AtomicU64,
    pub(crate) canary: AtomicU64,
    /// Leaps of the hub's wall clock that were taken back.
    pub(crate) leaps: AtomicU64,
    /// What the load is at present.
    pub(crate) phase: Mutex<String>,
    /// Errors that clients got, by reason.
    pub(crate) refusals: Mutex<BTreeMap<String, u64>>,
    pub(crate) stalls: Mutex<Vec<String>>,
}

impl Seen {
    pub(crate) fn refused(&self, who: &str, error: &Error) {
        let reason = match error {
            Error::Hub(failure) => format!("{who}: {:?}", failure.reason),
            Error::DeliveryTimeout { .. } => format!("{who}: delivery timeout"),
            Error::UnknownOutcome { .. } => format!("{who}: unknown outcome"),
            other => format!("{who}: {other}"),
        };
        *self.refusals.lock().entry(reason).or_default() += 1;
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Sends as fast as the hub takes it.
pub(crate) async fn produce(address: String, number: u64, seen: Arc<Seen>, stop: CancellationToken) {
    let mut random = SmallRng::seed_from_u64(number);
    let value = Bytes::from(vec![b'l'; RECORD_BYTES]);
    while !stop.is_cancelled() {
        let Ok(client) = Client::connect(address.clone()).await else {
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let builder = client.producer().batch_bytes(64 << 10).buffer_bytes(1 << 20).delivery_timeout(Duration::from_secs(30));
        let Ok(producer) = builder.build() else { return };
        for sent in 0u64.. {
            if stop.is_cancelled() {
                break;
            }
            let partition = if random.random_bool(0.5) { 0 } else { random.random_range(1..PARTITIONS) };
            match producer.send(Record::new(TOPIC).partition(partition).value(value.clone())).await {
                // Looking at some outcomes is enough to see refusals.
                Ok(delivery) if sent % 4096 == 4095 => {
                    if let Err(error) = delivery.wait().await {
                        seen.refused("producer", &error);
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    seen.refused("producer", &error);
                    break;
                }
            }
        }
        if let Err(error) = producer.close().await {
            seen.refused("producer", &error);
        }
    }
}

/// Reads a message a second through the smallest window, always far behind.
pub(crate) async fn read_slowly(address: String, seen: Arc<Seen>, stop: CancellationToken) {
    let settings =
        ClientSettings { stream_window_bytes: 65_535, connection_window_bytes: 65_535, ..ClientSettings::new(address) };
    while !stop.is_cancelled() {
        let consumer = async {
            let client = Client::connect_with(settings.clone(), None).await?;
            let assigned = client.consumer().assign(TOPIC, Start::Earliest).offset_reset(OffsetReset::Earliest);
            assigned.max_message_bytes(64 << 10).build().await
        };
        let Ok(mut consumer) = consumer.await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        for _ in 0..60 {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                read = consumer.next_batches() => match read {
                    Ok(_) => add(&seen.slow_reads),
                    Err(error) => {
                        seen.refused("slow reader", &error);
                        break;
                    }
                },
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Connects, does something short or nothing, and is gone.
pub(crate) async fn churn_connections(address: String, pause: Duration, seen: Arc<Seen>, stop: CancellationToken) {
    let mut random = SmallRng::seed_from_u64(3);
    let host = address.trim_start_matches("http://").to_owned();
    while !stop.is_cancelled() {
        let what = random.random_range(0..4);
        let (address, host, seen) = (address.clone(), host.clone(), seen.clone());
        tokio::spawn(async move {
            let done = async {
                match what {
                    // Says nothing, or half of a greeting.
                    0 => drop(tokio::net::TcpStream::connect(&host).await),
                    1 => {
                        use tokio::io::AsyncWriteExt;
                        if let Ok(mut stream) = tokio::net::TcpStream::connect(&host).await {
                            let _ = stream.write_all(b"PRI * HTTP/2.0\r\n").await;
                        }
                    }
                    2 => drop(Client::connect(address).await?.admin().metadata(vec![TOPIC.to_owned()]).await?),
                    _ => {
                        let client = Client::connect(address).await?;
                        let mut consumer = client.consumer().assign(TOPIC, Start::Latest).build().await?;
                        consumer.poll(1, Duration::from_millis(100)).await?;
                    }
                }
                Ok::<(), Error>(())
            };
            if let Err(error) = done.await {
                seen.refused("short connection", &error);
            }
            add(&seen.connections);
        });
        tokio::time::sleep(pause).await;
    }
}

/// Makes a topic, fills it a little, deletes it.
pub(crate) async fn churn_topics(client: Client, seen: Arc<Seen>, stop: CancellationToken) {
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let name = format!("soak-churn-{number}");
        let one_life = async {
            let settings = v1::TopicSettings { partitions: Some(3), ..Default::default() };
            let request = v1::CreateTopicRequest { name: name.clone(), settings: Some(settings), validate_only: false };
            client.admin().create_topic(request).await?;
            let producer = client.producer().build()?;
            for _ in 0..50 {
                let _ = producer.send(Record::new(name.as_str()).value(vec![b't'; 1000])).await?;
            }
            producer.close().await?;
            client.admin().delete_topic(v1::DeleteTopicRequest { name: name.clone(), ..Default::default() }).await
        };
        match one_life.await {
            Ok(_) => add(&seen.topics),
            Err(error) => seen.refused("topics", &error),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One record at a time, ten a second, by plain calls that are repeated when they are refused: an answer that takes longer than a second is a stall, and
/// its reason is what refused it, what the hub says it waited for, or what else was slow then.
pub(crate) async fn canary(client: Client, metrics: Metrics, disk: PathBuf, seen: Arc<Seen>, stop: CancellationToken) {
    let mut service = ProducerServiceClient::new(client.new_transport());
    let start = Instant::now();
    let slowest = Arc::new(Mutex::new(Others::default()));
    tokio::spawn(watch_machine(disk, slowest.clone(), stop.clone()));
    while !stop.is_cancelled() {
        *slowest.lock() = Others::default();
        let before = metrics();
        let begin = Instant::now();
        let mut refused: BTreeMap<String, u32> = BTreeMap::new();
        while let Err(status) = service.produce(canary_record()).await {
            let failure = Failure::from_status(&status);
            seen.refused("canary", &Error::Hub(failure.clone()));
            *refused.entry(format!("{:?}", failure.reason)).or_default() += 1;
            if stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(failure.retry_after.unwrap_or(Duration::from_millis(50))).await;
        }
        let took = begin.elapsed();
        if took > STALL {
            // The next look at the hub's numbers has what it noted of this append.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let others = slowest.lock().clone();
            let reason = others.reason(&refused, &stalls_since(&before, &metrics()));
            let phase = seen.phase.lock().clone();
            let at = start.elapsed().as_secs();
            seen.stalls.lock().push(format!("at {at} s ({phase}): acknowledged after {took:.2?}: {reason}"));
        }
        add(&seen.canary);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The hub's newest numbers, by name with labels.
pub(crate) type Metrics = Arc<dyn Fn() -> BTreeMap<String, f64> + Send + Sync>;

fn canary_record() -> v1::ProduceRequest {
    let record = v1::Record { value: Some(Bytes::from_static(&[b'c'; 100])), ..v1::Record::default() };
    let list = v1::RecordList { records: vec![record] };
    v1::ProduceRequest {
        topic: "soak-canary".to_owned(),
        partition: Some(0),
        payload: Some(v1::produce_request::Payload::Records(list)),
        ..v1::ProduceRequest::default()
    }
}

/// What appends waited for, as the hub counted it in between.
fn stalls_since(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Vec<String> {
    let stalls = after.iter().filter(|(name, _)| name.starts_with("tidegate_append_stalls"));
    let grown = stalls.filter(|(name, count)| **count > before.get(*name).copied().unwrap_or(0.0));
    grown.filter_map(|(name, _)| name.split('"').nth(1).map(str::to_owned)).collect()
}

/// What else was slow.
#[derive(Clone, Debug, Default)]
struct Others {
    timer_lag: Duration,
    fsync: Duration,
}

impl Others {
    /// Names a reason, or says that there is none.
    fn reason(&self, refused: &BTreeMap<String, u32>, noted: &[String]) -> String {
        let (lag, fsync) = (self.timer_lag, self.fsync);
        let verdict = if !refused.is_empty() {
            format!("it was refused and sent again ({refused:?})")
        } else if !noted.is_empty() {
            format!("the hub noted that appends waited for {}", noted.join(", "))
        } else if lag > STALL / 2 {
            "the machine had no processor for this process either".to_owned()
        } else if fsync > STALL / 2 {
            "the disk was as slow for another process".to_owned()
        } else {
            "NO REASON".to_owned()
        };
        format!("{verdict}; meanwhile a timer was {lag:.2?} late, an fsync of 4 KiB beside it took {fsync:.2?}")
    }
}

/// Measures what the machine itself does: how late timers are, how long an fsync takes.
async fn watch_machine(disk: PathBuf, slowest: Arc<Mutex<Others>>, stop: CancellationToken) {
    let path = disk.join("fsync-probe");
    let probe = slowest.clone();
    let ends = stop.clone();
    let syncing = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(path)?;
        while !ends.is_cancelled() {
            let begin = Instant::now();
            file.write_all_at(&[1; 4096], 0)?;
            file.sync_data()?;
            let took = begin.elapsed();
            let mut others = probe.lock();
            others.fsync = others.fsync.max(took);
            drop(others);
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
    while !stop.is_cancelled() {
        let begin = Instant::now();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let lag = begin.elapsed().saturating_sub(Duration::from_millis(50));
        let mut others = slowest.lock();
        others.timer_lag = others.timer_lag.max(lag);
    }
    let _ = syncing.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_has_a_reason_only_if_something_names_one() {
        let quiet = Others::default();
        assert!(quiet.reason(&BTreeMap::new(), &[]).contains("NO REASON"));
        let refused = BTreeMap::from([("StorageFull".to_owned(), 2)]);
        assert!(quiet.reason(&refused, &[]).contains("StorageFull"));
        let metrics = |count| BTreeMap::from([("tidegate_append_stalls_total{reason=\"disk\"}".to_owned(), count)]);
        assert_eq!(stalls_since(&metrics(1.0), &metrics(1.0)), Vec::<String>::new());
        assert_eq!(stalls_since(&BTreeMap::new(), &metrics(1.0)), ["disk"]);
        let slow = Others { fsync: Duration::from_millis(800), ..Others::default() };
        assert!(slow.reason(&BTreeMap::new(), &[]).contains("the disk was as slow"));
    }
}
