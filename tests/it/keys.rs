//! Keys: how they begin and cease, where relying parties find them, what is imported, and sealing everything anew.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use logoutd::app;
use logoutd::config::Mode;
use logoutd::seams::Clock;
use logoutd::upkeep::{self, Step};
use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::server::{DAY, Server, Stage};
use crate::harness::until;

const KEYS: &str = "/v1/issuers/main/keys";
/// The key of every server here, and its successor.
const FIRST: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA";
const SECOND: &str = "3q2-796tvu_erb7v3q2-796tvu_erb7v3q2-796tvu8";

/// A provider that publishes whatever it is told to.
struct Provider {
    jwks: Arc<Mutex<Value>>,
    uri: String,
    _task: tokio::task::JoinSet<()>,
}

impl Provider {
    async fn open(keys: &[Value]) -> Self {
        let jwks = Arc::new(Mutex::new(json!({ "keys": keys })));
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/jwks", socket.local_addr().unwrap());
        let served = Arc::clone(&jwks);
        let router = axum::Router::new().route("/jwks", axum::routing::get(async move || axum::Json(served.lock().unwrap().clone())));
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move { axum::serve(socket, router).await.unwrap() });
        Self { jwks, uri, _task: task }
    }

    fn publishes(&self, keys: &[Value]) {
        *self.jwks.lock().unwrap() = json!({ "keys": keys });
    }

    /// Becomes the provider of `main`.
    async fn of(&self, stage: &Stage, published_at: &str) {
        stage.admin.patch("/v1/issuers/main", json!({"provider_jwks_uri": self.uri, "published_at": published_at})).await.expect(200);
    }
}

/// What the chore does when its time has come.
async fn chore(stage: &Stage) {
    assert_eq!(upkeep::keys::step(&stage.server.tools()).await.unwrap(), Step::Dry);
}

async fn published(stage: &Stage) -> Vec<Value> {
    stage.server.nobody().get("/main/jwks").await.expect(200)["keys"].as_array().unwrap().clone()
}

fn kids(keys: &[Value]) -> Vec<&str> {
    keys.iter().map(|key| key["kid"].as_str().unwrap()).collect()
}

/// The only key in a state.
async fn in_state(stage: &Stage, state: &str) -> Value {
    let keys = stage.admin.items(KEYS).await;
    let mut found = keys.iter().filter(|key| key["state"] == state);
    let only = found.next().unwrap_or_else(|| panic!("no {state} key: {keys:#?}"));
    assert!(found.next().is_none(), "{keys:#?}");
    only.clone()
}

async fn count(stage: &Stage, state: &str) -> usize {
    stage.admin.items(KEYS).await.iter().filter(|key| key["state"] == state).count()
}

fn renamed(key: &Value, kid: &str) -> Value {
    let mut key = key.clone();
    key["kid"] = json!(kid);
    key
}

/// The `kid` a logout is signed with now, by a relying party that knows the keys it fetches.
async fn signs_with(stage: &Stage, party: &crate::harness::party::Party, sid: &str) -> String {
    let before = party.calls().len();
    stage.login(sid, "alice", &["wiki"]).await;
    stage.logout(json!({"sid": sid})).await;
    let call = party.received(before + 1).await.pop().unwrap();
    call.token().header["kid"].as_str().unwrap().to_owned()
}

