//! Which object store the hub tiers to.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SettingError;

/// Which object store the hub tiers to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ObjectStoreSettings {
    /// A directory of this machine: for development and tests.
    Directory {
        /// Where; made if it is missing.
        path: PathBuf,
    },
    /// A bucket of an S3-compatible service.
    S3(S3StoreSettings),
}

impl Default for ObjectStoreSettings {
    fn default() -> Self {
        ObjectStoreSettings::Directory { path: PathBuf::from("tidegate-store") }
    }
}

/// A bucket of an S3-compatible service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3StoreSettings {
    /// The bucket; must exist.
    pub bucket: String,
    /// URL of the service, as `http://127.0.0.1:9000`. Default: AWS's for the region.
    pub endpoint: Option<String>,
    /// Region. Default: from the environment, else `us-east-1`.
    pub region: Option<String>,
    /// Put the bucket in the path instead of the host name, as most services other than AWS need. Default false.
    pub path_style: bool,
    /// File with credentials in AWS's format. Default: environment variables, then web identity.
    pub credentials_file: Option<PathBuf>,
}

impl ObjectStoreSettings {
    /// Checks every field.
    pub fn validate(&self) -> Result<(), SettingError> {
        match self {
            ObjectStoreSettings::Directory { path } if path.as_os_str().is_empty() => {
                Err(SettingError::new("object_store.directory.path", "is empty: name a directory"))
            }
            ObjectStoreSettings::S3(s3) if s3.bucket.is_empty() => {
                Err(SettingError::new("object_store.s3.bucket", "is empty: name a bucket that exists"))
            }
            _ => Ok(()),
        }
    }
}
