//! Revocation: whoever holds a token gives it up, and the session it came from goes on.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::{Answer, Api, send};
use crate::harness::database::on_both_engines;
use crate::harness::party::{Party, Reply};
use crate::harness::provider::Provider;
use crate::harness::server::{ISSUER, Stage};

const TOKENS: &str = "/v1/issuers/main/refresh-tokens";
const SECRET: &str = "correct-horse-battery-staple";

/// A client's own caller.
#[derive(Clone)]
struct Client {
    api: Api,
    client_id: &'static str,
}

impl Client {
    async fn register(stage: &Stage, client_id: &'static str) -> (Self, Party) {
        let party = stage.party(client_id, json!({"client_secret": SECRET})).await;
        (Self { api: stage.server.nobody(), client_id }, party)
    }

    async fn post(&self, path: &str, pairs: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        let request = self.api.request(Method::POST, path).basic_auth(self.client_id, Some(SECRET));
        send(request.header("Content-Type", "application/x-www-form-urlencoded").body(body)).await
    }

    async fn revoke(&self, token: &str) {
        revoked(&self.post("/main/revoke", &[("token", token)]).await, token);
    }
}

#[track_caller]
fn revoked(answer: &Answer, why: &str) {
    assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{why}");
    assert_eq!(answer.header("cache-control"), "no-store");
}

async fn register(stage: &Stage, sid: &str, client_id: &str, token: &str) {
    stage.provider.post(TOKENS, json!({"sid": sid, "client_id": client_id, "token": token})).await.expect(201);
}

async fn is_active(stage: &Stage, token: &str) -> Value {
    stage.provider.introspect(token).await["active"].clone()
}

/// What the trail says was done with tokens, oldest first: what, by whom, to which kind, of whom.
async fn trail(stage: &Stage) -> Vec<(String, String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let records = stage.admin.items("/v1/audit?limit=1000").await;
    let of_tokens = records.iter().rev().filter(|record| ["token_revoked", "token_event"].contains(&record["act"].as_str().unwrap()));
    of_tokens
        .map(|record| (text(&record["act"]), text(&record["role"]), text(&record["detail"]["kind"]), text(&record["detail"]["client_id"])))
        .collect()
}

fn line(act: &str, role: &str, kind: &str, client_id: &str) -> (String, String, String, String) {
    (act.to_owned(), role.to_owned(), kind.to_owned(), client_id.to_owned())
}

