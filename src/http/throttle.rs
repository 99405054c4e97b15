//! Who was wrong about who it is, and how often.
//!
//! Kept in memory, since it only saves work and stops guessing: a restart forgives everybody, and each process counts for itself. A source is an address,
//! of IPv6 the network of 64 bits that one holder is given as a whole. Where all requests come through one proxy that is not trusted to say for whom it
//! asks (`http.trusted_proxies`), it is the source of all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::{ClientId, IssuerId, Timestamp};
use crate::plan::throttle::Failures;

/// How many are remembered at once.
const REMEMBERED_MAX: usize = 10_000;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Suspect {
    what: What,
    source: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum What {
    /// None stands for all names that can be nobody's.
    Client(IssuerId, Option<ClientId>),
    ApiToken,
}

impl Suspect {
    /// Whoever claims from there to be that client.
    pub fn client(issuer: &IssuerId, client_id: Option<&ClientId>, remote: Option<IpAddr>) -> Self {
        Self { what: What::Client(issuer.clone(), client_id.cloned()), source: remote.map(source) }
    }

    /// Whoever shows API tokens from there.
    pub fn api_token(remote: Option<IpAddr>) -> Self {
        Self { what: What::ApiToken, source: remote.map(source) }
    }
}

/// What one holder is given as a whole: an address, of IPv6 a network.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}

/// What is said of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It is right.
    Right,
    /// It is wrong, and counted.
    Wrong,
    /// It was not looked at: there were too many before. Another one is after so long.
    Unheard(Duration),
}

/// The failures of everybody.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<Suspect, Failures>>);

impl Throttle {
    /// How long nothing is looked at that this one shows; none when it may try.
    pub fn wait(&self, suspect: &Suspect, now: Timestamp) -> Option<Duration> {
        self.remembered().get(suspect)?.wait(now)
    }

    /// Looks at a try, unless there were too many. Nobody else tries in the same moment: many at once are as many as one after the other.
    pub fn judge(&self, suspect: Suspect, now: Timestamp, is_right: impl FnOnce() -> bool) -> Judged {
        let mut remembered = self.remembered();
        if let Some(wait) = remembered.get(&suspect).and_then(|failures| failures.wait(now)) {
            return Judged::Unheard(wait);
        }
        if is_right() {
            return Judged::Right;
        }
        make_room(&mut remembered, &suspect, now);
        let failures = remembered.entry(suspect).or_insert(Failures::NONE);
        *failures = failures.and_one(now);
        Judged::Wrong
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<Suspect, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets those who are forgiven; if that is not enough those who may try again, then everybody. Whoever fills it buys ten guesses by ten thousand.
fn make_room(remembered: &mut HashMap<Suspect, Failures>, suspect: &Suspect, now: Timestamp) {
    let is_full = |remembered: &HashMap<_, _>| remembered.len() >= REMEMBERED_MAX;
    if !is_full(remembered) || remembered.contains_key(suspect) {
        return;
    }
    remembered.retain(|_, failures| !failures.are_forgiven(now));
    if is_full(remembered) {
        remembered.retain(|_, failures| failures.wait(now).is_some());
    }
    if is_full(remembered) {
        remembered.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn suspect(client_id: &str, address: &str) -> Suspect {
        let (issuer, client_id) = (IssuerId::parse("main").unwrap(), ClientId::parse(client_id).unwrap());
        Suspect::client(&issuer, Some(&client_id), Some(address.parse().unwrap()))
    }

    #[test]
    fn who_was_wrong_ten_times_is_not_heard_and_others_are() {
        let throttle = Throttle::default();
        for _ in 0..10 {
            assert_eq!(throttle.judge(suspect("wiki", "192.0.2.1"), NOW, || false), Judged::Wrong);
        }
        let unheard = Judged::Unheard(Duration::from_secs(6));
        assert_eq!(throttle.judge(suspect("wiki", "192.0.2.1"), NOW, || panic!("not looked at")), unheard);
        assert_eq!(throttle.judge(suspect("wiki", "::ffff:192.0.2.1"), NOW, || true), unheard, "the same address in another form");
        assert_eq!(throttle.judge(suspect("wiki", "192.0.2.2"), NOW, || true), Judged::Right);
        assert_eq!(throttle.judge(suspect("shop", "192.0.2.1"), NOW, || true), Judged::Right);
        let later = NOW.plus(Duration::from_secs(6));
        assert_eq!(throttle.judge(suspect("wiki", "192.0.2.1"), later, || true), Judged::Right);
    }

    #[test]
    fn a_whole_network_of_one_holder_is_one_source() {
        assert_eq!(suspect("wiki", "2001:db8::1"), suspect("wiki", "2001:db8::ffff:0:0:2"));
        assert_ne!(suspect("wiki", "2001:db8::1"), suspect("wiki", "2001:db8:0:1::1"));
    }

    #[test]
    fn those_who_are_right_cost_nothing_and_the_wrong_ones_never_more_than_the_bound() {
        let throttle = Throttle::default();
        assert_eq!(throttle.judge(suspect("wiki", "192.0.2.1"), NOW, || true), Judged::Right);
        assert!(throttle.remembered().is_empty());
        for _ in 0..10 {
            throttle.judge(suspect("guarded", "192.0.2.1"), NOW, || false);
        }
        for number in 0..=REMEMBERED_MAX {
            throttle.judge(suspect(&format!("c-{number}"), "192.0.2.1"), NOW, || false);
            assert!(throttle.remembered().len() <= REMEMBERED_MAX);
        }
        assert!(throttle.wait(&suspect("guarded", "192.0.2.1"), NOW).is_some(), "who has to wait is forgotten last");
    }
}
