//! Certificates that were registered or configured, as far as their end is of interest.

use super::key::words;
use super::{ClientId, IssuerId, Timestamp};

words! {
    /// What a certificate is for.
    CertificateKind, "a kind of certificate" {
        /// It is shown to a receiver.
        Client = "client",
        /// It vouches for receivers.
        Authority = "authority",
        /// It is shown to those who call here.
        Listener = "listener",
    }
}

/// Whose registration holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    /// The issuer.
    pub issuer: IssuerId,
    /// The client; none where it is the issuer's own.
    pub client_id: Option<ClientId>,
}

/// The certificates of one registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Whose.
    pub holder: Holder,
    /// When the first of those that are shown expires.
    pub shown_until: Option<Timestamp>,
    /// Those that are trusted, in PEM.
    pub ca_pem: Option<String>,
}
