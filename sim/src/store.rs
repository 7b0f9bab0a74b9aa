//! An object store that outlives the hub's machine, keeps everything in memory, and misbehaves as real ones do.
//!
//! Down, slow, bursts of refusals, effects whose answer is lost, requests of a dead process that arrive later, bytes that differ from what
//! was written (on their way, or stored so), callers that are paused before or after any call, listings that lag behind. It never loses what it
//! acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_env::sim::SimRandom;
use tidegate_env::{Clock, Random};
use tidegate_tier::store::ObjectInfo;
use tidegate_tier::{ObjectStore, Put, PutMode, StoreError};

/// How the store behaves for the time being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Every call succeeds.
    Fair,
    /// No call does.
    Down,
    /// Calls take up to so many milliseconds.
    Slow(u64),
    /// One call in two is refused with 503.
    Refusing,
    /// One write in three gets no answer, and had its effect or not.
    Silent,
    /// One read in three gives a wrong byte, or less than it should.
    Lying,
    /// One write in three is stored with a wrong byte.
    Rotting,
    /// At one call in three the caller stands still, before it reaches the store or before it hears of the answer, for up to half a minute: as if the
    /// process had been stopped at that step of tiering or collecting.
    Pausing,
    /// Of the last changes a listing shows some and not others.
    Stale,
}

/// Changes that a stale listing may not show yet.
const LATEST: usize = 64;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    /// Writes and deletes of dead processes that are still on their way.
    late: Vec<Late>,
    /// Every key that a put was ever accepted for.
    stored: Vec<String>,
    /// Listings give nothing.
    lists_nothing: bool,
    /// The last changes: key, and its bytes before.
    latest: VecDeque<(String, Option<u64>)>,
    pauses: u64,
    deletes: u64,
    refusals: u64,
}

impl State {
    fn change(&mut self, key: &str, to: Option<Bytes>) {
        let before = match to {
            Some(bytes) => self.objects.insert(key.to_owned(), bytes),
            None => self.objects.remove(key),
        };
        self.latest.push_back((key.to_owned(), before.map(|bytes| bytes.len() as u64)));
        if self.latest.len() > LATEST {
            self.latest.pop_front();
        }
    }
}

enum Late {
    Put(String, Bytes),
    Delete(String),
}

/// A handle to the store; [`SimStore::in_life`] gives those of processes.
#[derive(Clone)]
pub struct SimStore {
    state: Arc<Mutex<State>>,
    weather: Arc<Mutex<Weather>>,
    random: Arc<SimRandom>,
    clock: Option<Arc<dyn Clock>>,
}

impl SimStore {
    /// An empty one. Calls take no time until it is in a life.
    pub fn new(seed: u64) -> SimStore {
        SimStore {
            state: Arc::default(),
            weather: Arc::new(Mutex::new(Weather::Fair)),
            random: Arc::new(SimRandom::new(seed)),
            clock: None,
        }
    }

    /// The same store, for a process with this clock.
    pub fn in_life(&self, clock: &Arc<dyn Clock>) -> SimStore {
        SimStore { clock: Some(Arc::clone(clock)), ..self.clone() }
    }

    /// Another store with the same objects.
    pub fn copied(&self, seed: u64) -> SimStore {
        let copy = SimStore::new(seed);
        copy.state.lock().objects = self.state.lock().objects.clone();
        copy
    }

    /// Changes how it behaves.
    pub fn set(&self, weather: Weather) {
        *self.weather.lock() = weather;
    }

    /// How it behaves.
    pub fn weather(&self) -> Weather {
        *self.weather.lock()
    }

    /// Keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.state.lock().objects.keys().cloned().collect()
    }

    /// Flips a bit of an object.
    pub fn flip(&self, key: &str, random: &SimRandom) {
        if let Some(bytes) = self.state.lock().objects.get_mut(key) {
            *bytes = wrong(bytes, random);
        }
    }

    /// Keys of all writes that were ever accepted, in order.
    pub fn stored(&self) -> Vec<String> {
        self.state.lock().stored.clone()
    }

    /// From now on every listing is empty, as a stale one may be.
    pub fn list_nothing(&self) {
        self.state.lock().lists_nothing = true;
    }

    /// Deletes so far.
    pub fn deletes(&self) -> u64 {
        self.state.lock().deletes
    }

    /// Calls that were refused so far.
    pub fn refusals(&self) -> u64 {
        self.state.lock().refusals
    }

    /// Times that a caller stood still.
    pub fn pauses(&self) -> u64 {
        self.state.lock().pauses
    }

    /// A pause of the caller, if it is to be; short ones are as frequent as long ones.
    async fn stand_still(&self) {
        if self.weather() != Weather::Pausing || !self.random.chance(6) {
            return;
        }
        if let Some(clock) = &self.clock {
            self.state.lock().pauses += 1;
            let most = 1 << self.random.below(16);
            clock.sleep(Duration::from_millis(self.random.below(most) + 1)).await;
        }
    }

    /// The time that a call takes, then whether it is refused.
    async fn arrive(&self, key: &str, operation: &'static str) -> Result<(), StoreError> {
        self.stand_still().await;
        let weather = self.weather();
        let most = if let Weather::Slow(most) = weather { most } else { 20 };
        if let Some(clock) = &self.clock {
            clock.sleep(Duration::from_millis(self.random.below(most + 1))).await;
        }
        self.deliver_late();
        let refused = match weather {
            Weather::Down => true,
            Weather::Refusing => self.random.chance(2),
            _ => false,
        };
        if !refused {
            return Ok(());
        }
        self.state.lock().refusals += 1;
        Err(StoreError::Unavailable { key: key.to_owned(), operation, message: "503 Slow Down (simulated)".to_owned() })
    }

    /// Now and then something that a dead process had sent arrives.
    fn deliver_late(&self) {
        let mut state = self.state.lock();
        if state.late.is_empty() || !self.random.chance(4) {
            return;
        }
        match state.late.remove(0) {
            Late::Put(key, _) if state.objects.contains_key(&key) => {}
            Late::Put(key, bytes) => state.change(&key, Some(bytes)),
            Late::Delete(key) => state.change(&key, None),
        }
    }

    /// An answer that gets lost, after a write that had its effect or not.
    fn swallow(&self, key: &str, operation: &'static str, effect: impl FnOnce()) -> Option<StoreError> {
        if self.weather() != Weather::Silent || !self.random.chance(3) {
            return None;
        }
        if self.random.chance(2) {
            effect();
        }
        let message = "no answer in time (simulated)".to_owned();
        Some(StoreError::Ambiguous { key: key.to_owned(), operation, message })
    }

    fn object(&self, key: &str) -> Result<Bytes, StoreError> {
        self.state.lock().objects.get(key).cloned().ok_or_else(|| StoreError::NotFound { key: key.to_owned() })
    }

    /// What a read gives: the truth, unless the store lies.
    fn told(&self, bytes: Bytes) -> Bytes {
        if self.weather() != Weather::Lying || !self.random.chance(3) || bytes.is_empty() {
            return bytes;
        }
        if self.random.chance(3) { bytes.slice(..bytes.len() - 1) } else { wrong(&bytes, &self.random) }
    }
}

