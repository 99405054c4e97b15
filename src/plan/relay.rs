//! What is passed on of a provider's own logout token, and what one reaches.
//!
//! A relying party may take a `jti` once (BCL 2.6 (8)), so a token that may have been read is not sent again: unchanged it goes on only while its time
//! lasts and no attempt left it open whether it was read. After that a token of ours takes its place, if relying parties can find our key. Why the
//! provider's at all: it needs nothing of ours to be published anywhere.

use std::time::Duration;

use super::effects;
use super::late::{Sending, Unsent};
use crate::model::attempt::{Failure, PastAttempt, SentToken};
use crate::model::client::{Claims, ClientRecord};
use crate::model::delivery::{DeliveryState, PriorClaim, SettledReason};
use crate::model::effects::{Opening, Reach, Told};
use crate::model::issuer::{DOCUMENT_STALE_MAX, PublishedAt};
use crate::model::trigger::{Target, Trigger};
use crate::model::{Sid, Subject, Timestamp};

/// How long ago the provider may have been seen to publish our key: as long as what it published is believed.
pub const SEEN_MAX: Duration = DOCUMENT_STALE_MAX;

/// What a relayed token reaches. One that names a session means that one, also within the second in which it began.
pub fn reach(trigger: &Trigger) -> Reach {
    let reach = effects::reach(trigger);
    match (&trigger.target, trigger.occurred_at) {
        (Target::ClientSid { .. }, Some(at)) => Reach { begun_before: Some(Timestamp::from_seconds(at.seconds() + 1)), ..reach },
        _ => reach,
    }
}

/// How a relay's delivery begins: as any other, but that the token carries what the provider put into it.
pub fn opening(told: &Told<'_>, client: Option<&ClientRecord>, now: Timestamp) -> Opening {
    let client = client.map(|client| {
        let mut client = client.clone();
        client.delivery.claims = Claims::Both;
        client
    });
    effects::opening(told, client.as_ref(), now)
}

/// What a token of ours carries in the place of the provider's: never less of a session than that did.
pub const fn claims(configured: Claims, sid: Option<&Sid>) -> Claims {
    match (configured, sid) {
        (Claims::Sid, Some(_)) => Claims::Sid,
        (Claims::Both | Claims::Sid | Claims::Sub, _) => Claims::Both,
    }
}

/// What the choice of a token depends on.
#[derive(Clone, Copy, Debug)]
pub struct TokenFacts<'a> {
    /// Until when the provider's token may be passed on; none where it is not to be, or no longer there.
    pub fresh_until: Option<Timestamp>,
    /// The `sub` in it.
    pub sub: Option<&'a Subject>,
    /// What may be said now.
    pub sending: Sending,
    /// What became of the claim before this one.
    pub prior: PriorClaim,
    /// What was sent before.
    pub past: &'a [PastAttempt],
    /// The present instant.
    pub now: Timestamp,
}

/// Whose token is sent.
pub fn token(facts: &TokenFacts<'_>) -> Result<SentToken, Unsent> {
    let fits = match facts.sending {
        Sending::Superseded => return Err(Unsent { state: DeliveryState::Superseded, reason: SettledReason::NewerLogin }),
        Sending::AsConfigured => true,
        // What the provider wrote cannot be taken out.
        Sending::SidOnly => facts.sub.is_none(),
    };
    let fresh = facts.fresh_until.is_some_and(|until| facts.now < until);
    if fits && fresh && facts.prior == PriorClaim::Closed && may_be_repeated(facts.past) {
        Ok(SentToken::Theirs)
    } else {
        Ok(SentToken::Ours)
    }
}

/// Whether nothing sent so far speaks against the same token once more.
fn may_be_repeated(past: &[PastAttempt]) -> bool {
    // A 400 to the first may mean that the logout failed (BCL 2.8); to a repeat, more likely that its `jti` was taken the first time.
    let refused_repeat = past.iter().skip(1).any(|attempt| attempt.status == Some(400));
    !refused_repeat && past.iter().all(|attempt| attempt.token == SentToken::Theirs && !is_ambiguous(attempt))
}

/// Whether it was perhaps read and perhaps acted upon: nobody answered, and it is not certain that nobody could.
fn is_ambiguous(attempt: &PastAttempt) -> bool {
    match (attempt.status, attempt.failure) {
        (Some(_), _) => false,
        (None, Some(Failure::Dns | Failure::Connect | Failure::Tls | Failure::Blocked | Failure::Ours)) => false,
        (None, Some(Failure::Timeout | Failure::Broken | Failure::Garbled) | None) => true,
    }
}

