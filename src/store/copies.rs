//! Copies of a SQLite database: a backup taken beside a running server, and putting one in a database's place.
//!
//! A copy is made whole under a name of its own, checked, brought to the disk and only then given its name: what has the name of a backup is one. It carries
//! the instant it was taken, so that its first start knows since when it knows nothing. The sealing key is a file of its own and never in a copy.
//!
//! A restore takes the name of the database in one step, after everything that can fail: whatever happens meanwhile, what has the name is whole, the old one
//! with its last commits or the copy.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::engine::{self, ELSEWHERE, OpenError, directory_of, in_full, new_file};
use super::{BACKUP_TAKEN_AT, CANARY};
use crate::model::Timestamp;
use crate::seams::{Clock, Entropy};

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The name is taken.
    #[error("{} exists, and nothing is overwritten: name another file", in_full(.0))]
    Exists(PathBuf),
    /// A restore would take a database's place.
    #[error("{} holds a database: say --replace to put it aside, which loses nothing", in_full(.0))]
    InTheWay(PathBuf),
    /// There is nothing to copy.
    #[error("there is no database at {}: {ELSEWHERE}", in_full(.0))]
    Absent(PathBuf),
    /// There is nothing to restore.
    #[error("there is no backup at {}", in_full(.0))]
    NoBackup(PathBuf),
    /// A file could not be made, written or named.
    #[error("{} cannot be written", in_full(.0))]
    File(PathBuf, #[source] std::io::Error),
    /// The database could not be read, or the copy not be written.
    #[error("{} could not be copied", .0.display())]
    Database(PathBuf, #[source] sqlx::Error),
    /// What was copied is not whole.
    #[error("{} is damaged ({what}): take an older backup", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The first thing that was found.
        what: String,
    },
    /// It is no database of this program's.
    #[error("{} is not a database of logoutd", .0.display())]
    Foreign(PathBuf, #[source] sqlx::Error),
    /// A later version wrote it.
    #[error("{} was written by a newer logoutd (schema {version}): restore it with that version", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// The schema it knows and we do not.
        version: i64,
    },
    /// Nobody knows when it was taken.
    #[error("{} does not say when it was taken, since `logoutd backup` did not make it: say it with --taken-at", .0.display())]
    NoMark(PathBuf),
    /// Somebody else than a server has it open.
    #[error("{} is being read: end what reads it, and repeat", .0.display())]
    Read(PathBuf),
    /// A server runs, or the lock could not be taken.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What is in a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Its size in octets.
    pub bytes: u64,
    /// How many sessions are in it, live and ended.
    pub sessions: u64,
    /// How many logouts are in it.
    pub events: u64,
}

/// Copies a database that may be in use, as it stands at one instant.
pub async fn back_up(database: &Path, to: &Path, clock: &Clock) -> Result<Copied, CopyError> {
    if to.symlink_metadata().is_ok() {
        return Err(CopyError::Exists(to.to_owned()));
    }
    engine::refuse_many_names(database)?;
    // Read before the copy begins: what happened since is at least what is missing.
    let taken_at = clock.now();
    if !database.is_file() {
        return Err(CopyError::Absent(database.to_owned()));
    }
    let part = Part::begin(to)?;
    let mut source = open(database).await?;
    part.fill(&mut source, database).await?;
    drop(source.close().await);
    let copied = part.inspect(Some(taken_at)).await?;
    part.name(to)?;
    Ok(copied)
}

/// The canary of the sealing key a copy was made under; none where no server ever ran on it.
pub async fn canary(backup: &Path) -> Result<Option<String>, CopyError> {
    let mut connection = open(backup).await?;
    let canary = meta(&mut connection, CANARY).await.map_err(|error| CopyError::Foreign(backup.to_owned(), error))?;
    drop(connection.close().await);
    Ok(canary)
}

