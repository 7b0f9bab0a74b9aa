//! Measured numbers into the status of Topics: at most five a second for each hub (by default), and never a reason to reconcile.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kube::Api;
use kube::api::Patch;
use serde_json::json;
use tidegate_crd::quantity::{format_bytes, format_duration_ms};
use tidegate_crd::{Topic, TopicStatus};
use tidegate_model::TopicUid;
use tokio::sync::mpsc;

use super::params;
use crate::catalog::link::HubKey;
use crate::catalog::mirror::Numbers;
use crate::context::Context;

/// Takes names of topics whose numbers changed, and writes, until the senders are gone.
pub async fn run(ctx: Arc<Context>, mut changed: mpsc::Receiver<(HubKey, Vec<TopicUid>)>) {
    let mut waiting: HashMap<HubKey, VecDeque<TopicUid>> = HashMap::new();
    // So much time between two writes for one hub.
    let mut pace = tokio::time::interval(Duration::from_secs(1) / ctx.settings.status_writes_per_second.max(1));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            news = changed.recv() => {
                let Some((hub, topics)) = news else { return };
                let queue = waiting.entry(hub).or_default();
                queue.extend(topics);
                let mut seen = std::collections::HashSet::new();
                queue.retain(|uid| seen.insert(*uid));
            }
            _ = pace.tick(), if !waiting.is_empty() => {
                for (hub, queue) in &mut waiting {
                    if let Some(uid) = queue.pop_front() {
                        write(&ctx, hub, uid).await;
                    }
                }
                waiting.retain(|_, queue| !queue.is_empty());
            }
        }
    }
}

async fn write(ctx: &Context, hub: &HubKey, uid: TopicUid) {
    let Some(link) = ctx.links.get(hub) else { return };
    let known = link.synced(|mirror| Some((mirror.by_uid(uid)?.bound.clone()?, mirror.numbers(uid)?)));
    let Some((bound, numbers)) = known.flatten() else { return };
    let Some(object) = ctx.topic_of(&bound) else { return };
    let old = object.status.clone().unwrap_or_default();
    let new = with_numbers(&old, numbers);
    // A status that was never reported comes first: it tells what the numbers are about.
    if new == old || old.topic_uid.is_none() {
        return;
    }
    let patch = json!({"metadata": {"uid": bound.uid}, "status": {
        "readyPartitions": new.ready_partitions,
        "endOffsetTotal": new.end_offset_total,
        "bytes": new.bytes,
        "tieringLag": new.tiering_lag,
    }});
    let api: Api<Topic> = Api::namespaced(ctx.client.clone(), &bound.namespace);
    match api.patch_status(&bound.name, &params(), &Patch::Merge(patch)).await {
        Ok(_) => ctx.metrics.status_written("Topic"),
        Err(error) => tracing::debug!(topic = %bound.name, %error, "numbers were not written; the next ones will be"),
    }
}

/// The status with other numbers. Pure.
pub fn with_numbers(old: &TopicStatus, numbers: Numbers) -> TopicStatus {
    let size = |bytes: u64| format_bytes(Some(rounded(bytes)));
    // Whole seconds: a lag that flickers is not worth a write.
    let lag = numbers.tiering_lag.as_secs() * 1000;
    TopicStatus {
        ready_partitions: Some(numbers.ready_partitions),
        end_offset_total: Some(i64::try_from(numbers.end_offset_total).unwrap_or(i64::MAX)),
        bytes: Some(tidegate_crd::status::TopicBytes { local: size(numbers.local_bytes), tiered: size(numbers.tiered_bytes) }),
        tiering_lag: Some(format_duration_ms(Some(lag))),
        ..old.clone()
    }
}

/// To whole KiB, MiB …, so that people can read it: at most a tenth of a percent off.
fn rounded(bytes: u64) -> u64 {
    let mut unit = 1;
    while bytes / unit >= 1 << 20 {
        unit <<= 10;
    }
    bytes.div_ceil(unit) * unit
}
