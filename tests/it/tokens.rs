//! Logout tokens as relying parties get them, and the keys and metadata they verify them with.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::harness::database::on_both_engines;
use crate::harness::party::{Call, Party, Reply};
use crate::harness::server::{ISSUER, Server, Stage};

const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// The RFC 7638 thumbprint of a public key, made by nothing of logoutd's.
fn thumbprint(jwk: &Value) -> String {
    let names: &[&str] = match jwk["kty"].as_str().unwrap() {
        "RSA" => &["e", "kty", "n"],
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        other => panic!("{other}"),
    };
    // RFC 7638 3: the required members in lexicographic order, without white space.
    let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":{}", jwk[name])).collect();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{{{}}}", members.join(",")).as_bytes());
    URL_SAFE_NO_PAD.encode(digest)
}

fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

/// A logout of a session at this one party, as it received it.
async fn told(stage: &Stage, party: &Party, client_id: &str) -> Call {
    let login = json!({"sub": "alice", "participants": [{"client_id": client_id, "sub": "alice-there", "sid": "sid-there"}]});
    let sid = format!("s-{client_id}");
    stage.provider.put(&format!("/v1/issuers/main/sessions/{sid}"), login).await.expect(201);
    stage.logout(json!({"sid": sid})).await;
    party.only_call().await
}

