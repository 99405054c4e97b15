//! What goes wrong on a machine: each time the message says what and what to do, nothing is lost, and it goes on when the cause is gone.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use tokio::sync::Notify;

use crate::harness::DEADLINE;
use crate::harness::api::Api;
use crate::harness::database::{Database, Engine, on_both_engines};
use crate::harness::party::slow_party;
use crate::harness::process::Process;
use crate::harness::server::{ADMIN_TOKEN, ISSUER};
use crate::harness::until;

async fn on_sqlite() -> Database {
    Database::fresh(Engine::Sqlite).await.unwrap()
}

fn file_of(database: &Database) -> PathBuf {
    PathBuf::from(database.url.strip_prefix("sqlite://").unwrap())
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// A server that keeps its sealing key in a file beside the database.
fn serve_with_key_file(database: &Database) -> Process {
    let arguments = ["serve", "--dev", "--listen", "127.0.0.1:0", "--database-url", database.url.as_str()];
    Process::spawn(database, &arguments, &[("LOGOUTD_ADMIN_TOKEN", ADMIN_TOKEN)])
}

/// It ends at once, with a message that says all this.
async fn refuses(mut process: Process, says: &[&str]) {
    assert_eq!(process.ended().await.code(), Some(1), "{}", process.log());
    let told = process.log();
    for word in says {
        assert!(told.contains(word), "{word} in {told}");
    }
}

async fn register(admin: &Api) -> Api {
    admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
    admin.mint(json!({"role": "provider", "issuer": "main"})).await
}

/// A first life of the database, with one session in it.
async fn lived(mut process: Process) -> Api {
    let provider = register(&process.admin().await).await;
    provider.put("/v1/issuers/main/sessions/s-1", json!({"sub": "alice"})).await.expect(201);
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
    provider
}

/// It serves again, and knows what it knew.
async fn lives_on(mut process: Process, provider: &Api) {
    let provider = process.admin().await.with_token(provider.token());
    assert_eq!(provider.get("/v1/issuers/main/sessions/s-1").await.expect(200)["state"], "live");
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealing_key_that_is_missing_wrong_or_open_to_others_is_refused_and_put_back_all_is_well() {
    let database = on_sqlite().await;
    let provider = lived(serve_with_key_file(&database)).await;
    let key = with(&file_of(&database), ".key");
    let kept = std::fs::read(&key).unwrap();
    let private = || std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();

    std::fs::remove_file(&key).unwrap();
    refuses(serve_with_key_file(&database), &["logoutd.db.key is missing", "put it back", "LOGOUTD_SEALING_KEY_FILE"]).await;
    assert!(!key.exists(), "another key would seal what the first one cannot open");
    std::fs::write(&key, "kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4q83vEjRWeJA\n").unwrap();
    private();
    refuses(serve_with_key_file(&database), &["begun with another sealing key than that of /", "logoutd.db.key", "put that one back"])
        .await;
    std::fs::write(&key, &kept).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    refuses(serve_with_key_file(&database), &["may be read by others", "chmod 600"]).await;
    private();
    lives_on(serve_with_key_file(&database), &provider).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_file_that_is_named_is_refused_while_others_may_read_it_and_a_token_s_is_warned_of() {
    let database = on_sqlite().await;
    let kept = |name: &str, content: &str, mode: u32| {
        let path = database.directory().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let serve = |mode: u32| {
        let key = kept("sealing.key", "kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4q83vEjRWeJA\n", mode);
        let token = kept("admin.token", ADMIN_TOKEN, 0o644);
        let arguments = ["serve", "--dev", "--listen", "127.0.0.1:0", "--database-url", database.url.as_str()];
        Process::spawn(&database, &arguments, &[("LOGOUTD_ADMIN_TOKEN_FILE", &token), ("LOGOUTD_SEALING_KEY_FILE", &key)])
    };
    refuses(serve(0o644), &["LOGOUTD_SEALING_KEY_FILE", "sealing.key may be read by others", "chmod 600"]).await;
    let mut process = serve(0o600);
    process.base().await;
    let warned = until("the token's file is warned of", || async {
        process.lines().into_iter().find(|line| line["message"].to_string().contains("may be read by others"))
    })
    .await;
    assert_eq!((&warned["level"], &warned["setting"]), (&json!("WARN"), &json!("admin_token_file")), "{warned}");
    assert!(!process.log().contains(ADMIN_TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_there_is_named() {
    let mut database = on_sqlite().await;
    database.url = format!("sqlite://{}", database.directory().join("nowhere/logoutd.db").display());
    refuses(Process::serve(&database, &[]), &["the directory of", "nowhere/logoutd.db does not exist", "make it", "--config"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_damaged_or_none_is_refused_with_advice_to_restore() {
    let database = on_sqlite().await;
    let provider = lived(Process::serve(&database, &[])).await;
    let file = file_of(&database);
    let whole = std::fs::read(&file).unwrap();
    let mut scribbled = whole.clone();
    scribbled[..4096].fill(0xa5);
    for damaged in [whole[..whole.len() / 2].to_vec(), b"not a database ".repeat(1000), scribbled] {
        std::fs::write(&file, &damaged).unwrap();
        refuses(Process::serve(&database, &[]), &["logoutd.db is damaged or none", "logoutd restore"]).await;
        assert!(std::fs::read(&file).unwrap() == damaged, "what may be rescued is left as it was");
    }
    std::fs::write(&file, &whole).unwrap();
    lives_on(Process::serve(&database, &[]), &provider).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_written_is_refused_before_anything_is_acknowledged() {
    let database = on_sqlite().await;
    let provider = lived(Process::serve(&database, &[])).await;
    let file = file_of(&database);
    // Whoever may do everything may write to it all the same.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let under: &[&str] = if is_root { &nobody } else { &[] };
    if is_root && !Command::new(nobody[0]).args(&nobody[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        return skipped("setpriv cannot become nobody");
    }
    std::fs::set_permissions(database.directory(), std::fs::Permissions::from_mode(0o777)).unwrap();
    drop(std::fs::remove_file(with(&file, ".lock")));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
    refuses(Process::serve_under(&database, under, &[]), &["logoutd.db cannot be written", "to the user this runs as"]).await;
    drop(std::fs::remove_file(with(&file, ".lock")));
    std::fs::set_permissions(database.directory(), std::fs::Permissions::from_mode(0o555)).unwrap();
    refuses(Process::serve_under(&database, under, &[]), &["logoutd.db.lock could not be opened", "its directory must belong"]).await;
    std::fs::set_permissions(database.directory(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    for suffix in ["-wal", "-shm"] {
        drop(std::fs::remove_file(with(&file, suffix)));
    }
    lives_on(Process::serve(&database, &[]), &provider).await;
}

fn skipped(why: &str) {
    drop(std::io::stderr().write_all(format!("\nnote: not run here: {why}\n").as_bytes()));
}

on_both_engines! {
    async fn a_database_of_a_newer_version_is_refused_and_left_as_it_is(database) {
        let provider = lived(Process::serve(database, &[])).await;
        let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) SELECT 9999, 'tomorrow', success, checksum, 0
                        FROM _sqlx_migrations WHERE version = 1";
        let remove = "DELETE FROM _sqlx_migrations WHERE version = 9999";
        execute(database, insert).await;
        refuses(Process::serve(database, &[]), &["written by a newer logoutd (schema 9999)", "start that version"]).await;
        execute(database, remove).await;
        lives_on(Process::serve(database, &[]), &provider).await;
    }
}

async fn execute(database: &Database, text: &'static str) {
    match database.engine {
        Engine::Sqlite => {
            let mut connection = sqlx::SqliteConnection::connect(&database.url).await.unwrap();
            sqlx::query(text).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Engine::Postgres => {
            let mut connection = sqlx::PgConnection::connect(&database.url).await.unwrap();
            sqlx::query(text).execute(&mut connection).await.unwrap();
        }
    }
}

const NO_ROOM: &str = "there is no room on the disk of the database: make some, nothing is lost";

/// Why it is not ready, if it is not.
async fn not_ready(nobody: &Api) -> Option<String> {
    let answer = nobody.get("/readyz").await;
    (answer.status == 503).then(|| answer.problem(503, "unavailable")["detail"].as_str().unwrap().to_owned())
}

/// PostgreSQL with these words of its own where nothing more can be written, in the place of a disk that is full under it.
const FILL_POSTGRES: &str = "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file \"base/1/2\": No space left on device'; END $$";
const FULL: &str = "CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON meta FOR EACH ROW EXECUTE FUNCTION no_room()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_postgresql_has_no_room_it_is_said_and_with_room_again_it_goes_on_by_itself() {
    let Some(database) = Database::fresh(Engine::Postgres).await else { return };
    let mut process = Process::serve(&database, &[]);
    let nobody = process.admin().await.without_token();
    until("it is ready", || async { (nobody.get("/readyz").await.status == 200).then_some(()) }).await;
    execute(&database, FILL_POSTGRES).await;
    execute(&database, FULL).await;
    assert_eq!(until("it says that it is not ready", || async { not_ready(&nobody).await }).await, NO_ROOM);
    until("the log says it too", || async { process.log().contains(&format!("{NO_ROOM}: ")).then_some(()) }).await;
    execute(&database, "DROP TRIGGER no_room ON meta").await;
    until("it is ready again by itself", || async { (nobody.get("/readyz").await.status == 200).then_some(()) }).await;
}

/// On a disk of its own, of one megabyte, to which what there is of a database was copied and on which there is room for nothing else.
const ON_A_FULL_DISK: &str = "mount -t tmpfs -o size=1m none \"$0\" && cp \"$1\" \"$0/logoutd.db\" && touch \"$0/logoutd.db.lock\" && shift \
     && { cat /dev/zero >\"$0/filler\" 2>/dev/null || :; } && exec \"$@\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_full_disk_says_that_it_is_full() {
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success()) {
        return skipped("no file system of one's own can be made");
    }
    let mut database = on_sqlite().await;
    lived(Process::serve(&database, &[])).await;
    let (file, small) = (file_of(&database), database.directory().join("small"));
    std::fs::create_dir(&small).unwrap();
    database.url = format!("sqlite://{}", small.join("logoutd.db").display());
    let under = ["unshare", "-rm", "sh", "-c", ON_A_FULL_DISK, small.to_str().unwrap(), file.to_str().unwrap()];
    refuses(Process::serve_under(&database, &under, &[]), &["there is no room on the disk of", "logoutd.db: make some"]).await;
}

/// The refusal of a PostgreSQL that is not as its URL says.
async fn refused_postgres(url: &str, says: &[&str]) {
    let mut database = on_sqlite().await;
    url.clone_into(&mut database.url);
    let mut process = Process::serve(&database, &[]);
    assert_eq!(process.ended().await.code(), Some(1), "{}", process.log());
    let told = process.log();
    for word in says {
        assert_eq!(told.matches(word).count(), 1, "{word} in {told}");
    }
    assert!(!told.contains("hunter2") && !told.contains("at line"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_does_not_let_us_in_is_named_once_with_what_to_do_and_without_its_password() {
    let nobody = "postgres://logoutd:hunter2-hunter2@127.0.0.1:1/sessions";
    refused_postgres(nobody, &["PostgreSQL at 127.0.0.1:1/sessions: Connection refused", "nobody listens there"]).await;
    let bad = "postgres://logoutd:hunter2-hunter2@127.0.0.1:1/sessions?sslmode=nonsense";
    refused_postgres(bad, &["database.url (--database-url): the URL of PostgreSQL cannot be read", "nonsense"]).await;
    let Some(database) = Database::fresh(Engine::Postgres).await else { return };
    let mut url = reqwest::Url::parse(&database.url).unwrap();
    url.set_path("nothing_of_this_name");
    refused_postgres(url.as_str(), &["\"nothing_of_this_name\" does not exist: make it first"]).await;
}

on_both_engines! {
    async fn who_asks_about_a_token_while_the_database_is_away_is_told_to_ask_again_and_not_that_something_may_be_committed(database) {
        let mut process = Process::serve(database, &[]);
        let provider = register(&process.admin().await).await;
        assert_eq!(provider.introspect("rt-unknown").await["active"], false);
        execute(database, "ALTER TABLE refresh_tokens RENAME TO refresh_tokens_away").await;
        let answer = provider.form("/main/introspect", &[("token", "rt-unknown")]).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{answer:?}");
        assert!(answer.text.contains("the database does not answer: ask again") && !answer.text.contains("committed"), "{answer:?}");
        execute(database, "ALTER TABLE refresh_tokens_away RENAME TO refresh_tokens").await;
        assert_eq!(provider.introspect("rt-unknown").await["active"], false);
    }
}

/// Writes until nothing more goes onto the disk.
fn fill(filler: &Path) {
    let mut file = std::fs::File::options().create(true).append(true).open(filler).unwrap();
    for size in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![0x5a; size]).is_ok() {}
    }
}

/// On a disk of its own, of six megabytes, which goes with the process.
const ON_A_SMALL_DISK: [&str; 5] = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=6m none \"$0\" && exec \"$@\""];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_nothing_is_acknowledged_or_half_done_and_with_room_again_it_goes_on_by_itself() {
    if !Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|status| status.success()) {
        return skipped("no file system of one's own can be made");
    }
    let mut database = on_sqlite().await;
    let small = database.directory().join("small");
    std::fs::create_dir(&small).unwrap();
    database.url = format!("sqlite://{}", small.join("logoutd.db").display());
    let under = [&ON_A_SMALL_DISK[..], &[small.to_str().unwrap()]].concat();
    let patient =
        [("LOGOUTD_DELIVERY__TIMEOUT_MS", "15000"), ("LOGOUTD_DELIVERY__TIMEOUT_MAX_MS", "15000"), ("LOGOUTD_DELIVERY__LEASE_MS", "60000")];
    let mut process = Process::serve_under(&database, &under, &patient);
    let admin = process.admin().await;
    let provider = register(&admin).await;
    let (arrived, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (uri, _party) = slow_party(Arc::clone(&arrived), Arc::clone(&answer)).await;
    let client = json!({"backchannel_logout_uri": uri, "id_token_signed_response_alg": "ES256"});
    admin.put("/v1/issuers/main/clients/wiki", client).await.expect(201);
    for n in 0..20 {
        let participants = json!([{"client_id": if n == 0 { "wiki" } else { "shop" }, "refresh_token": {"token": format!("rt-{n}")}}]);
        let session = json!({"sub": format!("user-{n}"), "participants": participants});
        provider.put(&format!("/v1/issuers/main/sessions/s-{n}"), session).await.expect(201);
    }
    let log_out = async |n: usize| {
        let body = json!({"target": {"sid": format!("s-{n}")}, "reason": "user_logout"});
        provider.post_with("/v1/issuers/main/logouts", ("Idempotency-Key", &format!("key-{n}")), body).await
    };
    let receipt = format!("/v1/issuers/main/logouts/{}", log_out(0).await.expect(202)["id"].as_str().unwrap());
    tokio::time::timeout(DEADLINE, arrived.notified()).await.expect("the attempt arrives");
    let nobody = admin.without_token();
    until("it is ready", || async { (nobody.get("/readyz").await.status == 200).then_some(()) }).await;

    let filler = PathBuf::from(format!("/proc/{}/root{}", process.id(), small.join("filler").display()));
    fill(&filler);
    let (lines_before, mut refused) = (process.lines().len(), None);
    for n in 1..20 {
        let outcome = log_out(n).await;
        if outcome.status != 201 {
            assert!(!outcome.header("retry-after").is_empty(), "{outcome:?}");
            let problem = outcome.problem(503, "unavailable");
            assert!(problem["detail"].to_string().contains("not known to be committed"), "{problem}");
            refused = Some(n);
            break;
        }
        fill(&filler);
    }
    let refused = refused.expect("a full disk takes nothing");
    // The relying party has answered; the outcome is held until it can be written.
    answer.notify_one();
    until("the outcome could not be written", || async { process.lines().iter().any(|line| line["operation"] == "settle").then_some(()) })
        .await;
    let detail = until("it says that it is not ready", || async { not_ready(&nobody).await }).await;
    assert_eq!(detail, NO_ROOM);
    let told =
        process.lines().into_iter().filter_map(|line| line["error"].as_str().map(str::to_owned)).find(|error| error.contains(NO_ROOM));
    let told = told.unwrap_or_else(|| panic!("the log does not name it: {}", process.log()));
    assert_eq!(told.matches("database or disk is full").count(), 1, "once is enough: {told}");
    assert_eq!(nobody.get("/healthz").await.status, 200);
    let session = provider.get(&format!("/v1/issuers/main/sessions/s-{refused}")).await.expect(200);
    let is_active = provider.introspect(&format!("rt-{refused}")).await["active"].clone();
    assert_eq!((&session["state"], is_active), (&json!("live"), json!(true)), "what was refused is half done: {session}");
    // Whoever tries again and again without a pause would write thousands of lines.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lines = process.lines().len() - lines_before;
    assert!(lines < 300, "{lines} lines in a few seconds: {}", process.log());

    std::fs::remove_file(&filler).unwrap();
    until("it is ready again by itself", || async { (nobody.get("/readyz").await.status == 200).then_some(()) }).await;
    let settled = until("the outcome is written", || async {
        let receipt = provider.get(&receipt).await.expect(200);
        (receipt["state"] == "settled").then_some(receipt)
    })
    .await;
    assert_eq!((&settled["deliveries"]["delivered"], &settled["clients"][0]["attempts"]), (&json!(1), &json!(1)), "{settled}");
    assert_eq!(log_out(refused).await.expect(201)["sessions_ended"], 1);
    assert!(!provider.introspect(&format!("rt-{refused}")).await["active"].as_bool().unwrap());
}
