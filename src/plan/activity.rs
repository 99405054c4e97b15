//! Whether a registered refresh token is active.
//!
//! Owns the one answer that introspection, rotation and the list of what is still open have to agree on. Never looks anything up, never tells a caller
//! why: the reason is for logs and tests, since RFC 7662 2.2 wants an inactive token to say nothing more.

use super::time::{Coverage, covers, gravity_of};
use crate::model::Timestamp;

/// What is known of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// When it was issued, by the provider's clock.
    pub issued_at: Option<Timestamp>,
    /// The epoch its grant was registered in.
    pub epoch: i64,
    /// When it expires by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// When its grant, and so every token of it, was revoked.
    pub grant_revoked_at: Option<Timestamp>,
    /// Since when its client is suspended.
    pub client_suspended_at: Option<Timestamp>,
    /// What its life hangs on.
    pub grant: GrantFact,
    /// The cut-offs whose scope it falls into.
    pub cut_offs: Vec<CutOffFact>,
}

/// What a grant's life hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantFact {
    /// Granted with `offline_access`: on no session, wherever it came from.
    Offline,
    /// On a session.
    Bound(SessionFact),
}

/// What is known of the session of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFact {
    /// None is registered.
    None,
    /// It lives.
    Live {
        /// When it began, by the provider's clock.
        started_at: Timestamp,
        /// The epoch it was registered in.
        epoch: i64,
    },
    /// It has ended, or the participation of the token's client in it has.
    Ended,
}

/// What a cut-off ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutOffReach {
    /// Sessions: of a subject, by `sid`, of everybody.
    Sessions,
    /// A client's participations, while the provider's sessions go on.
    Participations,
}

/// A cut-off that a token falls into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutOffFact {
    /// What began before is over.
    pub not_before: Timestamp,
    /// The event was a compromise: a tie goes against the token.
    pub compromise: bool,
    /// The event took offline grants along.
    pub offline: bool,
    /// What it ends.
    pub reach: CutOffReach,
    /// It ends what was registered in an earlier epoch as well, whatever its time.
    pub epoch: Option<i64>,
}

/// Whether a token is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It is.
    Active,
    /// It is not.
    Inactive(Why),
}

/// Why a token is not active: the first that applies in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It was revoked.
    Revoked,
    /// Its grant was revoked.
    GrantRevoked,
    /// Its session ended.
    SessionEnded,
    /// It is older than an end that covers it.
    CutOff,
    /// Its time is up.
    Expired,
    /// Its client is suspended until further notice.
    ClientSuspended,
}

/// Decides whether a token is active.
pub fn activity(facts: &TokenFacts, now: Timestamp) -> Activity {
    let applies = |why: &Why| match why {
        Why::Revoked => facts.revoked_at.is_some(),
        Why::GrantRevoked => facts.grant_revoked_at.is_some(),
        Why::SessionEnded => facts.grant == GrantFact::Bound(SessionFact::Ended),
        Why::CutOff => facts.cut_offs.iter().any(|cut_off| cuts(cut_off, facts) == Coverage::Covered),
        Why::Expired => facts.expires_at.is_some_and(|expires_at| now >= expires_at),
        Why::ClientSuspended => facts.client_suspended_at.is_some(),
    };
    let all = [Why::Revoked, Why::GrantRevoked, Why::SessionEnded, Why::CutOff, Why::Expired, Why::ClientSuspended];
    all.into_iter().find(applies).map_or(Activity::Active, Activity::Inactive)
}

fn cuts(cut_off: &CutOffFact, facts: &TokenFacts) -> Coverage {
    if cut_off.epoch.is_some_and(|epoch| registered(cut_off.reach, facts) < epoch) {
        return match facts.grant {
            GrantFact::Offline if !cut_off.offline => Coverage::NotCovered,
            GrantFact::Offline | GrantFact::Bound(_) => Coverage::Covered,
        };
    }
    let begun = match facts.grant {
        GrantFact::Offline if !cut_off.offline => return Coverage::NotCovered,
        GrantFact::Offline | GrantFact::Bound(SessionFact::None | SessionFact::Ended) => facts.issued_at,
        GrantFact::Bound(SessionFact::Live { started_at, epoch: _ }) => Some(begun_in_session(cut_off.reach, started_at, facts.issued_at)),
    };
    covers(cut_off.not_before, gravity_of(cut_off.compromise), begun)
}

