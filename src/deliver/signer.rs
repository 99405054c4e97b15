//! The key an attempt signs with, and the thread it signs on.
//!
//! Never keeps a token: each is made for one attempt and forgotten with it.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::egress::Manner;
use crate::lifecycle::{Died, Tasks};
use crate::model::client::ClientRecord;
use crate::model::issuer::IssuerRecord;
use crate::model::key::SigningAlg;
use crate::model::{IssuerId, Timestamp};
use crate::plan::keys::signer;
use crate::store::{Store, StoreError};
use crate::token::{ClientSecrets, Keyring, SealingKey, SigningCost, SigningKey, TokenError, Unsealable};

/// How long parsed keys are used before the register is asked again: another process may have changed them.
const KEYS_FRESH_FOR: Duration = Duration::from_mins(1);

/// Why there is no signed token: always our own fault.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignerError {
    #[error("the keys could not be read")]
    Store(#[source] StoreError),
    #[error("there is no active {0} key")]
    NoKey(SigningAlg),
    #[error("the key cannot sign")]
    Token(#[source] TokenError),
    #[error("the signing thread is gone")]
    Thread(#[source] Died),
}

/// Signs for every attempt of this process.
#[derive(Debug)]
pub(super) struct Signer {
    store: Store,
    keyring: Arc<Keyring>,
    sealing: Arc<SealingKey>,
    tasks: Tasks,
    /// One RSA signature keeps a core busy for half a millisecond: no more of them at once than there are cores.
    cores: Arc<Semaphore>,
    /// One attempt asks the register; those that need the same answer wait for it.
    asking: Semaphore,
    read: Mutex<HashMap<IssuerId, HashMap<SigningAlg, Read>>>,
}

/// Which state of the register a parsed key was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Read {
    created_at: Timestamp,
    version: i64,
    at: Timestamp,
}

impl Read {
    /// An issuer that was deleted and registered anew has other keys under the same id.
    fn holds(self, issuer: &IssuerRecord, now: Timestamp) -> bool {
        self.created_at == issuer.created_at && self.version == issuer.version && now.since(self.at) < KEYS_FRESH_FOR
    }
}

impl Signer {
    pub(super) fn new(store: Store, keyring: Arc<Keyring>, sealing: Arc<SealingKey>, tasks: Tasks) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Self { store, keyring, sealing, tasks, cores: Arc::new(Semaphore::new(cores)), asking: Semaphore::new(1), read: Mutex::default() }
    }

    /// How requests to a client are made, its secrets opened.
    pub(super) fn manner(&self, client: &ClientRecord) -> Result<Manner, Unsealable> {
        let ClientSecrets { key_pem, headers } = ClientSecrets::open(client, &self.sealing)?;
        Ok(Manner::of(&client.delivery, key_pem.as_ref().map(|key| key.as_str()), headers))
    }

    /// The active key for an algorithm: the one at hand, or the register's, unsealed and parsed once.
    pub(super) async fn key(&self, issuer: &IssuerRecord, alg: SigningAlg, now: Timestamp) -> Result<Arc<SigningKey>, SignerError> {
        if let Some(key) = self.at_hand(issuer, alg, now) {
            return Ok(key);
        }
        let _turn = self.asking.acquire().await.expect("the semaphore is never closed");
        if let Some(key) = self.at_hand(issuer, alg, now) {
            return Ok(key);
        }
        let records = self.store.keys(&issuer.id).await.map_err(SignerError::Store)?;
        let active = signer(&records, alg).ok_or(SignerError::NoKey(alg))?;
        let key = self.keyring.key_of(active, &self.sealing).map_err(SignerError::Token)?;
        self.note(issuer, alg, now);
        Ok(key)
    }

    /// Signs here if it costs little, and on a thread that may block if it does not.
    pub(super) async fn sign(
        &self,
        key: Arc<SigningKey>,
        sign: impl FnOnce(&SigningKey) -> Result<String, TokenError> + Send + 'static,
    ) -> Result<String, SignerError> {
        match key.cost() {
            SigningCost::Small => sign(&key).map_err(SignerError::Token),
            SigningCost::Large => {
                let _core = self.cores.acquire().await.expect("the semaphore is never closed");
                let signed = self.tasks.spawn_blocking("sign", move || sign(&key)).await;
                signed.map_err(SignerError::Thread)?.map_err(SignerError::Token)
            }
        }
    }

    fn at_hand(&self, issuer: &IssuerRecord, alg: SigningAlg, now: Timestamp) -> Option<Arc<SigningKey>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = read.get(&issuer.id)?.get(&alg)?.holds(issuer, now);
        drop(read);
        if holds { self.keyring.get(&issuer.id, alg) } else { None }
    }

    fn note(&self, issuer: &IssuerRecord, alg: SigningAlg, now: Timestamp) {
        let fresh = Read { created_at: issuer.created_at, version: issuer.version, at: now };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.entry(issuer.id.clone()).or_default().insert(alg, fresh);
    }
}
