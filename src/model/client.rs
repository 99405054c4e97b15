//! A client: a registered relying party and how it wants to be told.

use std::time::Duration;

use super::issuer::ManagedBy;
use super::key::{SigningAlg, words};
use super::token::TokenPolicy;
use super::{ClientId, Digest, IssuerId, Malformed, Timestamp};

/// Exceptions from the address rule and from the system's certificate authorities. Ordered, so that equal policies share a connection pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// Networks that may be reached although they are not public.
    pub allow: Vec<ipnet::IpNet>,
    /// Certificate authorities trusted beside the system's, in PEM.
    pub ca_pem: Option<String>,
}

/// The name a server proves in TLS, where it is another than its address has (RFC 6066 3): a DNS name in lower case, never an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerName(String);

impl ServerName {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const MALFORMED: Malformed = Malformed { what: "a server name", why: "must be a DNS name such as wiki.internal, not an address" };
        let Ok(url::Host::Domain(name)) = url::Host::parse(text) else { return Err(MALFORMED) };
        let label = |label: &str| {
            let plain = label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
            (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() <= 253 && name.split('.').all(label) { Ok(Self(name)) } else { Err(MALFORMED) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A certificate of ours for one receiver, with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and those that vouch for it, in PEM, its own first.
    pub pem: String,
    /// Its private key, sealed.
    pub sealed_key: String,
    /// When the first of them expires.
    pub expires_at: Timestamp,
}

/// Headers that every request to one receiver carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticHeaders {
    /// Their names, for people.
    pub names: Vec<String>,
    /// Names and values, sealed.
    pub sealed: String,
}

words! {
    /// Which of `sub` and `sid` a client's logout tokens carry (BCL 2.4: at least one).
    Claims, "claims" {
        /// Both, as far as they are known.
        Both = "both",
        /// `sid` alone.
        Sid = "sid",
        /// `sub` alone: ends all sessions of the subject at that client.
        Sub = "sub",
    }
}

words! {
    /// The `typ` header of a client's logout tokens.
    TokenTyp, "a typ" {
        /// The recommended explicit type (BCL 2.4).
        LogoutJwt = "logout+jwt",
        /// For libraries that accept nothing else.
        Jwt = "JWT",
        /// No `typ` at all.
        None = "none",
    }
}

words! {
    /// Whether a client is told of sessions that end by their age.
    OnExpiry, "a choice on expiry" {
        /// It is not: it counts the time itself.
        None = "none",
        /// It is, as of any logout.
        Notify = "notify",
    }
}

/// How deliveries to one client behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Which identifiers its tokens carry.
    pub claims: Claims,
    /// Their `typ` header.
    pub typ: TokenTyp,
    /// One attempt, from resolution to the last octet of the answer.
    pub timeout: Duration,
    /// How many attempts may run at once.
    pub max_in_flight: u16,
    /// How many attempts may begin in a second, over all processes; none sets no limit.
    pub rate_per_s: Option<u16>,
    /// How long a delivery is tried before it expires.
    pub horizon: Duration,
    /// How often a 400 is asked again before it is believed. 0 is the strict reading of BCL 2.5.
    pub confirm_rejections: u8,
    /// Statuses this client answers for passing troubles although others mean something lasting by them.
    pub retry_statuses: Vec<u16>,
    /// Whether it is told of sessions that end by their age.
    pub on_expiry: OnExpiry,
    /// Its own exceptions, beside its issuer's.
    pub network: Network,
    /// What it is shown of us when it asks (RFC 8446 4.3.2).
    pub certificate: Option<ClientCertificate>,
    /// The name it proves, where it is not the one of its URL.
    pub server_name: Option<ServerName>,
    /// What its requests carry beside ours.
    pub headers: Option<StaticHeaders>,
}

impl DeliverySettings {
    /// The deployment's defaults for what a registration leaves out.
    pub const DEFAULT: Self = Self {
        claims: Claims::Both,
        typ: TokenTyp::LogoutJwt,
        timeout: Duration::from_secs(10),
        max_in_flight: 8,
        rate_per_s: None,
        horizon: Duration::from_secs(72 * 3600),
        confirm_rejections: 2,
        retry_statuses: Vec::new(),
        on_expiry: OnExpiry::None,
        network: Network { allow: Vec::new(), ca_pem: None },
        certificate: None,
        server_name: None,
        headers: None,
    };
}

/// A secret that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousSecret {
    /// Its keyed digest.
    pub digest: Digest,
    /// Until when it is good.
    pub until: Timestamp,
}

/// A registered client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    /// Its issuer.
    pub issuer: IssuerId,
    /// Its name there.
    pub client_id: ClientId,
    /// `client_name`, for people.
    pub client_name: Option<String>,
    /// `backchannel_logout_uri` (BCL 2.2), already checked; none means that it cannot be told.
    pub backchannel_logout_uri: Option<url::Url>,
    /// `backchannel_logout_session_required` (BCL 2.2).
    pub session_required: bool,
    /// `id_token_signed_response_alg`: what its logout tokens are signed with.
    pub alg: SigningAlg,
    /// `token_endpoint_auth_method`.
    pub auth_method: Option<String>,
    /// A keyed digest of `client_secret`.
    pub secret_digest: Option<Digest>,
    /// The secret before, which is good too for a while.
    pub secret_previous: Option<PreviousSecret>,
    /// `jwks`, as JSON.
    pub jwks: Option<String>,
    /// `jwks_uri`.
    pub jwks_uri: Option<url::Url>,
    /// `token_endpoint_auth_signing_alg`: what it signs its assertions with; none leaves it to its keys.
    pub auth_signing_alg: Option<SigningAlg>,
    /// `introspection_signed_response_alg` (RFC 9701 6).
    pub introspection_alg: Option<SigningAlg>,
    /// How it is told.
    pub delivery: DeliverySettings,
    /// What its tokens are subject to.
    pub tokens: TokenPolicy,
    /// Who says so.
    pub managed_by: ManagedBy,
    /// Since when all its tokens are inactive and no new ones are taken, until further notice; its users stay in.
    pub suspended_at: Option<Timestamp>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Set when it was deleted; what is pending goes on with the last URI.
    pub deleted_at: Option<Timestamp>,
    /// Counts changes, for `ETag` and `If-Match`.
    pub version: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_a_dns_name_and_nothing_else() {
        for (text, name) in
            [("wiki.internal", "wiki.internal"), ("WIKI.Example", "wiki.example"), ("b\u{fc}cher.example", "xn--bcher-kva.example")]
        {
            assert_eq!(ServerName::parse(text).unwrap().as_str(), name);
        }
        let long = format!("{}.example", "a".repeat(64));
        for text in
            ["", "127.0.0.1", "2130706433", "0x7f.1", "[::1]", "::1", "a.", ".a", "a..b", "-a.b", "a b", "a:443", "a/b", "a%2f", &long]
        {
            assert!(ServerName::parse(text).is_err(), "{text}");
        }
    }
}
