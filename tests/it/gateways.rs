//! The very requests that plugins of gateways send to the introspection endpoint: Kong's two and MuleSoft's, with the credentials each can be given; and
//! the recipes in `examples/gateways`, as far as they can be read here.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use logoutd::config::{Arguments, Config};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::{Answer, send};
use crate::harness::database::on_both_engines;
use crate::harness::provider::Provider;
use crate::harness::server::{ISSUER, Stage};

/// As a plugin posts it: a form, an `Authorization` that is a setting of its, and headers its HTTP library adds.
async fn posted(stage: &Stage, authorization: &str, form: &str) -> Answer {
    let request = stage.server.nobody().request(Method::POST, "/main/introspect");
    let request = request.header("Authorization", authorization).header("Accept", "application/json").header("Connection", "keep-alive");
    send(request.header("Content-Type", "application/x-www-form-urlencoded").body(form.to_owned())).await
}

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateways")
}

#[test]
fn the_sample_configuration_is_one() {
    let mut key = tempfile::NamedTempFile::new().unwrap();
    key.write_all(b"key-of-the-gateway-0123456789-abcdefghij\n").unwrap();
    let text = fs::read_to_string(recipes().join("logoutd.toml")).unwrap();
    assert!(text.contains("/etc/logoutd/gateway.key"));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.replace("/etc/logoutd/gateway.key", key.path().to_str().unwrap()).as_bytes()).unwrap();
    let config = Config::load(&Arguments { config: Some(file.path().to_owned()), ..Arguments::default() }, []).unwrap();
    assert_eq!(config.checks.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), ["api", "traefik"]);
}

#[test]
fn every_recipe_is_in_the_table_and_names_what_a_request_may_not_bring() {
    let table = fs::read_to_string(recipes().join("README.md")).unwrap();
    for file in
        ["nginx.conf", "Caddyfile", "traefik.yml", "envoy.yaml", "kong/logoutd-check/handler.lua", "kong/enterprise.yml", "mulesoft.yaml"]
    {
        let recipe = fs::read_to_string(recipes().join(file)).unwrap().to_ascii_lowercase();
        for name in ["x-subject", "x-session-id", "x-client-id", "x-scope"] {
            assert!(recipe.contains(name), "{file} leaves {name} as it came");
        }
        assert!(table.contains(&format!("]({})", file.trim_end_matches("/handler.lua"))), "{file} is not in the table");
    }
}

on_both_engines! {
    async fn the_plugins_of_kong_and_mulesoft_see_a_logout_at_their_next_question(database) {
        let stage = Stage::set(database).await;
        stage.party("wiki", json!({})).await;
        let provider = Provider::open(&stage, json!({})).await;
        let gateway = stage.admin.mint(json!({"role": "gateway", "issuer": "main"})).await;
        let basic = format!("Basic {}", STANDARD.encode(format!("kong:{}", gateway.token())));
        let bearer = format!("Bearer {}", gateway.token());
        for (number, (plugin, authorization, more)) in [
            ("Kong openid-connect, client_secret_basic", &basic, "&token_type_hint=access_token"),
            ("Kong oauth2-introspection", &bearer, "&token_type_hint=access_token"),
            ("Kong oauth2-introspection, without a hint", &basic, ""),
            ("MuleSoft token introspection", &bearer, ""),
            ("MuleSoft token introspection, with Basic", &basic, "&token_type_hint=access_token"),
        ].into_iter().enumerate() {
            let (sid, sub) = (format!("s-{number}"), format!("u-{number}"));
            stage.login(&sid, &sub, &["wiki"]).await;
            let token = provider.access_token("wiki", &json!({"sub": sub, "sid": sid}));
            let answer = posted(&stage, authorization, &format!("token={token}{more}")).await;
            assert!(answer.header("content-type").starts_with("application/json"), "{plugin}: {answer:?}");
            let known = answer.expect(200);
            // What they look at: `active`, `scope` and `client_id`; the rest is passed on in headers.
            let told = ["active", "scope", "client_id", "sub", "sid", "iss", "token_type"].map(|name| known[name].clone());
            let expected = [json!(true), json!("read write"), json!("wiki"), json!(sub), json!(sid), json!(ISSUER), json!("Bearer")];
            assert_eq!(told, expected, "{plugin}");
            assert!(known["exp"].is_i64() && known["aud"] != Value::Null, "{plugin}: {known}");
            stage.logout(json!({"sid": sid})).await;
            let answer = posted(&stage, authorization, &format!("token={token}{more}")).await;
            assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"active":false}"#), "{plugin}");
        }
    }

    async fn what_a_plugin_gets_wrong_is_told_in_the_shape_it_reads(database) {
        let stage = Stage::set(database).await;
        let gateway = stage.admin.mint(json!({"role": "gateway", "issuer": "main"})).await;
        let bearer = format!("Bearer {}", gateway.token());
        let answer = posted(&stage, &bearer, "token_type_hint=access_token").await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!("invalid_request")), "{answer:?}");
        let answer = posted(&stage, "Basic a29uZzp3cm9uZy1zZWNyZXQtb2YtYS1nYXRld2F5", "token=x").await;
        assert_eq!((answer.status, &answer.body["error"]), (401, &json!("invalid_client")), "{answer:?}");
        let answer = posted(&stage, &bearer, "token=x").await;
        assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"active":false}"#));
    }
}
