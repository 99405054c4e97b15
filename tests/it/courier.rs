//! Deliveries as relying parties feel them: who is told when, how often and what, and who is spared.
//!
//! Waits of minutes and days pass by moving the server's clock, which is the database's too.

use std::collections::BTreeSet;
use std::time::Duration;

use logoutd::config::Mode;
use logoutd::model::Timestamp;
use logoutd::seams::Clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::{Call, Party, Reply};
use crate::harness::server::{Server, Stage};
use crate::harness::until;

const DAY: Duration = Duration::from_hours(24);

/// An answer with one header.
fn with_header(status: u16, name: &str, value: &str) -> Reply {
    Reply::Full { status, headers: vec![(name.to_owned(), value.to_owned())], body: String::new() }
}

/// A passing trouble that leaves a minute before the next attempt, so that a test can act in between.
fn busy_for_a_minute() -> Reply {
    with_header(503, "Retry-After", "60")
}

/// The delivery to a client, with its attempts.
async fn delivery(stage: &Stage, client_id: &str) -> Value {
    let listed = stage.admin.items(&format!("/v1/issuers/main/deliveries?client_id={client_id}")).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    stage.admin.get(&format!("/v1/issuers/main/deliveries/{}", listed[0]["id"].as_str().unwrap())).await.expect(200)
}

fn attempts(delivery: &Value) -> &[Value] {
    delivery["attempt_records"].as_array().unwrap()
}

/// The delivery to a client once so many attempts are recorded.
async fn attempted(stage: &Stage, client_id: &str, count: usize) -> Value {
    until(&format!("attempt {count} at {client_id} is recorded"), || async {
        let delivery = delivery(stage, client_id).await;
        (attempts(&delivery).len() >= count).then_some(delivery)
    })
    .await
}

/// The delivery to a client once it is settled.
async fn settled(stage: &Stage, client_id: &str) -> Value {
    until(&format!("the delivery to {client_id} is settled"), || async {
        let delivery = delivery(stage, client_id).await;
        (delivery["state"] != "pending").then_some(delivery)
    })
    .await
}

fn time(value: &Value) -> Timestamp {
    Timestamp::parse(value.as_str().unwrap()).unwrap()
}

/// Between the beginning of its last attempt and the next.
fn wait(delivery: &Value) -> Duration {
    time(&delivery["due_at"]).since(time(&attempts(delivery).last().unwrap()["started_at"]))
}

/// Moves the clock from one due time to the next until the delivery is settled, and says how long it waited each time.
async fn live_through(stage: &Stage, client_id: &str) -> (Value, Vec<Duration>) {
    let mut waits = Vec::new();
    let mut now = attempted(stage, client_id, 1).await;
    while now["state"] == "pending" {
        waits.push(wait(&now));
        stage.server.advance(*waits.last().unwrap());
        let before = attempts(&now).len();
        now = until("something comes of the next due time", || async {
            let then = delivery(stage, client_id).await;
            (attempts(&then).len() > before || then["state"] != "pending").then_some(then)
        })
        .await;
    }
    (now, waits)
}

fn classes(delivery: &Value) -> Vec<&str> {
    attempts(delivery).iter().map(|attempt| attempt["class"].as_str().unwrap()).collect()
}

fn distinct<'a>(calls: &'a [Call], what: impl Fn(&'a Call) -> String) -> usize {
    calls.iter().map(what).collect::<BTreeSet<_>>().len()
}

fn jti(call: &Call) -> String {
    call.claim("jti").as_str().unwrap().to_owned()
}

/// Whether a wait is one of the schedule's: between half and all of these seconds.
#[track_caller]
fn assert_scheduled(waits: &[Duration], seconds: &[u64]) {
    assert_eq!(waits.len(), seconds.len(), "{waits:?}");
    for (wait, seconds) in waits.iter().zip(seconds) {
        // An attempt takes its time before the wait begins.
        let most = Duration::from_secs(*seconds) + Duration::from_secs(5);
        assert!((Duration::from_secs(*seconds) / 2..most).contains(wait), "{wait:?} for {seconds} s");
    }
}

async fn one_login_and_logout(stage: &Stage, client_id: &str) -> Value {
    stage.login("s-1", "alice", &[client_id]).await;
    stage.logout(json!({"sid": "s-1"})).await
}

