//! Forward-auth: what a gateway is told about a request, by the token it carries, the profile it comes by and who the gateway is.

use std::time::Duration;

use logoutd::config::Mode;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::{Answer, send};
use crate::harness::database::{Database, on_both_engines};
use crate::harness::provider::Provider;
use crate::harness::server::{Server, Stage};

const KEY: &str = "key-of-the-gateway-0123456789-abcdefghij";
const IDENTITY: [&str; 4] = ["x-subject", "x-session-id", "x-client-id", "x-scope"];

/// A profile for each way of asking: anything on loopback, audience and scopes, elsewhere, by key, going on without the database.
const PROFILES: &[(&str, &str)] = &[
    ("LOGOUTD_CHECK__ANY__ISSUER", "main"),
    ("LOGOUTD_CHECK__ANY__ALLOW_NETWORKS", "127.0.0.0/8"),
    ("LOGOUTD_CHECK__API__ISSUER", "main"),
    ("LOGOUTD_CHECK__API__ALLOW_NETWORKS", "127.0.0.0/8"),
    ("LOGOUTD_CHECK__API__AUDIENCES", "api,reports"),
    ("LOGOUTD_CHECK__API__SCOPES", "read,admin"),
    ("LOGOUTD_CHECK__FAR__ISSUER", "main"),
    ("LOGOUTD_CHECK__FAR__ALLOW_NETWORKS", "192.0.2.0/24"),
    ("LOGOUTD_CHECK__KEYED__ISSUER", "main"),
    ("LOGOUTD_CHECK__KEYED__KEY", KEY),
    ("LOGOUTD_CHECK__BOTH__ISSUER", "main"),
    ("LOGOUTD_CHECK__BOTH__KEY", KEY),
    ("LOGOUTD_CHECK__BOTH__ALLOW_NETWORKS", "192.0.2.0/24"),
    ("LOGOUTD_CHECK__OPEN__ISSUER", "main"),
    ("LOGOUTD_CHECK__OPEN__ALLOW_NETWORKS", "127.0.0.0/8"),
    ("LOGOUTD_CHECK__OPEN__AUDIENCES", "api"),
    ("LOGOUTD_CHECK__OPEN__SCOPES", "read"),
    ("LOGOUTD_CHECK__OPEN__WHEN_UNAVAILABLE", "open"),
    ("LOGOUTD_CHECK__STRAY__ISSUER", "nobody"),
    ("LOGOUTD_CHECK__STRAY__ALLOW_NETWORKS", "127.0.0.0/8"),
];

async fn stage(database: &Database) -> (Stage, Provider) {
    let stage = Stage::on(Server::start_with(database, Mode::Dev, PROFILES).await, &["ES256"]).await;
    stage.party("wiki", json!({})).await;
    stage.login("s-1", "alice", &["wiki"]).await;
    let provider = Provider::open(&stage, json!({})).await;
    (stage, provider)
}

