//! Whole hubs in one deterministic process: virtual time, a disk that loses, tears and refuses, power cuts, and clients whose history is checked.
//!
//! Owns the workload and the checks. Everything that runs below is the broker's own code; nothing is a model. The same seed gives the same
//! history and the same trace of the disk.

pub mod history;
mod life;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::FutureExt;
use tidegate_env::Random;
use tidegate_env::sim::{Ended, Fault, Latency, OperationKind, SimHandle, SimRandom, Simulation};

use history::History;

/// Lives of the hub in one run; the last one reads everything.
const LIVES: u64 = 5;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Hash of everything that the disk was asked to do, in order.
    pub trace: u64,
    /// Hash of what clients were told.
    pub history: u64,
    /// Records that were acknowledged.
    pub acknowledged: usize,
    /// Lives that ended by a power cut.
    pub power_cuts: u64,
    /// Lives that ended because the disk refused something.
    pub disk_errors: u64,
}

/// Runs one seed.
///
/// # Errors
/// What does not hold, in words.
pub fn run(seed: u64) -> Result<Report, String> {
    let mut simulation = Simulation::new(seed);
    simulation.patience = Duration::from_secs(600);
    let random = SimRandom::new(seed ^ 0x5eed);
    simulation.disk().set_latency(Latency {
        sync: Duration::from_micros(random.below(4_000)),
        transfer: Duration::from_micros(random.below(300)),
        stall_one_in: if random.below(2) == 0 { 0 } else { 500 },
    });
    let mut history = History::default();
    let (mut power_cuts, mut disk_errors) = (0, 0);
    for number in 0..LIVES {
        // In the beginning nothing is there yet to be damaged; in the end all must be readable.
        let is_last = number + 1 == LIVES;
        let disturbance = if is_last { None } else { Some(Disturbance::draw(&random)) };
        let plan = life::Plan { number, appends: 40 + random.below(200), is_last };
        let ended = simulation.live(|env, handle| {
            handle.disk.clear_faults();
            if let Some(disturbance) = disturbance {
                disturbance.apply(&handle);
            }
            life::live(env, plan, &mut history)
        });
        // A cut that the process notices first, by a call that fails, ends the life all the same; what it then says of the disk means nothing.
        let is_cut = simulation.disk().power_cut().now_or_never().is_some();
        match ended {
            Ended::Output(_) | Ended::PowerCut if is_cut => power_cuts += 1,
            Ended::PowerCut => power_cuts += 1,
            Ended::Stuck => return Err(format!("life {number} stands still: {:?}", simulation.disk().recent())),
            Ended::Output(life::End::Failed(_)) if !is_last => disk_errors += 1,
            Ended::Output(life::End::Failed(why)) => return Err(format!("the last life failed without a fault: {why}")),
            Ended::Output(life::End::Wrong(why)) => return Err(format!("life {number}: {why}")),
            Ended::Output(life::End::Done) => {}
        }
        if let Some(panic) = simulation.panics().first() {
            return Err(format!("life {number}: a task panicked: {panic}"));
        }
        simulation.crash();
    }
    let trace = simulation.disk().trace_hash();
    Ok(Report { trace, history: history.hash(), acknowledged: history.acknowledged(), power_cuts, disk_errors })
}

/// What happens to the disk in a life.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    /// The power is cut after so many operations.
    PowerCut(u64),
    /// After so many writes to or syncs of the log, one fails.
    Error(OperationKind, u64),
    /// Nothing: the hub ends in order.
    None,
}

impl Disturbance {
    fn draw(random: &SimRandom) -> Disturbance {
        match random.below(10) {
            0..=6 => Disturbance::PowerCut(random.below(1_500)),
            7 => Disturbance::Error([OperationKind::Write, OperationKind::Sync][random.below(2) as usize], random.below(60)),
            _ => Disturbance::None,
        }
    }

    fn apply(self, handle: &SimHandle) {
        match self {
            Disturbance::PowerCut(after) => handle.disk.cut_power_after(after),
            Disturbance::Error(on, after) => {
                handle.disk.inject(Fault { on, path_contains: ".wal".to_owned(), after, error: std::io::ErrorKind::Other });
            }
            Disturbance::None => {}
        }
    }
}
