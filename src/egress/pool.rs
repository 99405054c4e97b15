//! Connections, kept apart: what one request may reach, trusts, shows and takes for its way is never lent to another.
//!
//! Owns which requests may share a pool. Never holds more than [`POOLS_MAX`] pools.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use reqwest::Client;
use tokio::sync::OnceCell;
use url::{Host, Url};

use super::EgressConfig;
use super::manner::{Identity, Manner};
use super::resolve::locked;
use crate::model::client::{Network, ServerName};
use crate::model::proxy::Proxy;
use crate::plan::address::{Mode, Policy, is_past_proxy, within_ceiling};

/// How many pools are kept; the one unused for longest goes first.
pub(super) const POOLS_MAX: usize = 256;

/// What one pool's connections may reach.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) mode: Mode,
    pub(super) allow: Vec<IpNet>,
    pub(super) ports: Vec<RangeInclusive<u16>>,
}

impl Guard {
    /// Exceptions registered under a higher ceiling than today's are left out.
    pub(super) fn new(config: &EgressConfig, network: &Network) -> Self {
        let inside = |network: &&IpNet| within_ceiling(std::slice::from_ref(*network), &config.ceiling).is_ok();
        let allow = network.allow.iter().filter(inside).copied().collect();
        Self { mode: config.mode, allow, ports: config.ports.clone() }
    }

    pub(super) fn policy(&self) -> Policy<'_> {
        Policy { mode: self.mode, allow: &self.allow, ports: &self.ports }
    }
}

/// By which way connections leave.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    /// To the address of the URL's host.
    Direct,
    /// To the address of this host, which proves another name. Of the host too, since the connections of the pool are told apart by that name.
    Renamed(Host<String>, ServerName),
    /// Through the deployment's proxy.
    Proxied,
}

/// A way that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[error("leads through the proxy, which cannot be told another server name")]
pub struct NoWay;

impl Way {
    /// The way to a URL. `http`, which only a developer uses, has neither certificates nor tunnels.
    pub(super) fn to(url: &Url, server_name: Option<&ServerName>, proxy: Option<&Proxy>) -> Result<Self, NoWay> {
        let Some(host) = url.host().filter(|_| url.scheme() == "https") else { return Ok(Self::Direct) };
        let proxied = proxy.is_some_and(|proxy| !is_past_proxy(&host, &proxy.past));
        match (server_name, proxied) {
            (None, true) => Ok(Self::Proxied),
            (Some(_), true) => Err(NoWay),
            (Some(name), false) => Ok(Self::Renamed(host.to_owned(), name.clone())),
            (None, false) => Ok(Self::Direct),
        }
    }
}

/// What requests must have in common to share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Terms {
    pub(super) network: Network,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) way: Way,
}

impl Terms {
    pub(super) fn of(url: &Url, network: &Network, manner: &Manner, proxy: Option<&Proxy>) -> Result<Self, NoWay> {
        let way = Way::to(url, manner.server_name.as_ref(), proxy)?;
        Ok(Self { network: network.clone(), identity: manner.identity.clone(), way })
    }
}

/// The addresses a proxy's name has led to.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashSet<IpAddr>>);

/// How many addresses of a proxy are remembered.
const SEEN_MAX: usize = 256;

impl Seen {
    pub(super) fn remember(&self, addresses: &[IpAddr]) {
        let mut seen = locked(&self.0);
        if seen.len() > SEEN_MAX {
            seen.clear();
        }
        seen.extend(addresses);
    }

    fn knows(&self, address: IpAddr) -> bool {
        locked(&self.0).contains(&address)
    }
}

/// Connections of one kind.
pub(super) struct Pool {
    pub(super) terms: Terms,
    pub(super) guard: Arc<Guard>,
    pub(super) seen: Arc<Seen>,
    /// Made at the first request, once, however many wait for it.
    pub(super) client: OnceCell<Client>,
}

impl Pool {
    pub(super) fn new(config: &EgressConfig, terms: Terms) -> Self {
        let guard = Arc::new(Guard::new(config, &terms.network));
        Self { terms, guard, seen: Arc::default(), client: OnceCell::new() }
    }

    /// Whether an answer came from where it never should: then the guard has a hole, and somebody must hear of it.
    pub(super) fn tripped(&self, remote: SocketAddr, proxy: Option<&Proxy>) -> Option<String> {
        let why = match (&self.terms.way, proxy) {
            (Way::Proxied, Some(proxy)) => (!self.is_of(proxy, remote)).then(|| "not the proxy's address".to_owned()),
            (Way::Direct | Way::Renamed(..) | Way::Proxied, _) => self.guard.policy().judge(remote.ip()).err().map(|why| why.to_string()),
        }?;
        tracing::error!(address = %remote.ip(), %why, "a connection reached a forbidden address: the address guard has a hole");
        Some(format!("the answer came from {}, which is {why}", remote.ip()))
    }

    fn is_of(&self, proxy: &Proxy, remote: SocketAddr) -> bool {
        remote.port() == proxy.port
            && match &proxy.host {
                Host::Domain(_) => self.seen.knows(remote.ip()),
                Host::Ipv4(address) => remote.ip() == *address,
                Host::Ipv6(address) => remote.ip() == *address,
            }
    }
}

/// The pools in use and when each was used last.
#[derive(Default)]
pub(super) struct Pools {
    pub(super) by_terms: HashMap<Terms, (u64, Arc<Pool>)>,
    uses: u64,
}

impl Pools {
    pub(super) fn of(&mut self, terms: Terms, make: impl FnOnce(Terms) -> Pool) -> Arc<Pool> {
        self.uses += 1;
        if let Some((last_use, pool)) = self.by_terms.get_mut(&terms) {
            *last_use = self.uses;
            return Arc::clone(pool);
        }
        if self.by_terms.len() >= POOLS_MAX {
            self.drop_oldest();
        }
        let pool = Arc::new(make(terms.clone()));
        self.by_terms.insert(terms, (self.uses, Arc::clone(&pool)));
        pool
    }

    /// Requests under way keep their pool until they end.
    fn drop_oldest(&mut self) {
        let oldest = self.by_terms.iter().min_by_key(|(_, (last_use, _))| *last_use).map(|(terms, _)| terms.clone());
        if let Some(oldest) = oldest {
            self.by_terms.remove(&oldest);
        }
    }
}
