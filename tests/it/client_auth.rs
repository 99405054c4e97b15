//! Who asks at the OAuth endpoints: clients by their secrets and assertions, each in the way it registered, and whoever guesses not for long.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use logoutd::model::key::SigningAlg;
use logoutd::seams::Entropy;
use logoutd::token::{NewKey, generate};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::api::{Answer, Api, send};
use crate::harness::database::on_both_engines;
use crate::harness::party::{Party, Reply};
use crate::harness::provider::sign_with;
use crate::harness::server::{ISSUER, Stage};

const SECRET: &str = "correct-horse-battery-staple";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// As RFC 6749 2.3.1 has it: each form-encoded, then both together.
fn basic(client_id: &str, secret: &str) -> String {
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    raw_basic(&encoded(client_id), &encoded(secret))
}

fn raw_basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Posts a form with an `Authorization` header, if there is one.
async fn post(api: &Api, path: &str, authorization: Option<&str>, pairs: &[(&str, &str)]) -> Answer {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let request = api.request(Method::POST, path).header("Content-Type", "application/x-www-form-urlencoded").body(body);
    send(match authorization {
        Some(value) => request.header("Authorization", value),
        None => request,
    })
    .await
}

async fn ask(stage: &Stage, authorization: Option<&str>, pairs: &[(&str, &str)]) -> Answer {
    let all: Vec<_> = [("token", "never-seen")].into_iter().chain(pairs.iter().copied()).collect();
    post(&stage.admin.without_token(), "/main/introspect", authorization, &all).await
}

/// A client that signs.
struct Signer {
    key: NewKey,
    client_id: &'static str,
}

impl Signer {
    fn new(client_id: &'static str) -> Self {
        Self { key: generate(SigningAlg::Es256).unwrap(), client_id }
    }

    fn public(&self) -> Value {
        serde_json::from_str(&self.key.public_jwk).unwrap()
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.key.kid})
    }

    fn claims(&self, stage: &Stage) -> Value {
        let now = stage.server.clock.now().seconds();
        json!({"iss": self.client_id, "sub": self.client_id, "aud": ISSUER, "iat": now, "exp": now + 60, "jti": Entropy::os().token()})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        sign_with(&self.key, &header.to_string(), &claims.to_string())
    }

    fn assertion(&self, stage: &Stage) -> String {
        self.sign(&self.header(), &self.claims(stage))
    }
}