/// Whether relying parties can check a token of ours: where they ask the provider for keys, ours was seen there.
pub fn can_be_checked(published_at: PublishedAt, key_seen_at: Option<Timestamp>, now: Timestamp) -> Result<(), Unsent> {
    let seen = match published_at {
        PublishedAt::Here => true,
        PublishedAt::Provider => key_seen_at.is_some_and(|seen_at| now.since(seen_at) < SEEN_MAX),
    };
    if seen { Ok(()) } else { Err(Unsent { state: DeliveryState::Rejected, reason: SettledReason::KeyNotPublished }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    const fn sent(token: SentToken, status: Option<u16>, failure: Option<Failure>) -> PastAttempt {
        PastAttempt { token, status, failure }
    }

    const fn answered(status: u16) -> PastAttempt {
        sent(SentToken::Theirs, Some(status), None)
    }

    const fn failed(failure: Failure) -> PastAttempt {
        sent(SentToken::Theirs, None, Some(failure))
    }

    fn after(past: &[PastAttempt]) -> SentToken {
        let fresh_until = Some(NOW.plus(Duration::from_secs(1)));
        token(&TokenFacts { fresh_until, sub: None, sending: Sending::AsConfigured, prior: PriorClaim::Closed, past, now: NOW }).unwrap()
    }

    #[test]
    fn the_provider_s_token_goes_first_and_again_only_while_it_is_certain_that_nobody_took_it() {
        use SentToken::{Ours, Theirs};
        for (past, expected) in [
            (vec![], Theirs),
            (vec![failed(Failure::Connect)], Theirs),
            (vec![failed(Failure::Dns), failed(Failure::Tls), failed(Failure::Blocked), failed(Failure::Ours)], Theirs),
            (vec![answered(503), answered(429)], Theirs),
            (vec![answered(400)], Theirs),
            (vec![answered(400), answered(400)], Ours),
            (vec![answered(503), answered(400)], Ours),
            (vec![failed(Failure::Timeout)], Ours),
            (vec![failed(Failure::Broken)], Ours),
            (vec![failed(Failure::Garbled)], Ours),
            (vec![failed(Failure::Timeout), failed(Failure::Connect)], Ours),
            (vec![sent(Ours, Some(503), None)], Ours),
            (vec![failed(Failure::Connect), sent(Ours, None, Some(Failure::Ours))], Ours),
        ] {
            assert_eq!(after(&past), expected, "{past:?}");
        }
    }

    #[test]
    fn a_claim_that_ran_out_and_a_time_that_is_over_end_it() {
        let facts = TokenFacts {
            fresh_until: Some(NOW),
            sub: None,
            sending: Sending::AsConfigured,
            prior: PriorClaim::Closed,
            past: &[],
            now: NOW.minus(Duration::from_millis(1)),
        };
        assert_eq!(token(&facts), Ok(SentToken::Theirs));
        assert_eq!(token(&TokenFacts { now: NOW, ..facts }), Ok(SentToken::Ours));
        assert_eq!(token(&TokenFacts { prior: PriorClaim::RanOut, ..facts }), Ok(SentToken::Ours));
        assert_eq!(token(&TokenFacts { fresh_until: None, ..facts }), Ok(SentToken::Ours));
    }

    #[test]
    fn beside_a_newer_login_only_a_token_about_the_session_alone_goes_unchanged() {
        let sub = Subject::parse("alice").unwrap();
        let facts = TokenFacts {
            fresh_until: Some(NOW.plus(Duration::from_secs(9))),
            sub: Some(&sub),
            sending: Sending::SidOnly,
            prior: PriorClaim::Closed,
            past: &[],
            now: NOW,
        };
        assert_eq!(token(&facts), Ok(SentToken::Ours));
        assert_eq!(token(&TokenFacts { sub: None, ..facts }), Ok(SentToken::Theirs));
        let superseded = token(&TokenFacts { sending: Sending::Superseded, ..facts }).unwrap_err();
        assert_eq!((superseded.state, superseded.reason), (DeliveryState::Superseded, SettledReason::NewerLogin));
    }

    #[test]
    fn where_the_provider_publishes_our_key_it_must_have_been_seen_there() {
        let unseen = can_be_checked(PublishedAt::Provider, None, NOW).unwrap_err();
        assert_eq!((unseen.state, unseen.reason), (DeliveryState::Rejected, SettledReason::KeyNotPublished));
        assert_eq!(can_be_checked(PublishedAt::Here, None, NOW), Ok(()));
        assert_eq!(can_be_checked(PublishedAt::Provider, Some(NOW.minus(Duration::from_secs(60))), NOW), Ok(()));
        assert!(can_be_checked(PublishedAt::Provider, Some(NOW.minus(SEEN_MAX)), NOW).is_err());
    }

    #[test]
    fn a_relay_never_drops_the_sid() {
        let sid = Sid::parse("s").unwrap();
        for configured in Claims::ALL.iter().copied() {
            assert_ne!(claims(configured, Some(&sid)), Claims::Sub);
            assert_eq!(claims(configured, None), Claims::Both);
        }
    }

    fn any_past() -> impl Strategy<Value = Vec<PastAttempt>> {
        let token = prop::sample::select(vec![SentToken::Theirs, SentToken::Ours]);
        let end = prop_oneof![
            (300_u16..600).prop_map(|status| (Some(status), None)),
            prop::sample::select(Failure::ALL).prop_map(|failure| (None, Some(failure))),
        ];
        prop::collection::vec((token, end).prop_map(|(token, (status, failure))| sent(token, status, failure)), 0..8)
    }

    proptest! {
        #[test]
        fn once_ours_always_ours(past in any_past(), more in any_past()) {
            let longer = [past.clone(), more].concat();
            prop_assert!(after(&past) == SentToken::Theirs || after(&longer) == SentToken::Ours);
        }
    }
}
