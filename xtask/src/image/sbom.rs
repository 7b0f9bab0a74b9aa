//! The software bill of materials: what `cargo metadata` says went into the binaries, as CycloneDX 1.5 JSON.
//!
//! It lists crates that are linked in or run while building, not tests' crates. C code that crates carry (zstd, ring) is a part of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// The bill for `packages` of this workspace, built for `target`, dated `created` (RFC 3339).
pub(super) fn generate(root: &Path, packages: &[String], target: &str, created: &str) -> Result<Vec<u8>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
        .current_dir(root)
        .output()
        .context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("the answer of cargo metadata")?;
    let bill = bill(&metadata, packages, created)?;
    Ok(serde_json::to_vec_pretty(&bill)?)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn bill(metadata: &Value, packages: &[String], created: &str) -> Result<Value> {
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes").iter().map(|node| (text(node, "id"), node)).collect();
    let described: BTreeMap<&str, &Value> =
        list(metadata, "packages").iter().map(|package| (text(package, "id"), package)).collect();
    let roots: Vec<&str> = described
        .iter()
        .filter(|(_, package)| packages.iter().any(|name| name == text(package, "name")))
        .map(|(id, _)| *id)
        .collect();
    if roots.len() != packages.len() {
        bail!("cargo metadata does not know all of {}", packages.join(", "));
    }
    let mut seen = BTreeMap::new();
    let mut open = roots;
    while let Some(id) = open.pop() {
        if seen.contains_key(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo metadata does not resolve {id}"))?;
        let needed: BTreeSet<&str> = list(node, "deps")
            .iter()
            .filter(|dep| list(dep, "dep_kinds").iter().any(|kind| text(kind, "kind") != "dev"))
            .map(|dep| text(dep, "pkg"))
            .collect();
        open.extend(&needed);
        seen.insert(id, needed);
    }
    let reference = |id: &str| described.get(id).map_or_else(|| id.to_owned(), |package| purl(package));
    let components: Vec<Value> = seen
        .keys()
        .filter_map(|id| described.get(id))
        .map(|package| {
            let mut component = json!({
                "type": "library",
                "bom-ref": purl(package),
                "name": text(package, "name"),
                "version": text(package, "version"),
                "purl": purl(package),
            });
            if let Some(licence) = package["license"].as_str() {
                component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
            }
            component
        })
        .collect();
    let dependencies: Vec<Value> = seen
        .iter()
        .map(|(id, needed)| json!({"ref": reference(id), "dependsOn": needed.iter().map(|id| reference(id)).collect::<Vec<_>>()}))
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": created, "component": {"type": "container", "bom-ref": "image", "name": "tidegate"}},
        "components": components,
        "dependencies": dependencies,
    }))
}

fn purl(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_of_tests_are_not_in_the_bill() {
        let package = |id: &str| json!({"id": id, "name": id, "version": "1.0.0", "license": "MIT/Apache-2.0"});
        let dep = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("ours"), package("linked"), package("builder"), package("tested"), package("below-tested")],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [dep("linked", Value::Null), dep("builder", json!("build")), dep("tested", json!("dev"))]},
                {"id": "linked", "deps": []}, {"id": "builder", "deps": []},
                {"id": "tested", "deps": [dep("below-tested", Value::Null)]}, {"id": "below-tested", "deps": []},
            ]},
        });
        let bill = bill(&metadata, &["ours".to_owned()], "1970-01-01T00:00:00Z").expect("a bill");
        let names: Vec<&str> = list(&bill, "components").iter().map(|component| text(component, "name")).collect();
        assert_eq!(names, ["builder", "linked", "ours"]);
        assert_eq!(bill["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["dependencies"][2]["dependsOn"], json!(["pkg:cargo/builder@1.0.0", "pkg:cargo/linked@1.0.0"]));
    }

    #[test]
    fn an_unknown_package_is_refused() {
        assert!(bill(&json!({"packages": [], "resolve": {"nodes": []}}), &["ours".to_owned()], "").is_err());
    }
}
