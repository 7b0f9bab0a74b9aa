//! Three voters over the real peer service on loopback: writes, a death, a return, a stranger.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests use real files and time, and panic on what must not be"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_broker::peers::PeerNetwork;
use tidegate_env::Env;
use tidegate_journal::entry::{Operation, ProducerLimits, Unit};
use tidegate_journal::raft::{Beginning, replica_id};
use tidegate_journal::{Journal, JournalParts, JournalSettings, TailCache};
use tidegate_model::{
    BatchBuilder, BrokerId, Compression, HubId, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition,
    TopicUid,
};
use tidegate_wal::{OpenError, Settings, Wal};
use tokio::net::TcpListener;

const HUB: HubId = HubId(uuid::Uuid::from_u128(5));
const THREE: [u32; 3] = [1, 2, 3];
const PATIENCE: Duration = Duration::from_secs(30);

fn at(journal: u32) -> TopicPartition {
    TopicPartition { topic: TopicUid(uuid::Uuid::from_u128(7)), partition: PartitionId(journal as i32) }
}

fn unit(operation: Operation) -> Unit {
    Unit { preconditions: Vec::new(), operations: vec![operation] }
}

fn append(journal: u32, value: &[u8]) -> Unit {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(TimestampMs(1_000), None, Some(value), &[]);
    let batch: Bytes = builder.build().unwrap().into_bytes();
    unit(Operation::Append { at: at(journal), batch, window: 0 })
}

