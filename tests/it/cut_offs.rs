//! Cut-offs by order: whatever was issued before is inactive at the next question, nobody is logged out, and it ceases when it is said to.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::database::on_both_engines;
use crate::harness::server::{Server, Stage};

const CUT_OFFS: &str = "/v1/issuers/main/cut-offs";
const TOKENS: &str = "/v1/issuers/main/refresh-tokens";

/// So many seconds before now, by the server's clock; negative for after.
fn ago(stage: &Stage, seconds: i64) -> String {
    logoutd::model::Timestamp::from_seconds(stage.server.clock.now().seconds() - seconds).to_string()
}

/// Alice and bob at two clients, with tokens issued a minute ago, one of them with `offline_access`.
async fn signed_in(stage: &Stage) {
    for client in ["wiki", "shop"] {
        stage.party(client, json!({})).await;
    }
    for (sid, sub) in [("s-1", "alice"), ("s-2", "bob")] {
        let body = json!({"sub": sub, "started_at": ago(stage, 60), "participants": [{"client_id": "wiki"}, {"client_id": "shop"}]});
        stage.provider.put(&format!("/v1/issuers/main/sessions/{sid}"), body).await.expect(201);
        for client in ["wiki", "shop"] {
            let token = json!({"sid": sid, "client_id": client, "token": format!("{sub}-{client}"), "issued_at": ago(stage, 60)});
            stage.provider.post(TOKENS, token).await.expect(201);
        }
    }
    let offline = json!({"sid": "s-1", "client_id": "wiki", "token": "alice-offline", "issued_at": ago(stage, 60), "offline_access": true});
    stage.provider.post(TOKENS, offline).await.expect(201);
}

const ALL: [&str; 5] = ["alice-wiki", "alice-shop", "alice-offline", "bob-wiki", "bob-shop"];

async fn active(stage: &Stage) -> Vec<&'static str> {
    let mut active = Vec::new();
    for token in ALL {
        let answer = stage.provider.introspect(token).await;
        if answer["active"] == true {
            active.push(token);
        } else {
            assert_eq!(answer, json!({"active": false}), "why is told to nobody");
        }
    }
    active
}

async fn ordered(stage: &Stage, body: Value) -> Value {
    stage.admin.post(CUT_OFFS, body).await.expect(201)
}

