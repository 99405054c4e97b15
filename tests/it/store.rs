//! What every engine must do: the vault's operations, one by one and at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use logoutd::model::access::{ApiTokenRecord, Caller, Edition, Role, ShownApiToken};
use logoutd::model::attempt::{AttemptRecord, OutcomeClass};
use logoutd::model::audit::Act;
use logoutd::model::client::{ClientRecord, DeliverySettings, Network};
use logoutd::model::delivery::{Class, DeliveryState, SettledReason, Tally, Verdict};
use logoutd::model::event::EventState;
use logoutd::model::issuer::IssuerRecord;
use logoutd::model::key::SigningAlg;
use logoutd::model::lane::Deal;
use logoutd::model::page::Page;
use logoutd::model::report::{
    ParticipantReport, Report, ReportRefused, Reported, SessionReport, TokenDetails, TokenName, TokenOwner, TokenReport,
};
use logoutd::model::session::{Device, Life, SessionName};
use logoutd::model::trigger::{Idempotency, Reason, Target, Trigger};
use logoutd::model::{ApiTokenId, ClientId, Digest, Id, Issuer, IssuerId, Sid, Subject, Timestamp};
use logoutd::plan::effects::{opening, reach};
use logoutd::plan::joining::RULES;
use logoutd::seams::{Clock, Entropy};
use logoutd::store::{
    AuditEntry, AuditFilter, Change, CommitRefused, Committed, DeliveryFilter, EventFilter, Mode, OpenWhy, Pending, Queue, SessionFilter,
    SessionSearch, Settlement, Store,
};

use crate::harness::database::{Database, Engine, on_both_engines};

/// A store with one issuer and the clients `wiki` and `shop`, and the words to speak to it.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) issuer: IssuerRecord,
    pub(crate) clock: Clock,
}

pub(crate) fn sid(text: &str) -> Sid {
    Sid::parse(text).unwrap()
}

pub(crate) fn sub(text: &str) -> Subject {
    Subject::parse(text).unwrap()
}

pub(crate) fn client(text: &str) -> ClientId {
    ClientId::parse(text).unwrap()
}

pub(crate) fn named(text: &str) -> SessionName {
    SessionName::Sid(sid(text))
}

pub(crate) fn token_name(n: u8) -> TokenName {
    TokenName::Digest(Digest::from_octets([n; 32]))
}

pub(crate) fn admin() -> Caller {
    Caller {
        identity: "test".into(),
        role: Role::Admin,
        issuer: None,
        client_id: None,
        may_mass_kill: true,
        remote: None,
        behalf: logoutd::model::access::Behalf::default(),
        token: logoutd::model::access::OwnToken::NONE,
    }
}

pub(crate) fn entry(act: Act) -> AuditEntry {
    AuditEntry { act, caller: admin(), actor: None, issuer: Some(IssuerId::parse("main").unwrap()), event: None, detail: "{}".into() }
}

pub(crate) fn details(n: u8) -> TokenDetails {
    TokenDetails { name: token_name(n), issued_at: None, expires_at: None, offline_access: false, scope: None, sealed: None }
}

pub(crate) fn takes_part(who: &str) -> ParticipantReport {
    ParticipantReport { client_id: client(who), sid: None, sub: None, joined_at: None, refresh_token: None }
}

pub(crate) fn login(session: &str, who: &str, participants: Vec<ParticipantReport>) -> SessionReport {
    SessionReport {
        session: named(session),
        sub: sub(who),
        started_at: None,
        expires_at: None,
        idle_expires_at: None,
        aliases: Vec::new(),
        device: Device::default(),
        participants,
    }
}

pub(crate) fn trigger(target: Target, reason: Reason) -> Trigger {
    Trigger {
        issuer: IssuerId::parse("main").unwrap(),
        target,
        except: logoutd::model::trigger::Except::default(),
        reason,
        reason_detail: None,
        occurred_at: None,
        revoke_offline_access: false,
        tell_provider: None,
        actor: None,
        correlation_id: None,
        note: None,
        caller: admin(),
        idempotency: None,
    }
}

pub(crate) fn of_session(session: &str, reason: Reason) -> Trigger {
    trigger(Target::Session(named(session)), reason)
}

pub(crate) fn of_subject(who: &str, reason: Reason) -> Trigger {
    trigger(Target::Subject(sub(who)), reason)
}

pub(crate) fn registered(who: &str, now: Timestamp) -> ClientRecord {
    ClientRecord {
        issuer: IssuerId::parse("main").unwrap(),
        client_id: client(who),
        client_name: None,
        backchannel_logout_uri: Some(format!("https://{who}.example/logout").parse().unwrap()),
        session_required: false,
        alg: SigningAlg::Es256,
        auth_method: None,
        secret_digest: None,
        secret_previous: None,
        jwks: None,
        jwks_uri: None,
        delivery: DeliverySettings::DEFAULT,
        auth_signing_alg: None,
        introspection_alg: None,
        tokens: logoutd::model::token::TokenPolicy::DEFAULT,
        created_at: now,
        updated_at: now,
        suspended_at: None,
        managed_by: logoutd::model::issuer::ManagedBy::Api,
        deleted_at: None,
        version: 1,
    }
}

