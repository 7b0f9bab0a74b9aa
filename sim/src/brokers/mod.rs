//! A hub of several brokers in one deterministic process: the broker's own code on machines that crash, over a network with faults, with clients
//! that produce and read through any of them.
//!
//! Promised and checked: what clients did and saw, by the history checker; one leader for each term, equal states after equal entries, marks in
//! order, nothing let go of that is not tiered, at each step; every process that ends without a fault of its own disk is a failure; and once all
//! faults end, the hub is whole again and every broker serves all that was acknowledged.

mod cluster;
mod faults;
mod look;
mod members;
mod process;
mod producing;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tidegate_broker::hub::{Caller, NewTopic};
use tidegate_checker::Source;
use tidegate_env::sim::{SimClock, SimHandle};
use tidegate_env::{Clock, Env, Random};
use tidegate_journal::entry::{BrokerState, Management};
use tokio_util::sync::CancellationToken;

use crate::life::Shared;
use crate::world::World;
use crate::{Failure, panics};
use cluster::{Cluster, Ended};
use look::Look;
use producing::Producing;
use reading::Reading;

/// How long the hub may take to be whole once nothing is in its way.
const WHOLE_WITHIN: Duration = Duration::from_secs(150);
/// Voters of each journal.
const FACTOR: u32 = 3;

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokersReport {
    /// Hash of what all disks were asked to do and of the states that were seen.
    pub trace: u64,
    /// Hash of what clients did and were told.
    pub history: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records whose producer was never told.
    pub unknown: u64,
    /// Records that were read, by any consumer.
    pub read: u64,
    /// Processes that were killed or lost their power.
    pub crashes: u64,
    /// Cuts of the network.
    pub cuts: u64,
    /// Brokers that were stopped in order.
    pub stops: u64,
    /// Processes that ended by a fault of their disk.
    pub disk_errors: u64,
    /// Brokers that came in, were drained, or replaced.
    pub membership: u64,
    /// Terms that had a leader, in all journals.
    pub terms: u64,
    /// Simulated time that it took, in milliseconds.
    pub simulated_ms: u64,
}

impl BrokersReport {
    /// Adds what another run came to.
    pub fn add(&mut self, other: &BrokersReport) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.read += other.read;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.stops += other.stops;
        self.disk_errors += other.disk_errors;
        self.membership += other.membership;
        self.terms += other.terms;
        self.simulated_ms += other.simulated_ms;
    }
}

impl std::fmt::Display for BrokersReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} records acknowledged, {} of unknown fate, {} read; {} crashes, {} stops, {} cuts, {} processes ended by their disk, {} changes of \
             membership, {} terms, {} simulated seconds",
            self.acknowledged,
            self.unknown,
            self.read,
            self.crashes,
            self.stops,
            self.cuts,
            self.disk_errors,
            self.membership,
            self.terms,
            self.simulated_ms / 1000
        )
    }
}

/// Runs one seed.
///
/// # Errors
/// What does not hold, a panic of any task included.
pub fn run_brokers(seed: u64) -> Result<BrokersReport, Box<Failure>> {
    let world: Shared = Arc::new(Mutex::new(World::new(seed)));
    let recorder = world.lock().recorder.clone();
    let shared = Arc::clone(&world);
    let (outcome, panics) = panics::watch(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let (env, handle) = Env::simulated(seed);
            shared.lock().begin_life(&handle.clock);
            let result = Run::new(env, &handle, seed, Arc::clone(&shared)).all().await;
            // The recorder stamps by the clock, which goes with the runtime.
            shared.lock().end_life();
            result
        })
    });
    world.lock().end_life();
    let (stopped, verdict, history) = crate::judged(&recorder, outcome, &panics)?;
    match stopped {
        Ok(report) if verdict.holds() => Ok(BrokersReport {
            history: history.fingerprint(),
            acknowledged: verdict.count("acknowledged"),
            unknown: verdict.count("unknown"),
            read: verdict.count("polled") + verdict.count("read at the end"),
            ..report
        }),
        _ => Err(Box::new(Failure { what: verdict.to_string(), history })),
    }
}

/// What a broker says that its hub has retired: one that took part before, or one that was not in yet.
fn says_retired(why: &str) -> bool {
    why.contains("was retired by its hub") || why.contains("was retired, and its number is never used again")
}

/// One hub through one seed.
struct Run {
    cluster: Arc<Cluster>,
    clock: Arc<SimClock>,
    look: Look,
    /// Brokers that take part, running or not.
    members: BTreeSet<u32>,
    /// Brokers that are to leave, or have not ended yet.
    leaving: BTreeSet<u32>,
    /// Brokers whose volume is gone.
    lost: BTreeSet<u32>,
    /// Brokers whose files were damaged while they were off.
    rotten: BTreeSet<u32>,
    /// The next number that a new broker gets.
    next_broker: u32,
    report: BrokersReport,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.cluster.end();
    }
}

