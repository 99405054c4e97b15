//! Whether a token is active.
//!
//! Owns the one answer that introspection, forward-auth, rotation, revocation and the list of what is still open have to agree on: each of them gathers
//! facts and asks here, so that none can forget a check. Never looks anything up, never tells a caller why: the reason is for logs, token events and
//! tests, since RFC 7662 2.2 wants an inactive token to say nothing more.

use std::time::Duration;

use super::time::{Coverage, covers, gravity_of};
use crate::model::Timestamp;
use crate::model::cut_off::{CutOff, Ends, Origin};
use crate::model::gap::{GapFact, OpenGaps, Said};
use crate::model::session::SessionView;
use crate::model::token::{GrantFact, Newest, SessionFact, TokenFacts, UnknownSession};

/// How far a provider's clock may be ahead of ours before a token of its is too young to be good (RFC 7519 4.1.5).
pub const SKEW_MAX: Duration = Duration::from_secs(60);

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
    /// Its session ended, or its time is up.
    SessionEnded,
    /// Its session is not registered, and must be.
    SessionUnknown,
    /// It is older than an end that covers it.
    CutOff,
    /// It was replaced by its successor.
    Rotated,
    /// Whether its login is over was lost with what a restored database cannot know, and nobody has said since that it is not.
    InGap,
    /// A newer one of its subject is known, and only the newest is accepted.
    NotNewest,
    /// Its name, or its session's, is on the denylist.
    Denied,
    /// Its time is up.
    Expired,
    /// Its time has not come.
    NotYet,
    /// Its client is suspended until further notice.
    ClientSuspended,
}

impl Why {
    /// Every reason, in the order they are looked for.
    pub const ALL: [Self; 12] = [
        Self::Revoked,
        Self::GrantRevoked,
        Self::SessionEnded,
        Self::SessionUnknown,
        Self::CutOff,
        Self::Rotated,
        Self::InGap,
        Self::NotNewest,
        Self::Denied,
        Self::Expired,
        Self::NotYet,
        Self::ClientSuspended,
    ];

    /// Whether the login a token belongs to is over, and not the token alone.
    pub const fn is_after_logout(self) -> bool {
        match self {
            Self::GrantRevoked | Self::SessionEnded | Self::CutOff => true,
            Self::Revoked
            | Self::SessionUnknown
            | Self::Rotated
            | Self::InGap
            | Self::NotNewest
            | Self::Denied
            | Self::Expired
            | Self::NotYet
            | Self::ClientSuspended => false,
        }
    }
}

/// Decides whether a token is active.
pub fn activity(facts: &TokenFacts, now: Timestamp) -> Activity {
    Why::ALL.into_iter().find(|why| applies(*why, facts, now)).map_or(Activity::Active, Activity::Inactive)
}

fn applies(why: Why, facts: &TokenFacts, now: Timestamp) -> bool {
    match why {
        Why::Revoked => facts.revoked_at.is_some(),
        Why::GrantRevoked => facts.grant_revoked_at.is_some(),
        Why::SessionEnded => is_over(facts.grant, now),
        Why::SessionUnknown => facts.grant == GrantFact::Bound(SessionFact::Unknown(UnknownSession::Refused)),
        Why::CutOff => facts.cut_offs.iter().any(|cut_off| cuts(cut_off, facts, now) == Coverage::Covered),
        Why::Rotated => facts.superseded_at.is_some(),
        Why::InGap => facts.gap.as_ref().is_some_and(is_in_gap),
        Why::NotNewest => facts.newest == Newest::Older,
        Why::Denied => facts.denied_until.is_some_and(|until| now < until),
        Why::Expired => facts.expires_at.is_some_and(|expires_at| now >= expires_at),
        Why::NotYet => facts.not_before.is_some_and(|not_before| not_before > now.plus(SKEW_MAX)),
        Why::ClientSuspended => facts.client_suspended_at.is_some(),
    }
}

