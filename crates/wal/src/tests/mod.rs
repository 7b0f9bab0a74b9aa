//! The log as a whole, on real files and on a disk in memory with faults.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests use real files")]

mod basics;
mod damage;
mod disk;
mod golden;
mod mark;
mod power_cuts;
mod room;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_env::Env;
use tidegate_model::JournalId;
use tokio::sync::oneshot;

use crate::{Failed, Payload, Position, Recovered, Settings, Wal, Write};
use disk::MemoryDisk;

/// A small generator, so that a seed is all that a test depends on.
pub(super) struct Lcg(pub(super) u64);

impl Lcg {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

const J: JournalId = JournalId(1);
const K: JournalId = JournalId(2);

fn at(term: u64, index: u64) -> Position {
    Position { term, leader: 7, index }
}

fn payload(journal: JournalId, index: u64, len: usize) -> Bytes {
    let mut random = Lcg(u64::from(journal.0) << 32 | index);
    (0..len).map(|_| random.next() as u8).collect()
}

fn entry(journal: JournalId, index: u64, len: usize) -> Write {
    Write::Entry { journal, at: at(1, index), payload: Payload::from(payload(journal, index, len)) }
}

/// Small files, an idle mark that comes soon.
fn small(directory: &Path) -> Settings {
    Settings {
        file_bytes: 32 << 10,
        budget_bytes: 1 << 20,
        control_reserve_bytes: 64 << 10,
        group_bytes: 64 << 10,
        idle_mark: Duration::from_millis(1),
        ..Settings::new(directory)
    }
}

fn on(disk: &MemoryDisk) -> Env {
    Env { disk: Arc::new(disk.clone()), ..Env::real() }
}

async fn write(wal: &Wal, writes: Vec<Write>) -> Result<(), Arc<Failed>> {
    let (done, written) = oneshot::channel();
    wal.submit(writes, Some(Box::new(move |result| drop(done.send(result)))));
    let answer = tokio::time::timeout(PATIENCE, written).await.expect("a submission is answered in time");
    answer.expect("every submission is answered")
}

/// How long anything is waited for before a test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
async fn until(mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} for a condition that never held");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until the log has said up to where it is durable.
async fn marked(wal: &Wal) {
    let mut before = wal.status().syncs;
    let mut quiet = 0;
    until(|| {
        let now = wal.status().syncs;
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        quiet > 20
    })
    .await;
}

async fn reopened(settings: &Settings, env: &Env) -> (Wal, Recovered) {
    Wal::open(settings.clone(), env).await.unwrap()
}
