//! What a trigger reaches and what it leaves behind, and how a delivery begins.
//!
//! Both are decided before anything is read: the database applies a [`Reach`] in the transaction that ends things, and asks [`opening`] once for
//! each participant it finds there.

use super::provider;
use crate::model::Timestamp;
use crate::model::client::{Claims, ClientRecord};
use crate::model::cut_off::CutOffScope;
use crate::model::delivery::{Class, SettledReason};
use crate::model::effects::{Adopt, Offline, Opening, Reach, Told};
use crate::model::session::SessionName;
use crate::model::trigger::{Except, Gravity, Reused, Target, Trigger};

/// What a trigger reaches.
pub fn reach(trigger: &Trigger) -> Reach {
    let gravity = trigger.reason.gravity();
    let grave = gravity >= Gravity::Security;
    Reach {
        target: trigger.target.clone(),
        except: trigger.except.clone(),
        // Without a time of its own a trigger happens when it is committed, and the order of commits alone says what came before it.
        begun_before: trigger.occurred_at.map(|at| first_spared(at, tie(&trigger.target, gravity))),
        offline: if grave || trigger.revoke_offline_access { Offline::Taken } else { Offline::Spared },
        adopt: if grave { Adopt::Reopen } else { Adopt::Open },
        class: class(&trigger.target, gravity),
        compromise: gravity == Gravity::Compromise,
        cut_off: left_behind(&trigger.target, &trigger.except),
        provider: provider::word(trigger),
    }
}

/// Everybody's deliveries wait behind those of one person, whatever the reason.
const fn class(target: &Target, gravity: Gravity) -> Class {
    match (target, gravity) {
        (Target::Everyone, _) => Class::Bulk,
        (_, Gravity::Compromise) => Class::Compromise,
        (_, Gravity::Plain | Gravity::Security) => Class::Interactive,
    }
}

/// The first instant of a beginning that an end at `at` does not reach, as [`covers`](super::time::covers) compares them.
const fn first_spared(at: Timestamp, gravity: Gravity) -> Timestamp {
    match gravity {
        Gravity::Plain | Gravity::Security => Timestamp::from_seconds(at.seconds()),
        Gravity::Compromise => Timestamp::from_seconds(at.seconds() + 1),
    }
}

/// How a tie is judged. Who names one session, or one grant by its token, means that one: there is no newer login to favour.
const fn tie(target: &Target, gravity: Gravity) -> Gravity {
    match target {
        Target::Session(_) | Target::RefreshToken { .. } | Target::Reuse(_) => Gravity::Compromise,
        Target::Subject(_)
        | Target::SubjectExcept { .. }
        | Target::Client(_)
        | Target::SubjectAtClient { .. }
        | Target::SessionAtClient { .. }
        | Target::ClientSid { .. }
        | Target::ClientSub { .. }
        | Target::Device(_)
        | Target::Everyone => gravity,
    }
}

/// The cut-off a target leaves. A device is no identity of its own, a token names one grant, and the provider's key or an implicit session is
/// found again by its own name: none of them can cover what is reported later under another.
fn left_behind(target: &Target, except: &Except) -> Option<CutOffScope> {
    match target.clone() {
        Target::Subject(sub) | Target::Reuse(Reused::Subject(sub)) => Some(CutOffScope::Subject { sub, except_sid: None }),
        Target::SubjectExcept { sub, except_sid } => Some(CutOffScope::Subject { sub, except_sid: Some(except_sid) }),
        Target::Session(SessionName::Sid(sid)) => Some(CutOffScope::Session(sid)),
        Target::Client(client_id) => Some(CutOffScope::Client(client_id)),
        Target::SubjectAtClient { sub, client_id } => Some(CutOffScope::SubjectAtClient(sub, client_id)),
        Target::SessionAtClient { sid, client_id } => Some(CutOffScope::SessionAtClient(sid, client_id)),
        Target::ClientSid { client_id, client_sid } => Some(CutOffScope::ClientSid(client_id, client_sid)),
        Target::ClientSub { client_id, client_sub } => Some(CutOffScope::ClientSub(client_id, client_sub)),
        Target::Everyone if except.client_id.is_empty() => Some(CutOffScope::Everyone),
        Target::Everyone => Some(CutOffScope::EveryoneAtClients),
        Target::Session(SessionName::Key(_) | SessionName::Subject(_)) | Target::Device(_) | Target::RefreshToken { .. } => None,
        Target::Reuse(Reused::Family(_) | Reused::Session(_)) => None,
    }
}

