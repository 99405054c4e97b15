//! The denylist: what is refused by its name until it would have expired anyway.

use std::time::Duration;

use super::{DenialId, Jti, Sid, Timestamp};

/// How far ahead an entry may end: it is for tokens, which expire, and not for people.
pub const DENIAL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// What is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The token of this `jti`.
    Jti(Jti),
    /// All tokens of the session with this `sid`, the provider's.
    Sid(Sid),
}

/// An entry of the denylist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Its own name.
    pub id: DenialId,
    /// What is refused.
    pub denied: Denied,
    /// Until when.
    pub expires_at: Timestamp,
    /// Since when.
    pub created_at: Timestamp,
}
