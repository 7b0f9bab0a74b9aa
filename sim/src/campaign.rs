//! Many seeds: on several threads, with their progress in a file, so that a campaign that was stopped goes on where it was.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two lines of progress.
const TELL: Duration = Duration::from_secs(10);
/// A seed of several brokers is one deep future in an unoptimised build.
const STACK_BYTES: usize = 16 << 20;

/// What one seed came to, added up.
pub(crate) trait Sum: Default + Send + std::fmt::Display {
    /// Adds another run's.
    fn add(&mut self, other: &Self);
}

/// Which seeds are run, and how.
pub(crate) struct Campaign {
    /// Of what: `brokers`.
    pub(crate) kind: &'static str,
    /// The first seed.
    pub(crate) start: u64,
    /// How many.
    pub(crate) seeds: u64,
    /// No seed begins after so long.
    pub(crate) within: Option<Duration>,
    /// Whether a seed that fails does not end it.
    pub(crate) keeps_going: bool,
    /// Seeds at a time, each on its own thread.
    pub(crate) jobs: usize,
    /// One line for each seed that was run: its number, a space, `holds` or `fails`. Seeds that hold there are not run again.
    pub(crate) progress: Option<PathBuf>,
}

struct State<S> {
    next: u64,
    ran: u64,
    failed: BTreeSet<u64>,
    sum: S,
    told: Instant,
    file: Option<File>,
    trouble: Option<String>,
}

impl Campaign {
    /// Runs the seeds; `run` gives what one came to, or tells why it does not hold and gives that. True if all that ran hold.
    ///
    /// # Errors
    /// The progress file cannot be read or written, or has a line that is none of its own.
    pub(crate) fn run<S: Sum>(&self, run: impl Fn(u64) -> Result<S, String> + Sync) -> Result<bool, String> {
        let begun = Instant::now();
        let (held, file) = self.resume()?;
        if !held.is_empty() {
            eprintln!("{} seeds held before", held.len());
        }
        let state = Mutex::new(State {
            next: self.start,
            ran: 0,
            failed: BTreeSet::new(),
            sum: S::default(),
            told: begun,
            file,
            trouble: None,
        });
        std::thread::scope(|scope| {
            let work = || {
                loop {
                    // In a `while let` the lock would be held while the seed runs.
                    let next = self.next(&mut state.lock(), &held, begun);
                    let Some(seed) = next else { return };
                    let outcome = run(seed);
                    self.note(&mut state.lock(), seed, outcome, begun, held.len());
                }
            };
            for _ in 0..self.jobs.max(1) {
                if let Err(error) = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work) {
                    state.lock().trouble = Some(format!("a thread cannot be started: {error}"));
                }
            }
        });
        let state = state.into_inner();
        if let Some(trouble) = state.trouble {
            return Err(trouble);
        }
        let (holding, failed) = (state.ran - state.failed.len() as u64, state.failed.len());
        let (kind, seconds, sum) = (self.kind, begun.elapsed().as_secs(), &state.sum);
        let before = if held.is_empty() { String::new() } else { format!(" (and {} that held before)", held.len()) };
        println!("{holding} seeds of {kind} hold{before}, {failed} do not, in {seconds} s: {sum}");
        if failed > 0 {
            println!("seeds that do not hold: {:?}", state.failed);
        }
        Ok(failed == 0)
    }

    /// Seeds of this campaign that hold already, and the file to go on with.
    fn resume(&self) -> Result<(BTreeSet<u64>, Option<File>), String> {
        let Some(path) = &self.progress else { return Ok((BTreeSet::new(), None)) };
        let name = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{name}: {error}")),
        };
        let mut held = BTreeSet::new();
        for (number, line) in text.lines().enumerate() {
            match line.split_once(' ').map(|(seed, word)| (seed.parse::<u64>(), word)) {
                Some((Ok(seed), "holds")) => _ = held.insert(seed),
                Some((Ok(_), "fails")) => {}
                _ => return Err(format!("{name}, line {}: not `SEED holds` or `SEED fails`, but `{line}`", number + 1)),
            }
        }
        held.retain(|seed| (self.start..self.start.saturating_add(self.seeds)).contains(seed));
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(|error| format!("{name}: {error}"))?;
        Ok((held, Some(file)))
    }

    fn next<S>(&self, state: &mut State<S>, held: &BTreeSet<u64>, begun: Instant) -> Option<u64> {
        let is_over = self.within.is_some_and(|within| begun.elapsed() >= within);
        if is_over || state.trouble.is_some() || (!state.failed.is_empty() && !self.keeps_going) {
            return None;
        }
        while held.contains(&state.next) {
            state.next += 1;
        }
        let seed = state.next;
        state.next += 1;
        (seed < self.start.saturating_add(self.seeds)).then_some(seed)
    }

    fn note<S: Sum>(&self, state: &mut State<S>, seed: u64, outcome: Result<S, String>, begun: Instant, before: usize) {
        state.ran += 1;
        let word = match outcome {
            Ok(report) => {
                state.sum.add(&report);
                "holds"
            }
            Err(what) => {
                println!("seed {seed}: {what}");
                state.failed.insert(seed);
                "fails"
            }
        };
        let written = state.file.as_mut().map_or(Ok(()), |file| file.write_all(format!("{seed} {word}\n").as_bytes()));
        if let Err(error) = written {
            state.trouble = Some(format!("the progress of seed {seed} cannot be written: {error}"));
        }
        if state.told.elapsed() > TELL {
            state.told = Instant::now();
            let done = before as u64 + state.ran;
            let each = begun.elapsed().as_secs_f64() / state.ran as f64;
            let (kind, failed, sum) = (self.kind, state.failed.len(), &state.sum);
            eprintln!("{done} of {} seeds of {kind}, {failed} do not hold, one each {each:.2} s; {sum}", self.seeds);
        }
    }
}
