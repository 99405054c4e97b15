//! A gap: a stretch of time of which a restored database knows nothing.

use super::key::words;
use super::{GapId, IssuerId, Timestamp};

words! {
    /// Why there is a gap.
    GapCause, "a cause of a gap" {
        /// The database was restored from a backup.
        Restore = "restore",
        /// An operator said so.
        Operator = "operator",
    }
}

words! {
    /// Who closed a gap.
    GapClosedBy, "who closes gaps" {
        /// An operator.
        Operator = "operator",
        /// The provider, which listed what lives.
        Provider = "provider",
    }
}

/// What happened at an issuer in this time is not known: logouts that were acknowledged may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Its id.
    pub id: GapId,
    /// At which issuer.
    pub issuer: IssuerId,
    /// When it begins: when the backup was taken.
    pub begins_at: Timestamp,
    /// When it ends: at the first start of what was restored.
    pub ends_at: Timestamp,
    /// Why there is one.
    pub cause: GapCause,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When a list of the provider's was taken that was made after its end: what lives and has a `sid` is known again.
    pub listed_at: Option<Timestamp>,
    /// When it was closed, and by whom.
    pub closed: Option<(Timestamp, GapClosedBy)>,
}

/// How long the open gaps of an issuer lasted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenGaps {
    /// When the last of them ended.
    pub ends_at: Timestamp,
    /// The same of those after which the provider has not listed what lives.
    pub unlisted_ends_at: Option<Timestamp>,
}

/// The time that all open gaps of an issuer lasted, from the first of them to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapSpan {
    /// When the first of them began.
    pub begins_at: Timestamp,
    /// When the last of them ended.
    pub ends_at: Timestamp,
}

/// What an open gap means for a token: how long it lasted, and what was said since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapFact {
    /// The open gaps of its issuer.
    pub open: OpenGaps,
    /// When it, its family or its session was known first: the earliest of issued and registered; none where nobody knows.
    pub known_at: Option<Timestamp>,
    /// What was said of its session.
    pub session: Said,
}

/// What was said of a token's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has none that lives.
    Nothing,
    /// A report spoke of it last at this time; it has no `sid`, so that no list names it.
    Nameless(Timestamp),
    /// A report spoke of it last at this time; a list would name it.
    Named(Timestamp),
}

/// What the first start on a restored database found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AfterRestore {
    /// The gaps it opened, one at each issuer.
    pub gaps: Vec<Gap>,
    /// API tokens that are good: also those that were revoked or replaced since the backup, and nobody can tell which.
    pub api_tokens: u64,
}
