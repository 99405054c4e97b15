//! What operators do with clients and deliveries: hold, look, try again, cancel, try out.

use std::time::Duration;

use logoutd::model::audit::Act;
use logoutd::model::delivery::{DeliveryState, Opened, SettledReason};
use logoutd::model::report::{ParticipantReport, Report};
use logoutd::model::trigger::Reason;
use logoutd::plan::effects::opening;
use logoutd::store::{Change, Replay, Retried};
use serde_json::{Value, json};

use crate::harness::database::on_both_engines;
use crate::harness::party::Reply;
use crate::harness::server::Stage;
use crate::harness::until;
use crate::store::{Bench, LEASE, client, entry, login, of_session, registered, settlement, sid, takes_part};

const CLIENTS: &str = "/v1/issuers/main/clients";
const DELIVERIES: &str = "/v1/issuers/main/deliveries";
const REPLAY: &str = "/v1/issuers/main/deliveries/replay";
const TOKENS: &str = "/v1/issuers/main/refresh-tokens";
const LOGOUTS: &str = "/v1/issuers/main/logouts";
/// Nobody listens there: every attempt fails, and what is to be told there stays pending.
const NOWHERE: &str = "http://127.0.0.1:9/backchannel-logout";

fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

/// The only delivery to a client.
async fn delivery(stage: &Stage, client_id: &str) -> Value {
    let listed = stage.admin.items(&format!("{DELIVERIES}?client_id={client_id}")).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    listed[0].clone()
}

/// The only delivery to a client once it is in that state.
async fn in_state(stage: &Stage, client_id: &str, state: &str) -> Value {
    until(&format!("the delivery to {client_id} is {state}"), || async {
        let delivery = delivery(stage, client_id).await;
        (delivery["state"] == state).then_some(delivery)
    })
    .await
}

/// The only delivery to a client once so many attempts are recorded.
async fn attempted(stage: &Stage, client_id: &str, count: u64) -> Value {
    until(&format!("attempt {count} at {client_id} is recorded"), || async {
        let delivery = delivery(stage, client_id).await;
        (delivery["attempts"].as_u64().unwrap() >= count).then_some(delivery)
    })
    .await
}

/// How often an act is on record.
async fn acts(stage: &Stage, act: &str) -> usize {
    stage.admin.items(&format!("/v1/audit?act={act}")).await.len()
}

fn busy_for_a_minute() -> Reply {
    Reply::Full { status: 503, headers: vec![("Retry-After".to_owned(), "60".to_owned())], body: String::new() }
}

/// Alice signs in at the wiki as `s-1` and out again.
async fn in_and_out(stage: &Stage) -> Value {
    stage.login("s-1", "alice", &["wiki"]).await;
    stage.logout(json!({"sid": "s-1"})).await
}