/// What becomes of a database that stands where another one is restored to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is restored.
    Keep,
    /// It is put aside.
    PutAside,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What is there now.
    pub copied: Copied,
    /// Where the database is that was there before.
    pub aside: Option<PathBuf>,
}

/// Puts a copy where a database belongs, while no server uses it. `taken_at` is for copies that do not say so themselves.
pub async fn restore(
    backup: &Path,
    to: &Path,
    taken_at: Option<Timestamp>,
    existing: Existing,
    clock: &Clock,
) -> Result<Restored, CopyError> {
    let held = engine::hold(to)?;
    // Not the name of a link, which would lead to the old one no more.
    let to = &held.file;
    let there: Vec<&str> = FILES.into_iter().filter(|suffix| beside(to, suffix).symlink_metadata().is_ok()).collect();
    if !there.is_empty() && existing == Existing::Keep {
        return Err(CopyError::InTheWay(to.to_owned()));
    }
    let part = Part::begin(to)?;
    let mut source = open(backup).await?;
    part.fill(&mut source, backup).await?;
    drop(source.close().await);
    let copied = part.inspect_as(backup, taken_at).await?;
    let aside = (!there.is_empty()).then(|| beside(to, &format!(".before-{}", clock.now().millis())));
    match &aside {
        None => part.name(to)?,
        Some(aside) => {
            settle(to).await?;
            part.replace(to, aside)?;
        }
    }
    Ok(Restored { copied, aside })
}

/// Brings the last commits from the log into the file they belong to, so that the file alone is the whole database.
async fn settle(database: &Path) -> Result<(), CopyError> {
    if !database.is_file() {
        return Ok(());
    }
    let options = SqliteConnectOptions::new().filename(database).busy_timeout(BUSY_MAX);
    let settled = async {
        let mut connection = options.connect().await?;
        let busy: i64 = sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(busy)
    };
    match settled.await {
        Ok(0) => Ok(()),
        Ok(_) => Err(CopyError::Read(database.to_owned())),
        Err(error) => match engine::fault_of(&error) {
            // That is why somebody restores.
            engine::Fault::Damage => Ok(()),
            engine::Fault::ReadOnly | engine::Fault::Full | engine::Fault::Disk | engine::Fault::Other => {
                Err(CopyError::Database(database.to_owned(), error))
            }
        },
    }
}

/// Puts a database aside, but for its name, which the main file keeps until another takes it; says what of it was done.
fn put_aside(database: &Path, aside: &Path, done: &mut Vec<&'static str>) -> std::io::Result<()> {
    // A log that is left beside another database would be played into it. There is nothing in it, but where the database is damaged.
    for suffix in LOGS.into_iter().filter(|suffix| beside(database, suffix).symlink_metadata().is_ok()) {
        std::fs::rename(beside(database, suffix), beside(aside, suffix))?;
        done.push(suffix);
    }
    if database.symlink_metadata().is_err() {
        return Ok(());
    }
    match std::fs::hard_link(database, aside) {
        // Some file systems have no second names.
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => copy_new(database, aside, done),
        linked => {
            linked?;
            done.push("");
            Ok(())
        }
    }
}

fn copy_new(from: &Path, to: &Path, done: &mut Vec<&'static str>) -> std::io::Result<()> {
    let mut copy = new_file(to)?;
    done.push("");
    std::io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()
}

/// Brings a name to the disk.
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// What may stand beside the main file of a database.
const LOGS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// The files of a database, the main one last.
const FILES: [&str; 4] = ["-wal", "-shm", "-journal", ""];

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A database to be read. Whoever else uses it goes on.
async fn open(database: &Path) -> Result<SqliteConnection, CopyError> {
    if !database.is_file() {
        return Err(CopyError::NoBackup(database.to_owned()));
    }
    let options = SqliteConnectOptions::new().filename(database).read_only(true).busy_timeout(BUSY_MAX);
    options.connect().await.map_err(|error| CopyError::Database(database.to_owned(), error))
}