impl Run {
    fn new(env: Env, handle: &SimHandle, seed: u64, world: Shared) -> Run {
        let cluster = Arc::new(Cluster::new(env, seed ^ 0xb40c, world));
        let clock = Arc::clone(&handle.clock);
        Run {
            cluster,
            clock,
            look: Look::default(),
            members: BTreeSet::new(),
            leaving: BTreeSet::new(),
            lost: BTreeSet::new(),
            rotten: BTreeSet::new(),
            next_broker: 1,
            report: BrokersReport::default(),
        }
    }

    async fn all(mut self) -> Result<BrokersReport, String> {
        self.found().await?;
        let stop = CancellationToken::new();
        let working = self.clients(&stop);
        let disturbed = self.disturb_all().await;
        let healed = match disturbed {
            Ok(()) => self.heal().await,
            Err(problem) => Err(problem),
        };
        stop.cancel();
        for client in working {
            client.join().await;
        }
        healed?;
        self.finish().await?;
        self.report.terms = self.look.terms();
        self.report.trace = self.cluster.traces() ^ self.look.trace();
        self.report.simulated_ms = self.clock.monotonic().as_millis() as u64;
        Ok(std::mem::take(&mut self.report))
    }

    /// One broker founds the hub, others come in, journals grow to three voters.
    async fn found(&mut self) -> Result<(), String> {
        let count = 3 + self.cluster.random.below(2) as u32;
        self.cluster.start(1, &BTreeSet::new());
        self.members.insert(1);
        self.next_broker = count + 1;
        self.until("the first broker opens", |_, cluster| cluster.hub(1).is_some()).await?;
        self.make_topics().await?;
        for broker in 2..=count {
            self.members.insert(broker);
            self.cluster.start(broker, &self.members);
        }
        let hub = self.cluster.hub(1).ok_or("the first broker ended")?;
        hub.set_replication_factor(FACTOR).await.map_err(|error| format!("the replication factor: {error}"))?;
        self.whole().await
    }

    async fn make_topics(&self) -> Result<(), String> {
        let hub = self.cluster.hub(1).ok_or("the first broker ended")?;
        let topics = self.cluster.world.lock().topics.clone();
        for (number, topic) in topics.iter().enumerate() {
            let (name, settings) = (topic.name.to_owned(), topic.settings());
            let new = NewTopic { name, settings, bound: None, management: Management::Catalog };
            let made =
                hub.create_topic(new, &Caller::Client).await.map_err(|error| format!("topic `{}`: {error}", topic.name))?;
            self.cluster.world.lock().found(number, made.uid);
        }
        Ok(())
    }

    fn clients(&self, stop: &CancellationToken) -> Vec<Box<dyn tidegate_env::Joined>> {
        let (producers, consumers) = {
            let world = self.cluster.world.lock();
            (world.producers.len(), world.consumers.len())
        };
        let threads = &self.cluster.env.threads;
        let mut working = Vec::new();
        for number in 0..producers {
            let client = Producing { cluster: Arc::clone(&self.cluster), number, stop: stop.clone() };
            working.push(threads.task("producer", client.run().boxed()));
        }
        for number in 0..consumers {
            let client = Reading { cluster: Arc::clone(&self.cluster), number, stop: stop.clone() };
            working.push(threads.task("consumer", client.run().boxed()));
        }
        working
    }

    /// Ends all faults, and waits until the hub is whole.
    async fn heal(&mut self) -> Result<(), String> {
        self.end_faults();
        self.revive();
        self.whole().await
    }

    /// Waits until a condition holds, while invariants are looked at.
    async fn until(&mut self, what: &str, holds: impl Fn(&BTreeSet<u32>, &Cluster) -> bool) -> Result<(), String> {
        let begun = self.cluster.env.clock.monotonic();
        while !holds(&self.members, &self.cluster) {
            if self.cluster.env.clock.monotonic() - begun > WHOLE_WITHIN {
                let status = self.cluster.status();
                return Err(format!("without faults, within {WHOLE_WITHIN:?}, this does not come: {what}; status: {status:?}"));
            }
            self.cluster.pause(200).await;
            self.tend()?;
            self.revive();
            self.drain_leaving().await;
            self.look.look(&self.cluster)?;
        }
        Ok(())
    }