async fn asked(stage: &Stage, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = stage.server.nobody().request(Method::from_bytes(method.as_bytes()).unwrap(), path);
    let answer = send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await;
    assert!([200, 401, 403].contains(&answer.status), "{method} {path}: {answer:?}");
    assert!(answer.text.is_empty() && answer.header("set-cookie").is_empty() && answer.header("location").is_empty(), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    answer
}

async fn shown(stage: &Stage, profile: &str, token: &str) -> Answer {
    asked(stage, "GET", &format!("/main/check/{profile}"), &[("Authorization", &format!("Bearer {token}"))]).await
}

fn identity(answer: &Answer) -> [&str; 4] {
    IDENTITY.map(|name| {
        assert!(answer.headers.contains_key(name), "{name} is always said: {answer:?}");
        answer.header(name)
    })
}

/// Status, challenge, and whether nothing could be said.
fn told(answer: &Answer) -> (u16, &str, &str) {
    (answer.status, answer.header("www-authenticate"), answer.header("logoutd-check"))
}

const NO_TOKEN: (u16, &str, &str) = (401, "Bearer realm=\"main\"", "");
const BAD_TOKEN: (u16, &str, &str) = (401, "Bearer realm=\"main\", error=\"invalid_token\"", "");
const STRANGER: (u16, &str, &str) = (403, "", "");
const UNAVAILABLE: (u16, &str, &str) = (403, "", "unavailable");

on_both_engines! {
    async fn a_request_passes_with_the_name_of_its_subject_until_the_logout_is_answered_and_never_after(database) {
        let (stage, provider) = stage(database).await;
        let token = provider.access_token("wiki", &json!({"sub": "alice", "sid": "s-1"}));
        let answer = shown(&stage, "any", &token).await;
        assert_eq!((answer.status, identity(&answer)), (200, ["alice", "s-1", "wiki", "read write"]), "{answer:?}");
        stage.logout(json!({"sid": "s-1"})).await;
        // No wait: it is dead as soon as the logout is accepted.
        assert_eq!(told(&shown(&stage, "any", &token).await), BAD_TOKEN);
    }

    async fn whatever_the_method_the_path_behind_and_the_body_only_the_token_counts(database) {
        let (stage, provider) = stage(database).await;
        let token = provider.access_token("wiki", &json!({"sub": "alice", "sid": "s-1"}));
        let bearer = format!("Bearer {token}");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "X-Other"] {
            for path in ["/main/check/any", "/main/check/any/", "/main/check/any/a/b/../c%2fd%ff", "/main/check/any?token=x&access_token=y"] {
                assert_eq!(asked(&stage, method, path, &[("Authorization", &bearer)]).await.status, 200, "{method} {path}");
                assert_eq!(told(&asked(&stage, method, path, &[]).await), NO_TOKEN, "{method} {path}");
            }
        }
        let post = stage.server.nobody().request(Method::POST, "/main/check/any").header("Authorization", &bearer);
        let large = send(post.header("Content-Type", "application/json").body(vec![b'{'; 6 << 20])).await;
        assert_eq!(large.status, 200, "a body is not read");
        // Where tokens must not come from.
        let query = format!("/main/check/any?access_token={token}");
        let cookie = format!("access_token={token}");
        assert_eq!(told(&asked(&stage, "GET", &query, &[("Cookie", &cookie), ("X-Subject", "admin")]).await), NO_TOKEN);
    }

    async fn what_is_no_access_token_of_the_issuer_passes_nowhere(database) {
        let (stage, provider) = stage(database).await;
        let about = json!({"sub": "alice", "sid": "s-1"});
        let good = provider.access_token("wiki", &about);
        let access = |more: Value| provider.access_token("wiki", &more);
        let registered = json!({"sid": "s-1", "client_id": "wiki", "token": "rt-opaque-1", "scope": "read admin"});
        stage.provider.post("/v1/issuers/main/refresh-tokens", registered).await.expect(201);
        let tokens = [
            ("a refresh token", "rt-opaque-1".to_owned()),
            ("nothing anybody knows", "opaque".to_owned()),
            ("a logout token", provider.token("wiki", &about)),
            ("an ID token", access(json!({"nonce": "n"}))),
            ("another issuer's", access(json!({"iss": "https://other.example"}))),
            ("an expired one", access(json!({"exp": provider.seconds()}))),
            ("one that never expires", access(json!({"exp": null}))),
            ("one with another's signature", format!("{}.{}", good.rsplit_once('.').unwrap().0, access(json!({})).rsplit_once('.').unwrap().1)),
            ("one without a signature", format!("{}.", good.rsplit_once('.').unwrap().0)),
            ("a very long one", "a".repeat(20_000)),
            ("one with characters that no token has", "a\"b".to_owned()),
            ("two", "a b".to_owned()),
            ("none", String::new()),
        ];
        for (what, token) in tokens {
            assert_eq!(told(&shown(&stage, "any", &token).await), BAD_TOKEN, "{what}");
        }
        let twice = [("Authorization", format!("Bearer {good}")), ("Authorization", format!("Bearer {good}"))];
        let twice = twice.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(told(&asked(&stage, "GET", "/main/check/any", &twice).await), BAD_TOKEN, "two tokens");
        assert_eq!(told(&asked(&stage, "GET", "/main/check/any", &[("Authorization", "Basic YTpi")]).await), NO_TOKEN);
    }

    async fn a_profile_asks_for_one_of_its_audiences_and_for_all_of_its_scopes(database) {
        let (stage, provider) = stage(database).await;
        let access = |more: Value| provider.access_token("wiki", &more);
        for (more, expected) in [
            (json!({"aud": ["other", "reports"], "scope": "admin x read"}), 200),
            (json!({"aud": "api", "scp": ["read", "admin"], "scope": null}), 200),
            (json!({"aud": "other", "scope": "read admin"}), 401),
            (json!({"aud": null, "scope": "read admin"}), 401),
            (json!({"scope": "read"}), 403),
            (json!({"scope": "readadmin"}), 403),
            (json!({"scope": null}), 403),
        ] {
            let answer = shown(&stage, "api", &access(more.clone())).await;
            assert_eq!(answer.status, expected, "{more}: {answer:?}");
            if expected == 403 {
                assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"main\", error=\"insufficient_scope\", scope=\"read admin\"");
            }
        }
        let bare = shown(&stage, "any", &access(json!({"scope": null, "client_id": null}))).await;
        assert_eq!((bare.status, identity(&bare)), (200, ["", "", "", ""]), "what is not known is said to be empty");
        let strange = shown(&stage, "any", &access(json!({"sub": "Zoë 100%\u{7f}"}))).await;
        assert_eq!(strange.status, 401, "no subject holds a control character");
        let strange = shown(&stage, "any", &access(json!({"sub": "Zoë 100%", "scope": "a b,c"}))).await;
        assert_eq!((strange.status, identity(&strange)), (200, ["Zo%C3%AB%20100%25", "", "wiki", "a b,c"]));
    }

    async fn a_gateway_that_is_not_where_or_what_the_profile_says_is_told_nothing(database) {
        let (stage, provider) = stage(database).await;
        let bearer = format!("Bearer {}", provider.access_token("wiki", &json!({"sub": "alice", "sid": "s-1"})));
        let ask = async |path: &str, keys: &[&str]| {
            let mut headers = vec![("Authorization", bearer.as_str())];
            headers.extend(keys.iter().map(|key| ("Logoutd-Key", *key)));
            asked(&stage, "GET", path, &headers).await
        };
        let other = KEY.replace('j', "k");
        assert_eq!(ask("/main/check/keyed", &[KEY]).await.status, 200);
        for (path, keys) in [
            ("/main/check/keyed", &[][..]),
            ("/main/check/keyed", &[""]),
            ("/main/check/keyed", &[&other]),
            ("/main/check/keyed", &[KEY, KEY]),
            ("/main/check/both", &[KEY]),
            ("/main/check/far", &[KEY]),
            ("/main/check/unknown", &[KEY]),
            ("/main/check/stray", &[]),
            ("/nobody/check/stray", &[]),
            ("/nobody/check/any", &[]),
            ("/other/check/any", &[]),
            ("/main/check/%61ny", &[]),
            ("/main/check/any%ff", &[]),
        ] {
            assert_eq!(told(&ask(path, keys).await), STRANGER, "{path} {keys:?}");
        }
    }

    async fn while_the_database_is_away_nobody_passes_but_where_the_profile_says_so(database) {
        let (stage, provider) = stage(database).await;
        let good = provider.access_token("wiki", &json!({"sub": "alice", "sid": "s-1"}));
        let soon = provider.access_token("wiki", &json!({"exp": provider.seconds() + 5}));
        let (lacking, other) = (provider.access_token("wiki", &json!({"scope": "x"})), provider.access_token("wiki", &json!({"aud": "x"})));
        for profile in ["any", "open"] {
            assert_eq!(shown(&stage, profile, &good).await.status, 200, "{profile}");
        }
        stage.server.store().close().await;
        stage.server.advance(Duration::from_secs(10));
        assert_eq!(told(&shown(&stage, "any", &good).await), UNAVAILABLE);
        let passed = shown(&stage, "open", &good).await;
        assert_eq!((told(&passed), identity(&passed)), ((200, "", "unavailable"), ["alice", "s-1", "wiki", "read write"]));
        assert_eq!(told(&shown(&stage, "open", &soon).await), BAD_TOKEN);
        assert_eq!(told(&shown(&stage, "open", &other).await), BAD_TOKEN);
        assert_eq!(shown(&stage, "open", &lacking).await.status, 403);
        assert_eq!(told(&shown(&stage, "open", "opaque").await), UNAVAILABLE, "of it nothing can be said");
        assert_eq!(told(&shown(&stage, "open", &good.replace('.', "A.")).await).0, 403);
        assert_eq!(told(&asked(&stage, "GET", "/main/check/open", &[]).await), NO_TOKEN);
    }
}
