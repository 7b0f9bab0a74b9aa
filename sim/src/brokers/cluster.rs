//! The machines of a simulated hub: each has a disk and a clock of its own, and any number of lives of its broker's process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tidegate_broker::fleet::{CLIENT, ClusterStatus, Network, PEER};
use tidegate_broker::hub::Hub;
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_env::sim::{Latency, SimClock, SimDisk, SimRandom};
use tidegate_env::{Clock, Env, Random};
use tidegate_journal::Journal;
use tidegate_tier::ObjectStore;
use tokio_util::sync::CancellationToken;

use super::process::{Doors, Gate, MortalThreads, Wire, peer_address};
use crate::life::{self, Shared};
use crate::net::{Life, Lost, Net};

/// How a process ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The hub did not open; the flag says that it calls its files damaged.
    Refused(String, bool),
    /// It could not go on.
    Failed(String),
}

type Ending = Arc<Mutex<Option<Ended>>>;

struct Process {
    life: u64,
    clock: Arc<SimClock>,
    ending: Ending,
}

struct Machine {
    disk: SimDisk,
    wall_offset_ms: i64,
    process: Option<Process>,
    /// Faults of the disk were injected in this life.
    faulty: bool,
    /// The disk is full, or has little room.
    is_full: bool,
    /// It was so at some moment of this life.
    was_full: bool,
}

/// All machines, their network, and what became of them.
pub(super) struct Cluster {
    pub(super) env: Env,
    pub(super) random: SimRandom,
    pub(super) net: Net,
    pub(super) world: Shared,
    pub(super) doors: Doors,
    machines: Mutex<BTreeMap<u32, Machine>>,
    lives: Mutex<u64>,
    latency: Latency,
    trace: Mutex<Vec<u64>>,
}

/// A call's longest time.
pub(super) const CALL: Duration = Duration::from_secs(12);
/// Bytes of newest entries that a broker keeps in memory.
const TAIL_CACHE: u64 = 64 << 10;
/// How long a stop in order may take.
const STOP: Duration = Duration::from_secs(20);

impl Cluster {
    pub(super) fn new(env: Env, seed: u64, world: Shared) -> Cluster {
        let random = SimRandom::new(seed);
        let net = Net::new(&env, random.next_u64());
        let sync = Duration::from_micros(random.below(8_000));
        let latency = Latency { sync, transfer: Duration::from_micros(random.below(300)), stall_one_in: random.below(2) * 500 };
        Cluster {
            env,
            random,
            net,
            world,
            doors: Doors::default(),
            machines: Mutex::default(),
            lives: Mutex::new(0),
            latency,
            trace: Mutex::default(),
        }
    }

    fn settings(&self, broker: u32, join: Vec<String>) -> HubSettings {
        let mut settings = HubSettings { broker_id: broker, ..life::settings() };
        settings.fleet.zone = format!("zone-{}", broker % 3);
        // So small that it fills: what it may not keep is looked at.
        settings.journal.tail_cache_bytes = TAIL_CACHE;
        settings.fleet.lost_after_ms = 60_000;
        settings.fleet.join = join;
        settings
    }

    /// Starts a broker's process on its machine, which is made if there is none. Without peers it founds a hub.
    pub(super) fn start(&self, broker: u32, peers: &BTreeSet<u32>) {
        let number = {
            let mut lives = self.lives.lock();
            *lives += 1;
            *lives
        };
        let life = Life { broker, number };
        let seed = self.random.next_u64();
        let mut machines = self.machines.lock();
        let blank = || Machine {
            disk: SimDisk::new(seed),
            wall_offset_ms: 0,
            process: None,
            faulty: false,
            is_full: false,
            was_full: false,
        };
        let machine = machines.entry(broker).or_insert_with(blank);
        assert!(machine.process.is_none(), "broker {broker} runs");
        machine.disk.set_latency(self.latency);
        machine.disk.clear_faults();
        machine.faulty = false;
        machine.was_full = machine.is_full;
        let gone = CancellationToken::new();
        let clock = Arc::new(SimClock::new(self.env.clock.monotonic()));
        clock.jump_wall_clock(machine.wall_offset_ms);
        let env = Env {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            random: Arc::new(SimRandom::new(self.random.next_u64())),
            threads: Arc::new(MortalThreads { threads: Arc::clone(&self.env.threads), gone: gone.clone() }),
            disk: Arc::new(machine.disk.clone()),
        };
        let ending = Ending::default();
        machine.process = Some(Process { life: number, clock, ending: Arc::clone(&ending) });
        drop(machines);
        self.net.begin(life, gone);
        let join = peers.iter().filter(|peer| **peer != broker).map(|peer| peer_address(*peer)).collect();
        let wire = Wire { net: self.net.clone(), life, doors: Arc::clone(&self.doors) };
        let advertised = vec![(CLIENT.to_owned(), format!("client-{broker}:1")), (PEER.to_owned(), peer_address(broker))];
        let network = Network { transport: Arc::new(wire), advertised };
        let store = self.world.lock().store.in_life(&env.clock);
        let gate: Arc<dyn ObjectStore> = Arc::new(Gate {
            store,
            net: self.net.clone(),
            broker,
            world: Arc::clone(&self.world),
            clock: Arc::clone(&env.clock),
        });
        let body = open(self.settings(broker, join), env.clone(), gate, network, Arc::clone(&self.doors), ending);
        drop(env.threads.task("broker", body.boxed()));
    }

