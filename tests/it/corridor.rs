//! The main job through the door: a login is reported, a logout posted, every relying party told, and the receipt says so.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::database::on_both_engines;
use crate::harness::party::{Party, Reply};
use crate::harness::server::Stage;
use crate::harness::until;

const LOGOUTS: &str = "/v1/issuers/main/logouts";

/// An instant as it is written, some seconds from now.
fn instant(stage: &Stage, seconds: i64) -> String {
    logoutd::model::Timestamp::from_millis(stage.server.clock.now().millis() + 1000 * seconds).to_string()
}

/// Takes a member that must be a time as the contract writes them: UTC with milliseconds.
#[track_caller]
fn take_time(object: &mut Value, name: &str) -> String {
    let time = object[name].as_str().unwrap_or_default().to_owned();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "{name} is a time in {object}");
    object.as_object_mut().unwrap().remove(name);
    time
}

/// Takes a member that must be an id.
#[track_caller]
fn take_id(object: &mut Value, name: &str) -> String {
    let id = object[name].as_str().unwrap_or_default().to_owned();
    assert_eq!(id.len(), 26, "{name} is an id in {object}");
    object.as_object_mut().unwrap().remove(name);
    id
}

/// Whom a receipt names: each client with the `sid` it saw.
fn told(receipt: &Value) -> BTreeSet<String> {
    receipt["clients"].as_array().unwrap().iter().map(|line| format!("{} {}", line["client_id"], line["sid"]).replace('"', "")).collect()
}

