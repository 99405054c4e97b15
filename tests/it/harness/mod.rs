//! What the tests stand on: databases of their own, servers of their own.

pub(crate) mod api;
pub(crate) mod database;
pub(crate) mod party;
pub(crate) mod process;
pub(crate) mod provider;
pub(crate) mod proxy;
pub(crate) mod server;

use std::time::{Duration, Instant};

/// How long a condition may take to come true before the test fails. Far beyond what it takes: nothing is measured by it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Asks again until the answer is there.
#[expect(clippy::disallowed_methods, reason = "a test's deadline is real time")]
pub(crate) async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
