//! Refresh tokens: registered in three ways, asked about by form, dead the moment a logout is acknowledged, and never kept in clear.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::api::send;
use crate::harness::database::{Engine, on_both_engines};
use crate::harness::server::{ISSUER, Stage};

const TOKENS: &str = "/v1/issuers/main/refresh-tokens";
const LOGOUTS: &str = "/v1/issuers/main/logouts";
const INACTIVE: &str = r#"{"active":false}"#;

fn digest(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()))
}

/// A JWT of the provider's own, as far as logoutd ever looks at it.
fn jwt(jti: &str) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(json!({"alg": "RS256"})), part(json!({"jti": jti, "iss": ISSUER})), URL_SAFE_NO_PAD.encode("signature"))
}

/// A login of alice at the wiki, as `s-1`.
async fn signed_in(stage: &Stage) {
    stage.party("wiki", json!({})).await;
    stage.login("s-1", "alice", &["wiki"]).await;
}

fn contains(octets: &[u8], text: &str) -> bool {
    octets.windows(text.len()).any(|window| window == text.as_bytes())
}

on_both_engines! {
    async fn a_token_registered_by_value_by_digest_or_by_jti_is_active_until_the_logout_is_answered(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let (value, digested, by_jti) = ("rt-by-value-7f3a", "rt-by-digest-91bc", jwt("jti-1"));
        let expires_at = stage.server.clock.now().plus(std::time::Duration::from_secs(3600));
        for name in [json!({"token": value}), json!({"token_sha256": digest(digested)}), json!({"jti": "jti-1"})] {
            let mut body = json!({"sid": "s-1", "client_id": "wiki", "scope": "openid profile", "expires_at": expires_at.to_string()});
            body.as_object_mut().unwrap().extend(name.as_object().unwrap().clone());
            assert_eq!(stage.provider.post(TOKENS, body.clone()).await.expect(201), json!({"active": true}));
            assert_eq!(stage.provider.post(TOKENS, body).await.expect(200), json!({"active": true}), "again");
        }
        for token in [value, digested, &by_jti] {
            let answer = stage.provider.form("/main/introspect", &[("token", token), ("token_type_hint", "refresh_token"), ("other", "x")]).await;
            assert_eq!((answer.header("content-type"), answer.header("cache-control")), ("application/json", "no-store"));
            let known = answer.expect(200);
            assert_eq!((&known["active"], &known["client_id"], &known["iss"]), (&json!(true), &json!("wiki"), &json!(ISSUER)), "{token}");
            assert_eq!((&known["sub"], &known["sid"], &known["scope"]), (&json!("alice"), &json!("s-1"), &json!("openid profile")));
            assert_eq!((&known["exp"], &known["offline_access"]), (&json!(expires_at.seconds()), &json!(false)));
        }
        // No wait: it is dead as soon as the logout is accepted, whoever is still to be told.
        let receipt = stage.provider.post(LOGOUTS, json!({"target": {"sid": "s-1"}, "reason": "user_logout"})).await.expect(202);
        for token in [value, digested, &by_jti] {
            let answer = stage.provider.form("/main/introspect", &[("token", token)]).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, INACTIVE), "why is told to nobody");
        }
        assert_eq!(receipt["refresh_tokens_revoked"], 3);
    }

    async fn a_token_for_a_session_that_is_not_there_is_refused_and_one_for_an_ended_session_is_dead_from_the_start(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let token = |sid: &str, token: &str| json!({"sid": sid, "client_id": "wiki", "token": token});
        stage.provider.post(TOKENS, token("unknown", "rt-1")).await.problem(404, "unknown-session");
        stage.logout(json!({"sid": "s-1"})).await;
        stage.provider.post(TOKENS, token("s-1", "rt-2")).await.problem(409, "session-ended");
        let mut newer = token("s-1", "rt-3");
        newer["issued_at"] = json!(stage.server.clock.now().plus(std::time::Duration::from_secs(30)).to_string());
        stage.provider.post(TOKENS, newer).await.problem(404, "unknown-session");
        for token in ["rt-1", "rt-2", "rt-3", "never seen"] {
            assert_eq!(stage.provider.introspect(token).await, json!({"active": false}), "{token}");
        }
        let many = json!({"tokens": [token("unknown", "rt-4"), {"sub": "alice", "client_id": "wiki", "token": "rt-5", "offline_access": true}]});
        let results = stage.provider.post(TOKENS, many).await.expect(200)["results"].clone();
        assert_eq!((&results[0]["status"], &results[1]["status"], &results[1]["active"]), (&json!(404), &json!(201), &json!(true)), "{results}");
    }

    async fn an_offline_token_survives_a_plain_logout_and_no_compromise_not_even_one_that_comes_after(database) {
        let stage = Stage::set(database).await;
        stage.party("wiki", json!({})).await;
        for (number, (first, second, lives)) in [
            (json!({"reason": "user_logout"}), None, true),
            (json!({"reason": "user_logout", "revoke_offline_access": true}), None, false),
            (json!({"reason": "password_changed"}), None, false),
            (json!({"reason": "compromise"}), None, false),
            (json!({"reason": "user_logout"}), Some(json!({"reason": "compromise"})), false),
            (json!({"reason": "user_logout"}), Some(json!({"reason": "admin"})), true),
        ].into_iter().enumerate() {
            let (sub, sid, offline, bound) = (format!("u{number}"), format!("s{number}"), format!("rt-o-{number}"), format!("rt-b-{number}"));
            stage.login(&sid, &sub, &["wiki"]).await;
            let tokens = json!({"tokens": [
                {"sid": sid, "client_id": "wiki", "token": offline, "offline_access": true}, {"sid": sid, "client_id": "wiki", "token": bound},
            ]});
            stage.provider.post(TOKENS, tokens).await.expect(200);
            assert_eq!(stage.provider.introspect(&offline).await["offline_access"], true);
            for reason in [Some(first.clone()), second.clone()].into_iter().flatten() {
                let mut body = reason;
                body["target"] = json!({"sub": sub});
                assert!(stage.provider.post(LOGOUTS, body).await.is_success());
            }
            assert_eq!(stage.provider.introspect(&offline).await["active"], lives, "{first} then {second:?}");
            assert_eq!(stage.provider.introspect(&bound).await["active"], false, "{first}");
        }
    }

    async fn an_expired_token_is_not_active(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let expires_at = stage.server.clock.now().plus(std::time::Duration::from_secs(60)).to_string();
        let token = json!({"sid": "s-1", "client_id": "wiki", "token": "rt-1", "expires_at": expires_at});
        stage.provider.post(TOKENS, token).await.expect(201);
        assert_eq!(stage.provider.introspect("rt-1").await["active"], true);
        stage.server.advance(std::time::Duration::from_secs(61));
        assert_eq!(stage.provider.introspect("rt-1").await, json!({"active": false}));
    }

    async fn no_token_is_ever_stored_in_clear(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let secrets = ["rt-secret-0c6f4c1e", "rt-secret-77aa51de", "rt-secret-e1d5b2f0"];
        let login = json!({"sub": "alice", "participants": [{"client_id": "wiki", "refresh_token": {"token": secrets[0]}}]});
        stage.provider.put("/v1/issuers/main/sessions/s-1", login).await.expect(200);
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "wiki", "token": secrets[1]})).await.expect(201);
        let body = json!({"target": {"refresh_token": secrets[2]}, "reason": "user_logout", "note": "marker-in-clear"});
        let receipt = stage.provider.post_with(LOGOUTS, ("Idempotency-Key", "k"), body).await.expect(201);
        assert_eq!(receipt["target"], json!({"refresh_token_sha256": digest(secrets[2])}));
        assert_eq!(stage.provider.introspect(secrets[1]).await["active"], true);
        let mut secrets = secrets.map(str::to_owned).to_vec();
        secrets.push(stage.provider.token().to_owned());
        if database.engine == Engine::Sqlite {
            let files: Vec<_> = std::fs::read_dir(database.directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
            let stored: Vec<u8> = files.iter().filter(|path| !path.ends_with("logoutd.db.lock")).flat_map(|path| std::fs::read(path).unwrap()).collect();
            assert!(contains(&stored, "marker-in-clear"), "what is stored in clear is found in {files:?}");
            for secret in &secrets {
                assert!(!contains(&stored, secret), "{secret}");
            }
        } else {
            let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&database.url).await.unwrap();
            let stored = everything_in(&mut connection).await;
            assert!(stored.contains("marker-in-clear"));
            for secret in &secrets {
                // A column of octets is written in hexadecimal.
                let hex: String = secret.bytes().map(|octet| format!("{octet:02x}")).collect();
                assert!(!stored.contains(secret.as_str()) && !stored.contains(&hex), "{secret}");
            }
        }
    }

    async fn a_client_learns_of_its_own_tokens_by_the_names_it_knows_and_of_no_others(database) {
        let stage = Stage::set(database).await;
        for client_id in ["wiki", "shop"] {
            stage.admin.put(&format!("/v1/issuers/main/clients/{client_id}"), json!({"client_secret": "a-secret-of-its-own"})).await.expect(201);
        }
        let participants = json!([{"client_id": "wiki", "sub": "alice-at-wiki", "sid": "sid-at-wiki"}, {"client_id": "shop"}]);
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice", "participants": participants})).await.expect(201);
        for (client_id, token) in [("wiki", "rt-wiki"), ("shop", "rt-shop"), ("blog", "rt-blog")] {
            stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": client_id, "token": token})).await.expect(201);
        }
        stage.provider.post(TOKENS, json!({"sub": "alice", "client_id": "wiki", "token": "rt-offline", "offline_access": true})).await.expect(201);
        let ask = async |client_id: &str, token: &str| {
            let request = stage.server.nobody().request(reqwest::Method::POST, "/main/introspect").basic_auth(client_id, Some("a-secret-of-its-own"));
            send(request.header("Content-Type", "application/x-www-form-urlencoded").body(format!("token={token}"))).await
        };
        let own = ask("wiki", "rt-wiki").await.expect(200);
        assert_eq!((&own["active"], &own["sub"], &own["sid"]), (&json!(true), &json!("alice-at-wiki"), &json!("sid-at-wiki")), "{own}");
        let own = ask("shop", "rt-shop").await.expect(200);
        assert_eq!((&own["active"], &own["sub"], &own["sid"]), (&json!(true), &json!("alice"), &json!("s-1")), "{own}");
        let offline = ask("wiki", "rt-offline").await.expect(200);
        assert_eq!((&offline["active"], offline.get("sub"), offline.get("sid")), (&json!(true), None, None), "{offline}");
        for (client_id, token) in [("wiki", "rt-shop"), ("shop", "rt-wiki"), ("shop", "rt-offline"), ("wiki", "rt-blog"), ("wiki", "never-seen")] {
            assert_eq!(ask(client_id, token).await.text, INACTIVE, "{token} for {client_id}");
        }
        // A JWT with somebody's jti in it, made by anybody: its own issuer has verified it, a client has not.
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "wiki", "jti": "jti-1"})).await.expect(201);
        assert_eq!(stage.provider.introspect(&jwt("jti-1")).await["active"], true);
        assert_eq!(ask("wiki", &jwt("jti-1")).await.text, INACTIVE);
        stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(ask("wiki", "rt-wiki").await.text, INACTIVE);
    }

    async fn an_answer_is_signed_for_who_asks_for_that(database) {
        let stage = Stage::on(crate::harness::server::Server::start(database).await, &["ES256", "PS256"]).await;
        let registration = json!({"client_secret": "a-secret-of-its-own", "introspection_signed_response_alg": "PS256"});
        stage.admin.put("/v1/issuers/main/clients/wiki", registration).await.expect(201);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "wiki", "token": "rt-1"})).await.expect(201);
        let ask = async |api: &crate::harness::api::Api, basic: bool, token: &str, accept: &str| {
            let request = api.request(reqwest::Method::POST, "/main/introspect").header("Accept", accept);
            let request = if basic { request.basic_auth("wiki", Some("a-secret-of-its-own")) } else { request };
            send(request.header("Content-Type", "application/x-www-form-urlencoded").body(format!("token={token}"))).await
        };
        let keys = stage.server.nobody().get("/main/jwks").await.expect(200)["keys"].clone();
        let read = |answer: &crate::harness::api::Answer, audience: &str, alg: jsonwebtoken::Algorithm| {
            assert_eq!((answer.status, answer.header("content-type")), (200, "application/token-introspection+jwt"), "{}", answer.text);
            assert_eq!((answer.header("vary"), answer.header("cache-control")), ("Accept", "no-store"));
            let header = jsonwebtoken::decode_header(&answer.text).unwrap();
            assert_eq!((header.typ.as_deref(), header.alg), (Some("token-introspection+jwt"), alg));
            let key = keys.as_array().unwrap().iter().find(|key| key["kid"] == json!(header.kid)).unwrap();
            let key: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.clone()).unwrap();
            let mut rules = jsonwebtoken::Validation::new(alg);
            rules.set_required_spec_claims(&["iss", "aud"]);
            rules.set_issuer(&[ISSUER]);
            rules.set_audience(&[audience]);
            let claims = jsonwebtoken::decode::<Value>(&answer.text, &jsonwebtoken::DecodingKey::from_jwk(&key).unwrap(), &rules).unwrap().claims;
            let names: Vec<_> = claims.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(names, ["aud", "iat", "iss", "token_introspection"], "neither sub nor exp beside it");
            claims["token_introspection"].clone()
        };
        const SIGNED: &str = "application/token-introspection+jwt";
        let nobody = stage.server.nobody();
        let own = read(&ask(&nobody, true, "rt-1", SIGNED).await, "wiki", jsonwebtoken::Algorithm::PS256);
        assert_eq!((&own["active"], &own["client_id"], &own["sid"]), (&json!(true), &json!("wiki"), &json!("s-1")), "{own}");
        assert_eq!(read(&ask(&nobody, true, "never-seen", SIGNED).await, "wiki", jsonwebtoken::Algorithm::PS256), json!({"active": false}));
        // An API token's name is its id; without RS256 the issuer signs with what it has.
        let provider = stage.admin.items("/v1/api-tokens").await.into_iter().find(|token| token["role"] == "provider").unwrap();
        let by_provider = ask(&stage.provider, false, "rt-1", SIGNED).await;
        let alg = jsonwebtoken::decode_header(&by_provider.text).unwrap().alg;
        assert_eq!(read(&by_provider, provider["id"].as_str().unwrap(), alg)["sub"], "alice");
        for plain in ["*/*", "application/json", "application/json, application/token-introspection+jwt;q=0.1"] {
            let answer = ask(&nobody, true, "rt-1", plain).await;
            assert_eq!((answer.header("content-type"), answer.header("vary")), ("application/json", "Accept"), "{plain}");
        }
    }

    async fn a_gateway_learns_nothing_of_refresh_tokens_and_strangers_nothing_at_all(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "wiki", "token": "rt-1"})).await.expect(201);
        assert_eq!(stage.admin.introspect("rt-1").await["active"], true);
        let gateway = stage.admin.mint(json!({"role": "gateway", "issuer": "main"})).await;
        assert_eq!(gateway.introspect("rt-1").await, json!({"active": false}));

        let oauth = |answer: &crate::harness::api::Answer, status: u16, error: &str| {
            assert_eq!((answer.status, &answer.body["error"]), (status, &json!(error)), "{}", answer.text);
            assert_eq!(answer.header("cache-control"), "no-store");
            assert!(answer.body.get("type").is_none() && answer.header("content-type") == "application/json", "{}", answer.text);
        };
        let form = [("token", "rt-1")];
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        let other = stage.admin.mint(json!({"role": "provider", "issuer": "other"})).await;
        oauth(&other.form("/main/introspect", &form).await, 403, "insufficient_scope");
        assert_eq!(other.form("/other/introspect", &form).await.text, INACTIVE);
        let operator = stage.admin.mint(json!({"role": "operator"})).await;
        oauth(&operator.form("/main/introspect", &form).await, 403, "insufficient_scope");
        let nobody = stage.server.nobody().form("/main/introspect", &form).await;
        assert!(nobody.status == 401 && nobody.header("www-authenticate").starts_with("Bearer"), "{}", nobody.text);
        let stranger = stage.server.nobody().with_token("ldt_stranger").form("/main/introspect", &form).await;
        oauth(&stranger, 401, "invalid_token");
        oauth(&stage.admin.form("/nowhere/introspect", &form).await, 404, "invalid_request");

        oauth(&stage.provider.form("/main/introspect", &[]).await, 400, "invalid_request");
        oauth(&stage.provider.form("/main/introspect", &[("token", "a"), ("token", "b")]).await, 400, "invalid_request");
        oauth(&stage.provider.post("/main/introspect", json!({"token": "rt-1"})).await, 415, "invalid_request");
        oauth(&stage.provider.form("/main/introspect", &[("token", &"x".repeat(70_000))]).await, 413, "invalid_request");

        // Callers that know nothing but Basic show the API token as the password, under any name.
        let basic = |password: &str| {
            let request = stage.server.nobody().request(reqwest::Method::POST, "/main/introspect").basic_auth("anything", Some(password));
            send(request.header("Content-Type", "application/x-www-form-urlencoded").body("token=rt-1"))
        };
        assert_eq!(basic(stage.provider.token()).await.expect(200)["active"], true);
        let refused = basic("wrong").await;
        assert!(refused.status == 401 && refused.header("www-authenticate").starts_with("Basic"), "{:?}", refused.headers);
    }
}

