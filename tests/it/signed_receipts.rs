//! Receipts that are believed without asking the server.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};

use crate::harness::database::on_both_engines;
use crate::harness::party::Reply;
use crate::harness::server::{ISSUER, Stage};
use crate::harness::until;

/// Verified by another implementation, with nothing but the published keys.
fn verified(receipt: &str, keys: &str) -> Value {
    let header = jsonwebtoken::decode_header(receipt).unwrap();
    assert_eq!(header.typ.as_deref(), Some("logout-receipt+jwt"));
    let keys: JwkSet = serde_json::from_str(keys).unwrap();
    let key = keys.find(header.kid.as_deref().unwrap()).unwrap();
    let mut rules = Validation::new(Algorithm::ES256);
    rules.validate_aud = false;
    rules.required_spec_claims.clear();
    rules.validate_exp = false;
    jsonwebtoken::decode::<Value>(receipt, &DecodingKey::from_jwk(key).unwrap(), &rules).unwrap().claims
}

on_both_engines! {
    async fn a_receipt_tells_what_became_of_each_delivery_and_another_implementation_verifies_it(database) {
        let stage = Stage::set(database).await;
        let (_wiki, shop) = (stage.party("wiki", json!({})).await, stage.party("shop", json!({})).await);
        shop.always(Reply::Status(503));
        stage.login("s-1", "alice", &["wiki", "shop"]).await;
        let body = json!({"target": {"sub": "alice"}, "reason": "admin", "actor": "carol", "reason_detail": "left the company"});
        let id = stage.provider.post("/v1/issuers/main/logouts", body).await.expect(202)["id"].clone();
        until("wiki has heard and shop was asked", || async {
            let receipt = stage.receipt(&id).await;
            let asked = receipt["clients"].as_array().unwrap().iter().all(|line| line["attempts"].as_u64().unwrap() > 0);
            (asked && receipt["deliveries"]["delivered"] == 1).then_some(())
        })
        .await;
        let path = format!("/v1/issuers/main/logouts/{}/receipt.jws", id.as_str().unwrap());
        let answer = stage.provider.get(&path).await;
        assert_eq!((answer.status, answer.header("content-type"), answer.header("cache-control")), (200, "application/jose", "no-store"));
        let claims = verified(&answer.text, &stage.server.nobody().get("/v1/audit/keys").await.text);
        assert_eq!((&claims["iss"], &claims["issuer"]), (&json!(stage.server.base), &json!(ISSUER)));
        assert_eq!(claims["receipt"]["id"], id);
        assert_eq!(claims["receipt"]["target"], json!({"sub": "alice"}));
        assert_eq!((&claims["receipt"]["actor"], &claims["receipt"]["reason_detail"]), (&json!("carol"), &json!("left the company")));
        assert_eq!(claims["truncated"], Value::Null);
        let of = |client: &str| claims["deliveries"].as_array().unwrap().iter().find(|one| one["client_id"] == client).unwrap().clone();
        assert_eq!((&of("wiki")["state"], &of("wiki")["last_status"]), (&json!("delivered"), &json!(200)));
        assert!(of("wiki")["delivered_at"].is_string());
        assert_eq!((&of("shop")["state"], &of("shop")["last_status"], &of("shop")["delivered_at"]), (&json!("pending"), &json!(503), &Value::Null));
        assert!(claims["audit"]["seq"].is_u64());

        stage.provider.get(&path.replace(id.as_str().unwrap(), "01ARZ3NDEKTSV4RRFFQ69G5FAV")).await.problem(404, "unknown-logout");
        let other = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        other.get(&path).await.problem(404, "unknown-logout");
    }

    async fn a_receipt_of_very_many_says_what_it_leaves_out(database) {
        let stage = Stage::set(database).await;
        let crowd = |from: usize, to: usize| (from..to).map(|n| json!({"client_id": format!("c-{n}")})).collect::<Vec<_>>();
        for (n, (from, to)) in [(0, 600), (600, 1200)].into_iter().enumerate() {
            let body = json!({"sub": "alice", "participants": crowd(from, to)});
            stage.provider.put(&format!("/v1/issuers/main/sessions/s-{n}"), body).await.expect(201);
        }
        let receipt = stage.logout(json!({"sub": "alice"})).await;
        let path = format!("/v1/issuers/main/logouts/{}/receipt.jws", receipt["id"].as_str().unwrap());
        let claims = verified(&stage.provider.get(&path).await.text, &stage.server.nobody().get("/v1/audit/keys").await.text);
        assert_eq!(claims["truncated"], json!({"listed": 1000, "total": 1200}));
        assert_eq!(claims["deliveries"].as_array().unwrap().len(), 1000);
        assert_eq!(claims["receipt"]["deliveries"]["total"], 1200);
    }

    async fn the_command_line_keeps_a_receipt_and_knows_a_forged_one(database) {
        let stage = Stage::set(database).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let id = stage.logout(json!({"sub": "alice"})).await["id"].as_str().unwrap().to_owned();
        let variables = [("LOGOUTD_URL", stage.server.base.clone()), ("LOGOUTD_TOKEN", stage.admin.token().to_owned())];
        let run = |arguments: &[&str], variables: &[(&str, String)]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_logoutd"));
            let command = command.args(arguments).env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
            let output = tokio::task::block_in_place(|| command.output().unwrap());
            let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        };
        let path = |name: &str| database.directory().join(name).to_str().unwrap().to_owned();
        let (code, receipt, told) = run(&["receipt", "save", "main", &id], &variables);
        assert_eq!(code, Some(0), "{told}");
        let (_, keys, _) = run(&["audit", "keys"], &variables);
        std::fs::write(path("receipt.jws"), &receipt).unwrap();
        std::fs::write(path("jwks.json"), keys).unwrap();
        let offline = ["receipt", "verify", &path("receipt.jws"), "--keys", &path("jwks.json")];
        let (code, said, told) = run(&offline, &[]);
        assert_eq!(code, Some(0), "{told}");
        assert!(said.starts_with(&format!("genuine: signed by {}", stage.server.base)) && said.contains(&id) && said.contains("1 session ended"), "{said}");
        let (_, said, _) = run(&[&offline[..], &["--json"]].concat(), &[]);
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["receipt"]["id"], json!(id));

        let parts: Vec<&str> = receipt.trim().split('.').collect();
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap().replace("alice", "mallory");
        std::fs::write(path("receipt.jws"), format!("{}.{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims), parts[2])).unwrap();
        let (code, said, told) = run(&offline, &[]);
        assert!(code == Some(1) && said.is_empty() && told.contains("its signature is not good"), "{told}");
        // A logout token of the same server is no receipt.
        let (_, head, _) = run(&["audit", "head"], &variables);
        std::fs::write(path("receipt.jws"), head).unwrap();
        assert_eq!(run(&offline, &[]).0, Some(1));
    }
}