on_both_engines! {
    async fn a_relying_party_verifies_the_token_of_every_algorithm_with_the_key_that_is_published_for_it(database) {
        let stage = Stage::on(Server::start(database).await, &ALGORITHMS).await;
        let jwks = stage.server.nobody().get("/main/jwks").await.expect(200);
        assert_eq!(jwks["keys"].as_array().unwrap().len(), ALGORITHMS.len());
        for alg in ALGORITHMS {
            let party = stage.party(alg, json!({"id_token_signed_response_alg": alg})).await;
            let call = told(&stage, &party, alg).await;
            let header = &call.token().header;
            assert_eq!(names(header), BTreeSet::from(["alg", "kid", "typ"]), "{header}");
            assert_eq!((&header["alg"], &header["typ"]), (&json!(alg), &json!("logout+jwt")));
            let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]).unwrap();
            assert_eq!((&key["alg"], &key["use"]), (&json!(alg), &json!("sig")), "{key}");
            assert_eq!(key["kid"], json!(thumbprint(key)));
        }
    }

    async fn a_request_and_its_token_say_what_the_standard_asks_and_nothing_more(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        let before = stage.server.clock.now().seconds();
        let call = told(&stage, &party, "wiki").await;

        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/backchannel-logout"));
        assert_eq!(call.header("content-type"), "application/x-www-form-urlencoded");
        assert_eq!(call.header("content-length"), call.body.len().to_string());
        assert_eq!((call.header("transfer-encoding"), call.header("expect")), ("", ""));
        assert_eq!(call.header("host"), party.address().to_string());
        let body = String::from_utf8(call.body.clone()).unwrap();
        let token = body.strip_prefix("logout_token=").unwrap();
        assert!(token.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet)), "{body}");
        assert_eq!(call.form(), [("logout_token".to_owned(), token.to_owned())]);

        let claims = &call.token().claims;
        assert_eq!(names(claims), BTreeSet::from(["aud", "events", "exp", "iat", "iss", "jti", "sid", "sub", "toe"]), "{claims}");
        assert_eq!(claims["iss"], ISSUER, "to the letter, slash and all");
        assert_eq!(claims["aud"], "wiki", "a string, not a list");
        assert_eq!((&claims["sub"], &claims["sid"]), (&json!("alice-there"), &json!("sid-there")));
        assert_eq!(claims["events"], json!({"http://schemas.openid.net/event/backchannel-logout": {}}));
        let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!((before - 2..=stage.server.clock.now().seconds()).contains(&iat), "{iat}");
        assert!(exp > iat && exp - iat <= 122, "{claims}");
        assert!((before..=stage.server.clock.now().seconds()).contains(&claims["toe"].as_i64().unwrap()), "{claims}");
        assert!(claims["jti"].as_str().unwrap().len() >= 22, "{claims}");
    }

    async fn each_attempt_carries_a_token_of_its_own(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        party.answers([Reply::Status(500), Reply::Status(429)]);
        stage.login("s-1", "alice", &["wiki"]).await;
        let receipt = stage.logout(json!({"sid": "s-1"})).await;
        for count in 1..=2_u64 {
            crate::harness::until("the attempt is written down", || async {
                (stage.receipt(&receipt["id"]).await["clients"][0]["attempts"].as_u64() >= Some(count)).then_some(())
            })
            .await;
            stage.server.advance(Duration::from_secs(100));
        }
        stage.settled(&receipt["id"]).await;
        let calls = party.calls();
        let distinct = |of: &dyn Fn(&Call) -> Value| calls.iter().map(|call| of(call).to_string()).collect::<BTreeSet<_>>().len();
        assert_eq!(calls.len(), 3);
        assert_eq!(distinct(&|call| call.claim("jti")), 3);
        // The clock moved, so a token that was signed once and kept would show it.
        assert!(calls[2].claim("iat").as_i64().unwrap() >= calls[0].claim("iat").as_i64().unwrap() + 100);
        assert!(calls[2].claim("exp").as_i64().unwrap() >= calls[0].claim("exp").as_i64().unwrap() + 100);
        assert_eq!(distinct(&|call| json!(call.header("logoutd-delivery"))), 1);
        assert_eq!(calls.iter().map(Call::attempt).collect::<Vec<_>>(), [1, 2, 3]);
    }

    async fn the_claims_and_the_typ_are_what_the_client_registered(database) {
        let stage = Stage::set(database).await;
        for (number, (delivery, sub, sid, typ)) in [
            (json!({"claims": "both"}), true, true, json!("logout+jwt")),
            (json!({"claims": "sid"}), false, true, json!("logout+jwt")),
            (json!({"claims": "sub"}), true, false, json!("logout+jwt")),
            (json!({"typ": "JWT"}), true, true, json!("JWT")),
            (json!({"typ": "none"}), true, true, Value::Null),
        ].into_iter().enumerate() {
            let client_id = format!("c-{number}");
            let party = stage.party(&client_id, json!({"delivery": delivery})).await;
            let call = told(&stage, &party, &client_id).await;
            let Call { verified, .. } = &call;
            let token = verified.as_ref().unwrap_or_else(|why| panic!("{delivery}: {why}"));
            assert_eq!((token.claims.get("sub").is_some(), token.claims.get("sid").is_some()), (sub, sid), "{delivery}");
            assert_eq!(token.header["typ"], typ, "{delivery}");
            assert_eq!(token.header.get("typ").is_some(), !typ.is_null(), "absent, not null");
        }
    }

    async fn who_needs_a_name_that_is_not_known_is_unreachable_and_the_receipt_says_so(database) {
        let stage = Stage::set(database).await;
        let needs_sid = stage.party("needs-sid", json!({"backchannel_logout_session_required": true})).await;
        let wants_sub = stage.party("wants-sub", json!({"delivery": {"claims": "sub"}})).await;
        let reports = json!({"reports": [{"op": "session", "key": "k-1", "sub": "alice",
            "participants": [{"client_id": "needs-sid"}, {"client_id": "wants-sub"}]}]});
        stage.provider.post("/v1/issuers/main/reports", reports).await.expect(200);
        let receipt = stage.logout(json!({"key": "k-1"})).await;
        let call = wants_sub.only_call().await;
        assert_eq!((call.claim("sub"), call.claim("sid")), (json!("alice"), Value::Null));
        let receipt = stage.settled(&receipt["id"]).await;
        let line = receipt["clients"].as_array().unwrap().iter().find(|line| line["client_id"] == "needs-sid").unwrap();
        assert_eq!((&line["state"], &line["reason"], &line["attempts"]), (&json!("unreachable"), &json!("no_sid"), &json!(0)), "{receipt}");
        assert!(needs_sid.calls().is_empty());
    }

    async fn a_key_is_there_as_soon_as_its_algorithm_is_registered_and_never_with_its_private_half(database) {
        let stage = Stage::set(database).await;
        let keys = async || stage.server.nobody().get("/main/jwks").await.expect(200)["keys"].as_array().unwrap().clone();
        let first = keys().await;
        assert_eq!(first.len(), 1);
        stage.register("wiki", "http://127.0.0.1:1/", json!({"id_token_signed_response_alg": "RS256"})).await;
        stage.register("shop", "http://127.0.0.1:1/", json!({"id_token_signed_response_alg": "EdDSA"})).await;
        let all = keys().await;
        assert_eq!(all.len(), 3);
        assert!(all.contains(&first[0]));
        for key in &all {
            assert!(["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().all(|private| key.get(private).is_none()), "{key}");
            assert_eq!(key["kid"], json!(thumbprint(key)));
        }
        let shown = stage.admin.items("/v1/issuers/main/keys").await;
        let kids = |keys: &[Value]| keys.iter().map(|key| key["kid"].to_string()).collect::<BTreeSet<_>>();
        assert_eq!(kids(&shown), kids(&all));
        assert!(shown.iter().all(|key| key["public_jwk"].get("d").is_none()), "{shown:?}");
    }

    async fn metadata_is_served_at_both_places_with_the_issuer_to_the_letter(database) {
        let stage = Stage::on(Server::start(database).await, &["ES256", "PS256"]).await;
        let nobody = stage.server.nobody();
        let answer = nobody.get("/main/.well-known/openid-configuration").await;
        assert_eq!(answer.header("content-type"), "application/json");
        let etag = answer.header("etag").to_owned();
        let document = answer.expect(200);
        assert_eq!(nobody.get("/.well-known/oauth-authorization-server/main").await.expect(200), document);
        let base = &stage.server.base;
        assert_eq!(document, json!({
            "issuer": ISSUER, "jwks_uri": format!("{base}/main/jwks"), "introspection_endpoint": format!("{base}/main/introspect"),
            "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt", "Bearer"],
            "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
            "introspection_signing_alg_values_supported": ["PS256", "ES256"],
            "revocation_endpoint": format!("{base}/main/revoke"),
            "revocation_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt", "none", "Bearer"],
            "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
            "id_token_signing_alg_values_supported": ["PS256", "ES256"],
            "backchannel_logout_supported": true, "backchannel_logout_session_supported": true,
        }));
        let jwks = nobody.get("/main/jwks").await;
        assert!(jwks.header("cache-control").contains("max-age"), "{:?}", jwks.headers);
        let again = nobody.request(reqwest::Method::GET, "/main/.well-known/openid-configuration").header("If-None-Match", etag);
        assert_eq!(crate::harness::api::send(again).await.status, 304);
        for path in ["/other/jwks", "/other/.well-known/openid-configuration", "/.well-known/oauth-authorization-server/other"] {
            nobody.get(path).await.problem(404, "unknown-issuer");
        }
    }
}
