//! Settings: one [`Config`], read once, checked as a whole, passed down.
//!
//! Owns the file, the environment and the arguments as sources of settings, and every refusal that follows from settings alone. Never offers a global
//! getter, never lets another room read the environment, never opens a database or a socket.
//!
//! A setting has a path, such as `http.listen`. It is read from, the later winning: its default; the TOML file named by `--config` or `LOGOUTD_CONFIG`;
//! the variable `LOGOUTD_` + the path in capitals with `__` between its parts, such as `LOGOUTD_HTTP__LISTEN` (short: `LOGOUTD_LISTEN`,
//! `LOGOUTD_DATABASE_URL`); an argument. An empty variable is as good as none, since container files cannot leave one out. In a variable the members of
//! a list are separated by commas. Why refuse what is unknown or contradictory instead of ignoring it: a limit that was misspelt is a limit that is not there.
//!
//! Beside settings the file declares registrations, which are kept as they were said: what they mean is another room's. Every setting describes itself to
//! the schema of the file while it is read; what it means is said in `descriptions.rs`.

mod check;
mod declared;
mod descriptions;
mod doors;
mod lines;
mod nearest;
mod observe;
mod reader;
mod schema;
mod secret;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use url::Url;
use zeroize::Zeroizing;

use crate::model::client::DeliverySettings;
use crate::model::key::KeyPolicy;
use crate::model::limits::Limits;
use crate::model::origin::Forwarding;
use crate::model::proxy::{Credentials, Past, Proxy};
use crate::model::schedule::{Schedule, Timetable};
pub use check::Check;
pub use declared::{Declaration, DeclaredIssuer, FILE_SUFFIX, FROM_FILES, REMOVABLE};
pub use doors::{MetricsListener, Speaks, TlsFiles};
pub use nearest::nearest;
pub use observe::{Alarms, Metrics, Telemetry};
pub use reader::{Mistake, Mistakes, Setting, Source};
use reader::{Raw, Reader};
pub use schema::{Registered, members_beside, schema};
pub use secret::{Exposed, KeyOctets, Readers, Secret};

/// What the command line says about settings.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--database-url`.
    pub database_url: Option<String>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--dev`.
    pub mode: Mode,
}

/// How careful the deployment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Relying parties and providers are reached by `https` at permitted addresses only.
    #[default]
    Production,
    /// `http` and loopback are permitted too.
    Dev,
}

/// The configuration: every value legal in itself and none contradicting another.
#[derive(Clone, Debug)]
pub struct Config {
    /// `dev`.
    pub mode: Mode,
    /// `public_url`: how the world names this server; see [`Config::public_url`].
    pub public_url: Option<Url>,
    /// `admin_token`: an `admin` token for as long as the process runs.
    pub admin_token: Option<Secret>,
    /// `sealing_key`: what private keys are sealed with.
    pub sealing_key: SealingKey,
    /// `sealing_key_previous`: what private keys were sealed with, or will be: it opens and never seals.
    pub sealing_key_previous: Option<KeyOctets>,
    /// `[keys]`: when signing keys begin, cease and are forgotten.
    pub keys: KeyPolicy,
    /// `[http]`.
    pub http: Http,
    /// `[limits]`: how much of the server one caller may have.
    pub limits: Limits,
    /// `[database]`.
    pub database: Database,
    /// `[network]`.
    pub network: Network,
    /// `[egress]`.
    pub egress: Egress,
    /// `[delivery]`.
    pub delivery: Delivery,
    /// `[token]`.
    pub token: Token,
    /// `[check.NAME]`: how gateways ask about requests.
    pub checks: Vec<Check>,
    /// `[schedule]`.
    pub schedule: Chores,
    /// `replicas.beat_ms`: how often a process says that it lives; who was silent for three times as long is not counted any more.
    pub replica_beat: Duration,
    /// `idempotency_keep_h`: how long a repeated request gets the first answer.
    pub idempotency_keep: Duration,
    /// `[retention]`.
    pub retention: Retention,
    /// `[reconcile]`.
    pub reconcile: Reconcile,
    /// `shutdown_grace_s`: how long what is in flight may take to finish after the first signal.
    pub shutdown_grace: Duration,
    /// `[log]`.
    pub log: Log,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `[alarms]`.
    pub alarms: Alarms,
    /// `[[issuers]]`: issuers and clients that are registered from here.
    pub declared: Vec<DeclaredIssuer>,
    /// Files with secrets that others may read, and that are used all the same.
    pub exposed: Vec<Exposed>,
    settings: Vec<Setting>,
}

/// The server's own listeners.
#[derive(Clone, Debug)]
pub struct Http {
    /// `http.listen`.
    pub listen: SocketAddr,
    /// `[http.tls]`: the certificate and key the listener shows; none: it speaks plain HTTP, and TLS is somebody else's.
    pub tls: Option<TlsFiles>,
    /// `http.metrics_listen`, `http.metrics_tls`: a second listener that serves `/metrics` to everybody who reaches it.
    pub metrics: Option<MetricsListener>,
    /// `http.trusted_proxies`, `http.forwarded`: who is believed about where a request comes from.
    pub forwarding: Forwarding,
    /// `http.body_bytes_max`: the largest request body, in octets.
    pub body_bytes_max: usize,
    /// `http.connections_max`: how many connections are open at once.
    pub connections_max: usize,
    /// `http.connections_per_address`: how many of them from one address; trusted proxies may have all.
    pub connections_per_address: usize,
    /// `http.streams_max`: how many of them may follow a logout.
    pub streams_max: usize,
    /// `http.request_timeout_ms`: how long one request may take; longer than the 30 s a caller may ask to wait.
    pub request_timeout: Duration,
}

/// Where the truth is kept.
#[derive(Clone, Debug)]
pub struct Database {
    /// `database.url`.
    pub url: DatabaseUrl,
    /// `database.max_connections`.
    pub max_connections: u32,
    /// `database.statement_timeout_ms`.
    pub statement_timeout: Duration,
}

/// Which engine, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file, from `sqlite://relative` or `sqlite:///absolute`, taken to the letter.
    Sqlite(PathBuf),
    /// A server; its URL may hold a password.
    Postgres(Secret),
}

