//! Disks to be hurt: ext4 on a loop device whose power can be cut, small memory file systems. They need root and loop devices.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::ioctl::{Setter, ioctl, opcode};

/// Why such disks cannot be made here, or `None` if they can.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".to_owned());
    }
    for program in ["mount", "umount", "losetup", "mkfs.ext4"] {
        if Command::new(program).arg("--version").output().is_err() && Command::new(program).arg("-V").output().is_err() {
            return Some(format!("the program {program} is missing"));
        }
    }
    let found = Command::new("losetup").arg("--find").output();
    if !found.as_ref().is_ok_and(|output| output.status.success()) {
        return Some("there is no free loop device (losetup --find)".to_owned());
    }
    None
}

fn succeed(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

/// Unmounts, trying again while something is just about to let go of it.
fn unmount(path: &Path) -> Result<()> {
    let begin = Instant::now();
    loop {
        match succeed("umount", &[text(path)?]) {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > Duration::from_secs(10) => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// ext4 in a file, by a loop device.
#[derive(Debug)]
pub struct LoopDisk {
    device: String,
    mount: PathBuf,
    mounted: bool,
}

impl LoopDisk {
    /// Makes a sparse file of so many bytes, a file system in it, and mounts it.
    ///
    /// # Errors
    /// Without root or loop devices.
    pub fn make(image: &Path, bytes: u64, mount: &Path) -> Result<LoopDisk> {
        File::create(image)?.set_len(bytes)?;
        std::fs::create_dir_all(mount)?;
        // Nothing is discarded or initialised lazily: what is written is what the hub writes.
        succeed("mkfs.ext4", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", text(image)?])?;
        let device = succeed("losetup", &["--find", "--show", text(image)?])?;
        let mut disk = LoopDisk { device, mount: mount.to_owned(), mounted: false };
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&mut self) -> Result<()> {
        succeed("mount", &["-t", "ext4", &self.device, text(&self.mount)?])?;
        self.mounted = true;
        Ok(())
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: from now on every write and fsync fails, and nothing that was not fsynced reaches the disk.
    ///
    /// # Errors
    /// If the file system does not know how.
    pub fn cut(&self) -> Result<()> {
        /// `EXT4_GOING_FLAGS_NOLOGFLUSH`: not even the file system's own journal is flushed.
        const NO_LOG_FLUSH: u32 = 2;
        const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
        let root = File::open(&self.mount)?;
        // SAFETY: FS_IOC_SHUTDOWN reads one u32 from the address that it is given, and writes nothing; `Setter` gives the address of one.
        #[allow(unsafe_code, reason = "no library wraps this ioctl")]
        unsafe {
            ioctl(&root, Setter::<FS_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH)).context("FS_IOC_SHUTDOWN")
        }
    }

    /// The power comes back: mounts again what had reached the disk. No process may be left in it.
    ///
    /// # Errors
    /// If something is left, or the file system is beyond its own repair.
    pub fn power_on(&mut self) -> Result<()> {
        unmount(&self.mount)?;
        self.mounted = false;
        self.attach()
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = unmount(&self.mount);
        }
        let _ = succeed("losetup", &["--detach", &self.device]);
    }
}

/// A small file system in memory.
#[derive(Debug)]
pub struct MemoryDisk {
    mount: PathBuf,
}

impl MemoryDisk {
    /// Mounts one of so many bytes.
    ///
    /// # Errors
    /// Without root.
    pub fn make(mount: &Path, bytes: u64) -> Result<MemoryDisk> {
        std::fs::create_dir_all(mount)?;
        succeed("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", text(mount)?])?;
        Ok(MemoryDisk { mount: mount.to_owned() })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.mount);
    }
}
