//! How much of the server one caller may have.

/// How many requests in a second, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// In a second, over all processes; at least one.
    pub per_s: u16,
    /// At once, after a pause, over all processes; at least one.
    pub burst: u16,
}

/// What limits callers who have shown who they are. None is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of one API token or client.
    pub credential: Option<Pace>,
    /// Of all that ask about one issuer, but for who is never held by it ([`Caller::is_held_by_issuer`](super::access::Caller::is_held_by_issuer)).
    pub issuer: Option<Pace>,
}

/// What a request is counted as. Each has a bucket of its own, so that whatever else is going on, what ends sessions gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// It ends something: a logout, a cut-off, a provider's revocation.
    Ending,
    /// A client gives up tokens of its own, as anybody may who has one.
    GivingUp,
    /// Everything else.
    Other,
}

impl Load {
    /// A word for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ending => "ending",
            Self::GivingUp => "giving_up",
            Self::Other => "other",
        }
    }
}
