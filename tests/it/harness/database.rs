//! A database for each test: a SQLite file, or a PostgreSQL schema where `LOGOUTD_TEST_POSTGRES_URL` names a server.

use std::io::Write as _;
use std::sync::Once;
use std::time::Duration;

use logoutd::seams::{Clock, Entropy};
use logoutd::store::{Store, StoreSettings};
use sqlx::{Connection as _, Executor as _};
use tokio_util::task::TaskTracker;

/// Which engine a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// A database that is gone with this value.
pub(crate) struct Database {
    pub(crate) engine: Engine,
    pub(crate) url: String,
    directory: tempfile::TempDir,
}

impl Database {
    /// A fresh one; none when the engine is not there to be tested on.
    pub(crate) async fn fresh(engine: Engine) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let url = match engine {
            Engine::Sqlite => format!("sqlite://{}", directory.path().join("logoutd.db").display()),
            Engine::Postgres => fresh_schema().await?,
        };
        Some(Self { engine, url, directory })
    }

    /// A PostgreSQL database of a server that is this test's own.
    pub(crate) fn at(url: String) -> Self {
        Self { engine: Engine::Postgres, url, directory: tempfile::tempdir().unwrap() }
    }

    /// Where this test may keep other files.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// The store on this database, as a server would open it.
    pub(crate) async fn open(&self, clock: &Clock) -> Store {
        let settings = StoreSettings { url: self.url.clone(), max_connections: 4, statement_timeout: Duration::from_secs(10) };
        Store::open(&settings, clock.clone(), Entropy::os(), &TaskTracker::new()).await.unwrap()
    }
}

/// A schema of its own on the server; it goes with the server, which is made for the test run.
async fn fresh_schema() -> Option<String> {
    let Ok(server) = std::env::var("LOGOUTD_TEST_POSTGRES_URL") else {
        say_once();
        return None;
    };
    let schema = format!("t{:016x}", Entropy::os().number());
    let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).await.unwrap();
    connection.close().await.unwrap();
    let separator = if server.contains('?') { '&' } else { '?' };
    Some(format!("{server}{separator}options=-csearch_path%3D{schema}"))
}

/// Straight to the standard error, which the test runner does not swallow.
fn say_once() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let words = "\nnote: LOGOUTD_TEST_POSTGRES_URL is not set: the PostgreSQL half of this suite was not run\n";
        drop(std::io::stderr().write_all(words.as_bytes()));
    });
}

/// Stamps one test for both engines.
macro_rules! on_both_engines {
    ($($(#[$meta:meta])* async fn $name:ident($database:ident) $body:block)*) => { $(
        mod $name {
            use super::*;

            async fn run($database: &$crate::harness::database::Database) $body

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                let database = $crate::harness::database::Database::fresh($crate::harness::database::Engine::Sqlite).await;
                run(&database.expect("SQLite is always there")).await;
            }

            $(#[$meta])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                if let Some(database) = $crate::harness::database::Database::fresh($crate::harness::database::Engine::Postgres).await {
                    run(&database).await;
                }
            }
        }
    )* };
}
pub(crate) use on_both_engines;
