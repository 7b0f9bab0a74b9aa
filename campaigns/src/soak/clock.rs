//! A wall clock that leaps, for the hub's process alone: libfaketime stands before its C library and adds what a file says. The monotonic clock stays true,
//! as it does on a machine whose administrator, or whose time service, sets the clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::clients::Seen;
use crate::hub::{Hub, HubSetup};

/// Both ways, in seconds: less than the retention of any topic of the soak, so that nothing may go by age.
const LEAP_SECONDS: i64 = 20 * 3600;

/// Where Debian's package `libfaketime` puts its library.
fn library() -> Option<PathBuf> {
    let path = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
    Some(PathBuf::from(path)).filter(|path| path.is_file())
}

/// Puts the hub that `setup` starts under a clock of its own, if libfaketime is installed; gives the file that says how far it is off.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn prepare(setup: &mut HubSetup) -> Result<Option<PathBuf>> {
    let Some(library) = library() else {
        println!("soak: NOT DONE: clock jumps, as libfaketime (the Debian package of that name) is not installed");
        return Ok(None);
    };
    let file = setup.folder.join("clock");
    set(&file, 0)?;
    let file_name = file.display().to_string();
    let variables = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file_name),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        // How long it may go on by what it read before.
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
    ];
    setup.environment.extend(variables.map(|(name, value)| (name.to_owned(), value)));
    Ok(Some(file))
}

/// The file, if the hub's process really goes by it: a static binary does not.
pub(super) fn governed(hub: &Hub, file: Option<PathBuf>) -> Option<PathBuf> {
    let file = file?;
    let maps = hub.process_id().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/maps")).ok());
    let governed = maps.is_some_and(|maps| maps.contains("libfaketime"));
    if !governed {
        println!("soak: NOT DONE: clock jumps, as the hub's binary does not load libfaketime");
    }
    governed.then_some(file)
}

fn set(file: &Path, seconds: i64) -> Result<()> {
    // Replaced as a whole: the hub may read it at any time.
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{seconds:+}\n")).context("the hub's clock")?;
    std::fs::rename(&next, file).context("the hub's clock")
}

/// Leaps, stays there for a while, and comes back; the clock is right in the end.
///
/// # Errors
/// If the clock cannot be set.
pub(super) async fn jump(file: PathBuf, seed: u64, pause: Duration, seen: Arc<Seen>, stop: CancellationToken) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(seed);
    loop {
        let leap = random.random_range(-LEAP_SECONDS..=LEAP_SECONDS);
        for seconds in [leap, 0] {
            set(&file, seconds)?;
            tokio::select! {
                biased;
                () = stop.cancelled() => return set(&file, 0),
                () = tokio::time::sleep(pause) => {}
            }
        }
        seen.leaps.fetch_add(1, Ordering::Relaxed);
    }
}