/// How a delivery begins: waiting, or settled at once because this client can never be told.
pub fn opening(told: &Told<'_>, client: Option<&ClientRecord>, now: Timestamp) -> Opening {
    match client.filter(|client| client.deleted_at.is_none()) {
        None => Opening::Unreachable(SettledReason::ClientNotRegistered),
        Some(client) => match obstacle(told, client) {
            Some(reason) => Opening::Unreachable(reason),
            None => Opening::Pending { horizon_at: now.plus(client.delivery.horizon) },
        },
    }
}

fn obstacle(told: &Told<'_>, client: &ClientRecord) -> Option<SettledReason> {
    let needs_sid = client.session_required || client.delivery.claims == Claims::Sid;
    if client.backchannel_logout_uri.is_none() {
        Some(SettledReason::NoUri)
    } else if needs_sid && told.sid.is_none() {
        Some(SettledReason::NoSid) // BCL 2.2
    } else if client.delivery.claims == Claims::Sub && told.sub.is_none() {
        Some(SettledReason::NoSub)
    } else if told.sid.is_none() && told.sub.is_none() {
        Some(SettledReason::NoSid) // BCL 2.4: a logout token carries at least one of the two
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::access::{Caller, Role};
    use crate::model::client::DeliverySettings;
    use crate::model::effects::ProviderWord;
    use crate::model::key::SigningAlg;
    use crate::model::trigger::Reason;
    use crate::model::{ClientId, Digest, IssuerId, ProviderKey, Sid, Subject};
    use crate::plan::time::{Coverage, covers};

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_400);

    fn sub() -> Subject {
        Subject::parse("alice").unwrap()
    }

    fn sid() -> Sid {
        Sid::parse("s-1").unwrap()
    }

    fn wiki() -> ClientId {
        ClientId::parse("wiki").unwrap()
    }

    fn trigger(target: Target, reason: Reason) -> Trigger {
        Trigger {
            issuer: IssuerId::parse("main").unwrap(),
            target,
            except: Except::default(),
            reason,
            reason_detail: None,
            occurred_at: None,
            revoke_offline_access: false,
            tell_provider: None,
            actor: None,
            correlation_id: None,
            note: None,
            caller: Caller {
                identity: Caller::BOOTSTRAP.to_owned(),
                role: Role::Admin,
                issuer: None,
                client_id: None,
                may_mass_kill: false,
                remote: None,
                behalf: crate::model::access::Behalf::default(),
                token: crate::model::access::OwnToken::NONE,
            },
            idempotency: None,
        }
    }

    fn targets() -> Vec<(Target, Option<CutOffScope>)> {
        let (client_id, sub, sid) = (wiki(), sub(), sid());
        let digest = Digest::from_octets([7; 32]);
        vec![
            (Target::Session(SessionName::Sid(sid.clone())), Some(CutOffScope::Session(sid.clone()))),
            (Target::Session(SessionName::Key(ProviderKey::parse("k").unwrap())), None),
            (Target::Session(SessionName::Subject(sub.clone())), None),
            (Target::Subject(sub.clone()), Some(CutOffScope::Subject { sub: sub.clone(), except_sid: None })),
            (
                Target::SubjectExcept { sub: sub.clone(), except_sid: sid.clone() },
                Some(CutOffScope::Subject { sub: sub.clone(), except_sid: Some(sid.clone()) }),
            ),
            (Target::Client(client_id.clone()), Some(CutOffScope::Client(client_id.clone()))),
            (
                Target::SubjectAtClient { sub: sub.clone(), client_id: client_id.clone() },
                Some(CutOffScope::SubjectAtClient(sub.clone(), client_id.clone())),
            ),
            (
                Target::SessionAtClient { sid: sid.clone(), client_id: client_id.clone() },
                Some(CutOffScope::SessionAtClient(sid.clone(), client_id.clone())),
            ),
            (
                Target::ClientSid { client_id: client_id.clone(), client_sid: sid.clone() },
                Some(CutOffScope::ClientSid(client_id.clone(), sid)),
            ),
            (Target::ClientSub { client_id: client_id.clone(), client_sub: sub.clone() }, Some(CutOffScope::ClientSub(client_id, sub))),
            (Target::Everyone, Some(CutOffScope::Everyone)),
            (Target::Device("laptop".to_owned()), None),
            (Target::RefreshToken { names: Vec::new(), digest }, None),
        ]
    }

    #[test]
    fn the_effects_matrix_holds_for_every_reason() {
        use {Adopt as A, Class as C, Offline as O, Reason as R};
        // reason, offline grants, earlier deliveries, class, wins ties: BCL 2.7 for the plain ones, RFC 9700 4.14 for the others.
        let matrix = [
            (R::UserLogout, O::Spared, A::Open, C::Interactive, false),
            (R::Admin, O::Spared, A::Open, C::Interactive, false),
            (R::Expired, O::Spared, A::Open, C::Interactive, false),
            (R::Upstream, O::Spared, A::Open, C::Interactive, false),
            (R::Other, O::Spared, A::Open, C::Interactive, false),
            (R::PasswordChanged, O::Taken, A::Reopen, C::Interactive, false),
            (R::MfaRemoved, O::Taken, A::Reopen, C::Interactive, false),
            (R::IdentifierChanged, O::Taken, A::Reopen, C::Interactive, false),
            (R::Compromise, O::Taken, A::Reopen, C::Compromise, true),
            (R::TokenReuse, O::Taken, A::Reopen, C::Compromise, true),
            (R::AccountDisabled, O::Taken, A::Reopen, C::Compromise, true),
            (R::AccountDeleted, O::Taken, A::Reopen, C::Compromise, true),
        ];
        assert_eq!(matrix.map(|row| row.0).len(), Reason::ALL.len());
        for (reason, offline, adopt, class, compromise) in matrix {
            for (target, cut_off) in targets() {
                let class = if target == Target::Everyone { Class::Bulk } else { class };
                let except = Except::default();
                let provider = if reason == R::Upstream { ProviderWord::Known } else { ProviderWord::Due };
                let expected =
                    Reach { target: target.clone(), except, begun_before: None, offline, adopt, class, compromise, cut_off, provider };
                assert_eq!(reach(&trigger(target, reason)), expected, "{reason}");
            }
        }
    }

    #[test]
    fn a_plain_logout_takes_offline_grants_only_when_asked_to() {
        for reason in [Reason::UserLogout, Reason::Admin, Reason::Expired, Reason::Upstream, Reason::Other] {
            let plain = trigger(Target::Subject(sub()), reason);
            let asked = Trigger { revoke_offline_access: true, ..plain.clone() };
            assert_eq!(reach(&plain).offline, Offline::Spared, "{reason}");
            assert_eq!(reach(&asked), Reach { offline: Offline::Taken, ..reach(&plain) }, "{reason}");
        }
    }

    fn spared(target: Target, reason: Reason, occurred_at: i64, began: i64) -> bool {
        let mut trigger = trigger(target, reason);
        trigger.occurred_at = Some(Timestamp::from_millis(occurred_at));
        reach(&trigger).begun_before.is_some_and(|bound| Timestamp::from_millis(began) >= bound)
    }

    #[test]
    fn a_tie_spares_the_newer_login_except_from_a_compromise_or_by_its_own_name() {
        assert!(spared(Target::Subject(sub()), Reason::UserLogout, 5_900, 5_100));
        assert!(!spared(Target::Subject(sub()), Reason::UserLogout, 5_900, 4_999));
        assert!(!spared(Target::Subject(sub()), Reason::Compromise, 5_100, 5_900));
        assert!(spared(Target::Subject(sub()), Reason::Compromise, 5_100, 6_000));
        assert!(!spared(Target::Session(SessionName::Sid(sid())), Reason::UserLogout, 5_100, 5_900));
        assert!(spared(Target::Session(SessionName::Sid(sid())), Reason::UserLogout, 5_900, 6_000));
    }

    fn client() -> ClientRecord {
        ClientRecord {
            issuer: IssuerId::parse("main").unwrap(),
            client_id: wiki(),
            client_name: None,
            backchannel_logout_uri: Some("https://wiki.example/logout".parse().unwrap()),
            session_required: false,
            alg: SigningAlg::Rs256,
            auth_method: None,
            secret_digest: None,
            secret_previous: None,
            jwks: None,
            jwks_uri: None,
            delivery: DeliverySettings::DEFAULT,
            auth_signing_alg: None,
            introspection_alg: None,
            tokens: crate::model::token::TokenPolicy::DEFAULT,
            created_at: NOW,
            updated_at: NOW,
            suspended_at: None,
            managed_by: crate::model::issuer::ManagedBy::Api,
            deleted_at: None,
            version: 1,
        }
    }

    fn claiming(claims: Claims) -> ClientRecord {
        ClientRecord { delivery: DeliverySettings { claims, ..DeliverySettings::DEFAULT }, ..client() }
    }

    #[test]
    fn a_client_that_cannot_be_told_is_unreachable_with_the_reason() {
        use SettledReason as Why;
        let deleted = ClientRecord { deleted_at: Some(NOW), ..client() };
        let silent = ClientRecord { backchannel_logout_uri: None, ..client() };
        let strict = ClientRecord { session_required: true, ..client() };
        // registration, the names it saw, what stands in the way
        let table = [
            (None, true, true, Some(Why::ClientNotRegistered)),
            (Some(deleted), true, true, Some(Why::ClientNotRegistered)),
            (Some(silent), true, true, Some(Why::NoUri)),
            (Some(strict.clone()), false, true, Some(Why::NoSid)),
            (Some(strict), true, false, None),
            (Some(claiming(Claims::Sid)), false, true, Some(Why::NoSid)),
            (Some(claiming(Claims::Sid)), true, false, None),
            (Some(claiming(Claims::Sub)), true, false, Some(Why::NoSub)),
            (Some(claiming(Claims::Sub)), false, true, None),
            (Some(client()), true, false, None),
            (Some(client()), false, true, None),
            (Some(client()), false, false, Some(Why::NoSid)),
        ];
        let (sid, sub, client_id) = (sid(), sub(), wiki());
        for (record, has_sid, has_sub, why) in table {
            let told = Told { client_id: &client_id, sid: has_sid.then_some(&sid), sub: has_sub.then_some(&sub) };
            let expected = why.map_or(Opening::Pending { horizon_at: NOW.plus(DeliverySettings::DEFAULT.horizon) }, Opening::Unreachable);
            assert_eq!(opening(&told, record.as_ref(), NOW), expected, "{record:?} {has_sid} {has_sub}");
        }
    }

    proptest! {
        #[test]
        fn whatever_began_in_a_later_second_is_spared_and_in_an_earlier_one_is_not(
            at in 0..4_000_000_000_000_i64,
            apart in 1..100_000_i64,
            index in 0..Reason::ALL.len(),
            which in 0..12_usize,
        ) {
            let (reason, target) = (Reason::ALL[index], targets().swap_remove(which).0);
            let second = at.div_euclid(1000) * 1000;
            prop_assert!(spared(target.clone(), reason, at, second + apart * 1000));
            prop_assert!(!spared(target, reason, at, second - apart));
        }

        #[test]
        fn what_a_logout_reaches_is_what_its_cut_off_covers(at in 0..9_000_i64, began in 0..9_000_i64, index in 0..Reason::ALL.len()) {
            let reason = Reason::ALL[index];
            let covered = covers(Timestamp::from_millis(at), reason.gravity(), Some(Timestamp::from_millis(began))) == Coverage::Covered;
            prop_assert_eq!(spared(Target::Subject(sub()), reason, at, began), !covered);
        }
    }
}
