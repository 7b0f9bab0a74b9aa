//! Folders and names: the tree that a process sees, and for each folder the names that a crash would leave.
//!
//! Names reach the platter in the order in which they were changed within one folder, at the latest by `sync_dir`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use super::content::{Content, Survival};
use crate::Random;
use crate::disk::Entry;
use crate::sim::SimRandom;

pub(super) type NodeId = u64;

/// The folder above all others; it always exists.
const ROOT: NodeId = 0;

#[derive(Clone, Debug)]
enum Change {
    Set {
        name: String,
        node: NodeId,
    },
    Remove {
        name: String,
    },
    /// Within one folder, atomic.
    Rename {
        from: String,
        to: String,
        node: NodeId,
    },
}

#[derive(Clone, Debug, Default)]
struct Folder {
    live: BTreeMap<String, NodeId>,
    durable: BTreeMap<String, NodeId>,
    pending: Vec<Change>,
}

impl Folder {
    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change);
        self.pending.push(change);
    }

    fn settle(&mut self, changes: usize) {
        for change in self.pending.drain(..changes) {
            apply(&mut self.durable, &change);
        }
    }
}

fn apply(names: &mut BTreeMap<String, NodeId>, change: &Change) {
    match change {
        Change::Set { name, node } => {
            names.insert(name.clone(), *node);
        }
        Change::Remove { name } => {
            names.remove(name);
        }
        Change::Rename { from, to, node } => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

/// All files and folders.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    folders: BTreeMap<NodeId, Folder>,
    files: BTreeMap<NodeId, Content>,
    next: NodeId,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// The parts of a path; a relative one begins at the root.
fn parts(path: &Path) -> io::Result<Vec<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_string_lossy().into_owned()),
            Component::ParentDir | Component::Prefix(_) => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(parts)
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree { folders: BTreeMap::from([(ROOT, Folder::default())]), files: BTreeMap::new(), next: ROOT + 1 }
    }

    fn fresh(&mut self) -> NodeId {
        self.next += 1;
        self.next - 1
    }

    fn folder(&mut self, node: NodeId) -> io::Result<&mut Folder> {
        self.folders.get_mut(&node).ok_or_else(|| io::ErrorKind::NotADirectory.into())
    }

    pub(super) fn file(&mut self, node: NodeId) -> io::Result<&mut Content> {
        self.files.get_mut(&node).ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }

    /// The node of a path, `None` if nothing is there.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<NodeId>> {
        let mut node = ROOT;
        for part in parts(path)? {
            let Some(folder) = self.folders.get(&node) else { return Err(io::ErrorKind::NotADirectory.into()) };
            match folder.live.get(&part) {
                Some(below) => node = *below,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// The folder that a path's last part is in, and that part.
    fn parent(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let name = parts(path)?.pop().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let above = path.parent().unwrap_or(Path::new(""));
        let node = self.find(above)?.ok_or_else(not_found)?;
        if self.folders.contains_key(&node) { Ok((node, name)) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        let (parent, name) = self.parent(path)?;
        let node = self.fresh();
        self.files.insert(node, Content::default());
        self.folder(parent)?.change(Change::Set { name, node });
        Ok(node)
    }

    pub(super) fn create_folders(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in parts(path)? {
            let below = self.folder(at)?.live.get(&name).copied();
            at = match below {
                Some(node) if self.folders.contains_key(&node) => node,
                Some(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                None => {
                    let node = self.fresh();
                    self.folders.insert(node, Folder::default());
                    self.folder(at)?.change(Change::Set { name, node });
                    node
                }
            };
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_folder, from_name) = self.parent(from)?;
        let node = *self.folder(from_folder)?.live.get(&from_name).ok_or_else(not_found)?;
        let (to_folder, to_name) = self.parent(to)?;
        if let Some(there) = self.folder(to_folder)?.live.get(&to_name).copied() {
            if there == node {
                return Ok(());
            }
            if self.folders.contains_key(&there) || self.folders.contains_key(&node) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
        if from_folder == to_folder {
            self.folder(from_folder)?.change(Change::Rename { from: from_name, to: to_name, node });
        } else {
            // A file system's journal never loses a file that moves: the new name is there for certain before the old one may go.
            let target = self.folder(to_folder)?;
            target.change(Change::Set { name: to_name, node });
            target.settle(target.pending.len());
            self.folder(from_folder)?.change(Change::Remove { name: from_name });
        }
        Ok(())
    }

    pub(super) fn hard_link(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from)?.ok_or_else(not_found)?;
        if !self.files.contains_key(&node) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let (folder, name) = self.parent(to)?;
        if self.folder(folder)?.live.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.folder(folder)?.change(Change::Set { name, node });
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        let node = *self.folder(folder)?.live.get(&name).ok_or_else(not_found)?;
        if self.folders.contains_key(&node) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.folder(folder)?.change(Change::Remove { name });
        Ok(())
    }

    pub(super) fn remove_folder(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?.ok_or_else(not_found)?;
        // Its names go one by one, so that a crash may leave some of them.
        let names: Vec<(String, NodeId)> = self.folder(node)?.live.iter().map(|(name, node)| (name.clone(), *node)).collect();
        for (name, below) in names {
            if self.folders.contains_key(&below) {
                self.remove_folder(&path.join(&name))?;
            } else {
                self.folder(node)?.change(Change::Remove { name });
            }
        }
        if node != ROOT {
            let (parent, name) = self.parent(path)?;
            self.folder(parent)?.change(Change::Remove { name });
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let node = self.find(path)?.ok_or_else(not_found)?;
        let folder = self.folders.get(&node).ok_or_else(|| io::Error::from(io::ErrorKind::NotADirectory))?;
        Ok(folder.live.iter().map(|(name, node)| self.entry(name.clone(), *node)).collect())
    }

    pub(super) fn entry(&self, name: String, node: NodeId) -> Entry {
        let file = self.files.get(&node);
        Entry { name, bytes: file.map_or(0, |content| content.len() as u64), is_dir: file.is_none() }
    }

    pub(super) fn sync_folder(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?.ok_or_else(not_found)?;
        let folder = self.folder(node)?;
        folder.settle(folder.pending.len());
        Ok(())
    }

    /// Bytes of all files that have a name.
    pub(super) fn occupied(&self) -> u64 {
        let mut named: Vec<NodeId> = self.folders.values().flat_map(|folder| folder.live.values().copied()).collect();
        named.sort_unstable();
        named.dedup();
        named.iter().filter_map(|node| self.files.get(node)).map(Content::occupied).sum()
    }

    /// Leaves what a crash leaves: of each folder's unsynced changes the first few, of each file's unsynced sectors some.
    pub(super) fn crash(&mut self, random: &SimRandom) {
        for folder in self.folders.values_mut() {
            let pending = folder.pending.len() as u64;
            let kept = match random.below(3) {
                0 => 0,
                1 => pending,
                _ => random.below(pending + 1),
            };
            folder.settle(usize::try_from(kept).unwrap_or(0));
            folder.pending.clear();
            folder.live = folder.durable.clone();
        }
        self.drop_unreachable();
        let survival = Survival::draw(random);
        for content in self.files.values_mut() {
            content.crash(if random.chance(4) { Survival::draw(random) } else { survival }, random);
        }
    }

    fn drop_unreachable(&mut self) {
        let mut reached = vec![ROOT];
        let mut next = 0;
        while next < reached.len() {
            if let Some(folder) = self.folders.get(&reached[next]) {
                reached.extend(folder.live.values());
            }
            next += 1;
        }
        reached.sort_unstable();
        self.folders.retain(|node, _| reached.binary_search(node).is_ok());
        self.files.retain(|node, _| reached.binary_search(node).is_ok());
    }
}
