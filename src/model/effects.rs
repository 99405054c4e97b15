//! What a trigger reaches and what it leaves: the values that pass between the decision and the database.

use super::cut_off::{CutOff, CutOffScope};
use super::delivery::{Class, SettledReason};
use super::gap::GapSpan;
use super::issuer::{Age, Expiry};
use super::rotation::{RotationDecision, RotationFacts};
use super::session::Life;
use super::token::{Lifetime, LifetimeFacts};
use super::trigger::{Except, Target, Trigger};
use super::{ClientId, EventId, Sid, Subject, Timestamp};

/// What a trigger reaches, decided before anything is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// What is selected.
    pub target: Target,
    /// What is spared of it.
    pub except: Except,
    /// Sessions, participations and grants that began at or after this instant are spared; none spares nothing that is registered.
    pub begun_before: Option<Timestamp>,
    /// Whether offline grants die too.
    pub offline: Offline,
    /// What earlier deliveries to the same sessions are made of.
    pub adopt: Adopt,
    /// The class of its deliveries.
    pub class: Class,
    /// A tie goes against the newer login, and a late attempt is sent even where it may end one.
    pub compromise: bool,
    /// What is left behind for what is reported later.
    pub cut_off: Option<CutOffScope>,
    /// Whether the provider has to be told.
    pub provider: ProviderWord,
}

/// Whether the provider has to be told that sessions of its own ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderWord {
    /// It has.
    Due,
    /// Somebody asked that it is not.
    Kept,
    /// It ended them itself.
    Known,
}

impl ProviderWord {
    /// As an event keeps it.
    pub const fn stored(self) -> Option<bool> {
        match self {
            Self::Due => Some(true),
            Self::Kept => Some(false),
            Self::Known => None,
        }
    }

    /// As an event kept it.
    pub const fn of_stored(stored: Option<bool>) -> Self {
        match stored {
            Some(true) => Self::Due,
            Some(false) => Self::Kept,
            None => Self::Known,
        }
    }
}

/// What happens to grants with `offline_access` (BCL 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offline {
    /// They survive.
    Spared,
    /// They die.
    Taken,
}

/// What happens to deliveries that earlier logouts wrote for the same sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopt {
    /// Open ones are waited for.
    Open,
    /// Open ones go first, and those that were given up are tried again.
    Reopen,
}

/// What is known of a participant when its delivery is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<'a> {
    /// The client.
    pub client_id: &'a ClientId,
    /// The `sid` it saw.
    pub sid: Option<&'a Sid>,
    /// The `sub` it saw.
    pub sub: Option<&'a Subject>,
}

/// How a delivery begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It waits for its first attempt.
    Pending {
        /// When it expires.
        horizon_at: Timestamp,
    },
    /// It is settled at once: this client cannot be told.
    Unreachable(SettledReason),
    /// Nothing is written: this client asked not to be told of such an end.
    Untold,
}

/// What is known when a session is reported.
#[derive(Clone, Debug)]
pub struct SessionFacts<'a> {
    /// The live session of that name.
    pub live: Option<LiveFact<'a>>,
    /// The latest ended session of that name.
    pub ended: Option<EndedFact>,
    /// The cut-offs whose scope covers the report.
    pub cut_offs: &'a [CutOff],
    /// The `sid` reported, which a cut-off may except.
    pub sid: Option<&'a Sid>,
    /// Whose it is said to be.
    pub sub: &'a Subject,
    /// When it is said to have begun.
    pub started_at: Option<Timestamp>,
    /// When it is said to end.
    pub said: SaidAge,
    /// Whether sessions of its issuer end by their age.
    pub expiry: Expiry,
    /// The open gaps of its issuer; none also where the report could be of no other login than the one that is known.
    pub gap: Option<GapSpan>,
    /// When it is reported.
    pub now: Timestamp,
}

/// What a report says of how long a session may live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaidAge {
    /// When it ends at the latest.
    pub expires_at: Option<Timestamp>,
    /// When it ends unless it is used.
    pub idle_expires_at: Option<Timestamp>,
}

/// The live session of a reported name.
#[derive(Clone, Copy, Debug)]
pub struct LiveFact<'a> {
    /// Whose it is; none when that is not known.
    pub sub: Option<&'a Subject>,
    /// When it began.
    pub started_at: Timestamp,
    /// When a report spoke of it last.
    pub reported_at: Timestamp,
    /// How long it may live.
    pub age: Age,
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndFact {
    /// When, by the clock of what ended it.
    pub at: Timestamp,
    /// What ended it.
    pub event: EventId,
    /// It was a compromise.
    pub compromise: bool,
    /// It took offline grants along.
    pub offline: bool,
    /// What brought it about.
    pub cause: EndCause,
}

