//! Which files a folder has, and whether they belong together.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_env::{Env, OpenMode};
use uuid::Uuid;

use super::io_error;
use crate::allocator::prepare_file;
use crate::format::{self, BadHeader, FILE_HEADER_BYTES, FileHeader, VERSION};
use crate::mark;
use crate::recovery::scan;
use crate::shared::OpenFile;
use crate::{OpenError, Settings};

const IDENTITY: &str = "identity";
const IDENTITY_TITLE: &str = "tidegate wal 1";

/// What a folder has.
pub(super) struct Files {
    pub(super) log: Uuid,
    /// By generation, without a gap.
    pub(super) files: Vec<Arc<OpenFile>>,
    pub(super) spares: Vec<PathBuf>,
}

/// Finds the log's files, or makes the first one.
pub(super) fn find(settings: &Settings, env: &Env) -> Result<Files, OpenError> {
    let disk = &*env.disk;
    let entries = disk.list(&settings.directory).map_err(io_error("list", &settings.directory))?;
    let mut named: Vec<(u32, PathBuf)> = Vec::new();
    let mut spares = Vec::new();
    for entry in &entries {
        let path = settings.directory.join(&entry.name);
        if let Some(generation) = format::generation_of(&entry.name) {
            named.push((generation, path));
        } else if entry.name.ends_with(".spare") {
            spares.push(path);
        }
    }
    named.sort();
    let path = settings.directory.join(IDENTITY);
    let log = if entries.iter().any(|entry| entry.name == IDENTITY) {
        let content = disk.read(&path).map_err(io_error("read", &path))?;
        read_identity(&path, &content)?
    } else {
        // The mark is made after the identity.
        if entries.iter().any(|entry| entry.name == mark::FILE_NAME) {
            return Err(OpenError::Missing { path, reason: "the folder has a durable mark, so it had an identity".into() });
        }
        refuse_without_identity(env, &named, &path)?;
        for (_, leftover) in named.drain(..) {
            disk.remove_file(&leftover).map_err(io_error("remove", &leftover))?;
        }
        // Making the first file takes a half-made one over, which must then not be handed out as a spare one.
        for leftover in spares.drain(..) {
            disk.remove_file(&leftover).map_err(io_error("remove", &leftover))?;
        }
        let log = env.random.uuid();
        named.push((1, first_file(settings, env, log)?));
        let content = format!("{IDENTITY_TITLE}\n{log}\n");
        disk.write_atomically(&path, content.as_bytes()).map_err(io_error("write", &path))?;
        log
    };
    let mut files: Vec<Arc<OpenFile>> = Vec::with_capacity(named.len());
    for (generation, path) in named {
        if let Some(before) = files.last()
            && before.header.generation + 1 != generation
        {
            let missing = settings.directory.join(format::file_name(before.header.generation + 1));
            return Err(OpenError::Missing { path: missing, reason: "there are files before and after it".into() });
        }
        files.push(Arc::new(open(env, generation, path, log)?));
    }
    if files.is_empty() {
        return Err(OpenError::Missing {
            path: settings.directory.join("*.wal"),
            reason: "the folder has an identity, so it had files".into(),
        });
    }
    Ok(Files { log, files, spares })
}

fn read_identity(path: &std::path::Path, content: &[u8]) -> Result<Uuid, OpenError> {
    let text = std::str::from_utf8(content).unwrap_or_default();
    let mut lines = text.lines();
    let title = lines.next() == Some(IDENTITY_TITLE);
    let log = lines.next().and_then(|line| line.parse().ok());
    log.filter(|_| title).ok_or_else(|| OpenError::Corrupt {
        path: path.to_owned(),
        offset: 0,
        reason: format!("it should hold the line \"{IDENTITY_TITLE}\" and a UUID"),
    })
}

