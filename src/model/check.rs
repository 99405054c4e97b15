//! How a gateway asks whether a request may pass: what the deployment decided, since nothing a request says may decide it.

use ipnet::IpNet;

use super::key::words;
use super::{Digest, IssuerId};

words! {
    /// What is answered while nothing can be said: the database is away, or the provider's keys.
    WhenUnavailable, "a choice while nothing can be said" {
        /// Nobody passes.
        Closed = "closed",
        /// Whoever has a token passes that the provider signed, that is in time, and of which nobody knows whether it was revoked.
        Open = "open",
    }
}

/// One way of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckProfile {
    /// Whose tokens.
    pub issuer: IssuerId,
    /// One of these a token must be for; none: any audience will do.
    pub audiences: Vec<String>,
    /// All of these a token must have.
    pub scopes: Vec<String>,
    /// What is answered while nothing can be said.
    pub when_unavailable: WhenUnavailable,
    /// Where the gateway is; none: it may be anywhere. Never both none here and no key.
    pub networks: Vec<IpNet>,
    /// SHA-256 of what the gateway shows; none: it need show nothing.
    pub key: Option<Digest>,
}
