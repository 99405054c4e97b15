//! What a provider reports: logins, joins, use, leaving, tokens and their rotation.

use super::rotation::{Rotated, Rotation};
use super::session::{Device, Life, ParticipantView, SessionName};
use super::{Alias, ClientId, Digest, EventId, Jti, Sid, Subject, Timestamp};

/// One report, parsed and bounded.
#[derive(Clone, Debug)]
pub enum Report {
    /// A login, or anything new about a session.
    Session(SessionReport),
    /// A relying party joins a live session.
    Join {
        /// Which session.
        session: SessionName,
        /// Who joins.
        participant: ParticipantReport,
    },
    /// A session was used: its idle expiry moves.
    Touch {
        /// Which session.
        session: SessionName,
        /// The new idle expiry.
        idle_expires_at: Option<Timestamp>,
        /// A new absolute expiry; the latest wins.
        expires_at: Option<Timestamp>,
    },
    /// A relying party left by itself: nothing is sent to it.
    Leave {
        /// Which session.
        session: SessionName,
        /// Who left.
        client_id: ClientId,
        /// Which of its participations, by the `sid` it saw; none means all of that client's in the session.
        sid: Option<Sid>,
    },
    /// A refresh token was issued.
    RefreshToken(TokenReport),
    /// A refresh token was replaced by another.
    Rotated(Rotation),
    /// An access token was issued.
    AccessToken(AccessTokenReport),
}

impl Report {
    /// How many participants, aliases and tokens it tells of: each costs the database statements of its own.
    pub fn parts(&self) -> usize {
        match self {
            Self::Session(report) => report.aliases.len() + report.participants.iter().map(ParticipantReport::parts).sum::<usize>(),
            Self::Join { participant, .. } => participant.parts(),
            Self::RefreshToken(_) | Self::Rotated(_) | Self::AccessToken(_) => 1,
            Self::Touch { .. } | Self::Leave { .. } => 0,
        }
    }

    /// The first of what it says began, joined or was issued after this instant.
    pub fn begun_after(&self, latest: Timestamp) -> Option<Begun> {
        let after = |at: Option<Timestamp>| at.is_some_and(|at| at > latest);
        let begun = |member, at| after(at).then_some(Begun { participant: None, member });
        match self {
            Self::Session(report) => begun("started_at", report.started_at).or_else(|| {
                let mut all = report.participants.iter().enumerate();
                all.find_map(|(at, one)| one.begun_after(latest).map(|member| Begun { participant: Some(at), member }))
            }),
            Self::Join { participant, .. } => participant.begun_after(latest).map(|member| Begun { participant: None, member }),
            Self::RefreshToken(report) => begun("issued_at", report.token.issued_at),
            Self::AccessToken(report) => begun("issued_at", report.issued_at),
            Self::Rotated(rotation) => begun("issued_at", rotation.successor.issued_at),
            Self::Touch { .. } | Self::Leave { .. } => None,
        }
    }
}

/// Where a report says when something began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Of which participant of a session.
    pub participant: Option<usize>,
    /// In which member.
    pub member: &'static str,
}

/// A login.
#[derive(Clone, Debug)]
pub struct SessionReport {
    /// Which session.
    pub session: SessionName,
    /// Whose.
    pub sub: Subject,
    /// When it began, by the provider's clock.
    pub started_at: Option<Timestamp>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it ends if nobody uses it.
    pub idle_expires_at: Option<Timestamp>,
    /// Other names of the person.
    pub aliases: Vec<Alias>,
    /// Where it was begun.
    pub device: Device,
    /// Who takes part.
    pub participants: Vec<ParticipantReport>,
}

/// A client taking part in a session.
#[derive(Clone, Debug)]
pub struct ParticipantReport {
    /// The client.
    pub client_id: ClientId,
    /// The `sid` it saw; none means the session's.
    pub sid: Option<Sid>,
    /// The `sub` it saw; none means the session's.
    pub sub: Option<Subject>,
    /// When it joined; none means the session's start.
    pub joined_at: Option<Timestamp>,
    /// The refresh token it got on the way.
    pub refresh_token: Option<TokenDetails>,
}

impl ParticipantReport {
    fn begun_after(&self, latest: Timestamp) -> Option<&'static str> {
        let after = |at: Option<Timestamp>| at.is_some_and(|at| at > latest);
        if after(self.joined_at) {
            return Some("joined_at");
        }
        after(self.refresh_token.as_ref().and_then(|token| token.issued_at)).then_some("refresh_token/issued_at")
    }

    fn parts(&self) -> usize {
        1 + usize::from(self.refresh_token.is_some())
    }
}

/// A refresh token by something that identifies it without being it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenName {
    /// SHA-256 of the token's octets.
    Digest(Digest),
    /// The `jti` of a token that is a JWT.
    Jti(Jti),
}

impl TokenName {
    /// As it is stored: what kind of name, then the name.
    pub fn stored_as(&self) -> String {
        match self {
            Self::Digest(digest) => format!("sha256:{digest}"),
            Self::Jti(jti) => format!("jti:{jti}"),
        }
    }

    /// As it was stored.
    pub(crate) fn of_stored(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("sha256", digest) => Digest::parse(digest).ok().map(Self::Digest),
            ("jti", jti) => Some(Self::Jti(Jti::stored(jti.to_owned()))),
            _ => None,
        }
    }
}

/// Whose refresh token it is.
#[derive(Clone, Debug)]
pub enum TokenOwner {
    /// A session's.
    Session(SessionName),
    /// A subject's, bound to no session.
    Subject(Subject),
}

