//! Logouts of more than one transaction can hold: true at once, done page by page, undone as far as that is possible.

use std::collections::BTreeSet;
use std::time::Duration;

use logoutd::model::audit::Act;
use logoutd::model::client::ClientRecord;
use logoutd::model::delivery::{Class, DeliveryState, SettledReason};
use logoutd::model::effects::WorkRules;
use logoutd::model::event::{EventState, Receipt};
use logoutd::model::report::{ParticipantReport, Report, Reported, SessionReport, TokenDetails, TokenName, TokenOwner, TokenReport};
use logoutd::model::session::Life;
use logoutd::model::trigger::{Except, Reason, Target, Trigger};
use logoutd::model::{Digest, EventId};
use logoutd::plan::activity::{Activity, activity};
use logoutd::plan::effects::opening;
use logoutd::store::{AuditFilter, CommitRefused, DeliveryFilter, EventFilter, Mode};

use crate::harness::database::on_both_engines;
use crate::store::{
    Bench, LEASE, client, details, entry, login, named, of_session, of_subject, registered, settlement, sub, takes_part, token_name,
    trigger,
};

const WORKS: WorkRules = WorkRules { opening, by_age: opening };

fn everyone(reason: Reason) -> Trigger {
    trigger(Target::Everyone, reason)
}

fn sparing(logout: Trigger, people: &[&str], clients: &[&str]) -> Trigger {
    let except = Except { sub: people.iter().map(|who| sub(who)).collect(), client_id: clients.iter().map(|who| client(who)).collect() };
    Trigger { except, ..logout }
}

/// Many sessions, each of another person at two clients, with a refresh token at the first.
async fn crowd(bench: &Bench, people: usize) {
    let reports = (0..people).map(|n| {
        let token = TokenDetails { name: token_of(n), ..details(0) };
        let at_wiki = ParticipantReport { refresh_token: Some(token), ..takes_part("wiki") };
        Report::Session(login(&format!("s-{n}"), &format!("user-{n}"), vec![at_wiki, takes_part("shop")]))
    });
    let reports: Vec<Report> = reports.collect();
    for page in reports.chunks(500) {
        assert!(bench.take(page.to_vec()).await.iter().all(Result::is_ok));
    }
}

