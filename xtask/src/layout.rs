//! Rules for the tree: what may stand at the top, and that every crate is described on the map.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Finding;

/// What may stand in the root folder.
const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "broker",
    "campaigns",
    "charts",
    "cli",
    "clippy.toml",
    "console",
    "crates",
    "deny.toml",
    "deploy",
    "docs",
    "fuzz",
    "operator",
    "proto",
    "rustfmt.toml",
    "sim",
    "tests",
    "worker",
    "xtask",
];

/// Documents that promise to exist, and the largest file that may be committed (test data included).
const REQUIRED: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"];
const FILE_BYTES: u64 = 1 << 20;

/// Checks the tree's top level, required documents, the map and file sizes.
pub(crate) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let top: BTreeSet<_> = files.iter().filter_map(|path| path.iter().next()).collect();
    for name in top {
        if !TOP_LEVEL.contains(&name.to_string_lossy().as_ref()) {
            findings.push(Finding::new(name.to_string_lossy(), "not a part of the layout (see ARCHITECTURE.md)"));
        }
    }
    for name in REQUIRED {
        if !root.join(name).is_file() {
            findings.push(Finding::new(*name, "is missing"));
        }
    }
    let map = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    for path in files.iter().filter(|path| path.file_name().is_some_and(|name| name == "Cargo.toml")) {
        let folder = path.parent().context("a manifest lies in a folder")?.display().to_string();
        if !folder.is_empty() && !map.contains(&format!("`{folder}")) {
            findings.push(Finding::new(path.display().to_string(), format!("ARCHITECTURE.md does not mention `{folder}`")));
        }
    }
    for path in files {
        let bytes = root.join(path).metadata().with_context(|| path.display().to_string())?.len();
        if bytes > FILE_BYTES {
            findings.push(Finding::new(path.display().to_string(), format!("{bytes} bytes; at most {FILE_BYTES}")));
        }
    }
    Ok(findings)
}
