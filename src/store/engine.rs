//! Opening either database, and refusing one that would not keep what it is given.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool, SqliteConnection, SqlitePool};

/// Where the database is and how it is used.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// `sqlite://file.db` or `postgres://…`.
    pub url: String,
    /// Connections of the pool; on SQLite those that read.
    pub max_connections: u32,
    /// How long one statement may take.
    pub statement_timeout: Duration,
}

/// Why the database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL names neither SQLite nor PostgreSQL, or a database in memory.
    #[error("the database URL must begin with sqlite:// and name a file, or with postgres://")]
    Url,
    /// It could not be reached, read or written.
    #[error("the database could not be opened")]
    Database(#[from] sqlx::Error),
    /// PostgreSQL does not let this server in, or not do what it must.
    #[error("PostgreSQL at {place}: {why}{advice}")]
    Postgres {
        /// Host, port and database: nothing of the URL that could be a secret.
        place: String,
        /// What went wrong, in its own words.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// The URL of PostgreSQL cannot be read. It may hold a password, and is not repeated.
    #[error("the URL of PostgreSQL {0}")]
    PostgresUrl(String),
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// A later version brought the schema further than this one knows.
    #[error("the database was written by a newer logoutd (schema {0}): start that version, or restore a backup from before it")]
    Newer(i64),
    /// What is in the file is no whole database.
    #[error("the database file {} is damaged or none: put it aside and restore a backup with `logoutd restore`", in_full(.0))]
    Damaged(PathBuf, #[source] sqlx::Error),
    /// It can be read, and what is acknowledged must be written.
    #[error("the database file {} cannot be written: give it and its directory to the user this runs as", in_full(.0))]
    ReadOnly(PathBuf, #[source] sqlx::Error),
    /// There is no room even to open it.
    #[error("there is no room on the disk of {}: make some, nothing is lost", in_full(.0))]
    Full(PathBuf, #[source] sqlx::Error),
    /// The disk takes nothing, or gives nothing.
    #[error("the disk of {} cannot be written or read: it is full, a quota of it is used up, or it fails", .0.display())]
    Disk(PathBuf, #[source] sqlx::Error),
    /// It was moved, and somebody else has the truth.
    #[error(
        "this database was moved to {to}: serve that one. To go back to this one, which knows nothing of what happened since, take its mark off with \
             `logoutd move --release`"
    )]
    Moved {
        /// Where it went.
        to: String,
    },
    /// It is being moved.
    #[error(
        "this database is being moved to {to}: run `logoutd move` again until it is done, or take its mark off with `logoutd move --release`"
    )]
    Moving {
        /// Where it goes.
        to: String,
    },
    /// It is being filled.
    #[error("this database is being filled by `logoutd move`, and is not whole: run that again until it is done")]
    Arriving,
    /// Where it should be, nothing can be.
    #[error("the directory of {} does not exist: make it, owned by the user this runs as, or {ELSEWHERE}", in_full(.0))]
    NoDirectory(PathBuf),
    /// Its file, or the lock beside it, could not be made.
    #[error("the file {} could not be opened: its directory must belong to the user this runs as, or {ELSEWHERE}", in_full(.0))]
    File(PathBuf, #[source] std::io::Error),
    /// Another server process uses the same file.
    #[error("another logoutd uses this database file ({} is locked): SQLite serves one process; use PostgreSQL for replicas", in_full(.0))]
    InUse(PathBuf),
    /// Its file has other names beside this one.
    #[error(
        "the database file {} has {names} names (hard links), and what is written by one would be missing by another: remove all names but one \
             (`find -samefile` finds them)", file.display()
    )]
    ManyNames {
        /// The name it was found by.
        file: PathBuf,
        /// How many it has.
        names: u64,
    },
    /// A version with a bug that loses data.
    #[error("SQLite {0} is too old: versions before 3.51.3 can corrupt a write-ahead log")]
    SqliteTooOld(String),
    /// A setting under which an acknowledged commit can be lost.
    #[error("the database setting {setting} is {value}: acknowledged logouts could be lost in a power cut")]
    NotDurable {
        /// Which setting.
        setting: &'static str,
        /// What it is.
        value: String,
    },
}

