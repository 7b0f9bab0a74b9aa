//! Reading files of manifests: YAML (several documents in a file) or JSON, each error naming document, object and field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::API_VERSION;
use crate::fields::{Shape, unknown_key};
use crate::topic::{self, TopicManifest};

/// Kubernetes' metadata, as far as a manifest gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// The object's name: a DNS subdomain of at most 253 characters.
    pub name: String,
    /// Its namespace; absent means the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One object of a manifest file.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// A `Topic`.
    Topic(TopicManifest),
}

/// Why a manifest file was refused. Nothing of the file is used then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML or JSON.
    #[error("document {document} is not valid YAML: {reason}")]
    Syntax {
        /// Number of the document in the file, from 1.
        document: usize,
        /// What the parser says.
        reason: String,
    },
    /// A field is missing, unknown or has a value that is not accepted.
    #[error("document {document}{}: {field}: {message}", object.as_ref().map(|name| format!(" ({name})")).unwrap_or_default())]
    Field {
        /// Number of the document in the file, from 1.
        document: usize,
        /// `Kind/name`, as far as known.
        object: Option<String>,
        /// Path of the field, such as `spec.partitions`.
        field: String,
        /// What is wrong and what is accepted.
        message: String,
    },
}

/// Reads all documents of a file, in order; empty documents are passed over.
pub fn parse_manifests(text: &str) -> Result<Vec<Manifest>, ManifestError> {
    let mut manifests = Vec::new();
    for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let document_number = number + 1;
        let value = serde_json::Value::deserialize(document)
            .map_err(|error| ManifestError::Syntax { document: document_number, reason: error.to_string() })?;
        if !value.is_null() {
            manifests.push(parse_object(document_number, &value)?);
        }
    }
    Ok(manifests)
}

fn parse_object(document: usize, value: &serde_json::Value) -> Result<Manifest, ManifestError> {
    let text_at = |pointer: &str| value.pointer(pointer).and_then(serde_json::Value::as_str);
    let kind = text_at("/kind").unwrap_or_default();
    let object = text_at("/metadata/name").map(|name| format!("{kind}/{name}"));
    let refused = |field: &str, message: String| ManifestError::Field {
        document,
        object: object.clone(),
        field: field.to_owned(),
        message,
    };
    if text_at("/apiVersion") != Some(API_VERSION) {
        return Err(refused("apiVersion", format!("must be `{API_VERSION}`")));
    }
    if kind != "Topic" {
        return Err(refused("kind", format!("`{kind}` is not a kind that can be applied here; write `Topic`")));
    }
    if let Some((field, meant)) = unknown_key(value, &TOPIC_SHAPE) {
        let hint = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default();
        return Err(refused(&field, format!("is not a known field{hint}")));
    }
    if text_at("/metadata/name").is_none_or(str::is_empty) {
        return Err(refused("metadata.name", "is required".to_owned()));
    }
    let topic: TopicManifest = serde_json::from_value(value.clone()).map_err(|error| refused("spec", error.to_string()))?;
    topic.resolve().map_err(|(field, message)| refused(&field, message))?;
    Ok(Manifest::Topic(topic))
}

const METADATA: Shape = Shape(&[
    ("name", None),
    ("namespace", None),
    ("labels", None),
    ("annotations", None),
    ("uid", None),
    ("resourceVersion", None),
]);
const TOPIC_SHAPE: Shape = Shape(&[
    ("apiVersion", None),
    ("kind", None),
    ("metadata", Some(METADATA)),
    ("spec", Some(topic::SPEC_SHAPE)),
    ("status", None),
]);

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: tidegate.dev/v1alpha1\nkind: Topic\nmetadata: {name: clicks}\nspec: {partitions: 3}\n";

    fn refusal(text: &str) -> String {
        parse_manifests(text).unwrap_err().to_string()
    }

    #[test]
    fn several_documents_are_read_in_order() {
        let text = format!("{GOOD}---\n---\n{}", GOOD.replace("clicks", "views"));
        let names: Vec<String> =
            parse_manifests(&text).unwrap().into_iter().map(|Manifest::Topic(topic)| topic.metadata.name).collect();
        assert_eq!(names, ["clicks", "views"]);
    }

    #[test]
    fn a_refusal_names_document_object_field_and_the_way_out() {
        let text = format!("{GOOD}---\n{}", GOOD.replace("partitions", "partition"));
        assert_eq!(refusal(&text), "document 2 (Topic/clicks): spec.partition: is not a known field; did you mean `partitions`?");
        assert!(refusal(&GOOD.replace("v1alpha1", "v9")).contains("apiVersion: must be `tidegate.dev/v1alpha1`"));
        assert!(refusal(&GOOD.replace("Topic", "Queue")).contains("kind: `Queue`"));
        assert!(refusal(&GOOD.replace("{name: clicks}", "{}")).contains("metadata.name: is required"));
        assert!(refusal("a: [").contains("document 1 is not valid YAML"));
    }
}
