//! The object store that settings name.

use std::sync::Arc;

use tidegate_env::Env;
use tidegate_tier::{DirectoryStore, ObjectStore, S3Settings, S3Store, StoreError};

use crate::settings::ObjectStoreSettings;

/// Sets the store up; for a directory this makes it, for S3 nothing is sent yet.
pub async fn open(settings: &ObjectStoreSettings, env: &Env) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match settings {
        ObjectStoreSettings::Directory { path } => {
            let opened = DirectoryStore::open(env, path.clone()).await;
            let refused = |error: std::io::Error| StoreError::Refused {
                key: path.display().to_string(),
                operation: "opening the folder",
                message: error.to_string(),
            };
            Ok(Arc::new(opened.map_err(refused)?))
        }
        ObjectStoreSettings::S3(s3) => {
            let settings = S3Settings {
                bucket: s3.bucket.clone(),
                endpoint: s3.endpoint.clone(),
                region: s3.region.clone(),
                path_style: s3.path_style,
                credentials_file: s3.credentials_file.clone(),
            };
            Ok(Arc::new(S3Store::new(settings).await?))
        }
    }
}