impl Bench {
    pub(crate) async fn on(database: &Database) -> Self {
        let clock = Clock::system();
        let store = database.open(&clock).await;
        let now = store.now().await.unwrap();
        let issuer = IssuerRecord {
            id: IssuerId::parse("main").unwrap(),
            issuer: Issuer::parse("https://op.example").unwrap(),
            signing_algs: vec![SigningAlg::Es256],
            session_max_age: Duration::from_secs(3600),
            expiry: logoutd::model::issuer::Expiry::Absolute,
            network: Network::default(),
            source: logoutd::model::issuer::ProviderSource::NONE,
            upstream: logoutd::model::issuer::Upstream::DEFAULT,
            provider_logout: None,
            access_tokens: logoutd::model::issuer::AccessTokens::DEFAULT,
            revocation: None,
            subject_secrets: None,
            managed_by: logoutd::model::issuer::ManagedBy::Api,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        assert_eq!(store.create_issuer(&issuer, &[], entry(Act::IssuerCreated)).await.unwrap(), Change::Created);
        for who in ["wiki", "shop"] {
            assert_eq!(store.put_client(&registered(who, now), None, &[], entry(Act::ClientPut)).await.unwrap(), Change::Created);
        }
        Self { store, issuer, clock }
    }

    pub(crate) async fn now(&self) -> Timestamp {
        self.store.now().await.unwrap()
    }

    pub(crate) async fn report(&self, report: Report) -> Result<Reported, ReportRefused> {
        self.take(vec![report]).await.remove(0)
    }

    /// What became of each of these reports.
    pub(crate) async fn take(&self, reports: Vec<Report>) -> Vec<Result<Reported, ReportRefused>> {
        self.store.take_reports(&self.issuer, &admin(), reports, RULES).await.unwrap().outcomes
    }

    pub(crate) async fn login(&self, session: &str, who: &str, clients: &[&str]) {
        let participants = clients.iter().map(|client| takes_part(client)).collect();
        self.report(Report::Session(login(session, who, participants))).await.unwrap();
    }

    pub(crate) async fn token(&self, session: &str, at: &str, token: TokenDetails) -> Result<Reported, ReportRefused> {
        let owner = TokenOwner::Session(named(session));
        self.report(Report::RefreshToken(TokenReport { owner, client_id: client(at), token })).await
    }

    pub(crate) async fn try_commit(&self, trigger: &Trigger, mode: Mode) -> Result<Committed, CommitRefused> {
        self.store.commit(trigger, &reach(trigger), "{}".into(), mode, opening).await
    }

    pub(crate) async fn commit(&self, trigger: &Trigger) -> Committed {
        self.try_commit(trigger, Mode::Commit).await.unwrap()
    }

    pub(crate) async fn life(&self, session: &str) -> Life {
        let view = self.store.session(&self.issuer.id, &named(session)).await.unwrap().unwrap();
        if view.ended_at.is_some() { Life::Ended } else { Life::Live }
    }

    pub(crate) async fn is_revoked(&self, n: u8) -> bool {
        self.store.refresh_token(&self.issuer, &[token_name(n)]).await.unwrap().unwrap().facts.grant_revoked_at.is_some()
    }

    /// Claims everything that is due.
    pub(crate) async fn claim(&self, lease_token: i64, lease: Duration) -> Vec<logoutd::model::delivery::Leased> {
        let now = self.now().await;
        let due = self.store.queues().await.unwrap().into_iter().filter(|queue| queue.due_at <= now);
        let deals: Vec<Deal> = due
            .map(|Queue { lane, class, retry, .. }| Deal { lane, class, retry, slots: DeliverySettings::DEFAULT.max_in_flight })
            .collect();
        self.store.claim_due(&deals, now, now.plus(lease), lease_token).await.unwrap()
    }

    pub(crate) async fn settle(&self, settlement: Settlement) -> logoutd::store::Recorded {
        self.store.settle(vec![settlement], self.now().await).await.unwrap().remove(0)
    }

    pub(crate) async fn delivered(&self, leased: &logoutd::model::delivery::Leased) -> logoutd::store::Recorded {
        self.settle(settlement(leased, DeliveryState::Delivered, SettledReason::Accepted)).await
    }
}

pub(crate) fn attempt(n: u32, now: Timestamp) -> AttemptRecord {
    AttemptRecord {
        id: Entropy::os().id(now),
        number: n,
        started_at: now,
        duration: Duration::from_millis(3),
        class: OutcomeClass::Delivered,
        status: Some(200),
        failure: None,
        remote_addr: Some("192.0.2.1:443".into()),
        jti: Some("j".into()),
        kid: Some("k".into()),
        excerpt: None,
        lease_lost: false,
    }
}

pub(crate) fn settlement(leased: &logoutd::model::delivery::Leased, state: DeliveryState, reason: SettledReason) -> Settlement {
    Settlement {
        delivery: leased.id.clone(),
        kind: leased.kind,
        lease_token: leased.lease_token,
        verdict: Verdict::Settled { state, reason },
        tally: Tally::default(),
        attempts: leased.attempts + 1,
        attempt: Some(attempt(leased.attempts + 1, leased.created_at)),
    }
}

pub(crate) const LEASE: Duration = Duration::from_secs(30);

on_both_engines! {
    async fn a_logout_ends_the_session_revokes_its_tokens_and_writes_one_delivery_for_each_participant(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        bench.token("s-1", "wiki", details(1)).await.unwrap();
        let receipt = bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt;
        assert_eq!((receipt.sessions_ended, receipt.refresh_tokens_revoked, receipt.counts.pending), (1, 1, 2));
        assert_eq!(receipt.state, EventState::Delivering);
        assert_eq!(bench.life("s-1").await, Life::Ended);
        assert!(bench.is_revoked(1).await);
        let told: BTreeSet<String> = receipt.deliveries.iter().map(|one| one.client_id.to_string()).collect();
        assert_eq!(told, BTreeSet::from(["shop".to_owned(), "wiki".to_owned()]));
    }

    async fn a_rehearsal_counts_the_same_and_leaves_nothing(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        bench.token("s-1", "wiki", details(1)).await.unwrap();
        let mut logout = of_session("s-1", Reason::Compromise);
        logout.idempotency = Some(Idempotency { key: "k".into(), fingerprint: Digest::from_octets([1; 32]) });
        let rehearsed = bench.try_commit(&logout, Mode::Rehearse).await.unwrap().receipt;
        assert_eq!(bench.life("s-1").await, Life::Live);
        assert!(!bench.is_revoked(1).await);
        assert!(bench.store.events(EventFilter::default(), Page::default()).await.unwrap().items.is_empty());
        let posted = AuditFilter { act: Some(Act::LogoutPosted), ..AuditFilter::default() };
        assert!(bench.store.audit(posted, Page::default()).await.unwrap().items.is_empty());
        let committed = bench.commit(&logout).await;
        assert!(!committed.replayed, "the rehearsal took the idempotency key");
        assert_eq!((rehearsed.sessions_ended, rehearsed.refresh_tokens_revoked), (1, 1));
        assert_eq!(rehearsed.counts, committed.receipt.counts);
    }

    async fn a_repeat_under_the_same_key_gets_the_first_receipt_and_another_body_is_refused(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let keyed = |fingerprint| {
            let mut logout = of_session("s-1", Reason::UserLogout);
            logout.idempotency = Some(Idempotency { key: "k".into(), fingerprint: Digest::from_octets([fingerprint; 32]) });
            logout
        };
        let first = bench.commit(&keyed(1)).await;
        let second = bench.commit(&keyed(1)).await;
        assert!(!first.replayed && second.replayed);
        assert_eq!(first.receipt.id, second.receipt.id);
        assert!(matches!(bench.try_commit(&keyed(2), Mode::Commit).await, Err(CommitRefused::IdempotencyKeyReused)));
        let mut other_caller = keyed(2);
        other_caller.caller.identity = "another".into();
        assert!(!bench.commit(&other_caller).await.replayed);
    }

    async fn many_at_once_under_one_key_commit_once(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let mut logout = of_session("s-1", Reason::UserLogout);
        logout.idempotency = Some(Idempotency { key: "k".into(), fingerprint: Digest::from_octets([1; 32]) });
        let committed = futures_util::future::join_all((0..8).map(|_| bench.commit(&logout))).await;
        assert_eq!(committed.iter().filter(|one| !one.replayed).count(), 1);
        assert_eq!(committed.iter().map(|one| one.receipt.id.clone()).collect::<BTreeSet<_>>().len(), 1);
        assert!(committed.iter().all(|one| one.receipt.sessions_ended == 1));
    }

    async fn two_logouts_of_one_sid_tell_each_client_once_and_the_second_waits_for_the_first(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        let logouts = futures_util::future::join_all((0..4).map(|_| async { bench.commit(&of_session("s-1", Reason::Admin)).await })).await;
        assert_eq!(logouts.iter().map(|one| one.receipt.sessions_ended).sum::<u64>(), 1);
        let all = bench.store.deliveries(DeliveryFilter::default(), Page::default()).await.unwrap().items;
        assert_eq!(all.len(), 2);
        for one in &logouts {
            let receipt = bench.store.receipt(&bench.issuer.id, &one.receipt.id).await.unwrap().unwrap();
            assert_eq!(receipt.counts.pending + receipt.counts.adopted, 2, "somebody is still in");
            assert_eq!(receipt.state, EventState::Delivering);
        }
        for leased in bench.claim(1, LEASE).await {
            bench.delivered(&leased).await;
        }
        for one in &logouts {
            let receipt = bench.store.receipt(&bench.issuer.id, &one.receipt.id).await.unwrap().unwrap();
            assert_eq!((receipt.state, receipt.counts.adopted), (EventState::Settled, 0));
            assert!(receipt.settled_at.is_some());
        }
    }

    async fn a_security_reason_reopens_what_was_given_up_and_a_plain_one_does_not(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        let first = bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt.id;
        for leased in bench.claim(1, LEASE).await {
            bench.settle(settlement(&leased, DeliveryState::Rejected, SettledReason::Refused)).await;
        }
        let plain = bench.commit(&of_session("s-1", Reason::Admin)).await.receipt;
        assert_eq!((plain.state, plain.counts.adopted), (EventState::Settled, 0));
        let grave = bench.commit(&of_subject("alice", Reason::Compromise)).await.receipt;
        assert_eq!((grave.sessions_ended, grave.counts.adopted, grave.state), (0, 2, EventState::Delivering));
        let reopened = bench.store.receipt(&bench.issuer.id, &first).await.unwrap().unwrap();
        assert_eq!((reopened.state, reopened.settled_at, reopened.counts.pending), (EventState::Delivering, None, 2));
        let again = bench.claim(2, LEASE).await;
        assert_eq!(again.len(), 2);
        assert!(again.iter().all(|one| one.class == Class::Compromise && one.compromise && one.tally == Tally::default()));
    }

    async fn a_compromise_does_not_wait_for_the_next_try_of_an_earlier_logout(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let leased = bench.claim(1, LEASE).await.remove(0);
        let due_at = bench.now().await.plus(Duration::from_secs(4 * 3600));
        let tally = Tally { recoverable: 9, ..Tally::default() };
        let waiting = Settlement { verdict: Verdict::Again { due_at }, tally, ..settlement(&leased, DeliveryState::Delivered, SettledReason::Accepted) };
        bench.settle(waiting).await;
        bench.commit(&of_subject("alice", Reason::Admin)).await;
        assert!(bench.claim(2, LEASE).await.is_empty(), "a plain reason waits");
        bench.commit(&of_subject("alice", Reason::Compromise)).await;
        let again = bench.claim(3, LEASE).await.remove(0);
        assert_eq!((again.id.clone(), again.tally, again.attempts), (leased.id, Tally::default(), 1));
    }

    async fn an_attempt_under_way_cannot_give_up_what_a_compromise_opened_again(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let leased = bench.claim(1, LEASE).await;
        bench.commit(&of_subject("alice", Reason::Compromise)).await;
        assert!(bench.claim(2, LEASE).await.is_empty(), "what is under way keeps its lease");
        let tally = Tally { refused: 2, ..Tally::default() };
        let given_up = Settlement { tally, ..settlement(&leased[0], DeliveryState::Rejected, SettledReason::Refused) };
        assert!(!bench.settle(given_up).await.fenced);
        assert!(!bench.delivered(&leased[1]).await.fenced);
        let again = bench.claim(3, LEASE).await;
        assert_eq!(again.len(), 1, "what was delivered stays delivered");
        assert_eq!((again[0].id.clone(), again[0].tally), (leased[0].id.clone(), Tally::default()));
        bench.settle(settlement(&again[0], DeliveryState::Rejected, SettledReason::Refused)).await;
        assert!(bench.claim(4, LEASE).await.is_empty(), "this time it had all its patience");
    }

    async fn the_offline_token_of_the_session_that_goes_on_is_spared(database) {
        let bench = Bench::on(database).await;
        for (session, n) in [("s-1", 1), ("s-2", 2)] {
            bench.login(session, "alice", &["wiki"]).await;
            bench.token(session, "wiki", TokenDetails { offline_access: true, ..details(n) }).await.unwrap();
        }
        let target = Target::SubjectExcept { sub: sub("alice"), except_sid: sid("s-2") };
        bench.commit(&trigger(target, Reason::PasswordChanged)).await;
        assert!(bench.is_revoked(1).await && !bench.is_revoked(2).await);
        let cut_offs = async |n| bench.store.refresh_token(&bench.issuer, &[token_name(n)]).await.unwrap().unwrap().facts.cut_offs.len();
        assert_eq!((cut_offs(1).await, cut_offs(2).await), (1, 0));
    }

    async fn a_plain_logout_spares_offline_tokens_and_a_compromise_after_it_still_finds_them(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.token("s-1", "wiki", details(1)).await.unwrap();
        bench.token("s-1", "wiki", TokenDetails { offline_access: true, ..details(2) }).await.unwrap();
        assert_eq!(bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt.refresh_tokens_revoked, 1);
        assert!(bench.is_revoked(1).await && !bench.is_revoked(2).await);
        let open = bench.store.subject_record(&bench.issuer.id, &sub("alice")).await.unwrap().still_open;
        assert!(open.iter().any(|one| one.why == OpenWhy::OfflineToken && one.client_id == client("wiki")));
        assert_eq!(bench.commit(&of_session("s-1", Reason::Compromise)).await.receipt.refresh_tokens_revoked, 1);
        assert!(bench.is_revoked(2).await);
    }

    async fn revoke_offline_access_takes_offline_tokens_along_with_a_plain_logout(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.token("s-1", "wiki", TokenDetails { offline_access: true, ..details(2) }).await.unwrap();
        let mut logout = of_subject("alice", Reason::UserLogout);
        logout.revoke_offline_access = true;
        assert_eq!(bench.commit(&logout).await.receipt.refresh_tokens_revoked, 1);
        assert!(bench.is_revoked(2).await);
    }

    async fn a_logout_of_a_subject_at_a_client_ends_participations_and_the_session_goes_on(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        bench.login("s-2", "alice", &["wiki"]).await;
        bench.login("s-3", "bob", &["wiki"]).await;
        bench.token("s-1", "wiki", details(1)).await.unwrap();
        bench.token("s-1", "shop", details(2)).await.unwrap();
        bench.token("s-3", "wiki", details(3)).await.unwrap();
        let target = Target::SubjectAtClient { sub: sub("alice"), client_id: client("wiki") };
        let receipt = bench.commit(&trigger(target, Reason::Admin)).await.receipt;
        assert_eq!((receipt.sessions_ended, receipt.participations_ended, receipt.counts.pending), (0, 2, 2));
        assert_eq!(receipt.refresh_tokens_revoked, 1);
        assert_eq!(bench.life("s-1").await, Life::Live);
        assert!(bench.is_revoked(1).await && !bench.is_revoked(2).await && !bench.is_revoked(3).await);
    }

    async fn a_client_s_own_sid_or_sub_names_its_participation(database) {
        let bench = Bench::on(database).await;
        let own = ParticipantReport { sid: Some(sid("w-1")), sub: Some(sub("pairwise")), ..takes_part("wiki") };
        bench.report(Report::Session(login("s-1", "alice", vec![own, takes_part("shop")]))).await.unwrap();
        bench.token("s-1", "wiki", details(1)).await.unwrap();
        bench.token("s-1", "shop", details(2)).await.unwrap();
        let by_sid = Target::ClientSid { client_id: client("wiki"), client_sid: sid("w-1") };
        let receipt = bench.commit(&trigger(by_sid, Reason::Admin)).await.receipt;
        assert_eq!((receipt.participations_ended, receipt.refresh_tokens_revoked), (1, 1));
        assert!(bench.is_revoked(1).await && !bench.is_revoked(2).await);
        let by_sub = Target::ClientSub { client_id: client("shop"), client_sub: sub("alice") };
        assert_eq!(bench.commit(&trigger(by_sub, Reason::Admin)).await.receipt.participations_ended, 1);
        let leased = bench.claim(1, LEASE).await;
        let wiki = leased.iter().find(|one| one.client_id == client("wiki")).unwrap();
        assert_eq!((wiki.sid.clone(), wiki.sub.clone()), (Some(sid("w-1")), Some(sub("pairwise"))));
    }

    async fn every_session_of_a_subject_but_one_ends(database) {
        let bench = Bench::on(database).await;
        for session in ["s-1", "s-2", "s-3"] {
            bench.login(session, "alice", &["wiki"]).await;
        }
        let target = Target::SubjectExcept { sub: sub("alice"), except_sid: sid("s-2") };
        assert_eq!(bench.commit(&trigger(target, Reason::PasswordChanged)).await.receipt.sessions_ended, 2);
        assert_eq!((bench.life("s-1").await, bench.life("s-2").await), (Life::Ended, Life::Live));
        let before = Some(bench.now().await.minus(Duration::from_secs(60)));
        let late = SessionReport { started_at: before, ..login("s-9", "alice", vec![]) };
        bench.report(Report::Session(late)).await.unwrap();
        assert_eq!(bench.life("s-9").await, Life::Ended, "the cut-off spares the excepted session alone");
    }

    async fn a_device_s_sessions_end_and_nobody_else_s(database) {
        let bench = Bench::on(database).await;
        let on = |device: &str| Device { id: Some(device.to_owned()), ..Device::default() };
        bench.report(Report::Session(SessionReport { device: on("d-1"), ..login("s-1", "alice", vec![takes_part("wiki")]) })).await.unwrap();
        bench.report(Report::Session(SessionReport { device: on("d-2"), ..login("s-2", "alice", vec![]) })).await.unwrap();
        let receipt = bench.commit(&trigger(Target::Device("d-1".into()), Reason::Admin)).await.receipt;
        assert_eq!((receipt.sessions_ended, receipt.counts.pending), (1, 1));
        assert_eq!(bench.life("s-2").await, Life::Live);
    }

    async fn a_refresh_token_names_the_session_of_its_grant_and_an_offline_one_its_grant_alone(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.login("s-2", "alice", &["wiki"]).await;
        bench.token("s-1", "wiki", details(1)).await.unwrap();
        bench.token("s-2", "wiki", TokenDetails { offline_access: true, ..details(2) }).await.unwrap();
        let by = |n| Target::RefreshToken { names: vec![token_name(n)], digest: Digest::from_octets([n; 32]) };
        let bound = bench.commit(&trigger(by(1), Reason::TokenReuse)).await.receipt;
        assert_eq!((bound.sessions_ended, bound.refresh_tokens_revoked), (1, 1));
        let offline = bench.commit(&trigger(by(2), Reason::Admin)).await.receipt;
        assert_eq!((offline.sessions_ended, offline.refresh_tokens_revoked), (0, 1));
        assert_eq!(bench.life("s-2").await, Life::Live);
        let unknown = bench.commit(&trigger(by(9), Reason::Admin)).await.receipt;
        assert_eq!((unknown.sessions_ended, unknown.state), (0, EventState::Settled));
    }

    async fn an_unknown_sid_leaves_a_trace_that_a_late_report_finds(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let receipt = bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt;
        assert_eq!((receipt.sessions_ended, receipt.state), (0, EventState::Settled));
        let late = SessionReport { started_at: Some(now.minus(Duration::from_secs(5))), ..login("s-1", "alice", vec![takes_part("wiki")]) };
        for _ in 0..2 {
            let Reported::Session(standing) = bench.report(Report::Session(late.clone())).await.unwrap() else { panic!("a session") };
            assert_eq!((standing.state, standing.ended_by), (Life::Ended, Some(receipt.id.clone())));
        }
        let receipt = bench.store.receipt(&bench.issuer.id, &receipt.id).await.unwrap().unwrap();
        assert_eq!((receipt.counts.late_joiners, receipt.counts.pending, receipt.state), (1, 1, EventState::Delivering));
    }

    async fn a_login_after_the_logout_begins_a_new_session_under_the_same_sid(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let later = bench.now().await.plus(Duration::from_secs(2));
        let again = SessionReport { started_at: Some(later), ..login("s-1", "alice", vec![takes_part("wiki")]) };
        let Reported::Session(standing) = bench.report(Report::Session(again)).await.unwrap() else { panic!("a session") };
        assert_eq!((standing.created, standing.state), (true, Life::Live));
        let filter = SessionFilter { issuer: bench.issuer.id.clone(), state: None, by: Some(SessionSearch::Sid(sid("s-1"))) };
        assert_eq!(bench.store.sessions(filter, Page::default()).await.unwrap().items.len(), 2);
    }

    async fn an_old_logout_never_ends_a_newer_login(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let begun = |session: &str, ago: u64| SessionReport {
            started_at: Some(now.minus(Duration::from_secs(ago))),
            ..login(session, "alice", vec![takes_part("wiki")])
        };
        bench.report(Report::Session(begun("old", 600))).await.unwrap();
        bench.report(Report::Session(begun("new", 10))).await.unwrap();
        let mut logout = of_subject("alice", Reason::UserLogout);
        logout.occurred_at = Some(now.minus(Duration::from_secs(60)));
        assert_eq!(bench.commit(&logout).await.receipt.sessions_ended, 1);
        assert_eq!((bench.life("old").await, bench.life("new").await), (Life::Ended, Life::Live));
    }

    async fn another_subject_for_a_live_sid_is_refused_and_its_neighbours_stand(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &[]).await;
        let reports = vec![
            Report::Session(login("s-2", "bob", vec![])),
            Report::Session(login("s-1", "bob", vec![takes_part("wiki")])),
            Report::Session(login("s-3", "bob", vec![])),
        ];
        let outcomes = bench.take(reports).await;
        assert!(outcomes[0].is_ok() && outcomes[2].is_ok());
        assert_eq!(outcomes[1].as_ref().unwrap_err(), &ReportRefused::OtherSubject);
        assert_eq!(bench.life("s-2").await, Life::Live);
        assert_eq!(bench.life("s-3").await, Life::Live);
    }

