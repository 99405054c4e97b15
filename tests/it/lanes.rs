//! Receivers that are away, slow or busy, and the others who must not notice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use logoutd::lifecycle::{Stop, Tasks};
use logoutd::model::delivery::{DeliveryState, Lane, SettledReason, Tally, Verdict};
use logoutd::model::lane::{LaneChange, LaneRecord};
use logoutd::model::trigger::Reason;
use logoutd::model::{ClientId, IssuerId, Timestamp};
use logoutd::store::{DeliveryFilter, LaneNote, Probe, Settlement};
use logoutd::upkeep::{self, Step, Tools};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::{Call, Party, Reply};
use crate::harness::server::{ISSUER, Stage, bare_tools};
use crate::harness::until;
use crate::store::{Bench, of_subject, settlement};

const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_hours(1);

fn lane(client_id: &str) -> Lane {
    Lane::of(&IssuerId::parse("main").unwrap(), &ClientId::parse(client_id).unwrap())
}

fn note(change: LaneChange, now: Timestamp) -> LaneNote {
    LaneNote { lane: lane("wiki"), change, probe_at: now, hasten: vec![lane("wiki")] }
}

fn probe(probes: u32, now: Timestamp) -> Probe {
    let next_at = now.plus(Duration::from_secs(10));
    Probe { of: lane("wiki"), from: lane("wiki"), probes, now, next_at, lease_until: now.plus(LEASE), lease_token: 7 + i64::from(probes) }
}

impl Bench {
    async fn note(&self, change: LaneChange) -> bool {
        let now = self.now().await;
        self.store.note_lanes(vec![note(change, now)], now).await.unwrap().remove(0)
    }

    async fn record(&self) -> Option<LaneRecord> {
        self.store.lane_records().await.unwrap().into_iter().find(|record| record.lane == lane("wiki"))
    }

    /// So many deliveries to the wiki.
    async fn due(&self, count: usize) {
        for n in 0..count {
            self.login(&format!("s-{n}"), "alice", &["wiki"]).await;
        }
        self.commit(&of_subject("alice", Reason::UserLogout)).await;
    }

    fn tools(&self) -> Tools {
        bare_tools(&self.store, &self.clock, &Tasks::new(Stop::new()))
    }

    async fn count(&self, state: DeliveryState) -> usize {
        let filter = DeliveryFilter { issuer: Some(self.issuer.id.clone()), state: Some(state), ..DeliveryFilter::default() };
        self.store.deliveries(filter, logoutd::model::page::Page::default()).await.unwrap().items.len()
    }
}

/// The lane of a client, or what stands for its host, as the server's database has it.
async fn record(stage: &Stage, name: &str) -> Option<LaneRecord> {
    stage.server.store().lane_records().await.unwrap().into_iter().find(|record| record.lane.as_str() == name)
}

async fn once_open(stage: &Stage, name: &str) -> LaneRecord {
    until(&format!("{name} is open"), || async { record(stage, name).await.filter(|record| record.probe_at.is_some()) }).await
}

async fn once_closed(stage: &Stage, name: &str) {
    until(&format!("{name} is closed"), || async {
        record(stage, name).await.is_none_or(|record| record.probe_at.is_none()).then_some(())
    })
    .await;
}

/// So many sessions at these clients.
async fn sessions(stage: &Stage, sub: &str, count: usize, clients: &[&str]) {
    for n in 0..count {
        stage.login(&format!("{sub}-{n}"), sub, clients).await;
    }
}

async fn in_state(stage: &Stage, client_id: &str, state: &str) -> usize {
    stage.admin.items(&format!("/v1/issuers/main/deliveries?client_id={client_id}&state={state}&limit=200")).await.len()
}

async fn once_delivered(stage: &Stage, client_id: &str, count: usize) {
    until(&format!("{count} deliveries to {client_id} are delivered"), || async {
        (in_state(stage, client_id, "delivered").await >= count).then_some(())
    })
    .await;
}

