//! How an issuer's access tokens are known, and how its provider is asked about tokens and told that one was revoked, as it is registered and shown.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::Judge;
use super::clients::SECRET_BYTES_MAX;
use crate::egress::parse_url;
use crate::http::Problem;
use crate::http::wire::{Said, text};
use crate::model::client::Network;
use crate::model::issuer::{AccessTokens, IntrospectUpstream, IssuerRecord, ProviderEndpoint, WhenAway};
use crate::model::provider_logout::ClientAuth;
use crate::model::{ClientId, IssuerId};
use crate::token::Sealed;

/// How many audiences an issuer's access tokens may be for.
const AUDIENCES_MAX: usize = 50;
/// The longest audience, in characters.
const AUDIENCE_CHARS_MAX: usize = 255;
/// Octets of the key that secrets of subjects are derived from.
const ROOT_OCTETS: usize = 32;

/// What a request says of an issuer's tokens; what is left out stays.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenSettings {
    pub(super) access_token_typ: Option<text::AccessTokenTyp>,
    pub(super) access_token_audiences: Option<Vec<String>>,
    pub(super) require_known_session: Option<bool>,
    pub(super) introspect_upstream: Said<UpstreamIntrospectionTerms>,
    pub(super) revocation: Said<EndpointTerms>,
    pub(super) subject_secrets: Option<bool>,
}

impl TokenSettings {
    /// Takes what is left out for said: that there is none. Only the secrets of subjects stay, since without them all that was signed with them is void.
    pub(super) fn leave_nothing(&mut self) {
        if matches!(self.introspect_upstream, Said::Nothing) {
            self.introspect_upstream = Said::Null;
        }
        if matches!(self.revocation, Said::Nothing) {
            self.revocation = Said::Null;
        }
    }
}

/// How a provider is asked about access tokens that are opaque (RFC 7662).
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct UpstreamIntrospectionTerms {
    /// Where it is; left out, where the provider's metadata say, which needs `discovery`.
    #[schema(example = "https://op.example/token/introspection")]
    endpoint: Option<String>,
    /// As whom it is called; must be said.
    client_id: Option<text::ClientId>,
    /// Its secret. Never shown; left out it stays as long as it goes to the same host as the same client, null removes it.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    client_secret: Said<String>,
    /// How a secret is shown; `client_secret_basic` unless said.
    token_endpoint_auth_method: Option<text::ClientAuth>,
    /// What is answered while it is away: that nothing can be said now, `unavailable`, unless said; or that the token is `inactive`.
    when_away: Option<text::WhenAway>,
}

/// Where the provider is told that a refresh token was revoked (RFC 7009), and as whom.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct EndpointTerms {
    /// Where it is; left out, where the provider's metadata say, which needs `discovery`.
    #[schema(example = "https://op.example/token/revocation")]
    endpoint: Option<String>,
    /// As whom it is called; left out, as the client whose token it is, with its `tokens.provider_client_secret` if it has one.
    client_id: Option<text::ClientId>,
    /// Its secret. Never shown; left out it stays as long as it goes to the same host as the same client, null removes it.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    client_secret: Said<String>,
    /// How a secret is shown; `client_secret_basic` unless said.
    token_endpoint_auth_method: Option<text::ClientAuth>,
}

/// How a provider is asked about access tokens that are opaque.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpstreamIntrospectionView {
    #[serde(flatten)]
    endpoint: EndpointView,
    /// What is answered while it is away.
    when_away: text::WhenAway,
}

/// An endpoint of the provider's, and as whom it is called.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndpointView {
    /// Where it is, if that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    /// As whom it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<text::ClientId>,
    /// Whether a secret is known.
    client_secret_registered: bool,
    /// How a secret is shown.
    token_endpoint_auth_method: text::ClientAuth,
}

impl EndpointView {
    pub(super) fn of(endpoint: ProviderEndpoint) -> Self {
        Self {
            endpoint: endpoint.url.map(Into::into),
            client_id: endpoint.client_id.map(Into::into),
            client_secret_registered: endpoint.sealed.is_some(),
            token_endpoint_auth_method: endpoint.method.into(),
        }
    }
}

impl UpstreamIntrospectionView {
    pub(super) fn of(upstream: IntrospectUpstream) -> Self {
        Self { endpoint: EndpointView::of(upstream.endpoint), when_away: upstream.when_away.into() }
    }
}