    async fn reports_merge_and_never_remove(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let expiry = |seconds| Some(now.plus(Duration::from_secs(seconds)));
        bench.report(Report::Session(SessionReport { expires_at: expiry(900), ..login("s-1", "alice", vec![takes_part("wiki")]) })).await.unwrap();
        bench.report(Report::Session(SessionReport { expires_at: expiry(300), ..login("s-1", "alice", vec![takes_part("shop")]) })).await.unwrap();
        bench.report(Report::Session(login("s-1", "alice", vec![takes_part("wiki")]))).await.unwrap();
        let session = bench.store.session(&bench.issuer.id, &named("s-1")).await.unwrap().unwrap();
        assert_eq!(session.participants.len(), 2);
        assert_eq!(Some(session.expires_at), expiry(900));
        bench.report(Report::Touch { session: named("s-1"), idle_expires_at: expiry(50), expires_at: expiry(1000) }).await.unwrap();
        let session = bench.store.session(&bench.issuer.id, &named("s-1")).await.unwrap().unwrap();
        assert_eq!((Some(session.expires_at), session.idle_expires_at), (expiry(1000), expiry(50)));
    }

    async fn who_left_by_itself_is_told_nothing(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        let left = bench.report(Report::Leave { session: named("s-1"), client_id: client("wiki"), sid: None }).await.unwrap();
        assert!(matches!(left, Reported::Left(1)));
        let receipt = bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt;
        let told: Vec<_> = receipt.deliveries.iter().map(|one| one.client_id.to_string()).collect();
        assert_eq!(told, ["shop"]);
    }

