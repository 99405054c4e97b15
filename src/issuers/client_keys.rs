//! The keys that clients publish at their `jwks_uri`, to know their assertions by.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::{AddressBook, Away, COOL_DOWN, FRESH_FOR};
use crate::egress::{effective, locked};
use crate::model::client::ClientRecord;
use crate::model::issuer::IssuerRecord;
use crate::model::{ClientId, IssuerId, Timestamp};
use crate::token::jwks::JWKS_OCTETS_MAX;
use crate::token::{JwkSet, PublicJwk};

/// How long a client that does not answer is believed: shorter than a provider, since what hangs on it is that client's own asking alone.
const STALE_MAX: Duration = Duration::from_hours(1);
/// How many clients' keys are remembered.
const CLIENTS_MAX: usize = 10_000;

/// What is known of one client's keys.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Where they are: a registration may change.
    of: Option<Url>,
    keys: Option<(Arc<Vec<PublicJwk>>, Timestamp)>,
    asked_at: Option<Timestamp>,
    /// Whoever asks holds it: the others wait for the answer.
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// What is known of all of them.
#[derive(Debug, Default)]
pub(super) struct ClientKeys(std::sync::Mutex<HashMap<(IssuerId, ClientId), Known>>);

impl Known {
    fn fitting(&self, now: Timestamp, lacks: &impl Fn(&[PublicJwk]) -> bool) -> Option<Arc<Vec<PublicJwk>>> {
        let (keys, fetched_at) = self.keys.as_ref()?;
        let is_fresh = fetched_at.plus(FRESH_FOR) > now || (self.is_cooling(now) && fetched_at.plus(STALE_MAX) > now);
        (is_fresh && !lacks(keys)).then(|| Arc::clone(keys))
    }

    fn believed(&self, now: Timestamp) -> Option<Arc<Vec<PublicJwk>>> {
        self.keys.as_ref().filter(|(_, fetched_at)| fetched_at.plus(STALE_MAX) > now).map(|(keys, _)| Arc::clone(keys))
    }

    fn is_cooling(&self, now: Timestamp) -> bool {
        self.asked_at.is_some_and(|asked| asked.plus(COOL_DOWN) > now)
    }
}

impl AddressBook {
    /// The keys a client publishes: what is known, or what it says now if that is old or lacks what is wanted. It is asked at most once in half a minute,
    /// whoever shows what; until then what is known is all there is.
    pub async fn client_keys(
        &self,
        issuer: &IssuerRecord,
        client: &ClientRecord,
        now: Timestamp,
        lacks: impl Fn(&[PublicJwk]) -> bool,
    ) -> Result<Arc<Vec<PublicJwk>>, Away> {
        let uri = client.jwks_uri.as_ref().ok_or(Away::Unknown)?;
        let name = (client.issuer.clone(), client.client_id.clone());
        let known = self.clients.known(&name, uri);
        if let Some(keys) = known.fitting(now, &lacks) {
            return Ok(keys);
        }
        let _asking = known.asking.lock().await;
        let known = self.clients.known(&name, uri);
        if let Some(keys) = known.fitting(now, &lacks) {
            return Ok(keys);
        }
        if self.clients.may_ask(&name, now) {
            match self.read_client_keys(issuer, client, uri).await {
                Ok(keys) => {
                    let keys = Arc::new(keys);
                    self.clients.keep(&name, uri, &keys, now);
                    return Ok(keys);
                }
                Err(away) => {
                    tracing::warn!(issuer = %issuer.id, client_id = %client.client_id, error = %away, "a client's keys cannot be read");
                    return known.believed(now).ok_or(away);
                }
            }
        }
        known.believed(now).ok_or(Away::Cooling)
    }

    async fn read_client_keys(&self, issuer: &IssuerRecord, client: &ClientRecord, uri: &Url) -> Result<Vec<PublicJwk>, Away> {
        let network = effective(&issuer.network, &client.delivery.network);
        let text = self.read(uri, &network, "the client's key set", JWKS_OCTETS_MAX).await?;
        Ok(JwkSet::parse(&text)?.keys)
    }
}

impl ClientKeys {
    fn known(&self, name: &(IssuerId, ClientId), uri: &Url) -> Known {
        let mut all = locked(&self.0);
        if all.len() >= CLIENTS_MAX && !all.contains_key(name) {
            all.clear();
        }
        let known = all.entry(name.clone()).or_default();
        if known.of.as_ref() != Some(uri) {
            *known = Known { of: Some(uri.clone()), asking: Arc::clone(&known.asking), ..Known::default() };
        }
        known.clone()
    }

    /// Whether this caller is the one who asks now.
    fn may_ask(&self, name: &(IssuerId, ClientId), now: Timestamp) -> bool {
        let mut all = locked(&self.0);
        let known = all.entry(name.clone()).or_default();
        let may = !known.is_cooling(now);
        if may {
            known.asked_at = Some(now);
        }
        may
    }

    fn keep(&self, name: &(IssuerId, ClientId), uri: &Url, keys: &Arc<Vec<PublicJwk>>, now: Timestamp) {
        let mut all = locked(&self.0);
        let known = all.entry(name.clone()).or_default();
        // The registration may have changed while it was asked.
        if known.of.as_ref() == Some(uri) {
            known.keys = Some((Arc::clone(keys), now));
        }
    }
}