/// What brought an end about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// Somebody posted a logout: everybody is told.
    Logout,
    /// Its time had passed: who asked for it is told.
    Age,
    /// The provider listed what lives, and it was not there: who asked for it is told.
    Absence,
}

/// A session that has ended, as a later report finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedFact {
    /// Whose it was; a `sid` may come back under another person.
    pub sub: Option<super::Subject>,
    /// When it began; a report of the same instant is the same login again.
    pub started_at: Timestamp,
    /// How long it might have lived, as far as it was known.
    pub age: Age,
    /// How it ended.
    pub end: EndFact,
}

/// What a session report means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionDecision {
    /// It adds to the live session.
    Merge,
    /// The live session belongs to somebody else.
    OtherSubject,
    /// It begins a session.
    Begin,
    /// The live session is over by its age, and a login after that came under its name: the one ends, the other begins.
    Renew,
    /// The live session is from before a gap, and a later login came under its name: the one ended in the gap, the other begins.
    Displace,
    /// It tells of a session that was over before it was reported; who takes part is told to log out.
    BeginEnded(EndFact),
    /// It tells of a session that has ended; who is new in it is told to log out.
    JoinEnded,
}

/// What is known when a participant is reported.
#[derive(Clone, Debug)]
pub struct ParticipantFacts<'a> {
    /// Whether its session goes on, and what ended it.
    pub session_end: Option<&'a EndFact>,
    /// Whether the same participation is registered, and how it stands: the live one, else the latest.
    pub known: Option<KnownParticipation>,
    /// The cut-offs whose scope covers it.
    pub cut_offs: &'a [CutOff],
    /// When it is said to have joined.
    pub joined_at: Option<Timestamp>,
}

/// How a registered participation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownParticipation {
    /// It goes on, or has ended.
    pub life: Life,
    /// When it was joined; a report of the same instant is the same report again.
    pub joined_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// What a participant's report means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParticipantDecision {
    /// Nothing new.
    Known,
    /// It joins.
    Join,
    /// It joined before its end was committed: it is told to log out at once.
    LateJoiner(EndFact),
    /// It joined after its session's time had passed, so that the provider had given it more: it is over here, and nobody is told.
    Overtaken(EndFact),
}

/// The rules a report is judged by; `plan` provides them, `store` applies them inside its transaction.
#[derive(Clone, Copy, Debug)]
pub struct ReportRules {
    /// What a session report means.
    pub session: fn(&SessionFacts<'_>) -> SessionDecision,
    /// What a participant's report means.
    pub participant: fn(&ParticipantFacts<'_>) -> ParticipantDecision,
    /// What a token's report means.
    pub token: fn(&TokenReportFacts<'_>) -> TokenDecision,
    /// How a delivery begins.
    pub opening: OpeningRule,
    /// How a delivery of an end by age begins.
    pub opening_by_age: OpeningRule,
    /// How one of a session begins whose name a new login has taken.
    pub opening_by_renewal: OpeningRule,
    /// What a rotation comes to.
    pub rotation: RotationRule,
    /// Whether a token may live as long as it is said to.
    pub lifetime: fn(&LifetimeFacts) -> Lifetime,
    /// What the reuse of a token reaches.
    pub reach: fn(&Trigger) -> Reach,
}

/// What a rotation comes to, given what is known.
pub type RotationRule = fn(&RotationFacts<'_>, Timestamp) -> RotationDecision;

/// How a delivery to a client begins, given its registration.
pub type OpeningRule = fn(&Told<'_>, Option<&super::client::ClientRecord>, Timestamp) -> Opening;

/// How the deliveries of a work begin.
#[derive(Clone, Copy, Debug)]
pub struct WorkRules {
    /// Those of a logout.
    pub opening: OpeningRule,
    /// Those of sessions that end by their age.
    pub by_age: OpeningRule,
}

/// What is known when a refresh token is reported.
#[derive(Clone, Debug)]
pub struct TokenReportFacts<'a> {
    /// The end of its session; none when the session goes on, or when it has none.
    pub session_end: Option<&'a EndFact>,
    /// Its session goes on.
    pub session_live: bool,
    /// Spared by a plain end, since it was granted with `offline_access`, or taken by any.
    pub offline: Offline,
    /// The cut-offs whose scope covers it.
    pub cut_offs: &'a [CutOff],
    /// When it was issued.
    pub issued_at: Option<Timestamp>,
}

/// What a token's report means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenDecision {
    /// It is registered as live.
    Live,
    /// It is registered as revoked by that event, and the report is refused: its session has ended.
    Revoked(EventId),
    /// It is registered as revoked by a cut-off.
    CutOff(EventId),
    /// It belongs to a session that is not registered: nothing is stored.
    UnknownSession,
}
