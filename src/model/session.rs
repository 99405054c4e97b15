//! Sessions and their participants.

use super::key::words;
use super::{Alias, ClientId, EventId, IssuerId, ParticipantId, ProviderKey, SessionId, Sid, Subject, Timestamp};

words! {
    /// Whether a session or a participation goes on.
    Life, "a state" {
        /// It goes on.
        Live = "live",
        /// It has ended.
        Ended = "ended",
    }
}

/// How a provider names one of its sessions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SessionName {
    /// By the `sid` clients saw, or the provider's own where they see another.
    Sid(Sid),
    /// By the provider's own key, when no client ever saw a `sid`.
    Key(ProviderKey),
    /// The one implicit session of a subject, when the provider has neither.
    Subject(Subject),
}

/// The device a session was begun on, as the provider tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The provider's stable id of the device.
    pub id: Option<String>,
    /// A name for people.
    pub label: Option<String>,
    /// The address it came from.
    pub ip: Option<String>,
    /// Its `User-Agent`.
    pub user_agent: Option<String>,
}

/// A session as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// The internal id.
    pub id: SessionId,
    /// Its issuer.
    pub issuer: IssuerId,
    /// The provider's `sid`.
    pub sid: Option<Sid>,
    /// The provider's own key.
    pub key: Option<ProviderKey>,
    /// Whose session; none when only a client's pairwise value is known.
    pub sub: Option<Subject>,
    /// When it began, by the provider's clock.
    pub started_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// When it ends if nobody uses it.
    pub idle_expires_at: Option<Timestamp>,
    /// Other names of its person.
    pub aliases: Vec<Alias>,
    /// Where it was begun.
    pub device: Device,
    /// When it was reported first.
    pub created_at: Timestamp,
    /// When a report last spoke of it.
    pub reported_at: Timestamp,
    /// When it ended, by the clock of what ended it.
    pub ended_at: Option<Timestamp>,
    /// What ended it.
    pub ended_by: Option<EventId>,
    /// Who takes part.
    pub participants: Vec<ParticipantView>,
}

/// A client in a session, with the names it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParticipantView {
    /// The internal id.
    pub id: ParticipantId,
    /// The client.
    pub client_id: ClientId,
    /// The `sid` that client saw.
    pub sid: Option<Sid>,
    /// The `sub` that client saw.
    pub sub: Option<Subject>,
    /// When it joined, by the provider's clock.
    pub joined_at: Timestamp,
    /// When its participation ended.
    pub ended_at: Option<Timestamp>,
    /// What ended it; none with an `ended_at` means that it left by itself.
    pub ended_by: Option<EventId>,
}
