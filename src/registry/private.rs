//! What a client asks of connections to it that only the sealing key can read again: a certificate's key, and headers.
//!
//! Owns how they are said, kept and shown. Never shows a key or a header's value, not even to whoever sent it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::token_terms::check_secret;
use crate::egress::{BadHeaders, BadIdentity, Certified, check_headers, check_identity, read_certificate};
use crate::http::Problem;
use crate::http::wire::{Said, text};
use crate::model::client::{ClientCertificate, DeliverySettings, ServerName, StaticHeaders};
use crate::model::{ClientId, IssuerId, Timestamp};
use crate::seams::Entropy;
use crate::token::client_secrets::{Header, open_headers, open_key, seal_headers, seal_key};
use crate::token::{Sealed, SealingKey};

/// How connections to a client are made. What is left out is not done; only the key stays while it belongs to the certificate.
#[derive(Default, Deserialize, ToSchema)]
pub(super) struct TlsMetadata {
    /// The certificate it is shown, with those that vouch for it, in PEM, its own first.
    client_cert_pem: Option<String>,
    /// Its private key in PEM, kept sealed and never shown; left out, the one that is registered stays if it belongs to the certificate.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    client_key_pem: Said<String>,
    /// The DNS name it proves, if it is not the one of its URL. Asked for and checked in the handshake; the connection goes to the URL's host.
    #[schema(example = "wiki.internal")]
    server_name: Option<text::ServerName>,
}

impl TlsMetadata {
    pub(super) fn server_name(&self) -> Option<ServerName> {
        self.server_name.as_ref().map(|text| text.0.clone())
    }
}

impl fmt::Debug for TlsMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMetadata").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// How connections to a client are made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TlsMetadataView {
    /// The certificate it is shown, with those that vouch for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_cert_pem: Option<String>,
    /// When the first of them expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<text::Timestamp>,
    /// Whether there is a key for it.
    client_key_registered: bool,
    /// The name it proves.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<text::ServerName>,
}

impl TlsMetadataView {
    pub(super) fn of(certificate: Option<ClientCertificate>, server_name: Option<ServerName>) -> Option<Self> {
        if certificate.is_none() && server_name.is_none() {
            return None;
        }
        Some(Self {
            client_key_registered: certificate.is_some(),
            not_after: certificate.as_ref().map(|certificate| certificate.expires_at.into()),
            client_cert_pem: certificate.map(|certificate| certificate.pem),
            server_name: server_name.map(Into::into),
        })
    }
}

/// What the audit trail keeps.
pub(super) fn told(delivery: &DeliverySettings) -> Value {
    json!({
        "client_certificate_until": delivery.certificate.as_ref().map(|certificate| certificate.expires_at.to_string()),
        "server_name": delivery.server_name.as_ref().map(ServerName::as_str),
        "header_names": delivery.headers.as_ref().map_or(&[][..], |headers| &headers.names),
    })
}

const CERTIFICATE: &str = "/delivery/tls/client_cert_pem";
const KEY: &str = "/delivery/tls/client_key_pem";
const HEADERS: &str = "/delivery/headers";

/// Where the secrets of one client are kept.
pub(super) struct Strongbox<'a> {
    pub(super) issuer: &'a IssuerId,
    pub(super) client_id: &'a ClientId,
    pub(super) sealing: &'a SealingKey,
    pub(super) entropy: &'a Entropy,
}

