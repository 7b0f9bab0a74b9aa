//! What every [`Disk`] must do, real or simulated. Panics name what does not hold.

use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::disk::{BLOCK_BYTES, Disk, Entry, OpenMode};

/// Runs all checks within `root`, a folder that exists, is empty, and may be filled.
///
/// # Errors
/// Whatever the disk refuses that it should do.
///
/// # Panics
/// If the disk does not keep the contract.
pub fn run_all(disk: &dyn Disk, root: &Path) -> io::Result<()> {
    modes_of_opening(disk, &root.join("modes"))?;
    reads_and_writes(disk, &root.join("content"))?;
    lengths(disk, &root.join("lengths"))?;
    blocks(disk, &root.join("blocks"))?;
    names(disk, &root.join("names"))?;
    atomic_writes(disk, &root.join("atomic"))?;
    locks(disk, &root.join("locks"))?;
    assert!(disk.free_bytes(root)? > 0, "a disk with room says so");
    Ok(())
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

fn modes_of_opening(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    let path = folder.join("a");
    assert_eq!(kind(disk.open(&path, OpenMode::CreateNew)), Some(io::ErrorKind::NotFound), "no file without its folder");
    disk.create_dir_all(folder)?;
    disk.create_dir_all(folder)?;
    assert_eq!(kind(disk.open(&path, OpenMode::Read)), Some(io::ErrorKind::NotFound));
    assert_eq!(kind(disk.open(&path, OpenMode::ReadWrite)), Some(io::ErrorKind::NotFound));
    disk.open(&path, OpenMode::CreateNew)?.write_vectored_at(&[Bytes::from_static(b"kept")], 0)?;
    assert_eq!(kind(disk.open(&path, OpenMode::CreateNew)), Some(io::ErrorKind::AlreadyExists));
    assert_eq!(disk.open(&path, OpenMode::CreateOrOpen)?.len()?, 4, "an existing file keeps what it has");
    let read_only = disk.open(&path, OpenMode::Read)?;
    assert!(read_only.write_vectored_at(&[Bytes::from_static(b"x")], 0).is_err(), "a file opened for reading is not written");
    Ok(())
}

fn reads_and_writes(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.create_dir_all(folder)?;
    let path = folder.join("a");
    let file = disk.open(&path, OpenMode::CreateNew)?;
    assert!(file.is_empty()?);
    let chunks: Vec<Bytes> = (0..3000u32).map(|number| Bytes::from(number.to_be_bytes()[2..].to_vec())).collect();
    let expected = chunks.concat();
    file.write_vectored_at(&chunks, 1000)?;
    file.write_vectored_at(&[Bytes::new(), Bytes::from_static(b"head"), Bytes::new()], 0)?;
    file.write_vectored_at(&[], 0)?;
    let mut content = vec![0xFF; 1000 + expected.len()];
    file.read_exact_at(&mut content, 0)?;
    assert_eq!(&content[..4], b"head");
    assert!(content[4..1000].iter().all(|byte| *byte == 0), "a hole reads as zeros");
    assert_eq!(&content[1000..], expected, "chunks lie one after the other, more than fit into one call");
    file.sync_data()?;
    file.sync_all()?;
    let end = file.len()?;
    assert_eq!(file.read_at(&mut [0; 8], end)?, 0, "nothing to read at the end");
    assert_eq!(kind(file.read_exact_at(&mut [0; 8], end - 4)), Some(io::ErrorKind::UnexpectedEof));
    assert_eq!(disk.read(&path)?, content, "a second handle sees what the first wrote");
    Ok(())
}

fn lengths(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.create_dir_all(folder)?;
    let file = disk.open(&folder.join("a"), OpenMode::CreateNew)?;
    file.write_vectored_at(&[Bytes::from(vec![7; 5000])], 0)?;
    file.set_len(700)?;
    file.set_len(1400)?;
    let mut content = [9; 1400];
    file.read_exact_at(&mut content, 0)?;
    assert!(content[..700].iter().all(|byte| *byte == 7) && content[700..].iter().all(|byte| *byte == 0));
    let allocated = disk.open(&folder.join("b"), OpenMode::CreateNew)?;
    // Not whole blocks.
    const ALLOCATED: usize = (3 << 20) + 5_001;
    allocated.allocate(ALLOCATED as u64)?;
    assert_eq!(allocated.len()?, ALLOCATED as u64);
    assert!(disk.read(&folder.join("b"))?.iter().all(|byte| *byte == 0), "allocated bytes are zeros");
    allocated.write_vectored_at(&[Bytes::from_static(b"odd")], 7)?;
    assert_eq!(disk.read(&folder.join("b"))?[6..11], *b"\0odd\0", "an allocated file takes any write");
    Ok(())
}

/// A log in small and large pieces, each to the end of a block and the next one from where it ended, read through another handle meanwhile.
fn blocks(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    const BYTES: usize = 6 << 20;
    disk.create_dir_all(folder)?;
    let path = folder.join("a");
    let file = disk.open(&path, OpenMode::CreateNew)?;
    file.allocate(BYTES as u64)?;
    let reader = disk.open(&path, OpenMode::Read)?;
    let mut expected = Vec::new();
    for (number, bytes) in [10, 0, 4086, 1, 9000, 2 << 20, 4096, (1 << 20) + 1, 77].into_iter().enumerate() {
        let piece: Vec<u8> = (0..bytes).map(|at| (at * 31 + number) as u8).collect();
        let begin = expected.len();
        let before = expected[begin - begin % BLOCK_BYTES..].to_vec();
        expected.extend_from_slice(&piece);
        let end = expected.len();
        let mut chunks: Vec<Bytes> = piece.chunks(700_001).map(Bytes::copy_from_slice).collect();
        chunks.push(Bytes::from(vec![0; end.next_multiple_of(BLOCK_BYTES) - end]));
        file.write_blocks_at(&before, &chunks, begin as u64)?;
        if number % 3 == 1 {
            file.end_blocks();
        }
        for file in [&file, &reader] {
            let mut content = vec![9; end + 8192];
            file.read_exact_at(&mut content, 0)?;
            assert!(content[..end] == expected[..], "piece {number} and all before it are read");
            assert!(content[end..].iter().all(|byte| *byte == 0), "nothing behind piece {number}");
        }
    }
    file.sync_data()?;
    // Where the seal of a log lies in the same block, the common way follows.
    file.write_vectored_at(&[Bytes::from_static(b"seal")], expected.len() as u64)?;
    expected.extend_from_slice(b"seal");
    file.sync_data()?;
    assert!(disk.read(&path)?[..expected.len()] == expected[..], "both ways write the same file");
    let refused = reader.write_blocks_at(&[], &[Bytes::from(vec![1; BLOCK_BYTES])], 0);
    assert!(refused.is_err(), "a file opened for reading is not written");
    Ok(())
}

fn names(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.create_dir_all(&folder.join("below/deep"))?;
    for name in ["b", "a"] {
        disk.open(&folder.join(name), OpenMode::CreateNew)?.write_vectored_at(&[Bytes::from(name.to_owned())], 0)?;
    }
    let entry = |name: &str, bytes, is_dir| Entry { name: name.to_owned(), bytes, is_dir };
    assert_eq!(disk.list(folder)?, [entry("a", 1, false), entry("b", 1, false), entry("below", 0, true)]);
    assert_eq!(disk.metadata(&folder.join("below"))?, Some(entry("below", 0, true)));
    assert_eq!(disk.metadata(&folder.join("missing"))?, None);
    disk.rename(&folder.join("a"), &folder.join("b"))?;
    assert_eq!(disk.read(&folder.join("b"))?, b"a", "a rename replaces");
    disk.rename(&folder.join("b"), &folder.join("below/c"))?;
    assert_eq!(kind(disk.rename(&folder.join("b"), &folder.join("d"))), Some(io::ErrorKind::NotFound));
    disk.hard_link(&folder.join("below/c"), &folder.join("e"))?;
    assert_eq!(kind(disk.hard_link(&folder.join("below/c"), &folder.join("e"))), Some(io::ErrorKind::AlreadyExists));
    let open = disk.open(&folder.join("e"), OpenMode::Read)?;
    disk.remove_dir_all(&folder.join("below"))?;
    assert_eq!(disk.metadata(&folder.join("below/c"))?, None);
    assert_eq!(disk.read(&folder.join("e"))?, b"a", "the other name keeps the file");
    disk.remove_file(&folder.join("e"))?;
    assert_eq!(kind(disk.remove_file(&folder.join("e"))), Some(io::ErrorKind::NotFound));
    let mut content = [0];
    open.read_exact_at(&mut content, 0)?;
    assert_eq!(&content, b"a", "an open file outlives its names");
    disk.sync_dir(folder)?;
    assert_eq!(disk.list(folder)?, []);
    assert_eq!(kind(disk.list(&folder.join("missing"))), Some(io::ErrorKind::NotFound));
    Ok(())
}

fn atomic_writes(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.create_dir_all(folder)?;
    let path = folder.join("a");
    // What an interrupted attempt left does no harm.
    disk.open(&folder.join("a.tmp"), OpenMode::CreateNew)?.write_vectored_at(&[Bytes::from_static(b"longer than either")], 0)?;
    for content in [&b"first"[..], b"second", b""] {
        disk.write_atomically(&path, content)?;
        assert_eq!(disk.read(&path)?, content);
    }
    assert_eq!(disk.list(folder)?.len(), 1, "no temporary file is left");
    Ok(())
}

fn locks(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.create_dir_all(folder)?;
    let path = folder.join("lock");
    let held = disk.lock(&path)?;
    assert_eq!(kind(disk.lock(&path)), Some(io::ErrorKind::WouldBlock), "held once");
    drop(held);
    drop(disk.lock(&path)?);
    Ok(())
}
