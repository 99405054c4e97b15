//! What the rotation of a refresh token comes to (RFC 9700 4.14.2).
//!
//! A token that took another's place may be shown once; who shows the other one afterwards has what somebody else has as well, and nobody can tell which
//! of them is the thief: the family ends. Two exceptions are no exceptions. Refreshes at the same moment, within the grace the client registered, are
//! answered with the one successor there is. And a provider that says the very same again, successor and all, repeats itself: a thief's refresh would have
//! made it mint another.
//!
//! Whether the token is good besides is [`activity`]'s to say, and asked first: a family that is over already cannot be ended by reuse.

use super::activity::{Activity, Why, activity};
use crate::model::Timestamp;
use crate::model::rotation::{Happened, Kept, Occasion, Place, RotationDecision, RotationFacts, RotationRefused, ShownBy, SuccessorFact};
use crate::model::token::Rotate;

/// What it comes to.
pub fn decide(facts: &RotationFacts<'_>, now: Timestamp) -> RotationDecision {
    if facts.shown_by == ShownBy::Another {
        return RotationDecision::Refused(RotationRefused::ForeignClient);
    }
    match (activity(facts.token, now), facts.occasion) {
        (Activity::Active, Occasion::Asked(happened)) => asked(facts, happened, now),
        (Activity::Active, Occasion::Done) => to_successor(facts),
        (Activity::Inactive(Why::Rotated), _) => replaced(facts, now),
        (Activity::Inactive(why), _) if why.is_after_logout() => RotationDecision::Over,
        (Activity::Inactive(Why::ClientSuspended), _) => RotationDecision::Refused(RotationRefused::ClientSuspended),
        // It was good when its provider decided; what came of it is good still.
        (Activity::Inactive(Why::Expired | Why::NotNewest | Why::NotYet), Occasion::Done) => to_successor(facts),
        (Activity::Inactive(_), _) => RotationDecision::Refused(RotationRefused::Inactive),
    }
}

fn asked(facts: &RotationFacts<'_>, happened: Happened, now: Timestamp) -> RotationDecision {
    if is_due(facts, happened, now) { to_successor(facts) } else { RotationDecision::NotDue }
}

fn to_successor(facts: &RotationFacts<'_>) -> RotationDecision {
    match (facts.token.client_suspended_at, facts.successor) {
        (Some(_), _) => RotationDecision::Refused(RotationRefused::ClientSuspended),
        (None, SuccessorFact::New) => RotationDecision::Rotate,
        (None, SuccessorFact::OfTheFamily | SuccessorFact::Elsewhere) => RotationDecision::Refused(RotationRefused::OtherOwner),
    }
}

/// Whether the client's policy wants a new token now.
fn is_due(facts: &RotationFacts<'_>, happened: Happened, now: Timestamp) -> bool {
    let old_enough = |after| facts.token.issued_at.is_none_or(|issued_at| now >= issued_at.plus(after));
    match facts.policy.rotate {
        Rotate::Always => true,
        Rotate::AfterS => facts.policy.rotate_after.is_none_or(old_enough),
        Rotate::OnEvent => happened == Happened::Something || facts.due_at.is_some() || facts.policy.rotate_after.is_some_and(old_enough),
    }
}

/// It has a successor already.
fn replaced(facts: &RotationFacts<'_>, now: Timestamp) -> RotationDecision {
    match (facts.occasion, facts.successor) {
        (Occasion::Done, SuccessorFact::OfTheFamily) => RotationDecision::Repeat,
        (Occasion::Asked(_), SuccessorFact::OfTheFamily) => match facts.place {
            Place::JustBefore { current, .. } if activity(current, now) == Activity::Active => RotationDecision::Repeat,
            Place::JustBefore { .. } | Place::Current | Place::Earlier => RotationDecision::Refused(RotationRefused::Inactive),
        },
        (occasion, SuccessorFact::New | SuccessorFact::Elsewhere) => match (within_grace(facts, now), occasion) {
            (None, _) => RotationDecision::Reuse,
            (Some(Moment::Shown), Occasion::Asked(_)) => RotationDecision::Replay,
            (Some(Moment::NotShown), Occasion::Asked(_)) => RotationDecision::Refused(RotationRefused::Inactive),
            (Some(_), Occasion::Done) => match facts.successor {
                SuccessorFact::New => RotationDecision::Beside,
                SuccessorFact::OfTheFamily | SuccessorFact::Elsewhere => RotationDecision::Refused(RotationRefused::OtherOwner),
            },
        },
    }
}

/// A refresh at the same moment as another.
enum Moment {
    /// The other's successor is good and can be given out again.
    Shown,
    /// It cannot.
    NotShown,
}

