//! What a late attempt may still say.
//!
//! A token is signed anew at every attempt, so one that names a subject alone, or that a relying party reads so, ends whatever session the subject has
//! when it arrives (RFC 8417 5.4 warns of it). Owns the rule that a late attempt never knowingly ends a newer login, and which names a token carries.
//! Never looks anything up: the caller tells what newer logins there are.

use std::time::Duration;

use super::time::{gravity_of, is_newer};
use crate::model::client::{Claims, ClientRecord};
use crate::model::delivery::{DeliveryState, Leased, Opened, SettledReason, Verdict};
use crate::model::trigger::Gravity;
use crate::model::{Sid, Subject, Timestamp};

/// How long after what it tells a first attempt counts as prompt.
pub const PROMPT_MAX: Duration = Duration::from_secs(10);

/// Whether newer logins have to be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lateness {
    /// A first attempt at once: nobody has logged in again yet.
    Prompt,
    /// Any other.
    Late,
}

/// A live participation of the same client and subject (or, where the subject is not known, of the same client and `sid`) that is newer than the logout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newer {
    /// There is none.
    None,
    /// There is, and none of them has the `sid` that this delivery names.
    OtherSid,
    /// There is one with the `sid` that this delivery names: providers use a `sid` again after a logout.
    SameSid,
}

impl Newer {
    /// Judges by when the latest live participation with the same `sid` and the latest with another (or none) joined.
    pub fn of(same_sid: Option<Timestamp>, other_sid: Option<Timestamp>, occurred_at: Timestamp, gravity: Gravity) -> Self {
        let newer = |joined_at: Option<Timestamp>| joined_at.is_some_and(|at| is_newer(at, occurred_at, gravity));
        match (newer(same_sid), newer(other_sid)) {
            (true, _) => Self::SameSid,
            (false, true) => Self::OtherSid,
            (false, false) => Self::None,
        }
    }
}

/// What the decision before an attempt depends on.
#[derive(Clone, Copy, Debug)]
pub struct LateFacts<'a> {
    /// When what it tells happened.
    pub occurred_at: Timestamp,
    /// When the delivery was written.
    pub created_at: Timestamp,
    /// Whether it was opened again since.
    pub opened: Opened,
    /// Attempts charged so far.
    pub attempts: u32,
    /// How grave the logout is.
    pub gravity: Gravity,
    /// What the client's tokens carry; see [`claims_of`].
    pub claims: Claims,
    /// The `sid` that client saw.
    pub sid: Option<&'a Sid>,
    /// The newer logins there are.
    pub newer: Newer,
    /// The present instant.
    pub now: Timestamp,
}

impl<'a> LateFacts<'a> {
    /// The facts of a claimed delivery.
    pub fn of(leased: &'a Leased, claims: Claims, newer: Newer, now: Timestamp) -> Self {
        Self {
            occurred_at: leased.occurred_at,
            created_at: leased.created_at,
            opened: leased.opened,
            attempts: leased.attempts,
            gravity: gravity_of(leased.compromise),
            claims,
            sid: leased.sid.as_ref(),
            newer,
            now,
        }
    }
}

/// Whether and how a delivery may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// With the names the client's settings ask for.
    AsConfigured,
    /// With the `sid` alone, so that newer sessions of the subject are spared.
    SidOnly,
    /// Not at all, and never again: it would end a newer login.
    Superseded,
}

/// Whether newer logins have to be looked for before this attempt. A logout told or reported long after it happened is late from its first attempt on,
/// and so is one that was opened again, however soon.
pub fn lateness(facts: &LateFacts<'_>) -> Lateness {
    match (facts.opened, facts.attempts, facts.now.since(facts.occurred_at.min(facts.created_at))) {
        (Opened::Once, 0, age) if age <= PROMPT_MAX => Lateness::Prompt,
        (Opened::Once | Opened::Again, _, _) => Lateness::Late,
    }
}

/// Decides whether and how a delivery may be sent now.
pub fn before_attempt(facts: &LateFacts<'_>) -> Sending {
    match (lateness(facts), facts.gravity, facts.newer) {
        (Lateness::Prompt, _, _) | (Lateness::Late, Gravity::Compromise, _) | (Lateness::Late, _, Newer::None) => Sending::AsConfigured,
        (Lateness::Late, Gravity::Plain | Gravity::Security, Newer::SameSid) => Sending::Superseded,
        (Lateness::Late, Gravity::Plain | Gravity::Security, Newer::OtherSid) => beside_another_session(facts.claims, facts.sid),
    }
}

