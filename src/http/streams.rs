//! Places for those who follow a logout: so many for all, and of these a fifth for any one caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What part of all places one caller may have.
const PART: usize = 5;

/// The places.
#[derive(Debug)]
pub struct Streams {
    all: Arc<Semaphore>,
    each_max: usize,
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held(Mutex<HashMap<String, usize>>);

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    _place: OwnedSemaphorePermit,
    held: Arc<Held>,
    identity: String,
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All of them are taken.
    All,
    /// This caller has as many as it may.
    Own,
}

impl Streams {
    /// So many for all.
    pub fn new(max: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), each_max: (max / PART).max(1), held: Arc::default() }
    }

    /// One for this caller.
    pub fn take(&self, identity: &str) -> Result<Place, Full> {
        let place = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Full::All)?;
        let mut held = self.held.counts();
        let count = held.entry(identity.to_owned()).or_insert(0);
        if *count >= self.each_max {
            return Err(Full::Own);
        }
        *count += 1;
        Ok(Place { _place: place, held: Arc::clone(&self.held), identity: identity.to_owned() })
    }
}

impl Held {
    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.counts();
        match held.get_mut(&self.identity) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(held.remove(&self.identity)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_a_fifth_and_others_have_the_rest() {
        let streams = Streams::new(11);
        let (one, _two) = (streams.take("a").unwrap(), streams.take("a").unwrap());
        assert_eq!(streams.take("a").unwrap_err(), Full::Own);
        let others: Vec<_> = (0..9).map(|number| streams.take(&number.to_string()).unwrap()).collect();
        assert_eq!(streams.take("z").unwrap_err(), Full::All);
        drop(one);
        assert!(streams.take("a").is_ok());
        drop(others);
        assert_eq!(streams.held.counts().len(), 1, "who is gone is forgotten");
        assert!(Streams::new(2).take("a").is_ok());
    }
}
