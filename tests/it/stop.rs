//! The life of the process: how it starts or refuses to, what it says of itself, and how it stops.

use std::sync::Arc;

use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::harness::DEADLINE;
use crate::harness::api::Api;
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::{Party, Reply, slow_party};
use crate::harness::process::{KEY, Process, SEALING_KEY};
use crate::harness::server::{ADMIN_TOKEN, ISSUER};
use crate::harness::until;

const REFRESH_TOKEN: &str = "rt_tGzv3JOkF0XG5Qx2TlKWIA";
const CLIENT_SECRET: &str = "the-wiki-s-own-secret-7Fjfp0ZBr1KtDRbnfVdmIw";
const SUB: &str = "alice-whom-no-log-knows";
const SID: &str = "sid-that-no-log-knows";

/// Registers the issuer `main` and the client `wiki`; the provider's token.
async fn register(admin: &Api, uri: &str) -> Api {
    admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
    let client = json!({"backchannel_logout_uri": uri, "id_token_signed_response_alg": "ES256", "client_secret": CLIENT_SECRET});
    admin.put("/v1/issuers/main/clients/wiki", client).await.expect(201);
    admin.mint(json!({"role": "provider", "issuer": "main"})).await
}

async fn log_in(provider: &Api) {
    let participants = json!([{"client_id": "wiki", "refresh_token": {"token": REFRESH_TOKEN}}]);
    provider.put(&format!("/v1/issuers/main/sessions/{SID}"), json!({"sub": SUB, "participants": participants})).await.expect(201);
}

/// Posts the logout; the path of its receipt.
async fn log_out(provider: &Api) -> String {
    let answer = provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": SID}, "reason": "user_logout"})).await;
    assert!(answer.is_success(), "{answer:?}");
    format!("/v1/issuers/main/logouts/{}", answer.body["id"].as_str().unwrap())
}

async fn settled(provider: &Api, receipt: &str) -> serde_json::Value {
    until("the logout is settled", || async {
        let receipt = provider.get(receipt).await.expect(200);
        (receipt["state"] == "settled").then_some(receipt)
    })
    .await
}

