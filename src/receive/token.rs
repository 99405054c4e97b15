//! Tokens as they come in: by value, by digest, or by `jti`.
//!
//! A value is digested while it is read. Where it has to be shown again it is sealed before anything else sees it, and otherwise goes with the request.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};
use zeroize::Zeroizing;

use crate::http::wire::{text, value};
use crate::http::{AppState, Problem, Text};
use crate::model::report::{TokenDetails, TokenName};
use crate::model::{Digest, IssuerId, Jti, Timestamp};
use crate::seams::Entropy;
use crate::token::{Sealed, SealingKey, digest_of_token, jwt_id};

/// The longest token that is taken, in octets.
pub const TOKEN_OCTETS_MAX: usize = 16 * 1024;

/// A token by value. Written back, it is its digest.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenValue {
    digest: Digest,
    jti: Option<Jti>,
    octets: Zeroizing<String>,
}

impl fmt::Debug for TokenValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenValue").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What tokens' values are sealed with.
#[derive(Clone, Copy)]
pub(super) struct Sealer<'a> {
    issuer: &'a IssuerId,
    key: &'a SealingKey,
    entropy: &'a Entropy,
}

impl<'a> Sealer<'a> {
    /// For the tokens of one issuer.
    pub(super) fn at(app: &'a AppState, issuer: &'a IssuerId) -> Self {
        Self { issuer, key: &app.sealing, entropy: &app.entropy }
    }

    /// The value, bound to what it is registered by.
    fn seal(self, value: &TokenValue) -> String {
        let name = TokenName::Digest(value.digest).stored_as();
        self.key.seal_text(&Sealed::refresh_token(self.issuer, &name), value.octets.as_bytes(), self.entropy)
    }
}

/// The three ways to name one token, and the members they come in.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) value: Option<TokenValue>,
    pub(super) digest: Option<Digest>,
    pub(super) jti: Option<Jti>,
    pub(super) members: [&'static str; 3],
}

/// A token that was named once.
#[derive(Clone, Debug)]
pub(super) enum NamedToken {
    Value(TokenValue),
    Name(TokenName),
}

