//! Families of refresh tokens: replaced one by one, ended as one, whoever shows an old one.
//!
//! `LOGOUTD_REFRESHES` says how many refreshes meet logouts at the same moment; `.ci/full rotation` asks for ten thousand.

use std::time::Duration;

use logoutd::model::Digest;
use logoutd::model::audit::Act;
use logoutd::model::client::ClientRecord;
use logoutd::model::report::{Report, TokenDetails, TokenName, TokenOwner, TokenReport};
use logoutd::model::rotation::{Happened, Occasion, Rotated, Rotation, Successor};
use logoutd::model::session::Life;
use logoutd::model::token::TokenPolicy;
use logoutd::model::trigger::{Reason, Target};
use logoutd::plan::activity::{Activity, activity};
use logoutd::plan::joining::RULES;
use logoutd::store::{RotationOrder, Turned};
use serde_json::{Value, json};

use crate::harness::api::Answer;
use crate::harness::database::{Engine, on_both_engines};
use crate::harness::server::Stage;
use crate::store::{Bench, admin, client, details, entry, of_session, of_subject, registered, sub, trigger};

const TOKENS: &str = "/v1/issuers/main/refresh-tokens";
const ROTATE: &str = "/v1/issuers/main/refresh-tokens/rotate";
const ACCESS_TOKENS: &str = "/v1/issuers/main/access-tokens";
const REPORTS: &str = "/v1/issuers/main/reports";
const LOGOUTS: &str = "/v1/issuers/main/logouts";

