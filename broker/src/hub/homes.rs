//! Partitions that moved from one journal to another: their marks over all homes, and the steps of a move.
//!
//! Reads below the present home's first offset go to the older homes, which keep what they hold until retention drops it. Each step of a move is one
//! committed unit and may be done again by whoever finds the move under way: begin (catalog), seal (old journal), adopt (new journal), finish
//! (catalog). Between sealing and finishing nothing can be appended: three commits.

use std::sync::Arc;
use std::time::Duration;

use tidegate_journal::entry::{Operation, Outcome, Unit};
use tidegate_journal::state::Home;
use tidegate_model::{JournalId, Offset, TopicPartition};

use super::routes::{OlderHome, Route};
use super::{Error, Hub, Inner, Marks, PartitionNumbers, PartitionRef};

/// The longest that a broker may take to hear what the catalog has committed.
const SHOWN: Duration = Duration::from_secs(5);

/// A move that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) at: TopicPartition,
    pub(crate) from: Home,
    pub(crate) to: Home,
}

impl Hub {
    /// Moves a partition to another journal, and returns when it lives there. Writes to it pause for some milliseconds. Its older records stay where they
    /// are. Called again, it goes on.
    ///
    /// # Errors
    /// What cannot be moved there, by field; `UNAVAILABLE` where a journal has no leader: the hub goes on with the move by itself.
    pub async fn move_partition(&self, at: &PartitionRef, to: JournalId) -> Result<(), Error> {
        let route = self.inner.routes.route(at)?;
        let moving = || self.inner.moves().into_iter().find(|begun| begun.at == route.at);
        let lives_there = || {
            self.inner.catalog.read_state(|state| {
                let topic = state.catalog().topic(route.at.topic);
                topic.and_then(|topic| topic.home(route.at.partition)).is_some_and(|home| home.journal == to)
            })
        };
        if !lives_there() || moving().is_some() {
            self.inner.begin_move(route.at, to).await?;
        }
        if let Some(begun) = moving() {
            self.inner.carry_move(&begun).await?;
        }
        self.shows(at, to).await;
        Ok(())
    }

    /// Waits for a while until this broker, too, finds a partition where it lives.
    async fn shows(&self, at: &PartitionRef, journal: JournalId) {
        let mut moves = self.moves();
        let late = self.inner.env.clock.sleep(SHOWN);
        tokio::pin!(late);
        loop {
            self.inner.catalog.read_state(|state| self.inner.routes.refresh(state.catalog()));
            if self.inner.routes.route(at).is_ok_and(|route| route.journal == journal) {
                return;
            }
            tokio::select! {
                biased;
                moved = moves.changed() => if moved.is_err() { return },
                () = &mut late => return,
            }
        }
    }

    /// Wakes when partitions have moved: watches of theirs are to be taken anew.
    pub fn moves(&self) -> tidegate_env::watch::Receiver<u64> {
        self.inner.routes.moves()
    }

    /// Marks over all homes, asking for those that are elsewhere.
    pub(crate) async fn with_older(&self, route: &Route, mut marks: Marks) -> Marks {
        let last = route.older().last();
        for home in route.older() {
            let older = self.home_marks_anywhere(&route.in_home(home)).await;
            if over_home(&mut marks, home, older.ok(), Some(home) == last) {
                break;
            }
        }
        self.with_tiered_end(route, marks)
    }

    /// As [`Hub::with_older`], from what is at hand: the log start may be told too low.
    pub(crate) fn with_older_here(&self, route: &Route, mut marks: Marks) -> Marks {
        let last = route.older().last();
        for home in route.older() {
            let older = self.marks(&route.in_home(home));
            if over_home(&mut marks, home, older.ok(), Some(home) == last) {
                break;
            }
        }
        self.with_tiered_end(route, marks)
    }

    /// Where nothing of the present home is tiered, the end of what is lies in the one before it.
    fn with_tiered_end(&self, route: &Route, mut marks: Marks) -> Marks {
        if let Some(last) = route.older().last().filter(|last| marks.tiered_end <= last.end) {
            let older = self.marks(&route.in_home(last)).ok();
            marks.tiered_end = older.map_or(marks.tiered_end.min(last.end), |older| older.tiered_end);
        }
        marks
    }

