//! What bad input gets: a problem document with a stable type and the field at fault, never a 5xx, never a half effect.

use std::time::Duration;

use logoutd::config::Mode;
use logoutd::seams::Entropy;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::{Answer, Api, send};
use crate::harness::database::{Database, on_both_engines};
use crate::harness::server::{Server, Stage};

const LOGOUTS: &str = "/v1/issuers/main/logouts";
const SESSIONS: &str = "/v1/issuers/main/sessions";
const REPORTS: &str = "/v1/issuers/main/reports";
const TOKENS: &str = "/v1/issuers/main/refresh-tokens";
const DENYLIST: &str = "/v1/issuers/main/denylist";
const ROTATE: &str = "/v1/issuers/main/refresh-tokens/rotate";
const ACCESS_TOKENS: &str = "/v1/issuers/main/access-tokens";
const CUT_OFFS: &str = "/v1/issuers/main/cut-offs";
const CLIENT: &str = "/v1/issuers/main/clients/new";

/// As outside of development: relying parties by https at public addresses. Nobody is ever called, since nothing is ever done.
async fn production(database: &Database) -> Stage {
    let stage =
        Stage::on(Server::start_with(database, Mode::Production, &[("LOGOUTD_NETWORK__ALLOW", "10.0.0.0/8")]).await, &["ES256"]).await;
    stage.register("wiki", "https://wiki.example.com/backchannel-logout", json!({})).await;
    stage.login("s-1", "alice", &["wiki"]).await;
    stage
}

/// Everything that can be seen of a server, to be compared with itself.
async fn everything(stage: &Stage) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for path in [
        "/v1/issuers",
        "/v1/issuers/main/clients",
        "/v1/issuers/main/keys",
        SESSIONS,
        LOGOUTS,
        "/v1/issuers/main/deliveries",
        CUT_OFFS,
        DENYLIST,
        "/v1/api-tokens",
        "/v1/audit",
    ] {
        let mut listed = stage.admin.get(&format!("{path}?limit=1000")).await.expect(200);
        // When a token was last shown is noted some time after it was.
        listed["items"].as_array_mut().unwrap().iter_mut().filter_map(Value::as_object_mut).for_each(|item| drop(item.remove("used_at")));
        all.push((path.to_owned(), listed));
    }
    let status = stage.admin.post("/v1/issuers/main/subjects/status", json!({"sub": "alice"})).await.expect(200);
    all.push(("status".to_owned(), status));
    all
}

async fn assert_unchanged(stage: &Stage, before: &[(String, Value)]) {
    for ((path, then), (_, now)) in before.iter().zip(everything(stage).await) {
        assert_eq!(*then, now, "{path}");
    }
}

/// Where a problem says the fault is: `/pointer`, `?parameter` or `header:`; empty when it names no part.
fn place(problem: &Value) -> String {
    let error = &problem["errors"][0];
    let of = |name: &str| error[name].as_str().map(str::to_owned);
    of("pointer")
        .or_else(|| of("parameter").map(|name| format!("?{name}")))
        .or_else(|| of("header").map(|name| format!("{name}:")))
        .unwrap_or_default()
}

/// A request, as octets.
async fn raw(api: &Api, method: Method, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
    send(api.request(method, path).header("Content-Type", content_type).body(body)).await
}

async fn json_text(api: &Api, method: Method, path: &str, body: &str) -> Answer {
    raw(api, method, path, "application/json", body.to_owned()).await
}

