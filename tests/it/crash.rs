//! What was acknowledged happens, whenever the process is killed.
//!
//! The process is the real binary, the kill is SIGKILL, and what was acknowledged is known by a ledger outside of it. Relying parties may be told
//! twice: an answer that was not written down before the kill is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use logoutd::seams::Entropy;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::task::JoinSet;

use crate::harness::api::{Api, send};
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::{Party, Reply};
use crate::harness::process::Process;
use crate::harness::server::ISSUER;
use crate::harness::until;

const CLIENTS: [&str; 2] = ["wiki", "shop"];

/// Two relying parties and a provider that outlive every logoutd here.
struct World<'a> {
    database: &'a Database,
    parties: [Party; 2],
    /// Publishes the keys as a provider does that copied them once: a killed process answers nobody.
    _provider_s_jwks: Party,
    provider_token: String,
    process: Process,
    provider: Api,
    admin: Api,
}

impl<'a> World<'a> {
    /// Starts the first process and registers everybody; `s-0` to `s-n` are sessions of as many people, each with the refresh token `rt-<n>`.
    async fn begin(database: &'a Database, sessions: usize) -> Self {
        let mut process = Process::serve(database, &[]);
        let admin = process.admin().await;
        let base = process.base().await;
        admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
        let [wiki, shop] = CLIENTS;
        let parties = [Party::open(&base, "main", ISSUER, wiki).await, Party::open(&base, "main", ISSUER, shop).await];
        for (client_id, party) in CLIENTS.iter().zip(&parties) {
            let body = json!({"backchannel_logout_uri": party.uri(), "id_token_signed_response_alg": "ES256"});
            admin.put(&format!("/v1/issuers/main/clients/{client_id}"), body).await.expect(201);
        }
        let jwks = Party::open(&base, "main", ISSUER, "").await;
        jwks.always(Reply::Full { status: 200, headers: Vec::new(), body: admin.get("/main/jwks").await.text });
        parties.iter().for_each(|party| party.trust(&jwks.uri()));
        let provider = admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let session = |n: usize| {
            let participants = json!([{"client_id": wiki, "refresh_token": {"token": token(n)}}, {"client_id": shop}]);
            json!({"sid": sid(n), "sub": format!("user-{n}"), "participants": participants})
        };
        let sessions: Vec<_> = (0..sessions).map(session).collect();
        provider.post("/v1/issuers/main/sessions", json!({"sessions": sessions})).await.expect(200);
        let provider_token = provider.token().to_owned();
        Self { database, parties, _provider_s_jwks: jwks, provider_token, process, provider, admin }
    }

    fn parties_answer(&self, reply: &Reply) {
        for party in &self.parties {
            party.always(reply.clone());
        }
    }

    async fn kill_and_start_again(self) -> Self {
        self.process.kill();
        let mut process = Process::serve(self.database, &[]);
        let admin = process.admin().await;
        let provider = admin.with_token(&self.provider_token);
        Self { process, provider, admin, ..self }
    }

    /// Posts the logout of a session under a key of its own; the id of its receipt once it is acknowledged.
    async fn log_out(&self, n: usize) -> String {
        post(&self.provider, n).await.expect("the server lives")
    }

    /// Waits until an acknowledged logout is settled, and checks that everybody was told and nothing is left alive.
    async fn assert_done(&self, n: usize, id: &str) {
        let receipt = until(&format!("the logout of {} is settled", sid(n)), || async {
            let receipt = self.provider.get(&format!("/v1/issuers/main/logouts/{id}")).await.expect(200);
            (receipt["state"] == "settled").then_some(receipt)
        })
        .await;
        assert_eq!((&receipt["deliveries"]["delivered"], &receipt["refresh_tokens_revoked"]), (&json!(2), &json!(1)), "{receipt}");
        assert!(!self.half(n).await, "{receipt}");
        for party in &self.parties {
            let told = party.calls().iter().any(|call| call.claim("sid") == json!(sid(n)));
            assert!(told, "{} was told by nothing but the receipt", sid(n));
        }
    }

