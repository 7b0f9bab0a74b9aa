//! Ed25519 keys as the tools write them: PEM of PKCS #8 for the private half, PEM of SubjectPublicKeyInfo or 32 bytes in base64 for the public one.
//!
//! `openssl genpkey -algorithm ed25519 -out operator.pem` makes a key, `openssl pkey -in operator.pem -pubout -out operator.pub` its public half.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// What stands before the 32 bytes of a key in its SubjectPublicKeyInfo (RFC 8410, section 4).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const KEY_BYTES: usize = 32;

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text has no public key.
    #[error("holds no Ed25519 public key: give what `openssl pkey -in KEY -pubout` prints, or the key's 32 bytes in base64")]
    Public,
    /// The text has no private key.
    #[error("holds no Ed25519 private key: give what `openssl genpkey -algorithm ed25519` prints")]
    Private,
}

/// The private half.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SigningKey(secret)")
    }
}

impl SigningKey {
    /// Reads PKCS #8 in PEM.
    ///
    /// # Errors
    /// [`KeyError::Private`] if there is no such key in the text.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = blocks(text, "PRIVATE KEY").next().ok_or(KeyError::Private)?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| KeyError::Private)?;
        Ok(SigningKey { pair })
    }

    /// Makes a key from 32 secret random bytes.
    pub fn from_seed(seed: &[u8; KEY_BYTES]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        SigningKey { pair }
    }

    /// The public half in PEM, as brokers take it.
    pub fn public_pem(&self) -> String {
        let der = [&PUBLIC_PREFIX[..], self.pair.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(bytes).as_ref());
        signature
    }
}

/// Public keys, any of which may have signed: two while one replaces the other.
#[derive(Clone, Debug)]
pub struct VerifyingKeys {
    keys: Vec<[u8; KEY_BYTES]>,
}

impl VerifyingKeys {
    /// Reads one or more keys in PEM, or one as base64 of its 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Public`] if there is none, or one is of another kind.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        if let Ok(bare) = STANDARD.decode(text.trim()) {
            keys.push(bare.try_into().map_err(|_| KeyError::Public)?);
        }
        for der in blocks(text, "PUBLIC KEY") {
            let key = der.strip_prefix(&PUBLIC_PREFIX).ok_or(KeyError::Public)?;
            keys.push(key.try_into().map_err(|_| KeyError::Public)?);
        }
        if keys.is_empty() { Err(KeyError::Public) } else { Ok(VerifyingKeys { keys }) }
    }

    pub(super) fn made(&self, bytes: &[u8], signature: &[u8]) -> bool {
        self.keys.iter().any(|key| UnparsedPublicKey::new(&ED25519, key).verify(bytes, signature).is_ok())
    }
}

/// The bytes of each PEM block of a kind; a block that is not base64 comes as nothing, which no key is.
fn blocks<'a>(text: &'a str, kind: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    let begin = format!("-----BEGIN {kind}-----");
    let end = format!("-----END {kind}-----");
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&begin)?;
        let (body, after) = after.split_once(&end)?;
        rest = after;
        let body: String = body.split_whitespace().collect();
        Some(STANDARD.decode(body).unwrap_or_default())
    })
}