impl Naming {
    pub(super) const TOKEN: [&'static str; 3] = ["token", "token_sha256", "jti"];
    pub(super) const SUCCESSOR: [&'static str; 3] = ["successor", "successor_sha256", "successor_jti"];
    pub(super) const REFRESH_TOKEN: [&'static str; 3] = ["refresh_token", "refresh_token_sha256", "refresh_token_jti"];

    /// The token, if it is named.
    pub(super) fn optional(self) -> Result<Option<NamedToken>, Problem> {
        let [by_value, by_digest, by_jti] = self.members;
        let surplus =
            |member| Err(Problem::invalid(format!("/{member}"), format!("a token has one name: {by_value}, {by_digest} or {by_jti}")));
        match (self.value, self.digest, self.jti) {
            (Some(value), None, None) => Ok(Some(NamedToken::Value(value))),
            (None, Some(digest), None) => Ok(Some(NamedToken::Name(TokenName::Digest(digest)))),
            (None, None, Some(jti)) => Ok(Some(NamedToken::Name(TokenName::Jti(jti)))),
            (Some(_), Some(_), _) => surplus(by_digest),
            (Some(_), None, Some(_)) | (None, Some(_), Some(_)) => surplus(by_jti),
            (None, None, None) => Ok(None),
        }
    }

    /// The token, named once.
    pub(super) fn required(self) -> Result<NamedToken, Problem> {
        let [by_value, by_digest, by_jti] = self.members;
        let missing =
            || Problem::invalid(format!("/{by_value}"), format!("is missing: a token is named by {by_value}, {by_digest} or {by_jti}"));
        self.optional()?.ok_or_else(missing)
    }
}

impl NamedToken {
    /// What it is registered by.
    pub(super) fn name(&self) -> TokenName {
        match self {
            Self::Value(value) => TokenName::Digest(value.digest),
            Self::Name(name) => name.clone(),
        }
    }

    /// Every name it may be registered by.
    pub(super) fn names(self) -> Vec<TokenName> {
        match self {
            Self::Value(value) => value.names(),
            Self::Name(name) => vec![name],
        }
    }

    /// Its value, sealed, where it came by value.
    pub(super) fn sealed(&self, sealer: Sealer<'_>) -> Option<String> {
        match self {
            Self::Value(value) => Some(sealer.seal(value)),
            Self::Name(_) => None,
        }
    }
}

impl TokenValue {
    /// Reads a token; none when it cannot be one (RFC 6749 appendix A.17).
    pub fn of(token: &str) -> Option<Self> {
        let legal = (1..=TOKEN_OCTETS_MAX).contains(&token.len()) && token.bytes().all(|octet| (0x20..=0x7e).contains(&octet));
        let octets = || Zeroizing::new(token.to_owned());
        legal.then(|| Self { digest: digest_of_token(token.as_bytes()), jti: jwt_id(token), octets: octets() })
    }

    fn read<E: de::Error>(text: &str) -> Result<Self, E> {
        Self::of(text).ok_or_else(|| E::custom("a token must have 1 to 16384 printable ASCII characters"))
    }

    /// Its digest.
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
                TokenValue::read(text)
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
    /// The token itself; only its digest is kept, unless it is to be sealed.
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
    /// Whether its value is kept, sealed, so that it can be shown to its provider again.
    #[serde(default)]
    sealed: bool,
}

impl TokenBody {
    /// The token, named once.
    pub(super) fn details(self, sealer: Sealer<'_>) -> Result<TokenDetails, Problem> {
        let parts = TokenParts {
            token: self.token,
            token_sha256: value(self.token_sha256),
            jti: value(self.jti),
            issued_at: value(self.issued_at),
            expires_at: value(self.expires_at),
            offline_access: self.offline_access,
            scope: self.scope.map(|Text(scope)| scope.into_string()),
            sealed: self.sealed,
        };
        parts.details(sealer)
    }
}

/// A `refresh_token` where it is either told of, as an object, or only named, as a string.
#[derive(Clone, Debug)]
pub enum TokenMember {
    /// It is told of.
    Details(Box<TokenBody>),
    /// It is named.
    Value(TokenValue),
}

impl TokenMember {
    /// What is told of it.
    pub(super) fn details(self) -> Result<TokenBody, Problem> {
        match self {
            Self::Details(body) => Ok(*body),
            Self::Value(_) => Err(Problem::invalid("/refresh_token", "must be an object")),
        }
    }

    /// The token itself.
    pub(super) fn value(self) -> Result<TokenValue, Problem> {
        match self {
            Self::Details(_) => Err(Problem::invalid("/refresh_token", "must be a string: the token itself")),
            Self::Value(value) => Ok(value),
        }
    }
}

impl<'de> Deserialize<'de> for TokenMember {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = TokenMember;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TokenMember, E> {
                TokenValue::read(text).map(TokenMember::Value)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<TokenMember, A::Error> {
                TokenBody::deserialize(de::value::MapAccessDeserializer::new(map)).map(|body| TokenMember::Details(Box::new(body)))
            }
        }
        deserializer.deserialize_any(Reads)
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
    pub(super) sealed: bool,
}

impl TokenParts {
    /// The token, named once, and sealed where that is asked for.
    pub(super) fn details(self, sealer: Sealer<'_>) -> Result<TokenDetails, Problem> {
        let TokenParts { token, token_sha256, jti, issued_at, expires_at, offline_access, scope, sealed } = self;
        let token = Naming { value: token, digest: token_sha256, jti, members: Naming::TOKEN }.required()?;
        let value = token.sealed(sealer).filter(|_| sealed);
        if sealed && value.is_none() {
            return Err(Problem::invalid("/sealed", "takes the token itself: what came by a name alone cannot be sealed"));
        }
        Ok(TokenDetails { name: token.name(), issued_at, expires_at, offline_access, scope, sealed: value })
    }
}

/// Seals with a key that is nobody's.
#[cfg(test)]
pub(super) fn with_sealer<T>(of: impl FnOnce(Sealer<'_>) -> T) -> T {
    let (issuer, entropy) = (IssuerId::parse("main").unwrap(), Entropy::seeded(1));
    let key = SealingKey::generate(&entropy);
    of(Sealer { issuer: &issuer, key: &key, entropy: &entropy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    fn details(body: &str) -> Result<TokenDetails, Problem> {
        let body = parse::<TokenBody>(body.as_bytes()).unwrap();
        with_sealer(|sealer| body.details(sealer))
    }

    #[test]
    fn a_token_by_value_and_by_digest_are_the_same_token() {
        let details = |body: &str| details(body).unwrap();
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
            (format!(r#"{{"token_sha256":"{digest}","sealed":true}}"#), "/sealed"),
        ] {
            let problem = details(&body).unwrap_err();
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

    #[test]
    fn a_value_is_sealed_where_that_is_asked_for_and_nowhere_else() {
        assert_eq!(details(r#"{"token":"hunter2"}"#).unwrap().sealed, None);
        assert!(details(r#"{"token":"hunter2","sealed":true}"#).unwrap().sealed.is_some_and(|sealed| !sealed.contains("hunter2")));
    }
}
