//! What happens to the disk in a life.

use tidegate_env::Random;
use tidegate_env::sim::{Fault, OperationKind, SimHandle, SimRandom};

/// One fault, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The power is cut after so many operations.
    PowerCut(u64),
    /// After so many operations of a kind on the log, one fails.
    Log(OperationKind, u64),
    /// The same on anything: checkpoints, identity, folders.
    Anything(OperationKind, u64),
    /// A sync of the log fails, and the power is cut soon after.
    SyncThenCut(u64, u64),
    /// Nothing.
    None,
}

impl Fate {
    pub(crate) fn draw(random: &SimRandom) -> Fate {
        use OperationKind::{Name, Read, Sync, SyncFolder, Write};
        // Half of the cuts early: between a proposal and its commit in the first moments, or while the hub still recovers.
        let soon = |random: &SimRandom, most: u64| if random.chance(2) { random.below(most / 10) } else { random.below(most) };
        match random.below(12) {
            0..=5 => Fate::PowerCut(soon(random, 1_500)),
            6 => Fate::Log([Write, Sync, Read][random.below(3) as usize], soon(random, 200)),
            7 => Fate::Anything([Write, Sync, Read, SyncFolder, Name][random.below(5) as usize], soon(random, 300)),
            8 | 9 => Fate::SyncThenCut(random.below(60), random.below(120)),
            _ => Fate::None,
        }
    }

    pub(crate) fn is_fault(self) -> bool {
        !matches!(self, Fate::None)
    }

    /// Whether reads fail in its course.
    pub(crate) fn fails_reads(self) -> bool {
        matches!(self, Fate::Log(OperationKind::Read, _) | Fate::Anything(OperationKind::Read | OperationKind::Name, _))
    }

    pub(crate) fn apply(self, handle: &SimHandle) {
        let inject = |on, path: &str, after| {
            handle.disk.inject(Fault { on, path_contains: path.to_owned(), after, error: std::io::ErrorKind::Other });
        };
        match self {
            Fate::PowerCut(after) => handle.disk.cut_power_after(after),
            Fate::Log(on, after) => inject(on, ".wal", after),
            Fate::Anything(on, after) => inject(on, "", after),
            Fate::SyncThenCut(after, cut) => {
                inject(OperationKind::Sync, ".wal", after);
                handle.disk.cut_power_after(after * 12 + cut);
            }
            Fate::None => {}
        }
    }
}