/// Files without an identity are the leftovers of a first start that was cut off: unless they hold frames.
fn refuse_without_identity(env: &Env, named: &[(u32, PathBuf)], identity: &std::path::Path) -> Result<(), OpenError> {
    for (_, path) in named {
        let bytes = env.disk.read(path).map_err(io_error("read", path))?;
        let holds = match FileHeader::decode(&bytes) {
            Ok(header) => !scan::scan(&bytes, &header).is_empty(),
            Err(BadHeader::Version(_)) => true,
            Err(BadHeader::Magic | BadHeader::Checksum) => named.len() > 1,
        };
        if holds {
            let reason = format!("{} holds frames of a log", path.display());
            return Err(OpenError::Missing { path: identity.to_owned(), reason });
        }
    }
    Ok(())
}

fn first_file(settings: &Settings, env: &Env, log: Uuid) -> Result<PathBuf, OpenError> {
    let (salt, file_bytes) = (env.random.next_u64(), settings.file_bytes);
    let header = FileHeader { version: VERSION, log, generation: 1, salt, file_bytes };
    match prepare_file(&*env.disk, &settings.directory, header, None) {
        Ok(open) => Ok(open.path),
        Err((_, path, source)) if source.kind() == std::io::ErrorKind::StorageFull => {
            tracing::warn!(path = %path.display(), error = %source, "no room for the first WAL file");
            Err(OpenError::NoRoom { path, bytes: settings.file_bytes })
        }
        Err((what, path, source)) => Err(OpenError::Io { what, path, source }),
    }
}

fn open(env: &Env, generation: u32, path: PathBuf, log: Uuid) -> Result<OpenFile, OpenError> {
    let file = env.disk.open(&path, OpenMode::ReadWrite).map_err(io_error("open", &path))?;
    let bytes = file.len().map_err(io_error("measure", &path))?;
    let corrupt = |reason: String| OpenError::Corrupt { path: path.clone(), offset: 0, reason };
    if bytes < FILE_HEADER_BYTES {
        return Err(corrupt(format!("it has {bytes} bytes, its header alone has {FILE_HEADER_BYTES}")));
    }
    let mut head = vec![0; FILE_HEADER_BYTES as usize];
    file.read_exact_at(&mut head, 0).map_err(io_error("read", &path))?;
    let header = FileHeader::decode(&head).map_err(|bad| match bad {
        BadHeader::Magic => OpenError::Foreign { path: path.clone(), reason: "it does not begin as a WAL file does".into() },
        BadHeader::Version(found) => OpenError::Newer { path: path.clone(), found, supported: VERSION },
        BadHeader::Checksum => corrupt("its header fails its checksum".into()),
    })?;
    if header.log != log {
        let reason = format!("it is of log {}, this folder's log is {log}", header.log);
        return Err(OpenError::Foreign { path, reason });
    }
    if header.generation != generation {
        let reason = format!("its name says generation {generation}, its header {}", header.generation);
        return Err(OpenError::Foreign { path, reason });
    }
    if header.file_bytes != bytes {
        return Err(corrupt(format!("it has {bytes} bytes, its header says {}", header.file_bytes)));
    }
    Ok(OpenFile { file, path, header })
}

/// All bytes of a file.
pub(super) fn read_all(open: &OpenFile) -> Result<Vec<u8>, OpenError> {
    let mut bytes = vec![0; usize::try_from(open.header.file_bytes).expect("files are at most 1 GiB")];
    open.file.read_exact_at(&mut bytes, 0).map_err(io_error("read", &open.path))?;
    Ok(bytes)
}

/// Gives a file a new salt, so that no frame that is in it counts any more.
pub(super) fn salted_again(open: &OpenFile, env: &Env) -> Result<OpenFile, OpenError> {
    let header = FileHeader { version: VERSION, salt: env.random.next_u64(), ..open.header };
    let encoded: Bytes = header.encode();
    open.file.write_vectored_at(&[encoded], 0).map_err(io_error("rewrite the header of", &open.path))?;
    open.file.sync_all().map_err(io_error("sync", &open.path))?;
    Ok(OpenFile { file: Arc::clone(&open.file), path: open.path.clone(), header })
}