impl fmt::Display for DatabaseUrl {
    /// The URL without password and parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(url) => match Url::parse(url.expose()) {
                Ok(url) => write!(f, "{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path()),
                Err(_) => f.write_str("postgres://(hidden)"),
            },
        }
    }
}

/// What private keys are sealed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealingKey {
    /// From `sealing_key`.
    Given(KeyOctets),
    /// From the file that `sealing_key_file` names.
    InFile(KeyOctets, PathBuf),
    /// A file beside the SQLite database, made at the first start; never with PostgreSQL.
    BesideDatabase(PathBuf),
}

/// What may be reached.
#[derive(Clone, Debug)]
pub struct Network {
    /// `network.allow`: the ceiling of what issuers and clients may except from the address rule.
    pub allow: Vec<IpNet>,
}

/// By which way requests leave.
#[derive(Clone, Debug)]
pub struct Egress {
    /// `egress.proxy` or `egress.proxy_file`, with `egress.no_proxy`: the HTTP proxy that is asked for tunnels. It resolves names, so it must refuse
    /// private addresses itself.
    pub proxy: Option<Proxy>,
}

/// How relying parties are told.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What a registration gets that leaves its own settings out.
    pub defaults: DeliverySettings,
    /// `delivery.timeout_max_ms`: the longest time-out a registration may ask for.
    pub timeout_max: Duration,
    /// `delivery.total_in_flight`: how many attempts may run at once in this process.
    pub total_in_flight: usize,
    /// `delivery.lease_ms`: how long a claimed delivery belongs to its claimer.
    pub lease: Duration,
    /// `delivery.lease_margin_ms`: by how much a lease must outlast the longest attempt, for signing, writing the outcome down and clocks that differ.
    pub lease_margin: Duration,
    /// `delivery.poll_ms`: how often due deliveries are looked for without being called.
    pub poll: Duration,
    /// `delivery.idle_poll_ms`: the same, while nothing is pending.
    pub idle_poll: Duration,
    /// `delivery.host_rate_per_s`: how many attempts may begin in a second at one host, over all processes.
    pub host_rate_per_s: Option<u16>,
}

/// What logout tokens are like.
#[derive(Clone, Debug)]
pub struct Token {
    /// `token.lifetime_s`: from `iat` to `exp`; two minutes at most (BCL 2.4).
    pub lifetime: Duration,
}

/// When chores are done.
#[derive(Clone, Debug)]
pub struct Chores {
    /// `schedule.works`, `.expiry`, `.horizon`, `.lanes`, `.retention`, `.keys`, `.audit`: cron expressions of six fields, in UTC.
    pub timetable: Timetable,
    /// `schedule.hold_ms`: how long a chore belongs to the process that began it; one that dies is replaced after that.
    pub hold: Duration,
}

/// How long what is over is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// `retention.settled_days`: a logout, after the last of its deliveries settled.
    pub settled: Duration,
    /// `retention.sessions_days`: a session, after its end.
    pub sessions: Duration,
    /// `retention.audit_days`: an audit record.
    pub audit: Duration,
}

/// What a provider's list of live sessions may do.
#[derive(Clone, Copy, Debug)]
pub struct Reconcile {
    /// `reconcile.percent_max`: how much of what lives one list may end; ten sessions it always may.
    pub percent_max: u8,
}