const fn beside_another_session(claims: Claims, sid: Option<&Sid>) -> Sending {
    match (claims, sid) {
        (Claims::Both, Some(_)) => Sending::SidOnly,
        (Claims::Sid, Some(_)) => Sending::AsConfigured,
        (Claims::Sub, _) | (Claims::Both | Claims::Sid, None) => Sending::Superseded,
    }
}

/// Whether a client can do without a `sid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidNeed {
    /// It can.
    Optional,
    /// It registered `backchannel_logout_session_required`.
    Required,
}

/// What a client's tokens carry. A client that registered that it needs a `sid` gets one, whatever else is set (BCL 2.2).
pub const fn claims_of(claims: Claims, need: SidNeed) -> Claims {
    match (claims, need) {
        (Claims::Sub, SidNeed::Required) => Claims::Both,
        (Claims::Both | Claims::Sid, SidNeed::Required) | (Claims::Both | Claims::Sid | Claims::Sub, SidNeed::Optional) => claims,
    }
}

impl SidNeed {
    /// What a client registered.
    pub const fn of(client: &ClientRecord) -> Self {
        if client.session_required { Self::Required } else { Self::Optional }
    }
}

/// The names a token carries: at least one of them (BCL 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    /// Who.
    pub sub: Option<&'a Subject>,
    /// Which session.
    pub sid: Option<&'a Sid>,
}

/// Why there is nothing to send, and what that makes of the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsent {
    /// How it settles.
    pub state: DeliveryState,
    /// Why.
    pub reason: SettledReason,
}

impl Unsent {
    const NO_SID: Self = Self { state: DeliveryState::Unreachable, reason: SettledReason::NoSid };
    const NO_SUB: Self = Self { state: DeliveryState::Unreachable, reason: SettledReason::NoSub };
    const NEWER_LOGIN: Self = Self { state: DeliveryState::Superseded, reason: SettledReason::NewerLogin };

    /// The same as a verdict.
    pub const fn verdict(self) -> Verdict {
        Verdict::Settled { state: self.state, reason: self.reason }
    }
}

