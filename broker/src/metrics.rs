//! Numbers for Prometheus, named with their units. Counters are bumped where things happen; gauges are read from the hub when somebody
//! asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tidegate_journal::raft::Turnover;
use tidegate_model::JournalId;

use crate::placement::{FleetView, JournalView, Led};

/// A method and how its calls ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    /// Method, as `Produce`.
    pub method: &'static str,
    /// `ok`, or the reason of the error.
    pub result: &'static str,
}

/// A method.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MethodLabels {
    /// Method, as `Produce`.
    pub method: &'static str,
}

/// Why the leader of a journal went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabels {
    /// `handed_over` as planned, or `lost` to an election.
    pub cause: &'static str,
}

/// What an append waited for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    /// See [`Metrics::stalled`].
    pub reason: &'static str,
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabels {
    /// The setting, as `limits.max_connections`.
    pub limit: &'static str,
}

/// Where bytes came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabels {
    /// `tail` or `tier`.
    pub source: &'static str,
}

/// What became of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabels {
    /// `ok` or `failed`.
    pub result: &'static str,
}

/// A journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JournalLabels {
    /// Its number.
    pub journal: u32,
}

type F64Gauge = Gauge<f64, AtomicU64>;

/// All numbers of one broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Calls by method and result.
    pub calls: Family<CallLabels, Counter>,
    /// Duration of calls.
    pub call_duration: Family<MethodLabels, Histogram, fn() -> Histogram>,
    /// Requests and connections refused by a limit.
    pub limited: Family<LimitLabels, Counter>,
    /// Appends that took over a second, by what they waited for.
    pub append_stalls: Family<ReasonLabels, Counter>,
    /// When a stall was logged last, in milliseconds of the monotonic clock.
    stall_logged_ms: AtomicU64,
    /// Bytes of batches appended.
    pub appended: Counter,
    /// Records appended.
    pub appended_records: Counter,
    /// Appends that were forwarded to the broker that leads.
    pub forwarded: Counter,
    /// Duplicates of idempotent producers that were not stored again.
    pub duplicates: Counter,
    /// Steps of placement that this broker carried out.
    pub placement_steps: Counter,
    /// Moves of partitions to other journals that this broker carried out.
    pub partition_moves: Counter,
    pub(crate) under_replicated: Gauge,
    pub(crate) moves_in_flight: Gauge,
    /// Bytes of batches read, by source.
    pub fetched: Family<SourceLabels, Counter>,
    /// Uploads of tier objects.
    pub uploads: Family<ResultLabels, Counter>,
    /// Bytes of tier objects uploaded.
    pub uploaded: Counter,
    /// Objects deleted from the store.
    pub objects_deleted: Counter,
    /// Connections of clients now.
    pub connections: Gauge,
    wal_used: F64Gauge,
    wal_budget: F64Gauge,
    wal_pressure: Gauge,
    tier_unavailable: Gauge,
    tiering_lag: F64Gauge,
    copied: Counter,
    copies_waited: Counter<f64, AtomicU64>,
    copy_limit: F64Gauge,
    write_wait: F64Gauge,
    slow: Gauge,
    elections: Counter,
    slow_hand_overs: Counter,
    leaders_gone: Family<CauseLabels, Counter>,
    journal_applied: Family<JournalLabels, Gauge>,
    journal_leading: Family<JournalLabels, Gauge>,
    topics: Gauge,
    partitions: Gauge,
    tasks: Gauge,
}

/// What gauges are set from.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Bytes of the write-ahead log in use.
    pub wal_used_bytes: u64,
    /// Its budget.
    pub wal_budget_bytes: u64,
    /// 0 normal, 1 above the soft mark, 2 above the hard mark.
    pub wal_pressure: i64,
    /// Whether the store cannot be reached.
    pub tier_unavailable: bool,
    /// Age of the oldest record not tiered, in milliseconds.
    pub tiering_lag_ms: u64,
    /// Bytes of replicas copied to other brokers since the start.
    pub copied_bytes: u64,
    /// How long copies were held back since the start.
    pub copies_waited: Duration,
    /// The most that copies may take, in bytes per second.
    pub copy_limit: u64,
    /// How long this broker makes a write wait, in milliseconds.
    pub write_wait_ms: u32,
    /// Whether it is so slow that it should lead nothing.
    pub slow: bool,
    /// How often leaders went.
    pub turnover: Turnover,
    /// (journal, applied index, whether this broker leads it).
    pub journals: Vec<(u32, u64, bool)>,
    /// Living topics.
    pub topics: usize,
    /// Their partitions.
    pub partitions: usize,
    /// Tasks of the runtime that have not ended.
    pub tasks: usize,
}