/// How long a copy waits for whoever holds the whole file.
const BUSY_MAX: Duration = Duration::from_secs(30);

async fn meta(connection: &mut SqliteConnection, name: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(connection).await
}

/// A copy that is being made; what is not named in the end is removed.
struct Part(PathBuf);

impl Part {
    /// An empty file beside the name it is for, its owner's alone.
    fn begin(to: &Path) -> Result<Self, CopyError> {
        let path = beside(to, &format!(".part-{:016x}", Entropy::os().number()));
        new_file(&path).map_err(|error| CopyError::File(to.to_owned(), error))?;
        Ok(Self(path))
    }

    /// Copies everything that is committed, as it stands at one instant.
    async fn fill(&self, source: &mut SqliteConnection, from: &Path) -> Result<(), CopyError> {
        let path = self.0.to_str().ok_or_else(|| CopyError::File(self.0.clone(), std::io::ErrorKind::InvalidFilename.into()))?;
        let filled = sqlx::query("VACUUM INTO $1").bind(path).execute(source).await;
        filled.map(drop).map_err(|error| match engine::fault_of(&error) {
            engine::Fault::Damage => CopyError::Damaged { path: from.to_owned(), what: error.to_string() },
            engine::Fault::ReadOnly | engine::Fault::Full | engine::Fault::Disk | engine::Fault::Other => {
                CopyError::Database(from.to_owned(), error)
            }
        })
    }

    /// Writes down when it was taken, looks at every page, and counts.
    async fn inspect(&self, taken_at: Option<Timestamp>) -> Result<Copied, CopyError> {
        self.inspect_as(&self.0, taken_at).await
    }

