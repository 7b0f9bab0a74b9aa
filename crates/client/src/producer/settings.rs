//! How a producer is made.

use std::time::Duration;

use tidegate_model::batch::Compression;

use super::Producer;
use crate::settings::range;
use crate::{Client, Error, Result};

/// How old a producer's knowledge of leaders is at most that gets no acknowledgements.
const UNTOLD_MAX_AGE: Duration = Duration::from_secs(5);

/// Settings of a producer: plain data.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes at which a batch is sent without waiting, 1 KiB to 16 MiB; the topic's largest batch caps it. Default 256 KiB.
    pub batch_bytes: usize,
    /// How long a batch waits for more records. Default 5 ms; zero sends at once what is there.
    pub linger: Duration,
    /// How batches are compressed. Default: not.
    pub compression: Compression,
    /// Bytes of all records that are not acknowledged yet, 64 KiB to 4 GiB; `send` waits when they are used up. Default 64 MiB.
    pub buffer_bytes: usize,
    /// How long a record may take from `send` to its acknowledgement, over all tries. Default 120 s.
    pub delivery_timeout: Duration,
    /// Stores each record once, in order, over all tries. Default true. Without it a record may be stored twice after a lost answer, and
    /// one batch a partition is in flight.
    pub idempotent: bool,
    /// Asks the hub for acknowledgements. Default true. Without them (only with `idempotent` false) a record counts as delivered, at offset -1, once a
    /// connection has it, and nothing is sent twice: what a connection that breaks or a broker that ends still had, what a hub refuses
    /// ([`Producer::refused_batches`]) and what is sent while the leader changes is lost, and order may be, when a partition's leader changes. What arrives is as
    /// durable as everything else, a moment later. [`Producer::close`] waits until the hub has dealt with all that was sent.
    pub acknowledged: bool,
    /// Batches in flight for each partition, 1 to 64; the hub may grant fewer. Default 16.
    pub max_in_flight_batches: u32,
    /// A name under which the hub keeps the producer's identity, so that a later incarnation fences this one. Default: none.
    pub name: Option<String>,
    /// How often the number of partitions is looked up again. Default 5 min.
    pub metadata_max_age: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            batch_bytes: 256 << 10,
            linger: Duration::from_millis(5),
            compression: Compression::None,
            buffer_bytes: 64 << 20,
            delivery_timeout: Duration::from_secs(120),
            idempotent: true,
            acknowledged: true,
            max_in_flight_batches: 16,
            name: None,
            metadata_max_age: Duration::from_secs(300),
        }
    }
}

impl Settings {
    /// Checks ranges.
    ///
    /// # Errors
    /// [`Error::Setting`] that names the first setting out of its range.
    pub fn validate(&self) -> Result<()> {
        range("batch_bytes", self.batch_bytes as u64, 1 << 10, 16 << 20)?;
        range("buffer_bytes", self.buffer_bytes as u64, 64 << 10, u32::MAX.into())?;
        range("max_in_flight_batches", self.max_in_flight_batches.into(), 1, 64)?;
        if self.delivery_timeout <= self.linger {
            let message = format!("{:?} is not longer than `linger` ({:?})", self.delivery_timeout, self.linger);
            return Err(Error::Setting { field: "delivery_timeout", message });
        }
        if self.idempotent && !self.acknowledged {
            let message = "an idempotent producer needs acknowledgements; add `idempotent(false)`".to_owned();
            return Err(Error::Setting { field: "acknowledged", message });
        }
        if self.name.is_some() && !self.idempotent {
            let message = "a named producer is idempotent; leave out the name or `idempotent(false)`".to_owned();
            return Err(Error::Setting { field: "name", message });
        }
        Ok(())
    }

    /// How often partitions are looked up again. Whoever gets no acknowledgement is not told by one that a partition is led elsewhere.
    pub(super) fn look_up_every(&self) -> Duration {
        if self.acknowledged { self.metadata_max_age } else { self.metadata_max_age.min(UNTOLD_MAX_AGE) }
    }

    /// Batches of one partition that may be in flight before the hub has granted a number.
    pub(super) fn window(&self) -> usize {
        // Without sequences the hub could not tell that one of several was lost, and order would break.
        if self.idempotent { self.max_in_flight_batches as usize } else { 1 }
    }
}

/// Makes a [`Producer`]; the fields of [`Settings`] as calls.
#[derive(Clone, Debug)]
pub struct ProducerBuilder {
    client: Client,
    settings: Settings,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client) -> Self {
        ProducerBuilder { client, settings: Settings::default() }
    }

    /// All settings at once.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// [`Settings::batch_bytes`].
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes;
        self
    }

    /// [`Settings::linger`].
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = linger;
        self
    }

    /// [`Settings::compression`].
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.settings.compression = compression;
        self
    }

    /// [`Settings::buffer_bytes`].
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes;
        self
    }

    /// [`Settings::delivery_timeout`].
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// [`Settings::idempotent`].
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.settings.idempotent = idempotent;
        self
    }

    /// [`Settings::acknowledged`].
    #[must_use]
    pub fn acknowledged(mut self, acknowledged: bool) -> Self {
        self.settings.acknowledged = acknowledged;
        self
    }

    /// [`Settings::max_in_flight_batches`].
    #[must_use]
    pub fn max_in_flight_batches(mut self, batches: u32) -> Self {
        self.settings.max_in_flight_batches = batches;
        self
    }

    /// [`Settings::name`].
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Starts the producer. It connects with the first record. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn build(self) -> Result<Producer> {
        self.settings.validate()?;
        Ok(Producer::start(self.client, self.settings))
    }
}