on_both_engines! {
    async fn a_client_gives_its_refresh_token_up_and_a_later_logout_still_finds_it(database) {
        let stage = Stage::set(database).await;
        let (wiki, party) = Client::register(&stage, "wiki").await;
        stage.login("s-1", "alice", &["wiki"]).await;
        register(&stage, "s-1", "wiki", "rt-1").await;
        register(&stage, "s-1", "wiki", "rt-2").await;
        wiki.revoke("rt-1").await;
        assert_eq!((is_active(&stage, "rt-1").await, is_active(&stage, "rt-2").await), (json!(false), json!(true)), "its family alone");
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!((&session["state"], &session["participants"][0]["state"]), (&json!("live"), &json!("live")), "revoking is no logout");
        assert!(party.calls().is_empty() && stage.provider.items("/v1/issuers/main/logouts").await.is_empty());
        wiki.revoke("rt-1").await;
        assert_eq!(trail(&stage).await, [line("token_revoked", "client", "refresh", "wiki")], "once");
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(receipt["refresh_tokens_revoked"], 1);
        party.only_call().await;
        assert_eq!(is_active(&stage, "rt-1").await, json!(false));
        // A family that is dead is not begun anew.
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "wiki", "token": "rt-1"})).await;
        assert_eq!(is_active(&stage, "rt-1").await, json!(false));
    }

    async fn what_is_not_known_and_what_is_another_clients_are_answered_alike_and_left_alone(database) {
        let stage = Stage::set(database).await;
        let ((wiki, _first), (shop, _second)) = (Client::register(&stage, "wiki").await, Client::register(&stage, "shop").await);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        register(&stage, "s-1", "wiki", "rt-wiki").await;
        let foreign = shop.post("/main/revoke", &[("token", "rt-wiki")]).await;
        let unknown = shop.post("/main/revoke", &[("token", "never seen")]).await;
        revoked(&foreign, "foreign");
        let comparable = |answer: &Answer| answer.headers.iter().filter(|(name, _)| *name != "date").map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>();
        assert_eq!((foreign.status, &foreign.text, comparable(&foreign)), (unknown.status, &unknown.text, comparable(&unknown)));
        assert_eq!(is_active(&stage, "rt-wiki").await, json!(true));
        assert_eq!(trail(&stage).await, [line("token_event", "client", "foreign_client", "shop")]);
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!((&session["token_events"][0]["kind"], &session["token_events"][0]["client_id"]), (&json!("foreign_client"), &json!("shop")), "{session}");
        let record = &stage.admin.items("/v1/audit?limit=1").await[0];
        assert!(record["caller"].as_str().unwrap().ends_with("shop") && !record.to_string().contains("rt-wiki"), "{record}");
        assert_eq!(wiki.post("/main/introspect", &[("token", "rt-wiki")]).await.expect(200)["active"], true);
    }

    async fn an_access_token_goes_alone_and_with_the_family_it_was_issued_with(database) {
        let stage = Stage::set(database).await;
        let (wiki, _party) = Client::register(&stage, "wiki").await;
        stage.login("s-1", "alice", &["wiki"]).await;
        register(&stage, "s-1", "wiki", "rt-1").await;
        let expires_at = stage.server.clock.now().plus(Duration::from_secs(3600)).to_string();
        for token in ["at-1", "at-2"] {
            let body = json!({"sid": "s-1", "client_id": "wiki", "token": token, "refresh_token": "rt-1", "expires_at": expires_at, "scope": "read", "aud": ["api", "files"]});
            stage.provider.post("/v1/issuers/main/access-tokens", body).await.expect(201);
        }
        let gateway = stage.admin.mint(json!({"role": "gateway", "issuer": "main"})).await;
        let known = gateway.introspect("at-1").await;
        assert_eq!((&known["token_type"], &known["aud"], &known["scope"]), (&json!("Bearer"), &json!(["api", "files"]), &json!("read")), "{known}");
        revoked(&wiki.post("/main/revoke", &[("token", "at-1"), ("token_type_hint", "refresh_token")]).await, "at-1");
        assert_eq!(gateway.introspect("at-1").await, json!({"active": false}));
        assert_eq!((is_active(&stage, "at-2").await, is_active(&stage, "rt-1").await), (json!(true), json!(true)), "alone");
        wiki.revoke("at-1").await;
        // A token that was replaced long ago still names its family.
        let rotation = json!({"client_id": "wiki", "token": "rt-1", "successor": "rt-2"});
        stage.provider.post("/v1/issuers/main/refresh-tokens/rotate", rotation).await.expect(200);
        wiki.revoke("rt-1").await;
        for token in ["rt-1", "rt-2", "at-1", "at-2"] {
            assert_eq!(is_active(&stage, token).await, json!(false), "{token}");
        }
        let rotation = json!({"client_id": "wiki", "token": "rt-2", "successor": "rt-3"});
        assert_eq!(stage.provider.post("/v1/issuers/main/refresh-tokens/rotate", rotation).await.status, 400);
        let acts: Vec<_> = trail(&stage).await.into_iter().filter(|(act, ..)| act == "token_revoked").collect();
        assert_eq!(acts, [line("token_revoked", "client", "access", "wiki"), line("token_revoked", "client", "refresh", "wiki")]);
        let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
        assert_eq!(session["state"], "live");
    }

    async fn an_access_token_that_nobody_registered_is_refused_by_its_name_until_it_expires(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let ((wiki, _first), (shop, _second)) = (Client::register(&stage, "wiki").await, Client::register(&stage, "shop").await);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let gateway = stage.admin.mint(json!({"role": "gateway", "issuer": "main"})).await;
        let [one, other] = [(); 2].map(|()| provider.access_token("wiki", &json!({"sub": "alice", "sid": "s-1"})));
        assert_eq!(gateway.introspect(&one).await["active"], true);
        shop.revoke(&one).await;
        assert_eq!(gateway.introspect(&one).await["active"], true, "it is not the shop's");
        wiki.revoke(&one).await;
        assert_eq!(gateway.introspect(&one).await, json!({"active": false}));
        assert_eq!(gateway.introspect(&other).await["active"], true);
        assert_eq!(stage.admin.items("/v1/issuers/main/denylist").await.len(), 1);
        // A logout token is no token that anybody holds.
        wiki.revoke(&provider.token("wiki", &json!({"sub": "alice", "sid": "s-1"}))).await;
        assert_eq!(gateway.introspect(&other).await["active"], true);
        // What anybody wrote himself, with another token's name in it, names nothing.
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "wiki", "jti": "jti-1"})).await.expect(201);
        let forged = crate::harness::provider::sign_with(&logoutd::token::generate(logoutd::model::key::SigningAlg::Es256).unwrap(), r#"{"alg":"ES256","typ":"at+jwt"}"#, r#"{"jti":"jti-1"}"#);
        wiki.revoke(&forged).await;
        assert_eq!(is_active(&stage, &forged).await, json!(true), "its own issuer is believed");
        revoked(&stage.provider.form("/main/revoke", &[("token", &forged)]).await, "by its issuer");
        assert_eq!(is_active(&stage, &forged).await, json!(false));
    }

    async fn an_opaque_access_token_that_only_the_provider_knows_is_refused_from_then_on(database) {
        let stage = Stage::set(database).await;
        let (wiki, _party) = Client::register(&stage, "wiki").await;
        let endpoint = Party::open(&stage.server.base, "main", ISSUER, "").await;
        let upstream = json!({"endpoint": endpoint.uri(), "client_id": "logoutd", "client_secret": "secret"});
        stage.admin.patch("/v1/issuers/main", json!({"introspect_upstream": upstream})).await.expect(200);
        let exp = stage.server.clock.now().seconds() + 600;
        let body = json!({"active": true, "client_id": "wiki", "exp": exp, "token_type": "Bearer"}).to_string();
        endpoint.always(Reply::Full { status: 200, headers: vec![("Content-Type".to_owned(), "application/json".to_owned())], body });
        let gateway = stage.admin.mint(json!({"role": "gateway", "issuer": "main"})).await;
        assert_eq!(gateway.introspect("opaque-1").await["active"], true);
        wiki.revoke("opaque-1").await;
        assert_eq!(gateway.introspect("opaque-1").await, json!({"active": false}));
        assert_eq!(gateway.introspect("opaque-2").await["active"], true);
    }

    async fn a_hint_changes_nothing_about_what_a_token_is(database) {
        let stage = Stage::set(database).await;
        let (wiki, _party) = Client::register(&stage, "wiki").await;
        stage.login("s-1", "alice", &["wiki"]).await;
        for (number, hint) in ["refresh_token", "access_token", "saml_token", ""].into_iter().enumerate() {
            let token = format!("rt-{number}");
            register(&stage, "s-1", "wiki", &token).await;
            let known = wiki.post("/main/introspect", &[("token", &token), ("token_type_hint", hint)]).await.expect(200);
            assert_eq!((&known["active"], known.get("token_type")), (&json!(true), None), "{hint}: {known}");
            revoked(&wiki.post("/main/revoke", &[("token", &token), ("token_type_hint", hint)]).await, hint);
            assert_eq!(is_active(&stage, &token).await, json!(false), "{hint}");
        }
    }

    async fn a_public_client_gives_its_token_up_by_its_name_and_providers_and_operators_any(database) {
        let stage = Stage::set(database).await;
        stage.admin.put("/v1/issuers/main/clients/app", json!({"token_endpoint_auth_method": "none"})).await.expect(201);
        stage.login("s-1", "alice", &["app"]).await;
        for token in ["rt-own", "rt-provider", "rt-operator", "rt-bootstrap", "rt-left"] {
            register(&stage, "s-1", "app", token).await;
        }
        revoked(&stage.server.nobody().form("/main/revoke", &[("token", "rt-own"), ("client_id", "app")]).await, "own");
        revoked(&stage.provider.form("/main/revoke", &[("token", "rt-provider")]).await, "provider");
        let operator = stage.admin.mint(json!({"role": "operator"})).await;
        revoked(&operator.form("/main/revoke", &[("token", "rt-operator")]).await, "operator");
        revoked(&stage.admin.form("/main/revoke", &[("token", "rt-bootstrap")]).await, "admin");
        for role in ["gateway", "auditor"] {
            let issuer = if role == "gateway" { json!("main") } else { Value::Null };
            let other = stage.admin.mint(json!({"role": role, "issuer": issuer})).await;
            assert_eq!(other.form("/main/revoke", &[("token", "rt-left")]).await.status, 403, "{role}");
        }
        for (token, active) in [("rt-own", false), ("rt-provider", false), ("rt-operator", false), ("rt-bootstrap", false), ("rt-left", true)] {
            assert_eq!(is_active(&stage, token).await, json!(active), "{token}");
        }
        let acts = ["client", "provider", "operator", "admin"].map(|role| line("token_revoked", role, "refresh", "app"));
        assert_eq!(trail(&stage).await, acts);
    }

    async fn a_database_that_is_away_revokes_nothing_and_says_so(database) {
        let stage = Stage::set(database).await;
        let (wiki, _party) = Client::register(&stage, "wiki").await;
        stage.server.store().close().await;
        let answer = wiki.post("/main/revoke", &[("token", "rt-1")]).await;
        assert_eq!((answer.status, &answer.body["error"], answer.header("retry-after")), (503, &json!("temporarily_unavailable"), "1"), "{}", answer.text);
    }
}
