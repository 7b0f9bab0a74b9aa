//! What processes and the machine use, from /proc: CPU time (user and system), memory, how busy others are.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Ticks of /proc a second; the same on every Linux that Rust knows of.
const TICKS: f64 = 100.0;
/// How long a process may take to end after SIGTERM or SIGKILL.
const PATIENCE: Duration = Duration::from_secs(60);

/// A started program; it is ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    command: Command,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a command whose output goes to the end of a file.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Process> {
        let child = spawn(&mut command, log)?;
        Ok(Process { command, log: log.to_owned(), child })
    }

    /// Starts it again; it has [`ended`](Process::ended).
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.child = spawn(&mut self.command, &self.log)?;
        Ok(())
    }

    /// Its id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended with {status}"),
        }
    }

    /// Waits until it has ended, which was asked for before.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(start.elapsed() < PATIENCE, "it did not end within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let out = std::fs::File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    // In a group of its own: who interrupts the run wants its tables first, with what the brokers still say.
    let child = command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
    child.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Sends a process a signal, such as `KILL`.
pub(crate) fn signal(process: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status()?;
    ensure!(status.success(), "kill: {status}");
    Ok(())
}

/// CPU seconds (user and system) that a process has used with all its threads.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name may hold anything, so fields are counted from its closing parenthesis on.
    let fields: Vec<&str> = text.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |place: usize| -> Result<f64> { Ok(fields.get(place).context("too short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// The same of several processes together.
pub(crate) fn cpu_seconds_of(processes: &[u32]) -> Result<f64> {
    processes.iter().map(|process| cpu_seconds(*process)).sum()
}

/// A line of /proc/PID/status in bytes, such as `VmHWM` (the most memory it ever held) or `VmRSS`.
pub(crate) fn memory_bytes(process: u32, line: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let found = text.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).context("no such line")?;
    let kibibytes: u64 = found.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes << 10)
}

/// CPU seconds that all processors of the machine were busy since it started.
pub(crate) fn machine_busy_seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> =
        text.lines().next().context("empty")?.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal: all but the two in which nothing runs.
    let busy = fields.iter().take(8).enumerate().filter(|(place, _)| !(3..=4).contains(place)).map(|(_, ticks)| ticks);
    Ok(busy.sum::<f64>() / TICKS)
}

/// Processes that ran or wanted to, averaged over the last minute.
pub(crate) fn load_average() -> Result<f64> {
    Ok(std::fs::read_to_string("/proc/loadavg")?.split_whitespace().next().context("empty")?.parse()?)
}

/// What the machine is, for the report.
pub(crate) fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name.trim());
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{} × {}, {} GiB, Linux {}", cores, model.unwrap_or("unknown processor"), memory >> 20, kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_memory() {
        let me = std::process::id();
        let before = cpu_seconds(me).unwrap();
        let start = Instant::now();
        let mut held = Vec::new();
        while cpu_seconds(me).unwrap() < before + 0.03 {
            held.push(vec![1u8; 1024]);
            assert!(start.elapsed() < Duration::from_secs(30));
        }
        assert!(memory_bytes(me, "VmHWM").unwrap() >= memory_bytes(me, "VmRSS").unwrap().min(1 << 20));
        assert!(machine_busy_seconds().unwrap() > 0.0);
        assert!(load_average().unwrap() >= 0.0);
    }
}