on_both_engines! {
    async fn a_successor_signs_after_everybody_can_know_it_and_its_predecessor_leaves_when_nothing_it_signed_is_good(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        let first = in_state(&stage, "active").await["kid"].as_str().unwrap().to_owned();
        let answer = stage.admin.post(&format!("{KEYS}/rotate"), json!({})).await.expect(200);
        let second = answer["keys"][0]["kid"].as_str().unwrap().to_owned();
        assert_eq!((&answer["keys"][0]["state"], answer["keys"][0]["active_from"].is_string()), (&json!("next"), true), "{answer}");
        let again = stage.admin.post(&format!("{KEYS}/rotate"), json!({"alg": "ES256"})).await.expect(200);
        assert_eq!(again["keys"][0]["kid"], json!(second), "one successor is enough");
        assert_eq!(published(&stage).await.len(), 2);

        stage.server.advance(DAY - Duration::from_secs(60));
        chore(&stage).await;
        assert_eq!(signs_with(&stage, &party, "s-1").await, first);
        stage.server.advance(Duration::from_secs(61));
        chore(&stage).await;
        assert_eq!(in_state(&stage, "retired").await["kid"], json!(first));
        assert_eq!(signs_with(&stage, &party, "s-2").await, second);
        assert_eq!(published(&stage).await.len(), 2, "what the predecessor signed can still be checked");

        stage.server.advance(DAY);
        chore(&stage).await;
        assert_eq!(published(&stage).await.len(), 2, "a token lives for two minutes after its key has ceased, and clocks differ");
        stage.server.advance(Duration::from_secs(421));
        chore(&stage).await;
        assert_eq!(kids(&published(&stage).await), [second.as_str()]);
        let gone = in_state(&stage, "withdrawn").await;
        assert_eq!(gone["kid"], json!(first), "kept to check hints");
        let store = stage.server.store();
        let main = logoutd::model::IssuerId::parse("main").unwrap();
        let record = store.keys(&main).await.unwrap().into_iter().find(|key| key.kid == first).unwrap();
        assert!(record.sealed.is_empty(), "its private half is gone");
        stage.server.advance(400 * DAY);
        chore(&stage).await;
        assert_eq!(count(&stage, "withdrawn").await, 0);
        assert_eq!(count(&stage, "next").await, 1, "after ninety days the next one waits");
    }

    async fn where_the_provider_publishes_keys_a_successor_waits_until_it_is_seen_there_and_signs_under_the_name_it_has_there(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        let first = in_state(&stage, "active").await;
        let provider = Provider::open(&[renamed(&first["public_jwk"], "p-1")]).await;
        provider.of(&stage, "provider").await;
        chore(&stage).await;
        assert_eq!(in_state(&stage, "active").await["published_kid"], "p-1");
        party.trust(&provider.uri);
        assert_eq!(signs_with(&stage, &party, "s-1").await, "p-1");

        stage.admin.post(&format!("{KEYS}/rotate"), json!({})).await.expect(200);
        stage.server.advance(30 * DAY);
        chore(&stage).await;
        let second = in_state(&stage, "next").await;
        assert_eq!(second["active_from"], Value::Null, "nobody has seen it");
        let check = async || crate::harness::api::send(stage.admin.request(reqwest::Method::POST, &format!("{KEYS}/check"))).await.expect(200);
        let found = check().await;
        assert_eq!((&found["good"], &found["keys"][0]["trouble"], &found["keys"][1]["found_as"]), (&json!(true), &json!("not_published"), &json!("p-1")), "{found}");

        provider.publishes(&[renamed(&first["public_jwk"], "p-1"), renamed(&second["public_jwk"], "p-2")]);
        assert_eq!(check().await["keys"][0]["trouble"], "too_new");
        stage.server.advance(DAY + Duration::from_secs(1));
        chore(&stage).await;
        assert_eq!(signs_with(&stage, &party, "s-2").await, "p-2");

        // It leaves: that is told, and nothing signs under another key in silence.
        provider.publishes(&[renamed(&first["public_jwk"], "p-1")]);
        let found = check().await;
        assert_eq!((&found["good"], &found["keys"][0]["found"]), (&json!(false), &json!(false)), "{found}");
        chore(&stage).await;
        let metrics = stage.admin.get("/metrics").await.text;
        assert!(metrics.contains("logoutd_key_alarms_total{trouble=\"left\"}"), "{metrics}");

        // Relying parties come here again: our own name is the one they find.
        provider.publishes(&[]);
        provider.of(&stage, "here").await;
        party.trust(&format!("{}/main/jwks", stage.server.base));
        assert_eq!(signs_with(&stage, &party, "s-3").await, second["kid"].as_str().unwrap());
    }

    async fn the_providers_own_key_is_imported_under_its_own_name_and_signs(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        let made = in_state(&stage, "active").await;
        let pem = include_str!("pem/ec8.pem");
        let import = async |body: Value| stage.admin.post(&format!("{KEYS}/import"), body).await;
        let provider = Provider::open(&[]).await;
        provider.of(&stage, "here").await;
        import(json!({"pem": pem})).await.problem(422, "key-not-published");
        let waiting = import(json!({"pem": pem, "not_published_yet": true, "kid": "theirs"})).await.expect(201);
        let key = &waiting["keys"][0];
        assert_eq!((&key["state"], &key["origin"], &key["kid"]), (&json!("next"), &json!("imported"), &json!("theirs")), "{waiting}");
        stage.admin.delete(&format!("{KEYS}/theirs")).await.expect(204);
        import(json!({"pem": pem})).await.problem(409, "already-exists");

        let other = include_str!("pem/ec_sec1.pem");
        assert_ne!(other, pem);
        // The same key in another form is the same key.
        import(json!({"pem": other})).await.problem(409, "already-exists");
        let ed = import(json!({"pem": include_str!("pem/ed.pem"), "not_published_yet": true})).await.expect(201);
        let public = ed["keys"][0]["public_jwk"].clone();
        stage.admin.delete(&format!("{KEYS}/{}", public["kid"].as_str().unwrap())).await.expect(204);

        let rsa = json!({"pem": include_str!("pem/rsa1.pem"), "not_published_yet": true});
        let public = import(rsa).await.expect(201)["keys"][0]["public_jwk"].clone();
        stage.server.advance(DAY + Duration::from_secs(1));
        provider.publishes(&[renamed(&public, "rsa-of-theirs")]);
        chore(&stage).await;
        let active = stage.admin.items(KEYS).await.into_iter().find(|key| key["alg"] == "RS256").unwrap();
        assert_eq!((&active["state"], &active["origin"], &active["successor_at"]), (&json!("active"), &json!("imported"), &Value::Null), "{active}");
        stage.register("wiki2", "http://127.0.0.1:1/", json!({"id_token_signed_response_alg": "RS256"})).await;
        stage.admin.post(&format!("{KEYS}/rotate"), json!({"alg": "RS256"})).await.problem(409, "conflict");
        assert_eq!(signs_with(&stage, &party, "s-1").await, made["kid"].as_str().unwrap(), "another algorithm's key is not touched");
    }

    async fn a_published_key_is_imported_at_once_and_the_one_that_signed_retires(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        let made = in_state(&stage, "active").await;
        // Another deployment reads the key first: its public half is what the provider publishes.
        stage.admin.post("/v1/issuers", json!({"id": "copy", "issuer": "https://copy.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        let pem = include_str!("pem/ec8.pem");
        let copy = stage.admin.post("/v1/issuers/copy/keys/import", json!({"pem": pem})).await.expect(201);
        let public = copy["keys"][0]["public_jwk"].clone();
        let provider = Provider::open(&[renamed(&public, "p-1")]).await;
        provider.of(&stage, "here").await;
        stage.admin.post(&format!("{KEYS}/rotate"), json!({})).await.expect(200);
        let import = async |body: Value| stage.admin.post(&format!("{KEYS}/import"), body).await;
        assert_eq!(import(json!({"pem": pem, "kid": "p-2"})).await.problem(422, "invalid-field")["errors"][0]["pointer"], "/kid");
        import(json!({"pem": pem})).await.expect(201);
        let active = in_state(&stage, "active").await;
        assert_eq!((&active["kid"], &active["seen_at"].is_string()), (&json!("p-1"), &true), "{active}");
        assert_eq!((in_state(&stage, "retired").await["kid"].clone(), count(&stage, "next").await), (made["kid"].clone(), 0));
        assert_eq!(signs_with(&stage, &party, "s-1").await, "p-1");
        let own = stage.server.store().provider_document(&logoutd::model::IssuerId::parse("main").unwrap()).await.unwrap().unwrap();
        assert!(own.jwks.contains("p-1"));

        provider.publishes(&[]);
        chore(&stage).await;
        let metrics = stage.admin.get("/metrics").await.text;
        assert!(metrics.contains("logoutd_key_alarms_total{trouble=\"left\"}"), "an imported key that leaves is told of wherever keys are published");
    }

    async fn what_cannot_be_imported_is_refused_for_what_it_is_and_changes_nothing(database) {
        let stage = Stage::set(database).await;
        let before = stage.admin.get(KEYS).await.expect(200);
        let two = format!("{}{}", include_str!("pem/ed.pem"), include_str!("pem/ec8.pem"));
        for (member, value, word) in [
            ("pem", json!(include_str!("pem/enc.pem")), "encrypted"),
            ("pem", json!(include_str!("pem/enc1.pem")), "encrypted"),
            ("pem", json!(include_str!("pem/rsa1024.pem")), "2048"),
            ("pem", json!(include_str!("pem/ec521.pem")), "not supported"),
            ("pem", json!(include_str!("pem/pub.pem")), "public"),
            ("pem", json!(two), "more than one"),
            ("pem", json!("x".repeat(1 << 20)), "64 KiB"),
            ("jwk", json!({"kty": "oct", "k": "c2VjcmV0"}), "symmetric"),
            ("jwk", before["items"][0]["public_jwk"].clone(), "public"),
            ("jwks", json!({"keys": []}), "public"),
            ("jwks", json!({}), "keys"),
        ] {
            let problem = stage.admin.post(&format!("{KEYS}/import"), json!({ member: value })).await.problem(422, "invalid-field");
            assert_eq!(problem["errors"][0]["pointer"], json!(format!("/{member}")), "{problem}");
            assert!(problem["errors"][0]["detail"].as_str().unwrap().contains(word), "{word}: {problem}");
        }
        for body in [json!({}), json!({"pem": "x", "jwk": {}})] {
            stage.admin.post(&format!("{KEYS}/import"), body).await.problem(422, "invalid-field");
        }
        assert_eq!(stage.admin.get(KEYS).await.expect(200), before);
    }

    async fn the_providers_keys_are_served_beside_ours_until_they_are_dropped_and_a_loop_is_not_believed(database) {
        let stage = Stage::set(database).await;
        stage.admin.post("/v1/issuers", json!({"id": "other", "issuer": "https://other.example.com", "signing_algs": ["ES256", "EdDSA"]})).await.expect(201);
        let theirs: Vec<Value> = stage.admin.items("/v1/issuers/other/keys").await.into_iter().map(|key| key["public_jwk"].clone()).collect();
        let mine = in_state(&stage, "active").await["public_jwk"].clone();
        let provider = Provider::open(&[renamed(&theirs[0], "a"), renamed(&theirs[1], "b"), json!({"kty": "EC", "crv": "P-256", "kid": "no", "x": "AA", "y": "AA"})]).await;
        provider.of(&stage, "here").await;
        let etag = stage.server.nobody().get("/main/jwks").await.header("etag").to_owned();
        chore(&stage).await;
        let answer = stage.server.nobody().get("/main/jwks").await;
        assert_ne!(answer.header("etag"), etag);
        assert_eq!((kids(answer.body["keys"].as_array().unwrap()), &answer.body["logoutd"]), (vec![mine["kid"].as_str().unwrap(), "a", "b"], &json!("main")));
        stage.admin.delete(&format!("{KEYS}/a")).await.expect(204);
        assert_eq!(kids(&published(&stage).await), [mine["kid"].as_str().unwrap(), "b"]);
        stage.admin.delete(&format!("{KEYS}/a")).await.problem(404, "unknown-key");
        stage.admin.delete(&format!("{KEYS}/zzz")).await.problem(404, "unknown-key");

        // A proxy that serves our keys without saying whose they are: what it says is not written down.
        provider.publishes(&[renamed(&theirs[1], "c"), mine.clone()]);
        chore(&stage).await;
        assert_eq!(kids(&published(&stage).await), [mine["kid"].as_str().unwrap(), "b"]);
        let metrics = stage.admin.get("/metrics").await.text;
        assert!(metrics.contains("logoutd_key_alarms_total{trouble=\"loop\"}"), "{metrics}");
        // A provider that is away is served for a week.
        stage.server.advance(6 * DAY);
        assert_eq!(published(&stage).await.len(), 2);
        stage.server.advance(2 * DAY);
        assert_eq!(published(&stage).await.len(), 1);
    }

    async fn a_key_that_somebody_else_may_have_is_replaced_at_once_with_everything_it_could_sign(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        let first = signs_with(&stage, &party, "s-1").await;
        stage.admin.delete(&format!("{KEYS}/{first}")).await.problem(409, "in-use");
        stage.admin.post(&format!("{KEYS}/rotate"), json!({})).await.expect(200);
        let answer = stage.admin.post(&format!("{KEYS}/rotate"), json!({"at_once": true})).await.expect(200);
        let keys = published(&stage).await;
        assert_eq!((answer["keys"].as_array().unwrap().len(), keys.len(), count(&stage, "withdrawn").await), (1, 1, 2), "{answer}");
        assert_eq!(signs_with(&stage, &party, "s-2").await, keys[0]["kid"].as_str().unwrap(), "and not with the old key for another minute");
        stage.admin.post(&format!("{KEYS}/rotate"), json!({"alg": "PS256"})).await.problem(422, "invalid-field");
    }

    async fn every_token_can_be_checked_with_the_keys_its_reader_fetches_while_keys_change(database) {
        let stage = Stage::set(database).await;
        let party = stage.party("wiki", json!({})).await;
        for round in 0..12 {
            let sid = format!("s-{round}");
            stage.login(&sid, "alice", &["wiki"]).await;
            let (_, _) = tokio::join!(stage.logout(json!({"sid": sid})), async {
                match round % 3 {
                    0 => drop(stage.admin.post(&format!("{KEYS}/rotate"), json!({})).await.expect(200)),
                    1 => {
                        stage.server.advance(DAY + Duration::from_secs(1));
                        chore(&stage).await;
                    }
                    _ => drop(stage.admin.post(&format!("{KEYS}/rotate"), json!({"at_once": true})).await.expect(200)),
                }
            });
        }
        let calls = party.received(12).await;
        let used: std::collections::BTreeSet<_> = calls.iter().filter_map(|call| call.verified.as_ref().ok()).map(|token| token.header["kid"].to_string()).collect();
        assert!(used.len() > 2, "{used:?}");
        // A token that was on its way while its key was replaced at once is the price that is named; no other is refused.
        let refused = calls.iter().filter(|call| call.verified.is_err()).count();
        assert!(refused <= 4, "{calls:#?}");
    }

    async fn all_is_sealed_anew_and_the_next_start_needs_the_new_key_alone(database) {
        let with = |variables: &'static [(&'static str, &'static str)]| Server::try_start(database, Mode::Dev, variables, Clock::system());
        let stage = Stage::on(Server::start(database).await, &["ES256", "EdDSA"]).await;
        let secret = json!({"backchannel_logout_uri": "http://127.0.0.1:1/", "client_secret": "hunter2hunter2", "id_token_signed_response_alg": "ES256"});
        stage.admin.put("/v1/issuers/main/clients/shop", secret).await.expect(201);
        // One of each kind of secret that tokens brought.
        let body = json!({"subject_secrets": true,
                          "introspect_upstream": {"endpoint": "http://127.0.0.1:1/i", "client_id": "us", "client_secret": "secret-at-i"},
                          "revocation": {"endpoint": "http://127.0.0.1:1/r", "client_id": "us", "client_secret": "secret-at-r"}});
        stage.admin.patch("/v1/issuers/main", body).await.expect(200);
        stage.admin.put("/v1/issuers/main/clients/blog", json!({"id_token_signed_response_alg": "ES256", "tokens": {"provider_client_secret": "secret-at-op"}})).await.expect(201);
        let token = json!({"sub": "alice", "client_id": "shop", "token": "rt-sealed", "sealed": true, "offline_access": true});
        stage.provider.post("/v1/issuers/main/refresh-tokens", token).await.expect(201);
        let subject = json!({"sub": "alice"});
        let own = stage.provider.post("/v1/issuers/main/subjects/secret", subject.clone()).await.expect(200);
        let main = logoutd::model::IssuerId::parse("main").unwrap();
        let shop = logoutd::model::ClientId::parse("shop").unwrap();
        let body = json!({"target": {"sid": "nobody"}, "reason": "admin"});
        stage.admin.post_with("/v1/issuers/main/logouts", ("Idempotency-Key", "k"), body.clone()).await.expect(201);
        stage.server.stop().await;

        // Only with its predecessor at hand is another key taken.
        assert!(matches!(with(&[("LOGOUTD_SEALING_KEY", SECOND)]).await.map(drop), Err(app::Error::SealingKey(_))));
        let both: &[_] = &[("LOGOUTD_SEALING_KEY", SECOND), ("LOGOUTD_SEALING_KEY_PREVIOUS", FIRST)];
        let stage = Stage { server: with(both).await.unwrap(), ..stage };
        let admin = stage.server.admin();
        let stage = Stage { admin: admin.clone(), ..stage };
        until("it is ready", || async { (admin.get("/readyz").await.status == 200).then_some(()) }).await;
        // What is made meanwhile is sealed with the new key, and what was before still opens.
        admin.post("/v1/issuers", json!({"id": "new", "issuer": "https://new.example.com", "signing_algs": ["ES256"]})).await.expect(201);
        let reseal = async |admin: &Api| crate::harness::api::send(admin.request(reqwest::Method::POST, "/v1/keys/reseal")).await.expect(200);
        assert_eq!(reseal(&admin).await, json!({"resealed": 9, "left": 0}), "two keys, that of the audit trail, five secrets of tokens and the canary");
        assert_eq!(reseal(&admin).await, json!({"resealed": 0, "left": 0}));
        let repeated = admin.post_with("/v1/issuers/main/logouts", ("Idempotency-Key", "k"), body.clone()).await;
        assert_eq!(repeated.status, 200, "{}", repeated.text);
        let before = stage.server.store().client(&main, &shop).await.unwrap().unwrap().secret_digest;
        stage.server.stop().await;

        assert!(with(&[("LOGOUTD_SEALING_KEY", FIRST)]).await.is_err(), "the first key opens nothing any more");
        let server = with(&[("LOGOUTD_SEALING_KEY", SECOND)]).await.unwrap();
        let admin = server.admin();
        until("it is ready", || async { (admin.get("/readyz").await.status == 200).then_some(()) }).await;
        let party = crate::harness::party::Party::open(&server.base, "main", crate::harness::server::ISSUER, "wiki").await;
        let stage = Stage { provider: admin.clone(), admin, server };
        stage.register("wiki", &party.uri(), json!({})).await;
        signs_with(&stage, &party, "s-1").await;
        // What a person's secret is derived from opens to the same.
        let provider = stage.admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        assert_eq!(provider.post("/v1/issuers/main/subjects/secret", subject).await.expect(200), own);
        // Digests are what they were: whoever knows a secret still knows it, and a repeated request is still the same.
        let secret = json!({"backchannel_logout_uri": "http://127.0.0.1:1/", "client_secret": "hunter2hunter2", "id_token_signed_response_alg": "ES256"});
        stage.admin.put("/v1/issuers/main/clients/shop", secret).await.expect(200);
        assert_eq!(stage.server.store().client(&main, &shop).await.unwrap().unwrap().secret_digest, before);
        let repeated = stage.admin.post_with("/v1/issuers/main/logouts", ("Idempotency-Key", "k"), body).await;
        assert_eq!(repeated.status, 200, "{}", repeated.text);
        // And what was recorded under the first key is sealed under the second.
        crate::audit::seal(&stage).await;
        assert!(crate::audit::verified(&stage).await.is_ok());
        assert_eq!(crate::audit::alarms(&stage).await, "");
    }
}

async fn rotate(api: Api) -> Value {
    api.post(&format!("{KEYS}/rotate"), json!({})).await.expect(200)["keys"][0]["kid"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_rotate_at_the_same_time_make_one_successor_and_one_of_them_lets_it_sign() {
    let Some(database) = Database::fresh(Engine::Postgres).await else { return };
    let stage = Stage::set(&database).await;
    let other = Server::start(&database).await;
    let mut races = tokio::task::JoinSet::new();
    for number in 0..6 {
        let api = if number % 2 == 0 { stage.admin.clone() } else { other.admin() };
        races.spawn(rotate(api));
    }
    let made: std::collections::BTreeSet<String> = races.join_all().await.iter().map(Value::to_string).collect();
    assert_eq!(made.len(), 1, "{made:?}");
    stage.server.advance(DAY + Duration::from_secs(1));
    other.advance(DAY + Duration::from_secs(1));
    let (one, two) = (stage.server.tools(), other.tools());
    let (first, second) = tokio::join!(upkeep::keys::step(&one), upkeep::keys::step(&two));
    assert_eq!((first.unwrap(), second.unwrap()), (Step::Dry, Step::Dry));
    assert_eq!(json!(in_state(&stage, "active").await["kid"]).to_string(), *made.first().unwrap());
    assert_eq!((count(&stage, "next").await, count(&stage, "retired").await), (0, 1));
}
