//! Numbers about the operator itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    kind: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    verb: String,
    code: String,
}

/// Counters and gauges.
#[derive(Debug, Default)]
pub struct Metrics {
    reconciled: Family<Kind, Counter>,
    failed: Family<Failure, Counter>,
    written: Family<Kind, Counter>,
    calls: Family<Call, Counter>,
    leading: Gauge,
    hubs: Gauge,
    linked: Gauge,
}

impl Metrics {
    /// Counts a look at an object.
    pub fn reconciled(&self, kind: &str) {
        self.reconciled.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// Counts a look that ended with an error.
    pub fn failed(&self, kind: &str, reason: &'static str) {
        self.failed.get_or_create(&Failure { kind: kind.to_owned(), reason }).inc();
    }

    /// Counts a status that was written.
    pub fn status_written(&self, kind: &str) {
        self.written.get_or_create(&Kind { kind: kind.to_owned() }).inc();
    }

    /// Counts a call of the API server.
    pub fn called(&self, verb: &str, code: &str) {
        self.calls.get_or_create(&Call { verb: verb.to_owned(), code: code.to_owned() }).inc();
    }

    /// Says whether this process leads.
    pub fn leading(&self, leads: bool) {
        self.leading.set(leads.into());
    }

    /// Says how many hubs there are and how many are linked.
    pub fn hubs(&self, all: usize, linked: usize) {
        self.hubs.set(i64::try_from(all).unwrap_or(i64::MAX));
        self.linked.set(i64::try_from(linked).unwrap_or(i64::MAX));
    }

    /// As OpenMetrics text.
    pub fn text(&self) -> String {
        let mut registry = Registry::with_prefix("tidegate_operator");
        registry.register("reconciliations", "Looks at objects", self.reconciled.clone());
        registry.register("reconciliation_failures", "Looks that ended with an error", self.failed.clone());
        registry.register("status_writes", "Statuses written", self.written.clone());
        registry.register("api_calls", "Calls of the API server", self.calls.clone());
        registry.register("leading", "1 while this process leads", self.leading.clone());
        registry.register("hubs", "Hubs that this process acts on", self.hubs.clone());
        registry.register("hubs_linked", "Hubs whose catalog is known", self.linked.clone());
        let mut text = String::new();
        match encode(&mut text, &registry) {
            Ok(()) => text,
            Err(_) => String::from("# EOF\n"),
        }
    }
}
