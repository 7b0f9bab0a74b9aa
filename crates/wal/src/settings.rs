//! What can be set, and its limits.

use std::path::PathBuf;
use std::time::Duration;

use crate::format::{self, FILE_HEADER_BYTES};

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("wal setting {field}: {message}")]
pub struct SettingError {
    /// The setting's name.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// How a log is kept. Plain data; checked by [`Settings::validate`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder; made if missing. One process at a time.
    pub directory: PathBuf,
    /// Bytes of each file, a multiple of 4,096; may differ from those of existing files. Default 64 MiB.
    pub file_bytes: u64,
    /// Bytes that the log may take before appends are refused. Default 4 GiB.
    pub budget_bytes: u64,
    /// Per cent of the budget from which on the log says that it is short of room. Default 75.
    pub soft_percent: u8,
    /// Bytes of the budget that only control entries may use, so that space can always be freed. Default 16 MiB.
    pub control_reserve_bytes: u64,
    /// Bytes of pending writes that one commit takes at most. Default 16 MiB.
    pub group_bytes: usize,
    /// Idle time after which a mark is written that says up to where everything is durable. Default 10 ms.
    pub idle_mark: Duration,
}

impl Settings {
    /// The defaults, for a folder.
    pub fn new(directory: impl Into<PathBuf>) -> Settings {
        Settings {
            directory: directory.into(),
            file_bytes: 64 << 20,
            budget_bytes: 4 << 30,
            soft_percent: 75,
            control_reserve_bytes: 16 << 20,
            group_bytes: 16 << 20,
            idle_mark: Duration::from_millis(10),
        }
    }

    /// The longest payload that fits into a file: half a file, less its headers.
    pub fn max_payload_bytes(&self) -> usize {
        let half = self.file_bytes / 2 - FILE_HEADER_BYTES - format::FRAME_HEADER_BYTES as u64;
        usize::try_from(half).unwrap_or(usize::MAX).min(u32::MAX as usize / 2)
    }

    pub(crate) fn soft_bytes(&self) -> u64 {
        self.budget_bytes / 100 * u64::from(self.soft_percent)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub fn validate(&self) -> Result<(), SettingError> {
        let wrong = |field, message: String| Err(SettingError { field, message });
        if !self.file_bytes.is_multiple_of(4096) || !(32 << 10..=1 << 30).contains(&self.file_bytes) {
            return wrong("file_bytes", format!("is {}; must be a multiple of 4096 from 32768 to 1 GiB", self.file_bytes));
        }
        if self.budget_bytes < 4 * self.file_bytes {
            let least = 4 * self.file_bytes;
            return wrong("budget_bytes", format!("is {}; must be at least four files, {least}", self.budget_bytes));
        }
        if !(1..=100).contains(&self.soft_percent) {
            return wrong("soft_percent", format!("is {}; must be from 1 to 100", self.soft_percent));
        }
        if self.control_reserve_bytes > self.budget_bytes / 2 {
            let most = self.budget_bytes / 2;
            return wrong("control_reserve_bytes", format!("is {}; at most half the budget, {most}", self.control_reserve_bytes));
        }
        if !(4096..=1 << 30).contains(&self.group_bytes) {
            return wrong("group_bytes", format!("is {}; must be from 4096 to 1 GiB", self.group_bytes));
        }
        if self.idle_mark.is_zero() || self.idle_mark > Duration::from_secs(10) {
            return wrong("idle_mark", format!("is {:?}; must be from 1 ns to 10 s", self.idle_mark));
        }
        Ok(())
    }
}