/// What is written to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// `log.format`.
    pub format: LogFormat,
    /// `log.level`.
    pub level: LogLevel,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For machines.
    Json,
    /// For people.
    Text,
}

/// From which gravity on something is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What somebody must look at.
    Error,
    /// What somebody should look at.
    Warn,
    /// What happened.
    Info,
    /// How it happened.
    Debug,
    /// Everything.
    Trace,
}

impl Config {
    /// Reads all sources and returns either a configuration without a mistake or every mistake.
    pub fn load(arguments: &Arguments, variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Mistakes> {
        let (config, mistakes) = Self::examine(arguments, variables);
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    /// Reads all sources and goes on past every mistake, so that more can be looked at: what one of them concerns has its default.
    pub fn examine(arguments: &Arguments, variables: impl IntoIterator<Item = (String, String)>) -> (Self, Mistakes) {
        let variables: Vec<_> = variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let mut reader = Reader::new();
        lay_file(&mut reader, arguments, &variables);
        lay_variables(&mut reader, &variables);
        lay_arguments(&mut reader, arguments);
        let mut config = Self::read(&mut reader);
        refuse_ambient_proxy(&mut reader, &variables);
        config.contradictions(&mut reader);
        config.exposed = reader.exposed();
        let (settings, mistakes) = reader.finish();
        config.settings = settings;
        (config, mistakes)
    }

    /// How the world names this server: as configured, or else by the address it was bound to. Never ends in a slash.
    pub fn public_url(&self, bound: SocketAddr) -> String {
        let scheme = if self.http.tls.is_some() { "https" } else { "http" };
        let text = self.public_url.as_ref().map_or_else(|| format!("{scheme}://{bound}"), Url::to_string);
        text.trim_end_matches('/').to_owned()
    }

    /// A mistake in a setting that was read as it should be.
    pub fn mistake(&self, path: &str, why: impl Into<String>) -> Mistake {
        let source = self.settings.iter().find(|setting| setting.path == path).map_or(Source::Default, |setting| setting.source.clone());
        Mistake { settings: vec![(path.to_owned(), source)], why: why.into() }
    }

    /// A setting and where it came from, as it is told: `sealing_key (LOGOUTD_SEALING_KEY)`.
    pub fn place(&self, path: &str) -> String {
        let source = self.settings.iter().find(|setting| setting.path == path).map_or(&Source::Default, |setting| &setting.source);
        format!("{path} ({source})")
    }

    /// Every setting in effect, with its source and without its secrets.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    fn read(reader: &mut Reader) -> Self {
        let mode = reader.or("dev", Mode::Production, |raw| raw.truth().map(Mode::from_dev), |mode| (*mode == Mode::Dev).to_string());
        let public_url = reader.optional("public_url", public_url, Url::to_string);
        let admin_token = secret_or_file(reader, "admin_token", "admin_token_file", OnExposure::Tell, admin_token);
        let database = Database::read(reader);
        let sealing_key = sealing_key(reader, &database.url);
        let sealing_key_previous = key_or_file(reader, "sealing_key_previous", "sealing_key_previous_file");
        let token = Token { lifetime: reader.seconds("token.lifetime_s", 120, 10..=120) };
        Self {
            mode,
            public_url,
            admin_token,
            sealing_key,
            sealing_key_previous,
            keys: key_policy(reader, &token),
            http: Http::read(reader),
            limits: doors::limits(reader),
            database,
            network: Network { allow: reader.or("network.allow", Vec::new(), networks, |allow| listed(allow)) },
            egress: Egress::read(reader),
            delivery: Delivery::read(reader),
            token,
            checks: check::read(reader),
            schedule: Chores::read(reader),
            replica_beat: reader.millis("replicas.beat_ms", 5000, 100..=60_000),
            idempotency_keep: Duration::from_hours(reader.number("idempotency_keep_h", 24, 24..=720)),
            retention: Retention::read(reader),
            reconcile: Reconcile { percent_max: reader.number("reconcile.percent_max", 10, 1..=100) },
            shutdown_grace: reader.seconds("shutdown_grace_s", 12, 1..=300),
            log: Log::read(reader),
            metrics: Metrics::read(reader),
            telemetry: Telemetry::read(reader, mode),
            alarms: Alarms::read(reader, mode),
            declared: reader.declared(),
            exposed: Vec::new(),
            settings: Vec::new(),
        }
    }

    fn contradictions(&self, reader: &mut Reader) {
        let Delivery { defaults, timeout_max, total_in_flight, lease, lease_margin, poll, idle_poll, host_rate_per_s: _ } = &self.delivery;
        if defaults.timeout > *timeout_max {
            reader.contradiction(
                "delivery.timeout_ms",
                "delivery.timeout_max_ms",
                "the default time-out is longer than the longest: who says nothing would get what nobody may ask for",
            );
        }
        if *timeout_max + *lease_margin >= *lease {
            let why =
                format!("a lease must outlast the longest time-out by more than delivery.lease_margin_ms ({})", millis(*lease_margin));
            reader.contradiction("delivery.timeout_max_ms", "delivery.lease_ms", why);
        }
        if usize::from(defaults.max_in_flight) > *total_in_flight {
            reader.contradiction(
                "delivery.max_in_flight",
                "delivery.total_in_flight",
                "one client may have more in flight than all together: it would take every place, and never get as many",
            );
        }
        if poll > idle_poll {
            reader.contradiction(
                "delivery.poll_ms",
                "delivery.idle_poll_ms",
                "an idle courier would look more often than a busy one, and what is due would wait the longer the more there is",
            );
        }
        if *timeout_max >= self.token.lifetime {
            let why = "a token could expire before the attempt that carries it is over";
            reader.contradiction("delivery.timeout_max_ms", "token.lifetime_s", why);
        }
        if let (SealingKey::Given(current) | SealingKey::InFile(current, _), Some(previous)) =
            (&self.sealing_key, &self.sealing_key_previous)
            && current == previous
        {
            reader.contradiction(
                "sealing_key",
                "sealing_key_previous",
                "they are the same key: what was sealed with the one before could not be opened",
            );
        }
        if self.idempotency_keep > self.retention.settled {
            let why = "a repeated request could ask for a logout that is no longer kept";
            reader.contradiction("idempotency_keep_h", "retention.settled_days", why);
        }
        for (path, number) in
            [("http.connections_per_address", self.http.connections_per_address), ("http.streams_max", self.http.streams_max)]
        {
            if number > self.http.connections_max {
                reader.contradiction(path, "http.connections_max", "there are never so many connections: this limits nothing");
            }
        }
        let metrics_listen = self.http.metrics.map(|metrics| metrics.listen);
        if metrics_listen == Some(self.http.listen) && self.http.listen.port() != 0 {
            reader.contradiction("http.listen", "http.metrics_listen", "two listeners cannot have one address: the second would not start");
        }
    }
}

impl Mode {
    const fn from_dev(dev: bool) -> Self {
        if dev { Self::Dev } else { Self::Production }
    }
}

impl Http {
    fn read(reader: &mut Reader) -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
        let connections_max = reader.number("http.connections_max", 1000_usize, 1..=1_000_000);
        let tls = TlsFiles::read(reader);
        Self {
            listen: reader.or("http.listen", listen, address, SocketAddr::to_string),
            metrics: MetricsListener::read(reader, tls.as_ref()),
            tls,
            forwarding: doors::forwarding(reader),
            body_bytes_max: reader.number("http.body_bytes_max", 4 << 20, 1 << 10..=64 << 20),
            connections_max,
            // Nobody alone takes all places.
            connections_per_address: reader.number("http.connections_per_address", connections_max.div_ceil(2), 1..=1_000_000),
            streams_max: reader.number("http.streams_max", 200.min(connections_max), 1..=1_000_000),
            request_timeout: reader.millis("http.request_timeout_ms", 45_000, 31_000..=600_000),
        }
    }
}

