//! A delivery: the duty to tell one client one thing, and where it stands.

use std::fmt;

use url::Url;

use super::key::words;
use super::{ClientId, DeliveryId, EventId, IssuerId, ParticipantId, SessionId, Sid, Subject, Timestamp};

words! {
    /// What is told.
    DeliveryKind, "a delivery kind" {
        /// A logout token of ours.
        LogoutToken = "logout_token",
        /// A logout token the provider sent, unchanged while it may be, one of ours afterwards.
        Relay = "relay",
        /// The provider is told that a session it did not end itself is over.
        Provider = "provider",
        /// The provider is told that a refresh token was revoked.
        Revocation = "revocation",
    }
}

words! {
    /// Where a delivery stands. In flight is a lease, not a state; parked and paused belong to the client.
    DeliveryState, "a delivery state" {
        /// Not settled yet.
        Pending = "pending",
        /// The client answered 2xx.
        Delivered = "delivered",
        /// The client refused it for good.
        Rejected = "rejected",
        /// Its horizon passed.
        Expired = "expired",
        /// A newer login made it harmful.
        Superseded = "superseded",
        /// It lost its reason: no URI any more, or an operator.
        Cancelled = "cancelled",
        /// The client could never be told.
        Unreachable = "unreachable",
    }
}

words! {
    /// Which deliveries go first when all wait.
    Class, "a class" {
        /// A compromise.
        Compromise = "compromise",
        /// A logout somebody waits for.
        Interactive = "interactive",
        /// One of many.
        Bulk = "bulk",
    }
}

words! {
    /// Why a delivery settled as it did.
    SettledReason, "a settled reason" {
        /// 200 or 204.
        Accepted = "accepted",
        /// Another 2xx: off the specification, taken as success (BCL 2.8).
        AcceptedOddly = "accepted_oddly",
        /// 400, confirmed as often as the client's settings ask.
        Refused = "refused",
        /// 401, 403, 404 and their like for longer than a deploy lasts.
        ConfigFault = "config_fault",
        /// A redirect, which is never followed.
        Redirected = "redirected",
        /// 410.
        Gone = "gone",
        /// The address is not one we may reach.
        Blocked = "blocked",
        /// The horizon passed.
        Horizon = "horizon",
        /// A newer login with the same names exists at that client.
        NewerLogin = "newer_login",
        /// The client is not registered.
        ClientNotRegistered = "client_not_registered",
        /// The client has no `backchannel_logout_uri`.
        NoUri = "no_uri",
        /// The client requires a `sid` that is not known (BCL 2.2).
        NoSid = "no_sid",
        /// The client's tokens carry a `sub` that is not known.
        NoSub = "no_sub",
        /// A name of the session cannot stand where the provider wants it.
        Unfit = "unfit",
        /// Its logout was undone.
        Undone = "undone",
        /// The client was deleted and its deliveries with it.
        ClientDeleted = "client_deleted",
        /// An operator cancelled it.
        Operator = "operator",
        /// Only a token of ours could be sent, and relying parties cannot find our key where the provider publishes its own.
        KeyNotPublished = "key_not_published",
        /// The refresh token that was to be revoked is no longer kept.
        TokenGone = "token_gone",
    }
}

/// The queue a delivery waits in: one per client.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(String);

impl Lane {
    /// A client's lane.
    pub fn of(issuer: &IssuerId, client_id: &ClientId) -> Self {
        Self(format!("{issuer}/{client_id}"))
    }

    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    /// What stands for all clients behind one host. No client's lane is called so: an issuer's id has no space in it.
    pub fn of_host(authority: &str) -> Self {
        Self(format!("host {authority}"))
    }

    /// What stands for the host of an address, if it names one.
    pub fn behind(uri: &Url) -> Option<Self> {
        let port = uri.port_or_known_default()?;
        Some(Self::of_host(&format!("{}:{port}", uri.host_str()?)))
    }

    /// The lane of an issuer's provider. No client's lane is called so either.
    pub fn of_provider(issuer: &IssuerId) -> Self {
        Self(format!("provider {issuer}"))
    }