on_both_engines! {
    async fn a_paused_client_is_held_until_it_is_resumed_and_the_answer_says_what_expires_when(database) {
        let stage = Stage::set(database).await;
        stage.register("wiki", NOWHERE, json!({"delivery": {"horizon_s": 7200}})).await;
        in_and_out(&stage).await;
        let waiting = attempted(&stage, "wiki", 1).await;
        let act = async |what: &str| stage.admin.post(&format!("{CLIENTS}/wiki/{what}"), json!({})).await;
        let paused = act("pause").await.expect(200);
        assert_eq!((&paused["client_id"], &paused["pending"]), (&json!("wiki"), &json!(1)));
        assert_eq!((&paused["first_expires_at"], &paused["last_expires_at"]), (&waiting["horizon_at"], &waiting["horizon_at"]));
        let counts: Vec<_> = paused["expiring"].as_array().unwrap().iter().map(|one| one["count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [0, 1, 1], "two hours are more than one and less than a day: {paused}");

        stage.server.advance(Duration::from_secs(5));
        assert_eq!(act("pause").await.expect(200)["paused_at"], paused["paused_at"], "it is paused since it was paused first");
        let lane = stage.admin.get(&format!("{CLIENTS}/wiki")).await.expect(200)["lane"].clone();
        assert_eq!((&lane["paused_at"], &lane["pending"], &lane["oldest"]), (&paused["paused_at"], &json!(1), &waiting["created_at"]));
        assert_eq!(acts(&stage, "client_paused").await, 1, "what changed nothing is not on record");

        for _ in 0..2 {
            assert_eq!(act("resume").await.expect(200)["paused_at"], Value::Null);
        }
        assert_eq!(acts(&stage, "client_resumed").await, 1);
        assert_eq!(stage.admin.get(&format!("{CLIENTS}/wiki")).await.expect(200)["lane"]["paused_at"], Value::Null);
        assert_ne!(act("pause").await.expect(200)["paused_at"], paused["paused_at"], "a new pause");
    }

    async fn nobody_holds_a_client_that_is_not_registered_or_says_more_than_the_path_does(database) {
        let stage = Stage::set(database).await;
        stage.register("wiki", NOWHERE, json!({})).await;
        for what in ["pause", "resume", "suspend", "unsuspend", "test"] {
            for name in ["nowhere", "a%00b", &"x".repeat(256)] {
                stage.admin.post(&format!("{CLIENTS}/{name}/{what}"), json!({})).await.problem(404, "unknown-client");
            }
            let problem = stage.admin.post(&format!("{CLIENTS}/wiki/{what}"), json!({"until": "tomorrow"})).await.problem(422, "unknown-member");
            assert_eq!(problem["errors"][0]["pointer"], "/until");
            stage.admin.post(&format!("/v1/issuers/nowhere/clients/wiki/{what}"), json!({})).await.problem(404, "unknown-issuer");
        }
        let view = stage.admin.get(&format!("{CLIENTS}/wiki")).await.expect(200);
        assert!(view.get("suspended_at").is_none() && view["lane"]["paused_at"].is_null(), "{view}");
        let bodiless = stage.admin.request(reqwest::Method::POST, &format!("{CLIENTS}/wiki/pause"));
        crate::harness::api::send(bodiless).await.expect(200);
    }

    async fn the_tokens_of_a_suspended_client_are_inactive_and_no_new_ones_are_taken_while_its_users_stay_in(database) {
        let stage = Stage::set(database).await;
        stage.register("wiki", NOWHERE, json!({})).await;
        stage.register("shop", NOWHERE, json!({})).await;
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let token = |client_id: &str, token: &str| json!({"sid": "s-1", "client_id": client_id, "token": token});
        stage.provider.post(TOKENS, token("wiki", "rt-1")).await.expect(201);
        let offline = json!({"sub": "alice", "client_id": "wiki", "token": "rt-offline", "offline_access": true});
        stage.provider.post(TOKENS, offline).await.expect(201);
        stage.provider.post(TOKENS, token("shop", "rt-shop")).await.expect(201);
        let before = stage.admin.get(&format!("{CLIENTS}/wiki")).await;

        let suspended = stage.admin.post(&format!("{CLIENTS}/wiki/suspend"), json!({})).await.expect(200);
        stage.server.advance(Duration::from_secs(5));
        assert_eq!(stage.admin.post(&format!("{CLIENTS}/wiki/suspend"), json!({})).await.expect(200), suspended, "again");
        assert_eq!(acts(&stage, "client_suspended").await, 1);
        for dead in ["rt-1", "rt-offline"] {
            assert_eq!(stage.provider.introspect(dead).await, json!({"active": false}), "{dead}");
        }
        assert_eq!(stage.provider.introspect("rt-shop").await["active"], true, "another client's");
        stage.provider.post(TOKENS, token("wiki", "rt-2")).await.problem(409, "client-suspended");
        assert_eq!(stage.provider.post(TOKENS, token("wiki", "rt-1")).await.expect(200), json!({"active": false}), "known, and not active");
        let many = json!({"tokens": [token("wiki", "rt-3"), token("shop", "rt-4")]});
        let results = stage.provider.post(TOKENS, many).await.expect(200)["results"].clone();
        assert_eq!((&results[0]["type"], &results[1]["status"]), (&json!("urn:logoutd:problem:client-suspended"), &json!(201)), "{results}");
        let mut report = token("wiki", "rt-5");
        report["op"] = json!("refresh_token");
        let results = stage.provider.post("/v1/issuers/main/reports", json!({"reports": [report]})).await.expect(200)["results"].clone();
        assert_eq!(results[0]["status"], 409, "{results}");
        // Who signs in there takes part; the token that comes along is not taken.
        let joins = json!({"sub": "bob", "participants": [{"client_id": "wiki", "refresh_token": {"token": "rt-6"}}]});
        let joined = stage.provider.put("/v1/issuers/main/sessions/s-2", joins).await.expect(201);
        assert_eq!(joined["participants"][0]["state"], "live");
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert!(session["participants"].as_array().unwrap().iter().all(|one| one["state"] == "live"), "{session}");

        // The registration knows nothing of it: its version is the same, and replacing it lifts nothing.
        let during = stage.admin.get(&format!("{CLIENTS}/wiki")).await;
        assert_eq!(during.header("etag"), before.header("etag"));
        assert_eq!(during.body["suspended_at"], suspended["suspended_at"]);
        let again = json!({"backchannel_logout_uri": NOWHERE, "id_token_signed_response_alg": "ES256"});
        assert_eq!(stage.admin.put(&format!("{CLIENTS}/wiki"), again.clone()).await.expect(200)["suspended_at"], suspended["suspended_at"]);
        assert_eq!(stage.provider.introspect("rt-1").await["active"], false);

        for _ in 0..2 {
            let lifted = stage.admin.post(&format!("{CLIENTS}/wiki/unsuspend"), json!({})).await.expect(200);
            assert_eq!(lifted, json!({"client_id": "wiki", "suspended_at": null}));
        }
        assert_eq!(acts(&stage, "client_unsuspended").await, 1);
        for alive in ["rt-1", "rt-offline"] {
            assert_eq!(stage.provider.introspect(alive).await["active"], true, "{alive}");
        }
        for refused in ["rt-2", "rt-3", "rt-5", "rt-6"] {
            assert_eq!(stage.provider.introspect(refused).await["active"], false, "{refused} was never taken");
        }
        stage.provider.post(TOKENS, token("wiki", "rt-2")).await.expect(201);

        stage.admin.post(&format!("{CLIENTS}/wiki/suspend"), json!({})).await.expect(200);
        assert_eq!(stage.admin.delete(&format!("{CLIENTS}/wiki")).await.status, 204);
        assert!(stage.admin.put(&format!("{CLIENTS}/wiki"), again).await.expect(201)["suspended_at"].is_string(), "a new registration is no way out");
    }

    async fn clients_are_listed_by_what_has_waited_longest_page_by_page_each_with_its_lane(database) {
        let stage = Stage::set(database).await;
        for name in ["zebra", "idle-b", "late", "early", "idle-a"] {
            stage.register(name, NOWHERE, json!({})).await;
        }
        for (session, name) in [("s-1", "early"), ("s-2", "late"), ("s-3", "zebra"), ("s-4", "early")] {
            stage.login(session, "alice", &[name]).await;
            stage.logout(json!({"sid": session})).await;
            stage.server.advance(Duration::from_secs(1));
        }
        let clients = stage.admin.items(&format!("{CLIENTS}?order=oldest")).await;
        let names: Vec<_> = clients.iter().map(|client| client["client_id"].as_str().unwrap()).collect();
        assert_eq!(names, ["early", "late", "zebra", "idle-a", "idle-b"]);
        let pending: Vec<_> = clients.iter().map(|client| client["lane"]["pending"].as_u64().unwrap()).collect();
        assert_eq!(pending, [2, 1, 1, 0, 0]);
        let oldest = stage.admin.items(&format!("{DELIVERIES}?client_id=early")).await.pop().unwrap();
        assert_eq!(clients[0]["lane"]["oldest"], oldest["created_at"]);
        assert_eq!((&clients[3]["lane"]["oldest"], &clients[3]["lane"]["in_flight"]), (&Value::Null, &json!(0)));

        for limit in 1..=4 {
            let (mut walked, mut next) = (Vec::new(), String::new());
            loop {
                let page = stage.admin.get(&format!("{CLIENTS}?order=oldest&limit={limit}{next}")).await.expect(200);
                let items = page["items"].as_array().unwrap();
                assert!(items.len() <= limit);
                walked.extend(items.iter().map(|client| client["client_id"].as_str().unwrap().to_owned()));
                let Some(cursor) = page["next"].as_str() else { break };
                next = format!("&after={cursor}");
            }
            assert_eq!(walked, names, "{limit} at a time");
        }
        assert_eq!(stage.admin.items(CLIENTS).await[0]["client_id"], "idle-a", "without an order the newest is first");
        assert!(stage.admin.items(CLIENTS).await.iter().all(|client| client["lane"]["breaker"].is_string()));
    }

    async fn an_attempt_under_way_is_counted_as_in_flight(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(Reply::Hang);
        in_and_out(&stage).await;
        wiki.received(1).await;
        let lane = stage.admin.get(&format!("{CLIENTS}/wiki")).await.expect(200)["lane"].clone();
        assert_eq!((&lane["in_flight"], &lane["pending"], &lane["breaker"]), (&json!(1), &json!(1), &json!("closed")), "{lane}");
    }

    async fn a_delivery_that_was_given_up_is_tried_again_as_the_same_delivery(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.answers([Reply::Status(410)]);
        let logout = in_and_out(&stage).await;
        let rejected = in_state(&stage, "wiki", "rejected").await;
        assert_eq!(stage.settled(&logout["id"]).await["deliveries"]["rejected"], 1);
        stage.server.advance(Duration::from_secs(60));
        let path = format!("{DELIVERIES}/{}/retry", id(&rejected));
        let open = stage.admin.post(&path, json!({})).await.expect(202);
        assert_eq!((&open["id"], &open["state"], &open["reason"], &open["settled_at"]), (&rejected["id"], &json!("pending"), &Value::Null, &Value::Null));
        assert!(open["horizon_at"].as_str() > rejected["horizon_at"].as_str() && open["class"] == "interactive", "{open}");
        let delivered = in_state(&stage, "wiki", "delivered").await;
        assert_eq!(delivered["attempts"], 2);
        let calls = wiki.calls();
        assert_eq!((calls[1].attempt(), calls[1].header("logoutd-delivery")), (2, id(&rejected).as_str()), "the numbers go on");
        assert_eq!(stage.settled(&logout["id"]).await["deliveries"]["delivered"], 1);
        // One that was delivered may be delivered once more.
        stage.admin.post(&path, json!({})).await.expect(202);
        attempted(&stage, "wiki", 3).await;
        assert_eq!(acts(&stage, "delivery_retried").await, 2);
    }

    async fn a_delivery_that_waits_for_its_next_attempt_is_tried_at_once(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.answers([busy_for_a_minute()]);
        in_and_out(&stage).await;
        let waiting = attempted(&stage, "wiki", 1).await;
        assert_eq!(waiting["state"], "pending");
        stage.admin.post(&format!("{DELIVERIES}/{}/retry", id(&waiting)), json!({})).await.expect(202);
        assert_eq!(in_state(&stage, "wiki", "delivered").await["attempts"], 2);
    }

    async fn nobody_retries_a_delivery_that_is_not_there_and_a_client_none_but_its_own(database) {
        let stage = Stage::set(database).await;
        let parties = [stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await];
        parties.iter().for_each(|party| party.always(Reply::Status(410)));
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        let (wiki, shop) = (in_state(&stage, "wiki", "rejected").await, in_state(&stage, "shop", "rejected").await);
        let own = stage.admin.mint(json!({"role": "client", "issuer": "main", "client_id": "wiki"})).await;
        own.post(&format!("{DELIVERIES}/{}/retry", id(&shop)), json!({})).await.problem(404, "unknown-delivery");
        own.post(&format!("{DELIVERIES}/{}/retry", id(&wiki)), json!({})).await.expect(202);
        own.post(&format!("{DELIVERIES}/{}/cancel", id(&wiki)), json!({})).await.problem(403, "forbidden");
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        for what in ["retry", "cancel"] {
            for unknown in ["00000000000000000000000000", "x", "a%00b"] {
                stage.admin.post(&format!("{DELIVERIES}/{unknown}/{what}"), json!({})).await.problem(404, "unknown-delivery");
            }
            let foreign = format!("/v1/issuers/other/deliveries/{}/{what}", id(&shop));
            stage.admin.post(&foreign, json!({})).await.problem(404, "unknown-delivery");
        }
        assert_eq!(delivery(&stage, "shop").await, shop);
    }

    async fn who_could_not_be_told_is_told_once_that_is_possible_and_a_login_since_is_spared(database) {
        let stage = Stage::set(database).await;
        stage.admin.put(&format!("{CLIENTS}/wiki"), json!({"id_token_signed_response_alg": "ES256"})).await.expect(201);
        in_and_out(&stage).await;
        let unreachable = in_state(&stage, "wiki", "unreachable").await;
        let path = format!("{DELIVERIES}/{}/retry", id(&unreachable));
        let problem = stage.admin.post(&path, json!({})).await.problem(409, "cannot-be-told");
        assert!(problem["detail"].as_str().unwrap().contains("no_uri"), "{problem}");
        let replayed = stage.admin.post(REPLAY, json!({"client_id": "wiki"})).await.expect(202);
        assert_eq!(replayed, json!({"matched": 1, "reopened": 0, "remaining": 0}));
        assert_eq!(delivery(&stage, "wiki").await, unreachable);
        assert_eq!((acts(&stage, "delivery_retried").await, acts(&stage, "deliveries_replayed").await), (0, 0));

        let wiki = crate::harness::party::Party::open(&stage.server.base, "main", crate::harness::server::ISSUER, "wiki").await;
        let body = json!({"backchannel_logout_uri": wiki.uri(), "id_token_signed_response_alg": "ES256"});
        stage.admin.put(&format!("{CLIENTS}/wiki"), body).await.expect(200);
        // Alice came back meanwhile. It is the first attempt and only moments after the logout, and it is late all the same.
        stage.server.advance(Duration::from_secs(2));
        stage.login("s-2", "alice", &["wiki"]).await;
        stage.admin.post(&path, json!({})).await.expect(202);
        let call = wiki.only_call().await;
        assert_eq!((call.claim("sid"), call.claim("sub")), (json!("s-1"), Value::Null));
        in_state(&stage, "wiki", "delivered").await;
    }

    async fn what_is_cancelled_is_settled_and_is_cancelled_once(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(busy_for_a_minute());
        let logout = in_and_out(&stage).await;
        let waiting = attempted(&stage, "wiki", 1).await;
        assert_eq!(stage.receipt(&logout["id"]).await["state"], "delivering");
        let path = format!("{DELIVERIES}/{}/cancel", id(&waiting));
        let cancelled = stage.admin.post(&path, json!({})).await.expect(200);
        assert_eq!((&cancelled["state"], &cancelled["reason"]), (&json!("cancelled"), &json!("operator")));
        let receipt = stage.receipt(&logout["id"]).await;
        assert_eq!((&receipt["state"], &receipt["deliveries"]["cancelled"]), (&json!("settled"), &json!(1)));
        let problem = stage.admin.post(&path, json!({})).await.problem(409, "already-settled");
        assert!(problem["detail"].as_str().unwrap().contains("cancelled"), "{problem}");
        assert_eq!(acts(&stage, "delivery_cancelled").await, 1);
        // It was the operator's word, and so is this.
        wiki.always(Reply::Status(200));
        stage.admin.post(&format!("{DELIVERIES}/{}/retry", id(&waiting)), json!({})).await.expect(202);
        in_state(&stage, "wiki", "delivered").await;
    }

    async fn who_waits_for_a_receipt_hears_of_a_cancellation(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(busy_for_a_minute());
        stage.login("s-1", "alice", &["wiki"]).await;
        let body = json!({"target": {"sid": "s-1"}, "reason": "user_logout"});
        let waits = stage.provider.post_with(LOGOUTS, ("Prefer", "wait=15"), body);
        let cancels = async {
            let waiting = until("the delivery is written", || async {
                stage.admin.items(&format!("{DELIVERIES}?client_id=wiki")).await.pop().filter(|one| one["attempts"] == 1)
            })
            .await;
            stage.admin.post(&format!("{DELIVERIES}/{}/cancel", id(&waiting)), json!({})).await.expect(200);
        };
        let (answer, ()) = tokio::join!(waits, cancels);
        assert_eq!(answer.expect(201)["deliveries"]["cancelled"], 1);
    }

    async fn what_was_given_up_is_replayed_by_client_time_and_reason_and_opened_once(database) {
        let stage = Stage::set(database).await;
        let parties = [stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await, stage.party("mail", json!({})).await];
        parties[..2].iter().for_each(|party| party.always(Reply::Status(410)));
        stage.login("s-1", "alice", &["wiki", "shop", "mail"]).await;
        let logout = stage.logout(json!({"sid": "s-1"})).await;
        stage.settled(&logout["id"]).await;
        let created_at = delivery(&stage, "wiki").await["created_at"].clone();
        let replay = async |body: Value| {
            let answer = stage.admin.post(REPLAY, body).await;
            assert!(answer.is_success(), "{}", answer.text);
            (answer.status, answer.body["matched"].as_u64().unwrap(), answer.body["reopened"].as_u64().unwrap())
        };
        let dry = async |mut body: Value| {
            body["dry_run"] = json!(true);
            let (status, matched, reopened) = replay(body).await;
            assert_eq!((status, reopened), (200, 0));
            matched
        };
        let everything = json!({"state": ["rejected", "expired", "unreachable", "superseded", "cancelled", "delivered"]});
        assert_eq!(dry(everything).await, 3);
        assert_eq!(dry(json!({"state": ["delivered"]})).await, 1);
        assert_eq!(dry(json!({"reason": "user_logout"})).await, 2, "what was delivered is replayed only when it is named");
        assert_eq!(dry(json!({"reason": "compromise"})).await, 0);
        assert_eq!(dry(json!({"client_id": "mail"})).await, 0);
        assert_eq!(dry(json!({"client_id": "nobody"})).await, 0);
        assert_eq!((dry(json!({"since": created_at})).await, dry(json!({"until": created_at})).await), (2, 0));
        assert_eq!(acts(&stage, "deliveries_replayed").await, 0);

        parties.iter().for_each(|party| party.always(Reply::Status(200)));
        assert_eq!(replay(json!({"client_id": "wiki"})).await, (202, 1, 1));
        let delivered = in_state(&stage, "wiki", "delivered").await;
        assert_eq!((&delivered["class"], &delivered["attempts"]), (&json!("bulk"), &json!(2)));
        assert_eq!(replay(json!({"client_id": "wiki"})).await, (202, 0, 0), "said twice, opened once");
        assert_eq!(replay(json!({"state": ["rejected"]})).await, (202, 1, 1));
        in_state(&stage, "shop", "delivered").await;
        assert_eq!(stage.settled(&logout["id"]).await["deliveries"]["delivered"], 3);
        assert_eq!(acts(&stage, "deliveries_replayed").await, 2);
    }

    async fn a_replay_of_everything_is_said_aloud_and_one_that_cannot_be_meant_is_refused(database) {
        let stage = Stage::set(database).await;
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        for (body, pointer) in [
            (json!({}), "/state"),
            (json!({"dry_run": true}), "/state"),
            (json!({"state": []}), "/state"),
            (json!({"state": vec!["rejected"; 7]}), "/state"),
            (json!({"state": ["rejected", "pending"]}), "/state/1"),
            (json!({"state": ["lost"]}), "/state/0"),
            (json!({"client_id": "wiki", "since": late, "until": early}), "/until"),
            (json!({"client_id": "wiki", "since": late, "until": late}), "/until"),
            (json!({"reason": "boredom"}), "/reason"),
        ] {
            let problem = stage.admin.post(REPLAY, body.clone()).await.problem(422, "invalid-field");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
        }
        stage.admin.post(REPLAY, json!({"client": "wiki"})).await.problem(422, "unknown-member");
        let answer = stage.admin.post(REPLAY, json!({"state": ["rejected"]})).await.expect(202);
        assert_eq!(answer, json!({"matched": 0, "reopened": 0, "remaining": 0}));
    }

    async fn five_thousand_deliveries_are_replayed_page_by_page_and_each_of_them_once_however_many_replay(database) {
        let bench = Bench::on(database).await;
        let now = bench.now().await;
        let mut mute = registered("wiki", now);
        let uri = mute.backchannel_logout_uri.take();
        assert_eq!(bench.store.put_client(&mute, None, &[], entry(Act::ClientPut)).await.unwrap(), Change::Replaced);
        for session in 0..5 {
            let seen = |n: i32| ParticipantReport { sid: Some(sid(&format!("w-{session}-{n}"))), ..takes_part("wiki") };
            let name = format!("s-{session}");
            bench.report(Report::Session(login(&name, "alice", (0..1000).map(seen).collect()))).await.unwrap();
            bench.commit(&of_session(&name, Reason::UserLogout)).await;
        }
        mute.backchannel_logout_uri = uri;
        assert_eq!(bench.store.put_client(&mute, None, &[], entry(Act::ClientPut)).await.unwrap(), Change::Replaced);
        let replay = Replay {
            issuer: bench.issuer.id.clone(),
            client_id: Some(client("wiki")),
            states: vec![DeliveryState::Unreachable],
            since: None,
            until: None,
            reason: Some(Reason::UserLogout),
            settled_before: bench.now().await,
        };
        let once = || bench.store.replay(replay.clone(), opening, entry(Act::DeliveriesReplayed));
        let (first, second) = tokio::join!(once(), once());
        let (first, second) = (first.unwrap(), second.unwrap());
        let reopened = first.reopened + second.reopened;
        assert_eq!(first.matched, 5000);
        assert!(first.reopened <= 1000 && first.work.is_some() && first.remaining == 4000, "{first:?}");
        assert!((1000..=2000).contains(&reopened), "{first:?} {second:?}");
        assert_eq!(bench.store.replay_matches(&replay).await.unwrap(), 5000 - reopened, "none is opened by both");
        assert!(crate::many::pages(&bench).await, "the rest is left to a work");
        assert!(bench.store.replay_matches(&replay).await.unwrap() >= 5000 - reopened - 2000, "page by page");
        crate::many::finish(&bench).await;
        assert_eq!(bench.store.replay_matches(&replay).await.unwrap(), 0);
    }

    async fn an_attempt_under_way_that_gives_up_does_not_settle_what_was_retried_meanwhile(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let leased = bench.claim(7, LEASE).await.remove(0);
        assert_eq!(leased.opened, Opened::Once);
        let retry = || bench.store.retry_delivery(&bench.issuer.id, &leased.id, None, opening, entry(Act::DeliveryRetried));
        assert!(matches!(retry().await.unwrap(), Retried::Opened(_)));
        assert!(bench.claim(8, LEASE).await.is_empty(), "it is still in flight");
        bench.settle(settlement(&leased, DeliveryState::Rejected, SettledReason::Gone)).await;
        let again = bench.claim(9, LEASE).await.remove(0);
        assert_eq!((&again.id, again.attempts, again.opened), (&leased.id, 1, Opened::Again));
        bench.settle(settlement(&again, DeliveryState::Rejected, SettledReason::Gone)).await;
        assert!(bench.claim(10, LEASE).await.is_empty(), "that was the last word");
    }

    async fn an_attempt_under_way_changes_nothing_about_what_was_cancelled(database) {
        let bench = Bench::on(database).await;
        bench.login("s-1", "alice", &["wiki"]).await;
        bench.commit(&of_session("s-1", Reason::UserLogout)).await;
        let leased = bench.claim(7, LEASE).await.remove(0);
        let cancelled = bench.store.cancel_delivery(&bench.issuer.id, &leased.id, entry(Act::DeliveryCancelled)).await.unwrap();
        assert!(matches!(cancelled, logoutd::store::Cancelled::Done(_)), "{cancelled:?}");
        assert!(bench.settle(settlement(&leased, DeliveryState::Delivered, SettledReason::Accepted)).await.fenced);
        let (view, attempts) = bench.store.delivery(&bench.issuer.id, &leased.id).await.unwrap().unwrap();
        assert_eq!((view.state, view.reason), (DeliveryState::Cancelled, Some(SettledReason::Operator)));
        assert!(attempts.len() == 1 && attempts[0].lease_lost, "what was sent is on record");
    }

    async fn a_client_is_tried_out_with_the_names_that_its_logouts_carry(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let cases = [
            (json!({}), [true, true]),
            (json!({"delivery": {"claims": "both"}}), [true, true]),
            (json!({"delivery": {"claims": "sid"}}), [false, true]),
            (json!({"delivery": {"claims": "sub"}}), [true, false]),
            // BCL 2.2: who needs a `sid` gets one.
            (json!({"delivery": {"claims": "sub"}, "backchannel_logout_session_required": true}), [true, true]),
        ];
        for (number, (more, carried)) in cases.into_iter().enumerate() {
            let mut body = json!({"backchannel_logout_uri": wiki.uri(), "id_token_signed_response_alg": "ES256"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            stage.admin.put(&format!("{CLIENTS}/wiki"), body).await.expect(200);
            stage.admin.post(&format!("{CLIENTS}/wiki/test"), json!({})).await.expect(200);
            let call = &wiki.received(number + 1).await[number];
            let names = ["sub", "sid"].map(|name| call.claim(name));
            assert_eq!(names.clone().map(|name| name.is_string()), carried, "{more}: {names:?}");
            assert!(names.iter().all(|name| name.as_str().is_none_or(|name| name.starts_with("test-"))), "{names:?}");
        }
    }

    async fn a_client_is_tried_out_with_a_token_about_nobody_and_nothing_is_kept_but_the_record(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({"delivery": {"claims": "sub"}})).await;
        let own = stage.admin.mint(json!({"role": "client", "issuer": "main", "client_id": "wiki"})).await;
        let path = format!("{CLIENTS}/wiki/test");
        let told = own.post(&path, json!({})).await.expect(200);
        assert_eq!((&told["status"], &told["class"], &told["failure"]), (&json!(200), &json!("delivered"), &Value::Null));
        assert_eq!(told["remote_addr"], wiki.address().to_string());
        let call = wiki.only_call().await;
        let about = call.claim("sub");
        assert!(about.as_str().unwrap().starts_with("test-") && call.claim("sid").is_null(), "{about}");

        let refusal = Reply::Full { status: 400, headers: Vec::new(), body: r#"{"error":"invalid_request"}"#.to_owned() };
        wiki.answers([refusal, Reply::Drop]);
        let told = stage.admin.post(&path, json!({})).await.expect(200);
        assert_eq!((&told["status"], &told["class"]), (&json!(400), &json!("refused")));
        assert!(told["excerpt"].as_str().unwrap().contains("invalid_request"), "{told}");
        let told = stage.admin.post(&path, json!({})).await.expect(200);
        assert_eq!((&told["status"], &told["class"], &told["failure"]), (&Value::Null, &json!("recoverable"), &json!("broken")));
        assert!(wiki.calls().len() == 3 && wiki.calls()[2].claim("sub") != about, "each is about another nobody, and none is repeated");
        assert!(stage.admin.items(DELIVERIES).await.is_empty());
        let record = stage.admin.items("/v1/audit?act=client_tested").await;
        assert!(record.len() == 3 && record[2]["detail"]["class"] == "delivered", "{record:?}");

        stage.register("shop", NOWHERE, json!({})).await;
        own.post(&format!("{CLIENTS}/shop/test"), json!({})).await.problem(404, "unknown-client");
        stage.admin.put(&format!("{CLIENTS}/mute"), json!({"id_token_signed_response_alg": "ES256"})).await.expect(201);
        stage.admin.post(&format!("{CLIENTS}/mute/test"), json!({})).await.problem(409, "cannot-be-told");
        assert_eq!(acts(&stage, "client_tested").await, 3);
    }
}
