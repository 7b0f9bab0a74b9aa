//! Spans in memory and on disk, each within a budget in bytes; what was used longest ago goes first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_env::{Env, OpenMode};

use super::SpanId;

/// Values by key, with their size and when each was used last.
pub(super) struct Recency<K, V> {
    budget: u64,
    used: u64,
    clock: u64,
    entries: BTreeMap<K, (u64, u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Ord, V: Clone> Recency<K, V> {
    pub(super) fn new(budget: u64) -> Recency<K, V> {
        Recency { budget, used: 0, clock: 0, entries: BTreeMap::new(), order: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<V> {
        self.clock += 1;
        let (used_at, _, value) = self.entries.get_mut(key)?;
        self.order.remove(used_at);
        *used_at = self.clock;
        self.order.insert(self.clock, key.clone());
        Some(value.clone())
    }

    /// Adds an entry; gives those that had to go, one that it replaces among them. The newest always stays.
    pub(super) fn put(&mut self, key: K, size: u64, value: V) -> Vec<V> {
        self.clock += 1;
        let mut gone = Vec::new();
        if let Some((used_at, before, replaced)) = self.entries.insert(key.clone(), (self.clock, size, value)) {
            self.order.remove(&used_at);
            self.used -= before;
            gone.push(replaced);
        }
        self.used += size;
        self.order.insert(self.clock, key);
        while self.used > self.budget && self.entries.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((_, size, value)) = self.entries.remove(&oldest) {
                self.used -= size;
                gone.push(value);
            }
        }
        gone
    }
}

/// Spans in memory.
pub(super) struct MemoryCache(Recency<SpanId, Bytes>);

impl MemoryCache {
    pub(super) fn new(budget: u64) -> MemoryCache {
        MemoryCache(Recency::new(budget))
    }

    pub(super) fn get(&mut self, id: &SpanId) -> Option<Bytes> {
        self.0.get(id)
    }

    pub(super) fn holds(&self, id: &SpanId) -> bool {
        self.0.entries.contains_key(id)
    }

    pub(super) fn put(&mut self, id: SpanId, span: Bytes) {
        let bytes = span.len() as u64;
        self.0.put(id, bytes, span);
    }
}

/// Spans on disk, one file each. Errors of the disk only cost the cache's help.
pub(super) struct DiskCache {
    folder: PathBuf,
    entries: Mutex<Recency<SpanId, u64>>,
    next: Mutex<u64>,
}

impl DiskCache {
    /// Begins empty: what an earlier process left is removed.
    pub(super) fn open(env: &Env, folder: PathBuf, budget: u64) -> io::Result<DiskCache> {
        if env.disk.metadata(&folder)?.is_some() {
            env.disk.remove_dir_all(&folder)?;
        }
        env.disk.create_dir_all(&folder)?;
        Ok(DiskCache { folder, entries: Mutex::new(Recency::new(budget)), next: Mutex::new(0) })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:016x}"))
    }

    pub(super) async fn get(&self, env: &Env, id: &SpanId) -> Option<Bytes> {
        let path = self.path(self.entries.lock().get(id)?);
        let disk = env.disk.clone();
        env.run_blocking(move || disk.read(&path)).await.ok().map(Bytes::from)
    }

    pub(super) async fn put(&self, env: &Env, id: &SpanId, span: Bytes) {
        let number = {
            let mut next = self.next.lock();
            *next += 1;
            *next
        };
        let (path, bytes, disk) = (self.path(number), span.len() as u64, env.disk.clone());
        let written = env
            .run_blocking(move || {
                let file = disk.open(&path, OpenMode::CreateNew)?;
                file.write_vectored_at(&[span], 0)
            })
            .await;
        if let Err(error) = written {
            tracing::debug!(%error, "a span was not kept in the disk cache");
            self.remove(env, &[number]).await;
            return;
        }
        let gone = self.entries.lock().put(id.clone(), bytes, number);
        self.remove(env, &gone).await;
    }

    async fn remove(&self, env: &Env, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        let (paths, disk) = (numbers.iter().map(|number| self.path(*number)).collect::<Vec<_>>(), env.disk.clone());
        env.run_blocking(move || paths.iter().for_each(|path| drop(disk.remove_file(Path::new(path))))).await;
    }
}
