//! Refresh tokens that are revoked here are revoked at their provider, too: by which request, as whom, how often, and what is kept of the token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::{Call, Party, Reply};
use crate::harness::server::{ISSUER, Stage};
use crate::harness::until;

const TOKENS: &str = "/v1/issuers/main/refresh-tokens";

/// A provider that answers 200 unless told otherwise, whose revocation endpoint is registered with whatever `more` says.
async fn provider(stage: &Stage, more: Value) -> Party {
    let provider = Party::open(&stage.server.base, "main", ISSUER, "provider").await;
    provider.always(Reply::Status(200));
    let mut revocation = json!({"endpoint": format!("http://{}/revoke", provider.address())});
    revocation.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    stage.admin.patch("/v1/issuers/main", json!({"revocation": revocation})).await.expect(200);
    provider
}

/// Alice at the wiki as `s-1`, with a token that is kept sealed.
async fn signed_in(stage: &Stage, token: &str) -> Party {
    let wiki = stage.party("wiki", json!({})).await;
    stage.login("s-1", "alice", &["wiki"]).await;
    registered(stage, json!({"sid": "s-1", "client_id": "wiki", "token": token, "sealed": true})).await;
    wiki
}

async fn registered(stage: &Stage, token: Value) {
    stage.provider.post(TOKENS, token).await.expect(201);
}

/// A logout by an administrator, who is not the provider.
async fn kill(stage: &Stage, more: Value) -> Value {
    let mut body = json!({"reason": "admin"});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let answer = stage.admin.post("/v1/issuers/main/logouts", body).await;
    assert!(answer.is_success(), "{answer:?}");
    answer.body
}

async fn finished(stage: &Stage, of: &Value) -> Value {
    let path = format!("/v1/issuers/main/logouts/{}", of["id"].as_str().unwrap());
    until("the logout is settled", || async {
        Some(stage.admin.get(&path).await.expect(200)).filter(|receipt| receipt["state"] == "settled")
    })
    .await
}

/// What the provider was to revoke, each with its attempts.
async fn revocations(stage: &Stage) -> Vec<Value> {
    let mut found = Vec::new();
    for one in stage.admin.items("/v1/issuers/main/deliveries?limit=1000").await {
        if one["kind"] == "revocation" {
            found.push(stage.admin.get(&format!("/v1/issuers/main/deliveries/{}", one["id"].as_str().unwrap())).await.expect(200));
        }
    }
    found
}