impl Database {
    fn read(reader: &mut Reader) -> Self {
        let file = DatabaseUrl::Sqlite(PathBuf::from("logoutd.db"));
        Self {
            url: reader.or("database.url", file, database_url, DatabaseUrl::to_string),
            max_connections: reader.number("database.max_connections", 16, 2..=1000),
            statement_timeout: reader.millis("database.statement_timeout_ms", 5000, 100..=600_000),
        }
    }
}

impl Egress {
    fn read(reader: &mut Reader) -> Self {
        let proxy = secret_or_file(reader, "egress.proxy", "egress.proxy_file", OnExposure::Tell, proxy);
        let all_past = |raw: &Raw| each(&raw.list()?, past);
        let shown = |list: &Vec<Past>| {
            if list.is_empty() { "(none)".to_owned() } else { list.iter().map(Past::to_string).collect::<Vec<_>>().join(", ") }
        };
        let past = reader.or("egress.no_proxy", Vec::new(), all_past, shown);
        if !past.is_empty() && !reader.is_given("egress.proxy") && !reader.is_given("egress.proxy_file") {
            reader.contradiction("egress.no_proxy", "egress.proxy", "there is no proxy to go past: everything is reached without one");
        }
        Self { proxy: proxy.map(|proxy| Proxy { past, ..proxy }) }
    }
}

