//! The cellar: chores that run by themselves, and the company of other processes.
//!
//! Owns when a chore runs and who runs it. Each chore is an idempotent function that looks in the database for what is due; it takes no message, so that
//! a restart, a second process and a silent bell are all the same to it. Never decides what a chore means: that is `plan`, and the vault's statements.
//!
//! Why the schedule's bell is trusted with nothing: the scheduler reads the wall clock itself, runs detached, and may fall silent. It rings; whether a
//! chore is due, and whether another process has done it already, is asked of the database by its own clock (`keeper.rs`), and a chore whose bell stays
//! silent looks by itself.
//!
//! Some lookers keep no row and no schedule: the ends of certificates (`certificates.rs`), how the audit trail stands (`audit.rs`) and this server's clock
//! (`clock.rs`) are measured by every process for itself, and alarms (`alarms.rs`) are told by whoever takes them first.

mod bell;
mod keeper;
mod neighbours;
mod replicas;
mod works;

pub mod alarms;
pub mod audit;
pub mod certificates;
pub mod clock;
pub mod expiry;
pub mod horizon;
pub mod keys;
pub mod lanes;
pub mod retention;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

pub use keeper::keep;
pub use replicas::stay_counted;

use crate::bells::{Bells, Doorbell};
use crate::issuers::AddressBook;
use crate::lifecycle::Tasks;
use crate::model::key::KeyPolicy;
use crate::model::schedule::{Schedule, Timetable};
use crate::model::{ReplicaId, Timestamp};
use crate::plan::lane::Share;
use crate::seams::{Clock, Entropy};
use crate::store::{Keep, Store, StoreError};
use crate::token::SealingKey;

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
    pub doorbell: Doorbell,
    /// Changed whenever a chore settled deliveries.
    pub settled: watch::Sender<u64>,
    /// How long what is over is kept.
    pub keep: Keep,
    /// The providers, and what they publish.
    pub book: Arc<AddressBook>,
    /// What new signing keys are sealed with.
    pub sealing: Arc<SealingKey>,
    /// When signing keys begin, cease and are forgotten.
    pub keys: KeyPolicy,
    /// When the certificate expires that the listener shows; none when it shows none.
    pub listener_until: watch::Receiver<Option<Timestamp>>,
    /// Where what takes long is done.
    pub tasks: Tasks,
}

/// What one step of a chore found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There may be more: it is called again at once.
    More,
    /// Nothing is left to do now.
    Dry,
}

/// One step of a chore.
pub type StepOf = Box<dyn for<'t> Fn(&'t Tools) -> BoxFuture<'t, Result<Step, StoreError>> + Send + Sync>;

/// A chore: what is done, and when.
pub struct Chore {
    /// What it is called, in the database too.
    pub name: &'static str,
    /// When it is due.
    pub schedule: Schedule,
    /// Rung from inside when something was left for it.
    pub bell: Arc<Notify>,
    /// One step of it.
    pub step: StepOf,
}

impl std::fmt::Debug for Chore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chore").field("name", &self.name).field("schedule", &self.schedule).finish_non_exhaustive()
    }
}

/// How chores and company are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This process, from its start to its end.
    pub replica: ReplicaId,
    /// When each chore is due.
    pub timetable: Timetable,
    /// How long a chore is held at first, and each time it is held on to.
    pub hold: Duration,
    /// How often this process says that it lives.
    pub beat: Duration,
}

/// Every chore there is.
pub fn chores(timetable: &Timetable, bells: &Bells) -> Vec<Chore> {
    let chore = |name, schedule: &Schedule, step| Chore { name, schedule: schedule.clone(), bell: Arc::default(), step };
    vec![
        Chore { bell: Arc::clone(&bells.works), ..chore("works", &timetable.works, Box::new(|tools| Box::pin(works::step(tools)))) },
        chore("expiry", &timetable.expiry, Box::new(|tools| Box::pin(expiry::step(tools)))),
        chore("horizon", &timetable.horizon, Box::new(|tools| Box::pin(horizon::step(tools)))),
        chore("lanes", &timetable.lanes, Box::new(|tools| Box::pin(lanes::step(tools)))),
        chore("retention", &timetable.retention, Box::new(|tools| Box::pin(retention::step(tools)))),
        chore("keys", &timetable.keys, Box::new(|tools| Box::pin(keys::step(tools)))),
        Chore { bell: Arc::clone(&bells.audit), ..chore("audit", &timetable.audit, Box::new(|tools| Box::pin(audit::step(tools)))) },
        chore("audit_retention", &timetable.retention, Box::new(|tools| Box::pin(audit::forget(tools)))),
    ]
}

/// Lets everything in this room run until the stop, and tells this process's share of what all of them do.
pub fn begin(tools: &Tools, bells: &Bells, settings: &Settings, share: watch::Sender<Share>, tasks: &Tasks) {
    let chores = chores(&settings.timetable, bells);
    let rings = chores.into_iter().map(|chore| {
        let (schedule, ring) = (chore.schedule.clone(), Arc::new(Notify::new()));
        drop(tasks.spawn("chore", keep(chore, Arc::clone(&ring), tools.clone(), settings.clone(), tasks.clone())));
        (schedule, ring)
    });
    let rings = rings.collect();
    drop(tasks.spawn("bell", bell::ring(rings, tasks.stop().clone())));
    neighbours::begin(tools, &settings.replica, tasks);
    drop(tasks.spawn("certificates", certificates::watch(tools.clone(), tasks.stop().clone())));
    drop(tasks.spawn("audit trail", audit::watch(tools.clone(), tasks.stop().clone())));
    drop(tasks.spawn("replica", stay_counted(tools.store.clone(), settings.replica.clone(), settings.beat, share, tasks.stop().clone())));
}
