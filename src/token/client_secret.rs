//! Clients' secrets: what is kept of one, and whether a shown one is it.

use super::SealingKey;
use super::digest::digests_match;
use crate::model::client::ClientRecord;
use crate::model::{ClientId, Digest, IssuerId, Timestamp};

/// The keyed digest a client's secret is kept as.
pub fn secret_digest(sealing: &SealingKey, issuer: &IssuerId, client_id: &ClientId, secret: &str) -> Digest {
    sealing.keyed_digest("client-secret", &[issuer.as_str().as_bytes(), client_id.as_str().as_bytes(), secret.as_bytes()])
}

/// Whether that secret is the one that was registered for whom, or the one before as long as it is good too. A client that is not there, or has none,
/// takes as long as a wrong secret.
pub fn secret_matches(
    sealing: &SealingKey,
    (issuer, client_id): (&IssuerId, &ClientId),
    secret: &str,
    of: Option<&ClientRecord>,
    now: Timestamp,
) -> bool {
    let current = of.and_then(|client| client.secret_digest);
    let previous = of.and_then(|client| client.secret_previous).filter(|previous| previous.until > now).map(|previous| previous.digest);
    let shown = secret_digest(sealing, issuer, client_id, secret);
    let [is_current, is_previous] = [current, previous].map(|registered| {
        let same = digests_match(&shown, &registered.unwrap_or(Digest::from_octets([0; 32])));
        same & registered.is_some()
    });
    is_current | is_previous
}
