//! What brokers tell the catalog's leader about themselves, and what it tells them back: who leads what, who is alive. In memory only; a
//! new leader of the catalog begins with nothing and has it all after one round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_env::watch;
use tidegate_journal::Journal;
use tidegate_journal::entry::{BrokerState, Refusal};
use tidegate_journal::raft::broker_of;
use tidegate_model::{BrokerId, JournalId};
use tidegate_proto::internal::v1 as wired;

use super::wire;
use crate::hub::{Error, Inner, refused};

/// A member that lacks at most so many entries counts as in sync.
const NEAR_ENTRIES: u64 = 64;
/// More than the numbers of journals that a hub can have.
const JOURNALS: usize = 2048;

/// The last report of a broker and when it came.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) at: Duration,
    pub(crate) report: wired::Report,
}

/// All that was heard.
pub(crate) struct Reports {
    heard: Mutex<BTreeMap<BrokerId, Heard>>,
    leaders: Mutex<BTreeMap<JournalId, (u64, BrokerId)>>,
    /// Counts what was new about them.
    news: watch::Sender<u64>,
    /// Bytes appended to each journal through this broker, by the journal's number.
    appended: Box<[AtomicU64]>,
}

impl Default for Reports {
    fn default() -> Self {
        let appended = (0..JOURNALS).map(|_| AtomicU64::new(0)).collect();
        Reports { heard: Mutex::default(), leaders: Mutex::default(), news: watch::Sender::new(0), appended }
    }
}

impl Reports {
    /// The leader of a journal, as it was last told, unless that was of an earlier term.
    pub(crate) fn leader(&self, journal: JournalId, least_term: u64) -> Option<BrokerId> {
        self.leaders.lock().get(&journal).filter(|(term, _)| *term >= least_term).map(|(_, broker)| *broker)
    }

