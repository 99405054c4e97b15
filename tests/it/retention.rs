//! What is forgotten, and what must not be: in small steps, whole, and never while somebody could still ask.

use std::time::Duration;

use logoutd::model::Timestamp;
use logoutd::store::Keep;
use logoutd::upkeep::{Step, Tools, retention};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _};

use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::Reply;
use crate::harness::server::{DAY, Stage};
use crate::harness::until;

const SESSIONS: &str = "/v1/issuers/main/sessions";
const LOGOUTS: &str = "/v1/issuers/main/logouts";
const TOKENS: &str = "/v1/issuers/main/refresh-tokens";

fn instant(stage: &Stage, seconds: i64) -> String {
    Timestamp::from_seconds(stage.server.clock.now().seconds() + seconds).to_string()
}

/// Runs the chore until it finds nothing.
async fn sweep(tools: &Tools) {
    while retention::step(tools).await.unwrap() == Step::More {}
}

async fn gone(stage: &Stage, id: &Value) {
    stage.admin.get(&format!("{LOGOUTS}/{}", id.as_str().unwrap())).await.problem(404, "unknown-logout");
}

/// The receipt of what was forgotten and is told once more: it is nobody's own.
async fn settled_again(stage: &Stage, id: &Value) -> Value {
    until("who is late is told", || async {
        let answer = stage.admin.get(&format!("{LOGOUTS}/{}", id.as_str().unwrap())).await;
        (answer.body["state"] == "settled").then_some(answer.body)
    })
    .await
}

/// A statement beside the server.
async fn execute(database: &Database, sql: &'static str) -> u64 {
    match database.engine {
        Engine::Sqlite => sqlx::SqliteConnection::connect(&database.url).await.unwrap().execute(sql).await.unwrap().rows_affected(),
        Engine::Postgres => sqlx::PgConnection::connect(&database.url).await.unwrap().execute(sql).await.unwrap().rows_affected(),
    }
}

