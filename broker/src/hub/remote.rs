//! Reads of partitions that this broker holds no replica of: asked of the broker that leads them. Slower than asking it directly, which is what
//! metadata is for; never wrong.

use std::sync::Arc;
use std::time::Duration;

use tidegate_env::watch;
use tidegate_model::{BrokerId, JournalId, LeaderEpoch, Offset, PartitionId, TimestampMs, TopicPartition, TopicUid};
use tidegate_proto::internal::v1 as wired;
use tidegate_proto::internal::v1::answer::Told;
use tidegate_proto::internal::v1::read::What;
use tidegate_proto::internal::v1::request::Ask;

use super::routes::Route;
use super::{Error, Fetched, Hub, Inner, Located, Marks, Position};

/// Between two looks at a partition that somebody waits for.
const LOOK: Duration = Duration::from_millis(100);
/// Most bytes of one answer: what brokers take from each other, with room for the rest of it.
const MOST_BYTES: usize = 16 << 20;

impl Hub {
    pub(crate) fn is_elsewhere(&self, route: &Route) -> bool {
        self.inner.hosted.get(route.journal).is_none()
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
        if self.is_elsewhere(route) { self.marks_elsewhere(route).await } else { self.marks_standing(route).await }
    }

    /// The marks of one home, by the broker that leads it.
    pub(crate) async fn marks_elsewhere(&self, route: &Route) -> Result<Marks, Error> {
        let told = self.inner.ask_read(route, What::Range(wired::Range { from: -1, max_bytes: 0 })).await?;
        Ok(marks_in(told.marks.as_ref()))
    }

    /// Answers another broker's read, if this one leads. One that leads and has no majority tells what is committed, and no end of it.
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
        let leaderless = match self.leads_now(journal).await {
            Ok(()) => None,
            Err(error) if error.is_not_leader() => return Err(error),
            Err(error) => match what {
                What::Range(_) => Some(self.inner.broker),
                _ => return Err(error),
            },
        };
        let position = match what {
            What::Range(range) => return self.serve_range(&route, range, leaderless).await,
            What::Earliest(_) => Position::Earliest,
            What::Latest(_) => Position::Latest,
            What::Offset(offset) => Position::Offset(Offset(offset)),
            What::Timestamp(time) => Position::Timestamp(TimestampMs(time)),
        };
        let located = self.locate_leading(&route, position).await?;
        let marks = Marks { epoch: located.epoch, ..self.marks(&route)? };
        Ok(wired::PartitionRead {
            next: located.offset.0,
            marks: Some(marks_out(&marks)),
            timestamp_ms: located.timestamp.map(|time| time.0),
            ..Default::default()
        })
    }

    async fn serve_range(
        &self,
        route: &Route,
        range: wired::Range,
        leaderless: Option<BrokerId>,
    ) -> Result<wired::PartitionRead, Error> {
        if range.from < 0 {
            let marks = Marks { leaderless, ..self.marks(route)? };
            let next = marks.high_watermark.0;
            return Ok(wired::PartitionRead { next, marks: Some(marks_out(&marks)), ..Default::default() });
        }
        let max_bytes = usize::try_from(range.max_bytes).unwrap_or(MOST_BYTES).min(MOST_BYTES);
        let fetched = self.read_leading(route, Offset(range.from), max_bytes).await?;
        Ok(wired::PartitionRead {
            data: crate::chunks::join(&fetched.chunks),
            next: fetched.next.0,
            marks: Some(marks_out(&Marks { leaderless, ..fetched.marks })),
            timestamp_ms: None,
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
        match Box::pin(self.ask_leader(route.journal, Ask::Read(read))).await? {
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
        leaderless: marks.leaderless.map_or(0, |broker| broker.0),
    }
}

pub(super) fn marks_in(marks: Option<&wired::Marks>) -> Marks {
    let marks = marks.copied().unwrap_or_default();
    Marks {
        high_watermark: Offset(marks.high_watermark),
        log_start: Offset(marks.log_start),
        tiered_end: Offset(marks.tiered_end),
        epoch: LeaderEpoch(marks.epoch),
        leaderless: Some(BrokerId(marks.leaderless)).filter(|broker| broker.0 != 0),
    }
}