    /// The same, told as what it was copied from.
    async fn inspect_as(&self, shown: &Path, taken_at: Option<Timestamp>) -> Result<Copied, CopyError> {
        let failed = |error| CopyError::Database(shown.to_owned(), error);
        let foreign = |error| CopyError::Foreign(shown.to_owned(), error);
        // One file, with nothing beside it.
        let options = SqliteConnectOptions::new()
            .filename(&self.0)
            .journal_mode(SqliteJournalMode::Delete)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_MAX);
        let mut connection = options.connect().await.map_err(failed)?;
        let found: String = sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut connection).await.map_err(failed)?;
        if found != "ok" {
            return Err(CopyError::Damaged { path: shown.to_owned(), what: found });
        }
        if let Some(version) = engine::unknown_migration(&mut connection).await.map_err(foreign)? {
            return Err(CopyError::Newer { path: shown.to_owned(), version });
        }
        let taken_at = self.mark(&mut connection, shown, taken_at).await?;
        let counted: (i64, i64) = sqlx::query_as("SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM events)")
            .fetch_one(&mut connection)
            .await
            .map_err(foreign)?;
        connection.close().await.map_err(failed)?;
        let size = std::fs::metadata(&self.0).map_err(|error| CopyError::File(self.0.clone(), error))?.len();
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok(Copied { taken_at, bytes: size, sessions: count(counted.0), events: count(counted.1) })
    }

    /// Of a copy of a copy that was never started, the older instant holds: nobody knows what happened since.
    async fn mark(&self, connection: &mut SqliteConnection, shown: &Path, taken_at: Option<Timestamp>) -> Result<Timestamp, CopyError> {
        let foreign = |error| CopyError::Foreign(shown.to_owned(), error);
        let known = meta(connection, BACKUP_TAKEN_AT).await.map_err(foreign)?;
        let known = known.and_then(|text| text.parse().ok()).map(Timestamp::from_millis);
        let taken_at = known.into_iter().chain(taken_at).min().ok_or_else(|| CopyError::NoMark(shown.to_owned()))?;
        sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value")
            .bind(BACKUP_TAKEN_AT)
            .bind(taken_at.millis().to_string())
            .execute(connection)
            .await
            .map_err(foreign)?;
        Ok(taken_at)
    }

    /// Brings it to the disk and gives it its name, which nothing may have by now.
    fn name(self, to: &Path) -> Result<(), CopyError> {
        let failed = |error: std::io::Error| {
            let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
            if exists { CopyError::Exists(to.to_owned()) } else { CopyError::File(to.to_owned(), error) }
        };
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(failed)?;
        // Unlike a renamed file, a linked one takes no other's place. The first name goes when this value does.
        std::fs::hard_link(&self.0, to).map_err(failed)?;
        sync_directory_of(to).map_err(failed)
    }

    /// Brings it to the disk and takes a database's name; what had it is known by another one from then on. Where that fails, all is as it was.
    fn replace(self, to: &Path, aside: &Path) -> Result<(), CopyError> {
        let failed = |error| CopyError::File(to.to_owned(), error);
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(failed)?;
        let mut done = Vec::new();
        let placed = put_aside(to, aside, &mut done).and_then(|()| std::fs::rename(&self.0, to));
        if placed.is_err() {
            for suffix in done {
                drop(if suffix.is_empty() {
                    std::fs::remove_file(aside)
                } else {
                    std::fs::rename(beside(aside, suffix), beside(to, suffix))
                });
            }
        }
        placed.and_then(|()| sync_directory_of(to)).map_err(failed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        for suffix in FILES {
            // Most of them never were.
            drop(std::fs::remove_file(beside(&self.0, suffix)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database of one number that was written last, and that only the log knows, as it is found when its process was killed.
    async fn killed(at: &Path) {
        let other = beside(at, ".alive");
        let options = SqliteConnectOptions::new().filename(&other).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let mut alive = options.connect().await.unwrap();
        sqlx::raw_sql("CREATE TABLE t (n); INSERT INTO t VALUES (7)").execute(&mut alive).await.unwrap();
        for suffix in ["-wal", ""] {
            std::fs::copy(beside(&other, suffix), beside(at, suffix)).unwrap();
        }
    }

    async fn number(at: &Path) -> i64 {
        let mut connection = open(at).await.unwrap();
        sqlx::query_scalar("SELECT n FROM t").fetch_one(&mut connection).await.unwrap()
    }

    fn part(to: &Path) -> Part {
        let part = Part::begin(to).unwrap();
        std::fs::write(&part.0, "the copy").unwrap();
        part
    }

    #[tokio::test]
    async fn what_is_replaced_is_whole_at_every_moment_and_what_is_put_aside_too() {
        let directory = tempfile::tempdir().unwrap();
        let (to, aside, taken) = (directory.path().join("l.db"), directory.path().join("aside"), directory.path().join("taken"));
        std::fs::create_dir(&taken).unwrap();
        killed(&to).await;
        settle(&to).await.unwrap();
        std::fs::write(beside(&to, "-journal"), "").unwrap();
        assert!(matches!(part(&to).replace(&to, &taken), Err(CopyError::File(..))));
        assert!(beside(&to, "-journal").exists() && !beside(&taken, "-journal").exists(), "all is as it was");
        std::fs::copy(&to, directory.path().join("alone")).unwrap();
        assert_eq!((number(&to).await, number(&directory.path().join("alone")).await), (7, 7));

        part(&to).replace(&to, &aside).unwrap();
        assert_eq!((std::fs::read_to_string(&to).unwrap().as_str(), number(&aside).await), ("the copy", 7));
    }

    #[tokio::test]
    async fn a_database_that_cannot_be_read_is_put_aside_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (to, aside) = (directory.path().join("l.db"), directory.path().join("aside"));
        std::fs::write(&to, "this is no database, and never was one: ".repeat(200)).unwrap();
        settle(&to).await.unwrap();
        part(&to).replace(&to, &aside).unwrap();
        assert!(std::fs::read_to_string(&aside).unwrap().starts_with("this is no database"));
    }
}
