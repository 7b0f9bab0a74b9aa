//! Many brokers in one process over a network in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tidegate_broker::fleet::{AskError, CLIENT, ClusterStatus, Network, PEER, Told, Transport};
use tidegate_broker::hub::{Append, Hub, OpenError, PartitionRef};
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_env::Env;
use tidegate_journal::Journal;
use tidegate_journal::raft::{Answer, Lane, Message, PeerError, Peers};
use tidegate_model::{BrokerId, HubId, JournalId, Offset};
use tidegate_proto::internal::v1 as wired;

use super::*;

/// A network in memory. Brokers that are cut off hear nothing and are not heard.
#[derive(Default)]
pub(crate) struct Wires {
    pub(crate) hubs: Mutex<BTreeMap<u32, Hub>>,
    pub(crate) journals: Mutex<BTreeMap<(u32, JournalId), Journal>>,
    pub(crate) cut: Mutex<BTreeSet<u32>>,
    /// Brokers that get no entries of others' journals, and everything else.
    pub(crate) starved: Mutex<BTreeSet<u32>>,
    /// Brokers whose link to others is slow: so long for each way.
    pub(crate) slow: Mutex<BTreeMap<u32, Duration>>,
    /// Each replica that was ever within reach.
    pub(crate) heard: Mutex<BTreeSet<(u32, JournalId, u64)>>,
}

impl Wires {
    fn is_cut(&self, one: u32, other: u32) -> bool {
        let cut = self.cut.lock().unwrap();
        cut.contains(&one) || cut.contains(&other)
    }
}

/// One broker's end.
struct End {
    wires: Arc<Wires>,
    broker: u32,
}

struct Raft(End);

impl Peers for Raft {
    fn send(&self, to: BrokerId, lane: Lane, request: Message) -> BoxFuture<'static, Result<Answer, PeerError>> {
        let unreachable = PeerError::Unreachable { broker: to, reason: "cut off".to_owned() };
        let (wires, from) = (Arc::clone(&self.0.wires), self.0.broker);
        let journal = wires.journals.lock().unwrap().get(&(to.0, request.journal)).cloned();
        let is_starved = lane == Lane::Data && wires.starved.lock().unwrap().contains(&to.0);
        let Some(journal) = journal.filter(|_| !is_starved && !wires.is_cut(from, to.0)) else {
            return Box::pin(async move { Err(unreachable) });
        };
        let slow = wires.slow.lock().unwrap().clone();
        let way = slow.get(&from).or(slow.get(&to.0)).copied();
        let on_the_way = move || async move {
            if let Some(way) = way {
                tokio::time::sleep(way).await;
            }
        };
        Box::pin(async move {
            on_the_way().await;
            let accepted = journal.accept(request).await;
            let answer = async move {
                let answer = accepted.answer().await;
                on_the_way().await;
                if wires.is_cut(from, to.0) { Err(unreachable) } else { Ok(answer) }
            };
            Ok(Box::pin(answer) as Answer)
        })
    }
}

impl Transport for End {
    fn begin(&self, _hub: HubId, _broker: BrokerId) -> Arc<dyn Peers> {
        Arc::new(Raft(End { wires: Arc::clone(&self.wires), broker: self.broker }))
    }

    fn locate(&self, broker: BrokerId, address: &str) {
        assert_eq!(address, format!("peer-{broker}:1"));
    }

    fn register(&self, journal: &Journal) {
        self.wires.heard.lock().unwrap().insert((self.broker, journal.id(), journal.replica()));
        self.wires.journals.lock().unwrap().insert((self.broker, journal.id()), journal.clone());
    }

    fn unregister(&self, journal: JournalId) {
        self.wires.journals.lock().unwrap().remove(&(self.broker, journal));
    }

    fn ask(&self, address: &str, request: wired::Request) -> Told {
        let to: u32 = address.trim_start_matches("peer-").trim_end_matches(":1").parse().unwrap();
        let unreachable = AskError::Unreachable { address: address.to_owned(), reason: "cut off".to_owned() };
        let hub = self.wires.hubs.lock().unwrap().get(&to).cloned();
        let Some(hub) = hub.filter(|_| !self.wires.is_cut(self.broker, to)) else {
            return Box::pin(async move { Err(unreachable) });
        };
        Box::pin(async move { Ok(hub.answer(request).await) })
    }
}