    /// Whether a session lives; it is never half ended.
    async fn half(&self, n: usize) -> bool {
        let session = self.provider.get(&format!("/v1/issuers/main/sessions/{}", sid(n))).await.expect(200);
        let is_active = self.provider.introspect(&token(n)).await["active"] == true;
        let deliveries = self.admin.items("/v1/issuers/main/deliveries?limit=1000").await;
        let told: BTreeSet<_> = deliveries.iter().filter(|one| one["sid"] == json!(sid(n))).map(|one| one["client_id"].as_str()).collect();
        let whole = match session["state"].as_str().unwrap() {
            "live" => (is_active, told.len()) == (true, 0),
            _ => (is_active, told.len()) == (false, CLIENTS.len()),
        };
        assert!(whole, "{}: {session}, active: {is_active}, told: {told:?}", sid(n));
        session["state"] == "live"
    }
}

fn sid(n: usize) -> String {
    format!("s-{n}")
}

fn token(n: usize) -> String {
    format!("rt-{n}-tGzv3JOkF0XG5Qx2TlKWIA")
}

/// The id of the receipt, or none when no answer came: then it may have happened or not.
async fn post(provider: &Api, n: usize) -> Option<String> {
    let request = provider.request(reqwest::Method::POST, "/v1/issuers/main/logouts").header("Idempotency-Key", format!("key-{n}"));
    let response = request.json(&json!({"target": {"sid": sid(n)}, "reason": "user_logout"})).send().await.ok()?;
    assert!(response.status().is_success(), "{response:?}");
    let receipt: Value = response.json().await.ok()?;
    Some(receipt["id"].as_str().unwrap().to_owned())
}

on_both_engines! {
    async fn what_was_acknowledged_just_before_a_kill_is_delivered_after_it(database) {
        let world = World::begin(database, 5).await;
        world.parties_answer(&Reply::Drop);
        let mut ids = Vec::new();
        for n in 0..5 {
            ids.push(world.log_out(n).await);
        }
        let world = world.kill_and_start_again().await;
        world.parties_answer(&Reply::Status(200));
        for (n, id) in ids.iter().enumerate() {
            world.assert_done(n, id).await;
        }
    }

    async fn what_was_in_flight_when_the_process_was_killed_is_sent_again(database) {
        let world = World::begin(database, 3).await;
        world.parties_answer(&Reply::Hang);
        let mut ids = Vec::new();
        for n in 0..3 {
            ids.push(world.log_out(n).await);
        }
        for party in &world.parties {
            party.received(3).await;
        }
        let world = world.kill_and_start_again().await;
        world.parties_answer(&Reply::Status(200));
        for (n, id) in ids.iter().enumerate() {
            world.assert_done(n, id).await;
        }
        let calls = world.parties[0].calls();
        let deliveries: BTreeSet<_> = calls.iter().map(|call| call.header("logoutd-delivery")).collect();
        let jtis: BTreeSet<_> = calls.iter().map(|call| call.claim("jti").to_string()).collect();
        assert_eq!((deliveries.len(), jtis.len()), (3, calls.len()), "the same deliveries, each time with a fresh token");
    }

    async fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged_and_halves_nothing(database) {
        const SESSIONS: usize = 30;
        let mut world = World::begin(database, SESSIONS).await;
        let mut ledger: BTreeMap<usize, String> = BTreeMap::new();
        // First as soon as anything is acknowledged, while the others are under way; then at random moments.
        for round in 0..3 {
            let mut posts: JoinSet<_> = (0..SESSIONS)
                .filter(|n| !ledger.contains_key(n))
                .map(|n| {
                    let provider = world.provider.clone();
                    async move { (n, post(&provider, n).await) }
                })
                .collect();
            let patience = Duration::from_millis(if round == 0 { 10_000 } else { Entropy::os().number() % 60 });
            let mut acknowledged = Vec::new();
            let first = async {
                while let Some(posted) = posts.join_next().await {
                    if let (n, Some(id)) = posted.unwrap() {
                        acknowledged.push((n, id));
                        if round == 0 {
                            return;
                        }
                    }
                }
            };
            // Not to be in time, but to be at another moment each time.
            drop(tokio::time::timeout(patience, first).await);
            world = world.kill_and_start_again().await;
            while let Some(posted) = posts.join_next().await {
                if let (n, Some(id)) = posted.unwrap() {
                    acknowledged.push((n, id));
                }
            }
            ledger.extend(acknowledged);
            for n in 0..SESSIONS {
                let lives = world.half(n).await;
                assert!(!(lives && ledger.contains_key(&n)), "round {round}: {} was acknowledged and lives", sid(n));
            }
        }
        // Whoever got no answer asks again under the same key: it happens once, whether it had happened or not.
        for n in 0..SESSIONS {
            let id = world.log_out(n).await;
            assert_eq!(ledger.entry(n).or_insert_with(|| id.clone()), &id);
        }
        for (n, id) in &ledger {
            world.assert_done(*n, id).await;
        }
        let logouts = world.admin.items("/v1/issuers/main/logouts?limit=1000").await;
        assert_eq!(logouts.len(), SESSIONS);
    }

    async fn a_logout_of_everybody_that_is_killed_twice_tells_everybody_and_no_token_is_good_after_the_answer(database) {
        const SESSIONS: usize = 220;
        let mut world = World::begin(database, SESSIONS).await;
        let receipt = world.admin.post("/v1/issuers/main/logouts", json!({"target": {"everyone": true}, "reason": "admin"})).await.expect(202);
        let path = format!("/v1/issuers/main/logouts/{}", receipt["id"].as_str().unwrap());
        for n in (0..SESSIONS).rev().step_by(10) {
            assert_eq!(world.provider.introspect(&token(n)).await["active"], false, "the token of {n} was good after the answer");
        }
        world = world.kill_and_start_again().await;
        let ended = |receipt: &Value| receipt["sessions_ended"].as_u64().unwrap();
        let told = |receipt: &Value| receipt["deliveries"]["delivered"].as_u64().unwrap();
        until("somebody is told", || async { (told(&world.admin.get(&path).await.expect(200)) > 0).then_some(()) }).await;
        world = world.kill_and_start_again().await;
        let receipt = until("the logout of everybody is settled", || async {
            let receipt = world.admin.get(&path).await.expect(200);
            (receipt["state"] == "settled").then_some(receipt)
        })
        .await;
        assert_eq!((ended(&receipt), &receipt["refresh_tokens_revoked"]), (SESSIONS as u64, &json!(SESSIONS)), "{receipt}");
        assert_eq!((&receipt["deliveries"]["total"], &receipt["deliveries"]["delivered"]), (&json!(2 * SESSIONS), &json!(2 * SESSIONS)));
        for party in &world.parties {
            let told: BTreeSet<String> = party.calls().iter().map(|call| call.claim("sid").to_string()).collect();
            assert_eq!(told.len(), SESSIONS);
        }
    }

    async fn nobody_ever_sees_half_a_logout(database) {
        const SESSIONS: usize = 40;
        let world = World::begin(database, SESSIONS).await;
        let mut posts: JoinSet<_> = (0..SESSIONS)
            .map(|n| {
                let provider = world.provider.clone();
                async move {
                    let id = post(&provider, n).await.unwrap();
                    // Who was answered finds it, at once and by any connection.
                    send(provider.request(reqwest::Method::GET, &format!("/v1/issuers/main/logouts/{id}"))).await.expect(200)
                }
            })
            .collect();
        let mut watcher = Watcher::on(database).await;
        let mut looks = 0;
        while !posts.is_empty() {
            assert_eq!(watcher.halves().await, 0, "an ended participant without its delivery, or a dead grant with a living session");
            looks += 1;
            while let Some(posted) = posts.try_join_next() {
                posted.unwrap();
            }
        }
        assert!(looks > 3, "it was looked at while it happened");
    }
}

