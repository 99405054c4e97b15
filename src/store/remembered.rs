//! What every request asks for again, remembered until the next commit: issuers, and the API tokens of callers.
//!
//! Only where one process owns the database, so that every commit there is passes by here: a look that begins after a commit was acknowledged sees it.
//! May be lost at any moment, and is as a whole whenever something was committed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::access::ShownApiToken;
use crate::model::issuer::IssuerRecord;
use crate::model::{Digest, IssuerId};

/// How much is remembered of one kind at most; callers cannot make it grow beyond that.
const REMEMBERED_MAX: usize = 1024;

/// How many commits there were.
#[derive(Clone, Debug, Default)]
pub(super) struct Commits(Arc<AtomicU64>);

impl Commits {
    /// One more. Told before whoever asked for it hears of it.
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn so_far(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What was found since the last commit.
pub(super) struct Remembered {
    commits: Commits,
    pub(super) issuers: Kind<IssuerId, IssuerRecord>,
    pub(super) api_tokens: Kind<Digest, ShownApiToken>,
}

impl Remembered {
    pub(super) fn new(commits: Commits) -> Self {
        Self { commits, issuers: Kind::default(), api_tokens: Kind::default() }
    }

    /// The point in time a look belongs to; taken before the look.
    pub(super) fn since(&self) -> Since {
        Since(self.commits.so_far())
    }
}

/// Between two commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Since(u64);

/// Values of one kind, and since when they are known.
pub(super) struct Kind<K, V>(Mutex<(Since, HashMap<K, V>)>);

impl<K, V> Default for Kind<K, V> {
    fn default() -> Self {
        Self(Mutex::new((Since(0), HashMap::new())))
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Kind<K, V> {
    /// What was found, if nothing was committed since.
    pub(super) fn get(&self, key: &K, since: Since) -> Option<V> {
        let known = self.locked();
        (known.0 == since).then(|| known.1.get(key).cloned()).flatten()
    }

    /// Remembers what a look found that began then.
    pub(super) fn put(&self, key: &K, value: &V, since: Since) {
        let mut known = self.locked();
        if known.0 != since {
            *known = (since, HashMap::new());
        }
        if known.1.len() < REMEMBERED_MAX {
            known.1.insert(key.clone(), value.clone());
        }
    }

    fn locked(&self) -> MutexGuard<'_, (Since, HashMap<K, V>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_known_until_the_next_commit_and_a_look_that_began_before_it_is_not_taken_for_a_later_one() {
        let commits = Commits::default();
        let remembered = Remembered::new(commits.clone());
        let kind: Kind<u8, &str> = Kind::default();
        let before = remembered.since();
        kind.put(&1, &"old", before);
        assert_eq!(kind.get(&1, remembered.since()), Some("old"));
        commits.count();
        assert_eq!(kind.get(&1, remembered.since()), None);
        let after = remembered.since();
        kind.put(&1, &"new", after);
        kind.put(&2, &"late", before);
        assert_eq!((kind.get(&1, after), kind.get(&2, after)), (None, None), "a late answer costs a look, and is no answer");
    }

    #[test]
    fn no_more_than_so_much_is_kept() {
        let kind: Kind<usize, ()> = Kind::default();
        for key in 0..2 * REMEMBERED_MAX {
            kind.put(&key, &(), Since(0));
        }
        assert_eq!(kind.locked().1.len(), REMEMBERED_MAX);
    }
}