/// Alice's next login under a `sid` that has ended. It says when it began: without that it would be a late report of the session that ended.
async fn log_in_again(stage: &Stage, sid: &str) {
    let started_at = stage.server.clock.now().to_string();
    let body = json!({"sub": "alice", "started_at": started_at, "participants": [{"client_id": "wiki"}]});
    stage.provider.put(&format!("/v1/issuers/main/sessions/{sid}"), body).await.expect(201);
}

on_both_engines! {
    async fn a_passing_trouble_is_tried_again_with_a_token_of_its_own(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.answers([Reply::Status(503)]);
        let receipt = one_login_and_logout(&stage, "wiki").await;
        // The clock moves, so that a token of the first attempt would be older than this one.
        attempted(&stage, "wiki", 1).await;
        stage.server.advance(Duration::from_secs(5));
        let receipt = stage.settled(&receipt["id"]).await;
        assert_eq!((&receipt["clients"][0]["state"], &receipt["clients"][0]["attempts"]), (&json!("delivered"), &json!(2)));

        let calls = wiki.received(2).await;
        assert_eq!(calls.iter().map(Call::attempt).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((distinct(&calls, jti), distinct(&calls, |call| call.header("logoutd-delivery").to_owned())), (2, 1));
        assert!(calls[1].claim("iat").as_i64().unwrap() >= calls[0].claim("iat").as_i64().unwrap() + 4, "{calls:?}");
        assert!(calls[1].claim("exp").as_i64() > calls[0].claim("exp").as_i64(), "{calls:?}");

        let delivery = delivery(&stage, "wiki").await;
        assert_eq!(classes(&delivery), ["recoverable", "delivered"]);
        let recorded: Vec<_> = attempts(&delivery).iter().map(|attempt| attempt["jti"].as_str().unwrap().to_owned()).collect();
        assert_eq!(recorded, calls.iter().map(jti).collect::<Vec<_>>());
    }

    async fn who_is_dead_stays_pending_with_every_attempt_on_record_and_delays_nobody(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        stage.register("crm", &format!("http://{nobody}/logout"), json!({})).await;
        stage.login("s-1", "alice", &["wiki", "crm"]).await;
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        wiki.only_call().await;
        for nth in 1..=3 {
            let crm = attempted(&stage, "crm", nth).await;
            assert_eq!((&crm["state"], attempts(&crm).last().unwrap()["failure"].as_str()), (&json!("pending"), Some("connect")));
            stage.server.advance(wait(&crm));
        }
        attempted(&stage, "crm", 4).await;
        let receipt = stage.receipt(&receipt["id"]).await;
        assert_eq!((&receipt["state"], &receipt["settled_at"]), (&json!("delivering"), &Value::Null));
        assert_eq!((&receipt["deliveries"]["delivered"], &receipt["deliveries"]["pending"]), (&json!(1), &json!(1)));
        assert_eq!(wiki.calls().len(), 1);
    }

    async fn who_hangs_holds_its_own_places_and_nobody_else_s(database) {
        let stage = Stage::set(database).await;
        let hanging = stage.party("hanging", json!({"delivery": {"max_in_flight": 3}})).await;
        let wiki = stage.party("wiki", json!({})).await;
        hanging.always(Reply::Hang);
        for n in 0..12 {
            stage.login(&format!("s-{n}"), "alice", &["hanging", "wiki"]).await;
        }
        stage.logout(json!({"sub": "alice"})).await;
        hanging.received(3).await;
        assert_eq!(wiki.received(12).await.len(), 12);

        // What is posted while it hangs is not delayed either.
        stage.login("s-12", "bob", &["hanging", "wiki"]).await;
        let receipt = stage.logout(json!({"sub": "bob"})).await;
        wiki.received(13).await;
        until("bob's logout is delivered to the wiki", || async {
            (stage.receipt(&receipt["id"]).await["deliveries"]["delivered"] == 1).then_some(())
        })
        .await;
        assert_eq!(hanging.calls().len(), 3, "none of them was answered, so no more than three were ever open");
    }

    async fn a_client_that_says_when_to_come_back_is_not_asked_before(database) {
        let stage = Stage::set(database).await;
        let cases = [
            ("polite", with_header(503, "Retry-After", "120"), 120..180),
            ("limited", Reply::Status(429), 60..90),
            ("greedy", with_header(429, "Retry-After", "86400"), 3600..3700),
            ("hasty", with_header(503, "Retry-After", "0"), 0..30),
        ];
        let mut parties = Vec::new();
        for (client_id, reply, _) in &cases {
            let party = stage.party(client_id, json!({})).await;
            party.answers([reply.clone()]);
            parties.push(party);
        }
        stage.login("s-1", "alice", &cases.each_ref().map(|(client_id, _, _)| *client_id)).await;
        stage.logout(json!({"sid": "s-1"})).await;
        for (client_id, _, expected) in &cases[..3] {
            let waited = wait(&attempted(&stage, client_id, 1).await);
            assert!(expected.contains(&waited.as_secs()), "{client_id}: {waited:?}");
        }
        assert_eq!(settled(&stage, "hasty").await["attempts"], 2);
        stage.server.advance(Duration::from_secs(181));
        assert_eq!(settled(&stage, "polite").await["attempts"], 2);
        assert_eq!(settled(&stage, "limited").await["attempts"], 2);
        assert_eq!(delivery(&stage, "greedy").await["attempts"], 1);
    }

    async fn a_400_is_confirmed_as_often_as_configured_and_then_believed(database) {
        let stage = Stage::set(database).await;
        let patient = stage.party("patient", json!({})).await;
        let strict = stage.party("strict", json!({"delivery": {"confirm_rejections": 0}})).await;
        let reply = Reply::Full { status: 400, headers: Vec::new(), body: r#"{"error":"invalid_request"}"#.to_owned() };
        patient.always(reply.clone());
        strict.always(reply);
        stage.login("s-1", "alice", &["patient", "strict"]).await;
        stage.logout(json!({"sid": "s-1"})).await;

        let delivery = settled(&stage, "strict").await;
        assert_eq!((&delivery["state"], &delivery["reason"], strict.calls().len()), (&json!("rejected"), &json!("refused"), 1));
        assert_eq!(attempts(&delivery)[0]["excerpt"], r#"{"error":"invalid_request"}"#);

        let (delivery, waits) = live_through(&stage, "patient").await;
        assert_eq!((&delivery["state"], &delivery["reason"], classes(&delivery)), (&json!("rejected"), &json!("refused"), vec!["refused"; 3]));
        assert_scheduled(&waits, &[30, 600]);
        assert_eq!((patient.calls().len(), distinct(&patient.calls(), jti)), (3, 3));
    }

    async fn a_redirect_is_never_followed_and_given_up_after_an_hour(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let tripwire = Party::open(&stage.server.base, "main", "", "tripwire").await;
        let statuses = [301, 302, 307, 308];
        wiki.answers(statuses.map(|status| with_header(status, "Location", &tripwire.uri())));
        one_login_and_logout(&stage, "wiki").await;
        let (delivery, waits) = live_through(&stage, "wiki").await;
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("rejected"), &json!("redirected")));
        let seen: Vec<_> = attempts(&delivery).iter().map(|attempt| attempt["status"].as_u64().unwrap()).collect();
        assert_eq!(seen, statuses.map(u64::from));
        assert_scheduled(&waits, &[300, 900, 2400]);
        assert_eq!((wiki.calls().len(), tripwire.calls().len()), (4, 0));
    }

    async fn who_is_gone_is_given_up_at_once(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(Reply::Status(410));
        let receipt = one_login_and_logout(&stage, "wiki").await;
        let receipt = stage.settled(&receipt["id"]).await;
        assert_eq!(receipt["deliveries"]["rejected"], 1);
        let delivery = delivery(&stage, "wiki").await;
        assert_eq!((&delivery["reason"], &delivery["due_at"], classes(&delivery)), (&json!("gone"), &Value::Null, vec!["gone"]));
        assert_eq!(wiki.calls().len(), 1);
    }

    async fn a_404_may_be_a_deploy_and_is_asked_again_for_more_than_a_day(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(Reply::Status(404));
        one_login_and_logout(&stage, "wiki").await;
        let (delivery, waits) = live_through(&stage, "wiki").await;
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("rejected"), &json!("config_fault")));
        assert_scheduled(&waits, &[300, 1800, 7200, 21_600, 86_400]);
        assert_eq!(wiki.calls().len(), 6);
    }

    async fn a_late_attempt_never_ends_a_newer_login_under_the_same_sid(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.answers([busy_for_a_minute()]);
        one_login_and_logout(&stage, "wiki").await;
        attempted(&stage, "wiki", 1).await;
        stage.server.advance(Duration::from_secs(5));
        log_in_again(&stage, "s-1").await;
        stage.server.advance(Duration::from_mins(1));
        let delivery = settled(&stage, "wiki").await;
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("superseded"), &json!("newer_login")));
        assert_eq!((wiki.calls().len(), attempts(&delivery).len()), (1, 1));
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!(session["state"], "live");
    }

    async fn a_late_attempt_beside_a_newer_login_names_its_own_sid_alone(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let careless = stage.party("careless", json!({"delivery": {"claims": "sub"}})).await;
        wiki.answers([busy_for_a_minute()]);
        careless.answers([busy_for_a_minute()]);
        stage.login("s-1", "alice", &["wiki", "careless"]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        attempted(&stage, "wiki", 1).await;
        attempted(&stage, "careless", 1).await;
        stage.server.advance(Duration::from_secs(5));
        stage.login("s-2", "alice", &["wiki", "careless"]).await;
        stage.server.advance(Duration::from_mins(1));
        assert_eq!(settled(&stage, "wiki").await["state"], "delivered");
        let calls = wiki.received(2).await;
        let named = |call: &Call| (call.claim("sub"), call.claim("sid"));
        assert_eq!(named(&calls[0]), (json!("alice"), json!("s-1")));
        assert_eq!(named(&calls[1]), (Value::Null, json!("s-1")));
        // A token that can name the person alone would end the newer login: it is not sent.
        assert_eq!(settled(&stage, "careless").await["state"], "superseded");
        assert_eq!(careless.calls().len(), 1);
    }

    async fn a_compromise_is_told_however_late_and_whoever_logged_in_since(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.answers([busy_for_a_minute()]);
        stage.login("s-1", "alice", &["wiki"]).await;
        let body = json!({"target": {"sid": "s-1"}, "reason": "compromise"});
        stage.provider.post("/v1/issuers/main/logouts", body).await.expect(202);
        attempted(&stage, "wiki", 1).await;
        stage.server.advance(Duration::from_secs(5));
        log_in_again(&stage, "s-1").await;
        stage.server.advance(Duration::from_mins(1));
        assert_eq!(settled(&stage, "wiki").await["state"], "delivered");
        let last = wiki.received(2).await.pop().unwrap();
        assert_eq!((last.claim("sub"), last.claim("sid")), (json!("alice"), json!("s-1")));
    }

    async fn nothing_is_sent_at_or_after_the_horizon(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"horizon_s": 60}})).await;
        wiki.always(with_header(503, "Retry-After", "3600"));
        let receipt = one_login_and_logout(&stage, "wiki").await;
        let waiting = attempted(&stage, "wiki", 1).await;
        assert_eq!(waiting["due_at"], waiting["horizon_at"], "it falls due once more, to expire in time");
        stage.server.advance(Duration::from_mins(1));
        let receipt = stage.settled(&receipt["id"]).await;
        assert_eq!((&receipt["clients"][0]["state"], &receipt["clients"][0]["reason"]), (&json!("expired"), &json!("horizon")));
        assert_eq!(wiki.calls().len(), 1);
    }

    async fn the_next_attempt_goes_where_the_client_is_now(database) {
        let stage = Stage::set(database).await;
        let old = stage.party("wiki", json!({})).await;
        let new = Party::open(&stage.server.base, "main", crate::harness::server::ISSUER, "wiki").await;
        old.always(busy_for_a_minute());
        one_login_and_logout(&stage, "wiki").await;
        attempted(&stage, "wiki", 1).await;
        let moved = json!({"backchannel_logout_uri": new.uri(), "id_token_signed_response_alg": "ES384"});
        stage.admin.put("/v1/issuers/main/clients/wiki", moved).await.expect(200);
        stage.server.advance(Duration::from_mins(1));
        assert_eq!(settled(&stage, "wiki").await["state"], "delivered");
        let (first, second) = (old.only_call().await, new.only_call().await);
        assert_eq!((first.token().header["alg"].as_str(), second.token().header["alg"].as_str()), (Some("ES256"), Some("ES384")));
        assert_ne!(first.token().header["kid"], second.token().header["kid"]);
    }

    async fn a_client_that_lost_its_uri_is_told_nothing_more(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(busy_for_a_minute());
        one_login_and_logout(&stage, "wiki").await;
        attempted(&stage, "wiki", 1).await;
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({})).await.expect(200);
        stage.server.advance(Duration::from_mins(1));
        let delivery = settled(&stage, "wiki").await;
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("cancelled"), &json!("no_uri")));
        assert_eq!(wiki.calls().len(), 1);
    }

    async fn what_was_delivered_is_never_sent_again(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let receipt = one_login_and_logout(&stage, "wiki").await;
        stage.settled(&receipt["id"]).await;
        // Whatever could make it due again (a lease, a schedule) is long over when the next one is delivered.
        stage.server.advance(DAY);
        stage.login("s-2", "bob", &["wiki"]).await;
        let receipt = stage.logout(json!({"sid": "s-2"})).await;
        stage.settled(&receipt["id"]).await;
        let calls = wiki.calls();
        assert_eq!((calls.len(), distinct(&calls, |call| call.header("logoutd-delivery").to_owned())), (2, 2));
    }

    async fn an_attempt_whose_lease_was_lost_takes_nothing_from_the_one_that_holds_it(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"timeout_ms": 2500}})).await;
        wiki.answers([Reply::Hang, Reply::Hang]);
        one_login_and_logout(&stage, "wiki").await;
        wiki.received(1).await;
        // The first ends while the second is under way: it must neither settle nor free what the second holds.
        stage.server.advance(Duration::from_secs(31));
        wiki.received(2).await;
        let delivery = attempted(&stage, "wiki", 2).await;
        let lost: Vec<_> = attempts(&delivery).iter().map(|one| one["lease_lost"] == true).collect();
        assert_eq!((lost, &delivery["attempts"]), (vec![true, false], &json!(1)), "{delivery}");
        stage.server.advance(Duration::from_secs(5));
        assert_eq!(settled(&stage, "wiki").await["state"], "delivered");
        assert_eq!(wiki.calls().len(), 3);
    }

    async fn who_answers_after_its_lease_was_lost_changes_nothing(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"timeout_ms": 1500}})).await;
        wiki.answers([Reply::Hang]);
        one_login_and_logout(&stage, "wiki").await;
        wiki.received(1).await;
        // The lease runs out under the hanging attempt, another one is made, and it succeeds.
        stage.server.advance(Duration::from_secs(31));
        assert_eq!(settled(&stage, "wiki").await["state"], "delivered");
        let delivery = attempted(&stage, "wiki", 2).await;
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("delivered"), &json!("accepted")));
        let lost: BTreeSet<_> = attempts(&delivery).iter().map(|one| (one["class"].as_str().unwrap(), one["lease_lost"] == true)).collect();
        assert_eq!(lost, BTreeSet::from([("delivered", false), ("recoverable", true)]));
        assert_eq!(wiki.calls().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_database_tell_each_client_once() {
    let Some(database) = Database::fresh(Engine::Postgres).await else { return };
    let stage = Stage::set(&database).await;
    let other = Server::try_start(&database, Mode::Dev, &[], Clock::system()).await.unwrap();
    let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
    let elsewhere = other.nobody().with_token(stage.provider.token());
    let mut ids = Vec::new();
    for n in 0..20 {
        let sid = format!("s-{n}");
        stage.login(&sid, &format!("user-{n}"), &["wiki", "shop"]).await;
        let caller = if n % 2 == 0 { &stage.provider } else { &elsewhere };
        let answer = caller.post("/v1/issuers/main/logouts", json!({"target": {"sid": sid}, "reason": "user_logout"})).await;
        ids.push(answer.expect(202)["id"].clone());
    }
    for id in &ids {
        let receipt = stage.settled(id).await;
        assert_eq!(receipt["deliveries"]["delivered"], 2, "{receipt}");
    }
    for party in [&wiki, &shop] {
        let calls = party.calls();
        assert_eq!((calls.len(), distinct(&calls, |call| call.header("logoutd-delivery").to_owned())), (20, 20));
        assert!(calls.iter().all(|call| call.attempt() == 1));
    }
    other.stop().await;
}