    /// Whose lane it is; nobody's, if it stands for a host or a provider.
    pub fn parties(&self) -> Option<(IssuerId, ClientId)> {
        let (issuer, client) = self.0.split_once('/').filter(|(issuer, _)| !issuer.contains(' '))?;
        Some((IssuerId::stored(issuer.to_owned()), ClientId::stored(client.to_owned())))
    }

    /// Whether it stands for a host.
    pub fn is_host(&self) -> bool {
        self.0.starts_with("host ")
    }

    /// Whose provider's lane it is, if it is one.
    pub fn provider(&self) -> Option<IssuerId> {
        self.0.strip_prefix("provider ").map(|issuer| IssuerId::stored(issuer.to_owned()))
    }

    /// The lane as it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How often each kind of failure has happened to a delivery; each kind has a budget of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Network failures, 5xx, 408, 425, 429.
    pub recoverable: u16,
    /// 400.
    pub refused: u16,
    /// 401, 403, 404 and their like.
    pub config_fault: u16,
    /// 3xx.
    pub redirected: u16,
    /// Forbidden addresses.
    pub blocked: u16,
    /// Our own faults, which cost the client nothing.
    pub ours: u16,
}

/// Whether a delivery was opened again since it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was not.
    Once,
    /// It was: by a graver logout, a retry or a replay.
    Again,
}

/// What became of the claim before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorClaim {
    /// There was none, or it was settled or given back.
    Closed,
    /// Its lease ran out: whether anything was sent under it, nobody knows.
    RanOut,
}

/// A delivery that was claimed, with all that is needed to attempt it.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Which delivery.
    pub id: DeliveryId,
    /// The event it belongs to.
    pub event: EventId,
    /// Whose issuer.
    pub issuer: IssuerId,
    /// Whom to tell.
    pub client_id: ClientId,
    /// The queue it waits in.
    pub lane: Lane,
    /// What to tell.
    pub kind: DeliveryKind,
    /// The participant it is about; of a revocation, the refresh token.
    pub participant: ParticipantId,
    /// The session it is about.
    pub session: SessionId,
    /// The `sid` that client saw.
    pub sid: Option<Sid>,
    /// The `sub` that client saw.
    pub sub: Option<Subject>,
    /// Its class.
    pub class: Class,
    /// It was attempted before under its present patience.
    pub retry: bool,
    /// It is sent even where it may end a newer login.
    pub compromise: bool,
    /// When what it tells happened.
    pub occurred_at: Timestamp,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it expires.
    pub horizon_at: Timestamp,
    /// Whether it was opened again.
    pub opened: Opened,
    /// What became of the claim before this one.
    pub prior: PriorClaim,
    /// Attempts charged so far.
    pub attempts: u32,
    /// Failures so far, by kind.
    pub tally: Tally,
    /// Proof of the lease; every settlement carries it.
    pub lease_token: i64,
    /// When the lease ends.
    pub lease_until: Timestamp,
}

/// What one attempt at a delivery makes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is over.
    Settled {
        /// How.
        state: DeliveryState,
        /// Why.
        reason: SettledReason,
    },
    /// It goes on.
    Again {
        /// When.
        due_at: Timestamp,
    },
}

/// A delivery as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryView {
    /// The stable id.
    pub id: DeliveryId,
    /// The logout it belongs to.
    pub event: EventId,
    /// What is told.
    pub kind: DeliveryKind,
    /// Whom.
    pub client_id: ClientId,
    /// The `sid` that client saw.
    pub sid: Option<Sid>,
    /// Where it stands.
    pub state: DeliveryState,
    /// Why it settled so.
    pub reason: Option<SettledReason>,
    /// Its class.
    pub class: Class,
    /// The participant was reported after the logout.
    pub late_joiner: bool,
    /// Attempts charged.
    pub attempts: u32,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it is tried next, while pending.
    pub due_at: Option<Timestamp>,
    /// When it expires.
    pub horizon_at: Timestamp,
    /// When it was settled.
    pub settled_at: Option<Timestamp>,
    /// Until when tokens of that client may still work somewhere; none where nobody can say.
    pub residual_until: Option<Timestamp>,
}
