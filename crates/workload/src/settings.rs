//! What the workload does: plain data.

use std::time::Duration;

/// Settings of a workload.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The topic; made by the workload, and nobody else's.
    pub topic: String,
    /// Its partitions, 1 to 1000. Default 8.
    pub partitions: i32,
    /// Producers, each with a task and a connection of its own. Default 4.
    pub producers: u32,
    /// Consumers; each has partitions of its own. More than partitions are idle. Default 4.
    pub consumers: u32,
    /// Decides what clients do and in which order they do it, not when: a hub's answers come when they come.
    pub seed: u64,
    /// Records a second of all producers together. Default 4000: the history of a minute takes about 100 MB.
    pub records_per_second: f64,
    /// How long a record may take to its acknowledgement. Every second producer has a hundredth of it (at least 500 ms), so that some
    /// outcomes stay unknown when the hub is away for longer. Default 60 s.
    pub delivery_timeout: Duration,
}

impl Settings {
    /// The defaults, for this topic.
    pub fn new(topic: impl Into<String>, seed: u64) -> Settings {
        Settings {
            topic: topic.into(),
            partitions: 8,
            producers: 4,
            consumers: 4,
            seed,
            records_per_second: 4000.0,
            delivery_timeout: Duration::from_secs(60),
        }
    }

    pub(crate) fn delivery_timeout(&self, producer: u32) -> Duration {
        let shorter = (self.delivery_timeout / 100).max(Duration::from_millis(500));
        if producer % 2 == 1 { shorter.min(self.delivery_timeout) } else { self.delivery_timeout }
    }

    /// How long one producer takes for so many records at its share of the rate.
    pub(crate) fn pause(&self, records: u32) -> Duration {
        let share = self.records_per_second / f64::from(self.producers.max(1));
        Duration::from_secs_f64((f64::from(records) / share.max(0.1)).min(60.0))
    }
}
