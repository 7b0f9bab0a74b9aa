//! Offsets by name or time, over tier and tail.

use tidegate_journal::entry::StoredRange;
use tidegate_journal::state::TierPiece;
use tidegate_model::batch::batches;
use tidegate_model::{Offset, RecordBatch, TimestampMs};

use super::fetch::within_log;
use super::routes::Route;
use super::{Error, Fetched, Hub, Located, PartitionRef, Position};

/// Bytes read at a time while looking for a timestamp.
const STEP_BYTES: usize = 1 << 20;

impl Hub {
    /// Finds an offset.
    pub async fn locate(&self, at: &PartitionRef, position: Position) -> Result<Located, Error> {
        let route = self.inner.routes.route(at)?;
        self.check_epoch(&route, at.leader_epoch)?;
        if route.older().is_empty() {
            return self.locate_home(&route, position).await;
        }
        let marks = self.marks_at(at).await?;
        let plain = |offset| Located { offset, timestamp: None, epoch: marks.epoch };
        match position {
            Position::Earliest => return Ok(plain(marks.log_start)),
            Position::Latest if marks.leaderless.is_some() => return Err(self.inner.not_leader(route.journal)),
            Position::Latest => return Ok(plain(marks.high_watermark)),
            Position::Offset(offset) if marks.leaderless.is_some() && offset > marks.high_watermark => {
                return Err(self.inner.not_leader(route.journal));
            }
            Position::Offset(offset) => return within_log(offset, &marks).map(|()| plain(offset)),
            Position::Timestamp(_) => {}
        }
        for home in route.older() {
            let located = self.locate_home(&route.in_home(home), position).await?;
            if located.timestamp.is_some() {
                return Ok(located);
            }
        }
        self.locate_home(&route, position).await
    }

    async fn locate_home(&self, route: &Route, position: Position) -> Result<Located, Error> {
        if self.is_elsewhere(route) {
            return self.locate_elsewhere(route, position).await;
        }
        self.locate_standing(route, position).await
    }

    /// As [`Hub::locate`], in the replica that this broker holds.
    pub(crate) async fn locate_route(&self, route: &Route, position: Position) -> Result<Located, Error> {
        let marks = self.marks(route)?;
        let plain = |offset| Located { offset, timestamp: None, epoch: marks.epoch };
        match position {
            Position::Earliest => Ok(plain(marks.log_start)),
            Position::Latest => Ok(plain(marks.high_watermark)),
            Position::Offset(offset) => within_log(offset, &marks).map(|()| plain(offset)),
            Position::Timestamp(time) => Ok(match self.first_at_or_after(route, time).await? {
                Some((offset, found)) => Located { offset, timestamp: Some(found), epoch: self.epoch_of(route, offset)? },
                None => plain(marks.high_watermark),
            }),
        }
    }

    fn epoch_of(&self, route: &Route, offset: Offset) -> Result<tidegate_model::LeaderEpoch, Error> {
        let journal = self.journal(route.journal)?;
        let epoch = journal.read_state(|state| state.partition(route.at).map(|partition| partition.epoch_of(offset)));
        epoch.ok_or_else(|| Error::unavailable("the partition is closed"))
    }

    /// The first record, by offset, whose timestamp is at or after `time`. Stretches whose greatest timestamp lies before it are passed
    /// over unread; within the first that is left, records are compared one by one, for timestamps need not rise.
    async fn first_at_or_after(&self, route: &Route, time: TimestampMs) -> Result<Option<(Offset, TimestampMs)>, Error> {
        let mut from = self.marks(route)?.log_start;
        while let Some(stretch) = self.stretch_from(route, from, time).await? {
            from = from.max(stretch.0);
            let end = stretch.1;
            while from < end {
                let fetched = self.read_route(route, from, STEP_BYTES).await?;
                if let Some(found) = first_record(&fetched, from, time)? {
                    return Ok(Some(found));
                }
                if fetched.next <= from {
                    return Ok(None);
                }
                from = fetched.next;
            }
        }
        Ok(None)
    }

    /// The first stretch (base, end) that ends after `from` and may hold a timestamp at or after `time`.
    async fn stretch_from(&self, route: &Route, from: Offset, time: TimestampMs) -> Result<Option<(Offset, Offset)>, Error> {
        let journal = self.journal(route.journal)?;
        let (pieces, tail): (Vec<TierPiece>, _) = journal.read_state(|state| {
            let Some(partition) = state.partition(route.at) else { return (Vec::new(), None) };
            let fits = |max: TimestampMs| max.0 < 0 || max >= time;
            let pieces = partition.tier_from(from).filter(|piece| match piece {
                TierPiece::Range(range) => fits(range.max_timestamp),
                TierPiece::Manifest(manifest) => fits(manifest.max_timestamp),
            });
            let above = from.max(partition.tiered_end());
            let tail = partition.tail().items().find(|item| item.end > above && fits(item.max_timestamp));
            (pieces.cloned().collect(), tail.map(|item| (item.base, item.end)))
        });
        for piece in pieces {
            match piece {
                TierPiece::Range(range) => return Ok(Some((range.base, range.end))),
                TierPiece::Manifest(manifest) => {
                    let ranges = self.manifest(&manifest).await?;
                    let fits =
                        |range: &&StoredRange| range.end > from && (range.max_timestamp.0 < 0 || range.max_timestamp >= time);
                    if let Some(range) = ranges.iter().find(fits) {
                        return Ok(Some((range.base, range.end)));
                    }
                }
            }
        }
        Ok(tail)
    }
}

/// The first record at or after an offset and a time in what was read.
fn first_record(fetched: &Fetched, from: Offset, time: TimestampMs) -> Result<Option<(Offset, TimestampMs)>, Error> {
    let bytes = crate::chunks::join(&fetched.chunks);
    for item in batches(&bytes) {
        let (header, range) = item.map_err(|error| Error::Corrupt { problem: error.to_string() })?;
        if header.max_timestamp < time {
            continue;
        }
        let batch = RecordBatch::trusted(bytes.slice(range)).map_err(|error| Error::Corrupt { problem: error.to_string() })?;
        for record in batch.records().map_err(|error| Error::Corrupt { problem: error.to_string() })? {
            let record = record.map_err(|error| Error::Corrupt { problem: error.to_string() })?;
            if record.offset >= from && record.timestamp >= time {
                return Ok(Some((record.offset, record.timestamp)));
            }
        }
    }
    Ok(None)
}
