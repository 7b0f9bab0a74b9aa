//! One object on its way: intend, build, upload, verify, commit; or abandon.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_env::bugs::{self, Bug};
use tidegate_journal::entry::{ObjectInfo, ObjectKey, Operation, TierRange};
use tidegate_journal::state::EpochStart;
use tidegate_tier::object::{BuiltObject, RangeHeader, TierObjectBuilder};
use tidegate_tier::{PutMode, StoreError};

use super::seal::{Plan, Take};
use super::{TierError, Tierer};
use crate::hub::Error;
use crate::metrics::ResultLabels;

/// Bytes read from the log at a time.
const STEP_BYTES: usize = 4 << 20;

impl Tierer {
    /// Moves a plan's stretches to the store.
    pub(super) async fn move_out(&self, plan: &Plan) -> Result<(), TierError> {
        let mut uuid = self.hub.env.random.uuid();
        if let (true, Some(first)) = (bugs::on(Bug::ReuseObjectKey), plan.takes.first()) {
            uuid = uuid::Uuid::from_u128(first.from.0 as u128);
        }
        let key: ObjectKey = Arc::from(self.hub.keys.object(self.id, uuid).as_str());
        let mut builder = TierObjectBuilder::new(self.hub.hub_id, self.id, &key);
        for take in &plan.takes {
            self.add(&mut builder, take).await?;
        }
        let built = builder.finish().map_err(|error| TierError::Wrong(error.to_string()))?;
        let ranges = tier_ranges(&built);
        let object = self.put(key, built).await?;
        let bytes = object.bytes;
        self.settle(object, ranges).await?;
        self.hub.metrics.uploaded.inc_by(bytes);
        Ok(())
    }

    /// Commits `Tier`. Where it is refused (the data was trimmed, the partition closed meanwhile), the object is given up.
    async fn settle(&self, object: ObjectInfo, ranges: Vec<TierRange>) -> Result<(), TierError> {
        let key = Arc::clone(&object.key);
        let committed = self.propose(Operation::Tier { object, ranges }).await;
        self.working.lock().remove(&key);
        match committed {
            Ok(_) => Ok(()),
            // Not known whether it was committed: if it was not, the next pass finds the key intended and abandons it.
            Err(error @ (Error::Unavailable { .. } | Error::NotLeader { .. } | Error::ShuttingDown)) => Err(error.into()),
            Err(error) => {
                self.propose(Operation::Abandon { key: Arc::clone(&key) }).await?;
                Err(TierError::Wrong(format!("object `{key}` was overtaken and is abandoned: {error}")))
            }
        }
    }

    /// Intends, uploads and verifies an object. On failure its key is abandoned by a later pass.
    pub(super) async fn put(&self, key: ObjectKey, built: BuiltObject) -> Result<ObjectInfo, TierError> {
        let (chunks, bytes, crc32c) = (built.chunks, built.bytes, built.crc32c);
        self.put_bytes(key, chunks, bytes, crc32c).await
    }

    /// As `put`, for bytes of any kind.
    pub(super) async fn put_bytes(
        &self,
        key: ObjectKey,
        chunks: Vec<Bytes>,
        bytes: u64,
        crc32c: u32,
    ) -> Result<ObjectInfo, TierError> {
        self.working.lock().insert(Arc::clone(&key));
        let uploaded = self.upload(&key, chunks, bytes, crc32c).await;
        let result = if uploaded.is_ok() { "ok" } else { "failed" };
        self.hub.metrics.uploads.get_or_create(&ResultLabels { result }).inc();
        match uploaded {
            Ok(()) => Ok(ObjectInfo { key, bytes, crc32c }),
            Err(error) => {
                self.working.lock().remove(&key);
                Err(error)
            }
        }
    }

    async fn upload(&self, key: &ObjectKey, chunks: Vec<Bytes>, bytes: u64, crc32c: u32) -> Result<(), TierError> {
        self.propose(Operation::Intend { key: Arc::clone(key) }).await?;
        let put = match self.hub.store.put(key, chunks, PutMode::CreateOnly).await {
            Err(StoreError::AlreadyExists { .. }) if bugs::on(Bug::ReuseObjectKey) => return Ok(()),
            put => put?,
        };
        if bugs::on(Bug::SkipVerify) {
            return Ok(());
        }
        if put.bytes != bytes || put.crc32c != crc32c {
            let problem = format!(
                "object `{key}` arrived as {} bytes with CRC {:08x}, not {bytes} with {crc32c:08x}",
                put.bytes, put.crc32c
            );
            return Err(TierError::Wrong(problem));
        }
        // Read back: only what was read once may take the place of the log's copy.
        self.hub.store.verify(key, put).await?;
        Ok(())
    }

    async fn add(&self, builder: &mut TierObjectBuilder, take: &Take) -> Result<(), TierError> {
        let mut chunks: Vec<Bytes> = Vec::new();
        let mut from = take.from;
        while from < take.to {
            let read = self
                .journal()?
                .read_tail(take.at, from, STEP_BYTES)
                .await
                .map_err(|error| TierError::Wrong(error.to_string()))?;
            if read.next <= from {
                return Err(TierError::Wrong(format!("the log has nothing at offset {from} of {}", take.at)));
            }
            for batch in read.batches {
                // The end is a batch boundary: what lies beyond it is left for the next object.
                if batch.header.base_offset >= take.to {
                    break;
                }
                chunks.extend(batch.chunks());
            }
            from = read.next;
        }
        let header = self.range_header(take)?;
        builder.add_range(header, chunks).map_err(|error| TierError::Wrong(error.to_string()))
    }

    fn range_header(&self, take: &Take) -> Result<RangeHeader, TierError> {
        let view = self.hub.routes.view();
        let topic_name = view.by_uid.get(&take.at.topic).map_or_else(String::new, |topic| topic.name.to_string());
        let starts: Vec<EpochStart> = self.journal()?.read_state(|state| {
            state.partition(take.at).map(|partition| partition.epoch_starts().copied().collect()).unwrap_or_default()
        });
        // Those that matter for the stretch: the one in force at its beginning, and those that begin within.
        let first = starts.partition_point(|start| start.start <= take.from).saturating_sub(1);
        let epoch_starts =
            starts.iter().skip(first).take_while(|start| start.start < take.to).map(|start| (start.epoch, start.start));
        Ok(RangeHeader { at: take.at, topic_name, base: take.from, end: take.to, epoch_starts: epoch_starts.collect() })
    }
}

fn tier_ranges(built: &BuiltObject) -> Vec<TierRange> {
    let ranges = built.ranges.iter().map(|range| TierRange {
        at: range.at,
        base: range.base,
        end: range.end,
        position: range.position,
        bytes: range.bytes,
        min_timestamp: range.min_timestamp,
        max_timestamp: range.max_timestamp,
    });
    ranges.collect()
}
