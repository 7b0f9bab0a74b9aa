//! What is measured of the hub's process while it works, from outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;

/// One look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    pub(crate) metrics: BTreeMap<String, f64>,
}

impl Sample {
    /// A metric, 0 if it is not there.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.metrics.get(name).copied().unwrap_or(0.0)
    }

    /// Bytes of batches appended since the start.
    pub(crate) fn appended(&self) -> f64 {
        self.metric("tidegate_appended_bytes_total")
    }
}

/// Looks once.
pub(crate) async fn look(hub: &Hub, start: Instant) -> Result<Sample> {
    let id = hub.process_id().context("the hub does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("the hub is gone")?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok(Sample {
        at: start.elapsed(),
        resident_bytes: number("VmRSS:") * 1024,
        descriptors: std::fs::read_dir(format!("/proc/{id}/fd")).context("the hub is gone")?.count() as u64,
        threads: number("Threads:"),
        metrics: hub.metrics().await?,
    })
}

/// Looks five times a second until told to stop.
pub(crate) async fn watch(
    hub: Arc<Hub>,
    start: Instant,
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: CancellationToken,
) -> Result<()> {
    while !stop.is_cancelled() {
        let sample = look(&hub, start).await?;
        samples.lock().push(sample);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Mean of bytes appended a second between two moments.
pub(crate) fn goodput(samples: &[Sample], from: Duration, to: Duration) -> f64 {
    let mut within = samples.iter().filter(|sample| sample.at >= from && sample.at <= to);
    let (Some(first), Some(last)) = (within.next(), within.next_back()) else { return 0.0 };
    let seconds = (last.at - first.at).as_secs_f64();
    if seconds > 0.0 { (last.appended() - first.appended()) / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goodput_is_taken_between_two_moments() {
        let at = |seconds, bytes| Sample {
            at: Duration::from_secs(seconds),
            metrics: BTreeMap::from([("tidegate_appended_bytes_total".to_owned(), bytes)]),
            ..Sample::default()
        };
        let samples = [at(0, 0.0), at(1, 1000.0), at(2, 1500.0), at(3, 9000.0)];
        assert_eq!(goodput(&samples, Duration::ZERO, Duration::from_secs(2)), 750.0);
        assert_eq!(goodput(&samples, Duration::from_secs(3), Duration::from_secs(9)), 0.0);
    }
}