/// The text is never repeated: it may hold a password.
fn proxy(text: &str) -> Result<Proxy, String> {
    let why = || "must be http://host:port, with user:password@ before the host if the proxy asks for it, and nothing else".to_owned();
    let url = Url::parse(text).map_err(|_| why())?;
    let bare = url.scheme() == "http" && matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    let host = url.host().filter(|_| bare).ok_or_else(why)?.to_owned();
    let port = url.port_or_known_default().filter(|port| *port > 0).ok_or_else(why)?;
    let credentials = match (url.username(), url.password()) {
        ("", None) => None,
        (name, password) => Some(credentials(name, password.unwrap_or_default()).ok_or_else(why)?),
    };
    Ok(Proxy { host, port, credentials, past: Vec::new() })
}

/// RFC 7617 2: no colon in a name, no control character in either.
fn credentials(name: &str, password: &str) -> Option<Credentials> {
    let (name, password) = (unescaped(name)?, Zeroizing::new(unescaped(password)?));
    let plain = |text: &str| !text.chars().any(char::is_control);
    (!name.is_empty() && !name.contains(':') && plain(&name) && plain(&password)).then_some(Credentials { name, password })
}

/// RFC 3986 2.1.
fn unescaped(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [octet, after @ ..] = rest {
        rest = after;
        octets.push(match (octet, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                let digit = |octet: &u8| char::from(*octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit(high)? << 4 | digit(low)?
            }
            (b'%', _) => return None,
            (octet, _) => *octet,
        });
    }
    String::from_utf8(octets).ok()
}

fn past(text: &str) -> Result<Past, String> {
    let why = || format!("must hold names such as wiki.internal or .corp.example, or networks such as 10.0.0.0/8, not {text:?}");
    if let Ok(network) = network(text) {
        return Ok(Past::Network(network));
    }
    let name = |name: &str| match url::Host::parse(name) {
        Ok(url::Host::Domain(name)) if !name.contains('*') && !name.ends_with('.') => Ok(name),
        Ok(_) | Err(_) => Err(why()),
    };
    match text.strip_prefix('.') {
        Some(parent) => name(parent).map(Past::Under),
        None => name(text).map(Past::Name),
    }
}

impl Delivery {
    fn read(reader: &mut Reader) -> Self {
        let standard = DeliverySettings::DEFAULT;
        let timeout_ms = reader.number("delivery.timeout_ms", millis(standard.timeout), 100..=TIMEOUT_MS_MAX);
        let timeout_max_ms = reader.number("delivery.timeout_max_ms", timeout_ms.max(millis(standard.timeout)), 100..=TIMEOUT_MS_MAX);
        let margin_ms = reader.number("delivery.lease_margin_ms", 10_000, 100..=600_000);
        let lease_ms = 2 * timeout_max_ms + margin_ms;
        let defaults = DeliverySettings {
            timeout: Duration::from_millis(timeout_ms),
            max_in_flight: reader.number("delivery.max_in_flight", standard.max_in_flight, 1..=1024),
            horizon: reader.seconds("delivery.horizon_s", standard.horizon.as_secs(), 60..=30 * 24 * 3600),
            confirm_rejections: reader.number("delivery.confirm_rejections", standard.confirm_rejections, 0..=2),
            ..standard
        };
        Self {
            defaults,
            timeout_max: Duration::from_millis(timeout_max_ms),
            total_in_flight: reader.number("delivery.total_in_flight", 512, 1..=65_536),
            lease: reader.millis("delivery.lease_ms", lease_ms, 1000..=3_600_000),
            lease_margin: Duration::from_millis(margin_ms),
            poll: reader.millis("delivery.poll_ms", 500, 10..=60_000),
            idle_poll: reader.millis("delivery.idle_poll_ms", 5000, 10..=60_000),
            host_rate_per_s: reader.number_if_any("delivery.host_rate_per_s", 1..=10_000),
        }
    }
}

impl Chores {
    fn read(reader: &mut Reader) -> Self {
        let often = "*/5 * * * * *";
        Self {
            timetable: Timetable {
                works: schedule(reader, "schedule.works", often),
                expiry: schedule(reader, "schedule.expiry", often),
                horizon: schedule(reader, "schedule.horizon", often),
                lanes: schedule(reader, "schedule.lanes", often),
                retention: schedule(reader, "schedule.retention", "0 17 * * * *"),
                keys: schedule(reader, "schedule.keys", "0 */5 * * * *"),
                audit: schedule(reader, "schedule.audit", "*/10 * * * * *"),
            },
            hold: reader.millis("schedule.hold_ms", 10_000, 500..=600_000),
        }
    }
}

