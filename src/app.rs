//! Construction and shutdown order.
//!
//! Owns which part is given to which, and what ends before what. Never decides anything else. A stop goes from the outside to the inside: no more
//! connections, requests under way are answered, attempts under way are finished and their outcomes written, then the database is closed.

pub mod copies;
mod crowd;
mod declared;
mod listener;
mod patience;
mod sealing_key;
mod telemetry;
#[cfg(test)]
mod tests;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crowd::Crowd;
pub use declared::{DeclaredError, configuration_schema, examine};
use listener::Speech;
pub use sealing_key::KeyError;
pub use tls::TlsError;

use crate::bells::{Bells, Doorbell};
use crate::config::{Check, Config, DatabaseUrl, Mode, Speaks};
use crate::deliver::{self, Courier, Parts};
use crate::egress::{self, Egress, EgressConfig, EgressError, Names};
use crate::http::Routes;
use crate::http::limiter::Limiter;
use crate::http::provider_keys::Recall;
use crate::http::state::{App, AppState, Settings};
use crate::http::streams::Streams;
use crate::http::throttle::Throttle;
use crate::http::uses::Uses;
use crate::issuers::AddressBook;
use crate::lifecycle::{Ended, Hangups, Running, Signals, Stop, Tasks};
use crate::model::check::CheckProfile;
use crate::model::{ReplicaId, Timestamp};
use crate::observe::metrics::Handle;
use crate::observe::traces::Tracer;
use crate::observe::{self, CredentialsRestored, GapOpened, ListenerInPlain, NobodyAdministers, SecretExposed, Started, Stopped};
use crate::plan::lane::Share;
use crate::seams::{Clock, Entropy};
use crate::store::copies::CopyError;
use crate::store::moving::MoveError;
use crate::store::{Keep, OpenError, Store, StoreError, StoreSettings};
use crate::token::audit::proof_of;
use crate::token::{Keyring, digest_of_token};
use crate::upkeep::{self, Tools};
use crate::{answer, receive, registry};

