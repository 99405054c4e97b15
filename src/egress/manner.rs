//! How a request is made to one receiver: what is shown of us, which name the receiver must prove, which headers it wants.
//!
//! Owns the rules for those headers. Never prints a key or a value.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use reqwest::header::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::model::client::{DeliverySettings, ServerName};

/// How many headers one receiver may ask for.
const HEADERS_MAX: usize = 16;

/// How long a name may be, in octets.
const NAME_OCTETS_MAX: usize = 128;

/// How long their names and values may be together, in octets.
const HEADERS_OCTETS_MAX: usize = 4096;

/// A certificate with its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    cert_pem: String,
    key_pem: Zeroizing<String>,
}

impl Identity {
    /// A certificate with those that vouch for it, and its key, all in PEM.
    pub fn new(cert_pem: &str, key_pem: &str) -> Self {
        Self { cert_pem: cert_pem.to_owned(), key_pem: Zeroizing::new(key_pem.to_owned()) }
    }

    /// As the client reads it. Made anew for each pool, and not kept.
    pub(super) fn to_reqwest(&self) -> Result<reqwest::Identity, reqwest::Error> {
        let both = Zeroizing::new([self.cert_pem.as_str(), "\n", self.key_pem.as_str()].concat());
        reqwest::Identity::from_pem(both.as_bytes())
    }
}

/// By the certificate alone: the key need not run through a hash that is not made for secrets.
impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.cert_pem.hash(state);
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(hidden)")
    }
}

/// How requests are made to one receiver; by default like to any other.
#[derive(Clone, Default)]
pub struct Manner {
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) server_name: Option<ServerName>,
    pub(super) headers: Vec<(String, Zeroizing<String>)>,
}

impl Manner {
    /// Like to any other.
    pub const PLAIN: Self = Self { identity: None, server_name: None, headers: Vec::new() };

    /// What a registration asks for, with its secrets opened.
    pub fn of(delivery: &DeliverySettings, key_pem: Option<&str>, headers: Vec<(String, Zeroizing<String>)>) -> Self {
        let identity = delivery.certificate.as_ref().zip(key_pem).map(|(certificate, key)| Arc::new(Identity::new(&certificate.pem, key)));
        Self { identity, server_name: delivery.server_name.clone(), headers }
    }

    /// What must not be found in an excerpt: each value, and what stands behind its first word, as in `Bearer x`.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().flat_map(|(_, value)| [Some(value.as_str()), value.split_once(' ').map(|(_, rest)| rest)]).flatten()
    }
}

impl fmt::Debug for Manner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manner").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Why headers cannot be registered. No value is repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeaders {
    /// More than the bound.
    #[error("must not be more than {HEADERS_MAX}")]
    TooMany,
    /// Longer than the bound together.
    #[error("must not be longer than {HEADERS_OCTETS_MAX} octets together")]
    TooLong,
    /// Not a field name (RFC 9110 5.1), or one longer than the bound.
    #[error("must have names of at most {NAME_OCTETS_MAX} letters, digits and hyphens, or other characters of a token (RFC 9110 5.6.2)")]
    Name,
    /// One name in two spellings.
    #[error("must not be named twice")]
    Twice(String),
    /// A name that is not for registrations.
    #[error("must not be said: it is ours to say, concerns the connection, or is no credential of a machine")]
    Reserved(String),
    /// Something else than visible characters and single spaces between them.
    #[error("must be 1 to {HEADERS_OCTETS_MAX} visible ASCII characters, with nothing but spaces between them")]
    Value(String),
}

impl BadHeaders {
    /// The one that is to blame, as it was said; its name holds the characters of a token alone.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Twice(name) | Self::Reserved(name) | Self::Value(name) => Some(name),
            Self::TooMany | Self::TooLong | Self::Name => None,
        }
    }
}

