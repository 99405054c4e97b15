//! The only way out: every request that leaves this process on behalf of a logout goes through here.
//!
//! Owns the outbound clients, the resolver, and the limits on time and octets. Never decides whether to try again, never follows a redirect, never
//! uses a proxy from the environment, and never touches the store.
//!
//! Why the guard stands in three places: a resolver is not asked about literal addresses, so URLs are checked before every request; a name can change
//! its address between check and use, so the addresses are judged where the connection takes them from; and the address of a finished connection is
//! judged once more, as a tripwire that should never be felt.
//!
//! Why a pool for each distinct [`Network`]: connections are reused by host alone, so a shared pool would lend one client's exception to another.

mod excerpt;
mod fetch;
mod outcome;
mod request;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use reqwest::header::RETRY_AFTER;
use reqwest::{Certificate, Client, ClientBuilder, Response};
use tokio::sync::OnceCell;
use url::Url;

use self::excerpt::{BODY_OCTETS_MAX, Extent};
use self::request::headers_of;
use self::resolve::{GuardedResolver, Lookups, locked};
use crate::model::attempt::Failure;
use crate::model::client::Network;
use crate::plan::address::{PORTS_DEFAULT, Policy, check_url, within_ceiling};

pub use self::fetch::{Fetch, FetchError, Fetched};
pub use self::request::{Answer, Keep, Method, Post, Request, WHOLE_OCTETS_MAX};
pub use self::resolve::{FixedNames, Names};
pub use crate::plan::address::{BadUrl, Forbidden, Mode, effective, parse_url};
pub use crate::plan::outcome::classify;

/// How many pools are kept; the one unused for longest goes first.
const POOLS_MAX: usize = 256;

/// How many idle connections one pool keeps to one host.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// How long a connection may be idle. Many servers close theirs after 5 to 60 s, and a request sent into a closing connection has an unknown fate.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a body may take once its head has come: the status is the answer, the body only frees the connection or tells why.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// How many networks one registration may except.
pub const NETWORKS_MAX: usize = 64;

/// The longest `ca_pem`, in octets.
pub const CA_PEM_OCTETS_MAX: usize = 64 * 1024;

/// What this process calls itself.
pub const USER_AGENT: &str = concat!("logoutd/", env!("CARGO_PKG_VERSION"));

/// How a deployment reaches out.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// How strict it is.
    pub mode: Mode,
    /// What registrations may except at most.
    pub ceiling: Vec<IpNet>,
    /// The ports that may be reached.
    pub ports: Vec<RangeInclusive<u16>>,
    /// How long resolving a name may take.
    pub dns_timeout: Duration,
    /// How long connecting may take after that, the TLS handshake included.
    pub connect_timeout: Duration,
    /// The `User-Agent`.
    pub user_agent: String,
    /// Where names are looked up.
    pub names: Names,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            mode: Mode::Production,
            ceiling: Vec::new(),
            ports: PORTS_DEFAULT.to_vec(),
            dns_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(3),
            user_agent: USER_AGENT.to_owned(),
            names: Names::System,
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The HTTP client refused its settings.
    #[error("the outbound HTTP client cannot be made")]
    Client(#[source] reqwest::Error),
}

/// Why exceptions cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// More than [`NETWORKS_MAX`].
    #[error("must not except more than {NETWORKS_MAX} networks")]
    TooMany,
    /// Beyond the ceiling, or nothing that an exception could open.
    #[error("must not except {0}, which the deployment does not allow")]
    OutsideCeiling(IpNet),
    /// Longer than [`CA_PEM_OCTETS_MAX`].
    #[error("must not be longer than {CA_PEM_OCTETS_MAX} octets")]
    CaTooLong,
    /// No certificate, or one that cannot be read.
    #[error("must be one or more certificates in PEM")]
    CaMalformed,
}

/// The outbound clients, one for each distinct set of exceptions.
pub struct Egress {
    config: Arc<EgressConfig>,
    lookups: Arc<Lookups>,
    pools: Mutex<Pools>,
}