/// A body with every member its route knows. Never sent as it stands.
fn full_bodies() -> Vec<(Method, &'static str, Value)> {
    let t = "2026-01-01T00:00:00Z";
    let token = json!({"token": "rt", "issued_at": t, "expires_at": "2099-01-01T00:00:00Z", "offline_access": true, "scope": "openid",
        "sealed": true});
    let access =
        json!({"client_id": "c", "token": "at", "issued_at": t, "expires_at": "2099-01-01T00:00:00Z", "scope": "openid", "aud": "api"});
    let participant = json!({"client_id": "wiki", "sid": "w", "sub": "p", "joined_at": t, "refresh_token": token});
    let session = json!({"sub": "bob", "started_at": t, "expires_at": "2099-01-01T00:00:00Z", "idle_expires_at": "2099-01-01T00:00:00Z",
        "aliases": ["email:bob@example.org"], "device": {"id": "d", "label": "l", "ip": "192.0.2.1", "user_agent": "u"}, "participants": [participant]});
    let with = |mut body: Value, more: Value| {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let logout = |target: Value| {
        json!({"target": target, "reason": "admin", "reason_detail": "d", "occurred_at": t, "revoke_offline_access": true,
        "tell_provider": false, "actor": "a", "correlation_id": "c", "note": "n", "dry_run": false})
    };
    let client = json!({"client_id": "new", "client_name": "n", "backchannel_logout_uri": "https://new.example.com/", "client_secret": "s",
        "backchannel_logout_session_required": true, "id_token_signed_response_alg": "ES256", "token_endpoint_auth_method": "client_secret_basic",
        "jwks_uri": "https://new.example.com/jwks",
        "delivery": {"claims": "both", "typ": "JWT", "timeout_ms": 5000, "max_in_flight": 2, "horizon_s": 3600, "confirm_rejections": 1,
            "retry_statuses": [404], "allow_networks": ["10.1.0.0/16"], "tls": {"server_name": "new.internal"}, "headers": {"x-key": "v"}}});
    vec![
        (Method::PUT, "/v1/issuers/main/sessions/s-9", session.clone()),
        (Method::POST, SESSIONS, json!({"sessions": [with(session.clone(), json!({"sid": "s-9"}))]})),
        (Method::POST, SESSIONS, json!({"sessions": [with(session.clone(), json!({"key": "k-9"}))]})),
        (Method::POST, "/v1/issuers/main/sessions/reconcile", json!({"live": ["s-1"], "as_of": t, "dry_run": true})),
        (Method::POST, REPORTS, json!({"reports": [with(session, json!({"op": "session", "sid": "s-9"}))]})),
        (
            Method::POST,
            REPORTS,
            json!({"reports": [
            {"op": "join", "sid": "s-1", "client_id": "c", "client_sid": "s", "client_sub": "b", "joined_at": t, "refresh_token": token}]}),
        ),
        (Method::POST, REPORTS, json!({"reports": [{"op": "touch", "key": "k", "idle_expires_at": t, "expires_at": t}]})),
        (Method::POST, REPORTS, json!({"reports": [{"op": "leave", "sub": "b", "client_id": "c", "client_sid": "s"}]})),
        (Method::POST, REPORTS, json!({"reports": [with(token.clone(), json!({"op": "refresh_token", "sid": "s-1", "client_id": "c"}))]})),
        (Method::POST, TOKENS, with(token.clone(), json!({"sid": "s-1", "client_id": "c"}))),
        (Method::POST, TOKENS, json!({"tokens": [{"sub": "alice", "client_id": "c", "jti": "j"}]})),
        (
            Method::POST,
            ROTATE,
            json!({"client_id": "c", "token": "rt", "successor": "ru", "issued_at": t, "expires_at": "2099-01-01T00:00:00Z", "event": "new network"}),
        ),
        (
            Method::POST,
            REPORTS,
            json!({"reports": [{"op": "rotated", "client_id": "c", "jti": "j", "successor_jti": "k", "issued_at": t}]}),
        ),
        (Method::POST, ACCESS_TOKENS, with(access.clone(), json!({"sid": "s-1", "refresh_token": "rt"}))),
        (Method::POST, ACCESS_TOKENS, json!({"tokens": [with(access.clone(), json!({"sub": "alice"}))]})),
        (Method::POST, REPORTS, json!({"reports": [with(access, json!({"op": "access_token", "sid": "s-1"}))]})),
        (Method::POST, TOKENS, json!({"sid": "s-1", "client_id": "c", "token_sha256": "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ"})),
        (Method::POST, LOGOUTS, logout(json!({"sid": "s-1"}))),
        (Method::POST, LOGOUTS, logout(json!({"key": "k"}))),
        (Method::POST, LOGOUTS, logout(json!({"sub": "alice", "except_sid": "x"}))),
        (Method::POST, LOGOUTS, logout(json!({"sub": "alice", "client_id": "wiki"}))),
        (Method::POST, LOGOUTS, logout(json!({"client_id": "wiki", "client_sid": "s"}))),
        (Method::POST, LOGOUTS, logout(json!({"client_id": "wiki", "client_sub": "s"}))),
        (Method::POST, LOGOUTS, logout(json!({"device_id": "d"}))),
        (Method::POST, LOGOUTS, logout(json!({"refresh_token": "rt"}))),
        (Method::POST, LOGOUTS, logout(json!({"everyone": true}))),
        (Method::POST, "/v1/issuers/main/subjects/status", json!({"sub": "alice"})),
        (Method::POST, "/v1/issuers/main/sessions/search", json!({"sub": "alice"})),
        (Method::POST, "/v1/issuers/main/sessions/search", json!({"sid": "s"})),
        (Method::POST, "/v1/issuers/main/sessions/search", json!({"client_id": "wiki"})),
        (Method::POST, "/v1/issuers/main/sessions/search", json!({"alias": "a"})),
        (Method::POST, "/v1/issuers/main/sessions/search", json!({"device_id": "d"})),
        (Method::POST, "/v1/issuers/main/sessions/search", json!({"ip": "192.0.2.1"})),
        (
            Method::POST,
            "/v1/issuers/main/deliveries/replay",
            json!({"client_id": "wiki", "state": ["rejected"], "since": t, "until": "2099-01-01T00:00:00Z", "reason": "admin", "dry_run": true}),
        ),
        (Method::POST, "/v1/issuers/main/logouts/search", json!({"sub": "alice"})),
        (Method::POST, "/v1/issuers/main/logouts/search", json!({"sid": "s"})),
        (Method::POST, "/v1/issuers/main/logouts/search", json!({"correlation_id": "c"})),
        (Method::POST, "/v1/issuers/main/logouts/search", json!({"actor": "a"})),
        (
            Method::POST,
            "/v1/api-tokens",
            json!({"role": "client", "issuer": "main", "client_id": "wiki", "may_mass_kill": false,
            "expires_at": "2099-01-01T00:00:00Z"}),
        ),
        (
            Method::POST,
            "/v1/issuers",
            json!({"id": "new", "issuer": "https://new.example.com", "signing_algs": ["ES256"], "session_max_age": 3600,
            "allow_networks": ["10.1.0.0/16"]}),
        ),
        (Method::PATCH, "/v1/issuers/main", json!({"signing_algs": ["ES256"], "session_max_age": 3600, "allow_networks": ["10.1.0.0/16"]})),
        (Method::POST, "/v1/issuers/main/keys/rotate", json!({"alg": "ES256", "at_once": true})),
        (
            Method::POST,
            "/v1/issuers/main/keys/import",
            json!({"pem": include_str!("pem/ed.pem"), "alg": "EdDSA", "kid": "k", "not_published_yet": true}),
        ),
        (Method::POST, CUT_OFFS, json!({"scope": {"sub": "alice", "client_id": "wiki"}, "not_before": t, "expires_at": t})),
        (Method::POST, CUT_OFFS, json!({"scope": {"sid": "s-1"}, "not_before": t})),
        (Method::POST, CUT_OFFS, json!({"scope": {"everyone": true}, "not_before": t})),
        (Method::POST, DENYLIST, json!({"jti": "j", "expires_at": t})),
        (Method::DELETE, "/v1/issuers/main/subjects", json!({"sub": "nobody-here"})),
        (Method::POST, DENYLIST, json!({"sid": "s", "expires_at": t})),
        (Method::PUT, CLIENT, client.clone()),
        (Method::POST, "/v1/issuers/main/clients", client),
    ]
}

/// The pointers of every value in a document, containers included, the root excluded.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let mut under = |name: &str, value: &Value| {
        let pointer = format!("{at}/{name}");
        found.push(pointer.clone());
        pointers(value, &pointer, found);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| under(name, value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| under(&index.to_string(), value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_registration(path: &str) -> bool {
    path.starts_with("/v1/issuers") && !path.contains("/keys/") && (path.matches('/').count() <= 3 || path.contains("/clients"))
}

on_both_engines! {
    async fn no_string_takes_control_characters_or_more_than_it_can_hold_and_no_member_another_type(database) {
        let stage = production(database).await;
        let before = everything(&stage).await;
        for (method, path, body) in full_bodies() {
            let mut all = Vec::new();
            pointers(&body, "", &mut all);
            for pointer in all {
                let right = body.pointer(&pointer).unwrap();
                let wrong: Vec<Value> = match right {
                    Value::String(_) => vec![json!("a\u{0}b"), json!("a\nb"), json!("a\u{85}b"), json!("x".repeat(20_000)), json!(""), json!(7), json!({"a": 1})],
                    Value::Bool(_) | Value::Number(_) => vec![json!("yes"), json!([]), json!(-1), json!(1e300)],
                    Value::Array(_) => vec![json!({}), json!("x"), json!(1)],
                    Value::Object(_) => vec![json!([]), json!("x"), json!(true)],
                    Value::Null => unreachable!("nothing is null there"),
                };
                for wrong in wrong {
                    let mut bad = body.clone();
                    *bad.pointer_mut(&pointer).unwrap() = wrong.clone();
                    let told: String = wrong.to_string().chars().take(40).collect();
                    let answer = json_text(&stage.admin, method.clone(), path, &bad.to_string()).await;
                    assert!(answer.status == 422, "{method} {path} {pointer} {told}: {}", answer.text);
                    let problem = answer.problem(422, "invalid-field");
                    assert_eq!(place(&problem), pointer, "{method} {path} {told}: {problem}");
                }
            }
        }
        assert_unchanged(&stage, &before).await;
    }

    async fn an_unknown_or_repeated_member_is_refused_by_name_and_outside_registration_an_unknown_one_too(database) {
        let stage = production(database).await;
        let before = everything(&stage).await;
        for (method, path, body) in full_bodies() {
            let mut objects = Vec::new();
            pointers(&body, "", &mut objects);
            objects.retain(|pointer| body.pointer(pointer).unwrap().is_object());
            objects.push(String::new());
            for object in objects {
                let members = body.pointer(&object).unwrap().as_object().unwrap();
                let name = members.keys().next().unwrap();
                let mut known = body.clone();
                known.pointer_mut(&object).unwrap().as_object_mut().unwrap().insert("zzz".to_owned(), json!(1));
                // The same member twice, however the first one is spelt.
                let twice = known.to_string().replace("\"zzz\":1", &format!("\"{name}\":1"));
                let answer = json_text(&stage.admin, method.clone(), path, &twice).await;
                assert_eq!(place(&answer.problem(400, "duplicate-member")), format!("{object}/{name}"), "{method} {path}");
                if !is_registration(path) {
                    let answer = json_text(&stage.admin, method.clone(), path, &known.to_string()).await;
                    assert_eq!(place(&answer.problem(422, "unknown-member")), format!("{object}/zzz"), "{method} {path}");
                }
            }
        }
        assert_unchanged(&stage, &before).await;

        let body = json!({"backchannel_logout_uri": "https://new.example.com/", "id_token_signed_response_alg": "ES256", "application_type": "web",
            "delivery": {"pigeon": true}});
        let registered = stage.admin.put(CLIENT, body).await.expect(201);
        assert_eq!(registered["ignored"], json!(["application_type", "delivery.pigeon"]));
        let issuer = json!({"id": "new", "issuer": "https://new.example.com", "signing_algs": ["ES256"], "colour": "red"});
        assert_eq!(stage.admin.post("/v1/issuers", issuer).await.expect(201)["ignored"], json!(["colour"]));
    }

    async fn a_malformed_request_is_told_what_is_wrong_with_it(database) {
        let stage = production(database).await;
        let logout = json!({"target": {"sid": "s-1"}, "reason": "admin"}).to_string();
        let before = everything(&stage).await;
        let admin = &stage.admin;
        let post = |body: String| json_text(admin, Method::POST, LOGOUTS, Box::leak(body.into_boxed_str()));

        for broken in ["", "{", "nonsense", "{\"target\":}", "{\"target\":{\"sid\":\"s-1\"},\"reason\":\"admin\"}x", "\u{feff}{}", "{'a':1}"] {
            post(broken.to_owned()).await.problem(400, "malformed-json");
        }
        let not_utf8 = [&b"{\"target\":{\"sid\":\"s-\xff\"},\"reason\":\"admin\"}"[..], b"\"\xed\xa0\x80\""];
        for octets in not_utf8 {
            raw(admin, Method::POST, LOGOUTS, "application/json", octets).await.problem(400, "malformed-json");
        }
        for not_an_object in ["[]", "7", "null", "\"x\"", "true"] {
            assert_eq!(place(&post(not_an_object.to_owned()).await.problem(422, "invalid-field")), "", "{not_an_object}");
        }
        let deep = format!("{{\"target\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(place(&post(deep).await.problem(400, "too-deep")).starts_with("/target/0/0"));
        assert_eq!(place(&post(logout.replace("\"sid\":", "\"sid\":\"x\",\"s\\u0069d\":")).await.problem(400, "duplicate-member")), "/target/sid");

        for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/json; charset=latin1", ""] {
            let answer = raw(admin, Method::POST, LOGOUTS, content_type, logout.clone()).await;
            assert_eq!(place(&answer.problem(415, "unsupported-media-type")), "content-type:", "{content_type}");
        }
        let zipped = admin.request(Method::POST, LOGOUTS).header("Content-Type", "application/json").header("Content-Encoding", "gzip");
        send(zipped.body(logout.clone())).await.problem(415, "unsupported-media-type");
        // Octet by octet too many, announced and not.
        let mut large = logout.clone();
        large.push_str(&" ".repeat((4 << 20) + 1 - logout.len()));
        post(large).await.problem(413, "body-too-large");

        for (method, path) in [(Method::DELETE, LOGOUTS), (Method::PATCH, SESSIONS), (Method::POST, "/main/jwks"), (Method::GET, REPORTS), (Method::PUT, "/healthz")] {
            let answer = json_text(admin, method.clone(), path, "{}").await;
            assert!(!answer.header("allow").is_empty(), "{method} {path}");
            answer.problem(405, "method-not-allowed");
        }
        for path in ["/", "/v1", "/v2/issuers", "/v1/issuers/main/nothing", "/v1/issuers/main/logouts/a/b/c", "//", "/v1/issuers//sessions"] {
            let answer = admin.get(path).await;
            assert_eq!(answer.status, 404, "{path}: {}", answer.text);
            assert_eq!(answer.header("content-type"), "application/problem+json", "{path}");
        }
        for path in ["/v1/issuers/main/sessions/%FF", "/v1/issuers/main/clients/%C3%28", "/v1/issuers/%FE/sessions"] {
            admin.get(path).await.problem(400, "malformed-request");
        }
        assert_unchanged(&stage, &before).await;
    }

    async fn a_logout_that_cannot_be_meant_is_refused_with_the_member_at_fault(database) {
        let stage = production(database).await;
        let before = everything(&stage).await;
        let at = |seconds: i64| logoutd::model::Timestamp::from_millis(stage.server.clock.now().millis() + 1000 * seconds).to_string();
        let (ahead, back) = (at(63), at(-72 * 3600 - 3));
        let long = "x".repeat(256);
        for (body, code, pointer) in [
            (json!({"target": {"sid": "s-1"}}), "invalid-field", "/reason"),
            (json!({"reason": "admin"}), "invalid-field", "/target"),
            (json!({"target": {}, "reason": "admin"}), "invalid-field", "/target"),
            (json!({"target": {"sid": "s-1", "sub": "alice"}, "reason": "admin"}), "invalid-field", "/target/sub"),
            (json!({"target": {"except_sid": "s-1"}, "reason": "admin"}), "invalid-field", "/target/except_sid"),
            (json!({"target": {"sub": "alice", "except": {"sub": ["bob"]}}, "reason": "admin"}), "invalid-field", "/target/except"),
            (json!({"target": {"client_id": "wiki", "except": {"client_id": ["shop"]}}, "reason": "admin"}), "invalid-field", "/target/except/client_id"),
            (json!({"target": {"everyone": true, "except": {"sid": ["s-1"]}}, "reason": "admin"}), "unknown-member", "/target/except/sid"),
            (json!({"target": {"everyone": true, "except": {"sub": vec!["bob"; 101]}}, "reason": "admin"}), "invalid-field", "/target/except/sub"),
            (json!({"target": {"everyone": false}, "reason": "admin"}), "invalid-field", "/target/everyone"),
            (json!({"target": {"sid": long}, "reason": "admin"}), "invalid-field", "/target/sid"),
            (json!({"target": {"sid": "é"}, "reason": "admin"}), "invalid-field", "/target/sid"),
            (json!({"target": {"sid": "s-1"}, "reason": "boredom"}), "invalid-field", "/reason"),
            (json!({"target": {"sid": "s-1"}, "reason": "admin", "occurred_at": ahead}), "invalid-field", "/occurred_at"),
            (json!({"target": {"sid": "s-1"}, "reason": "admin", "occurred_at": back}), "invalid-field", "/occurred_at"),
            (json!({"target": {"sid": "s-1"}, "reason": "admin", "occurred_at": "2026-02-30T00:00:00Z"}), "invalid-field", "/occurred_at"),
            (json!({"target": {"sid": "s-1"}, "reason": "admin", "occurred_at": "2026-01-01T00:00:00"}), "invalid-field", "/occurred_at"),
            (json!({"target": {"sid": "s-1"}, "reason": "admin", "occurred_at": 1_795_000_000}), "invalid-field", "/occurred_at"),
            (json!({"target": {"sid": "s-1"}, "reason": "admin", "note": "x".repeat(1025)}), "invalid-field", "/note"),
            (json!({"target": {"sid": "s-1"}, "reason": "admin", "sid": "s-1"}), "unknown-member", "/sid"),
        ] {
            let problem = stage.admin.post(LOGOUTS, body.clone()).await.problem(422, code);
            assert_eq!(place(&problem), pointer, "{body}");
        }
        let body = json!({"target": {"sid": "s-1"}, "reason": "admin"});
        for key in ["", " ", "a b", "ü", &long] {
            let answer = stage.admin.post_with(LOGOUTS, ("Idempotency-Key", key), body.clone()).await;
            assert_eq!(place(&answer.problem(400, "invalid-header")), "idempotency-key:", "{key}");
        }
        let twice = stage.admin.request(Method::POST, LOGOUTS).header("Idempotency-Key", "a").header("Idempotency-Key", "b").json(&body);
        send(twice).await.problem(400, "invalid-header");
        assert_unchanged(&stage, &before).await;

        // The one that is in order is in order: what was refused was refused for its fault.
        let fine = json!({"target": {"sid": "unknown"}, "reason": "admin", "occurred_at": at(55)});
        stage.admin.post_with(LOGOUTS, ("Idempotency-Key", "k"), fine.clone()).await.expect(201);
        let before = everything(&stage).await;
        let other = stage.admin.post_with(LOGOUTS, ("Idempotency-Key", "k"), body).await;
        other.problem(422, "idempotency-key-reused");
        assert_unchanged(&stage, &before).await;
        stage.admin.post_with(LOGOUTS, ("Idempotency-Key", "k"), fine).await.expect(200);
    }

    async fn ten_thousand_items_are_refused_as_a_whole_and_so_is_one_malformed_item(database) {
        let stage = production(database).await;
        let before = everything(&stage).await;
        let many = |count: usize| (0..count).collect::<Vec<_>>();
        let sessions: Vec<_> = many(10_000).iter().map(|n| json!({"sid": format!("b-{n}"), "sub": "bob"})).collect();
        let reports: Vec<_> = many(10_000).iter().map(|n| json!({"op": "session", "sid": format!("b-{n}"), "sub": "bob"})).collect();
        let tokens: Vec<_> = many(10_000).iter().map(|n| json!({"sid": "s-1", "client_id": "wiki", "token": format!("t-{n}")})).collect();
        for (path, body) in [
            (SESSIONS, json!({"sessions": sessions})), (SESSIONS, json!({"sessions": sessions[..1001]})),
            (REPORTS, json!({"reports": reports})), (REPORTS, json!({"reports": reports[..1001]})),
            (TOKENS, json!({"tokens": tokens})), (TOKENS, json!({"tokens": tokens[..1001]})),
        ] {
            stage.provider.post(path, body).await.problem(413, "too-many-items");
        }
        let mut one_bad = reports[..50].to_vec();
        one_bad[37]["sub"] = json!("a\u{0}b");
        let problem = stage.provider.post(REPORTS, json!({"reports": one_bad})).await.problem(422, "invalid-field");
        assert_eq!(place(&problem), "/reports/37/sub");
        let crowd: Vec<_> = many(1001).iter().map(|n| json!({"client_id": format!("c-{n}")})).collect();
        let crowded = stage.provider.put("/v1/issuers/main/sessions/s-9", json!({"sub": "bob", "participants": crowd})).await;
        crowded.problem(422, "too-many-participants");
        assert_eq!(stage.provider.introspect("t-1").await, json!({"active": false}));
        assert_unchanged(&stage, &before).await;
    }

    async fn a_uri_that_must_not_be_called_is_refused_when_it_is_registered(database) {
        let stage = production(database).await;
        let before = everything(&stage).await;
        for uri in [
            "http://new.example.com/", "https://new.example.com/#fragment", "https://user@new.example.com/", "https://user:pw@new.example.com/",
            "https://127.0.0.1/", "https://localhost/", "https://10.1.2.3/", "https://192.168.0.1/", "https://169.254.169.254/latest/meta-data",
            "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[fe80::1]/", "https://[fd00::1]/", "https://[64:ff9b::7f00:1]/", "https://0x7f000001/",
            "https://2130706433/", "https://0177.0.0.1/", "https://127.1/", "https://0.0.0.0/", "https://100.64.0.1/", "https://224.0.0.1/",
            "ftp://new.example.com/", "file:///etc/passwd", "javascript:alert(1)", "//new.example.com/", "/relative", "", "https://", "not a uri",
            "https://new.example.com:0/", "https://１２７.0.0.1/",
        ] {
            for (member, put) in [("backchannel_logout_uri", true), ("backchannel_logout_uri", false), ("jwks_uri", true)] {
                let body = json!({"client_id": "new", member: uri, "id_token_signed_response_alg": "ES256"});
                let answer = if put { stage.admin.put(CLIENT, body).await } else { stage.admin.post("/v1/issuers/main/clients", body).await };
                assert_eq!(answer.status, 422, "{uri}: {}", answer.text);
                assert_eq!(place(&answer.problem(422, "invalid-field")), format!("/{member}"), "{uri}");
            }
        }
        assert_unchanged(&stage, &before).await;
    }

    async fn a_registration_that_cannot_be_meant_is_refused_with_the_member_at_fault(database) {
        let stage = production(database).await;
        let before = everything(&stage).await;
        let with = |member: &str, value: Value| json!({"backchannel_logout_uri": "https://new.example.com/", member: value});
        for alg in ["HS256", "HS384", "HS512", "none", "ES512", "RS1", "es256", ""] {
            let problem = stage.admin.put(CLIENT, with("id_token_signed_response_alg", json!(alg))).await.problem(422, "invalid-field");
            assert_eq!(place(&problem), "/id_token_signed_response_alg", "{alg}");
            let issuer = json!({"id": "new", "issuer": "https://new.example.com", "signing_algs": ["ES256", alg]});
            assert_eq!(place(&stage.admin.post("/v1/issuers", issuer).await.problem(422, "invalid-field")), "/signing_algs/1", "{alg}");
        }
        let delivery = |member: &str, value: Value| with("delivery", json!({member: value}));
        let private = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": "a", "y": "b", "d": "c"}]});
        for (body, pointer) in [
            (with("id_token_encrypted_response_alg", json!("RSA-OAEP")), "/id_token_encrypted_response_alg"),
            (with("id_token_encrypted_response_enc", json!("A128GCM")), "/id_token_encrypted_response_enc"),
            (with("token_endpoint_auth_method", json!("magic")), "/token_endpoint_auth_method"),
            (with("jwks", private), "/jwks"),
            (with("jwks", json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]})), "/jwks"),
            (with("jwks", json!(7)), "/jwks"),
            (with("client_id", json!("other")), "/client_id"),
            (delivery("claims", json!("everything")), "/delivery/claims"),
            (delivery("typ", json!("jwt")), "/delivery/typ"),
            (delivery("timeout_ms", json!(1)), "/delivery/timeout_ms"),
            (delivery("timeout_ms", json!(1_000_000_000)), "/delivery/timeout_ms"),
            (delivery("max_in_flight", json!(0)), "/delivery/max_in_flight"),
            (delivery("horizon_s", json!(1)), "/delivery/horizon_s"),
            (delivery("confirm_rejections", json!(3)), "/delivery/confirm_rejections"),
            (delivery("retry_statuses", json!([200])), "/delivery/retry_statuses/0"),
            (delivery("allow_networks", json!(["192.168.0.0/16"])), "/delivery/allow_networks"),
            (delivery("allow_networks", json!(["10.0.0.1/8"])), "/delivery/allow_networks/0"),
            (delivery("ca_pem", json!("-----BEGIN NONSENSE-----")), "/delivery/ca_pem"),
        ] {
            let answer = stage.admin.put(CLIENT, body.clone()).await;
            assert_eq!(answer.status, 422, "{body}: {}", answer.text);
            assert_eq!(place(&answer.problem(422, "invalid-field")), pointer, "{body}");
        }
        for (id, issuer, pointer) in [
            ("v1", "https://new.example.com", "/id"), ("-a", "https://new.example.com", "/id"), ("UP", "https://new.example.com", "/id"),
            ("new", "http://new.example.com", "/issuer"), ("new", "https://new.example.com?a=b", "/issuer"), ("new", "https://u@new.example.com", "/issuer"),
        ] {
            let body = json!({"id": id, "issuer": issuer, "signing_algs": ["ES256"]});
            assert_eq!(place(&stage.admin.post("/v1/issuers", body).await.problem(422, "invalid-field")), pointer, "{id} {issuer}");
        }
        let same = json!({"id": "main", "issuer": "https://new.example.com", "signing_algs": ["ES256"]});
        stage.admin.post("/v1/issuers", same).await.problem(409, "already-exists");
        stage.admin.patch("/v1/issuers/main", json!({"issuer": "https://new.example.com"})).await.problem(409, "conflict");
        stage.admin.delete("/v1/issuers/main").await.problem(409, "in-use");
        let stale = stage.admin.request(Method::PUT, "/v1/issuers/main/clients/wiki").header("If-Match", "\"99\"");
        send(stale.json(&with("client_name", json!("n")))).await.problem(412, "version-mismatch");
        assert_unchanged(&stage, &before).await;
    }

    async fn a_caller_without_a_good_token_and_a_name_nobody_knows_are_refused(database) {
        let stage = production(database).await;
        let expires_at = logoutd::model::Timestamp::from_millis(stage.server.clock.now().millis() + 60_000).to_string();
        let short_lived = stage.admin.mint(json!({"role": "provider", "issuer": "main", "expires_at": expires_at})).await;
        let revoked = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        short_lived.items(SESSIONS).await;
        let id = stage.admin.items("/v1/api-tokens").await.into_iter().find(|token| token["expires_at"].is_null() && token["may_mass_kill"] == false).unwrap();
        stage.admin.delete(&format!("/v1/api-tokens/{}", id["id"].as_str().unwrap())).await.expect(204);
        stage.server.advance(Duration::from_secs(61));
        let before = everything(&stage).await;
        let logout = json!({"target": {"sid": "s-1"}, "reason": "admin"});
        for caller in [&short_lived, &revoked, &stage.server.nobody(), &stage.server.nobody().with_token("ldt_x")] {
            let answer = caller.post(LOGOUTS, logout.clone()).await;
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
            answer.problem(401, "unauthorized");
        }
        let auditor = stage.admin.mint(json!({"role": "auditor"})).await;
        auditor.post(LOGOUTS, logout.clone()).await.problem(403, "forbidden");
        for (method, path, code) in [
            (Method::POST, "/v1/issuers/nowhere/logouts", "unknown-issuer"), (Method::POST, "/v1/issuers/NO%20WHERE/logouts", "unknown-issuer"),
            (Method::GET, "/v1/issuers/nowhere", "unknown-issuer"), (Method::GET, "/v1/issuers/main/sessions/unknown", "unknown-session"),
            (Method::GET, "/v1/issuers/main/sessions/a%00b", "unknown-session"), (Method::GET, "/v1/issuers/main/clients/unknown", "unknown-client"),
            (Method::GET, "/v1/issuers/main/clients/a%00b", "unknown-client"), (Method::GET, "/v1/issuers/main/logouts/unknown", "unknown-logout"),
            (Method::GET, "/v1/issuers/main/logouts/01ARZ3NDEKTSV4RRFFQ69G5FAV", "unknown-logout"),
            (Method::GET, "/v1/issuers/main/logouts/01ARZ3NDEKTSV4RRFFQ69G5FAV/deliveries", "unknown-logout"),
            (Method::GET, "/v1/issuers/main/deliveries/a%00b", "unknown-delivery"), (Method::DELETE, "/v1/issuers/main/clients/unknown", "unknown-client"),
            (Method::DELETE, "/v1/issuers/main/sessions/unknown/participants/wiki", "unknown-session"),
            (Method::DELETE, "/v1/api-tokens/a%00b", "unknown-api-token"), (Method::GET, "/nowhere/jwks", "unknown-issuer"),
        ] {
            let answer = json_text(&stage.admin, method.clone(), path, &logout.to_string()).await;
            assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text);
            answer.problem(404, code);
        }
        let taken = json!({"sub": "mallory"});
        stage.provider.put("/v1/issuers/main/sessions/s-1", taken).await.problem(409, "other-subject");
        let after = everything(&stage).await;
        // The auditor's token was minted meanwhile, and nothing else.
        let rest = |all: Vec<(String, Value)>| all.into_iter().filter(|(path, _)| path != "/v1/api-tokens" && path != "/v1/audit").collect::<Vec<_>>();
        assert_eq!(rest(before), rest(after));
    }

    async fn what_is_to_begin_long_after_now_is_refused_by_itself(database) {
        let stage = production(database).await;
        let ahead = |hours| stage.server.clock.now().plus(Duration::from_hours(hours)).to_string();
        let (soon, late) = (ahead(23), ahead(25));
        let login = |at: &str, more: Value| {
            let mut body = json!({"sub": "bob", "started_at": at});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let refused = |answer: Answer, pointer: &str| {
            let error = &answer.problem(422, "invalid-field")["errors"][0];
            assert_eq!((&error["pointer"], &error["detail"]), (&json!(pointer), &json!("must be at most 24 hours ahead")), "{error}");
        };
        let path = format!("{SESSIONS}/s-9");
        refused(stage.provider.put(&path, login(&late, json!({}))).await, "/started_at");
        let participants = |more: Value| json!({"participants": [{"client_id": "shop"}, more]});
        let joined = participants(json!({"client_id": "wiki", "joined_at": late}));
        refused(stage.provider.put(&path, login(&soon, joined)).await, "/participants/1/joined_at");
        let issued = participants(json!({"client_id": "wiki", "refresh_token": {"token": "rt", "issued_at": late}}));
        refused(stage.provider.put(&path, login(&soon, issued)).await, "/participants/1/refresh_token/issued_at");
        stage.provider.get(&path).await.problem(404, "unknown-session");
        for path in [TOKENS, ACCESS_TOKENS] {
            let token = json!({"sid": "s-1", "client_id": "wiki", "token": "t", "issued_at": late, "expires_at": ahead(30)});
            refused(stage.provider.post(path, token).await, "/issued_at");
        }
        let rotation = json!({"client_id": "wiki", "token": "t", "successor": "u", "issued_at": late});
        refused(stage.provider.post(ROTATE, rotation).await, "/issued_at");

        // Of many that item alone, and the rest in their order.
        let session = |sid: &str, at: &str| login(at, json!({"op": "session", "sid": sid}));
        let join = json!({"op": "join", "sid": "s-1", "client_id": "shop", "joined_at": late});
        let reports = json!({"reports": [session("s-7", &late), session("s-8", &soon), join, {"op": "touch", "sid": "s-1", "idle_expires_at": ahead(30)}]});
        let results = stage.provider.post(REPORTS, reports).await.expect(200)["results"].clone();
        let statuses: Vec<_> = results.as_array().unwrap().iter().map(|result| result["status"].clone()).collect();
        assert_eq!(statuses, [422, 201, 422, 200], "{results}");
        assert_eq!((&results[0]["errors"][0]["pointer"], &results[2]["errors"][0]["pointer"]), (&json!("/started_at"), &json!("/joined_at")));
        stage.provider.get(&format!("{SESSIONS}/s-7")).await.problem(404, "unknown-session");
    }

    async fn a_bad_query_is_refused_by_the_name_of_its_parameter(database) {
        let stage = production(database).await;
        let cursor = |plain: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(plain)
        };
        for list in ["/v1/issuers", "/v1/issuers/main/clients", "/v1/issuers/main/keys", SESSIONS, LOGOUTS, CUT_OFFS, DENYLIST, "/v1/issuers/main/deliveries", "/v1/api-tokens", "/v1/audit"] {
            for (query, code, parameter) in [
                ("limit=0".to_owned(), "invalid-parameter", "?limit"),
                ("limit=1001".to_owned(), "invalid-parameter", "?limit"),
                ("limit=-1".to_owned(), "invalid-parameter", "?limit"),
                ("limit=many".to_owned(), "invalid-parameter", "?limit"),
                ("after=nonsense!".to_owned(), "invalid-parameter", "?after"),
                ("after=".to_owned(), "invalid-parameter", "?after"),
                (format!("after={}", cursor("x,y")), "invalid-parameter", "?after"),
                (format!("after={}", cursor("1,a\0b")), "invalid-parameter", "?after"),
                ("sort=oldest".to_owned(), "unknown-parameter", "?sort"),
                ("limit=1&limit=2".to_owned(), "malformed-request", "?limit"),
            ] {
                let problem = stage.admin.get(&format!("{list}?{query}")).await.problem(400, code);
                assert_eq!(place(&problem), parameter, "{list}?{query}");
            }
            stage.admin.get(&format!("{list}?limit=%FF")).await.problem(400, "malformed-request");
            // A cursor that was not given out here and could have been is a place in the list like any other.
            for plain in ["0,a", "-9223372036854775808,a", "9223372036854775807,zzz", "1,' OR 1=1 --"] {
                stage.admin.get(&format!("{list}?after={}", cursor(plain))).await.expect(200);
            }
        }
        for (list, query, parameter) in [
            (SESSIONS, "state=dead", "?state"), (LOGOUTS, "state=shrinking", "?state"), (LOGOUTS, "reason=boredom", "?reason"),
            (LOGOUTS, "since=yesterday", "?since"), (LOGOUTS, "client_id=a%00b", "?client_id"), ("/v1/issuers/main/deliveries", "state=live", "?state"),
            ("/v1/issuers/main/clients", "order=youngest", "?order"),
            ("/v1/audit", "act=theft", "?act"), ("/v1/audit", "issuer=NO", "?issuer"),
            ("/v1/audit/export", "issuer=NO", "?issuer"), ("/v1/audit/export", "since=soon", "?since"), ("/v1/audit/export", "until=late", "?until"),
            ("/v1/audit/export", "after=-1", "?after"), ("/v1/audit/export", "after=9999999999999999999", "?after"),
        ] {
            assert_eq!(place(&stage.admin.get(&format!("{list}?{query}")).await.problem(400, "invalid-parameter")), parameter, "{list}?{query}");
        }
    }

    async fn whatever_is_sent_the_server_does_not_fail(database) {
        let stage = production(database).await;
        let seed = Entropy::os().number();
        let chance = Entropy::seeded(seed);
        let bodies = full_bodies();
        for round in 0..400 {
            let (method, path, body) = pick(&bodies, &chance);
            let octets = mutated(body.clone(), &chance);
            let shown = String::from_utf8_lossy(&octets[..octets.len().min(2000)]).into_owned();
            let answer = raw(&stage.admin, method.clone(), path, "application/json", octets).await;
            assert!(answer.status < 500, "seed {seed}, round {round}: {method} {path} {shown}: {}", answer.text);
            // What a provider passes on to its client as it is.
            let passed_on = *path == ROTATE && answer.body == json!({"error": "invalid_grant"});
            if answer.status >= 400 && !passed_on {
                assert_eq!(answer.header("content-type"), "application/problem+json", "seed {seed}, round {round}: {method} {path} {shown}");
                assert_eq!(answer.body["status"], json!(answer.status));
            }
        }
        assert_eq!(stage.server.nobody().get("/healthz").await.status, 200);
    }
}

