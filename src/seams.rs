//! Where time and chance enter the house.
//!
//! Everything below a door or a loop takes `now: Timestamp` and ids as values, so that a decision can be tested without waiting and a run can be
//! repeated from a seed. This file owns the two sources; it never decides anything with them.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::model::audit::{AuditRecord, Proof};
use crate::model::{Id, IssuerId, Timestamp, is_veiled};

/// The wall clock, moved by an offset that only tests set.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// The present instant.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    pub fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(millis.saturating_add(self.offset_ms()))
    }

    /// A reading for measuring how long something took; never compared with a [`Timestamp`].
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    /// Moves this clock and every clone of it; a database's clock is read with the same offset added.
    pub fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.offset_ms.fetch_add(millis, Ordering::SeqCst);
    }

    /// How far this clock was moved, in milliseconds.
    pub fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::SeqCst)
    }
}

/// Random octets: the operating system's, or a repeatable stream for tests.
#[derive(Clone, Debug, Default)]
pub struct Entropy {
    seeded: Option<Arc<AtomicU64>>,
}

impl Entropy {
    /// The operating system's generator.
    pub fn os() -> Self {
        Self::default()
    }

    /// A stream that repeats itself from a seed. Not for secrets.
    pub fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(AtomicU64::new(seed))) }
    }

    /// Fills a buffer with random octets.
    ///
    /// # Panics
    /// When the operating system has no random numbers to give: nothing safe can be done without them.
    pub fn fill(&self, buffer: &mut [u8]) {
        match &self.seeded {
            None => getrandom::fill(buffer).expect("the operating system provides random numbers"),
            Some(state) => {
                for chunk in buffer.chunks_mut(8) {
                    let octets = splitmix(state.fetch_add(GOLDEN_GAMMA, Ordering::SeqCst)).to_le_bytes();
                    chunk.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
                }
            }
        }
    }

    /// A random number below 2^64.
    pub fn number(&self) -> u64 {
        let mut octets = [0; 8];
        self.fill(&mut octets);
        u64::from_le_bytes(octets)
    }

    /// A number in `[0, 1)`, for jitter.
    #[expect(clippy::cast_precision_loss, reason = "53 random bits are exactly what an f64 holds")]
    pub fn unit(&self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A fresh internal id, ordered by the time it was made.
    pub fn id<T: From<Id>>(&self, now: Timestamp) -> T {
        let mut octets = [0; 16];
        self.fill(&mut octets);
        T::from(Id::from_parts(now, u128::from_le_bytes(octets)))
    }

    /// 256 random bits in base64url, as a token or a `jti`.
    pub fn token(&self) -> String {
        use base64::Engine as _;
        let mut octets = [0; 32];
        self.fill(&mut octets);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(octets)
    }
}

/// What stands for the name of somebody who was erased: by issuer and name.
type Veiling = dyn Fn(&str, &str) -> String + Send + Sync;

/// The same at one issuer.
pub type VeilHere<'v> = Box<dyn Fn(&str) -> String + Send + Sync + 'v>;

/// Turns names into what nobody without the key can read back, and nobody without it can compare with a guess.
///
/// A seam, since it takes a key, and where names are kept and looked up there are none. Empty until it is given one.
#[derive(Clone, Default)]
pub struct Veil(Arc<OnceLock<Box<Veiling>>>);

impl Veil {
    /// Gives it what it veils with; the first one stays.
    pub fn give(&self, veiling: impl Fn(&str, &str) -> String + Send + Sync + 'static) {
        drop(self.0.set(Box::new(veiling)));
    }

    /// What stands for names at an issuer, and for what stands for one already: itself, so that nothing is lost behind two of them. None without a key.
    pub fn at<'v>(&'v self, issuer: &'v IssuerId) -> Option<VeilHere<'v>> {
        let veiling = self.0.get()?;
        Some(Box::new(move |name| if is_veiled(name) { name.to_owned() } else { veiling(issuer.as_str(), name) }))
    }

    /// A name and what may stand for it.
    pub fn both(&self, issuer: &IssuerId, name: &str) -> [String; 2] {
        [name.to_owned(), self.at(issuer).map_or_else(|| name.to_owned(), |veil| veil(name))]
    }
}

impl std::fmt::Debug for Veil {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Veil")
    }
}

/// What proves a record.
type Proving = dyn Fn(&AuditRecord) -> Proof + Send + Sync;

/// Proves that this server wrote an audit record, by what nobody makes without the key.
///
/// A seam for the same reason as [`Veil`]: it takes a key, and where records are written there is none. Until it is given one, what is written proves nothing.
#[derive(Clone, Default)]
pub struct Prover(Arc<OnceLock<Box<Proving>>>);

impl Prover {
    /// Gives it what it proves with; the first one stays.
    pub fn give(&self, proving: impl Fn(&AuditRecord) -> Proof + Send + Sync + 'static) {
        drop(self.0.set(Box::new(proving)));
    }

    /// What is written beside a record.
    pub fn prove(&self, record: &AuditRecord) -> Proof {
        self.0.get().map_or_else(Proof::default, |proving| proving(record))
    }
}

impl std::fmt::Debug for Prover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prover")
    }
}

const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64: turns a counter into a well-mixed word.
fn splitmix(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(GOLDEN_GAMMA);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_the_run_and_another_seed_does_not() {
        let numbers = |seed| {
            let e = Entropy::seeded(seed);
            [e.number(), e.number()]
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn jitter_stays_below_one() {
        let entropy = Entropy::seeded(1);
        assert!((0..10_000).map(|_| entropy.unit()).all(|u| (0.0..1.0).contains(&u)));
    }

    #[test]
    fn a_moved_clock_moves_its_clones() {
        let clock = Clock::system();
        let clone = clock.clone();
        let before = clone.now();
        clock.advance(Duration::from_secs(3600));
        assert!(clone.now() >= before.plus(Duration::from_secs(3600)));
    }
}
