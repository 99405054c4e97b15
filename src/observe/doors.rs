//! What happens at the doors before a request is looked at: certificates, handshakes, connections, where requests come from, how many they are.

use std::error::Error;

use metrics::{counter, describe_counter};
use tracing::{debug, error, info, warn};

use super::events::Chain;
use crate::model::Timestamp;
use crate::model::limits::Load;
use crate::model::origin::Unsaid;

const CERTIFICATE_RELOADS: &str = "logoutd_listener_certificate_reloads_total";
const HANDSHAKES_FAILED: &str = "logoutd_tls_handshakes_failed_total";
const CONNECTIONS_REFUSED: &str = "logoutd_connections_refused_total";
const ORIGINS_UNSAID: &str = "logoutd_forwarded_unsaid_total";
const REQUESTS_LIMITED: &str = "logoutd_requests_limited_total";

pub(super) fn describe() {
    describe_counter!(CERTIFICATE_RELOADS, "Times the listener's certificate was found changed, by whether it was taken or refused.");
    describe_counter!(HANDSHAKES_FAILED, "TLS handshakes that failed, by why.");
    describe_counter!(CONNECTIONS_REFUSED, "Connections ended at once because their address had as many as it may.");
    describe_counter!(
        ORIGINS_UNSAID,
        "Requests of trusted proxies that did not say for whom, or said it in a way nobody can read, by which."
    );
    describe_counter!(REQUESTS_LIMITED, "Requests answered with 429 because there were too many, by what is limited and by load.");
    // What an alert looks at is there from the start.
    for outcome in ["taken", "refused"] {
        counter!(CERTIFICATE_RELOADS, "outcome" => outcome).increment(0);
    }
    counter!(CONNECTIONS_REFUSED).increment(0);
}

/// The files of the listener's certificate changed.
#[derive(Debug)]
pub enum ListenerCertificate<'a> {
    /// New connections are shown another certificate.
    Taken {
        /// Its end.
        until: Timestamp,
    },
    /// What is there cannot be shown, and the one before goes on.
    Refused {
        /// What is wrong.
        error: &'a (dyn Error + 'static),
        /// The setting that names the file.
        setting: &'static str,
    },
}

impl ListenerCertificate<'_> {
    /// Tells it.
    pub fn emit(&self) {
        let outcome = match self {
            Self::Taken { until } => {
                info!(expires_at = %until, "the listener shows another certificate");
                "taken"
            }
            Self::Refused { error, setting } => {
                error!(error = %Chain(*error), setting, "the listener's new certificate cannot be shown: the one before goes on");
                "refused"
            }
        };
        counter!(CERTIFICATE_RELOADS, "outcome" => outcome).increment(1);
    }
}

/// Why no connection came of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailed {
    /// It took too long.
    Timeout,
    /// The peer hung up, or what it said is not TLS as it is spoken here.
    Refused,
}

impl HandshakeFailed {
    /// Tells it.
    pub fn emit(self, cause: Option<&(dyn Error + 'static)>) {
        let why = match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        };
        debug!(why, error = cause, "a handshake failed");
        counter!(HANDSHAKES_FAILED, "why" => why).increment(1);
    }
}

/// A source had as many connections as it may.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRefused;

impl ConnectionRefused {
    /// Tells it. The log is for who looks closely: whoever is refused comes often.
    pub fn emit(self, peer: std::net::IpAddr) {
        debug!(%peer, "a connection was ended: its address has as many as it may");
        counter!(CONNECTIONS_REFUSED).increment(1);
    }
}

/// A trusted proxy did not say for whom it asks.
#[derive(Clone, Copy, Debug)]
pub struct OriginUnsaid {
    /// In which way.
    pub how: Unsaid,
    /// Which proxy.
    pub proxy: std::net::IpAddr,
}

impl OriginUnsaid {
    /// Tells it.
    pub fn emit(self) {
        let how = match self.how {
            Unsaid::Missing => "missing",
            Unsaid::Malformed => "malformed",
        };
        debug!(how, proxy = %self.proxy, "a trusted proxy does not say for whom it asks");
        counter!(ORIGINS_UNSAID, "how" => how).increment(1);
    }
}

/// What there were too many requests of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// One credential.
    Credential,
    /// One issuer.
    Issuer,
}

/// A request was answered with 429.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimited<'a> {
    /// What is limited.
    pub what: Limited,
    /// Of which load.
    pub load: Load,
    /// Who asked.
    pub caller: &'a str,
}

impl RequestLimited<'_> {
    /// Tells it.
    pub fn emit(self) {
        let what = match self.what {
            Limited::Credential => "credential",
            Limited::Issuer => "issuer",
        };
        debug!(limited = what, load = self.load.as_str(), caller = self.caller, "a request was refused: there are too many");
        counter!(REQUESTS_LIMITED, "limited" => what, "load" => self.load.as_str()).increment(1);
    }
}

/// Nobody holds what it takes to administer the server.
#[derive(Clone, Copy, Debug)]
pub struct NobodyAdministers;

impl NobodyAdministers {
    /// Tells it.
    pub fn emit(self) {
        warn!(
            "nobody can administer this server: no admin_token is set, and there is no API token of the role admin; set admin_token or \
             admin_token_file and start again"
        );
    }
}

/// Others than its owner may read a file with a secret.
#[derive(Clone, Copy, Debug)]
pub struct SecretExposed<'a> {
    /// The setting that names it.
    pub setting: &'a str,
    /// Which file.
    pub file: &'a std::path::Path,
}

impl SecretExposed<'_> {
    /// Tells it.
    pub fn emit(self) {
        warn!(
            setting = self.setting,
            file = %self.file.display(),
            "a file with a secret may be read by others than its owner: chmod 600 it, or 640 where root owns it"
        );
    }
}

/// The server speaks plain HTTP where others than this machine can hear it.
#[derive(Clone, Copy, Debug)]
pub struct ListenerInPlain {
    /// Where.
    pub listen: std::net::SocketAddr,
}

impl ListenerInPlain {
    /// Tells it.
    pub fn emit(self) {
        warn!(
            listen = %self.listen,
            "tokens and secrets come in plain HTTP: set http.tls, or name the proxy that does TLS in http.trusted_proxies"
        );
    }
}
