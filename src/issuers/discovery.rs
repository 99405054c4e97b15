//! A provider's metadata (Discovery 3 and 4).

use openidconnect::core::{
    CoreAuthDisplay, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreGrantType, CoreJsonWebKey, CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm, CoreResponseMode, CoreResponseType, CoreSubjectIdentifierType,
};
use openidconnect::{AdditionalProviderMetadata, HttpRequest, HttpResponse, IssuerUrl, ProviderMetadata, http};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use url::Url;

use super::{AddressBook, Away, METADATA_OCTETS_MAX, PATIENCE, Unread};
use crate::egress::{Egress, Fetch, FetchError, locked};
use crate::model::client::Network;
use crate::model::issuer::{IssuerRecord, ProviderDocument};

const WHAT: &str = "the provider's metadata";

/// What is used of a provider's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Where its keys are.
    pub jwks_uri: Url,
    /// Where tokens are had.
    pub token_endpoint: Option<Url>,
    /// Where tokens are revoked (RFC 7009, RFC 8414 2).
    pub revocation_endpoint: Option<Url>,
    /// Where tokens are asked about (RFC 7662, RFC 8414 2).
    pub introspection_endpoint: Option<Url>,
}

/// What OAuth's own metadata add (RFC 8414 2).
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Endpoints {
    revocation_endpoint: Option<Url>,
    introspection_endpoint: Option<Url>,
}

impl AdditionalProviderMetadata for Endpoints {}

type Document = ProviderMetadata<
    Endpoints,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

impl Metadata {
    /// What a provider said of itself when it was asked last.
    pub fn of(document: &ProviderDocument) -> Option<Self> {
        document.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok()).map(|document| Self::used(&document))
    }

    fn used(document: &Document) -> Self {
        let more = document.additional_metadata();
        Self {
            jwks_uri: document.jwks_uri().url().clone(),
            token_endpoint: document.token_endpoint().map(|endpoint| endpoint.url().clone()),
            revocation_endpoint: more.revocation_endpoint.clone(),
            introspection_endpoint: more.introspection_endpoint.clone(),
        }
    }
}

impl AddressBook {
    /// Asks a provider for its metadata; what they say is believed only if they are the issuer's own (Discovery 4.3).
    pub(super) async fn discover(&self, issuer: &IssuerRecord) -> Result<Discovered, Away> {
        let unread = |why: String| Away::Unread { what: WHAT, why };
        let issuer_url = IssuerUrl::new(issuer.issuer.as_str().to_owned()).map_err(|error| unread(error.to_string()))?;
        let texts: Texts = Arc::default();
        // Owning what it needs: of one that borrowed, the compiler could not tell that its requests may move between threads.
        let (egress, network, kept) = (Arc::clone(&self.egress), issuer.network.clone(), Arc::clone(&texts));
        let client = move |request: HttpRequest| ask(Arc::clone(&egress), network.clone(), request, Arc::clone(&kept));
        let document = Document::discover_async(issuer_url, &client).await.map_err(|error| unread(said(&error)))?;
        let mut texts = std::mem::take(&mut *locked(&texts)).into_iter();
        let (text, jwks) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        Ok(Discovered { text, metadata: Metadata::used(&document), jwks })
    }
}

/// What a discovery read.
pub(super) struct Discovered {
    /// The metadata as they came.
    pub(super) text: String,
    /// What is used of them.
    pub(super) metadata: Metadata,
    /// The key set they name, as it came.
    pub(super) jwks: String,
}

/// The texts of the answers: the metadata, then the keys.
type Texts = Arc<Mutex<Vec<String>>>;

/// One request of the discovery's, by the guarded way.
async fn ask(egress: Arc<Egress>, network: Network, request: HttpRequest, texts: Texts) -> Result<HttpResponse, Unread> {
    let url = Url::parse(&request.uri().to_string()).map_err(|error| FetchError::Failed(error.to_string()))?;
    let fetch = Fetch { url: &url, network: &network, accept: "application/json", octets_max: METADATA_OCTETS_MAX, timeout: PATIENCE };
    let fetched = egress.fetch(fetch).await?;
    // What is not UTF-8 is no JSON, and the library refuses it.
    locked(&texts).push(String::from_utf8(fetched.body.clone()).unwrap_or_default());
    let mut response = http::Response::builder().status(fetched.status);
    if let Some(content_type) = fetched.content_type {
        response = response.header(http::header::CONTENT_TYPE, content_type);
    }
    response.body(fetched.body).map_err(|error| FetchError::Failed(error.to_string()).into())
}

/// What is wrong, in one line and without what the document said.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add to its errors")]
fn said<E: std::error::Error + 'static>(error: &openidconnect::DiscoveryError<E>) -> String {
    use openidconnect::DiscoveryError;
    match error {
        DiscoveryError::Parse(error) => format!("its member {} is not as it must be", error.path()),
        DiscoveryError::Response(status, ..) => format!("it answers {}", status.as_u16()),
        DiscoveryError::Validation(_) => "it is not of this issuer".to_owned(),
        DiscoveryError::Request(error) => error.to_string(),
        other => other.to_string(),
    }
}