/// Somebody else who reads the same database.
enum Watcher {
    Sqlite(sqlx::SqliteConnection),
    Postgres(sqlx::PgConnection),
}

/// Sessions that ended, participants that did not, deliveries that are missing, grants that live on: one look at one instant.
const HALVES: &str = "
    SELECT CAST(count(*) AS BIGINT)
      FROM participants AS p JOIN sessions AS s ON s.id = p.session_id
     WHERE (s.ended_at IS NULL) <> (p.ended_at IS NULL)
        OR (p.ended_at IS NULL) <> (NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.participant_id = p.id))
        OR EXISTS (SELECT 1 FROM grants AS g WHERE g.session_id = s.id AND (g.revoked_at IS NULL) <> (s.ended_at IS NULL))";

impl Watcher {
    async fn on(database: &Database) -> Self {
        match database.engine {
            Engine::Sqlite => Self::Sqlite(sqlx::SqliteConnection::connect(&database.url).await.unwrap()),
            Engine::Postgres => Self::Postgres(sqlx::PgConnection::connect(&database.url).await.unwrap()),
        }
    }

    async fn halves(&mut self) -> i64 {
        match self {
            Self::Sqlite(connection) => sqlx::query_scalar(HALVES).fetch_one(connection).await.unwrap(),
            Self::Postgres(connection) => sqlx::query_scalar(HALVES).fetch_one(connection).await.unwrap(),
        }
    }
}
