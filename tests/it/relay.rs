//! A provider's own logout tokens at the door: what is taken, what is not, whom it ends, and what its clients are told.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey};
use logoutd::model::access::Caller;
use logoutd::model::key::SigningAlg;
use logoutd::model::page::Page;
use logoutd::model::report::{ParticipantReport, Report, SessionReport};
use logoutd::model::trigger::{Reason, Target, Trigger};
use logoutd::model::{Digest, Jti};
use logoutd::plan::relay;
use logoutd::seams::Entropy;
use logoutd::store::{DeliveryFilter, ReceivedToken, TokenEffect, TokenOrder, TokenTaken};
use logoutd::token::generate;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::api::send;
use crate::harness::database::{Engine, on_both_engines};
use crate::harness::party::{Call, Party, Reply};
use crate::harness::provider::{LOGOUT_EVENT, Provider, sign_with, unsigned};
use crate::harness::server::{ISSUER, Stage};
use crate::harness::until;
use crate::store::{Bench, client, login, named, of_session, sid, sub, takes_part, trigger};

const DOOR: &str = "/main/backchannel-logout";

fn busy_for_a_minute() -> Reply {
    Reply::Full { status: 503, headers: vec![("Retry-After".to_owned(), "60".to_owned())], body: String::new() }
}

/// A client that looks for keys where its provider publishes them.
async fn party(stage: &Stage, provider: &Provider, client_id: &str) -> Party {
    let party = stage.party(client_id, json!({})).await;
    party.trust(&provider.jwks.uri());
    party
}

async fn receipts(stage: &Stage) -> Vec<Value> {
    stage.admin.items("/v1/issuers/main/logouts").await
}

async fn deliveries(stage: &Stage, client_id: &str) -> Vec<Value> {
    stage.admin.items(&format!("/v1/issuers/main/deliveries?client_id={client_id}")).await
}

async fn delivery(stage: &Stage, client_id: &str) -> Value {
    let listed = deliveries(stage, client_id).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    stage.admin.get(&format!("/v1/issuers/main/deliveries/{}", listed[0]["id"].as_str().unwrap())).await.expect(200)
}

async fn settled(stage: &Stage, client_id: &str) -> Value {
    until(&format!("the delivery to {client_id} is settled"), || async {
        let delivery = delivery(stage, client_id).await;
        (delivery["state"] != "pending").then_some(delivery)
    })
    .await
}

async fn attempted(stage: &Stage, client_id: &str, count: usize) -> Value {
    until(&format!("attempt {count} at {client_id} is recorded"), || async {
        let delivery = delivery(stage, client_id).await;
        (delivery["attempt_records"].as_array().unwrap().len() >= count).then_some(delivery)
    })
    .await
}

async fn session(stage: &Stage, sid: &str) -> Value {
    stage.admin.get(&format!("/v1/issuers/main/sessions/{sid}")).await.expect(200)
}

/// Who in a session is still in.
async fn live(stage: &Stage, sid: &str) -> Vec<String> {
    let session = session(stage, sid).await;
    let participants = session["participants"].as_array().unwrap().iter().filter(|one| one["ended_at"].is_null());
    participants.map(|one| one["client_id"].as_str().unwrap().to_owned()).collect()
}

fn sent(call: &Call) -> String {
    call.form()[0].1.clone()
}

/// The name of the key it was signed with.
fn kid(call: &Call) -> &str {
    call.token().header["kid"].as_str().unwrap()
}

fn changed(claims: &Value, member: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[member] = value;
    claims
}

fn without(claims: &Value, member: &str) -> Value {
    let mut claims = claims.clone();
    claims.as_object_mut().unwrap().remove(member);
    claims
}

