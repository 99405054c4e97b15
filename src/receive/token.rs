//! Refresh tokens as they come in: by value, by digest, or by `jti`.
//!
//! A value is digested while it is read, and never kept.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use crate::http::wire::{text, value};
use crate::http::{Problem, Text};
use crate::model::report::{TokenDetails, TokenName};
use crate::model::{Digest, Jti, Timestamp};
use crate::token::{digest_of_token, jwt_id};

/// The longest refresh token that is taken, in octets.
pub const TOKEN_OCTETS_MAX: usize = 16 * 1024;

/// A refresh token by value, of which only the digest remains. Written back, it is that digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenValue {
    digest: Digest,
    jti: Option<Jti>,
}

impl TokenValue {
    /// Digests a token; none when it cannot be one (RFC 6749 appendix A.17).
    pub fn of(token: &str) -> Option<Self> {
        let legal = (1..=TOKEN_OCTETS_MAX).contains(&token.len()) && token.bytes().all(|octet| (0x20..=0x7e).contains(&octet));
        legal.then(|| Self { digest: digest_of_token(token.as_bytes()), jti: jwt_id(token) })
    }

    /// All that is kept of it.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The names it may be registered by. The `jti` is read and not verified: whoever shows the value is the provider that issued it.
    pub fn names(self) -> Vec<TokenName> {
        [TokenName::Digest(self.digest)].into_iter().chain(self.jti.map(TokenName::Jti)).collect()
    }
}

impl<'de> Deserialize<'de> for TokenValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl Visitor<'_> for Reads {
            type Value = TokenValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TokenValue, E> {
                TokenValue::of(text).ok_or_else(|| E::custom("a token must have 1 to 16384 printable ASCII characters"))
            }
        }
        deserializer.deserialize_str(Reads)
    }
}

impl Serialize for TokenValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.digest)
    }
}

impl PartialSchema for TokenValue {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Password)))
            .min_length(Some(1))
            .max_length(Some(TOKEN_OCTETS_MAX))
            .into()
    }
}

impl ToSchema for TokenValue {}

/// A refresh token that came with a participant. Exactly one of `token`, `token_sha256` and `jti` names it.
#[derive(Clone, Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenBody {
    /// The token itself; only its digest is kept.
    token: Option<TokenValue>,
    /// SHA-256 of the token's octets, in base64url.
    token_sha256: Option<text::Digest>,
    /// The `jti` of a token that is a JWT.
    jti: Option<text::Jti>,
    issued_at: Option<text::Timestamp>,
    expires_at: Option<text::Timestamp>,
    /// Granted with the `offline_access` scope: a plain logout spares it.
    #[serde(default)]
    offline_access: bool,
    scope: Option<text::Scope>,
}

impl TokenBody {
    /// The token, named once.
    pub fn details(self) -> Result<TokenDetails, Problem> {
        let parts = TokenParts {
            token: self.token,
            token_sha256: value(self.token_sha256),
            jti: value(self.jti),
            issued_at: value(self.issued_at),
            expires_at: value(self.expires_at),
            offline_access: self.offline_access,
            scope: self.scope.map(|Text(scope)| scope.into_string()),
        };
        parts.details()
    }
}

/// The members that tell of a refresh token, wherever they stand.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenParts {
    pub(super) token: Option<TokenValue>,
    pub(super) token_sha256: Option<Digest>,
    pub(super) jti: Option<Jti>,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) offline_access: bool,
    pub(super) scope: Option<String>,
}

impl TokenParts {
    /// The token, named once.
    pub(super) fn details(self) -> Result<TokenDetails, Problem> {
        let surplus = |pointer| Err(Problem::invalid(pointer, "a token has one name: token, token_sha256 or jti"));
        let name = match (self.token, self.token_sha256, self.jti) {
            (Some(value), None, None) => TokenName::Digest(value.digest),
            (None, Some(digest), None) => TokenName::Digest(digest),
            (None, None, Some(jti)) => TokenName::Jti(jti),
            (Some(_), Some(_), _) => return surplus("/token_sha256"),
            (Some(_), None, Some(_)) | (None, Some(_), Some(_)) => return surplus("/jti"),
            (None, None, None) => return Err(Problem::invalid("/token", "is missing: a token is named by token, token_sha256 or jti")),
        };
        let TokenParts { issued_at, expires_at, offline_access, scope, .. } = self;
        Ok(TokenDetails { name, issued_at, expires_at, offline_access, scope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    #[test]
    fn a_token_by_value_and_by_digest_are_the_same_token() {
        let details = |body: &str| parse::<TokenBody>(body.as_bytes()).unwrap().details().unwrap();
        let by_value = details(r#"{"token":"abc"}"#);
        let by_digest = details(r#"{"token_sha256":"ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"}"#);
        assert_eq!(by_value.name, by_digest.name);
        assert!(!by_value.offline_access);
    }

    #[test]
    fn a_token_has_exactly_one_name() {
        let digest = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";
        for (body, pointer) in [
            ("{}".to_owned(), "/token"),
            (format!(r#"{{"token":"a","token_sha256":"{digest}"}}"#), "/token_sha256"),
            (r#"{"token":"a","jti":"j"}"#.to_owned(), "/jti"),
            (format!(r#"{{"token_sha256":"{digest}","jti":"j"}}"#), "/jti"),
        ] {
            let problem = parse::<TokenBody>(body.as_bytes()).unwrap().details().unwrap_err();
            assert_eq!(problem.errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_without_being_repeated() {
        for token in ["", "a\\u0000b", "é", &"x".repeat(TOKEN_OCTETS_MAX + 1)] {
            let problem = parse::<TokenBody>(format!(r#"{{"token":"{token}"}}"#).as_bytes()).unwrap_err();
            assert_eq!(problem.errors()[0].pointer.as_deref(), Some("/token"));
            assert_eq!(problem.errors()[0].detail, "a token must have 1 to 16384 printable ASCII characters");
        }
    }

    #[test]
    fn the_value_is_never_written_by_debug() {
        let body = parse::<TokenBody>(br#"{"token":"hunter2"}"#).unwrap();
        assert!(!format!("{body:?}").contains("hunter2"));
    }
}
