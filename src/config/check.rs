//! `[check.NAME]`: how gateways ask whether a request may pass.

use ipnet::IpNet;

use super::reader::{Raw, Reader};
use super::{OnExposure, Secret, admin_token, listed, secret_or_file};
use crate::model::IssuerId;
use crate::model::check::{CheckProfile, WhenUnavailable};

/// One way of asking, by its name in the path `/{iss}/check/{name}`.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What it says, but for the key.
    pub profile: CheckProfile,
    /// `key` or `key_file`: what the gateway shows in `Logoutd-Key`.
    pub key: Option<Secret>,
}

/// How many there may be.
const CHECKS_MAX: usize = 100;
/// How many audiences or scopes one may name.
const WORDS_MAX: usize = 50;

/// Every profile that something is said about.
pub(super) fn read(reader: &mut Reader) -> Vec<Check> {
    let names = reader.tables_in("check");
    if names.len() > CHECKS_MAX {
        reader.mistake("check", format!("there may be at most {CHECKS_MAX} of them"));
    }
    names.into_iter().take(CHECKS_MAX).filter_map(|name| one(reader, name)).collect()
}

fn one(reader: &mut Reader, name: String) -> Option<Check> {
    let path = |setting: &str| format!("check.{name}.{setting}");
    if !is_name(&name) {
        reader.mistake(&path("issuer"), format!("{name:?} is no name: it must be 1 to 63 of a-z, 0-9 and '-', and not begin with '-'"));
    }
    let issuer = reader.optional(&path("issuer"), issuer, IssuerId::to_string);
    if issuer.is_none() && reader.is_sound(&path("issuer")) {
        reader.mistake(&path("issuer"), "must be said: whose tokens they are");
    }
    let audiences = reader.or(&path("audiences"), Vec::new(), |raw| words(raw, is_audience, "audiences"), |all| shown(all));
    let scopes = reader.or(&path("scopes"), Vec::new(), |raw| words(raw, is_scope, "scopes (RFC 6749 3.3)"), |all| shown(all));
    let (closed, open) = (WhenUnavailable::Closed, WhenUnavailable::Open);
    let when_unavailable = reader.word(&path("when_unavailable"), closed, &[("closed", closed), ("open", open)]);
    let networks = reader.or(&path("allow_networks"), Vec::new(), networks, |all| listed(all));
    let key = secret_or_file(reader, &path("key"), &path("key_file"), OnExposure::Tell, admin_token);
    let has_key = reader.is_given(&path("key")) || reader.is_given(&path("key_file"));
    if networks.is_empty() && !has_key {
        let why = "nobody would be known: say where the gateway is, or what it shows, or both";
        reader.contradiction(&path("allow_networks"), &path("key"), why);
    }
    let profile = CheckProfile { issuer: issuer?, audiences, scopes, when_unavailable, networks, key: None };
    Some(Check { name, profile, key })
}

fn is_name(name: &str) -> bool {
    let letter = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
    matches!(name.as_bytes(), [first, rest @ ..] if letter(*first) && rest.len() < 63 && rest.iter().all(|o| letter(*o) || *o == b'-'))
}

fn issuer(raw: &Raw) -> Result<IssuerId, String> {
    IssuerId::parse(raw.text()?).map_err(|malformed| format!("{}, as a short id", malformed.why))
}

fn words(raw: &Raw, is_one: fn(&str) -> bool, what: &str) -> Result<Vec<String>, String> {
    let words = raw.list()?;
    match words.iter().find(|word| !is_one(word)) {
        _ if words.len() > WORDS_MAX => Err(format!("must not hold more than {WORDS_MAX}")),
        Some(wrong) => Err(format!("must hold {what}, not {wrong:?}")),
        None => Ok(words),
    }
}

fn is_audience(text: &str) -> bool {
    (1..=255).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.len() <= 255 && text.bytes().all(|octet| matches!(octet, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// Where callers come from: unlike what is reached, it may be link-local.
fn networks(raw: &Raw) -> Result<Vec<IpNet>, String> {
    let network = |text: &String| {
        let net: IpNet = text
            .parse()
            .or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)))
            .map_err(|_| format!("must hold networks such as 10.0.0.0/8, not {text:?}"))?;
        if net == net.trunc() { Ok(net) } else { Err(format!("{net} has bits behind its prefix: {} is meant?", net.trunc())) }
    };
    raw.list()?.iter().map(network).collect()
}

fn shown(words: &[String]) -> String {
    if words.is_empty() { "(none)".to_owned() } else { words.join(", ") }
}
