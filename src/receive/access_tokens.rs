//! Access tokens as a provider issues them. Only where they are registered are opaque ones known here; registered or not, they end with their session.

use std::fmt;

use axum::extract::State;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de};
use utoipa::ToSchema;

use super::bulk::{Bulk, Results, only};
use super::refresh_tokens::{TokensAnswer, answer};
use super::reports::{missing, owner, take};
use super::sessions::Names;
use super::token::{NamedToken, Naming, TokenValue};
use crate::http::wire::{Written as _, text, value};
use crate::http::{AppState, At, Line, Problem, ProblemDocument, Reply, StrictJson, Text, needs};
use crate::model::report::{AUDIENCE_MAX, AccessTokenReport, Report};
use crate::model::{ClientId, Timestamp};

/// An access token. It belongs to a session by `sid` or `key`, or to a `sub` and no session; exactly one of `token`, `token_sha256` and `jti` names it. A
/// refresh token names the family it was issued with; without one it is the latest of its session at that client.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessTokenItem {
    sid: Option<text::Sid>,
    key: Option<text::ProviderKey>,
    sub: Option<text::Subject>,
    /// The client it was issued to.
    client_id: Option<text::ClientId>,
    /// The token itself; only its digest is kept.
    token: Option<TokenValue>,
    /// SHA-256 of the token's octets, in base64url.
    token_sha256: Option<text::Digest>,
    /// The `jti` of a token that is a JWT.
    jti: Option<text::Jti>,
    issued_at: Option<text::Timestamp>,
    /// Must be said unless the client's registration has an `access_token_max_s`.
    expires_at: Option<text::Timestamp>,
    scope: Option<text::Scope>,
    /// A string, or up to 20 of them.
    aud: Option<Audience>,
    /// A refresh token of its family, by value.
    refresh_token: Option<TokenValue>,
    /// SHA-256 of such a refresh token.
    refresh_token_sha256: Option<text::Digest>,
    /// The `jti` of such a refresh token.
    refresh_token_jti: Option<text::Jti>,
}

/// One access token, or up to 1,000 in `tokens` and nothing beside it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessTokensBody {
    #[schema(value_type = Option<Vec<AccessTokenItem>>, max_items = 1000)]
    tokens: Option<Bulk<AccessTokenItem>>,
    sid: Option<text::Sid>,
    key: Option<text::ProviderKey>,
    sub: Option<text::Subject>,
    client_id: Option<text::ClientId>,
    token: Option<TokenValue>,
    token_sha256: Option<text::Digest>,
    jti: Option<text::Jti>,
    issued_at: Option<text::Timestamp>,
    expires_at: Option<text::Timestamp>,
    scope: Option<text::Scope>,
    aud: Option<Audience>,
    refresh_token: Option<TokenValue>,
    refresh_token_sha256: Option<text::Digest>,
    refresh_token_jti: Option<text::Jti>,
}

