//! What every handler can reach.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::limiter::Limiter;
use super::provider_keys::Recall;
use super::streams::Streams;
use super::throttle::Throttle;
use super::uses::Uses;
use crate::bells::{Bells, Doorbell};
use crate::egress::{Egress, Mode};
use crate::issuers::AddressBook;
use crate::lifecycle::Tasks;
use crate::model::check::CheckProfile;
use crate::model::client::DeliverySettings;
use crate::model::key::KeyPolicy;
use crate::model::origin::Forwarding;
use crate::model::{Digest, Timestamp};
use crate::observe::metrics::Handle;
use crate::observe::traces::Tracer;
use crate::seams::{Clock, Entropy};
use crate::store::Store;
use crate::token::{Keyring, SealingKey};

/// What every handler can reach. Cheap to clone; nothing in it is the truth, the database alone is.
#[derive(Clone)]
pub struct AppState(Arc<App>);

/// The parts of [`AppState`].
pub struct App {
    /// The vault.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// What secrets are sealed with.
    pub sealing: Arc<SealingKey>,
    /// Parsed keys.
    pub keyring: Arc<Keyring>,
    /// For checking what is registered, and for trying a client out; logouts leave through the courier alone.
    pub egress: Arc<Egress>,
    /// The providers, and what they publish.
    pub book: Arc<AddressBook>,
    /// What is known of issuers without the database.
    pub recall: Recall,
    /// Who was wrong about who it is, and how often.
    pub throttle: Throttle,
    /// How many requests callers may send.
    pub limiter: Limiter,
    /// When API tokens were last shown.
    pub uses: Uses,
    /// What was measured.
    pub metrics: Handle,
    /// Makes the spans of requests.
    pub tracer: Tracer,
    /// By how many seconds the clocks of others are ahead, where that is worth telling.
    pub skew: watch::Receiver<Option<i64>>,
    /// Wakes the courier after a commit.
    pub doorbell: Doorbell,
    /// Wake the chores after a commit that left them work.
    pub bells: Bells,
    /// Changes whenever deliveries were settled: whoever waits for a receipt subscribes, looks, and waits for a change.
    pub settled: watch::Sender<u64>,
    /// Places for those who follow a logout.
    pub streams: Streams,
    /// When the courier last finished a step.
    pub pulse: watch::Receiver<Option<Timestamp>>,
    /// Every request runs here, so that a stop waits for it and a caller who hangs up does not end it.
    pub tasks: Tasks,
    /// What the deployment decided.
    pub settings: Settings,
}

/// Settings the façade and the rooms on top of it read.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the world reaches this server, without a slash at its end.
    pub public_url: String,
    /// SHA-256 of the token in `LOGOUTD_ADMIN_TOKEN`.
    pub admin_token: Option<Digest>,
    /// Whether `http` and loopback are fine for issuers and relying parties.
    pub mode: Mode,
    /// The largest request body, in octets.
    pub body_bytes_max: usize,
    /// How long a request may take until it is answered, waiting included. What it does goes on after that.
    pub request_timeout: Duration,
    /// What a registration gets that leaves its own settings out.
    pub delivery_defaults: DeliverySettings,
    /// The longest time-out a registration may ask for.
    pub delivery_timeout_max: Duration,
    /// How much of what lives one list of a provider's may end, in percent.
    pub reconcile_percent_max: u8,
    /// How gateways ask about requests, by the name of the profile.
    pub checks: BTreeMap<String, CheckProfile>,
    /// When signing keys begin, cease and are forgotten.
    pub keys: KeyPolicy,
    /// Who is believed about where a request comes from.
    pub forwarding: Arc<Forwarding>,
    /// Whether somebody is told of alarms.
    pub alarm_webhook: bool,
    /// How long the courier may be silent before the server calls itself not ready.
    pub pulse_age_max: Duration,
}

impl AppState {
    /// Shares the parts.
    pub fn new(app: App) -> Self {
        Self(Arc::new(app))
    }
}

impl Deref for AppState {
    type Target = App;
    fn deref(&self) -> &App {
        &self.0
    }
}

impl fmt::Debug for AppState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppState").field("settings", &self.settings).finish_non_exhaustive()
    }
}
