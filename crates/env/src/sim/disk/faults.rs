//! What can go wrong on purpose, and how long things take.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::Random;
use crate::sim::SimRandom;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Reads a file's bytes.
    Read,
    /// Writes, cuts or extends a file.
    Write,
    /// Reserves room for a file.
    Allocate,
    /// Syncs a file.
    Sync,
    /// Syncs a folder.
    SyncFolder,
    /// Changes or reads names: open, create, rename, link, remove, list.
    Name,
}

/// An error to come, once.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operations it strikes.
    pub on: OperationKind,
    /// Only those on paths that contain this; empty strikes all.
    pub path_contains: String,
    /// How many matching operations succeed first.
    pub after: u64,
    /// The error that is given. `ErrorKind::Other` stands for EIO, `StorageFull` for ENOSPC.
    pub error: io::ErrorKind,
}

/// How long operations take in virtual time, drawn anew for each. The one who called sleeps so long, as [`crate::File::simulated_latency`]
/// says. The default is no time at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// The usual longest time of a sync.
    pub sync: Duration,
    /// The usual longest time of a read or write.
    pub transfer: Duration,
    /// One operation in so many takes a hundred times as long; 0 for never.
    pub stall_one_in: u64,
}

impl Latency {
    pub(super) fn draw(&self, kind: OperationKind, random: &SimRandom) -> Duration {
        let most = match kind {
            OperationKind::Sync | OperationKind::SyncFolder | OperationKind::Allocate => self.sync,
            OperationKind::Read | OperationKind::Write => self.transfer,
            OperationKind::Name => Duration::ZERO,
        };
        if most.is_zero() {
            return most;
        }
        let usual = Duration::from_nanos(random.below(u64::try_from(most.as_nanos()).unwrap_or(u64::MAX)) + 1);
        if random.chance(self.stall_one_in) { usual * 100 } else { usual }
    }
}

/// The faults to come.
#[derive(Debug, Default)]
pub(super) struct Plan {
    faults: Vec<Fault>,
}

impl Plan {
    pub(super) fn add(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.faults.clear();
    }

    /// The error that this operation shall give.
    pub(super) fn strike(&mut self, kind: OperationKind, path: &Path) -> Option<io::Error> {
        let path = path.to_string_lossy();
        let mut struck = None;
        for (place, fault) in self.faults.iter_mut().enumerate() {
            if fault.on != kind || !path.contains(fault.path_contains.as_str()) {
                continue;
            }
            if fault.after == 0 {
                struck = Some(place);
                break;
            }
            fault.after -= 1;
        }
        let fault = self.faults.remove(struck?);
        Some(io::Error::new(fault.error, format!("simulated fault of {kind:?}")))
    }
}