/// Two processes on one database: what one of them was told, the other answers by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_dead_at_the_first_question_after_the_answer_to_its_logout_whichever_replica_is_asked() {
    use crate::harness::database::Database;
    use crate::harness::server::{ADMIN_TOKEN, Server};
    let Some(database) = Database::fresh(Engine::Postgres).await else { return };
    let stage = Stage::set(&database).await;
    let other = Server::start(&database).await;
    assert_eq!(other.admin().token(), ADMIN_TOKEN);
    signed_in(&stage).await;
    for number in 0..20 {
        let (sid, token) = (format!("s-{}", number + 10), format!("rt-{number}"));
        stage.login(&sid, "alice", &["wiki"]).await;
        stage.provider.post(TOKENS, json!({"sid": sid, "client_id": "wiki", "token": token})).await.expect(201);
        let there = other.nobody().with_token(stage.provider.token());
        assert_eq!(there.introspect(&token).await["active"], true);
        if number % 2 == 0 {
            stage.logout(json!({"sid": sid})).await;
        } else {
            assert_eq!(stage.provider.form("/main/revoke", &[("token", &token)]).await.status, 200);
        }
        assert_eq!(there.introspect(&token).await, json!({"active": false}), "{number}");
        assert_eq!(stage.provider.introspect(&token).await, json!({"active": false}), "{number}");
    }
}

/// Every row of every table of the schema, as text.
async fn everything_in(connection: &mut sqlx::PgConnection) -> String {
    let tables: Vec<(String,)> =
        sqlx::query_as("SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()")
            .fetch_all(&mut *connection)
            .await
            .unwrap();
    let mut all = String::new();
    for (table,) in tables {
        let rows: Vec<(String,)> =
            sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT t::text FROM {table} t"))).fetch_all(&mut *connection).await.unwrap();
        rows.into_iter().for_each(|(row,)| all.push_str(&row));
    }
    all
}