/// Headers that would change who is asked, how long the message is, what it is, or that speak of the connection alone (RFC 9110 7.6.1).
///
/// Cookies are among them: whoever is sent one takes the request for a browser's, and a logout would depend on whose.
const RESERVED: [&str; 18] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Decides whether headers may be registered.
pub fn check_headers<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), BadHeaders> {
    let mut seen: Vec<HeaderName> = Vec::new();
    let mut octets = 0;
    for (name, value) in headers {
        if seen.len() == HEADERS_MAX {
            return Err(BadHeaders::TooMany);
        }
        let known = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name.len() <= NAME_OCTETS_MAX).ok_or(BadHeaders::Name)?;
        if RESERVED.contains(&known.as_str()) || known.as_str().starts_with("logoutd-") {
            return Err(BadHeaders::Reserved(name.to_owned()));
        }
        if seen.contains(&known) {
            return Err(BadHeaders::Twice(name.to_owned()));
        }
        if !is_value(value) {
            return Err(BadHeaders::Value(name.to_owned()));
        }
        octets += name.len() + value.len();
        if octets > HEADERS_OCTETS_MAX {
            return Err(BadHeaders::TooLong);
        }
        seen.push(known);
    }
    Ok(())
}

/// RFC 9110 5.5, without what is obsolete and without tabs.
fn is_value(value: &str) -> bool {
    let bounded = (1..=HEADERS_OCTETS_MAX).contains(&value.len());
    let visible = bounded && value.bytes().all(|octet| (0x20..=0x7e).contains(&octet)) && value.trim() == value;
    visible && HeaderValue::from_str(value).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(headers: &[(&str, &str)]) -> Result<(), BadHeaders> {
        check_headers(headers.iter().copied())
    }

    #[test]
    fn what_a_gateway_asks_for_may_be_registered() {
        assert_eq!(check(&[("Authorization", "Basic dXNlcjpwYXNz"), ("X-Api-Key", "a = \"b\"; c"), ("apikey", "1")]), Ok(()));
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn what_is_ours_or_the_connections_may_not() {
        for name in RESERVED.into_iter().chain(["Logoutd-Delivery", "logoutd-anything", "HOST", "Cookie", "Transfer-Encoding"]) {
            assert_eq!(check(&[(name, "x")]), Err(BadHeaders::Reserved(name.to_owned())), "{name}");
        }
        assert_eq!(check(&[("X-Key", "1"), ("x-KEY", "2")]), Err(BadHeaders::Twice("x-KEY".to_owned())));
        for name in ["", "a b", "a:", "a\r\nb", "\u{e9}", "a\u{0}", &"a".repeat(NAME_OCTETS_MAX + 1)] {
            assert_eq!(check(&[(name, "x")]), Err(BadHeaders::Name), "{name:?}");
        }
        for value in ["", " ", "x ", " x", "a\r\nHost: b", "a\nb", "a\tb", "\u{e9}", "a\u{0}", "a\u{7f}"] {
            assert_eq!(check(&[("x-key", value)]), Err(BadHeaders::Value("x-key".to_owned())), "{value:?}");
        }
    }

    #[test]
    fn headers_are_bounded_in_number_and_length() {
        let names: Vec<String> = (0..=HEADERS_MAX).map(|at| format!("x-{at}")).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
        assert_eq!(check(&all[..HEADERS_MAX]), Ok(()));
        assert_eq!(check(&all), Err(BadHeaders::TooMany));
        let longest = "v".repeat(HEADERS_OCTETS_MAX - 1);
        assert_eq!(check(&[("a", &longest)]), Ok(()));
        assert_eq!(check(&[("ab", &longest)]), Err(BadHeaders::TooLong));
    }

    proptest! {
        #[test]
        fn what_passes_can_be_sent_and_ends_no_line(name in ".{0,20}", value in ".{0,40}") {
            if check(&[(&name, &value)]).is_ok() {
                prop_assert!(super::super::request::headers_of(&[(&name, &value)]).is_ok());
                prop_assert!(!value.contains(['\r', '\n']) && !name.contains(['\r', '\n', ':']));
            }
        }
    }
}