/// The issuer as it shall be: what was said over what was there.
pub(super) fn apply(said: &TokenSettings, record: IssuerRecord, before: &IssuerRecord, judge: &Judge<'_>) -> Result<IssuerRecord, Problem> {
    let was = &before.access_tokens;
    let introspect_upstream = match &said.introspect_upstream {
        Said::Nothing => was.introspect_upstream.clone(),
        Said::Null => None,
        Said::Value(terms) => Some(introspection(terms, (before, &record), was.introspect_upstream.as_ref(), judge)?),
    };
    let revocation = match &said.revocation {
        Said::Nothing => before.revocation.clone(),
        Said::Null => None,
        Said::Value(terms) => {
            Some(terms.endpoint("/revocation", (before, &record), before.revocation.as_ref(), Sealed::revocation(&record.id), judge)?)
        }
    };
    for (at, endpoint) in
        [("/introspect_upstream", introspect_upstream.as_ref().map(|upstream| &upstream.endpoint)), ("/revocation", revocation.as_ref())]
    {
        let Some(endpoint) = endpoint else { continue };
        // A discovered endpoint is wherever the issuer is.
        if endpoint.url.is_none() && endpoint.sealed.is_some() && record.issuer != before.issuer && !is_said_anew(at, said) {
            return Err(Problem::invalid(format!("{at}/client_secret"), "must be said anew, since it would go to another host"));
        }
        match &endpoint.url {
            // Also where only the networks changed.
            Some(url) => check(judge, &format!("{at}/endpoint"), url, &record.network)?,
            None if !record.source.discovery => {
                return Err(Problem::invalid(format!("{at}/endpoint"), "must be said, unless discovery finds it"));
            }
            None => {}
        }
    }
    let access_tokens = AccessTokens {
        typ: said.access_token_typ.map_or(was.typ, |text| text.0),
        audiences: said.access_token_audiences.clone().map_or_else(|| Ok(was.audiences.clone()), audiences)?,
        require_known_session: said.require_known_session.unwrap_or(was.require_known_session),
        introspect_upstream,
    };
    let subject_secrets = match said.subject_secrets {
        None => before.subject_secrets.clone(),
        Some(false) => None,
        Some(true) => Some(before.subject_secrets.clone().unwrap_or_else(|| root(judge, &record.id))),
    };
    Ok(IssuerRecord { access_tokens, revocation, subject_secrets, ..record })
}

fn introspection(
    terms: &UpstreamIntrospectionTerms,
    (before_record, record): (&IssuerRecord, &IssuerRecord),
    before: Option<&IntrospectUpstream>,
    judge: &Judge<'_>,
) -> Result<IntrospectUpstream, Problem> {
    let UpstreamIntrospectionTerms { endpoint, client_id, client_secret, token_endpoint_auth_method, when_away } = terms.clone();
    if client_id.is_none() {
        return Err(Problem::invalid(
            "/introspect_upstream/client_id",
            "must be said: an introspection endpoint answers nobody it does not know",
        ));
    }
    let was = before.map(|before| &before.endpoint);
    let terms = EndpointTerms { endpoint, client_id, client_secret, token_endpoint_auth_method };
    let endpoint = terms.endpoint("/introspect_upstream", (before_record, record), was, Sealed::introspection(&record.id), judge)?;
    Ok(IntrospectUpstream { endpoint, when_away: when_away.map_or(WhenAway::Unavailable, |text| text.0) })
}

/// Whether the secret of an endpoint is said in this request.
fn is_said_anew(at: &str, said: &TokenSettings) -> bool {
    match (at, &said.introspect_upstream, &said.revocation) {
        ("/introspect_upstream", Said::Value(terms), _) => matches!(terms.client_secret, Said::Value(_)),
        ("/revocation", _, Said::Value(terms)) => matches!(terms.client_secret, Said::Value(_)),
        _ => false,
    }
}

fn root(judge: &Judge<'_>, issuer: &IssuerId) -> String {
    let mut root = Zeroizing::new([0; ROOT_OCTETS]);
    judge.entropy.fill(root.as_mut_slice());
    judge.sealing.seal_text(&Sealed::subject_secrets(issuer), root.as_slice(), judge.entropy)
}

