//! The denylist: a token by its `jti`, or all of a session's by its `sid`, are refused from the answer on until they would have expired.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::database::on_both_engines;
use crate::harness::server::Stage;

const DENYLIST: &str = "/v1/issuers/main/denylist";
const TOKENS: &str = "/v1/issuers/main/refresh-tokens";

/// So many seconds from now, by the server's clock.
fn ahead(stage: &Stage, seconds: u64) -> String {
    stage.server.clock.now().plus(Duration::from_secs(seconds)).to_string()
}

/// Alice at the wiki as `s-1`, with two tokens that are known by their `jti`.
async fn signed_in(stage: &Stage) {
    stage.party("wiki", json!({})).await;
    stage.login("s-1", "alice", &["wiki"]).await;
    for jti in ["jti-1", "jti-2"] {
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "wiki", "jti": jti})).await.expect(201);
    }
}

async fn is_active(stage: &Stage, jti: &str) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let token = format!("{}.{}.c2ln", part(json!({"alg": "RS256"})), part(json!({"jti": jti})));
    let answer = stage.provider.introspect(&token).await;
    assert!(answer["active"] == true || answer == json!({"active": false}), "{answer}");
    answer["active"] == true
}

on_both_engines! {
    async fn a_jti_on_the_list_is_inactive_at_the_next_question_and_its_neighbour_is_not(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        assert!(is_active(&stage, "jti-1").await);
        let expires_at = ahead(&stage, 600);
        let denial = stage.provider.post(DENYLIST, json!({"jti": "jti-1", "expires_at": expires_at})).await.expect(201);
        assert_eq!((&denial["jti"], &denial["expires_at"], denial.get("sid")), (&json!("jti-1"), &json!(expires_at), None), "{denial}");
        assert!(!is_active(&stage, "jti-1").await);
        assert!(is_active(&stage, "jti-2").await);
        assert_eq!(stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200)["state"], "live", "nothing ends");
        assert_eq!(stage.admin.items("/v1/issuers/main/deliveries").await, Vec::<Value>::new(), "nobody is told");
    }

    async fn a_sid_on_the_list_takes_all_tokens_of_its_session_along(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        stage.login("s-2", "bob", &["wiki"]).await;
        stage.provider.post(TOKENS, json!({"sid": "s-2", "client_id": "wiki", "token": "rt-of-bob"})).await.expect(201);
        stage.provider.post(DENYLIST, json!({"sid": "s-1", "expires_at": ahead(&stage, 600)})).await.expect(201);
        assert!(!is_active(&stage, "jti-1").await && !is_active(&stage, "jti-2").await);
        assert_eq!(stage.provider.introspect("rt-of-bob").await["active"], true);
    }

    async fn an_entry_ends_by_its_expiry_and_of_two_the_later_one_holds(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let (sooner, later) = (ahead(&stage, 60), ahead(&stage, 120));
        let first = stage.provider.post(DENYLIST, json!({"jti": "jti-1", "expires_at": later})).await.expect(201);
        let again = stage.provider.post(DENYLIST, json!({"jti": "jti-1", "expires_at": sooner})).await.expect(200);
        assert_eq!((&again["id"], &again["expires_at"]), (&first["id"], &json!(later)));
        stage.provider.post(DENYLIST, json!({"jti": "jti-2", "expires_at": sooner})).await.expect(201);
        let longer = stage.provider.post(DENYLIST, json!({"jti": "jti-2", "expires_at": later})).await.expect(200);
        assert_eq!(longer["expires_at"], json!(later));
        stage.server.advance(Duration::from_secs(90));
        assert!(!is_active(&stage, "jti-1").await && !is_active(&stage, "jti-2").await);
        assert_eq!(stage.admin.items(DENYLIST).await.len(), 2);
        stage.server.advance(Duration::from_secs(31));
        assert!(is_active(&stage, "jti-1").await && is_active(&stage, "jti-2").await);
        assert_eq!(stage.admin.items(DENYLIST).await, Vec::<Value>::new(), "what is over is not listed");
        let denied = stage.admin.items("/v1/audit?act=token_denied").await;
        assert_eq!(denied.len(), 3, "what changed nothing is not on record: {denied:?}");
    }

    async fn an_entry_is_taken_off_by_who_may_undo_and_is_then_as_if_it_had_never_been(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let denial = stage.provider.post(DENYLIST, json!({"jti": "jti-1", "expires_at": ahead(&stage, 600)})).await.expect(201);
        let path = format!("{DENYLIST}/{}", denial["id"].as_str().unwrap());
        stage.provider.delete(&path).await.problem(403, "forbidden");
        assert!(!is_active(&stage, "jti-1").await);
        stage.admin.delete(&path).await.expect(204);
        assert!(is_active(&stage, "jti-1").await);
        stage.admin.delete(&path).await.problem(404, "unknown-denial");
        stage.admin.delete(&format!("{DENYLIST}/nonsense")).await.problem(404, "unknown-denial");
        let lifted = stage.admin.items("/v1/audit?act=denial_lifted").await;
        assert!(lifted.len() == 1 && lifted[0]["detail"]["denial"] == denial["id"], "{lifted:?}");
    }

    async fn the_list_has_pages_and_is_of_its_issuer_alone(database) {
        let stage = Stage::set(database).await;
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        for number in 0..5 {
            stage.provider.post(DENYLIST, json!({"jti": format!("jti-{number}"), "expires_at": ahead(&stage, 600)})).await.expect(201);
            stage.server.advance(Duration::from_millis(5));
        }
        let elsewhere = stage.admin.post("/v1/issuers/other/denylist", json!({"jti": "jti-0", "expires_at": ahead(&stage, 600)})).await.expect(201);
        stage.admin.delete(&format!("{DENYLIST}/{}", elsewhere["id"].as_str().unwrap())).await.problem(404, "unknown-denial");
        let (mut seen, mut path) = (Vec::new(), format!("{DENYLIST}?limit=2"));
        loop {
            let page = stage.admin.get(&path).await.expect(200);
            seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["jti"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("{DENYLIST}?limit=2&after={next}");
        }
        assert_eq!(seen, ["jti-4", "jti-3", "jti-2", "jti-1", "jti-0"]);
        assert_eq!(stage.admin.items("/v1/issuers/other/denylist").await.len(), 1);
    }
}
