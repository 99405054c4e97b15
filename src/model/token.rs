//! Tokens a provider issues: what is known of one when somebody asks whether it is still good, and what a client's tokens are subject to.

use std::time::Duration;

use super::cut_off::CutOff;
use super::gap::GapFact;
use super::key::words;
use super::{ClientId, Jti, Sid, Subject, Timestamp};

words! {
    /// What a token is for.
    TokenKind, "a kind of token" {
        /// It is changed for others at the provider.
        Refresh = "refresh",
        /// It is shown to resource servers.
        Access = "access",
    }
}

words! {
    /// When a client's refresh token is replaced by a new one.
    Rotate, "a way of rotation" {
        /// At every refresh (RFC 9700 4.14.2).
        Always = "always",
        /// When it is older than `rotate_after_s`.
        AfterS = "after_s",
        /// When something happened since it was issued; with `rotate_after_s`, also when it is older than that.
        OnEvent = "on_event",
    }
}

words! {
    /// What ends when a rotated refresh token is used again.
    ReuseScope, "a scope of reuse" {
        /// Its family alone.
        Grant = "grant",
        /// The session it came from.
        Session = "session",
        /// All sessions of its subject.
        Subject = "subject",
    }
}

words! {
    /// What becomes of a token that is said to live longer than it may.
    OverLimit, "a choice over the limit" {
        /// It is registered with the longest life it may have.
        Cap = "cap",
        /// It is not registered.
        Refuse = "refuse",
    }
}

words! {
    /// What was noticed about a token.
    TokenEventKind, "a kind of token event" {
        /// A rotated refresh token was used again, and its family is over.
        Reuse = "reuse",
        /// A token was used after its login was over.
        UseAfterLogout = "use_after_logout",
        /// A provider told of a rotation that does not follow from those before it.
        RotationOutOfOrder = "rotation_out_of_order",
        /// A token was shown by another client than it was issued to.
        ForeignClient = "foreign_client",
        /// A token was shown that nobody registered.
        UnknownToken = "unknown_token",
        /// A token was said to live longer than it may.
        OverLimit = "over_limit",
    }
}

/// What was noticed about the tokens of a session, by kind and client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEventView {
    /// Which kind.
    pub kind: TokenEventKind,
    /// The client that showed the token, or that it was issued to.
    pub client_id: ClientId,
    /// How often.
    pub seen: u64,
    /// When it was noticed last.
    pub last_at: Timestamp,
}

/// What is known of how long a token is said to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeFacts {
    /// How long it may live; none sets no limit.
    pub longest: Option<Duration>,
    /// What becomes of one that is said to live longer.
    pub over_limit: OverLimit,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it is said to expire; none means never.
    pub expires_at: Option<Timestamp>,
}

/// Whether a token may live as long as it is said to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It may.
    Within,
    /// It expires at this time instead.
    Capped(Timestamp),
    /// It may not, and is not taken.
    Refused,
}

/// What a client's tokens are subject to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPolicy {
    /// When its refresh tokens are replaced.
    pub rotate: Rotate,
    /// How old a refresh token may become before it is; must be there for [`Rotate::AfterS`].
    pub rotate_after: Option<Duration>,
    /// What ends at the reuse of a rotated one.
    pub reuse_scope: ReuseScope,
    /// How long a rotated one is answered with its successor, for refreshes at the same moment; zero for never.
    pub grace: Duration,
    /// Whether only the newest token of a subject is accepted.
    pub newest_only: bool,
    /// How long a refresh token may live.
    pub lifetime_max: Option<Duration>,
    /// What becomes of tokens that are said to live longer, of either kind.
    pub over_limit: OverLimit,
    /// How long an access token may live; also how long one may be around that nobody registered.
    pub access_token_max: Option<Duration>,
    /// How long its gateways keep an answer of ours; none says that nobody asks us about its tokens, or that it is not known.
    pub gateway_cache: Option<Duration>,
    /// Its secret at the provider, sealed, to revoke its tokens there (RFC 7009 2.1); none: it has none, or it is not known.
    pub provider_secret: Option<String>,
}

impl TokenPolicy {
    /// What holds unless a registration says otherwise.
    pub const DEFAULT: Self = Self {
        rotate: Rotate::Always,
        rotate_after: None,
        reuse_scope: ReuseScope::Session,
        grace: Duration::ZERO,
        newest_only: false,
        lifetime_max: None,
        over_limit: OverLimit::Cap,
        access_token_max: None,
        gateway_cache: None,
        provider_secret: None,
    };
}

/// What an access token says of itself that its issuer signed: it need not be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessClaims {
    /// The client it was issued to: `client_id` (RFC 9068 2.2), or else `azp`.
    pub client_id: Option<ClientId>,
    /// `sub`.
    pub sub: Option<Subject>,
    /// `sid`.
    pub sid: Option<Sid>,
    /// `jti`.
    pub jti: Option<Jti>,
    /// `iat`.
    pub issued_at: Option<Timestamp>,
    /// `nbf`.
    pub not_before: Option<Timestamp>,
    /// `exp`.
    pub expires_at: Timestamp,
    /// `scope`.
    pub scope: Option<String>,
    /// `aud`.
    pub aud: Vec<String>,
}

