//! Rules for Rust files: a header, bounded file and function lengths, calls that belong elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::Finding;

/// Most lines of production code (tests in the same file do not count) that a file may have.
const FILE_LINES: usize = 600;
/// Most lines a function may have, signature and braces included.
const FUNCTION_LINES: usize = 70;

/// (text, folders it may stand in, what to do instead): what clippy's list of disallowed methods cannot express.
const BANNED: &[(&str, &[&str], &str)] = &[
    ("tonic::transport::Server", &["broker", "crates/client/tests"], "gRPC servers are the broker's"),
    ("lazy_static!", &[], "no globals: pass it in"),
    ("static mut ", &[], "no globals: pass it in"),
    ("todo!(", &[], "finish it"),
    ("unimplemented!(", &[], "finish it"),
    ("#[ignore", &[], "a test that does not run proves nothing"),
];

/// Checks every Rust file.
pub(crate) fn check(root: &Path, files: &[PathBuf]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())?;
        check_file(path, &text, &mut findings)?;
    }
    Ok(findings)
}

fn check_file(path: &Path, text: &str, findings: &mut Vec<Finding>) -> Result<()> {
    let name = path.display().to_string();
    // Attributes of the whole file may stand first.
    let opening = text.lines().find(|line| !line.is_empty() && !line.starts_with("#![")).unwrap_or_default();
    if !opening.starts_with("//!") {
        findings.push(Finding::new(&name, "begin the file with `//!`: what it owns and what it does not know"));
    }
    for (number, line) in text.lines().enumerate() {
        for (banned, homes, instead) in BANNED {
            let at_home = homes.iter().any(|home| path.starts_with(home)) || path.starts_with("xtask");
            if line.contains(banned) && !at_home && !line.trim_start().starts_with("//") {
                findings.push(Finding::new(format!("{name}:{}", number + 1), format!("`{banned}`: {instead}")));
            }
        }
    }
    if is_test_file(path) {
        return Ok(());
    }
    let syntax = syn::parse_file(text).with_context(|| name.clone())?;
    let mut lengths = Lengths { test_lines: 0, functions: Vec::new() };
    lengths.visit_file(&syntax);
    let production = text.lines().count().saturating_sub(lengths.test_lines);
    if production > FILE_LINES {
        findings.push(Finding::new(&name, format!("{production} lines of production code; at most {FILE_LINES}: split it")));
    }
    for (function, line, length) in lengths.functions {
        if length > FUNCTION_LINES {
            let message = format!("fn {function} has {length} lines; at most {FUNCTION_LINES}: pull leaves out");
            findings.push(Finding::new(format!("{name}:{line}"), message));
        }
    }
    Ok(())
}

/// Tests, examples and fuzz targets may be as long as the story they tell.
fn is_test_file(path: &Path) -> bool {
    let in_tests = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples");
    in_tests || path.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
}

/// Walks a file and measures its functions and its test modules.
struct Lengths {
    test_lines: usize,
    functions: Vec<(String, usize, usize)>,
}

impl Lengths {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let last = block.span().end().line;
        self.functions.push((signature.ident.to_string(), first, last + 1 - first));
    }
}

impl<'ast> Visit<'ast> for Lengths {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if is_test_only(&module.attrs) {
            self.test_lines += module.span().end().line + 1 - module.span().start().line;
        } else {
            syn::visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if !is_test_only(&function.attrs) {
            self.measure(&function.sig, &function.block);
            syn::visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        syn::visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        syn::visit::visit_trait_item_fn(self, function);
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Meta>().is_ok_and(|meta| meta.path().is_ident("test"));
        is_cfg_test || attribute.path().is_ident("test")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_of(path: &str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_file(Path::new(path), text, &mut findings).unwrap();
        findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_file_without_a_header_is_reported() {
        assert_eq!(findings_of("crates/model/src/a.rs", "fn a() {}\n").len(), 1);
        assert!(findings_of("crates/model/src/a.rs", "//! A.\nfn a() {}\n").is_empty());
    }

    #[test]
    fn a_long_function_is_reported_but_not_in_tests() {
        let body = "    let _ = 1;\n".repeat(70);
        let long = format!("//! A.\nfn a() {{\n{body}}}\n");
        assert_eq!(findings_of("crates/model/src/a.rs", &long).len(), 1);
        let tested = format!("//! A.\n#[cfg(test)]\nmod tests {{\nfn a() {{\n{body}}}\n}}\n");
        assert!(findings_of("crates/model/src/a.rs", &tested).is_empty());
    }

    #[test]
    fn a_long_file_is_reported_without_counting_its_tests() {
        let items = "const _: () = ();\n".repeat(600);
        assert_eq!(findings_of("crates/model/src/a.rs", &format!("//! A.\n{items}")).len(), 1);
        let tests = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{items}}}\n");
        assert!(findings_of("crates/model/src/a.rs", &tests).is_empty());
    }

    #[test]
    fn a_banned_call_is_reported_outside_of_its_home() {
        let text = "//! A.\nuse tonic::transport::Server;\n";
        assert_eq!(findings_of("crates/tier/src/a.rs", text).len(), 1);
        assert!(findings_of("broker/src/grpc.rs", text).is_empty());
    }
}