    /// Adds what older homes at hand hold of a partition.
    pub(crate) fn add_older(&self, at: TopicPartition, numbers: &mut PartitionNumbers) {
        let Some(topic) = self.inner.routes.view().by_uid.get(&at.topic).cloned() else { return };
        let route = Route { topic, at, journal: numbers.journal };
        if route.older().is_empty() {
            return;
        }
        numbers.marks = self.with_older_here(&route, numbers.marks);
        for home in route.older() {
            let Ok(journal) = self.journal(home.journal) else { continue };
            journal.read_state(|state| {
                let Some(partition) = state.partition(at) else { return };
                numbers.local_bytes += partition.untiered_bytes();
                numbers.tiered_bytes += partition.tiered_bytes();
                let oldest = partition.tail().untiered().next().map(|item| item.appended);
                numbers.oldest_local = oldest.or(numbers.oldest_local);
            });
        }
    }
}

/// Takes an older home's log start over if it holds anything. True if it does: it is where the partition begins.
fn over_home(marks: &mut Marks, home: &OlderHome, older: Option<Marks>, is_last: bool) -> bool {
    match older {
        // It may hold something: reading there says so, and calling it gone would be wrong.
        None => marks.log_start = home.first,
        Some(older) if older.log_start < home.end => marks.log_start = older.log_start,
        Some(_) if is_last => marks.log_start = marks.log_start.max(home.end),
        Some(_) => return false,
    }
    true
}

impl Inner {
    /// Moves that were begun and not finished.
    pub(crate) fn moves(&self) -> Vec<Move> {
        self.catalog.read_state(|state| {
            let mut moves = Vec::new();
            for topic in state.catalog().topics() {
                for (partition, homes) in (0..).zip(&topic.homes) {
                    let Some([from, to]) = homes.last_chunk().filter(|[_, to]| to.is_pending()) else { continue };
                    let at = TopicPartition { topic: topic.uid, partition: tidegate_model::PartitionId(partition) };
                    moves.push(Move { at, from: *from, to: *to });
                }
            }
            moves
        })
    }

    /// Homes that are the oldest of several, and where the next one begins.
    pub(crate) fn oldest_homes(&self) -> Vec<(TopicPartition, Home, Offset)> {
        self.catalog.read_state(|state| {
            let mut oldest = Vec::new();
            for topic in state.catalog().topics() {
                for (partition, homes) in (0..).zip(&topic.homes) {
                    let Some([first, next]) = homes.first_chunk().filter(|[_, next]| !next.is_pending()) else { continue };
                    let at = TopicPartition { topic: topic.uid, partition: tidegate_model::PartitionId(partition) };
                    oldest.push((at, *first, next.first_offset));
                }
            }
            oldest
        })
    }

    /// Commits that a partition shall move.
    pub(crate) async fn begin_move(self: &Arc<Self>, at: TopicPartition, to: JournalId) -> Result<(), Error> {
        self.propose(JournalId::CATALOG, Unit::of(Operation::BeginMove { at, to })).await.map(|_| ())
    }

    /// Takes a move to its end.
    pub(crate) async fn carry_move(self: &Arc<Self>, begun: &Move) -> Result<(), Error> {
        let Move { at, from, to } = *begun;
        // Writes stop at the seal, so both journals must be able to go on.
        for journal in [from.journal, to.journal] {
            if self.leader_of(journal).is_none() {
                return Err(self.not_leader(journal));
            }
        }
        let seal = Operation::SealPartition { at, generation: from.generation };
        let Outcome::Sealed(sealed) = self.propose(from.journal, Unit::of(seal)).await? else {
            return Err(Error::internal("sealing a partition came to something else"));
        };
        let (generation, first_offset) = (to.generation, sealed.end);
        self.propose(to.journal, Unit::of(Operation::AdoptPartition { at, generation, sealed })).await?;
        let finish = Operation::FinishMove { at, generation, first_offset };
        self.propose(JournalId::CATALOG, Unit::of(finish)).await?;
        self.metrics.partition_moves.inc();
        tracing::info!(%at, from = from.journal.0, to = to.journal.0, first_offset = first_offset.0, "a partition moved");
        Ok(())
    }

    /// Drops a home that holds nothing of the partition any more; nothing happens while it does.
    pub(crate) async fn drop_home(self: &Arc<Self>, at: TopicPartition, home: Home, end: Offset) -> Result<(), Error> {
        let hub = Hub { inner: Arc::clone(self) };
        if let Some(topic) = self.routes.view().by_uid.get(&at.topic).cloned() {
            let hosted = self.hosted.get(home.journal);
            let is_closed = hosted.is_some_and(|journal| journal.read_state(|state| state.partition(at).is_none()));
            let route = Route { topic, at, journal: home.journal };
            if !is_closed && hub.home_marks_anywhere(&route).await?.log_start < end {
                return Ok(());
            }
            let generation = home.generation;
            self.propose(home.journal, Unit::of(Operation::ClosePartition { at, generation })).await?;
            self.propose(JournalId::CATALOG, Unit::of(Operation::DropHome { at, generation })).await?;
        }
        Ok(())
    }
}
