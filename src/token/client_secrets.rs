//! What the requests to one client carry that rests sealed: the key of a certificate, and headers.
//!
//! Owns their form at rest. Never says what they are in an error or to whoever prints them.

use std::fmt;

use zeroize::Zeroizing;

use super::{Sealed, SealingKey, Unsealable};
use crate::model::client::ClientRecord;
use crate::model::{ClientId, IssuerId};
use crate::seams::Entropy;

/// A header: its name and its value.
pub type Header = (String, Zeroizing<String>);

/// The secrets of one client, opened.
#[derive(Default)]
pub struct ClientSecrets {
    /// The private key of its certificate, in PEM.
    pub key_pem: Option<Zeroizing<String>>,
    /// Its headers.
    pub headers: Vec<Header>,
}

impl ClientSecrets {
    /// Opens what a registration holds.
    pub fn open(client: &ClientRecord, sealing: &SealingKey) -> Result<Self, Unsealable> {
        let (issuer, id, delivery) = (&client.issuer, &client.client_id, &client.delivery);
        let key_pem =
            delivery.certificate.as_ref().map(|certificate| open_key(issuer, id, &certificate.sealed_key, sealing)).transpose()?;
        let headers = delivery.headers.as_ref().map_or(Ok(Vec::new()), |headers| open_headers(issuer, id, &headers.sealed, sealing))?;
        Ok(Self { key_pem, headers })
    }
}

impl fmt::Debug for ClientSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSecrets(hidden)")
    }
}

/// Seals the private key of a client's certificate.
pub fn seal_key(issuer: &IssuerId, id: &ClientId, key_pem: &str, sealing: &SealingKey, entropy: &Entropy) -> String {
    sealing.seal_text(&Sealed::client_tls(issuer, id), key_pem.as_bytes(), entropy)
}

/// Opens the private key of a client's certificate.
pub fn open_key(issuer: &IssuerId, id: &ClientId, sealed: &str, sealing: &SealingKey) -> Result<Zeroizing<String>, Unsealable> {
    let octets = sealing.open_text(&Sealed::client_tls(issuer, id), sealed)?;
    let text = std::str::from_utf8(&octets).map_err(|_| Unsealable::Damaged)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Seals a client's headers.
pub fn seal_headers(issuer: &IssuerId, id: &ClientId, headers: &[Header], sealing: &SealingKey, entropy: &Entropy) -> String {
    // A line each: neither a name nor a value holds a line end, and a name holds no colon.
    let mut lines = Zeroizing::new(String::new());
    for (name, value) in headers {
        for part in [name.as_str(), ":", value.as_str(), "\n"] {
            lines.push_str(part);
        }
    }
    sealing.seal_text(&Sealed::client_headers(issuer, id), lines.as_bytes(), entropy)
}

/// Opens a client's headers.
pub fn open_headers(issuer: &IssuerId, id: &ClientId, sealed: &str, sealing: &SealingKey) -> Result<Vec<Header>, Unsealable> {
    let octets = sealing.open_text(&Sealed::client_headers(issuer, id), sealed)?;
    let lines = std::str::from_utf8(&octets).map_err(|_| Unsealable::Damaged)?.lines();
    let headers = lines.map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), Zeroizing::new(value.to_owned()))));
    headers.collect::<Option<_>>().ok_or(Unsealable::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u64) -> SealingKey {
        SealingKey::generate(&Entropy::seeded(seed))
    }

    #[test]
    fn what_was_sealed_for_one_client_opens_for_it_alone_and_with_the_same_key_alone() {
        let (main, wiki, blog) = (IssuerId::parse("main").unwrap(), ClientId::parse("wiki").unwrap(), ClientId::parse("blog").unwrap());
        let headers: Vec<Header> = [("Authorization", "Basic a:b"), ("X-Empty-Looking", ":"), ("X-Key", "a = b")]
            .map(|(name, value)| (name.to_owned(), Zeroizing::new(value.to_owned())))
            .into();
        let entropy = Entropy::seeded(2);
        let sealed = seal_headers(&main, &wiki, &headers, &key(1), &entropy);
        assert_eq!(open_headers(&main, &wiki, &sealed, &key(1)).unwrap(), headers);
        assert!(open_headers(&main, &blog, &sealed, &key(1)).is_err() && open_headers(&main, &wiki, &sealed, &key(3)).is_err());
        let sealed = seal_key(&main, &wiki, "a key", &key(1), &entropy);
        assert_eq!(open_key(&main, &wiki, &sealed, &key(1)).unwrap().as_str(), "a key");
        assert!(open_key(&main, &blog, &sealed, &key(1)).is_err() && open_headers(&main, &wiki, &sealed, &key(1)).is_err());
    }
}