on_both_engines! {
    async fn a_stop_finishes_the_attempt_in_flight_and_writes_it_down(database) {
        let patient = [
            ("LOGOUTD_DELIVERY__TIMEOUT_MS", "15000"),
            ("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "15000"),
            ("LOGOUTD_DELIVERY__LEASE_MS", "40000"),
        ];
        let mut process = Process::serve(database, &patient);
        let admin = process.admin().await;
        let (arrived, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (uri, _party) = slow_party(Arc::clone(&arrived), Arc::clone(&answer)).await;
        let provider = register(&admin, &uri).await;
        log_in(&provider).await;
        let receipt = log_out(&provider).await;
        tokio::time::timeout(DEADLINE, arrived.notified()).await.expect("the attempt arrives");

        let address = process.base().await.strip_prefix("http://").unwrap().to_owned();
        process.terminate();
        until("no more connections are taken", || async { TcpStream::connect(&address).await.is_err().then_some(()) }).await;
        answer.notify_one();
        assert_eq!(process.ended().await.code(), Some(0), "{}", process.log());
        assert!(process.lines().iter().any(|line| line["message"] == "the server has stopped"), "{}", process.log());

        // Its only attempt is on record: whoever looks after the stop has nothing to do.
        let mut process = Process::serve(database, &patient);
        let provider = process.admin().await.with_token(provider.token());
        let receipt = provider.get(&receipt).await.expect(200);
        assert_eq!((&receipt["state"], &receipt["clients"][0]["attempts"]), (&json!("settled"), &json!(1)), "{receipt}");
        assert_eq!(receipt["deliveries"]["delivered"], 1);
    }

    async fn a_stop_with_an_attempt_that_hangs_ends_within_its_grace_and_loses_nothing(database) {
        let mut process = Process::serve(database, &[("LOGOUTD_SHUTDOWN_GRACE_S", "1"), ("LOGOUTD_DELIVERY__TIMEOUT_MS", "15000"),
            ("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "15000"), ("LOGOUTD_DELIVERY__LEASE_MS", "16000")]);
        let admin = process.admin().await;
        let party = Party::open(&process.base().await, "main", ISSUER, "wiki").await;
        party.always(Reply::Hang);
        let provider = register(&admin, &party.uri()).await;
        log_in(&provider).await;
        let receipt = log_out(&provider).await;
        party.received(1).await;
        process.terminate();
        let ended = process.ended().await;
        assert_eq!(ended.code(), Some(0), "{ended:?} {}", process.log());
        assert!(process.log().contains("the stop is forced"), "{}", process.log());

        let mut process = Process::serve(database, &[]);
        party.trust(&format!("{}/main/jwks", process.base().await));
        let provider = process.admin().await.with_token(provider.token());
        assert_eq!(provider.get(&receipt).await.expect(200)["deliveries"]["pending"], 1, "its lease still runs");
    }

    async fn another_sealing_key_than_the_first_is_refused(database) {
        let mut first = Process::serve(database, &[]);
        first.base().await;
        first.terminate();
        assert_eq!(first.ended().await.code(), Some(0));
        let other = "kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4q83vEjRWeJA";
        let mut second = Process::serve(database, &[("LOGOUTD_SEALING_KEY", other)]);
        assert_eq!(second.ended().await.code(), Some(1));
        let told = second.log();
        assert!(told.contains("begun with another sealing key") && !told.contains(other), "{told}");
    }

    async fn a_server_that_nobody_can_administer_says_so_at_its_start(database) {
        // Development mode makes a token of its own.
        let nobody = async || {
            let arguments = ["serve", "--listen", "127.0.0.1:0", "--database-url", database.url.as_str()];
            let mut process = Process::spawn(database, &arguments, &[("LOGOUTD_SEALING_KEY", SEALING_KEY)]);
            let base = process.base().await;
            (process, Api::new(&base))
        };
        let warned = async |mut process: Process| {
            process.terminate();
            assert_eq!(process.ended().await.code(), Some(0));
            process.lines().into_iter().any(|line| line["level"] == "WARN" && line["message"].to_string().contains("nobody can administer"))
        };
        assert!(warned(nobody().await.0).await);
        let mut process = Process::serve(database, &[]);
        let bootstrap = process.admin().await;
        let admin = bootstrap.mint(json!({"role": "admin"})).await;
        bootstrap.mint(json!({"role": "operator"})).await;
        assert!(!warned(process).await, "admin_token is set");

        let (process, base) = nobody().await;
        let admin = base.with_token(admin.token());
        let of_admin = admin.items("/v1/api-tokens").await.into_iter().find(|one| one["role"] == "admin").unwrap();
        assert_eq!(admin.delete(&format!("/v1/api-tokens/{}", of_admin["id"].as_str().unwrap())).await.status, 204);
        assert!(!warned(process).await, "somebody had a token at the start");
        assert!(warned(nobody().await.0).await, "nobody administers as an operator");
    }

    async fn a_migration_makes_the_schema_and_may_be_repeated(database) {
        for _ in 0..2 {
            let arguments = ["migrate", "--database-url", &database.url];
            let mut migration = Process::spawn(database, &arguments, &[("LOGOUTD_SEALING_KEY", SEALING_KEY)]);
            assert_eq!(migration.ended().await.code(), Some(0), "{}", migration.log());
        }
        let mut process = Process::serve(database, &[]);
        process.admin().await.get("/v1/issuers").await.expect(200);
    }

    async fn a_server_says_whether_it_lives_whether_it_can_work_and_what_it_measured(database) {
        let mut process = Process::serve(database, &[]);
        let admin = process.admin().await;
        let nobody = Api::new(&process.base().await);
        assert_eq!(nobody.get("/healthz").await.expect(200), json!({"status": "ok"}));
        until("the server is ready", || async { (nobody.get("/readyz").await.status == 200).then_some(()) }).await;

        let party = Party::open(&process.base().await, "main", ISSUER, "wiki").await;
        party.answers([Reply::Status(503)]);
        let provider = register(&admin, &party.uri()).await;
        log_in(&provider).await;
        let receipt = log_out(&provider).await;
        settled(&provider, &receipt).await;

        nobody.get("/metrics").await.problem(401, "unauthorized");
        provider.get("/metrics").await.problem(403, "forbidden");
        let auditor = admin.mint(json!({"role": "auditor"})).await;
        let metrics = auditor.get("/metrics").await;
        assert_eq!(metrics.status, 200);
        let counted = |name: &str, labels: &[&str]| {
            let line = metrics.text.lines().find(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        // How many commits there were is nobody's promise.
        let expected = [
            ("logoutd_logouts_total", vec!["reason=\"user_logout\""], 1.0),
            ("logoutd_sessions_ended_total", vec![], 1.0),
            ("logoutd_deliveries_planned_total", vec![], 1.0),
            ("logoutd_attempts_total", vec!["class=\"recoverable\""], 1.0),
            ("logoutd_attempts_total", vec!["class=\"delivered\""], 1.0),
            ("logoutd_commit_duration_seconds_count", vec![], f64::NAN),
            ("logoutd_deliveries_settled_total", vec!["state=\"delivered\"", "reason=\"accepted\""], 1.0),
        ];
        for (name, labels, value) in expected {
            let found = counted(name, &labels);
            assert!(found > 0.0 && (value.is_nan() || (found - value).abs() < f64::EPSILON), "{name} {labels:?}: {}", metrics.text);
        }
        for secret in [SUB, SID, REFRESH_TOKEN, "wiki"] {
            assert!(!metrics.text.contains(secret), "{secret} in {}", metrics.text);
        }
    }

    async fn the_log_of_a_full_life_names_no_person_no_session_and_no_secret(database) {
        let mut process = Process::serve(database, &[("LOGOUTD_LOG__LEVEL", "trace"), ("LOGOUTD_LOG__FORMAT", "json")]);
        let admin = process.admin().await;
        let base = process.base().await;
        let party = Party::open(&base, "main", ISSUER, "wiki").await;
        let provider = register(&admin, &party.uri()).await;
        log_in(&provider).await;
        assert_eq!(provider.introspect(REFRESH_TOKEN).await["active"], true);
        // Trouble is logged more than success.
        let echo = format!("{{\"error\":\"invalid_request\",\"error_description\":\"{SUB} {SID}\"}}");
        party.answers([Reply::Drop, Reply::Status(503), Reply::Full { status: 400, headers: Vec::new(), body: echo }]);
        let missing = format!("/v1/issuers/main/sessions/{SID}-unknown");
        provider.get(&missing).await.problem(404, "unknown-session");
        provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": SID, "sub": SUB}, "reason": "user_logout"})).await.problem(422, "invalid-field");
        provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": SID}, "reason": "user_logout", SUB: 1})).await.problem(422, "unknown-member");
        let stranger = format!("ldt_{SUB}");
        Api::new(&base).with_token(&stranger).get(&format!("/v1/issuers/main/sessions/{SID}")).await.problem(401, "unauthorized");
        log_out(&provider).await;
        let calls = party.received(3).await;
        until("the refusal is in the log", || async { process.log().contains("\"refused\"").then_some(()) }).await;
        process.terminate();
        assert_eq!(process.ended().await.code(), Some(0));

        let log = process.log();
        assert_eq!(process.lines().len(), log.lines().count(), "every line is JSON");
        for happened in ["a logout was committed", "an attempt was made", "an attempt got no answer", "the server has stopped"] {
            assert!(log.contains(happened), "{happened}: {log}");
        }
        let tokens: Vec<_> = calls.iter().map(|call| String::from_utf8(call.body.clone()).unwrap().replace("logout_token=", "")).collect();
        let secrets = [SUB, SID, REFRESH_TOKEN, CLIENT_SECRET, ADMIN_TOKEN, SEALING_KEY, provider.token(), "eyJ", "ldt_"];
        for secret in secrets.into_iter().chain(tokens.iter().map(String::as_str)) {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret}");
        }
    }
}

#[tokio::test]
async fn a_second_process_on_the_same_sqlite_file_is_refused_and_the_first_goes_on() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let mut first = Process::serve(&database, &[]);
    let admin = first.admin().await;
    let mut second = Process::serve(&database, &[]);
    assert_eq!(second.ended().await.code(), Some(1));
    let told = second.log();
    assert!(told.contains("another logoutd uses this database file") && told.contains("use PostgreSQL"), "{told}");
    admin.get("/v1/issuers").await.expect(200);
    // The lock goes with the process that held it, however it goes.
    first.kill();
    Process::serve(&database, &[]).base().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_name_of_the_same_sqlite_file_is_no_way_around_the_first_process() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let file = std::path::PathBuf::from(database.url.strip_prefix("sqlite://").unwrap());
    let at = |name: &str| database.directory().join(name);
    let url = |name: &str| format!("sqlite://{}", at(name).display());
    // The link is there before what it leads to.
    std::os::unix::fs::symlink(file.file_name().unwrap(), at("link.db")).unwrap();
    let refused = async |arguments: &[&str]| {
        let mut process = Process::spawn(&database, arguments, &[KEY[0], ("LOGOUTD_ADMIN_TOKEN", ADMIN_TOKEN)]);
        assert_eq!(process.ended().await.code(), Some(1), "{arguments:?}");
        process.log()
    };
    let serve = async |url: &str| refused(&["serve", "--dev", "--listen", "127.0.0.1:0", "--database-url", url]).await;
    let restore = async |url: &str| refused(&["restore", "copy.db", "--replace", "--to", url]).await;

    let mut first = Process::serve(&database, &[]);
    let admin = first.admin().await;
    let mut backup = Process::spawn(&database, &["backup", "--to", "copy.db", "--database-url", &url("link.db")], &KEY);
    assert_eq!(backup.ended().await.code(), Some(0), "{}", backup.log());
    for told in [serve(&url("link.db")).await, restore(&url("link.db")).await] {
        assert!(told.contains("another logoutd uses this database file"), "{told}");
    }
    std::fs::hard_link(&file, at("second.db")).unwrap();
    for told in [serve(&url("second.db")).await, restore(&url("second.db")).await] {
        assert!(told.contains("has 2 names (hard links)"), "{told}");
    }
    admin.get("/v1/issuers").await.expect(200);
    first.kill();
    assert!(serve(&database.url).await.contains("has 2 names (hard links)"), "neither is the file's own");
    std::fs::remove_file(at("second.db")).unwrap();

    // What a link leads to is replaced, and not the link.
    let mut restored = Process::spawn(&database, &["restore", "copy.db", "--replace", "--to", &url("link.db")], &KEY);
    assert_eq!(restored.ended().await.code(), Some(0), "{}", restored.log());
    assert!(at("link.db").is_symlink());
    let mut again = Process::serve(&database, &[]);
    let again = again.admin().await;
    assert_eq!(again.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn postgresql_without_a_sealing_key_is_refused_before_anything_is_connected_to() {
    let database = Database::fresh(Engine::Sqlite).await.unwrap();
    let secret = "password-that-nobody-prints";
    let url = format!("postgres://logoutd:{secret}@127.0.0.1:1/logoutd");
    for command in ["serve", "migrate", "check-config"] {
        let mut process = Process::spawn(&database, &[command, "--database-url", &url], &[]);
        assert_eq!(process.ended().await.code(), Some(1), "{command}");
        let told = process.log();
        assert!(told.contains("a sealing_key or sealing_key_file is needed") && !told.contains(secret), "{command}: {told}");
    }
}