    async fn who_joins_again_after_its_participation_ended_is_told_again(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let at_wiki = || Target::SessionAtClient { sid: sid("s-1"), client_id: client("wiki") };
        bench.commit(&trigger(at_wiki(), Reason::Admin)).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let session = bench.store.session(&bench.issuer.id, &named("s-1")).await.unwrap().unwrap();
        assert_eq!(session.participants.len(), 1, "the same report again is no new login");
        let joined_at = Some(bench.now().await.plus(Duration::from_secs(1)));
        let participant = ParticipantReport { joined_at, ..takes_part("wiki") };
        bench.report(Report::Join { session: named("s-1"), participant }).await.unwrap();
        let receipt = bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt;
        assert_eq!(receipt.counts.total(), 1);
    }

    async fn a_token_of_an_ended_session_is_refused_and_stored_as_revoked(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        assert_eq!(bench.token("none", "wiki", details(1)).await.unwrap_err(), ReportRefused::UnknownSession);
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        assert_eq!(bench.token("s-1", "wiki", details(2)).await.unwrap_err(), ReportRefused::SessionEnded);
        assert!(bench.is_revoked(2).await);
        let after = Some(bench.now().await.plus(Duration::from_secs(5)));
        let newer = TokenDetails { issued_at: after, ..details(3) };
        assert_eq!(bench.token("s-1", "wiki", newer).await.unwrap_err(), ReportRefused::UnknownSession);
        assert!(bench.store.refresh_token(&bench.issuer, &[token_name(3)]).await.unwrap().is_none());
    }

