//! Construction and shutdown order.

use crate::config::Config;
use crate::lifecycle::{Ended, Signals, Stop, Tasks};
use crate::observe::Stopped;

/// Why a server could not be built or a database not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process cannot listen to signals.
    #[error("the process cannot listen to signals")]
    Signals(#[source] std::io::Error),
}

/// Serves until it is told to stop.
pub async fn serve(config: Config) -> Result<(), Error> {
    let tasks = Tasks::new(Stop::new());
    let signals = Signals::of_process().map_err(Error::Signals)?;
    match tasks.see_out(signals, config.shutdown_grace).await {
        Ended::Finished => Stopped::Finished.emit(),
        Ended::Forced => Stopped::Forced.emit(),
    }
    Ok(())
}

/// Brings the database to this version's schema.
#[expect(clippy::unused_async, reason = "a database is migrated over a connection")]
pub async fn migrate(_config: Config) -> Result<(), Error> {
    Ok(())
}