fn pick<'a, T>(items: &'a [T], chance: &Entropy) -> &'a T {
    &items[below(items.len(), chance)]
}

fn below(bound: usize, chance: &Entropy) -> usize {
    usize::try_from(chance.number() % bound.max(1) as u64).unwrap()
}

/// A body after one to three accidents: in its values, in its members, or in its octets.
fn mutated(mut body: Value, chance: &Entropy) -> Vec<u8> {
    for _ in 0..=below(3, chance) {
        let mut all = Vec::new();
        pointers(&body, "", &mut all);
        if all.is_empty() {
            break;
        }
        let pointer = pick(&all, chance).clone();
        let Some(value) = body.pointer_mut(&pointer) else { continue };
        match below(8, chance) {
            0 => drop(value.take()),
            1 => *value = odd_value(chance),
            2 => {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                if let Some(Value::Object(members)) = body.pointer_mut(parent) {
                    members.remove(name);
                }
            }
            3 => *value = json!([value.clone(), value.clone(), odd_value(chance)]),
            4 => *value = json!({"sub": value.clone(), "sid": odd_value(chance)}),
            _ => {
                if let Value::String(text) = value {
                    text.insert_str(
                        0,
                        pick::<&str>(&["\u{0}", "\u{10ffff}", "'", "\"", "\\", "%00", "ä", "\u{202e}", " ", "$1", ","], chance),
                    );
                }
            }
        }
    }
    let mut octets = body.to_string().into_bytes();
    match below(6, chance) {
        0 => octets.truncate(below(octets.len(), chance)),
        1 => {
            let at = below(octets.len(), chance);
            octets[at] = u8::try_from(below(256, chance)).unwrap();
        }
        2 => octets.insert(below(octets.len(), chance), *pick(b"{}[]\",:\\\0\xff0-e", chance)),
        _ => {}
    }
    octets
}

fn odd_value(chance: &Entropy) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1e308),
        json!(0.1),
        json!(""),
        json!("\u{0}"),
        json!("x".repeat(70_000)),
        json!([]),
        json!({}),
        json!([[[[]]]]),
        json!("0000-01-01T00:00:00Z"),
        json!("9999-12-31T23:59:59.999999999+23:59"),
        json!("-009999-01-01T00:00:00Z"),
        json!("2016-12-31T23:59:60Z"),
        json!("2026-01-01T00:00:00Z"),
        json!("::1"),
        json!("s-1"),
        json!("alice"),
        json!("https://[::1"),
        json!("10.0.0.0/8"),
        json!("\u{fffe}\u{ffff}"),
        json!("e\u{301}"),
    ];
    pick(&odd, chance).clone()
}