fn schedule(reader: &mut Reader, path: &'static str, default: &str) -> Schedule {
    let default = Schedule::parse(default).expect("the defaults are schedules");
    let parse = |raw: &Raw| {
        let text = raw.text()?;
        Schedule::parse(text).map_err(|refused| format!("{}, not {text:?}", refused.why))
    };
    reader.or(path, default, parse, Schedule::to_string)
}

/// The longest time-out of one attempt, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 100_000;

impl Retention {
    fn read(reader: &mut Reader) -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        Self {
            settled: days(reader.number("retention.settled_days", 30, 1..=3650)),
            // A session must be known as ended for as long as anybody might still tell of it.
            sessions: days(reader.number("retention.sessions_days", 30, 30..=3650)),
            // A year, and the time it takes to look back on it.
            audit: days(reader.number("retention.audit_days", 400, 90..=3650)),
        }
    }
}

impl Log {
    fn read(reader: &mut Reader) -> Self {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        let levels = [("error", Error), ("warn", Warn), ("info", Info), ("debug", Debug), ("trace", Trace)];
        Self {
            format: reader.word("log.format", LogFormat::Json, &[("json", LogFormat::Json), ("text", LogFormat::Text)]),
            level: reader.word("log.level", Info, &levels),
        }
    }
}

/// The largest configuration file, and the largest file with a secret, in octets.
const FILE_BYTES_MAX: u64 = 1 << 20;

fn lay_file(reader: &mut Reader, arguments: &Arguments, variables: &[(String, String)]) {
    let named = variables.iter().find(|(name, _)| name == "LOGOUTD_CONFIG").map(|(_, value)| PathBuf::from(value));
    let Some(path) = arguments.config.clone().or(named) else { return };
    match read_file(&path) {
        Ok(text) => reader.lay_file(&path, &text),
        Err(why) => reader.file_mistake(Source::File { path, line: None }, why),
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    let (octets, _) = read_open(path)?;
    text_of(path, octets)
}

fn text_of(path: &Path, octets: Vec<u8>) -> Result<String, String> {
    String::from_utf8(octets).map_err(|_| format!("{} cannot be read: it is no text in UTF-8", path.display()))
}

/// What a file holds, and who may read it there: of the file that was read, whatever its name leads to meanwhile.
fn read_open(path: &Path) -> Result<(Vec<u8>, Readers), String> {
    use std::io::Read as _;
    let mut octets = Vec::new();
    let readers = std::fs::File::open(path)
        .and_then(|file| {
            let readers = Readers::of(&file.metadata()?);
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut octets)?;
            Ok(readers)
        })
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if octets.len() as u64 > FILE_BYTES_MAX {
        Err(format!("{} is larger than {FILE_BYTES_MAX} octets", path.display()))
    } else {
        Ok((octets, readers))
    }
}

/// Variables that begin like ours and are not settings: those of the command line and of the tests, and those Kubernetes sets in every container beside
/// a service that is called `logoutd`.
const OTHER_VARIABLES: [&str; 9] = [
    "LOGOUTD_CONFIG",
    "LOGOUTD_URL",
    "LOGOUTD_TOKEN",
    "LOGOUTD_TOKEN_FILE",
    "LOGOUTD_CA_FILE",
    "LOGOUTD_ALLOW_HTTP",
    "LOGOUTD_TEST_*",
    "LOGOUTD_SERVICE_*",
    "LOGOUTD_PORT*",
];

fn lay_variables(reader: &mut Reader, variables: &[(String, String)]) {
    for (name, value) in variables {
        let Some(rest) = name.strip_prefix("LOGOUTD_") else { continue };
        if OTHER_VARIABLES.iter().any(|other| other.strip_suffix('*').map_or(name == other, |prefix| name.starts_with(prefix))) {
            continue;
        }
        let path = match rest {
            "LISTEN" => "http.listen".to_owned(),
            "DATABASE_URL" => "database.url".to_owned(),
            long => long.to_ascii_lowercase().replace("__", "."),
        };
        reader.lay(&path, value.clone(), Source::Variable(name.clone()));
    }
}

fn lay_arguments(reader: &mut Reader, arguments: &Arguments) {
    if let Some(url) = &arguments.database_url {
        reader.lay("database.url", url.clone(), Source::Argument("--database-url"));
    }
    if let Some(listen) = &arguments.listen {
        reader.lay("http.listen", listen.clone(), Source::Argument("--listen"));
    }
    match arguments.mode {
        Mode::Dev => reader.lay("dev", "true".to_owned(), Source::Argument("--dev")),
        Mode::Production => {}
    }
}

