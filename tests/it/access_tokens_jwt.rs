//! Access tokens of the provider: JWTs that it signs, and opaque ones that it is asked about. Each is as good as its session, whatever it says of itself.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use logoutd::config::Mode;
use logoutd::model::key::SigningAlg;
use logoutd::token::{generate, other_spelling};
use serde_json::{Value, json};

use crate::harness::api::send;
use crate::harness::database::{Database, on_both_engines};
use crate::harness::party::{Party, Reply};
use crate::harness::provider::{Provider, sign_with};
use crate::harness::server::{ISSUER, Server, Stage};

const PROFILES: &[(&str, &str)] = &[("LOGOUTD_CHECK__ANY__ISSUER", "main"), ("LOGOUTD_CHECK__ANY__ALLOW_NETWORKS", "127.0.0.0/8")];
const LOGOUTS: &str = "/v1/issuers/main/logouts";

async fn stage(database: &Database) -> Stage {
    let stage = Stage::on(Server::start_with(database, Mode::Dev, PROFILES).await, &["ES256"]).await;
    stage.party("wiki", json!({})).await;
    stage.party("shop", json!({})).await;
    stage.login("s-1", "alice", &["wiki", "shop"]).await;
    stage
}

/// The status a gateway is told, and whether nothing could be said.
async fn checked(stage: &Stage, token: &str) -> (u16, String) {
    let request = stage.server.nobody().with_token(token).request(reqwest::Method::GET, "/main/check/any");
    let answer = send(request).await;
    (answer.status, answer.header("logoutd-check").to_owned())
}

async fn status(stage: &Stage, token: &str) -> u16 {
    checked(stage, token).await.0
}

fn full(status: u16, body: impl ToString) -> Reply {
    Reply::Full { status, headers: vec![("Content-Type".to_owned(), "application/json".to_owned())], body: body.to_string() }
}

/// A provider whose introspection endpoint is asked about opaque tokens.
async fn asked_upstream(stage: &Stage, more: Value) -> Party {
    let endpoint = Party::open(&stage.server.base, "main", ISSUER, "").await;
    let mut upstream = json!({"endpoint": endpoint.uri(), "client_id": "logout:d", "client_secret": "s3cret +%"});
    upstream.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    stage.admin.patch("/v1/issuers/main", json!({"introspect_upstream": upstream})).await.expect(200);
    endpoint
}