/// Decides which of the `known` names the token carries, or why there can be none.
pub fn names(claims: Claims, need: SidNeed, known: Names<'_>, sending: Sending) -> Result<Names<'_>, Unsent> {
    let carried = match (claims_of(claims, need), sending) {
        (_, Sending::Superseded) => return Err(Unsent::NEWER_LOGIN),
        (_, Sending::SidOnly) | (Claims::Sid, Sending::AsConfigured) => Names { sub: None, ..known },
        (Claims::Sub, Sending::AsConfigured) => Names { sid: None, ..known },
        (Claims::Both, Sending::AsConfigured) => known,
    };
    match (need, carried) {
        (SidNeed::Required, Names { sid: None, .. }) => Err(Unsent::NO_SID),
        (_, Names { sub: None, sid: None }) => Err(nothing_known(claims, sending)),
        (_, Names { sub: Some(_), .. } | Names { sid: Some(_), .. }) => Ok(carried),
    }
}

const fn nothing_known(claims: Claims, sending: Sending) -> Unsent {
    match (claims, sending) {
        (_, Sending::SidOnly) | (Claims::Sid, _) => Unsent::NO_SID,
        (Claims::Both | Claims::Sub, Sending::AsConfigured | Sending::Superseded) => Unsent::NO_SUB,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OCCURRED: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const GRAVITIES: [Gravity; 3] = [Gravity::Plain, Gravity::Security, Gravity::Compromise];
    const NEWER: [Newer; 3] = [Newer::None, Newer::OtherSid, Newer::SameSid];
    const NEEDS: [SidNeed; 2] = [SidNeed::Optional, SidNeed::Required];

    fn after(seconds: u64) -> Timestamp {
        OCCURRED.plus(Duration::from_secs(seconds))
    }

    fn late(gravity: Gravity, claims: Claims, sid: Option<&Sid>, newer: Newer) -> LateFacts<'_> {
        LateFacts {
            occurred_at: OCCURRED,
            created_at: OCCURRED,
            opened: Opened::Once,
            attempts: 1,
            gravity,
            claims,
            sid,
            newer,
            now: after(60),
        }
    }

    #[test]
    fn the_table_of_late_attempts_is_this_one() {
        use Claims::{Both, Sid as SidClaim, Sub};
        use Sending::{AsConfigured, SidOnly, Superseded};
        let sid = Sid::parse("s1").unwrap();
        let with = Some(&sid);
        // What the newer login is, what tokens carry, the sid that is known: what happens unless it is a compromise.
        let table = [
            (Newer::None, Both, with, AsConfigured),
            (Newer::None, Both, None, AsConfigured),
            (Newer::None, SidClaim, with, AsConfigured),
            (Newer::None, SidClaim, None, AsConfigured),
            (Newer::None, Sub, with, AsConfigured),
            (Newer::None, Sub, None, AsConfigured),
            (Newer::OtherSid, Both, with, SidOnly),
            (Newer::OtherSid, Both, None, Superseded),
            (Newer::OtherSid, SidClaim, with, AsConfigured),
            (Newer::OtherSid, SidClaim, None, Superseded),
            (Newer::OtherSid, Sub, with, Superseded),
            (Newer::OtherSid, Sub, None, Superseded),
            (Newer::SameSid, Both, with, Superseded),
            (Newer::SameSid, Both, None, Superseded),
            (Newer::SameSid, SidClaim, with, Superseded),
            (Newer::SameSid, SidClaim, None, Superseded),
            (Newer::SameSid, Sub, with, Superseded),
            (Newer::SameSid, Sub, None, Superseded),
        ];
        assert_eq!(table.len(), NEWER.len() * Claims::ALL.len() * 2, "every case is listed");
        for (newer, claims, sid, expected) in table {
            for gravity in GRAVITIES {
                let expected = if gravity == Gravity::Compromise { AsConfigured } else { expected };
                assert_eq!(before_attempt(&late(gravity, claims, sid, newer)), expected, "{newer:?} {claims} {sid:?} {gravity:?}");
            }
        }
    }

    #[test]
    fn only_a_first_attempt_within_ten_seconds_need_not_look_for_newer_logins() {
        let first = |now| LateFacts { attempts: 0, now, ..late(Gravity::Plain, Claims::Both, None, Newer::None) };
        assert_eq!(lateness(&first(after(10))), Lateness::Prompt);
        assert_eq!(lateness(&first(after(10).plus(Duration::from_millis(1)))), Lateness::Late);
        assert_eq!(lateness(&LateFacts { attempts: 1, ..first(after(1)) }), Lateness::Late);
        assert_eq!(lateness(&LateFacts { occurred_at: after(60), ..first(after(1)) }), Lateness::Prompt);
        assert_eq!(lateness(&LateFacts { opened: Opened::Again, ..first(after(1)) }), Lateness::Late);
    }

    #[test]
    fn a_logout_told_an_hour_late_spares_the_login_of_half_an_hour_ago_even_at_its_first_attempt() {
        let sid = Sid::parse("s1").unwrap();
        let newer = Newer::of(None, Some(after(1800)), OCCURRED, Gravity::Plain);
        let facts =
            LateFacts { created_at: after(3600), attempts: 0, now: after(3600), ..late(Gravity::Plain, Claims::Both, Some(&sid), newer) };
        assert_eq!(before_attempt(&facts), Sending::SidOnly);
    }

    #[test]
    fn the_login_that_reuses_the_sid_weighs_more_than_any_other() {
        let newer = |same, other| Newer::of(same, other, OCCURRED, Gravity::Plain);
        assert_eq!(newer(Some(after(1)), Some(after(2))), Newer::SameSid);
        assert_eq!(newer(Some(OCCURRED.minus(Duration::from_secs(1))), Some(after(2))), Newer::OtherSid);
        assert_eq!(newer(Some(OCCURRED.minus(Duration::from_secs(1))), None), Newer::None);
        assert_eq!(newer(None, None), Newer::None);
        assert_eq!(newer(Some(OCCURRED), None), Newer::SameSid);
        assert_eq!(Newer::of(Some(OCCURRED), Some(OCCURRED), OCCURRED, Gravity::Compromise), Newer::None);
    }

    #[test]
    fn the_table_of_names_is_this_one() {
        use Claims::{Both, Sid as SidClaim, Sub};
        use SidNeed::{Optional, Required};
        let (alice, s1) = (Subject::parse("alice").unwrap(), Sid::parse("s1").unwrap());
        let (sub, sid) = (Some(&alice), Some(&s1));
        let carry = |sub, sid| Ok(Names { sub, sid });
        let (no_sid, no_sub) = (Err(Unsent::NO_SID), Err(Unsent::NO_SUB));
        let table = [
            (Both, Optional, [carry(sub, sid), carry(sub, None), carry(None, sid), no_sub]),
            (Both, Required, [carry(sub, sid), no_sid, carry(None, sid), no_sid]),
            (SidClaim, Optional, [carry(None, sid), no_sid, carry(None, sid), no_sid]),
            (SidClaim, Required, [carry(None, sid), no_sid, carry(None, sid), no_sid]),
            (Sub, Optional, [carry(sub, None), carry(sub, None), no_sub, no_sub]),
            (Sub, Required, [carry(sub, sid), no_sid, carry(None, sid), no_sid]),
        ];
        assert_eq!(table.len(), Claims::ALL.len() * NEEDS.len(), "every case is listed");
        let known = [(sub, sid), (sub, None), (None, sid), (None, None)];
        for (claims, need, expected) in table {
            for ((sub, sid), expected) in known.into_iter().zip(expected) {
                assert_eq!(names(claims, need, Names { sub, sid }, Sending::AsConfigured), expected, "{claims} {need:?} {sub:?} {sid:?}");
            }
        }
    }

    fn some_sid() -> impl Strategy<Value = Option<Sid>> {
        prop::option::of("[a-z]{1,8}".prop_map(|text| Sid::parse(text).unwrap()))
    }

    fn some_sub() -> impl Strategy<Value = Option<Subject>> {
        prop::option::of("[a-z]{1,8}".prop_map(|text| Subject::parse(text).unwrap()))
    }

    proptest! {
        #[test]
        fn a_compromise_is_always_sent_as_configured(
            claims in prop::sample::select(Claims::ALL), sid in some_sid(), newer in prop::sample::select(&NEWER[..]), attempts: u32, age_s in 0_u64..300_000,
        ) {
            let facts = LateFacts { attempts, now: after(age_s), ..late(Gravity::Compromise, claims, sid.as_ref(), newer) };
            prop_assert_eq!(before_attempt(&facts), Sending::AsConfigured);
        }

        #[test]
        fn beside_a_newer_login_no_late_token_carries_the_sub_and_none_carries_its_sid(
            claims in prop::sample::select(Claims::ALL), need in prop::sample::select(&NEEDS[..]), sub in some_sub(), sid in some_sid(),
            newer in prop::sample::select(&NEWER[1..]), gravity in prop::sample::select(&GRAVITIES[..2]),
            attempts in 0_u32..5, commit_s in 0_u64..300_000, age_s in 0_u64..300_000,
        ) {
            let claims = claims_of(claims, need);
            let facts = LateFacts {
                attempts, created_at: after(commit_s), now: after(commit_s + age_s), ..late(gravity, claims, sid.as_ref(), newer)
            };
            prop_assume!(lateness(&facts) == Lateness::Late);
            let sent = names(claims, need, Names { sub: sub.as_ref(), sid: sid.as_ref() }, before_attempt(&facts));
            match sent {
                Ok(carried) => {
                    prop_assert_eq!(newer, Newer::OtherSid);
                    prop_assert!(carried.sub.is_none() && carried.sid.is_some());
                }
                Err(unsent) => prop_assert!(matches!(unsent.state, DeliveryState::Superseded | DeliveryState::Unreachable)),
            }
        }

        #[test]
        fn a_token_names_somebody_and_only_with_names_that_are_known(
            claims in prop::sample::select(Claims::ALL), need in prop::sample::select(&NEEDS[..]), sub in some_sub(), sid in some_sid(),
            sending in prop::sample::select(&[Sending::AsConfigured, Sending::SidOnly, Sending::Superseded][..]),
        ) {
            let known = Names { sub: sub.as_ref(), sid: sid.as_ref() };
            match names(claims, need, known, sending) {
                Ok(carried) => {
                    prop_assert!(carried.sub.is_some() || carried.sid.is_some());
                    prop_assert!(carried.sub.is_none() || carried.sub == known.sub);
                    prop_assert!(carried.sid.is_none() || carried.sid == known.sid);
                    prop_assert!(need == SidNeed::Optional || carried.sid.is_some());
                    prop_assert!(sending == Sending::AsConfigured || carried.sub.is_none());
                }
                Err(unsent) => prop_assert_eq!(unsent.state == DeliveryState::Superseded, sending == Sending::Superseded),
            }
        }

        #[test]
        fn without_a_newer_login_every_delivery_is_sent_however_late(
            claims in prop::sample::select(Claims::ALL), sid in some_sid(), gravity in prop::sample::select(&GRAVITIES[..]), age_s in 0_u64..300_000,
        ) {
            let facts = LateFacts { now: after(age_s), ..late(gravity, claims, sid.as_ref(), Newer::None) };
            prop_assert_eq!(before_attempt(&facts), Sending::AsConfigured);
        }
    }
}