/// What one pool's connections may reach.
#[derive(Debug)]
struct Guard {
    mode: Mode,
    allow: Vec<IpNet>,
    ports: Vec<RangeInclusive<u16>>,
}

impl Guard {
    /// Exceptions registered under a higher ceiling than today's are left out.
    fn new(config: &EgressConfig, network: &Network) -> Self {
        let inside = |network: &&IpNet| within_ceiling(std::slice::from_ref(*network), &config.ceiling).is_ok();
        let allow = network.allow.iter().filter(inside).copied().collect();
        Self { mode: config.mode, allow, ports: config.ports.clone() }
    }

    fn policy(&self) -> Policy<'_> {
        Policy { mode: self.mode, allow: &self.allow, ports: &self.ports }
    }
}

struct Pool {
    guard: Arc<Guard>,
    /// Made at the first request, once, however many wait for it.
    client: OnceCell<Client>,
}

/// The pools in use and when each was used last.
#[derive(Default)]
struct Pools {
    by_network: HashMap<Network, (u64, Arc<Pool>)>,
    uses: u64,
}

impl Pools {
    fn of(&mut self, network: &Network, make: impl FnOnce() -> Pool) -> Arc<Pool> {
        self.uses += 1;
        if let Some((last_use, pool)) = self.by_network.get_mut(network) {
            *last_use = self.uses;
            return Arc::clone(pool);
        }
        if self.by_network.len() >= POOLS_MAX {
            self.drop_oldest();
        }
        let pool = Arc::new(make());
        self.by_network.insert(network.clone(), (self.uses, Arc::clone(&pool)));
        pool
    }

    /// Requests under way keep their pool until they end.
    fn drop_oldest(&mut self) {
        let oldest = self.by_network.iter().min_by_key(|(_, (last_use, _))| *last_use).map(|(network, _)| network.clone());
        if let Some(oldest) = oldest {
            self.by_network.remove(&oldest);
        }
    }
}

impl Egress {
    /// Makes the way out, with the pool of those who need no exception, so that a mistake is found at the start.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let lookups = Arc::new(Lookups::new(config.names.clone(), config.dns_timeout));
        let this = Self { config: Arc::new(config), lookups, pools: Mutex::default() };
        let pool = this.pool(&Network::default());
        let client = guarded_client(&this.config, &this.lookups, &pool.guard, None).map_err(EgressError::Client)?;
        // The pool is new, so its cell is empty.
        drop(pool.client.set(client));
        Ok(this)
    }

    /// Decides at registration whether a URL could be reached; names are resolved and judged at each request.
    pub fn check(&self, url: &Url, network: &Network) -> Result<(), BadUrl> {
        check_url(url, &Guard::new(&self.config, network).policy())
    }

    /// Decides at registration whether exceptions lie inside the ceiling and their certificates can be read.
    pub fn check_network(&self, network: &Network) -> Result<(), BadNetwork> {
        if network.allow.len() > NETWORKS_MAX {
            return Err(BadNetwork::TooMany);
        }
        within_ceiling(&network.allow, &self.config.ceiling).map_err(BadNetwork::OutsideCeiling)?;
        network.ca_pem.as_deref().map_or(Ok(()), check_ca)
    }

    /// Posts a logout token once and reads what comes back, within the limits.
    pub async fn post_logout_token(&self, post: Post<'_>) -> Answer {
        let (number, body) = (post.attempt.to_string(), post.body());
        let headers = post.headers(&number);
        self.send(Request { body: body.as_bytes(), ..post.request(&headers, &[post.token]) }).await
    }

    /// Sends one request and reads what comes back, within the limits; never twice, and never to where the answer points.
    pub async fn send(&self, request: Request<'_>) -> Answer {
        let pool = self.pool(request.network);
        if let Err(bad) = check_url(request.url, &pool.guard.policy()) {
            return Answer::failed(Failure::Blocked, format!("the URL {bad}"));
        }
        let headers = match headers_of(request.headers) {
            Ok(headers) => headers,
            Err(bad) => return Answer::failed(Failure::Ours, bad.to_string()),
        };
        let client = match self.client(&pool, request.network).await {
            Ok(client) => client,
            Err(detail) => return Answer::failed(Failure::Ours, detail),
        };
        let builder = client.request(request.method.into(), request.url.clone()).timeout(request.timeout).headers(headers);
        match builder.body(request.body.to_vec()).send().await {
            Ok(response) => receive(response, &request, &pool.guard.policy()).await,
            Err(error) => Answer::failed(outcome::failure(&error), outcome::detail(error)),
        }
    }

    fn pool(&self, network: &Network) -> Arc<Pool> {
        let make = || Pool { guard: Arc::new(Guard::new(&self.config, network)), client: OnceCell::new() };
        locked(&self.pools).of(network, make)
    }

    async fn client<'p>(&self, pool: &'p Pool, network: &Network) -> Result<&'p Client, String> {
        let make = || async {
            let (config, lookups, guard) = (Arc::clone(&self.config), Arc::clone(&self.lookups), Arc::clone(&pool.guard));
            let ca_pem = network.ca_pem.clone();
            // Reads the system's certificates from disk.
            let made = tokio::task::spawn_blocking(move || guarded_client(&config, &lookups, &guard, ca_pem.as_deref())).await;
            made.map_err(|error| error.to_string())?.map_err(outcome::detail)
        };
        pool.client.get_or_try_init(make).await
    }
}

