//! Secrets that are replaced while somebody still uses them: two are good for a while, never three, and never longer than was said.

use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::api::{Api, send};
use crate::harness::database::on_both_engines;
use crate::harness::server::Stage;
use crate::harness::until;

const HOUR: Duration = Duration::from_hours(1);
const SECRETS: [&str; 3] = ["the-first-secret-0123456789", "the-second-secret-0123456789", "the-third-secret-0123456789"];

/// How an introspection with this secret is answered, by Basic and by the form.
async fn asked(stage: &Stage, secret: &str) -> [u16; 2] {
    let nobody = stage.server.nobody();
    let basic = format!("Basic {}", STANDARD.encode(format!("wiki:{secret}")));
    let request = nobody.request(Method::POST, "/main/introspect").header("Authorization", basic);
    let by_header = send(request.header("Content-Type", "application/x-www-form-urlencoded").body("token=t")).await.status;
    let by_form = nobody.form("/main/introspect", &[("token", "t"), ("client_id", "wiki"), ("client_secret", secret)]).await.status;
    [by_header, by_form]
}

async fn put(stage: &Stage, body: Value) -> Value {
    stage.admin.put("/v1/issuers/main/clients/wiki", body).await.expect(200)
}

/// Another value for a token, with an overlap in seconds.
async fn rotated(stage: &Stage, id: &str, overlap_s: u64) -> (Value, Api) {
    let answer = stage.admin.post(&format!("/v1/api-tokens/{id}/rotate"), json!({"overlap_s": overlap_s})).await.expect(201);
    let api = stage.admin.with_token(answer["token"].as_str().unwrap());
    (answer, api)
}

async fn minted(stage: &Stage, token: Value) -> (String, Api) {
    let answer = stage.admin.post("/v1/api-tokens", token).await.expect(201);
    (answer["id"].as_str().unwrap().to_owned(), stage.admin.with_token(answer["token"].as_str().unwrap()))
}

async fn status(caller: &Api) -> u16 {
    caller.get("/v1/issuers/main/logouts").await.status
}

