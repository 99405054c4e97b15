//! How many requests a caller may send who has shown who it is, and how many all of an issuer's.
//!
//! Buckets are kept in memory, since they only save work: a restart forgives everybody, and each process has its part of what was agreed. What ends
//! something has buckets of its own, so that a logout gets through whatever else was sent; what clients give up and what is only rehearsed is not in them,
//! and an issuer's is taken from when an order has been read and is one.
//! An issuer's bucket holds no operator and no administrator. Who has not shown who it is, is not counted here: how
//! often one may be wrong about that is `throttle.rs`'s, and how many connections one may have the listener's. Never limited are health, keys and
//! metadata, which anybody may ask for; a provider's logout tokens, which it does not send again; and forward-auth, which has no answer that says so.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::problem::Problem;
use crate::model::access::Caller;
use crate::model::limits::{Limits, Load, Pace};
use crate::model::{IssuerId, Timestamp};
use crate::observe::{Limited, RequestLimited};
use crate::plan::lane::Share;
use crate::plan::lane::rate::{Bucket, Rate};

/// How many buckets are kept at once.
const BUCKETS_MAX: usize = 10_000;
/// How many seconds' worth of its own rate a credential may send at once.
const BURST_S: u16 = 5;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Credential(String),
    Issuer(IssuerId),
}

/// The buckets of everybody.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    share: watch::Receiver<Share>,
    buckets: Mutex<HashMap<(Whose, Load), (Rate, Bucket)>>,
}

impl Limiter {
    /// All of them full.
    pub fn new(limits: Limits, share: watch::Receiver<Share>) -> Self {
        Self { limits, share, buckets: Mutex::default() }
    }

    /// Counts a request of one credential, which may have a rate of its own.
    pub fn credential(&self, identity: &str, own: Option<u16>, load: Load, now: Timestamp) -> Result<(), Problem> {
        let own = own.map(|per_s| Pace { per_s, burst: per_s.saturating_mul(BURST_S) });
        let Some(pace) = own.or(self.limits.credential) else { return Ok(()) };
        self.take(Whose::Credential(identity.to_owned()), pace, (load, 1), now).map_err(|wait| {
            RequestLimited { what: Limited::Credential, load, caller: identity }.emit();
            Problem::rate_limited(wait, "this credential sends too many requests")
        })
    }

    /// Counts a request about an issuer.
    pub fn issuer(&self, issuer: &IssuerId, caller: &Caller, load: Load, now: Timestamp) -> Result<(), Problem> {
        self.at_issuer(issuer, caller, load, 1, now)
    }

    /// Whether there is room at an issuer for one more that ends something. It is not counted yet.
    pub fn has_room(&self, issuer: &IssuerId, caller: &Caller, now: Timestamp) -> Result<(), Problem> {
        self.at_issuer(issuer, caller, Load::Ending, 0, now)
    }

    /// Counts an order to end something, that was let in since there was room and has been read.
    pub fn order(&self, issuer: &IssuerId, caller: &Caller, now: Timestamp) -> Result<(), Problem> {
        self.at_issuer(issuer, caller, Load::Ending, 1, now)
    }

    /// Counts as something else what was let in to end something and only asks what that would end.
    pub fn rehearsal(&self, issuer: &IssuerId, caller: &Caller, now: Timestamp) -> Result<(), Problem> {
        self.give_back(Whose::Credential(caller.identity.clone()), Load::Ending);
        self.credential(&caller.identity, caller.token.rate_per_s, Load::Other, now)?;
        self.issuer(issuer, caller, Load::Other, now)
    }

    fn at_issuer(&self, issuer: &IssuerId, caller: &Caller, load: Load, number: u16, now: Timestamp) -> Result<(), Problem> {
        let Some(pace) = self.limits.issuer.filter(|_| caller.is_held_by_issuer()) else { return Ok(()) };
        self.take(Whose::Issuer(issuer.clone()), pace, (load, number), now).map_err(|wait| {
            RequestLimited { what: Limited::Issuer, load, caller: &caller.identity }.emit();
            Problem::rate_limited(wait, "there are too many requests about this issuer")
        })
    }

    fn give_back(&self, whose: Whose, load: Load) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bucket)) = buckets.get_mut(&(whose, load)) {
            bucket.give_back(1);
        }
    }

    /// Takes so many, which may be none; how long until there is room, if there is none.
    fn take(&self, whose: Whose, pace: Pace, (load, number): (Load, u16), now: Timestamp) -> Result<(), Duration> {
        let name = match &whose {
            Whose::Credential(identity) => identity.as_str(),
            Whose::Issuer(issuer) => issuer.as_str(),
        };
        let rate = Rate::with_burst(pace, name, *self.share.borrow());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (whose, load);
        make_room(&mut buckets, &key, now);
        let (agreed, bucket) = buckets.entry(key).or_insert_with(|| (rate, Bucket::fresh(rate, now)));
        *agreed = rate;
        if bucket.room(rate, now) == 0 {
            return Err(bucket.next(rate).since(now));
        }
        bucket.take(number);
        Ok(())
    }
}

