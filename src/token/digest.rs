//! What is kept of tokens: digests and names, never the tokens themselves.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use serde_json::Value;

use super::{BASE64URL, json};
use crate::model::{Digest, Jti};

/// The longest token that is looked into for its `jti`.
pub const JWT_OCTETS_MAX: usize = 16 * 1024;

/// SHA-256 of a token's octets. Enough for tokens drawn from a large space, which cannot be guessed from it; a secret a person may have chosen needs
/// [`SealingKey::keyed_digest`](super::SealingKey::keyed_digest).
pub fn digest_of_token(octets: &[u8]) -> Digest {
    Digest::from_octets(sha256(octets))
}

/// Whether two digests are equal, in a time that does not tell where they differ.
pub fn digests_match(one: &Digest, other: &Digest) -> bool {
    verify_slices_are_equal(one.octets(), other.octets()).is_ok()
}

/// The `jti` claim of something shaped like a signed JWT. **Nothing is verified**: not the signature, not the time, not the issuer. Fit to look up a
/// token its owner registered by that name, and for no decision besides.
///
/// None when it is longer than [`JWT_OCTETS_MAX`], not three parts of strict base64url, not JSON objects, or names any member twice.
pub fn jwt_id(token: &str) -> Option<Jti> {
    if token.len() > JWT_OCTETS_MAX {
        return None;
    }
    let mut parts = token.split('.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || signature.is_empty() || BASE64URL.decode(signature).is_err() {
        return None;
    }
    let header = json::object(&BASE64URL.decode(header).ok()?)?;
    let claims = json::object(&BASE64URL.decode(payload).ok()?)?;
    header.get("alg").and_then(Value::as_str)?;
    Jti::parse(claims.get("jti")?.as_str()?).ok()
}

pub(super) fn sha256(octets: &[u8]) -> [u8; 32] {
    use aws_lc_rs::digest::{SHA256, digest};
    let mut array = [0; 32];
    array.iter_mut().zip(digest(&SHA256, octets).as_ref()).for_each(|(to, from)| *to = *from);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(header: &str, claims: &str) -> String {
        format!("{}.{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims), BASE64URL.encode("signature"))
    }

    const HEADER: &str = r#"{"alg":"RS256"}"#;

    #[test]
    fn a_token_is_known_by_its_sha_256() {
        // FIPS 180-4, the one-block example.
        assert_eq!(digest_of_token(b"abc"), Digest::parse("ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0").unwrap());
    }

    #[test]
    fn digests_match_when_they_are_equal_and_only_then() {
        let (one, other) = (digest_of_token(b"one"), digest_of_token(b"other"));
        assert!(digests_match(&one, &digest_of_token(b"one")));
        assert!(!digests_match(&one, &other));
    }

    #[test]
    fn the_jti_of_a_jwt_is_read() {
        let token = jwt(HEADER, r#"{"iss":"x","jti":"a \"b\" é"}"#);
        assert_eq!(jwt_id(&token), Some(Jti::parse("a \"b\" é").unwrap()));
    }

    #[test]
    fn what_is_not_shaped_like_a_jwt_has_no_jti() {
        let good = jwt(HEADER, r#"{"jti":"a"}"#);
        let parts: Vec<&str> = good.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("three parts") };
        let stray_bits = format!("{header}.{payload}.AB");
        for token in [
            "",
            "opaque",
            "..",
            "a.b.c",
            &format!("{header}.{payload}"),
            &format!("{header}.{payload}."),
            &format!("{good}.x.y"),
            &format!("{header}.{payload}=.{signature}"),
            &format!(" {good}"),
            &stray_bits,
            &jwt(HEADER, r#"{"jti":"a","jti":"b"}"#),
            &jwt(r#"{"alg":"RS256","alg":"none"}"#, r#"{"jti":"a"}"#),
            &jwt("{}", r#"{"jti":"a"}"#),
            &jwt(HEADER, r#"{"jti":7}"#),
            &jwt(HEADER, r#"{"jti":""}"#),
            &jwt(HEADER, r#"{"sub":"a"}"#),
            &jwt(HEADER, r#"["jti"]"#),
            &jwt(HEADER, &format!(r#"{{"jti":"a","pad":"{}"}}"#, "x".repeat(JWT_OCTETS_MAX))),
        ] {
            assert_eq!(jwt_id(token), None, "{token:.80}");
        }
    }
}
