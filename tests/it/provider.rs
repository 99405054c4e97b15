//! The provider is told of what it did not end itself: by which request, how often, and when it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::database::on_both_engines;
use crate::harness::party::{Call, Party, Reply};
use crate::harness::server::{ISSUER, Server, Stage};
use crate::harness::until;

/// Names that would lead elsewhere if anybody let them.
const SLY: &str = "../../admin?x=#%2f";
const SLY_ENCODED: &str = "..%2F..%2Fadmin%3Fx%3D%23%252f";
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// A provider that answers 204 unless told otherwise.
async fn provider(stage: &Stage) -> Party {
    let provider = Party::open(&stage.server.base, "main", ISSUER, "provider").await;
    provider.always(Reply::Status(204));
    provider
}

fn base(party: &Party) -> String {
    format!("http://{}", party.address())
}

/// What the issuer registers of its provider.
async fn told_by(stage: &Stage, logout: Value) -> Value {
    stage.admin.patch("/v1/issuers/main", json!({"provider_logout": logout})).await.expect(200)
}

/// The plainest way to tell it.
async fn told_by_http(stage: &Stage, party: &Party) {
    told_by(stage, json!({"preset": "http", "method": "DELETE", "url": format!("{}/sessions/{{sid}}", base(party))})).await;
}

/// A logout by an administrator, who is not the provider.
async fn kill(stage: &Stage, more: Value) -> Value {
    let mut body = json!({"reason": "admin"});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    let answer = stage.admin.post("/v1/issuers/main/logouts", body).await;
    assert!(answer.is_success(), "{answer:?}");
    answer.body
}

async fn kill_session(stage: &Stage, sid: &str) -> Value {
    kill(stage, json!({"target": {"sid": sid}})).await
}

/// What the provider was to be told, each with its attempts.
async fn notices(stage: &Stage) -> Vec<Value> {
    let mut notices = Vec::new();
    for one in stage.admin.items("/v1/issuers/main/deliveries?limit=1000").await {
        if one["kind"] == "provider" {
            notices.push(stage.admin.get(&format!("/v1/issuers/main/deliveries/{}", one["id"].as_str().unwrap())).await.expect(200));
        }
    }
    notices
}

async fn only_notice(stage: &Stage) -> Value {
    let notices = notices(stage).await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    notices.into_iter().next().unwrap()
}

/// The only notice once so many attempts are on record.
async fn attempted(stage: &Stage, count: usize) -> Value {
    until(&format!("attempt {count} is recorded"), || async {
        let notice = only_notice(stage).await;
        (notice["attempt_records"].as_array().unwrap().len() >= count).then_some(notice)
    })
    .await
}

async fn settled_notice(stage: &Stage) -> Value {
    until("the notice is settled", || async {
        let notice = only_notice(stage).await;
        (notice["state"] != "pending").then_some(notice)
    })
    .await
}

/// A minute ago.
fn long_ago(stage: &Stage) -> String {
    stage.server.clock.now().minus(Duration::from_secs(60)).to_string()
}

/// The receipt as it stands, for an administrator.
async fn receipt(stage: &Stage, receipt: &Value) -> Value {
    stage.admin.get(&format!("/v1/issuers/main/logouts/{}", receipt["id"].as_str().unwrap())).await.expect(200)
}

/// The receipt once it is settled.
async fn finished(stage: &Stage, of: &Value) -> Value {
    until("the logout is settled", || async { Some(receipt(stage, of).await).filter(|receipt| receipt["state"] == "settled") }).await
}

fn line(call: &Call) -> (&str, &str) {
    (&call.method, &call.path)
}

fn body(call: &Call) -> &str {
    std::str::from_utf8(&call.body).unwrap()
}

fn token(token: &str, expires_in: u64) -> Reply {
    let body = json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in}).to_string();
    Reply::Full { status: 200, headers: vec![("Content-Type".to_owned(), "application/json".to_owned())], body }
}

fn said(status: u16, body: &Value) -> Reply {
    Reply::Full { status, headers: vec![("Content-Type".to_owned(), "application/json".to_owned())], body: body.to_string() }
}

/// Verifies an event as its receiver would, with nothing of logoutd's but its published keys.
async fn verified(stage: &Stage, event: &str) -> Value {
    let keys: JwkSet = serde_json::from_value(stage.server.nobody().get("/main/jwks").await.expect(200)).unwrap();
    let header = jsonwebtoken::decode_header(event).unwrap();
    assert_eq!(header.typ.as_deref(), Some("secevent+jwt"));
    let mut rules = Validation::new(header.alg);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&["https://id.example.com"]);
    rules.set_required_spec_claims(&["iss", "aud"]);
    let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
    jsonwebtoken::decode::<Value>(event, &key, &rules).unwrap().claims
}

