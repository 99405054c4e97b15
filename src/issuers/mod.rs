//! The address book: trusted providers, what they publish about themselves, their keys, and what they say of their tokens; and the keys of clients that
//! publish theirs.
//!
//! Owns what was fetched from each provider, in memory, and when it may be fetched again; of what is said about a token nothing is kept. Never writes it
//! down: whoever runs a chore or a door does. Never believes what it fetched more than the standards ask: `iss` must be the issuer's to the letter (Discovery 4.3), keys are public, few and strong.
//!
//! Why a cool-down: anybody may send a token that names a key nobody knows. Whatever they send, a provider is asked at most once in half a minute.
//!
//! Why one that is away is believed for a while: a logout token that cannot be checked is a logout that does not happen.

mod client_keys;
mod discovery;
mod introspection;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use url::Url;

use self::client_keys::ClientKeys;
use self::discovery::Discovered;
pub use self::discovery::Metadata;
use self::introspection::QUESTIONS_MAX;
pub use self::introspection::{Question, Silence, Word};
use crate::egress::{Egress, Fetch, FetchError, locked};
use crate::model::client::Network;
use crate::model::issuer::{IssuerRecord, ProviderDocument, ProviderSource};
use crate::model::key::{KeyRecord, Sighting};
use crate::model::{Issuer, IssuerId, Timestamp};
use crate::token::jwks::{JWKS_OCTETS_MAX, provider_set, sightings};
use crate::token::{JwkRefused, JwkSet, PublicJwk};

/// How soon a provider is asked again at the earliest, whoever wants what.
pub const COOL_DOWN: Duration = Duration::from_secs(30);

/// How long what it said is taken for current.
pub const FRESH_FOR: Duration = Duration::from_mins(10);

/// How long one document may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);

/// How large the metadata may be, in octets.
const METADATA_OCTETS_MAX: usize = 64 * 1024;

/// Why a provider's keys cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// Nobody said where they are.
    #[error("it is not known where the provider publishes its keys")]
    Unknown,
    /// It did not answer, or not as it must.
    #[error("{what} cannot be read: {why}")]
    Unread {
        /// Which document.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The key set is not one.
    #[error("the key set {0}")]
    Refused(#[from] JwkRefused),
    /// It was asked not long ago, in vain.
    #[error("the provider did not answer a moment ago")]
    Cooling,
}

/// A provider's public signing keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderKeys {
    /// All of them.
    pub keys: Vec<PublicJwk>,
    /// What they were read from.
    pub document: ProviderDocument,
}

impl ProviderKeys {
    fn read(document: ProviderDocument) -> Result<Self, JwkRefused> {
        let keys = JwkSet::parse(&document.jwks)?.keys;
        Ok(Self { keys, document })
    }

    /// Whether one of them has this name.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid() == Some(kid))
    }
}

/// Whether the provider was asked for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It was just asked: whoever can should write it down.
    Fetched,
    /// It is what was known.
    Remembered,
}

/// What is known of one provider.
struct Entry {
    known: Mutex<Known>,
    /// Places for questions about tokens: a provider that hangs holds up its own.
    questions: Semaphore,
    /// Whoever asks holds it: the others wait for the answer, if they need one.
    asking: tokio::sync::Mutex<()>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { known: Mutex::default(), questions: Semaphore::new(QUESTIONS_MAX), asking: tokio::sync::Mutex::default() }
    }
}

#[derive(Default)]
struct Known {
    /// Which provider that was: an issuer may be changed.
    of: Option<(Issuer, ProviderSource)>,
    keys: Option<Arc<ProviderKeys>>,
    asked_at: Option<Timestamp>,
}

/// What is known of all of them.
pub struct AddressBook {
    egress: Arc<Egress>,
    entries: Mutex<HashMap<IssuerId, Arc<Entry>>>,
    clients: ClientKeys,
}

impl std::fmt::Debug for AddressBook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressBook").finish_non_exhaustive()
    }
}

impl AddressBook {
    /// An empty one.
    pub fn new(egress: Arc<Egress>) -> Self {
        Self { egress, entries: Mutex::default(), clients: ClientKeys::default() }
    }

    /// Asks the provider now: its metadata where they are to be believed (Discovery 4), then its keys. Nothing keeps it from asking too often.
    pub async fn fetch(&self, issuer: &IssuerRecord, now: Timestamp) -> Result<ProviderDocument, Away> {
        let found = if issuer.source.discovery { Some(self.discover(issuer).await?) } else { None };
        let (metadata, jwks_uri, text) = match (&issuer.source.jwks_uri, found) {
            (None, None) => return Err(Away::Unknown),
            // The discovery read the keys too.
            (None, Some(Discovered { text, metadata, jwks })) => (Some(text), metadata.jwks_uri, jwks),
            (Some(jwks_uri), found) => {
                let text = self.read(jwks_uri, &issuer.network, "the provider's key set", JWKS_OCTETS_MAX).await?;
                (found.map(|found| found.text), jwks_uri.clone(), text)
            }
        };
        let set = provider_set(&text)?;
        Ok(ProviderDocument { issuer: issuer.id.clone(), jwks_uri, metadata, jwks: set.to_json(), fetched_at: now })
    }

    /// The same, and which of our keys are among what it publishes; refused where that is this server by way of a proxy.
    pub async fn sight(
        &self,
        issuer: &IssuerRecord,
        ours: &[KeyRecord],
        now: Timestamp,
    ) -> Result<(ProviderDocument, Vec<Sighting>), Away> {
        let document = self.fetch(issuer, now).await?;
        let sightings = sightings(ours, &document, issuer.source.published_at)?;
        Ok((document, sightings))
    }

