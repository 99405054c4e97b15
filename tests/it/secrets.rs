//! Secrets of subjects: the provider's alone, the same until a compromise or a word of the provider's, and another one in the same transaction.

use serde_json::{Value, json};

use crate::harness::database::on_both_engines;
use crate::harness::server::Stage;
use crate::harness::until;

const SECRET: &str = "/v1/issuers/main/subjects/secret";
const BUMP: &str = "/v1/issuers/main/subjects/secret/bump";
const LOGOUTS: &str = "/v1/issuers/main/logouts";

async fn opted_in(stage: &Stage) {
    stage.admin.patch("/v1/issuers/main", json!({"subject_secrets": true})).await.expect(200);
}

/// Which version a subject's secret has, and what it is.
async fn secret(stage: &Stage, sub: &str) -> (u64, String) {
    let answer = stage.provider.post(SECRET, json!({"sub": sub})).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    read(&answer.expect(200))
}

fn read(body: &Value) -> (u64, String) {
    (body["version"].as_u64().unwrap(), body["secret"].as_str().unwrap().to_owned())
}

async fn version(stage: &Stage, sub: &str) -> u64 {
    secret(stage, sub).await.0
}

async fn compromised(stage: &Stage, target: Value) -> Value {
    let answer = stage.provider.post(LOGOUTS, json!({"target": target, "reason": "compromise"})).await;
    assert!(answer.is_success(), "{answer:?}");
    answer.body
}