/// Waits until nothing of a client is in flight any more: what was asked is answered and recorded.
async fn once_still(stage: &Stage, client_id: &str, party: &Party) -> usize {
    until("every call is on record", || async {
        let calls = party.calls().len();
        let listed = stage.admin.items(&format!("/v1/issuers/main/deliveries?client_id={client_id}&limit=200")).await;
        let attempts: u64 = listed.iter().map(|delivery| delivery["attempts"].as_u64().unwrap()).sum();
        (attempts == calls as u64).then_some(calls)
    })
    .await
}

fn deliveries(calls: &[Call]) -> BTreeSet<String> {
    calls.iter().map(|call| call.header("logoutd-delivery").to_owned()).collect()
}

/// Pauses a lane, or lets it go on, as whoever has the right to would.
async fn pause(database: &Database, paused: bool) {
    let text = if paused {
        "INSERT INTO lanes (lane, issuer_id, client_id, paused_at) VALUES ('main/wiki', 'main', 'wiki', 1)"
    } else {
        "DELETE FROM lanes WHERE lane = 'main/wiki'"
    };
    match database.engine {
        Engine::Sqlite => drop(sqlx::SqliteConnection::connect(&database.url).await.unwrap().execute(text).await.unwrap()),
        Engine::Postgres => drop(sqlx::PgConnection::connect(&database.url).await.unwrap().execute(text).await.unwrap()),
    }
}

/// Three clients behind one host that is away, found so by two of them.
async fn away_together(stage: &Stage) -> (Party, String) {
    let front = Party::open(&stage.server.base, "main", ISSUER, "any").await;
    for client_id in ["a", "b", "c"] {
        stage.register(client_id, &front.uri(), json!({"delivery": {"max_in_flight": 1}})).await;
    }
    front.always(Reply::Status(503));
    let host = format!("host {}", front.address());
    sessions(stage, "alice", 6, &["a", "b"]).await;
    stage.logout(json!({"sub": "alice"})).await;
    once_open(stage, &host).await;
    (front, host)
}

