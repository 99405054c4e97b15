//! Several processes on one database: they share the work, wake each other, and replace each other, and the relying parties notice nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use logoutd::config::Mode;
use logoutd::plan::lane::Share;
use logoutd::seams::{Clock, Entropy};
use logoutd::store::Notice;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::task::JoinSet;

use crate::harness::api::{Api, send};
use crate::harness::database::{Database, Engine};
use crate::harness::party::{Party, Reply};
use crate::harness::process::Process;
use crate::harness::server::{ISSUER, Server, Stage};
use crate::harness::until;
use crate::live::Follower;

/// Attempts that outlast every wait of a test, and leases that outlast them.
const PATIENT: [(&str, &str); 3] =
    [("LOGOUTD_DELIVERY__TIMEOUT_MS", "15000"), ("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "15000"), ("LOGOUTD_DELIVERY__LEASE_MS", "60000")];
/// A courier that looks when it is rung for, and not again before a test is over.
const DEAF_TO_TIME: [(&str, &str); 2] = [("LOGOUTD_DELIVERY__POLL_MS", "60000"), ("LOGOUTD_DELIVERY__IDLE_POLL_MS", "60000")];

async fn postgres() -> Option<Database> {
    Database::fresh(Engine::Postgres).await
}

/// A PostgreSQL server that no other test uses, so that it may be maltreated.
struct OwnPostgres {
    child: Child,
    database: Database,
}

impl OwnPostgres {
    async fn start() -> Option<Self> {
        // Where there is no server for the others, there are no tools to make one of.
        std::env::var("LOGOUTD_TEST_POSTGRES_URL").ok()?;
        let mut child = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.ci/with-postgres"))
            .args(["sh", "-c", "echo \"$LOGOUTD_TEST_POSTGRES_URL\"; read over"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let database = Database::at(url.trim().to_owned());
        Some(Self { child, database })
    }

    async fn connect(&self) -> Option<sqlx::PgConnection> {
        sqlx::PgConnection::connect(&self.database.url).await.ok()
    }

    /// Ends every connection of every logoutd, those that listen included.
    async fn terminate_all(&self) {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'logoutd'";
        if let Some(mut connection) = self.connect().await {
            drop(sqlx::query(sql).execute(&mut connection).await);
        }
    }

    /// Kills one of its processes, upon which it drops all connections and recovers from its log, as after a power cut.
    async fn crash(&self) {
        let mut connection = self.connect().await.unwrap();
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'logoutd' LIMIT 1";
        let pid: i32 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        // The end of its input is the end of the command, and with it of the server.
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Two relying parties and a provider that outlive every process here.
struct World {
    parties: [Party; 2],
    _provider_s_jwks: Party,
    provider_token: String,
}

const CLIENTS: [&str; 2] = ["wiki", "shop"];

impl World {
    /// Registers everybody, and `s-0` to `s-n` as sessions of as many people at both clients.
    async fn begin(process: &mut Process, sessions: usize) -> Self {
        let (admin, base) = (process.admin().await, process.base().await);
        admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
        let parties = [Party::open(&base, "main", ISSUER, CLIENTS[0]).await, Party::open(&base, "main", ISSUER, CLIENTS[1]).await];
        for (client_id, party) in CLIENTS.iter().zip(&parties) {
            let body = json!({"backchannel_logout_uri": party.uri(), "id_token_signed_response_alg": "ES256"});
            admin.put(&format!("/v1/issuers/main/clients/{client_id}"), body).await.expect(201);
        }
        let jwks = Party::open(&base, "main", ISSUER, "").await;
        jwks.always(Reply::Full { status: 200, headers: Vec::new(), body: admin.get("/main/jwks").await.text });
        parties.iter().for_each(|party| party.trust(&jwks.uri()));
        let provider = admin.mint(json!({"role": "provider", "issuer": "main"})).await;
        let participants = json!([{"client_id": CLIENTS[0]}, {"client_id": CLIENTS[1]}]);
        let session = |n: usize| json!({"sid": format!("s-{n}"), "sub": format!("user-{n}"), "participants": participants});
        let sessions: Vec<_> = (0..sessions).map(session).collect();
        provider.post("/v1/issuers/main/sessions", json!({"sessions": sessions})).await.expect(200);
        Self { parties, _provider_s_jwks: jwks, provider_token: provider.token().to_owned() }
    }

    /// How often each delivery was heard of by its party.
    fn heard(&self) -> BTreeMap<String, usize> {
        let mut heard = BTreeMap::new();
        for call in self.parties.iter().flat_map(Party::calls) {
            call.token();
            *heard.entry(call.header("logoutd-delivery").to_owned()).or_default() += 1;
        }
        heard
    }
}

/// The addresses processes can be reached at, some of which may be of processes that are gone.
type Doors = Arc<std::sync::Mutex<Vec<String>>>;

/// Posts a logout at one door after another under one key, until it is acknowledged; its id.
async fn post_until_acknowledged(doors: Doors, token: String, n: usize) -> String {
    let mut turn = n;
    until(&format!("the logout of s-{n} is acknowledged"), || {
        turn += 1;
        let base = {
            let doors = doors.lock().unwrap();
            doors[turn % doors.len()].clone()
        };
        let api = Api::new(&base).with_token(&token);
        async move {
            let request = api.request(reqwest::Method::POST, "/v1/issuers/main/logouts").header("Idempotency-Key", format!("key-{n}"));
            let response = request.json(&json!({"target": {"sid": format!("s-{n}")}, "reason": "user_logout"})).send().await.ok()?;
            let receipt: Value = if response.status().is_success() { response.json().await.ok()? } else { return None };
            Some(receipt["id"].as_str().unwrap().to_owned())
        }
    })
    .await
}

/// The receipt once it is settled, from whichever door answers.
async fn settled(api: &Api, id: &str) -> Value {
    until("the logout settles", || async {
        let request = api.request(reqwest::Method::GET, &format!("/v1/issuers/main/logouts/{id}"));
        let receipt: Value = request.send().await.ok()?.json().await.ok()?;
        (receipt["state"] == "settled").then_some(receipt)
    })
    .await
}

async fn replicas_seen(database: &Database) -> i64 {
    let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    sqlx::query_scalar("SELECT count(*) FROM replicas").fetch_one(&mut connection).await.unwrap()
}

/// Waits until two processes hear of what the other does.
async fn both_listen(database: &Database) {
    until("the other listens", || async {
        let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
        let channel = "SELECT 'LISTEN \"logoutd_' || CAST(hashtextextended(current_schema(), 0) AS TEXT) || '\"'";
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE query = ({channel})");
        let listening: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        (listening == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_begin_at_the_same_time_on_an_empty_database() {
    let Some(database) = postgres().await else { return };
    let mut processes: Vec<_> = (0..3).map(|_| Process::serve(&database, &[("LOGOUTD_REPLICAS__BEAT_MS", "200")])).collect();
    for process in &mut processes {
        process.admin().await.get("/v1/issuers").await.expect(200);
    }
    until("all three are counted", || async { (replicas_seen(&database).await == 3).then_some(()) }).await;
    for process in &mut processes {
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
    }
    assert_eq!(replicas_seen(&database).await, 0, "whoever ends says so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_three_knows_its_share_and_a_share_grows_when_one_ends() {
    let Some(database) = postgres().await else { return };
    let beat = [("LOGOUTD_REPLICAS__BEAT_MS", "100")];
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(Server::start_with(&database, Mode::Dev, &beat).await);
    }
    let ranks = async |servers: &[Server]| -> Option<BTreeSet<u16>> {
        let shares: Vec<Share> = servers.iter().map(Server::share).collect();
        let all = u16::try_from(servers.len()).unwrap();
        shares.iter().all(|share| share.replicas == all).then(|| shares.iter().map(|share| share.rank).collect())
    };
    assert_eq!(until("all count three", || ranks(&servers)).await, BTreeSet::from([0, 1, 2]));
    servers.remove(0).stop().await;
    assert_eq!(until("two are left", || ranks(&servers)).await, BTreeSet::from([0, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_cannot_do_another_does_at_once_and_whoever_waits_or_follows_at_the_first_sees_it() {
    let Some(database) = postgres().await else { return };
    let busy =
        [&PATIENT[..], &DEAF_TO_TIME, &[("LOGOUTD_DELIVERY__TOTAL_IN_FLIGHT", "1"), ("LOGOUTD_DELIVERY__MAX_IN_FLIGHT", "1")]].concat();
    let stage = Stage::on(Server::start_with(&database, Mode::Dev, &busy).await, &["ES256"]).await;
    let (slow, wiki) = (stage.party("slow", json!({})).await, stage.party("wiki", json!({})).await);
    slow.always(Reply::Hang);
    stage.login("s-0", "alice", &["slow"]).await;
    stage.logout(json!({"sid": "s-0"})).await;
    slow.received(1).await;

    // Its only slot is taken; the other hears of what is due or never knows.
    let other = Server::start_with(&database, Mode::Dev, &[&PATIENT[..], &DEAF_TO_TIME].concat()).await;
    both_listen(&database).await;
    stage.login("s-1", "bob", &["wiki"]).await;
    let body = json!({"target": {"sid": "s-1"}, "reason": "user_logout"});
    let receipt = stage.provider.post_with("/v1/issuers/main/logouts", ("Prefer", "wait=15"), body).await.expect(201);
    assert_eq!(receipt["deliveries"]["delivered"], 1);
    assert_eq!(wiki.calls().len(), 1);

    // A failure that is tried again after a second is settled by the other too, while somebody follows here.
    wiki.answers([Reply::Status(503)]);
    stage.login("s-2", "carol", &["wiki"]).await;
    let logout = stage.logout(json!({"sid": "s-2"})).await;
    let told = Follower::of(&stage.provider, &logout, None).await.all().await;
    assert_eq!(told.iter().map(|told| told.name.as_str()).collect::<Vec<_>>(), ["settled", "end"]);
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_a_test_closes_at_one_is_served_by_another_at_once() {
    let Some(database) = postgres().await else { return };
    let busy =
        [&PATIENT[..], &DEAF_TO_TIME, &[("LOGOUTD_DELIVERY__TOTAL_IN_FLIGHT", "1"), ("LOGOUTD_DELIVERY__MAX_IN_FLIGHT", "1")]].concat();
    let stage = Stage::on(Server::start_with(&database, Mode::Dev, &busy).await, &["ES256"]).await;
    let (slow, wiki) = (stage.party("slow", json!({})).await, stage.party("wiki", json!({})).await);
    wiki.always(Reply::Status(503));
    for n in 0..8 {
        stage.login(&format!("s-{n}"), "alice", &["wiki"]).await;
    }
    stage.logout(json!({"sub": "alice"})).await;
    until("its lane is open", || async {
        let records = stage.server.store().lane_records().await.unwrap();
        records.iter().any(|record| record.lane.as_str() == "main/wiki" && record.probe_at.is_some()).then_some(())
    })
    .await;
    let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
    sqlx::query("UPDATE lanes SET probe_at = probe_at + 600000").execute(&mut connection).await.unwrap();
    // Whoever is asked has no slot left; the other hears of it or never knows.
    slow.always(Reply::Hang);
    stage.login("slow", "bob", &["slow"]).await;
    stage.logout(json!({"sub": "bob"})).await;
    slow.received(1).await;
    let other = Server::start_with(&database, Mode::Dev, &[&PATIENT[..], &DEAF_TO_TIME].concat()).await;
    both_listen(&database).await;

    wiki.always(Reply::Status(200));
    let told = stage.admin.post("/v1/issuers/main/clients/wiki/test", json!({})).await.expect(200);
    assert_eq!(told["breaker_closed"], true);
    until("all of it is delivered", || async {
        let delivered = stage.admin.items("/v1/issuers/main/deliveries?client_id=wiki&state=delivered").await;
        (delivered.len() == 8).then_some(())
    })
    .await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_is_heard_by_others_and_not_by_whoever_told_it() {
    let Some(database) = postgres().await else { return };
    let (clock, entropy) = (Clock::system(), Entropy::os());
    let (store, elsewhere) = (database.open(&clock).await, postgres().await.unwrap().open(&clock).await);
    let (one, two) = (entropy.id(clock.now()), entropy.id(clock.now()));
    let mut ear = store.listen(&one).await.unwrap().expect("PostgreSQL tells");
    elsewhere.tell(Notice::Due, &two).await.unwrap();
    store.tell(Notice::Due, &one).await.unwrap();
    store.tell(Notice::Settled, &two).await.unwrap();
    let heard = tokio::time::timeout(crate::harness::DEADLINE, ear.hear()).await.expect("it is heard").unwrap();
    assert_eq!(heard, Notice::Settled, "neither its own nor another schema's");
}

/// Makes the only delivery due behind everybody's back, once so many attempts at it are recorded.
async fn make_due_after(postgres: &OwnPostgres, stage: &Stage, attempts: u32) {
    until("the attempt is recorded", || async {
        let answer = send(stage.admin.request(reqwest::Method::GET, "/v1/issuers/main/deliveries")).await;
        (answer.body["items"][0]["attempts"] == attempts).then_some(())
    })
    .await;
    let mut connection = postgres.connect().await.unwrap();
    sqlx::query("UPDATE deliveries SET due_at = 0 WHERE state = 'pending'").execute(&mut connection).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_due_while_nobody_could_hear_is_found_when_one_hears_again() {
    let Some(postgres) = OwnPostgres::start().await else { return };
    let stage = Stage::on(Server::start_with(&postgres.database, Mode::Dev, &DEAF_TO_TIME).await, &["ES256"]).await;
    let wiki = stage.party("wiki", json!({})).await;
    wiki.answers([Reply::Status(404), Reply::Status(404)]);
    stage.login("s-1", "alice", &["wiki"]).await;
    let logout = stage.logout(json!({"sid": "s-1"})).await;
    wiki.received(1).await;
    make_due_after(&postgres, &stage, 1).await;
    postgres.terminate_all().await;
    wiki.received(2).await;
    // And it hears as before.
    make_due_after(&postgres, &stage, 2).await;
    let clock = Clock::system();
    let store = postgres.database.open(&clock).await;
    store.tell(Notice::Due, &Entropy::os().id(clock.now())).await.unwrap();
    wiki.received(3).await;
    assert_eq!(stage.settled(&logout["id"]).await["deliveries"]["delivered"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_three_under_load_loses_nothing_and_tells_nobody_twice() {
    const SESSIONS: usize = 60;
    let Some(database) = postgres().await else { return };
    let start = || Process::serve(&database, &[&PATIENT[..], &[("LOGOUTD_REPLICAS__BEAT_MS", "500")]].concat());
    let mut processes = [start(), start(), start()];
    let world = World::begin(&mut processes[0], SESSIONS).await;
    let doors = Doors::default();
    for process in &mut processes {
        let base = process.base().await;
        doors.lock().unwrap().push(base);
    }
    let (doors, token) = (doors, world.provider_token.clone());
    let posts = {
        let (doors, token) = (Arc::clone(&doors), token.clone());
        async move {
            let mut ids = Vec::new();
            // A few at a time, as long as the restarts take.
            for first in (0..SESSIONS).step_by(4) {
                let posts: JoinSet<_> = (first..first + 4).map(|n| post_until_acknowledged(Arc::clone(&doors), token.clone(), n)).collect();
                ids.extend(posts.join_all().await);
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            ids
        }
    };
    let restarts = async {
        for (place, process) in processes.iter_mut().enumerate() {
            process.terminate();
            assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
            assert!(!process.log().contains("the stop is forced"), "{}", process.log());
            *process = start();
            let base = process.base().await;
            doors.lock().unwrap()[place] = base;
        }
    };
    let (ids, ()) = tokio::join!(posts, restarts);
    let api = Api::new(&processes[0].base().await).with_token(&token);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), SESSIONS);
    for id in &ids {
        assert_eq!(settled(&api, id).await["deliveries"]["delivered"], 2);
    }
    let heard = world.heard();
    assert_eq!(heard.len(), SESSIONS * CLIENTS.len());
    assert!(heard.values().all(|times| *times == 1), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_sleeps_beyond_its_leases_is_replaced_and_changes_nothing_when_it_wakes() {
    let Some(database) = postgres().await else { return };
    let mut sleeper = Process::serve(&database, &[]);
    let world = World::begin(&mut sleeper, 3).await;
    world.parties.iter().for_each(|party| party.always(Reply::Hang));
    let api = Api::new(&sleeper.base().await).with_token(&world.provider_token);
    let mut ids = Vec::new();
    for n in 0..3 {
        let body = json!({"target": {"sid": format!("s-{n}")}, "reason": "user_logout"});
        ids.push(api.post("/v1/issuers/main/logouts", body).await.expect(202)["id"].as_str().unwrap().to_owned());
    }
    for party in &world.parties {
        party.received(3).await;
    }
    sleeper.signal("STOP");
    world.parties.iter().for_each(|party| party.always(Reply::Status(200)));
    let mut other = Process::serve(&database, &[]);
    let admin = other.admin().await;
    for id in &ids {
        assert_eq!(settled(&admin, id).await["deliveries"]["delivered"], 2);
    }
    let before = admin.items("/v1/issuers/main/deliveries").await;

    sleeper.signal("CONT");
    // Its attempts end in time-outs, and are recorded as what they are: made, and too late to matter.
    until("the sleeper's outcomes are refused", || async {
        let mut late = 0;
        for delivery in &before {
            let delivery = admin.get(&format!("/v1/issuers/main/deliveries/{}", delivery["id"].as_str().unwrap())).await.expect(200);
            late += delivery["attempt_records"].as_array().unwrap().iter().filter(|attempt| attempt["lease_lost"] == true).count();
        }
        (late > 0).then_some(())
    })
    .await;
    assert_eq!(admin.items("/v1/issuers/main/deliveries").await, before, "nothing changed");
    let heard = world.heard();
    assert_eq!(heard.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_ended_again_and_again_and_a_database_that_crashes_lose_nothing() {
    const SESSIONS: usize = 24;
    let Some(postgres) = OwnPostgres::start().await else { return };
    let mut processes = [Process::serve(&postgres.database, &[]), Process::serve(&postgres.database, &[])];
    let world = World::begin(&mut processes[0], SESSIONS).await;
    let doors = Doors::default();
    for process in &mut processes {
        let base = process.base().await;
        doors.lock().unwrap().push(base);
    }
    let posts = async {
        let mut ids = Vec::new();
        for first in (0..SESSIONS).step_by(3) {
            let posts: JoinSet<_> =
                (first..first + 3).map(|n| post_until_acknowledged(Arc::clone(&doors), world.provider_token.clone(), n)).collect();
            ids.extend(posts.join_all().await);
        }
        ids
    };
    let harm = async {
        for round in 0..8 {
            match round {
                4 => postgres.crash().await,
                _ => postgres.terminate_all().await,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (ids, ()) = tokio::join!(posts, harm);
    let api = Api::new(&processes[1].base().await).with_token(&world.provider_token);
    for id in &ids {
        assert_eq!(settled(&api, id).await["deliveries"]["delivered"], 2);
    }
    assert_eq!(world.heard().len(), SESSIONS * CLIENTS.len(), "everybody was told, and nobody of what was not acknowledged");
    for n in 0..SESSIONS {
        let session = send(api.request(reqwest::Method::GET, &format!("/v1/issuers/main/sessions/s-{n}"))).await.expect(200);
        assert_eq!(session["state"], "ended");
    }
}