fn durations() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("tidegate")),
            calls: Family::default(),
            call_duration: Family::new_with_constructor(durations),
            limited: Family::default(),
            append_stalls: Family::default(),
            stall_logged_ms: AtomicU64::new(0),
            appended: Counter::default(),
            appended_records: Counter::default(),
            forwarded: Counter::default(),
            duplicates: Counter::default(),
            placement_steps: Counter::default(),
            partition_moves: Counter::default(),
            under_replicated: Gauge::default(),
            moves_in_flight: Gauge::default(),
            fetched: Family::default(),
            uploads: Family::default(),
            uploaded: Counter::default(),
            objects_deleted: Counter::default(),
            connections: Gauge::default(),
            wal_used: F64Gauge::default(),
            wal_budget: F64Gauge::default(),
            wal_pressure: Gauge::default(),
            tier_unavailable: Gauge::default(),
            tiering_lag: F64Gauge::default(),
            copied: Counter::default(),
            copies_waited: Counter::default(),
            copy_limit: F64Gauge::default(),
            write_wait: F64Gauge::default(),
            slow: Gauge::default(),
            elections: Counter::default(),
            slow_hand_overs: Counter::default(),
            leaders_gone: Family::default(),
            journal_applied: Family::default(),
            journal_leading: Family::default(),
            topics: Gauge::default(),
            partitions: Gauge::default(),
            tasks: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("tidegate");
        metrics.register_counters(&mut registry);
        metrics.register_gauges(&mut registry);
        metrics.registry = Mutex::new(registry);
        metrics
    }
}

impl Metrics {
    /// Bytes of batches read, from wherever.
    pub fn fetched_bytes(&self) -> u64 {
        ["tail", "tier"].map(|source| self.fetched.get_or_create(&SourceLabels { source }).get()).iter().sum()
    }

    fn register_counters(&self, registry: &mut Registry) {
        registry.register("calls", "Calls by method and result", self.calls.clone());
        registry.register_with_unit("call_duration", "Duration of calls", Unit::Seconds, self.call_duration.clone());
        registry.register("limited", "Requests and connections refused, by limit", self.limited.clone());
        registry.register(
            "append_stalls",
            "Appends that took over a second, by what they waited for",
            self.append_stalls.clone(),
        );
        registry.register_with_unit("appended", "Bytes of batches appended", Unit::Bytes, self.appended.clone());
        registry.register("appended_records", "Records appended", self.appended_records.clone());
        registry.register("forwarded_appends", "Appends forwarded to the broker that leads", self.forwarded.clone());
        registry.register("duplicates", "Batches not stored again", self.duplicates.clone());
        registry.register("partition_moves", "Moves of partitions to other journals carried out", self.partition_moves.clone());
        registry.register(
            "under_replicated_journals",
            "Journals with fewer voters in sync than the replication factor, where this broker leads the catalog",
            self.under_replicated.clone(),
        );
        registry.register(
            "moves_in_flight",
            "Replicas that do not vote yet and partitions on their way, where this broker leads the catalog",
            self.moves_in_flight.clone(),
        );
        registry.register("placement_steps", "Steps of placement carried out", self.placement_steps.clone());
        registry.register_with_unit("fetched", "Bytes of batches read, by source", Unit::Bytes, self.fetched.clone());
        registry.register("tier_uploads", "Uploads of tier objects, by result", self.uploads.clone());
        registry.register_with_unit("tier_uploaded", "Bytes of tier objects uploaded", Unit::Bytes, self.uploaded.clone());
        registry.register("tier_objects_deleted", "Objects deleted from the store", self.objects_deleted.clone());
    }

    fn register_gauges(&self, registry: &mut Registry) {
        registry.register("connections", "Connections of clients", self.connections.clone());
        registry.register_with_unit("wal_used", "Bytes of the write-ahead log in use", Unit::Bytes, self.wal_used.clone());
        registry.register_with_unit("wal_budget", "Bytes that the write-ahead log may use", Unit::Bytes, self.wal_budget.clone());
        registry.register("wal_pressure", "0 normal, 1 above the soft mark, 2 above the hard mark", self.wal_pressure.clone());
        registry.register("tier_unavailable", "1 while the object store cannot be reached", self.tier_unavailable.clone());
        registry.register_with_unit(
            "tiering_lag",
            "Age of the oldest record not tiered",
            Unit::Seconds,
            self.tiering_lag.clone(),
        );
        registry.register_with_unit("copied", "Bytes of replicas copied to other brokers", Unit::Bytes, self.copied.clone());
        registry.register_with_unit("copies_held_back", "Time that copies waited", Unit::Seconds, self.copies_waited.clone());
        registry.register_with_unit("copy_limit", "Most bytes per second of copies", Unit::Bytes, self.copy_limit.clone());
        registry.register_with_unit(
            "write_wait",
            "How long this broker makes a write wait, by its disk or its way to a majority",
            Unit::Seconds,
            self.write_wait.clone(),
        );
        registry.register("slow", "1 while this broker is so slow that it leads nothing if others can", self.slow.clone());
        registry.register(
            "journal_elections",
            "Elections that this broker asked for, because it heard of no leader of a journal for too long",
            self.elections.clone(),
        );
        registry.register(
            "journal_slow_hand_overs",
            "Times that this broker gave a journal to another one because its own disk or network was slow",
            self.slow_hand_overs.clone(),
        );
        registry.register(
            "journal_leaders_gone",
            "Times that this broker led a journal and then no longer did, by cause",
            self.leaders_gone.clone(),
        );
        registry.register("journal_applied_index", "Last entry applied, by journal", self.journal_applied.clone());
        registry.register("journal_leading", "1 where this broker leads the journal", self.journal_leading.clone());
        registry.register("topics", "Living topics", self.topics.clone());
        registry.register("partitions", "Partitions of living topics", self.partitions.clone());
        registry.register("tasks", "Tasks of the runtime that have not ended", self.tasks.clone());
    }

