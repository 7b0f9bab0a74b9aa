//! The key that signs calls to brokers: a Secret in the operator's namespace, made at the first start. Brokers hold the public half.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::core::ObjectMeta;
use kube::{Api, Client};
use tidegate_proto::token::SigningKey;

use crate::settings::Settings;

/// The Secret.
pub const SECRET: &str = "tidegate-operator-key";
/// Its key: 32 secret bytes.
const SEED: &str = "seed";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The API server.
    #[error(transparent)]
    Kube(#[from] kube::Error),
    /// The Secret is not ours.
    #[error("Secret {namespace}/{SECRET} has no key `{SEED}` of 32 bytes: delete it, and a new one is made")]
    Foreign {
        /// Where it is.
        namespace: String,
    },
}

/// Reads the key, or makes one. Two processes that start at once end up with the same.
pub async fn load_or_make(client: &Client, settings: &Settings) -> Result<SigningKey, KeyError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &settings.lease_namespace);
    loop {
        if let Some(secret) = api.get_opt(SECRET).await? {
            let seed =
                secret.data.as_ref().and_then(|data| data.get(SEED)).and_then(|seed| <[u8; 32]>::try_from(&seed.0[..]).ok());
            let foreign = || KeyError::Foreign { namespace: settings.lease_namespace.clone() };
            return seed.map(|seed| SigningKey::from_seed(&seed)).ok_or_else(foreign);
        }
        let seed: [u8; 32] = rand::random();
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                labels: Some(BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "tidegate".to_owned())])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(SEED.to_owned(), ByteString(seed.to_vec()))])),
            immutable: Some(true),
            ..Secret::default()
        };
        match api.create(&PostParams::default(), &secret).await {
            Ok(_) => return Ok(SigningKey::from_seed(&seed)),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
    }
}