    async fn a_token_is_registered_once_and_not_for_another_owner(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        assert!(matches!(bench.token("s-1", "wiki", details(1)).await.unwrap(), Reported::TokenRegistered { new: true, active: true, .. }));
        assert!(matches!(bench.token("s-1", "wiki", details(1)).await.unwrap(), Reported::TokenRegistered { new: false, active: true, .. }));
        assert_eq!(bench.token("s-1", "shop", details(1)).await.unwrap_err(), ReportRefused::OtherOwner);
    }

    async fn who_cannot_be_told_is_settled_at_once_and_still_counts_as_open(database) {
        let bench = Bench::on(database).await;
        let needs_sid = ClientRecord { session_required: true, ..registered("strict", bench.now().await) };
        bench.store.put_client(&needs_sid, None, &[], entry(Act::ClientPut)).await.unwrap();
        let implicit = SessionReport { session: SessionName::Subject(sub("alice")), ..login("x", "alice", vec![takes_part("strict"), takes_part("stranger")]) };
        bench.report(Report::Session(implicit)).await.unwrap();
        let receipt = bench.commit(&of_subject("alice", Reason::UserLogout)).await.receipt;
        assert_eq!((receipt.sessions_ended, receipt.counts.unreachable, receipt.state), (1, 2, EventState::Settled));
        let reasons: BTreeSet<_> = receipt.deliveries.iter().map(|one| one.reason.unwrap().as_str()).collect();
        assert_eq!(reasons, BTreeSet::from(["client_not_registered", "no_sid"]));
        let open = bench.store.subject_record(&bench.issuer.id, &sub("alice")).await.unwrap().still_open;
        assert!(open.iter().all(|one| one.why == OpenWhy::Unreachable) && open.len() == 2);
    }

    async fn a_lease_is_held_by_one_and_a_late_settle_is_fenced(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let first = bench.claim(1, Duration::from_secs(5)).await;
        assert_eq!(first.len(), 1);
        assert!(bench.claim(2, LEASE).await.is_empty(), "what is leased is not due");
        bench.clock.advance(Duration::from_secs(6));
        let second = bench.claim(2, LEASE).await;
        assert_eq!(second.len(), 1, "a lease that ran out needs nobody to give it back");
        let late = bench.settle(settlement(&first[0], DeliveryState::Rejected, SettledReason::Refused)).await;
        assert!(late.fenced);
        assert!(!bench.delivered(&second[0]).await.fenced);
        let (view, attempts) = bench.store.delivery(&bench.issuer.id, &first[0].id).await.unwrap().unwrap();
        assert_eq!((view.state, view.reason), (DeliveryState::Delivered, Some(SettledReason::Accepted)));
        let lost: Vec<bool> = attempts.iter().map(|attempt| attempt.lease_lost).collect();
        assert_eq!(lost.iter().filter(|lost| **lost).count(), 1, "the attempt of who lost the lease is on record");
        assert_eq!(lost.len(), 2);
    }

    async fn nobody_claims_a_row_twice_however_many_claim_at_once(database) {
        let bench = Bench::on(database).await;
        for n in 0..20 {
            bench.login(&format!("s-{n}"), "alice", &["wiki", "shop"]).await;
        }
        bench.commit(&of_subject("alice", Reason::UserLogout)).await;
        let claims = futures_util::future::join_all((1..=8).map(|claimer| bench.claim(claimer, LEASE))).await;
        let ids: Vec<_> = claims.iter().flatten().map(|one| one.id.clone()).collect();
        assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
        assert!(ids.len() >= 16);
    }

    async fn each_class_of_a_lane_is_a_queue_of_its_own(database) {
        let bench = Bench::on(database).await;
        for who in ["alice", "bob", "carol"] {
            bench.login(&format!("s-{who}"), who, &["wiki"]).await;
        }
        bench.commit(&of_subject("alice", Reason::UserLogout)).await;
        bench.commit(&of_subject("bob", Reason::UserLogout)).await;
        bench.commit(&of_subject("carol", Reason::Compromise)).await;
        let now = bench.now().await;
        let queues = bench.store.queues().await.unwrap();
        assert_eq!(queues.iter().map(|queue| queue.class).collect::<Vec<_>>(), [Class::Compromise, Class::Interactive]);
        let deal = |queue: &Queue| Deal { lane: queue.lane.clone(), class: queue.class, retry: queue.retry, slots: 1 };
        let deals: Vec<Deal> = queues.iter().map(deal).collect();
        let claimed = bench.store.claim_due(&deals, now, now.plus(LEASE), 1).await.unwrap();
        assert_eq!(claimed.iter().map(|one| one.class).collect::<BTreeSet<_>>(), BTreeSet::from([Class::Compromise, Class::Interactive]));
    }

    async fn what_is_released_is_due_at_once_and_what_waits_is_due_in_its_time(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        assert!(bench.store.queues().await.unwrap()[0].due_at <= bench.now().await);
        let leased = bench.claim(1, LEASE).await.remove(0);
        bench.store.release(&[(leased.id.clone(), leased.lease_token)]).await.unwrap();
        let leased = bench.claim(2, LEASE).await.remove(0);
        let due_at = bench.now().await.plus(Duration::from_secs(60));
        let again = Settlement { verdict: Verdict::Again { due_at }, ..settlement(&leased, DeliveryState::Delivered, SettledReason::Accepted) };
        bench.settle(again).await;
        assert!(bench.claim(3, LEASE).await.is_empty());
        let queues = bench.store.queues().await.unwrap();
        assert_eq!(queues.iter().map(|queue| (queue.retry, queue.due_at)).collect::<Vec<_>>(), [(true, due_at)]);
        bench.clock.advance(Duration::from_secs(61));
        assert_eq!(bench.claim(4, LEASE).await[0].attempts, 1);
    }

