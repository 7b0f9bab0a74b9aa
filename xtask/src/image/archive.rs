//! An image archive: one layer, one config, one manifest, as an OCI layout and as `docker save` writes it, in one tar.
//!
//! The same bytes come out for the same content: names are sorted by whoever makes the layer, times are `created`, owners are numbers.
//! It does not know what is in the image.

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the image is for, besides its files.
pub(super) struct Description {
    /// `name:tag` that the archive is loaded under.
    pub(super) reference: String,
    /// The processor as OCI names it, `amd64` or `arm64`.
    pub(super) architecture: &'static str,
    /// Seconds since 1970 that every file and the image itself are dated.
    pub(super) created: u64,
    /// User, entry point, labels: the `config` object of the OCI image specification.
    pub(super) config: Value,
}

/// One thing in the layer.
pub(super) enum Item {
    /// A folder with its mode and owner (user and group alike).
    Folder { path: String, mode: u32, owner: u64 },
    /// A file of root with its mode.
    File { path: String, mode: u32, content: Vec<u8> },
}

/// The layer's tar, in the order given.
pub(super) fn layer(items: &[Item], created: u64) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for item in items {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(created);
        match item {
            Item::Folder { path, mode, owner } => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_uid(*owner);
                header.set_gid(*owner);
                header.set_size(0);
                tar.append_data(&mut header, path, std::io::empty()).with_context(|| path.clone())?;
            }
            Item::File { path, mode, content } => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_uid(0);
                header.set_gid(0);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_slice()).with_context(|| path.clone())?;
            }
        }
    }
    tar.into_inner().context("the layer")
}

/// Writes the archive of an image with the one layer.
pub(super) fn write(to: impl Write, layer: &[u8], description: &Description) -> Result<()> {
    let created = rfc3339(description.created)?;
    let layer = Blob::new(layer);
    let config = serde_json::to_vec(&json!({
        "architecture": description.architecture,
        "os": "linux",
        "created": created,
        "config": description.config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [{"created": created, "created_by": "cargo xtask image"}],
    }))?;
    let config = Blob::new(&config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.named("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.named("application/vnd.oci.image.layer.v1.tar")],
    }))?;
    let manifest = Blob::new(&manifest);
    let mut entry = manifest.named("application/vnd.oci.image.manifest.v1+json");
    let tag = description.reference.rsplit_once(':').map_or("", |(_, tag)| tag);
    entry["platform"] = json!({"architecture": description.architecture, "os": "linux"});
    entry["annotations"] = json!({"io.containerd.image.name": description.reference, "org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]});
    let docker = json!([{"Config": config.place(), "RepoTags": [description.reference], "Layers": [layer.place()]}]);

    let mut tar = tar::Builder::new(to);
    let mut put = |path: &str, content: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(description.created);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).with_context(|| path.to_owned())
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put("index.json", &serde_json::to_vec(&index)?)?;
    put("manifest.json", &serde_json::to_vec(&docker)?)?;
    for blob in [manifest, config, layer] {
        put(&blob.place(), blob.content)?;
    }
    tar.into_inner().context("the archive's end")?.flush().context("the archive's end")
}

/// Content that goes by its digest.
struct Blob<'a> {
    content: &'a [u8],
    digest: String,
}

impl<'a> Blob<'a> {
    fn new(content: &'a [u8]) -> Blob<'a> {
        Blob { content, digest: digest(content) }
    }

    fn named(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", self.digest), "size": self.content.len()})
    }

    fn place(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since 1970 as `2026-01-02T03:04:05Z`.
pub(super) fn rfc3339(seconds: u64) -> Result<String> {
    let time = i64::try_from(seconds).ok().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    let time = time.with_context(|| format!("SOURCE_DATE_EPOCH: {seconds} is beyond what dates reach"))?;
    Ok(time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Description {
        Description {
            reference: "example/test:1".to_owned(),
            architecture: "amd64",
            created: 1_700_000_000,
            config: json!({"User": "65532"}),
        }
    }

    fn items() -> Vec<Item> {
        vec![
            Item::Folder { path: "tmp/".to_owned(), mode: 0o1777, owner: 0 },
            Item::File { path: "usr/bin/program".to_owned(), mode: 0o755, content: b"content".to_vec() },
        ]
    }

    #[test]
    fn every_digest_in_the_archive_names_a_blob_of_that_content() {
        let layer = layer(&items(), 1_700_000_000).expect("layer");
        let mut archive = Vec::new();
        write(&mut archive, &layer, &described()).expect("archive");
        let mut files = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().expect("entries") {
            let mut entry = entry.expect("entry");
            let path = entry.path().expect("path").display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("content");
            files.insert(path, content);
        }
        for (path, content) in files.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(path, &Blob::new(content).place());
        }
        let index: Value = serde_json::from_slice(&files["index.json"]).expect("index");
        let at = |value: &Value| files[&format!("blobs/{}", value["digest"].as_str().expect("digest").replace(':', "/"))].clone();
        let manifest: Value = serde_json::from_slice(&at(&index["manifests"][0])).expect("manifest");
        let config: Value = serde_json::from_slice(&at(&manifest["config"])).expect("config");
        assert_eq!(at(&manifest["layers"][0]), layer);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).expect("docker manifest");
        assert_eq!(docker[0]["RepoTags"][0], "example/test:1");
        assert_eq!(files[docker[0]["Layers"][0].as_str().expect("path")], layer);
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        assert_eq!(layer(&items(), 7).expect("layer"), layer(&items(), 7).expect("layer"));
        assert_ne!(layer(&items(), 7).expect("layer"), layer(&items(), 8).expect("layer"));
    }
}
