//! The only way out: every request that leaves this process on behalf of a logout goes through here.
//!
//! Owns the outbound clients, the resolver, and the limits on time and octets. Never decides whether to try again, never follows a redirect, never
//! uses a proxy from the environment, and never touches the store.
//!
//! Why the guard stands in three places: a resolver is not asked about literal addresses, so URLs are checked before every request; a name can change
//! its address between check and use, so the addresses are judged where the connection takes them from; and the address of a finished connection is
//! judged once more, as a tripwire that should never be felt.
//!
//! Why so many pools (`pool.rs`): connections are reused by host alone, so a shared one would lend one client's exception, trust or certificate to
//! another.
//!
//! With a proxy, names are resolved where it stands: URLs, literal addresses and ports are still judged here, what a name leads to is not. Such a proxy
//! must refuse private addresses itself. Only its own name is looked up here, and only it is connected to.

mod certificate;
mod dates;
mod excerpt;
mod fetch;
mod manner;
mod outcome;
mod pool;
mod request;
mod resolve;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use reqwest::header::{DATE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, ClientBuilder, Response};
use url::Url;

use self::dates::Dates;
use self::excerpt::{BODY_OCTETS_MAX, Extent};
use self::pool::{Guard, Pool, Pools, Terms, Way};
use self::request::headers_of;
use self::resolve::{GuardedResolver, Lookups, Wanted};
use crate::model::attempt::Failure;
use crate::model::client::{Network, ServerName};
use crate::model::proxy::Proxy;
use crate::observe::traces;
use crate::plan::address::{PORTS_DEFAULT, check_url, within_ceiling};
use crate::plan::skew::Seen;
use crate::seams::Clock;

pub use self::certificate::{BadIdentity, Certified, check_identity, first_expiry, is_in_order, read_certificate};

pub use self::fetch::{Fetch, FetchError, Fetched};
pub use self::manner::{BadHeaders, Identity, Manner, check_headers};
pub use self::pool::NoWay;
pub use self::request::{Answer, Keep, Method, Post, Request, WHOLE_OCTETS_MAX};
pub(crate) use self::resolve::locked;
pub use self::resolve::{FixedNames, Names};
pub use crate::plan::address::{BadUrl, Forbidden, Mode, effective, parse_url};
pub use crate::plan::outcome::classify;

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
    /// Through what requests leave.
    pub proxy: Option<Proxy>,
    /// What others' clocks are compared with.
    pub clock: Clock,
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
            proxy: None,
            clock: Clock::system(),
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

/// The outbound clients, one for each distinct set of terms.
pub struct Egress {
    config: Arc<EgressConfig>,
    lookups: Arc<Lookups>,
    pools: Mutex<Pools>,
    dates: Mutex<Dates>,
}

/// Why nothing was sent.
struct Unsent {
    failure: Failure,
    detail: String,
}

impl Egress {
    /// Makes the way out, with the pool of those who need no exception, so that a mistake is found at the start.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        let lookups = Arc::new(Lookups::new(config.names.clone(), config.dns_timeout));
        let this = Self { config: Arc::new(config), lookups, pools: Mutex::default(), dates: Mutex::default() };
        let way = if this.config.proxy.is_some() { Way::Proxied } else { Way::Direct };
        let pool = this.pool(Terms { network: Network::default(), identity: None, way });
        let client = guarded_client(&this.config, &this.lookups, &pool).map_err(EgressError::Client)?;
        // The pool is new, so its cell is empty.
        drop(pool.client.set(client));
        Ok(this)
    }

    /// Decides at registration whether a URL could be reached; names are resolved and judged at each request.
    pub fn check(&self, url: &Url, network: &Network) -> Result<(), BadUrl> {
        check_url(url, &Guard::new(&self.config, network).policy())
    }

    /// Decides at registration whether a receiver can be asked to prove another name.
    pub fn check_server_name(&self, url: &Url, name: &ServerName) -> Result<(), NoWay> {
        Way::to(url, Some(name), self.config.proxy.as_ref()).map(|_| ())
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
        let (headers, secrets) = (post.headers(&number), post.secrets());
        self.send_as(post.manner, Request { body: body.as_bytes(), ..post.request(&headers, &secrets) }).await
    }

    /// Sends one request and reads what comes back, within the limits; never twice, and never to where the answer points.
    pub async fn send(&self, request: Request<'_>) -> Answer {
        self.send_as(&Manner::PLAIN, request).await
    }

    async fn send_as(&self, manner: &Manner, request: Request<'_>) -> Answer {
        let headers = match headers_of(request.headers) {
            Ok(headers) => with_trace(headers),
            Err(bad) => return Answer::failed(Failure::Ours, bad.to_string()),
        };
        let pool = match self.open(request.url, request.network, manner).await {
            Ok(pool) => pool,
            Err(Unsent { failure, detail }) => return Answer::failed(failure, detail),
        };
        let builder = pool.request(request.method.into(), request.url).timeout(request.timeout).headers(headers);
        match builder.body(request.body.to_vec()).send().await {
            Ok(response) => {
                self.note_date(request.url, &response);
                receive(response, &request, |remote| pool.tripped(remote, self.config.proxy.as_ref())).await
            }
            Err(error) => Answer::failed(outcome::failure(&error, &pool.terms.way), outcome::detail(error)),
        }
    }

    /// By how much the clocks of those who answered lately are ahead of this process's.
    pub fn clocks_of_others(&self) -> Vec<Seen> {
        locked(&self.dates).seen(self.config.clock.now())
    }

    fn note_date(&self, url: &Url, response: &Response) {
        if let (Some(host), Some(date)) = (url.host_str(), response.headers().get(DATE)) {
            // One machine has one clock, whatever its ports.
            locked(&self.dates).note(host, date.as_bytes(), self.config.clock.now());
        }
    }

    /// The pool for a request, ready for use, if the request may be made at all.
    async fn open(&self, url: &Url, network: &Network, manner: &Manner) -> Result<OpenPool, Unsent> {
        let blocked = |why: &dyn std::fmt::Display| Unsent { failure: Failure::Blocked, detail: format!("the URL {why}") };
        let terms = Terms::of(url, network, manner, self.config.proxy.as_ref()).map_err(|no_way| blocked(&no_way))?;
        let pool = self.pool(terms);
        check_url(url, &pool.guard.policy()).map_err(|bad| blocked(&bad))?;
        let client = self.client(&pool).await.map_err(|detail| Unsent { failure: Failure::Ours, detail })?.clone();
        Ok(OpenPool { pool, client })
    }

    fn pool(&self, terms: Terms) -> Arc<Pool> {
        locked(&self.pools).of(terms, |terms| Pool::new(&self.config, terms))
    }

    async fn client<'p>(&self, pool: &'p Arc<Pool>) -> Result<&'p Client, String> {
        let make = || async {
            let (config, lookups, pool) = (Arc::clone(&self.config), Arc::clone(&self.lookups), Arc::clone(pool));
            // Reads the system's certificates from disk.
            let made = tokio::task::spawn_blocking(move || guarded_client(&config, &lookups, &pool)).await;
            made.map_err(|error| error.to_string())?.map_err(outcome::detail)
        };
        pool.client.get_or_try_init(make).await
    }
}