/// A client for the command line: it talks to the one server it is told to, unguarded, but like all others without ambient proxy and redirects.
pub fn api_client(timeout: Duration) -> Result<Client, EgressError> {
    with_authorities(&[], || recipe(USER_AGENT).timeout(timeout).connect_timeout(timeout)).map_err(EgressError::Client)
}

/// The name of a variable that would send requests through a proxy if anybody listened to it.
///
/// Nothing here does; but whoever sets one expects something, so a server refuses to start without a decision.
pub fn ambient_proxy(vars: impl Iterator<Item = (String, String)>) -> Option<String> {
    let proxy = |name: &str| ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].iter().any(|known| name.eq_ignore_ascii_case(known));
    vars.filter(|(name, value)| proxy(name) && !value.trim().is_empty()).map(|(name, _)| name).min()
}

fn check_ca(pem: &str) -> Result<(), BadNetwork> {
    if pem.len() > CA_PEM_OCTETS_MAX {
        return Err(BadNetwork::CaTooLong);
    }
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|_| BadNetwork::CaMalformed)?;
    // The certificates themselves are only read when a client is made of them.
    let client = recipe(USER_AGENT).tls_certs_only(certificates.clone()).build();
    if certificates.is_empty() || client.is_err() { Err(BadNetwork::CaMalformed) } else { Ok(()) }
}

/// What all outbound clients have in common.
#[expect(clippy::disallowed_methods, reason = "this is the room that owns the way out")]
fn recipe(user_agent: &str) -> ClientBuilder {
    Client::builder()
        .user_agent(user_agent)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        // A hidden retry would be an attempt nobody recorded.
        .retry(reqwest::retry::never())
        .referer(false)
        .http1_only()
        .tcp_nodelay(true)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
}

fn guarded_client(
    config: &EgressConfig,
    lookups: &Arc<Lookups>,
    guard: &Arc<Guard>,
    ca_pem: Option<&str>,
) -> Result<Client, reqwest::Error> {
    let certificates = ca_pem.map_or(Ok(Vec::new()), |pem| Certificate::from_pem_bundle(pem.as_bytes()))?;
    with_authorities(&certificates, || {
        recipe(&config.user_agent)
            .https_only(config.mode == Mode::Production)
            // This limit includes the resolver's.
            .connect_timeout(config.dns_timeout + config.connect_timeout)
            .dns_resolver(GuardedResolver { guard: Arc::clone(guard), lookups: Arc::clone(lookups) })
    })
}

