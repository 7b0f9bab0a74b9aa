//! One file's bytes: what a reader sees, what the platter has, and which sectors differ because they wait for a sync.
//!
//! Invariant: outside of `dirty` and `lost` sectors the two agree up to the shorter length.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::Random;
use crate::sim::SimRandom;

/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;

/// How many earlier contents of an unsynced sector are remembered, each of which a crash may leave.
const VERSIONS: usize = 3;

type Sector = Vec<u8>;

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// What reads give: the page cache.
    view: Vec<u8>,
    /// What survives a crash for certain.
    durable: Vec<u8>,
    /// Sectors written since the last sync, each with what it held in between.
    dirty: BTreeMap<usize, Vec<Sector>>,
    /// Lengths that the file had since the last sync, the durable one first.
    lengths: Vec<usize>,
}

/// How a crash treats unsynced sectors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Survival {
    /// None is kept.
    Nothing,
    /// All are kept.
    Everything,
    /// Those below a seeded place are kept: the usual torn tail.
    Prefix,
    /// Those above a seeded place are kept: a hole before valid data.
    Suffix,
    /// Each by a toss that keeps `kept` of 100.
    Scattered {
        /// Per cent.
        kept: u64,
    },
}

impl Survival {
    pub(super) fn draw(random: &SimRandom) -> Survival {
        match random.below(8) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            2 | 3 => Survival::Prefix,
            4 => Survival::Suffix,
            5 => Survival::Scattered { kept: 10 },
            6 => Survival::Scattered { kept: 50 },
            _ => Survival::Scattered { kept: 95 },
        }
    }
}

impl Content {
    pub(super) fn len(&self) -> usize {
        self.view.len()
    }

    /// Bytes that are on the disk or will be.
    pub(super) fn occupied(&self) -> u64 {
        self.view.len() as u64
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: usize) -> usize {
        let available = self.view.len().saturating_sub(offset);
        let bytes = buffer.len().min(available);
        if bytes > 0 {
            buffer[..bytes].copy_from_slice(&self.view[offset..offset + bytes]);
        }
        bytes
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        let old_len = self.view.len();
        self.mark(offset.min(old_len)..end);
        if end > old_len {
            self.view.resize(end, 0);
            self.note_length(old_len);
        }
        self.view[offset..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, bytes: usize) {
        let old_len = self.view.len();
        if bytes == old_len {
            return;
        }
        self.mark(bytes.min(old_len)..bytes.max(old_len));
        self.view.resize(bytes, 0);
        self.note_length(old_len);
    }

    fn note_length(&mut self, before: usize) {
        if self.lengths.is_empty() {
            self.lengths.push(before);
        }
        self.lengths.push(self.view.len());
    }

    /// Notes that sectors are about to differ from the platter, and what a sector already dirty holds now.
    fn mark(&mut self, range: Range<usize>) {
        for sector in range.start / SECTOR..range.end.div_ceil(SECTOR) {
            match self.dirty.entry(sector) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Vec::new());
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let versions = entry.get_mut();
                    if versions.len() == VERSIONS {
                        versions.remove(0);
                    }
                    versions.push(slice_of(&self.view, sector).to_vec());
                }
            }
        }
    }

    /// Everything reaches the platter, but for sectors that an earlier failed sync has marked clean.
    pub(super) fn sync(&mut self) {
        self.durable.resize(self.view.len(), 0);
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            put(&mut self.durable, sector, slice_of(&self.view, sector));
        }
        self.lengths.clear();
    }

    /// What Linux does after a failed writeback: the pages stay readable and count as clean, so that the next sync succeeds without them.
    pub(super) fn fail_sync(&mut self) {
        self.dirty.clear();
        self.lengths.clear();
    }

    /// Leaves what a crash leaves.
    pub(super) fn crash(&mut self, survival: Survival, random: &SimRandom) {
        let lengths = std::mem::take(&mut self.lengths);
        if !lengths.is_empty() {
            let pick = match survival {
                Survival::Nothing => 0,
                Survival::Everything => lengths.len() - 1,
                _ => usize::try_from(random.below(lengths.len() as u64)).unwrap_or(0),
            };
            self.durable.resize(lengths[pick], 0);
        }
        let dirty = std::mem::take(&mut self.dirty);
        let kept = self.kept(&dirty, survival, random);
        for (sector, versions) in dirty {
            if !kept.contains(&sector) {
                continue;
            }
            // Mostly the last content; now and then one that was written back earlier.
            match versions.get(usize::try_from(random.below(4)).unwrap_or(0)) {
                Some(earlier) if random.chance(2) => put(&mut self.durable, sector, earlier),
                _ => put(&mut self.durable, sector, slice_of(&self.view, sector)),
            }
        }
        self.view = self.durable.clone();
    }

    fn kept(&self, dirty: &BTreeMap<usize, Vec<Sector>>, survival: Survival, random: &SimRandom) -> BTreeSet<usize> {
        let cut = usize::try_from(random.below(dirty.len() as u64 + 1)).unwrap_or(0);
        let keep = |place: usize| match survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Prefix => place < cut,
            Survival::Suffix => place >= cut,
            Survival::Scattered { kept } => random.below(100) < kept,
        };
        dirty.keys().enumerate().filter(|(place, _)| keep(*place)).map(|(_, sector)| *sector).collect()
    }

    /// One past the last byte that is not zero.
    pub(super) fn written(&self) -> usize {
        self.view.iter().rposition(|byte| *byte != 0).map_or(0, |place| place + 1)
    }

    /// Changes bytes on the platter and in the page cache, as rot does that is only noticed after a restart.
    pub(super) fn rot(&mut self, range: Range<usize>, change: impl Fn(u8) -> u8) {
        for bytes in [&mut self.view, &mut self.durable] {
            let end = range.end.min(bytes.len());
            for byte in bytes.get_mut(range.start.min(end)..end).into_iter().flatten() {
                *byte = change(*byte);
            }
        }
    }
}

fn slice_of(bytes: &[u8], sector: usize) -> &[u8] {
    let start = (sector * SECTOR).min(bytes.len());
    &bytes[start..(start + SECTOR).min(bytes.len())]
}

/// Writes a sector as far as the file reaches.
fn put(bytes: &mut [u8], sector: usize, content: &[u8]) {
    let start = (sector * SECTOR).min(bytes.len());
    let end = (start + content.len()).min(bytes.len());
    bytes[start..end].copy_from_slice(&content[..end - start]);
}
