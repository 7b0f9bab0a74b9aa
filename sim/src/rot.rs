//! Damage at rest: a copy of the machine whose files were changed while it was off. It refuses to start and says which file, or it serves
//! what is whole and refuses the rest: never a wrong byte, never silently less.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_broker::Hub;
use tidegate_broker::hub::{Error, OpenError, PartitionRef};
use tidegate_broker::settings::Limits;
use tidegate_checker::{Entry, Event, History, Rule, check};
use tidegate_env::Random;
use tidegate_env::sim::{Ended, SimDisk, SimRandom};
use tidegate_model::{Offset, TopicPartition};
use tidegate_tier::ObjectStore;

use crate::Run;
use crate::life::{is_damage, settings};
use crate::records::parse;

/// What a damaged hub did.
enum Saw {
    /// It did not open.
    Refused(OpenError),
    /// It answered reads: these events.
    Served(Vec<Event>),
}

/// Copies that are damaged after an orderly stop.
const COPIES: u64 = 2;
/// Of a file of the log (docs/formats/wal.md).
const HEADER_BYTES: u64 = 64;
/// How far from its end the log is damaged at its end.
const LAST_BYTES: u64 = 4 << 10;

impl Run {
    /// Damages copies of a machine whose hub was stopped in order, or killed when it had been idle: of every byte that matters the log knows
    /// that it was durable.
    pub(crate) fn damage_a_copy(&mut self, number: u64) -> Result<(), String> {
        for copy in 0..COPIES {
            let random = SimRandom::new(self.seed ^ (number * COPIES + copy + 1).wrapping_mul(0x9e37_79b9));
            let disk = self.simulation.disk().copied(random.next_u64());
            let store = self.world.lock().store.copied(random.next_u64());
            let damage = match random.below(8) {
                0 => damage_an_object(&store, &random),
                _ => damage_a_file(&disk, &random),
            };
            let Some(damage) = damage else { continue };
            let saw = self.start_on(disk, store)?;
            self.judge(&damage, saw)?;
        }
        Ok(())
    }

    fn start_on(&mut self, disk: SimDisk, store: crate::store::SimStore) -> Result<Saw, String> {
        let mut copy = self.simulation.on(disk);
        copy.patience = Duration::from_secs(600);
        let places = self.places();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&seen);
        let ended = copy.live(|env, _| async move {
            let store: Arc<dyn ObjectStore> = Arc::new(store.in_life(&env.clock));
            let hub = Hub::open(settings(), &Limits::default(), &env, store).await?;
            for (at, place) in places {
                read(&hub, at, &place, &events).await;
            }
            Ok(())
        });
        if let Some(panic) = copy.panics().first() {
            return Err(format!("a task of a damaged hub panicked: {panic}"));
        }
        match ended {
            Ended::Output(Ok(())) => Ok(Saw::Served(std::mem::take(&mut *seen.lock()))),
            Ended::Output(Err(error)) => Ok(Saw::Refused(error)),
            Ended::PowerCut | Ended::Stuck => Err("a damaged hub stands still".to_owned()),
        }
    }

    fn places(&self) -> Vec<(TopicPartition, PartitionRef)> {
        let world = self.world.lock();
        let topics = world.topics.iter().filter(|topic| topic.to_restore.is_none());
        topics.flat_map(|topic| topic.keys().map(|at| (at, topic.place(at.partition)))).collect()
    }

    /// What was served must fit all that clients know. (What was left out need not be complete: it was refused.)
    fn judge(&mut self, damage: &str, saw: Saw) -> Result<(), String> {
        match saw {
            Saw::Refused(error) if is_damage(&error) || matches!(error, OpenError::Journal(_)) => {
                let text = format!("{error} {error:?}");
                // A refusal says where: a file, a folder or a journal.
                if !text.contains("/hub/data") && !text.contains("journal") {
                    return Err(format!("{damage}: the refusal names no place: {text}"));
                }
                self.report.rotten.0 += 1;
                Ok(())
            }
            Saw::Refused(error) => Err(format!("{damage}: the hub did not say that it is damaged, but: {error}")),
            Saw::Served(events) => {
                let mut history = self.world.lock().recorder.history().unwrap_or_default();
                if let Some(problem) = ends_early(&history, &events) {
                    return Err(format!("{damage}, and {problem}"));
                }
                history.entries.extend(events.into_iter().map(|event| Entry { at_us: 0, event }));
                let verdict = check(&history);
                let broken: Vec<&Rule> = verdict.broken.keys().filter(|rule| **rule != Rule::NeverRead).collect();
                if !broken.is_empty() {
                    return Err(format!("{damage}, and the hub served something else: {verdict}"));
                }
                self.report.rotten.1 += 1;
                Ok(())
            }
        }
    }
}