/// Trusts the system's authorities and some more; where the system has none, as in an empty container, those alone.
fn with_authorities(more: &[Certificate], recipe: impl Fn() -> ClientBuilder) -> Result<Client, reqwest::Error> {
    recipe().tls_certs_merge(more.iter().cloned()).build().or_else(|error| {
        let client = recipe().tls_certs_only(more.iter().cloned()).build()?;
        tracing::warn!(
            error = outcome::detail(error),
            "the system's certificate authorities cannot be read: only configured ones are trusted"
        );
        Ok(client)
    })
}

async fn receive(mut response: Response, request: &Request<'_>, policy: &Policy<'_>) -> Answer {
    let remote_addr = response.remote_addr();
    if let Some(detail) = remote_addr.and_then(|remote| tripped(remote, policy)) {
        return Answer { remote_addr, ..Answer::failed(Failure::Blocked, detail) };
    }
    let status = response.status().as_u16();
    if status < 200 {
        // Nobody asked for another protocol.
        return Answer { remote_addr, ..Answer::failed(Failure::Garbled, format!("the answer ends with status {status}")) };
    }
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| outcome::retry_after(value.as_bytes(), request.now));
    let (body, extent) = match (request.keep, status) {
        (Keep::Whole { octets_max }, 200..300) => {
            read(&mut response, Reading::kept(octets_max.min(WHOLE_OCTETS_MAX), request.timeout)).await
        }
        (_, 400..500) => read(&mut response, Reading::kept(BODY_OCTETS_MAX, BODY_PATIENCE)).await,
        _ => read(&mut response, Reading::FREEING).await,
    };
    let mut answer = Answer { remote_addr, ..Answer::answered(status, retry_after) };
    match status {
        200..300 => answer.body = (extent == Extent::Whole).then_some(body).filter(|_| request.keep != Keep::Excerpt),
        _ => answer.excerpt = excerpt::excerpt(&body, extent, request.secrets),
    }
    answer
}

/// How a body is read: what is not kept is read only to free the connection for the next request.
#[derive(Clone, Copy)]
struct Reading {
    octets_max: usize,
    kept_max: usize,
    patience: Duration,
}

impl Reading {
    const FREEING: Self = Self { octets_max: BODY_OCTETS_MAX, kept_max: 0, patience: BODY_PATIENCE };

    const fn kept(octets_max: usize, patience: Duration) -> Self {
        Self { octets_max, kept_max: octets_max, patience }
    }
}

/// Reads a body up to its limits of octets and time; what came until then is kept.
async fn read(response: &mut Response, reading: Reading) -> (Vec<u8>, Extent) {
    let mut body = Vec::new();
    let extent = tokio::time::timeout(reading.patience, read_into(&mut body, response, reading)).await.unwrap_or(Extent::Cut);
    (body, extent)
}

async fn read_into(body: &mut Vec<u8>, response: &mut Response, reading: Reading) -> Extent {
    let mut room = reading.octets_max;
    loop {
        let Ok(chunk) = response.chunk().await else { return Extent::Cut };
        let Some(chunk) = chunk else { return Extent::Whole };
        if chunk.len() > room {
            // The rest would not fit: what is kept ends here.
            body.extend(chunk.iter().take(room.min(reading.kept_max)));
            return Extent::Cut;
        }
        room -= chunk.len();
        if reading.kept_max > 0 {
            body.extend_from_slice(&chunk);
        }
    }
}

/// Whether the answer came from where it never should: then the guard has a hole, and somebody must hear of it.
fn tripped(remote: SocketAddr, policy: &Policy<'_>) -> Option<String> {
    let why = policy.judge(remote.ip()).err()?;
    tracing::error!(address = %remote.ip(), %why, "a connection reached a forbidden address: the address guard has a hole");
    Some(format!("the answer came from {}, which is {why}", remote.ip()))
}
