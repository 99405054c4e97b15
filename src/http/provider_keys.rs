//! The keys of an issuer's provider, as whoever verifies its tokens gets them: from the address book, from what was written down while the provider is
//! away, without those that nobody shall believe.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::state::AppState;
use crate::issuers::{Away, COOL_DOWN, Freshness, ProviderKeys};
use crate::model::issuer::IssuerRecord;
use crate::model::key::KeyState;
use crate::model::{IssuerId, Timestamp};
use crate::store::StoreError;
use crate::token::PublicJwk;
use crate::token::jwks::sightings;

/// Why there are no keys to verify with.
#[derive(Debug)]
pub enum NoKeys {
    /// Nobody registered where they are.
    NotSetUp,
    /// They cannot be had. Why, the address book told the log when it asked.
    Away,
    /// The database was not to be had.
    Store(StoreError),
}

impl From<StoreError> for NoKeys {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether other keys would have made a difference to a token that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It names a key that was not there.
    UnknownKey,
    /// No key that was there made its signature.
    Signature,
    /// None would.
    Token,
}

/// A token held against its issuer's keys; a second time against fresh ones, where a key may have changed under its name.
pub async fn held_against_keys<T, R>(
    app: &AppState,
    issuer: &IssuerRecord,
    kid: Option<&str>,
    now: Timestamp,
    verify: impl Fn(&[PublicJwk]) -> Result<T, R>,
    blame: impl Fn(&R) -> Blame,
) -> Result<Result<T, R>, NoKeys> {
    let unwanted = Unwanted::of(app, issuer).await?;
    let (keys, freshness) = keys(app, issuer, kid, now).await?;
    match (verify(&unwanted.left_out(&keys)), freshness) {
        (Err(refused), Freshness::Remembered) if blame(&refused) != Blame::Token => {
            let again = app.book.keys_again(issuer, now).await.map_err(|_| NoKeys::Away)?;
            remember(app, issuer, &again).await?;
            match (verify(&unwanted.left_out(&again.0)), again.1) {
                // A key may be new that the provider, when it was asked last, had no answer for.
                (Err(refused), Freshness::Remembered)
                    if blame(&refused) == Blame::UnknownKey && again.0.document.fetched_at.plus(COOL_DOWN) <= now =>
                {
                    Err(NoKeys::Away)
                }
                (held, _) => Ok(held),
            }
        }
        (held, _) => Ok(held),
    }
}

/// Keys that are not believed although the provider publishes them.
struct Unwanted {
    /// By name: what an operator dropped.
    dropped: Vec<String>,
    /// By thumbprint: what was imported here and withdrawn.
    withdrawn: Vec<String>,
}

impl Unwanted {
    async fn of(app: &AppState, issuer: &IssuerRecord) -> Result<Self, StoreError> {
        let ours = app.store.keys(&issuer.id).await?;
        let withdrawn = ours.iter().filter(|key| key.state == KeyState::Withdrawn);
        let withdrawn = withdrawn.filter_map(|key| PublicJwk::parse(&key.public_jwk).ok()).map(|key| key.thumbprint()).collect();
        Ok(Self { dropped: app.store.dropped_keys(&issuer.id).await?, withdrawn })
    }

    fn left_out<'a>(&self, keys: &'a ProviderKeys) -> Cow<'a, [PublicJwk]> {
        if self.dropped.is_empty() && self.withdrawn.is_empty() {
            return Cow::Borrowed(&keys.keys);
        }
        let is_unwanted = |key: &&PublicJwk| {
            key.kid().is_some_and(|kid| self.dropped.iter().any(|dropped| dropped == kid)) || self.withdrawn.contains(&key.thumbprint())
        };
        Cow::Owned(keys.keys.iter().filter(|key| !is_unwanted(key)).cloned().collect())
    }
}

type Known = (Arc<ProviderKeys>, Freshness);

/// What is remembered or the provider says; where it says nothing, what was written down.
pub async fn keys(app: &AppState, issuer: &IssuerRecord, kid: Option<&str>, now: Timestamp) -> Result<Known, NoKeys> {
    let known = match app.book.keys_for(issuer, kid, None, now).await {
        Ok(known) => known,
        Err(Away::Unknown) => return Err(NoKeys::NotSetUp),
        Err(Away::Unread { .. } | Away::Refused(_) | Away::Cooling) => {
            let stored = app.store.provider_document(&issuer.id).await?;
            app.book.keys_for(issuer, kid, stored, now).await.map_err(|_| NoKeys::Away)?
        }
    };
    remember(app, issuer, &known).await?;
    Ok(known)
}

/// Writes down what was fetched, and which of our keys were among it. Where relying parties come to us for keys, a provider that answers with ours is this
/// server by way of a proxy, and is not believed.
async fn remember(app: &AppState, issuer: &IssuerRecord, (keys, freshness): &Known) -> Result<(), NoKeys> {
    match freshness {
        Freshness::Remembered => return Ok(()),
        Freshness::Fetched => {}
    }
    let ours = app.store.keys(&issuer.id).await?;
    match sightings(&ours, &keys.document, issuer.source.published_at) {
        Ok(sightings) => {
            app.store.saw_provider(keys.document.clone(), sightings).await?;
            Ok(())
        }
        Err(refused) => {
            app.book.disbelieve(&issuer.id, refused);
            Err(NoKeys::Away)
        }
    }
}

/// How long what is recalled is taken for current while the database answers.
const RECALLED_FOR: Duration = Duration::from_secs(10);

/// An issuer and its provider's keys, as they were when the database answered last: for those who go on without it.
#[derive(Clone, Debug)]
pub struct Recalled {
    /// The issuer.
    pub issuer: IssuerRecord,
    /// The keys that may be believed.
    pub keys: Vec<PublicJwk>,
    at: Timestamp,
}

/// What is recalled, by issuer. Lost with the process.
#[derive(Debug, Default)]
pub struct Recall {
    known: Mutex<HashMap<IssuerId, Arc<Recalled>>>,
    /// Those that are being noted.
    noting: Mutex<HashSet<IssuerId>>,
}

impl Recall {
    /// What was known last.
    pub fn of(&self, issuer: &IssuerId) -> Option<Arc<Recalled>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(issuer).cloned()
    }

    /// Notes what is known now, in a task of its own, unless that was done a moment ago or is being done.
    pub fn note_beside(&self, app: &AppState, issuer: &IssuerRecord, now: Timestamp) {
        let current = |recalled: &Arc<Recalled>| recalled.at.plus(RECALLED_FOR) > now && recalled.issuer == *issuer;
        if self.of(&issuer.id).as_ref().is_some_and(current) || !self.noting().insert(issuer.id.clone()) {
            return;
        }
        let (app, issuer) = (app.clone(), issuer.clone());
        drop(app.tasks.clone().spawn("recall", async move {
            app.recall.note(&app, &issuer, now).await;
            app.recall.noting().remove(&issuer.id);
        }));
    }

    fn noting(&self) -> MutexGuard<'_, HashSet<IssuerId>> {
        self.noting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An issuer whose keys cannot be had stays as it is.
    async fn note(&self, app: &AppState, issuer: &IssuerRecord, now: Timestamp) {
        let Ok(unwanted) = Unwanted::of(app, issuer).await else { return };
        let Ok((keys, _)) = keys(app, issuer, None, now).await else { return };
        let recalled = Recalled { issuer: issuer.clone(), keys: unwanted.left_out(&keys).into_owned(), at: now };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(issuer.id.clone(), Arc::new(recalled));
    }

    /// Forgets an issuer that is gone.
    pub fn forget(&self, issuer: &IssuerId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(issuer);
    }
}
