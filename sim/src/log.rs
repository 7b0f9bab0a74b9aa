//! The write-ahead log alone in a simulated machine, with files so small that it rolls to a new one every few entries: what a hub's life meets seldom,
//! the moment between two files, each seed meets dozens of times, and cuts the power there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_env::sim::{Ended, SimRandom, Simulation};
use tidegate_env::{Env, Random};
use tidegate_model::JournalId;
use tidegate_wal::{Payload, Position, Recovered, Settings, Wal, Write};

const JOURNAL: JournalId = JournalId(1);
/// A journal that comes and is forgotten, over and over.
const GUEST: JournalId = JournalId(2);
const ENTRY_BYTES: usize = 3000;
const LIVES: u64 = 6;

/// What clients of the log know.
#[derive(Debug, Default)]
struct Known {
    acknowledged: AtomicU64,
    submitted: AtomicU64,
    purged: AtomicU64,
    /// The guest's last entry that was acknowledged, and the last that was submitted, of its present stay.
    guest: (AtomicU64, AtomicU64),
    /// Whether an order to forget the guest was submitted and is not known to be durable.
    leaving: AtomicBool,
}

/// Runs one seed: how often the power was cut.
///
/// # Errors
/// What does not hold.
pub fn run(seed: u64) -> Result<u64, String> {
    let mut simulation = Simulation::new(seed);
    simulation.patience = Duration::from_secs(600);
    let random = SimRandom::new(seed ^ 0x106);
    let known = Arc::new(Known::default());
    let mut cuts = 0;
    for life in 0..=LIVES {
        let is_last = life == LIVES;
        let (entries, cut) = (random.below(80), random.below(400));
        let ended = simulation.live(|env, handle| {
            if !is_last {
                handle.disk.cut_power_after(cut);
            }
            one_life(env, Arc::clone(&known), if is_last { 0 } else { entries })
        });
        match ended {
            Ended::PowerCut => {}
            Ended::Output(Ok(())) if !is_last => {}
            Ended::Output(Ok(())) => return Ok(cuts),
            // The cut is noticed by a call that fails first.
            Ended::Output(Err(_)) if simulation.disk().power_is_cut() => {}
            Ended::Output(Err(problem)) => return Err(format!("seed {seed}, life {life}: {problem}")),
            Ended::Stuck => return Err(format!("seed {seed}, life {life}: nothing goes on")),
        }
        simulation.crash();
        cuts += 1;
    }
    Ok(cuts)
}

async fn one_life(env: Env, known: Arc<Known>, entries: u64) -> Result<(), String> {
    let settings = Settings {
        file_bytes: 32 << 10,
        budget_bytes: 1 << 20,
        control_reserve_bytes: 64 << 10,
        group_bytes: 64 << 10,
        ..Settings::new("/log")
    };
    let (wal, recovered) = Wal::open(settings, &env).await.map_err(|error| error.to_string())?;
    let last = recovered.journals.get(&JOURNAL).and_then(|log| log.last).map_or(0, |at| at.index);
    let (acknowledged, submitted) = (known.acknowledged.load(Ordering::Relaxed), known.submitted.load(Ordering::Relaxed));
    if last < acknowledged || last > submitted {
        return Err(format!("the log ends at {last}; {acknowledged} was acknowledged, {submitted} submitted"));
    }
    for index in wal.first_index(JOURNAL)..=last {
        let read = wal.read(JOURNAL, index).await.map_err(|error| error.to_string())?;
        if read != content(index) {
            return Err(format!("entry {index} is another's"));
        }
    }
    let mut guest = guest(&wal, &recovered, &known).await?;
    known.submitted.store(last, Ordering::Relaxed);
    for index in last + 1..=last + entries {
        let mut writes = vec![Write::Entry { journal: JOURNAL, at: position(index), payload: Payload::from(content(index)) }];
        if env.random.below(8) == 0 {
            let purged = index.saturating_sub(env.random.below(12) + 1).max(known.purged.load(Ordering::Relaxed));
            if purged > known.purged.load(Ordering::Relaxed) {
                known.purged.store(purged, Ordering::Relaxed);
                writes.push(Write::Purge { journal: JOURNAL, at: position(purged) });
            }
        }
        let (leaves, stays) = (guest > 0 && env.random.below(10) == 0, env.random.below(2) == 0);
        if leaves {
            known.leaving.store(true, Ordering::Relaxed);
            writes.push(Write::Forget { journal: GUEST });
        } else if stays {
            guest += 1;
            known.guest.1.store(guest, Ordering::Relaxed);
            writes.push(Write::Entry { journal: GUEST, at: position(guest), payload: Payload::from(content(guest + 7)) });
        }
        known.submitted.store(index, Ordering::Relaxed);
        let (done, written) = tokio::sync::oneshot::channel();
        wal.submit(
            writes,
            Some(Box::new(move |result: Result<(), _>| {
                let _nobody_waits = done.send(result.is_ok());
            })),
        );
        if written.await != Ok(true) {
            return Err("the log has failed".to_owned());
        }
        known.acknowledged.store(index, Ordering::Relaxed);
        if leaves {
            guest = 0;
            known.leaving.store(false, Ordering::Relaxed);
            known.guest.1.store(0, Ordering::Relaxed);
        }
        known.guest.0.store(guest, Ordering::Relaxed);
    }
    Ok(())
}

/// Checks what the log recovered of the guest: all of its stay, or nothing if it was to be forgotten. Its last entry.
async fn guest(wal: &Wal, recovered: &Recovered, known: &Known) -> Result<u64, String> {
    let last = recovered.journals.get(&GUEST).and_then(|log| log.last).map_or(0, |at| at.index);
    let (acknowledged, submitted) = (known.guest.0.load(Ordering::Relaxed), known.guest.1.load(Ordering::Relaxed));
    let was_forgotten = known.leaving.swap(false, Ordering::Relaxed) && last == 0;
    if !was_forgotten && (last < acknowledged || last > submitted) {
        return Err(format!("the guest ends at {last}; {acknowledged} was acknowledged, {submitted} submitted"));
    }
    for index in 1..=last {
        let read = wal.read(GUEST, index).await.map_err(|error| error.to_string())?;
        if read != content(index + 7) {
            return Err(format!("entry {index} of the guest is another's"));
        }
    }
    known.guest.0.store(last, Ordering::Relaxed);
    known.guest.1.store(last, Ordering::Relaxed);
    Ok(last)
}

fn position(index: u64) -> Position {
    Position { term: 1, index, ..Position::default() }
}

fn content(index: u64) -> Bytes {
    let mut bytes = vec![(index % 251) as u8; ENTRY_BYTES];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Bytes::from(bytes)
}