/// A proxy resolves names itself, behind the address guard; whoever wants one in the environment all the same must say that it is not ours.
fn refuse_ambient_proxy(reader: &mut Reader, variables: &[(String, String)]) {
    let decision = reader.optional("network.ambient_proxy", ignore, |()| "ignore".to_owned());
    let names: Vec<_> = variables.iter().map(|(name, _)| name.as_str()).filter(|name| is_proxy(name)).collect();
    if decision.is_none() && reader.is_sound("network.ambient_proxy") && !names.is_empty() {
        let why = format!(
            "{} would not be used: name the proxy in egress.proxy if one is needed, and unset it, or say that it is known with network.ambient_proxy = \"ignore\"",
            names.join(", ")
        );
        reader.mistake("network.ambient_proxy", why);
    }
}

fn is_proxy(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "http_proxy" | "https_proxy" | "all_proxy")
}

fn ignore(raw: &Raw) -> Result<(), String> {
    match raw.text()? {
        "ignore" => Ok(()),
        other => Err(format!("must be \"ignore\", not {other:?}")),
    }
}

/// What becomes of a file with a secret that others than its owner may read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnExposure {
    /// It is not used: with a copy of the database, what is in it opens everything.
    Refuse,
    /// It is used, and told of.
    Tell,
}

/// A secret from one of two settings, of which only one may be given.
fn secret_or_file<T>(
    reader: &mut Reader,
    direct: &str,
    file: &str,
    on_exposure: OnExposure,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let read = |path: &Path| {
        let (text, readers) = secret_text(path)?;
        Ok((parse(&text)?, readers))
    };
    secret_or_octets(reader, (direct, &parse), (file, read), on_exposure)
}

/// The same, where a file is read in a way of its own.
fn secret_or_octets<T>(
    reader: &mut Reader,
    (direct, parse): (&str, impl Fn(&str) -> Result<T, String>),
    (file, read): (&str, impl Fn(&Path) -> Result<(T, Readers), String>),
    on_exposure: OnExposure,
) -> Option<T> {
    let given = reader.optional(direct, |raw| parse(raw.text()?), |_| "(hidden)".to_owned());
    let kept = |raw: &Raw| {
        let path = Path::new(raw.text()?);
        match (read(path)?, on_exposure) {
            ((_, Readers::Others), OnExposure::Refuse) => Err(refused_as_exposed(path)),
            (kept, _) => Ok(kept),
        }
    };
    let from_file = reader.optional(file, kept, |_| "(hidden)".to_owned());
    if reader.is_given(direct) && reader.is_given(file) {
        reader.contradiction(direct, file, "both are set: keep one, since the other would not be used");
    }
    if let Some((_, Readers::Others)) = from_file {
        reader.expose(file);
    }
    given.or(from_file.map(|(secret, _)| secret))
}

fn refused_as_exposed(path: &Path) -> String {
    format!("{} may be read by others than its owner: chmod 600 it, or 640 where root owns it", path.display())
}

/// What a file holds besides the white space around it, and who may read it there.
fn secret_text(path: &Path) -> Result<(String, Readers), String> {
    let (octets, readers) = read_open(path)?;
    let text = Zeroizing::new(text_of(path, octets)?);
    match text.trim() {
        "" => Err("names a file that is empty".to_owned()),
        text => Ok((text.to_owned(), readers)),
    }
}

/// Fewer characters could be guessed.
const ADMIN_TOKEN_CHARS_MIN: usize = 32;

fn admin_token(text: &str) -> Result<Secret, String> {
    // What a Bearer header can carry (RFC 6750 2.1): another token could never be presented.
    let legal = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~+/=".contains(&octet);
    match text.len() {
        0..ADMIN_TOKEN_CHARS_MIN => Err(format!("must have at least {ADMIN_TOKEN_CHARS_MIN} characters")),
        256.. => Err("must have at most 255 characters".to_owned()),
        _ if !text.bytes().all(legal) => Err("must consist of letters, digits and - . _ ~ + / =".to_owned()),
        _ => Ok(Secret::new(text)),
    }
}

fn key_or_file(reader: &mut Reader, direct: &str, file: &str) -> Option<KeyOctets> {
    secret_or_octets(reader, (direct, sealing_key_octets), (file, sealing_key_in), OnExposure::Refuse)
}

fn sealing_key_octets(text: &str) -> Result<KeyOctets, String> {
    KeyOctets::parse(text).ok_or_else(|| "must be 32 octets in base64".to_owned())
}

/// 32 octets as they are, or in base64: as in the file beside a database.
fn sealing_key_in(path: &Path) -> Result<(KeyOctets, Readers), String> {
    let (content, readers) = read_open(path)?;
    let content = Zeroizing::new(content);
    let raw = <[u8; 32]>::try_from(content.as_slice()).ok().map(KeyOctets::new);
    let key = raw.or_else(|| KeyOctets::parse(std::str::from_utf8(&content).ok()?));
    key.map(|key| (key, readers)).ok_or_else(|| "must name a file that holds 32 octets, as they are or in base64".to_owned())
}

