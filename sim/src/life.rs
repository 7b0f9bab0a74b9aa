//! One life of a hub: it opens, clients work while faults come and go, until all is done or something goes wrong.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{Either, join, join_all, select};
use parking_lot::Mutex;
use tidegate_broker::hub::{Caller, Error, Hub, NewTopic, OpenError};
use tidegate_broker::settings::{HubSettings, Limits};
use tidegate_checker::Source;
use tidegate_env::sim::{EPOCH_MS, SimHandle};
use tidegate_env::{Env, Random};
use tidegate_journal::entry::Management;
use tidegate_model::TopicUid;
use tidegate_tier::ObjectStore;

use crate::store::{SimStore, Weather};
use crate::world::{Kind, World};

/// The world, shared by the clients of one thread; never held over an await.
pub(crate) type Shared = Arc<Mutex<World>>;

/// What a life is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds of each client.
    pub(crate) rounds: u64,
    /// Whether store, clock and room misbehave.
    pub(crate) is_disturbed: bool,
    pub(crate) ending: Ending,
}

/// What comes after the clients' work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The hub is stopped in order.
    Orderly,
    /// It is killed.
    Kill,
    /// It is killed after its clients were quiet for a while, so that the log has said that all of theirs is durable.
    QuietKill,
    /// Everything is read, from wherever it is and from the store alone; then it is stopped in order.
    ReadAll,
    /// Everything is read once more, and nothing else is done.
    ReadAgain,
}

/// How a life ended by itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All was done, and the hub stopped in order.
    Stopped,
    /// All was done, and the hub was killed.
    Killed,
    /// The hub could not go on.
    Failed(String),
    /// The hub calls its files damaged.
    Refused(String),
}

/// What clients of one life share.
pub(crate) struct Session {
    pub(crate) hub: Hub,
    pub(crate) env: Env,
    pub(crate) world: Shared,
    handle: SimHandle,
    store: SimStore,
    /// Whether the store gave wrong bytes in this life.
    lied: AtomicBool,
}

/// The settings of all simulated hubs: everything small and soon.
pub(crate) fn settings() -> HubSettings {
    let mut settings = HubSettings { data_dir: PathBuf::from("/hub/data"), journals: 2, ..HubSettings::default() };
    settings.wal.file_bytes = 1 << 20;
    settings.wal.budget_bytes = 64 << 20;
    settings.wal.control_reserve_bytes = 1 << 20;
    settings.journal.checkpoint_bytes = 48 << 10;
    settings.journal.tail_cache_bytes = 1 << 20;
    settings.tier.interval_ms = 50;
    settings.tier.seal_age_ms = 200;
    settings.tier.seal_bytes = 64 << 10;
    settings.tier.checkpoint_interval_ms = 1_000;
    settings.tier.retry_ms = 50;
    settings.tier.cache_memory_bytes = 1 << 20;
    settings.retention_interval_ms = 500;
    settings.retention_grace_ms = GRACE_MS;
    settings.undelete_ms = 4_000;
    settings.object_grace_ms = 1_000;
    settings
}

/// How long a leap of the clock must last until it is believed; in the simulation each is taken back before.
const GRACE_MS: u64 = 6_000;
/// How long tiering may take once nothing is in its way.
const TIERED_WITHIN: Duration = Duration::from_secs(600);

pub(crate) async fn live(env: Env, handle: SimHandle, plan: Plan, world: Shared) -> End {
    let store = world.lock().store.in_life(&env.clock);
    if !plan.is_disturbed {
        store.set(Weather::Fair);
    }
    let shared: Arc<dyn ObjectStore> = Arc::new(store.clone());
    let hub = match Hub::open(settings(), &Limits::default(), &env, shared).await {
        Ok(hub) => hub,
        Err(error) => {
            // The marker in the store is read as well.
            let is_lie = store.weather() == Weather::Lying && matches!(error, OpenError::Identity(_));
            let what = format!("the hub does not open: {error}: {error:?}");
            return if is_damage(&error) && !is_lie { End::Refused(what) } else { End::Failed(what) };
        }
    };
    let lied = AtomicBool::new(store.weather() == Weather::Lying);
    let session = Session { hub, env, world, handle, store, lied };
    let body = Box::pin(session.work(plan));
    let failed = Box::pin(session.hub.failed());
    match select(failed, body).await {
        Either::Left((reason, _)) => End::Failed(reason),
        Either::Right((Err(problem), _)) => {
            session.world.lock().recorder.alarm(problem);
            End::Killed
        }
        Either::Right((Ok(()), _)) if matches!(plan.ending, Ending::Kill | Ending::QuietKill) => End::Killed,
        Either::Right((Ok(()), _)) => {
            session.hub.shutdown(Duration::from_secs(60)).await;
            End::Stopped
        }
    }
}