    /// Ends a process: with the power, whatever was not synced is at the seed's mercy; by a kill, the page cache stays. False if none ran.
    pub(super) fn crash(&self, broker: u32, with_power: bool) -> bool {
        let mut machines = self.machines.lock();
        let Some(machine) = machines.get_mut(&broker) else { return false };
        let Some(process) = machine.process.take() else { return false };
        self.doors.lock().remove(&broker);
        let journals = self.net.leave(broker);
        let left = machine.disk.copied(self.random.next_u64());
        if with_power {
            left.crash(self.random.next_u64());
        }
        self.trace.lock().push(machine.disk.trace_hash());
        machine.wall_offset_ms = process.clock.wall_offset_ms();
        // What still runs of it, a library's tasks, has no disk and no network any more.
        std::mem::replace(&mut machine.disk, left).cut_power_after(0);
        for journal in journals {
            let clock = self.env.clock.clone();
            let ending = async move {
                tokio::select! {
                    biased;
                    () = journal.shutdown() => {}
                    () = clock.sleep(Duration::from_secs(1)) => {}
                }
            };
            drop(self.env.threads.task("the end", ending.boxed()));
        }
        true
    }

    /// Stops a broker as an operator does: it hands over what it leads, then ends in order.
    pub(super) async fn stop(&self, broker: u32) {
        let Some(hub) = self.hub(broker) else { return };
        let stopping = async {
            hub.hand_over().await;
            hub.shutdown(STOP).await;
        };
        tokio::select! {
            biased;
            () = stopping => {}
            () = self.env.clock.sleep(STOP * 2) => {}
        }
        drop(hub);
        self.crash(broker, false);
    }

    /// Loses a volume: what starts there next begins with an empty one.
    pub(super) fn lose_volume(&self, broker: u32) {
        self.crash(broker, true);
        self.machines.lock().remove(&broker);
    }

    /// Processes that ended by themselves since the last look, with whether their disks were made to fail.
    pub(super) fn ended(&self) -> Vec<(u32, Ended, bool)> {
        let machines = self.machines.lock();
        let ended = machines.iter().filter_map(|(broker, machine)| {
            let ended = machine.process.as_ref()?.ending.lock().clone()?;
            Some((*broker, ended, machine.faulty))
        });
        ended.collect()
    }

    /// How long disk operations usually take.
    pub(super) fn latency(&self) -> Latency {
        self.latency
    }

    /// Takes back faults of a disk that did not strike yet. What struck may still end its process.
    pub(super) fn spare_disk(&self, broker: u32) {
        self.on_disk(broker, false, SimDisk::clear_faults);
    }

    /// Takes a machine away for good.
    pub(super) fn forget(&self, broker: u32) {
        self.crash(broker, false);
        self.machines.lock().remove(&broker);
    }

    /// The number of the life that began last, of any broker.
    pub(super) fn newest_life(&self) -> u64 {
        *self.lives.lock()
    }

    /// The number of a broker's present life.
    pub(super) fn life(&self, broker: u32) -> Option<u64> {
        self.machines.lock().get(&broker)?.process.as_ref().map(|process| process.life)
    }

    pub(super) fn is_up(&self, broker: u32) -> bool {
        self.machines.lock().get(&broker).is_some_and(|machine| machine.process.is_some())
    }

    /// Acts on the disk of a machine; `is_fault` says that the process may fail by it.
    pub(super) fn on_disk(&self, broker: u32, is_fault: bool, act: impl FnOnce(&SimDisk)) {
        if let Some(machine) = self.machines.lock().get_mut(&broker) {
            machine.faulty |= is_fault && machine.process.is_some();
            act(&machine.disk);
        }
    }

    /// Leaves a disk so much room and no more, or any again.
    pub(super) fn leave_room(&self, broker: u32, room: Option<u64>) {
        if let Some(machine) = self.machines.lock().get_mut(&broker) {
            machine.is_full = room.is_some();
            machine.was_full |= machine.is_full;
            machine.disk.set_capacity(room.map(|room| machine.disk.used_bytes() + room));
        }
    }

