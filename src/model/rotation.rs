//! The rotation of refresh tokens: what is asked or told, what is known, and what it may come to.

use super::report::TokenName;
use super::token::{TokenFacts, TokenPolicy};
use super::{ClientId, Sid, Timestamp};

/// A refresh token that is shown, and the one that shall take its place or has taken it.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// The client that showed it.
    pub client_id: ClientId,
    /// The names it may be registered by, the most telling first.
    pub token: Vec<TokenName>,
    /// The token its provider has minted.
    pub successor: Successor,
    /// Whether the provider asks or tells.
    pub occasion: Occasion,
}

/// A token in the place of another. It has the scope of its family, and is offline if that is.
#[derive(Clone, Debug)]
pub struct Successor {
    /// Which token.
    pub name: TokenName,
    /// When it was issued, by the provider's clock.
    pub issued_at: Option<Timestamp>,
    /// When it expires by itself; as long after its issue as its predecessor, unless said.
    pub expires_at: Option<Timestamp>,
    /// Its value, sealed, where it came by value.
    pub sealed: Option<String>,
}

/// Whether a provider asks or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// It asks, before it answers its client.
    Asked(Happened),
    /// It has decided by itself, and its client has the successor.
    Done,
}

/// Whether the provider saw something happen that makes a rotation due, such as a new network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It did.
    Something,
    /// It did not.
    Nothing,
}

/// What is known when a token is to be rotated, all of it read in one transaction.
#[derive(Clone, Debug)]
pub struct RotationFacts<'a> {
    /// What decides whether it is active.
    pub token: &'a TokenFacts,
    /// Who showed it.
    pub shown_by: ShownBy,
    /// What the client's tokens are subject to.
    pub policy: &'a TokenPolicy,
    /// Where it stands in its family.
    pub place: Place<'a>,
    /// Since when something that happened makes the family's rotation due.
    pub due_at: Option<Timestamp>,
    /// Whether the provider asks or tells.
    pub occasion: Occasion,
    /// What is known of the successor.
    pub successor: SuccessorFact,
}

/// Who showed a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownBy {
    /// The client it was issued to.
    ItsClient,
    /// Another one.
    Another,
}

/// Where a token stands in its family.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Nothing has taken its place.
    Current,
    /// The current one has taken its place.
    JustBefore {
        /// What decides whether the current one is active.
        current: &'a TokenFacts,
        /// Whether the current one can be given out again.
        kept: Kept,
    },
    /// What took its place was replaced as well.
    Earlier,
}

/// Whether a token's value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Sealed.
    Sealed,
    /// Only what it is called.
    NameAlone,
}

/// What is known of a successor before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuccessorFact {
    /// Nobody registered it.
    New,
    /// It came after that token in the same family.
    OfTheFamily,
    /// It is registered, and is no successor of that token.
    Elsewhere,
}

/// What a rotation comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationDecision {
    /// The successor takes its place.
    Rotate,
    /// It is too young, and nothing happened: it stays.
    NotDue,
    /// The successor it already has is given out again.
    Replay,
    /// The same was asked or told before.
    Repeat,
    /// The provider gave out a second successor at the same moment: it stands beside the first.
    Beside,
    /// It was used again: somebody else has it.
    Reuse,
    /// What it belongs to is over; what the provider gave out is over with it.
    Over,
    /// Nothing changes.
    Refused(RotationRefused),
}

/// Why nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationRefused {
    /// It is another client's.
    ForeignClient,
    /// It is not good, for a reason of its own.
    Inactive,
    /// Its client is suspended.
    ClientSuspended,
    /// The successor is registered elsewhere.
    OtherOwner,
}

/// How a family stands after a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyStanding {
    /// The provider's `sid` of its session.
    pub sid: Option<Sid>,
    /// How often it was rotated.
    pub generation: u64,
    /// When the successor expires, where that is sooner than was said.
    pub capped: Option<Timestamp>,
}

/// What became of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The successor took its place.
    Rotated(FamilyStanding),
    /// The token stays.
    NotDue(FamilyStanding),
    /// It was so already.
    Repeated(FamilyStanding),
    /// The first successor is given out again.
    Replayed {
        /// How the family stands.
        standing: FamilyStanding,
        /// How the first successor is registered.
        name: TokenName,
        /// Its value, sealed.
        sealed: String,
    },
}