on_both_engines! {
    async fn a_probe_is_taken_by_one_and_each_is_another_delivery(database) {
        let bench = Bench::on(database).await;
        bench.due(3).await;
        assert!(bench.note(LaneChange::Open { failing: true }).await);
        assert!(!bench.note(LaneChange::Open { failing: true }).await, "it is open already");
        let mut seen = BTreeSet::new();
        for nth in 0..3 {
            let now = bench.now().await;
            let taken = futures_util::future::join_all((0..4).map(|_| bench.store.take_probe(probe(nth, now)))).await;
            let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
            assert_eq!(taken.len(), 1, "probe {nth} is one process's");
            assert!(bench.store.take_probe(probe(nth + 1, now)).await.unwrap().is_none(), "the next one waits for its time");
            let verdict = Verdict::Again { due_at: now.plus(HOUR) };
            let tally = Tally { recoverable: 1, ..Tally::default() };
            bench.settle(Settlement { verdict, tally, ..settlement(&taken[0], DeliveryState::Delivered, SettledReason::Accepted) }).await;
            seen.insert(taken[0].id.clone());
            bench.clock.advance(Duration::from_secs(10));
        }
        assert_eq!(seen.len(), 3, "a failed one moves behind the others");
        let early = bench.store.take_probe(probe(3, bench.now().await)).await.unwrap();
        assert!(early.is_some(), "where nothing is due, what waits for the network is asked before its time");
    }

    async fn a_probe_never_uses_up_a_budget_of_days(database) {
        let bench = Bench::on(database).await;
        bench.due(1).await;
        let leased = bench.claim(1, LEASE).await.remove(0);
        let verdict = Verdict::Again { due_at: bench.now().await.plus(HOUR) };
        let tally = Tally { config_fault: 1, ..Tally::default() };
        bench.settle(Settlement { verdict, tally, ..settlement(&leased, DeliveryState::Delivered, SettledReason::Accepted) }).await;
        bench.note(LaneChange::Open { failing: false }).await;
        let now = bench.now().await;
        assert!(bench.store.take_probe(probe(0, now)).await.unwrap().is_none());
        assert_eq!(bench.record().await.unwrap().probes, 0, "what was not sent is not counted");
        bench.clock.advance(HOUR);
        assert!(bench.store.take_probe(probe(0, bench.now().await)).await.unwrap().is_some());
    }

    async fn who_is_back_gets_at_once_what_waited_for_the_network_and_nothing_else(database) {
        let bench = Bench::on(database).await;
        bench.due(3).await;
        let later = bench.now().await.plus(HOUR);
        let tallies = [Tally { recoverable: 3, ..Tally::default() }, Tally { recoverable: 1, refused: 1, ..Tally::default() }, Tally::default()];
        for (leased, tally) in bench.claim(1, LEASE).await.iter().zip(tallies).take(2) {
            let waits = Settlement { tally, verdict: Verdict::Again { due_at: later }, ..settlement(leased, DeliveryState::Delivered, SettledReason::Accepted) };
            bench.settle(waits).await;
        }
        bench.note(LaneChange::Open { failing: true }).await;
        assert!(bench.claim(2, LEASE).await.is_empty());
        assert!(bench.note(LaneChange::Close).await);
        let record = bench.record().await.unwrap();
        assert_eq!((record.probe_at, record.failing_since, record.probes), (None, None, 0));
        assert!(record.closed_at.is_some());
        let claimed = bench.claim(3, LEASE).await;
        assert_eq!(claimed.iter().map(|one| (one.retry, one.tally.recoverable)).collect::<Vec<_>>(), [(true, 3)]);
        assert!(!bench.note(LaneChange::Close).await, "it is closed already");
    }

    async fn what_passed_its_horizon_expires_wherever_it_waits_and_what_is_in_hand_does_not(database) {
        let bench = Bench::on(database).await;
        bench.due(10).await;
        let held = bench.claim(1, 100 * HOUR).await;
        assert_eq!(held.len(), 8);
        bench.note(LaneChange::Open { failing: true }).await;
        let tools = bench.tools();
        assert_eq!(upkeep::horizon::step(&tools).await.unwrap(), Step::Dry);
        assert_eq!(bench.count(DeliveryState::Expired).await, 0);
        bench.clock.advance(73 * HOUR);
        assert_eq!(upkeep::horizon::step(&tools).await.unwrap(), Step::Dry);
        assert_eq!((bench.count(DeliveryState::Expired).await, bench.count(DeliveryState::Pending).await), (2, 8));
        assert_eq!(*tools.settled.borrow(), 2, "whoever waits for them is told");
        bench.clock.advance(28 * HOUR);
        upkeep::horizon::step(&tools).await.unwrap();
        assert_eq!(bench.count(DeliveryState::Expired).await, 10, "nor does a dead holder keep them");
        let late = bench.settle(settlement(&held[0], DeliveryState::Delivered, SettledReason::Accepted)).await;
        assert!(late.fenced);
    }

    async fn many_that_passed_expire_in_pages(database) {
        let bench = Bench::on(database).await;
        bench.due(20).await;
        bench.clock.advance(73 * HOUR);
        let now = bench.now().await;
        let pages = [bench.store.expire_passed(now, 15).await.unwrap().len(), bench.store.expire_passed(now, 15).await.unwrap().len()];
        assert_eq!(pages, [15, 5]);
        assert!(bench.store.expire_passed(now, 15).await.unwrap().is_empty());
    }

    async fn a_lane_is_parked_after_a_day_and_each_threshold_is_told_once(database) {
        let bench = Bench::on(database).await;
        bench.due(1).await;
        let tools = bench.tools();
        bench.note(LaneChange::Failing).await;
        let mut told = Vec::new();
        for hours in [0, 23, 2, 12, 20, 10, 6] {
            bench.clock.advance(hours * HOUR);
            assert_eq!(upkeep::lanes::step(&tools).await.unwrap(), Step::Dry);
            upkeep::lanes::step(&tools).await.unwrap();
            let parked = bench.record().await.unwrap().parked_at.is_some();
            told.push((parked, bench.store.oldest_waiting().await.unwrap()[0].told));
        }
        assert_eq!(told, [(false, 0), (false, 0), (true, 0), (true, 50), (true, 70), (true, 90), (true, 100)]);
        assert!(bench.record().await.unwrap().probe_at.is_some(), "a parked lane is probed");
        assert!(!bench.store.note_told(&lane("wiki"), 100).await.unwrap(), "only once");

        bench.note(LaneChange::Close).await;
        assert_eq!(bench.record().await.unwrap().parked_at, None);
        upkeep::lanes::step(&tools).await.unwrap();
        assert!(bench.record().await.is_some(), "everybody has to see that it closed");
        bench.clock.advance(HOUR);
        upkeep::lanes::step(&tools).await.unwrap();
        assert_eq!(bench.record().await, None, "a lane that is well has no row");
    }

    async fn who_is_dead_costs_its_neighbours_nothing_and_is_left_alone(database) {
        let stage = Stage::set(database).await;
        let (dead, wiki) = (stage.party("dead", json!({})).await, stage.party("wiki", json!({})).await);
        dead.always(Reply::Drop);
        sessions(&stage, "alice", 30, &["dead", "wiki"]).await;
        stage.logout(json!({"sub": "alice"})).await;
        once_delivered(&stage, "wiki", 30).await;
        once_open(&stage, "main/dead").await;
        let asked = once_still(&stage, "dead", &dead).await;
        // Five failures, and what was under way when it opened.
        assert!((5..=13).contains(&asked), "{asked}");
        assert_eq!(record(&stage, "main/wiki").await, None);
        assert_eq!((in_state(&stage, "dead", "pending").await, wiki.calls().len()), (30, 30));
    }

    async fn a_receiver_that_is_away_is_probed_with_another_delivery_each_time_and_then_gets_all(database) {
        let stage = Stage::set(database).await;
        // One at a time, so that nothing else is under way when the lane opens.
        let wiki = stage.party("wiki", json!({"delivery": {"max_in_flight": 1}})).await;
        wiki.always(Reply::Status(503));
        sessions(&stage, "alice", 20, &["wiki"]).await;
        stage.logout(json!({"sub": "alice"})).await;
        once_open(&stage, "main/wiki").await;
        let before = once_still(&stage, "wiki", &wiki).await;
        for wait in [5, 11, 20, 40] {
            let so_far = wiki.calls().len();
            stage.server.advance(Duration::from_secs(wait));
            wiki.received(so_far + 1).await;
            let asked = once_still(&stage, "wiki", &wiki).await - before;
            assert_eq!(record(&stage, "main/wiki").await.unwrap().probes as usize, asked, "a probe is one attempt");
        }
        let calls = wiki.calls();
        assert_eq!(deliveries(&calls[before..]).len(), calls.len() - before, "each probe is another delivery");
        assert!(deliveries(&calls[..before]).is_disjoint(&deliveries(&calls[before..])), "what was not asked yet goes first");
        assert!(record(&stage, "main/wiki").await.unwrap().failing_since.is_some());

        wiki.always(Reply::Status(200));
        stage.server.advance(Duration::from_secs(81));
        once_delivered(&stage, "wiki", 20).await;
        let record = record(&stage, "main/wiki").await.unwrap();
        assert_eq!((record.probe_at, record.failing_since, record.parked_at), (None, None, None));
    }

    async fn a_delivery_that_always_fails_does_not_hold_its_lane(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        stage.login("bad-0", "mallory", &["wiki"]).await;
        stage.login("bad-1", "mallory", &["wiki"]).await;
        wiki.answers_about("bad-0", Reply::Status(500));
        wiki.answers_about("bad-1", Reply::Status(400));
        stage.logout(json!({"sub": "mallory"})).await;
        for round in 0..6 {
            let sub = format!("user-{round}");
            sessions(&stage, &sub, 3, &["wiki"]).await;
            stage.logout(json!({"sub": sub})).await;
            once_delivered(&stage, "wiki", 3 * (round + 1)).await;
            stage.server.advance(Duration::from_mins(10));
        }
        let bad = wiki.calls().iter().filter(|call| call.claim("sid") == "bad-0").count();
        assert!(bad >= 5, "{bad}");
        assert!(record(&stage, "main/wiki").await.is_none_or(|record| record.probe_at.is_none()));
    }

    async fn a_host_is_left_alone_when_two_of_its_clients_say_that_it_is_away(database) {
        let stage = Stage::set(database).await;
        let (front, host) = away_together(&stage).await;
        once_still_all(&stage, &front).await;

        // Nobody there is asked, not even who never failed, until the host itself is found back.
        let shop = stage.party("shop", json!({})).await;
        sessions(&stage, "bob", 2, &["c", "shop"]).await;
        let before = front.calls().len();
        stage.logout(json!({"sub": "bob"})).await;
        shop.received(2).await;
        once_delivered(&stage, "shop", 2).await;
        assert_eq!((front.calls().len(), in_state(&stage, "c", "pending").await), (before, 2));
        front.always(Reply::Status(200));
        stage.server.advance(Duration::from_secs(5));
        once_delivered(&stage, "c", 2).await;
        once_closed(&stage, &host).await;
        stage.server.advance(Duration::from_secs(20));
        once_delivered(&stage, "a", 6).await;
        once_delivered(&stage, "b", 6).await;
    }

    async fn a_test_that_is_taken_is_the_probe_of_an_open_lane_and_any_other_changes_nothing(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"max_in_flight": 1}})).await;
        wiki.always(Reply::Status(503));
        sessions(&stage, "alice", 20, &["wiki"]).await;
        stage.logout(json!({"sub": "alice"})).await;
        once_open(&stage, "main/wiki").await;
        once_still(&stage, "wiki", &wiki).await;
        postpone_probes(database).await;
        let open = record(&stage, "main/wiki").await;
        let shown = &stage.admin.get("/v1/issuers/main/clients/wiki").await.expect(200)["lane"];
        assert!(shown["breaker"] == "open" && shown["probe_at"].is_string(), "{shown}");
        for (reply, class) in [
            (Reply::Status(503), "recoverable"),
            (Reply::Status(400), "refused"),
            (Reply::Status(404), "config_fault"),
            (Reply::Full { status: 302, headers: vec![("Location".to_owned(), wiki.uri())], body: String::new() }, "redirected"),
            (Reply::Status(410), "gone"),
            (Reply::Drop, "recoverable"),
        ] {
            wiki.answers([reply]);
            let told = tried(&stage, "wiki").await;
            assert_eq!((&told["class"], &told["breaker_closed"]), (&json!(class), &json!(false)));
            assert_eq!(record(&stage, "main/wiki").await, open, "{class}");
        }
        assert_eq!(in_state(&stage, "wiki", "delivered").await, 0);

        // The first delivery afterwards fails, which is no reason to open again: it was five failures ago that it was away.
        wiki.answers([Reply::Status(200), Reply::Status(503)]);
        wiki.always(Reply::Status(200));
        let told = tried(&stage, "wiki").await;
        assert_eq!((&told["class"], &told["breaker_closed"]), (&json!("delivered"), &json!(true)));
        let closed = record(&stage, "main/wiki").await.unwrap();
        assert_eq!((closed.probe_at, closed.failing_since, closed.parked_at), (None, None, None));
        once_delivered(&stage, "wiki", 19).await;
        assert_eq!(record(&stage, "main/wiki").await.unwrap().closed_at, closed.closed_at, "it was not open in between");
        assert_eq!(tried(&stage, "wiki").await["breaker_closed"], false, "it is closed already");
        let trail = stage.admin.items("/v1/audit?act=client_tested").await;
        let closing: Vec<_> = trail.iter().map(|entry| entry["detail"]["breaker_closed"].as_bool().unwrap()).collect();
        assert_eq!(closing, [[false, true].as_slice(), &[false; 6]].concat());
    }

    async fn a_test_that_is_taken_brings_back_who_is_parked_and_leaves_held_who_is_paused(database) {
        let stage = Stage::set(database).await;
        let (gone, held) = (stage.party("gone", json!({"delivery": {"max_in_flight": 1}})).await, stage.party("held", json!({})).await);
        gone.answers([Reply::Status(410)]);
        held.always(Reply::Status(503));
        sessions(&stage, "alice", 6, &["gone", "held"]).await;
        stage.logout(json!({"sub": "alice"})).await;
        assert!(once_open(&stage, "main/gone").await.parked_at.is_some());
        once_open(&stage, "main/held").await;
        stage.admin.post("/v1/issuers/main/clients/held/pause", json!({})).await.expect(200);
        once_still(&stage, "held", &held).await;
        postpone_probes(database).await;
        assert_eq!(tried(&stage, "gone").await["breaker_closed"], true);
        once_delivered(&stage, "gone", 5).await;
        let record = record(&stage, "main/gone").await.unwrap();
        assert_eq!((record.probe_at, record.failing_since, record.parked_at), (None, None, None));

        held.always(Reply::Status(200));
        assert_eq!(tried(&stage, "held").await["breaker_closed"], true);
        let shown = &stage.admin.get("/v1/issuers/main/clients/held").await.expect(200)["lane"];
        assert!(shown["breaker"] == "closed" && shown["paused_at"].is_string() && shown["pending"] == 6, "{shown}");
        stage.admin.post("/v1/issuers/main/clients/held/resume", json!({})).await.expect(200);
        once_delivered(&stage, "held", 6).await;
    }

    async fn a_test_that_is_taken_finds_a_host_back_and_who_was_away_behind_it_waits_for_a_probe(database) {
        let stage = Stage::set(database).await;
        let (front, host) = away_together(&stage).await;
        sessions(&stage, "bob", 2, &["c"]).await;
        stage.logout(json!({"sub": "bob"})).await;
        once_still_all(&stage, &front).await;
        // As they are after hours of it.
        let now = stage.server.store().now().await.unwrap();
        let notes = ["a", "b"].map(|client| LaneNote { lane: lane(client), change: LaneChange::Open { failing: true }, probe_at: now, hasten: Vec::new() });
        stage.server.store().note_lanes(notes.into(), now).await.unwrap();
        postpone_probes(database).await;
        front.always(Reply::Status(200));
        assert_eq!(tried(&stage, "a").await["breaker_closed"], true);
        once_delivered(&stage, "a", 6).await;
        once_delivered(&stage, "c", 2).await;
        assert_eq!(record(&stage, &host).await.unwrap().probe_at, None);
        assert!(record(&stage, "main/b").await.unwrap().probe_at.is_some());
        assert_eq!(in_state(&stage, "b", "delivered").await, 0);
    }

    async fn who_is_gone_is_parked_at_once_and_still_probed(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"max_in_flight": 1}})).await;
        wiki.answers([Reply::Status(410), Reply::Status(410)]);
        sessions(&stage, "alice", 6, &["wiki"]).await;
        stage.logout(json!({"sub": "alice"})).await;
        let record = once_open(&stage, "main/wiki").await;
        assert!(record.parked_at.is_some());
        assert_eq!(once_still(&stage, "wiki", &wiki).await, 1);
        stage.server.advance(Duration::from_secs(5));
        wiki.received(2).await;
        assert_eq!(once_still(&stage, "wiki", &wiki).await, 2);
        stage.server.advance(Duration::from_secs(11));
        once_delivered(&stage, "wiki", 4).await;
        once_closed(&stage, "main/wiki").await;
        assert_eq!(in_state(&stage, "wiki", "rejected").await, 2);
    }

    async fn who_is_paused_gets_nothing_and_then_everything(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        sessions(&stage, "alice", 5, &["wiki", "shop"]).await;
        pause(database, true).await;
        stage.logout(json!({"sub": "alice"})).await;
        shop.received(5).await;
        once_delivered(&stage, "shop", 5).await;
        stage.server.advance(HOUR);
        // Whoever is looked at after that long is delivered before this one.
        stage.login("later", "bob", &["shop"]).await;
        stage.logout(json!({"sid": "later"})).await;
        once_delivered(&stage, "shop", 6).await;
        assert_eq!(wiki.calls().len(), 0);
        pause(database, false).await;
        once_delivered(&stage, "wiki", 5).await;
    }

    async fn no_more_begin_in_a_second_than_agreed(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"rate_per_s": 10, "max_in_flight": 50}})).await;
        sessions(&stage, "alice", 30, &["wiki"]).await;
        let began = begin();
        stage.logout(json!({"sub": "alice"})).await;
        wiki.received(30).await;
        assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
        once_delivered(&stage, "wiki", 30).await;
        let listed = stage.admin.items("/v1/issuers/main/deliveries?client_id=wiki&limit=200").await;
        assert!(listed.iter().all(|delivery| delivery["attempts"] == 1), "waiting costs no attempt");
    }

    async fn a_normal_logout_at_a_busy_client_does_not_wait_for_many(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"rate_per_s": 40}})).await;
        sessions(&stage, "alice", 120, &["wiki"]).await;
        stage.login("urgent", "bob", &["wiki"]).await;
        let body = json!({"target": {"sub": "alice"}, "reason": "user_logout"});
        stage.provider.post("/v1/issuers/main/logouts", body).await.expect(202);
        demote(database).await;
        wiki.received(1).await;
        stage.logout(json!({"sid": "urgent"})).await;
        until("the urgent one is told", || async {
            wiki.calls().iter().any(|call| call.claim("sid") == "urgent").then_some(())
        })
        .await;
        let before = wiki.calls().iter().position(|call| call.claim("sid") == "urgent").unwrap();
        assert!(before < 100, "{before} of 120 went before");
    }
}