/// Forgets those that are full again, and if that is not enough everybody. All of them are callers who have shown who they are.
fn make_room(buckets: &mut HashMap<(Whose, Load), (Rate, Bucket)>, key: &(Whose, Load), now: Timestamp) {
    if buckets.len() < BUCKETS_MAX || buckets.contains_key(key) {
        return;
    }
    buckets.retain(|_, (rate, bucket)| !rate.is_full(bucket, now));
    if buckets.len() >= BUCKETS_MAX {
        buckets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ClientId;
    use crate::model::access::OwnToken;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn limiter(limits: Limits) -> Limiter {
        Limiter::new(limits, watch::channel(Share::default()).1)
    }

    fn pace(per_s: u16, burst: u16) -> Option<Pace> {
        Some(Pace { per_s, burst })
    }

    #[test]
    fn each_credential_and_each_load_has_a_bucket_of_its_own() {
        let limiter = limiter(Limits { credential: pace(1, 2), issuer: None });
        let send = |identity: &str, load, now| limiter.credential(identity, None, load, now).is_ok();
        assert_eq!([(); 3].map(|()| send("a", Load::Other, NOW)), [true, true, false]);
        assert_eq!([(); 3].map(|()| send("a", Load::Ending, NOW)), [true, true, false], "a logout gets through whatever else was sent");
        assert!(send("b", Load::Other, NOW));
        assert!(send("a", Load::Other, NOW.plus(Duration::from_millis(1001))));
    }

    #[test]
    fn an_own_rate_goes_before_the_common_one_and_without_both_nothing_is_limited() {
        let none = limiter(Limits::default());
        assert!((0..1000).all(|_| none.credential("a", None, Load::Other, NOW).is_ok()));
        let own = (0..20).filter(|_| none.credential("a", Some(2), Load::Other, NOW).is_ok()).count();
        assert_eq!(own, 10);
        let strict = limiter(Limits { credential: pace(1, 1), issuer: None });
        assert_eq!((0..20).filter(|_| strict.credential("a", Some(2), Load::Other, NOW).is_ok()).count(), 10);
    }

    #[test]
    fn an_issuer_is_limited_for_all_but_operators_and_the_refusal_says_when_to_come_again() {
        let limiter = limiter(Limits { credential: None, issuer: pace(1, 1) });
        let (main, other) = (IssuerId::parse("main").unwrap(), IssuerId::parse("other").unwrap());
        let (provider, operator) = (Caller::provider(&main), Caller::itself(&main));
        assert!(limiter.issuer(&main, &Caller::client(&main, &ClientId::parse("wiki").unwrap(), None), Load::Other, NOW).is_ok());
        let refused = limiter.issuer(&main, &provider, Load::Other, NOW).unwrap_err();
        assert_eq!(refused.code().as_str(), "rate-limited");
        assert!(limiter.issuer(&main, &provider, Load::Ending, NOW).is_ok() && limiter.issuer(&other, &provider, Load::Other, NOW).is_ok());
        assert!((0..20).all(|_| limiter.issuer(&main, &operator, Load::Other, NOW).is_ok()));
    }

    #[test]
    fn rehearsals_are_counted_with_the_rest_and_leave_room_for_what_ends() {
        let limiter = limiter(Limits { credential: None, issuer: pace(1, 2) });
        let main = IssuerId::parse("main").unwrap();
        let provider = Caller::provider(&main);
        let rehearse = || limiter.has_room(&main, &provider, NOW).and_then(|()| limiter.rehearsal(&main, &provider, NOW));
        assert_eq!([(); 4].map(|()| rehearse().is_ok()), [true, true, false, false]);
        assert_eq!([(); 3].map(|()| limiter.order(&main, &provider, NOW).is_ok()), [true, true, false]);
        assert!(limiter.has_room(&main, &provider, NOW).is_err());
    }

    #[test]
    fn rehearsals_of_a_credential_leave_room_for_what_it_ends_and_are_held_to_its_own_rate() {
        let limiter = limiter(Limits { credential: pace(1, 1), issuer: None });
        let main = IssuerId::parse("main").unwrap();
        let slow = OwnToken { rate_per_s: Some(1), ..OwnToken::NONE };
        let provider = Caller { token: slow, ..Caller::provider(&main) };
        let let_in = || limiter.credential(&provider.identity, slow.rate_per_s, Load::Ending, NOW);
        let rehearsed = (0..20).filter(|_| let_in().and_then(|()| limiter.rehearsal(&main, &provider, NOW)).is_ok()).count();
        assert_eq!(rehearsed, usize::from(BURST_S));
        assert_eq!((0..20).filter(|_| let_in().is_ok()).count(), usize::from(BURST_S), "none of it was taken");
    }

    #[test]
    fn what_is_let_in_and_turns_out_to_be_no_order_takes_no_room() {
        let limiter = limiter(Limits { credential: None, issuer: pace(1, 2) });
        let main = IssuerId::parse("main").unwrap();
        let provider = Caller::provider(&main);
        assert!((0..20).all(|_| limiter.has_room(&main, &provider, NOW).is_ok()));
        assert!(limiter.order(&main, &provider, NOW).is_ok());
    }

    #[test]
    fn never_more_are_kept_than_the_bound() {
        let limiter = limiter(Limits { credential: pace(1, 1), issuer: None });
        for number in 0..BUCKETS_MAX + 10 {
            limiter.credential(&number.to_string(), None, Load::Other, NOW).unwrap();
            assert!(limiter.buckets.lock().unwrap().len() <= BUCKETS_MAX);
        }
    }
}
