//! `[metrics]`, `[telemetry]` and `[alarms]`: what is told of this server, and to whom.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;
use zeroize::Zeroizing;

use super::reader::{Raw, Reader};
use super::{Mode, OnExposure, Readers, each, read_open, secret_or_file, text_of};
use crate::model::delivery::Lane;
use crate::model::{ClientId, IssuerId};

/// How many clients may have figures of their own: each is some more series that are kept for ever.
const PINNED_MAX: usize = 20;
/// How many headers a collector may ask for.
const HEADERS_MAX: usize = 20;
/// Fewer octets could be guessed; the specification asks for no more than the latter (Standard Webhooks).
const SECRET_OCTETS: std::ops::RangeInclusive<usize> = 24..=64;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `metrics.pinned_clients`: whose lanes have figures of their own, as `issuer/client_id`.
    pub pinned: Vec<Lane>,
    /// `metrics.census_ms`: how often deliveries are counted at most.
    pub census: Duration,
}

/// What is told to a collector of traces.
#[derive(Clone, Debug)]
pub struct Telemetry {
    /// `telemetry.otlp_endpoint`: where it takes spans over HTTP; nobody is told without it.
    pub endpoint: Option<Url>,
    /// `telemetry.otlp_headers_file`: what it asks for, one `Name: value` a line.
    pub headers: Vec<(String, Zeroizing<String>)>,
    /// `telemetry.sample_percent`: how many of the traces that begin here are recorded.
    pub sample_percent: u8,
    /// `telemetry.service_name`.
    pub service_name: String,
}

/// Who is told of alarms.
#[derive(Clone, Debug)]
pub struct Alarms {
    /// `alarms.url`, with `alarms.secret` or `alarms.secret_file`: where, and what messages are signed with.
    pub hook: Option<(Url, Zeroizing<Vec<u8>>)>,
    /// `alarms.repeat_h`: how often he is told again of what stays so.
    pub repeat: Duration,
}

impl Metrics {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let shown = |lanes: &Vec<Lane>| if lanes.is_empty() { "(none)".to_owned() } else { names(lanes) };
        Self {
            pinned: reader.or("metrics.pinned_clients", Vec::new(), pinned, shown),
            census: reader.millis("metrics.census_ms", 10_000, 20..=600_000),
        }
    }
}

fn names(lanes: &[Lane]) -> String {
    lanes.iter().map(Lane::as_str).collect::<Vec<_>>().join(", ")
}

fn pinned(raw: &Raw) -> Result<Vec<Lane>, String> {
    let names = raw.list()?;
    if names.len() > PINNED_MAX {
        return Err(format!("must not name more than {PINNED_MAX} clients, not {}", names.len()));
    }
    let one = |name: &str| {
        let (issuer, client) = name.split_once('/')?;
        Some(Lane::of(&IssuerId::parse(issuer).ok()?, &ClientId::parse(client).ok()?))
    };
    each(&names, |name| one(name).ok_or_else(|| format!("must hold issuers and clients such as main/wiki, not {name:?}")))
}

impl Telemetry {
    pub(super) fn read(reader: &mut Reader, mode: Mode) -> Self {
        let endpoint = reader.optional("telemetry.otlp_endpoint", |raw| outward(raw, mode), place);
        let shown = |(headers, _): &(Vec<_>, _)| if headers.is_empty() { "(none)" } else { "(hidden)" }.to_owned();
        let (headers, readers) = reader.or("telemetry.otlp_headers_file", (Vec::new(), Readers::Owner), headers, shown);
        if readers == Readers::Others {
            reader.expose("telemetry.otlp_headers_file");
        }
        if endpoint.is_none() && reader.is_given("telemetry.otlp_headers_file") {
            reader.contradiction("telemetry.otlp_headers_file", "telemetry.otlp_endpoint", "there is no collector to send them to");
        }
        Self {
            endpoint,
            headers,
            sample_percent: reader.number("telemetry.sample_percent", 100, 0..=100),
            service_name: reader.or("telemetry.service_name", "logoutd".to_owned(), service_name, String::clone),
        }
    }
}