/// Says which trace a request belongs to (W3C Trace Context 3), unless whoever registered it says something else under these names.
fn with_trace(mut headers: HeaderMap) -> HeaderMap {
    let Some(trace) = traces::current() else { return headers };
    let said = [("traceparent", Some(trace.traceparent())), ("tracestate", trace.tracestate().map(str::to_owned))];
    if !headers.contains_key("traceparent") && !headers.contains_key("tracestate") {
        for (name, value) in said {
            let value = value.and_then(|value| HeaderValue::try_from(value).ok());
            headers.extend(value.map(|value| (HeaderName::from_static(name), value)));
        }
    }
    headers
}

/// A pool with its client.
struct OpenPool {
    pool: Arc<Pool>,
    client: Client,
}

impl std::ops::Deref for OpenPool {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

impl OpenPool {
    /// A request for a URL that was judged. Where another name is to be proved, the client is given that name for the host: so it is asked for and checked
    /// in the handshake, while the resolver answers with the addresses of the host itself (`resolve.rs`), and the request names the host as ever.
    fn request(&self, method: reqwest::Method, url: &Url) -> reqwest::RequestBuilder {
        let Way::Renamed(host, name) = &self.terms.way else { return self.client.request(method, url.clone()) };
        let mut renamed = url.clone();
        renamed.set_host(Some(name.as_str())).expect("a server name is a DNS name, which any https URL can have for its host");
        let authority = url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"));
        self.client.request(method, renamed).header(HOST, authority)
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

fn guarded_client(config: &EgressConfig, lookups: &Arc<Lookups>, pool: &Pool) -> Result<Client, reqwest::Error> {
    let Terms { network, identity, way } = &pool.terms;
    let certificates = network.ca_pem.as_deref().map_or(Ok(Vec::new()), |pem| Certificate::from_pem_bundle(pem.as_bytes()))?;
    let identity = identity.as_ref().map(|identity| identity.to_reqwest()).transpose()?;
    let proxy = config.proxy.as_ref().filter(|_| *way == Way::Proxied);
    let tunnels = proxy.map(tunnels).transpose()?;
    let wanted = Arc::new(match (way, proxy) {
        (Way::Renamed(host, _), _) => Wanted::Instead(host.clone()),
        (Way::Proxied, Some(proxy)) => Wanted::Proxy(proxy.host.clone(), Arc::clone(&pool.seen)),
        (Way::Direct | Way::Proxied, _) => Wanted::AsAsked,
    });
    with_authorities(&certificates, || {
        let (guard, lookups, wanted) = (Arc::clone(&pool.guard), Arc::clone(lookups), Arc::clone(&wanted));
        let recipe = recipe(&config.user_agent)
            .https_only(config.mode == Mode::Production)
            // This limit includes the resolver's.
            .connect_timeout(config.dns_timeout + config.connect_timeout)
            .dns_resolver(GuardedResolver { guard, lookups, wanted });
        let recipe = identity.iter().cloned().fold(recipe, ClientBuilder::identity);
        tunnels.iter().cloned().fold(recipe, ClientBuilder::proxy)
    })
}

/// RFC 9110 9.3.6: the proxy sees a host and a port, and what it is told about us.
fn tunnels(proxy: &Proxy) -> Result<reqwest::Proxy, reqwest::Error> {
    let tunnels = reqwest::Proxy::https(proxy.to_string())?;
    Ok(match &proxy.credentials {
        Some(credentials) => tunnels.basic_auth(&credentials.name, &credentials.password),
        None => tunnels,
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

async fn receive(mut response: Response, request: &Request<'_>, tripped: impl Fn(SocketAddr) -> Option<String>) -> Answer {
    let remote_addr = response.remote_addr();
    if let Some(detail) = remote_addr.and_then(tripped) {
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