on_both_engines! {
    async fn a_token_dies_with_its_session_its_participation_its_subject_and_its_client(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let about = |client: &str, sub: &str, sid: &str| provider.access_token(client, &json!({"sub": sub, "sid": sid}));
        for (number, (target, dies)) in [
            (json!({"sid": "sid"}), [true, true]),
            (json!({"sub": "sub"}), [true, true]),
            (json!({"sid": "sid", "client_id": "wiki"}), [true, false]),
            (json!({"sub": "sub", "client_id": "wiki"}), [true, false]),
        ].into_iter().enumerate() {
            let (sid, sub) = (format!("t-{number}"), format!("u-{number}"));
            stage.login(&sid, &sub, &["wiki", "shop"]).await;
            stage.server.advance(Duration::from_secs(5));
            let tokens = [about("wiki", &sub, &sid), about("shop", &sub, &sid)];
            for token in &tokens {
                assert_eq!(status(&stage, token).await, 200, "{target}");
            }
            stage.server.advance(Duration::from_secs(5));
            let mut named = target.clone();
            for (name, value) in [("sid", &sid), ("sub", &sub)] {
                if named.get(name).is_some() {
                    named[name] = json!(value);
                }
            }
            stage.logout(named).await;
            for (token, dies) in tokens.iter().zip(dies) {
                assert_eq!(status(&stage, token).await, if dies { 401 } else { 200 }, "{target}");
            }
        }
        let token = about("wiki", "alice", "s-1");
        assert_eq!(status(&stage, &token).await, 200);
        stage.admin.post("/v1/issuers/main/clients/wiki/suspend", json!({})).await;
        assert_eq!(status(&stage, &token).await, 401, "its client is suspended");
    }

    async fn a_token_of_a_session_that_nobody_reported_is_good_unless_sessions_must_be_known(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let unknown = provider.access_token("wiki", &json!({"sub": "bob", "sid": "never-reported"}));
        let without = provider.access_token("wiki", &json!({"sub": "bob"}));
        assert_eq!([status(&stage, &unknown).await, status(&stage, &without).await], [200, 200]);
        stage.admin.patch("/v1/issuers/main", json!({"require_known_session": true})).await.expect(200);
        assert_eq!([status(&stage, &unknown).await, status(&stage, &without).await], [401, 200]);
        stage.server.advance(Duration::from_secs(5));
        stage.provider.post(LOGOUTS, json!({"target": {"sub": "bob"}, "reason": "compromise"})).await.expect(201);
        assert_eq!(status(&stage, &without).await, 401, "it was issued before its subject was logged out");
        stage.server.advance(Duration::from_secs(5));
        assert_eq!(status(&stage, &provider.access_token("wiki", &json!({"sub": "bob"}))).await, 200, "after it, a new login");
    }

    async fn only_keys_that_the_provider_publishes_sign_access_tokens_and_ours_never_do(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": provider.key.kid}).to_string();
        let claims = provider.access_claims("wiki", &json!({"sub": "alice", "sid": "s-1"})).to_string();
        let stranger = generate(SigningAlg::Es256).unwrap();
        assert_eq!(status(&stage, &provider.sign(&header, &claims)).await, 200);
        assert_eq!(status(&stage, &sign_with(&stranger, &header, &claims)).await, 401);
        let named = json!({"alg": "ES256", "typ": "at+jwt", "kid": stranger.kid}).to_string();
        assert_eq!(status(&stage, &sign_with(&stranger, &named, &claims)).await, 401);
        // The provider changes its key: it is asked again, once the last time is half a minute ago.
        provider.publish(vec![serde_json::from_str(&stranger.public_jwk).unwrap()]);
        stage.server.advance(Duration::from_secs(31));
        assert_eq!(status(&stage, &sign_with(&stranger, &named, &claims)).await, 200);
        stage.server.advance(Duration::from_secs(31));
        assert_eq!(status(&stage, &provider.sign(&header, &claims)).await, 401, "the old one is published no more");
    }

    async fn a_typ_of_older_providers_is_taken_where_the_issuer_says_so(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let header = |typ: Value| json!({"alg": "ES256", "typ": typ, "kid": provider.key.kid}).to_string();
        let claims = provider.access_claims("wiki", &json!({"sub": "alice", "sid": "s-1"}));
        let old = provider.sign(&header(json!("JWT")), &claims.to_string());
        assert_eq!(status(&stage, &old).await, 401);
        stage.admin.patch("/v1/issuers/main", json!({"access_token_typ": "JWT", "access_token_audiences": ["api", "b"]})).await.expect(200);
        assert_eq!(status(&stage, &old).await, 200);
        for (more, expected) in [
            (json!({"aud": "b"}), 200),
            (json!({"aud": "c"}), 401),
            (json!({"nonce": "n"}), 401),
            (json!({"at_hash": "h"}), 401),
            (json!({"events": {}}), 401),
            (json!({"typ": "ID"}), 401),
            (json!({"typ": "Bearer"}), 200),
            (json!({"token_use": "id"}), 401),
        ] {
            let claims = provider.access_claims("wiki", &more).to_string();
            assert_eq!(status(&stage, &provider.sign(&header(json!("JWT")), &claims)).await, expected, "{more}");
        }
        assert_eq!(status(&stage, &provider.sign(&header(json!("logout+jwt")), &claims.to_string())).await, 401);
    }

    async fn the_provider_is_asked_about_an_opaque_token_and_its_word_is_joined_to_what_is_known_here(database) {
        let stage = stage(database).await;
        assert_eq!(status(&stage, "at-1").await, 401, "nobody can be asked");
        let endpoint = asked_upstream(&stage, json!({})).await;
        stage.server.advance(Duration::from_secs(5));
        let now = stage.server.clock.now().seconds();
        let active = |more: Value| {
            let mut answer = json!({"active": true, "sub": "alice", "sid": "s-1", "client_id": "wiki", "iat": now, "exp": now + 300, "scope": "read"});
            answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            answer
        };
        endpoint.always(full(200, active(json!({}))));
        assert_eq!(status(&stage, "at~1+~~").await, 200);
        let call = endpoint.only_call().await;
        let form = [("token", "at~1+~~"), ("token_type_hint", "access_token")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!((call.method.as_str(), call.form()), ("POST", form.to_vec()));
        // RFC 6749 2.3.1: encoded before they are joined.
        assert_eq!(call.header("authorization"), format!("Basic {}", STANDARD.encode("logout%3Ad:s3cret+%2B%25")));
        for (what, answer, expected) in [
            ("not active", json!({"active": false}), 401),
            ("another issuer's", active(json!({"iss": "https://other.example"})), 401),
            ("its own issuer's", active(json!({"iss": ISSUER})), 200),
            ("a refresh token", active(json!({"token_type": "refresh_token"})), 401),
            ("a refresh token, in other words", active(json!({"token_use": "refresh_token"})), 401),
            ("expired all the same", active(json!({"exp": now})), 401),
            ("without an end", json!({"active": true, "sub": "alice"}), 200),
        ] {
            endpoint.always(full(200, answer));
            assert_eq!(status(&stage, "at-1").await, expected, "{what}");
        }
        // Its word alone is not enough.
        endpoint.always(full(200, active(json!({}))));
        assert_eq!(status(&stage, "at-1").await, 200);
        stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(status(&stage, "at-1").await, 401);
    }

    async fn a_provider_that_is_away_or_says_nothing_readable_has_an_answer_of_its_own(database) {
        let stage = stage(database).await;
        let unavailable = || (403, "unavailable".to_owned());
        let endpoint = asked_upstream(&stage, json!({"token_endpoint_auth_method": "client_secret_post"})).await;
        let twice = r#"{"active":false,"active":true}"#;
        let elsewhere = Reply::Full { status: 302, headers: vec![("Location".to_owned(), endpoint.uri())], body: String::new() };
        let large = json!({"active": true, "filler": "x".repeat(70_000)});
        for reply in [Reply::Status(500), Reply::Status(401), Reply::Drop, full(200, twice), full(200, "[]"), full(200, large), elsewhere] {
            endpoint.always(reply.clone());
            assert_eq!(checked(&stage, "at-1").await, unavailable(), "{reply:?}");
        }
        let call = endpoint.calls().pop().unwrap();
        assert_eq!(call.header("authorization"), "");
        assert!(call.form().contains(&("client_secret".to_owned(), "s3cret +%".to_owned())), "{call:?}");
        let count = endpoint.calls().len();
        assert_eq!(count, 7, "nobody follows a redirect, and nothing is asked twice");
        endpoint.always(Reply::Hang);
        assert_eq!(checked(&stage, "at-1").await, unavailable(), "two seconds are enough");
        let upstream = json!({"endpoint": endpoint.uri(), "client_id": "logout:d", "when_away": "inactive"});
        stage.admin.patch("/v1/issuers/main", json!({"introspect_upstream": upstream})).await.expect(200);
        endpoint.always(Reply::Status(500));
        assert_eq!(checked(&stage, "at-1").await, (401, String::new()));
    }

    async fn a_token_that_is_refused_by_name_or_older_than_an_order_is_dead_also_where_nobody_registered_it(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let access = |more: Value| provider.access_token("wiki", &more);
        let until = stage.server.clock.now().plus(Duration::from_secs(600)).to_string();
        let (named, of_session, other) = (access(json!({"jti": "j-denied"})), access(json!({"sid": "s-1"})), access(json!({})));
        for name in [json!({"jti": "j-denied"}), json!({"sid": "s-1"})] {
            let mut entry = name;
            entry["expires_at"] = json!(until);
            assert!(stage.admin.post("/v1/issuers/main/denylist", entry).await.is_success());
        }
        assert_eq!([status(&stage, &named).await, status(&stage, &of_session).await, status(&stage, &other).await], [401, 401, 200]);
        stage.server.advance(Duration::from_secs(5));
        let not_before = stage.server.clock.now().to_string();
        let order = json!({"scope": {"client_id": "wiki"}, "not_before": not_before});
        stage.admin.post("/v1/issuers/main/cut-offs", order).await.expect(201);
        assert_eq!(status(&stage, &other).await, 401, "it was issued before");
        stage.server.advance(Duration::from_secs(5));
        assert_eq!(status(&stage, &access(json!({}))).await, 200);
    }

    async fn a_token_registered_by_its_name_is_good_if_both_its_registration_and_its_own_words_are(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let register = async |more: Value| {
            let expires_at = stage.server.clock.now().plus(Duration::from_secs(3600)).to_string();
            let mut body = json!({"sid": "s-1", "client_id": "wiki", "expires_at": expires_at});
            body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            stage.provider.post("/v1/issuers/main/access-tokens", body).await.expect(201);
        };
        let soon = stage.server.clock.now().plus(Duration::from_secs(20)).to_string();
        register(json!({"jti": "long"})).await;
        register(json!({"jti": "short", "expires_at": soon})).await;
        register(json!({"jti": "others", "client_id": "shop"})).await;
        register(json!({"token": "opaque-at", "aud": ["api"], "scope": "read"})).await;
        let whole = provider.access_token("wiki", &json!({"sid": "s-1", "exp": provider.seconds() + 20}));
        register(json!({"token": whole})).await;
        let access = |jti: &str, seconds: i64| {
            provider.access_token("wiki", &json!({"jti": jti, "sub": "alice", "sid": "s-1", "exp": provider.seconds() + seconds}))
        };
        let (long, short, brief) = (access("long", 3600), access("short", 3600), access("long", 20));
        for token in [&long, &short, &brief, &whole, "opaque-at"] {
            assert_eq!(status(&stage, token).await, 200, "{token}");
        }
        assert_eq!(status(&stage, &access("others", 3600)).await, 401, "registered for another client");
        let unsigned = format!("{}.{}", long.rsplit_once('.').unwrap().0, access("x", 9).rsplit_once('.').unwrap().1);
        assert_eq!(status(&stage, &unsigned).await, 401, "to be registered by a name is no signature");
        stage.server.advance(Duration::from_secs(21));
        assert_eq!([status(&stage, &long).await, status(&stage, &short).await, status(&stage, &brief).await], [200, 401, 401]);
        assert_eq!(status(&stage, &whole).await, 401, "it ends before its registration says");
        stage.logout(json!({"sid": "s-1"})).await;
        for token in [&long, "opaque-at"] {
            assert_eq!(status(&stage, token).await, 401, "{token}");
        }
    }

    async fn a_refresh_token_that_is_a_jwt_is_no_access_token_even_where_nothing_in_it_says_so(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({"access_token_typ": "JWT"})).await;
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": provider.key.kid}).to_string();
        let signed = |jti: &str| provider.sign(&header, &provider.access_claims("wiki", &json!({"jti": jti, "sid": "s-1"})).to_string());
        stage.provider.post("/v1/issuers/main/refresh-tokens", json!({"sid": "s-1", "client_id": "wiki", "jti": "rt-1"})).await.expect(201);
        let whole = signed("rt-2");
        stage.provider.post("/v1/issuers/main/refresh-tokens", json!({"sid": "s-1", "client_id": "wiki", "token": whole})).await.expect(201);
        assert_eq!([status(&stage, &signed("rt-1")).await, status(&stage, &whole).await, status(&stage, &signed("at-1")).await], [401, 401, 200]);
    }

    async fn whoever_writes_a_token_in_the_other_way_its_signature_allows_has_the_same_token(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let access = |more: Value| provider.access_token("wiki", &more);
        let (revoked, ended, nameless) = (access(json!({})), access(json!({})), access(json!({"jti": null})));
        let expires_at = stage.server.clock.now().plus(Duration::from_secs(300)).to_string();
        for token in [&revoked, &ended] {
            let body = json!({"sid": "s-1", "client_id": "wiki", "token": token, "expires_at": expires_at});
            stage.provider.post("/v1/issuers/main/access-tokens", body).await.expect(201);
        }
        let both = async |token: &str| [status(&stage, token).await, status(&stage, &other_spelling(token).unwrap()).await];
        assert_eq!([both(&revoked).await, both(&ended).await, both(&nameless).await], [[200, 200]; 3]);
        for token in [&revoked, &nameless] {
            assert_eq!(stage.provider.form("/main/revoke", &[("token", token)]).await.status, 200);
            assert_eq!(both(token).await, [401, 401]);
        }
        assert_eq!(both(&ended).await, [200, 200]);
        stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!(both(&ended).await, [401, 401]);
    }

    async fn a_session_name_that_comes_back_gives_no_token_of_its_first_holder_new_life(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let (undated, dated) = (json!({"sub": "alice", "sid": "s-1", "iat": null}), json!({"sub": "alice", "sid": "s-1"}));
        let tokens = [provider.access_token("wiki", &undated), provider.access_token("wiki", &dated)];
        stage.server.advance(Duration::from_secs(5));
        stage.logout(json!({"sid": "s-1"})).await;
        stage.server.advance(Duration::from_secs(5));
        let body = json!({"sub": "mallory", "started_at": stage.server.clock.now().to_string(), "participants": [{"client_id": "wiki"}]});
        stage.provider.put("/v1/issuers/main/sessions/s-1", body).await.expect(201);
        for token in &tokens {
            assert_eq!(status(&stage, token).await, 401);
        }
        assert_eq!(status(&stage, &provider.access_token("wiki", &json!({"sub": "mallory", "sid": "s-1"}))).await, 200);
    }

    async fn a_token_that_names_its_subject_as_its_client_does_dies_with_the_person(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let body = json!({"sub": "carol", "participants": [{"client_id": "wiki", "sub": "pairwise-of-carol"}]});
        stage.provider.put("/v1/issuers/main/sessions/s-2", body).await.expect(201);
        let token = provider.access_token("wiki", &json!({"sub": "pairwise-of-carol"}));
        assert_eq!(status(&stage, &token).await, 200);
        stage.server.advance(Duration::from_secs(5));
        stage.logout(json!({"sub": "carol"})).await;
        assert_eq!(status(&stage, &token).await, 401);
    }

    async fn what_nobody_registered_lives_no_longer_than_its_client_s_tokens_may_and_ends_with_the_client(database) {
        let stage = stage(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        stage.register("brief", "http://127.0.0.1:1/", json!({"tokens": {"access_token_max_s": 60}})).await;
        let token = provider.access_token("brief", &json!({}));
        let other = provider.access_token("shop", &json!({}));
        assert_eq!([status(&stage, &token).await, status(&stage, &other).await], [200, 200]);
        stage.server.advance(Duration::from_secs(61));
        assert_eq!([status(&stage, &token).await, status(&stage, &other).await], [401, 200]);
        stage.admin.delete("/v1/issuers/main/clients/shop").await.expect(204);
        assert_eq!(status(&stage, &other).await, 401);
    }
}
