//! Cut-offs: what an end leaves behind, so that a login reported late is told too.

use super::trigger::Except;
use super::{ClientId, CutOffId, EventId, Sid, Subject, Timestamp};

/// What a cut-off covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutOffScope {
    /// Everything of a subject.
    Subject {
        /// Whose.
        sub: Subject,
        /// But not this session.
        except_sid: Option<Sid>,
    },
    /// An unknown or ended session, by the provider's `sid`.
    Session(Sid),
    /// Everything at a client.
    Client(ClientId),
    /// A subject at a client.
    SubjectAtClient(Subject, ClientId),
    /// A session at a client.
    SessionAtClient(Sid, ClientId),
    /// What a client knows by its own `sid`.
    ClientSid(ClientId, Sid),
    /// What a client knows by its own `sub`.
    ClientSub(ClientId, Subject),
    /// Sessions begun on a device, as far as they are registered.
    Device(String),
    /// Everybody's sessions.
    Everyone,
    /// Everybody's participations.
    EveryoneAtClients,
}

/// A cut-off as it is looked up: everything inside its scope that began before `not_before` is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutOff {
    /// What it covers.
    pub scope: CutOffScope,
    /// What it spares of that.
    pub except: Except,
    /// The instant.
    pub not_before: Timestamp,
    /// Where it comes from.
    pub origin: Origin,
    /// The event was a compromise: a tie goes against the newer login.
    pub compromise: bool,
    /// The event took offline grants along.
    pub offline: bool,
    /// What was registered in an earlier epoch is over as well, whatever its time; none leaves it to the times.
    pub epoch: Option<i64>,
}

impl CutOff {
    /// The event that left it, if one did.
    pub const fn event(&self) -> Option<&EventId> {
        match &self.origin {
            Origin::Event(event) => Some(event),
            Origin::Order { .. } => None,
        }
    }

    /// What it ends.
    pub const fn ends(&self) -> Ends {
        match (&self.origin, &self.scope) {
            (Origin::Order { .. }, _) => Ends::Tokens,
            (Origin::Event(_), CutOffScope::Subject { .. } | CutOffScope::Session(_) | CutOffScope::Device(_) | CutOffScope::Everyone) => {
                Ends::Sessions
            }
            (
                Origin::Event(_),
                CutOffScope::Client(_)
                | CutOffScope::SubjectAtClient(..)
                | CutOffScope::SessionAtClient(..)
                | CutOffScope::ClientSid(..)
                | CutOffScope::ClientSub(..)
                | CutOffScope::EveryoneAtClients,
            ) => Ends::Participations,
        }
    }
}

/// Where a cut-off comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A logout left it.
    Event(EventId),
    /// Somebody ordered it: it ends no session and tells nobody.
    Order {
        /// Its own name.
        id: CutOffId,
        /// When it ceases.
        expires_at: Option<Timestamp>,
    },
}

/// A cut-off by order, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedCutOff {
    /// Its own name.
    pub id: CutOffId,
    /// What it covers.
    pub scope: CutOffScope,
    /// Tokens issued before this instant are inactive.
    pub not_before: Timestamp,
    /// When it ceases; none: when it is removed.
    pub expires_at: Option<Timestamp>,
    /// When it was ordered.
    pub created_at: Timestamp,
}

/// How many ordered cut-offs of one issuer may hold at a time.
pub const ORDERED_MAX: u16 = 1000;

/// What a cut-off ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Sessions: of a subject, by `sid`, of everybody.
    Sessions,
    /// A client's participations, while the provider's sessions go on.
    Participations,
    /// Tokens alone, by the time they were issued.
    Tokens,
}
