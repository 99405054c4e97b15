//! Start and stop: every task runs on one tracker, and a stop comes in two strengths.
//!
//! Owns the only calls that spawn a task, the signals and the order of stopping. Never knows what a task does. Soft stop: take nothing new, finish what is
//! in flight. Hard stop, after the grace time or a second signal: every task is dropped where it stands. That is safe, since the database alone is true,
//! and it is the only way a stop is sure to end. Why a task that panics does not take the process along: one poisoned delivery must not delay all others.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Whether to stop, and how.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Stop {
    /// A process that goes on.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody to take nothing new and to finish. Asking again changes nothing.
    pub fn request(&self) {
        self.soft.cancel();
    }

    /// Ends every task where it stands. Forcing again changes nothing.
    pub fn force(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Whether anything new may still be taken.
    pub fn is_requested(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Waits for the soft stop; returns at once after it. Safe in `select!`.
    pub async fn requested(&self) {
        self.soft.cancelled().await;
    }

    /// Waits for the hard stop; returns at once after it. Safe in `select!`.
    pub async fn forced(&self) {
        self.hard.cancelled().await;
    }
}

/// Why a task has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Died {
    /// It panicked; that was logged when it happened.
    #[error("the task panicked")]
    Panicked,
    /// The hard stop came first.
    #[error("the task was stopped")]
    Stopped,
}

/// The result of a spawned task, for whoever waits. Dropping it lets the task go on.
#[derive(Debug)]
pub struct Running<T>(JoinHandle<Result<T, Died>>);

impl<T> Future for Running<T> {
    type Output = Result<T, Died>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A join fails otherwise only when the runtime goes away under the task.
        Pin::new(&mut self.0).poll(cx).map(|joined| joined.unwrap_or(Err(Died::Stopped)))
    }
}

/// Every task of one server.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: Stop,
}

impl Tasks {
    /// No tasks yet, and the stop they will obey.
    pub fn new(stop: Stop) -> Self {
        Self { tracker: TaskTracker::new(), stop }
    }

    /// The stop these tasks obey.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Runs a future on its own until it is done, it panics or the hard stop comes. Must be called within a runtime.
    pub fn spawn<T: Send + 'static>(&self, name: &'static str, future: impl Future<Output = T> + Send + 'static) -> Running<T> {
        let hard = self.stop.hard.clone();
        Running(self.tracker.spawn(async move {
            match hard.run_until_cancelled_owned(AssertUnwindSafe(future).catch_unwind()).await {
                Some(finished) => finished.map_err(|panic| told(name, &*panic)),
                None => Err(Died::Stopped),
            }
        }))
    }

    /// Runs a function that computes or blocks, away from the tasks that wait. A stop waits for it. Must be called within a runtime.
    pub fn spawn_blocking<T: Send + 'static>(&self, name: &'static str, function: impl FnOnce() -> T + Send + 'static) -> Running<T> {
        Running(
            self.tracker.spawn_blocking(move || std::panic::catch_unwind(AssertUnwindSafe(function)).map_err(|panic| told(name, &*panic))),
        )
    }

    /// How many tasks are running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// Waits until every task has ended; that takes a stop of either strength, unless the tasks end by themselves.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Sees a server through its end: waits for a signal or a requested stop, gives what is in flight the grace time, then forces. Returns when no task is
    /// left. A server that has ended ends again at once.
    pub async fn see_out(&self, mut signals: Signals, grace: Duration) -> Ended {
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "a signal asks for a stop"),
            () = self.stop.requested() => {}
        }
        self.stop.request();
        let forced_by = tokio::select! {
            () = self.wait() => return Ended::Finished,
            name = signals.next() => name,
            () = tokio::time::sleep(grace) => "grace time",
            () = self.stop.forced() => "request",
        };
        tracing::warn!(by = forced_by, tasks = self.running(), "the stop is forced");
        self.stop.force();
        self.wait().await;
        Ended::Forced
    }
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything in flight was finished.
    Finished,
    /// Something was dropped where it stood.
    Forced,
}

/// The signals that ask for a stop.
#[derive(Debug)]
pub enum Signals {
    /// SIGTERM and SIGINT of this process.
    Process {
        /// SIGTERM.
        terminate: Signal,
        /// SIGINT.
        interrupt: Signal,
    },
    /// None: for one server of several in a process.
    Unheard,
}

