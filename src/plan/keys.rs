//! Lives of signing keys: `next`, published and not signing; `active`; `retired`, published and no longer signing; withdrawn; forgotten.
//!
//! Why a successor waits: a relying party checks tokens with a key set it fetched a while ago. A key that nobody could know yet is one whose tokens are
//! refused. Only the first key of an algorithm signs at once, since there is no other.

use std::time::Duration;

use crate::model::Timestamp;
use crate::model::issuer::PublishedAt;
use crate::model::key::{KeyOrigin, KeyPolicy, KeyRecord, KeyState, SigningAlg};

/// By how much relying parties' clocks may be behind: a token is good so long after its `exp` for some.
pub const SKEW: Duration = Duration::from_mins(5);

/// What is to be done about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A successor is made for this algorithm.
    Make(SigningAlg),
    /// A `next` key begins to sign, and the active one ceases.
    Activate(String),
    /// A retired key is not published any more.
    Withdraw(String),
    /// Nothing it signed can matter any more.
    Forget(String),
}

/// Everything that is due.
pub fn due(keys: &[KeyRecord], published_at: PublishedAt, policy: &KeyPolicy, now: Timestamp) -> Vec<Change> {
    keys.iter().filter_map(|key| due_of(key, keys, published_at, policy, now)).collect()
}

fn due_of(key: &KeyRecord, keys: &[KeyRecord], published_at: PublishedAt, policy: &KeyPolicy, now: Timestamp) -> Option<Change> {
    let has_come = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
    match key.state {
        KeyState::Active => {
            let successor = keys.iter().any(|other| other.alg == key.alg && other.state == KeyState::Next);
            (!successor && has_come(successor_at(key, policy))).then_some(Change::Make(key.alg))
        }
        KeyState::Next => has_come(active_from(key, published_at, policy)).then(|| Change::Activate(key.kid.clone())),
        KeyState::Retired => has_come(withdrawn_from(key, policy)).then(|| Change::Withdraw(key.kid.clone())),
        KeyState::Withdrawn => has_come(key.withdrawn_at.map(|at| at.plus(policy.hints))).then(|| Change::Forget(key.kid.clone())),
    }
}

/// When a successor of an active key is made. Imported keys are the provider's to change.
pub fn successor_at(key: &KeyRecord, policy: &KeyPolicy) -> Option<Timestamp> {
    let since = key.active_at.unwrap_or(key.created_at);
    match (key.origin, policy.rotate_after) {
        (KeyOrigin::Made, Some(after)) => Some(since.plus(after)),
        (KeyOrigin::Imported, _) | (KeyOrigin::Made, None) => None,
    }
}

/// When a `next` key may sign: once it has been visible for as long as a relying party may keep an older set. None while it is not visible.
pub fn active_from(key: &KeyRecord, published_at: PublishedAt, policy: &KeyPolicy) -> Option<Timestamp> {
    let visible_since = match published_at {
        PublishedAt::Here => Some(key.created_at),
        PublishedAt::Provider => key.seen_at,
    };
    visible_since.map(|since| since.plus(policy.cache))
}

/// When a retired key is not published any more: the last token it signed is over for the slowest clock, and for whoever fetched the set just before.
pub fn withdrawn_from(key: &KeyRecord, policy: &KeyPolicy) -> Option<Timestamp> {
    key.retired_at.map(|at| at.plus(policy.token_lifetime + SKEW + policy.cache))
}

/// The key that signs with an algorithm now.
pub fn signer(keys: &[KeyRecord], alg: SigningAlg) -> Option<&KeyRecord> {
    keys.iter().find(|key| key.alg == alg && key.state == KeyState::Active)
}

/// Whether relying parties can find a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    /// In the set they get from us.
    Here,
    /// Among the provider's keys.
    AtProvider {
        /// Under which name.
        kid: String,
        /// Since when.
        since: Timestamp,
    },
    /// Nowhere yet, or not any more.
    NotYet,
}

/// Whether relying parties can find a key where they look for it.
pub fn visible(key: &KeyRecord, published_at: PublishedAt) -> Visible {
    match (key.state, published_at, key.seen_at) {
        (KeyState::Withdrawn, _, _) | (_, PublishedAt::Provider, None) => Visible::NotYet,
        (KeyState::Active | KeyState::Next | KeyState::Retired, PublishedAt::Here, _) => Visible::Here,
        (KeyState::Active | KeyState::Next | KeyState::Retired, PublishedAt::Provider, Some(since)) => {
            Visible::AtProvider { kid: key.signing_kid().to_owned(), since }
        }
    }
}

/// What somebody must look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// The provider does not publish a key it should.
    NotPublished,
    /// The provider has ceased to publish a key that signs.
    Left,
}