async fn assert_by(stage: &Stage, assertion: &str) -> Answer {
    ask(stage, None, &[("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion)]).await
}

#[track_caller]
fn refused(answer: &Answer, status: u16, error: &str, why: &str) {
    assert_eq!((answer.status, &answer.body["error"]), (status, &json!(error)), "{why}: {}", answer.text);
    assert_eq!((answer.header("cache-control"), answer.header("content-type")), ("no-store", "application/json"), "{why}");
    if status == 401 {
        assert!(answer.header("www-authenticate").starts_with("Basic"), "{why}: {:?}", answer.headers);
    }
}

#[track_caller]
fn answered(answer: &Answer, why: &str) {
    assert_eq!((answer.status, answer.text.as_str()), (200, r#"{"active":false}"#), "{why}");
}

on_both_engines! {
    async fn a_client_is_known_in_the_way_it_registered_and_in_no_other(database) {
        let stage = Stage::set(database).await;
        let ways = ["client_secret_basic", "client_secret_post", "private_key_jwt", "none"];
        for (name, registered, allowed) in [
            ("c-basic", json!("client_secret_basic"), vec!["client_secret_basic"]),
            ("c-post", json!("client_secret_post"), vec!["client_secret_post"]),
            ("c-jwt", json!("private_key_jwt"), vec!["private_key_jwt"]),
            ("c-none", json!("none"), vec!["none"]),
            ("c-tls", json!("tls_client_auth"), vec![]),
            ("c-unsaid", Value::Null, vec!["client_secret_basic", "client_secret_post", "private_key_jwt"]),
        ] {
            let signer = Signer::new(name);
            let body = json!({"client_secret": SECRET, "jwks": {"keys": [signer.public()]}, "token_endpoint_auth_method": registered});
            stage.admin.put(&format!("/v1/issuers/main/clients/{name}"), body).await.expect(201);
            for way in ways {
                for (path, is_public_fine) in [("/main/introspect", false), ("/main/revoke", true)] {
                    let header = (way == "client_secret_basic").then(|| basic(name, SECRET));
                    let assertion = signer.assertion(&stage);
                    let mut form = vec![("token", "never-seen")];
                    match way {
                        "client_secret_post" => form.extend([("client_id", name), ("client_secret", SECRET)]),
                        "private_key_jwt" => form.extend([("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.as_str())]),
                        "none" => form.push(("client_id", name)),
                        _ => {}
                    }
                    let answer = post(&stage.admin.without_token(), path, header.as_deref(), &form).await;
                    let may = allowed.contains(&way) && (way != "none" || is_public_fine);
                    let expected = if may { 200 } else { 401 };
                    assert_eq!(answer.status, expected, "{way} by {name} at {path}: {}", answer.text);
                    if !may {
                        assert_eq!(answer.body["error"], "invalid_client", "{way} by {name} at {path}");
                    }
                }
            }
        }
        // One whose registration is gone is nobody.
        stage.admin.delete("/v1/issuers/main/clients/c-basic").await;
        refused(&ask(&stage, Some(&basic("c-basic", SECRET)), &[]).await, 401, "invalid_client", "deleted");
        // One of another issuer's is nobody here.
        refused(&post(&stage.server.nobody(), "/nowhere/introspect", Some(&basic("c-unsaid", SECRET)), &[("token", "t")]).await, 404, "invalid_request", "elsewhere");
    }

    async fn names_and_secrets_of_any_characters_are_form_encoded_inside_of_basic(database) {
        let stage = Stage::set(database).await;
        for (client_id, secret) in [("a:b", "p:q::"), ("a+b", "p+q r"), ("a%b", "100%"), ("a b", "p%25q"), ("https://rp.example/?x=1&y", "~!@#$^&*()=\\\"'")] {
            let path: String = format!("/v1/issuers/main/clients/{}", logoutd::http::reply::segment(client_id));
            stage.admin.put(&path, json!({"client_secret": secret})).await.expect(201);
            answered(&ask(&stage, Some(&basic(client_id, secret)), &[]).await, client_id);
            answered(&ask(&stage, None, &[("client_id", client_id), ("client_secret", secret)]).await, client_id);
            answered(&ask(&stage, Some(&basic(client_id, secret)), &[("client_id", client_id)]).await, client_id);
            refused(&ask(&stage, Some(&basic(client_id, &format!("{secret}x"))), &[]).await, 401, "invalid_client", client_id);
        }
        // What is not encoded is read as if it were: `+` is a space, and a lone `%` is nothing at all.
        refused(&ask(&stage, Some(&raw_basic("a+b", "p+q r")), &[]).await, 401, "invalid_client", "a plus for a space");
        refused(&ask(&stage, Some(&raw_basic("a%25b", "100%")), &[]).await, 401, "invalid_client", "broken encoding");
        // What needs no encoding is the same either way, and beyond ASCII there is nobody.
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({"client_secret": SECRET})).await.expect(201);
        answered(&ask(&stage, Some(&raw_basic("wiki", SECRET)), &[]).await, "plain");
        refused(&ask(&stage, Some(&basic("wiki", "\u{20ac}\u{e9}")), &[]).await, 401, "invalid_client", "a secret beyond ASCII");
        refused(&ask(&stage, Some(&basic("\u{e9}", SECRET)), &[]).await, 401, "invalid_client", "a name beyond ASCII");
        for garbage in ["Basic", "Basic %%%", "Basic eA==", "Digest username=wiki"] {
            assert_eq!(ask(&stage, Some(garbage), &[]).await.status, 401, "{garbage}");
        }
    }

    async fn a_request_holds_one_proof_and_what_is_wrong_with_it_tells_nothing(database) {
        let stage = Stage::set(database).await;
        let signer = Signer::new("wiki");
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({"client_secret": SECRET, "jwks": {"keys": [signer.public()]}})).await.expect(201);
        stage.admin.put("/v1/issuers/main/clients/shop", json!({"client_secret": SECRET})).await.expect(201);
        let (header, assertion, bearer) = (basic("wiki", SECRET), signer.assertion(&stage), format!("Bearer {}", stage.provider.token()));
        let own = [("client_id", "wiki"), ("client_secret", SECRET)];
        let asserted = [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.as_str())];
        for (authorization, form) in [
            (Some(&header), own.to_vec()),
            (Some(&header), asserted.to_vec()),
            (Some(&header), vec![("client_assertion_type", ASSERTION_TYPE)]),
            (Some(&bearer), own.to_vec()),
            (Some(&bearer), asserted.to_vec()),
            (None, [own, asserted].concat()),
            (None, vec![own[0], own[1], asserted[0]]),
            (None, vec![own[1]]),
            (None, vec![asserted[0]]),
            (None, vec![asserted[1]]),
            (None, vec![("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"), asserted[1]]),
            (Some(&header), vec![("client_id", "shop")]),
        ] {
            refused(&ask(&stage, authorization.map(String::as_str), &form).await, 400, "invalid_request", &format!("{authorization:?} {form:?}"));
        }
        let twice = stage.server.nobody().request(Method::POST, "/main/introspect").header("Authorization", &header).header("Authorization", &bearer);
        refused(&send(twice.header("Content-Type", "application/x-www-form-urlencoded").body("token=t")).await, 400, "invalid_request", "two headers");
        // None of them used the assertion up.
        answered(&assert_by(&stage, &assertion).await, "alone");

        let nobody = ask(&stage, Some(&basic("nobody", SECRET)), &[]).await;
        let wrong = ask(&stage, Some(&basic("wiki", "wrong-secret")), &[]).await;
        refused(&wrong, 401, "invalid_client", "wrong");
        assert_eq!((nobody.status, &nobody.text), (wrong.status, &wrong.text), "who is registered is not told");
        let forged = assert_by(&stage, &Signer::new("wiki").assertion(&stage)).await;
        assert_eq!((forged.status, &forged.text), (wrong.status, &wrong.text), "nor what is wrong with an assertion");
        assert!(!wrong.text.contains("wiki") && !wrong.text.contains("secret"), "{}", wrong.text);
    }

    async fn an_assertion_is_good_for_its_issuer_for_a_while_and_once(database) {
        let stage = Stage::set(database).await;
        let (signer, other) = (Signer::new("wiki"), Signer::new("shop"));
        let registration = json!({"jwks": {"keys": [signer.public()]}, "token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": "ES256"});
        stage.admin.put("/v1/issuers/main/clients/wiki", registration).await.expect(201);
        stage.admin.put("/v1/issuers/main/clients/shop", json!({"jwks": {"keys": [other.public()]}})).await.expect(201);
        let now = stage.server.clock.now().seconds();
        let with = |member: &str, value: Value| { let mut claims = signer.claims(&stage); claims[member] = value; signer.sign(&signer.header(), &claims) };
        let under = |member: &str, value: Value| { let mut header = signer.header(); header[member] = value; signer.sign(&header, &signer.claims(&stage)) };

        let good = signer.assertion(&stage);
        answered(&assert_by(&stage, &good).await, "once");
        refused(&assert_by(&stage, &good).await, 401, "invalid_client", "not twice");
        let named = signer.assertion(&stage);
        let named = [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", named.as_str()), ("client_id", "wiki")];
        answered(&ask(&stage, None, &named).await, "with its name beside it");
        answered(&assert_by(&stage, &with("aud", json!([ISSUER]))).await, "a list of one");
        answered(&assert_by(&stage, &under("typ", json!("client-authentication+jwt"))).await, "typed");
        // Another client's identifiers are its own.
        let mut claims = other.claims(&stage);
        claims["jti"] = json!("same");
        answered(&assert_by(&stage, &other.sign(&other.header(), &claims)).await, "another client's");
        answered(&assert_by(&stage, &with("jti", json!("same"))).await, "the same identifier of another client");

        let bad = [
            ("expired", with("exp", json!(now - 61))),
            ("too far ahead", with("exp", json!(now + 700))),
            ("without an end", with("exp", Value::Null)),
            ("not yet", with("nbf", json!(now + 120))),
            ("for the endpoint", with("aud", json!(format!("{}/main/introspect", stage.server.base)))),
            ("for others too", with("aud", json!([ISSUER, "https://other.example"]))),
            ("about somebody else", with("sub", json!("shop"))),
            ("by somebody else", with("iss", json!("shop"))),
            ("without an identifier", with("jti", json!(""))),
        ];
        for (why, assertion) in &bad {
            refused(&assert_by(&stage, assertion).await, 401, "invalid_client", why);
        }
        stage.server.advance(Duration::from_secs(60));
        let bad = [
            ("another algorithm", under("alg", json!("ES384"))),
            ("no algorithm", under("alg", json!("none"))),
            ("a secret for a key", under("alg", json!("HS256"))),
            ("an extension", under("crit", json!(["exp"]))),
            ("an unknown key", under("kid", json!("unknown"))),
            ("a logout token", under("typ", json!("logout+jwt"))),
            ("an access token", under("typ", json!("at+jwt"))),
            ("a member twice", sign_with(&signer.key, &signer.header().to_string(), &signer.claims(&stage).to_string().replacen('{', "{\"aud\":\"x\",", 1))),
        ];
        for (why, assertion) in &bad {
            refused(&assert_by(&stage, assertion).await, 401, "invalid_client", why);
        }
        stage.server.advance(Duration::from_secs(60));
        refused(&assert_by(&stage, &format!("{}x", signer.assertion(&stage))).await, 401, "invalid_client", "a broken signature");
        refused(&assert_by(&stage, &"x".repeat(20_000)).await, 401, "invalid_client", "no assertion");
        answered(&assert_by(&stage, &signer.assertion(&stage)).await, "still");
    }

    async fn of_one_assertion_shown_many_times_at_once_one_is_taken(database) {
        let stage = Stage::set(database).await;
        let signer = Signer::new("wiki");
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({"jwks": {"keys": [signer.public()]}})).await.expect(201);
        let assertion = signer.assertion(&stage);
        let mut tries = JoinSet::new();
        for _ in 0..8 {
            let (api, assertion) = (stage.server.nobody(), assertion.clone());
            tries.spawn(async move {
                let form = [("token", "t"), ("client_assertion_type", ASSERTION_TYPE), ("client_assertion", assertion.as_str())];
                post(&api, "/main/introspect", None, &form).await.status
            });
        }
        let mut statuses = tries.join_all().await;
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401, 401, 401, 401, 401, 401, 401]);
    }

    async fn keys_that_a_client_publishes_are_fetched_and_not_more_often_than_every_half_minute(database) {
        let stage = Stage::set(database).await;
        let (first, second) = (Signer::new("wiki"), Signer::new("wiki"));
        let published = Party::open(&stage.server.base, "main", ISSUER, "").await;
        let publish = |keys: Vec<Value>| published.always(Reply::Full { status: 200, headers: Vec::new(), body: json!({"keys": keys}).to_string() });
        published.always(Reply::Status(500));
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({"jwks_uri": published.uri()})).await.expect(201);
        refused(&assert_by(&stage, &first.assertion(&stage)).await, 503, "temporarily_unavailable", "away");
        publish(vec![first.public()]);
        refused(&assert_by(&stage, &first.assertion(&stage)).await, 503, "temporarily_unavailable", "not asked again");
        assert_eq!(published.calls().len(), 1);
        stage.server.advance(Duration::from_secs(31));
        answered(&assert_by(&stage, &first.assertion(&stage)).await, "asked again");
        answered(&assert_by(&stage, &first.assertion(&stage)).await, "and remembered");
        assert_eq!(published.calls().len(), 2);
        // A new key is looked for when it is shown, but not before it may be.
        publish(vec![second.public()]);
        refused(&assert_by(&stage, &second.assertion(&stage)).await, 401, "invalid_client", "not yet");
        stage.server.advance(Duration::from_secs(31));
        answered(&assert_by(&stage, &second.assertion(&stage)).await, "now");
        refused(&assert_by(&stage, &first.assertion(&stage)).await, 401, "invalid_client", "not any more");
        assert_eq!(published.calls().len(), 3);
        // While it is away, what is known is believed for a while.
        published.always(Reply::Status(500));
        stage.server.advance(Duration::from_secs(1800));
        answered(&assert_by(&stage, &second.assertion(&stage)).await, "away for half an hour");
        stage.server.advance(Duration::from_secs(1801));
        refused(&assert_by(&stage, &second.assertion(&stage)).await, 503, "temporarily_unavailable", "away for too long");
    }

    async fn whoever_guesses_a_secret_is_not_heard_for_long_and_nobody_else_notices(database) {
        let stage = Stage::set(database).await;
        for client_id in ["wiki", "shop"] {
            stage.admin.put(&format!("/v1/issuers/main/clients/{client_id}"), json!({"client_secret": SECRET})).await.expect(201);
        }
        let begun = stage.server.clock.now();
        let mut guessers = JoinSet::new();
        for guesser in 0..10 {
            let api = stage.admin.without_token();
            guessers.spawn(async move {
                let mut wrong = 0;
                for number in 0..100 {
                    let header = basic("wiki", &format!("guess-{guesser}-{number}"));
                    let answer = post(&api, "/main/introspect", Some(&header), &[("token", "t")]).await;
                    if answer.status == 401 {
                        wrong += 1;
                        continue;
                    }
                    let wait: u64 = answer.header("retry-after").parse().unwrap();
                    assert!((1..=6).contains(&wait), "{wait}");
                    refused(&answer, 429, "temporarily_unavailable", "another guess");
                }
                wrong
            });
        }
        let wrong: u64 = guessers.join_all().await.into_iter().sum();
        let allowed = 10 + stage.server.clock.now().since(begun).as_secs() / 6 + 1;
        assert!((10..=allowed).contains(&wrong) && wrong < 500, "{wrong} of 1,000 were looked at, {allowed} may be");
        // The machine may be slow: as many as can be forgiven in the meantime are used up.
        while ask(&stage, Some(&basic("wiki", "another guess")), &[]).await.status != 429 {}
        // Until then the right one is not looked at either: or else it would be the one that is answered differently.
        let right = ask(&stage, Some(&basic("wiki", SECRET)), &[]).await;
        refused(&right, 429, "temporarily_unavailable", "the right one");
        refused(&post(&stage.server.nobody(), "/main/revoke", None, &[("token", "t"), ("client_id", "wiki"), ("client_secret", SECRET)]).await, 429, "temporarily_unavailable", "at another door");
        // Another client, and the same from elsewhere, are.
        answered(&ask(&stage, Some(&basic("shop", SECRET)), &[]).await, "another client");
        let elsewhere = stage.server.nobody().at_address("127.0.0.9".parse().unwrap());
        answered(&post(&elsewhere, "/main/introspect", Some(&basic("wiki", SECRET)), &[("token", "t")]).await, "another source");
        assert_eq!(stage.provider.introspect("t").await, json!({"active": false}), "nor is an API token");
        stage.server.advance(Duration::from_secs(60));
        answered(&ask(&stage, Some(&basic("wiki", SECRET)), &[]).await, "later");
        // Who is not there is counted alike.
        let statuses: Vec<u16> = { let mut all = Vec::new(); for _ in 0..12 { all.push(ask(&stage, Some(&basic("nobody", SECRET)), &[]).await.status); } all };
        assert!(statuses[..10].iter().all(|status| *status == 401) && statuses[10..] == [429, 429], "{statuses:?}");
    }

    async fn an_unknown_api_token_is_told_to_wait_and_a_good_one_never(database) {
        let stage = Stage::set(database).await;
        let stranger = stage.server.nobody().with_token("ldt_stranger-stranger-stranger-stranger");
        let mut statuses = Vec::new();
        for _ in 0..6 {
            statuses.push(stranger.form("/main/introspect", &[("token", "t")]).await.status);
            statuses.push(stranger.get("/v1/issuers").await.status);
        }
        assert!(statuses[..10].iter().all(|status| *status == 401) && statuses[10..] == [429, 429], "{statuses:?}");
        assert_eq!(stage.provider.introspect("t").await, json!({"active": false}));
        assert_eq!(ask(&stage, Some(&raw_basic("any", stage.provider.token())), &[]).await.status, 200);
    }

    async fn a_token_that_is_missing_or_enormous_is_the_askers_mistake(database) {
        let stage = Stage::set(database).await;
        stage.admin.put("/v1/issuers/main/clients/wiki", json!({"client_secret": SECRET})).await.expect(201);
        let (header, megabyte) = (basic("wiki", SECRET), "x".repeat(1 << 20));
        for path in ["/main/introspect", "/main/revoke"] {
            let try_it = async |form: &[(&str, &str)]| post(&stage.server.nobody(), path, Some(&header), form).await;
            refused(&try_it(&[]).await, 400, "invalid_request", "none");
            refused(&try_it(&[("token", "")]).await, 400, "invalid_request", "empty");
            refused(&try_it(&[("token", "a"), ("token", "b")]).await, 400, "invalid_request", "two");
            refused(&try_it(&[("token", &megabyte)]).await, 413, "invalid_request", "a megabyte");
            for hint in ["refresh_token", "access_token", "id_token", ""] {
                assert_eq!(try_it(&[("token", "t"), ("token_type_hint", hint)]).await.status, 200, "{hint}");
            }
            assert_eq!(try_it(&[("token", "\u{0}\u{20ac}'; --")]).await.status, 200, "whatever it is");
            let nobody = post(&stage.server.nobody(), path, None, &[("token", "t")]).await;
            assert!(nobody.status == 401 && nobody.header("www-authenticate").starts_with("Bearer"), "{}", nobody.text);
        }
    }
}
