//! The cellar: chores that run by themselves.
//!
//! Owns when a chore runs and who runs it. Each chore is an idempotent function that looks in the database for what is due; it takes no message, so that
//! a restart, a second process and a silent bell are all the same to it. Never decides what a chore means: that is `plan`, and the vault's statements.

mod works;

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::seams::{Clock, Entropy};
use crate::store::Store;

/// What chores work with.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Where they look and what they change.
    pub store: Store,
    /// For measuring; on PostgreSQL the database's clock decides what is due.
    pub clock: Clock,
    /// For ids.
    pub entropy: Entropy,
    /// Rung when a chore made deliveries due.
    pub doorbell: Arc<Notify>,
    /// Changed whenever a chore settled deliveries.
    pub settled: watch::Sender<u64>,
}

/// What one step of a chore found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There may be more: it is called again at once.
    More,
    /// Nothing is left to do now.
    Dry,
}