impl Alarms {
    pub(super) fn read(reader: &mut Reader, mode: Mode) -> Self {
        let url = reader.optional("alarms.url", |raw| outward(raw, mode), place);
        let secret = secret_or_file(reader, "alarms.secret", "alarms.secret_file", OnExposure::Tell, secret);
        let repeat = Duration::from_hours(reader.number("alarms.repeat_h", 24, 1..=720));
        let has_secret = reader.is_given("alarms.secret") || reader.is_given("alarms.secret_file");
        if url.is_some() != has_secret {
            let why = "one is nothing without the other: who takes alarms must be able to tell whose they are";
            reader.contradiction("alarms.url", "alarms.secret", why);
        }
        Self { hook: url.zip(secret), repeat }
    }
}

/// A URL this server calls by itself. Userinfo would end in logs, and what is told is nobody else's business.
fn outward(raw: &Raw, mode: Mode) -> Result<Url, String> {
    let why = || "must be an absolute https URL without user and fragment".to_owned();
    let url = Url::parse(raw.text()?).map_err(|_| why())?;
    let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none() && url.has_host();
    match (url.scheme(), mode) {
        _ if !bare => Err(why()),
        ("https", _) | ("http", Mode::Dev) => Ok(url),
        ("http", Mode::Production) => Err("must be https: http is reached with --dev alone".to_owned()),
        _ => Err(why()),
    }
}

/// Where a URL leads. What follows is often the credential itself: a hook's secret path, a collector's key in the query.
fn place(url: &Url) -> String {
    let bare = matches!(url.path(), "" | "/") && url.query().is_none();
    format!("{}{}", url.origin().ascii_serialization(), if bare { "/" } else { "/…" })
}

type Headers = Vec<(String, Zeroizing<String>)>;

fn headers(raw: &Raw) -> Result<(Headers, Readers), String> {
    let path = Path::new(raw.text()?);
    let (octets, readers) = read_open(path)?;
    let text = text_of(path, octets)?;
    let text = Zeroizing::new(text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > HEADERS_MAX {
        return Err(format!("must not hold more than {HEADERS_MAX} lines"));
    }
    // The line is not repeated: it may hold a token.
    let found = lines.iter().map(|line| header(line).ok_or_else(|| "must hold lines such as Authorization: Bearer token".to_owned()));
    Ok((found.collect::<Result<_, _>>()?, readers))
}

/// RFC 9110 5.1 and 5.5; what belongs to the message itself is not for others to say.
fn header(line: &str) -> Option<(String, Zeroizing<String>)> {
    let (name, value) = line.split_once(':')?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    let named = !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_');
    let own = ["content-type", "content-length", "host", "transfer-encoding", "connection"].contains(&name.as_str());
    let legal = !value.is_empty() && value.bytes().all(|octet| (0x20..=0x7e).contains(&octet));
    (named && !own && legal).then(|| (name, Zeroizing::new(value.to_owned())))
}

fn service_name(raw: &Raw) -> Result<String, String> {
    let name = raw.text()?;
    let legal = (1..=255).contains(&name.len()) && name.bytes().all(|octet| (0x21..=0x7e).contains(&octet));
    if legal { Ok(name.to_owned()) } else { Err("must be 1 to 255 printable ASCII characters without spaces".to_owned()) }
}

/// As it is handed out by services that speak Standard Webhooks, or any text of that length.
fn secret(text: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let octets = match text.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| "must be whsec_ and base64".to_owned())?,
        None => text.as_bytes().to_vec(),
    };
    let octets = Zeroizing::new(octets);
    if SECRET_OCTETS.contains(&octets.len()) {
        Ok(octets)
    } else {
        Err(format!("must have {} to {} octets", SECRET_OCTETS.start(), SECRET_OCTETS.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_is_shown_where_it_leads_and_nothing_that_could_be_a_secret() {
        for (url, shown) in [
            ("https://hooks.example/services/T0/secret?token=secret", "https://hooks.example/…"),
            ("https://otlp.example:4318/?key=secret", "https://otlp.example:4318/…"),
            ("https://[fd00::1]:4318", "https://[fd00::1]:4318/"),
        ] {
            assert_eq!(place(&Url::parse(url).unwrap()), shown);
        }
    }
}