/// The epoch that counts: that of the session where sessions end, since a token may be drawn from a session that is over but not ended yet.
const fn registered(reach: CutOffReach, facts: &TokenFacts) -> i64 {
    match (reach, facts.grant) {
        (CutOffReach::Sessions, GrantFact::Bound(SessionFact::Live { epoch, .. })) => epoch,
        (CutOffReach::Sessions | CutOffReach::Participations, _) => facts.epoch,
    }
}

/// A session that began after the end is untouched, and its tokens with it. One that began before is over, even if a token was drawn from it since;
/// where only participations ended, the same session may have led to the client once more, which the younger token shows.
fn begun_in_session(reach: CutOffReach, started_at: Timestamp, issued_at: Option<Timestamp>) -> Timestamp {
    match reach {
        CutOffReach::Sessions => started_at,
        CutOffReach::Participations => issued_at.map_or(started_at, |issued_at| issued_at.max(started_at)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const T: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(T.seconds() + seconds)
    }

    const NOTHING_AGAINST_IT: TokenFacts = TokenFacts {
        issued_at: None,
        epoch: 0,
        expires_at: None,
        revoked_at: None,
        grant_revoked_at: None,
        client_suspended_at: None,
        grant: GrantFact::Bound(SessionFact::None),
        cut_offs: Vec::new(),
    };
    const PLAIN: CutOffFact = CutOffFact { not_before: T, compromise: false, offline: false, reach: CutOffReach::Sessions, epoch: None };

    fn cut(grant: GrantFact, issued_at: Option<Timestamp>, cut_off: CutOffFact) -> Activity {
        activity(&TokenFacts { issued_at, grant, cut_offs: vec![cut_off], ..NOTHING_AGAINST_IT }, at(3600))
    }

    const fn live(started_at: Timestamp) -> GrantFact {
        GrantFact::Bound(SessionFact::Live { started_at, epoch: 0 })
    }

    const CUT: Activity = Activity::Inactive(Why::CutOff);

    #[test]
    fn each_reason_alone_makes_a_token_inactive() {
        let reasons = [
            (TokenFacts { revoked_at: Some(T), ..NOTHING_AGAINST_IT }, Why::Revoked),
            (TokenFacts { grant_revoked_at: Some(T), ..NOTHING_AGAINST_IT }, Why::GrantRevoked),
            (TokenFacts { grant: GrantFact::Bound(SessionFact::Ended), ..NOTHING_AGAINST_IT }, Why::SessionEnded),
            (TokenFacts { issued_at: Some(at(-1)), cut_offs: vec![PLAIN], ..NOTHING_AGAINST_IT }, Why::CutOff),
            (TokenFacts { expires_at: Some(T), ..NOTHING_AGAINST_IT }, Why::Expired),
            (TokenFacts { client_suspended_at: Some(T), ..NOTHING_AGAINST_IT }, Why::ClientSuspended),
        ];
        for (facts, why) in reasons {
            assert_eq!(activity(&facts, T), Activity::Inactive(why));
        }
        assert_eq!(activity(&NOTHING_AGAINST_IT, T), Activity::Active);
    }

    #[test]
    fn a_token_is_active_up_to_its_last_millisecond() {
        let facts = TokenFacts { expires_at: Some(T), ..NOTHING_AGAINST_IT };
        assert_eq!(activity(&facts, T.minus(Duration::from_millis(1))), Activity::Active);
        assert_eq!(activity(&facts, T), Activity::Inactive(Why::Expired));
    }

    #[test]
    fn a_token_of_the_same_second_survives_all_but_a_compromise() {
        let no_session = GrantFact::Bound(SessionFact::None);
        assert_eq!(cut(no_session, Some(T), PLAIN), Activity::Active);
        assert_eq!(cut(no_session, Some(at(-1)), PLAIN), CUT);
        assert_eq!(cut(no_session, Some(T.plus(Duration::from_millis(999))), CutOffFact { compromise: true, ..PLAIN }), CUT);
        assert_eq!(cut(no_session, Some(at(1)), CutOffFact { compromise: true, ..PLAIN }), Activity::Active);
        assert_eq!(cut(no_session, None, PLAIN), Activity::Active);
    }

    #[test]
    fn a_session_that_began_before_the_end_takes_its_younger_tokens_along() {
        assert_eq!(cut(live(at(-10)), Some(at(5)), PLAIN), CUT);
        assert_eq!(cut(live(at(-10)), None, PLAIN), CUT);
    }

    #[test]
    fn coming_back_to_a_client_in_the_same_session_brings_tokens_that_live() {
        let participations = CutOffFact { reach: CutOffReach::Participations, ..PLAIN };
        assert_eq!(cut(live(at(-10)), Some(at(5)), participations), Activity::Active);
        assert_eq!(cut(live(at(-10)), Some(at(-5)), participations), CUT);
        assert_eq!(cut(live(at(-10)), None, participations), CUT);
    }

    #[test]
    fn an_offline_grant_outlives_its_session_and_every_end_that_does_not_take_it_along() {
        assert_eq!(cut(GrantFact::Offline, Some(at(-10)), PLAIN), Activity::Active);
        assert_eq!(cut(GrantFact::Offline, Some(at(-10)), CutOffFact { offline: true, ..PLAIN }), CUT);
        assert_eq!(cut(GrantFact::Offline, Some(at(1)), CutOffFact { offline: true, ..PLAIN }), Activity::Active);
    }

    fn instant() -> impl Strategy<Value = Timestamp> {
        (-5000_i64..5000).prop_map(|millis| Timestamp::from_millis(T.millis() + millis))
    }

    fn cut_off() -> impl Strategy<Value = CutOffFact> {
        (instant(), any::<bool>(), any::<bool>(), prop::sample::select(&[CutOffReach::Sessions, CutOffReach::Participations][..]))
            .prop_map(|(not_before, compromise, offline, reach)| CutOffFact { not_before, compromise, offline, reach, epoch: None })
    }

    fn grant() -> impl Strategy<Value = GrantFact> {
        prop_oneof![
            Just(GrantFact::Offline),
            Just(GrantFact::Bound(SessionFact::None)),
            Just(GrantFact::Bound(SessionFact::Ended)),
            instant().prop_map(live),
        ]
    }

    fn facts() -> impl Strategy<Value = TokenFacts> {
        let times = prop::array::uniform5(prop::option::weighted(0.3, instant()));
        (times, grant(), prop::collection::vec(cut_off(), 0..3)).prop_map(|(times, grant, cut_offs)| {
            let [issued_at, expires_at, revoked_at, grant_revoked_at, client_suspended_at] = times;
            TokenFacts { issued_at, epoch: 0, expires_at, revoked_at, grant_revoked_at, client_suspended_at, grant, cut_offs }
        })
    }

    proptest! {
        #[test]
        fn what_is_inactive_stays_so_whatever_else_ends_and_however_time_goes_on(facts in facts(), more in cut_off(), now in instant(), by_ms in 0_u64..5000) {
            prop_assume!(activity(&facts, now) != Activity::Active);
            let mut later = facts;
            later.cut_offs.push(more);
            prop_assert_ne!(activity(&later, now.plus(Duration::from_millis(by_ms))), Activity::Active);
        }

        #[test]
        fn a_live_session_begun_after_the_end_keeps_its_tokens(cut_off in cut_off(), issued_at in prop::option::of(instant()), after_s in 1_i64..100) {
            let started_at = Timestamp::from_seconds(cut_off.not_before.seconds() + after_s);
            prop_assert_eq!(cut(live(started_at), issued_at, cut_off), Activity::Active);
        }

        #[test]
        fn an_offline_grant_is_never_touched_by_an_end_that_spares_them(
            issued_at in prop::option::of(instant()), cut_offs in prop::collection::vec(cut_off(), 0..6),
        ) {
            let cut_offs = cut_offs.into_iter().map(|cut_off| CutOffFact { offline: false, ..cut_off }).collect();
            prop_assert_eq!(activity(&TokenFacts { issued_at, grant: GrantFact::Offline, cut_offs, ..NOTHING_AGAINST_IT }, T), Activity::Active);
        }

        #[test]
        fn an_active_token_is_not_revoked_not_expired_and_not_of_an_ended_session_or_a_suspended_client(facts in facts(), now in instant()) {
            if activity(&facts, now) != Activity::Active {
                return Ok(());
            }
            prop_assert!(facts.revoked_at.is_none() && facts.grant_revoked_at.is_none() && facts.client_suspended_at.is_none());
            prop_assert!(facts.expires_at.is_none_or(|expires_at| now < expires_at));
            prop_assert_ne!(facts.grant, GrantFact::Bound(SessionFact::Ended));
        }

        #[test]
        fn a_token_older_than_an_end_that_reaches_its_kind_is_inactive(issued_at in instant(), cut_off in cut_off(), older_s in 1_i64..100, grant in grant()) {
            let old = Timestamp::from_seconds(cut_off.not_before.seconds() - older_s);
            let grant = if let GrantFact::Bound(SessionFact::Live { .. }) = grant { live(old) } else { grant };
            prop_assume!(grant != GrantFact::Offline || cut_off.offline);
            prop_assert_ne!(cut(grant, Some(issued_at.min(old)), cut_off), Activity::Active);
        }
    }
}