/// How a database is named that is not where it was looked for.
pub(super) const ELSEWHERE: &str = "say where the database is, by database.url in the file that --config names (or LOGOUTD_DATABASE_URL)";

/// A path as it is found from anywhere: whoever reads of one that is relative would have to guess what to.
pub fn in_full(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// What opening SQLite yields: a pool that reads, the connection that writes, and the lock that keeps others out.
pub(super) struct OpenedSqlite {
    pub(super) read: SqlitePool,
    pub(super) write: SqliteConnection,
    pub(super) lock: File,
    pub(super) version: String,
    pub(super) durability: Vec<(&'static str, String)>,
}

pub(super) async fn open_sqlite(settings: &StoreSettings) -> Result<OpenedSqlite, OpenError> {
    let options = sqlite_options(settings)?;
    let Held { file, lock } = hold(options.get_filename())?;
    let options = options.filename(&file);
    create_for_its_owner(&file)?;
    let mut write = options.connect().await.map_err(|error| of_file(&file, error))?;
    let version: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut write).await?;
    refuse_old_sqlite(&version)?;
    refuse_lazy_sqlite(&mut write).await?;
    let journal_mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut write).await?;
    let durability = vec![("synchronous", "full".to_owned()), ("journal_mode", journal_mode)];
    MIGRATIONS.run(&mut write).await.map_err(|error| {
        if let MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) = error {
            of_file(&file, error)
        } else {
            of_migration(error)
        }
    })?;
    refuse_read_only(&mut write).await.map_err(|error| of_file(&file, error))?;
    let marks = sqlx::query_as(MARKS).fetch_all(&mut write).await?;
    refuse_marked(&marks)?;
    let read = SqlitePoolOptions::new()
        .max_connections(settings.max_connections)
        .test_before_acquire(false)
        .connect_with(options.pragma("query_only", "on"))
        .await?;
    Ok(OpenedSqlite { read, write, lock, version, durability })
}

/// Marks in `meta`: which move a source takes part in, where it goes, when it was done; and that a target is being filled.
pub(super) const MOVE_ID: &str = "move_id";
pub(super) const MOVED_TO: &str = "moved_to";
pub(super) const MOVED_AT: &str = "moved_at";
pub(super) const ARRIVING: &str = "arriving";

const MARKS: &str = "SELECT name, value FROM meta WHERE name IN ('moved_to', 'moved_at', 'arriving')";

/// While a database is moved neither side is served: there would be two truths.
fn refuse_marked(marks: &[(String, String)]) -> Result<(), OpenError> {
    let mark = |name: &str| marks.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    match (mark(MOVED_TO), mark(MOVED_AT), mark(ARRIVING)) {
        (_, _, Some(_)) => Err(OpenError::Arriving),
        (Some(to), Some(_), None) => Err(OpenError::Moved { to }),
        (Some(to), None, None) => Err(OpenError::Moving { to }),
        (None, _, None) => Ok(()),
    }
}

/// Whether a SQLite database has been brought to exactly this version's schema.
pub(super) async fn is_of_this_schema(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version").fetch_all(connection).await?;
    Ok(MIGRATIONS.iter().map(|migration| migration.version).eq(applied))
}

/// Refuses a server that acknowledges what it has not written, and says how it is set.
pub(super) async fn refuse_lazy_postgres(connection: &mut PgConnection) -> Result<Vec<(&'static str, String)>, OpenError> {
    let mut durability = Vec::new();
    for setting in ["fsync", "synchronous_commit"] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&mut *connection).await?;
        if value == "off" {
            return Err(OpenError::NotDurable { setting, value });
        }
        durability.push((setting, value));
    }
    Ok(durability)
}

pub(super) async fn migrate_postgres(connection: &mut PgConnection) -> Result<(), OpenError> {
    MIGRATIONS.run(connection).await.map_err(of_migration)
}

fn of_migration(error: MigrateError) -> OpenError {
    // One that was applied and is not ours.
    if let MigrateError::VersionMissing(version) = error { OpenError::Newer(version) } else { OpenError::Migration(error) }
}

