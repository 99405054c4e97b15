//! SQLite's one writer: whatever jobs wait are committed together.
//!
//! Owns the only connection that writes. Under load groups form by themselves, since jobs queue while a commit waits for the disk; no timer is
//! involved. Each job runs inside a savepoint, so that one that fails does not undo its neighbours, and nobody is answered before the commit that
//! holds his work has returned.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::remembered::Commits;
use super::{Ending, StoreError};
use crate::observe::GroupCommitted;
use crate::seams::Clock;

/// How many jobs share one commit at most.
const GROUP_JOBS_MAX: usize = 64;
/// How many jobs may wait before callers wait for a place.
const QUEUE_JOBS_MAX: usize = 4096;

type Answer = Box<dyn Any + Send>;
type Run = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<Ending<Answer>, StoreError>> + Send>;

struct Job {
    run: Run,
    reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// The door to the writer; the task behind it ends when the last clone is gone.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
}

impl Writer {
    /// The door, and the task to be run behind it.
    pub(super) fn new(connection: SqliteConnection, clock: Clock, commits: Commits) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, jobs) = mpsc::channel(QUEUE_JOBS_MAX);
        (Self { queue }, write_until_closed(connection, jobs, clock, commits))
    }

    /// Runs one job and answers after its commit.
    pub(super) async fn run<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<Ending<T>, StoreError>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let run: Run = Box::new(move |connection| {
            let work = job(connection);
            Box::pin(async move { Ok(work.await?.map(|value| Box::new(value) as Answer)) })
        });
        self.queue.send(Job { run, reply }).await.map_err(|_| StoreError::closed())?;
        let value = answer.await.map_err(|_| StoreError::closed())??;
        Ok(*value.downcast::<T>().expect("a job is answered with its own type"))
    }
}

async fn write_until_closed(mut connection: SqliteConnection, mut jobs: mpsc::Receiver<Job>, clock: Clock, commits: Commits) {
    let mut group = Vec::with_capacity(GROUP_JOBS_MAX);
    while jobs.recv_many(&mut group, GROUP_JOBS_MAX).await > 0 {
        commit_group(&mut connection, &clock, &commits, std::mem::take(&mut group)).await;
    }
    // The last words of the write-ahead log go into the file; a failure here loses nothing, the log is replayed at the next start.
    drop(connection.close().await);
}

async fn commit_group(connection: &mut SqliteConnection, clock: &Clock, commits: &Commits, group: Vec<Job>) {
    let (begun, size) = (clock.instant(), group.len());
    if let Err(error) = execute(connection, "BEGIN IMMEDIATE").await {
        return refuse_all(group.into_iter().map(|job| job.reply), error);
    }
    let mut answers = Vec::with_capacity(group.len());
    let mut jobs = group.into_iter();
    while let Some(job) = jobs.next() {
        match run_in_savepoint(connection, job.run).await {
            Ok(Ok(value)) => answers.push((job.reply, value)),
            // The caller may have gone; its job is undone either way.
            Ok(Err(error)) => drop(job.reply.send(Err(error))),
            Err(Gone(error)) => {
                drop(execute(connection, "ROLLBACK").await);
                commits.count();
                let others = answers.into_iter().map(|(reply, _)| reply).chain(jobs.map(|job| job.reply));
                return refuse_all(std::iter::once(job.reply).chain(others), error);
            }
        }
    }
    let committed = execute(connection, "COMMIT").await;
    // Also where nobody knows whether it was.
    commits.count();
    match committed {
        Ok(()) => {
            GroupCommitted { size, duration: clock.instant().saturating_duration_since(begun) }.emit();
            for (reply, value) in answers {
                drop(reply.send(Ok(value)));
            }
        }
        Err(error) => {
            drop(execute(connection, "ROLLBACK").await);
            refuse_all(answers.into_iter().map(|(reply, _)| reply), error);
        }
    }
}

/// The transaction is not there any more: a disk without room takes it away in the middle of a statement. What ran in it is undone, and what was still to
/// run must not run outside of one.
struct Gone(StoreError);

/// One job: kept whole, or undone whole. A panic is an error of this job alone.
async fn run_in_savepoint(connection: &mut SqliteConnection, run: Run) -> Result<Result<Answer, StoreError>, Gone> {
    execute(connection, "SAVEPOINT job").await.map_err(Gone)?;
    let outcome = AssertUnwindSafe(async { run(connection).await }).catch_unwind().await;
    let (value, undo) = match outcome {
        Ok(Ok(Ending::Keep(value))) => (Ok(value), false),
        Ok(Ok(Ending::Undo(value))) => (Ok(value), true),
        Ok(Err(error)) => (Err(error), true),
        Err(_panic) => (Err(StoreError::panicked()), true),
    };
    let ended = async {
        if undo {
            execute(connection, "ROLLBACK TO job").await?;
        }
        execute(connection, "RELEASE job").await
    };
    match (ended.await, value) {
        (Ok(()), value) => Ok(value),
        // Why the job failed says more than that its savepoint is gone.
        (Err(_), Err(error)) | (Err(error), Ok(_)) => Err(Gone(error)),
    }
}

async fn execute(connection: &mut SqliteConnection, statement: &'static str) -> Result<(), StoreError> {
    sqlx::query(statement).execute(connection).await?;
    Ok(())
}

fn refuse_all(replies: impl Iterator<Item = oneshot::Sender<Result<Answer, StoreError>>>, error: StoreError) {
    let error = Arc::new(error);
    replies.for_each(|reply| drop(reply.send(Err(StoreError::Unavailable(Box::new(NotCommitted(Arc::clone(&error))))))));
}

/// What happened to all who shared a commit.
#[derive(Debug)]
struct NotCommitted(Arc<StoreError>);

impl fmt::Display for NotCommitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a group of transactions was not committed")
    }
}

impl Error for NotCommitted {
    /// The engine's own word: that the database is not available is said of each already.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &*self.0 {
            StoreError::Unavailable(cause) | StoreError::Unread(cause) => Some(cause.as_ref()),
            corrupt @ StoreError::Corrupt { .. } => Some(corrupt),
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions as _;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};

    use super::*;

    async fn insert(writer: Writer, octets: u32) -> Result<(), StoreError> {
        writer
            .run(move |connection| {
                Box::pin(async move {
                    sqlx::query("INSERT INTO things (octets) VALUES (zeroblob($1))").bind(octets).execute(connection).await?;
                    Ok(Ending::Keep(()))
                })
            })
            .await
    }

    #[tokio::test]
    async fn where_the_room_runs_out_in_the_middle_of_a_group_nobody_of_it_is_told_that_it_was_kept_and_nothing_of_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let options =
            SqliteConnectOptions::new().filename(directory.path().join("db")).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let mut connection = options.connect().await.unwrap();
        for statement in ["CREATE TABLE things (octets BLOB)", "PRAGMA max_page_count = 4"] {
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
        let mut looker = options.connect().await.unwrap();
        let (writer, task) = Writer::new(connection, Clock::system(), Commits::default());
        let (before, full, after, later) = (writer.clone(), writer.clone(), writer.clone(), writer);
        let group = async {
            let (before, full, after) = tokio::join!(insert(before, 1), insert(full, 1_000_000), insert(after, 1));
            assert!(before.is_err() && full.is_err() && after.is_err(), "{before:?} {full:?} {after:?}");
            let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM things").fetch_one(&mut looker).await.unwrap();
            assert_eq!(kept, 0, "what was refused was kept");
            insert(later, 1).await.unwrap();
        };
        tokio::join!(group, task);
    }
}