impl Strongbox<'_> {
    /// Its own secret at the provider.
    pub(super) fn provider_secret(&self, said: &Said<String>, kept: Option<&String>) -> Result<Option<String>, Problem> {
        match said {
            Said::Nothing => Ok(kept.cloned()),
            Said::Null => Ok(None),
            Said::Value(secret) => {
                check_secret("/tokens/provider_client_secret", secret)?;
                let place = Sealed::provider_secret(self.issuer, self.client_id);
                Ok(Some(self.sealing.seal_text(&place, secret.as_bytes(), self.entropy)))
            }
        }
    }

    /// The certificate as it shall be: with the key that was said, or else the one that was kept, if that is its own.
    pub(super) fn certificate(
        &self,
        said: Option<&TlsMetadata>,
        kept: Option<&ClientCertificate>,
        now: Timestamp,
    ) -> Result<Option<ClientCertificate>, Problem> {
        let Some(said) = said else { return Ok(None) };
        let Some(pem) = &said.client_cert_pem else {
            return match said.client_key_pem {
                Said::Value(_) => Err(Problem::invalid(CERTIFICATE, "is missing beside a client_key_pem")),
                Said::Null | Said::Nothing => Ok(None),
            };
        };
        let certified = read_certificate(pem, now).map_err(invalid)?;
        let sealed_key = match (&said.client_key_pem, kept) {
            (Said::Value(key), _) => {
                check_identity(&certified, key).map_err(invalid)?;
                seal_key(self.issuer, self.client_id, key, self.sealing, self.entropy)
            }
            (Said::Nothing, Some(kept)) => self.kept_key(&certified, kept)?,
            (Said::Nothing, None) | (Said::Null, _) => return Err(Problem::invalid(KEY, "is missing beside a client_cert_pem")),
        };
        let Certified { pem, expires_at } = certified;
        Ok(Some(ClientCertificate { pem, sealed_key, expires_at }))
    }

    fn kept_key(&self, certified: &Certified, kept: &ClientCertificate) -> Result<String, Problem> {
        let key = open_key(self.issuer, self.client_id, &kept.sealed_key, self.sealing).map_err(Problem::internal)?;
        check_identity(certified, &key)
            .map_err(|_| Problem::invalid(KEY, "is missing: the one that is registered belongs to another certificate"))?;
        // Anew, since what was read may be sealed with a key that is given up meanwhile.
        Ok(seal_key(self.issuer, self.client_id, &key, self.sealing, self.entropy))
    }

    /// What was sealed anew and says the same stays as it was.
    pub(super) fn keep_seals(&self, delivery: &mut DeliverySettings, stored: &DeliverySettings) {
        if let (Some(new), Some(old)) = (&mut delivery.certificate, &stored.certificate) {
            let opened = |sealed: &str| open_key(self.issuer, self.client_id, sealed, self.sealing).ok();
            if opened(&new.sealed_key).is_some_and(|key| opened(&old.sealed_key) == Some(key)) {
                new.sealed_key.clone_from(&old.sealed_key);
            }
        }
        if let (Some(new), Some(old)) = (&mut delivery.headers, &stored.headers) {
            let opened = |sealed: &str| open_headers(self.issuer, self.client_id, sealed, self.sealing).ok();
            if opened(&new.sealed).is_some_and(|headers| opened(&old.sealed) == Some(headers)) {
                new.sealed.clone_from(&old.sealed);
            }
        }
    }

    /// The headers as they shall be.
    pub(super) fn headers(
        &self,
        said: &Said<BTreeMap<String, String>>,
        kept: Option<&StaticHeaders>,
        hosts: Hosts<'_>,
    ) -> Result<Option<StaticHeaders>, Problem> {
        let said = match said {
            Said::Nothing => {
                let Some(kept) = kept else { return Ok(None) };
                // Who may change where a secret goes does not learn it.
                if hosts.differ() {
                    return Err(Problem::invalid(HEADERS, "must be said anew, or null, since they would go to another host"));
                }
                return self.kept_headers(kept).map(Some);
            }
            Said::Null => return Ok(None),
            Said::Value(said) => said,
        };
        check_headers(said.iter().map(|(name, value)| (name.as_str(), value.as_str()))).map_err(bad_headers)?;
        if said.is_empty() {
            return Ok(None);
        }
        let headers: Vec<Header> = said.iter().map(|(name, value)| (name.clone(), Zeroizing::new(value.clone()))).collect();
        let sealed = seal_headers(self.issuer, self.client_id, &headers, self.sealing, self.entropy);
        Ok(Some(StaticHeaders { names: said.keys().cloned().collect(), sealed }))
    }

    fn kept_headers(&self, kept: &StaticHeaders) -> Result<StaticHeaders, Problem> {
        let headers = open_headers(self.issuer, self.client_id, &kept.sealed, self.sealing).map_err(Problem::internal)?;
        let sealed = seal_headers(self.issuer, self.client_id, &headers, self.sealing, self.entropy);
        Ok(StaticHeaders { names: kept.names.clone(), sealed })
    }
}

/// Where a client's requests went, and where they shall go.
#[derive(Clone, Copy)]
pub(super) struct Hosts<'a> {
    pub(super) before: Option<&'a url::Url>,
    pub(super) now: Option<&'a url::Url>,
}

impl Hosts<'_> {
    fn differ(self) -> bool {
        match (self.before, self.now) {
            // Nothing is sent anywhere; one that is named later is held against this.
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(now)) => before.origin() != now.origin(),
        }
    }
}

/// Blames one header where one is to blame (RFC 6901 3).
fn bad_headers(bad: BadHeaders) -> Problem {
    let pointer = bad.name().map_or_else(|| HEADERS.to_owned(), |name| format!("{HEADERS}/{}", name.replace('~', "~0")));
    Problem::invalid(pointer, bad)
}

fn invalid(bad: BadIdentity) -> Problem {
    Problem::invalid(if bad.blames_key() { KEY } else { CERTIFICATE }, bad)
}
