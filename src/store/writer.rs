//! SQLite's one writer: whatever jobs wait are committed together.
//!
//! Owns the only connection that writes. Under load groups form by themselves, since jobs queue while a commit waits for the disk; no timer is
//! involved. Each job runs inside a savepoint, so that one that fails does not undo its neighbours, and nobody is answered before the commit that
//! holds his work has returned.

use std::any::Any;
use std::panic::AssertUnwindSafe;

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
        return refuse_all(group.into_iter().map(|job| job.reply), &error);
    }
    let mut answers = Vec::with_capacity(group.len());
    for job in group {
        match run_in_savepoint(connection, job.run).await {
            Ok(value) => answers.push((job.reply, value)),
            // The caller may have gone; its job is undone either way.
            Err(error) => drop(job.reply.send(Err(error))),
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
            refuse_all(answers.into_iter().map(|(reply, _)| reply), &error);
        }
    }
}

/// One job: kept whole, or undone whole. A panic is an error of this job alone.
async fn run_in_savepoint(connection: &mut SqliteConnection, run: Run) -> Result<Answer, StoreError> {
    execute(connection, "SAVEPOINT job").await?;
    let outcome = AssertUnwindSafe(async { run(connection).await }).catch_unwind().await;
    let (value, undo) = match outcome {
        Ok(Ok(Ending::Keep(value))) => (Ok(value), false),
        Ok(Ok(Ending::Undo(value))) => (Ok(value), true),
        Ok(Err(error)) => (Err(error), true),
        Err(_panic) => (Err(StoreError::panicked()), true),
    };
    if undo {
        execute(connection, "ROLLBACK TO job").await?;
    }
    execute(connection, "RELEASE job").await?;
    value
}

async fn execute(connection: &mut SqliteConnection, statement: &'static str) -> Result<(), StoreError> {
    sqlx::query(statement).execute(connection).await?;
    Ok(())
}

fn refuse_all(replies: impl Iterator<Item = oneshot::Sender<Result<Answer, StoreError>>>, error: &StoreError) {
    let reason = error.to_string();
    replies.for_each(|reply| drop(reply.send(Err(StoreError::not_committed(&reason)))));
}