/// A stage where alice is signed in at the wiki as `s-1`, with the token `rt-0`, and the wiki's tokens are subject to this.
async fn signed_in(stage: &Stage, tokens: Value) {
    stage.register("wiki", "http://127.0.0.1:1/", json!({"tokens": tokens})).await;
    stage.login("s-1", "alice", &["wiki"]).await;
    issue(stage, json!({"token": "rt-0"})).await.expect(201);
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Registers a token of `s-1` at the wiki.
async fn issue(stage: &Stage, more: Value) -> Answer {
    stage.provider.post(TOKENS, with(json!({"sid": "s-1", "client_id": "wiki"}), &more)).await
}

async fn rotate_with(stage: &Stage, token: &str, successor: &str, more: Value) -> Answer {
    stage.provider.post(ROTATE, with(json!({"client_id": "wiki", "token": token, "successor": successor}), &more)).await
}

async fn rotate(stage: &Stage, token: &str, successor: &str) -> Answer {
    rotate_with(stage, token, successor, json!({})).await
}

/// One report, and what became of it.
async fn report(stage: &Stage, item: Value) -> Value {
    stage.provider.post(REPORTS, json!({"reports": [item]})).await.expect(200)["results"][0].clone()
}

async fn rotated(stage: &Stage, token: &str, successor: &str) -> Value {
    report(stage, json!({"op": "rotated", "client_id": "wiki", "token": token, "successor": successor})).await
}

async fn is_active(stage: &Stage, token: &str) -> bool {
    stage.provider.introspect(token).await["active"] == json!(true)
}

#[track_caller]
fn invalid_grant(answer: &Answer) {
    assert_eq!((answer.status, answer.text.as_str()), (400, r#"{"error":"invalid_grant"}"#), "why is told to nobody");
    assert_eq!(answer.header("cache-control"), "no-store");
}

/// The logouts for a reason.
async fn logouts(stage: &Stage, reason: &str) -> Vec<Value> {
    stage.admin.items(&format!("{LOGOUTS}?reason={reason}")).await
}

async fn state_of(stage: &Stage, sid: &str) -> Value {
    stage.provider.get(&format!("/v1/issuers/main/sessions/{sid}")).await.expect(200)["state"].clone()
}

/// How often something was noticed about the tokens of `s-1`.
async fn noticed(stage: &Stage, kind: &str) -> u64 {
    let session = stage.provider.get("/v1/issuers/main/sessions/s-1").await.expect(200);
    let events = session["token_events"].as_array().unwrap();
    let seen: u64 = events.iter().filter(|event| event["kind"] == kind).map(|event| event["seen"].as_u64().unwrap()).sum();
    assert!(events.iter().all(|event| event["client_id"].is_string() && event["last_at"].is_string()), "{events:?}");
    seen
}

/// A token by its number.
fn numbered(n: usize) -> TokenName {
    let mut octets = [0xa5; 32];
    octets[..8].copy_from_slice(&n.to_be_bytes());
    TokenName::Digest(Digest::from_octets(octets))
}

/// What a provider asks for when this token is shown.
async fn turn(bench: &Bench, token: TokenName, successor: TokenName) -> Turned {
    let successor = Successor { name: successor, issued_at: None, expires_at: None, sealed: Some("sealed".to_owned()) };
    let occasion = Occasion::Asked(Happened::Nothing);
    let rotation = Rotation { client_id: client("wiki"), token: vec![token], successor, occasion };
    bench.store.rotate(RotationOrder { issuer: bench.issuer.clone(), caller: admin(), rotation, rules: RULES }).await.unwrap()
}

async fn is_good(bench: &Bench, name: TokenName) -> bool {
    let now = bench.now().await;
    let record = bench.store.refresh_token(&bench.issuer, &[name]).await.unwrap();
    record.is_some_and(|record| activity(&record.facts, now) == Activity::Active)
}

/// A session with the token of this number at the wiki.
async fn begun(bench: &Bench, session: &str, who: &str, n: usize) {
    bench.login(session, who, &["wiki"]).await;
    bench.token(session, "wiki", TokenDetails { name: numbered(n), ..details(0) }).await.unwrap();
}

on_both_engines! {
    async fn a_token_is_replaced_by_its_successor_which_keeps_its_scope_and_its_life(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({})).await;
        let issued = stage.server.clock.now();
        let expires = issued.plus(Duration::from_secs(3600));
        let body = json!({"token": "rt-a", "scope": "openid profile", "issued_at": issued.to_string(), "expires_at": expires.to_string()});
        issue(&stage, body).await.expect(201);
        let answer = rotate(&stage, "rt-a", "rt-b").await;
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.expect(200), json!({"sid": "s-1", "generation": 1, "replayed": false, "rotated": true}));
        assert!(!is_active(&stage, "rt-a").await && is_active(&stage, "rt-b").await);
        let known = stage.provider.introspect("rt-b").await;
        assert_eq!((&known["scope"], &known["sid"], &known["client_id"]), (&json!("openid profile"), &json!("s-1"), &json!("wiki")));
        let life = known["exp"].as_i64().unwrap() - known["iat"].as_i64().unwrap();
        assert_eq!(life, 3600);
        assert_eq!(rotate(&stage, "rt-b", "rt-c").await.expect(200)["generation"], 2);
        // Said once more, successor and all: its provider repeats itself.
        let again = rotate(&stage, "rt-b", "rt-c").await.expect(200);
        assert_eq!((&again["generation"], &again["replayed"], &again["rotated"]), (&json!(2), &json!(true), &json!(true)));
        assert!(is_active(&stage, "rt-c").await && logouts(&stage, "token_reuse").await.is_empty());
    }

    async fn a_rotation_names_tokens_by_digest_or_jti_as_well(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({})).await;
        issue(&stage, json!({"jti": "j-0"})).await.expect(201);
        let body = json!({"client_id": "wiki", "jti": "j-0", "successor_jti": "j-1"});
        assert_eq!(stage.provider.post(ROTATE, body).await.expect(200)["generation"], 1);
        let body = json!({"client_id": "wiki", "jti": "j-0", "successor_jti": "j-2"});
        invalid_grant(&stage.provider.post(ROTATE, body).await);
        assert_eq!(logouts(&stage, "token_reuse").await[0]["target"], json!({"refresh_token_jti": "j-0"}));
    }

    async fn a_replaced_token_shown_again_ends_its_session_and_tells_everybody(database) {
        let stage = Stage::set(database).await;
        let shop = stage.party("shop", json!({})).await;
        let wiki = stage.party("wiki", json!({})).await;
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        stage.login("s-2", "alice", &["shop"]).await;
        issue(&stage, json!({"token": "rt-0"})).await.expect(201);
        stage.provider.post(TOKENS, json!({"sid": "s-1", "client_id": "shop", "token": "rt-shop"})).await.expect(201);
        rotate(&stage, "rt-0", "rt-1").await.expect(200);
        invalid_grant(&rotate(&stage, "rt-0", "rt-2").await);
        for token in ["rt-0", "rt-1", "rt-2", "rt-shop"] {
            assert!(!is_active(&stage, token).await, "{token}");
        }
        let [receipt] = &logouts(&stage, "token_reuse").await[..] else { panic!("one logout") };
        assert_eq!((&receipt["sessions_ended"], &receipt["refresh_tokens_revoked"]), (&json!(1), &json!(2)), "{receipt}");
        assert!(receipt["target"]["refresh_token_sha256"].is_string() && receipt["provider"] == "not_told", "{receipt}");
        assert_eq!((state_of(&stage, "s-1").await, state_of(&stage, "s-2").await), (json!("ended"), json!("live")));
        stage.settled(&receipt["id"]).await;
        assert_eq!((wiki.calls().len(), shop.calls().len()), (1, 1), "the bell was rung");
        // The family is over: nothing more ends by it.
        invalid_grant(&rotate(&stage, "rt-0", "rt-3").await);
        invalid_grant(&rotate(&stage, "rt-1", "rt-4").await);
        assert_eq!(logouts(&stage, "token_reuse").await.len(), 1);
        assert_eq!((noticed(&stage, "reuse").await, noticed(&stage, "use_after_logout").await), (1, 2));
        let trail = stage.admin.items("/v1/audit?act=token_event").await;
        assert_eq!(trail.len(), 2, "the same within a minute is counted, and on the trail once: {trail:?}");
        assert!(trail.iter().all(|record| !record.to_string().contains("rt-0") && !record.to_string().contains("alice")), "{trail:?}");
        let posted = stage.admin.items("/v1/audit?act=logout_posted").await;
        assert!(posted.len() == 1 && posted[0]["caller"] == "logoutd", "{posted:?}");
        let metrics = stage.admin.get("/metrics").await.text;
        assert!(metrics.contains("logoutd_token_events_total{kind=\"reuse\"}"), "{metrics}");
    }

    async fn what_a_reuse_ends_is_the_client_s_choice(database) {
        let stage = Stage::set(database).await;
        for (scope, first, second, family) in [("grant", "live", "live", "live"), ("session", "ended", "live", "ended"), ("subject", "ended", "ended", "ended")] {
            let (who, one, other) = (format!("alice-{scope}"), format!("{scope}-1"), format!("{scope}-2"));
            let token = |name: &str| format!("{scope}-{name}");
            stage.admin.put("/v1/issuers/main/clients/wiki", json!({"tokens": {"reuse_scope": scope}})).await;
            stage.login(&one, &who, &["wiki"]).await;
            stage.login(&other, &who, &["wiki"]).await;
            for (sid, name) in [(&one, "rt"), (&one, "beside")] {
                stage.provider.post(TOKENS, json!({"sid": sid, "client_id": "wiki", "token": token(name)})).await.expect(201);
            }
            rotate(&stage, &token("rt"), &token("next")).await.expect(200);
            invalid_grant(&rotate(&stage, &token("rt"), &token("third")).await);
            assert!(!is_active(&stage, &token("next")).await, "{scope}");
            assert_eq!(is_active(&stage, &token("beside")).await, family == "live", "{scope}");
            assert_eq!((state_of(&stage, &one).await, state_of(&stage, &other).await), (json!(first), json!(second)), "{scope}");
        }
        assert_eq!(logouts(&stage, "token_reuse").await.len(), 3);
    }

    async fn the_reuse_of_an_offline_token_ends_its_family_and_not_the_session_it_came_from(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({})).await;
        issue(&stage, json!({"token": "off-0", "offline_access": true})).await.expect(201);
        rotate(&stage, "off-0", "off-1").await.expect(200);
        assert!(stage.provider.introspect("off-1").await["offline_access"] == json!(true));
        stage.logout(json!({"sid": "s-1"})).await;
        assert!(is_active(&stage, "off-1").await, "offline as its predecessor was");
        invalid_grant(&rotate(&stage, "off-0", "off-2").await);
        assert!(!is_active(&stage, "off-1").await);
        let [receipt] = &logouts(&stage, "token_reuse").await[..] else { panic!("one logout") };
        assert_eq!((&receipt["sessions_ended"], &receipt["refresh_tokens_revoked"]), (&json!(0), &json!(1)), "{receipt}");
    }

    async fn refreshes_at_the_same_moment_get_the_one_successor_there_is(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"grace_s": 10})).await;
        let nameless = json!({"client_id": "wiki", "token": "rt-0", "successor_jti": "rt-1"});
        let problem = stage.provider.post(ROTATE, nameless).await.problem(422, "invalid-field");
        assert_eq!(problem["errors"][0]["pointer"], "/successor");
        rotate(&stage, "rt-0", "rt-1").await.expect(200);
        let answer = rotate(&stage, "rt-0", "rt-2").await;
        assert_eq!(answer.header("cache-control"), "no-store");
        let expected = json!({"sid": "s-1", "generation": 1, "replayed": true, "rotated": true, "successor": "rt-1"});
        assert_eq!(answer.expect(200), expected);
        assert!(!is_active(&stage, "rt-2").await, "the second one is registered nowhere");
        if database.engine == Engine::Sqlite {
            let octets: Vec<u8> = ["logoutd.db", "logoutd.db-wal"].iter().filter_map(|file| std::fs::read(database.directory().join(file)).ok()).flatten().collect();
            assert!(!octets.windows(4).any(|window| window == b"rt-1"), "sealed, and nowhere in clear");
        }
        // Only what stands directly before the current token, and only for so long.
        rotate(&stage, "rt-1", "rt-3").await.expect(200);
        stage.server.advance(Duration::from_secs(10));
        invalid_grant(&rotate(&stage, "rt-1", "rt-4").await);
        assert_eq!(logouts(&stage, "token_reuse").await.len(), 1);
    }

    async fn within_the_grace_an_older_token_than_the_last_is_reuse(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"grace_s": 60})).await;
        rotate(&stage, "rt-0", "rt-1").await.expect(200);
        rotate(&stage, "rt-1", "rt-2").await.expect(200);
        invalid_grant(&rotate(&stage, "rt-0", "rt-3").await);
        assert!(!is_active(&stage, "rt-2").await);
    }

    async fn within_the_grace_nothing_is_given_out_again_once_the_session_is_over(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"grace_s": 60})).await;
        rotate(&stage, "rt-0", "rt-1").await.expect(200);
        stage.logout(json!({"sid": "s-1"})).await;
        invalid_grant(&rotate(&stage, "rt-0", "rt-2").await);
        invalid_grant(&rotate(&stage, "rt-0", "rt-1").await);
        assert!(logouts(&stage, "token_reuse").await.is_empty());
    }

    async fn a_young_token_stays_where_the_client_is_rotated_by_age(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"rotate": "after_s", "rotate_after_s": 60})).await;
        let kept = json!({"sid": "s-1", "generation": 0, "replayed": false, "rotated": false});
        assert_eq!(rotate(&stage, "rt-0", "rt-1").await.expect(200), kept);
        assert!(is_active(&stage, "rt-0").await && !is_active(&stage, "rt-1").await, "the successor is not registered");
        stage.server.advance(Duration::from_secs(61));
        assert_eq!(rotate(&stage, "rt-0", "rt-1").await.expect(200)["rotated"], true);
        assert!(!is_active(&stage, "rt-0").await && is_active(&stage, "rt-1").await);
    }

    async fn a_token_is_replaced_when_something_happened(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"rotate": "on_event"})).await;
        assert_eq!(rotate(&stage, "rt-0", "rt-1").await.expect(200)["rotated"], false);
        assert_eq!(rotate_with(&stage, "rt-0", "rt-1", json!({"event": "new network"})).await.expect(200)["rotated"], true);
        assert_eq!(rotate(&stage, "rt-1", "rt-2").await.expect(200)["rotated"], false);
        // A grave logout of the person's other sessions makes it due, a plain one does not.
        stage.login("s-2", "alice", &["wiki"]).await;
        for (reason, due) in [("user_logout", false), ("mfa_removed", true)] {
            let body = json!({"target": {"sub": "alice", "except_sid": "s-1"}, "reason": reason});
            assert!(stage.provider.post(LOGOUTS, body).await.is_success());
            assert_eq!(rotate(&stage, "rt-1", "rt-2").await.expect(200)["rotated"], due, "{reason}");
        }
        assert_eq!(rotate(&stage, "rt-2", "rt-3").await.expect(200)["rotated"], false, "once");
    }

    async fn nothing_moves_for_a_stranger_for_another_client_or_for_a_suspended_one(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({})).await;
        stage.register("shop", "http://127.0.0.1:1/", json!({})).await;
        invalid_grant(&rotate(&stage, "never seen", "rt-1").await);
        invalid_grant(&rotate_with(&stage, "rt-0", "rt-1", json!({"client_id": "shop"})).await);
        issue(&stage, json!({"token": "rt-beside"})).await.expect(201);
        invalid_grant(&rotate(&stage, "rt-0", "rt-beside").await);
        stage.admin.post("/v1/issuers/main/clients/wiki/suspend", json!({})).await;
        invalid_grant(&rotate(&stage, "rt-0", "rt-1").await);
        stage.admin.post("/v1/issuers/main/clients/wiki/unsuspend", json!({})).await;
        assert!(is_active(&stage, "rt-0").await && is_active(&stage, "rt-beside").await && !is_active(&stage, "rt-1").await);
        assert_eq!(noticed(&stage, "foreign_client").await, 1);
        let kinds: Vec<Value> = stage.admin.items("/v1/audit?act=token_event").await.iter().map(|record| record["detail"]["kind"].clone()).collect();
        assert_eq!(kinds, [json!("foreign_client"), json!("unknown_token")], "the newest first");
    }

    async fn a_provider_that_decides_by_itself_tells_afterwards(database) {
        let stage = Stage::set(database).await;
        // Its own decision: the policy is not asked.
        signed_in(&stage, json!({"rotate": "after_s", "rotate_after_s": 3600})).await;
        let done = rotated(&stage, "rt-0", "rt-1").await;
        assert_eq!(done, json!({"status": 201, "sid": "s-1", "generation": 1, "replayed": false}));
        assert_eq!(rotated(&stage, "rt-1", "rt-2").await["generation"], 2);
        // Told again, out of order: nothing changes.
        assert_eq!(rotated(&stage, "rt-0", "rt-1").await["replayed"], true);
        assert!(is_active(&stage, "rt-2").await && logouts(&stage, "token_reuse").await.is_empty());
        let unknown = rotated(&stage, "never seen", "rt-3").await;
        assert_eq!((&unknown["status"], &unknown["type"]), (&json!(404), &json!("urn:logoutd:problem:unknown-token")), "said aloud, not lost");
        // Without a grace, another successor of what was replaced is reuse.
        let reused = rotated(&stage, "rt-0", "rt-4").await;
        assert_eq!((&reused["status"], &reused["type"]), (&json!(409), &json!("urn:logoutd:problem:token-reused")), "{reused}");
        assert_eq!((logouts(&stage, "token_reuse").await.len(), state_of(&stage, "s-1").await), (1, json!("ended")));
        assert!(!is_active(&stage, "rt-2").await && !is_active(&stage, "rt-4").await);
        let over = rotated(&stage, "rt-2", "rt-5").await;
        assert_eq!((&over["status"], &over["type"]), (&json!(409), &json!("urn:logoutd:problem:session-ended")), "{over}");
        // Stored as revoked: registered once more it is dead from the start.
        assert_eq!(issue(&stage, json!({"token": "rt-5"})).await.status, 409);
        assert!(!is_active(&stage, "rt-5").await);
        assert_eq!(noticed(&stage, "reuse").await, 1);
    }

    async fn a_second_successor_told_within_the_grace_stands_beside_the_first(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"grace_s": 30})).await;
        rotated(&stage, "rt-0", "rt-1").await;
        assert_eq!(rotated(&stage, "rt-0", "rt-2").await["status"], 201);
        assert!(is_active(&stage, "rt-1").await && is_active(&stage, "rt-2").await);
        assert_eq!(noticed(&stage, "rotation_out_of_order").await, 1);
        stage.logout(json!({"sid": "s-1"})).await;
        assert!(!is_active(&stage, "rt-1").await && !is_active(&stage, "rt-2").await);
    }

    async fn a_batch_may_issue_a_token_and_replace_it(database) {
        let stage = Stage::set(database).await;
        stage.register("wiki", "http://127.0.0.1:1/", json!({})).await;
        let rotated = |token: &str, successor: &str| json!({"op": "rotated", "client_id": "wiki", "token": token, "successor": successor});
        let reports = json!({"reports": [
            {"op": "session", "sid": "s-1", "sub": "alice", "participants": [{"client_id": "wiki"}]},
            {"op": "refresh_token", "sid": "s-1", "client_id": "wiki", "token": "rt-0"},
            rotated("rt-0", "rt-1"),
            rotated("rt-1", "rt-2"),
            {"op": "access_token", "sid": "s-1", "client_id": "wiki", "token": "at-0", "refresh_token": "rt-2", "expires_at": "2099-01-01T00:00:00Z"},
        ]});
        let results = stage.provider.post(REPORTS, reports).await.expect(200)["results"].clone();
        let statuses: Vec<_> = results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [201; 5], "{results}");
        assert!(is_active(&stage, "rt-2").await);
    }

    async fn what_is_sealed_is_sealed_again_in_its_successor(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({})).await;
        assert_eq!(issue(&stage, json!({"jti": "j", "sealed": true})).await.problem(422, "invalid-field")["errors"][0]["pointer"], "/sealed");
        issue(&stage, json!({"token": "rt-sealed", "sealed": true})).await.expect(201);
        let nameless = json!({"client_id": "wiki", "token": "rt-sealed", "successor_jti": "j-1"});
        assert_eq!(stage.provider.post(ROTATE, nameless).await.problem(422, "invalid-field")["errors"][0]["pointer"], "/successor");
        assert!(is_active(&stage, "rt-sealed").await, "nothing was done");
        rotate(&stage, "rt-sealed", "rt-next").await.expect(200);
        rotate(&stage, "rt-next", "rt-last").await.expect(200);
        if database.engine == Engine::Sqlite {
            let octets: Vec<u8> = ["logoutd.db", "logoutd.db-wal"].iter().filter_map(|file| std::fs::read(database.directory().join(file)).ok()).flatten().collect();
            for token in ["rt-sealed", "rt-next", "rt-last"] {
                assert!(!octets.windows(token.len()).any(|window| window == token.as_bytes()), "{token}");
            }
        }
    }

    async fn a_token_that_is_said_to_live_too_long_is_cut_short_or_refused(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"max_lifetime_s": 60, "access_token_max_s": 10})).await;
        let now = stage.server.clock.now();
        let at = |seconds: u64| now.plus(Duration::from_secs(seconds)).to_string();
        let issued = now.to_string();
        let capped = issue(&stage, json!({"token": "rt-a", "issued_at": issued, "expires_at": at(61)})).await.expect(201);
        assert_eq!(capped, json!({"active": true, "capped": true, "expires_at": at(60)}));
        assert_eq!(stage.provider.introspect("rt-a").await["exp"], json!(now.seconds() + 60));
        let unsaid = issue(&stage, json!({"token": "rt-b", "issued_at": issued})).await.expect(201);
        assert_eq!((&unsaid["capped"], &unsaid["expires_at"]), (&json!(true), &json!(at(60))));
        assert_eq!(issue(&stage, json!({"token": "rt-c", "issued_at": issued, "expires_at": at(60)})).await.expect(201), json!({"active": true}));
        let next = rotate_with(&stage, "rt-c", "rt-d", json!({"issued_at": issued, "expires_at": at(99)})).await.expect(200);
        assert_eq!((&next["capped"], &next["expires_at"]), (&json!(true), &json!(at(60))));
        let access = json!({"sid": "s-1", "client_id": "wiki", "token": "at-a", "issued_at": issued, "expires_at": at(99)});
        assert_eq!(stage.provider.post(ACCESS_TOKENS, access.clone()).await.expect(201)["expires_at"], json!(at(10)));
        assert_eq!(noticed(&stage, "over_limit").await, 3, "what was not said is over no limit");
        let put = json!({"backchannel_logout_uri": "http://127.0.0.1:1/", "id_token_signed_response_alg": "ES256",
            "tokens": {"max_lifetime_s": 60, "access_token_max_s": 10, "over_limit": "refuse"}});
        stage.admin.put("/v1/issuers/main/clients/wiki", put).await.expect(200);
        issue(&stage, json!({"token": "rt-e", "issued_at": issued, "expires_at": at(61)})).await.problem(422, "lifetime-over-limit");
        rotate_with(&stage, "rt-d", "rt-f", json!({"issued_at": issued, "expires_at": at(61)})).await.problem(422, "lifetime-over-limit");
        assert!(is_active(&stage, "rt-d").await && !is_active(&stage, "rt-e").await && !is_active(&stage, "rt-f").await);
        stage.provider.post(ACCESS_TOKENS, with(access, &json!({"token": "at-b"}))).await.problem(422, "lifetime-over-limit");
        assert_eq!(noticed(&stage, "over_limit").await, 6);
    }

    async fn where_only_the_newest_token_is_accepted_an_older_one_is_not(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({"newest_only": true})).await;
        assert!(is_active(&stage, "rt-0").await);
        issue(&stage, json!({"token": "rt-a"})).await.expect(201);
        assert!(!is_active(&stage, "rt-0").await && is_active(&stage, "rt-a").await);
        let before = stage.server.clock.now().minus(Duration::from_secs(60)).to_string();
        issue(&stage, json!({"token": "rt-old", "issued_at": before})).await.expect(201);
        assert!(is_active(&stage, "rt-a").await && !is_active(&stage, "rt-old").await, "an older one that is told of later");
        rotate(&stage, "rt-a", "rt-b").await.expect(200);
        assert!(is_active(&stage, "rt-b").await);
        invalid_grant(&rotate(&stage, "rt-0", "rt-c").await);
        assert!(logouts(&stage, "token_reuse").await.is_empty());
    }

    async fn an_access_token_ends_with_its_session_or_with_the_family_it_was_issued_with(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage, json!({})).await;
        let expires_at = stage.server.clock.now().plus(Duration::from_secs(600)).to_string();
        let access = |token: &str, more: Value| with(json!({"sid": "s-1", "client_id": "wiki", "token": token, "expires_at": expires_at, "aud": "api"}), &more);
        let post = async |body: Value| stage.provider.post(ACCESS_TOKENS, body).await;
        assert_eq!(post(access("at-1", json!({}))).await.expect(201), json!({"active": true}));
        assert_eq!(post(access("at-1", json!({}))).await.expect(200), json!({"active": true}), "again");
        post(access("at-1", json!({"client_id": "shop"}))).await.problem(409, "other-owner");
        post(access("at-2", json!({"sid": "unknown"}))).await.problem(404, "unknown-session");
        post(access("at-2", json!({"refresh_token": "unknown"}))).await.problem(404, "unknown-token");
        let problem = post(json!({"sid": "s-1", "client_id": "wiki", "token": "at-2"})).await.problem(422, "invalid-field");
        assert_eq!(problem["errors"][0]["pointer"], "/expires_at");
        issue(&stage, json!({"token": "rt-beside"})).await.expect(201);
        post(access("at-2", json!({"refresh_token": "rt-0"}))).await.expect(201);
        post(access("at-3", json!({"refresh_token": "rt-beside"}))).await.expect(201);
        let is_good = async |token: &str| {
            let names = [TokenName::Digest(Digest::from_octets(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes()).as_ref().try_into().unwrap()))];
            let store = stage.server.store();
            let issuer = store.issuer(&logoutd::model::IssuerId::parse("main").unwrap()).await.unwrap().unwrap();
            let record = store.access_token(&issuer, &names).await.unwrap().unwrap();
            activity(&record.facts, store.now().await.unwrap()) == Activity::Active
        };
        for token in ["at-1", "at-2", "at-3"] {
            assert!(is_good(token).await, "{token}");
        }
        // A reuse in one family, whose client ends nothing more by it.
        let put = json!({"backchannel_logout_uri": "http://127.0.0.1:1/", "id_token_signed_response_alg": "ES256", "tokens": {"reuse_scope": "grant"}});
        stage.admin.put("/v1/issuers/main/clients/wiki", put).await.expect(200);
        rotate(&stage, "rt-0", "rt-1").await.expect(200);
        invalid_grant(&rotate(&stage, "rt-0", "rt-2").await);
        assert!(is_good("at-3").await && !is_good("at-2").await && !is_good("at-1").await);
        stage.logout(json!({"sid": "s-1"})).await;
        assert!(!is_good("at-3").await);
        post(access("at-4", json!({}))).await.problem(409, "session-ended");
        assert!(!is_good("at-4").await, "stored as revoked");
        let many = json!({"tokens": [access("at-5", json!({})), {"sub": "alice", "client_id": "wiki", "jti": "at-6", "expires_at": expires_at}]});
        let results = post(many).await.expect(200)["results"].clone();
        assert_eq!((&results[0]["status"], &results[1]["status"], &results[1]["active"]), (&json!(409), &json!(201), &json!(true)), "{results}");
    }

    async fn a_rotation_while_its_session_its_subject_or_its_client_is_logged_out_leaves_no_token_that_is_good(database) {
        let bench = Bench::on(database).await;
        for n in 0..32 {
            let (session, who) = (format!("s-{n}"), format!("alice-{n}"));
            begun(&bench, &session, &who, 2 * n).await;
            let logout = match n % 4 {
                0 => of_session(&session, Reason::UserLogout),
                1 => of_subject(&who, Reason::UserLogout),
                2 => trigger(Target::SubjectAtClient { sub: sub(&who), client_id: client("wiki") }, Reason::Admin),
                _ => trigger(Target::Client(client("wiki")), Reason::Admin),
            };
            let (turned, _) = tokio::join!(turn(&bench, numbered(2 * n), numbered(2 * n + 1)), bench.commit(&logout));
            assert!(!is_good(&bench, numbered(2 * n)).await && !is_good(&bench, numbered(2 * n + 1)).await, "round {n}: {turned:?}");
        }
    }

    async fn a_rotation_while_a_token_bound_to_no_session_is_revoked_leaves_no_token_that_is_good(database) {
        let bench = Bench::on(database).await;
        for n in 0..32 {
            let token = TokenDetails { name: numbered(2 * n), offline_access: true, ..details(0) };
            let owner = TokenOwner::Subject(sub("alice"));
            bench.report(Report::RefreshToken(TokenReport { owner, client_id: client("wiki"), token })).await.unwrap();
            let target = Target::RefreshToken { names: vec![numbered(2 * n)], digest: Digest::from_octets([0; 32]) };
            let logout = trigger(target, Reason::Admin);
            drop(tokio::join!(turn(&bench, numbered(2 * n), numbered(2 * n + 1)), bench.commit(&logout)));
            assert!(!is_good(&bench, numbered(2 * n)).await && !is_good(&bench, numbered(2 * n + 1)).await, "round {n}");
        }
    }

    async fn many_who_show_an_old_token_at_once_end_its_session_once(database) {
        let bench = Bench::on(database).await;
        begun(&bench, "s-1", "alice", 0).await;
        turn(&bench, numbered(0), numbered(1)).await.outcome.unwrap();
        let shown = futures_util::future::join_all((2..10).map(|n| turn(&bench, numbered(0), numbered(n)))).await;
        assert!(shown.iter().all(|turned| turned.outcome.is_err()));
        assert_eq!(shown.iter().map(|turned| turned.seen.logouts.len()).sum::<usize>(), 1);
        assert_eq!(bench.life("s-1").await, Life::Ended);
    }

    async fn two_who_refresh_at_once_step_once_and_the_other_is_answered_alike(database) {
        let bench = Bench::on(database).await;
        with_grace(&bench).await;
        for n in 0..30 {
            let (session, token, one, other) = (format!("s-{n}"), 3 * n, 3 * n + 1, 3 * n + 2);
            begun(&bench, &session, "alice", token).await;
            let (first, second) = tokio::join!(turn(&bench, numbered(token), numbered(one)), turn(&bench, numbered(token), numbered(other)));
            let outcomes = [first.outcome.unwrap(), second.outcome.unwrap()];
            assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Rotated::Rotated(_))).count(), 1, "{outcomes:?}");
            let shown = outcomes.iter().find_map(|outcome| if let Rotated::Replayed { name, .. } = outcome { Some(name.clone()) } else { None });
            let good = [is_good(&bench, numbered(one)).await, is_good(&bench, numbered(other)).await];
            assert_eq!(shown, Some(numbered(if good[0] { one } else { other })), "{good:?}");
            assert_ne!(good[0], good[1]);
        }
    }

    async fn refreshes_and_logouts_in_any_number_at_once_leave_no_good_token_of_an_ended_session(database) {
        let refreshes: usize = std::env::var("LOGOUTD_REFRESHES").ok().map_or(600, |count| count.parse().unwrap());
        let sessions = refreshes / 20;
        let bench = std::sync::Arc::new(Bench::on(database).await);
        with_grace(&bench).await;
        let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(sessions));
        // As many as there are connections: who waits for one waits without a limit of time.
        let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(4));
        for n in 0..sessions {
            begun(&bench, &format!("s-{n}"), &format!("alice-{}", n % 7), n).await;
        }
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..sessions {
            for _ in 0..2 {
                let (bench, next, slots) = (bench.clone(), next.clone(), slots.clone());
                tasks.spawn(async move {
                    let (mut current, mut issued) = (numbered(n), Vec::new());
                    for _ in 0..10 {
                        let successor = numbered(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
                        issued.push((n, successor.clone()));
                        let _slot = slots.acquire().await.unwrap();
                        current = match turn(&bench, current, successor.clone()).await.outcome {
                            Ok(Rotated::Rotated(_)) => successor,
                            Ok(Rotated::Replayed { name, .. }) => name,
                            Ok(Rotated::Repeated(_) | Rotated::NotDue(_)) | Err(_) => break,
                        };
                    }
                    issued
                });
            }
            if n % 2 == 0 {
                let (bench, slots) = (bench.clone(), slots.clone());
                tasks.spawn(async move {
                    let _slot = slots.acquire().await.unwrap();
                    let logout = if n % 4 == 0 { of_session(&format!("s-{n}"), Reason::UserLogout) } else { of_session(&format!("s-{n}"), Reason::Compromise) };
                    bench.commit(&logout).await;
                    Vec::new()
                });
            }
        }
        let mut issued: Vec<(usize, TokenName)> = (0..sessions).map(|n| (n, numbered(n))).collect();
        while let Some(of_one) = tasks.join_next().await {
            issued.extend(of_one.unwrap());
        }
        for n in 0..sessions {
            let mut good = 0;
            for (_, name) in issued.iter().filter(|(session, _)| *session == n) {
                good += usize::from(is_good(&bench, name.clone()).await);
            }
            let lives = bench.life(&format!("s-{n}")).await == Life::Live;
            assert!(lives || good == 0, "s-{n} has ended and {good} of its tokens are good");
            assert!(!lives || good == 1, "s-{n} lives and {good} of its tokens are good");
            assert!(!lives || n % 2 == 1);
        }
    }
}

/// Lets the wiki's refreshes at the same moment be answered alike.
async fn with_grace(bench: &Bench) {
    let tokens = TokenPolicy { grace: Duration::from_secs(60), ..TokenPolicy::DEFAULT };
    let wiki = ClientRecord { tokens, ..registered("wiki", bench.now().await) };
    bench.store.put_client(&wiki, None, &[], entry(Act::ClientPut)).await.unwrap();
}
