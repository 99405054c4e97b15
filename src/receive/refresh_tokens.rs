//! Refresh tokens as a provider issues them.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bulk::{Bulk, Results, only};
use super::reports::{take, token_report};
use super::sessions::{Names, unexpected};
use super::token::{Sealer, TokenParts, TokenValue};
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Problem, ProblemDocument, Reply, StrictJson, Text, needs};
use crate::model::report::{Report, Reported, TokenReport};

/// A refresh token. It belongs to a session by `sid` or `key`, or to a `sub` and no session; exactly one of `token`, `token_sha256` and `jti` names it.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenItem {
    sid: Option<text::Sid>,
    key: Option<text::ProviderKey>,
    sub: Option<text::Subject>,
    /// The client it was issued to.
    client_id: Option<text::ClientId>,
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
    /// Whether its value is kept, sealed, so that it can be shown to its provider again. Takes the token itself, and so do its successors.
    #[serde(default)]
    sealed: bool,
}

/// One refresh token, or up to 1,000 in `tokens` and nothing beside it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensBody {
    #[schema(value_type = Option<Vec<TokenItem>>, max_items = 1000)]
    tokens: Option<Bulk<TokenItem>>,
    sid: Option<text::Sid>,
    key: Option<text::ProviderKey>,
    sub: Option<text::Subject>,
    client_id: Option<text::ClientId>,
    token: Option<TokenValue>,
    token_sha256: Option<text::Digest>,
    jti: Option<text::Jti>,
    issued_at: Option<text::Timestamp>,
    expires_at: Option<text::Timestamp>,
    offline_access: Option<bool>,
    scope: Option<text::Scope>,
    sealed: Option<bool>,
}

/// One token or many.
#[derive(Clone, Debug)]
enum Told {
    One(TokenReport),
    Many(Vec<TokenReport>),
}

impl TokenItem {
    fn report(self, sealer: Sealer<'_>) -> Result<TokenReport, Problem> {
        let names = Names { sid: value(self.sid), key: value(self.key), sub: value(self.sub) };
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
        token_report(names, value(self.client_id), parts, sealer)
    }
}

impl TokensBody {
    fn told(self, sealer: Sealer<'_>) -> Result<Told, Problem> {
        let surplus = self.first_member();
        match (self.tokens, surplus) {
            (Some(_), Some(name)) => Err(Problem::invalid(format!("/{name}"), "does not go with tokens")),
            (Some(tokens), None) => {
                let items = tokens.bounded()?.into_iter().enumerate();
                let reports = items.map(|(at, item)| item.report(sealer).map_err(|problem| problem.under(&format!("/tokens/{at}"))));
                Ok(Told::Many(reports.collect::<Result<_, _>>()?))
            }
            (None, _) => {
                let item = TokenItem {
                    sid: self.sid,
                    key: self.key,
                    sub: self.sub,
                    client_id: self.client_id,
                    token: self.token,
                    token_sha256: self.token_sha256,
                    jti: self.jti,
                    issued_at: self.issued_at,
                    expires_at: self.expires_at,
                    offline_access: self.offline_access.unwrap_or(false),
                    scope: self.scope,
                    sealed: self.sealed.unwrap_or(false),
                };
                item.report(sealer).map(Told::One)
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
            ("offline_access", self.offline_access.is_some()),
            ("scope", self.scope.is_some()),
            ("sealed", self.sealed.is_some()),
        ];
        members.into_iter().find_map(|(name, present)| present.then_some(name))
    }
}

/// What became of one token, or of each of many.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TokensAnswer {
    /// Of one.
    One(TokenShape),
    /// Of each of many, in their order.
    Many(Results),
}

/// A registered token.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct TokenShape {
    /// Whether it counts as live: a token of a login that was over before it was reported does not.
    active: bool,
    /// True where it was said to live longer than it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    capped: Option<bool>,
    /// When such a token expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<text::Timestamp>,
}

/// Register one refresh token, or up to 1,000.
#[utoipa::path(post, path = "/v1/issuers/{iss}/refresh-tokens", tag = "tokens", operation_id = "postRefreshTokens", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body = TokensBody,
    responses(
        (status = 200, description = "It was known, or: one result for each of many.", body = TokensAnswer),
        (status = 201, description = "The one token is registered.", body = TokensAnswer),
        (status = 409, description = "`session-ended`: its session has ended, and the token is stored as revoked. `client-suspended`: it is not taken.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "`lifetime-over-limit`: its client's registration refuses tokens that are said to live so long.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn post_refresh_tokens(
    State(app): State<AppState>,
    at: At<needs::Report>,
    StrictJson(body): StrictJson<TokensBody>,
) -> Result<Reply<TokensAnswer>, Problem> {
    match body.told(Sealer::at(&app, &at.0.issuer.id))? {
        Told::One(token) => answer(&only(take(&app, &at.0, vec![Report::RefreshToken(token)]).await?)?),
        Told::Many(tokens) => {
            let reports = tokens.into_iter().map(Report::RefreshToken).collect();
            Ok(Reply::ok(TokensAnswer::Many(Results::of(take(&app, &at.0, reports).await?))))
        }
    }
}

/// What is answered to the report of one token.
pub(super) fn answer(reported: &Reported) -> Result<Reply<TokensAnswer>, Problem> {
    match *reported {
        Reported::TokenRegistered { new, active, capped } => {
            let one = TokensAnswer::One(TokenShape { active, capped: capped.map(|_| true), expires_at: capped.map(Text) });
            Ok(if new { Reply::created(one) } else { Reply::ok(one) })
        }
        Reported::Session(_) | Reported::Touched | Reported::Left(_) | Reported::Rotated(_) => Err(unexpected(reported)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::with_sealer;
    use super::*;
    use crate::http::json::parse;

    fn told(body: &str) -> Result<Told, Problem> {
        let body = parse::<TokensBody>(body.as_bytes())?;
        with_sealer(|sealer| body.told(sealer))
    }

    #[test]
    fn one_token_or_many_are_read() {
        assert!(matches!(told(r#"{"sid":"s","client_id":"c","token":"t"}"#).unwrap(), Told::One(_)));
        let many =
            told(r#"{"tokens":[{"sid":"s","client_id":"c","token":"t"},{"sub":"a","client_id":"c","jti":"j","offline_access":true}]}"#);
        assert!(matches!(many.unwrap(), Told::Many(tokens) if tokens.len() == 2));
    }

    #[test]
    fn the_member_at_fault_is_named() {
        for (body, pointer) in [
            ("{}", "/sid"),
            (r#"{"sid":"s","token":"t"}"#, "/client_id"),
            (r#"{"sid":"s","client_id":"c"}"#, "/token"),
            (r#"{"sid":"s","key":"k","client_id":"c","token":"t"}"#, "/key"),
            (r#"{"sid":"s","sub":"a","client_id":"c","token":"t"}"#, "/sub"),
            (r#"{"tokens":[],"client_id":"c"}"#, "/client_id"),
            (r#"{"tokens":[{"sid":"s","client_id":"c","token":"t"},{"sid":"s","client_id":"c"}]}"#, "/tokens/1/token"),
            (r#"{"sid":"s","client_id":"c","token":"t","sealed":"x"}"#, "/sealed"),
        ] {
            let problem = told(body).expect_err(body);
            assert_eq!(problem.errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }
}
