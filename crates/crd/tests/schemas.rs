//! The committed definitions are those that the types give.
#![allow(missing_docs, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests use real files")]

use std::path::Path;

use tidegate_crd::generate;

/// `TIDEGATE_BLESS=1 cargo test -p tidegate-crd --features kubernetes` writes them anew.
#[test]
fn the_committed_definitions_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/tidegate/crds");
    for (file, text) in generate::files() {
        let path = folder.join(file);
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{file} differs from the types: run `TIDEGATE_BLESS=1 cargo test -p tidegate-crd --features kubernetes`"
        );
    }
}

#[test]
fn every_field_of_ours_is_documented() {
    for (file, text) in generate::files() {
        let crd: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut missing = Vec::new();
        undocumented(&schema["properties"]["spec"], "spec", &mut missing);
        undocumented(&schema["properties"]["status"], "status", &mut missing);
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
}

fn undocumented(schema: &serde_json::Value, path: &str, missing: &mut Vec<String>) {
    if schema["description"].as_str().is_none_or(str::is_empty) {
        missing.push(path.to_owned());
    }
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        // Kubernetes' own types speak for themselves.
        if !["affinity", "tolerations", "resources", "topologySpreadConstraints", "conditions", "imagePullSecrets"]
            .contains(&name.as_str())
        {
            undocumented(below, &format!("{path}.{name}"), missing);
        }
    }
    if let Some(items) = schema["items"]["properties"].as_object() {
        for (name, below) in items {
            undocumented(below, &format!("{path}[].{name}"), missing);
        }
    }
}
