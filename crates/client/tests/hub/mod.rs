//! A hub in memory that misbehaves on purpose: refuses, forgets producers, cuts streams before or after it has stored
//! something. It keeps the rules of sequences that a real hub keeps, so that what arrives here twice or out of order is the client's fault.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

mod groups;
mod reads;
mod writes;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidegate_client::proto::v1;
use tidegate_client::{Client, ClientSettings};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;

/// How often what goes wrong: each is a chance in 1000 for each frame (or message).
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Refuse a frame with THROTTLED.
    pub refuse: u32,
    /// Cut the stream before a frame is stored.
    pub cut_before: u32,
    /// Store a frame and cut the stream instead of acknowledging.
    pub cut_after: u32,
    /// Forget all producers of the partition.
    pub forget: u32,
    /// Refuse a frame for good with INVALID_BATCH.
    pub reject: u32,
    /// Cut a subscription after a message.
    pub cut_subscription: u32,
    /// Let another broker lead the frame's partition from now on.
    pub move_leader: u32,
    /// Refuse a frame of a partition that another broker leads with NOT_LEADER; it is forwarded otherwise.
    pub refuse_others: u32,
}

/// Remembered of a producer: Kafka's five.
pub const WINDOW: usize = 5;

#[derive(Debug)]
pub struct ProducerState {
    pub epoch: i16,
    pub next: i32,
    pub recent: VecDeque<(i32, i64)>,
}

#[derive(Debug, Default)]
pub struct Log {
    /// Base offset and bytes (with the base offset patched in) of each batch.
    pub batches: Vec<(i64, Bytes)>,
    pub start: i64,
    pub end: i64,
    pub producers: HashMap<i64, ProducerState>,
}

#[derive(Debug)]
pub struct State {
    pub logs: BTreeMap<(String, i32), Log>,
    pub partitions: HashMap<String, i32>,
    pub commits: BTreeMap<(String, String, i32), i64>,
    pub faults: Faults,
    pub rng: StdRng,
    pub next_producer: i64,
    pub epochs: HashMap<i64, i16>,
    pub streams: u32,
    pub refusals: u32,
    pub most_unacknowledged: u64,
    pub traceparents: Vec<String>,
    /// While set, frames are stored and acknowledged only when it is unset.
    pub stalled: bool,
    /// The first stream's frames are stored, in order, only when a producer asks for its next epoch: a hub that is slow and not dead.
    pub first_stream_waits: bool,
    pub held: Vec<(String, i32, u64, Bytes)>,
    /// Where the brokers are, by number from 1, where there are several.
    pub brokers: Vec<String>,
    /// The broker that leads each partition, where there are several.
    pub leaders: BTreeMap<(String, i32), u32>,
    /// Frames that came to a broker that does not lead their partition, and all.
    pub misdirected: u32,
    pub frames: u32,
    pub metadata_calls: u32,
    /// Brokers that answer no producer any more.
    pub dead: BTreeSet<u32>,
}

impl State {
    pub fn chance(&mut self, in_1000: u32) -> bool {
        in_1000 > 0 && self.rng.random_range(0..1000) < in_1000
    }
}

#[derive(Clone)]
pub struct Hub {
    pub state: Arc<Mutex<State>>,
    pub changed: watch::Sender<u64>,
    pub address: SocketAddr,
    /// This broker.
    pub number: u32,
    pub max_in_flight_bytes: u64,
}

impl Hub {
    /// Starts a hub with these topics on a free port.
    pub async fn start(seed: u64, topics: &[(&str, i32)], faults: Faults) -> Hub {
        println!("seed {seed}, {faults:?}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let partitions: HashMap<_, _> = topics.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let logs = partitions.iter().flat_map(|(name, count)| (0..*count).map(|p| ((name.clone(), p), Log::default())));
        let state = State {
            logs: logs.collect(),
            partitions: partitions.clone(),
            commits: BTreeMap::new(),
            faults,
            rng: StdRng::seed_from_u64(seed),
            next_producer: 100,
            epochs: HashMap::new(),
            streams: 0,
            refusals: 0,
            most_unacknowledged: 0,
            traceparents: Vec::new(),
            stalled: false,
            first_stream_waits: false,
            held: Vec::new(),
            brokers: Vec::new(),
            leaders: BTreeMap::new(),
            misdirected: 0,
            frames: 0,
            metadata_calls: 0,
            dead: BTreeSet::new(),
        };
        let (changed, _) = watch::channel(0);
        let hub = Hub { state: Arc::new(Mutex::new(state)), changed, address, number: 1, max_in_flight_bytes: 1 << 20 };
        hub.clone().serve(listener);
        hub
    }

    /// A hub of several brokers, which lead its partitions in turn. They share what is stored, as replicas do.
    pub async fn start_many(seed: u64, topics: &[(&str, i32)], faults: Faults, brokers: u32) -> Hub {
        let first = Hub::start(seed, topics, faults).await;
        let mut addresses = vec![first.address.to_string()];
        for number in 2..=brokers {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            addresses.push(address.to_string());
            Hub { number, address, ..first.clone() }.serve(listener);
        }
        let mut state = first.state.lock();
        state.brokers = addresses;
        let keys: Vec<_> = state.logs.keys().cloned().collect();
        state.leaders = keys.into_iter().zip((1..=brokers).cycle()).collect();
        drop(state);
        first
    }

    fn serve(self, listener: tokio::net::TcpListener) {
        let hub = self;
        let server = tonic::transport::Server::builder()
            .add_service(v1::producer_service_server::ProducerServiceServer::new(hub.clone()))
            .add_service(v1::consumer_service_server::ConsumerServiceServer::new(hub.clone()))
            .add_service(v1::group_service_server::GroupServiceServer::new(hub.clone()))
            .add_service(v1::metadata_service_server::MetadataServiceServer::new(hub.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }

    /// A client that is quick to try again.
    pub async fn client(&self) -> Client {
        let mut settings = ClientSettings::new(self.address.to_string());
        settings.backoff = tidegate_client::Backoff { initial: Duration::from_millis(1), max: Duration::from_millis(20) };
        Client::connect_with(settings, None).await.unwrap()
    }

    /// The values stored in a partition, in order.
    pub fn values(&self, topic: &str, partition: i32) -> Vec<String> {
        let state = self.state.lock();
        let mut values = Vec::new();
        for (_, bytes) in &state.logs[&(topic.to_owned(), partition)].batches {
            let batch = tidegate_model::batch::RecordBatch::trusted(bytes.clone()).unwrap();
            for record in batch.records().unwrap() {
                values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
        }
        values
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    pub fn stall(&self, stalled: bool) {
        self.state.lock().stalled = stalled;
        self.changed.send_modify(|count| *count += 1);
    }
}
