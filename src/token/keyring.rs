//! Parsed signing keys at hand, so that a key is unsealed and parsed once and not at every signature.
//!
//! A cache and nothing more: it may be emptied at any moment. Which key is active is the register's knowledge; callers bring the record.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{SealingKey, SigningKey, TokenError};
use crate::model::IssuerId;
use crate::model::key::{KeyRecord, SigningAlg};

/// The largest number of issuers whose keys are kept parsed, one for each algorithm; an RSA key takes a few KiB.
pub const ISSUERS_MAX: usize = 10_000;

/// The keys that sign, by issuer and algorithm.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: RwLock<Keys>,
}

/// Two steps, so that a look-up borrows the issuer instead of copying it.
type Keys = HashMap<IssuerId, HashMap<SigningAlg, Arc<SigningKey>>>;

impl Keyring {
    /// The key last brought for this issuer and algorithm.
    pub fn get(&self, issuer: &IssuerId, alg: SigningAlg) -> Option<Arc<SigningKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(issuer)?.get(&alg).cloned()
    }

    /// The parsed key of a record: the one at hand when it is the same under the same name, else unsealed, parsed and kept in place of its predecessor.
    pub fn key_of(&self, record: &KeyRecord, sealing: &SealingKey) -> Result<Arc<SigningKey>, TokenError> {
        match self.get(&record.issuer, record.alg) {
            Some(key) if key.kid() == record.signing_kid() && key.is_of(record) => Ok(key),
            Some(_) | None => {
                // Outside the lock: it is slow, and doing it twice harms nobody.
                let key = Arc::new(SigningKey::unseal(record, sealing)?);
                self.keep(record.issuer.clone(), Arc::clone(&key));
                Ok(key)
            }
        }
    }

    /// Drops an issuer's keys, because they were changed or deleted.
    pub fn forget(&self, issuer: &IssuerId) {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(issuer);
    }

    fn keep(&self, issuer: IssuerId, key: Arc<SigningKey>) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= ISSUERS_MAX && !keys.contains_key(&issuer) {
            keys.clear();
        }
        keys.entry(issuer).or_default().insert(key.alg(), key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::model::key::KeyState;
    use crate::seams::Entropy;
    use crate::token::generate;

    fn issuer(id: &str) -> IssuerId {
        IssuerId::parse(id).unwrap()
    }

    fn sealing() -> SealingKey {
        SealingKey::generate(&Entropy::seeded(1))
    }

    fn record(at: &str, alg: SigningAlg) -> KeyRecord {
        generate(alg).unwrap().into_record(issuer(at), KeyState::Active, Timestamp::from_seconds(1), &sealing(), &Entropy::seeded(2))
    }

    #[test]
    fn a_key_is_parsed_once_and_then_at_hand() {
        let ring = Keyring::default();
        let stored = record("main", SigningAlg::EdDsa);
        assert!(ring.get(&issuer("main"), SigningAlg::EdDsa).is_none());
        let first = ring.key_of(&stored, &sealing()).unwrap();
        // Were it unsealed again, the wrong key would be noticed.
        let second = ring.key_of(&stored, &SealingKey::generate(&Entropy::seeded(9))).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&first, &ring.get(&issuer("main"), SigningAlg::EdDsa).unwrap()));
    }

    #[test]
    fn a_successor_takes_its_predecessors_place() {
        let ring = Keyring::default();
        ring.key_of(&record("main", SigningAlg::EdDsa), &sealing()).unwrap();
        let successor = record("main", SigningAlg::EdDsa);
        ring.key_of(&successor, &sealing()).unwrap();
        assert_eq!(ring.get(&issuer("main"), SigningAlg::EdDsa).unwrap().kid(), successor.kid);
    }

    #[test]
    fn issuers_and_algorithms_do_not_get_each_others_keys() {
        let ring = Keyring::default();
        let stored = [record("main", SigningAlg::EdDsa), record("main", SigningAlg::Es256), record("other", SigningAlg::EdDsa)];
        for one in &stored {
            ring.key_of(one, &sealing()).unwrap();
        }
        for one in &stored {
            assert_eq!(ring.get(&one.issuer, one.alg).unwrap().kid(), one.kid);
        }
        assert!(ring.get(&issuer("other"), SigningAlg::Es256).is_none());
        ring.forget(&issuer("main"));
        assert!(ring.get(&issuer("main"), SigningAlg::EdDsa).is_none());
        assert!(ring.get(&issuer("other"), SigningAlg::EdDsa).is_some());
    }

    #[test]
    fn the_ring_never_holds_more_issuers_than_its_bound() {
        let ring = Keyring::default();
        let key = Arc::new(SigningKey::unseal(&record("main", SigningAlg::EdDsa), &sealing()).unwrap());
        for number in 0..=ISSUERS_MAX {
            ring.keep(issuer(&format!("i{number}")), Arc::clone(&key));
            assert!(ring.keys.read().unwrap().len() <= ISSUERS_MAX);
        }
        assert!(ring.get(&issuer(&format!("i{ISSUERS_MAX}")), SigningAlg::EdDsa).is_some());
    }

    #[test]
    fn a_key_that_does_not_open_is_not_kept() {
        let ring = Keyring::default();
        let stored = record("main", SigningAlg::EdDsa);
        assert!(ring.key_of(&stored, &SealingKey::generate(&Entropy::seeded(9))).is_err());
        assert!(ring.get(&issuer("main"), SigningAlg::EdDsa).is_none());
    }
}