/// Serves until the test ends.
#[expect(clippy::disallowed_methods, reason = "a provider is another program; its runtime ends with the test")]
fn serve(socket: TcpListener, router: Router) {
    tokio::spawn(async move { axum::serve(socket, router).await });
}

on_both_engines! {
    async fn keycloak_is_asked_to_delete_the_session_by_a_client_that_asks_for_its_token_once(database) {
        let stage = Stage::set(database).await;
        let keycloak = provider(&stage).await;
        let wiki = stage.party("wiki", json!({})).await;
        let auth = json!({"type": "client_credentials", "client_id": "logoutd", "client_secret": "s3cret/+", "scope": "kill"});
        let issuer = told_by(&stage, json!({"preset": "keycloak", "base_url": format!("{}/auth", base(&keycloak)), "realm": "My realm", "auth": auth})).await;
        assert_eq!(issuer["provider_logout"]["auth"]["client_secret_registered"], true);
        assert!(!issuer.to_string().contains("s3cret"), "{issuer}");
        let report = json!({"op": "session", "sid": SLY, "sub": "alice", "participants": [{"client_id": "wiki"}]});
        stage.provider.post("/v1/issuers/main/reports", json!({"reports": [report]})).await.expect(200);
        stage.login("s-2", "alice", &[]).await;

        keycloak.answers([token("t-1", 300)]);
        let receipt = kill_session(&stage, SLY).await;
        let calls = keycloak.received(2).await;
        assert_eq!(line(&calls[0]), ("POST", "/auth/realms/My%20realm/protocol/openid-connect/token"));
        assert_eq!(body(&calls[0]), "grant_type=client_credentials&scope=kill");
        // logoutd:s3cret%2F%2B
        assert_eq!(calls[0].header("authorization"), "Basic bG9nb3V0ZDpzM2NyZXQlMkYlMkI=");
        assert_eq!(line(&calls[1]), ("DELETE", format!("/auth/admin/realms/My%20realm/sessions/{SLY_ENCODED}").as_str()));
        assert_eq!((calls[1].header("authorization"), calls[1].header("logoutd-attempt"), body(&calls[1])), ("Bearer t-1", "1", ""));

        wiki.only_call().await;
        let done = finished(&stage, &receipt).await;
        assert_eq!((&done["provider"], &done["deliveries"]["total"]), (&json!("told"), &json!(1)));
        assert_eq!(done["clients"].as_array().unwrap().len(), 1, "{done}");
        let notice = only_notice(&stage).await;
        assert_eq!((&notice["client_id"], &notice["state"], &notice["logout"]), (&Value::Null, &json!("delivered"), &done["id"]));

        // Gone already is as good as ended, and the token is still good.
        keycloak.always(said(404, &json!({"error": "Sesssion not found"})));
        let receipt = kill_session(&stage, "s-2").await;
        until("the second is told", || async {
            let receipt = self::receipt(&stage, &receipt).await;
            (receipt["provider"] == "told").then_some(())
        }).await;
        assert_eq!(keycloak.calls().len(), 3);
    }

    async fn a_request_of_one_s_own_carries_the_names_where_they_belong_and_nowhere_else(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        let template = json!({
            "preset": "http", "method": "POST", "url": format!("{}/v1/users/{{sub}}/logout?sid={{sid}}&iss={{issuer}}", base(&own)),
            "headers": {"X-Session": "id {sid}"}, "body": {"session": {"id": "{sid}"}, "user": "u:{sub}"},
            "auth": {"type": "basic", "username": "logoutd", "password": "pass word"},
        });
        told_by(&stage, template.clone()).await;
        stage.provider.post("/v1/issuers/main/reports", json!({"reports": [{"op": "session", "sid": SLY, "sub": SLY}]})).await.expect(200);
        kill_session(&stage, SLY).await;
        let call = own.only_call().await;
        let path = format!("/v1/users/{SLY_ENCODED}/logout?sid={SLY_ENCODED}&iss=https%3A%2F%2Fid.example.com%2Frealms%2FMain%2F");
        assert_eq!(line(&call), ("POST", path.as_str()));
        assert_eq!(serde_json::from_slice::<Value>(&call.body).unwrap(), json!({"session": {"id": SLY}, "user": format!("u:{SLY}")}));
        assert_eq!((call.header("content-type"), call.header("x-session")), ("application/json", format!("id {SLY}").as_str()));
        assert_eq!(call.header("authorization"), "Basic bG9nb3V0ZDpwYXNzIHdvcmQ=");

        // The secret stays where it is left out, and the body may be a form.
        let mut form = template;
        form["auth"].as_object_mut().unwrap().remove("password");
        (form["content_type"], form["body"]) = (json!("form"), json!({"sid": "{sid}", "all": "1"}));
        told_by(&stage, form).await;
        stage.login("s-2", "alice", &[]).await;
        kill_session(&stage, "s-2").await;
        let calls = own.received(2).await;
        let mut fields = calls[1].form();
        fields.sort();
        assert_eq!(fields, [("all".to_owned(), "1".to_owned()), ("sid".to_owned(), "s-2".to_owned())]);
        assert_eq!(calls[1].header("authorization"), "Basic bG9nb3V0ZDpwYXNzIHdvcmQ=");
    }

    async fn hydra_is_asked_by_sid_or_else_by_subject(database) {
        let stage = Stage::set(database).await;
        let hydra = provider(&stage).await;
        told_by(&stage, json!({"preset": "hydra", "admin_url": base(&hydra), "auth": {"type": "bearer", "token": "adm.in"}})).await;
        let nameless = json!({"reports": [{"op": "session", "sid": SLY, "sub": "alice"}, {"op": "session", "sid": null, "sub": SLY, "started_at": long_ago(&stage)}]});
        stage.provider.post("/v1/issuers/main/reports", nameless).await.expect(200);
        kill_session(&stage, SLY).await;
        let call = hydra.only_call().await;
        assert_eq!(line(&call), ("DELETE", format!("/admin/oauth2/auth/sessions/login?sid={SLY_ENCODED}").as_str()));
        assert_eq!(call.header("authorization"), "Bearer adm.in");
        kill(&stage, json!({"target": {"sub": SLY}})).await;
        let calls = hydra.received(2).await;
        assert_eq!(line(&calls[1]), ("DELETE", format!("/admin/oauth2/auth/sessions/login?subject={SLY_ENCODED}").as_str()));
    }

    async fn a_session_that_cannot_be_named_is_given_up_aloud(database) {
        let stage = Stage::set(database).await;
        let keycloak = provider(&stage).await;
        told_by(&stage, json!({"preset": "keycloak", "base_url": base(&keycloak), "realm": "main"})).await;
        let nameless = json!({"reports": [{"op": "session", "sid": null, "sub": "alice", "started_at": long_ago(&stage)}, {"op": "session", "sid": "..", "sub": "bob"}]});
        stage.provider.post("/v1/issuers/main/reports", nameless).await.expect(200);
        let receipt = kill(&stage, json!({"target": {"sub": "alice"}})).await;
        assert_eq!((&receipt["state"], &receipt["provider"]), (&json!("settled"), &json!("gave_up")));
        let notice = only_notice(&stage).await;
        assert_eq!((&notice["state"], &notice["reason"]), (&json!("unreachable"), &json!("no_sid")));
        kill(&stage, json!({"target": {"sub": "bob"}})).await;
        let unfit = until("the other is settled", || async { notices(&stage).await.into_iter().find(|one| one["reason"] == "unfit") }).await;
        assert_eq!(unfit["state"], "unreachable");
        assert!(keycloak.calls().is_empty());
    }

    async fn an_event_is_pushed_that_says_the_same_each_time(database) {
        let stage = Stage::on(Server::start(database).await, &["RS256"]).await;
        let receiver = provider(&stage).await;
        told_by(&stage, json!({"preset": "set", "url": format!("{}/events", base(&receiver)), "audience": "https://id.example.com"})).await;
        stage.login("s-1", "alice", &[]).await;
        receiver.answers([Reply::Status(503), Reply::Drop, Reply::Status(202)]);
        let receipt = kill_session(&stage, "s-1").await;
        assert_eq!((&receipt["state"], &receipt["provider"]), (&json!("delivering"), &json!("pending")));
        attempted(&stage, 1).await;
        stage.server.advance(Duration::from_secs(2));
        attempted(&stage, 2).await;
        stage.server.advance(Duration::from_secs(10));
        let notice = settled_notice(&stage).await;
        let calls = receiver.received(3).await;
        assert_eq!(line(&calls[0]), ("POST", "/events"));
        assert_eq!((calls[0].header("content-type"), calls[0].header("accept")), ("application/secevent+jwt", "application/json"));
        assert!(calls.iter().all(|call| call.body == calls[0].body), "the same octets each time");
        let claims = verified(&stage, body(&calls[2])).await;
        assert!(claims.get("sub").is_none() && claims.get("exp").is_none(), "{claims}");
        assert_eq!((&claims["jti"], &claims["txn"]), (&notice["id"], &receipt["id"]));
        let subject = json!({"format": "complex", "user": {"format": "iss_sub", "iss": ISSUER, "sub": "alice"}, "session": {"format": "opaque", "id": "s-1"}});
        assert_eq!(claims["sub_id"], subject);
        let revoked = &claims["events"][REVOKED];
        assert_eq!((&revoked["initiating_entity"], claims["events"].as_object().unwrap().len()), (&json!("admin"), 1));
        assert!(revoked["event_timestamp"].is_i64() && revoked["reason_admin"]["en"].is_string(), "{claims}");
        assert_eq!((&notice["state"], &notice["attempt_records"][2]["jti"]), (&json!("delivered"), &notice["id"]));
        let done = self::receipt(&stage, &receipt).await;
        assert_eq!((&done["provider"], &done["deliveries"]["total"]), (&json!("told"), &json!(0)));
    }

    async fn an_event_that_is_refused_for_good_is_not_sent_again(database) {
        let stage = Stage::set(database).await;
        let receiver = provider(&stage).await;
        told_by(&stage, json!({"preset": "set", "url": base(&receiver), "audience": "https://id.example.com"})).await;
        stage.login("s-1", "alice", &[]).await;
        receiver.always(said(400, &json!({"err": "invalid_request", "description": "no such event"})));
        let receipt = kill_session(&stage, "s-1").await;
        let notice = settled_notice(&stage).await;
        assert_eq!((&notice["state"], &notice["reason"]), (&json!("rejected"), &json!("refused")));
        assert!(notice["attempt_records"][0]["excerpt"].as_str().unwrap().contains("no such event"));
        let receipt = self::receipt(&stage, &receipt).await;
        assert_eq!((&receipt["state"], &receipt["provider"]), (&json!("settled"), &json!("gave_up")));
        assert_eq!(receiver.calls().len(), 1);
    }

    async fn it_is_told_of_what_others_end_and_not_of_what_it_ended_itself(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        for sid in ["s-1", "s-2", "s-3", "s-4", "s-5"] {
            stage.login(sid, "alice", &[]).await;
        }
        let without = kill_session(&stage, "s-5").await;
        assert_eq!(without["provider"], "not_told", "nobody said how to tell it");
        told_by_http(&stage, &own).await;

        let itself = stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!((&itself["provider"], &itself["sessions_ended"]), (&Value::Null, &json!(1)));
        let kept = kill(&stage, json!({"target": {"sid": "s-2"}, "tell_provider": false})).await;
        assert_eq!((&kept["provider"], &kept["state"]), (&json!("not_told"), &json!("settled")));
        let asked = stage.provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": "s-3"}, "reason": "user_logout", "tell_provider": true})).await;
        assert_eq!(asked.body["provider"], "pending");
        let plain = kill_session(&stage, "s-4").await;
        assert_eq!(plain["provider"], "pending");
        let nothing = kill_session(&stage, "s-unknown").await;
        assert_eq!((&nothing["provider"], &nothing["sessions_ended"]), (&Value::Null, &json!(0)));

        let mut paths: Vec<String> = own.received(2).await.into_iter().map(|call| call.path).collect();
        paths.sort();
        assert_eq!(paths, ["/sessions/s-3", "/sessions/s-4"]);
        assert_eq!(notices(&stage).await.len(), 2);
    }

    async fn what_was_never_reported_is_ended_there_where_somebody_asks_for_it_by_name(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        let there = json!({"target": {"sid": "s-there"}, "tell_provider": true});
        let rehearsed = kill(&stage, json!({"target": {"sid": "s-there"}, "tell_provider": true, "dry_run": true})).await;
        assert_eq!(rehearsed["provider"], "pending");
        assert!(notices(&stage).await.is_empty(), "a rehearsal asks nobody");
        let asked = kill(&stage, there).await;
        assert_eq!((&asked["provider"], &asked["sessions_ended"]), (&json!("pending"), &json!(0)));
        assert_eq!(own.only_call().await.path, "/sessions/s-there");
        assert_eq!(finished(&stage, &asked).await["provider"], "told");

        // What lives here and began after the logout was spared, and is not ended there either.
        let before = long_ago(&stage);
        stage.login("s-new", "bob", &[]).await;
        for target in [json!({"sid": "s-new"}), json!({"sub": "bob"})] {
            let spared = kill(&stage, json!({"target": target, "tell_provider": true, "occurred_at": before})).await;
            assert_eq!((&spared["provider"], &spared["sessions_ended"]), (&Value::Null, &json!(0)));
        }
        // Nobody's session in particular, and a part in one, are nothing to ask by.
        for target in [json!({"everyone": true, "except": {"sub": ["bob"]}}), json!({"client_id": "wiki"}), json!({"sub": "alice", "except_sid": "s-1"}), json!({"key": "k-1"})] {
            let receipt = kill(&stage, json!({"target": target, "tell_provider": true})).await;
            assert_eq!(finished(&stage, &receipt).await["provider"], Value::Null, "{target}");
        }
        // Who is named by something that the request does not take cannot be asked about.
        let nameless = kill(&stage, json!({"target": {"sub": "alice"}, "tell_provider": true})).await;
        assert_eq!((&nameless["provider"], &nameless["state"]), (&json!("gave_up"), &json!("settled")));
        told_by(&stage, json!({"preset": "http", "method": "POST", "url": format!("{}/users/{{sub}}/sign-out", base(&own))})).await;
        let person = kill(&stage, json!({"target": {"sub": "alice"}, "tell_provider": true, "reason": "compromise"})).await;
        assert_eq!(finished(&stage, &person).await["provider"], "told");
        let paths: Vec<String> = own.calls().into_iter().map(|call| call.path).collect();
        assert_eq!(paths, ["/sessions/s-there", "/users/alice/sign-out"]);
    }

    async fn a_session_that_is_reported_after_its_person_was_logged_out_is_told_too(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        let started_at = long_ago(&stage);
        let receipt = kill(&stage, json!({"target": {"sub": "alice"}})).await;
        assert_eq!((&receipt["sessions_ended"], &receipt["provider"]), (&json!(0), &Value::Null));
        stage.provider.put("/v1/issuers/main/sessions/s-late", json!({"sub": "alice", "started_at": started_at})).await;
        assert_eq!(own.only_call().await.path, "/sessions/s-late");
        assert_eq!(settled_notice(&stage).await["logout"], receipt["id"]);
        assert_eq!(self::receipt(&stage, &receipt).await["provider"], "told");
    }

    async fn a_participation_that_ends_is_no_session_that_ends(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        stage.party("wiki", json!({})).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let receipt = kill(&stage, json!({"target": {"sub": "alice", "client_id": "wiki"}})).await;
        assert_eq!((&receipt["participations_ended"], &receipt["provider"]), (&json!(1), &Value::Null));
        assert!(notices(&stage).await.is_empty());
    }

    async fn a_provider_that_answers_with_a_logout_of_its_own_is_told_once(database) {
        let stage = Stage::set(database).await;
        stage.login("s-1", "alice", &[]).await;
        let (told, back) = (Arc::new(AtomicU32::new(0)), stage.provider.clone());
        let count = Arc::clone(&told);
        let sends_back = move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            let body = json!({"target": {"sid": "s-1"}, "reason": "upstream"});
            let receipt = back.post("/v1/issuers/main/logouts", body).await;
            assert_eq!((&receipt.body["sessions_ended"], receipt.status), (&json!(0), 202), "it waits for the notice that set it off: {receipt:?}");
            StatusCode::NO_CONTENT
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        serve(socket, Router::new().fallback(sends_back));
        told_by(&stage, json!({"preset": "http", "method": "DELETE", "url": format!("http://{address}/sessions/{{sid}}")})).await;

        let receipt = kill_session(&stage, "s-1").await;
        assert_eq!(receipt["provider"], "pending");
        until("both logouts are settled", || async {
            let all = stage.admin.items("/v1/issuers/main/logouts").await;
            (all.len() == 2 && all.iter().all(|one| one["state"] == "settled" && one["provider"] == "told")).then_some(())
        }).await;
        // And once more by itself, when everything is over.
        let late = stage.logout(json!({"sid": "s-1"})).await;
        assert_eq!((&late["state"], &late["provider"]), (&json!("settled"), &Value::Null));
        assert_eq!((told.load(Ordering::SeqCst), notices(&stage).await.len()), (1, 1));
    }

    async fn a_later_logout_waits_for_what_the_provider_was_not_told_yet_and_a_compromise_opens_it_again(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        stage.login("s-1", "alice", &[]).await;
        own.always(Reply::Status(503));
        kill_session(&stage, "s-1").await;
        attempted(&stage, 1).await;
        let second = kill(&stage, json!({"target": {"sub": "alice"}})).await;
        assert_eq!((&second["state"], &second["provider"], &second["deliveries"]["adopted"]), (&json!("delivering"), &json!("pending"), &json!(0)));
        stage.server.advance(Duration::from_hours(73));
        let expired = settled_notice(&stage).await;
        assert_eq!(expired["state"], "expired");
        let second = self::receipt(&stage, &second).await;
        assert_eq!((&second["state"], &second["provider"]), (&json!("settled"), &json!("gave_up")));

        own.always(Reply::Status(204));
        let grave = kill(&stage, json!({"target": {"sub": "alice"}, "reason": "compromise"})).await;
        assert_eq!((&grave["sessions_ended"], &grave["provider"]), (&json!(0), &json!("pending")));
        until("it is told after all", || async {
            let receipt = self::receipt(&stage, &grave).await;
            (receipt["provider"] == "told").then_some(())
        }).await;
        assert_eq!(notices(&stage).await.len(), 1);
    }

    async fn a_late_request_spares_the_newer_login_under_the_same_name_but_not_after_a_compromise(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        for (sid, reason, state) in [("s-1", "admin", "superseded"), ("s-2", "compromise", "delivered")] {
            stage.login(sid, "alice", &[]).await;
            let before = own.calls().len();
            own.answers([Reply::Full { status: 503, headers: vec![("Retry-After".to_owned(), "60".to_owned())], body: String::new() }]);
            kill(&stage, json!({"target": {"sid": sid}, "reason": reason})).await;
            let of_sid = || async { notices(&stage).await.into_iter().find(|one| one["sid"] == sid) };
            until("it is attempted", || async { of_sid().await.filter(|one| one["attempts"] == 1) }).await;
            stage.server.advance(Duration::from_secs(5));
            let started_at = stage.server.clock.now().to_string();
            stage.provider.put(&format!("/v1/issuers/main/sessions/{sid}"), json!({"sub": "alice", "started_at": started_at})).await.expect(201);
            stage.server.advance(Duration::from_secs(70));
            let notice = until("it is settled", || async { of_sid().await.filter(|one| one["state"] != "pending") }).await;
            assert_eq!(notice["state"], state, "{notice}");
            assert_eq!(own.calls().len() - before, if state == "superseded" { 1 } else { 2 });
        }
    }

    async fn a_rehearsal_tells_nobody_and_says_that_the_provider_would_be(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        stage.login("s-1", "alice", &[]).await;
        stage.login("s-2", "bob", &[]).await;
        let one = kill(&stage, json!({"target": {"sid": "s-1"}, "dry_run": true})).await;
        let all = kill(&stage, json!({"target": {"everyone": true}, "dry_run": true})).await;
        let kept = kill(&stage, json!({"target": {"everyone": true}, "dry_run": true, "tell_provider": false})).await;
        assert_eq!([&one, &all, &kept].map(|receipt| &receipt["provider"]), ["pending", "pending", "not_told"]);
        assert_eq!([&one, &all].map(|receipt| &receipt["deliveries"]["total"]), [0, 0]);
        assert!(notices(&stage).await.is_empty() && own.calls().is_empty());
    }

    async fn everybody_s_logout_tells_it_of_each_session(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        let reports: Vec<Value> = (0..130).map(|n| json!({"op": "session", "sid": format!("s-{n}"), "sub": format!("u-{n}")})).collect();
        stage.provider.post("/v1/issuers/main/reports", json!({"reports": reports})).await.expect(200);
        let receipt = kill(&stage, json!({"target": {"everyone": true}, "reason": "compromise"})).await;
        assert_eq!((&receipt["state"], &receipt["provider"]), (&json!("expanding"), &json!("pending")));
        own.received(130).await;
        let done = finished(&stage, &receipt).await;
        assert_eq!((&done["provider"], &done["sessions_ended"], &done["deliveries"]["total"]), (&json!("told"), &json!(130), &json!(0)));
        let paths: std::collections::BTreeSet<String> = own.calls().into_iter().map(|call| call.path).collect();
        assert_eq!((paths.len(), own.calls().len()), (130, 130), "each once");
        let notices = stage.admin.items("/v1/issuers/main/deliveries?limit=1000").await;
        assert!(notices.iter().all(|one| one["kind"] == "provider" && one["class"] == "bulk"), "{notices:?}");
    }

    async fn an_undo_takes_back_what_it_was_not_told_yet(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        stage.login("s-1", "alice", &[]).await;
        own.always(Reply::Full { status: 503, headers: vec![("Retry-After".to_owned(), "3600".to_owned())], body: String::new() });
        let receipt = kill_session(&stage, "s-1").await;
        attempted(&stage, 1).await;
        let undone = stage.admin.post(&format!("/v1/issuers/main/logouts/{}/undo", receipt["id"].as_str().unwrap()), json!({})).await.expect(200);
        assert_eq!((&undone["provider"], &undone["state"]), (&json!("not_told"), &json!("settled")));
        let notice = settled_notice(&stage).await;
        assert_eq!((&notice["state"], &notice["reason"]), (&json!("cancelled"), &json!("undone")));
        stage.server.advance(Duration::from_hours(2));
        assert_eq!(own.calls().len(), 1);
    }

    async fn what_is_pending_is_cancelled_when_it_is_not_to_be_told_any_more_and_its_queue_is_shown(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        stage.login("s-1", "alice", &[]).await;
        own.always(Reply::Status(503));
        let receipt = kill_session(&stage, "s-1").await;
        attempted(&stage, 1).await;
        let issuer = stage.admin.get("/v1/issuers/main").await.expect(200);
        assert_eq!((&issuer["provider_lane"]["pending"], &issuer["provider_lane"]["breaker"]), (&json!(1), &json!("closed")));
        assert!(issuer["provider_lane"]["oldest"].is_string() && issuer["provider_lane"]["parked_at"].is_null());
        let issuer = told_by(&stage, Value::Null).await;
        assert!(issuer["provider_logout"].is_null() && issuer.get("provider_lane").is_none(), "{issuer}");
        stage.server.advance(Duration::from_secs(10));
        let notice = settled_notice(&stage).await;
        assert_eq!((&notice["state"], &notice["reason"]), (&json!("cancelled"), &json!("no_uri")));
        let receipt = self::receipt(&stage, &receipt).await;
        assert_eq!(receipt["provider"], "not_told");
        // Where it is told again, what was given up may be tried again by name.
        told_by_http(&stage, &own).await;
        own.always(Reply::Status(204));
        stage.admin.post(&format!("/v1/issuers/main/deliveries/{}/retry", notice["id"].as_str().unwrap()), json!({})).await.expect(202);
        assert_eq!(until("it is told", || async { Some(only_notice(&stage).await).filter(|one| one["state"] == "delivered") }).await["attempts"], 2);
    }

    async fn a_provider_that_is_away_opens_its_own_lane_and_is_told_when_it_is_back(database) {
        let stage = Stage::set(database).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        told_by(&stage, json!({"preset": "http", "url": format!("http://{nobody}/{{sid}}")})).await;
        let wiki = stage.party("wiki", json!({})).await;
        for n in 0..6 {
            stage.login(&format!("s-{n}"), "alice", &["wiki"]).await;
        }
        kill(&stage, json!({"target": {"sub": "alice"}})).await;
        wiki.received(6).await;
        until("its lane is open", || async {
            stage.server.advance(Duration::from_secs(1));
            let issuer = stage.admin.get("/v1/issuers/main").await.expect(200);
            (issuer["provider_lane"]["breaker"] == "open" && issuer["provider_lane"]["pending"] == 6).then_some(())
        }).await;
        let back = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&back);
        let socket = TcpListener::bind(nobody).await.unwrap();
        let answers = move || async move {
            count.fetch_add(1, Ordering::SeqCst);
            StatusCode::OK
        };
        serve(socket, Router::new().fallback(answers));
        until("all are told", || async {
            stage.server.advance(Duration::from_secs(10));
            notices(&stage).await.iter().all(|one| one["state"] == "delivered").then_some(())
        }).await;
        assert_eq!(back.load(Ordering::SeqCst), 6);
        assert_eq!(stage.admin.get("/v1/issuers/main").await.expect(200)["provider_lane"]["breaker"], "closed");
    }

    async fn a_token_that_is_no_longer_taken_is_asked_for_once_more_and_one_that_is_refused_is_somebody_s_to_mend(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        let auth = json!({"type": "client_credentials", "token_url": format!("{}/token", base(&own)), "client_id": "logoutd", "client_secret": "hush-hush-hush",
            "method": "client_secret_post"});
        told_by(&stage, json!({"preset": "http", "method": "DELETE", "url": format!("{}/s/{{sid}}", base(&own)), "auth": auth})).await;
        for n in 1..=4 {
            stage.login(&format!("s-{n}"), &format!("u-{n}"), &[]).await;
        }
        own.answers([token("t-1", 300), Reply::Status(204), Reply::Status(401), token("t-2", 300), Reply::Status(204)]);
        kill_session(&stage, "s-1").await;
        own.received(2).await;
        settled_notice(&stage).await;
        kill_session(&stage, "s-2").await;
        let calls = own.received(5).await;
        let seen: Vec<(&str, &str)> = calls.iter().map(|call| (call.path.as_str(), call.header("authorization"))).collect();
        let expected = [("/token", ""), ("/s/s-1", "Bearer t-1"), ("/s/s-2", "Bearer t-1"), ("/token", ""), ("/s/s-2", "Bearer t-2")];
        assert_eq!(seen, expected);
        assert_eq!(body(&calls[0]), "grant_type=client_credentials&client_id=logoutd&client_secret=hush-hush-hush");

        // The token's end comes near, and the endpoint is away: a passing trouble of the provider's.
        until("the second is told", || async { notices(&stage).await.iter().all(|one| one["state"] == "delivered").then_some(()) }).await;
        stage.server.advance(Duration::from_secs(280));
        own.answers([Reply::Status(503)]);
        own.always(said(401, &json!({"error": "invalid_client", "error_description": "hush-hush-hush is not the secret of logoutd"})));
        kill_session(&stage, "s-3").await;
        let away = until("it is attempted", || async {
            let notices = notices(&stage).await;
            notices.into_iter().find(|one| one["sid"] == "s-3" && !one["attempt_records"].as_array().unwrap().is_empty())
        }).await;
        let first = &away["attempt_records"][0];
        assert_eq!((&first["class"], &first["status"]), (&json!("recoverable"), &json!(503)));
        // Then it refuses us.
        kill_session(&stage, "s-4").await;
        let refused = until("it is refused", || async {
            let notices = notices(&stage).await;
            notices.into_iter().find(|one| one["sid"] == "s-4" && !one["attempt_records"].as_array().unwrap().is_empty())
        }).await;
        let first = &refused["attempt_records"][0];
        assert_eq!((&refused["state"], &first["class"], &first["status"]), (&json!("pending"), &json!("config_fault"), &json!(401)));
        let excerpt = first["excerpt"].as_str().unwrap();
        assert!(excerpt.starts_with("token endpoint: ") && excerpt.contains("invalid_client") && !excerpt.contains("hush"), "{excerpt}");
    }

    async fn what_leads_where_nobody_may_go_is_refused_at_its_registration(database) {
        let stage = Stage::set(database).await;
        let cases = [
            (json!({"preset": "http", "url": "http://169.254.169.254/{sid}"}), "/provider_logout/url"),
            (json!({"preset": "http", "url": "https://{sid}.example/"}), "/provider_logout/url"),
            (json!({"preset": "hydra", "admin_url": "http://10.0.0.1:4445"}), "/provider_logout/admin_url"),
            (json!({"preset": "keycloak", "base_url": "https://id.example.com", "realm": ".."}), "/provider_logout/realm"),
            (json!({"preset": "keycloak", "base_url": "https://id.example.com", "realm": "main", "auth": {"type": "client_credentials", "client_id": "a",
                "client_secret": "b", "token_url": "http://169.254.169.254/token"}}), "/provider_logout/auth/token_url"),
            (json!({"preset": "set", "url": "https://id.example.com/events", "audience": "a", "auth": {"type": "bearer"}}), "/provider_logout/auth/token"),
        ];
        for (logout, pointer) in cases {
            let problem = stage.admin.patch("/v1/issuers/main", json!({"provider_logout": logout})).await.problem(422, "invalid-field");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        }
        let logout = |host: &str| json!({"provider_logout": {"preset": "http", "url": format!("https://{host}/x"), "auth": {"type": "bearer", "token": "hush-hush"}}});
        stage.admin.patch("/v1/issuers/main", logout("id.example.com")).await.expect(200);
        let elsewhere = json!({"provider_logout": {"preset": "http", "url": "https://other.example.com/x", "auth": {"type": "bearer"}}});
        let problem = stage.admin.patch("/v1/issuers/main", elsewhere).await.problem(422, "invalid-field");
        assert_eq!(problem["errors"][0]["pointer"], "/provider_logout/auth/token");
        let shown = stage.admin.get("/v1/issuers/main").await.text + &stage.admin.get("/v1/issuers").await.text + &stage.admin.get("/v1/audit").await.text;
        assert!(!shown.contains("hush") && shown.contains(r#""token_registered":true"#), "{shown}");
    }

    async fn sessions_that_end_by_their_age_are_told_unless_the_provider_counts_it_itself(database) {
        let stage = Stage::set(database).await;
        let own = provider(&stage).await;
        told_by_http(&stage, &own).await;
        let ends = |seconds: i64| logoutd::model::Timestamp::from_millis(stage.server.clock.now().millis() + seconds * 1000).to_string();
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice", "expires_at": ends(60)})).await.expect(201);
        stage.server.advance(Duration::from_secs(61));
        assert_eq!(own.received(1).await[0].path, "/sessions/s-1");
        stage.admin.patch("/v1/issuers/main", json!({"expiry": "authoritative"})).await.expect(200);
        stage.provider.put("/v1/issuers/main/sessions/s-2", json!({"sub": "bob", "expires_at": ends(60)})).await.expect(201);
        stage.provider.put("/v1/issuers/main/sessions/s-3", json!({"sub": "carol", "expires_at": ends(600)})).await.expect(201);
        stage.server.advance(Duration::from_secs(61));
        until("it has ended", || async {
            let session = stage.provider.get("/v1/issuers/main/sessions/s-2").await.expect(200);
            (session["state"] == "ended").then_some(())
        }).await;
        // What it does not list it ended itself.
        let live = json!({"live": [], "dry_run": false});
        let receipt = stage.provider.post("/v1/issuers/main/sessions/reconcile", live).await;
        assert!(receipt.is_success(), "{receipt:?}");
        assert_eq!((&receipt.body["sessions_ended"], &receipt.body["provider"]), (&json!(1), &Value::Null), "{receipt:?}");
        assert_eq!((notices(&stage).await.len(), own.calls().len()), (1, 1));
    }
}