on_both_engines! {
    async fn a_client_shows_either_secret_until_the_overlap_is_over(database) {
        let stage = Stage::set(database).await;
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({"client_secret": SECRETS[0]})).await.expect(201);
        assert_eq!(asked(&stage, SECRETS[0]).await, [200, 200]);
        let view = put(&stage, json!({"client_secret": SECRETS[1], "client_secret_overlap_s": 3600})).await;
        assert!(view["client_secret_previous_until"].is_string(), "{view}");
        for secret in &SECRETS[..2] {
            assert_eq!(asked(&stage, secret).await, [200, 200], "{secret}");
        }
        assert_eq!(asked(&stage, SECRETS[2]).await, [401, 401]);
        stage.server.advance(HOUR + Duration::from_secs(1));
        assert_eq!((asked(&stage, SECRETS[0]).await, asked(&stage, SECRETS[1]).await), ([401, 401], [200, 200]));
    }

    async fn a_secret_that_is_replaced_without_an_overlap_or_twice_is_good_no_more(database) {
        let stage = Stage::set(database).await;
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({"client_secret": SECRETS[0]})).await.expect(201);
        put(&stage, json!({"client_secret": SECRETS[1], "client_secret_overlap_s": 3600})).await;
        put(&stage, json!({"client_secret": SECRETS[2], "client_secret_overlap_s": 3600})).await;
        assert_eq!(asked(&stage, SECRETS[0]).await, [401, 401], "never three");
        assert_eq!((asked(&stage, SECRETS[1]).await, asked(&stage, SECRETS[2]).await), ([200, 200], [200, 200]));
        put(&stage, json!({"client_name": "Wiki"})).await;
        assert_eq!(asked(&stage, SECRETS[1]).await, [200, 200], "what is left out stays");
        put(&stage, json!({"client_secret_overlap_s": 0})).await;
        assert_eq!((asked(&stage, SECRETS[1]).await, asked(&stage, SECRETS[2]).await), ([401, 401], [200, 200]));
        put(&stage, json!({"client_secret": SECRETS[0]})).await;
        assert_eq!((asked(&stage, SECRETS[2]).await, asked(&stage, SECRETS[0]).await), ([401, 401], [200, 200]));
        let refused = stage.admin.put("/v1/issuers/main/clients/wiki", json!({"client_secret_overlap_s": 60})).await;
        assert_eq!(refused.problem(422, "invalid-field")["errors"][0]["pointer"], "/client_secret_overlap_s");
    }

    async fn a_rotated_token_is_the_same_token_by_both_of_its_values_until_the_overlap_is_over(database) {
        let stage = Stage::set(database).await;
        let (id, before) = minted(&stage, json!({"role": "provider", "issuer": "main"})).await;
        stage.login("s-1", "alice", &["wiki"]).await;
        let logout = json!({"target": {"sid": "s-1"}, "reason": "user_logout"});
        let first = before.post_with("/v1/issuers/main/logouts", ("Idempotency-Key", "k"), logout.clone()).await;
        let (view, after) = rotated(&stage, &id, 3600).await;
        assert_eq!((view["id"].as_str(), view["role"].as_str()), (Some(id.as_str()), Some("provider")));
        assert!(view["previous_until"].is_string() && view["rotated_at"].is_string(), "{view}");
        // What belongs to the token is the token's, whichever value was shown.
        for caller in [&before, &after] {
            let again = caller.post_with("/v1/issuers/main/logouts", ("Idempotency-Key", "k"), logout.clone()).await;
            assert_eq!((again.status, &again.body["id"]), (200, &first.body["id"]));
            caller.get(&format!("/v1/issuers/main/logouts/{}", first.body["id"].as_str().unwrap())).await.expect(200);
        }
        // Looked up once, and known from then on where one process owns the database: its time ends all the same.
        assert_eq!((status(&before).await, status(&after).await), (200, 200));
        // An operator sees whether somebody still shows the one before.
        until("it is written down when each value was shown", || async {
            let listed = stage.admin.items("/v1/api-tokens?issuer=main").await;
            let token = listed.into_iter().find(|token| token["id"] == json!(id)).unwrap();
            let (used, before) = (token["used_at"].as_str()?, token["previous_used_at"].as_str()?);
            let made = |name: &str| token[name].as_str().unwrap();
            assert!(used >= made("rotated_at") && before >= made("created_at"), "no value is used before it is made: {token}");
            Some(())
        })
        .await;
        assert_eq!(status(&before).await, 200);
        stage.server.advance(HOUR + Duration::from_secs(1));
        assert_eq!((status(&before).await, status(&after).await), (401, 200));
        let acts = stage.admin.items("/v1/audit").await;
        let act = acts.iter().find(|record| record["act"] == "api_token_rotated").unwrap();
        assert!(act.to_string().contains(&id) && !act.to_string().contains("ldt_"), "{act}");
        let listed = stage.admin.items("/v1/api-tokens?issuer=main").await;
        assert!(listed.iter().all(|token| token.get("token").is_none()) && listed.iter().any(|token| token["id"] == json!(id)));
    }

    async fn two_values_are_good_at_most_and_revoking_ends_both(database) {
        let stage = Stage::set(database).await;
        let (id, first) = minted(&stage, json!({"role": "provider", "issuer": "main"})).await;
        let (_, second) = rotated(&stage, &id, 3600).await;
        let (_, third) = rotated(&stage, &id, 3600).await;
        assert_eq!((status(&first).await, status(&second).await, status(&third).await), (401, 200, 200));
        let (view, fourth) = rotated(&stage, &id, 0).await;
        assert!(view.get("previous_until").is_none(), "{view}");
        assert_eq!((status(&third).await, status(&fourth).await), (401, 200), "without an overlap the one before ends at once");
        let (_, fifth) = rotated(&stage, &id, 3600).await;
        stage.admin.delete(&format!("/v1/api-tokens/{id}")).await.expect(204);
        assert_eq!((status(&fourth).await, status(&fifth).await), (401, 401));
        stage.admin.post(&format!("/v1/api-tokens/{id}/rotate"), json!({})).await.problem(404, "unknown-api-token");
    }

    async fn nobody_rotates_what_is_over_or_out_of_reach_or_for_too_long(database) {
        let stage = Stage::set(database).await;
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example", "signing_algs": ["ES256"]})).await.expect(201);
        let bound = stage.admin.mint(json!({"role": "admin", "issuer": "other"})).await;
        let (id, own) = minted(&stage, json!({"role": "provider", "issuer": "main"})).await;
        let path = format!("/v1/api-tokens/{id}/rotate");
        bound.post(&path, json!({})).await.problem(404, "unknown-api-token");
        own.post(&path, json!({})).await.problem(403, "forbidden");
        stage.admin.post(&path, json!({"overlap_s": 2_592_001})).await.problem(422, "invalid-field");
        stage.admin.post(&path, json!({"overlap": 5})).await.problem(422, "unknown-member");
        stage.admin.post("/v1/api-tokens/nobody/rotate", json!({})).await.problem(404, "unknown-api-token");
        assert_eq!(status(&own).await, 200, "a refusal changes nothing");
        let expires_at = stage.server.clock.now().plus(HOUR).to_string();
        let (short, _) = minted(&stage, json!({"role": "provider", "issuer": "main", "expires_at": expires_at})).await;
        stage.server.advance(HOUR);
        stage.admin.post(&format!("/v1/api-tokens/{short}/rotate"), json!({})).await.problem(404, "unknown-api-token");
    }

    async fn a_value_that_was_replaced_gives_nothing_that_outlasts_its_overlap(database) {
        let stage = Stage::set(database).await;
        let (id, before) = minted(&stage, json!({"role": "admin"})).await;
        let (provider, _) = minted(&stage, json!({"role": "provider", "issuer": "main"})).await;
        let (_, after) = rotated(&stage, &id, 3600).await;
        let kid = stage.admin.items("/v1/issuers/main/keys").await[0]["kid"].as_str().unwrap().to_owned();
        let orders = [
            (Method::POST, format!("/v1/api-tokens/{id}/rotate"), json!({"overlap_s": 3600})),
            (Method::POST, format!("/v1/api-tokens/{provider}/rotate"), json!({})),
            (Method::POST, "/v1/api-tokens".to_owned(), json!({"role": "admin"})),
            (Method::DELETE, format!("/v1/api-tokens/{provider}"), Value::Null),
            (Method::POST, "/v1/issuers/main/keys/rotate".to_owned(), json!({})),
            (Method::DELETE, format!("/v1/issuers/main/keys/{kid}"), Value::Null),
            (Method::POST, "/v1/keys/reseal".to_owned(), Value::Null),
            (Method::POST, "/v1/audit/keys/rotate".to_owned(), Value::Null),
        ];
        let send_as = async |caller: &Api, (method, path, body): &(Method, String, Value)| {
            let request = caller.request(method.clone(), path);
            send(if body.is_null() { request } else { request.json(body) }).await
        };
        for order in &orders {
            let refused = send_as(&before, order).await;
            assert_eq!(refused.problem(403, "forbidden")["detail"], "this value of the token was replaced: use the new one", "{order:?}");
        }
        // What it does beside that, it does until the overlap is over.
        before.get("/v1/api-tokens").await.expect(200);
        before.post("/v1/issuers/main/logouts", json!({"target": {"sid": "s-1"}, "reason": "admin"})).await.expect(201);
        // Its own rotation last, which replaces this value too.
        for order in orders.iter().rev() {
            assert_ne!(send_as(&after, order).await.status, 403, "{order:?}");
        }
    }

    async fn a_token_that_expires_gives_no_other_a_longer_life(database) {
        let stage = Stage::set(database).await;
        let own = stage.server.clock.now().plus(HOUR).to_string();
        let (id, brief) = minted(&stage, json!({"role": "admin", "expires_at": own})).await;
        let later = stage.server.clock.now().plus(2 * HOUR).to_string();
        let mut given = Vec::new();
        for body in [json!({"role": "admin"}), json!({"role": "auditor", "expires_at": later})] {
            let child = brief.post("/v1/api-tokens", body).await.expect(201);
            assert_eq!(child["expires_at"], json!(own), "{child}");
            given.push(brief.with_token(child["token"].as_str().unwrap()));
        }
        let (lasting, _) = minted(&stage, json!({"role": "provider", "issuer": "main"})).await;
        let refused = brief.post(&format!("/v1/api-tokens/{lasting}/rotate"), json!({})).await;
        assert!(refused.problem(403, "forbidden")["detail"].as_str().unwrap().contains("rotates none that lives longer"));
        let anew = brief.post(&format!("/v1/api-tokens/{id}/rotate"), json!({})).await.expect(201);
        assert_eq!(anew["expires_at"], json!(own), "{anew}");
        given.push(brief.with_token(anew["token"].as_str().unwrap()));
        for caller in &given {
            caller.get("/v1/issuers").await.expect(200);
        }
        stage.server.advance(HOUR);
        for caller in &given {
            caller.get("/v1/issuers").await.problem(401, "unauthorized");
        }
    }

    async fn the_command_line_rotates_a_token_and_prints_its_value_alone(database) {
        let stage = Stage::set(database).await;
        let (id, before) = minted(&stage, json!({"role": "provider", "issuer": "main"})).await;
        let (base, token) = (stage.server.base.clone(), stage.admin.token().to_owned());
        let command = {
            let id = id.clone();
            move || {
                let variables = [("LOGOUTD_URL", base.as_str()), ("LOGOUTD_TOKEN", token.as_str())];
                Command::new(env!("CARGO_BIN_EXE_logoutd")).args(["token", "rotate", &id, "--overlap", "2h"]).env_clear().envs(variables).output().unwrap()
            }
        };
        let output = tokio::task::spawn_blocking(command).await.unwrap();
        let (printed, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && told.contains(&id) && told.contains("works until"), "{told}");
        let after = stage.admin.with_token(printed.trim());
        assert_eq!((status(&before).await, status(&after).await), (200, 200));
        stage.server.advance(2 * HOUR + Duration::from_secs(1));
        assert_eq!((status(&before).await, status(&after).await), (401, 200));
    }
}