/// A broker's journals and its part of the network, on a runtime of its own.
struct Broker {
    network: PeerNetwork,
    journals: BTreeMap<u32, Journal>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.journals.clear();
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn start(folder: &Path, id: u32, port: TcpListener, addresses: &BTreeMap<u32, String>, count: u32) -> Broker {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (path, addresses, port) = (folder.join(id.to_string()), addresses.clone(), port.into_std().unwrap());
    let started = runtime.spawn(async move {
        let env = Env::real();
        let network = PeerNetwork::new(HUB, BrokerId(id), env.clone());
        addresses.iter().for_each(|(broker, address)| network.locate(BrokerId(*broker), address.clone()));
        network.serve(TcpListener::from_std(port).unwrap()).unwrap();
        let begun = Instant::now();
        let (wal, mut log) = loop {
            match Wal::open(Settings { file_bytes: 4 << 20, ..Settings::new(path.join("wal")) }, &env).await {
                Ok(opened) => break opened,
                Err(OpenError::Locked { .. }) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        };
        let mut journals = BTreeMap::new();
        for number in 0..count {
            let parts = JournalParts {
                wal: wal.clone(),
                cache: TailCache::new(16 << 20),
                checkpoint_dir: path.join(format!("checkpoints-{number}")),
                env: env.clone(),
                links: network.links(),
            };
            let settings = JournalSettings::fitting(replica_id(BrokerId(id), 0), wal.max_payload_bytes());
            let voters = THREE.iter().map(|broker| replica_id(BrokerId(*broker), 0)).collect();
            let recovered = log.journals.remove(&JournalId(number));
            let journal =
                Journal::start_as(JournalId(number), settings, Beginning::Bootstrap { voters }, recovered, parts).await.unwrap();
            network.register(&journal);
            journals.insert(number, journal);
        }
        (network, journals)
    });
    let (network, journals) = started.await.unwrap();
    Broker { network, journals, runtime: Some(runtime) }
}

async fn listen(address: &str) -> TcpListener {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn leader(brokers: &BTreeMap<u32, Broker>, journal: u32) -> u32 {
    let look = || brokers.iter().find(|(_, broker)| broker.journals[&journal].leadership().borrow().is_self).map(|(id, _)| *id);
    let id = eventually("a journal has a leader", look).await;
    brokers[&id].journals[&journal].ensure_ready().await.unwrap();
    id
}

/// Waits until all replicas show `end` as the high watermark, with the same state.
async fn agreed(brokers: &BTreeMap<u32, Broker>, journal: u32, end: i64) {
    let look = || {
        let seen: Vec<_> = brokers
            .values()
            .map(|broker| {
                broker.journals[&journal]
                    .read_state(|state| (state.partition(at(journal)).map(|p| p.high_watermark()), state.hash()))
            })
            .collect();
        (seen.iter().all(|(mark, hash)| *mark == Some(Offset(end)) && *hash == seen[0].1)).then_some(())
    };
    eventually("all replicas have the same", look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_replicate_over_loopback_and_go_on_after_a_leaders_death() {
    const JOURNALS: u32 = 4;
    let folder = tempfile::tempdir().unwrap();
    let (mut ports, mut addresses) = (BTreeMap::new(), BTreeMap::new());
    for id in THREE {
        let port = listen("127.0.0.1:0").await;
        addresses.insert(id, port.local_addr().unwrap().to_string());
        ports.insert(id, port);
    }
    let mut brokers = BTreeMap::new();
    for (id, port) in ports {
        brokers.insert(id, start(folder.path(), id, port, &addresses, JOURNALS).await);
    }
    for journal in 0..JOURNALS {
        let id = leader(&brokers, journal).await;
        let open = Operation::OpenPartition {
            at: at(journal),
            generation: 1,
            first_offset: Offset(0),
            first_epoch: LeaderEpoch(0),
            limits: ProducerLimits::default(),
        };
        let journal = &brokers[&id].journals[&journal];
        journal.propose(unit(open)).await.unwrap();
        let mut tickets = Vec::new();
        for number in 0..200 {
            let value = vec![b'v'; 10 + number * 500];
            tickets.push(journal.submit(append(journal.id().0, &value)).await.unwrap());
        }
        for ticket in tickets {
            ticket.await.unwrap();
        }
    }
    for journal in 0..JOURNALS {
        agreed(&brokers, journal, 200).await;
    }

    let dead = leader(&brokers, 0).await;
    drop(brokers.remove(&dead));
    let begun = Instant::now();
    for journal in 0..JOURNALS {
        let id = leader(&brokers, journal).await;
        brokers[&id].journals[&journal].propose(append(journal, b"without it")).await.unwrap();
        println!("journal {journal} acknowledged {:?} after the death of broker {dead}", begun.elapsed());
        agreed(&brokers, journal, 201).await;
    }

    let port = listen(&addresses[&dead]).await;
    brokers.insert(dead, start(folder.path(), dead, port, &addresses, JOURNALS).await);
    for journal in 0..JOURNALS {
        agreed(&brokers, journal, 201).await;
    }

    let stranger = PeerNetwork::new(HubId(uuid::Uuid::from_u128(6)), BrokerId(9), Env::real());
    stranger.locate(BrokerId(1), addresses[&1].clone());
    let asked = eventually_refused(&stranger).await;
    assert!(asked.contains("belongs to hub"), "{asked}");
    for broker in brokers.values() {
        broker.network.stop().await;
    }
}

/// What a network is told by broker 1, which does not want it.
async fn eventually_refused(network: &PeerNetwork) -> String {
    use tidegate_journal::raft::{Lane, Message};
    let begun = Instant::now();
    loop {
        let message = Message { journal: JournalId(0), chunks: vec![Bytes::from_static(b"let me in")] };
        let answer = match network.links().peers.send(BrokerId(1), Lane::Control, message).await {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        let told = answer.expect_err("a stranger is not answered").to_string();
        if !told.contains("being connected") || begun.elapsed() > PATIENCE {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_longer_than_the_first_deadline_to_answer_is_connected_all_the_same() {
    use tidegate_journal::raft::{Lane, Message};
    /// Longer than what the first try gets, shorter than the second.
    const STARVED: Duration = Duration::from_secs(3);
    let (port, slow) = (listen("127.0.0.1:0").await, listen("127.0.0.1:0").await);
    let (real, shown) = (port.local_addr().unwrap(), slow.local_addr().unwrap());
    let asked = PeerNetwork::new(HUB, BrokerId(1), Env::real());
    asked.serve(port).unwrap();
    // The kernel takes each connection at once; whoever is behind it comes to its turn late.
    let starved = tokio::spawn(async move {
        loop {
            let (mut near, _) = slow.accept().await.unwrap();
            tokio::spawn(async move {
                tokio::time::sleep(STARVED).await;
                let mut far = tokio::net::TcpStream::connect(real).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let asking = PeerNetwork::new(HUB, BrokerId(2), Env::real());
    asking.locate(BrokerId(1), shown.to_string());
    let begun = Instant::now();
    loop {
        let message = Message { journal: JournalId(0), chunks: vec![Bytes::from_static(b"anybody there?")] };
        let told = match asking.links().peers.send(BrokerId(1), Lane::Control, message).await {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        match told {
            Ok(_) => break,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(begun.elapsed() > STARVED, "it was not starved");
    starved.abort();
    asking.stop().await;
    asked.stop().await;
}