    /// Waits until each journal has all its voters, in sync, on members that run.
    async fn whole(&mut self) -> Result<(), String> {
        let is_whole = |members: &BTreeSet<u32>, cluster: &Cluster| {
            let Some(status) = cluster.status() else { return false };
            let journals_are = status.journals.iter().all(|journal| {
                let mut voting = journal.members.iter().filter(|member| member.votes);
                let count = voting.clone().count();
                count == FACTOR as usize && voting.all(|member| member.in_sync && members.contains(&member.broker.0))
            });
            let brokers_are = members.iter().all(|member| cluster.hub(*member).is_some());
            let others = status.brokers.iter().filter(|broker| !members.contains(&broker.broker.0));
            let others_are_gone = others.into_iter().all(|broker| broker.entry.state == BrokerState::Retired);
            journals_are && brokers_are && others_are_gone && status.journals.len() == 3
        };
        self.until("each journal has three voters in sync, on members only", is_whole).await
    }

    /// Starts what does not run.
    fn revive(&mut self) {
        for broker in self.members.iter().chain(&self.leaving) {
            if !self.cluster.is_up(*broker) {
                self.cluster.start(*broker, &self.members);
            }
        }
    }

    /// Takes away processes that ended by themselves; complains of those that had no reason.
    fn tend(&mut self) -> Result<(), String> {
        for (broker, ended, is_faulty) in self.cluster.ended() {
            self.cluster.note(format!("broker {broker} ended: {ended:?}"));
            self.cluster.crash(broker, false);
            match ended {
                // What must not come in stays outside.
                Ended::Refused(..) if self.lost.contains(&broker) => self.cluster.forget(broker),
                Ended::Refused(why, true) | Ended::Failed(why) if self.rotten.contains(&broker) => self.give_up(broker, &why),
                // The hub retired it while it was down: it says so when it is started, or is told so when it asks to come in, and has left.
                Ended::Failed(why) | Ended::Refused(why, _) if self.leaving.contains(&broker) && says_retired(&why) => {
                    self.leaving.remove(&broker);
                    self.cluster.forget(broker);
                }
                // It is started again.
                Ended::Refused(why, _) if self.cluster.was_full(broker) && why.contains("no room for a WAL file") => {}
                _ if is_faulty => self.report.disk_errors += 1,
                Ended::Failed(why) => return Err(format!("broker {broker} failed without a fault: {why}")),
                Ended::Refused(why, _) => return Err(format!("broker {broker} does not start, without a fault: {why}")),
            }
        }
        if let Some(broker) = self.lost.iter().find(|broker| self.cluster.hub(**broker).is_some()) {
            return Err(format!("I7: broker {broker} came back without its volume, under its old number"));
        }
        Ok(())
    }

    /// Everything is read through each broker, and again from the object store alone.
    async fn finish(&mut self) -> Result<(), String> {
        // A broker that was retired in the last moment and has not ended: nobody tells it of topics any more.
        self.drain_leaving().await;
        while let Err(problem) = self.read_all_and_drop().await {
            // Damage of a volume is found by whoever reads it, which may be as late as now.
            let Some(rotten) = self.rotten.first().copied().filter(|_| problem.contains("is damaged")) else {
                return Err(problem);
            };
            self.cluster.crash(rotten, false);
            self.give_up(rotten, &problem);
            self.heal().await?;
        }
        self.read_all(Source::Tier).await?;
        self.look.look(&self.cluster)?;
        self.tend()
    }

    /// Everything is read through each broker; what is local goes once all is in the object store.
    async fn read_all_and_drop(&mut self) -> Result<(), String> {
        self.read_all(Source::Anywhere).await?;
        self.tiered().await?;
        self.drop_local_copies().await
    }

    async fn drop_local_copies(&self) -> Result<(), String> {
        for broker in self.cluster.open_brokers() {
            if let Some(hub) = self.cluster.hub(broker) {
                hub.drop_local_copies().await.map_err(|error| format!("broker {broker} can't drop local copies: {error}"))?;
            }
        }
        Ok(())
    }

    async fn read_all(&self, source: Source) -> Result<(), String> {
        let keys: Vec<_> = self.cluster.world.lock().topics.iter().flat_map(|topic| topic.keys()).collect();
        for broker in self.cluster.open_brokers() {
            let source = if source == Source::Anywhere { Source::Replica(broker) } else { source };
            for at in &keys {
                reading::read_fully(&self.cluster, broker, *at, source).await?;
            }
        }
        Ok(())
    }

    /// Waits until all is in the object store.
    async fn tiered(&mut self) -> Result<(), String> {
        let is_tiered = |_: &BTreeSet<u32>, cluster: &Cluster| {
            cluster.replicas().iter().all(|(_, journal)| {
                journal.read_state(|state| {
                    state
                        .partitions()
                        .all(|(_, partition)| partition.tiered_end().max(partition.log_start()) == partition.high_watermark())
                })
            })
        };
        self.until("everything is in the object store", is_tiered).await
    }
}