    /// Whether the disk was full at some moment of the present life.
    pub(super) fn was_full(&self, broker: u32) -> bool {
        self.machines.lock().get(&broker).is_some_and(|machine| machine.was_full)
    }

    /// Lets a machine's wall clock leap; gives by how much it is off then.
    pub(super) fn leap(&self, broker: u32, by_ms: impl FnOnce(i64) -> i64) -> i64 {
        let mut machines = self.machines.lock();
        let Some(machine) = machines.get_mut(&broker) else { return 0 };
        match &machine.process {
            Some(process) => {
                process.clock.jump_wall_clock(by_ms(process.clock.wall_offset_ms()));
                process.clock.wall_offset_ms()
            }
            None => {
                machine.wall_offset_ms += by_ms(machine.wall_offset_ms);
                machine.wall_offset_ms
            }
        }
    }

    pub(super) fn hub(&self, broker: u32) -> Option<Hub> {
        self.doors.lock().get(&broker).cloned()
    }

    pub(super) fn open_brokers(&self) -> Vec<u32> {
        self.doors.lock().keys().copied().collect()
    }

    /// What a client asks of a broker over the network, within a time.
    pub(super) async fn call<T, F>(&self, client: u32, broker: u32, ask: F) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: FnOnce(Hub) -> BoxFuture<'static, T> + Send + 'static,
    {
        let doors = Arc::clone(&self.doors);
        let serve = Box::new(move || doors.lock().get(&broker).cloned().map(ask));
        tokio::select! {
            biased;
            answer = self.net.call(client, broker, serve) => answer,
            () = self.env.clock.sleep(CALL) => Err(Lost::Broken),
        }
    }

    /// What the broker says that leads the catalog.
    pub(super) fn status(&self) -> Option<ClusterStatus> {
        let hubs: Vec<Hub> = self.doors.lock().values().cloned().collect();
        let statuses = hubs.iter().map(|hub| (hub.broker(), hub.cluster_status()));
        let mut leading = statuses.filter(|(broker, status)| status.journals.first().is_some_and(|j| j.leader == Some(*broker)));
        leading.next().map(|(_, status)| status)
    }

    /// Brokers that lead something, as far as they know.
    pub(super) fn leaders(&self) -> Vec<u32> {
        let leads = self.replicas().into_iter().filter(|(_, journal)| journal.leadership().borrow().is_self);
        leads.map(|(broker, _)| broker).collect()
    }

    /// All replicas that run, by broker and journal.
    pub(super) fn replicas(&self) -> Vec<(u32, Journal)> {
        self.net.journals().into_iter().map(|((broker, _), journal)| (broker, journal)).collect()
    }

    /// What each replica of each journal knows of leaders and has applied, for a report.
    pub(super) fn describe_replicas(&self) -> Vec<String> {
        let describe = |(broker, journal): (u32, Journal)| {
            let (leads, applied) = (*journal.leadership().borrow(), *journal.applied().borrow());
            format!(
                "broker {broker} journal {}: leader {:?} in term {}, applied {applied:?}",
                journal.id(),
                leads.leader,
                leads.term
            )
        };
        self.replicas().into_iter().map(describe).collect()
    }

    pub(super) fn note(&self, what: String) {
        self.world.lock().recorder.note(what);
    }

    pub(super) async fn pause(&self, most_ms: u64) {
        self.env.clock.sleep(Duration::from_millis(1 + self.random.below(most_ms))).await;
    }

    /// Hash of all that the disks were asked to do.
    pub(super) fn traces(&self) -> u64 {
        let mut all = self.trace.lock().clone();
        all.extend(self.machines.lock().values().map(|machine| machine.disk.trace_hash()));
        all.iter().fold(0xcbf2_9ce4_8422_2325, |hash, part| (hash ^ part).wrapping_mul(0x0100_0000_01b3))
    }

    /// Ends everything. Hubs, network and journals hold each other.
    pub(super) fn end(&self) {
        let brokers: Vec<u32> = self.machines.lock().keys().copied().collect();
        brokers.into_iter().for_each(|broker| _ = self.crash(broker, false));
        self.doors.lock().clear();
        self.net.end();
    }
}

/// A process's life: it opens, works, and says why it ended.
async fn open(settings: HubSettings, env: Env, store: Arc<dyn ObjectStore>, network: Network, doors: Doors, ending: Ending) {
    let broker = settings.broker_id;
    match Hub::open_in(settings, &Limits::default(), &env, store, network).await {
        Ok(hub) => {
            doors.lock().insert(broker, hub.clone());
            let reason = hub.failed().await;
            *ending.lock() = Some(Ended::Failed(reason));
        }
        Err(error) => {
            let is_damage = life::is_damage(&error);
            *ending.lock() = Some(Ended::Refused(format!("{error}: {error:?}"), is_damage));
        }
    }
}
