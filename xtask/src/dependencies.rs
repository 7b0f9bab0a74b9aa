//! Which crate may depend on which. The table is the architecture; a new arrow is a decision, not an accident.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Finding;

/// (crate's folder, its package, the packages of ours it may depend on outside of tests).
const ALLOWED: &[(&str, &str, &[&str])] = &[
    ("crates/model", "tidegate-model", &[]),
    ("crates/env", "tidegate-env", &[]),
    ("crates/checker", "tidegate-checker", &["tidegate-model"]),
    ("crates/wal", "tidegate-wal", &["tidegate-model", "tidegate-env"]),
    ("crates/tier", "tidegate-tier", &["tidegate-model", "tidegate-env"]),
    ("crates/journal", "tidegate-journal", &["tidegate-model", "tidegate-env", "tidegate-wal"]),
    ("proto", "tidegate-proto", &["tidegate-model"]),
    ("crates/client", "tidegate-client", &["tidegate-model", "tidegate-proto"]),
    ("crates/workload", "tidegate-workload", &["tidegate-model", "tidegate-client", "tidegate-checker"]),
    ("crates/crd", "tidegate-crd", &["tidegate-model"]),
    ("crates/ports", "tidegate-ports", &[]),
    (
        "broker",
        "tidegate-broker",
        &["tidegate-model", "tidegate-env", "tidegate-wal", "tidegate-journal", "tidegate-tier", "tidegate-proto"],
    ),
    (
        "cli",
        "tidegate",
        &[
            "tidegate-model",
            "tidegate-env",
            "tidegate-wal",
            "tidegate-journal",
            "tidegate-tier",
            "tidegate-proto",
            "tidegate-client",
            "tidegate-crd",
            "tidegate-broker",
            "tidegate-checker",
            "tidegate-workload",
        ],
    ),
    (
        "sim",
        "tidegate-sim",
        &[
            "tidegate-model",
            "tidegate-env",
            "tidegate-wal",
            "tidegate-journal",
            "tidegate-tier",
            "tidegate-broker",
            "tidegate-proto",
            "tidegate-checker",
        ],
    ),
    (
        "campaigns",
        "tidegate-campaigns",
        &["tidegate-model", "tidegate-client", "tidegate-checker", "tidegate-workload", "tidegate-ports"],
    ),
    ("bench", "tidegate-bench", &["tidegate-model", "tidegate-proto", "tidegate-client", "tidegate-ports"]),
    ("operator", "tidegate-operator", &["tidegate-model", "tidegate-crd", "tidegate-proto"]),
    (
        "crates/decoders",
        "tidegate-decoders",
        &[
            "tidegate-model",
            "tidegate-wal",
            "tidegate-journal",
            "tidegate-tier",
            "tidegate-proto",
            "tidegate-crd",
            // Its settings file.
            "tidegate-broker",
        ],
    ),
    ("xtask", "xtask", &[]),
];

/// Libraries that are at home in few crates, so that they can be replaced there: (library's prefix, homes).
const HOMES: &[(&str, &[&str])] = &[
    ("kube", &["crates/crd", "operator"]),
    ("k8s-openapi", &["crates/crd", "operator"]),
    ("aws-", &["crates/tier"]),
    ("openraft", &["crates/journal"]),
    ("datafusion", &["worker"]),
    ("axum", &["broker", "operator"]),
    ("tonic-health", &["broker"]),
    ("tonic-reflection", &["broker"]),
    ("rustix", &["crates/env", "campaigns"]),
    ("libc", &["crates/env"]),
];

/// Compares every manifest with the tables above.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for member in members(root)? {
        let place = format!("{member}/Cargo.toml");
        let manifest = read_manifest(&root.join(&place))?;
        let names = dependency_names(&manifest);
        let Some((_, _, allowed)) = ALLOWED.iter().find(|(folder, ..)| *folder == member) else {
            findings.push(Finding::new(&place, "a crate that the dependency table in xtask does not know: add it there"));
            continue;
        };
        for name in &names {
            if name.starts_with("tidegate") && !allowed.contains(&name.as_str()) {
                findings.push(Finding::new(&place, format!("may not depend on {name} (dependencies point one way)")));
            }
            for (prefix, homes) in HOMES {
                if name.starts_with(prefix) && !homes.contains(&member.as_str()) {
                    findings.push(Finding::new(&place, format!("{name} is at home in {} only", homes.join(", "))));
                }
            }
        }
    }
    Ok(findings)
}

fn members(root: &Path) -> Result<Vec<String>> {
    let manifest = read_manifest(&root.join("Cargo.toml"))?;
    let members = manifest.get("workspace").and_then(|workspace| workspace.get("members")).and_then(toml::Value::as_array);
    let members = members.context("Cargo.toml has no workspace.members")?;
    Ok(members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}

fn read_manifest(path: &Path) -> Result<toml::Table> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.parse().with_context(|| path.display().to_string())
}

fn dependency_names(manifest: &toml::Table) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Some(table) = manifest.get("dependencies").and_then(toml::Value::as_table) {
        names.extend(table.keys().cloned());
    }
    names
}