/// Whether a session lives here of which nobody knows whether it does: what hangs on it is inactive.
pub fn is_session_in_gap(session: &SessionView, open: OpenGaps) -> bool {
    let said = if session.sid.is_some() { Said::Named } else { Said::Nameless };
    let gap = GapFact { open, known_at: Some(session.created_at), session: said(session.reported_at) };
    session.ended_at.is_none() && is_in_gap(&gap)
}

/// What was known before a gap's end may have ended in it, unless its session was reported since, or listed since where a list would name it. What is
/// of the very instant of its end counts as before: providers' times have whole seconds.
fn is_in_gap(gap: &GapFact) -> bool {
    let ends_at = match gap.session {
        Said::Named(_) => gap.open.unlisted_ends_at,
        Said::Nameless(_) | Said::Nothing => Some(gap.open.ends_at),
    };
    let Some(ends_at) = ends_at else { return false };
    let reported = match gap.session {
        Said::Named(at) | Said::Nameless(at) => at >= ends_at,
        Said::Nothing => false,
    };
    !reported && gap.known_at.is_none_or(|known_at| known_at < ends_at)
}

fn is_over(grant: GrantFact, now: Timestamp) -> bool {
    match grant {
        GrantFact::Bound(SessionFact::Ended) => true,
        GrantFact::Bound(SessionFact::Live { over_at, .. }) => over_at.is_some_and(|over_at| now >= over_at),
        GrantFact::Offline | GrantFact::Bound(SessionFact::None | SessionFact::Unknown(_)) => false,
    }
}

fn cuts(cut_off: &CutOff, facts: &TokenFacts, now: Timestamp) -> Coverage {
    if let Origin::Order { expires_at: Some(expires_at), .. } = cut_off.origin
        && now >= expires_at
    {
        return Coverage::NotCovered;
    }
    if facts.grant == GrantFact::Offline && !cut_off.offline {
        return Coverage::NotCovered;
    }
    // Whatever was registered since was held against the cut-off then: no clock says it better.
    if let Some((epoch, registered)) = cut_off.epoch.zip(registered(cut_off.ends(), facts)) {
        return if registered < epoch { Coverage::Covered } else { Coverage::NotCovered };
    }
    match begun(cut_off.ends(), facts) {
        // A token of which nobody knows when it was issued may be as old as any.
        None if cut_off.ends() == Ends::Tokens => Coverage::Covered,
        begun => covers(cut_off.not_before, gravity_of(cut_off.compromise), begun),
    }
}

/// The epoch that counts: that of the session where sessions end, since a token may be drawn from a session that is over but not ended yet.
const fn registered(ends: Ends, facts: &TokenFacts) -> Option<i64> {
    match (ends, facts.grant) {
        (Ends::Sessions, GrantFact::Bound(SessionFact::Live { epoch, .. })) => Some(epoch),
        (Ends::Sessions | Ends::Participations | Ends::Tokens, _) => facts.epoch,
    }
}

