//! Backups, restores, and the gap between them: what nobody can know any more is inactive until somebody says it lives.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::harness::api::Api;
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::process::{KEY, Process, SEALING_KEY, done, logoutd, refused};
use crate::harness::provider::Provider;
use crate::harness::server::{ADMIN_TOKEN, ISSUER, Stage};
use crate::harness::until;

const GAPS: &str = "/v1/issuers/main/gaps";
const TOKENS: &str = "/v1/issuers/main/refresh-tokens";

fn back_up(database: &Database, name: &str) -> Output {
    logoutd(database, &["backup", "--to", name, "--database-url", &database.url, "--json"], &KEY)
}

fn restore(database: &Database, name: &str, more: &[&str]) -> Output {
    logoutd(database, &[&["restore", name, "--to", &database.url, "--json"], more].concat(), &KEY)
}

async fn on_sqlite() -> Database {
    Database::fresh(Engine::Sqlite).await.unwrap()
}

fn file_of(database: &Database) -> PathBuf {
    PathBuf::from(database.url.strip_prefix("sqlite://").unwrap())
}

/// The issuer `main`, and its provider.
async fn register(admin: &Api) -> Api {
    admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
    admin.put("/v1/issuers/main/clients/wiki", json!({})).await.expect(201);
    admin.mint(json!({"role": "provider", "issuer": "main"})).await
}

/// A login at `wiki` with a refresh token that is called like its session.
async fn log_in(provider: &Api, sid: &str) {
    let participants = json!([{"client_id": "wiki", "refresh_token": {"token": format!("rt-{sid}")}}]);
    provider.put(&format!("/v1/issuers/main/sessions/{sid}"), json!({"sub": sid, "participants": participants})).await.expect(201);
}

async fn is_active(provider: &Api, token: &str) -> bool {
    let answer = provider.introspect(token).await;
    if answer["active"] == false {
        assert_eq!(answer, json!({"active": false}), "why is told to nobody");
    }
    answer["active"] == true
}

/// Two sessions with a `sid`, one without, and tokens of each kind, all of them a while ago.
async fn signed_in(stage: &Stage) {
    stage.register("wiki", "http://127.0.0.1:1/logout", json!({})).await;
    for sid in ["s-1", "s-2"] {
        log_in(&stage.provider, sid).await;
    }
    let access = json!({"sid": "s-1", "client_id": "wiki", "token": "at-s-1", "expires_at": later(stage)});
    stage.provider.post("/v1/issuers/main/access-tokens", access).await.expect(201);
    stage.server.advance(Duration::from_secs(5));
}

fn later(stage: &Stage) -> String {
    stage.server.clock.now().plus(Duration::from_hours(1)).to_string()
}

/// Opens a gap from a minute ago until now; its path.
async fn open_gap(stage: &Stage) -> String {
    let since = stage.server.clock.now().minus(Duration::from_secs(60)).to_string();
    let gap = stage.admin.post(GAPS, json!({"since": since})).await.expect(201);
    assert_eq!((&gap["since"], &gap["cause"], &gap["closed_at"]), (&json!(since), &json!("operator"), &Value::Null), "{gap}");
    stage.server.advance(Duration::from_secs(5));
    format!("{GAPS}/{}", gap["id"].as_str().unwrap())
}