async fn only_revocation(stage: &Stage) -> Value {
    let found = revocations(stage).await;
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

async fn settled(stage: &Stage) -> Value {
    until("the revocation is settled", || async { Some(only_revocation(stage).await).filter(|one| one["state"] != "pending") }).await
}

fn form(call: &Call) -> Vec<(String, String)> {
    call.form()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// How many refresh tokens are kept sealed, by the database itself.
async fn sealed(database: &Database) -> i64 {
    let count = "SELECT CAST(count(*) AS BIGINT) FROM refresh_tokens WHERE sealed IS NOT NULL OR sealed_until IS NOT NULL";
    match database.engine {
        Engine::Sqlite => {
            let pool = sqlx::SqlitePool::connect(&database.url).await.unwrap();
            sqlx::query_scalar(count).fetch_one(&pool).await.unwrap()
        }
        Engine::Postgres => {
            let pool = sqlx::PgPool::connect(&database.url).await.unwrap();
            sqlx::query_scalar(count).fetch_one(&pool).await.unwrap()
        }
    }
}

on_both_engines! {
    async fn a_sealed_token_that_a_logout_revokes_is_revoked_at_the_provider_and_then_forgotten(database) {
        let stage = Stage::set(database).await;
        let provider = provider(&stage, json!({})).await;
        let _wiki = signed_in(&stage, "rt/of alice+&=1").await;
        assert_eq!(sealed(database).await, 1);
        let receipt = kill(&stage, json!({"target": {"sid": "s-1"}})).await;
        let call = provider.only_call().await;
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/revoke"));
        assert_eq!(call.header("content-type"), "application/x-www-form-urlencoded");
        assert_eq!(form(&call), pairs(&[("token", "rt/of alice+&=1"), ("token_type_hint", "refresh_token"), ("client_id", "wiki")]));
        let done = finished(&stage, &receipt).await;
        assert_eq!(done["revocations"], json!({"pending": 0, "delivered": 1, "gave_up": 0}), "{done}");
        // It is no delivery to a client: the total counts logout tokens, and the lines are the clients'.
        assert_eq!((&done["deliveries"]["total"], done["clients"].as_array().unwrap().len()), (&json!(1), 1), "{done}");
        let one = only_revocation(&stage).await;
        assert_eq!((&one["state"], &one["reason"], &one["client_id"]), (&json!("delivered"), &json!("accepted"), &json!("wiki")), "{one}");
        assert_eq!(sealed(database).await, 0, "what was said is not kept");
        // Nothing is left to be said again.
        stage.admin.post(&format!("/v1/issuers/main/deliveries/{}/retry", one["id"].as_str().unwrap()), json!({})).await;
        let again = stage.admin.request(reqwest::Method::POST, &format!("/v1/issuers/main/deliveries/{}/retry", one["id"].as_str().unwrap()));
        crate::harness::api::send(again).await.problem(409, "cannot-be-told");
    }

    async fn nothing_is_said_of_a_token_that_is_not_kept_to_a_provider_without_an_endpoint_or_to_one_that_ended_it_itself(database) {
        let stage = Stage::set(database).await;
        let _wiki = signed_in(&stage, "rt-1").await;
        let receipt = kill(&stage, json!({"target": {"sid": "s-1"}})).await;
        assert_eq!(receipt.get("revocations"), None, "no endpoint: {receipt}");
        let provider = provider(&stage, json!({})).await;
        stage.login("s-2", "alice", &["wiki"]).await;
        registered(&stage, json!({"sid": "s-2", "client_id": "wiki", "token": "rt-2"})).await;
        kill(&stage, json!({"target": {"sid": "s-2"}})).await;
        stage.login("s-3", "alice", &["wiki"]).await;
        registered(&stage, json!({"sid": "s-3", "client_id": "wiki", "token": "rt-3", "sealed": true})).await;
        let own = stage.logout(json!({"sid": "s-3"})).await;
        assert_eq!((&own["refresh_tokens_revoked"], own.get("revocations")), (&json!(1), None), "{own}");
        assert_eq!(revocations(&stage).await, Vec::<Value>::new());
        assert_eq!(provider.calls().len(), 0);
    }

    async fn the_provider_is_asked_as_the_issuer_says_or_else_as_the_token_s_own_client(database) {
        let stage = Stage::set(database).await;
        let provider = provider(&stage, json!({"client_id": "logoutd:1", "client_secret": "s3cret/+", "token_endpoint_auth_method": "client_secret_basic"})).await;
        let _wiki = signed_in(&stage, "rt-1").await;
        kill(&stage, json!({"target": {"sid": "s-1"}})).await;
        let call = provider.only_call().await;
        assert_eq!(call.header("authorization"), format!("Basic {}", STANDARD.encode("logoutd%3A1:s3cret%2F%2B")));
        assert_eq!(form(&call), pairs(&[("token", "rt-1"), ("token_type_hint", "refresh_token")]));

        let endpoint = format!("http://{}/revoke", provider.address());
        stage.admin.patch("/v1/issuers/main", json!({"revocation": {"endpoint": endpoint, "client_secret": null, "token_endpoint_auth_method": "client_secret_post"}})).await.expect(200);
        let secret = json!({"tokens": {"provider_client_secret": "own secret"}});
        let _shop = stage.party("shop", secret).await;
        stage.login("s-2", "bob", &["shop"]).await;
        registered(&stage, json!({"sid": "s-2", "client_id": "shop", "token": "rt-2", "sealed": true})).await;
        kill(&stage, json!({"target": {"sid": "s-2"}})).await;
        let call = until("the second call comes", || async { provider.calls().get(1).cloned() }).await;
        assert_eq!(call.header("authorization"), "");
        let expected = [("token", "rt-2"), ("token_type_hint", "refresh_token"), ("client_id", "shop"), ("client_secret", "own secret")];
        assert_eq!(form(&call), pairs(&expected));
    }

    async fn a_provider_that_is_away_is_asked_again_and_one_that_cannot_do_it_is_believed(database) {
        let stage = Stage::set(database).await;
        let provider = provider(&stage, json!({})).await;
        let _wiki = signed_in(&stage, "rt-secret-1").await;
        // RFC 7009 2.2.1: the token still exists, and it is to be asked again.
        provider.always(Reply::Full { status: 503, headers: vec![("Retry-After".to_owned(), "2".to_owned())], body: String::new() });
        let receipt = kill(&stage, json!({"target": {"sid": "s-1"}})).await;
        assert_eq!(receipt["revocations"], json!({"pending": 1, "delivered": 0, "gave_up": 0}), "{receipt}");
        provider.only_call().await;
        let refusal = json!({"error": "unsupported_token_type", "error_description": "not rt-secret-1"}).to_string();
        provider.always(Reply::Full { status: 400, headers: vec![("Content-Type".to_owned(), "application/json".to_owned())], body: refusal });
        until("the first attempt is recorded", || async {
            (only_revocation(&stage).await["attempt_records"].as_array().unwrap().len() == 1).then_some(())
        })
        .await;
        stage.server.advance(Duration::from_secs(60));
        let one = settled(&stage).await;
        assert_eq!((&one["state"], &one["reason"], &one["attempts"]), (&json!("rejected"), &json!("refused"), &json!(2)), "{one}");
        assert!(!one.to_string().contains("rt-secret-1"), "the echo is not kept: {one}");
        let done = finished(&stage, &receipt).await;
        assert_eq!(done["revocations"], json!({"pending": 0, "delivered": 0, "gave_up": 1}), "{done}");
        assert_eq!(sealed(database).await, 0);
    }

    async fn a_provider_is_told_of_tokens_whatever_ends_them_in_pages_too(database) {
        let stage = Stage::set(database).await;
        let provider = provider(&stage, json!({})).await;
        let _wiki = signed_in(&stage, "rt-1").await;
        let offline = json!({"sub": "alice", "client_id": "wiki", "token": "rt-offline", "offline_access": true, "sealed": true});
        registered(&stage, offline).await;
        let receipt = kill(&stage, json!({"target": {"everyone": true}, "reason": "compromise"})).await;
        let done = finished(&stage, &receipt).await;
        assert_eq!(done["revocations"], json!({"pending": 0, "delivered": 2, "gave_up": 0}), "{done}");
        let mut said: Vec<String> = provider.calls().iter().map(|call| form(call)[0].1.clone()).collect();
        said.sort();
        assert_eq!(said, ["rt-1", "rt-offline"]);
    }

    async fn an_undone_logout_does_not_have_its_tokens_revoked_any_more(database) {
        let stage = Stage::set(database).await;
        let provider = provider(&stage, json!({})).await;
        provider.always(Reply::Status(503));
        let _wiki = signed_in(&stage, "rt-1").await;
        let receipt = kill(&stage, json!({"target": {"sid": "s-1"}})).await;
        provider.only_call().await;
        until("the attempt is recorded", || async {
            (only_revocation(&stage).await["attempt_records"].as_array().unwrap().len() == 1).then_some(())
        })
        .await;
        stage.admin.post(&format!("/v1/issuers/main/logouts/{}/undo", receipt["id"].as_str().unwrap()), json!({})).await;
        let one = settled(&stage).await;
        assert_eq!((&one["state"], &one["reason"]), (&json!("cancelled"), &json!("undone")), "{one}");
        assert_eq!(sealed(database).await, 0);
    }

    async fn a_token_its_client_revokes_is_revoked_at_the_provider_under_an_event_of_its_own(database) {
        let stage = Stage::set(database).await;
        let provider = provider(&stage, json!({})).await;
        let _wiki = signed_in(&stage, "rt-1").await;
        let answer = stage.admin.form("/main/revoke", &[("token", "rt-1")]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(form(&provider.only_call().await)[0].1, "rt-1");
        assert_eq!(settled(&stage).await["state"], "delivered");
        let logouts = stage.admin.items("/v1/issuers/main/logouts").await;
        assert_eq!(logouts.len(), 1, "{logouts:?}");
        assert_eq!((&logouts[0]["target"], &logouts[0]["refresh_tokens_revoked"]), (&json!({"revocation": true}), &json!(1)));
        assert_eq!(stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200)["state"], "live");
        // The provider knows what it revokes itself.
        registered(&stage, json!({"sid": "s-1", "client_id": "wiki", "token": "rt-2", "sealed": true})).await;
        assert_eq!(stage.provider.form("/main/revoke", &[("token", "rt-2")]).await.status, 200);
        assert_eq!((revocations(&stage).await.len(), stage.admin.items("/v1/issuers/main/logouts").await.len()), (1, 1));
    }

    async fn what_is_sealed_for_one_endpoint_is_forgotten_where_it_leads_elsewhere_and_where_nobody_has_to_be_told(database) {
        let stage = Stage::set(database).await;
        let provider = provider(&stage, json!({})).await;
        let _wiki = signed_in(&stage, "rt-1").await;
        stage.register("conf", "http://127.0.0.1:1/", json!({"tokens": {"provider_client_secret": "its-secret"}})).await;
        let knows = async || {
            let client = stage.admin.get("/v1/issuers/main/clients/conf").await.expect(200);
            client["tokens"]["provider_client_secret_registered"].clone()
        };
        let revocation = json!({"revocation": {"endpoint": format!("http://{}/revoke", provider.address())}});
        stage.admin.patch("/v1/issuers/main", revocation).await.expect(200);
        assert_eq!((sealed(database).await, knows().await), (1, json!(true)), "it leads where it led");
        stage.admin.patch("/v1/issuers/main", json!({"revocation": {"endpoint": "http://127.0.0.1:1/steal"}})).await.expect(200);
        assert_eq!((sealed(database).await, knows().await), (0, json!(false)));

        // The provider that ended it itself knows, and where there is no endpoint nobody is told.
        registered(&stage, json!({"sid": "s-1", "client_id": "wiki", "token": "rt-2", "sealed": true})).await;
        assert_eq!(sealed(database).await, 1);
        stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(sealed(database).await, 0);
    }
}