    /// Notes the end of a call.
    pub fn called(&self, method: &'static str, result: &'static str, seconds: f64) {
        self.calls.get_or_create(&CallLabels { method, result }).inc();
        self.call_duration.get_or_create(&MethodLabels { method }).observe(seconds);
    }

    /// Notes that a limit refused something.
    pub fn limit(&self, limit: &'static str) {
        self.limited.get_or_create(&LimitLabels { limit }).inc();
    }

    /// Notes an append that took over a second; one a second is logged. The reasons: `journal or log room` (of `hub.journal.in_flight_bytes` or of
    /// `hub.wal.budget_bytes`), `disk` (writes and syncs of the log), `limits.max_in_flight_bytes`, and `processor` (the rest: it waited behind others,
    /// or for a processor).
    pub fn stalled(&self, reason: &'static str, took: Duration, now: Duration) {
        self.append_stalls.get_or_create(&ReasonLabels { reason }).inc();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let last = self.stall_logged_ms.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= 1000;
        if due && self.stall_logged_ms.compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(reason, ?took, "an append took over a second (tidegate_append_stalls_total counts them)");
        }
    }

    /// Sets the gauges of the fleet, on the catalog's leader.
    pub(crate) fn fleet(&self, view: &FleetView, partitions_moving: usize) {
        let settled = |led: &Led| led.voters.intersection(&led.in_sync).filter(|voter| !led.unsettled.contains(voter)).count();
        let in_sync = |journal: &JournalView| journal.led.as_ref().map_or(0, settled);
        let short = view.journals.values().filter(|journal| in_sync(journal) < view.replication_factor).count();
        let learning = |journal: &JournalView| {
            let voters = journal.led.as_ref().map(|led| &led.voters);
            journal.replicas.iter().filter(|replica| voters.is_some_and(|voters| !voters.contains(&replica.id))).count()
        };
        let data = view.journals.iter().filter(|(id, _)| **id != JournalId::CATALOG);
        let moving = data.map(|(_, journal)| learning(journal)).sum::<usize>() + partitions_moving;
        self.under_replicated.set(i64::try_from(short).unwrap_or(i64::MAX));
        self.moves_in_flight.set(i64::try_from(moving).unwrap_or(i64::MAX));
    }

    /// Sets the gauges.
    pub fn set(&self, readings: &Readings) {
        self.wal_used.set(readings.wal_used_bytes as f64);
        self.wal_budget.set(readings.wal_budget_bytes as f64);
        self.wal_pressure.set(readings.wal_pressure);
        self.tier_unavailable.set(readings.tier_unavailable.into());
        self.tiering_lag.set(readings.tiering_lag_ms as f64 / 1000.0);
        self.copy_limit.set(readings.copy_limit as f64);
        self.write_wait.set(f64::from(readings.write_wait_ms) / 1000.0);
        self.slow.set(i64::from(readings.slow));
        {
            // Two that ask at the same time must not both add what is new.
            let _alone = self.registry.lock();
            self.copied.inc_by(readings.copied_bytes.saturating_sub(self.copied.get()));
            self.copies_waited.inc_by((readings.copies_waited.as_secs_f64() - self.copies_waited.get()).max(0.0));
            let turnover = readings.turnover;
            let gone = |cause| self.leaders_gone.get_or_create(&CauseLabels { cause }).clone();
            for (counter, now) in [
                (self.elections.clone(), turnover.elections),
                (self.slow_hand_overs.clone(), turnover.slow),
                (gone("handed_over"), turnover.handed_over),
                (gone("lost"), turnover.lost),
            ] {
                counter.inc_by(now.saturating_sub(counter.get()));
            }
        }
        self.topics.set(readings.topics as i64);
        self.partitions.set(readings.partitions as i64);
        self.tasks.set(readings.tasks as i64);
        for &(journal, applied, leading) in &readings.journals {
            self.journal_applied.get_or_create(&JournalLabels { journal }).set(applied as i64);
            self.journal_leading.get_or_create(&JournalLabels { journal }).set(leading.into());
        }
    }

    /// All numbers in OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_counts_by_itself_is_told_once_however_often_somebody_asks() {
        let metrics = Metrics::default();
        for _ in 0..2 {
            let turnover = Turnover { elections: 3, handed_over: 2, slow: 1, lost: 4 };
            metrics.set(&Readings { turnover, ..Readings::default() });
        }
        let text = metrics.text();
        for line in [
            "tidegate_journal_elections_total 3",
            "tidegate_journal_slow_hand_overs_total 1",
            "tidegate_journal_leaders_gone_total{cause=\"handed_over\"} 2",
            "tidegate_journal_leaders_gone_total{cause=\"lost\"} 4",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in {text}");
        }
    }
}