fn check(judge: &Judge<'_>, pointer: &str, url: &Url, network: &Network) -> Result<(), Problem> {
    judge.egress.check(url, network).map_err(|bad| Problem::invalid(pointer, bad))
}

fn audiences(said: Vec<String>) -> Result<Vec<String>, Problem> {
    if said.len() > AUDIENCES_MAX {
        return Err(Problem::invalid("/access_token_audiences", format!("must not have more than {AUDIENCES_MAX} items")));
    }
    let bad = |audience: &String| !(1..=AUDIENCE_CHARS_MAX).contains(&audience.chars().count()) || audience.chars().any(char::is_control);
    match said.iter().position(bad) {
        Some(at) => Err(Problem::invalid(
            format!("/access_token_audiences/{at}"),
            format!("must have 1 to {AUDIENCE_CHARS_MAX} characters and no control characters"),
        )),
        None => Ok(said),
    }
}

impl EndpointTerms {
    fn endpoint(
        &self,
        at: &str,
        (before_record, record): (&IssuerRecord, &IssuerRecord),
        before: Option<&ProviderEndpoint>,
        place: Sealed<'_>,
        judge: &Judge<'_>,
    ) -> Result<ProviderEndpoint, Problem> {
        let url = self.endpoint.as_deref().map(|text| parse_url(text).map_err(|bad| Problem::invalid(format!("{at}/endpoint"), bad)));
        let url = url.transpose()?;
        let client_id: Option<ClientId> = self.client_id.clone().map(|text| text.0);
        let at_secret = format!("{at}/client_secret");
        let sealed = match &self.client_secret {
            Said::Null => None,
            Said::Nothing => match before.filter(|was| was.sealed.is_some()) {
                None => None,
                // Who may change where a secret goes does not learn it.
                Some(was) if origin(was.url.as_ref(), before_record) != origin(url.as_ref(), record) || was.client_id != client_id => {
                    return Err(Problem::invalid(at_secret, "must be said anew, since it would go to another host or be another's"));
                }
                Some(was) => was.sealed.clone(),
            },
            Said::Value(_) if client_id.is_none() => return Err(Problem::invalid(at_secret, "needs a client_id")),
            Said::Value(secret) => Some(seal_secret(&at_secret, secret, place, judge)?),
        };
        let method = self.token_endpoint_auth_method.map_or(ClientAuth::Basic, |text| text.0);
        Ok(ProviderEndpoint { url, client_id, method, sealed })
    }
}

/// Where requests go: metadata are the provider's own, so that what they name is as good as its issuer's host.
fn origin(url: Option<&Url>, record: &IssuerRecord) -> String {
    url.map_or_else(|| record.issuer.as_str().to_owned(), |url| url.origin().ascii_serialization())
}

fn seal_secret(pointer: &str, secret: &str, place: Sealed<'_>, judge: &Judge<'_>) -> Result<String, Problem> {
    check_secret(pointer, secret)?;
    Ok(judge.sealing.seal_text(&place, secret.as_bytes(), judge.entropy))
}

/// RFC 6749 appendix A.2: printable ASCII.
pub(super) fn check_secret(pointer: &str, secret: &str) -> Result<(), Problem> {
    if (1..=SECRET_BYTES_MAX).contains(&secret.len()) && secret.bytes().all(|octet| (0x20..=0x7e).contains(&octet)) {
        Ok(())
    } else {
        Err(Problem::invalid(pointer, format!("must be 1 to {SECRET_BYTES_MAX} printable ASCII characters")))
    }
}

/// What the audit trail keeps.
pub(super) fn told(record: &IssuerRecord) -> Value {
    let endpoint = |endpoint: &ProviderEndpoint| {
        json!({ "endpoint": endpoint.url.as_ref().map(Url::as_str), "client_id": endpoint.client_id.as_ref().map(ClientId::as_str),
                "method": endpoint.method.as_str(), "secret": endpoint.sealed.is_some() })
    };
    let AccessTokens { typ, audiences, require_known_session, introspect_upstream } = &record.access_tokens;
    json!({
        "typ": typ.as_str(), "audiences": audiences, "require_known_session": require_known_session,
        "introspect_upstream": introspect_upstream.as_ref().map(|upstream| endpoint(&upstream.endpoint)),
        "revocation": record.revocation.as_ref().map(endpoint), "subject_secrets": record.subject_secrets.is_some(),
    })
}