/// Common libraries keep a key set for five minutes to a day, whatever its `max-age` says: the slowest is waited for.
const CACHE_S: u64 = 24 * 3600;

fn key_policy(reader: &mut Reader, token: &Token) -> KeyPolicy {
    let days = |days: u64| Duration::from_hours(24 * days);
    let rotate_days = reader.number("keys.rotate_days", 90, 0..=3650);
    KeyPolicy {
        rotate_after: (rotate_days > 0).then(|| days(rotate_days)),
        cache: reader.seconds("keys.cache_s", CACHE_S, 0..=30 * 24 * 3600),
        // An ID token may come back as a hint long after its session (RP-Initiated Logout 2).
        hints: days(reader.number("keys.hints_days", 400, 1..=3650)),
        token_lifetime: token.lifetime,
    }
}

fn sealing_key(reader: &mut Reader, database: &DatabaseUrl) -> SealingKey {
    let given = key_or_file(reader, "sealing_key", "sealing_key_file");
    match (given, database) {
        (Some(key), _) => match reader.said("sealing_key_file") {
            Some(path) => SealingKey::InFile(key, PathBuf::from(path)),
            None => SealingKey::Given(key),
        },
        (None, DatabaseUrl::Sqlite(path)) => SealingKey::BesideDatabase(key_file(path)),
        (None, DatabaseUrl::Postgres(_)) => {
            if !reader.is_given("sealing_key") && !reader.is_given("sealing_key_file") {
                let why = "with PostgreSQL a sealing_key or sealing_key_file is needed: replicas must share it, and no backup may hold it";
                reader.contradiction("database.url", "sealing_key", why);
            }
            // Never seen: without a sound key, PostgreSQL is always a mistake.
            SealingKey::BesideDatabase(PathBuf::new())
        }
    }
}

/// `<database>.key`.
fn key_file(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".key");
    PathBuf::from(name)
}

fn database_url(raw: &Raw) -> Result<DatabaseUrl, String> {
    let text = raw.text()?;
    if let Some(path) = text.strip_prefix("sqlite://") {
        return match path {
            "" | ":memory:" => Err("must name a file: what is only in memory is lost with the process".to_owned()),
            path if path.contains(['?', '#']) => {
                Err("takes no parameters: journal, synchronisation and time-outs are not negotiable".to_owned())
            }
            path => Ok(DatabaseUrl::Sqlite(PathBuf::from(path))),
        };
    }
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "postgres" | "postgresql") => Ok(DatabaseUrl::Postgres(Secret::new(text))),
        // The text is not repeated: it may hold a password.
        _ => Err("must be sqlite://file, sqlite:///absolute/file or postgres://user@host/name".to_owned()),
    }
}

fn public_url(raw: &Raw) -> Result<Url, String> {
    let why = || "must be an absolute http(s) URL without user, query and fragment".to_owned();
    let url = Url::parse(raw.text()?).map_err(|_| why())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if plain { Ok(url) } else { Err(why()) }
}

fn address(raw: &Raw) -> Result<SocketAddr, String> {
    let text = raw.text()?;
    text.parse().map_err(|_| format!("must be an address and a port, such as 127.0.0.1:8080, not {text:?}"))
}

fn networks(raw: &Raw) -> Result<Vec<IpNet>, String> {
    each(&raw.list()?, network)
}

/// Every entry of a list, or all that is wrong with them.
fn each<T>(list: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let (mut parsed, mut whys) = (Vec::with_capacity(list.len()), Vec::new());
    for text in list {
        match parse(text) {
            Ok(entry) => parsed.push(entry),
            Err(why) => whys.push(why),
        }
    }
    if whys.is_empty() { Ok(parsed) } else { Err(whys.join("; ")) }
}

fn network(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text
        .parse()
        .or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)))
        .map_err(|_| format!("must hold networks such as 10.0.0.0/8, not {text:?}"))?;
    if net != net.trunc() {
        return Err(format!("{net} has bits behind its prefix: {} is meant?", net.trunc()));
    }
    let link_local = ["169.254.0.0/16", "fe80::/10"].iter().any(|never| never.parse::<IpNet>().is_ok_and(|never| never.contains(&net)));
    if link_local { Err(format!("{net} is link-local, which is never reached")) } else { Ok(net) }
}

fn listed(networks: &[IpNet]) -> String {
    let texts: Vec<_> = networks.iter().map(IpNet::to_string).collect();
    if texts.is_empty() { "(none)".to_owned() } else { texts.join(", ") }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
