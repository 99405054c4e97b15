//! Who may call what: every operation of the running server's own description, tried by every role.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::json;

use crate::harness::api::{Api, send};
use crate::harness::database::on_both_engines;
use crate::harness::server::Stage;

/// Written down from the contract, not from the code. `other` is an admin bound to another issuer; `public` is everybody; `gateways` are those of the
/// configuration, who show no token of theirs.
const MAY: &[(&str, &str)] = &[
    ("get /healthz", "public"),
    ("get /readyz", "public"),
    ("get /openapi.json", "public"),
    ("get /{iss}/jwks", "public"),
    ("get /{iss}/.well-known/openid-configuration", "public"),
    ("get /.well-known/oauth-authorization-server/{iss}", "public"),
    ("get /metrics", "auditor admin"),
    ("post /{iss}/introspect", "provider gateway admin"),
    ("post /{iss}/revoke", "provider operator admin"),
    ("post /{iss}/backchannel-logout", "public"),
    ("get /{iss}/check/{profile}", "gateways"),
    ("put /{iss}/check/{profile}", "gateways"),
    ("post /{iss}/check/{profile}", "gateways"),
    ("delete /{iss}/check/{profile}", "gateways"),
    ("patch /{iss}/check/{profile}", "gateways"),
    ("put /v1/issuers/{iss}/sessions/{sid}", "provider admin"),
    ("post /v1/issuers/{iss}/sessions", "provider admin"),
    ("post /v1/issuers/{iss}/sessions/reconcile", "provider operator admin"),
    ("post /v1/issuers/{iss}/reports", "provider admin"),
    ("delete /v1/issuers/{iss}/sessions/{sid}/participants/{client_id}", "provider admin"),
    ("post /v1/issuers/{iss}/refresh-tokens", "provider admin"),
    ("post /v1/issuers/{iss}/refresh-tokens/rotate", "provider admin"),
    ("post /v1/issuers/{iss}/access-tokens", "provider admin"),
    ("get /v1/issuers/{iss}/sessions", "provider operator auditor admin"),
    ("get /v1/issuers/{iss}/sessions/{sid}", "provider operator auditor admin"),
    ("post /v1/issuers/{iss}/sessions/search", "provider operator auditor admin"),
    ("post /v1/issuers/{iss}/subjects/status", "provider operator auditor admin"),
    ("delete /v1/issuers/{iss}/subjects", "provider admin"),
    ("post /v1/issuers/{iss}/logouts", "provider operator admin"),
    ("post /v1/issuers/{iss}/logouts/{id}/undo", "operator admin"),
    ("get /v1/issuers/{iss}/logouts", "provider operator auditor admin"),
    ("post /v1/issuers/{iss}/logouts/search", "provider operator auditor admin"),
    ("get /v1/issuers/{iss}/logouts/{id}", "provider operator auditor admin"),
    ("get /v1/issuers/{iss}/logouts/{id}/receipt.jws", "provider operator auditor admin"),
    ("get /v1/issuers/{iss}/logouts/{id}/events", "provider operator auditor admin"),
    ("get /v1/issuers/{iss}/logouts/{id}/deliveries", "provider client operator auditor admin"),
    ("get /v1/issuers/{iss}/deliveries", "provider client operator auditor admin"),
    ("get /v1/issuers/{iss}/deliveries/{id}", "provider client operator auditor admin"),
    ("post /v1/issuers/{iss}/deliveries/replay", "operator admin"),
    ("post /v1/issuers/{iss}/deliveries/{id}/retry", "client operator admin"),
    ("post /v1/issuers/{iss}/deliveries/{id}/cancel", "operator admin"),
    ("post /v1/issuers/{iss}/cut-offs", "provider operator admin"),
    ("get /v1/issuers/{iss}/cut-offs", "provider operator auditor admin"),
    ("delete /v1/issuers/{iss}/cut-offs/{id}", "operator admin"),
    ("post /v1/issuers/{iss}/gaps", "operator admin"),
    ("get /v1/issuers/{iss}/gaps", "provider operator auditor admin"),
    ("post /v1/issuers/{iss}/gaps/{id}/close", "operator admin"),
    ("post /v1/issuers/{iss}/subjects/secret", "provider"),
    ("post /v1/issuers/{iss}/subjects/secret/bump", "provider"),
    ("post /v1/issuers/{iss}/denylist", "provider operator admin"),
    ("get /v1/issuers/{iss}/denylist", "provider operator auditor admin"),
    ("delete /v1/issuers/{iss}/denylist/{id}", "operator admin"),
    ("post /v1/issuers/{iss}/clients/{client_id}/pause", "operator admin"),
    ("post /v1/issuers/{iss}/clients/{client_id}/resume", "operator admin"),
    ("post /v1/issuers/{iss}/clients/{client_id}/suspend", "operator admin"),
    ("post /v1/issuers/{iss}/clients/{client_id}/unsuspend", "operator admin"),
    ("post /v1/issuers/{iss}/clients/{client_id}/test", "client operator admin"),
    ("get /v1/issuers", "operator auditor admin other"),
    ("post /v1/issuers", "admin"),
    ("get /v1/issuers/{iss}", "operator auditor admin"),
    ("patch /v1/issuers/{iss}", "admin"),
    ("delete /v1/issuers/{iss}", "admin"),
    ("get /v1/issuers/{iss}/keys", "operator auditor admin"),
    ("post /v1/issuers/{iss}/keys/rotate", "admin"),
    ("post /v1/issuers/{iss}/keys/import", "admin"),
    ("post /v1/issuers/{iss}/keys/check", "operator admin"),
    ("delete /v1/issuers/{iss}/keys/{kid}", "admin"),
    ("post /v1/keys/reseal", "admin"),
    ("get /v1/issuers/{iss}/clients", "operator auditor admin"),
    ("post /v1/issuers/{iss}/clients", "admin"),
    ("get /v1/issuers/{iss}/clients/{client_id}", "operator auditor admin"),
    ("put /v1/issuers/{iss}/clients/{client_id}", "admin"),
    ("delete /v1/issuers/{iss}/clients/{client_id}", "admin"),
    ("get /v1/alarms", "operator auditor admin other"),
    ("post /v1/alarms/test", "operator admin"),
    ("get /v1/audit", "auditor admin other"),
    ("get /v1/audit/export", "auditor admin other"),
    ("get /v1/audit/head", "auditor admin other"),
    ("get /v1/audit/keys", "public"),
    ("post /v1/audit/keys/rotate", "admin"),
    ("get /v1/api-tokens", "admin other"),
    ("post /v1/api-tokens", "admin other"),
    ("delete /v1/api-tokens/{id}", "admin other"),
    ("post /v1/api-tokens/{id}/rotate", "admin other"),
];

