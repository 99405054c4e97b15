//! What wakes whom: bells that are rung when there is something to do.
//!
//! Owns the bells and nothing of what they are rung for. A bell carries no message and may be lost at any moment: whoever is woken looks in the database,
//! and looks there without a bell too, only later. Why a ring from inside is told apart from one that came from another process: what one replica hears
//! from another it must not tell on, or two would ring at each other for ever.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// The courier's bell: something is due at once.
#[derive(Clone, Debug, Default)]
pub struct Doorbell {
    here: Arc<Notify>,
    rung: watch::Sender<u64>,
}

impl Doorbell {
    /// Wakes the courier of this process, and those of others where there are any. A ring is kept until it is heard.
    pub fn notify_one(&self) {
        self.here.notify_one();
        self.rung.send_modify(|rings| *rings += 1);
    }

    /// The bell in this process alone: for who listens to it, and for a ring that came from elsewhere.
    pub fn here(&self) -> &Arc<Notify> {
        &self.here
    }

    /// Changes with each ring from inside this process.
    pub fn rung(&self) -> watch::Receiver<u64> {
        self.rung.subscribe()
    }
}

/// The chores' bells: a door that has just committed work for one rings it at once, instead of leaving it to its schedule.
#[derive(Clone, Debug, Default)]
pub struct Bells {
    /// Rung when work was left that one transaction could not hold.
    pub works: Arc<Notify>,
    /// Rung when the audit trail shall not wait for its time to be sealed.
    pub audit: Arc<Notify>,
}