impl Signals {
    /// Listens to this process's signals from now on. Must be called within a runtime.
    pub fn of_process() -> std::io::Result<Self> {
        Ok(Self::Process { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next signal.
    async fn next(&mut self) -> &'static str {
        match self {
            Self::Process { terminate, interrupt } => tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            },
            Self::Unheard => std::future::pending().await,
        }
    }
}

/// The signals that ask for another look at what may have changed while the process runs.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// SIGHUP of this process, from now on; it does not end the process any more. Must be called within a runtime.
    pub fn of_process() -> std::io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // There will be no more.
            std::future::pending().await
        }
    }
}

fn told(name: &'static str, panic: &(dyn Any + Send)) -> Died {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(task = name, message = message.unwrap_or("(no message)"), "a task panicked");
    Died::Panicked
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_hours(1);
    const SHORT: Duration = Duration::from_millis(20);

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("this ends by itself within 10 s")
    }

    #[tokio::test]
    async fn a_soft_stop_lets_what_is_in_flight_finish() {
        let tasks = Tasks::new(Stop::new());
        let done = Arc::new(AtomicBool::new(false));
        let (stop, seen) = (tasks.stop().clone(), done.clone());
        let running = tasks.spawn("patient", async move {
            stop.requested().await;
            tokio::task::yield_now().await;
            seen.store(true, Ordering::SeqCst);
            7
        });
        tasks.stop().request();
        assert_eq!(soon(tasks.see_out(Signals::Unheard, LONG)).await, Ended::Finished);
        assert!(done.load(Ordering::SeqCst));
        assert_eq!(running.await, Ok(7));
    }

    #[tokio::test]
    async fn what_outlasts_the_grace_time_is_dropped() {
        let tasks = Tasks::new(Stop::new());
        let running = tasks.spawn("stubborn", std::future::pending::<()>());
        tasks.stop().request();
        assert_eq!(soon(tasks.see_out(Signals::Unheard, SHORT)).await, Ended::Forced);
        assert_eq!(running.await, Err(Died::Stopped));
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn a_forced_stop_does_not_wait_for_the_grace_time() {
        let tasks = Tasks::new(Stop::new());
        drop(tasks.spawn("stubborn", std::future::pending::<()>()));
        tasks.stop().force();
        soon(tasks.see_out(Signals::Unheard, LONG)).await;
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test]
    async fn stopping_twice_is_stopping_once() {
        let tasks = Tasks::new(Stop::new());
        for _ in 0..2 {
            tasks.stop().request();
            assert_eq!(soon(tasks.see_out(Signals::Unheard, LONG)).await, Ended::Finished);
        }
        tasks.stop().force();
        soon(tasks.wait()).await;
    }

    #[tokio::test]
    async fn a_panic_is_an_outcome_of_its_task_and_nobody_elses() {
        let tasks = Tasks::new(Stop::new());
        let neighbour = tasks.spawn("neighbour", tokio::time::sleep(SHORT));
        assert_eq!(soon(tasks.spawn("clumsy", async { panic!("on purpose") })).await, Err::<(), _>(Died::Panicked));
        assert_eq!(soon(tasks.spawn_blocking("clumsy", || panic!("on purpose"))).await, Err::<(), _>(Died::Panicked));
        assert_eq!(soon(neighbour).await, Ok(()));
    }

    #[tokio::test]
    async fn a_task_goes_on_when_nobody_waits_for_it() {
        let tasks = Tasks::new(Stop::new());
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        drop(tasks.spawn("orphan", async move {
            tokio::task::yield_now().await;
            seen.store(true, Ordering::SeqCst);
        }));
        soon(tasks.wait()).await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn the_first_signal_is_soft_and_the_second_is_hard() {
        let tasks = Tasks::new(Stop::new());
        drop(tasks.spawn("stubborn", std::future::pending::<()>()));
        let signals = Signals::of_process().unwrap();
        let (watched, send) = (tasks.clone(), |name: &str| {
            let sent = std::process::Command::new("sh").arg("-c").arg(format!("kill -s {name} {}", std::process::id())).status().unwrap();
            assert!(sent.success());
        });
        let server = Tasks::default().spawn("server", async move { watched.see_out(signals, LONG).await });
        send("TERM");
        soon(tasks.stop().requested()).await;
        assert_eq!(tasks.running(), 1);
        send("INT");
        assert_eq!(soon(server).await, Ok(Ended::Forced));
        assert_eq!(tasks.running(), 0);
    }
}