/// The `sid`s of a subject's live sessions.
async fn live(stage: &Stage, sub: &str) -> BTreeSet<String> {
    let status = stage.provider.post("/v1/issuers/main/subjects/status", json!({"sub": sub})).await.expect(200);
    let sessions = status["sessions"].as_array().unwrap().iter().filter(|session| session["state"] == "live");
    sessions.map(|session| session["sid"].as_str().unwrap_or("-").to_owned()).collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// Nothing was done: no logout, no record of one, and the session lives.
async fn untouched(stage: &Stage, sid: &str) {
    assert!(stage.admin.items(LOGOUTS).await.is_empty());
    assert!(stage.admin.items("/v1/audit?act=logout_posted").await.is_empty());
    let session = stage.provider.get(&format!("/v1/issuers/main/sessions/{sid}")).await.expect(200);
    assert_eq!((&session["state"], &session["ended_by"]), (&json!("live"), &Value::Null));
}

on_both_engines! {
    async fn a_logout_ends_the_session_kills_its_token_reaches_every_relying_party_and_the_receipt_says_so(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        let login = json!({"sub": "alice", "participants": [{"client_id": "wiki"}, {"client_id": "shop", "refresh_token": {"token": "rt-1"}}]});
        let session = stage.provider.put("/v1/issuers/main/sessions/s-1", login.clone()).await.expect(201);
        assert_eq!((&session["state"], session["participants"].as_array().unwrap().len()), (&json!("live"), 2));
        stage.provider.put("/v1/issuers/main/sessions/s-1", login).await.expect(200);
        stage.login("s-2", "bob", &["wiki"]).await;
        assert_eq!(stage.provider.introspect("rt-1").await["active"], true);

        let body = json!({"target": {"sid": "s-1"}, "reason": "user_logout", "actor": "alice", "correlation_id": "c-1", "note": "at the desk"});
        let answer = stage.provider.post_with(LOGOUTS, ("Prefer", "wait=15"), body).await;
        assert_eq!((answer.status, answer.header("preference-applied")), (201, "wait=15"), "{}", answer.text);
        let location = answer.header("location").to_owned();
        let mut receipt = answer.body;
        assert_eq!(location, format!("{LOGOUTS}/{}", receipt["id"].as_str().unwrap()));
        assert_eq!(stage.provider.get(&location).await.expect(200), receipt);

        let (id, created_at) = (take_id(&mut receipt, "id"), take_time(&mut receipt, "created_at"));
        assert_eq!(take_time(&mut receipt, "occurred_at"), created_at);
        assert!(take_time(&mut receipt, "settled_at") >= created_at);
        for line in receipt["clients"].as_array_mut().unwrap() {
            take_time(line, "delivered_at");
            take_id(line, "delivery");
        }
        receipt["clients"].as_array_mut().unwrap().sort_by_key(|line| line["client_id"].to_string());
        assert_eq!(receipt, json!({
            "issuer": "main", "target": {"sid": "s-1"}, "reason": "user_logout", "reason_detail": null, "actor": "alice", "correlation_id": "c-1",
            "note": "at the desk", "state": "settled", "sessions_ended": 1, "participations_ended": 0, "refresh_tokens_revoked": 1,
            "provider": null, "undone_at": null,
            "deliveries": {"total": 2, "pending": 0, "delivered": 2, "rejected": 0, "expired": 0, "superseded": 0, "cancelled": 0,
                "unreachable": 0, "adopted": 0, "late_joiners": 0},
            "clients": [
                {"client_id": "shop", "sid": "s-1", "state": "delivered", "reason": "accepted", "attempts": 1},
                {"client_id": "wiki", "sid": "s-1", "state": "delivered", "reason": "accepted", "attempts": 1},
            ],
        }));

        for party in [&wiki, &shop] {
            let call = party.only_call().await;
            assert_eq!((call.claim("sid"), call.claim("sub"), call.attempt()), (json!("s-1"), json!("alice"), 1));
        }
        assert_eq!(stage.provider.introspect("rt-1").await, json!({"active": false}));
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!((&session["state"], &session["ended_by"]), (&json!("ended"), &json!(id)));
        assert_eq!(live(&stage, "bob").await, set(&["s-2"]));
        stage.server.stop().await;
    }

    async fn a_logout_is_202_while_somebody_is_to_be_told_and_every_attempt_is_on_record(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        shop.answers([Reply::Full { status: 429, headers: Vec::new(), body: "at lunch".to_owned() }, Reply::Drop]);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let answer = stage.provider.post_with(LOGOUTS, ("Prefer", "wait=1"), json!({"target": {"sid": "s-1"}, "reason": "admin"})).await;
        assert_eq!((answer.status, answer.header("preference-applied")), (202, "wait=1"), "{}", answer.text);
        assert_eq!((&answer.body["state"], &answer.body["settled_at"]), (&json!("delivering"), &Value::Null));
        let id = answer.body["id"].clone();
        assert_eq!(answer.header("location"), format!("{LOGOUTS}/{}", id.as_str().unwrap()));
        wiki.only_call().await;

        for count in 1..3_u64 {
            until("the failure is written down", || async {
                let deliveries = stage.provider.items(&format!("{LOGOUTS}/{}/deliveries?client_id=shop", id.as_str().unwrap())).await;
                (deliveries[0]["attempts"].as_u64() >= Some(count)).then_some(())
            })
            .await;
            stage.server.advance(Duration::from_secs(100));
        }
        let receipt = stage.settled(&id).await;
        assert_eq!((&receipt["deliveries"]["delivered"], &receipt["deliveries"]["pending"]), (&json!(2), &json!(0)), "{receipt}");
        let line = receipt["clients"].as_array().unwrap().iter().find(|line| line["client_id"] == "shop").unwrap().clone();
        assert_eq!((&line["attempts"], &line["state"]), (&json!(3), &json!("delivered")));

        let path = format!("/v1/issuers/main/deliveries/{}", line["delivery"].as_str().unwrap());
        let delivery = stage.provider.get(&path).await.expect(200);
        assert_eq!((&delivery["logout"], &delivery["kind"], &delivery["class"]), (&id, &json!("logout_token"), &json!("interactive")));
        let attempts = delivery["attempt_records"].as_array().unwrap().clone();
        let calls = shop.calls();
        assert_eq!(attempts.len(), 3, "{delivery}");
        for (number, (attempt, call)) in attempts.iter().zip(&calls).enumerate() {
            assert_eq!((&attempt["number"], &attempt["jti"]), (&json!(number + 1), &call.claim("jti")), "{attempt}");
            assert_eq!(attempt["kid"], call.token().header["kid"]);
            assert_eq!((call.header("logoutd-delivery"), call.attempt()), (line["delivery"].as_str().unwrap(), u32::try_from(number + 1).unwrap()));
        }
        let outcomes: Vec<_> = attempts.iter().map(|attempt| (attempt["status"].clone(), attempt["excerpt"].clone())).collect();
        assert_eq!(outcomes[0], (json!(429), json!("at lunch")));
        assert!(outcomes[1].0.is_null() && attempts[1]["failure"].is_string(), "{delivery}");
        assert_eq!(outcomes[2].0, json!(200));
        assert_eq!(attempts[2]["remote_addr"], json!(shop.address().to_string()));
    }

    async fn without_a_wait_the_answer_comes_before_the_deliveries(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        wiki.always(Reply::Hang);
        stage.login("s-1", "alice", &["wiki"]).await;
        let answer = stage.provider.post(LOGOUTS, json!({"target": {"sid": "s-1"}, "reason": "admin"})).await;
        assert_eq!((answer.status, answer.header("preference-applied")), (202, ""), "{}", answer.text);
        assert_eq!(answer.body["deliveries"]["pending"], 1);
        let nobody = stage.provider.post_with(LOGOUTS, ("Prefer", "wait=15"), json!({"target": {"sid": "other"}, "reason": "admin"})).await;
        assert_eq!((nobody.status, nobody.header("preference-applied")), (201, "wait=15"), "{}", nobody.text);
    }

    async fn a_dry_run_says_what_would_happen_and_changes_nothing(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let login = json!({"sub": "alice", "participants": [{"client_id": "wiki", "refresh_token": {"token": "rt-1"}}, {"client_id": "ghost"}]});
        stage.provider.put("/v1/issuers/main/sessions/s-1", login).await.expect(201);
        let body = json!({"target": {"sub": "alice"}, "reason": "user_logout", "dry_run": true});
        let answer = stage.provider.post_with(LOGOUTS, ("Idempotency-Key", "k-1"), body).await;
        assert_eq!((answer.status, answer.header("location")), (200, ""), "{}", answer.text);
        let receipt = answer.body;
        assert!(receipt.get("id").is_none() && receipt["clients"].as_array().unwrap().iter().all(|line| line.get("delivery").is_none()), "{receipt}");
        assert_eq!((&receipt["sessions_ended"], &receipt["refresh_tokens_revoked"]), (&json!(1), &json!(1)));
        assert_eq!((&receipt["deliveries"]["pending"], &receipt["deliveries"]["unreachable"]), (&json!(1), &json!(1)), "{receipt}");
        untouched(&stage, "s-1").await;
        assert_eq!(stage.provider.introspect("rt-1").await["active"], true);
        assert!(stage.admin.items("/v1/issuers/main/deliveries").await.is_empty());

        // The key was not taken either, and the only call is the one of the real logout.
        let body = json!({"target": {"sub": "alice"}, "reason": "user_logout"});
        let real = stage.provider.post_with(LOGOUTS, ("Idempotency-Key", "k-1"), body).await.expect(202);
        stage.settled(&real["id"]).await;
        wiki.only_call().await;
    }

    async fn a_repetition_by_its_key_gets_the_first_receipt_and_another_body_is_refused(database) {
        let stage = Stage::set(database).await;
        let _wiki = stage.party("wiki", json!({})).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let key = ("Idempotency-Key", "k-1");
        let body = json!({"target": {"sid": "s-1"}, "reason": "user_logout"});
        let first = stage.provider.post_with(LOGOUTS, key, body.clone()).await.expect(202);
        // The person is back meanwhile: a repetition must not end the new session.
        stage.server.advance(Duration::from_secs(2));
        let again = json!({"sub": "alice", "started_at": instant(&stage, 0), "participants": [{"client_id": "wiki"}]});
        stage.provider.put("/v1/issuers/main/sessions/s-1", again).await.expect(201);
        let replay = stage.provider.post_with(LOGOUTS, key, body.clone()).await;
        assert_eq!((replay.status, &replay.body["id"]), (200, &first["id"]), "{}", replay.text);
        assert_eq!(replay.header("location"), format!("{LOGOUTS}/{}", first["id"].as_str().unwrap()));
        let other = json!({"target": {"sid": "s-2"}, "reason": "user_logout"});
        stage.provider.post_with(LOGOUTS, key, other).await.problem(422, "idempotency-key-reused");
        assert_eq!(live(&stage, "alice").await, set(&["s-1"]));
        assert_eq!(stage.provider.items(LOGOUTS).await.len(), 1);

        // Another caller's key is another key.
        let somebody = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let own = somebody.post_with(LOGOUTS, key, body).await;
        assert!(own.status != 200 && own.is_success() && own.body["id"] != first["id"], "{}", own.text);
    }

    async fn an_unknown_sid_or_sub_is_201_with_nothing_ended_and_still_catches_whoever_is_reported_late(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        for (target, sid, sub) in [(json!({"sid": "s-1"}), "s-1", "alice"), (json!({"sub": "bob"}), "s-2", "bob")] {
            let answer = stage.provider.post(LOGOUTS, json!({"target": target, "reason": "user_logout"})).await;
            assert_eq!((answer.status, &answer.body["state"]), (201, &json!("settled")), "{}", answer.text);
            assert_eq!((&answer.body["sessions_ended"], &answer.body["deliveries"]["total"]), (&json!(0), &json!(0)));
            assert!(answer.body["settled_at"].is_string());

            let late = json!({"sub": sub, "started_at": instant(&stage, -60), "participants": [{"client_id": "wiki"}]});
            let session = stage.provider.put(&format!("/v1/issuers/main/sessions/{sid}"), late).await.expect(201);
            assert_eq!((&session["state"], &session["ended_by"]), (&json!("ended"), &answer.body["id"]), "{session}");
            let receipt = stage.settled(&answer.body["id"]).await;
            assert_eq!((&receipt["deliveries"]["late_joiners"], &receipt["deliveries"]["delivered"]), (&json!(1), &json!(1)), "{receipt}");
        }
        assert_eq!(wiki.received(2).await.len(), 2);
        // A genuine login after the logout is not touched.
        let login = json!({"sub": "bob", "started_at": instant(&stage, 2), "participants": [{"client_id": "wiki"}]});
        let session = stage.provider.put("/v1/issuers/main/sessions/s-3", login).await.expect(201);
        assert_eq!(session["state"], "live");
    }

    async fn who_is_reported_after_the_logout_is_told_at_once_and_once_and_counted(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        let started_at = instant(&stage, -60);
        let login = json!({"sub": "alice", "started_at": started_at, "participants": [{"client_id": "wiki"}]});
        stage.provider.put("/v1/issuers/main/sessions/s-1", login).await.expect(201);
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        stage.settled(&receipt["id"]).await;
        let joins = json!({"reports": [{"op": "join", "sid": "s-1", "client_id": "shop", "joined_at": started_at}]});
        for _ in 0..2 {
            let results = stage.provider.post("/v1/issuers/main/reports", joins.clone()).await.expect(200);
            assert_eq!((&results["results"][0]["state"], &results["results"][0]["ended_by"]), (&json!("ended"), &receipt["id"]), "{results}");
        }
        let call = shop.received(1).await.remove(0);
        assert_eq!(call.claim("sid"), "s-1");
        let receipt = stage.settled(&receipt["id"]).await;
        assert_eq!((&receipt["deliveries"]["total"], &receipt["deliveries"]["late_joiners"]), (&json!(2), &json!(1)), "{receipt}");
        assert_eq!(told(&receipt), set(&["shop s-1", "wiki s-1"]));
        let lates = stage.provider.items("/v1/issuers/main/deliveries?client_id=shop").await;
        assert_eq!((lates.len(), &lates[0]["late_joiner"]), (1, &json!(true)));
        assert_eq!((wiki.calls().len(), shop.calls().len()), (1, 1));
    }

    async fn every_target_ends_what_it_names_and_nothing_else(database) {
        let stage = Stage::set(database).await;
        // target, sessions and participations ended, tokens revoked, who is told, which of alice's sessions live on
        type Case = (Value, [u64; 3], &'static [&'static str], &'static [&'static str]);
        let cases: [Case; 12] = [
            (json!({"sid": "a1"}), [1, 0, 1], &["shop a1", "wiki w1"], &["a2"]),
            (json!({"sub": "alice"}), [2, 0, 1], &["shop a1", "wiki w1", "wiki w2"], &[]),
            (json!({"sub": "alice", "except_sid": "a1"}), [1, 0, 0], &["wiki w2"], &["a1"]),
            (json!({"client_id": "wiki"}), [0, 3, 0], &["wiki w1", "wiki w2", "wiki w3"], &["a1", "a2"]),
            (json!({"sub": "alice", "client_id": "wiki"}), [0, 2, 0], &["wiki w1", "wiki w2"], &["a1", "a2"]),
            (json!({"sid": "a1", "client_id": "shop"}), [0, 1, 1], &["shop a1"], &["a1", "a2"]),
            (json!({"client_id": "wiki", "client_sid": "w2"}), [0, 1, 0], &["wiki w2"], &["a1", "a2"]),
            (json!({"client_id": "wiki", "client_sub": "alice-at-wiki"}), [0, 2, 0], &["wiki w1", "wiki w2"], &["a1", "a2"]),
            (json!({"device_id": "d1"}), [1, 0, 1], &["shop a1", "wiki w1"], &["a2"]),
            (json!({"refresh_token": "rt"}), [1, 0, 1], &["shop a1", "wiki w1"], &["a2"]),
            (json!({"key": "k1"}), [1, 0, 0], &["wiki w3"], &["a1", "a2"]),
            (json!({"sid": "nobody's"}), [0, 0, 0], &[], &["a1", "a2"]),
        ];
        for (number, (target, [sessions, participations, tokens], expected, lives)) in cases.into_iter().enumerate() {
            let (iss, issuer) = (format!("t{number}"), format!("https://id.example.com/t{number}"));
            stage.admin.post("/v1/issuers", json!({"id": iss, "issuer": issuer, "signing_algs": ["ES256"]})).await.expect(201);
            let mut parties = Vec::new();
            for client_id in ["wiki", "shop"] {
                let party = Party::open(&stage.server.base, &iss, &issuer, client_id).await;
                let client = json!({"backchannel_logout_uri": party.uri(), "id_token_signed_response_alg": "ES256"});
                stage.admin.put(&format!("/v1/issuers/{iss}/clients/{client_id}"), client).await.expect(201);
                parties.push(party);
            }
            let wiki = |sid: &str, sub: &str| json!({"client_id": "wiki", "sid": sid, "sub": format!("{sub}-at-wiki")});
            let reports = json!({"reports": [
                {"op": "session", "sid": "a1", "sub": "alice", "device": {"id": "d1"},
                    "participants": [wiki("w1", "alice"), {"client_id": "shop", "refresh_token": {"token": "rt"}}]},
                {"op": "session", "sid": "a2", "sub": "alice", "device": {"id": "d2"}, "participants": [wiki("w2", "alice")]},
                {"op": "session", "key": "k1", "sub": "bob", "device": {"id": "d3"}, "participants": [wiki("w3", "bob")]},
            ]});
            let results = stage.admin.post(&format!("/v1/issuers/{iss}/reports"), reports).await.expect(200);
            assert!(results["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{results}");

            let body = json!({"target": target, "reason": "user_logout"});
            let answer = stage.admin.post_with(&format!("/v1/issuers/{iss}/logouts"), ("Prefer", "wait=15"), body).await;
            let receipt = answer.expect(201);
            let ended = ["sessions_ended", "participations_ended", "refresh_tokens_revoked"].map(|name| receipt[name].as_u64().unwrap());
            assert_eq!(ended, [sessions, participations, tokens], "{target}: {receipt}");
            assert_eq!(told(&receipt), set(expected), "{target}");
            let heard: BTreeSet<_> = parties.iter().zip(["wiki", "shop"]).flat_map(|(party, client_id)| {
                party.calls().into_iter().map(move |call| format!("{client_id} {}", call.claim("sid").as_str().unwrap()))
            }).collect();
            assert_eq!(heard, set(expected), "{target}");
            let active = stage.admin.form(&format!("/{iss}/introspect"), &[("token", "rt")]).await.expect(200)["active"].clone();
            assert_eq!(active, json!(tokens == 0), "{target}");
            let status = stage.admin.post(&format!("/v1/issuers/{iss}/subjects/status"), json!({"sub": "alice"})).await.expect(200);
            let living = status["sessions"].as_array().unwrap().iter().filter(|session| session["state"] == "live");
            assert_eq!(living.map(|session| session["sid"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>(), set(lives), "{target}");
            match target.get("refresh_token") {
                None => assert_eq!(receipt["target"], target),
                // SHA-256 of "rt".
                Some(_) => assert_eq!(receipt["target"], json!({"refresh_token_sha256": "zf_V3YyoEmwEgrqZSBS5AUzJ6XNDXTmfHPH2lHnmuQc"})),
            }
        }
    }

    async fn every_reason_is_accepted_and_kept_with_all_that_was_said(database) {
        let stage = Stage::set(database).await;
        stage.party("wiki", json!({})).await;
        for reason in [
            "user_logout", "admin", "compromise", "expired", "password_changed", "mfa_removed", "identifier_changed", "account_disabled",
            "account_deleted", "token_reuse", "upstream", "other",
        ] {
            let said = json!({"target": {"sub": "nobody"}, "reason": reason, "reason_detail": "why", "actor": "desk", "correlation_id": reason,
                "note": "ünïcode is fine", "occurred_at": "2999-01-01T00:00:00+01:00", "revoke_offline_access": true, "tell_provider": false});
            stage.provider.post(LOGOUTS, said.clone()).await.problem(422, "invalid-field");
            let mut body = said;
            let occurred_at = instant(&stage, -3600);
            body["occurred_at"] = json!(occurred_at);
            let receipt = stage.provider.post(LOGOUTS, body).await.expect(201);
            assert_eq!((&receipt["reason"], &receipt["reason_detail"], &receipt["actor"]), (&json!(reason), &json!("why"), &json!("desk")));
            assert_eq!((&receipt["occurred_at"], &receipt["note"]), (&json!(occurred_at), &json!("ünïcode is fine")));
            let found = stage.provider.items(&format!("{LOGOUTS}?reason={reason}")).await;
            assert_eq!((found.len(), &found[0]["id"]), (1, &receipt["id"]), "{reason}");
        }
    }

    async fn reports_are_answered_one_by_one_and_a_refused_one_leaves_its_neighbours(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        stage.login("s-0", "zoe", &["wiki"]).await;
        let reports = json!({"reports": [
            {"op": "session", "sid": "s-1", "sub": "alice", "participants": [{"client_id": "wiki"}]},
            {"op": "session", "sid": "s-0", "sub": "mallory"},
            {"op": "join", "sid": "s-1", "client_id": "shop", "client_sid": "x"},
            {"op": "join", "sid": "unknown", "client_id": "shop"},
            {"op": "touch", "sid": "s-1", "idle_expires_at": instant(&stage, 600)},
            {"op": "refresh_token", "sid": "s-1", "client_id": "shop", "token": "rt-1"},
            {"op": "refresh_token", "sid": "unknown", "client_id": "shop", "token": "rt-2"},
            {"op": "leave", "sid": "s-1", "client_id": "wiki"},
            {"op": "session", "sid": "s-1", "sub": "alice"},
        ]});
        let results = stage.provider.post("/v1/issuers/main/reports", reports).await.expect(200)["results"].clone();
        let results = results.as_array().unwrap();
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [201, 409, 200, 404, 200, 201, 404, 200, 200], "{results:?}");
        assert_eq!(results[1]["type"], "urn:logoutd:problem:other-subject");
        assert_eq!(results[3]["type"], "urn:logoutd:problem:unknown-session");
        assert_eq!(results[7]["participations_left"], 1);
        assert_eq!(live(&stage, "zoe").await, set(&["s-0"]));
        assert_eq!(live(&stage, "mallory").await, set(&[]));
        assert_eq!(stage.provider.introspect("rt-1").await["active"], true);
        assert_eq!(stage.provider.introspect("rt-2").await["active"], false);

        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(told(&receipt), set(&["shop x"]), "the wiki left by itself");
        assert!(wiki.calls().is_empty());
    }

    async fn who_leaves_by_itself_is_told_nothing(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        stage.provider.delete("/v1/issuers/main/sessions/s-1/participants/wiki").await.expect(204);
        stage.provider.delete("/v1/issuers/main/sessions/unknown/participants/wiki").await.problem(404, "unknown-session");
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        shop.only_call().await;
        let receipt = stage.settled(&receipt["id"]).await;
        assert_eq!(told(&receipt), set(&["shop s-1"]));
        assert!(wiki.calls().is_empty());
    }

    async fn sessions_are_found_by_whatever_is_known_of_them_and_read_page_by_page(database) {
        let stage = Stage::set(database).await;
        let sessions: Vec<_> = (0..5).map(|n| json!({
            "sid": format!("s-{n}"), "sub": format!("user-{}", n % 2), "aliases": [format!("email:{n}@example.org")],
            "device": {"id": format!("d-{n}"), "label": "laptop", "ip": format!("192.0.2.{n}"), "user_agent": "Browser/1"},
            "participants": [{"client_id": if n < 3 { "wiki" } else { "shop" }}],
        })).collect();
        let results = stage.provider.post("/v1/issuers/main/sessions", json!({"sessions": sessions})).await.expect(200);
        assert!(results["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{results}");
        let sids = |items: &[Value]| items.iter().map(|item| item["sid"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>();
        let search = async |body: Value| {
            let found = stage.provider.post("/v1/issuers/main/sessions/search", body).await.expect(200);
            sids(found["items"].as_array().unwrap())
        };
        assert_eq!(search(json!({"sub": "user-1"})).await, set(&["s-1", "s-3"]));
        assert_eq!(search(json!({"sid": "s-2"})).await, set(&["s-2"]));
        assert_eq!(search(json!({"client_id": "shop"})).await, set(&["s-3", "s-4"]));
        assert_eq!(search(json!({"alias": "email:4@example.org"})).await, set(&["s-4"]));
        assert_eq!(search(json!({"device_id": "d-0"})).await, set(&["s-0"]));
        assert_eq!(search(json!({"ip": "192.0.2.3"})).await, set(&["s-3"]));
        assert_eq!(search(json!({"sub": "nobody"})).await, set(&[]));

        stage.logout(json!({"sid": "s-4"})).await;
        assert_eq!(sids(&stage.provider.items("/v1/issuers/main/sessions?state=ended").await), set(&["s-4"]));
        assert_eq!(sids(&stage.provider.items("/v1/issuers/main/sessions?client_id=wiki&state=live").await), set(&["s-0", "s-1", "s-2"]));
        let (mut seen, mut path) = (Vec::new(), "/v1/issuers/main/sessions?limit=2".to_owned());
        loop {
            let page = stage.provider.get(&path).await.expect(200);
            seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["sid"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => path = format!("/v1/issuers/main/sessions?limit=2&after={next}"),
                None => break,
            }
        }
        assert_eq!((seen.len(), seen.into_iter().collect::<BTreeSet<_>>()), (5, set(&["s-0", "s-1", "s-2", "s-3", "s-4"])));
        let shown = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!((&shown["sub"], &shown["device"]["ip"], &shown["aliases"]), (&json!("user-1"), &json!("192.0.2.1"), &json!(["email:1@example.org"])));
    }

    async fn a_subject_s_status_names_every_application_the_person_may_still_be_in(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let hung = stage.party("hung", json!({})).await;
        let gone = stage.party("gone", json!({})).await;
        let mail = stage.party("mail", json!({})).await;
        hung.always(Reply::Hang);
        gone.always(Reply::Status(410));
        stage.login("s-1", "alice", &["wiki", "hung", "gone", "ghost"]).await;
        stage.login("s-2", "alice", &["mail"]).await;
        let offline = json!({"sid": "s-1", "client_id": "backup", "token": "rt-o", "offline_access": true});
        stage.provider.post("/v1/issuers/main/refresh-tokens", offline).await.expect(201);
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        wiki.only_call().await;
        hung.only_call().await;
        let open = until("the answers are written down", || async {
            let receipt = stage.receipt(&receipt["id"]).await;
            let counts = &receipt["deliveries"];
            let settled = counts["delivered"] == 1 && counts["rejected"] == 1 && counts["pending"] == 1 && counts["unreachable"] == 1;
            let status = stage.provider.post("/v1/issuers/main/subjects/status", json!({"sub": "alice"})).await.expect(200);
            settled.then_some(status["still_open"].as_array().unwrap().clone())
        }).await;
        let open: BTreeSet<_> = open.iter().map(|open| format!("{} {}", open["client_id"], open["why"]).replace('"', "")).collect();
        let expected = set(&["backup offline_token", "ghost unreachable", "gone gave_up", "hung pending", "mail live"]);
        assert_eq!(open, expected);
        assert!(mail.calls().is_empty());
        let nobody = stage.provider.post("/v1/issuers/main/subjects/status", json!({"sub": "nobody"})).await.expect(200);
        assert_eq!(nobody, json!({"sessions": [], "still_open": [], "still_open_by_client_sub": []}));
    }

    async fn logouts_are_listed_filtered_and_found(database) {
        let stage = Stage::set(database).await;
        let (_wiki, hung) = (stage.party("wiki", json!({})).await, stage.party("hung", json!({})).await);
        hung.always(Reply::Hang);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.login("s-2", "bob", &["hung"]).await;
        let post = async |target: Value, reason: &str, name: &str| {
            let body = json!({"target": target, "reason": reason, "actor": format!("desk-{name}"), "correlation_id": name});
            stage.provider.post(LOGOUTS, body).await.body["id"].clone()
        };
        let first = post(json!({"sid": "s-1"}), "admin", "one").await;
        stage.settled(&first).await;
        stage.server.advance(Duration::from_secs(5));
        let between = instant(&stage, -1);
        post(json!({"sub": "bob"}), "compromise", "two").await;
        let names = |items: Vec<Value>| items.into_iter().map(|item| item["correlation_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let list = async |query: &str| names(stage.provider.items(&format!("{LOGOUTS}?{query}")).await);
        assert_eq!(list("").await, ["two", "one"], "newest first");
        assert_eq!(list("state=settled").await, ["one"]);
        assert_eq!(list("state=delivering").await, ["two"]);
        assert_eq!(list("client_id=wiki").await, ["one"]);
        assert_eq!(list("reason=compromise").await, ["two"]);
        assert_eq!(list(&format!("since={between}")).await, ["two"]);
        assert_eq!(list(&format!("until={between}")).await, ["one"]);
        assert!(stage.provider.items(LOGOUTS).await[0].get("clients").is_none());
        let page = stage.provider.get(&format!("{LOGOUTS}?limit=1")).await.expect(200);
        let next = page["next"].as_str().unwrap();
        assert_eq!(list(&format!("limit=1&after={next}")).await, ["one"]);

        let search = async |body: Value| {
            let found = stage.provider.post("/v1/issuers/main/logouts/search", body).await.expect(200);
            names(found["items"].as_array().unwrap().clone())
        };
        assert_eq!(search(json!({"sub": "bob"})).await, ["two"]);
        assert_eq!(search(json!({"sid": "s-1"})).await, ["one"]);
        assert_eq!(search(json!({"correlation_id": "two"})).await, ["two"]);
        assert_eq!(search(json!({"actor": "desk-one"})).await, ["one"]);
        assert_eq!(search(json!({"actor": "desk"})).await, Vec::<String>::new());

        let deliveries = async |query: &str| {
            let items = stage.provider.items(&format!("/v1/issuers/main/deliveries?{query}")).await;
            items.into_iter().map(|item| item["client_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(deliveries("").await, ["hung", "wiki"]);
        assert_eq!(deliveries("state=delivered").await, ["wiki"]);
        assert_eq!(deliveries("state=pending").await, ["hung"]);
        assert_eq!(deliveries(&format!("since={between}")).await, ["hung"]);
        assert_eq!(deliveries(&format!("until={between}")).await, ["wiki"]);
        assert_eq!(deliveries("client_id=wiki&state=pending").await, Vec::<String>::new());

        // A provider sees the logouts it posted; who reads for all sees all of them.
        let somebody = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        assert!(somebody.items(LOGOUTS).await.is_empty());
        somebody.get(&format!("{LOGOUTS}/{}", first.as_str().unwrap())).await.problem(404, "unknown-logout");
        assert_eq!(stage.admin.items(LOGOUTS).await.len(), 2);
    }

    async fn a_logout_leaves_one_audit_record_and_a_repetition_none(database) {
        let stage = Stage::set(database).await;
        stage.party("wiki", json!({})).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let body = json!({"target": {"refresh_token": "rt-secret"}, "reason": "token_reuse", "actor": "guard"});
        for status in [201, 200] {
            stage.provider.post_with(LOGOUTS, ("Idempotency-Key", "k"), body.clone()).await.expect(status);
        }
        let logout = stage.provider.items(LOGOUTS).await.remove(0);
        let records = stage.admin.items("/v1/audit?act=logout_posted&issuer=main").await;
        let [record] = &records[..] else { panic!("one record: {records:?}") };
        assert_eq!((&record["logout"], &record["role"], &record["actor"]), (&logout["id"], &json!("provider"), &json!("guard")));
        assert_eq!((&record["remote"], &record["issuer"]), (&json!("127.0.0.1"), &json!("main")));
        let minted = stage.admin.items("/v1/api-tokens").await;
        assert_eq!(record["caller"], minted[0]["id"], "the caller's identity, never its token");
        assert!(!records[0].to_string().contains("rt-secret"));
    }

    async fn each_relying_party_is_told_with_the_names_it_saw_itself(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        let login = json!({"sub": "alice", "participants": [
            {"client_id": "wiki", "sid": "w-1", "sub": "pairwise-wiki"}, {"client_id": "wiki", "sid": "w-2", "sub": "pairwise-wiki"},
            {"client_id": "shop", "sid": "p-1", "sub": "pairwise-shop"},
        ]});
        stage.provider.put("/v1/issuers/main/sessions/s-1", login).await.expect(201);
        let receipt = stage.logout(json!({"sub": "alice"})).await;
        stage.settled(&receipt["id"]).await;
        let heard = |party: &Party| party.calls().iter().map(|call| (call.claim("sub"), call.claim("sid"))).collect::<Vec<_>>();
        let mut at_wiki = heard(&wiki);
        at_wiki.sort_by_key(|(_, sid)| sid.to_string());
        assert_eq!(at_wiki, [(json!("pairwise-wiki"), json!("w-1")), (json!("pairwise-wiki"), json!("w-2"))]);
        assert_eq!(heard(&shop), [(json!("pairwise-shop"), json!("p-1"))]);
    }
}