    async fn an_attempt_sees_the_newer_logins_it_could_end(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.login("s-0", "bob", &["wiki"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let leased = bench.claim(1, LEASE).await;
        assert!(bench.store.attempt_facts(&leased).await.unwrap()[0].live.is_empty());
        let later = bench.now().await.plus(Duration::from_secs(3));
        bench.report(Report::Session(SessionReport { started_at: Some(later), ..login("s-2", "alice", vec![takes_part("wiki")]) })).await.unwrap();
        let facts = bench.store.attempt_facts(&leased).await.unwrap().remove(0);
        assert_eq!(facts.live, [(later, Some(sid("s-2")))]);
        assert_eq!(facts.client.unwrap().client_id, client("wiki"));
        assert_eq!(facts.issuer.id, bench.issuer.id);
    }

    async fn a_deleted_client_loses_its_grants_and_its_pending_deliveries_only_when_asked(database) {
        let bench = Bench::on(database).await;
        for (session, who) in [("s-1", "wiki"), ("s-2", "shop")] {
            bench.login(session, "alice", &[who]).await;
            bench.token(session, who, TokenDetails { offline_access: true, ..details(session.as_bytes()[2]) }).await.unwrap();
            bench.commit(&of_session(session, Reason::UserLogout)).await;
        }
        let main = &bench.issuer.id;
        let delete = async |who: &str, pending| {
            bench.store.delete_client(main, &client(who), None, pending, entry(Act::ClientDeleted)).await
        };
        assert_eq!(delete("wiki", Pending::Deliver).await.unwrap(), Change::Replaced);
        assert_eq!(delete("shop", Pending::Cancel).await.unwrap(), Change::Replaced);
        assert_eq!(delete("shop", Pending::Cancel).await.unwrap(), Change::Absent);
        assert!(bench.is_revoked(b'1').await && bench.is_revoked(b'2').await);
        assert!(bench.store.client(main, &client("wiki")).await.unwrap().is_none());
        let leased = bench.claim(1, LEASE).await;
        assert_eq!(leased.len(), 1);
        let facts = bench.store.attempt_facts(&leased).await.unwrap().remove(0);
        assert!(facts.client.is_some_and(|one| one.deleted_at.is_some() && one.backchannel_logout_uri.is_some()));
        let cancelled = DeliveryFilter { state: Some(DeliveryState::Cancelled), ..DeliveryFilter::default() };
        assert_eq!(bench.store.deliveries(cancelled, Page::default()).await.unwrap().items.len(), 1);
    }

    async fn a_change_of_something_that_was_changed_meanwhile_is_refused(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let put = async |expected| {
            bench.store.put_client(&registered("wiki", now), expected, &[], entry(Act::ClientPut)).await.unwrap()
        };
        let first = bench.store.client(&bench.issuer.id, &client("wiki")).await.unwrap().unwrap().version;
        assert_eq!(put(Some(first)).await, Change::Replaced);
        assert_eq!(put(Some(first)).await, Change::Stale);
        assert_eq!(put(None).await, Change::Replaced);
        let changed = IssuerRecord { session_max_age: Duration::from_secs(60), ..bench.issuer.clone() };
        assert_eq!(bench.store.change_issuer(&changed, &[], entry(Act::IssuerChanged)).await.unwrap(), Change::Replaced);
        assert_eq!(bench.store.change_issuer(&changed, &[], entry(Act::IssuerChanged)).await.unwrap(), Change::Stale);
    }

    async fn an_issuer_goes_only_when_nothing_of_it_lives_and_may_come_back(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &[]).await;
        let main = &bench.issuer.id;
        assert_eq!(bench.store.delete_issuer(main, entry(Act::IssuerDeleted)).await.unwrap(), Change::InUse);
        bench.commit(&of_session("s-1", Reason::Admin)).await;
        let renamed = IssuerRecord { issuer: Issuer::parse("https://other.example").unwrap(), ..bench.issuer.clone() };
        assert_eq!(bench.store.change_issuer(&renamed, &[], entry(Act::IssuerChanged)).await.unwrap(), Change::Conflict);
        assert_eq!(bench.store.delete_issuer(main, entry(Act::IssuerDeleted)).await.unwrap(), Change::Replaced);
        assert!(bench.store.issuer(main).await.unwrap().is_none());
        assert_eq!(bench.store.create_issuer(&renamed, &[], entry(Act::IssuerCreated)).await.unwrap(), Change::Conflict);
        assert_eq!(bench.store.create_issuer(&bench.issuer, &[], entry(Act::IssuerCreated)).await.unwrap(), Change::Created);
        assert_eq!(bench.store.create_issuer(&bench.issuer, &[], entry(Act::IssuerCreated)).await.unwrap(), Change::Conflict);
    }

    async fn an_api_token_is_found_by_its_digest_until_it_is_revoked(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let id = ApiTokenId::from(Id::from_parts(now, 7));
        let record = ApiTokenRecord {
            id: id.clone(),
            role: Role::Provider,
            issuer: Some(bench.issuer.id.clone()),
            client_id: None,
            may_mass_kill: false,
            created_at: now,
            expires_at: Some(now.plus(Duration::from_secs(60))),
            revoked_at: None,
            rate_per_s: None,
            rotated_at: None,
            previous_until: None,
            used_at: None,
            previous_used_at: None,
        };
        let digest = Digest::from_octets([9; 32]);
        assert_eq!(bench.store.create_api_token(&record, digest, entry(Act::ApiTokenCreated)).await.unwrap(), Change::Created);
        assert_eq!(bench.store.api_token(digest).await.unwrap(), Some(ShownApiToken { record, edition: Edition::Current }));
        assert_eq!(bench.store.api_token(Digest::from_octets([8; 32])).await.unwrap(), None);
        assert_eq!(bench.store.revoke_api_token(&id, entry(Act::ApiTokenRevoked)).await.unwrap(), Change::Replaced);
        assert!(bench.store.api_token(digest).await.unwrap().unwrap().record.revoked_at.is_some());
        assert_eq!(bench.store.revoke_api_token(&id, entry(Act::ApiTokenRevoked)).await.unwrap(), Change::Absent);
    }

    async fn lists_go_on_where_they_stopped_and_miss_nothing(database) {
        let bench = Bench::on(database).await;
        for n in 0..7 {
            bench.login(&format!("s-{n}"), "alice", &["wiki"]).await;
            bench.commit(&of_session(&format!("s-{n}"), Reason::UserLogout)).await;
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = bench.store.events(EventFilter::default(), Page { limit: 3, after }).await.unwrap();
            seen.extend(page.items.into_iter().map(|receipt| receipt.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 7);
        assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first");
        let of = |filter: EventFilter| async { bench.store.events(filter, Page::default()).await.unwrap().items.len() };
        let main = Some(bench.issuer.id.clone());
        assert_eq!(of(EventFilter { issuer: main.clone(), state: Some(EventState::Delivering), ..EventFilter::default() }).await, 7);
        assert_eq!(of(EventFilter { issuer: main.clone(), state: Some(EventState::Settled), ..EventFilter::default() }).await, 0);
        assert_eq!(of(EventFilter { issuer: main.clone(), client_id: Some(client("shop")), ..EventFilter::default() }).await, 0);
        assert_eq!(of(EventFilter { issuer: main.clone(), sub: Some(sub("alice")), ..EventFilter::default() }).await, 7);
        assert_eq!(of(EventFilter { issuer: main.clone(), sid: Some(sid("s-3")), ..EventFilter::default() }).await, 1);
        assert_eq!(of(EventFilter { issuer: main, reason: Some(Reason::Admin), ..EventFilter::default() }).await, 0);
    }

    async fn sessions_are_found_by_whatever_is_known_of_them(database) {
        let bench = Bench::on(database).await;
        let own = ParticipantReport { sid: Some(sid("w-1")), sub: Some(sub("pairwise")), ..takes_part("wiki") };
        let device = Device { id: Some("d-1".into()), label: Some("laptop".into()), ip: Some("192.0.2.7".into()), user_agent: None };
        let alias = logoutd::model::Alias::parse("email:alice@example.org").unwrap();
        bench.report(Report::Session(SessionReport { aliases: vec![alias.clone()], device, ..login("s-1", "alice", vec![own]) })).await.unwrap();
        bench.login("s-2", "bob", &["shop"]).await;
        for by in [
            SessionSearch::Subject(sub("alice")),
            SessionSearch::Subject(sub("pairwise")),
            SessionSearch::Sid(sid("s-1")),
            SessionSearch::Sid(sid("w-1")),
            SessionSearch::Client(client("wiki")),
            SessionSearch::Alias(alias.clone()),
            SessionSearch::Device("d-1".into()),
            SessionSearch::Ip("192.0.2.7".into()),
        ] {
            let filter = SessionFilter { issuer: bench.issuer.id.clone(), state: Some(Life::Live), by: Some(by) };
            let found = bench.store.sessions(filter.clone(), Page::default()).await.unwrap().items;
            assert_eq!(found.len(), 1, "{filter:?}");
            assert_eq!((found[0].sub.clone(), found[0].aliases.clone()), (Some(sub("alice")), vec![alias.clone()]));
        }
    }

    async fn every_act_is_on_record_in_the_transaction_that_did_it(database) {
        let bench = Bench::on(database).await;
        let mut logout = of_session("s-1", Reason::Admin);
        logout.actor = Some("carol@helpdesk".into());
        logout.note = Some("stolen laptop".into());
        let event = bench.commit(&logout).await.receipt.id;
        let records = bench.store.audit(AuditFilter::default(), Page::default()).await.unwrap().items;
        let records: Vec<_> = records.into_iter().map(|one| one.record).collect();
        let acts: Vec<_> = records.iter().map(|record| record.act).collect();
        assert_eq!(acts, [Act::LogoutPosted, Act::ClientPut, Act::ClientPut, Act::IssuerCreated]);
        assert_eq!((records[0].event.clone(), records[0].actor.as_deref()), (Some(event), Some("carol@helpdesk")));
        assert!(records[0].detail.contains("stolen laptop"));
    }

    async fn what_is_written_once_stays(database) {
        let bench = Bench::on(database).await;
        assert_eq!(bench.store.meta("canary").await.unwrap(), None);
        assert_eq!(bench.store.meta_once("canary", "one").await.unwrap(), "one");
        assert_eq!(bench.store.meta_once("canary", "two").await.unwrap(), "one");
        bench.store.ping().await.unwrap();
    }

    async fn a_session_reported_while_its_own_sid_is_logged_out_does_not_live_on(database) {
        let bench = Bench::on(database).await;
        for n in 0..60 {
            let name = format!("s-{n}");
            let before = Some(bench.now().await.minus(Duration::from_secs(5)));
            let participants = (0..8).map(|n| takes_part(&format!("client-{n}"))).chain([takes_part("wiki")]).collect();
            let report = Report::Session(SessionReport { started_at: before, ..login(&name, "alice", participants) });
            let logout = of_session(&name, if n % 2 == 0 { Reason::UserLogout } else { Reason::Compromise });
            let (reported, committed) = tokio::join!(bench.report(report), bench.commit(&logout));
            reported.unwrap();
            assert_eq!(bench.life(&name).await, Life::Ended, "round {n}");
            let receipt = bench.store.receipt(&bench.issuer.id, &committed.receipt.id).await.unwrap().unwrap();
            assert_eq!(receipt.counts.total(), 9, "round {n}: each is told once");
        }
    }

    async fn a_sid_that_comes_back_under_another_person_is_another_session(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "bob", &["wiki"]).await;
        bench.token("s-1", "wiki", TokenDetails { offline_access: true, ..details(1) }).await.unwrap();
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        for leased in bench.claim(1, LEASE).await {
            bench.settle(settlement(&leased, DeliveryState::Rejected, SettledReason::Refused)).await;
        }
        bench.login("s-1", "carol", &["shop"]).await;
        bench.token("s-1", "shop", TokenDetails { offline_access: true, ..details(2) }).await.unwrap();
        let session = bench.store.session(&bench.issuer.id, &named("s-1")).await.unwrap().unwrap();
        assert_eq!((session.sub, session.ended_at, session.participants.len()), (Some(sub("carol")), None, 1));
        let receipt = bench.commit(&of_session("s-1", Reason::Compromise)).await.receipt;
        assert_eq!((receipt.sessions_ended, receipt.refresh_tokens_revoked), (1, 1));
        assert!(bench.is_revoked(2).await && !bench.is_revoked(1).await, "bob's offline token is not carol's");
        let rejected = DeliveryFilter { state: Some(DeliveryState::Rejected), ..DeliveryFilter::default() };
        assert_eq!(bench.store.deliveries(rejected, Page::default()).await.unwrap().items.len(), 1, "bob's deliveries are not reopened");
    }

    async fn a_late_token_of_a_participation_that_was_ended_by_the_client_s_own_names_is_revoked(database) {
        let bench = Bench::on(database).await;
        let before = Some(bench.now().await.minus(Duration::from_secs(60)));
        for (n, by_sid) in [(1, true), (3, false)] {
            let name = format!("s-{n}");
            let own = ParticipantReport { sid: Some(sid(&format!("w-{n}"))), sub: Some(sub(&format!("pw-{n}"))), ..takes_part("wiki") };
            bench.report(Report::Session(login(&name, "bea", vec![own.clone()]))).await.unwrap();
            let target = if by_sid {
                Target::ClientSid { client_id: client("wiki"), client_sid: sid(&format!("w-{n}")) }
            } else {
                Target::ClientSub { client_id: client("wiki"), client_sub: sub(&format!("pw-{n}")) }
            };
            bench.commit(&trigger(target, Reason::Compromise)).await;
            let late = bench.token(&name, "wiki", TokenDetails { issued_at: before, ..details(n) }).await.unwrap();
            assert!(matches!(late, Reported::TokenRegistered { active: false, .. }));
            let within = ParticipantReport { refresh_token: Some(TokenDetails { issued_at: before, ..details(n + 1) }), ..own };
            bench.report(Report::Session(login(&name, "bea", vec![within]))).await.unwrap();
            assert!(bench.is_revoked(n).await && bench.is_revoked(n + 1).await);
        }
        let unbound = TokenReport { owner: TokenOwner::Subject(sub("fay")), client_id: client("wiki"), token: details(9) };
        bench.report(Report::RefreshToken(unbound)).await.unwrap();
        let by_sub = Target::ClientSub { client_id: client("wiki"), client_sub: sub("fay") };
        assert_eq!(bench.commit(&trigger(by_sub, Reason::Compromise)).await.receipt.refresh_tokens_revoked, 1);
        assert!(bench.is_revoked(9).await);
    }

    async fn tokens_drawn_after_a_takeover_die_with_the_participation_they_came_from(database) {
        let bench = Bench::on(database).await;
        let ago = |now: Timestamp, seconds| Some(now.minus(Duration::from_secs(seconds)));
        let now = bench.now().await;
        let begun = SessionReport { started_at: ago(now, 3000), ..login("s-1", "eve", vec![takes_part("wiki")]) };
        bench.report(Report::Session(begun)).await.unwrap();
        bench.token("s-1", "wiki", TokenDetails { issued_at: ago(now, 100), ..details(1) }).await.unwrap();
        let mut logout = trigger(Target::SubjectAtClient { sub: sub("eve"), client_id: client("wiki") }, Reason::Compromise);
        logout.occurred_at = ago(now, 1000);
        let receipt = bench.commit(&logout).await.receipt;
        assert_eq!((receipt.participations_ended, receipt.refresh_tokens_revoked), (1, 1));
        assert!(bench.is_revoked(1).await);
    }

    async fn who_came_back_before_the_session_ended_is_told_although_it_is_reported_late(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let ago = |seconds| Some(now.minus(Duration::from_secs(seconds)));
        let joined = |seconds| {
            let participant = ParticipantReport { joined_at: ago(seconds), ..takes_part("wiki") };
            Report::Session(SessionReport { started_at: ago(300), ..login("s-1", "alice", vec![participant]) })
        };
        bench.report(joined(300)).await.unwrap();
        let at_wiki = trigger(Target::SessionAtClient { sid: sid("s-1"), client_id: client("wiki") }, Reason::Admin);
        bench.commit(&Trigger { occurred_at: ago(200), ..at_wiki }).await;
        let last = bench.commit(&Trigger { occurred_at: ago(50), ..of_session("s-1", Reason::UserLogout) }).await.receipt;
        assert_eq!((last.sessions_ended, last.counts.total()), (1, 0));
        for _ in 0..2 {
            bench.report(joined(100)).await.unwrap();
        }
        let receipt = bench.store.receipt(&bench.issuer.id, &last.id).await.unwrap().unwrap();
        assert_eq!((receipt.counts.late_joiners, receipt.counts.pending), (1, 1));
    }

    async fn no_number_of_plain_logouts_hides_a_compromise(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let ago = |seconds| Some(now.minus(Duration::from_secs(seconds)));
        bench.commit(&Trigger { occurred_at: ago(2000), ..of_subject("dora", Reason::Compromise) }).await;
        for n in 0..40 {
            bench.commit(&of_subject("dora", Reason::UserLogout)).await;
            let target = Target::SubjectExcept { sub: sub("dora"), except_sid: sid(&format!("s-{n}")) };
            bench.commit(&trigger(target, Reason::PasswordChanged)).await;
        }
        let late = TokenDetails { issued_at: ago(3000), offline_access: true, ..details(1) };
        let report = TokenReport { owner: TokenOwner::Subject(sub("dora")), client_id: client("wiki"), token: late };
        bench.report(Report::RefreshToken(report)).await.unwrap();
        assert!(bench.is_revoked(1).await);
    }

    async fn what_a_client_really_saw_may_be_reported_later(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "gus", &["wiki"]).await;
        let saw = |who: &str| Report::Session(login("s-1", "gus", vec![ParticipantReport { sub: Some(sub(who)), ..takes_part("wiki") }]));
        bench.report(saw("pairwise-gus")).await.unwrap();
        bench.report(saw("pairwise-gus")).await.unwrap();
        assert_eq!(bench.report(saw("another")).await.unwrap_err(), ReportRefused::OtherSubject);
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        assert_eq!(bench.claim(1, LEASE).await[0].sub, Some(sub("pairwise-gus")));
    }

    async fn a_token_reported_stolen_before_it_is_registered_never_becomes_active(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let stolen = Target::RefreshToken { names: vec![token_name(1)], digest: Digest::from_octets([1; 32]) };
        bench.commit(&trigger(stolen.clone(), Reason::TokenReuse)).await;
        bench.commit(&trigger(stolen, Reason::TokenReuse)).await;
        let registered = bench.token("s-1", "wiki", details(1)).await.unwrap();
        assert!(matches!(registered, Reported::TokenRegistered { active: false, .. }));
        assert!(bench.is_revoked(1).await);
    }

    async fn no_hot_statement_scans_a_table(database) {
        let bench = Bench::on(database).await;
        for (statement, plan) in bench.store.explain().await.unwrap() {
            let bad = |line: &&str| line.contains("Seq Scan") || is_table_scan(line) || is_issuer_wide(line);
            assert_eq!(plan.lines().find(bad), None, "{statement}:\n{plan}");
            // The step from one queue to the next is a seek, not a walk through the queue.
            let steps = statement != "queues" || database.engine == Engine::Postgres || plan.contains("(lane=? AND class=? AND retry>?)");
            assert!(steps, "{plan}");
        }
    }

    async fn a_participant_that_joins_while_its_session_ends_is_told(database) {
        let bench = Bench::on(database).await;
        for n in 0..60 {
            let name = format!("s-{n}");
            bench.login(&name, "alice", &["wiki"]).await;
            let join = bench.report(Report::Join { session: named(&name), participant: takes_part("shop") });
            let logout = of_session(&name, Reason::UserLogout);
            let (joined, committed) = tokio::join!(join, bench.commit(&logout));
            joined.unwrap();
            let session = bench.store.session(&bench.issuer.id, &named(&name)).await.unwrap().unwrap();
            assert!(session.participants.iter().all(|one| one.ended_at.is_some()), "a participant lives on in an ended session");
            let receipt = bench.store.receipt(&bench.issuer.id, &committed.receipt.id).await.unwrap().unwrap();
            assert_eq!(receipt.counts.total(), 2, "round {n}: each participant is told once");
        }
    }

    async fn a_session_reported_while_its_subject_is_logged_out_does_not_live_on(database) {
        let bench = Bench::on(database).await;
        for n in 0..60 {
            let (who, name) = (format!("alice-{n}"), format!("s-{n}"));
            let before = Some(bench.now().await.minus(Duration::from_secs(5)));
            let report = Report::Session(SessionReport { started_at: before, ..login(&name, &who, vec![takes_part("wiki")]) });
            let logout = of_subject(&who, Reason::UserLogout);
            let (reported, committed) = tokio::join!(bench.report(report), bench.commit(&logout));
            reported.unwrap();
            assert_eq!(bench.life(&name).await, Life::Ended, "round {n}");
            let receipt = bench.store.receipt(&bench.issuer.id, &committed.receipt.id).await.unwrap().unwrap();
            assert_eq!(receipt.counts.total(), 1, "round {n}: it is told once");
        }
    }

    async fn a_token_registered_while_its_session_ends_is_revoked(database) {
        let bench = Bench::on(database).await;
        for n in 0..60 {
            let name = format!("s-{n}");
            bench.login(&name, "alice", &["wiki"]).await;
            let logout = of_session(&name, Reason::UserLogout);
            let (registered, _) = tokio::join!(bench.token(&name, "wiki", details(n)), bench.commit(&logout));
            assert!(matches!(registered, Ok(_) | Err(ReportRefused::SessionEnded)));
            assert!(bench.is_revoked(n).await, "round {n}");
        }
    }

    async fn a_client_logged_out_everywhere_has_no_participation_left_whoever_joins_meanwhile(database) {
        let bench = Bench::on(database).await;
        let before = Some(bench.now().await.minus(Duration::from_secs(5)));
        for n in 0..30 {
            let who = format!("c-{n}");
            bench.store.put_client(&registered(&who, bench.now().await), None, &[], entry(Act::ClientPut)).await.unwrap();
            let name = format!("s-{n}");
            let joins = ParticipantReport { joined_at: before, ..takes_part(&who) };
            let report = Report::Session(SessionReport { started_at: before, ..login(&name, "alice", vec![joins]) });
            let logout = trigger(Target::Client(client(&who)), Reason::Admin);
            let (reported, committed) = tokio::join!(bench.report(report), bench.commit(&logout));
            reported.unwrap();
            let session = bench.store.session(&bench.issuer.id, &named(&name)).await.unwrap().unwrap();
            assert!(session.participants.iter().all(|one| one.ended_at.is_some()), "round {n}");
            assert_eq!(session.ended_at, None);
            let receipt = bench.store.receipt(&bench.issuer.id, &committed.receipt.id).await.unwrap().unwrap();
            assert_eq!(receipt.counts.total(), 1, "round {n}");
        }
    }
}

/// SQLite's word for walking through a whole table; walking through an index or a materialised step is something else.
fn is_table_scan(line: &str) -> bool {
    let walked = line.trim().strip_prefix("SCAN ");
    walked.is_some_and(|what| !what.contains("USING") && !what.contains("CONSTANT ROW") && !["l", "queues", "wanted"].contains(&what))
}

/// An index that narrows to an issuer alone finds everything there is in a deployment with one issuer. SQLite plans by rules and says it of an
/// empty table too; PostgreSQL plans by statistics, and to an empty table one index is as good as another.
fn is_issuer_wide(line: &str) -> bool {
    line.trim().ends_with("(issuer_id=?)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_sqlite_file_is_refused() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let _first = database.open(&Clock::system()).await;
    let settings =
        logoutd::store::StoreSettings { url: database.url.clone(), max_connections: 1, statement_timeout: Duration::from_secs(1) };
    let second = Store::open(&settings, Clock::system(), Entropy::os(), &tokio_util::task::TaskTracker::new()).await;
    assert!(matches!(second, Err(logoutd::store::OpenError::InUse(_))));
}
