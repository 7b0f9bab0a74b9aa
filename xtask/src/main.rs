//! `cargo xtask tidy`: checks of the repository that the compiler and clippy do not make. `cargo xtask image`: the container image.

mod dependencies;
mod documents;
mod image;
mod layout;
mod sources;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// One thing that is against the rules, and where.
pub(crate) struct Finding {
    /// `path` or `path:line`.
    place: String,
    /// What is wrong and what to do.
    message: String,
}

impl Finding {
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Finding {
        Finding { place: place.into(), message: message.into() }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(found) => {
            eprintln!("tidy: {found} findings");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<usize> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next();
    let root = repository_root()?;
    match command.as_deref() {
        Some("tidy") => tidy(&root),
        Some("image") => image::run(&root, arguments).map(|()| 0),
        _ => bail!("usage: cargo xtask tidy | image"),
    }
}

fn tidy(root: &Path) -> Result<usize> {
    let files = tracked_files(root)?;
    let mut findings = dependencies::check(root)?;
    findings.extend(sources::check(root, &files)?);
    findings.extend(layout::check(root, &files)?);
    findings.extend(documents::check(root, &files)?);
    for finding in &findings {
        println!("{}: {}", finding.place, finding.message);
    }
    if findings.is_empty() {
        println!("tidy: {} files, nothing to report", files.len());
    }
    Ok(findings.len())
}

fn repository_root() -> Result<PathBuf> {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").context("run it as `cargo xtask tidy`")?;
    Ok(Path::new(&manifest).parent().context("xtask lies in the repository's root")?.to_path_buf())
}

/// The files git tracks, and those it would add, relative to `root`.
fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let listed = String::from_utf8(output.stdout).context("a path that is not UTF-8")?;
    Ok(listed.lines().map(PathBuf::from).filter(|path| root.join(path).is_file()).collect())
}
