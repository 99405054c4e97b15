//! The courier: brings each delivery to an outcome.
//!
//! Owns the loop that claims what is due, the attempts, and the task that writes their outcomes down. Never decides whether to try again or whose turn
//! it is (that is `plan`), never keeps anything in memory that may not be lost: what is due, leased or settled, and which lane is open, parked or paused,
//! is in the database alone, so that a process may be killed at any instant and another goes on.
//!
//! Each look reads the head of every queue and deals free slots: by class and between first attempts and others, in turn between lanes, within what each
//! lane and its host bear (`lanes.rs`). What is claimed is claimed lane by lane, never by one order of all, in which whoever is dead would be first.
//!
//! A receiver that fails again and again opens its lane, and a host with two such witnesses opens all lanes behind it. From then on one probe at a time
//! is sent, another delivery each time, so that one which always fails does not stand for all. Probes have places of their own; an answer closes the lane
//! (a parked one, a success alone), makes what waited for the network due, and lets attempts return a few at a time. An open lane costs its neighbours
//! nothing: what waits in it is neither claimed nor attempted, and expires by a chore.
//!
//! The provider has a lane of its own, and what goes there is another request, about a session (`provider.rs`) or about a refresh token
//! (`revocation.rs`); leases, outcomes, retries and breaker are the same.
//!
//! Why a delivery is never "in flight" as a state: a lease that runs out makes its row due again, and nobody has to notice that its holder died. Every
//! outcome is written under the lease it was made with, so that one who wakes too late changes nothing.
//!
//! Why a slot is taken until its outcome is recorded: with the database away, outcomes wait in memory, and this bounds how many.

mod census;
mod courier;
mod lanes;
mod provider;
mod request;
mod revocation;
mod settler;
mod signer;
mod slots;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

pub use census::{CensusSettings, keep_count};
pub use courier::{Courier, StepReport};

use crate::egress::Egress;
use crate::lifecycle::Tasks;
use crate::model::Timestamp;
use crate::observe::traces::Tracer;
use crate::plan::lane::Share;
use crate::seams::{Clock, Entropy};
use crate::store::Store;
use crate::token::{Keyring, SealingKey};

/// How the courier works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many attempts may run at once in this process.
    pub in_flight_max: u16,
    /// The longest an attempt may take, whatever a registration says.
    pub timeout_max: Duration,
    /// How long a claimed delivery belongs to its claimer; longer than the longest attempt.
    pub lease: Duration,
    /// How often it looks without being called while something is pending.
    pub poll: Duration,
    /// How often it looks while nothing is.
    pub idle_poll: Duration,
    /// From a token's `iat` to its `exp`.
    pub token_lifetime: Duration,
    /// How many attempts may begin in a second at one host, over all processes; none sets no limit.
    pub host_rate_per_s: Option<u16>,
}

/// What the courier works with.
pub struct Parts {
    /// What is due.
    pub store: Store,
    /// The way to the relying parties.
    pub egress: Arc<Egress>,
    /// Parsed keys.
    pub keyring: Arc<Keyring>,
    /// What keys are sealed with.
    pub sealing: Arc<SealingKey>,
    /// For measuring and for carrying the store's time forward.
    pub clock: Clock,
    /// For `jti`s, lease tokens and jitter.
    pub entropy: Entropy,
    /// Where attempts run, and the stop they obey.
    pub tasks: Tasks,
    /// Rung when something was committed that is due at once.
    pub doorbell: Arc<Notify>,
    /// Changed whenever deliveries were settled.
    pub settled: watch::Sender<u64>,
    /// How many processes share the work, and which one this is.
    pub share: watch::Receiver<Share>,
    /// Told when a step was completed, by this process's clock: the courier is alive as long as this moves.
    pub pulse: watch::Sender<Option<Timestamp>>,
    /// Makes the spans of attempts.
    pub tracer: Tracer,
    /// How it works.
    pub settings: Settings,
}

/// What every attempt and the settler share.
struct Tools {
    store: Store,
    egress: Arc<Egress>,
    sealing: Arc<SealingKey>,
    signer: signer::Signer,
    tokens: provider::Tokens,
    clock: Clock,
    entropy: Entropy,
    tasks: Tasks,
    doorbell: Arc<Notify>,
    settled: watch::Sender<u64>,
    tracer: Tracer,
    lanes: lanes::Lanes,
    settings: Settings,
}

/// The store's time as it was read for a step, carried forward from there: on PostgreSQL the server's clock decides, and is asked once a step.
#[derive(Clone, Debug)]
struct Watch {
    clock: Clock,
    read: Timestamp,
    at: Instant,
}

impl Watch {
    fn set(clock: Clock, now: Timestamp) -> Self {
        let at = clock.instant();
        Self { clock, read: now, at }
    }

    fn now(&self) -> Timestamp {
        self.read.plus(self.clock.instant().saturating_duration_since(self.at))
    }
}
