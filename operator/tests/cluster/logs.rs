//! What operators and brokers log: all of it with `RUST_LOG`, and their newest warnings for a test that waits too long.

use std::collections::VecDeque;
use std::io;

use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

/// Warnings that are remembered, of all tests together.
const REMEMBERED: usize = 4096;

static WARNINGS: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Takes each line in.
struct Memory;

impl io::Write for Memory {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut warnings = WARNINGS.lock();
        if warnings.len() == REMEMBERED {
            warnings.pop_front();
        }
        warnings.push_back(String::from_utf8_lossy(line).into_owned());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to log; may be called again.
pub(crate) fn begin() {
    let shown = fmt::layer().with_test_writer().with_filter(EnvFilter::from_default_env());
    let ours = EnvFilter::new("off,tidegate_operator=warn,tidegate_broker=warn,tidegate_journal=warn,tidegate_wal=warn");
    let remembered = fmt::layer().with_ansi(false).with_writer(|| Memory).with_filter(ours);
    let _ = registry().with(shown).with(remembered).try_init();
}

/// The newest warnings about a namespace, and those of brokers, which do not know theirs.
pub(crate) fn warnings_of(namespace: &str) -> String {
    let warnings = WARNINGS.lock();
    let is_of = |line: &&String| line.contains(namespace) || !line.contains("tidegate_operator");
    let mut newest: Vec<&str> = warnings.iter().filter(is_of).rev().take(30).map(String::as_str).collect();
    newest.reverse();
    newest.concat()
}