on_both_engines! {
    async fn a_token_for_one_client_ends_that_participation_alone_and_is_passed_on_as_it_came(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let (wiki, shop) = (party(&stage, &provider, "wiki").await, party(&stage, &provider, "shop").await);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let refresh = |client: &str, token: &str| json!({"sid": "s-1", "client_id": client, "token": token});
        stage.provider.post("/v1/issuers/main/refresh-tokens", json!({"tokens": [refresh("wiki", "t-wiki"), refresh("shop", "t-shop")]})).await;

        let token = provider.token("wiki", &json!({"sid": "s-1", "sub": "alice"}));
        let answer = provider.post(&token).await;
        assert_eq!((answer.status, answer.text.as_str(), answer.header("cache-control")), (200, "", "no-store"));
        let call = wiki.only_call().await;
        assert_eq!(sent(&call), token);
        assert_eq!(kid(&call), provider.key.kid);

        let receipts = receipts(&stage).await;
        assert_eq!(receipts.len(), 1);
        let receipt = stage.settled(&receipts[0]["id"]).await;
        assert_eq!((&receipt["target"], &receipt["reason"]), (&json!({"sid": "s-1", "client_id": "wiki"}), &json!("upstream")));
        assert_eq!((&receipt["sessions_ended"], &receipt["participations_ended"]), (&json!(0), &json!(1)));
        let delivery = settled(&stage, "wiki").await;
        assert_eq!((&delivery["kind"], &delivery["state"]), (&json!("relay"), &json!("delivered")));
        let attempt = &delivery["attempt_records"][0];
        assert_eq!((&attempt["jti"], &attempt["kid"]), (&call.claim("jti"), &Value::Null));

        assert_eq!(live(&stage, "s-1").await, ["shop"]);
        assert_eq!(session(&stage, "s-1").await["state"], "live");
        assert_eq!(stage.provider.introspect("t-wiki").await, json!({"active": false}));
        assert_eq!(stage.provider.introspect("t-shop").await["active"], json!(true));
        assert!(shop.calls().is_empty() && deliveries(&stage, "shop").await.is_empty());
    }

    async fn whom_relay_alone_brought_is_found_by_the_name_that_the_client_knows(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        wiki.always(busy_for_a_minute());
        assert_eq!(provider.post(&provider.token("wiki", &json!({"sid": "s-1", "sub": "alice"}))).await.status, 200);
        wiki.only_call().await;
        let status = async |sub: &str| stage.provider.post("/v1/issuers/main/subjects/status", json!({"sub": sub})).await.expect(200);
        let alice = status("alice").await;
        assert_eq!((&alice["sessions"], &alice["still_open"]), (&json!([]), &json!([])), "nobody said whose session it was");
        let there = &alice["still_open_by_client_sub"];
        assert!(there.as_array().unwrap().len() == 1 && there[0]["client_id"] == "wiki" && there[0]["why"] == "pending", "{alice}");
        assert_eq!(status("bob").await["still_open_by_client_sub"], json!([]));
        // Where the session is known to be theirs it is said once.
        stage.login("s-2", "carol", &["wiki"]).await;
        let carol = status("carol").await;
        assert!(carol["still_open"][0]["why"] == "live" && carol["still_open_by_client_sub"] == json!([]), "{carol}");
        wiki.always(Reply::Status(200));
        stage.server.advance(Duration::from_secs(70));
        settled(&stage, "wiki").await;
        assert_eq!(status("alice").await["still_open_by_client_sub"], json!([]));
    }

    async fn what_is_no_logout_token_for_anybody_here_is_refused_and_ends_nothing(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let canary = Party::open(&stage.server.base, "main", ISSUER, "").await;
        let wiki = party(&stage, &provider, "wiki").await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let (other, rsa) = (generate(SigningAlg::Es256).unwrap(), generate(SigningAlg::Rs256).unwrap());
        provider.publish(vec![provider.public(), serde_json::from_str(&rsa.public_jwk).unwrap()]);

        let (header, claims) = (provider.header(), provider.claims("wiki", &json!({"sid": "s-1", "sub": "alice"})));
        let now = provider.seconds();
        let signed = |claims: &Value| provider.sign(&header.to_string(), &claims.to_string());
        let headed = |header: &Value| provider.sign(&header.to_string(), &claims.to_string());
        let good = signed(&claims);
        let (message, signature) = good.rsplit_once('.').unwrap();
        let mac = |secret: &[u8]| {
            let message = unsigned(&changed(&header, "alg", json!("HS256")).to_string(), &claims.to_string());
            let mac = jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(secret), Algorithm::HS256).unwrap();
            format!("{message}.{mac}")
        };
        let twice = |text: &Value, member: &str| text.to_string().replacen('{', &format!("{{{member},"), 1);
        let nameless = without(&without(&claims, "sub"), "sid");
        let mut refused = vec![
            ("garbage", "garbage".to_owned()),
            ("an empty parameter", String::new()),
            ("alg none", format!("{}.", unsigned(r#"{"alg":"none"}"#, &claims.to_string()))),
            ("another algorithm", format!("{}.{signature}", unsigned(&json!({"alg": "RS256", "kid": rsa.kid}).to_string(), &claims.to_string()))),
            ("another audience", signed(&changed(&claims, "aud", json!("wikiINVALID")))),
            ("a foreign audience beside", signed(&changed(&claims, "aud", json!(["wiki", "elsewhere"])))),
            ("another issuer", signed(&changed(&claims, "iss", json!(format!("{ISSUER}INVALID"))))),
            ("an issuer without its slash", signed(&changed(&claims, "iss", json!(ISSUER.trim_end_matches('/'))))),
            ("no event", signed(&without(&claims, "events"))),
            ("another event", signed(&changed(&claims, "events", json!({"http://schemas.openid.net/event/foobar": {}})))),
            ("a nonce", signed(&changed(&claims, "nonce", json!("n")))),
            ("a nonce of null", signed(&changed(&claims, "nonce", Value::Null))),
            ("an exp that is over", signed(&changed(&claims, "exp", json!(now - 61)))),
            ("no exp", signed(&without(&claims, "exp"))),
            ("an iat to come", signed(&changed(&claims, "iat", json!(now + 3600)))),
            ("an iat of days ago", signed(&changed(&claims, "iat", json!(now - 3 * 86_400)))),
            ("nobody", signed(&nameless)),
            ("a sub that is a number", signed(&changed(&claims, "sub", json!(7)))),
            ("an empty sid", signed(&changed(&claims, "sid", json!("")))),
            ("no jti", signed(&without(&claims, "jti"))),
            ("secrets of the public key", mac(provider.key.public_jwk.as_bytes())),
            ("secrets of its modulus", mac(rsa.public_jwk.as_bytes())),
            ("a real key's name on another key's signature", sign_with(&other, &header.to_string(), &claims.to_string())),
            ("a key nobody knows", sign_with(&other, &changed(&header, "kid", json!(other.kid)).to_string(), &claims.to_string())),
            ("a key in the header", {
                let header = json!({"alg": "ES256", "jwk": serde_json::from_str::<Value>(&other.public_jwk).unwrap()});
                sign_with(&other, &header.to_string(), &claims.to_string())
            }),
            ("a set elsewhere", sign_with(&other, &changed(&header, "jku", json!(canary.uri())).to_string(), &claims.to_string())),
            ("a certificate elsewhere", sign_with(&other, &changed(&header, "x5u", json!(canary.uri())).to_string(), &claims.to_string())),
            ("an unknown crit", headed(&changed(&header, "crit", json!(["x"])))),
            ("no signature", format!("{message}.")),
            ("a signature of zeros", format!("{message}.{}", "A".repeat(86))),
            ("an access token", headed(&changed(&header, "typ", json!("at+jwt")))),
            ("a security event", headed(&changed(&header, "typ", json!("secevent+jwt")))),
            ("an ID token", signed(&json!({"iss": ISSUER, "aud": "wiki", "sub": "alice", "sid": "s-1", "iat": now, "exp": now + 300}))),
            ("an encrypted one", "a.b.c.d.e".to_owned()),
            ("aud twice", provider.sign(&header.to_string(), &twice(&claims, r#""aud":"shop""#))),
            ("events twice", provider.sign(&header.to_string(), &twice(&claims, r#""events":{}"#))),
            ("a client that is not registered", signed(&changed(&claims, "aud", json!("shop")))),
        ];
        for events in [json!("x"), json!([LOGOUT_EVENT]), json!({LOGOUT_EVENT: "x"}), json!({LOGOUT_EVENT: []})] {
            refused.push(("events of another kind", signed(&changed(&claims, "events", events))));
        }
        for (what, token) in &refused {
            let answer = provider.post(token).await;
            assert_eq!((answer.status, answer.header("cache-control")), (400, "no-store"), "{what}: {}", answer.text);
            assert_eq!((answer.header("content-type"), &answer.body["error"]), ("application/json", &json!("invalid_request")), "{what}");
            assert!(answer.body["error_description"].is_string(), "{what}");
        }
        let nobody = stage.server.nobody();
        let form = |body: String| nobody.request(Method::POST, DOOR).header("Content-Type", "application/x-www-form-urlencoded").body(body);
        let said = async |request| send(request).await.status;
        assert_eq!(said(form("other=1".to_owned())).await, 400, "no parameter");
        assert_eq!(said(form(format!("logout_token={good}&logout_token={good}"))).await, 400, "the parameter twice");
        assert_eq!(said(form(format!("logout_token={good}&x={}", "x".repeat(64 << 10)))).await, 413);
        assert_eq!(said(nobody.request(Method::POST, DOOR).json(&json!({"logout_token": good}))).await, 415);
        assert_eq!(said(nobody.request(Method::GET, &format!("{DOOR}?logout_token={good}"))).await, 405);
        assert_eq!(nobody.form("/nowhere/backchannel-logout", &[("logout_token", &good)]).await.status, 404);

        assert!(receipts(&stage).await.is_empty() && deliveries(&stage, "wiki").await.is_empty());
        assert_eq!(live(&stage, "s-1").await, ["wiki"]);
        assert!(wiki.calls().is_empty() && canary.calls().is_empty());
        assert_eq!(provider.jwks.calls().len(), 1, "whatever they name, the provider is asked once in a while");
        assert_eq!(provider.post(&good).await.status, 200, "and none of them used the good one up");
    }

    async fn what_may_differ_between_providers_is_taken(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let _wiki = party(&stage, &provider, "wiki").await;
        let mut number = 0;
        let mut about = || { number += 1; provider.claims("wiki", &json!({"sid": format!("s-{number}")})) };
        let header = provider.header();
        let mut tokens = Vec::new();
        for typ in ["JWT", "logout+jwt", "application/logout+jwt", "LOGOUT+JWT"] {
            tokens.push(provider.sign(&changed(&header, "typ", json!(typ)).to_string(), &about().to_string()));
        }
        tokens.push(provider.sign(&without(&header, "typ").to_string(), &about().to_string()));
        tokens.push(provider.sign(&without(&header, "kid").to_string(), &about().to_string()));
        for (member, value) in [
            ("events", json!({LOGOUT_EVENT: {}, "urn:more": 1})),
            ("ignored_claim", json!("x")),
            ("aud", json!(["wiki"])),
            ("sid", json!(r#"a b"%+;'&=é"#.replace('é', ""))),
            ("sid", json!("s".repeat(255))),
        ] {
            tokens.push(provider.sign(&header.to_string(), &changed(&about(), member, value).to_string()));
        }
        for token in &tokens {
            let answer = stage.server.nobody().form(DOOR, &[("logout_token", token), ("ignored_parameter", "x")]).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{token}");
        }
        assert_eq!(receipts(&stage).await.len(), tokens.len());
    }

    async fn a_token_is_taken_once_and_its_identifier_is_no_other_s(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let claims = provider.claims("wiki", &json!({"sid": "s-1"}));
        let token = provider.sign(&provider.header().to_string(), &claims.to_string());
        let posted = futures_util::future::join_all((0..6).map(|_| provider.post(&token))).await;
        assert!(posted.iter().all(|answer| answer.status == 200), "{posted:?}");
        assert_eq!((receipts(&stage).await.len(), deliveries(&stage, "wiki").await.len()), (1, 1));
        settled(&stage, "wiki").await;
        assert_eq!(wiki.calls().len(), 1);
        let other = provider.sign(&provider.header().to_string(), &changed(&claims, "sid", json!("s-2")).to_string());
        assert_eq!(provider.post(&other).await.status, 400);
        assert_eq!(receipts(&stage).await.len(), 1);
        stage.server.advance(Duration::from_secs(100));
        assert_eq!(provider.post(&token).await.status, 200, "a repeat of one that succeeded, as long as it is good");
        assert_eq!(deliveries(&stage, "wiki").await.len(), 1);
    }

    async fn what_a_client_is_being_told_is_not_told_twice(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        wiki.answers([busy_for_a_minute()]);
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.logout(json!({"sid": "s-1"})).await;
        attempted(&stage, "wiki", 1).await;
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        assert_eq!((receipts(&stage).await.len(), deliveries(&stage, "wiki").await.len()), (2, 1), "it is open, and waited for");
        stage.server.advance(Duration::from_secs(61));
        settled(&stage, "wiki").await;
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        assert_eq!(deliveries(&stage, "wiki").await.len(), 1, "it was told a moment ago");
        stage.server.advance(Duration::from_secs(61));
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        assert_eq!(deliveries(&stage, "wiki").await.len(), 2, "whoever asks a minute later means it");
    }

    async fn what_the_provider_said_too_is_told_although_the_other_logout_is_undone(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        wiki.answers([busy_for_a_minute()]);
        stage.login("s-1", "alice", &["wiki"]).await;
        let killed = stage.admin.post("/v1/issuers/main/logouts", json!({"target": {"sid": "s-1"}, "reason": "admin"})).await.expect(202);
        attempted(&stage, "wiki", 1).await;
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        stage.admin.post(&format!("/v1/issuers/main/logouts/{}/undo", killed["id"].as_str().unwrap()), json!({})).await.expect(200);
        stage.server.advance(Duration::from_secs(61));
        assert_eq!((&settled(&stage, "wiki").await["state"], wiki.calls().len()), (&json!("delivered"), 2));
    }

    async fn a_later_token_takes_the_place_of_one_that_is_good_no_more(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        provider.publish(vec![provider.public()]);
        let wiki = party(&stage, &provider, "wiki").await;
        stage.admin.post("/v1/issuers/main/clients/wiki/pause", json!({})).await;
        let about = json!({"sid": "s-1", "sub": "alice"});
        provider.log_out("wiki", &about).await;
        stage.server.advance(Duration::from_secs(100));
        let later = provider.log_out("wiki", &about).await;
        stage.server.advance(Duration::from_secs(30));
        stage.admin.post("/v1/issuers/main/clients/wiki/resume", json!({})).await;
        assert_eq!(settled(&stage, "wiki").await["state"], "delivered");
        assert_eq!(sent(&wiki.only_call().await), later);
    }

    async fn who_came_back_a_moment_after_being_told_is_told_again(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let _wiki = party(&stage, &provider, "wiki").await;
        let login = json!({"sub": "alice", "started_at": stage.server.clock.now().to_string(), "participants": [{"client_id": "wiki"}]});
        stage.provider.put("/v1/issuers/main/sessions/s-1", login).await.expect(201);
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        settled(&stage, "wiki").await;
        stage.server.advance(Duration::from_secs(5));
        let again = json!({"client_id": "wiki", "joined_at": stage.server.clock.now().to_string()});
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice", "participants": [again]})).await.expect(200);
        stage.server.advance(Duration::from_secs(5));
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        assert_eq!(deliveries(&stage, "wiki").await.len(), 2);
        assert!(live(&stage, "s-1").await.is_empty());
    }

    async fn tokens_about_one_session_join_one_receipt(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let parties = (party(&stage, &provider, "wiki").await, party(&stage, &provider, "shop").await);
        // One session that each client knows by a name of its own, and one that nobody reported.
        let participants = json!([{"client_id": "wiki", "sid": "w-1"}, {"client_id": "shop", "sid": "h-1"}]);
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice", "participants": participants})).await.expect(201);
        for (client, sid) in [("wiki", "w-1"), ("shop", "h-1"), ("wiki", "s-9"), ("shop", "s-9")] {
            provider.log_out(client, &json!({"sid": sid})).await;
        }
        let receipts = receipts(&stage).await;
        assert_eq!(receipts.len(), 2, "{receipts:?}");
        for one in &receipts {
            let receipt = stage.settled(&one["id"]).await;
            assert_eq!((&receipt["deliveries"]["delivered"], &receipt["participations_ended"]), (&json!(2), &json!(2)), "{receipt}");
        }
        stage.server.advance(Duration::from_secs(61));
        provider.log_out("wiki", &json!({"sid": "s-9"})).await;
        assert_eq!(self::receipts(&stage).await.len(), 3, "a minute later it is another logout");
        drop(parties);
    }

    async fn what_nobody_reported_is_told_all_the_same_and_says_nothing_of_the_session(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let (wiki, shop) = (party(&stage, &provider, "wiki").await, party(&stage, &provider, "shop").await);
        let before = stage.server.clock.now().minus(Duration::from_secs(9)).to_string();
        provider.log_out("wiki", &json!({"sid": "s-1", "sub": "alice"})).await;
        let call = wiki.only_call().await;
        assert_eq!((call.claim("sid"), call.claim("sub")), (json!("s-1"), json!("alice")));
        settled(&stage, "wiki").await;
        let participants = json!([{"client_id": "wiki"}, {"client_id": "shop"}]);
        let report = json!({"sub": "alice", "started_at": before, "participants": participants});
        stage.provider.put("/v1/issuers/main/sessions/s-1", report).await.expect(201);
        assert_eq!(live(&stage, "s-1").await, ["shop"], "the session goes on, and only that client's part in it is over");
        assert!(shop.calls().is_empty());
        assert_eq!(wiki.received(2).await.len(), 2, "a login that is reported late is told");
    }

    async fn a_token_about_a_subject_ends_all_it_has_at_that_client_and_is_passed_on_once(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let (wiki, shop) = (party(&stage, &provider, "wiki").await, party(&stage, &provider, "shop").await);
        for sid in ["s-1", "s-2"] {
            stage.login(sid, "alice", &["wiki", "shop"]).await;
        }
        stage.login("s-3", "bob", &["wiki"]).await;
        stage.server.advance(Duration::from_secs(2));
        let token = provider.log_out("wiki", &json!({"sub": "alice"})).await;
        assert_eq!(sent(&wiki.only_call().await), token);
        settled(&stage, "wiki").await;
        for (sid, left) in [("s-1", vec!["shop"]), ("s-2", vec!["shop"]), ("s-3", vec!["wiki"])] {
            assert_eq!(live(&stage, sid).await, left);
        }
        let receipt = &receipts(&stage).await[0];
        assert_eq!((&receipt["target"], &receipt["participations_ended"]), (&json!({"sub": "alice", "client_id": "wiki"}), &json!(2)));
        assert!(shop.calls().is_empty());
    }

    async fn a_name_that_is_not_the_client_s_own_is_the_provider_s(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        let participants = json!([{"client_id": "wiki", "sid": "w-1"}]);
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice", "participants": participants})).await.expect(201);
        let token = provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        assert_eq!(sent(&wiki.only_call().await), token);
        assert!(live(&stage, "s-1").await.is_empty());
        assert_eq!(deliveries(&stage, "wiki").await.len(), 1);
    }

    async fn a_token_teaches_what_a_client_really_calls_a_person(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({"upstream": {"relay_token": "own"}})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        stage.login("s-1", "alice", &["wiki"]).await;
        stage.login("s-2", "alice", &["wiki"]).await;
        provider.log_out("wiki", &json!({"sid": "s-1", "sub": "pairwise-7"})).await;
        let call = wiki.only_call().await;
        assert_eq!((call.claim("sub"), call.claim("sid")), (json!("pairwise-7"), json!("s-1")));
        assert_ne!(kid(&call), provider.key.kid, "ours from the first attempt");
        settled(&stage, "wiki").await;
        stage.logout(json!({"sid": "s-2"})).await;
        let calls = wiki.received(2).await;
        assert_eq!((calls[1].claim("sub"), calls[1].claim("sid")), (json!("pairwise-7"), json!("s-2")));
    }

    async fn the_token_goes_on_unchanged_while_it_is_fresh_and_ours_takes_its_place(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        wiki.answers([busy_for_a_minute(), busy_for_a_minute(), Reply::Status(200)]);
        let token = provider.log_out("wiki", &json!({"sid": "s-1", "sub": "alice"})).await;
        for attempt in 1..=2 {
            attempted(&stage, "wiki", attempt).await;
            stage.server.advance(Duration::from_secs(61));
        }
        let delivery = settled(&stage, "wiki").await;
        let calls = wiki.received(3).await;
        assert_eq!((sent(&calls[0]), sent(&calls[1])), (token.clone(), token));
        assert_eq!((calls[2].claim("sid"), calls[2].claim("sub")), (json!("s-1"), json!("alice")));
        assert!(kid(&calls[2]) != provider.key.kid && calls[2].claim("jti") != calls[0].claim("jti"));
        let kids: Vec<bool> = delivery["attempt_records"].as_array().unwrap().iter().map(|one| one["kid"].is_null()).collect();
        assert_eq!((kids, &delivery["state"]), (vec![true, true, false], &json!("delivered")));
    }

    async fn a_token_that_may_have_been_read_is_not_sent_again(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        wiki.answers([Reply::Drop]);
        let token = provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        settled(&stage, "wiki").await;
        let calls = wiki.received(2).await;
        assert_eq!(sent(&calls[0]), token);
        assert_ne!(sent(&calls[1]), token);
        assert_eq!(calls[1].claim("sid"), json!("s-1"));
    }

    async fn where_our_key_cannot_be_found_it_is_said_aloud_that_nobody_was_told(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({"published_at": "provider"})).await;
        provider.publish(vec![provider.public()]);
        let wiki = party(&stage, &provider, "wiki").await;
        wiki.answers([Reply::Drop]);
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        let delivery = settled(&stage, "wiki").await;
        assert_eq!((&delivery["state"], &delivery["reason"]), (&json!("rejected"), &json!("key_not_published")));
        assert_eq!(wiki.calls().len(), 1);
    }

    async fn what_a_provider_that_was_told_says_to_its_clients_ends_nothing_more_and_tells_nobody_twice(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let told = Party::open(&stage.server.base, "main", ISSUER, "").await;
        let url = format!("http://{}/sessions/{{sid}}", told.address());
        stage.admin.patch("/v1/issuers/main", json!({"provider_logout": {"preset": "http", "method": "DELETE", "url": url}})).await.expect(200);
        let wiki = party(&stage, &provider, "wiki").await;
        let cascade = json!({"mode": "cascade", "client_id": "logoutd", "signing_alg": "ES256"});
        for (sid, upstream, audience, times) in [("s-1", json!({"mode": "relay"}), "wiki", 1), ("s-2", cascade, "logoutd", 2)] {
            stage.admin.patch("/v1/issuers/main", json!({"upstream": upstream})).await.expect(200);
            stage.login(sid, "alice", &["wiki"]).await;
            stage.admin.post("/v1/issuers/main/logouts", json!({"target": {"sid": sid}, "reason": "admin"})).await;
            told.received(times).await;
            wiki.received(times).await;
            let all_settled = || async { receipts(&stage).await.iter().all(|one| one["state"] == "settled").then_some(()) };
            until("all is settled", all_settled).await;
            // The provider ends its session as it was told, and says so to whom it knows.
            provider.log_out(audience, &json!({"sid": sid, "sub": "alice"})).await;
            until("all is settled again", all_settled).await;
            let ended: i64 = receipts(&stage).await.iter().map(|one| one["sessions_ended"].as_i64().unwrap()).sum();
            assert_eq!((ended, wiki.calls().len(), told.calls().len()), (times as i64, times, times), "{audience}");
            assert_eq!(deliveries(&stage, "wiki").await.len(), times);
        }
    }

    async fn a_cascade_ends_the_session_everywhere(database) {
        let stage = Stage::set(database).await;
        let upstream = json!({"mode": "cascade", "client_id": "logoutd", "signing_alg": "ES256"});
        let provider = Provider::open(&stage, json!({"upstream": upstream})).await;
        let (wiki, shop) = (party(&stage, &provider, "wiki").await, party(&stage, &provider, "shop").await);
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        stage.login("s-2", "alice", &["wiki"]).await;
        let misdirected = provider.token("wiki", &json!({"sid": "s-1"}));
        assert_eq!(provider.post(&misdirected).await.status, 400, "a token for another client of its");
        assert!(receipts(&stage).await.is_empty());
        provider.log_out("logoutd", &json!({"sid": "s-1", "sub": "alice"})).await;
        for party in [&wiki, &shop] {
            assert_eq!(party.only_call().await.claim("sid"), json!("s-1"));
        }
        let receipt = &receipts(&stage).await[0];
        assert_eq!((&receipt["target"], &receipt["sessions_ended"], &receipt["reason"]), (&json!({"sid": "s-1"}), &json!(1), &json!("upstream")));
        assert_eq!((&session(&stage, "s-1").await["state"], &session(&stage, "s-2").await["state"]), (&json!("ended"), &json!("live")));
        stage.server.advance(Duration::from_secs(2));
        provider.log_out("logoutd", &json!({"sub": "alice"})).await;
        assert_eq!(session(&stage, "s-2").await["state"], "ended");
    }

    async fn a_session_registered_without_its_sid_is_found_by_its_subject(database) {
        let stage = Stage::set(database).await;
        let upstream = json!({"mode": "cascade", "client_id": "logoutd", "signing_alg": "ES256"});
        let provider = Provider::open(&stage, json!({"upstream": upstream})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        stage.login("s-2", "alice", &["wiki"]).await;
        let before = stage.server.clock.now().minus(Duration::from_secs(9)).to_string();
        let sidless = json!({"op": "session", "sid": null, "key": "k-1", "sub": "alice", "started_at": before, "participants": [{"client_id": "wiki"}]});
        let answer = stage.provider.post("/v1/issuers/main/reports", json!({"reports": [sidless]})).await;
        assert!(answer.is_success(), "{answer:?}");
        provider.log_out("logoutd", &json!({"sid": "unheard-of", "sub": "alice"})).await;
        assert_eq!(wiki.only_call().await.claim("sub"), json!("alice"));
        assert_eq!(session(&stage, "s-2").await["state"], "live", "a session with a sid of its own is another one");
        assert_eq!(receipts(&stage).await[0]["sessions_ended"], json!(1));
    }

    async fn a_key_that_is_new_is_looked_for_and_strangers_keys_are_not_looked_for_again_and_again(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let _wiki = stage.party("wiki", json!({})).await;
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        assert_eq!(provider.jwks.calls().len(), 1);
        let new = generate(SigningAlg::Es256).unwrap();
        let by_new = |sid: &str| {
            let header = changed(&provider.header(), "kid", json!(new.kid));
            sign_with(&new, &header.to_string(), &provider.claims("wiki", &json!({"sid": sid})).to_string())
        };
        stage.server.advance(Duration::from_secs(31));
        let flood = futures_util::future::join_all((0..10).map(|_| async { provider.post(&by_new("s-2")).await.status })).await;
        assert_eq!(flood, [400; 10]);
        assert_eq!(provider.jwks.calls().len(), 2);
        provider.publish(vec![provider.public(), serde_json::from_str(&new.public_jwk).unwrap()]);
        stage.server.advance(Duration::from_secs(31));
        assert_eq!(provider.post(&by_new("s-2")).await.status, 200);
        assert_eq!(provider.jwks.calls().len(), 3);
    }

    async fn keys_that_cannot_be_had_put_a_token_off_and_lose_none(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({})).await;
        let _wiki = stage.party("wiki", json!({})).await;
        let mut private = provider.public();
        private["d"] = json!("AAAA");
        let published = |body: String| Reply::Full { status: 200, headers: Vec::new(), body };
        for (what, reply) in [
            ("nothing in time", Reply::Hang),
            ("10 MB", published(format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(10 << 20)))),
            ("a private key", published(json!({"keys": [private]}).to_string())),
            ("a failure", Reply::Status(500)),
        ] {
            stage.server.advance(Duration::from_secs(31));
            provider.jwks.always(reply);
            let answer = provider.post(&provider.token("wiki", &json!({"sid": "s-1"}))).await;
            assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{what}: {}", answer.text);
        }
        assert!(receipts(&stage).await.is_empty());
        stage.server.advance(Duration::from_secs(31));
        provider.publish(vec![provider.public()]);
        provider.log_out("wiki", &json!({"sid": "s-1"})).await;
        // From now on they are known: a provider that is away is believed.
        stage.server.advance(Duration::from_secs(3600));
        provider.jwks.always(Reply::Status(500));
        provider.log_out("wiki", &json!({"sid": "s-2"})).await;
        // A key that it had no chance to show is not refused: the token may come again.
        let new = generate(SigningAlg::Es256).unwrap();
        let header = changed(&provider.header(), "kid", json!(new.kid));
        let by_new = sign_with(&new, &header.to_string(), &provider.claims("wiki", &json!({"sid": "s-3"})).to_string());
        assert_eq!(provider.post(&by_new).await.status, 503);
    }

    async fn a_provider_without_exp_is_taken_where_it_may_be(database) {
        let stage = Stage::set(database).await;
        let provider = Provider::open(&stage, json!({"upstream": {"require_exp": false}})).await;
        let wiki = party(&stage, &provider, "wiki").await;
        let token = provider.sign(&provider.header().to_string(), &without(&provider.claims("wiki", &json!({"sid": "s-1"})), "exp").to_string());
        assert_eq!(provider.post(&token).await.status, 200);
        assert_eq!(sent(&wiki.received(1).await[0]), token);
        let old = changed(&provider.claims("wiki", &json!({"sid": "s-2"})), "iat", json!(provider.seconds() - 181));
        let old = provider.sign(&provider.header().to_string(), &without(&old, "exp").to_string());
        assert_eq!(provider.post(&old).await.status, 400);
    }
}

/// A relayed token of alice's as the door hands it to the vault, issued just now.
async fn order(bench: &Bench, at: &str, session: &str) -> TokenOrder {
    let (client_id, client_sid, now) = (client(at), sid(session), bench.now().await);
    let target = Target::ClientSid { client_id: client_id.clone(), client_sid: client_sid.clone() };
    let trigger = Trigger { occurred_at: Some(now), caller: Caller::provider(&bench.issuer.id), ..trigger(target, Reason::Upstream) };
    let jti = Jti::parse(Entropy::os().token()).unwrap();
    TokenOrder {
        reach: relay::reach(&trigger),
        target_json: "{}".to_owned(),
        received: ReceivedToken {
            audience: client_id,
            jti,
            digest: Digest::from_octets([7; 32]),
            taken_until: now.plus(Duration::from_secs(180)),
        },
        effect: TokenEffect::Relay { sub: Some(sub("alice")), sid: Some(client_sid), theirs: None },
        opening: relay::opening,
        trigger,
    }
}

async fn told(bench: &Bench, at: &str) -> usize {
    let filter = DeliveryFilter { client_id: Some(client(at)), ..DeliveryFilter::default() };
    bench.store.deliveries(filter, Page { limit: 1000, ..Page::default() }).await.unwrap().items.len()
}

on_both_engines! {
    async fn a_participant_that_is_reported_while_its_token_is_relayed_does_not_live_on(database) {
        let bench = Bench::on(database).await;
        let before = Some(bench.now().await.minus(Duration::from_secs(5)));
        for n in 0..40 {
            let (name, own) = (format!("s-{n}"), format!("w-{n}"));
            let joins = ParticipantReport { sid: Some(sid(&own)), joined_at: before, ..takes_part("wiki") };
            let report = Report::Session(SessionReport { started_at: before, ..login(&name, "alice", vec![joins]) });
            let order = order(&bench, "wiki", &own).await;
            let (reported, taken) = tokio::join!(bench.report(report), bench.store.take_token(order));
            reported.unwrap();
            taken.unwrap();
            let session = bench.store.session(&bench.issuer.id, &named(&name)).await.unwrap().unwrap();
            assert!(session.participants.iter().all(|one| one.ended_at.is_some()), "round {n}");
            assert_eq!(session.ended_at, None, "round {n}: the session goes on");
        }
        assert!(told(&bench, "wiki").await >= 40);
    }

    async fn a_client_that_joins_while_its_token_is_relayed_does_not_live_on(database) {
        let bench = Bench::on(database).await;
        let before = Some(bench.now().await.minus(Duration::from_secs(5)));
        for n in 0..40 {
            let name = format!("s-{n}");
            bench.report(Report::Session(SessionReport { started_at: before, ..login(&name, "alice", Vec::new()) })).await.unwrap();
            let order = order(&bench, "wiki", &name).await;
            let join = bench.report(Report::Join { session: named(&name), participant: takes_part("wiki") });
            let (joined, taken) = tokio::join!(join, bench.store.take_token(order));
            joined.unwrap();
            taken.unwrap();
            let session = bench.store.session(&bench.issuer.id, &named(&name)).await.unwrap().unwrap();
            assert!(session.participants.iter().all(|one| one.ended_at.is_some()), "round {n}");
        }
    }

    async fn a_session_that_is_logged_out_while_its_token_is_relayed_is_told_once(database) {
        let bench = Bench::on(database).await;
        for n in 0..40 {
            let name = format!("s-{n}");
            bench.login(&name, "alice", &["wiki"]).await;
            let order = order(&bench, "wiki", &name).await;
            let logout = of_session(&name, Reason::Admin);
            let (committed, taken) = tokio::join!(bench.commit(&logout), bench.store.take_token(order));
            assert!(matches!(taken.unwrap(), TokenTaken::Committed(_) | TokenTaken::Echoed));
            assert_eq!(committed.receipt.sessions_ended, 1);
            assert_eq!(told(&bench, "wiki").await, n + 1, "round {n}");
        }
    }

    async fn tokens_about_one_session_at_the_same_time_join_one_receipt(database) {
        let bench = Bench::on(database).await;
        for n in 0..20 {
            let name = format!("s-{n}");
            let participants = ["wiki", "shop"].map(|who| ParticipantReport { sid: Some(sid(&format!("{who}-{n}"))), ..takes_part(who) });
            bench.report(Report::Session(login(&name, "alice", participants.to_vec()))).await.unwrap();
            let (wiki, shop) = (order(&bench, "wiki", &format!("wiki-{n}")).await, order(&bench, "shop", &format!("shop-{n}")).await);
            let (wiki, shop) = tokio::join!(bench.store.take_token(wiki), bench.store.take_token(shop));
            let joined = [wiki.unwrap(), shop.unwrap()].iter().filter(|taken| matches!(taken, TokenTaken::Joined(_))).count();
            assert_eq!(joined, 1, "round {n}");
        }
    }

    async fn a_token_waits_for_nobody_else_s_report(database) {
        if database.engine == Engine::Postgres {
            let bench = Bench::on(database).await;
            bench.login("s-1", "alice", &["wiki"]).await;
            let mut other = sqlx::PgConnection::connect(&database.url).await.unwrap();
            // What a report of somebody else holds while it is under way.
            for lock in ["pg_advisory_lock_shared(hashtextextended('issuer main', 0))", "pg_advisory_lock(hashtextextended('name main subject bob', 0))"] {
                sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {lock}"))).execute(&mut other).await.unwrap();
            }
            bench.store.take_token(order(&bench, "wiki", "s-1").await).await.unwrap();
            let names = Target::ClientSub { client_id: client("wiki"), client_sub: sub("alice") };
            bench.commit(&trigger(names, Reason::Admin)).await;
        }
    }
}
