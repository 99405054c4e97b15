//! Clients' secrets: what is kept of one, and whether a shown one is it.

use super::SealingKey;
use super::digest::digests_match;
use crate::model::client::ClientRecord;
use crate::model::{ClientId, Digest, IssuerId};

/// The keyed digest a client's secret is kept as.
pub fn secret_digest(sealing: &SealingKey, issuer: &IssuerId, client_id: &ClientId, secret: &str) -> Digest {
    sealing.keyed_digest("client-secret", &[issuer.as_str().as_bytes(), client_id.as_str().as_bytes(), secret.as_bytes()])
}

/// Whether that secret is the one that was registered for whom. A client that is not there, or has none, takes as long as a wrong secret.
pub fn secret_matches(sealing: &SealingKey, issuer: &IssuerId, client_id: &ClientId, secret: &str, of: Option<&ClientRecord>) -> bool {
    let registered = of.and_then(|client| client.secret_digest);
    let shown = secret_digest(sealing, issuer, client_id, secret);
    let same = digests_match(&shown, &registered.unwrap_or(Digest::from_octets([0; 32])));
    same && registered.is_some()
}