/// What comes back when a client is tried out.
async fn tried(stage: &Stage, client_id: &str) -> Value {
    stage.admin.post(&format!("/v1/issuers/main/clients/{client_id}/test"), json!({})).await.expect(200)
}

/// Puts probes off, as after hours without an answer.
async fn postpone_probes(database: &Database) {
    let text = "UPDATE lanes SET probe_at = probe_at + 600000 WHERE probe_at IS NOT NULL";
    match database.engine {
        Engine::Sqlite => drop(sqlx::SqliteConnection::connect(&database.url).await.unwrap().execute(text).await.unwrap()),
        Engine::Postgres => drop(sqlx::PgConnection::connect(&database.url).await.unwrap().execute(text).await.unwrap()),
    }
}

/// Makes what waits one of many.
async fn demote(database: &Database) {
    let text = "UPDATE deliveries SET class = 2 WHERE state = 'pending' AND lease_token IS NULL";
    match database.engine {
        Engine::Sqlite => drop(sqlx::SqliteConnection::connect(&database.url).await.unwrap().execute(text).await.unwrap()),
        Engine::Postgres => drop(sqlx::PgConnection::connect(&database.url).await.unwrap().execute(text).await.unwrap()),
    }
}

#[expect(clippy::disallowed_methods, reason = "a rate is felt in real time")]
fn begin() -> Instant {
    Instant::now()
}

/// Waits until every call of every client is on record.
async fn once_still_all(stage: &Stage, party: &Party) {
    until("every call is on record", || async {
        let calls = party.calls().len();
        let listed: Vec<Value> = stage.admin.items("/v1/issuers/main/deliveries?limit=200").await;
        let attempts: u64 = listed.iter().map(|delivery| delivery["attempts"].as_u64().unwrap()).sum();
        (attempts == calls as u64).then_some(())
    })
    .await;
}