    /// The keys to check a token of the provider's with: what is known, or what it says now if that is old or lacks the named key. A provider that is
    /// away is believed for 7 days; what was written down is taken where nothing is remembered.
    pub async fn keys_for(
        &self,
        issuer: &IssuerRecord,
        kid: Option<&str>,
        stored: Option<ProviderDocument>,
        now: Timestamp,
    ) -> Result<(Arc<ProviderKeys>, Freshness), Away> {
        self.look(issuer, stored, now, |keys| kid.is_some_and(|kid| !keys.has(kid))).await
    }

    /// The same keys, asked for again if that is allowed by now: a key may have changed under its name.
    pub async fn keys_again(&self, issuer: &IssuerRecord, now: Timestamp) -> Result<(Arc<ProviderKeys>, Freshness), Away> {
        self.look(issuer, None, now, |_| true).await
    }

    /// Forgets what a provider said, but not that it was asked.
    pub fn disbelieve(&self, issuer: &IssuerId, why: JwkRefused) {
        tracing::warn!(%issuer, error = %why, "what the provider publishes is not believed");
        locked(&self.entry(issuer).known).keys = None;
    }

    /// Forgets an issuer.
    pub fn forget(&self, issuer: &IssuerId) {
        locked(&self.entries).remove(issuer);
    }

    async fn look(
        &self,
        issuer: &IssuerRecord,
        stored: Option<ProviderDocument>,
        now: Timestamp,
        lacks: impl Fn(&ProviderKeys) -> bool,
    ) -> Result<(Arc<ProviderKeys>, Freshness), Away> {
        let entry = self.entry(&issuer.id);
        // What is known and fits needs nobody's answer.
        if let Some(keys) = locked(&entry.known).fitting(issuer, stored, now, &lacks) {
            return Ok((keys, Freshness::Remembered));
        }
        let _asking = entry.asking.lock().await;
        if let Some(keys) = locked(&entry.known).fitting(issuer, None, now, &lacks) {
            return Ok((keys, Freshness::Remembered));
        }
        if locked(&entry.known).may_be_asked(now) {
            match self.fetch(issuer, now).await.and_then(|document| ProviderKeys::read(document).map_err(Away::from)) {
                Ok(keys) => {
                    let keys = Arc::new(keys);
                    locked(&entry.known).keys = Some(Arc::clone(&keys));
                    return Ok((keys, Freshness::Fetched));
                }
                Err(away) => {
                    tracing::warn!(issuer = %issuer.id, error = %away, "the provider's keys cannot be read: the last known are used, if any");
                    if locked(&entry.known).keys.is_none() {
                        return Err(away);
                    }
                }
            }
        }
        locked(&entry.known).believed(now).map(|keys| (keys, Freshness::Remembered)).ok_or(Away::Cooling)
    }

    fn entry(&self, issuer: &IssuerId) -> Arc<Entry> {
        Arc::clone(locked(&self.entries).entry(issuer.clone()).or_default())
    }

    async fn read(&self, url: &Url, network: &Network, what: &'static str, octets_max: usize) -> Result<String, Away> {
        let fetch = Fetch { url, network, accept: "application/json", octets_max, timeout: PATIENCE };
        let fetched = self.egress.fetch(fetch).await.map_err(|error| Away::Unread { what, why: error.to_string() })?;
        if fetched.status != 200 {
            return Err(Away::Unread { what, why: format!("it answers {}", fetched.status) });
        }
        String::from_utf8(fetched.body).map_err(|_| Away::Unread { what, why: "it is not UTF-8".to_owned() })
    }
}

impl Known {
    /// What may be used without asking: it is believed, holds what is wanted, and is either fresh or cannot be asked for yet.
    fn fitting(
        &mut self,
        issuer: &IssuerRecord,
        stored: Option<ProviderDocument>,
        now: Timestamp,
        lacks: impl Fn(&ProviderKeys) -> bool,
    ) -> Option<Arc<ProviderKeys>> {
        self.be_of(issuer);
        if self.keys.is_none() {
            self.keys = stored.and_then(|document| ProviderKeys::read(document).ok()).map(Arc::new);
        }
        let keys = self.believed(now).filter(|keys| !lacks(keys))?;
        (keys.document.fetched_at.plus(FRESH_FOR) > now || self.is_cooling(now)).then_some(keys)
    }

    fn believed(&self, now: Timestamp) -> Option<Arc<ProviderKeys>> {
        self.keys.clone().filter(|keys| keys.document.is_believed(now))
    }

    fn is_cooling(&self, now: Timestamp) -> bool {
        self.asked_at.is_some_and(|asked| asked.plus(COOL_DOWN) > now)
    }

    fn may_be_asked(&mut self, now: Timestamp) -> bool {
        let may = !self.is_cooling(now);
        if may {
            self.asked_at = Some(now);
        }
        may
    }

    /// Forgets what was known of another provider under the same short id.
    fn be_of(&mut self, issuer: &IssuerRecord) {
        let of = (issuer.issuer.clone(), issuer.source.clone());
        if self.of.as_ref() != Some(&of) {
            *self = Self { of: Some(of), ..Self::default() };
        }
    }
}

/// An error that a document could not be read, as the discovery's client reports it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unread(#[from] FetchError);