/// What decides whether a token is active. Who asks, and what for, is decided elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// When it was issued, by the provider's clock.
    pub issued_at: Option<Timestamp>,
    /// When it begins to be good, by the provider's clock.
    pub not_before: Option<Timestamp>,
    /// The epoch its grant was registered in, where its registration was held against the ends that were known; none leaves it to the times.
    pub epoch: Option<i64>,
    /// When it expires by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked alone.
    pub revoked_at: Option<Timestamp>,
    /// When it was replaced by its successor.
    pub superseded_at: Option<Timestamp>,
    /// When its grant, and so every token of it, was revoked.
    pub grant_revoked_at: Option<Timestamp>,
    /// Until when its `jti`, or its session's `sid`, is refused.
    pub denied_until: Option<Timestamp>,
    /// Since when its client is suspended.
    pub client_suspended_at: Option<Timestamp>,
    /// Whether a newer one has taken its place.
    pub newest: Newest,
    /// What its life hangs on.
    pub grant: GrantFact,
    /// What an open gap of its issuer's means for it; none where none is open.
    pub gap: Option<GapFact>,
    /// The cut-offs whose scope it falls into.
    pub cut_offs: Vec<CutOff>,
}

/// Whether only a subject's newest token at a client is accepted, and whether this is it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    /// Its client does not ask for that.
    NotAsked,
    /// It is.
    Newest,
    /// A newer one is known.
    Older,
}

/// What a token's life hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantFact {
    /// Granted with `offline_access`: on no session, wherever it came from.
    Offline,
    /// On a session.
    Bound(SessionFact),
}

/// What is known of the session of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFact {
    /// It has none.
    None,
    /// It names one that is not registered.
    Unknown(UnknownSession),
    /// It lives.
    Live {
        /// When it began, by the provider's clock.
        started_at: Timestamp,
        /// The epoch it was registered in.
        epoch: i64,
        /// When its time is up, where it ends here by its age; it may not have been ended yet.
        over_at: Option<Timestamp>,
    },
    /// It has ended, or the participation of the token's client in it has.
    Ended,
}

/// What a token of a session is worth that is not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownSession {
    /// As much as one without a session.
    Accepted,
    /// Nothing: the provider reports every session before its tokens are used.
    Refused,
}

/// What is known of how long tokens of a client may still work somewhere after its session ended: here they are inactive from the commit on, but
/// whoever does not ask, or keeps an answer, goes by an older truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residual {
    /// When the end was committed.
    pub committed_at: Timestamp,
    /// When the last of its registered access tokens of that session expires.
    pub registered_until: Option<Timestamp>,
    /// How long its access tokens live at most, registered or not.
    pub access_token_max: Option<Duration>,
    /// How long its gateways keep an answer of ours; none: they do not ask, or nobody said so.
    pub gateway_cache: Option<Duration>,
}

impl Residual {
    /// The latest instant at which one may still work; none where nobody can say.
    pub fn until(&self) -> Option<Timestamp> {
        let alive = self.registered_until.max(self.access_token_max.map(|life| self.committed_at.plus(life)));
        let alive = alive.map(|alive| alive.max(self.committed_at));
        match self.gateway_cache.map(|cache| self.committed_at.plus(cache)) {
            Some(kept) => Some(alive.map_or(kept, |alive| alive.min(kept))),
            None => alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn at(seconds: u64) -> Option<Timestamp> {
        Some(T.plus(Duration::from_secs(seconds)))
    }

    fn until(registered: Option<u64>, life_s: Option<u64>, cache_s: Option<u64>) -> Option<Timestamp> {
        let seconds = |said: Option<u64>| said.map(Duration::from_secs);
        let registered_until = registered.and_then(at);
        Residual { committed_at: T, registered_until, access_token_max: seconds(life_s), gateway_cache: seconds(cache_s) }.until()
    }

    #[test]
    fn what_may_still_work_is_what_lives_on_or_what_a_gateway_keeps_and_never_more_than_either() {
        assert_eq!(until(None, None, None), None);
        assert_eq!(until(None, Some(300), None), at(300));
        assert_eq!(until(Some(900), Some(300), None), at(900));
        assert_eq!(until(None, None, Some(600)), at(600));
        assert_eq!(until(None, Some(300), Some(600)), at(300));
        assert_eq!(until(Some(900), None, Some(600)), at(600));
        assert_eq!(until(Some(900), Some(300), Some(0)), at(0));
    }

    proptest! {
        #[test]
        fn more_knowledge_of_gateways_never_promises_less_than_nothing_nor_more_than_a_life(
            registered in prop::option::of(0_u64..5000), life in prop::option::of(0_u64..5000), cache in 0_u64..5000,
        ) {
            let with = until(registered, life, Some(cache)).unwrap();
            prop_assert!(with >= T && Some(with) <= at(cache));
            if let Some(without) = until(registered, life, None) {
                prop_assert!(with <= without);
            }
        }
    }
}
