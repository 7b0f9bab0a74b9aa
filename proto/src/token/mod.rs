//! The operator's tokens: who signs, what is signed, what a broker checks. A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037), good for one
//! request only: it names the hub, the method and the SHA-256 of the request message.
//!
//! It knows no clock (times are passed in), no files and no settings. [`Signed`] puts a token on each call of a client.
//!
//! `expires - issued <= 60 s`, and a verifier allows its clock to differ from the signer's by [`CLOCK_SKEW_SECONDS`].

mod keys;
mod signed;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

pub use keys::{KeyError, SigningKey, VerifyingKeys};
pub use signed::Signed;

/// Metadata key of the token; its value is `Bearer TOKEN`.
pub const METADATA_KEY: &str = "authorization";
/// Longest life of a token, in seconds.
pub const MOST_SECONDS: i64 = 60;
/// By how much the clocks of signer and verifier may differ, in seconds.
pub const CLOCK_SKEW_SECONDS: i64 = 30;
/// Longest token that is looked at, in bytes: a real one has about 400.
pub const MOST_BYTES: usize = 2048;

/// `{"alg":"EdDSA","typ":"JWT"}`, the only header there is.
const HEADER: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The hub's uid, with hyphens, in lower case.
    pub aud: String,
    /// When it was signed, in seconds since the Unix epoch.
    pub iat: i64,
    /// When it ends, in seconds since the Unix epoch; at most [`MOST_SECONDS`] after `iat`.
    pub exp: i64,
    /// The path of the call, as `/tidegate.operator.v1.OperatorService/CreateTopic`.
    pub method: String,
    /// SHA-256 of the serialised request message (without gRPC's five bytes), in base64url without padding.
    pub digest: String,
}

/// Why a token is not accepted; the text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is none.
    #[error("the call has no token: send `authorization: Bearer TOKEN`, signed with the operator's key")]
    Absent,
    /// It is not of the form that is asked for.
    #[error(
        "the token is not a JWT with `alg` EdDSA and the claims aud, iat, exp, method and digest, in at most {MOST_BYTES} bytes"
    )]
    Malformed,
    /// No key of the broker made the signature.
    #[error("no key of this broker made the token's signature: give brokers the public half of the operator's key")]
    Signature,
    /// It is for another hub.
    #[error("the token is for another hub: its `aud` must be this hub's uid")]
    Audience,
    /// It is for another method.
    #[error("the token is for another method: its `method` must be the path that is called")]
    Method,
    /// It is for another request.
    #[error("the token is for another request: its `digest` must be the SHA-256 of the request message, in base64url")]
    Digest,
    /// It lives too long.
    #[error("the token lives longer than {MOST_SECONDS} s: sign one for each call")]
    TooLong,
    /// Its time is over, or has not come.
    #[error("the token is not valid now: it must be used between `iat` and `exp`; clocks may differ by {CLOCK_SKEW_SECONDS} s")]
    Time,
}

impl Refused {
    /// Stable name for programs.
    pub fn name(self) -> &'static str {
        match self {
            Refused::Absent => "absent",
            Refused::Malformed => "malformed",
            Refused::Signature => "signature",
            Refused::Audience => "audience",
            Refused::Method => "method",
            Refused::Digest => "digest",
            Refused::TooLong => "too_long",
            Refused::Time => "time",
        }
    }
}

/// The digest of a serialised request message.
pub fn digest(message: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, message))
}

/// A call that a token is for.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The hub's uid.
    pub hub: uuid::Uuid,
    /// The path.
    pub method: &'a str,
    /// Now, in seconds since the Unix epoch.
    pub now: i64,
}

/// Signs a token for one request.
pub fn sign(key: &SigningKey, call: &Call<'_>, message: &[u8]) -> String {
    let claims = Claims {
        aud: call.hub.to_string(),
        iat: call.now,
        exp: call.now + MOST_SECONDS,
        method: call.method.to_owned(),
        digest: digest(message),
    };
    sign_claims(key, &claims)
}

fn sign_claims(key: &SigningKey, claims: &Claims) -> String {
    let claims = serde_json::to_vec(claims).expect("text and numbers are always JSON");
    let signed = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Checks all of a token but its digest, which [`Verified::covers`] does when the message has arrived.
///
/// `value` is the metadata's value, `Bearer TOKEN`.
///
/// # Errors
/// What is wrong; the signature is checked before anything that is signed is believed.
pub fn verify(keys: &VerifyingKeys, call: &Call<'_>, value: Option<&str>) -> Result<Verified, Refused> {
    let token = value.ok_or(Refused::Absent)?.strip_prefix("Bearer ").ok_or(Refused::Malformed)?;
    if token.len() > MOST_BYTES {
        return Err(Refused::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(Refused::Malformed)?;
    if !is_our_header(header) {
        return Err(Refused::Malformed);
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::Malformed)?;
    if !keys.made(signed.as_bytes(), &signature) {
        return Err(Refused::Signature);
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Refused::Malformed)?;
    let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Refused::Malformed)?;
    if claims.aud != call.hub.to_string() {
        return Err(Refused::Audience);
    }
    if claims.method != call.method {
        return Err(Refused::Method);
    }
    if claims.exp.saturating_sub(claims.iat) > MOST_SECONDS {
        return Err(Refused::TooLong);
    }
    let early = call.now < claims.iat.saturating_sub(CLOCK_SKEW_SECONDS);
    let late = call.now > claims.exp.saturating_add(CLOCK_SKEW_SECONDS);
    if early || late || claims.exp < claims.iat {
        return Err(Refused::Time);
    }
    Ok(Verified { digest: claims.digest })
}

/// Other libraries may order the header's two members differently.
fn is_our_header(header: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Header {
        alg: String,
        typ: Option<String>,
    }
    let read = || -> Option<Header> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok() };
    header == HEADER || read().is_some_and(|header| header.alg == "EdDSA" && header.typ.is_none_or(|typ| typ == "JWT"))
}

/// A token that is right for the call; its request has yet to be compared.
#[derive(Clone, Debug)]
pub struct Verified {
    digest: String,
}

impl Verified {
    /// # Errors
    /// [`Refused::Digest`] if the token is for another request.
    pub fn covers(&self, message: &[u8]) -> Result<(), Refused> {
        if self.digest == digest(message) { Ok(()) } else { Err(Refused::Digest) }
    }
}