/// One caller of each kind.
async fn callers(stage: &Stage) -> Vec<(&'static str, Api)> {
    stage
        .admin
        .post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]}))
        .await
        .expect(201);
    let mint = async |token| stage.admin.mint(token).await;
    vec![
        ("provider", mint(json!({"role": "provider", "issuer": "main"})).await),
        ("gateway", mint(json!({"role": "gateway", "issuer": "main"})).await),
        ("client", mint(json!({"role": "client", "issuer": "main", "client_id": "wiki"})).await),
        ("operator", mint(json!({"role": "operator"})).await),
        ("auditor", mint(json!({"role": "auditor"})).await),
        ("admin", mint(json!({"role": "admin"})).await),
        ("bootstrap", stage.server.admin()),
        ("other", mint(json!({"role": "admin", "issuer": "other"})).await),
        ("other provider", mint(json!({"role": "provider", "issuer": "other"})).await),
        ("stranger", stage.server.nobody().with_token("ldt_nobody-minted-this-token-0123456789")),
        ("nobody", stage.server.nobody()),
    ]
}

/// What a caller of this kind must be told: that it may, that it may not, or that nobody knows it.
fn expected(kind: &str, may: &str) -> u16 {
    let role = match kind {
        "bootstrap" => "admin",
        other => other,
    };
    match (may, kind) {
        ("public", _) => 200,
        ("gateways", _) => 403,
        (_, "nobody" | "stranger") => 401,
        _ if may.split(' ').any(|one| one == role) => 200,
        _ => 403,
    }
}