/// The bytes with one bit flipped.
fn wrong(bytes: &Bytes, random: &SimRandom) -> Bytes {
    let mut changed = bytes.to_vec();
    let place = random.below(changed.len() as u64) as usize;
    if let Some(byte) = changed.get_mut(place) {
        *byte ^= 1 << random.below(8);
    }
    Bytes::from(changed)
}

/// Sends a write on its way without its process, if that is gone before the answer.
struct OnItsWay<'a> {
    store: &'a SimStore,
    late: Option<Late>,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        if let Some(late) = self.late.take()
            && self.store.random.chance(2)
        {
            self.store.state.lock().late.push(late);
        }
    }
}

impl std::fmt::Debug for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimStore").field("objects", &self.state.lock().objects.len()).finish_non_exhaustive()
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put(&self, key: &str, body: Vec<Bytes>, _: PutMode) -> Result<Put, StoreError> {
        let bytes = Bytes::from(body.concat());
        let put = Put { bytes: bytes.len() as u64, crc32c: tidegate_tier::crc32c(&bytes) };
        let mut on_its_way = OnItsWay { store: self, late: Some(Late::Put(key.to_owned(), bytes.clone())) };
        let arrived = self.arrive(key, "put").await;
        on_its_way.late = None;
        arrived?;
        if self.state.lock().objects.contains_key(key) {
            return Err(StoreError::AlreadyExists { key: key.to_owned() });
        }
        let rots = self.weather() == Weather::Rotting && self.random.chance(3) && !bytes.is_empty();
        let stored = if rots { wrong(&bytes, &self.random) } else { bytes };
        let store = || {
            let mut state = self.state.lock();
            state.change(key, Some(stored.clone()));
            state.stored.push(key.to_owned());
        };
        if let Some(error) = self.swallow(key, "put", store) {
            return Err(error);
        }
        store();
        self.stand_still().await;
        Ok(put)
    }

    async fn get(&self, key: &str) -> Result<Bytes, StoreError> {
        self.arrive(key, "get").await?;
        let told = self.object(key).map(|bytes| self.told(bytes));
        self.stand_still().await;
        told
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.arrive(key, "get").await?;
        let object = self.object(key)?;
        if range.start >= range.end || range.end > object.len() as u64 {
            let why = format!("the object has {} bytes", object.len());
            return Err(StoreError::InvalidRange { key: key.to_owned(), start: range.start, end: range.end, why });
        }
        let told = self.told(object.slice(range.start as usize..range.end as usize));
        self.stand_still().await;
        Ok(told)
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StoreError> {
        self.arrive(key, "head").await?;
        Ok(ObjectInfo { key: key.to_owned(), bytes: self.object(key)?.len() as u64 })
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let mut on_its_way = OnItsWay { store: self, late: Some(Late::Delete(key.to_owned())) };
        let arrived = self.arrive(key, "delete").await;
        on_its_way.late = None;
        arrived?;
        let delete = || {
            let mut state = self.state.lock();
            state.change(key, None);
            state.deletes += 1;
        };
        if let Some(error) = self.swallow(key, "delete", delete) {
            return Err(error);
        }
        delete();
        self.stand_still().await;
        Ok(())
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectInfo>, StoreError> {
        self.arrive(prefix, "list").await?;
        let state = self.state.lock();
        let limit = if state.lists_nothing { 0 } else { limit };
        let mut listed: BTreeMap<&str, u64> = state.objects.iter().map(|(key, bytes)| (&key[..], bytes.len() as u64)).collect();
        if self.weather() == Weather::Stale {
            for (key, before) in state.latest.iter().rev().filter(|_| self.random.chance(2)) {
                match before {
                    Some(bytes) => listed.insert(key, *bytes),
                    None => listed.remove(&key[..]),
                };
            }
        }
        let fits = |key: &str| key.starts_with(prefix) && start_after.is_none_or(|after| key > after);
        let found = listed.into_iter().filter(|(key, _)| fits(key)).take(limit);
        Ok(found.map(|(key, bytes)| ObjectInfo { key: key.to_owned(), bytes }).collect())
    }
}