/// How often what histograms have collected is folded.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// How long the database's last words may take after everything else has ended.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Why a server could not be built or a database not be migrated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process cannot listen to signals.
    #[error("the process cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// The database was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A database could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A database could not be moved.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// A move goes from a file to a server.
    #[error("a database is moved from sqlite://FILE to postgres://…, and in no other direction")]
    Direction,
    /// PostgreSQL looks after its own backups.
    #[error(
        "PostgreSQL is backed up and restored by its own tools, such as pg_dump: after a restore, let `logoutd gap open ISSUER --since TIME` say up to \
         when the database knows what happened"
    )]
    NotOurs,
    /// There is no sealing key to go on with.
    #[error(transparent)]
    SealingKey(#[from] KeyError),
    /// What is declared cannot be registered.
    #[error(transparent)]
    Declared(#[from] DeclaredError),
    /// There is no certificate to show.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is no way out.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The address is not there to listen on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// What the configuration wants told could never be.
    #[error("{setting}: the URL {why}")]
    Outward {
        /// Which setting.
        setting: &'static str,
        /// Why not.
        why: egress::BadUrl,
    },
    /// Traces cannot be told.
    #[error(transparent)]
    Traces(#[from] observe::traces::TraceError),
    /// The courier died, which was logged; nothing would be delivered any more.
    #[error("the courier died")]
    CourierDied,
}

/// Serves until a signal tells it to stop.
pub async fn serve(config: Config) -> Result<(), Error> {
    let (signals, hangups) = (Signals::of_process().map_err(Error::Signals)?, Hangups::of_process().map_err(Error::Signals)?);
    let server = Server::start(config, Clock::system(), Entropy::os()).await?;
    server.heed(hangups);
    server.see_out(signals).await
}

/// Brings the database to this version's schema.
pub async fn migrate(config: Config) -> Result<(), Error> {
    let keeper = TaskTracker::new();
    let store = Store::open(&store_settings(&config), Clock::system(), Entropy::os(), &keeper).await?;
    close(store, &keeper).await;
    Ok(())
}

/// A server that runs.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    state: AppState,
    share: watch::Receiver<Share>,
    /// Asks for another look at the listener's certificate.
    look_again: Arc<Notify>,
    grace: Duration,
    /// Sees to the order of the stop.
    house: Tasks,
    /// Listeners, connections and requests.
    doors: Tasks,
    /// The courier and the chores.
    cellar: Tasks,
    /// Who tells traces, after everybody else has ended.
    attic: Tasks,
    /// The database's own tasks.
    keeper: TaskTracker,
    order: Running<Result<(), Error>>,
}

impl Server {
    /// Builds a server and lets it run.
    pub async fn start(config: Config, clock: Clock, entropy: Entropy) -> Result<Self, Error> {
        Self::start_with_names(config, clock, entropy, Names::System).await
    }

    /// The same, with another source of addresses: like the clock, names are something that a test must be able to change under a running server.
    pub async fn start_with_names(config: Config, clock: Clock, entropy: Entropy, names: Names) -> Result<Self, Error> {
        let handle = observe::metrics::install();
        let keeper = TaskTracker::new();
        let store = Store::open(&store_settings(&config), clock.clone(), entropy.clone(), &keeper).await?;
        let sealing = Arc::new(sealing_key::sealing_key(&config, &store, &entropy).await?);
        let proves = (Arc::clone(&sealing), entropy.clone());
        store.prove_records(move |record| proof_of(record, &proves.0, &proves.1));
        if let Some(found) = store.open_gaps_after_restore().await? {
            for gap in &found.gaps {
                GapOpened { issuer: &gap.issuer, since: gap.begins_at, until: gap.ends_at }.emit();
            }
            CredentialsRestored { api_tokens: found.api_tokens }.emit();
        }
        let veil = Arc::clone(&sealing);
        store.veil_names(move |issuer, name| format!("~{}", veil.keyed_digest("erased name", &[issuer.as_bytes(), name.as_bytes()])));
        upkeep::audit::ensure_key(&store, &sealing, &entropy).await?;
        let egress = Arc::new(Egress::new(EgressConfig { clock: clock.clone(), ..egress_config(&config, names) })?);
        if let Some((setting, why)) = telemetry::bad_urls(&config, &egress).into_iter().next() {
            return Err(Error::Outward { setting, why });
        }
        let shown = config.http.tls.as_ref().map(|files| tls::read(files, clock.now())).transpose()?;
        let (socket, address) = bind(config.http.listen).await?;
        let metrics_socket = match config.http.metrics {
            Some(metrics) => Some((bind(metrics.listen).await?, metrics.speaks)),
            None => None,
        };

        let stop = Stop::new();
        let (house, doors, cellar, attic) = (Tasks::new(stop.clone()), Tasks::new(stop), Tasks::new(Stop::new()), Tasks::new(Stop::new()));
        let tracer = telemetry::tracer(&config, &egress, &clock, &entropy, &attic)?;
        let hook = telemetry::hook(&config);
        let skew = watch::Sender::new(None);
        let (doorbell, settled, pulse) = (Doorbell::default(), watch::Sender::new(0), watch::Sender::new(None));
        let bells = Bells::default();
        let keyring = Arc::new(Keyring::default());
        let book = Arc::new(AddressBook::new(Arc::clone(&egress)));
        let certificate = Certificate::new(shown, &config, &clock, &doors);
        // Alone, as long as nobody counts the others.
        let (sharing, share) = watch::channel(Share { replicas: 1, rank: 0 });
        let state = AppState::new(App {
            store: store.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            sealing: Arc::clone(&sealing),
            keyring: Arc::clone(&keyring),
            egress: Arc::clone(&egress),
            book: Arc::clone(&book),
            recall: Recall::default(),
            throttle: Throttle::default(),
            uses: Uses::default(),
            limiter: Limiter::new(config.limits, share.clone()),
            metrics: handle.clone(),
            tracer: tracer.clone(),
            skew: skew.subscribe(),
            doorbell: doorbell.clone(),
            bells: bells.clone(),
            settled: settled.clone(),
            streams: Streams::new(config.http.streams_max),
            pulse: pulse.subscribe(),
            tasks: doors.clone(),
            settings: door_settings(&config, address),
        });
        // Before anybody is let in, and before anything is done for anybody.
        declared::establish(&config, &state).await?;
        let tools = Tools {
            store: store.clone(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            doorbell: doorbell.clone(),
            settled: settled.clone(),
            keep: keep(&config),
            book,
            sealing: Arc::clone(&sealing),
            keys: config.keys,
            listener_until: certificate.until.clone(),
            tasks: cellar.clone(),
        };
        let replica: ReplicaId = entropy.id(clock.now());
        upkeep::begin(&tools, &bells, &upkeep_settings(&config, replica.clone()), sharing, &cellar);
        let desk = upkeep::alarms::Desk { store: store.clone(), egress: Arc::clone(&egress), hook };
        drop(cellar.spawn("alarms", upkeep::alarms::watch(desk, cellar.stop().clone())));
        let desk = upkeep::clock::ClockDesk { store: store.clone(), egress: Arc::clone(&egress), clock: clock.clone() };
        drop(cellar.spawn("clock", upkeep::clock::look(desk, replica, skew, cellar.stop().clone())));
        let courier = Courier::new(Parts {
            store: store.clone(),
            egress,
            keyring,
            sealing,
            clock,
            entropy,
            tasks: cellar.clone(),
            doorbell: Arc::clone(doorbell.here()),
            settled,
            share: share.clone(),
            pulse,
            tracer: tracer.clone(),
            settings: courier_settings(&config),
        });

        let courier = cellar.spawn("courier", courier.run());
        drop(cellar.spawn("census", deliver::keep_count(store.clone(), census_settings(&config), cellar.stop().clone())));
        drop(cellar.spawn("metrics", tidy(handle.clone(), cellar.stop().clone())));
        let door = |socket, speech| listener::Door {
            socket,
            speech,
            limits: listener::Limits::new(config.http.connections_max),
            crowd: Crowd::new(config.http.connections_per_address, config.http.forwarding.clone()),
        };
        drop(doors.spawn("listener", listener::listen(door(socket, certificate.speech.clone()), router(&state), doors.clone())));
        let metrics_address =
            metrics_socket.map(|((socket, address), speaks)| {
                let speech = match speaks {
                    Speaks::Plain => Speech::Plain,
                    Speaks::Tls => certificate.speech.clone(),
                };
                drop(doors.spawn(
                    "metrics listener",
                    listener::listen(door(socket, speech), answer::health::metrics_alone(handle), doors.clone()),
                ));
                address
            });
        let order =
            house.spawn("order", stop_in_order(house.stop().clone(), [doors.clone(), cellar.clone(), attic.clone()], tracer, courier));
        tell_started(address, &store);
        if is_overheard(&config, address) {
            ListenerInPlain { listen: address }.emit();
        }
        for exposed in &config.exposed {
            SecretExposed { setting: &exposed.setting, file: &exposed.path }.emit();
        }
        if config.admin_token.is_none() && !store.has_administrator().await? {
            NobodyAdministers.emit();
        }
        Ok(Self {
            address,
            metrics_address,
            state,
            share,
            look_again: certificate.again,
            grace: config.shutdown_grace,
            house,
            doors,
            cellar,
            attic,
            keeper,
            order,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for scrapes alone.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// The stop it obeys.
    pub fn stop(&self) -> &Stop {
        self.house.stop()
    }

    /// Its part in what all processes on its database do.
    pub fn share(&self) -> &watch::Receiver<Share> {
        &self.share
    }

    /// What its handlers reach.
    pub fn state(&self) -> &AppState {
        &self.state
    }

    /// Looks at the listener's certificate again whenever a hangup asks for it.
    pub fn heed(&self, mut hangups: Hangups) {
        let (look_again, stop) = (Arc::clone(&self.look_again), self.house.stop().clone());
        drop(self.house.spawn("hangups", async move {
            loop {
                tokio::select! {
                    () = hangups.next() => look_again.notify_one(),
                    () = stop.requested() => return,
                }
            }
        }));
    }

    /// Waits for a signal or a requested stop, and for everything to end.
    pub async fn see_out(self, signals: Signals) -> Result<(), Error> {
        let Self { state, grace, house, doors, cellar, attic, keeper, order, .. } = self;
        let ended = house.see_out(signals, grace).await;
        // After a forced stop somebody may be left; after the other nobody is.
        cellar.stop().force();
        attic.stop().force();
        doors.wait().await;
        cellar.wait().await;
        attic.wait().await;
        let store = state.store.clone();
        drop(state);
        close(store, &keeper).await;
        match ended {
            Ended::Finished => Stopped::Finished.emit(),
            Ended::Forced => Stopped::Forced.emit(),
        }
        order.await.unwrap_or(Ok(()))
    }
}

/// What the listener shows, kept up to date.
struct Certificate {
    speech: Speech,
    /// Its end; none when it shows none.
    until: watch::Receiver<Option<Timestamp>>,
    again: Arc<Notify>,
}

impl Certificate {
    fn new(shown: Option<tls::Pair>, config: &Config, clock: &Clock, tasks: &Tasks) -> Self {
        let again = Arc::new(Notify::new());
        let (until, watched) = watch::channel(shown.as_ref().map(|pair| pair.until));
        let Some((pair, files)) = shown.zip(config.http.tls.clone()) else { return Self { speech: Speech::Plain, until: watched, again } };
        let (shown, speech) = watch::channel(pair);
        let keeper = tls::Keeper { files, shown, until, again: Arc::clone(&again), clock: clock.clone() };
        drop(tasks.spawn("certificate", tls::keep(keeper, tasks.clone())));
        Self { speech: Speech::Tls(speech), until: watched, again }
    }
}

/// Whether others than this machine could hear what is said, and nobody said that a proxy sees to it.
fn is_overheard(config: &Config, bound: SocketAddr) -> bool {
    config.http.tls.is_none() && config.http.forwarding.trusted.is_empty() && !bound.ip().is_loopback()
}

/// The rooms' routes, all of them.
pub fn routes() -> Routes {
    Routes::new().merge(receive::routes()).merge(answer::routes()).merge(registry::routes())
}

fn router(state: &AppState) -> Router {
    routes().into_router(state.clone())
}

/// Requests first, then what they caused, then what is told of both. A courier that died takes the server along: it must not accept what nobody would deliver.
async fn stop_in_order(stop: Stop, [doors, cellar, attic]: [Tasks; 3], tracer: Tracer, courier: Running<()>) -> Result<(), Error> {
    let lived = tokio::select! {
        () = stop.requested() => Ok(()),
        _ = courier => Err(Error::CourierDied),
    };
    stop.request();
    doors.wait().await;
    cellar.stop().request();
    cellar.wait().await;
    telemetry::flush(&tracer, &attic).await;
    lived
}

async fn close(store: Store, keeper: &TaskTracker) {
    store.close().await;
    drop(store);
    keeper.close();
    if tokio::time::timeout(CLOSE_MAX, keeper.wait()).await.is_err() {
        tracing::warn!("the database was still in use when the server ended; what was committed is kept");
    }
}

async fn tidy(handle: Handle, stop: Stop) {
    while !stop.is_requested() {
        handle.tidy();
        tokio::select! {
            () = stop.requested() => {}
            () = tokio::time::sleep(TIDY_EVERY) => {}
        }
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}

fn store_settings(config: &Config) -> StoreSettings {
    let url = match &config.database.url {
        // The path is meant to the letter, and in a URL `%` is not.
        DatabaseUrl::Sqlite(path) => format!("sqlite://{}", path.display().to_string().replace('%', "%25")),
        DatabaseUrl::Postgres(url) => url.expose().to_owned(),
    };
    StoreSettings { url, max_connections: config.database.max_connections, statement_timeout: config.database.statement_timeout }
}

fn egress_config(config: &Config, names: Names) -> EgressConfig {
    let (ceiling, proxy) = (config.network.allow.clone(), config.egress.proxy.clone());
    EgressConfig { mode: egress_mode(config.mode), ceiling, names, proxy, ..EgressConfig::default() }
}

const fn egress_mode(mode: Mode) -> egress::Mode {
    match mode {
        Mode::Production => egress::Mode::Production,
        Mode::Dev => egress::Mode::Development,
    }
}

fn door_settings(config: &Config, bound: SocketAddr) -> Settings {
    Settings {
        public_url: config.public_url(bound),
        admin_token: config.admin_token.as_ref().map(|token| digest_of_token(token.expose().as_bytes())),
        mode: egress_mode(config.mode),
        body_bytes_max: config.http.body_bytes_max,
        request_timeout: config.http.request_timeout,
        delivery_defaults: config.delivery.defaults.clone(),
        delivery_timeout_max: config.delivery.timeout_max,
        alarm_webhook: config.alarms.hook.is_some(),
        reconcile_percent_max: config.reconcile.percent_max,
        checks: config.checks.iter().map(check_profile).collect(),
        keys: config.keys,
        forwarding: Arc::new(config.http.forwarding.clone()),
        // A step between two idle looks, with both its statements as slow as they may be, and as much again.
        pulse_age_max: 2 * (config.delivery.idle_poll + 2 * config.database.statement_timeout),
    }
}

/// Of a gateway's key only the digest goes further.
fn check_profile(check: &Check) -> (String, CheckProfile) {
    let key = check.key.as_ref().map(|key| digest_of_token(key.expose().as_bytes()));
    (check.name.clone(), CheckProfile { key, ..check.profile.clone() })
}

/// How long what is over is kept.
pub const fn keep(config: &Config) -> Keep {
    Keep {
        idempotency: config.idempotency_keep,
        settled: config.retention.settled,
        sessions: config.retention.sessions,
        audit: config.retention.audit,
    }
}

fn courier_settings(config: &Config) -> deliver::Settings {
    deliver::Settings {
        in_flight_max: u16::try_from(config.delivery.total_in_flight).unwrap_or(u16::MAX),
        timeout_max: config.delivery.timeout_max,
        lease: config.delivery.lease,
        poll: config.delivery.poll,
        idle_poll: config.delivery.idle_poll,
        token_lifetime: config.token.lifetime,
        host_rate_per_s: config.delivery.host_rate_per_s,
    }
}

fn census_settings(config: &Config) -> deliver::CensusSettings {
    deliver::CensusSettings { every: config.metrics.census, pinned: config.metrics.pinned.clone() }
}

fn upkeep_settings(config: &Config, replica: ReplicaId) -> upkeep::Settings {
    let timetable = config.schedule.timetable.clone();
    upkeep::Settings { replica, timetable, hold: config.schedule.hold, beat: config.replica_beat }
}

fn tell_started(listen: SocketAddr, store: &Store) {
    let engine = store.engine();
    let (name, database_version) = engine.split_once(' ').unwrap_or((&engine, ""));
    Started { listen, engine: if name == "sqlite" { "sqlite" } else { "postgres" }, database_version, durability: store.durability() }
        .emit();
}
