//! A trigger: a verified reason to act, whatever door it came by.

use super::access::Caller;
use super::key::words;
use super::report::TokenName;
use super::session::SessionName;
use super::{ClientId, Digest, GrantId, IssuerId, SessionId, Sid, Subject, Timestamp};

words! {
    /// Why a session must end.
    Reason, "a reason" {
        /// The person logged out.
        UserLogout = "user_logout",
        /// An administrator ended it.
        Admin = "admin",
        /// Credentials or tokens fell into other hands.
        Compromise = "compromise",
        /// It ended by its age.
        Expired = "expired",
        /// The password changed.
        PasswordChanged = "password_changed",
        /// A second factor was removed.
        MfaRemoved = "mfa_removed",
        /// The address or number that identifies the person changed.
        IdentifierChanged = "identifier_changed",
        /// The account was disabled.
        AccountDisabled = "account_disabled",
        /// The account was deleted.
        AccountDeleted = "account_deleted",
        /// A rotated refresh token was used again.
        TokenReuse = "token_reuse",
        /// The provider's own logout token said so.
        Upstream = "upstream",
        /// Anything else; `reason_detail` may tell.
        Other = "other",
    }
}

/// How grave a reason is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    /// Offline grants survive.
    Plain,
    /// Offline grants die, settled failures are tried again.
    Security,
    /// As security; goes first, wins ties, and is sent even where it may end a newer login.
    Compromise,
}

impl Reason {
    /// How grave it is.
    pub const fn gravity(self) -> Gravity {
        match self {
            Self::Compromise | Self::TokenReuse | Self::AccountDisabled | Self::AccountDeleted => Gravity::Compromise,
            Self::PasswordChanged | Self::MfaRemoved | Self::IdentifierChanged => Gravity::Security,
            Self::UserLogout | Self::Admin | Self::Expired | Self::Upstream | Self::Other => Gravity::Plain,
        }
    }
}

/// What a logout names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One session of the provider's, by any of its names.
    Session(SessionName),
    /// Every session of a subject.
    Subject(Subject),
    /// Every session of a subject but one.
    SubjectExcept {
        /// Whose.
        sub: Subject,
        /// The session that goes on.
        except_sid: Sid,
    },
    /// Every participation of a client.
    Client(ClientId),
    /// A subject's participations at a client.
    SubjectAtClient {
        /// Whose.
        sub: Subject,
        /// Where.
        client_id: ClientId,
    },
    /// A session's participations of a client.
    SessionAtClient {
        /// Which session.
        sid: Sid,
        /// Where.
        client_id: ClientId,
    },
    /// A participation, by the `sid` that client saw.
    ClientSid {
        /// Where.
        client_id: ClientId,
        /// What it saw.
        client_sid: Sid,
    },
    /// Participations, by the `sub` that client saw.
    ClientSub {
        /// Where.
        client_id: ClientId,
        /// What it saw.
        client_sub: Subject,
    },
    /// Every session begun on a device.
    Device(String),
    /// The session of a refresh token's grant; an offline grant alone.
    RefreshToken {
        /// How the token is registered. Several, since a JWT may be registered by digest or by `jti`.
        names: Vec<TokenName>,
        /// All that is kept and shown of it.
        digest: Digest,
    },
    /// What the reuse of a rotated refresh token ends. Nobody names it: it is found.
    Reuse(Reused),
    /// Everybody's sessions; where clients are spared, everybody's participations at the others instead, while the sessions go on.
    Everyone,
}

/// What ends when a rotated refresh token is used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reused {
    /// Its family alone.
    Family(GrantId),
    /// The session its family hangs on.
    Session(SessionId),
    /// All sessions of its subject.
    Subject(Subject),
}

/// Whom a logout of many spares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Except {
    /// These people, by the provider's `sub`.
    pub sub: Vec<Subject>,
    /// These clients.
    pub client_id: Vec<ClientId>,
}

impl Except {
    /// Whether it spares nobody.
    pub const fn is_empty(&self) -> bool {
        self.sub.is_empty() && self.client_id.is_empty()
    }

    /// Whether it spares what is known by these names.
    pub fn spares(&self, sub: Option<&Subject>, client_id: Option<&ClientId>) -> bool {
        sub.is_some_and(|sub| self.sub.contains(sub)) || client_id.is_some_and(|client_id| self.client_id.contains(client_id))
    }
}

/// A verified reason to end something.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Whose sessions.
    pub issuer: IssuerId,
    /// Which.
    pub target: Target,
    /// But not these.
    pub except: Except,
    /// Why.
    pub reason: Reason,
    /// Why, in the caller's words.
    pub reason_detail: Option<String>,
    /// When it happened, if the caller said; otherwise the instant of the commit.
    pub occurred_at: Option<Timestamp>,
    /// A plain logout takes the offline grants along.
    pub revoke_offline_access: bool,
    /// Whether the provider shall be told; none leaves it to the rule. Who says that it shall has it asked about what is not known here, too.
    pub tell_provider: Option<bool>,
    /// On whose behalf the caller acts.
    pub actor: Option<String>,
    /// The caller's own name for what this belongs to.
    pub correlation_id: Option<String>,
    /// A note for people.
    pub note: Option<String>,
    /// Who asked.
    pub caller: Caller,
    /// The caller's key for repeating this safely.
    pub idempotency: Option<Idempotency>,
}

/// A key under which a repeated request gets the first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The `Idempotency-Key`, 1 to 255 characters.
    pub key: String,
    /// A keyed digest of the parsed body.
    pub fingerprint: Digest,
}