fn token_of(n: usize) -> TokenName {
    let mut octets = [0; 32];
    octets[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
    TokenName::Digest(Digest::from_octets(octets))
}

/// One page of every open work; whether there was any.
pub(crate) async fn pages(bench: &Bench) -> bool {
    let mut any = false;
    for work in bench.store.open_works().await.unwrap() {
        any |= bench.store.advance_work(&work, WORKS).await.unwrap().is_some();
    }
    any
}

pub(crate) async fn finish(bench: &Bench) {
    for _ in 0..1000 {
        if !pages(bench).await {
            return;
        }
    }
    panic!("works end");
}

async fn receipt(bench: &Bench, id: &EventId) -> Receipt {
    bench.store.receipt(&bench.issuer.id, id).await.unwrap().unwrap()
}

async fn undo(bench: &Bench, id: &EventId) -> Receipt {
    bench.store.undo(&bench.issuer.id, id, entry(Act::LogoutUndone)).await.unwrap().unwrap()
}

/// Whether a registered token is cut off or revoked: what introspection goes by is tested through its door.
async fn is_good(bench: &Bench, name: TokenName) -> bool {
    let record = bench.store.refresh_token(&bench.issuer, &[name]).await.unwrap().unwrap();
    activity(&record.facts, bench.now().await) == Activity::Active
}

async fn told(bench: &Bench, id: &EventId) -> BTreeSet<(String, String)> {
    let filter = DeliveryFilter { event: Some(id.clone()), issuer: Some(bench.issuer.id.clone()), ..DeliveryFilter::default() };
    let page = logoutd::model::page::Page { limit: 1000, after: None };
    let items = bench.store.deliveries(filter, page).await.unwrap().items;
    items.into_iter().map(|one| (one.client_id.to_string(), one.sid.map_or(String::new(), |sid| sid.as_str().to_owned()))).collect()
}

on_both_engines! {
    async fn everybody_is_out_at_once_and_told_page_by_page(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 250).await;
        let committed = bench.commit(&everyone(Reason::Admin)).await.receipt;
        assert_eq!((committed.state, committed.sessions_ended, committed.counts.total()), (EventState::Expanding, 0, 0));
        for n in 0..250 {
            assert!(!is_good(&bench, token_of(n)).await, "the token of {n} is good");
        }
        assert!(pages(&bench).await);
        let halfway = receipt(&bench, &committed.id).await;
        assert_eq!((halfway.state, halfway.sessions_ended, halfway.counts.pending), (EventState::Expanding, 100, 200));
        finish(&bench).await;
        let done = receipt(&bench, &committed.id).await;
        assert_eq!((done.state, done.sessions_ended, done.refresh_tokens_revoked, done.counts.pending), (EventState::Delivering, 250, 250, 500));
        assert_eq!(told(&bench, &committed.id).await.len(), 500);
        assert!(bench.claim(1, LEASE).await.iter().all(|leased| leased.class == Class::Bulk));
    }

    async fn a_rehearsal_counts_exactly_what_would_be_done(database) {
        let bench = Bench::on(database).await;
        let silent = ClientRecord { backchannel_logout_uri: None, ..registered("silent", bench.now().await) };
        bench.store.put_client(&silent, None, &[], entry(Act::ClientPut)).await.unwrap();
        crowd(&bench, 120).await;
        bench.login("s-quiet", "user-7", &["silent", "stranger"]).await;
        let unbound = |n, offline_access| Report::RefreshToken(TokenReport {
            owner: TokenOwner::Subject(sub("user-3")),
            client_id: client("shop"),
            token: TokenDetails { offline_access, ..details(n) },
        });
        bench.report(unbound(201, false)).await.unwrap();
        bench.report(unbound(202, true)).await.unwrap();
        bench.token("s-4", "wiki", TokenDetails { offline_access: true, ..details(203) }).await.unwrap();
        bench.commit(&of_session("s-9", Reason::UserLogout)).await;
        let logouts = [
            sparing(everyone(Reason::Admin), &["user-1", "user-2"], &[]),
            sparing(everyone(Reason::UserLogout), &[], &["wiki"]),
            sparing(trigger(Target::Client(client("wiki")), Reason::Admin), &["user-5"], &[]),
            Trigger { revoke_offline_access: true, ..everyone(Reason::Admin) },
            everyone(Reason::Compromise),
        ];
        for (n, logout) in logouts.into_iter().enumerate() {
            bench.login(&format!("s-again-{n}"), "user-8", &["wiki", "shop"]).await;
            let rehearsed = bench.try_commit(&logout, Mode::Rehearse).await.unwrap().receipt;
            let before = bench.store.events(EventFilter::default(), logoutd::model::page::Page::default()).await.unwrap().items.len();
            let committed = bench.commit(&logout).await.receipt.id;
            let after = bench.store.events(EventFilter::default(), logoutd::model::page::Page::default()).await.unwrap().items.len();
            assert_eq!(after, before + 1, "a rehearsal leaves nothing");
            finish(&bench).await;
            let done = receipt(&bench, &committed).await;
            let counts = |one: &Receipt| (one.sessions_ended, one.participations_ended, one.refresh_tokens_revoked, one.counts);
            assert_eq!(counts(&rehearsed), counts(&done), "{:?} {:?}", logout.target, logout.except);
            assert!(done.sessions_ended + done.participations_ended + done.refresh_tokens_revoked > 0, "{:?}", logout.target);
        }
    }

    async fn who_is_spared_stays_in(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 3).await;
        let by_person = bench.commit(&sparing(everyone(Reason::Admin), &["user-1"], &[])).await.receipt.id;
        assert!(is_good(&bench, token_of(1)).await && !is_good(&bench, token_of(0)).await);
        finish(&bench).await;
        assert_eq!((bench.life("s-0").await, bench.life("s-1").await, bench.life("s-2").await), (Life::Ended, Life::Live, Life::Ended));
        assert!(is_good(&bench, token_of(1)).await);
        assert_eq!(receipt(&bench, &by_person).await.counts.pending, 4);
        let by_client = bench.commit(&sparing(everyone(Reason::Admin), &[], &["wiki"])).await.receipt.id;
        finish(&bench).await;
        let done = receipt(&bench, &by_client).await;
        assert_eq!((bench.life("s-1").await, done.sessions_ended, done.participations_ended), (Life::Live, 0, 1));
        assert_eq!(told(&bench, &by_client).await, BTreeSet::from([("shop".to_owned(), "s-1".to_owned())]));
        assert!(is_good(&bench, token_of(1)).await, "the spared client's token lives");
    }

    async fn more_than_a_thousand_sessions_are_out_at_once_whatever_named_them(database) {
        let bench = Bench::on(database).await;
        for page in 0..2 {
            let reports = (0..600).map(|n| {
                let mut report = login(&format!("s-{page}-{n}"), "alice", vec![takes_part("wiki")]);
                report.device.id = Some("kiosk".to_owned());
                Report::Session(report)
            });
            assert!(bench.take(reports.collect()).await.iter().all(Result::is_ok));
        }
        bench.token("s-1-599", "wiki", details(1)).await.unwrap();
        let as_client = trigger(Target::ClientSub { client_id: client("wiki"), client_sub: sub("alice") }, Reason::Admin);
        assert!(matches!(bench.try_commit(&as_client, Mode::Commit).await, Err(CommitRefused::TooMany { max: 1000 })));
        for target in [Target::Device("kiosk".to_owned()), Target::Subject(sub("alice")), Target::Client(client("wiki"))] {
            let rehearsed = bench.try_commit(&trigger(target.clone(), Reason::Admin), Mode::Rehearse).await.unwrap().receipt;
            assert_eq!(rehearsed.sessions_ended + rehearsed.participations_ended, 1200, "{target:?}");
            let event = bench.commit(&trigger(target.clone(), Reason::Admin)).await.receipt;
            assert_eq!((event.state, bench.life("s-1-599").await), (EventState::Expanding, Life::Live));
            let record = bench.store.refresh_token(&bench.issuer, &[token_name(1)]).await.unwrap().unwrap();
            assert!(record.facts.cut_offs.iter().any(|cut_off| cut_off.event() == Some(&event.id) && cut_off.epoch > record.facts.epoch), "{target:?}");
            assert_eq!(undo(&bench, &event.id).await.state, EventState::Settled);
        }
        let event = bench.commit(&of_subject("alice", Reason::UserLogout)).await.receipt.id;
        finish(&bench).await;
        assert_eq!(receipt(&bench, &event).await.sessions_ended, 1200);
    }

    async fn a_login_after_the_commit_is_never_ended_even_within_the_same_instant(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 3).await;
        bench.commit(&everyone(Reason::Compromise)).await;
        bench.login("s-new", "user-0", &["wiki"]).await;
        bench.token("s-new", "wiki", details(200)).await.unwrap();
        assert!(is_good(&bench, token_name(200)).await);
        finish(&bench).await;
        assert_eq!((bench.life("s-new").await, bench.life("s-0").await), (Life::Live, Life::Ended));
        assert!(is_good(&bench, token_name(200)).await);
    }

    async fn a_new_login_under_a_name_that_is_over_but_not_ended_yet_begins_anew(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 3).await;
        let event = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        let later = Some(bench.now().await.plus(Duration::from_secs(2)));
        let again = SessionReport { started_at: later, ..login("s-1", "user-1", vec![takes_part("wiki")]) };
        let Ok(Reported::Session(standing)) = bench.report(Report::Session(again)).await else { panic!("a login is taken") };
        assert!(standing.created && standing.state == Life::Live, "{standing:?}");
        assert_eq!(receipt(&bench, &event).await.sessions_ended, 1, "the old one was ended on the way");
        finish(&bench).await;
        assert_eq!(bench.life("s-1").await, Life::Live);
        assert_eq!(receipt(&bench, &event).await.sessions_ended, 3);
        assert_eq!(told(&bench, &event).await.len(), 6, "everybody is told of the old ones, once");
    }

    async fn who_joins_what_is_over_but_not_ended_yet_is_told(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let event = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        bench.report(Report::Join { session: named("s-1"), participant: takes_part("shop") }).await.unwrap();
        finish(&bench).await;
        assert_eq!(told(&bench, &event).await.len(), 2);
        assert_eq!(bench.life("s-1").await, Life::Ended);
    }

    async fn who_was_logged_in_before_and_is_reported_after_is_told_by_the_logout_of_everybody(database) {
        let bench = Bench::on(database).await;
        let event = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        finish(&bench).await;
        let earlier = Some(bench.now().await.minus(Duration::from_secs(60)));
        let late = SessionReport { started_at: earlier, ..login("s-1", "alice", vec![takes_part("wiki")]) };
        bench.report(Report::Session(late)).await.unwrap();
        assert_eq!(bench.life("s-1").await, Life::Ended);
        let done = receipt(&bench, &event).await;
        assert_eq!((done.counts.late_joiners, done.state), (1, EventState::Delivering));
    }

    async fn a_rejoined_client_survives_the_end_of_its_old_participation(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let event = bench.commit(&sparing(trigger(Target::Client(client("wiki")), Reason::Admin), &["nobody"], &[])).await.receipt.id;
        let joined_at = Some(bench.now().await.plus(Duration::from_secs(2)));
        let again = ParticipantReport { joined_at, ..takes_part("wiki") };
        bench.report(Report::Join { session: named("s-1"), participant: again }).await.unwrap();
        finish(&bench).await;
        let session = bench.store.session(&bench.issuer.id, &named("s-1")).await.unwrap().unwrap();
        let lives: Vec<bool> = session.participants.iter().map(|one| one.ended_at.is_none()).collect();
        assert_eq!(lives.iter().filter(|lives| **lives).count(), 1, "{session:?}");
        assert_eq!(receipt(&bench, &event).await.participations_ended, 1);
    }

    async fn many_at_once_on_the_same_work_end_everybody_once(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 330).await;
        let event = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        let workers = (0..4).map(|_| finish(&bench));
        futures_util::future::join_all(workers).await;
        let done = receipt(&bench, &event).await;
        assert_eq!((done.sessions_ended, done.counts.total(), done.refresh_tokens_revoked), (330, 660, 330));
    }

    async fn what_was_given_up_is_opened_again_by_a_compromise_of_everybody_and_waited_for(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let leased = bench.claim(1, LEASE).await;
        bench.settle(settlement(&leased[0], DeliveryState::Rejected, SettledReason::Refused)).await;
        bench.delivered(&leased[1]).await;
        let event = bench.commit(&everyone(Reason::Compromise)).await.receipt.id;
        finish(&bench).await;
        let open = receipt(&bench, &event).await;
        assert_eq!((open.state, open.counts.adopted, open.counts.total()), (EventState::Delivering, 1, 0));
        for leased in bench.claim(2, LEASE).await {
            bench.delivered(&leased).await;
        }
        assert_eq!(receipt(&bench, &event).await.state, EventState::Settled);
    }

    async fn undone_in_the_middle_nothing_more_ends_and_nobody_else_is_told(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 250).await;
        let event = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        pages(&bench).await;
        let in_flight = bench.claim(1, LEASE).await;
        assert_eq!(in_flight.len(), 16);
        let undone = undo(&bench, &event).await;
        assert_eq!((undone.sessions_ended, undone.counts.cancelled, undone.counts.pending), (100, 200 - 16, 16));
        assert_eq!(undone.state, EventState::Delivering, "what is being sent just now ends as it ends");
        finish(&bench).await;
        let lives = futures_util::future::join_all((0..250).map(|n| { let bench = &bench; async move { bench.life(&format!("s-{n}")).await } })).await;
        assert_eq!(lives.iter().filter(|life| **life == Life::Live).count(), 150);
        let good = futures_util::future::join_all((0..250).map(|n| is_good(&bench, token_of(n)))).await;
        assert_eq!(good.iter().filter(|good| **good).count(), 150, "the cut-off is lifted");
        let facts = bench.store.attempt_facts(&in_flight).await.unwrap();
        assert!(facts.iter().all(|facts| facts.undone), "the next attempt would not be made");
        for leased in &in_flight {
            bench.delivered(leased).await;
        }
        let again = undo(&bench, &event).await;
        assert_eq!((again.state, again.counts.delivered, again.undone_at), (EventState::Settled, 16, undone.undone_at));
        let acts = AuditFilter { act: Some(Act::LogoutUndone), ..AuditFilter::default() };
        assert_eq!(bench.store.audit(acts, logoutd::model::page::Page::default()).await.unwrap().items.len(), 1);
        assert_eq!(bench.store.undo(&bench.issuer.id, &bench.issuer_event(), entry(Act::LogoutUndone)).await.unwrap(), None);
    }

    async fn an_undone_logout_cancels_nothing_another_logout_waits_for(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let first = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        finish(&bench).await;
        let second = bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt;
        assert_eq!(second.counts.adopted, 1);
        assert_eq!(undo(&bench, &first).await.counts.pending, 1);
        let leased = bench.claim(1, LEASE).await;
        assert!(!bench.store.attempt_facts(&leased).await.unwrap()[0].undone);
        undo(&bench, &second.id).await;
        assert!(bench.store.attempt_facts(&leased).await.unwrap()[0].undone);
    }

    async fn whoever_an_undone_logout_did_not_tell_is_told_by_the_next_one(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki", "shop"]).await;
        let first = bench.commit(&everyone(Reason::Compromise)).await.receipt.id;
        finish(&bench).await;
        assert_eq!(undo(&bench, &first).await.counts.cancelled, 2);
        let next = bench.commit(&of_subject("alice", Reason::UserLogout)).await.receipt;
        assert_eq!((next.state, next.counts.adopted), (EventState::Delivering, 2), "somebody is still in");
        let leased = bench.claim(1, LEASE).await;
        assert!(leased.len() == 2 && bench.store.attempt_facts(&leased).await.unwrap().iter().all(|facts| !facts.undone));
        assert_eq!(undo(&bench, &next.id).await.counts.adopted, 2);
        for leased in &leased {
            bench.delivered(leased).await;
        }
        let all = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        finish(&bench).await;
        assert_eq!(receipt(&bench, &all).await.state, EventState::Settled, "everybody was told by now");
    }

    async fn what_an_operator_opens_again_is_sent_although_its_logout_was_undone(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        let event = bench.commit(&of_session("s-1", Reason::UserLogout)).await.receipt;
        undo(&bench, &event.id).await;
        bench.clock.advance(Duration::from_secs(1));
        bench.store.retry_delivery(&bench.issuer.id, &event.deliveries[0].id, None, opening, entry(Act::DeliveryRetried)).await.unwrap();
        finish(&bench).await;
        let leased = bench.claim(1, LEASE).await;
        assert!(!bench.store.attempt_facts(&leased).await.unwrap()[0].undone);
    }

    async fn who_took_part_in_what_ended_without_a_word_is_told_of_a_compromise(database) {
        let bench = Bench::on(database).await;
        for (session, who) in [("s-1", "alice"), ("s-2", "bob")] {
            bench.login(session, who, &["wiki", "shop"]).await;
        }
        bench.clock.advance(Duration::from_secs(3700));
        let overdue = bench.store.overdue(&bench.issuer).await.unwrap();
        let aged = bench.store.expire(&bench.issuer, overdue, logoutd::plan::expiry::opening).await.unwrap().unwrap();
        assert_eq!((aged.sessions_ended, aged.counts.total()), (2, 0));
        let plain = bench.commit(&of_subject("alice", Reason::UserLogout)).await.receipt;
        assert_eq!(plain.counts.total(), 0, "who did not ask is not told of an age");
        let grave = bench.commit(&of_subject("alice", Reason::AccountDisabled)).await.receipt;
        assert_eq!((grave.state, grave.counts.pending), (EventState::Delivering, 2));
        let rehearsed = bench.try_commit(&everyone(Reason::Compromise), Mode::Rehearse).await.unwrap().receipt;
        let all = bench.commit(&everyone(Reason::Compromise)).await.receipt.id;
        finish(&bench).await;
        let all = receipt(&bench, &all).await;
        assert_eq!((all.counts.pending, all.counts.adopted), (2, 2), "the other is told, and the first waited for");
        assert_eq!(rehearsed.counts, all.counts);
    }

    async fn a_large_undo_goes_on_page_by_page(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 600).await;
        let event = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        finish(&bench).await;
        let undone = undo(&bench, &event).await;
        assert_eq!((undone.counts.cancelled, undone.counts.pending), (1000, 200));
        finish(&bench).await;
        let undone = receipt(&bench, &event).await;
        assert_eq!((undone.counts.cancelled, undone.counts.pending, undone.state), (1200, 0, EventState::Settled));
    }

    async fn two_logouts_of_everybody_both_come_to_an_end_and_tell_each_client_once(database) {
        let bench = Bench::on(database).await;
        crowd(&bench, 150).await;
        let first = bench.commit(&everyone(Reason::Admin)).await.receipt.id;
        pages(&bench).await;
        let second = bench.commit(&everyone(Reason::Compromise)).await.receipt.id;
        finish(&bench).await;
        let (first, second) = (receipt(&bench, &first).await, receipt(&bench, &second).await);
        assert_eq!(first.sessions_ended + second.sessions_ended, 150);
        assert_eq!(first.counts.total() + second.counts.total(), 300);
        assert_eq!(second.counts.adopted + second.counts.total(), 300, "the second waits for what the first began");
    }
}

/// An id nothing has.
impl Bench {
    fn issuer_event(&self) -> EventId {
        logoutd::seams::Entropy::os().id(self.issuer.created_at)
    }
}
