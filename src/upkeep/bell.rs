//! The bell that rings by the schedule, and does nothing else.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::lifecycle::Stop;
use crate::model::schedule::Schedule;

/// Rings each at its times, until the stop. Without it chores look by themselves, a little later.
pub(super) async fn ring(rings: Vec<(Schedule, Arc<Notify>)>, stop: Stop) {
    match hang(rings).await {
        Ok(mut scheduler) => {
            stop.requested().await;
            if let Err(error) = scheduler.shutdown().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the chores' bell could not be taken down");
            }
        }
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the chores' bell does not ring: they look by themselves"),
    }
}

async fn hang(rings: Vec<(Schedule, Arc<Notify>)>) -> Result<JobScheduler, JobSchedulerError> {
    let scheduler = JobScheduler::new().await?;
    for (schedule, ring) in rings {
        scheduler.add(Job::new(schedule.as_str(), move |_, _| ring.notify_one())?).await?;
    }
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_rings_again_and_again() {
        let (heard, stop) = (Arc::new(Notify::new()), Stop::new());
        let tasks = crate::lifecycle::Tasks::new(stop.clone());
        drop(tasks.spawn("bell", ring(vec![(Schedule::parse("* * * * * *").unwrap(), Arc::clone(&heard))], stop.clone())));
        for _ in 0..3 {
            tokio::time::timeout(Duration::from_secs(20), heard.notified()).await.expect("it rings each second");
        }
        stop.request();
        tasks.wait().await;
    }
}
