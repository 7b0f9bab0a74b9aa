//! Reads of partitions that this broker holds no replica of: asked of the broker that leads them. Slower than asking it directly, which is what
//! metadata is for; never wrong.

use std::sync::Arc;
use std::time::Duration;

use tidegate_env::bugs::{self, Bug};
use tidegate_env::watch;
use tidegate_journal::raft::{Freshness, MemberError};
use tidegate_model::{JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::read::What;
use tidegate_proto::internal::v1::request::Ask;

use super::routes::Route;
use super::{Error, Fetched, Hub, Inner, Located, Marks, Position};

/// How long a broker may take to make sure that it leads.
const SURE: Duration = Duration::from_secs(2);
/// Between two looks at a partition that somebody waits for.
const LOOK: Duration = Duration::from_millis(100);
/// Most bytes of one answer: what brokers take from each other, with room for the rest of it.
const MOST_BYTES: usize = 16 << 20;

impl Hub {
    pub(crate) fn is_elsewhere(&self, route: &Route) -> bool {
        self.inner.hosted.get(route.journal).is_none()
    }

    /// Makes sure that this broker leads a journal now, and that its state shows all that was acknowledged before. A leader that was deposed
    /// behind its back finds it out here.
    pub(crate) async fn leads_now(&self, id: JournalId) -> Result<(), Error> {
        if self.inner.is_alone() {
            return Ok(());
        }
        let journal = self.inner.any_journal(id)?;
        if !journal.leadership().borrow().is_self {
            return Err(self.inner.not_leader(id));
        }
        if bugs::on(Bug::StaleReads) {
            return Ok(());
        }
        tokio::select! {
            biased;
            asked = journal.ensure_linearizable(Freshness::ReadIndex) => asked.map_err(|error| match error {
                MemberError::NotLeader { .. } => self.inner.not_leader(id),
                error => Error::unavailable(error),
            }),
            () = self.inner.env.clock.sleep(SURE) => {
                Err(Error::unavailable(format!("journal {id} has no majority that says who leads it")))
            }
        }
    }

    /// A replica that is behind must not call out of range what others have: beyond its end, only a sure leader may.
    pub(crate) async fn may_answer(&self, route: &Route, from: Offset) -> Result<(), Error> {
        if from <= self.marks(route)?.high_watermark { Ok(()) } else { self.leads_now(route.journal).await }
    }

    pub(crate) async fn read_elsewhere(&self, route: &Route, from: Offset, max_bytes: usize) -> Result<Fetched, Error> {
        let max_bytes = u64::try_from(max_bytes.min(MOST_BYTES)).unwrap_or(0);
        let told = self.inner.ask_read(route, What::Range(wired::Range { from: from.0, max_bytes })).await?;
        let bytes = told.data.len();
        let chunks = if told.data.is_empty() { Vec::new() } else { vec![told.data] };
        Ok(Fetched { chunks, bytes, next: Offset(told.next), marks: marks_in(told.marks.as_ref()) })
    }

    pub(crate) async fn locate_elsewhere(&self, route: &Route, position: Position) -> Result<Located, Error> {
        let what = match position {
            Position::Earliest => What::Earliest(true),
            Position::Latest => What::Latest(true),
            Position::Offset(offset) => What::Offset(offset.0),
            Position::Timestamp(time) => What::Timestamp(time.0),
        };
        let told = self.inner.ask_read(route, what).await?;
        let timestamp = told.timestamp_ms.map(TimestampMs);
        Ok(Located { offset: Offset(told.next), timestamp, epoch: marks_in(told.marks.as_ref()).epoch })
    }

    /// Looks again and again, as long as somebody waits.
    pub(crate) fn watch_elsewhere(&self, route: &Route) -> watch::Receiver<Offset> {
        let (sender, receiver) = watch::channel(Offset(0));
        let (hub, route) = (self.clone(), route.clone());
        let look = async move {
            let inner = Arc::clone(&hub.inner);
            while !sender.is_closed() {
                if let Ok(marks) = hub.marks_anywhere(&route).await {
                    sender.send_if_modified(|known| std::mem::replace(known, marks.high_watermark) != marks.high_watermark);
                }
                tokio::select! {
                    biased;
                    () = inner.stopping.cancelled() => return,
                    () = sender.closed() => return,
                    () = inner.env.clock.sleep(LOOK) => {}
                }
            }
        };
        drop(self.inner.env.threads.task("look", Box::pin(look)));
        receiver
    }

    /// The marks of a partition, wherever it is.
    pub(crate) async fn marks_anywhere(&self, route: &Route) -> Result<Marks, Error> {
        let marks = self.home_marks_anywhere(route).await?;
        Ok(self.with_older(route, marks).await)
    }

    /// The marks of one home, wherever it is.
    pub(crate) async fn home_marks_anywhere(&self, route: &Route) -> Result<Marks, Error> {
        if !self.is_elsewhere(route) {
            return self.marks(route);
        }
        self.marks_elsewhere(route).await
    }

    /// The marks of one home, by the broker that leads it.
    pub(crate) async fn marks_elsewhere(&self, route: &Route) -> Result<Marks, Error> {
        let told = self.inner.ask_read(route, What::Range(wired::Range { from: -1, max_bytes: 0 })).await?;
        Ok(marks_in(told.marks.as_ref()))
    }

    /// Answers another broker's read from the replica here.
    pub(crate) async fn serve_read(&self, read: wired::Read) -> Result<wired::PartitionRead, Error> {
        let uid = TopicUid(crate::fleet::uuid_in("topic_uid", &read.topic_uid)?);
        let topic =
            self.inner.routes.view().by_uid.get(&uid).cloned().ok_or_else(|| self.inner.routes.unknown(uid.to_string()))?;
        let at = TopicPartition { topic: uid, partition: PartitionId(read.partition) };
        let journal = JournalId(read.journal);
        let route = Route { topic, at, journal };
        if self.is_elsewhere(&route) {
            return Err(self.inner.not_leader(journal));
        }
        let what = read.what.ok_or_else(|| Error::invalid("what", "has nothing set that this build knows"))?;
        let position = match what {
            What::Range(range) if range.from < 0 => {
                let marks = self.marks(&route)?;
                return Ok(wired::PartitionRead {
                    next: marks.high_watermark.0,
                    marks: Some(marks_out(&marks)),
                    ..Default::default()
                });
            }
            What::Range(range) => {
                let max_bytes = usize::try_from(range.max_bytes).unwrap_or(MOST_BYTES).min(MOST_BYTES);
                self.may_answer(&route, Offset(range.from)).await?;
                let fetched = self.read_route(&route, Offset(range.from), max_bytes).await?;
                return Ok(wired::PartitionRead {
                    data: crate::chunks::join(&fetched.chunks),
                    next: fetched.next.0,
                    marks: Some(marks_out(&fetched.marks)),
                    timestamp_ms: None,
                });
            }
            What::Earliest(_) => Position::Earliest,
            What::Latest(_) => Position::Latest,
            What::Offset(offset) => {
                self.may_answer(&route, Offset(offset)).await?;
                Position::Offset(Offset(offset))
            }
            What::Timestamp(time) => Position::Timestamp(TimestampMs(time)),
        };
        let located = self.locate_route(&route, position).await?;
        let marks = Marks { epoch: located.epoch, ..self.marks(&route)? };
        Ok(wired::PartitionRead {
            next: located.offset.0,
            marks: Some(marks_out(&marks)),
            timestamp_ms: located.timestamp.map(|time| time.0),
            ..Default::default()
        })
    }
}

impl Inner {
    async fn ask_read(self: &Arc<Self>, route: &Route, what: What) -> Result<wired::PartitionRead, Error> {
        let read = wired::Read {
            journal: route.journal.0,
            topic_uid: crate::fleet::uuid_out(route.at.topic.0),
            partition: route.at.partition.0,
            what: Some(what),
        };
        match self.ask_leader(route.journal, Ask::Read(read)).await? {
            Told::Read(told) => Ok(told),
            other => Err(Error::internal(format!("a read was answered by {other:?}"))),
        }
    }
}

pub(super) fn marks_out(marks: &Marks) -> wired::Marks {
    wired::Marks {
        high_watermark: marks.high_watermark.0,
        log_start: marks.log_start.0,
        tiered_end: marks.tiered_end.0,
        epoch: marks.epoch.0,
    }
}

pub(super) fn marks_in(marks: Option<&wired::Marks>) -> Marks {
    let marks = marks.copied().unwrap_or_default();
    Marks {
        high_watermark: Offset(marks.high_watermark),
        log_start: Offset(marks.log_start),
        tiered_end: Offset(marks.tiered_end),
        epoch: LeaderEpoch(marks.epoch),
    }
}