/// The time that counts. A session that began after the end is untouched, and its tokens with it. One that began before is over, even if a token was
/// drawn from it since; where only participations ended, the same session may have led to the client once more, which the younger token shows. Where
/// tokens are cut off, each counts for itself.
fn begun(ends: Ends, facts: &TokenFacts) -> Option<Timestamp> {
    match (ends, facts.grant) {
        (Ends::Sessions, GrantFact::Bound(SessionFact::Live { started_at, .. })) => Some(started_at),
        (Ends::Participations, GrantFact::Bound(SessionFact::Live { started_at, .. })) => {
            Some(facts.issued_at.map_or(started_at, |issued_at| issued_at.max(started_at)))
        }
        (Ends::Sessions | Ends::Participations | Ends::Tokens, _) => facts.issued_at,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::cut_off::CutOffScope;
    use crate::model::trigger::Except;
    use crate::seams::Entropy;

    const T: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(T.seconds() + seconds)
    }

    const NOTHING_AGAINST_IT: TokenFacts = TokenFacts {
        issued_at: None,
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

    fn plain() -> CutOff {
        of(CutOffScope::Everyone)
    }

    fn of(scope: CutOffScope) -> CutOff {
        let origin = Origin::Event(Entropy::seeded(1).id(T));
        CutOff { scope, except: Except::default(), not_before: T, origin, compromise: false, offline: false, epoch: None }
    }

    fn ordered(expires_at: Option<Timestamp>) -> CutOff {
        CutOff { origin: Origin::Order { id: Entropy::seeded(1).id(T), expires_at }, offline: true, ..plain() }
    }

    fn cut(grant: GrantFact, issued_at: Option<Timestamp>, cut_off: CutOff) -> Activity {
        activity(&TokenFacts { issued_at, grant, cut_offs: vec![cut_off], ..NOTHING_AGAINST_IT }, at(3600))
    }

    const fn live(started_at: Timestamp) -> GrantFact {
        GrantFact::Bound(SessionFact::Live { started_at, epoch: 0, over_at: None })
    }

    const GAP: GapFact = GapFact { open: OpenGaps { ends_at: T, unlisted_ends_at: Some(T) }, known_at: None, session: Said::Nothing };

    fn in_gap(gap: GapFact) -> TokenFacts {
        TokenFacts { gap: Some(gap), ..NOTHING_AGAINST_IT }
    }

    const CUT: Activity = Activity::Inactive(Why::CutOff);

    #[test]
    fn each_reason_alone_makes_a_token_inactive() {
        let reasons = [
            (TokenFacts { revoked_at: Some(T), ..NOTHING_AGAINST_IT }, Why::Revoked),
            (TokenFacts { grant_revoked_at: Some(T), ..NOTHING_AGAINST_IT }, Why::GrantRevoked),
            (TokenFacts { grant: GrantFact::Bound(SessionFact::Ended), ..NOTHING_AGAINST_IT }, Why::SessionEnded),
            (TokenFacts { issued_at: Some(at(-1)), cut_offs: vec![plain()], ..NOTHING_AGAINST_IT }, Why::CutOff),
            (TokenFacts { expires_at: Some(T), ..NOTHING_AGAINST_IT }, Why::Expired),
            (TokenFacts { client_suspended_at: Some(T), ..NOTHING_AGAINST_IT }, Why::ClientSuspended),
            (TokenFacts { superseded_at: Some(T), ..NOTHING_AGAINST_IT }, Why::Rotated),
            (in_gap(GAP), Why::InGap),
            (TokenFacts { newest: Newest::Older, ..NOTHING_AGAINST_IT }, Why::NotNewest),
            (TokenFacts { denied_until: Some(at(1)), ..NOTHING_AGAINST_IT }, Why::Denied),
            (TokenFacts { not_before: Some(at(61)), ..NOTHING_AGAINST_IT }, Why::NotYet),
            (
                TokenFacts { grant: GrantFact::Bound(SessionFact::Unknown(UnknownSession::Refused)), ..NOTHING_AGAINST_IT },
                Why::SessionUnknown,
            ),
            (
                TokenFacts {
                    grant: GrantFact::Bound(SessionFact::Live { started_at: at(-9), epoch: 0, over_at: Some(T) }),
                    ..NOTHING_AGAINST_IT
                },
                Why::SessionEnded,
            ),
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
        assert_eq!(cut(no_session, Some(T), plain()), Activity::Active);
        assert_eq!(cut(no_session, Some(at(-1)), plain()), CUT);
        assert_eq!(cut(no_session, Some(T.plus(Duration::from_millis(999))), CutOff { compromise: true, ..plain() }), CUT);
        assert_eq!(cut(no_session, Some(at(1)), CutOff { compromise: true, ..plain() }), Activity::Active);
        assert_eq!(cut(no_session, None, plain()), Activity::Active);
    }

    #[test]
    fn a_session_that_began_before_the_end_takes_its_younger_tokens_along() {
        assert_eq!(cut(live(at(-10)), Some(at(5)), plain()), CUT);
        assert_eq!(cut(live(at(-10)), None, plain()), CUT);
    }

    #[test]
    fn coming_back_to_a_client_in_the_same_session_brings_tokens_that_live() {
        let participations = || of(CutOffScope::EveryoneAtClients);
        assert_eq!(cut(live(at(-10)), Some(at(5)), participations()), Activity::Active);
        assert_eq!(cut(live(at(-10)), Some(at(-5)), participations()), CUT);
        assert_eq!(cut(live(at(-10)), None, participations()), CUT);
    }

    #[test]
    fn an_offline_grant_outlives_its_session_and_every_end_that_does_not_take_it_along() {
        assert_eq!(cut(GrantFact::Offline, Some(at(-10)), plain()), Activity::Active);
        assert_eq!(cut(GrantFact::Offline, Some(at(-10)), CutOff { offline: true, ..plain() }), CUT);
        assert_eq!(cut(GrantFact::Offline, Some(at(1)), CutOff { offline: true, ..plain() }), Activity::Active);
    }

    #[test]
    fn an_ordered_cut_off_takes_each_token_by_its_own_age_and_ceases() {
        let lasting = || ordered(None);
        assert_eq!(cut(live(at(-10)), Some(at(5)), lasting()), Activity::Active);
        assert_eq!(cut(live(at(-10)), Some(at(-5)), lasting()), CUT);
        assert_eq!(cut(GrantFact::Offline, Some(at(-5)), lasting()), CUT);
        assert_eq!(cut(GrantFact::Bound(SessionFact::None), None, lasting()), CUT);
        assert_eq!(cut(live(at(-10)), Some(at(-5)), ordered(Some(at(3601)))), CUT);
        assert_eq!(cut(live(at(-10)), Some(at(-5)), ordered(Some(at(3600)))), Activity::Active);
    }

    fn instant() -> impl Strategy<Value = Timestamp> {
        (-5000_i64..5000).prop_map(|millis| Timestamp::from_millis(T.millis() + millis))
    }

    fn cut_off() -> impl Strategy<Value = CutOff> {
        (instant(), any::<bool>(), any::<bool>(), prop::sample::select(vec![CutOffScope::Everyone, CutOffScope::EveryoneAtClients]))
            .prop_map(|(not_before, compromise, offline, scope)| CutOff { not_before, compromise, offline, ..of(scope) })
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
            TokenFacts { issued_at, expires_at, revoked_at, grant_revoked_at, client_suspended_at, grant, cut_offs, ..NOTHING_AGAINST_IT }
        })
    }

    #[test]
    fn what_a_gap_hides_is_inactive_until_somebody_says_it_lives() {
        let is_active = |gap: GapFact| activity(&in_gap(gap), at(9)) == Activity::Active;
        let (before, after) = (Some(at(-1)), Some(T));
        for session in [Said::Nothing, Said::Nameless(at(-1)), Said::Named(at(-1))] {
            for known_at in [None, before] {
                assert!(!is_active(GapFact { known_at, session, ..GAP }), "{session:?} {known_at:?}");
            }
            assert!(is_active(GapFact { known_at: after, session, ..GAP }), "known since: {session:?}");
            let listed = GapFact { open: OpenGaps { unlisted_ends_at: None, ..GAP.open }, known_at: before, session };
            assert_eq!(is_active(listed), matches!(session, Said::Named(_)), "a list speaks of what it names: {session:?}");
        }
        for session in [Said::Nameless(T), Said::Named(T)] {
            assert!(is_active(GapFact { known_at: before, session, ..GAP }), "reported since: {session:?}");
        }
        let open = OpenGaps { ends_at: at(5), unlisted_ends_at: Some(at(5)) };
        let twice = GapFact { open, known_at: before, session: Said::Named(at(1)) };
        assert!(!is_active(twice), "what was said between two gaps is not said after the second");
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
            let cut_offs = cut_offs.into_iter().map(|cut_off| CutOff { offline: false, ..cut_off }).collect();
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