/// What is wrong with a key as the provider was last seen to publish it. An imported key that leaves is about to be refused wherever it is published.
pub fn alarm(key: &KeyRecord, published_at: PublishedAt) -> Option<Alarm> {
    let signs = match key.state {
        KeyState::Active => true,
        KeyState::Next => false,
        KeyState::Retired | KeyState::Withdrawn => return None,
    };
    match (published_at, key.origin, key.seen_at, key.last_seen_at) {
        (_, _, Some(_), _) => None,
        (PublishedAt::Here, KeyOrigin::Made, None, _) => None,
        (PublishedAt::Provider, _, None, Some(_)) | (PublishedAt::Here, KeyOrigin::Imported, None, Some(_)) if signs => Some(Alarm::Left),
        (PublishedAt::Provider, _, None, _) => Some(Alarm::NotPublished),
        (PublishedAt::Here, KeyOrigin::Imported, None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::IssuerId;

    const DAY: Duration = Duration::from_hours(24);
    const POLICY: KeyPolicy = KeyPolicy {
        rotate_after: Some(Duration::from_hours(24 * 90)),
        cache: DAY,
        hints: Duration::from_hours(24 * 400),
        token_lifetime: Duration::from_mins(2),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    fn key(kid: &str, state: KeyState) -> KeyRecord {
        let main = IssuerId::parse("main").unwrap();
        KeyRecord::new(main, kid.to_owned(), SigningAlg::Es256, state, "{}".to_owned(), at(0))
    }

    fn seconds(duration: Duration) -> i64 {
        i64::try_from(duration.as_secs()).unwrap()
    }

    #[test]
    fn a_successor_is_made_once_when_its_predecessor_has_signed_long_enough() {
        let active = key("a", KeyState::Active);
        let day_90 = at(90 * seconds(DAY));
        let due_at = |keys: &[KeyRecord], now| due(keys, PublishedAt::Here, &POLICY, now);
        assert_eq!(due_at(std::slice::from_ref(&active), at(90 * seconds(DAY) - 1)), []);
        assert_eq!(due_at(std::slice::from_ref(&active), day_90), [Change::Make(SigningAlg::Es256)]);
        let next = KeyRecord { created_at: day_90, ..key("n", KeyState::Next) };
        assert_eq!(due_at(&[active.clone(), next], day_90), []);
        let imported = KeyRecord { origin: KeyOrigin::Imported, ..active.clone() };
        assert_eq!(due_at(&[imported], at(i64::from(i32::MAX))), [], "imported keys are the provider's to change");
        let never = KeyPolicy { rotate_after: None, ..POLICY };
        assert_eq!(due(&[active], PublishedAt::Here, &never, at(i64::from(i32::MAX))), []);
    }

    #[test]
    fn a_key_the_provider_does_not_publish_stays_next_for_ever_and_is_told_of() {
        let next = key("n", KeyState::Next);
        assert_eq!(due(std::slice::from_ref(&next), PublishedAt::Provider, &POLICY, at(i64::from(i32::MAX))), []);
        assert_eq!(alarm(&next, PublishedAt::Provider), Some(Alarm::NotPublished));
        let seen = KeyRecord { seen_at: Some(at(1000)), ..next };
        assert_eq!(alarm(&seen, PublishedAt::Provider), None);
        assert_eq!(due(std::slice::from_ref(&seen), PublishedAt::Provider, &POLICY, at(999 + seconds(DAY))), []);
        assert_eq!(due(&[seen], PublishedAt::Provider, &POLICY, at(1000 + seconds(DAY))), [Change::Activate("n".into())]);
    }

    #[test]
    fn a_key_that_signs_and_leaves_the_providers_set_is_told_of_wherever_keys_are_published_if_it_is_the_providers() {
        let left = KeyRecord { last_seen_at: Some(at(5)), ..key("a", KeyState::Active) };
        let imported = KeyRecord { origin: KeyOrigin::Imported, ..left.clone() };
        assert_eq!(alarm(&left, PublishedAt::Provider), Some(Alarm::Left));
        assert_eq!(alarm(&left, PublishedAt::Here), None);
        assert_eq!(alarm(&imported, PublishedAt::Here), Some(Alarm::Left));
        assert_eq!(alarm(&KeyRecord { state: KeyState::Retired, ..imported }, PublishedAt::Provider), None);
    }

    #[test]
    fn a_key_is_visible_where_relying_parties_look_and_nowhere_else() {
        let published = KeyRecord { seen_at: Some(at(7)), published_kid: Some("p".into()), ..key("a", KeyState::Active) };
        assert_eq!(visible(&published, PublishedAt::Provider), Visible::AtProvider { kid: "p".into(), since: at(7) });
        assert_eq!(visible(&key("a", KeyState::Active), PublishedAt::Provider), Visible::NotYet);
        assert_eq!(visible(&key("a", KeyState::Next), PublishedAt::Here), Visible::Here);
        assert_eq!(visible(&key("a", KeyState::Withdrawn), PublishedAt::Here), Visible::NotYet);
    }

    proptest! {
        #[test]
        fn whatever_the_times_no_key_signs_unseen_and_none_leaves_while_its_tokens_are_good(
            seen in proptest::option::of(0..10_000_000_i64), created in 0..10_000_000_i64, retired in 0..10_000_000_i64, now in 0..20_000_000_i64,
            provider: bool,
        ) {
            let published_at = if provider { PublishedAt::Provider } else { PublishedAt::Here };
            let next = KeyRecord { created_at: at(created), seen_at: seen.map(at), ..key("n", KeyState::Next) };
            let old = KeyRecord { retired_at: Some(at(retired)), ..key("r", KeyState::Retired) };
            let changes = due(&[next, old], published_at, &POLICY, at(now));
            let visible_since = if provider { seen } else { Some(created) };
            let visible_long = visible_since.is_some_and(|since| now - since >= seconds(DAY));
            prop_assert_eq!(changes.contains(&Change::Activate("n".into())), visible_long);
            let over = now - retired >= seconds(POLICY.token_lifetime + SKEW + DAY);
            prop_assert_eq!(changes.contains(&Change::Withdraw("r".into())), over);
        }
    }
}