on_both_engines! {
    async fn twenty_thousand_settled_deliveries_are_forgotten_in_small_steps_while_logouts_go_on(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let crowd: Vec<_> = (0..1000).map(|n| json!({"client_id": format!("c-{n}")})).collect();
        let mut old = Vec::new();
        for n in 0..20 {
            stage.provider.put(&format!("{SESSIONS}/s-{n}"), json!({"sub": format!("p-{n}"), "participants": crowd})).await.expect(201);
            let receipt = stage.logout(json!({"sid": format!("s-{n}")})).await;
            assert_eq!(receipt["deliveries"]["unreachable"], 1000);
            old.push(receipt["id"].clone());
        }
        stage.login("s-small", "alice", &["wiki"]).await;
        let small = stage.logout(json!({"sid": "s-small"})).await["id"].clone();
        stage.settled(&small).await;
        let tools = stage.server.tools();
        sweep(&tools).await;
        assert_eq!(tools.store.census().await.unwrap().enqueued, 20_001);

        stage.server.advance(31 * DAY);
        let (mut steps, mut fresh) = (0, Vec::new());
        loop {
            let rows = tools.store.forget_logouts(tools.keep).await.unwrap();
            assert!(rows <= 500, "{rows} rows in one step");
            steps += 1;
            if fresh.len() < 20 {
                let sid = format!("f-{}", fresh.len());
                stage.login(&sid, "bob", &["wiki", "c-1"]).await;
                fresh.push(stage.logout(json!({"sid": sid})).await["id"].clone());
                let census = tools.store.census().await.unwrap();
                assert_eq!(census.enqueued - census.forgotten, census.by_state.iter().map(|(_, count)| count).sum::<u64>());
            }
            if rows == 0 {
                break;
            }
        }
        assert!(steps > 40, "{steps} steps");
        for id in old.iter().chain([&small]) {
            gone(&stage, id).await;
        }
        for id in &fresh {
            let receipt = stage.settled(id).await;
            assert_eq!((&receipt["deliveries"]["delivered"], &receipt["deliveries"]["unreachable"]), (&json!(1), &json!(1)), "{receipt}");
        }
        let census = tools.store.census().await.unwrap();
        assert_eq!((census.enqueued, census.forgotten), (20_041, 20_001));
        assert_eq!(wiki.calls().len(), 21);
        assert_eq!(execute(database, "DELETE FROM attempts WHERE delivery_id NOT IN (SELECT id FROM deliveries)").await, 0);
    }

    async fn a_logout_that_somebody_has_still_to_hear_of_stays_whole(database) {
        let stage = Stage::set(database).await;
        let (wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({"delivery": {"horizon_s": 20 * 24 * 3600}})).await);
        shop.always(Reply::Status(503));
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let id = stage.logout(json!({"sub": "alice"})).await["id"].clone();
        // A later logout waits for what the first one wrote.
        let later = stage.logout(json!({"sub": "alice"})).await;
        assert!(later["deliveries"]["adopted"].as_u64().unwrap() >= 1, "{later}");
        until("wiki has heard", || async { (stage.receipt(&id).await["deliveries"]["delivered"] == 1).then_some(()) }).await;
        let tools = Tools { keep: Keep { settled: DAY, ..stage.server.tools().keep }, ..stage.server.tools() };
        stage.server.advance(3 * DAY);
        sweep(&tools).await;
        let receipt = stage.receipt(&id).await;
        assert_eq!((&receipt["deliveries"]["total"], &receipt["deliveries"]["pending"]), (&json!(2), &json!(1)), "{receipt}");
        assert_eq!(stage.receipt(&later["id"]).await["deliveries"]["adopted"], 1);

        shop.always(Reply::Status(200));
        stage.server.advance(Duration::from_hours(5));
        stage.settled(&id).await;
        sweep(&tools).await;
        assert_eq!(stage.receipt(&id).await["deliveries"]["delivered"], 2);
        stage.server.advance(2 * DAY);
        sweep(&tools).await;
        gone(&stage, &id).await;
        gone(&stage, &later["id"]).await;
        assert!(stage.admin.items("/v1/issuers/main/deliveries").await.is_empty());
        assert_eq!(wiki.calls().len(), 1);
    }

    async fn an_ended_session_is_forgotten_after_its_logout_and_its_cut_off_after_both(database) {
        let stage = Stage::set(database).await;
        let wiki = stage.party("wiki", json!({})).await;
        let began = instant(&stage, -3600);
        let login = json!({"sub": "alice", "started_at": began, "aliases": ["email:a@example.org"], "participants": [{"client_id": "wiki"}]});
        stage.provider.put(&format!("{SESSIONS}/s-1"), login.clone()).await.expect(201);
        stage.provider.put(&format!("{SESSIONS}/s-2"), json!({"sub": "bob", "expires_at": instant(&stage, 365 * 24 * 3600)})).await.expect(201);
        let id = stage.logout(json!({"sub": "alice"})).await["id"].clone();
        stage.settled(&id).await;
        let tools = stage.server.tools();
        stage.server.advance(29 * DAY);
        sweep(&tools).await;
        assert_eq!(stage.receipt(&id).await["deliveries"]["delivered"], 1);
        stage.server.advance(2 * DAY);
        sweep(&tools).await;
        gone(&stage, &id).await;
        stage.provider.get(&format!("{SESSIONS}/s-1")).await.problem(404, "unknown-session");
        let found = stage.provider.post(&format!("{SESSIONS}/search"), json!({"alias": "email:a@example.org"})).await.expect(200);
        assert!(found["items"].as_array().unwrap().is_empty(), "{found}");
        assert_eq!(stage.provider.get(&format!("{SESSIONS}/s-2")).await.expect(200)["state"], "live");
        assert_eq!(execute(database, "DELETE FROM participants WHERE session_id NOT IN (SELECT id FROM sessions)").await, 0);

        // What the logout covered is still covered, and who is late is still told: the record is written again as far as it is known.
        assert_eq!(stage.provider.put(&format!("{SESSIONS}/s-1"), login.clone()).await.expect(201)["state"], "ended");
        let receipt = settled_again(&stage, &id).await;
        assert_eq!((&receipt["target"], &receipt["deliveries"]["late_joiners"]), (&json!({"forgotten": true}), &json!(1)), "{receipt}");
        assert_eq!(wiki.calls().len(), 2);

        stage.server.advance(62 * DAY);
        sweep(&tools).await;
        let login = json!({"sub": "alice", "started_at": began, "expires_at": instant(&stage, 3600)});
        assert_eq!(stage.provider.put(&format!("{SESSIONS}/s-1"), login).await.expect(201)["state"], "live");
        gone(&stage, &id).await;
    }

    async fn an_offline_grant_outlives_its_session_s_row_and_dies_with_its_subject(database) {
        let stage = Stage::set(database).await;
        let participants = json!([{"client_id": "wiki", "refresh_token": {"token": "rt-offline", "offline_access": true}}, {"client_id": "shop", "refresh_token": {"token": "rt"}}]);
        stage.provider.put(&format!("{SESSIONS}/s-1"), json!({"sub": "alice", "participants": participants})).await.expect(201);
        stage.logout(json!({"sid": "s-1"})).await;
        let tools = stage.server.tools();
        stage.server.advance(62 * DAY);
        sweep(&tools).await;
        stage.provider.get(&format!("{SESSIONS}/s-1")).await.problem(404, "unknown-session");
        assert_eq!(stage.provider.introspect("rt-offline").await["active"], true);
        assert_eq!(stage.provider.introspect("rt").await, json!({"active": false}));
        stage.provider.post(LOGOUTS, json!({"target": {"sub": "alice"}, "reason": "compromise"})).await.expect(201);
        assert_eq!(stage.provider.introspect("rt-offline").await, json!({"active": false}));
    }

    async fn expired_tokens_and_used_keys_are_forgotten_in_their_time(database) {
        let stage = Stage::set(database).await;
        let tools = stage.server.tools();
        let token = |sub: &str, expires: i64| json!({"sub": sub, "client_id": "wiki", "token": "rt-1", "expires_at": instant(&stage, expires)});
        stage.provider.post(TOKENS, token("alice", 3600)).await.expect(201);
        let post = async |body| stage.provider.post_with(LOGOUTS, ("Idempotency-Key", "k"), body).await;
        let first = post(json!({"target": {"sid": "a"}, "reason": "admin"})).await.expect(201)["id"].clone();
        stage.server.advance(Duration::from_hours(23));
        sweep(&tools).await;
        post(json!({"target": {"sid": "b"}, "reason": "admin"})).await.problem(422, "idempotency-key-reused");
        stage.provider.post(TOKENS, token("bob", 3600)).await.problem(409, "other-owner");
        stage.server.advance(Duration::from_hours(3));
        sweep(&tools).await;
        assert_ne!(post(json!({"target": {"sid": "b"}, "reason": "admin"})).await.expect(201)["id"], first);
        assert_eq!(stage.receipt(&first).await["state"], "settled");
        stage.provider.post(TOKENS, token("bob", 3600)).await.expect(201);
    }

    async fn done_works_lost_replicas_and_silent_lanes_are_forgotten_and_others_are_not(database) {
        let stage = Stage::set(database).await;
        let tools = stage.server.tools();
        for sql in [
            "INSERT INTO works (id, kind, issuer_id, plan, position, created_at, done_at) VALUES ('done', 'expand', 'main', '{}', '', 1, 2)",
            "INSERT INTO works (id, kind, issuer_id, plan, position, created_at) VALUES ('open', 'expand', 'main', '{}', '', 1)",
            "INSERT INTO work_items (work_id, number, items) VALUES ('done', 0, '[]'), ('done', 1, '[]'), ('open', 0, '[]')",
            "INSERT INTO replicas (id, seen_at) VALUES ('lost', 1), ('here', 99999999999999)",
            "INSERT INTO lanes (lane, closed_at) VALUES ('silent', 5)",
            "INSERT INTO lanes (lane, paused_at) VALUES ('paused', 5)",
        ] {
            execute(database, sql).await;
        }
        sweep(&tools).await;
        for (sql, left) in [
            ("DELETE FROM work_items WHERE work_id = 'done'", 0),
            ("DELETE FROM works WHERE id = 'done'", 0),
            ("DELETE FROM work_items WHERE work_id = 'open'", 1),
            ("DELETE FROM works WHERE id = 'open'", 1),
            ("DELETE FROM replicas WHERE id = 'lost'", 0),
            ("DELETE FROM replicas WHERE id = 'here'", 1),
            ("DELETE FROM lanes WHERE lane = 'silent'", 0),
            ("DELETE FROM lanes WHERE lane = 'paused'", 1),
        ] {
            assert_eq!(execute(database, sql).await, left, "{sql}");
        }
    }

    async fn what_tokens_left_is_forgotten_when_it_says_nothing_any_more_and_not_before(database) {
        let stage = Stage::set(database).await;
        let tools = stage.server.tools();
        stage.register("wiki", "http://127.0.0.1:1/", json!({"tokens": {"newest_only": true, "grace_s": 60}})).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let soon = instant(&stage, 3600);
        let post = async |path: &str, body: Value| {
            let answer = stage.admin.post(&format!("/v1/issuers/main/{path}"), body).await;
            assert!(answer.is_success(), "{path} {answer:?}");
        };
        post("refresh-tokens", json!({"sid": "s-1", "client_id": "wiki", "token": "rt-1"})).await;
        post("refresh-tokens/rotate", json!({"client_id": "wiki", "token": "rt-1", "successor": "rt-2"})).await;
        post("access-tokens", json!({"sid": "s-1", "client_id": "wiki", "token": "at-1", "expires_at": soon})).await;
        post("denylist", json!({"jti": "at-9", "expires_at": soon})).await;
        post("cut-offs", json!({"scope": {"sub": "bob"}, "not_before": instant(&stage, 0), "expires_at": soon})).await;
        post("cut-offs", json!({"scope": {"sub": "carol"}, "not_before": instant(&stage, 0)})).await;
        let rows = async || {
            let mut counts = Vec::new();
            for sql in [
                "DELETE FROM access_tokens WHERE 1 = 0 OR name IS NOT NULL",
                "DELETE FROM denylist WHERE name IS NOT NULL",
                "DELETE FROM cut_offs WHERE ordered AND expires_at IS NOT NULL",
                "UPDATE refresh_tokens SET sealed = NULL WHERE sealed IS NOT NULL",
            ] {
                counts.push(execute(database, sql).await);
            }
            counts
        };
        // While it may be asked about, all of it stays; what a grace kept goes with the grace.
        sweep(&tools).await;
        assert_eq!(stage.provider.introspect("at-1").await["active"], true);
        stage.server.advance(Duration::from_secs(7200));
        sweep(&tools).await;
        stage.server.advance(2 * DAY);
        sweep(&tools).await;
        assert_eq!(rows().await, [0, 0, 0, 0]);
        // A token that was replaced is remembered, so that its reuse is noticed, and a cut-off without an end stays.
        assert_eq!(stage.admin.get("/v1/issuers/main/cut-offs").await.expect(200)["items"].as_array().unwrap().len(), 1);
        stage.admin.post("/v1/issuers/main/refresh-tokens/rotate", json!({"client_id": "wiki", "token": "rt-1", "successor": "rt-3"})).await.expect(400);
        assert_eq!(stage.provider.introspect("rt-2").await["active"], false, "a reuse ends the family, two days later too");
    }
}
