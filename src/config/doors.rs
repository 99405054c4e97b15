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
    if trusted.is_empty() && by != ForwardedBy::XForwardedFor {
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
    if per_s == 0 && at_once > 0 {
        reader.contradiction(&burst, &rate, "without a rate nothing is limited");
    }
    if per_s > 0 && at_once == 0 {
        reader.contradiction(&burst, &rate, "not even one request could come");
    }
    (per_s > 0).then_some(Pace { per_s, burst: at_once })
}

#[cfg(test)]
mod tests {
    use super::super::{Arguments, Config};
    use super::*;

    fn loaded(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let pairs = pairs.iter().map(|(name, value)| (format!("LOGOUTD_{name}"), (*value).to_owned()));
        Config::load(&Arguments::default(), pairs).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn unless_something_is_said_nobody_is_believed_nothing_is_limited_and_one_address_has_half_of_the_places() {
        let config = loaded(&[]).unwrap();
        assert_eq!((config.http.tls, config.http.metrics), (None, None));
        assert_eq!(config.http.forwarding, Forwarding { trusted: Vec::new(), by: ForwardedBy::XForwardedFor });
        assert_eq!((config.limits, config.http.connections_per_address), (Limits::default(), 500));
        assert_eq!(loaded(&[("HTTP__CONNECTIONS_MAX", "7")]).unwrap().http.connections_per_address, 4);
    }

    #[test]
    fn what_is_said_is_kept() {
        let config = loaded(&[
            ("HTTP__TLS__CERT_FILE", "tls.crt"),
            ("HTTP__TLS__KEY_FILE", "tls.key"),
            ("HTTP__METRICS_LISTEN", "127.0.0.1:9"),
            ("HTTP__METRICS_TLS", "true"),
            ("HTTP__TRUSTED_PROXIES", "10.0.0.0/8,fd00::1"),
            ("HTTP__FORWARDED", "forwarded"),
            ("LIMITS__PER_CREDENTIAL_PER_S", "10"),
            ("LIMITS__PER_ISSUER_PER_S", "100"),
            ("LIMITS__PER_ISSUER_BURST", "150"),
        ])
        .unwrap();
        assert_eq!(config.http.tls, Some(TlsFiles { cert: "tls.crt".into(), key: "tls.key".into() }));
        assert_eq!(config.http.metrics.map(|metrics| metrics.speaks), Some(Speaks::Tls));
        assert_eq!(config.public_url(config.http.listen), "https://127.0.0.1:8080");
        assert_eq!((config.http.forwarding.trusted.len(), config.http.forwarding.by), (2, ForwardedBy::Forwarded));
        let (credential, issuer) = (Pace { per_s: 10, burst: 50 }, Pace { per_s: 100, burst: 150 });
        assert_eq!(config.limits, Limits { credential: Some(credential), issuer: Some(issuer) });
    }

    #[test]
    fn what_contradicts_itself_is_refused_once_and_by_name() {
        for (pairs, told) in [
            (&[("HTTP__TLS__CERT_FILE", "a")][..], "http.tls.cert_file (LOGOUTD_HTTP__TLS__CERT_FILE) and http.tls.key_file (default)"),
            (&[("HTTP__TLS__KEY_FILE", "a")], "http.tls.key_file (LOGOUTD_HTTP__TLS__KEY_FILE) and http.tls.cert_file (default)"),
            (&[("HTTP__METRICS_LISTEN", "127.0.0.1:9"), ("HTTP__METRICS_TLS", "true")], "there is no certificate to show"),
            (
                &[("HTTP__TLS__CERT_FILE", "a"), ("HTTP__TLS__KEY_FILE", "b"), ("HTTP__METRICS_TLS", "true")],
                "http.metrics_listen (default): there is no second listener",
            ),
            (&[("HTTP__FORWARDED", "forwarded")], "nobody is believed"),
            (&[("HTTP__TRUSTED_PROXIES", "10.0.0.1"), ("HTTP__FORWARDED", "x-real-ip")], "must be one of x-forwarded-for, forwarded"),
            (&[("HTTP__TRUSTED_PROXIES", "0.0.0.0/0")], "is everybody"),
            (&[("HTTP__TRUSTED_PROXIES", "::/0")], "is everybody"),
            (&[("LIMITS__PER_ISSUER_BURST", "5")], "without a rate nothing is limited"),
            (&[("LIMITS__PER_ISSUER_PER_S", "5"), ("LIMITS__PER_ISSUER_BURST", "0")], "not even one request could come"),
            (&[("LIMITS__PER_CREDENTIAL_PER_S", "70000")], "must be 0 to 65535"),
        ] {
            let mistakes = loaded(pairs).unwrap_err();
            assert!(mistakes.contains("has 1 mistake\n") && mistakes.contains(told), "{pairs:?}: {mistakes}");
        }
    }
}
