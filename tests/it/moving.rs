//! A database that outgrows its file: everything is moved to PostgreSQL, whoever is killed on the way, and never are there two truths.

use std::collections::BTreeMap;
use std::process::Output;

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

use crate::harness::api::Api;
use crate::harness::database::{Database, Engine};
use crate::harness::party::{Party, Reply};
use crate::harness::process::{KEY, Process, done, logoutd, refused};
use crate::harness::server::ISSUER;
use crate::harness::until;

const SESSIONS: usize = 150;

/// A file and a server; none where PostgreSQL is not there to be tested on.
async fn sides() -> Option<(Database, Database)> {
    let to = Database::fresh(Engine::Postgres).await?;
    Some((Database::fresh(Engine::Sqlite).await.unwrap(), to))
}

fn move_all(from: &Database, to: &Database) -> Output {
    logoutd(from, &["move", "--from", &from.url, "--to", &to.url, "--json"], &KEY)
}

fn token(n: usize) -> String {
    format!("rt-{n}-tGzv3JOkF0XG5Qx2TlKWIA")
}

/// A file with many sessions, a logout that is still to be told, and whoever is to be told.
struct Filled {
    party: Party,
    provider: Api,
    receipt: String,
}

async fn fill(from: &Database) -> Filled {
    let mut process = Process::serve(from, &[]);
    let (admin, base) = (process.admin().await, process.base().await);
    admin.post("/v1/issuers", json!({"id": "main", "issuer": ISSUER, "signing_algs": ["ES256"]})).await.expect(201);
    let party = Party::open(&base, "main", ISSUER, "wiki").await;
    party.always(Reply::Drop);
    let client = json!({"backchannel_logout_uri": party.uri(), "id_token_signed_response_alg": "ES256", "client_secret": "s3cret-of-the-wiki-0123456789"});
    admin.put("/v1/issuers/main/clients/wiki", client).await.expect(201);
    let provider = admin.mint(json!({"role": "provider", "issuer": "main"})).await;
    let session = |n: usize| {
        let participants = json!([{"client_id": "wiki", "refresh_token": {"token": token(n)}}, {"client_id": "shop"}]);
        json!({"sid": format!("s-{n}"), "sub": format!("user-{n} \u{2713}"), "participants": participants})
    };
    let sessions: Vec<_> = (0..SESSIONS).map(session).collect();
    provider.post("/v1/issuers/main/sessions", json!({"sessions": sessions})).await.expect(200);
    let logout = provider.post("/v1/issuers/main/logouts", json!({"target": {"sid": "s-0"}, "reason": "user_logout"})).await.expect(202);
    let receipt = format!("/v1/issuers/main/logouts/{}", logout["id"].as_str().unwrap());
    party.received(1).await;
    let running = refused(&logoutd(from, &["move", "--from", &from.url, "--to", "postgres://nobody@127.0.0.1:1/x"], &KEY));
    assert!(running.contains("another logoutd uses this database file"), "{running}");
    process.kill();
    Filled { party, provider, receipt }
}

/// Begins to move in pages of three rows, and is killed in the middle.
async fn begin_and_be_killed(from: &Database, to: &Database) {
    let mover = Process::spawn(from, &["move", "--from", &from.url, "--to", &to.url, "--page-rows", "3"], &KEY);
    until("a good part is moved", || async {
        let mut target = PgConnection::connect(&to.url).await.unwrap();
        let copied = "SELECT CAST(COALESCE(sum(copied), 0) AS BIGINT) FROM move_progress";
        // Before the first page there is no such table.
        let copied = sqlx::query_scalar::<_, i64>(copied).fetch_one(&mut target).await.unwrap_or(0);
        (copied > 100).then_some(())
    })
    .await;
    mover.kill();
}

/// How many rows each table has, but for what belongs to one side alone.
async fn counts_of_file(from: &Database, tables: &[String]) -> BTreeMap<String, i64> {
    let mut source = SqliteConnection::connect(&from.url).await.unwrap();
    let mut counts = BTreeMap::new();
    for table in tables {
        let text = AssertSqlSafe(format!("SELECT count(*) FROM \"{table}\""));
        counts.insert(table.clone(), sqlx::query_scalar(text).fetch_one(&mut source).await.unwrap());
    }
    counts
}

