//! Cut-offs: what an end leaves behind, so that a login reported late is told too.

use super::trigger::Except;
use super::{ClientId, EventId, Sid, Subject, Timestamp};

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
    /// The event that left it.
    pub event: EventId,
    /// The event was a compromise: a tie goes against the newer login.
    pub compromise: bool,
    /// The event took offline grants along.
    pub offline: bool,
    /// What was registered in an earlier epoch is over as well, whatever its time; none leaves it to the times.
    pub epoch: Option<i64>,
}
