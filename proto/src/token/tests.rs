//! Tokens: what is signed is accepted once for what it says, and for nothing else.
#![allow(clippy::unwrap_used)]

use super::*;

const METHOD: &str = "/tidegate.operator.v1.OperatorService/DeleteTopic";
const NOW: i64 = 1_800_000_000;

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn keys() -> VerifyingKeys {
    VerifyingKeys::parse(&key().public_pem()).unwrap()
}

fn call() -> Call<'static> {
    Call { hub: uuid::Uuid::from_u128(5), method: METHOD, now: NOW }
}

fn accepted(token: &str, call: &Call<'_>, message: &[u8]) -> Result<(), Refused> {
    verify(&keys(), call, Some(&format!("Bearer {token}")))?.covers(message)
}

#[test]
fn a_token_is_good_for_one_hub_one_method_one_request_and_a_minute() {
    let token = sign(&key(), &call(), b"request");
    assert_eq!(accepted(&token, &call(), b"request"), Ok(()));
    assert_eq!(accepted(&token, &call(), b"another"), Err(Refused::Digest));
    assert_eq!(accepted(&token, &Call { hub: uuid::Uuid::from_u128(6), ..call() }, b"request"), Err(Refused::Audience));
    assert_eq!(accepted(&token, &Call { method: "/other", ..call() }, b"request"), Err(Refused::Method));
    for (now, outcome) in [
        (NOW - CLOCK_SKEW_SECONDS, Ok(())),
        (NOW - CLOCK_SKEW_SECONDS - 1, Err(Refused::Time)),
        (NOW + MOST_SECONDS + CLOCK_SKEW_SECONDS, Ok(())),
        (NOW + MOST_SECONDS + CLOCK_SKEW_SECONDS + 1, Err(Refused::Time)),
        (i64::MIN, Err(Refused::Time)),
        (i64::MAX, Err(Refused::Time)),
    ] {
        assert_eq!(accepted(&token, &Call { now, ..call() }, b"request"), outcome, "{now}");
    }
}

#[test]
fn a_token_that_lives_longer_than_a_minute_is_refused() {
    let mut claims =
        Claims { aud: call().hub.to_string(), iat: NOW, exp: NOW + 61, method: METHOD.to_owned(), digest: digest(b"") };
    assert_eq!(accepted(&sign_claims(&key(), &claims), &call(), b""), Err(Refused::TooLong));
    (claims.iat, claims.exp) = (i64::MIN, i64::MAX);
    assert_eq!(accepted(&sign_claims(&key(), &claims), &call(), b""), Err(Refused::TooLong));
    (claims.iat, claims.exp) = (NOW, NOW - 1);
    assert_eq!(accepted(&sign_claims(&key(), &claims), &call(), b""), Err(Refused::Time));
}

#[test]
fn what_is_not_signed_by_the_key_is_not_believed() {
    let other = sign(&SigningKey::from_seed(&[8; 32]), &call(), b"");
    assert_eq!(accepted(&other, &call(), b""), Err(Refused::Signature));
    let token = sign(&key(), &call(), b"");
    // Each byte of it matters.
    for place in 0..token.len() {
        let mut broken = token.clone().into_bytes();
        broken[place] = if broken[place] == b'A' { b'B' } else { b'A' };
        let broken = String::from_utf8(broken).unwrap();
        assert!(accepted(&broken, &call(), b"").is_err(), "byte {place}");
    }
    let (signed, _) = token.rsplit_once('.').unwrap();
    // {"alg":"none"}, and nothing signed.
    let (_, claims) = signed.split_once('.').unwrap();
    for bad in [format!("eyJhbGciOiJub25lIn0.{claims}."), String::new(), "...".to_owned(), "A".repeat(MOST_BYTES + 1)] {
        assert_eq!(accepted(&bad, &call(), b""), Err(Refused::Malformed), "{bad}");
    }
    assert_eq!(verify(&keys(), &call(), None).unwrap_err(), Refused::Absent);
    assert_eq!(verify(&keys(), &call(), Some(&format!("Basic {token}"))).unwrap_err(), Refused::Malformed);
}

#[test]
fn keys_are_read_as_openssl_writes_them() {
    // The secret of RFC 8032, section 7.1, test 1, in the PKCS #8 that openssl writes.
    let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    // Its public half, as the RFC gives it.
    let public =
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
    let key = SigningKey::from_pem(private).unwrap();
    assert_eq!(key.public_pem(), public);
    let token = sign(&key, &call(), b"");
    let header = format!("Bearer {token}");
    let bare = VerifyingKeys::parse("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n").unwrap();
    verify(&bare, &call(), Some(&header)).unwrap();
    let both = VerifyingKeys::parse(&format!("{}{public}", super::tests::key().public_pem())).unwrap();
    verify(&both, &call(), Some(&header)).unwrap();
    for bad in ["", "AAAA", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", private] {
        assert_eq!(VerifyingKeys::parse(bad).unwrap_err(), KeyError::Public, "{bad}");
    }
    assert_eq!(SigningKey::from_pem(public).unwrap_err(), KeyError::Private);
}