/// The first migration of a database that this version does not know.
pub(super) async fn unknown_migration(connection: &mut SqliteConnection) -> Result<Option<i64>, sqlx::Error> {
    let applied: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version").fetch_all(connection).await?;
    Ok(applied.into_iter().find(|version| !MIGRATIONS.version_exists(*version)))
}

/// What is wrong with a database, by the engine's own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is no database, or not a whole one.
    Damage,
    /// It cannot be written.
    ReadOnly,
    /// The disk has no room.
    Full,
    /// The disk takes or gives nothing: it fails, or has given all that it may.
    Disk,
    /// Something else.
    Other,
}

impl Fault {
    /// For whoever looks after it; without names, since anybody may ask whether a server is ready.
    pub(super) const fn told(self) -> &'static str {
        match self {
            Self::Damage => "the database is damaged: restore a backup",
            Self::ReadOnly => "the database cannot be written",
            Self::Full => "there is no room on the disk of the database: make some, nothing is lost",
            Self::Disk => "the disk of the database fails, or is full",
            Self::Other => "the database is not available",
        }
    }
}

/// The fault at the end of a chain of causes.
pub(super) fn fault_in(error: &(dyn std::error::Error + 'static)) -> Fault {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|cause| cause.downcast_ref::<sqlx::Error>()).map(fault_of).next().unwrap_or(Fault::Other)
}

pub(super) fn fault_of(error: &sqlx::Error) -> Fault {
    let Some(error) = error.as_database_error() else { return Fault::Other };
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<PgDatabaseError>().is_some() { fault_of_postgres(&code) } else { fault_of_sqlite(&code) }
}

fn fault_of_sqlite(code: &str) -> Fault {
    let code = code.parse::<u32>().ok();
    // Extended codes carry the primary one in their low octet.
    match (code, code.map(|code| code & 0xff)) {
        (_, Some(SQLITE_CORRUPT | SQLITE_NOTADB)) => Fault::Damage,
        (_, Some(SQLITE_READONLY | SQLITE_CANTOPEN)) => Fault::ReadOnly,
        // The index of the log is made as large as it must be before it is written.
        (_, Some(SQLITE_FULL)) | (Some(SQLITE_IOERR_SHMSIZE), _) => Fault::Full,
        (_, Some(SQLITE_IOERR)) => Fault::Disk,
        (_, Some(_) | None) => Fault::Other,
    }
}

/// Its appendix on error codes: 53100 `disk_full`, 25006 `read_only_sql_transaction`, 58030 `io_error`, XX001 `data_corrupted`, XX002 `index_corrupted`.
fn fault_of_postgres(code: &str) -> Fault {
    match code {
        "53100" => Fault::Full,
        "25006" => Fault::ReadOnly,
        "58030" => Fault::Disk,
        "XX001" | "XX002" => Fault::Damage,
        _ => Fault::Other,
    }
}

const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_IOERR_SHMSIZE: u32 = SQLITE_IOERR | 19 << 8;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_NOTADB: u32 = 26;

fn of_file(file: &Path, error: sqlx::Error) -> OpenError {
    match fault_of(&error) {
        Fault::Damage => OpenError::Damaged(file.to_owned(), error),
        Fault::ReadOnly => OpenError::ReadOnly(file.to_owned(), error),
        Fault::Full => OpenError::Full(file.to_owned(), error),
        Fault::Disk => OpenError::Disk(file.to_owned(), error),
        Fault::Other => OpenError::Database(error),
    }
}

/// A file that is only readable is opened all the same: it shows at the first write.
async fn refuse_read_only(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for statement in ["BEGIN IMMEDIATE", "INSERT INTO meta (name, value) VALUES ('', '')", "ROLLBACK"] {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

fn sqlite_options(settings: &StoreSettings) -> Result<SqliteConnectOptions, OpenError> {
    if settings.url.contains(":memory:") || settings.url.contains("mode=memory") {
        return Err(OpenError::Url);
    }
    Ok(SqliteConnectOptions::from_str(&settings.url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL syncs at checkpoints only: a power cut would roll back what was already answered with 2xx.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        .statement_cache_capacity(500)
        // What is deleted or replaced is overwritten: an erased name must not stay in the unused parts of pages. `fast` would leave it in unused pages, and
        // spares next to nothing: those are a few in a hundred of the octets that forgetting writes.
        .pragma("secure_delete", "on")
        .pragma("wal_autocheckpoint", "1000")
        .pragma("journal_size_limit", "67108864"))
}

/// A new database is its owner's alone. SQLite gives the files beside it the same mode and owner.
fn create_for_its_owner(database: &Path) -> Result<(), OpenError> {
    match new_file(database) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(OpenError::File(database.to_owned(), error)),
    }
}

/// An empty file that nobody had, its owner's alone: what is written to it tells who is logged in where.
pub(super) fn new_file(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    #[cfg(unix)]
    give_to_whom_the_directory_belongs(&file, path)?;
    Ok(file)
}

/// Commands are often root's and the server is not: what root makes in the server's directory is the server's.
#[cfg(unix)]
fn give_to_whom_the_directory_belongs(file: &File, path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let (own, directory) = (file.metadata()?, directory_of(path).metadata()?);
    if own.uid() != 0 || directory.uid() == 0 {
        return Ok(());
    }
    match fchown(file, Some(directory.uid()), Some(directory.gid())) {
        // Not every root may give files away.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        given => given,
    }
}

/// The directory a file is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A database file that nobody else serves, replaces or moves.
#[derive(Debug)]
pub(super) struct Held {
    /// Where it is, after symbolic links.
    pub(super) file: PathBuf,
    /// Held as long as this is open.
    pub(super) lock: File,
}

/// Locks a database. A second process would be legal for SQLite, and would break what is kept in memory here: doorbells and lanes.
///
/// The lock is a file beside it, since closing another descriptor of the database's own file would drop the locks that SQLite has on it. So it must be known by
/// one name: the one that symbolic links lead to, and no second hard link.
pub(super) fn hold(database: &Path) -> Result<Held, OpenError> {
    let file = followed(database).map_err(|error| OpenError::File(database.to_owned(), error))?;
    let lock = lock_beside(&file)?;
    refuse_many_names(&file)?;
    Ok(Held { file, lock })
}

/// So many links lead from one to another at most, as systems have it.
const LINKS_MAX: usize = 40;

/// The file a name leads to, whether or not it is there yet. Links among its directories are followed by whoever opens it, and lead to one lock.
fn followed(path: &Path) -> std::io::Result<PathBuf> {
    let mut file = path.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&file) {
            Ok(to) => file = directory_of(&file).join(to),
            // It is no link, or not there.
            Err(_) => return Ok(file),
        }
    }
    Err(std::io::Error::other("symbolic links lead in a circle"))
}

/// By each of its names a file would have a log of its own, which SQLite says damages it.
pub(super) fn refuse_many_names(file: &Path) -> Result<(), OpenError> {
    #[cfg(unix)]
    if let Ok(found) = file.metadata() {
        let names = std::os::unix::fs::MetadataExt::nlink(&found);
        if found.is_file() && names > 1 {
            return Err(OpenError::ManyNames { file: file.to_owned(), names });
        }
    }
    Ok(())
}

fn lock_beside(database: &Path) -> Result<File, OpenError> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let there = |error: std::io::Error| {
        let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
        if exists { File::options().write(true).open(&path) } else { Err(error) }
    };
    let file = new_file(&path).or_else(there).map_err(|error| {
        let nowhere = error.kind() == std::io::ErrorKind::NotFound;
        if nowhere { OpenError::NoDirectory(database.to_owned()) } else { OpenError::File(path.clone(), error) }
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path)),
        Err(std::fs::TryLockError::Error(error)) => Err(OpenError::File(path, error)),
    }
}

