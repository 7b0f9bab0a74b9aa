//! Who may call the operator's service: holders of the private half of a key.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_env::Env;
use tidegate_proto::token::VerifyingKeys;

use super::SettingError;

/// Public keys by which the operator's tokens are checked; at most one of the two is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorSettings {
    /// Ed25519 public keys: PEM (`openssl pkey -pubout`), several one after the other while they are changed, or one key's 32 bytes in base64.
    /// Default: none.
    pub public_key: Option<String>,
    /// A file that holds the same, read once at start: for a mounted secret or config map. Default: none.
    pub public_key_file: Option<PathBuf>,
}

/// What the broker asks of calls to the operator's service.
#[derive(Clone, Debug)]
pub enum OperatorKeys {
    /// Nothing: there is no key, and only this machine can call.
    Open,
    /// There is no key, and others could call: every call is refused.
    Closed,
    /// A token that one of these keys signed.
    Signed(VerifyingKeys),
}

const KEY: &str = "operator.public_key";
const FILE: &str = "operator.public_key_file";

impl OperatorSettings {
    /// Checks every field; the file is read by `keys`.
    pub fn validate(&self) -> Result<(), SettingError> {
        match (&self.public_key, &self.public_key_file) {
            (Some(_), Some(_)) => Err(SettingError::new(FILE, format!("goes not together with {KEY}: give one of the two"))),
            (Some(text), None) => parse(KEY, text).map(drop),
            (None, Some(path)) if path.as_os_str().is_empty() => Err(SettingError::new(FILE, "is empty: name a file")),
            _ => Ok(()),
        }
    }

    /// The keys, and what holds without any. `loopback` says whether the operator's listener can be reached from this machine only.
    pub(crate) fn keys(&self, env: &Env, loopback: bool) -> Result<OperatorKeys, SettingError> {
        if let Some(text) = &self.public_key {
            return Ok(OperatorKeys::Signed(parse(KEY, text)?));
        }
        let Some(path) = &self.public_key_file else {
            return Ok(if loopback { OperatorKeys::Open } else { OperatorKeys::Closed });
        };
        let bytes = env.disk.read(path).map_err(|error| {
            SettingError::new(FILE, format!("{} cannot be read ({error}): give a file that the broker may read", path.display()))
        })?;
        let text = String::from_utf8_lossy(&bytes);
        let keys =
            parse(FILE, &text).map_err(|error| SettingError::new(FILE, format!("{} {}", path.display(), error.problem)))?;
        Ok(OperatorKeys::Signed(keys))
    }
}

fn parse(field: &str, text: &str) -> Result<VerifyingKeys, SettingError> {
    VerifyingKeys::parse(text).map_err(|error| SettingError::new(field, error.to_string()))
}
