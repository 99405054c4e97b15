//! What a report means that may have come late: does it add to what lives, begin something, or tell of something that is over?
//!
//! Two promises pull at each other here. A genuine new login is never ended by an old logout; and who joined before a logout is told to log out,
//! however late the report. Times alone tell the two apart, by the provider's clock and in whole seconds.

use super::activity::SKEW_MAX;
use super::effects::{opening, reach};
use super::expiry::{self, is_renewed, was_extended};
use super::lifetime::lifetime;
use super::rotation;
use super::time::{Coverage, covers, gravity_of, is_newer};
use crate::model::cut_off::{CutOff, CutOffScope};
use crate::model::effects::{
    EndCause, EndFact, KnownParticipation, LiveFact, Offline, ParticipantDecision, ParticipantFacts, ReportRules, SessionDecision,
    SessionFacts, TokenDecision, TokenReportFacts,
};
use crate::model::session::Life;
use crate::model::trigger::Gravity;
use crate::model::{EventId, Timestamp};

/// The rules reports are judged by.
pub const RULES: ReportRules = ReportRules {
    session,
    participant,
    token,
    opening,
    opening_by_age: expiry::opening,
    opening_by_renewal: expiry::opening_renewed,
    rotation: rotation::decide,
    lifetime,
    reach,
};

/// What a session report means.
pub fn session(facts: &SessionFacts<'_>) -> SessionDecision {
    // Another person's ended session is not this one, whatever its name.
    let ended = facts.ended.as_ref().filter(|ended| ended.sub.as_ref().is_none_or(|sub| sub == facts.sub));
    // Nor is one that ended by its age while its provider had given it more time: that goes on, unless a logout covers it.
    let ended = ended.filter(|ended| !was_extended(ended, facts.said, facts.expiry));
    match (facts.live, ended) {
        (Some(live), _) if is_renewed(facts.expiry, live.age, facts.now, facts.started_at) => SessionDecision::Renew,
        (Some(live), _) if is_displaced(&live, facts) => SessionDecision::Displace,
        (Some(live), _) if live.sub.is_some_and(|sub| sub != facts.sub) => SessionDecision::OtherSubject,
        (Some(_), _) => SessionDecision::Merge,
        // The same instant is the same login, told again; otherwise only a later one begins anew.
        (None, Some(ended)) if !facts.started_at.is_some_and(|at| at != ended.started_at && after(at, &ended.end)) => {
            SessionDecision::JoinEnded
        }
        (None, _) => match strongest(facts.cut_offs, facts.started_at, |scope| covers_session(scope, facts)) {
            Some(cut_off) => SessionDecision::BeginEnded(end_by(cut_off)),
            None => SessionDecision::Begin,
        },
    }
}

/// Whether a login that is reported took the name of one that a gap hides. Providers use a `sid` again after a logout, and which logouts the gap held nobody
/// knows any more: were the report taken for word of the session that is known, whoever was put out in the gap would be let in again by the next login.
/// A clock of the provider's that is behind makes no difference.
fn is_displaced(live: &LiveFact<'_>, facts: &SessionFacts<'_>) -> bool {
    let (Some(gap), Some(started_at)) = (facts.gap, facts.started_at) else { return false };
    let is_hidden = live.reported_at < gap.ends_at;
    // Within a second nobody can tell two logins apart.
    let is_later = started_at.seconds() > live.started_at.seconds();
    is_hidden && is_later && started_at >= gap.begins_at.minus(SKEW_MAX)
}