async fn counts_of_server(to: &Database, tables: &[String]) -> BTreeMap<String, i64> {
    let mut target = PgConnection::connect(&to.url).await.unwrap();
    let mut counts = BTreeMap::new();
    for table in tables {
        let text = AssertSqlSafe(format!("SELECT count(*) FROM \"{table}\""));
        counts.insert(table.clone(), sqlx::query_scalar(text).fetch_one(&mut target).await.unwrap());
    }
    counts
}

async fn does_not_serve(database: &Database, why: &str) {
    let mut process = Process::serve(database, &[]);
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(process.log().contains(why), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_moves_to_postgresql_though_the_mover_is_killed_and_goes_on_there_with_what_was_pending() {
    let Some((from, to)) = sides().await else { return };
    let Filled { party, provider, receipt } = fill(&from).await;
    begin_and_be_killed(&from, &to).await;
    does_not_serve(&from, "is being moved to postgres://").await;
    does_not_serve(&to, "is being filled by `logoutd move`").await;

    let moved = done(&move_all(&from, &to));
    let tables: Vec<(String, i64)> = moved["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| (table["table"].as_str().unwrap().to_owned(), table["rows"].as_i64().unwrap()))
        .collect();
    let names: Vec<String> = tables.iter().map(|(name, _)| name.clone()).collect();
    let (here, there) = (counts_of_file(&from, &names).await, counts_of_server(&to, &names).await);
    for (name, rows) in &tables {
        // The source's own marks stay with it.
        let marks = if name == "meta" { 3 } else { 0 };
        assert_eq!((here[name], there[name]), (rows + marks, *rows), "{name}");
    }
    assert_eq!(there["sessions"], i64::try_from(SESSIONS).unwrap());

    does_not_serve(&from, "was moved to postgres://").await;
    assert!(refused(&move_all(&from, &to)).contains("was moved to postgres://"));
    party.always(Reply::Status(200));
    let mut process = Process::serve(&to, &[("LOGOUTD_SCHEDULE__AUDIT", "* * * * * *")]);
    let admin = process.admin().await;
    let provider = admin.with_token(provider.token());
    for n in 0..SESSIONS {
        assert_eq!(provider.introspect(&token(n)).await["active"], json!(n != 0), "{n}");
    }
    let settled = until("what was pending is delivered", || async {
        let receipt = provider.get(&receipt).await.expect(200);
        (receipt["state"] == "settled").then_some(receipt)
    })
    .await;
    assert_eq!(settled["deliveries"]["delivered"], 1, "{settled}");
    assert_eq!(admin.items("/v1/issuers/main/gaps").await.len(), 0, "a move forgets nothing");
    until("what was recorded before is sealed here", || async {
        let head = admin.get("/v1/audit/head").await.expect(200);
        (head["unsealed"] == 0 && head["seq"].as_u64() > Some(4)).then_some(())
    })
    .await;
    assert!(!admin.items("/v1/alarms").await.iter().any(|alarm| alarm["kind"] == "audit_broken"));

    // Back to the file: what happened since, it does not know.
    let released = logoutd(&from, &["move", "--release", "--from", &from.url], &[]);
    assert_eq!(released.status.code(), Some(0), "{released:?}");
    let mut process = Process::serve(&from, &[]);
    let admin = process.admin().await;
    let gap = admin.items("/v1/issuers/main/gaps").await.remove(0);
    assert!(gap["closed_at"].is_null(), "{gap}");
    assert_eq!(admin.with_token(provider.token()).introspect(&token(1)).await, json!({"active": false}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_same_on_both_sides_is_found_and_the_target_is_not_served() {
    let Some((from, to)) = sides().await else { return };
    fill(&from).await;
    begin_and_be_killed(&from, &to).await;
    let mut target = PgConnection::connect(&to.url).await.unwrap();
    // The first tables are there already, in the order of what refers to what.
    let changed = sqlx::query("UPDATE clients SET client_name = 'another'").execute(&mut target).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);
    let told = refused(&move_all(&from, &to));
    assert!(told.contains("table clients is not what the source's is (1 of 1 rows)"), "{told}");
    does_not_serve(&to, "is being filled by `logoutd move`").await;
    // Nothing is lost: the file is served again, without a gap, since nobody served anything else.
    let released = logoutd(&from, &["move", "--release", "--from", &from.url], &[]);
    assert_eq!(released.status.code(), Some(0), "{released:?}");
    let mut process = Process::serve(&from, &[]);
    assert_eq!(process.admin().await.items("/v1/issuers/main/gaps").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_refused_into_what_is_not_empty_and_under_a_key_that_opens_nothing() {
    let Some((from, to)) = sides().await else { return };
    fill(&from).await;
    let arguments = ["move", "--from", &from.url, "--to", &to.url];
    let other = [("LOGOUTD_SEALING_KEY", "kKvN7xI0VniQq83vEjRWeJCrze8SNFZ4q83vEjRWeJA")];
    assert!(refused(&logoutd(&from, &arguments, &other)).contains("another sealing key"));
    assert!(refused(&logoutd(&from, &arguments, &[])).contains("a sealing_key or sealing_key_file is needed"));
    let backwards = ["move", "--from", &to.url, "--to", &from.url];
    assert!(refused(&logoutd(&from, &backwards, &KEY)).contains("in no other direction"));
    let mut served = Process::serve(&to, &[]);
    served.base().await;
    served.kill();
    assert!(refused(&move_all(&from, &to)).contains("the target holds rows already"));
    // What was refused left no mark.
    let mut process = Process::serve(&from, &[]);
    process.admin().await.get("/v1/issuers/main").await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_added_later_is_moved_with_the_others() {
    let Some((from, to)) = sides().await else { return };
    for (database, octets) in [(&from, "BLOB"), (&to, "BYTEA")] {
        let migrated = logoutd(&from, &["migrate", "--database-url", &database.url], &KEY);
        assert_eq!(migrated.status.code(), Some(0), "{migrated:?}");
        // By their names they would come in the wrong order.
        let texts = [
            "CREATE TABLE tomorrow (id TEXT PRIMARY KEY, known BOOLEAN NOT NULL)".to_owned(),
            format!("CREATE TABLE later (number BIGINT NOT NULL, of TEXT REFERENCES tomorrow (id), octets {octets}, PRIMARY KEY (number))"),
        ];
        for text in texts {
            match database.engine {
                Engine::Sqlite => {
                    let mut connection = SqliteConnection::connect(&database.url).await.unwrap();
                    sqlx::query(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
                }
                Engine::Postgres => {
                    let mut connection = PgConnection::connect(&database.url).await.unwrap();
                    sqlx::query(AssertSqlSafe(text)).execute(&mut connection).await.unwrap();
                }
            }
        }
    }
    let mut source = SqliteConnection::connect(&from.url).await.unwrap();
    for text in [
        "INSERT INTO tomorrow (id, known) VALUES ('a', TRUE), ('b', FALSE)",
        "INSERT INTO later (number, of, octets) VALUES (1, 'b', x'00ff'), (2, NULL, NULL)",
    ] {
        sqlx::query(text).execute(&mut source).await.unwrap();
    }
    source.close().await.unwrap();
    let moved = done(&move_all(&from, &to));
    let rows = |name: &str| moved["tables"].as_array().unwrap().iter().find(|table| table["table"] == name).unwrap()["rows"].clone();
    assert_eq!((rows("tomorrow"), rows("later")), (json!(2), json!(2)), "{moved}");
    let mut target = PgConnection::connect(&to.url).await.unwrap();
    let there: Vec<(i64, Option<bool>, Option<Vec<u8>>)> =
        sqlx::query_as("SELECT l.number, t.known, l.octets FROM later AS l LEFT JOIN tomorrow AS t ON t.id = l.of ORDER BY l.number")
            .fetch_all(&mut target)
            .await
            .unwrap();
    assert_eq!(there, [(1, Some(false), Some(vec![0, 255])), (2, None, None)]);
}