fn refuse_old_sqlite(version: &str) -> Result<(), OpenError> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = [parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0)];
    if found < [3, 51, 3] { Err(OpenError::SqliteTooOld(version.to_owned())) } else { Ok(()) }
}

async fn refuse_lazy_sqlite(connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(connection).await?;
    if synchronous < 2 { Err(OpenError::NotDurable { setting: "synchronous", value: synchronous.to_string() }) } else { Ok(()) }
}

/// What opening PostgreSQL yields: a pool that works, and a small one for notices.
pub(super) struct OpenedPostgres {
    pub(super) pool: PgPool,
    pub(super) side: PgPool,
    pub(super) version: String,
    pub(super) durability: Vec<(&'static str, String)>,
}

pub(super) async fn open_postgres(settings: &StoreSettings) -> Result<OpenedPostgres, OpenError> {
    let options = postgres_options(&settings.url)?;
    let place = place_of(&options);
    open_postgres_with(settings, options).await.map_err(|error| {
        if let OpenError::Database(error) | OpenError::Migration(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) =
            error
        {
            of_postgres(place, &error)
        } else {
            error
        }
    })
}

/// What can be told of a database without opening it.
pub(super) fn foreseen(settings: &StoreSettings) -> Result<(), OpenError> {
    if !settings.url.starts_with("sqlite:") {
        return postgres_options(&settings.url).map(drop);
    }
    let file = sqlite_options(settings)?.get_filename().to_owned();
    if directory_of(&file).is_dir() { Ok(()) } else { Err(OpenError::NoDirectory(file)) }
}

fn postgres_options(url: &str) -> Result<PgConnectOptions, OpenError> {
    PgConnectOptions::from_str(url).map_err(|error| {
        let why = if let sqlx::Error::Configuration(why) = error { format!(": {why}") } else { String::new() };
        OpenError::PostgresUrl(format!("cannot be read{why}"))
    })
}

/// Where a database is.
fn place_of(options: &PgConnectOptions) -> String {
    let host = options.get_socket().map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
    format!("{host}:{}/{}", options.get_port(), options.get_database().unwrap_or(options.get_username()))
}

fn of_postgres(place: String, error: &sqlx::Error) -> OpenError {
    // Its own text of an error from the server ends in a line of the server's source.
    let why = if let sqlx::Error::Database(error) = error {
        error.message().to_owned()
    } else if let sqlx::Error::Io(error) = error {
        error.to_string()
    } else {
        error.to_string()
    };
    OpenError::Postgres { place, why, advice: advice_for_postgres(error) }
}

/// By the codes of its appendix, where it answered.
fn advice_for_postgres(error: &sqlx::Error) -> &'static str {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code).unwrap_or_default();
    match (error, &*code) {
        (sqlx::Error::Io(error), _) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            ": nobody listens there; start it, or look at host and port in database.url"
        }
        (sqlx::Error::Io(_), _) => ": look at host and port in database.url, and at the network in between",
        (sqlx::Error::Tls(_), _) => ": look at sslmode and sslrootcert in database.url",
        (_, "28000" | "28P01") => ": look at user and password in database.url, and at its pg_hba.conf",
        (_, "3D000") => ": make it first, owned by the user of database.url, or look at the name there",
        (_, "42501") => ": give the user of database.url the database, or CREATE on its schema",
        (_, "53300") => ": raise its max_connections, or lower database.max_connections",
        (_, "57P03") => ": it is starting or stopping; try again",
        (_, "53100") => ": there is no room on its disk; make some, nothing is lost",
        _ => "",
    }
}