/// What a participant's report means.
pub fn participant(facts: &ParticipantFacts<'_>) -> ParticipantDecision {
    let ended_at = match facts.known {
        None => None,
        Some(KnownParticipation { life: Life::Live, .. }) => return ParticipantDecision::Known,
        Some(known) => match came_back(&known, facts.joined_at) {
            None => return ParticipantDecision::Known,
            ended_at @ Some(_) => ended_at,
        },
    };
    match facts.session_end {
        // It was told by that very end, or by a later one.
        Some(end) if ended_at.is_some_and(|ended_at| ended_at >= end.at) => return ParticipantDecision::Known,
        // Nobody joins what is over: its provider had given it more time.
        Some(end) if end.cause == EndCause::Age && facts.joined_at.is_some_and(|at| after(at, end)) => {
            return ParticipantDecision::Overtaken(end.clone());
        }
        // Its own time does not matter: had the session gone on for it, its session's report would have begun a new one.
        Some(end) => return ParticipantDecision::LateJoiner(end.clone()),
        None => {}
    }
    match strongest(facts.cut_offs, facts.joined_at, at_a_client) {
        // Its end came no earlier than the cut-off: it was told then.
        Some((cut_off, _)) if ended_at.is_some_and(|ended_at| ended_at >= cut_off.not_before) => ParticipantDecision::Known,
        Some(found) => ParticipantDecision::LateJoiner(end_by(found)),
        None => ParticipantDecision::Join,
    }
}

/// When a participation ended that is now reported as joined again; none when the report tells of the one that ended.
fn came_back(known: &KnownParticipation, joined_at: Option<Timestamp>) -> Option<Timestamp> {
    let joined_at = joined_at.filter(|joined_at| *joined_at != known.joined_at)?;
    known.ended_at.filter(|ended_at| is_newer(joined_at, *ended_at, Gravity::Plain))
}

/// What a refresh token's report means. Neither a live session nor the end of one means a token that is bound to no session: a session name that
/// names nothing never comes this far.
pub fn token(facts: &TokenReportFacts<'_>) -> TokenDecision {
    let outlives = |end: &EndFact| facts.offline == Offline::Spared && !end.offline;
    match facts.session_end {
        Some(end) if facts.issued_at.is_some_and(|at| after(at, end)) => return TokenDecision::UnknownSession,
        Some(end) if !outlives(end) => return TokenDecision::Revoked(end.event.clone()),
        Some(_) | None => {}
    }
    // A session that lives was not ended by what ended its subject's others: it began later, or was excepted.
    let in_scope = |scope: &CutOffScope| !facts.session_live || at_a_client(scope);
    let cut = facts.cut_offs.iter().filter(|cut_off| facts.offline == Offline::Taken || cut_off.offline);
    match strongest(cut, facts.issued_at, in_scope) {
        Some((_, event)) => TokenDecision::CutOff(event.clone()),
        None => TokenDecision::Live,
    }
}

/// Whether something that began then is newer than an end.
fn after(began: Timestamp, end: &EndFact) -> bool {
    is_newer(began, end.at, gravity_of(end.compromise))
}

/// The gravest cut-off in scope that a logout left and that covers what began then. Without a time nothing is covered: it may be a genuine new login.
fn strongest<'a>(
    cut_offs: impl IntoIterator<Item = &'a CutOff>,
    began: Option<Timestamp>,
    in_scope: impl Fn(&CutOffScope) -> bool,
) -> Option<(&'a CutOff, &'a EventId)> {
    cut_offs
        .into_iter()
        .filter_map(|cut_off| Some((cut_off, cut_off.event()?)))
        .filter(|(cut_off, _)| in_scope(&cut_off.scope))
        .filter(|(cut_off, _)| covers(cut_off.not_before, gravity_of(cut_off.compromise), began) == Coverage::Covered)
        .max_by_key(|(cut_off, _)| (cut_off.compromise, cut_off.offline, cut_off.not_before))
}

fn covers_session(scope: &CutOffScope, facts: &SessionFacts<'_>) -> bool {
    match scope {
        CutOffScope::Subject { sub, except_sid } => sub == facts.sub && (except_sid.is_none() || except_sid.as_ref() != facts.sid),
        CutOffScope::Session(sid) => Some(sid) == facts.sid,
        CutOffScope::Everyone => true,
        CutOffScope::Device(_)
        | CutOffScope::EveryoneAtClients
        | CutOffScope::Client(_)
        | CutOffScope::SubjectAtClient(..)
        | CutOffScope::SessionAtClient(..)
        | CutOffScope::ClientSid(..)
        | CutOffScope::ClientSub(..) => false,
    }
}