/// Only what stands directly before the current token can have been used at the same moment.
fn within_grace(facts: &RotationFacts<'_>, now: Timestamp) -> Option<Moment> {
    let Place::JustBefore { current, kept } = facts.place else { return None };
    let superseded_at = facts.token.superseded_at?;
    if now >= superseded_at.plus(facts.policy.grace) {
        return None;
    }
    Some(match (kept, activity(current, now)) {
        (Kept::Sealed, Activity::Active) => Moment::Shown,
        (Kept::Sealed | Kept::NameAlone, _) => Moment::NotShown,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::token::{GrantFact, Newest, SessionFact, TokenFacts, TokenPolicy};

    const T: Timestamp = Timestamp::from_seconds(1_800_000_000);

    const GOOD: TokenFacts = TokenFacts {
        issued_at: Some(T),
        not_before: None,
        epoch: None,
        expires_at: None,
        revoked_at: None,
        superseded_at: None,
        grant_revoked_at: None,
        denied_until: None,
        client_suspended_at: None,
        newest: Newest::NotAsked,
        grant: GrantFact::Bound(SessionFact::None),
        gap: None,
        cut_offs: Vec::new(),
    };

    static CURRENT: TokenFacts = GOOD;

    const ASKED: Occasion = Occasion::Asked(Happened::Nothing);

    fn at(seconds: u64) -> Timestamp {
        T.plus(Duration::from_secs(seconds))
    }

    fn facts<'a>(token: &'a TokenFacts, policy: &'a TokenPolicy, place: Place<'a>) -> RotationFacts<'a> {
        RotationFacts { token, shown_by: ShownBy::ItsClient, policy, place, due_at: None, occasion: ASKED, successor: SuccessorFact::New }
    }

    fn policy(rotate: Rotate, after_s: Option<u64>) -> TokenPolicy {
        TokenPolicy { rotate, rotate_after: after_s.map(Duration::from_secs), ..TokenPolicy::DEFAULT }
    }

    fn graceful() -> TokenPolicy {
        TokenPolicy { grace: Duration::from_secs(10), ..TokenPolicy::DEFAULT }
    }

    #[test]
    fn a_token_is_replaced_when_its_client_s_policy_says_so() {
        let something = Occasion::Asked(Happened::Something);
        for (policy, occasion, due_at, after_s, decision) in [
            (policy(Rotate::Always, None), ASKED, None, 0, RotationDecision::Rotate),
            (policy(Rotate::AfterS, Some(60)), ASKED, None, 59, RotationDecision::NotDue),
            (policy(Rotate::AfterS, Some(60)), ASKED, None, 60, RotationDecision::Rotate),
            (policy(Rotate::OnEvent, None), ASKED, None, 9999, RotationDecision::NotDue),
            (policy(Rotate::OnEvent, None), something, None, 0, RotationDecision::Rotate),
            (policy(Rotate::OnEvent, None), ASKED, Some(T), 0, RotationDecision::Rotate),
            (policy(Rotate::OnEvent, Some(60)), ASKED, None, 60, RotationDecision::Rotate),
            (policy(Rotate::AfterS, Some(60)), Occasion::Done, None, 0, RotationDecision::Rotate),
        ] {
            let facts = RotationFacts { occasion, due_at, ..facts(&CURRENT, &policy, Place::Current) };
            assert_eq!(decide(&facts, at(after_s)), decision, "{policy:?} {occasion:?}");
        }
    }

    #[test]
    fn a_replaced_token_is_answered_with_its_successor_within_the_grace_and_is_reuse_after_it() {
        let (old, policy, strict) = (TokenFacts { superseded_at: Some(T), ..GOOD }, graceful(), TokenPolicy::DEFAULT);
        let place = |current, kept| Place::JustBefore { current, kept };
        let decision = |facts: &RotationFacts<'_>, after_s| decide(facts, at(after_s));
        assert_eq!(decision(&facts(&old, &policy, place(&CURRENT, Kept::Sealed)), 9), RotationDecision::Replay);
        assert_eq!(decision(&facts(&old, &policy, place(&CURRENT, Kept::Sealed)), 10), RotationDecision::Reuse);
        assert_eq!(decision(&facts(&old, &policy, Place::Earlier), 1), RotationDecision::Reuse);
        assert_eq!(decision(&facts(&old, &strict, place(&CURRENT, Kept::Sealed)), 0), RotationDecision::Reuse);
        let inactive = RotationDecision::Refused(RotationRefused::Inactive);
        assert_eq!(decision(&facts(&old, &policy, place(&CURRENT, Kept::NameAlone)), 9), inactive);
        let expired = TokenFacts { expires_at: Some(T), ..GOOD };
        assert_eq!(decision(&facts(&old, &policy, place(&expired, Kept::Sealed)), 9), inactive);
    }

    #[test]
    fn who_says_the_same_again_repeats_itself_and_ends_nothing() {
        let (old, policy) = (TokenFacts { superseded_at: Some(T), ..GOOD }, TokenPolicy::DEFAULT);
        let same = |place, occasion| RotationFacts { occasion, successor: SuccessorFact::OfTheFamily, ..facts(&old, &policy, place) };
        let place = Place::JustBefore { current: &CURRENT, kept: Kept::NameAlone };
        assert_eq!(decide(&same(place, ASKED), at(99)), RotationDecision::Repeat);
        assert_eq!(decide(&same(Place::Earlier, Occasion::Done), at(99)), RotationDecision::Repeat);
        assert_eq!(decide(&same(Place::Earlier, ASKED), at(99)), RotationDecision::Refused(RotationRefused::Inactive));
    }

    #[test]
    fn a_second_successor_that_a_provider_gave_out_at_the_same_moment_stands_beside_the_first() {
        let (old, policy) = (TokenFacts { superseded_at: Some(T), ..GOOD }, graceful());
        let place = Place::JustBefore { current: &CURRENT, kept: Kept::NameAlone };
        let told = RotationFacts { occasion: Occasion::Done, ..facts(&old, &policy, place) };
        assert_eq!(decide(&told, at(9)), RotationDecision::Beside);
        assert_eq!(decide(&told, at(10)), RotationDecision::Reuse);
        let elsewhere = RotationFacts { successor: SuccessorFact::Elsewhere, ..told };
        assert_eq!(decide(&elsewhere, at(9)), RotationDecision::Refused(RotationRefused::OtherOwner));
    }

    fn instant() -> impl Strategy<Value = Option<Timestamp>> {
        prop::option::weighted(0.3, (0_u64..100).prop_map(at))
    }

    fn token() -> impl Strategy<Value = TokenFacts> {
        let grant =
            prop::sample::select(vec![GrantFact::Offline, GrantFact::Bound(SessionFact::None), GrantFact::Bound(SessionFact::Ended)]);
        (prop::array::uniform5(instant()), grant).prop_map(
            |([expires_at, superseded_at, grant_revoked_at, denied_until, client_suspended_at], grant)| TokenFacts {
                expires_at,
                superseded_at,
                grant_revoked_at,
                denied_until,
                client_suspended_at,
                grant,
                ..GOOD
            },
        )
    }

    fn successor() -> impl Strategy<Value = SuccessorFact> {
        prop::sample::select(vec![SuccessorFact::New, SuccessorFact::OfTheFamily, SuccessorFact::Elsewhere])
    }

    fn occasion() -> impl Strategy<Value = Occasion> {
        prop::sample::select(vec![ASKED, Occasion::Asked(Happened::Something), Occasion::Done])
    }

    fn place<'a>(current: &'a TokenFacts, of: u8) -> Place<'a> {
        match of {
            0 => Place::Current,
            1 => Place::JustBefore { current, kept: Kept::Sealed },
            2 => Place::JustBefore { current, kept: Kept::NameAlone },
            _ => Place::Earlier,
        }
    }

    proptest! {
        #[test]
        fn who_asks_gets_a_successor_for_an_active_token_alone(
            token in token(), current in token(), of in 0_u8..4, successor in successor(), now_s in 0_u64..100, grace_s in 0_u64..60,
        ) {
            let policy = TokenPolicy { grace: Duration::from_secs(grace_s), ..TokenPolicy::DEFAULT };
            let facts = RotationFacts { successor, ..facts(&token, &policy, place(&current, of)) };
            match decide(&facts, at(now_s)) {
                RotationDecision::Rotate | RotationDecision::NotDue => prop_assert_eq!(activity(&token, at(now_s)), Activity::Active),
                // Never a successor whose family or session ended meanwhile.
                RotationDecision::Replay | RotationDecision::Repeat => prop_assert_eq!(activity(&current, at(now_s)), Activity::Active),
                RotationDecision::Beside => prop_assert!(false, "only who decides by itself has two"),
                RotationDecision::Reuse | RotationDecision::Over | RotationDecision::Refused(_) => {}
            }
        }

        #[test]
        fn a_family_that_is_over_is_never_ended_again_nor_carried_on(
            token in token(), current in token(), of in 0_u8..4, successor in successor(), occasion in occasion(), now_s in 0_u64..100,
        ) {
            let token = TokenFacts { grant_revoked_at: Some(T), ..token };
            let policy = graceful();
            let facts = RotationFacts { successor, occasion, ..facts(&token, &policy, place(&current, of)) };
            prop_assert_eq!(decide(&facts, at(now_s)), RotationDecision::Over);
        }

        #[test]
        fn another_client_moves_nothing(
            token in token(), current in token(), of in 0_u8..4, successor in successor(), occasion in occasion(), now_s in 0_u64..100,
        ) {
            let policy = graceful();
            let facts = RotationFacts { successor, occasion, shown_by: ShownBy::Another, ..facts(&token, &policy, place(&current, of)) };
            prop_assert_eq!(decide(&facts, at(now_s)), RotationDecision::Refused(RotationRefused::ForeignClient));
        }

        #[test]
        fn what_was_replaced_two_generations_ago_is_reuse_whatever_the_grace(grace_s in 0_u64..60, now_s in 0_u64..100) {
            let token = TokenFacts { superseded_at: Some(T), ..GOOD };
            let policy = TokenPolicy { grace: Duration::from_secs(grace_s), ..TokenPolicy::DEFAULT };
            prop_assert_eq!(decide(&facts(&token, &policy, Place::Earlier), at(now_s)), RotationDecision::Reuse);
        }
    }
}