pub(crate) struct Cluster {
    pub(crate) wires: Arc<Wires>,
    pub(crate) directory: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster { wires: Arc::default(), directory: tempfile::tempdir().unwrap() }
    }

    /// Brokers 1 to 3 with three voters of everything, and a topic `events` of two partitions.
    pub(crate) async fn three() -> (Cluster, BTreeMap<u32, Hub>) {
        Cluster::three_with(|_| {}).await
    }

    /// The same with other settings.
    pub(crate) async fn three_with(set: impl Fn(&mut HubSettings)) -> (Cluster, BTreeMap<u32, Hub>) {
        let cluster = Cluster::new();
        let mut hubs = BTreeMap::new();
        for broker in [1, 2, 3] {
            let mut settings = cluster.settings(broker);
            set(&mut settings);
            hubs.insert(broker, cluster.start_with(settings).await);
            if broker == 1 {
                hubs[&1].set_replication_factor(3).await.unwrap();
            }
        }
        create(&hubs[&1], "events", 2).await;
        cluster.whole(3, &[1, 2, 3]).await;
        (cluster, hubs)
    }

    /// Stops all of them.
    pub(crate) async fn stop_all(&self, hubs: BTreeMap<u32, Hub>) {
        for hub in hubs.into_values() {
            self.stop(hub).await;
        }
    }

    pub(crate) fn settings(&self, broker: u32) -> HubSettings {
        let mut settings = untiered(&self.path(broker));
        settings.broker_id = broker;
        settings.fleet.zone = format!("z{broker}");
        settings.fleet.lost_after_ms = 5_000;
        if broker > 1 {
            settings.fleet.join = vec!["peer-1:1".to_owned()];
        }
        settings
    }

    pub(crate) fn path(&self, broker: u32) -> std::path::PathBuf {
        self.directory.path().join(broker.to_string())
    }

    pub(crate) async fn start(&self, broker: u32) -> Hub {
        self.start_with(self.settings(broker)).await
    }

    pub(crate) async fn start_with(&self, settings: HubSettings) -> Hub {
        self.try_start(settings, Env::real()).await.unwrap()
    }

    /// Starts a broker that need not come up, within a minute.
    pub(crate) async fn try_start(&self, settings: HubSettings, env: Env) -> Result<Hub, OpenError> {
        let broker = settings.broker_id;
        let advertised = vec![(CLIENT.to_owned(), format!("client-{broker}:1")), (PEER.to_owned(), format!("peer-{broker}:1"))];
        let transport = Arc::new(End { wires: Arc::clone(&self.wires), broker });
        let network = Network { transport, advertised };
        let shared: &Path = self.directory.path();
        let (limits, store) = (Limits::default(), store(shared).await);
        let opened = Hub::open_in(settings, &limits, &env, store, network);
        let hub = tokio::time::timeout(Duration::from_secs(60), opened).await.expect("the broker opens or says why not")?;
        self.wires.hubs.lock().unwrap().insert(broker, hub.clone());
        Ok(hub)
    }

    pub(crate) async fn stop(&self, hub: Hub) {
        self.wires.hubs.lock().unwrap().remove(&hub.broker().0);
        close(hub).await;
    }

    /// What the broker that leads the catalog says.
    pub(crate) fn status(&self) -> Option<ClusterStatus> {
        let hubs: Vec<Hub> = self.wires.hubs.lock().unwrap().values().cloned().collect();
        let cut = self.wires.cut.lock().unwrap().clone();
        let statuses = hubs.iter().filter(|hub| !cut.contains(&hub.broker().0)).map(|hub| (hub.broker(), hub.cluster_status()));
        statuses.into_iter().find(|(broker, status)| status.journals[0].leader == Some(*broker)).map(|(_, status)| status)
    }

    /// Waits until each journal has so many voters, all in sync, on these brokers only, and each of them leads something.
    pub(crate) async fn whole(&self, voters: usize, brokers: &[u32]) {
        let wanted: BTreeSet<u32> = brokers.iter().copied().collect();
        until(&format!("{voters} voters on {brokers:?}"), async || {
            let Some(status) = self.status() else { return false };
            let leaders: BTreeSet<u32> =
                status.journals.iter().filter_map(|journal| journal.leader).map(|broker| broker.0).collect();
            let is_whole = status.journals.iter().all(|journal| {
                let voting: Vec<_> = journal.members.iter().filter(|member| member.votes && member.in_sync).collect();
                voting.len() == voters
                    && journal.members.iter().filter(|member| member.votes).all(|member| wanted.contains(&member.broker.0))
            });
            is_whole && leaders == wanted
        })
        .await;
    }
}

/// Appends until it succeeds once, as a client does.
pub(crate) async fn insist(hub: &Hub, topic: &str, partition: i32, value: &str) -> Offset {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let append = Append { at: PartitionRef::new(topic, partition), batches: vec![batch(&[value], &[1])] };
        match hub.append(append).await {
            Ok(appended) => return appended.base_offset,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}