async fn active(stage: &Stage, tokens: &[&'static str]) -> Vec<&'static str> {
    let mut active = Vec::new();
    for token in tokens {
        if is_active(&stage.provider, token).await {
            active.push(*token);
        }
    }
    active
}

const ALL: [&str; 3] = ["rt-s-1", "rt-s-2", "at-s-1"];

on_both_engines! {
    async fn what_was_known_before_a_gap_s_end_is_inactive_until_its_session_is_reported_or_the_gap_is_closed(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        assert_eq!(active(&stage, &ALL).await, ALL);
        let gap = open_gap(&stage).await;
        assert_eq!(active(&stage, &ALL).await, [""; 0]);
        assert_eq!(stage.server.nobody().get("/readyz").await.expect(200)["open_gaps"], 1);

        let session = stage.admin.get("/v1/issuers/main/sessions/s-2").await.expect(200);
        assert_eq!((&session["state"], &session["in_gap"]), (&json!("live"), &json!(true)), "{session}");

        // A refresh is refused, and nobody is taken for a thief.
        let refresh = json!({"client_id": "wiki", "token": "rt-s-2", "successor": "rt-s-2-next"});
        let answer = stage.provider.post(&format!("{TOKENS}/rotate"), refresh).await.expect(400);
        assert_eq!(answer["error"], "invalid_grant");
        assert_eq!(stage.provider.get("/v1/issuers/main/sessions/s-2").await.expect(200)["state"], "live");

        // What begins now is good, and so is what the provider still speaks of.
        log_in(&stage.provider, "s-3").await;
        assert!(is_active(&stage.provider, "rt-s-3").await);
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "s-1"})).await.expect(200);
        assert_eq!(active(&stage, &ALL).await, ["rt-s-1", "at-s-1"]);
        let status = stage.admin.post("/v1/issuers/main/subjects/status", json!({"sub": "s-1"})).await.expect(200);
        assert!(status["sessions"][0].get("in_gap").is_none(), "{status}");

        let closed = stage.admin.post(&format!("{gap}/close"), json!(null)).await.expect(200);
        assert_eq!(closed["closed_by"], "operator", "{closed}");
        assert_eq!(active(&stage, &ALL).await, ALL);
        assert_eq!(stage.server.nobody().get("/readyz").await.expect(200), json!({"status": "ok"}));
        stage.admin.post(&format!("{gap}/close"), json!(null)).await.problem(404, "unknown-gap");
        let acts: Vec<_> = stage.admin.items("/v1/audit?limit=5").await.into_iter().map(|one| one["act"].clone()).collect();
        assert!(acts.contains(&json!("gap_opened")) && acts.contains(&json!("gap_closed")), "{acts:?}");
    }

    async fn a_login_under_the_sid_of_a_session_in_a_gap_opens_nothing_of_that_one(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let before = stage.server.clock.now().to_string();
        let gap = open_gap(&stage).await;
        let log_in_at = async |sid: &str, started_at: &str, sub: &str| {
            let participants = json!([{"client_id": "wiki", "refresh_token": {"token": format!("rt-{sid}-anew")}}]);
            stage.provider.put(&format!("/v1/issuers/main/sessions/{sid}"), json!({"sub": sub, "started_at": started_at, "participants": participants})).await
        };
        // It may have been ended in the gap, and its name be another login's now.
        let standing = log_in_at("s-1", &stage.server.clock.now().to_string(), "s-1").await.expect(201);
        assert_eq!((&standing["state"], standing["participants"].as_array().unwrap().len()), (&json!("live"), 1), "{standing}");
        assert_eq!(active(&stage, &ALL).await, [""; 0]);
        assert!(is_active(&stage.provider, "rt-s-1-anew").await);
        // The sid may be another person's, too.
        log_in_at("s-2", &before, "somebody-else").await.expect(201);
        assert_eq!(active(&stage, &["rt-s-2", "rt-s-2-anew"]).await, ["rt-s-2-anew"]);
        // What is told again is the same login.
        let again = log_in_at("s-1", &before, "s-1").await.expect(200);
        assert_eq!(again["participants"], standing["participants"]);

        stage.admin.post(&format!("{gap}/close"), json!(null)).await.expect(200);
        assert_eq!(active(&stage, &ALL).await, [""; 0], "what ended stays so");
        let ended = stage.admin.items("/v1/issuers/main/sessions?state=ended").await;
        assert_eq!(ended.len(), 2, "{ended:?}");
        assert!(ended.iter().all(|session| session["participants"][0]["ended_at"].is_string()), "{ended:?}");
        let records = stage.admin.items("/v1/audit?act=session_displaced").await;
        assert_eq!(records.len(), 2, "{records:?}");
        let deliveries = stage.admin.items("/v1/issuers/main/deliveries").await;
        assert!(deliveries.is_empty(), "a token about the old login would name the new one: {deliveries:?}");
    }

    async fn a_list_made_after_a_gap_ends_what_is_gone_and_closes_the_gap(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        open_gap(&stage).await;
        let reconcile = async |as_of: String| {
            let list = json!({"live": ["s-1"], "as_of": as_of});
            let answer = stage.provider.post("/v1/issuers/main/sessions/reconcile", list).await;
            assert!(answer.is_success(), "{answer:?}");
            let [gap] = answer.body["gaps"].as_array().unwrap().as_slice() else { panic!("{answer:?}") };
            gap.clone()
        };
        // Made before the end: it says nothing of what happened until then, though s-2 was gone already.
        let left = reconcile(stage.server.clock.now().minus(Duration::from_secs(6)).to_string()).await;
        assert!(left["state"] == "open" && left["why"].to_string().contains("before the gap's end"), "{left}");
        assert_eq!(stage.provider.get("/v1/issuers/main/sessions/s-2").await.expect(200)["state"], "ended");
        assert_eq!(active(&stage, &ALL).await, [""; 0]);
        stage.server.advance(Duration::from_secs(5));
        let gone = reconcile(stage.server.clock.now().to_string()).await;
        assert_eq!((&gone["state"], &gone["why"], &gone["id"]), (&json!("closed"), &Value::Null, &left["id"]));
        assert_eq!(active(&stage, &ALL).await, ["rt-s-1", "at-s-1"]);
        let gap = stage.admin.items(GAPS).await.remove(0);
        assert_eq!(gap["closed_by"], "provider", "{gap}");
        assert!(gap["listed_at"].is_string(), "{gap}");
    }

    async fn a_list_says_nothing_of_what_it_cannot_name(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let offline = json!({"sub": "carol", "client_id": "wiki", "token": "rt-offline", "offline_access": true});
        stage.provider.post(TOKENS, offline).await.expect(201);
        let nameless = json!({"reports": [{"op": "session", "sid": null, "key": "k-1", "sub": "dave",
            "participants": [{"client_id": "wiki", "refresh_token": {"token": "rt-nameless"}}]}]});
        stage.provider.post("/v1/issuers/main/reports", nameless).await.expect(200);
        stage.server.advance(Duration::from_secs(5));
        let gap = open_gap(&stage).await;
        let list = json!({"live": ["s-1", "s-2"], "as_of": stage.server.clock.now().to_string()});
        let answer = stage.provider.post("/v1/issuers/main/sessions/reconcile", list.clone()).await;
        let left = &answer.body["gaps"][0];
        assert!(answer.is_success() && left["state"] == "open" && left["why"].to_string().contains("an operator closes it"), "{answer:?}");
        let tokens = ["rt-s-1", "rt-s-2", "at-s-1", "rt-offline", "rt-nameless"];
        assert_eq!(active(&stage, &tokens).await, ALL);
        let listed = stage.admin.items(GAPS).await.remove(0);
        assert!(listed["listed_at"].is_string() && listed["closed_at"].is_null(), "{listed}");
        stage.admin.post(&format!("{gap}/close"), json!(null)).await.expect(200);
        assert_eq!(active(&stage, &tokens).await, tokens);
        let answer = stage.provider.post("/v1/issuers/main/sessions/reconcile", list).await;
        assert!(answer.is_success() && answer.body.get("gaps").is_none(), "{answer:?}");
    }

    async fn a_list_brings_no_token_back_that_is_good_by_the_provider_s_word(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let provider = Provider::open(&stage, json!({})).await;
        // Of a session that is listed, of one that was forgotten, and of none.
        let tokens = [json!({"sub": "s-1", "sid": "s-1"}), json!({"sub": "bob", "sid": "forgotten"}), json!({"sub": "carol"})]
            .map(|about| provider.access_token("wiki", &about));
        let standing = async || {
            let mut standing = Vec::new();
            for token in &tokens {
                standing.push(is_active(&stage.provider, token).await);
            }
            standing
        };
        let gap = open_gap(&stage).await;
        assert_eq!(standing().await, [false; 3]);
        let list = json!({"live": ["s-1", "s-2"], "as_of": stage.server.clock.now().to_string()});
        assert!(stage.provider.post("/v1/issuers/main/sessions/reconcile", list).await.is_success());
        assert_eq!(standing().await, [true, false, false]);
        assert!(stage.admin.items(GAPS).await.remove(0)["closed_at"].is_null());
        stage.admin.post(&format!("{gap}/close"), json!(null)).await.expect(200);
        assert_eq!(standing().await, [true; 3]);
    }

    async fn a_list_closes_no_gap_that_hides_an_access_token_without_a_session(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let token = json!({"sub": "carol", "client_id": "wiki", "token": "at-carol", "expires_at": later(&stage)});
        stage.provider.post("/v1/issuers/main/access-tokens", token).await.expect(201);
        stage.server.advance(Duration::from_secs(5));
        open_gap(&stage).await;
        let list = json!({"live": ["s-1", "s-2"], "as_of": stage.server.clock.now().to_string()});
        assert!(stage.provider.post("/v1/issuers/main/sessions/reconcile", list).await.is_success());
        assert_eq!(active(&stage, &["at-s-1", "at-carol"]).await, ["at-s-1"]);
        assert!(stage.admin.items(GAPS).await.remove(0)["closed_at"].is_null());
    }

    async fn a_token_of_a_session_from_before_a_gap_is_as_unsure_as_the_session_however_young_it_is(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let provider = Provider::open(&stage, json!({})).await;
        open_gap(&stage).await;
        let token = provider.access_token("wiki", &json!({"sub": "s-1", "sid": "s-1"}));
        assert!(!is_active(&stage.provider, &token).await);
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "s-1"})).await.expect(200);
        assert!(is_active(&stage.provider, &token).await);
    }

    async fn an_open_gap_is_seen_with_each_session_and_an_alarm_until_it_is_closed(database) {
        let stage = Stage::set(database).await;
        signed_in(&stage).await;
        let alarms = async || stage.admin.items("/v1/alarms?kind=gap_open&state=open").await;
        let gap = open_gap(&stage).await;
        stage.provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "s-1"})).await.expect(200);
        let says_so = |line: &[&str]| {
            let output = logoutd(database, line, &[("LOGOUTD_URL", stage.server.base.as_str()), ("LOGOUTD_TOKEN", ADMIN_TOKEN)]);
            let told = format!("{}{}", String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            assert!(output.status.success(), "{told}");
            (told.matches("live, in a gap").count(), told.matches("tokens are inactive until").count())
        };
        assert_eq!(says_so(&["session", "list", "main"]), (1, 1), "the other one was reported again");
        for (sid, seen) in [("s-1", (0, 0)), ("s-2", (1, 1))] {
            assert_eq!(says_so(&["session", "show", "main", sid]), seen);
            assert_eq!(says_so(&["status", "main", "--sub", sid]), seen);
        }
        // Whoever is about to close it is left in peace.
        assert!(alarms().await.is_empty());
        stage.server.advance(Duration::from_mins(10));
        let raised = until("it is an alarm", || async { alarms().await.into_iter().next() }).await;
        assert_eq!((&raised["issuer"], &raised["about"]), (&json!("main"), &json!("(gap)")), "{raised}");
        stage.admin.post(&format!("{gap}/close"), json!(null)).await.expect(200);
        assert_eq!(says_so(&["session", "list", "main"]), (0, 0));
        until("it is over", || async { alarms().await.is_empty().then_some(()) }).await;
    }

    async fn so_many_gaps_are_open_and_no_more(database) {
        let stage = Stage::set(database).await;
        let since = json!({"since": stage.server.clock.now().minus(Duration::from_secs(60)).to_string()});
        for _ in 0..100 {
            stage.admin.post(GAPS, since.clone()).await.expect(201);
        }
        stage.admin.post(GAPS, since).await.problem(409, "too-many-gaps");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_logout_that_a_restore_forgets_stays_unknown_until_somebody_answers_for_it() {
    let database = on_sqlite().await;
    let mut process = Process::serve(&database, &[]);
    let provider = register(&process.admin().await).await;
    for sid in ["s-1", "s-2"] {
        log_in(&provider, sid).await;
    }
    let told = done(&back_up(&database, "copy.db"));
    assert_eq!((&told["sessions"], &told["logouts"], &told["file"]), (&json!(2), &json!(0), &json!("copy.db")), "{told}");
    let copy = database.directory().join("copy.db");
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(told["bytes"], json!(copy.metadata().unwrap().len()));

    // Acknowledged after the backup, and so not in it.
    let logout = json!({"target": {"sid": "s-1"}, "reason": "user_logout"});
    assert!(provider.post("/v1/issuers/main/logouts", logout.clone()).await.is_success());
    assert!(!is_active(&provider, "rt-s-1").await);
    assert!(refused(&restore(&database, "copy.db", &["--replace"])).contains("another logoutd uses this database file"));
    process.kill();
    assert!(refused(&restore(&database, "copy.db", &[])).contains("--replace"));
    let restored = done(&restore(&database, "copy.db", &["--replace"]));
    let aside = restored["aside"].as_str().unwrap();
    assert!(Path::new(aside).exists(), "{restored}");
    assert!(!Path::new(&format!("{aside}-wal")).exists(), "what was put aside has its last commits in it");

    let mut process = Process::serve(&database, &[]);
    let admin = process.admin().await;
    let provider = admin.with_token(provider.token());
    for token in ["rt-s-1", "rt-s-2"] {
        assert!(!is_active(&provider, token).await, "{token}: whether it was ended is not known");
    }
    let opened: Vec<_> =
        process.lines().into_iter().filter(|line| line["message"].to_string().contains("restored from a backup")).collect();
    assert_eq!(opened.len(), 1, "{}", process.log());
    assert_eq!(opened[0]["since"], told["taken_at"], "{}", opened[0]);
    until("the gauge counts the gap", || async {
        admin.get("/metrics").await.text.lines().any(|line| line == "logoutd_gaps_open 1").then_some(())
    })
    .await;
    let gap = admin.items(GAPS).await.remove(0);
    assert_eq!((&gap["cause"], &gap["since"]), (&json!("restore"), &told["taken_at"]), "{gap}");

    // The provider repeats what it may have lost; the other session it still speaks of.
    provider.put("/v1/issuers/main/sessions/s-2", json!({"sub": "s-2"})).await.expect(200);
    assert!(provider.post("/v1/issuers/main/logouts", logout).await.is_success());
    assert_eq!((is_active(&provider, "rt-s-1").await, is_active(&provider, "rt-s-2").await), (false, true));

    // A start more opens no gap more: it belongs to the restore.
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
    let mut process = Process::serve(&database, &[]);
    let admin = process.admin().await;
    assert_eq!(admin.items(GAPS).await.len(), 1);
    admin.post(&format!("{GAPS}/{}/close", gap["id"].as_str().unwrap()), json!(null)).await.expect(200);
    assert!(!is_active(&provider_at(&admin, &provider), "rt-s-1").await, "its logout was repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_restored_database_warns_of_the_api_tokens_that_may_have_been_revoked_since() {
    let database = on_sqlite().await;
    let mut process = Process::serve(&database, &[]);
    let admin = process.admin().await;
    register(&admin).await;
    let minted = admin.post("/v1/api-tokens", json!({"role": "admin"})).await.expect(201);
    done(&back_up(&database, "copy.db"));
    admin.delete(&format!("/v1/api-tokens/{}", minted["id"].as_str().unwrap())).await.expect(204);
    process.kill();
    let output = logoutd(&database, &["restore", "copy.db", "--to", &database.url, "--replace"], &KEY);
    assert!(String::from_utf8_lossy(&output.stdout).contains("since the backup are good again"), "{output:?}");
    let mut process = Process::serve(&database, &[]);
    process.admin().await;
    let warned = process.lines().into_iter().find(|line| line["message"].to_string().contains("API tokens"));
    assert_eq!(warned.expect("a warning")["api_tokens"], 2, "{}", process.log());
}

fn provider_at(admin: &Api, provider: &Api) -> Api {
    admin.with_token(provider.token())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_copy_of_a_backup_is_a_restore_too() {
    let database = on_sqlite().await;
    let mut process = Process::serve(&database, &[]);
    let provider = register(&process.admin().await).await;
    log_in(&provider, "s-1").await;
    done(&back_up(&database, "copy.db"));
    process.kill();
    for suffix in ["-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{suffix}", file_of(&database).display())));
    }
    std::fs::copy(database.directory().join("copy.db"), file_of(&database)).unwrap();
    let mut process = Process::serve(&database, &[]);
    let provider = process.admin().await.with_token(provider.token());
    assert!(!is_active(&provider, "rt-s-1").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_under_load_holds_whole_transactions_and_nothing_waits_for_it() {
    let database = on_sqlite().await;
    let mut process = Process::serve(&database, &[]);
    let provider = register(&process.admin().await).await;
    let logins = async {
        for n in 0..150 {
            log_in(&provider, &format!("s-{n}")).await;
        }
    };
    let backups = async {
        for n in 0..3 {
            let url = database.url.clone();
            let name = format!("copy-{n}.db");
            let directory = database.directory().to_owned();
            let output = tokio::task::spawn_blocking(move || {
                let arguments = ["backup", "--to", &name, "--database-url", &url, "--json"];
                Command::new(env!("CARGO_BIN_EXE_logoutd")).args(arguments).env_clear().envs(KEY).current_dir(directory).output().unwrap()
            });
            done(&output.await.unwrap());
        }
    };
    tokio::join!(logins, backups);
    for n in 0..3 {
        let url = format!("sqlite://{}", database.directory().join(format!("copy-{n}.db")).display());
        let mut copy = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let counted: (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM participants), (SELECT count(*) FROM refresh_tokens)",
        )
        .fetch_one(&mut copy)
        .await
        .unwrap();
        assert!(counted.0 == counted.1 && counted.1 == counted.2, "{counted:?}");
    }
}

#[tokio::test]
async fn a_backup_is_refused_where_it_would_overwrite_or_has_nothing_to_copy() {
    let database = on_sqlite().await;
    assert!(refused(&back_up(&database, "copy.db")).contains("there is no database at"));
    // As it is found from anywhere, and how to say otherwise.
    let looked_for =
        format!("there is no database at {}: say where", database.directory().canonicalize().unwrap().join("logoutd-2.db").display());
    let told = refused(&logoutd(&database, &["backup", "--to", "copy.db", "--database-url", "sqlite://logoutd-2.db"], &KEY));
    assert!(told.contains(&looked_for) && told.contains("--config") && told.contains("LOGOUTD_DATABASE_URL"), "{told}");
    let told = refused(&restore(&database, "none.db", &[]));
    assert!(told.contains("there is no backup at /") && told.contains("none.db"), "{told}");
    database.open(&logoutd::seams::Clock::system()).await.close().await;
    std::fs::write(database.directory().join("copy.db"), "precious").unwrap();
    assert!(refused(&back_up(&database, "copy.db")).contains("nothing is overwritten"));
    assert_eq!(std::fs::read_to_string(database.directory().join("copy.db")).unwrap(), "precious");
    assert!(refused(&back_up(&database, "nowhere/copy.db")).contains("cannot be written"));
    let url = "postgres://logoutd:secret-of-nobody@127.0.0.1:1/logoutd";
    let told = refused(&logoutd(&database, &["backup", "--to", "pg.db", "--database-url", url], &KEY));
    assert!(told.contains("pg_dump") && told.contains("logoutd gap open") && !told.contains("secret-of-nobody"), "{told}");
    let left: Vec<_> = std::fs::read_dir(database.directory()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".part-")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_names_the_key_that_opens_it_and_says_when_the_one_at_hand_does_not() {
    const OTHER: &str = "kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4q83vEjRWeJA";
    let database = on_sqlite().await;
    let kept = |name: &str, content: &str| {
        let path = database.directory().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let taken = |name: &str, variables: &[(&str, &str)]| {
        let output = logoutd(&database, &["backup", "--to", name, "--database-url", &database.url], variables);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    database.open(&logoutd::seams::Clock::system()).await.close().await;
    assert!(taken("before.db", &[]).contains("Nothing in it is sealed"));
    let mut process = Process::serve(&database, &[]);
    process.base().await;
    process.terminate();
    process.ended().await;

    let (right, wrong) = (kept("right.key", SEALING_KEY), kept("wrong.key", OTHER));
    let whole = |place: &str| format!("The sealing key ({place}) is not in it: keep it apart");
    let told = taken("1.db", &KEY);
    assert!(told.contains(&whole("sealing_key (LOGOUTD_SEALING_KEY)")), "{told}");
    let told = taken("2.db", &[("LOGOUTD_SEALING_KEY_FILE", &right)]);
    assert!(told.contains(&whole(&right)), "{told}");
    let told = taken("3.db", &[("LOGOUTD_SEALING_KEY_FILE", &wrong)]);
    assert!(
        told.contains("none that opens it is at hand") && told.contains(&format!("another sealing key than that of {wrong}")),
        "{told}"
    );
    let told = taken("4.db", &[("LOGOUTD_SEALING_KEY_FILE", &wrong), ("LOGOUTD_SEALING_KEY_PREVIOUS_FILE", &right)]);
    assert!(told.contains("The sealing keys (") && told.contains(&wrong), "{told}");
    assert!(taken("5.db", &[]).contains("logoutd.db.key is missing"));
    // What a change of keys left beside the database.
    kept(&format!("{}.key", file_of(&database).file_name().unwrap().to_str().unwrap()), OTHER);
    assert!(taken("6.db", &[]).contains("none that opens it is at hand"));
    let answer = done(&logoutd(&database, &["backup", "--to", "7.db", "--database-url", &database.url, "--json"], &[]));
    assert!(answer["key_opens"] == false && answer["key_file"].as_str().unwrap().ends_with(".key"), "{answer}");
    let answer = done(&back_up(&database, "8.db"));
    assert_eq!(
        (&answer["key_opens"], &answer["key_file"], &answer["key_place"]),
        (&json!(true), &Value::Null, &json!("sealing_key (LOGOUTD_SEALING_KEY)"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_takes_whole_backups_under_the_right_key_alone_and_otherwise_leaves_everything_as_it_was() {
    let database = on_sqlite().await;
    let mut process = Process::serve(&database, &[]);
    register(&process.admin().await).await;
    process.terminate();
    process.ended().await;
    let told = done(&back_up(&database, "copy.db"));
    let before = std::fs::read(file_of(&database)).unwrap();
    let directory = database.directory();
    let copy = std::fs::read(directory.join("copy.db")).unwrap();

    std::fs::write(directory.join("cut.db"), &copy[..copy.len() / 2]).unwrap();
    let mut torn = copy.clone();
    torn[8192..12288].fill(0xa5);
    std::fs::write(directory.join("torn.db"), torn).unwrap();
    std::fs::write(directory.join("text.db"), "this is no database, and never was one: ".repeat(200)).unwrap();
    for name in ["cut.db", "torn.db", "text.db"] {
        let why = refused(&restore(&database, name, &["--replace"]));
        assert!(why.contains(name), "{name}: {why}");
    }
    let arguments = ["restore", "copy.db", "--to", &database.url, "--replace"];
    let other = [("LOGOUTD_SEALING_KEY", "kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4q83vEjRWeJA")];
    assert!(refused(&logoutd(&database, &arguments, &other)).contains("another sealing key"));
    let why = refused(&logoutd(&database, &arguments, &[]));
    assert!(why.contains("logoutd.db.key is missing") && why.contains("LOGOUTD_SEALING_KEY_FILE"), "{why}");
    // What nobody marked says nothing of when it was taken.
    std::fs::copy(file_of(&database), directory.join("plain.db")).unwrap();
    assert!(refused(&restore(&database, "plain.db", &["--replace"])).contains("--taken-at"));
    assert!(std::fs::read(file_of(&database)).unwrap() == before, "a restore that was refused changed the database");

    let taken_at = "2026-01-02T03:04:05.000Z";
    let restored = done(&restore(&database, "plain.db", &["--replace", "--taken-at", taken_at]));
    assert_eq!(restored["taken_at"], taken_at);
    let restored = done(&restore(&database, "copy.db", &["--replace", "--taken-at", "2030-01-01T00:00:00Z"]));
    assert_eq!(restored["taken_at"], told["taken_at"], "a backup knows better");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_root_restores_into_the_servers_directory_is_the_servers() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    let database = on_sqlite().await;
    let mut process = Process::serve(&database, &[]);
    register(&process.admin().await).await;
    process.terminate();
    process.ended().await;
    done(&back_up(&database, "copy.db"));
    let home = database.directory().join("home");
    std::fs::create_dir(&home).unwrap();
    // Whoever is not root gives nothing away, and everything is theirs.
    if home.metadata().unwrap().uid() == 0 {
        chown(&home, Some(4711), Some(4712)).unwrap();
    }
    let to = format!("sqlite://{}", home.join("logoutd.db").display());
    done(&logoutd(&database, &["restore", "copy.db", "--to", &to, "--json"], &KEY));
    let owner = |path: &std::path::Path| path.metadata().map(|file| (file.uid(), file.gid())).unwrap();
    for name in ["logoutd.db", "logoutd.db.lock"] {
        let file = home.join(name);
        assert_eq!((owner(&file), file.metadata().unwrap().permissions().mode() & 0o777), (owner(&home), 0o600), "{name}");
    }
}