/// Whether it ends participations, rather than sessions.
const fn at_a_client(scope: &CutOffScope) -> bool {
    match scope {
        CutOffScope::Client(_)
        | CutOffScope::SubjectAtClient(..)
        | CutOffScope::SessionAtClient(..)
        | CutOffScope::ClientSid(..)
        | CutOffScope::ClientSub(..)
        | CutOffScope::EveryoneAtClients => true,
        CutOffScope::Subject { .. } | CutOffScope::Session(_) | CutOffScope::Device(_) | CutOffScope::Everyone => false,
    }
}

fn end_by((cut_off, event): (&CutOff, &EventId)) -> EndFact {
    EndFact {
        at: cut_off.not_before,
        event: event.clone(),
        compromise: cut_off.compromise,
        offline: cut_off.offline,
        cause: EndCause::Logout,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::cut_off::Origin;
    use crate::model::effects::{EndedFact, SaidAge};
    use crate::model::gap::GapSpan;
    use crate::model::issuer::{Age, Expiry};
    use crate::model::trigger::Except;
    use crate::model::{ClientId, Id, Sid, Subject};

    fn event(n: u128) -> EventId {
        EventId::from(Id::from_parts(Timestamp::from_millis(1), n))
    }

    fn sub() -> Subject {
        Subject::parse("alice").unwrap()
    }

    fn sid(text: &str) -> Sid {
        Sid::parse(text).unwrap()
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn end(millis: i64) -> EndFact {
        EndFact { at: at(millis), event: event(1), compromise: false, offline: false, cause: EndCause::Logout }
    }

    fn cut(scope: CutOffScope, millis: i64) -> CutOff {
        CutOff {
            scope,
            except: Except::default(),
            not_before: at(millis),
            origin: Origin::Event(event(2)),
            compromise: false,
            offline: false,
            epoch: None,
        }
    }

    fn of_subject(millis: i64) -> CutOff {
        cut(CutOffScope::Subject { sub: sub(), except_sid: None }, millis)
    }

    fn of_client(millis: i64) -> CutOff {
        cut(CutOffScope::Client(ClientId::parse("wiki").unwrap()), millis)
    }

    /// An ended session that began long ago.
    fn over(end: EndFact) -> EndedFact {
        EndedFact { sub: Some(sub()), started_at: at(-1), age: LONG, end }
    }

    /// So long that nothing ends by it.
    const LONG: Age = Age { expires_at: Timestamp::from_millis(i64::MAX), idle_expires_at: None };

    /// A live session that began long ago.
    fn living(sub: Option<&Subject>, age: Age) -> LiveFact<'_> {
        LiveFact { sub, started_at: at(-1), reported_at: at(-1), age }
    }

    /// A report of `alice`'s session `s-1` that says nothing of itself.
    fn told<'a>(live: Option<LiveFact<'a>>, ended: Option<EndedFact>, sub: &'a Subject, sid: &'a Sid) -> SessionFacts<'a> {
        let (cut_offs, said, expiry, now): (&[CutOff], _, _, _) = (&[], SaidAge::default(), Expiry::Absolute, at(100_000));
        SessionFacts { live, ended, cut_offs, sid: Some(sid), sub, started_at: None, said, expiry, gap: None, now }
    }

    fn decide(ended: Option<EndFact>, cut_offs: &[CutOff], started_at: Option<i64>) -> SessionDecision {
        let (sub, sid, ended) = (sub(), sid("s-1"), ended.map(over));
        session(&SessionFacts { cut_offs, started_at: started_at.map(at), ..told(None, ended, &sub, &sid) })
    }

    #[test]
    fn a_live_session_merges_unless_it_is_known_to_be_somebody_elses() {
        let (alice, bob, sid) = (sub(), Subject::parse("bob").unwrap(), sid("s-1"));
        let facts = |sub| told(Some(living(sub, LONG)), Some(over(end(9_000))), &alice, &sid);
        assert_eq!(session(&facts(Some(&alice))), SessionDecision::Merge);
        assert_eq!(session(&facts(None)), SessionDecision::Merge);
        assert_eq!(session(&facts(Some(&bob))), SessionDecision::OtherSubject);
    }

    #[test]
    fn an_ended_sid_begins_anew_only_for_a_login_after_its_end() {
        assert_eq!(decide(Some(end(5_500)), &[], Some(4_999)), SessionDecision::JoinEnded);
        assert_eq!(decide(Some(end(5_500)), &[], None), SessionDecision::JoinEnded);
        assert_eq!(decide(Some(end(5_500)), &[], Some(5_100)), SessionDecision::Begin);
        let compromise = EndFact { compromise: true, ..end(5_500) };
        assert_eq!(decide(Some(compromise.clone()), &[], Some(5_900)), SessionDecision::JoinEnded);
        assert_eq!(decide(Some(compromise), &[], Some(6_000)), SessionDecision::Begin);
    }

    #[test]
    fn a_login_told_again_is_the_same_login_even_when_it_ended_within_its_second() {
        let (sub, sid) = (sub(), sid("s-1"));
        let ended = Some(EndedFact { sub: Some(sub.clone()), started_at: at(5_100), age: LONG, end: end(5_500) });
        let facts = |started_at| SessionFacts { started_at, ..told(None, ended.clone(), &sub, &sid) };
        assert_eq!(session(&facts(Some(at(5_100)))), SessionDecision::JoinEnded);
        assert_eq!(session(&facts(Some(at(5_200)))), SessionDecision::Begin);
    }

    #[test]
    fn another_person_s_ended_session_under_the_same_sid_is_not_joined() {
        let (alice, carol, sid) = (sub(), Subject::parse("carol").unwrap(), sid("s-1"));
        let ended = Some(over(end(5_500)));
        let facts = |sub| told(None, ended.clone(), sub, &sid);
        assert_eq!(session(&facts(&alice)), SessionDecision::JoinEnded);
        assert_eq!(session(&facts(&carol)), SessionDecision::Begin);
    }

    #[test]
    fn a_session_whose_time_was_up_goes_on_where_a_late_report_says_that_it_had_more() {
        let (sub, sid) = (sub(), sid("s-1"));
        let age = Age { expires_at: at(9_000), idle_expires_at: None };
        let decide = |cause, expires_at: Option<i64>, started_at: i64| {
            let ended = EndedFact { age, ..over(EndFact { cause, ..end(9_000) }) };
            let said = SaidAge { expires_at: expires_at.map(at), idle_expires_at: None };
            session(&SessionFacts { said, started_at: Some(at(started_at)), ..told(None, Some(ended), &sub, &sid) })
        };
        assert_eq!(decide(EndCause::Age, Some(20_000), -1), SessionDecision::Begin);
        assert_eq!(decide(EndCause::Age, Some(9_000), -1), SessionDecision::JoinEnded);
        assert_eq!(decide(EndCause::Age, None, -1), SessionDecision::JoinEnded);
        assert_eq!(decide(EndCause::Age, None, 9_000), SessionDecision::Begin, "a new login");
        for cause in [EndCause::Logout, EndCause::Absence] {
            assert_eq!(decide(cause, Some(20_000), -1), SessionDecision::JoinEnded, "{cause:?}");
        }
    }

    #[test]
    fn a_logout_still_covers_a_session_that_had_more_time() {
        let (sub, sid) = (sub(), sid("s-1"));
        let ended =
            EndedFact { age: Age { expires_at: at(9_000), idle_expires_at: None }, ..over(EndFact { cause: EndCause::Age, ..end(9_000) }) };
        let said = SaidAge { expires_at: Some(at(20_000)), idle_expires_at: None };
        let facts = |cut_offs| SessionFacts { said, cut_offs, started_at: Some(at(-1)), ..told(None, Some(ended.clone()), &sub, &sid) };
        assert_eq!(session(&facts(&[])), SessionDecision::Begin);
        let cut_off = [of_subject(12_000)];
        assert_eq!(session(&facts(&cut_off)), SessionDecision::BeginEnded(EndFact { event: event(2), ..end(12_000) }));
    }

    #[test]
    fn a_login_after_a_session_s_time_was_up_takes_its_name_before_anybody_has_ended_it() {
        let (alice, bob, sid) = (sub(), Subject::parse("bob").unwrap(), sid("s-1"));
        let age = Age { expires_at: at(9_000), idle_expires_at: None };
        let decide = |sub, started: Option<i64>, now| {
            let facts = told(Some(living(Some(&alice), age)), None, sub, &sid);
            session(&SessionFacts { started_at: started.map(at), now: at(now), ..facts })
        };
        assert_eq!(decide(&alice, Some(10_000), 11_000), SessionDecision::Renew);
        assert_eq!(decide(&bob, Some(10_000), 11_000), SessionDecision::Renew);
        assert_eq!(decide(&alice, Some(8_000), 11_000), SessionDecision::Merge);
        assert_eq!(decide(&alice, None, 11_000), SessionDecision::Merge);
        assert_eq!(decide(&bob, Some(8_000), 11_000), SessionDecision::OtherSubject);
        assert_eq!(decide(&alice, Some(10_000), 8_999), SessionDecision::Merge);
    }

    #[test]
    fn a_login_that_is_later_than_one_in_a_gap_is_another_one_and_every_other_report_speaks_of_the_one_that_is_known() {
        use SessionDecision::{Displace, Merge, OtherSubject};
        let (alice, bob, sid) = (sub(), Subject::parse("bob").unwrap(), sid("s-1"));
        let (begins, ends) = (200_000, 300_000);
        let gap = Some(GapSpan { begins_at: at(begins), ends_at: at(ends) });
        let decide = |sub, reported: i64, started: Option<i64>, gap| {
            let live = LiveFact { started_at: at(100_500), reported_at: at(reported), ..living(Some(&alice), LONG) };
            session(&SessionFacts { started_at: started.map(at), gap, now: at(400_000), ..told(Some(live), None, sub, &sid) })
        };
        let before = 150_000;
        for started in [begins, 250_000, ends, 390_000, begins - 60_000] {
            assert_eq!(decide(&alice, before, Some(started), gap), Displace, "{started}");
        }
        assert_eq!(decide(&bob, before, Some(250_000), gap), Displace, "a sid may come back under another person");
        for started in [None, Some(100_500), Some(100_999), Some(90_000), Some(begins - 60_001)] {
            assert_eq!(decide(&alice, before, started, gap), Merge, "{started:?}");
        }
        assert_eq!(decide(&bob, before, None, gap), OtherSubject);
        assert_eq!(decide(&alice, ends, Some(390_000), gap), Merge, "spoken of since, it is hidden no more");
        assert_eq!(decide(&alice, before, Some(390_000), None), Merge, "without a gap it is known what ended");
    }

    #[test]
    fn who_joined_after_a_session_s_time_was_up_is_told_nothing_and_before_it_as_any_late_joiner() {
        let aged = EndFact { cause: EndCause::Age, ..end(5_000) };
        assert_eq!(join(Some(&aged), None, &[], Some(5_000)), ParticipantDecision::Overtaken(aged.clone()));
        assert_eq!(join(Some(&aged), None, &[], Some(4_999)), ParticipantDecision::LateJoiner(aged.clone()));
        assert_eq!(join(Some(&end(5_000)), None, &[], Some(5_000)), ParticipantDecision::LateJoiner(end(5_000)));
        let absent = EndFact { cause: EndCause::Absence, ..end(5_000) };
        assert_eq!(join(Some(&absent), None, &[], Some(5_000)), ParticipantDecision::LateJoiner(absent));
    }

    #[test]
    fn who_came_back_before_the_session_ended_is_told_however_late_it_is_reported() {
        let over = end(9_000);
        assert_eq!(join(Some(&over), Some((Life::Ended, 5_000)), &[], Some(7_000)), ParticipantDecision::LateJoiner(over.clone()));
        assert_eq!(join(Some(&over), Some((Life::Ended, 5_000)), &[], Some(4_000)), ParticipantDecision::Known);
        assert_eq!(join(Some(&over), Some((Life::Ended, 9_000)), &[], Some(9_500)), ParticipantDecision::Known);
    }

    #[test]
    fn a_login_after_its_sid_ended_is_still_covered_by_a_later_cut_off() {
        assert_eq!(
            decide(Some(end(5_000)), &[of_subject(9_000)], Some(7_000)),
            SessionDecision::BeginEnded(EndFact { event: event(2), ..end(9_000) })
        );
    }

    #[test]
    fn a_cut_off_covers_only_its_scope_and_only_what_is_known_to_be_older() {
        let covered = SessionDecision::BeginEnded(EndFact { event: event(2), ..end(9_000) });
        let except = |name: &str| cut(CutOffScope::Subject { sub: sub(), except_sid: Some(sid(name)) }, 9_000);
        assert_eq!(decide(None, &[of_subject(9_000)], Some(1_000)), covered);
        assert_eq!(decide(None, &[except("s-2")], Some(1_000)), covered);
        assert_eq!(decide(None, &[cut(CutOffScope::Session(sid("s-1")), 9_000)], Some(1_000)), covered);
        assert_eq!(decide(None, &[except("s-1")], Some(1_000)), SessionDecision::Begin);
        assert_eq!(decide(None, &[of_client(9_000)], Some(1_000)), SessionDecision::Begin);
        assert_eq!(decide(None, &[cut(CutOffScope::Session(sid("s-2")), 9_000)], Some(1_000)), SessionDecision::Begin);
        assert_eq!(decide(None, &[of_subject(9_000)], Some(9_000)), SessionDecision::Begin);
        assert_eq!(decide(None, &[of_subject(9_000)], None), SessionDecision::Begin);
    }

    #[test]
    fn the_gravest_of_several_cut_offs_is_the_one_that_tells() {
        let compromise = CutOff { compromise: true, offline: true, origin: Origin::Event(event(3)), ..of_subject(8_000) };
        let told = EndFact { at: at(8_000), event: event(3), compromise: true, offline: true, cause: EndCause::Logout };
        assert_eq!(decide(None, &[of_subject(9_000), compromise.clone()], Some(8_999)), SessionDecision::BeginEnded(told));
        assert_eq!(decide(None, &[of_subject(9_000), compromise], Some(9_000)), SessionDecision::Begin);
    }

    fn join(session_end: Option<&EndFact>, known: Option<(Life, i64)>, cut_offs: &[CutOff], joined_at: Option<i64>) -> ParticipantDecision {
        let ended_at = |life, ended| (life == Life::Ended).then(|| at(ended));
        let known = known.map(|(life, ended)| KnownParticipation { life, joined_at: at(-1), ended_at: ended_at(life, ended) });
        participant(&ParticipantFacts { session_end, known, cut_offs, joined_at: joined_at.map(at) })
    }

    #[test]
    fn who_joins_a_session_that_is_over_is_told_once() {
        let over = end(5_000);
        assert_eq!(join(Some(&over), None, &[], Some(1_000)), ParticipantDecision::LateJoiner(over.clone()));
        assert_eq!(join(Some(&over), None, &[], None), ParticipantDecision::LateJoiner(over.clone()));
        assert_eq!(join(Some(&over), Some((Life::Ended, 5_000)), &[], Some(1_000)), ParticipantDecision::Known);
    }

    #[test]
    fn who_left_a_live_session_comes_back_only_by_joining_later() {
        assert_eq!(join(None, Some((Life::Live, 0)), &[of_client(9_000)], Some(1_000)), ParticipantDecision::Known);
        assert_eq!(join(None, Some((Life::Ended, 5_500)), &[], Some(4_000)), ParticipantDecision::Known);
        assert_eq!(join(None, Some((Life::Ended, 5_500)), &[], None), ParticipantDecision::Known);
        assert_eq!(join(None, Some((Life::Ended, 5_500)), &[], Some(5_100)), ParticipantDecision::Join);
        assert_eq!(join(None, Some((Life::Ended, 5_500)), &[], Some(6_000)), ParticipantDecision::Join);
        assert_eq!(join(None, None, &[], None), ParticipantDecision::Join);
    }

    #[test]
    fn a_cut_off_at_a_client_tells_who_joined_before_it_and_a_cut_off_of_the_subject_does_not() {
        let told = ParticipantDecision::LateJoiner(EndFact { event: event(2), ..end(9_000) });
        assert_eq!(join(None, None, &[of_client(9_000)], Some(1_000)), told);
        assert_eq!(join(None, None, &[of_client(9_000)], Some(9_000)), ParticipantDecision::Join);
        assert_eq!(join(None, None, &[of_client(9_000)], None), ParticipantDecision::Join);
        assert_eq!(join(None, None, &[of_subject(9_000)], Some(1_000)), ParticipantDecision::Join);
        assert_eq!(join(None, Some((Life::Ended, 5_000)), &[of_client(9_000)], Some(7_000)), told);
    }

    fn tokened(
        session_live: bool,
        session_end: Option<&EndFact>,
        offline: Offline,
        cut_offs: &[CutOff],
        issued: Option<i64>,
    ) -> TokenDecision {
        token(&TokenReportFacts { session_end, session_live, offline, cut_offs, issued_at: issued.map(at) })
    }

    #[test]
    fn a_token_of_an_ended_session_is_revoked_unless_it_is_offline_or_newer() {
        use {Offline::Spared, Offline::Taken};
        let (plain, grave) = (end(5_000), EndFact { offline: true, ..end(5_000) });
        assert_eq!(tokened(false, Some(&plain), Taken, &[], Some(1_000)), TokenDecision::Revoked(event(1)));
        assert_eq!(tokened(false, Some(&plain), Taken, &[], None), TokenDecision::Revoked(event(1)));
        assert_eq!(tokened(false, Some(&plain), Taken, &[], Some(6_000)), TokenDecision::UnknownSession);
        assert_eq!(tokened(false, Some(&plain), Spared, &[], Some(1_000)), TokenDecision::Live);
        assert_eq!(tokened(false, Some(&grave), Spared, &[], Some(1_000)), TokenDecision::Revoked(event(1)));
    }

    #[test]
    fn an_offline_token_that_outlived_a_plain_logout_is_still_cut_off_by_a_grave_one() {
        let grave = CutOff { offline: true, ..of_subject(9_000) };
        let plain = end(5_000);
        assert_eq!(
            tokened(false, Some(&plain), Offline::Spared, std::slice::from_ref(&grave), Some(1_000)),
            TokenDecision::CutOff(event(2))
        );
        assert_eq!(tokened(false, None, Offline::Spared, &[grave], Some(1_000)), TokenDecision::CutOff(event(2)));
        assert_eq!(tokened(false, None, Offline::Spared, &[of_subject(9_000)], Some(1_000)), TokenDecision::Live);
    }

    #[test]
    fn a_token_bound_to_no_session_is_cut_off_only_when_it_is_known_to_be_older() {
        let cut_off = [of_subject(9_000)];
        assert_eq!(tokened(false, None, Offline::Taken, &cut_off, Some(1_000)), TokenDecision::CutOff(event(2)));
        assert_eq!(tokened(false, None, Offline::Taken, &cut_off, Some(9_000)), TokenDecision::Live);
        assert_eq!(tokened(false, None, Offline::Taken, &cut_off, None), TokenDecision::Live);
    }

    #[test]
    fn a_token_of_a_live_session_is_not_touched_by_a_cut_off_of_the_subject_but_by_one_at_its_client() {
        assert_eq!(tokened(true, None, Offline::Taken, &[of_subject(9_000)], Some(1_000)), TokenDecision::Live);
        assert_eq!(tokened(true, None, Offline::Taken, &[of_client(9_000)], Some(1_000)), TokenDecision::CutOff(event(2)));
        assert_eq!(tokened(true, None, Offline::Spared, &[of_client(9_000)], Some(1_000)), TokenDecision::Live);
    }

    fn any_end() -> impl Strategy<Value = EndFact> {
        (0..20_000_i64, any::<bool>(), any::<bool>()).prop_map(|(millis, compromise, offline)| EndFact {
            compromise,
            offline,
            ..end(millis)
        })
    }

    fn any_cut_off() -> impl Strategy<Value = CutOff> {
        (0..20_000_i64, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(millis, compromise, offline, whole)| CutOff {
            compromise,
            offline,
            ..if whole { of_subject(millis) } else { of_client(millis) }
        })
    }

    /// The first second in which nothing of all this covers a login any more.
    fn clear_of<'a>(ends: impl IntoIterator<Item = &'a EndFact>, cut_offs: &[CutOff]) -> i64 {
        let of_ends = ends.into_iter().map(|end| end.at.seconds() + i64::from(end.compromise));
        let of_cuts = cut_offs.iter().map(|cut_off| cut_off.not_before.seconds() + i64::from(cut_off.compromise));
        of_ends.chain(of_cuts).max().unwrap_or(0) * 1000
    }

    proptest! {
        #[test]
        fn a_genuine_new_login_is_never_ended_by_an_old_logout(
            ended in proptest::option::of(any_end()),
            cut_offs in proptest::collection::vec(any_cut_off(), 0..4),
            later in 0..5_000_i64,
        ) {
            let when = clear_of(ended.iter(), &cut_offs) + later;
            prop_assert_eq!(decide(ended, &cut_offs, Some(when)), SessionDecision::Begin);
            prop_assert_eq!(join(None, None, &cut_offs, Some(when)), ParticipantDecision::Join);
            for offline in [Offline::Spared, Offline::Taken] {
                prop_assert_eq!(tokened(false, None, offline, &cut_offs, Some(when)), TokenDecision::Live);
                prop_assert_eq!(tokened(true, None, offline, &cut_offs, Some(when)), TokenDecision::Live);
            }
        }

        #[test]
        fn a_login_that_is_certainly_older_than_a_logout_never_lives(
            ended in any_end(),
            cut_offs in proptest::collection::vec(any_cut_off(), 0..4),
            earlier in 1..5_000_i64,
        ) {
            let when = ended.at.seconds() * 1000 - earlier;
            prop_assert_eq!(decide(Some(ended), &cut_offs, Some(when)), SessionDecision::JoinEnded);
        }

        #[test]
        fn the_same_report_twice_never_tells_anybody_twice(
            session_end in proptest::option::of(any_end()),
            known in proptest::option::of(0..20_000_i64),
            cut_offs in proptest::collection::vec(any_cut_off(), 0..4),
            joined_at in proptest::option::of(0..20_000_i64),
        ) {
            let known = known.map(|ended| (Life::Ended, ended));
            if let ParticipantDecision::LateJoiner(end) = join(session_end.as_ref(), known, &cut_offs, joined_at) {
                let told = Some((Life::Ended, end.at.millis()));
                prop_assert_eq!(join(session_end.as_ref(), told, &cut_offs, joined_at), ParticipantDecision::Known);
            }
        }
    }
}