on_both_engines! {
    async fn a_subject_has_one_secret_until_it_is_changed_and_nobody_else_has_it(database) {
        let stage = Stage::set(database).await;
        opted_in(&stage).await;
        let alice = secret(&stage, "alice").await;
        assert_eq!((alice.0, alice.1.len()), (1, 43));
        assert_eq!(secret(&stage, "alice").await, alice, "as often as it is asked for");
        assert_ne!(secret(&stage, "bob").await.1, alice.1);
        let changed = read(&stage.provider.post(BUMP, json!({"sub": "alice"})).await.expect(200));
        assert_eq!(changed.0, 2);
        assert_ne!(changed.1, alice.1);
        assert_eq!(secret(&stage, "alice").await, changed);
        assert_eq!(version(&stage, "bob").await, 1);
        let acts = stage.admin.items("/v1/audit?act=subject_secret_bumped").await;
        assert!(acts.len() == 1 && acts[0]["detail"]["sub"] == "alice" && !acts[0].to_string().contains(&changed.1), "{acts:?}");
    }

    async fn without_the_issuer_s_choice_there_are_none(database) {
        let stage = Stage::set(database).await;
        for path in [SECRET, BUMP] {
            stage.provider.post(path, json!({"sub": "alice"})).await.problem(404, "no-subject-secrets");
        }
        opted_in(&stage).await;
        assert_eq!(version(&stage, "alice").await, 1);
    }

    async fn nobody_but_the_provider_learns_one_not_even_an_administrator(database) {
        let stage = Stage::set(database).await;
        opted_in(&stage).await;
        let operator = stage.admin.mint(json!({"role": "operator", "issuer": "main"})).await;
        let minted = stage.admin.mint(json!({"role": "admin"})).await;
        for caller in [&stage.admin, &minted, &operator] {
            for path in [SECRET, BUMP] {
                caller.post(path, json!({"sub": "alice"})).await.problem(403, "forbidden");
            }
        }
    }

    async fn a_compromise_that_ends_sessions_changes_the_secrets_of_their_people_once(database) {
        let stage = Stage::set(database).await;
        opted_in(&stage).await;
        let _wiki = stage.party("wiki", json!({})).await;
        for (sid, sub) in [("s-1", "alice"), ("s-2", "alice"), ("s-3", "bob")] {
            stage.login(sid, sub, &["wiki"]).await;
        }
        compromised(&stage, json!({"sub": "alice"})).await;
        assert_eq!((version(&stage, "alice").await, version(&stage, "bob").await), (2, 1));
        // Nothing of hers is known any more, and it is another compromise.
        compromised(&stage, json!({"sub": "alice", "except_sid": "s-9"})).await;
        assert_eq!(version(&stage, "alice").await, 3);
        compromised(&stage, json!({"sid": "s-3"})).await;
        assert_eq!((version(&stage, "alice").await, version(&stage, "bob").await), (3, 2));
        compromised(&stage, json!({"sid": "unknown"})).await;
        let device = json!({"sub": "carol", "device": {"id": "d-1"}, "participants": [{"client_id": "wiki"}]});
        stage.provider.put("/v1/issuers/main/sessions/s-4", device).await.expect(201);
        compromised(&stage, json!({"device_id": "d-1"})).await;
        assert_eq!(version(&stage, "carol").await, 2);
        assert_eq!((version(&stage, "alice").await, version(&stage, "bob").await), (3, 2));
    }

    async fn a_plain_logout_a_client_s_end_and_a_rehearsal_change_none(database) {
        let stage = Stage::set(database).await;
        opted_in(&stage).await;
        let _wiki = stage.party("wiki", json!({})).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        compromised(&stage, json!({"sub": "alice", "client_id": "wiki"})).await;
        compromised(&stage, json!({"client_id": "wiki"})).await;
        let rehearsal = json!({"target": {"sub": "alice"}, "reason": "compromise", "dry_run": true});
        stage.provider.post(LOGOUTS, rehearsal).await.expect(200);
        stage.logout(json!({"sub": "alice"})).await;
        assert_eq!(version(&stage, "alice").await, 1);
    }

    async fn a_compromise_of_everybody_changes_all_at_once_and_spares_who_is_spared(database) {
        let stage = Stage::set(database).await;
        opted_in(&stage).await;
        let _wiki = stage.party("wiki", json!({})).await;
        for (sid, sub) in [("s-1", "alice"), ("s-2", "bob")] {
            stage.login(sid, sub, &["wiki"]).await;
        }
        stage.provider.post(BUMP, json!({"sub": "bob"})).await.expect(200);
        let (alice, bob) = (secret(&stage, "alice").await, secret(&stage, "bob").await);
        let receipt = compromised(&stage, json!({"everyone": true, "except": {"sub": ["bob"]}})).await;
        assert_eq!(version(&stage, "alice").await, 2);
        assert_ne!(secret(&stage, "alice").await.1, alice.1);
        assert_eq!(secret(&stage, "bob").await, bob, "he keeps his to the letter");
        assert_eq!(version(&stage, "never seen").await, 2);
        stage.settled(&receipt["id"]).await;
        assert_eq!(version(&stage, "alice").await, 2, "the pages of the work do not change it again");
        compromised(&stage, json!({"everyone": true})).await;
        assert_eq!((version(&stage, "alice").await, version(&stage, "bob").await), (3, 3));
    }

    async fn a_compromise_of_more_than_a_thousand_sessions_changes_a_secret_with_the_commit_and_not_again(database) {
        let stage = Stage::set(database).await;
        opted_in(&stage).await;
        let sessions: Vec<Value> = (0..1000).map(|number| json!({"sid": format!("s-{number}"), "sub": "alice", "device": {"id": "kiosk"}})).collect();
        stage.provider.post("/v1/issuers/main/sessions", json!({"sessions": sessions})).await.expect(200);
        stage.provider.put("/v1/issuers/main/sessions/s-more", json!({"sub": "alice", "device": {"id": "kiosk"}})).await.expect(201);
        let receipt = compromised(&stage, json!({"sub": "alice"})).await;
        assert_eq!(version(&stage, "alice").await, 2);
        stage.settled(&receipt["id"]).await;
        assert_eq!(version(&stage, "alice").await, 2);
        let sessions: Vec<Value> = (0..1000).map(|number| json!({"sid": format!("t-{number}"), "sub": "carol", "device": {"id": "bar"}})).collect();
        stage.provider.post("/v1/issuers/main/sessions", json!({"sessions": sessions})).await.expect(200);
        stage.provider.put("/v1/issuers/main/sessions/t-more", json!({"sub": "carol", "device": {"id": "bar"}})).await.expect(201);
        let receipt = compromised(&stage, json!({"device_id": "bar"})).await;
        // Whose they are is found out page by page; each page is one event's.
        until("the pages have come to her", || async { (version(&stage, "carol").await == 2).then_some(()) }).await;
        stage.settled(&receipt["id"]).await;
        assert_eq!(version(&stage, "carol").await, 2);
    }
}