async fn open_postgres_with(settings: &StoreSettings, options: PgConnectOptions) -> Result<OpenedPostgres, OpenError> {
    let timeout_ms = settings.statement_timeout.as_millis().to_string();
    let options = options.application_name("logoutd").options([
        ("statement_timeout", timeout_ms.as_str()),
        ("lock_timeout", timeout_ms.as_str()),
        ("idle_in_transaction_session_timeout", "15000"),
        ("default_transaction_isolation", "read committed"),
    ]);
    let mut connection = options.connect().await?;
    let durability = refuse_lazy_postgres(&mut connection).await?;
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    migrate_postgres(&mut connection).await?;
    let marks = sqlx::query_as(MARKS).fetch_all(&mut connection).await?;
    refuse_marked(&marks)?;
    connection.close().await?;
    let side = PgPoolOptions::new()
        .max_connections(super::notices::CONNECTIONS)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy_with(options.clone());
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options)
        .await?;
    Ok(OpenedPostgres { pool, side, version, durability })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_room_is_told_from_one_that_fails_whatever_could_not_be_written() {
        for (code, fault) in [
            ("13", Fault::Full),
            ("4874", Fault::Full),
            ("778", Fault::Disk),
            ("266", Fault::Disk),
            ("1032", Fault::ReadOnly),
            ("11", Fault::Damage),
            ("5", Fault::Other),
            ("", Fault::Other),
        ] {
            assert_eq!(fault_of_sqlite(code), fault, "{code}");
        }
        for (code, fault) in [("53100", Fault::Full), ("25006", Fault::ReadOnly), ("58030", Fault::Disk), ("53200", Fault::Other)] {
            assert_eq!(fault_of_postgres(code), fault, "{code}");
        }
    }

    #[test]
    fn a_sqlite_with_the_log_corruption_bug_is_refused() {
        for old in ["3.46.0", "3.51.2", "2.99.99"] {
            assert!(refuse_old_sqlite(old).is_err(), "{old}");
        }
        for good in ["3.51.3", "3.52.1", "4.0.0"] {
            assert!(refuse_old_sqlite(good).is_ok(), "{good}");
        }
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_on_the_disk_or_the_start_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", directory.path().join("logoutd.db").display());
        let settings = StoreSettings { url, max_connections: 1, statement_timeout: Duration::from_secs(1) };
        let options = sqlite_options(&settings).unwrap();
        let mut connection = options.clone().connect().await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut connection).await.unwrap();
        assert_eq!(synchronous, 2, "FULL");
        refuse_lazy_sqlite(&mut connection).await.unwrap();
        for lazy in [SqliteSynchronous::Off, SqliteSynchronous::Normal] {
            let mut connection = options.clone().synchronous(lazy).connect().await.unwrap();
            let refused = refuse_lazy_sqlite(&mut connection).await;
            assert!(matches!(refused, Err(OpenError::NotDurable { setting: "synchronous", .. })), "{lazy:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_database_is_held_by_whatever_name_leads_to_it_and_by_one_name_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::os::unix::fs::symlink("real", at("other")).unwrap();
        std::os::unix::fs::symlink("other/l.db", at("link.db")).unwrap();
        std::os::unix::fs::symlink(at("link.db"), at("longer.db")).unwrap();
        std::os::unix::fs::symlink("circle.db", at("circle.db")).unwrap();
        let names = ["real/l.db", "other/l.db", "link.db", "longer.db"];
        // Before it is there, and after.
        for _ in 0..2 {
            for held in names {
                let _held = hold(&at(held)).unwrap();
                for other in names {
                    assert!(matches!(hold(&at(other)), Err(OpenError::InUse(_))), "{held} {other}");
                }
            }
            std::fs::write(at("real/l.db"), "").unwrap();
        }
        assert!(matches!(hold(&at("circle.db")), Err(OpenError::File(..))));
        std::fs::hard_link(at("real/l.db"), at("second.db")).unwrap();
        for name in names.into_iter().chain(["second.db"]) {
            assert!(matches!(hold(&at(name)), Err(OpenError::ManyNames { names: 2, .. })), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_new_database_can_be_read_by_its_owner_alone_and_an_old_one_is_left_as_it_is() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("logoutd.db");
        let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        create_for_its_owner(&file).unwrap();
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        create_for_its_owner(&file).unwrap();
        assert_eq!(mode(), 0o640);
    }

    #[test]
    fn a_database_in_memory_is_refused() {
        let settings = |url: &str| StoreSettings { url: url.into(), max_connections: 1, statement_timeout: Duration::from_secs(1) };
        assert!(matches!(sqlite_options(&settings("sqlite::memory:")), Err(OpenError::Url)));
        assert!(matches!(sqlite_options(&settings("sqlite://x?mode=memory")), Err(OpenError::Url)));
    }
}