/// Whom a token is for: one name, or several (RFC 7519 4.1.3).
#[derive(Clone, Debug, ToSchema)]
#[schema(value_type = Vec<String>)]
pub struct Audience(Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = Audience;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Audience, E> {
                Line::read(text).map(|line| Audience(vec![line.into_string()])).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Audience, A::Error> {
                let mut names = Vec::new();
                while let Some(Text(name)) = sequence.next_element::<text::Line>()? {
                    if names.len() == AUDIENCE_MAX {
                        return Err(de::Error::custom(format!("must have at most {AUDIENCE_MAX} members")));
                    }
                    names.push(name.into_string());
                }
                Ok(Audience(names))
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

/// The members that tell of an access token, wherever they stand.
#[derive(Debug)]
pub(super) struct AccessTokenParts {
    pub(super) client_id: Option<ClientId>,
    pub(super) token: Naming,
    pub(super) family: Naming,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) scope: Option<String>,
    pub(super) aud: Option<Audience>,
}

impl AccessTokenParts {
    /// The token, named once, and whose it is.
    pub(super) fn report(self, names: Names) -> Result<AccessTokenReport, Problem> {
        Ok(AccessTokenReport {
            owner: owner(names)?,
            client_id: self.client_id.ok_or_else(|| missing("client_id"))?,
            name: self.token.required()?.name(),
            issued_at: self.issued_at,
            expires_at: self.expires_at,
            scope: self.scope,
            aud: self.aud.map(|Audience(names)| names).unwrap_or_default(),
            family: self.family.optional()?.map(NamedToken::names),
        })
    }
}

impl AccessTokenItem {
    fn report(self) -> Result<AccessTokenReport, Problem> {
        let names = Names { sid: value(self.sid), key: value(self.key), sub: value(self.sub) };
        let parts = AccessTokenParts {
            client_id: value(self.client_id),
            token: Naming { value: self.token, digest: value(self.token_sha256), jti: value(self.jti), members: Naming::TOKEN },
            family: Naming {
                value: self.refresh_token,
                digest: value(self.refresh_token_sha256),
                jti: value(self.refresh_token_jti),
                members: Naming::REFRESH_TOKEN,
            },
            issued_at: value(self.issued_at),
            expires_at: value(self.expires_at),
            scope: self.scope.map(|Text(scope)| scope.into_string()),
            aud: self.aud,
        };
        parts.report(names)
    }
}

/// One token or many.
#[derive(Clone, Debug)]
enum Told {
    One(Box<AccessTokenReport>),
    Many(Vec<AccessTokenReport>),
}

impl AccessTokensBody {
    fn told(self) -> Result<Told, Problem> {
        let surplus = self.first_member();
        match (self.tokens, surplus) {
            (Some(_), Some(name)) => Err(Problem::invalid(format!("/{name}"), "does not go with tokens")),
            (Some(tokens), None) => {
                let items = tokens.bounded()?.into_iter().enumerate();
                let reports = items.map(|(at, item)| item.report().map_err(|problem| problem.under(&format!("/tokens/{at}"))));
                Ok(Told::Many(reports.collect::<Result<_, _>>()?))
            }
            (None, _) => {
                let item = AccessTokenItem {
                    sid: self.sid,
                    key: self.key,
                    sub: self.sub,
                    client_id: self.client_id,
                    token: self.token,
                    token_sha256: self.token_sha256,
                    jti: self.jti,
                    issued_at: self.issued_at,
                    expires_at: self.expires_at,
                    scope: self.scope,
                    aud: self.aud,
                    refresh_token: self.refresh_token,
                    refresh_token_sha256: self.refresh_token_sha256,
                    refresh_token_jti: self.refresh_token_jti,
                };
                item.report().map(|report| Told::One(Box::new(report)))
            }
        }
    }

    fn first_member(&self) -> Option<&'static str> {
        let members = [
            ("sid", self.sid.is_some()),
            ("key", self.key.is_some()),
            ("sub", self.sub.is_some()),
            ("client_id", self.client_id.is_some()),
            ("token", self.token.is_some()),
            ("token_sha256", self.token_sha256.is_some()),
            ("jti", self.jti.is_some()),
            ("issued_at", self.issued_at.is_some()),
            ("expires_at", self.expires_at.is_some()),
            ("scope", self.scope.is_some()),
            ("aud", self.aud.is_some()),
            ("refresh_token", self.refresh_token.is_some()),
            ("refresh_token_sha256", self.refresh_token_sha256.is_some()),
            ("refresh_token_jti", self.refresh_token_jti.is_some()),
        ];
        members.into_iter().find_map(|(name, present)| present.then_some(name))
    }
}

/// Register one access token, or up to 1,000.
#[utoipa::path(post, path = "/v1/issuers/{iss}/access-tokens", tag = "tokens", operation_id = "postAccessTokens", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body = AccessTokensBody,
    responses(
        (status = 200, description = "It was known, or: one result for each of many.", body = TokensAnswer),
        (status = 201, description = "The one token is registered.", body = TokensAnswer),
        (status = 409, description = "`session-ended`: its session has ended, and the token is stored as revoked. `client-suspended`: it is not taken.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "`lifetime-over-limit`: its client's registration refuses tokens that are said to live so long.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn post_access_tokens(
    State(app): State<AppState>,
    at: At<needs::Report>,
    StrictJson(body): StrictJson<AccessTokensBody>,
) -> Result<Reply<TokensAnswer>, Problem> {
    match body.told()? {
        Told::One(token) => answer(&only(take(&app, &at.0, vec![Report::AccessToken(*token)]).await?)?),
        Told::Many(tokens) => {
            let reports = tokens.into_iter().map(Report::AccessToken).collect();
            Ok(Reply::ok(TokensAnswer::Many(Results::of(take(&app, &at.0, reports).await?))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    fn told(body: &str) -> Result<Told, Problem> {
        parse::<AccessTokensBody>(body.as_bytes())?.told()
    }

    #[test]
    fn one_token_or_many_are_read() {
        let one = told(r#"{"sid":"s","client_id":"c","token":"t","aud":"api","refresh_token":"r"}"#).unwrap();
        assert!(matches!(one, Told::One(report) if report.aud == ["api"] && report.family.is_some()));
        let many = told(r#"{"tokens":[{"sid":"s","client_id":"c","jti":"t","aud":["a","b"]},{"sub":"a","client_id":"c","token":"u"}]}"#);
        assert!(matches!(many.unwrap(), Told::Many(tokens) if tokens.len() == 2));
    }

    #[test]
    fn the_member_at_fault_is_named() {
        let many = format!(r#"{{"sid":"s","client_id":"c","token":"t","aud":["x"{}]}}"#, r#","x""#.repeat(20));
        for (body, pointer) in [
            ("{}", "/sid"),
            (r#"{"sid":"s","token":"t"}"#, "/client_id"),
            (r#"{"sid":"s","client_id":"c"}"#, "/token"),
            (r#"{"sid":"s","client_id":"c","token":"t","aud":7}"#, "/aud"),
            (r#"{"sid":"s","client_id":"c","token":"t","aud":["a",7]}"#, "/aud/1"),
            (r#"{"sid":"s","client_id":"c","token":"t","refresh_token":"r","refresh_token_jti":"j"}"#, "/refresh_token_jti"),
            (r#"{"sid":"s","client_id":"c","token":"t","offline_access":true}"#, "/offline_access"),
            (r#"{"tokens":[],"aud":"a"}"#, "/aud"),
            (r#"{"tokens":[{"sid":"s","client_id":"c"}]}"#, "/tokens/0/token"),
            (&many, "/aud"),
        ] {
            let problem = told(body).expect_err(body);
            assert_eq!(problem.errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }
}
