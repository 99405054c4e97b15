//! What a client's tokens are subject to, as it is registered and shown.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clients::bounded;
use super::private::Strongbox;
use crate::http::Problem;
use crate::http::wire::{Said, text};
use crate::model::token::{Rotate, TokenPolicy};

/// How old a refresh token may be told to become, in seconds: a second to a year.
const LIFETIME_S: RangeInclusive<u64> = 1..=366 * 24 * 3600;
/// How long concurrent refreshes may be answered alike, in seconds: long enough for a slow network, too short for a thief to wait for.
const GRACE_S: RangeInclusive<u64> = 0..=60;
/// How long an access token may be told to live, and an answer be kept, in seconds.
const ACCESS_S: RangeInclusive<u64> = 0..=31 * 24 * 3600;

/// What a client's tokens are subject to. What is left out gets its default; only `provider_client_secret` stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct TokenTerms {
    /// When its refresh token is replaced: at every refresh, unless said; when it is older than `rotate_after_s`; or when something happened to its
    /// session or its subject since it was issued, and then, with `rotate_after_s`, by age as well.
    rotate: Option<text::Rotate>,
    /// How old a refresh token may become before it is replaced, in seconds. Must be said for `after_s`.
    #[schema(minimum = 1, maximum = 31_622_400)]
    rotate_after_s: Option<u64>,
    /// What ends when a replaced refresh token is used again; its session unless said.
    reuse_scope: Option<text::ReuseScope>,
    /// How long a replaced refresh token is answered with its successor, for refreshes at the same moment, in seconds. 0 unless said: never.
    #[schema(maximum = 60)]
    grace_s: Option<u64>,
    /// Whether only the newest token of a subject is accepted; no unless said.
    newest_only: Option<bool>,
    /// How long a refresh token may live, in seconds; no limit unless said.
    #[schema(minimum = 1, maximum = 31_622_400)]
    max_lifetime_s: Option<u64>,
    /// What becomes of a token that is said to live longer: `cap`, unless said, or `refuse`.
    over_limit: Option<text::OverLimit>,
    /// How long its access tokens live at most, in seconds.
    #[schema(maximum = 2_678_400)]
    access_token_max_s: Option<u64>,
    /// How long its gateways keep an answer about a token, in seconds. Left out: nobody asks here about its access tokens, or it is not known.
    #[schema(maximum = 2_678_400)]
    gateway_cache_s: Option<u64>,
    /// Its own secret at the provider, by which its refresh tokens are revoked there. Never shown; left out it stays, null removes it. It is
    /// forgotten when the issuer's `revocation` comes to lead elsewhere.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    provider_client_secret: Said<String>,
}

/// What a client's tokens are subject to.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenTermsView {
    /// When its refresh token is replaced.
    rotate: text::Rotate,
    /// How old it may become before it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotate_after_s: Option<u64>,
    /// What ends when a replaced one is used again.
    reuse_scope: text::ReuseScope,
    /// How long a replaced one is answered with its successor.
    grace_s: u64,
    /// Whether only the newest token of a subject is accepted.
    newest_only: bool,
    /// How long a refresh token may live.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_lifetime_s: Option<u64>,
    /// What becomes of one that is said to live longer.
    over_limit: text::OverLimit,
    /// How long its access tokens live at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token_max_s: Option<u64>,
    /// How long its gateways keep an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_cache_s: Option<u64>,
    /// Whether its secret at the provider is known.
    provider_client_secret_registered: bool,
}

impl From<TokenPolicy> for TokenTermsView {
    fn from(policy: TokenPolicy) -> Self {
        let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs());
        Self {
            rotate: policy.rotate.into(),
            rotate_after_s: seconds(policy.rotate_after),
            reuse_scope: policy.reuse_scope.into(),
            grace_s: policy.grace.as_secs(),
            newest_only: policy.newest_only,
            max_lifetime_s: seconds(policy.lifetime_max),
            over_limit: policy.over_limit.into(),
            access_token_max_s: seconds(policy.access_token_max),
            gateway_cache_s: seconds(policy.gateway_cache),
            provider_client_secret_registered: policy.provider_secret.is_some(),
        }
    }
}

impl TokenTerms {
    /// What was said of no client's tokens.
    pub const EMPTY: Self = Self {
        rotate: None,
        rotate_after_s: None,
        reuse_scope: None,
        grace_s: None,
        newest_only: None,
        max_lifetime_s: None,
        over_limit: None,
        access_token_max_s: None,
        gateway_cache_s: None,
        provider_client_secret: Said::Nothing,
    };

    /// The policy as it shall be.
    pub(super) fn policy(&self, strongbox: &Strongbox<'_>, before: Option<&TokenPolicy>) -> Result<TokenPolicy, Problem> {
        let seconds =
            |member: &str, said, range| Ok::<_, Problem>(bounded(&format!("/tokens/{member}"), said, range)?.map(Duration::from_secs));
        let default = TokenPolicy::DEFAULT;
        let rotate = self.rotate.map_or(default.rotate, |text| text.0);
        let rotate_after = seconds("rotate_after_s", self.rotate_after_s, &LIFETIME_S)?;
        match (rotate, rotate_after) {
            (Rotate::AfterS, None) => return Err(Problem::invalid("/tokens/rotate_after_s", "must be said where rotate is after_s")),
            (Rotate::Always, Some(_)) => return Err(Problem::invalid("/tokens/rotate_after_s", "says nothing where rotate is always")),
            (Rotate::Always | Rotate::OnEvent, None) | (Rotate::AfterS | Rotate::OnEvent, Some(_)) => {}
        }
        Ok(TokenPolicy {
            rotate,
            rotate_after,
            reuse_scope: self.reuse_scope.map_or(default.reuse_scope, |text| text.0),
            grace: seconds("grace_s", self.grace_s, &GRACE_S)?.unwrap_or_default(),
            newest_only: self.newest_only.unwrap_or(default.newest_only),
            lifetime_max: seconds("max_lifetime_s", self.max_lifetime_s, &LIFETIME_S)?,
            over_limit: self.over_limit.map_or(default.over_limit, |text| text.0),
            access_token_max: seconds("access_token_max_s", self.access_token_max_s, &ACCESS_S)?,
            gateway_cache: seconds("gateway_cache_s", self.gateway_cache_s, &ACCESS_S)?,
            provider_secret: strongbox
                .provider_secret(&self.provider_client_secret, before.and_then(|policy| policy.provider_secret.as_ref()))?,
        })
    }
}