    /// Changes whenever a leader is told that was not known.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Takes over who leads what, by term.
    pub(crate) fn learn(&self, leaders: impl IntoIterator<Item = (JournalId, u64, BrokerId)>) {
        let mut is_news = false;
        let mut known = self.leaders.lock();
        for (journal, term, broker) in leaders {
            let before = known.get(&journal).copied();
            if before.is_none_or(|(known, _)| known <= term) {
                known.insert(journal, (term, broker));
                is_news |= before != Some((term, broker));
            }
        }
        drop(known);
        if is_news {
            self.news.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn heard(&self) -> BTreeMap<BrokerId, Heard> {
        self.heard.lock().clone()
    }

    /// Counts bytes appended to a journal.
    pub(crate) fn count(&self, journal: JournalId, bytes: u64) {
        if let Some(counter) = self.appended.get(journal.0 as usize) {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn counted(&self, journal: JournalId) -> u64 {
        self.appended.get(journal.0 as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// Rates of what is counted, smoothed over about ten reports.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    at: Duration,
    journals: BTreeMap<JournalId, Rate>,
    fetched: Rate,
    processors: Rate,
    copied: Rate,
}

/// How fast a count rises.
#[derive(Debug, Default)]
struct Rate {
    last: Option<f64>,
    per_second: f64,
}

impl Rate {
    /// The first count says nothing of how fast it came to be.
    fn read(&mut self, count: f64, seconds: f64) {
        let before = self.last.replace(count).unwrap_or(count);
        self.per_second = self.per_second * 0.9 + (count - before).max(0.0) / seconds * 0.1;
    }
}

impl Meter {
    fn read(&mut self, inner: &Inner, journals: impl Iterator<Item = JournalId>) -> wired::Busyness {
        let now = inner.env.clock.monotonic();
        let seconds = now.saturating_sub(self.at).as_secs_f64().max(0.001);
        self.at = now;
        for journal in journals {
            self.journals.entry(journal).or_default().read(inner.reports.counted(journal) as f64, seconds);
        }
        self.fetched.read(inner.metrics.fetched_bytes() as f64, seconds);
        let processors = inner.env.clock.processor_time();
        if let Some(time) = processors {
            self.processors.read(time.as_secs_f64(), seconds);
        }
        let copied = inner.pacer.copied_bytes();
        self.copied.read(copied as f64, seconds);
        let (log, slowness) = (inner.wal.status(), inner.catalog.slowness());
        wired::Busyness {
            bytes_out: self.fetched.per_second,
            cpu_cores: processors.map(|_| self.processors.per_second),
            log_percent: 100.0 * log.used_bytes as f64 / log.budget_bytes.max(1) as f64,
            copy_bytes: self.copied.per_second,
            copied_bytes: copied,
            copy_limit: inner.pacer.bytes_per_second(),
            wait_ms: slowness.wait_ms,
            slow: slowness.is_slow,
        }
    }

    fn of(&self, journal: JournalId) -> f64 {
        self.journals.get(&journal).map_or(0.0, |rate| rate.per_second)
    }
}

/// What this broker says of itself now.
pub(crate) fn report(inner: &Inner, meter: &mut Meter) -> wired::Report {
    let hosted = inner.hosted.all();
    let led: Vec<&Journal> =
        hosted.values().chain([&inner.catalog]).filter(|journal| journal.leadership().borrow().is_self).collect();
    let busy = meter.read(inner, led.iter().map(|journal| journal.id()));
    let journals = led.iter().map(|journal| led_journal(journal, meter.of(journal.id())));
    let lost = inner.fleetwork.refused().into_iter().filter(|(_, refused)| refused.is_lost);
    wired::Report {
        broker: inner.broker.0,
        incarnation: wire::uuid_out(inner.incarnation),
        led: journals.collect(),
        load: meter.journals.values().map(|rate| rate.per_second).sum(),
        busy: Some(busy),
        lost: lost
            .map(|(id, refused)| wired::LostReplica { journal: id.0, replica: refused.replica, reason: refused.reason })
            .collect(),
    }
}

fn led_journal(journal: &Journal, load: f64) -> wired::LedJournal {
    let members = journal.members();
    let progress = journal.progress();
    // One that was never heard of has nothing, however young the journal is: a vote for it could cost the majority.
    let is_near = |matched: u64, last: u64| matched > 0 && matched + NEAR_ENTRIES >= last;
    let near = progress.iter().filter(|(_, progress)| is_near(progress.matched, progress.last)).map(|(id, _)| *id);
    wired::LedJournal {
        journal: journal.id().0,
        replica: journal.replica(),
        term: journal.leadership().borrow().term,
        voters: members.voters.into_iter().collect(),
        unsettled: members.unsettled.into_iter().collect(),
        learners: members.learners.into_iter().collect(),
        in_sync: near.chain([journal.replica()]).collect(),
        load,
        lag: progress.iter().map(|(_, progress)| progress.last.saturating_sub(progress.matched)).max().unwrap_or(0),
    }
}

impl Inner {
    /// Takes a report and answers who leads what. Only the catalog's leader does.
    pub(crate) fn hear(&self, report: wired::Report) -> Result<wired::Heard, Error> {
        if !self.catalog.leadership().borrow().is_self {
            return Err(self.not_leader(JournalId::CATALOG));
        }
        let incarnation = wire::uuid_in("incarnation", &report.incarnation)?;
        let broker = BrokerId(report.broker);
        let known =
            self.catalog.read_state(|state| state.catalog().fleet().broker(broker).map(|known| (known.incarnation, known.state)));
        if known == Some((incarnation, BrokerState::Retired)) {
            return Err(refused(Refusal::BrokerRetired { broker }));
        }
        if known.map(|(incarnation, _)| incarnation) != Some(incarnation) {
            return Err(Error::invalid(
                "incarnation",
                format!("{incarnation} is not that of broker {broker}: its volume was replaced"),
            ));
        }
        self.reports.learn(report.led.iter().map(|led| (JournalId(led.journal), led.term, broker)));
        self.reports.heard.lock().insert(broker, Heard { at: self.env.clock.monotonic(), report });
        let leaders = self.reports.leaders.lock();
        let leader = |(journal, (term, broker)): (&JournalId, &(u64, BrokerId))| wired::Leader {
            journal: journal.0,
            broker: broker.0,
            term: *term,
        };
        Ok(wired::Heard { leaders: leaders.iter().map(leader).collect() })
    }
}

/// A hub's brokers and journals at a glance.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterStatus {
    /// How many voters a journal shall have.
    pub replication_factor: u32,
    /// All brokers.
    pub brokers: Vec<BrokerStatus>,
    /// All journals, the catalog first.
    pub journals: Vec<JournalStatus>,
    /// Partitions on their way to another journal.
    pub partitions_moving: u32,
}

/// A broker.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerStatus {
    /// Its number.
    pub broker: BrokerId,
    /// What the catalog has of it.
    pub entry: tidegate_journal::state::Broker,
    /// Since when nothing was heard of it; `None` if nothing ever was by the broker that was asked.
    pub silent: Option<Duration>,
    /// Replicas on it.
    pub replicas: u32,
    /// Journals that it leads.
    pub leads: u32,
    /// What it said last that it is busy with.
    pub busy: Option<wired::Busyness>,
}

/// A journal.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalStatus {
    /// Its number.
    pub journal: JournalId,
    /// The broker that leads it, if known.
    pub leader: Option<BrokerId>,
    /// Its replicas.
    pub members: Vec<MemberStatus>,
    /// Partitions that live in it.
    pub partitions: u32,
    /// Bytes per second.
    pub load: f64,
}

/// A replica of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub replica: u64,
    /// Where it is.
    pub broker: BrokerId,
    /// Whether it votes; during a change of voters, whether it does before and after it.
    pub votes: bool,
    /// Whether it has what the leader has.
    pub in_sync: bool,
}

/// The newest claim to lead a journal.
pub(crate) fn newest(heard: &BTreeMap<BrokerId, Heard>, journal: JournalId) -> Option<(BrokerId, &wired::LedJournal)> {
    let claims = heard.iter().flat_map(|(broker, heard)| heard.report.led.iter().map(|led| (*broker, led)));
    claims.filter(|(_, led)| led.journal == journal.0).max_by_key(|(_, led)| led.term)
}

impl Inner {
    /// The cluster as the catalog's leader sees it; elsewhere without what only reports say.
    pub(crate) fn cluster_status(self: &Arc<Self>) -> ClusterStatus {
        let heard = self.reports.heard();
        let now = self.env.clock.monotonic();
        let partitions_moving = u32::try_from(self.moves().len()).unwrap_or(u32::MAX);
        // What is led here is known without a report: a hub of one broker makes none.
        let hosted = self.hosted.all();
        let led_here = hosted.values().chain([&self.catalog]).filter(|journal| journal.leadership().borrow().is_self);
        let own: BTreeMap<JournalId, wired::LedJournal> =
            led_here.map(|journal| (journal.id(), led_journal(journal, 0.0))).collect();
        self.catalog.read_state(|state| {
            let fleet = state.catalog().fleet();
            let journals: Vec<JournalStatus> = fleet
                .journals()
                .map(|(id, info)| {
                    let led = newest(&heard, id).map(|(_, led)| led).or(own.get(&id));
                    let member = |replica: &tidegate_journal::state::Replica| MemberStatus {
                        replica: replica.id,
                        broker: replica.broker,
                        votes: led.is_some_and(|led| led.voters.contains(&replica.id) && !led.unsettled.contains(&replica.id)),
                        in_sync: led.is_some_and(|led| led.in_sync.contains(&replica.id)),
                    };
                    JournalStatus {
                        journal: id,
                        // What this broker itself reported before it lost the leadership is no claim any more.
                        leader: self.leader_of(id).or(led.map(|led| broker_of(led.replica)).filter(|told| *told != self.broker)),
                        members: info.replicas.iter().map(member).collect(),
                        partitions: info.partitions,
                        load: led.map_or(0.0, |led| led.load),
                    }
                })
                .collect();
            let count = |holds: &dyn Fn(&JournalStatus) -> bool| journals.iter().filter(|journal| holds(journal)).count() as u32;
            let brokers = fleet.brokers().map(|(id, entry)| BrokerStatus {
                broker: id,
                entry: entry.clone(),
                silent: heard
                    .get(&id)
                    .map(|heard| now.saturating_sub(heard.at))
                    .or((id == self.broker).then_some(Duration::ZERO)),
                replicas: count(&|journal| journal.members.iter().any(|member| member.broker == id)),
                leads: count(&|journal| journal.leader == Some(id)),
                busy: heard.get(&id).and_then(|heard| heard.report.busy),
            });
            ClusterStatus {
                replication_factor: fleet.replication_factor(),
                brokers: brokers.collect(),
                journals: journals.clone(),
                partitions_moving,
            }
        })
    }
}