/// Whether an error says that files are not what was written.
pub(crate) fn is_damage(error: &OpenError) -> bool {
    use tidegate_broker::identity::IdentityError;
    use tidegate_journal::raft::StartError;
    use tidegate_wal::OpenError as WalError;
    match error {
        OpenError::Wal(error) => {
            matches!(
                error,
                WalError::Corrupt { .. } | WalError::Missing { .. } | WalError::Foreign { .. } | WalError::Newer { .. }
            )
        }
        OpenError::Journal(error) => {
            use StartError::{BeyondFile, Damaged, LogLost, NoCheckpoint};
            matches!(error, NoCheckpoint { .. } | LogLost { .. } | BeyondFile { .. } | Damaged { .. })
        }
        OpenError::Identity(error) => matches!(error, IdentityError::Damaged { .. } | IdentityError::Foreign { .. }),
        _ => false,
    }
}

impl Session {
    /// True milliseconds, which no leap of the hub's clock touches: clients' clocks are right.
    pub(crate) fn true_time(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.env.clock.monotonic().as_millis()).unwrap_or(i64::MAX)
    }

    /// Waits up to so many milliseconds.
    pub(crate) async fn pause(&self, most_ms: u64) {
        self.env.clock.sleep(Duration::from_millis(self.env.random.below(most_ms + 1))).await;
    }

    pub(crate) fn has_lied(&self) -> bool {
        self.lied.load(Ordering::Relaxed)
    }

    async fn work(&self, plan: Plan) -> Result<(), String> {
        let work = Box::pin(async {
            self.take_back_leap().await;
            if plan.ending == Ending::ReadAgain {
                return self.read_all(Source::Restarted).await;
            }
            if !self.set_up(plan.is_disturbed).await? {
                return Ok(());
            }
            let (producers, consumers) = {
                let world = self.world.lock();
                (world.producers.len(), world.consumers.len())
            };
            let producing = join_all((0..producers).map(|number| self.produce(number, plan.rounds)));
            let consuming = join_all((0..consumers).map(|number| self.consume(number, plan.rounds * 2)));
            join(join(producing, consuming), self.administer(plan)).await.1?;
            if plan.ending == Ending::QuietKill {
                self.env.clock.sleep(Duration::from_millis(300)).await;
            }
            if plan.ending == Ending::ReadAll { self.finish().await } else { Ok(()) }
        });
        let weather = Box::pin(async {
            loop {
                if !plan.is_disturbed {
                    std::future::pending::<()>().await;
                }
                self.disturb().await;
            }
        });
        match select(work, weather).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => Ok(()),
        }
    }

    /// One change of the circumstances, after a while.
    async fn disturb(&self) {
        self.pause(700).await;
        let random = &self.env.random;
        match random.below(12) {
            0 => {
                let used = self.handle.disk.used_bytes();
                self.handle.disk.set_capacity(Some(used + random.below(1 << 18)));
                self.note("the disk is full");
                self.pause(2_000).await;
                self.handle.disk.set_capacity(None);
                self.note("the disk has room again");
            }
            // Two leaps together would reach the day after which producers are forgotten.
            1 if self.handle.clock.wall_offset_ms() == 0 => {
                let hours = random.below(40) as i64 - 20;
                self.handle.clock.jump_wall_clock(hours * 3_600_000);
                self.note(&format!("the wall clock leaps by {hours} hours"));
                self.pause(GRACE_MS / 2).await;
                self.take_back_leap().await;
            }
            other => {
                use Weather::{Down, Fair, Lying, Pausing, Refusing, Rotting, Silent, Slow, Stale};
                let kinds = [Fair, Down, Slow(3_000), Slow(300), Refusing, Silent, Lying, Rotting, Pausing, Stale];
                let weather = kinds[other as usize % kinds.len()];
                if weather == Lying {
                    self.lied.store(true, Ordering::Relaxed);
                }
                self.store.set(weather);
                self.note(&format!("the object store is {weather:?}"));
            }
        }
    }

    async fn take_back_leap(&self) {
        let leapt = self.handle.clock.wall_offset_ms();
        if leapt != 0 {
            self.pause(GRACE_MS / 4).await;
            self.handle.clock.jump_wall_clock(-leapt);
            self.note("the wall clock is right again");
        }
    }

    fn note(&self, what: &str) {
        self.world.lock().recorder.note(what);
    }

    /// Makes topics that are not there, finds those that are, restores those that are to be restored. False: it goes on in a later life.
    async fn set_up(&self, is_disturbed: bool) -> Result<bool, String> {
        let topics = self.world.lock().topics.clone();
        for (number, topic) in topics.iter().enumerate() {
            if let Some(uid) = topic.to_restore {
                self.restore(number, uid).await?;
            }
            let found = self.hub.topic(topic.name).ok().map(|found| found.uid);
            let known = self.world.lock().topics[number].uid;
            match (known, found) {
                (Some(known), Some(found)) if known != found => {
                    return Err(format!("topic `{}` has uid {found}, {known} was made", topic.name));
                }
                (Some(uid), None) => return Err(format!("topic `{}` with uid {uid} is gone", topic.name)),
                (_, Some(found)) => self.world.lock().found(number, found),
                (None, None) => {
                    if !self.make(number).await? && !is_disturbed {
                        return Err(format!("topic `{}` can't be made though nothing is in the way", topic.name));
                    }
                }
            }
        }
        Ok(self.world.lock().any_key().is_some())
    }

    async fn make(&self, number: usize) -> Result<bool, String> {
        let topic = self.world.lock().topics[number].clone();
        let new =
            NewTopic { name: topic.name.to_owned(), settings: topic.settings(), bound: None, management: Management::Catalog };
        match self.hub.create_topic(new, &Caller::Client).await {
            Ok(made) => {
                let mut world = self.world.lock();
                if world.forgotten.contains(&made.uid) {
                    return Err(format!("topic `{}` was made again with the uid {} of the deleted one", topic.name, made.uid));
                }
                world.found(number, made.uid);
                Ok(true)
            }
            Err(Error::StorageFull { .. } | Error::Unavailable { .. } | Error::NotLeader { .. } | Error::ShuttingDown) => {
                Ok(false)
            }
            Err(error) => Err(format!("topic `{}` can't be made: {error}", topic.name)),
        }
    }

    /// Now and then deletes the topic that is made for it; restores it, or makes it again.
    async fn administer(&self, plan: Plan) -> Result<(), String> {
        if !plan.is_disturbed || self.env.random.below(2) == 0 {
            return Ok(());
        }
        self.pause(1_500).await;
        let (number, uid, restores) = {
            let world = self.world.lock();
            let Some(number) = world.topics.iter().position(|topic| topic.kind == Kind::Fleeting) else { return Ok(()) };
            let Some(uid) = world.topics[number].uid else { return Ok(()) };
            (number, uid, world.random.below(2) == 0)
        };
        if restores {
            self.world.lock().topics[number].to_restore = Some(uid);
        } else {
            self.world.lock().gone(number);
        }
        let deleted = self.hub.delete_topic(uid, None, &Caller::Client).await;
        if deleted.is_err() {
            return Ok(());
        }
        self.pause(1_000).await;
        if restores {
            return self.restore(number, uid).await;
        }
        self.world.lock().forgotten.insert(uid);
        self.make(number).await.map(|_| ())
    }

    /// Restores a topic that may or may not have been deleted. Too late, it is gone for good.
    async fn restore(&self, number: usize, uid: TopicUid) -> Result<(), String> {
        let living = self.hub.topic_described(uid).is_ok_and(|topic| topic.deleted.is_none());
        let restored = if living { Ok(()) } else { self.hub.undelete_topic(uid, &Caller::Client).await.map(|_| ()) };
        let mut world = self.world.lock();
        match restored {
            Ok(()) => world.topics[number].to_restore = None,
            Err(Error::TopicNotRestorable { .. } | Error::UnknownTopic { .. }) => {
                world.gone(number);
                world.topics[number].to_restore = None;
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The end: everything from wherever it is, then from the store alone.
    async fn finish(&self) -> Result<(), String> {
        self.read_all(Source::Anywhere).await?;
        self.wait_until_tiered().await?;
        self.hub.drop_local_copies().await.map_err(|error| format!("local copies can't be dropped: {error}"))?;
        self.read_all(Source::Tier).await?;
        self.hub.checkpoint_to_store().await.map_err(|error| format!("no checkpoint in the store: {error}"))
    }

    pub(crate) async fn read_all(&self, source: Source) -> Result<(), String> {
        let keys: Vec<_> = self.world.lock().topics.iter().flat_map(|topic| topic.keys()).collect();
        for at in keys {
            self.read_fully(at, source).await?;
        }
        Ok(())
    }

    async fn wait_until_tiered(&self) -> Result<(), String> {
        let keys: Vec<_> = self.world.lock().topics.iter().flat_map(|topic| topic.keys()).collect();
        let deadline = self.env.clock.monotonic() + TIERED_WITHIN;
        for at in keys {
            let place = self.world.lock().topic_of(at).map(|topic| topic.place(at.partition)).ok_or("a key without a topic")?;
            loop {
                let marks = self.hub.marks_of(&place).map_err(|error| error.to_string())?;
                if marks.tiered_end.max(marks.log_start) == marks.high_watermark {
                    break;
                }
                if self.env.clock.monotonic() > deadline {
                    return Err(format!("{at} is not tiered after {TIERED_WITHIN:?} without faults: {marks:?}"));
                }
                self.env.clock.sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }
}