/// Whether a high watermark of the damaged hub lies below what clients were told or given before.
fn ends_early(history: &History, events: &[Event]) -> Option<String> {
    let ends = |events: &mut dyn Iterator<Item = &Event>| {
        let mut ends: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for event in events {
            if let Event::Poll { at, high_watermark, .. } = event {
                let end = ends.entry(*at).or_default();
                *end = (*end).max(*high_watermark);
            }
        }
        ends
    };
    let before = ends(&mut history.entries.iter().map(|entry| &entry.event));
    let now = ends(&mut events.iter());
    let fallen = now.iter().find_map(|(at, end)| before.get(at).filter(|before| *before > end).map(|before| (at, *before, end)));
    fallen.map(|(at, before, end)| format!("{at} ends at {end} without a word, {before} was told"))
}

/// Reads all that can be read of a partition, as polls of a consumer that moves on behind what is refused.
async fn read(hub: &Hub, at: TopicPartition, place: &PartitionRef, seen: &Mutex<Vec<Event>>) {
    let Ok(marks) = hub.marks_of(place) else {
        seen.lock().push(Event::Alarm { what: format!("{at} is gone without a word") });
        return;
    };
    let (log_start, high_watermark) = (marks.log_start.0, marks.high_watermark.0);
    let mut next = marks.log_start;
    while next < marks.high_watermark {
        match hub.read(place, next, 1 << 14).await {
            Ok(fetched) => {
                let records = match parse(&fetched.chunks, next) {
                    Ok(records) => records,
                    Err(what) => return seen.lock().push(Event::Alarm { what: format!("{at} at {next} was served: {what}") }),
                };
                let from = next.0;
                seen.lock().push(Event::Poll { process: 0, at, from, moved: true, records, log_start, high_watermark, via: 0 });
                if fetched.next <= next {
                    return;
                }
                next = fetched.next;
            }
            Err(Error::Corrupt { .. } | Error::Unavailable { .. } | Error::TierUnavailable { .. }) => next = Offset(next.0 + 1),
            Err(error) => return seen.lock().push(Event::Alarm { what: format!("{at} at {next}: {error}") }),
        }
    }
    let from = marks.high_watermark.0;
    seen.lock().push(Event::Poll { process: 0, at, from, moved: true, records: Vec::new(), log_start, high_watermark, via: 0 });
}

/// Changes one file of the log or one checkpoint, and says how.
pub(crate) fn damage_a_file(disk: &SimDisk, random: &SimRandom) -> Option<String> {
    let mut files = disk.files(Path::new("/hub/data")).ok()?;
    if random.chance(3) {
        return damage_the_end(disk, &files, random);
    }
    // The log as often as all checkpoints together.
    let part = if random.chance(2) { ".wal" } else { "/checkpoints/" };
    files.retain(|(path, bytes)| *bytes > 0 && path.to_string_lossy().contains(part));
    let (path, bytes) = files.get(random.below(files.len() as u64) as usize)?.clone();
    // Most of a log file is unused: look where something is.
    let used = disk.written(&path).ok()?.max(1);
    // What was written last is in no checkpoint yet.
    let place = if random.chance(2) { random.below(used) } else { used - 1 - random.below(used.div_ceil(6)) };
    let how = match random.below(4) {
        0 => {
            disk.zero(&path, place / 4096 * 4096..(place / 4096 + 1) * 4096).ok()?;
            "a zeroed page"
        }
        1 => {
            disk.cut(&path, place).ok()?;
            "the end cut off"
        }
        _ => {
            disk.flip_bit(&path, place, random.below(8) as u8).ok()?;
            "a flipped bit"
        }
    };
    Some(format!("{how} at {place} of {} ({bytes} bytes)", path.display()))
}

/// Zeroes what the log wrote last, from some place on: a few frames with those that say that they are durable. Only the durable mark beside the log
/// tells such damage from a write that the power cut off.
fn damage_the_end(disk: &SimDisk, files: &[(PathBuf, u64)], random: &SimRandom) -> Option<String> {
    let logs = files.iter().filter(|(path, bytes)| *bytes > 0 && path.to_string_lossy().ends_with(".wal"));
    // The newest file is a spare one, with nothing in it but its header.
    let path = logs.map(|(path, _)| path).filter(|path| disk.written(path).is_ok_and(|used| used > HEADER_BYTES)).max()?;
    let used = disk.written(path).ok()?;
    let place = used - 1 - random.below((used - HEADER_BYTES).min(LAST_BYTES));
    disk.zero(path, place..used).ok()?;
    Some(format!("zeros from {place} to the end of what was written, {used}, of {}", path.display()))
}

fn damage_an_object(store: &crate::store::SimStore, random: &SimRandom) -> Option<String> {
    let keys: Vec<String> =
        store.keys().into_iter().filter(|key| key.contains("/objects/") || key.contains("/topics/")).collect();
    let key = keys.get(random.below(keys.len() as u64) as usize)?;
    store.flip(key, random);
    Some(format!("a flipped bit in object {key}"))
}
