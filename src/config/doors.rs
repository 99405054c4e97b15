//! `[http.tls]`, `http.trusted_proxies`, `[limits]`: who comes in by which way, and how much of the server he may have.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::reader::{Raw, Reader};
use super::{address, listed, networks};
use crate::model::limits::{Limits, Pace};
use crate::model::origin::{ForwardedBy, Forwarding};

/// `[http.tls]`: what the listener shows. Read by whoever opens it, and again whenever they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `http.tls.cert_file`: the certificate and those that vouch for it, in PEM, its own first.
    pub cert: PathBuf,
    /// `http.tls.key_file`: its private key, in PEM.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Both or neither.
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        let shown = |path: &PathBuf| path.display().to_string();
        let [cert, key] = ["http.tls.cert_file", "http.tls.key_file"].map(|path| reader.optional(path, file, shown));
        match (cert, key) {
            (Some(cert), Some(key)) => Some(Self { cert, key }),
            (Some(_), None) if !reader.is_given("http.tls.key_file") => lone(reader, "http.tls.cert_file", "http.tls.key_file"),
            (None, Some(_)) if !reader.is_given("http.tls.cert_file") => lone(reader, "http.tls.key_file", "http.tls.cert_file"),
            (Some(_), None) | (None, Some(_) | None) => None,
        }
    }
}

fn lone<T>(reader: &mut Reader, given: &str, missing: &str) -> Option<T> {
    reader.contradiction(given, missing, "a certificate is nothing without its key: say both, or neither");
    None
}

fn file(raw: &Raw) -> Result<PathBuf, String> {
    match raw.text()? {
        "" => Err("must name a file".to_owned()),
        path => Ok(PathBuf::from(path)),
    }
}

/// `http.metrics_listen`, `http.metrics_tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsListener {
    /// Where it is.
    pub listen: SocketAddr,
    /// How it speaks.
    pub speaks: Speaks,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP.
    Plain,
    /// HTTP inside of TLS, with the certificate of the main listener.
    Tls,
}

impl MetricsListener {
    /// In plain unless said: it is for a scraper beside the server.
    pub(super) fn read(reader: &mut Reader, tls: Option<&TlsFiles>) -> Option<Self> {
        let listen = reader.optional("http.metrics_listen", address, SocketAddr::to_string);
        let speaks = reader.or("http.metrics_tls", Speaks::Plain, |raw| raw.truth().map(Speaks::of), |it| (*it == Speaks::Tls).to_string());
        if speaks == Speaks::Tls && tls.is_none() {
            reader.contradiction("http.metrics_tls", "http.tls.cert_file", "there is no certificate to show");
        }
        if speaks == Speaks::Tls && listen.is_none() {
            reader.contradiction("http.metrics_tls", "http.metrics_listen", "there is no second listener");
        }
        Some(Self { listen: listen?, speaks })
    }
}

impl Speaks {
    const fn of(tls: bool) -> Self {
        if tls { Self::Tls } else { Self::Plain }
    }
}

/// `http.trusted_proxies`, `http.forwarded`.
pub(super) fn forwarding(reader: &mut Reader) -> Forwarding {
    let trusted = reader.or("http.trusted_proxies", Vec::new(), proxies, |all| listed(all));
    let words = ForwardedBy::ALL.iter().map(|by| (by.as_str(), *by)).collect::<Vec<_>>();
    let by = reader.word("http.forwarded", ForwardedBy::XForwardedFor, &words);
    if trusted.is_empty() && reader.is_given("http.forwarded") {
        reader.contradiction("http.forwarded", "http.trusted_proxies", "nobody is believed who could write that header");
    }
    Forwarding { trusted, by }
}

fn proxies(raw: &Raw) -> Result<Vec<IpNet>, String> {
    let networks = networks(raw)?;
    match networks.iter().find(|network| network.prefix_len() == 0) {
        Some(everybody) => Err(format!("{everybody} is everybody, and everybody could say to be anybody: name the proxies")),
        None => Ok(networks),
    }
}

/// `[limits]`. Nothing is limited unless said: what an honest provider sends in a login storm is known to its operator alone.
pub(super) fn limits(reader: &mut Reader) -> Limits {
    Limits { credential: pace(reader, "limits.per_credential"), issuer: pace(reader, "limits.per_issuer") }
}

/// How many seconds' worth may come at once, unless said.
const BURST_S: u16 = 5;

fn pace(reader: &mut Reader, prefix: &str) -> Option<Pace> {
    let (rate, burst) = (format!("{prefix}_per_s"), format!("{prefix}_burst"));
    let per_s = reader.number(&rate, 0_u16, 0..=u16::MAX);
    let at_once = reader.number(&burst, per_s.saturating_mul(BURST_S), 0..=u16::MAX);
    if per_s == 0 && reader.is_given(&burst) {
        reader.contradiction(&burst, &rate, "without a rate nothing is limited");
    }
    if per_s > 0 && at_once == 0 {
        reader.contradiction(&burst, &rate, "not even one request could come");
    }
    (per_s > 0).then_some(Pace { per_s, burst: at_once })
}