/// What is told of a refresh token.
#[derive(Clone, Debug)]
pub struct TokenDetails {
    /// Which token.
    pub name: TokenName,
    /// When it was issued, by the provider's clock.
    pub issued_at: Option<Timestamp>,
    /// When it expires by itself.
    pub expires_at: Option<Timestamp>,
    /// Granted with the `offline_access` scope: a plain logout spares it (BCL 2.7).
    pub offline_access: bool,
    /// Its scope, for introspection.
    pub scope: Option<String>,
    /// Its value, sealed, where it shall be shown again to its provider.
    pub sealed: Option<String>,
}

/// A refresh token and its owner.
#[derive(Clone, Debug)]
pub struct TokenReport {
    /// Whose.
    pub owner: TokenOwner,
    /// The client it was issued to.
    pub client_id: ClientId,
    /// The token.
    pub token: TokenDetails,
}

/// What is told of an access token.
#[derive(Clone, Debug)]
pub struct AccessTokenReport {
    /// Whose.
    pub owner: TokenOwner,
    /// The client it was issued to.
    pub client_id: ClientId,
    /// Which token.
    pub name: TokenName,
    /// When it was issued, by the provider's clock.
    pub issued_at: Option<Timestamp>,
    /// When it expires by itself; as late as the client's tokens may, unless said.
    pub expires_at: Option<Timestamp>,
    /// Its scope, for introspection.
    pub scope: Option<String>,
    /// Whom it is for.
    pub aud: Vec<String>,
    /// A refresh token of the family it was issued with, by the names that may be registered by; none leaves it to the latest of its session.
    pub family: Option<Vec<TokenName>>,
}

/// The largest number of members in an access token's `aud`.
pub const AUDIENCE_MAX: usize = 20;

/// What became of one report.
#[derive(Clone, Debug)]
pub enum Reported {
    /// A session report or join: how the session stands now.
    Session(SessionStanding),
    /// A use was noted.
    Touched,
    /// How many participations were ended by leaving.
    Left(u64),
    /// A token is registered.
    TokenRegistered {
        /// It was not known before.
        new: bool,
        /// It counts as live.
        active: bool,
        /// When it expires, where that is sooner than was said.
        capped: Option<Timestamp>,
    },
    /// A refresh token gave place to another.
    Rotated(Rotated),
}

/// How a session stands after a report.
#[derive(Clone, Debug)]
pub struct SessionStanding {
    /// The report began a session, rather than adding to one.
    pub created: bool,
    /// Live, or ended already.
    pub state: Life,
    /// What ended it.
    pub ended_by: Option<EventId>,
    /// Who takes part.
    pub participants: Vec<ParticipantView>,
}

/// Why one report was refused; the others of its batch stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportRefused {
    /// No such session is registered.
    #[error("no such session is registered")]
    UnknownSession,
    /// The session has ended; a token reported for it is stored as revoked.
    #[error("the session has ended")]
    SessionEnded,
    /// The live session belongs to another subject.
    #[error("the live session belongs to another subject")]
    OtherSubject,
    /// The refresh token is registered for another client or owner.
    #[error("the refresh token is registered for another client, subject or session")]
    OtherOwner,
    /// The session would have more than 1,000 participants.
    #[error("a session has at most 1,000 participants")]
    TooManyParticipants,
    /// The client is suspended: no new tokens of it are taken.
    #[error("the client is suspended, and no new tokens of it are taken until further notice")]
    ClientSuspended,
    /// The token that is spoken of is not registered, or is another client's.
    #[error("no such token of that client is registered")]
    UnknownToken,
    /// The token that was replaced is not good, for a reason of its own; its successor is not registered.
    #[error("the token that was replaced is not good; its successor is not registered")]
    TokenInactive,
    /// The token had been replaced by another: its family is revoked, and the successor is stored as revoked.
    #[error("the token had been replaced before: its family is revoked, and so is the successor")]
    TokenReused,
    /// The token is said to live longer than its client's may.
    #[error("the token is said to live longer than the tokens of its client may")]
    LifetimeOverLimit,
    /// Nobody says when the access token expires, and its client's tokens have no limit.
    #[error("is missing: the client's registration sets no limit on its access tokens")]
    ExpiryMissing,
    /// The successor is to be kept, and came without its value.
    #[error("is missing: the successor is kept sealed, which takes the token itself")]
    SuccessorValueMissing,
    /// It tells of something that is to begin long after now.
    #[error("must be at most 24 hours ahead")]
    TooFarAhead(Begun),
}

impl ReportRefused {
    /// Whether it left something behind all the same: that of which it tells is stored as revoked, so that nobody may use it, whoever registers it again.
    pub const fn leaves_traces(self) -> bool {
        match self {
            Self::SessionEnded | Self::TokenReused => true,
            Self::UnknownSession
            | Self::OtherSubject
            | Self::OtherOwner
            | Self::TooManyParticipants
            | Self::ClientSuspended
            | Self::UnknownToken
            | Self::TokenInactive
            | Self::LifetimeOverLimit
            | Self::ExpiryMissing
            | Self::SuccessorValueMissing
            | Self::TooFarAhead(_) => false,
        }
    }
}

/// The largest number of participants in a session.
pub const PARTICIPANTS_MAX: usize = 1000;
/// The largest number of items in one bulk call.
pub const BULK_ITEMS_MAX: usize = 1000;
/// The largest number of participants, aliases and tokens in one call, over all its items: one transaction holds up all others.
pub const CALL_PARTS_MAX: usize = 5000;