on_both_engines! {
    async fn every_operation_is_open_to_the_roles_of_the_table_and_to_nobody_else(database) {
        let stage = Stage::set(database).await;
        // What lives keeps its issuer from being deleted by those who may.
        stage.login("s-1", "alice", &["wiki"]).await;
        let callers = callers(&stage).await;
        let document = stage.server.nobody().get("/openapi.json").await.expect(200);
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|key| ["get", "put", "post", "patch", "delete"].contains(&key.as_str())) {
                described.insert(format!("{method} {path}"));
            }
        }
        let table: BTreeSet<_> = MAY.iter().map(|(operation, _)| (*operation).to_owned()).collect();
        assert_eq!(described, table, "the table and the description name the same operations");

        for (operation, may) in MAY {
            let (method, template) = operation.split_once(' ').unwrap();
            let path = template.replace("{iss}", "main").replace("{sid}", "none").replace("{client_id}", "none").replace("{id}", "none").replace("{kid}", "none").replace("{profile}", "none");
            for (kind, caller) in &callers {
                let request = caller.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &path);
                let answer = send(request.header("Content-Type", "application/json").body("{}")).await;
                let told = match answer.status {
                    401 | 403 => answer.status,
                    // Whoever was wrong often is not heard for a while.
                    429 if *kind == "stranger" => 401,
                    status => {
                        assert!(status < 500, "{operation} as {kind}: {}", answer.text);
                        200
                    }
                };
                assert_eq!(told, expected(kind, may), "{operation} as {kind}: {}", answer.text);
                if told != 200 && answer.status != 429 && *may != "gateways" {
                    let challenge = if *kind == "nobody" { "Bearer realm=\"logoutd\"" } else { "error=" };
                    assert!(answer.header("www-authenticate").contains(challenge), "{operation} as {kind}: {:?}", answer.headers);
                }
            }
        }
        let live = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!(live["state"], "live");
    }

    async fn only_who_may_end_many_sessions_ends_those_of_a_client_or_of_everybody(database) {
        let stage = Stage::set(database).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let plain = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let post = async |caller: &Api, target| caller.post("/v1/issuers/main/logouts", json!({"target": target, "reason": "admin"})).await;
        for target in [json!({"client_id": "wiki"}), json!({"everyone": true})] {
            post(&plain, target).await.problem(403, "forbidden");
        }
        assert_eq!(stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200)["participants"][0]["state"], "live");
        let receipt = post(&stage.provider, json!({"client_id": "wiki"})).await;
        assert!(receipt.is_success() && receipt.body["participations_ended"] == 1, "{}", receipt.text);
        let operator = stage.admin.mint(json!({"role": "operator"})).await;
        assert!(post(&operator, json!({"client_id": "wiki"})).await.is_success());
        assert!(post(&plain, json!({"sid": "s-1", "client_id": "wiki"})).await.is_success());
        assert_eq!(post(&stage.provider, json!({"everyone": true})).await.status, 202);
        assert_eq!(post(&operator, json!({"everyone": true, "except": {"sub": ["alice"]}})).await.status, 202);
    }

    async fn a_client_sees_the_deliveries_to_itself_and_no_others(database) {
        let stage = Stage::set(database).await;
        let (_wiki, _shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        let client = stage.admin.mint(json!({"role": "client", "issuer": "main", "client_id": "wiki"})).await;
        let path = format!("/v1/issuers/main/logouts/{}/deliveries", receipt["id"].as_str().unwrap());
        for list in ["/v1/issuers/main/deliveries", &path] {
            let items = client.items(list).await;
            assert!(items.len() == 1 && items[0]["client_id"] == "wiki", "{items:?}");
            assert!(client.items(&format!("{list}?client_id=shop")).await.is_empty());
        }
        for delivery in stage.provider.items(&path).await {
            let answer = client.get(&format!("/v1/issuers/main/deliveries/{}", delivery["id"].as_str().unwrap())).await;
            match delivery["client_id"].as_str().unwrap() {
                "wiki" => drop(answer.expect(200)),
                _ => drop(answer.problem(404, "unknown-delivery")),
            }
        }
    }

    async fn nobody_mints_a_token_beyond_the_own_issuer_and_a_token_works_at_its_issuer_alone(database) {
        let stage = Stage::set(database).await;
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        let bound = stage.admin.mint(json!({"role": "admin", "issuer": "other"})).await;
        for token in [json!({"role": "admin"}), json!({"role": "provider", "issuer": "main"}), json!({"role": "auditor"})] {
            bound.post("/v1/api-tokens", token).await.problem(403, "forbidden");
        }
        let own = bound.mint(json!({"role": "provider", "issuer": "other"})).await;
        own.put("/v1/issuers/other/sessions/s-1", json!({"sub": "alice"})).await.expect(201);
        own.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice"})).await.problem(403, "forbidden");
        let tokens = bound.items("/v1/api-tokens").await;
        assert!(tokens.len() == 2 && tokens.iter().all(|token| token["issuer"] == "other" && token.get("token").is_none()), "{tokens:?}");
        let foreign = stage.admin.items("/v1/api-tokens?issuer=main").await.remove(0);
        bound.delete(&format!("/v1/api-tokens/{}", foreign["id"].as_str().unwrap())).await.problem(404, "unknown-api-token");
        assert_eq!(bound.items("/v1/issuers").await.len(), 1);
        assert!(bound.items("/v1/audit").await.iter().all(|record| record["issuer"] == "other"));
    }
}