on_both_engines! {
    async fn each_scope_takes_the_tokens_it_names_and_no_others(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        assert_eq!(active(&stage).await, ALL);
        for (scope, left) in [
            (json!({"sub": "alice"}), vec!["bob-wiki", "bob-shop"]),
            (json!({"client_id": "wiki"}), vec!["alice-shop", "bob-shop"]),
            (json!({"sub": "alice", "client_id": "wiki"}), vec!["alice-shop", "bob-wiki", "bob-shop"]),
            // One with `offline_access` hangs on no session.
            (json!({"sid": "s-1"}), vec!["alice-offline", "bob-wiki", "bob-shop"]),
            (json!({"everyone": true}), vec![]),
        ] {
            let cut_off = ordered(&stage, json!({"scope": scope, "not_before": ago(&stage, 0)})).await;
            assert_eq!((&cut_off["scope"], &cut_off["expires_at"]), (&scope, &Value::Null), "{cut_off}");
            assert_eq!(active(&stage).await, left, "{scope}");
            stage.admin.delete(&format!("{CUT_OFFS}/{}", cut_off["id"].as_str().unwrap())).await.expect(204);
            assert_eq!(active(&stage).await, ALL, "{scope} removed");
        }
        assert_eq!(stage.admin.items("/v1/issuers/main/logouts").await, Vec::<Value>::new(), "no logout");
        assert_eq!(stage.admin.items("/v1/issuers/main/deliveries").await, Vec::<Value>::new(), "nobody is told");
    }

    async fn what_is_issued_since_is_good_and_a_login_reported_since_is_no_late_joiner(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        ordered(&stage, json!({"scope": {"everyone": true}, "not_before": ago(&stage, 30)})).await;
        assert_eq!(active(&stage).await, Vec::<&str>::new());
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!(session["state"], "live");
        // The old session gets new tokens.
        let token = json!({"sid": "s-1", "client_id": "wiki", "token": "rt-new", "issued_at": ago(&stage, 0)});
        stage.provider.post(TOKENS, token).await.expect(201);
        assert_eq!(stage.provider.introspect("rt-new").await["active"], true);
        // One that began before and is reported now goes on.
        let late = json!({"sub": "carol", "started_at": ago(&stage, 60), "participants": [{"client_id": "wiki"}]});
        let reported = stage.provider.put("/v1/issuers/main/sessions/s-3", late).await.expect(201);
        assert_eq!((&reported["state"], &reported["participants"][0]["state"]), (&json!("live"), &json!("live")), "{reported}");
        assert_eq!(stage.admin.items("/v1/issuers/main/deliveries").await, Vec::<Value>::new());
    }

    async fn it_ceases_when_it_is_said_to_and_a_later_one_that_ceases_does_not_hide_an_earlier_one(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        ordered(&stage, json!({"scope": {"sub": "alice"}, "not_before": ago(&stage, 30), "expires_at": ago(&stage, -600)})).await;
        ordered(&stage, json!({"scope": {"sub": "alice"}, "not_before": ago(&stage, 10), "expires_at": ago(&stage, -60)})).await;
        ordered(&stage, json!({"scope": {"sub": "bob"}, "not_before": ago(&stage, 10), "expires_at": ago(&stage, -60)})).await;
        assert_eq!(active(&stage).await, Vec::<&str>::new());
        stage.server.advance(Duration::from_secs(61));
        assert_eq!(active(&stage).await, ["bob-wiki", "bob-shop"]);
        let listed = stage.admin.items(CUT_OFFS).await;
        assert!(listed.len() == 1 && listed[0]["scope"] == json!({"sub": "alice"}), "what is over is not listed: {listed:?}");
        stage.server.advance(Duration::from_secs(600));
        assert_eq!(active(&stage).await, ALL);
    }

    async fn those_that_logouts_left_are_neither_listed_nor_removed_here(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        stage.logout(json!({"sub": "alice"})).await;
        let before = stage.server.clock.now();
        for sub in ["bob", "carol", "dave"] {
            stage.server.advance(Duration::from_millis(5));
            ordered(&stage, json!({"scope": {"sub": sub}, "not_before": before.to_string()})).await;
        }
        let first = stage.admin.get(&format!("{CUT_OFFS}?limit=2")).await.expect(200);
        let rest = stage.admin.get(&format!("{CUT_OFFS}?limit=2&after={}", first["next"].as_str().unwrap())).await.expect(200);
        let subs: Vec<&str> = [&first, &rest].iter().flat_map(|page| page["items"].as_array().unwrap()).map(|one| one["scope"]["sub"].as_str().unwrap()).collect();
        assert_eq!((subs, &rest["next"]), (vec!["dave", "carol", "bob"], &Value::Null));
        stage.admin.delete(&format!("{CUT_OFFS}/nonsense")).await.problem(404, "unknown-cut-off");
        let own = format!("{CUT_OFFS}/{}", rest["items"][0]["id"].as_str().unwrap());
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        stage.admin.delete(&own.replace("/main/", "/other/")).await.problem(404, "unknown-cut-off");
        stage.admin.delete(&own).await.expect(204);
        stage.admin.delete(&own).await.problem(404, "unknown-cut-off");
        let acts = stage.admin.items("/v1/audit?act=cut_off_ordered").await;
        assert!(acts.len() == 3 && acts[2]["detail"]["scope"] == json!({"sub": "bob"}), "{acts:?}");
        assert_eq!(stage.admin.items("/v1/audit?act=cut_off_lifted").await.len(), 1);
    }

    async fn many_people_are_cut_off_by_who_may_end_as_many_and_removed_by_who_may_undo(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let plain = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let operator = stage.admin.mint(json!({"role": "operator"})).await;
        let order = async |caller: &Api, scope: Value| caller.post(CUT_OFFS, json!({"scope": scope, "not_before": ago(&stage, 30)})).await;
        for scope in [json!({"client_id": "wiki"}), json!({"everyone": true})] {
            order(&plain, scope.clone()).await.problem(403, "forbidden");
            assert_eq!(active(&stage).await, ALL);
            for caller in [&stage.provider, &operator] {
                let id = order(caller, scope.clone()).await.expect(201)["id"].clone();
                stage.provider.delete(&format!("{CUT_OFFS}/{}", id.as_str().unwrap())).await.problem(403, "forbidden");
                operator.delete(&format!("{CUT_OFFS}/{}", id.as_str().unwrap())).await.expect(204);
            }
        }
        for scope in [json!({"sub": "alice"}), json!({"sid": "s-2"}), json!({"sub": "bob", "client_id": "shop"})] {
            order(&plain, scope).await.expect(201);
        }
        assert_eq!(active(&stage).await, Vec::<&str>::new());
    }

    async fn an_order_that_cannot_be_meant_is_refused_with_the_member_at_fault(database) {
        let stage = Stage::set(database).await;
        let place = async |body: Value| {
            let problem = stage.admin.post(CUT_OFFS, body).await.problem(422, "invalid-field");
            problem["errors"][0]["pointer"].as_str().unwrap().to_owned()
        };
        let now = ago(&stage, 0);
        for scope in [json!({}), json!({"sub": "a", "sid": "s"}), json!({"client_id": "c", "sid": "s"}), json!({"everyone": true, "sub": "a"})] {
            assert_eq!(place(json!({"scope": scope, "not_before": now})).await, "/scope", "{scope}");
        }
        assert_eq!(place(json!({"scope": {"everyone": false}, "not_before": now})).await, "/scope/everyone");
        assert_eq!(place(json!({"scope": {"sub": "a"}})).await, "/not_before");
        assert_eq!(place(json!({"scope": {"sub": "a"}, "not_before": ago(&stage, -90)})).await, "/not_before");
        assert_eq!(place(json!({"scope": {"sub": "a"}, "not_before": now, "expires_at": now})).await, "/expires_at");
        ordered(&stage, json!({"scope": {"sub": "a"}, "not_before": ago(&stage, -50)})).await;
        assert_eq!(stage.admin.items(CUT_OFFS).await.len(), 1);
    }

    async fn a_thousand_hold_and_one_more_only_when_one_is_gone(database) {
        let stage = Stage::on(Server::start(database).await, &["ES256"]).await;
        let order = |number: usize| json!({"scope": {"sub": format!("u-{number}")}, "not_before": ago(&stage, 0)});
        let mut last = Value::Null;
        for number in 0..1000 {
            last = ordered(&stage, order(number)).await;
        }
        stage.admin.post(CUT_OFFS, order(1000)).await.problem(409, "too-many-cut-offs");
        stage.admin.delete(&format!("{CUT_OFFS}/{}", last["id"].as_str().unwrap())).await.expect(204);
        ordered(&stage, order(1000)).await;
        stage.admin.post(CUT_OFFS, order(1001)).await.problem(409, "too-many-cut-offs");
    }
}
