//! Rules for documents: what they name exists. Paths, links, and tests (written `file.rs::name_of_test`) in the map and everywhere else.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::Finding;

/// What a file's name ends with when a span between backticks means a file of this repository.
const SOURCES: &[&str] = &[".rs", ".sh", ".py", ".proto"];

/// Checks every Markdown file.
pub(crate) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let tree = Tree { root, files };
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())?;
        findings.extend(check_document(&tree, path, &text));
    }
    Ok(findings)
}

struct Tree<'a> {
    root: &'a Path,
    files: &'a [PathBuf],
}

impl Tree<'_> {
    /// A file or folder of the tree, by its whole path from the root.
    fn holds(&self, path: &str) -> bool {
        let path = Path::new(path);
        self.files.iter().any(|file| file.starts_with(path))
    }

    /// Files whose paths end so, by whole components: `raft/store.rs` is `crates/journal/src/raft/store.rs`.
    fn ending(&self, path: &str) -> impl Iterator<Item = &PathBuf> {
        let end = PathBuf::from(path);
        self.files.iter().filter(move |file| file.ends_with(&end))
    }

    fn holds_test(&self, path: &str, test: &str) -> bool {
        let signature = format!("fn {test}(");
        self.ending(path).any(|file| std::fs::read_to_string(self.root.join(file)).is_ok_and(|text| text.contains(&signature)))
    }
}

fn check_document(tree: &Tree<'_>, path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let place = || format!("{}:{}", path.display(), number + 1);
        if is_code {
            continue;
        }
        for span in line.split('`').skip(1).step_by(2) {
            if let Some(missing) = missing_name(tree, span) {
                findings.push(Finding::new(place(), missing));
            }
        }
        for link in line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let target = path.parent().unwrap_or(Path::new("")).join(link);
            if !link.is_empty() && !link.contains(':') && !tree.root.join(&target).exists() {
                findings.push(Finding::new(place(), format!("the link `{link}` leads nowhere")));
            }
        }
    }
    findings
}

/// What is wrong with a span between backticks, if it means a file, a folder or a test and there is no such thing.
fn missing_name(tree: &Tree<'_>, span: &str) -> Option<String> {
    let is_path = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
    if let Some((file, test)) = span.split_once(".rs::") {
        let file = format!("{file}.rs");
        return (is_path(&file) && !tree.holds_test(&file, test)).then(|| format!("there is no test `{test}` in `{file}`"));
    }
    let path = span.trim_start_matches("../").trim_start_matches("./").trim_end_matches('/');
    if !is_path(path) {
        return None;
    }
    let top = path.split('/').next().unwrap_or_default();
    let from_root = path.contains('/') && tree.root.join(top).is_dir() && tree.holds(top);
    let is_source = SOURCES.iter().any(|end| path.ends_with(end));
    let exists = tree.holds(path) || (is_source && tree.ending(path).next().is_some());
    ((from_root || is_source) && !exists).then(|| format!("there is no `{path}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("crates/a/src")).unwrap();
        std::fs::write(folder.path().join("crates/a/src/b.rs"), "#[test]\nfn it_holds() {}\n").unwrap();
        std::fs::write(folder.path().join("README.md"), text).unwrap();
        let files = [PathBuf::from("README.md"), PathBuf::from("crates/a/src/b.rs")];
        let found = check(folder.path(), &files).unwrap();
        found.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn paths_by_their_whole_or_their_end_exist() {
        assert!(findings("`crates/a`, `crates/a/src/b.rs`, `a/src/b.rs`, `b.rs`, `text/plain`, `./crates/a/`").is_empty());
        assert_eq!(findings("`crates/c`"), ["there is no `crates/c`"]);
        assert_eq!(findings("see `src/c.rs`"), ["there is no `src/c.rs`"]);
        assert!(findings("```\n`crates/c`\n```\n").is_empty(), "what stands in a block of code is not a name");
    }

    #[test]
    fn named_tests_exist() {
        assert!(findings("`src/b.rs::it_holds`").is_empty());
        assert_eq!(findings("`src/b.rs::it_breaks`"), ["there is no test `it_breaks` in `src/b.rs`"]);
    }

    #[test]
    fn links_lead_somewhere() {
        assert!(findings("[a](crates/a) [b](https://example.org/x) [c](README.md#top)").is_empty());
        assert_eq!(findings("[a](docs)"), ["the link `docs` leads nowhere"]);
    }
}
