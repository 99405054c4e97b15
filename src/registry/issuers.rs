//! Issuers: whose sessions end here, and what their tokens are signed with.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::keys::{make, missing, names};
use super::lanes::LaneShape;
use super::provider_logout::{self, ProviderLogoutTerms, ProviderLogoutView};
use super::token_terms::{self, EndpointTerms, EndpointView, TokenSettings, UpstreamIntrospectionTerms, UpstreamIntrospectionView};
use super::{Declared, Judge, bad_network, declared_elsewhere, done, editable, entry, told};
use crate::egress::{Mode, parse_url};
use crate::http::needs::{Administer, ReadRegistry};
use crate::http::problem::ProblemDocument;
use crate::http::wire::{Said, text};
use crate::http::{Anywhere, AppState, At, Code, FieldError, List, Problem, Query, Registration, Reply, Routes, Somewhere, if_match, page};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::client::Network;
use crate::model::delivery::Lane;
use crate::model::issuer::{
    AccessTokens, Expiry, IssuerRecord, ManagedBy, ProviderSource, PublishedAt, SESSION_MAX_AGE_DEFAULT, Upstream, UpstreamMode,
};
use crate::model::key::{KeyRecord, SigningAlg};
use crate::model::page::Listed;
use crate::model::{ClientId, Issuer, IssuerId, Timestamp};
use crate::store::Change;
use crate::token::Sealed;

/// The routes of issuers.
pub fn routes() -> Routes {
    Routes::new().add(routes!(create, list)).add(routes!(show, change, delete))
}

/// How long a session without `expires_at` may be taken to live, in seconds: a minute to a year.
pub const SESSION_MAX_AGE_S: RangeInclusive<u64> = 60..=366 * 24 * 3600;

/// How often a change is tried again that others keep overtaking.
const ATTEMPTS: usize = 3;

/// A new issuer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NewIssuer {
    /// Its short id in paths: 1 to 63 of a-z, 0-9 and '-'.
    #[schema(example = "main")]
    id: text::IssuerId,
    /// Its identifier to the letter: the `iss` of every token signed for it.
    #[schema(example = "https://op.example")]
    issuer: text::Issuer,
    /// The algorithms to have a key for; RS256 unless said. One that has a key cannot be taken away.
    signing_algs: Option<Vec<text::SigningAlg>>,
    /// How long a session without `expires_at` is taken to live, in seconds; 30 days unless said.
    #[schema(minimum = 60, maximum = 31_622_400)]
    session_max_age: Option<u64>,
    /// Which of its sessions end here by themselves; `absolute` unless said.
    expiry: Option<text::Expiry>,
    /// Whether the provider's metadata are fetched from `/.well-known/openid-configuration` under its identifier (OpenID Connect Discovery 4).
    discovery: Option<bool>,
    /// Where the provider publishes its keys, if not where its metadata say; null for nowhere.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    provider_jwks_uri: Said<String>,
    /// Where relying parties get the keys they check its tokens with: from the `provider`, which must then publish ours among its own, or `here`. Unless
    /// said, from the provider as soon as it is known where that publishes its keys.
    published_at: Option<text::PublishedAt>,
    /// How the provider's own logout tokens are taken.
    upstream: Option<UpstreamTerms>,
    /// How the provider is told of sessions it did not end itself; null for not at all. It is said anew as a whole, but for secrets, which stay where
    /// they are left out.
    #[serde(default)]
    #[schema(value_type = Option<ProviderLogoutTerms>)]
    provider_logout: Said<ProviderLogoutTerms>,
    /// The `typ` its access tokens must have; `at+jwt` unless said. `JWT` also admits tokens that say nothing of their type.
    access_token_typ: Option<text::AccessTokenTyp>,
    /// One of these must be in the `aud` of an access token, at most 50; empty unless said: any audience will do.
    #[schema(max_items = 50)]
    access_token_audiences: Option<Vec<String>>,
    /// Whether an access token that names a session nobody registered is inactive; no unless said.
    require_known_session: Option<bool>,
    /// How the provider is asked about access tokens that are opaque and not registered; null for not at all.
    #[serde(default)]
    #[schema(value_type = Option<UpstreamIntrospectionTerms>)]
    introspect_upstream: Said<UpstreamIntrospectionTerms>,
    /// Where refresh tokens that were registered `sealed` are revoked too when they are revoked here; null for nowhere. Where it comes to lead elsewhere,
    /// the tokens that are kept sealed, and the secrets of clients at the provider, are forgotten.
    #[serde(default)]
    #[schema(value_type = Option<EndpointTerms>)]
    revocation: Said<EndpointTerms>,
    /// Whether each of its subjects has a secret here that a compromise changes; no unless said. Taken back, all of them are gone.
    subject_secrets: Option<bool>,
    /// Networks its clients may be at although they are not public; only inside what the deployment allows.
    allow_networks: Option<Vec<text::IpNetwork>>,
    /// Certificate authorities trusted beside the system's, in PEM; null for none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    ca_pem: Said<String>,
}

/// A changed issuer: what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ChangedIssuer {
    /// Its short id, which never changes.
    id: Option<text::IssuerId>,
    /// Its identifier, which cannot change any more once it has sessions.
    issuer: Option<text::Issuer>,
    /// The algorithms to have a key for; RS256 unless said. One that has a key cannot be taken away.
    signing_algs: Option<Vec<text::SigningAlg>>,
    /// How long a session without `expires_at` is taken to live, in seconds; 30 days unless said.
    #[schema(minimum = 60, maximum = 31_622_400)]
    session_max_age: Option<u64>,
    /// Which of its sessions end here by themselves; `absolute` unless said.
    expiry: Option<text::Expiry>,
    /// Whether the provider's metadata are fetched from `/.well-known/openid-configuration` under its identifier (OpenID Connect Discovery 4).
    discovery: Option<bool>,
    /// Where the provider publishes its keys, if not where its metadata say; null for nowhere.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    provider_jwks_uri: Said<String>,
    /// Where relying parties get the keys they check its tokens with: from the `provider`, which must then publish ours among its own, or `here`. Unless
    /// said, from the provider as soon as it is known where that publishes its keys.
    published_at: Option<text::PublishedAt>,
    /// How the provider's own logout tokens are taken.
    upstream: Option<UpstreamTerms>,
    /// How the provider is told of sessions it did not end itself; null for not at all. It is said anew as a whole, but for secrets, which stay where
    /// they are left out.
    #[serde(default)]
    #[schema(value_type = Option<ProviderLogoutTerms>)]
    provider_logout: Said<ProviderLogoutTerms>,
    /// The `typ` its access tokens must have; `at+jwt` unless said. `JWT` also admits tokens that say nothing of their type.
    access_token_typ: Option<text::AccessTokenTyp>,
    /// One of these must be in the `aud` of an access token, at most 50; empty unless said: any audience will do.
    #[schema(max_items = 50)]
    access_token_audiences: Option<Vec<String>>,
    /// Whether an access token that names a session nobody registered is inactive; no unless said.
    require_known_session: Option<bool>,
    /// How the provider is asked about access tokens that are opaque and not registered; null for not at all.
    #[serde(default)]
    #[schema(value_type = Option<UpstreamIntrospectionTerms>)]
    introspect_upstream: Said<UpstreamIntrospectionTerms>,
    /// Where refresh tokens that were registered `sealed` are revoked too when they are revoked here; null for nowhere. Where it comes to lead elsewhere,
    /// the tokens that are kept sealed, and the secrets of clients at the provider, are forgotten.
    #[serde(default)]
    #[schema(value_type = Option<EndpointTerms>)]
    revocation: Said<EndpointTerms>,
    /// Whether each of its subjects has a secret here that a compromise changes; no unless said. Taken back, all of them are gone.
    subject_secrets: Option<bool>,
    /// Networks its clients may be at although they are not public; only inside what the deployment allows.
    allow_networks: Option<Vec<text::IpNetwork>>,
    /// Certificate authorities trusted beside the system's, in PEM; null for none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    ca_pem: Said<String>,
}

/// An issuer.
#[derive(Debug, Serialize, ToSchema)]
pub struct IssuerView {
    /// Its short id in paths.
    id: text::IssuerId,
    /// Its identifier to the letter.
    issuer: text::Issuer,
    /// The algorithms registered for it.
    signing_algs: Vec<text::SigningAlg>,
    /// How long a session without `expires_at` is taken to live, in seconds.
    session_max_age: u64,
    /// Which of its sessions end here by themselves.
    expiry: text::Expiry,
    /// Whether its provider's metadata are fetched.
    discovery: bool,
    /// Where its provider publishes its keys, if that was said.
    provider_jwks_uri: Option<String>,
    /// Where relying parties get the keys.
    published_at: text::PublishedAt,
    /// How its provider's logout tokens are taken.
    upstream: UpstreamView,
    /// How its provider is told of sessions it did not end itself; null for not at all.
    provider_logout: Option<ProviderLogoutView>,
    /// How the queue of what the provider is to be told stands. Absent where issuers are listed, and where nothing is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_lane: Option<LaneShape>,
    /// The `typ` its access tokens must have.
    access_token_typ: text::AccessTokenTyp,
    /// One of these must be in the `aud` of an access token; empty: any will do.
    access_token_audiences: Vec<String>,
    /// Whether an access token that names a session nobody registered is inactive.
    require_known_session: bool,
    /// How the provider is asked about opaque access tokens; null for not at all.
    introspect_upstream: Option<UpstreamIntrospectionView>,
    /// Where refresh tokens are revoked too; null for nowhere.
    revocation: Option<EndpointView>,
    /// Whether each of its subjects has a secret here.
    subject_secrets: bool,
    /// Exceptions from the address rule for its clients.
    allow_networks: Vec<text::IpNetwork>,
    /// Certificate authorities trusted beside the system's.
    ca_pem: Option<String>,
    /// Whether the configuration declares it: then nothing of this is changed, or deleted, by the API.
    declared: bool,
    /// When it was registered.
    created_at: text::Timestamp,
    /// When it last changed.
    updated_at: text::Timestamp,
    /// Members of the request that are unknown here and were ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<Vec<String>>,
}

/// How a provider's own logout tokens are taken; what is left out stays.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct UpstreamTerms {
    /// `relay`, unless said: they speak to one of the provider's clients, whose participation ends. `cascade`: they speak to this server as a client of
    /// its own, and the whole session ends.
    mode: Option<text::UpstreamMode>,
    /// In a cascade, the name the provider knows this server by; null for none.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    client_id: Said<text::ClientId>,
    /// In a cascade, what they are signed with; RS256 unless said. In a relay each client has its own `id_token_signed_response_alg`.
    signing_alg: Option<text::SigningAlg>,
    /// Whose token a client is sent: `verbatim_then_own`, unless said, the provider's as long as it is good and ours afterwards; or `own`.
    relay_token: Option<text::RelayToken>,
    /// Whether a token without `exp` is refused (OpenID Connect Back-Channel Logout 2.4); yes unless said.
    require_exp: Option<bool>,
}

/// How a provider's own logout tokens are taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct UpstreamView {
    /// Whom they speak to.
    mode: text::UpstreamMode,
    /// In a cascade, the name the provider knows this server by.
    client_id: Option<text::ClientId>,
    /// In a cascade, what they are signed with.
    signing_alg: text::SigningAlg,
    /// Whose token a client is sent.
    relay_token: text::RelayToken,
    /// Whether a token without `exp` is refused.
    require_exp: bool,
}

impl UpstreamTerms {
    fn apply(&self, before: &Upstream) -> Result<Upstream, Problem> {
        let client_id = match &self.client_id {
            Said::Nothing => before.client_id.clone(),
            Said::Null => None,
            Said::Value(text) => Some(text.0.clone()),
        };
        let mode = self.mode.map_or(before.mode, |text| text.0);
        if mode == UpstreamMode::Cascade && client_id.is_none() {
            return Err(Problem::invalid("/upstream/client_id", "must be said in a cascade: it is the audience of the provider's tokens"));
        }
        Ok(Upstream {
            mode,
            client_id,
            alg: self.signing_alg.map_or(before.alg, |text| text.0),
            relay_token: self.relay_token.map_or(before.relay_token, |text| text.0),
            require_exp: self.require_exp.unwrap_or(before.require_exp),
        })
    }
}

impl From<Upstream> for UpstreamView {
    fn from(upstream: Upstream) -> Self {
        let Upstream { mode, client_id, alg, relay_token, require_exp } = upstream;
        Self {
            mode: mode.into(),
            client_id: client_id.map(Into::into),
            signing_alg: alg.into(),
            relay_token: relay_token.into(),
            require_exp,
        }
    }
}

fn view(record: IssuerRecord) -> IssuerView {
    let IssuerRecord {
        id,
        issuer,
        signing_algs,
        session_max_age,
        expiry,
        network,
        source,
        upstream,
        provider_logout,
        access_tokens,
        revocation,
        subject_secrets,
        managed_by,
        created_at,
        updated_at,
        version: _,
    } = record;
    IssuerView {
        id: id.into(),
        issuer: issuer.into(),
        signing_algs: signing_algs.into_iter().map(Into::into).collect(),
        session_max_age: session_max_age.as_secs(),
        expiry: expiry.into(),
        discovery: source.discovery,
        provider_jwks_uri: source.jwks_uri.map(Into::into),
        published_at: source.published_at.into(),
        upstream: upstream.into(),
        provider_logout: provider_logout.as_deref().map(ProviderLogoutView::of),
        provider_lane: None,
        access_token_typ: access_tokens.typ.into(),
        access_token_audiences: access_tokens.audiences,
        require_known_session: access_tokens.require_known_session,
        introspect_upstream: access_tokens.introspect_upstream.map(UpstreamIntrospectionView::of),
        revocation: revocation.map(EndpointView::of),
        subject_secrets: subject_secrets.is_some(),
        allow_networks: network.allow.into_iter().map(Into::into).collect(),
        ca_pem: network.ca_pem,
        declared: managed_by == ManagedBy::Configuration,
        created_at: created_at.into(),
        updated_at: updated_at.into(),
        ignored: None,
    }
}

/// Registers an issuer and makes its signing keys.
#[utoipa::path(
    post,
    path = "/v1/issuers",
    tag = "registration",
    security(("bearer" = [])),
    request_body = NewIssuer,
    responses(
        (status = 201, description = "Registered; its keys are published", body = IssuerView, headers(("ETag" = String), ("Location" = String))),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "already-exists", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn create(
    State(app): State<AppState>,
    Anywhere(caller, _): Anywhere<Administer>,
    Registration { body, ignored }: Registration<NewIssuer>,
) -> Result<Reply<IssuerView>, Problem> {
    let (id, issuer, said) = body.sorted();
    let blank = blank(id, issuer, app.clock.now());
    let record = said.over(&blank, &blank, &Judge::of(&app))?;
    if app.store.issuer(&record.id).await?.is_some() {
        return Err(taken());
    }
    let keys = make(&app, &record.id, record.signing_algs.clone()).await?;
    let audit = entry(Act::IssuerCreated, &caller, Some(&record.id), &detail(&record, &keys))?;
    done(app.store.create_issuer(&record, &keys, audit).await?, Code::UnknownIssuer, taken)?;
    let path = format!("/v1/issuers/{}", record.id);
    let (view, version) = stored(&app, &record.id, ignored).await?;
    Ok(Reply::created(view).version(version).location(&path))
}

fn taken() -> Problem {
    Problem::new(Code::AlreadyExists, "this id or this issuer is registered")
        .at(FieldError::pointer("/id", "must be new"))
        .at(FieldError::pointer("/issuer", "must be new"))
}

/// The issuers, newest first; for a caller bound to one, that one.
#[utoipa::path(
    get,
    path = "/v1/issuers",
    tag = "registration",
    security(("bearer" = [])),
    params(IssuersQuery),
    responses(
        (status = 200, description = "One page", body = List<IssuerView>),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn list(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ReadRegistry>,
    Query(query): Query<IssuersQuery>,
) -> Result<Reply<List<IssuerView>>, Problem> {
    let listed = match &caller.issuer {
        Some(own) => Listed { items: app.store.issuer(own).await?.into_iter().collect(), next: None },
        None => app.store.issuers(page(query.limit, query.after)).await?,
    };
    Ok(Reply::ok(List::of(listed, view)))
}

/// Which issuers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct IssuersQuery {
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// One issuer.
#[utoipa::path(
    get,
    path = "/v1/issuers/{iss}",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    responses(
        (status = 200, description = "The issuer", body = IssuerView, headers(("ETag" = String))),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn show(State(app): State<AppState>, At(seat, _): At<ReadRegistry>) -> Result<Reply<IssuerView>, Problem> {
    let version = seat.issuer.version;
    let provider_lane = match &seat.issuer.provider_logout {
        Some(_) => provider_lane(&app, &seat.issuer.id).await?,
        None => None,
    };
    Ok(Reply::ok(IssuerView { provider_lane, ..view(seat.issuer) }).version(version))
}

async fn provider_lane(app: &AppState, issuer: &IssuerId) -> Result<Option<LaneShape>, Problem> {
    let now = app.store.now().await?;
    Ok(app.store.lanes(&[Lane::of_provider(issuer)], now).await?.pop().map(Into::into))
}

/// Changes an issuer; what is left out stays. Makes the keys of new algorithms.
#[utoipa::path(
    patch,
    path = "/v1/issuers/{iss}",
    tag = "registration",
    security(("bearer" = [])),
    params(
        ("iss" = String, Path, description = "The issuer's short id"),
        ("If-Match" = Option<String>, Header, description = "The ETag the change is meant for"),
    ),
    request_body = ChangedIssuer,
    responses(
        (status = 200, description = "The issuer as it is now", body = IssuerView, headers(("ETag" = String))),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "conflict: the identifier is taken, or cannot change any more; declared", content_type = "application/problem+json", body = ProblemDocument),
        (status = 412, description = "version-mismatch", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn change(
    State(app): State<AppState>,
    At(seat, _): At<Administer>,
    headers: HeaderMap,
    Registration { body, ignored }: Registration<ChangedIssuer>,
) -> Result<Reply<IssuerView>, Problem> {
    let expected = if_match(&headers)?;
    let mut current = seat.issuer;
    if body.id.as_ref().is_some_and(|text| text.0 != current.id) {
        return Err(Problem::invalid("/id", "never changes"));
    }
    let said = body.sorted();
    let judge = Judge::of(&app);
    for _ in 0..ATTEMPTS {
        if expected.is_some_and(|expected| expected != current.version) {
            return Err(Problem::of(Code::VersionMismatch));
        }
        editable(current.managed_by)?;
        let record = said.over(&IssuerRecord { updated_at: app.clock.now(), ..current.clone() }, &current, &judge)?;
        let keys = make(&app, &record.id, missing(&app.store.keys(&record.id).await?, &record.signing_algs)).await?;
        let audit = entry(Act::IssuerChanged, &seat.caller, Some(&record.id), &detail(&record, &keys))?;
        match app.store.change_issuer(&record, &keys, audit).await? {
            Change::Stale => current = app.store.issuer(&current.id).await?.ok_or_else(|| Problem::of(Code::UnknownIssuer))?,
            change @ (Change::Created | Change::Replaced | Change::Absent | Change::InUse | Change::Conflict) => {
                done(change, Code::UnknownIssuer, immutable)?;
                let (view, version) = stored(&app, &record.id, ignored).await?;
                return Ok(Reply::ok(view).version(version));
            }
        }
    }
    Err(Problem::of(Code::VersionMismatch))
}

fn immutable() -> Problem {
    Problem::new(Code::Conflict, "an issuer with sessions keeps its identifier, and no two share one")
        .at(FieldError::pointer("/issuer", "cannot become this"))
}

/// Deletes an issuer for which nothing lives any more, with its clients and API tokens.
#[utoipa::path(
    delete,
    path = "/v1/issuers/{iss}",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    responses(
        (status = 204, description = "Deleted"),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "in-use: sessions live, deliveries are pending or grants are good; declared", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn delete(State(app): State<AppState>, At(seat, _): At<Administer>) -> Result<Reply<()>, Problem> {
    let audit = entry(Act::IssuerDeleted, &seat.caller, Some(&seat.issuer.id), &json!({ "issuer": seat.issuer.issuer.as_str() }))?;
    done(app.store.delete_issuer(&seat.issuer.id, audit).await?, Code::UnknownIssuer, declared_elsewhere)?;
    app.keyring.forget(&seat.issuer.id);
    app.book.forget(&seat.issuer.id);
    Ok(Reply::done())
}

impl NewIssuer {
    /// Its names, and everything else that is said.
    fn sorted(self) -> (IssuerId, Issuer, Everything) {
        let Self {
            id,
            issuer,
            signing_algs,
            session_max_age,
            expiry,
            discovery,
            provider_jwks_uri,
            published_at,
            upstream,
            provider_logout,
            access_token_typ,
            access_token_audiences,
            require_known_session,
            introspect_upstream,
            revocation,
            subject_secrets,
            allow_networks,
            ca_pem,
        } = self;
        let signing_algs = signing_algs.or_else(|| Some(vec![SigningAlg::Rs256.into()]));
        let said = ChangedIssuer {
            id: None,
            issuer: None,
            signing_algs,
            session_max_age,
            expiry,
            discovery,
            provider_jwks_uri,
            published_at,
            upstream,
            provider_logout,
            access_token_typ,
            access_token_audiences,
            require_known_session,
            introspect_upstream,
            revocation,
            subject_secrets,
            allow_networks,
            ca_pem,
        };
        (id.0, issuer.0, said.sorted())
    }
}

impl ChangedIssuer {
    /// Everything that is said.
    fn sorted(self) -> Everything {
        let Self {
            id: _,
            issuer,
            signing_algs,
            session_max_age,
            expiry,
            discovery,
            provider_jwks_uri,
            published_at,
            upstream,
            provider_logout,
            access_token_typ,
            access_token_audiences,
            require_known_session,
            introspect_upstream,
            revocation,
            subject_secrets,
            allow_networks,
            ca_pem,
        } = self;
        let tokens = TokenSettings {
            access_token_typ,
            access_token_audiences,
            require_known_session,
            introspect_upstream,
            revocation,
            subject_secrets,
        };
        let source = SourceTerms { discovery, jwks_uri: provider_jwks_uri, published_at };
        let issuer = issuer.map(|text| text.0);
        let terms = Terms { issuer, signing_algs, session_max_age, expiry, source, upstream, allow_networks, ca_pem };
        Everything { terms, provider_logout, tokens }
    }
}

/// Everything a request says about an issuer.
struct Everything {
    terms: Terms,
    provider_logout: Said<ProviderLogoutTerms>,
    tokens: TokenSettings,
}

impl Everything {
    /// The issuer as it shall be: what is said over `base`, while secrets that are left out stay as they are in `stored`.
    fn over(&self, base: &IssuerRecord, stored: &IssuerRecord, judge: &Judge<'_>) -> Result<IssuerRecord, Problem> {
        let record = self.terms.apply(base, judge)?;
        let record = provider_logout::apply(&self.provider_logout, record, stored, judge)?;
        token_terms::apply(&self.tokens, record, stored, judge)
    }
}

/// An issuer as the configuration declares it: what is left out has its default. Only what a restart must not take away stays as it is stored: secrets,
/// the secrets of its subjects, and algorithms that have a key.
fn declared(body: NewIssuer, stored: Option<&IssuerRecord>, judge: &Judge<'_>, now: Timestamp) -> Result<IssuerRecord, Problem> {
    let unsaid_algs = body.signing_algs.is_none();
    let (id, issuer, mut said) = body.sorted();
    said.tokens.leave_nothing();
    let blank = IssuerRecord { managed_by: ManagedBy::Configuration, ..blank(id, issuer.clone(), now) };
    let Some(stored) = stored else { return said.over(&blank, &blank, judge) };
    if unsaid_algs {
        said.terms.signing_algs = None;
    }
    said.terms.issuer = Some(issuer);
    let base = IssuerRecord {
        issuer: stored.issuer.clone(),
        signing_algs: stored.signing_algs.clone(),
        created_at: stored.created_at,
        version: stored.version,
        ..blank
    };
    let secrets = &stored.access_tokens.introspect_upstream;
    let secrets = AccessTokens { introspect_upstream: secrets.clone(), ..AccessTokens::DEFAULT };
    let mut record = said.over(&base, &IssuerRecord { access_tokens: secrets, ..stored.clone() }, judge)?;
    keep_seals(&mut record, stored, judge);
    Ok(record)
}

/// What was sealed anew and says the same stays as it was, so that it shows that nothing changed.
fn keep_seals(record: &mut IssuerRecord, stored: &IssuerRecord, judge: &Judge<'_>) {
    let id = &stored.id;
    if let (Some(logout), Some(old)) = (&mut record.provider_logout, &stored.provider_logout) {
        judge.keep_seal(&Sealed::provider_logout(id), &mut Arc::make_mut(logout).sealed, old.sealed.as_ref());
    }
    if let (Some(new), Some(old)) = (&mut record.access_tokens.introspect_upstream, &stored.access_tokens.introspect_upstream) {
        judge.keep_seal(&Sealed::introspection(id), &mut new.endpoint.sealed, old.endpoint.sealed.as_ref());
    }
    if let (Some(new), Some(old)) = (&mut record.revocation, &stored.revocation) {
        judge.keep_seal(&Sealed::revocation(id), &mut new.sealed, old.sealed.as_ref());
    }
}

/// The issuer a declaration asks for, as far as it can be known without the database.
pub(super) fn foreseen(body: &NewIssuer, judge: &Judge<'_>, now: Timestamp) -> Result<IssuerRecord, Problem> {
    declared(body.clone(), None, judge, now)
}

/// Brings an issuer to what the configuration declares, in one transaction; nothing is written where nothing is new.
pub(super) async fn declare(app: &AppState, body: &NewIssuer) -> Result<(IssuerRecord, Declared), Problem> {
    let caller = Caller::configuration();
    for _ in 0..ATTEMPTS {
        let stored = app.store.issuer(&body.id.0).await?;
        let record = declared(body.clone(), stored.as_ref(), &Judge::of(app), app.clock.now())?;
        let Some(stored) = stored else {
            let keys = make(app, &record.id, record.signing_algs.clone()).await?;
            let audit = entry(Act::IssuerCreated, &caller, Some(&record.id), &detail(&record, &keys))?;
            match app.store.create_issuer(&record, &keys, audit).await? {
                // Another replica may have been first.
                Change::Conflict if app.store.issuer(&record.id).await?.is_some() => continue,
                change @ (Change::Created | Change::Replaced | Change::Stale | Change::Absent | Change::InUse | Change::Conflict) => {
                    return done(change, Code::UnknownIssuer, taken).map(|_| (record, Declared::Anew));
                }
            }
        };
        if stored == (IssuerRecord { updated_at: stored.updated_at, ..record.clone() }) {
            return Ok((stored, Declared::Before));
        }
        let keys = make(app, &record.id, missing(&app.store.keys(&record.id).await?, &record.signing_algs)).await?;
        let audit = entry(Act::IssuerChanged, &caller, Some(&record.id), &detail(&record, &keys))?;
        match app.store.change_issuer(&record, &keys, audit).await? {
            Change::Stale => {}
            change @ (Change::Created | Change::Replaced | Change::Absent | Change::InUse | Change::Conflict) => {
                return done(change, Code::UnknownIssuer, immutable).map(|_| (record, Declared::Anew));
            }
        }
    }
    Err(Problem::of(Code::VersionMismatch))
}

/// What a request says about an issuer.
struct Terms {
    issuer: Option<Issuer>,
    signing_algs: Option<Vec<text::SigningAlg>>,
    session_max_age: Option<u64>,
    expiry: Option<text::Expiry>,
    source: SourceTerms,
    upstream: Option<UpstreamTerms>,
    allow_networks: Option<Vec<text::IpNetwork>>,
    ca_pem: Said<String>,
}

/// What a request says about where the provider is.
struct SourceTerms {
    discovery: Option<bool>,
    jwks_uri: Said<String>,
    published_at: Option<text::PublishedAt>,
}

impl SourceTerms {
    fn apply(&self, before: &ProviderSource, network: &Network, judge: &Judge<'_>) -> Result<ProviderSource, Problem> {
        let jwks_uri = match &self.jwks_uri {
            Said::Nothing => before.jwks_uri.clone(),
            Said::Null => None,
            Said::Value(text) => Some(parse_url(text).map_err(|bad| Problem::invalid("/provider_jwks_uri", bad.to_string()))?),
        };
        if let Some(uri) = &jwks_uri {
            judge.egress.check(uri, network).map_err(|bad| Problem::invalid("/provider_jwks_uri", bad.to_string()))?;
        }
        let discovery = self.discovery.unwrap_or(before.discovery);
        let found = ProviderSource { discovery, jwks_uri, published_at: before.published_at };
        // Relying parties ask the provider for keys, unless somebody says that they were led elsewhere: a token that they cannot check is worse than
        // one that is not sent and says why.
        let unsaid = if found.is_known() && !before.is_known() { PublishedAt::Provider } else { before.published_at };
        let source = ProviderSource { published_at: self.published_at.map_or(unsaid, |text| text.0), ..found };
        if source.published_at == PublishedAt::Provider && !source.is_known() {
            let why = "must be here unless the provider's keys can be fetched: set discovery or provider_jwks_uri";
            return Err(Problem::invalid("/published_at", why));
        }
        Ok(source)
    }
}

impl Terms {
    /// The issuer as it shall be: what was said over what was there.
    fn apply(&self, before: &IssuerRecord, judge: &Judge<'_>) -> Result<IssuerRecord, Problem> {
        let issuer = self.issuer.as_ref().unwrap_or(&before.issuer).clone();
        secure(&issuer, judge.mode)?;
        let allow = self.allow_networks.as_ref().map(|networks| networks.iter().map(|text| text.0).collect());
        let network = Network {
            allow: allow.unwrap_or_else(|| before.network.allow.clone()),
            ca_pem: match &self.ca_pem {
                Said::Nothing => before.network.ca_pem.clone(),
                Said::Null => None,
                Said::Value(pem) => Some(pem.clone()),
            },
        };
        judge.egress.check_network(&network).map_err(|bad| bad_network("", bad))?;
        let signing_algs = self.algorithms(&before.signing_algs)?;
        let (session_max_age, expiry) = (self.max_age(before.session_max_age)?, self.expiry.map_or(before.expiry, |text| text.0));
        let source = self.source.apply(&before.source, &network, judge)?;
        let upstream = self.upstream.as_ref().map_or_else(|| Ok(before.upstream.clone()), |terms| terms.apply(&before.upstream))?;
        Ok(IssuerRecord { issuer, signing_algs, session_max_age, expiry, network, source, upstream, ..before.clone() })
    }

    fn max_age(&self, before: Duration) -> Result<Duration, Problem> {
        match self.session_max_age {
            None => Ok(before),
            Some(seconds) if SESSION_MAX_AGE_S.contains(&seconds) => Ok(Duration::from_secs(seconds)),
            Some(_) => {
                let (least, most) = (SESSION_MAX_AGE_S.start(), SESSION_MAX_AGE_S.end());
                Err(Problem::invalid("/session_max_age", format!("must be from {least} to {most}")))
            }
        }
    }

    /// Published keys stay published, so the list of algorithms only grows.
    fn algorithms(&self, before: &[SigningAlg]) -> Result<Vec<SigningAlg>, Problem> {
        let Some(wanted) = &self.signing_algs else { return Ok(before.to_vec()) };
        let wanted: BTreeSet<SigningAlg> = wanted.iter().map(|text| text.0).collect();
        match before.iter().find(|alg| !wanted.contains(alg)) {
            Some(alg) => Err(Problem::invalid("/signing_algs", format!("must keep {alg}, which has a published key"))),
            None if wanted.is_empty() => Err(Problem::invalid("/signing_algs", "must not be empty")),
            None => Ok(wanted.into_iter().collect()),
        }
    }
}

/// OpenID Connect Core 2: an issuer is an https URL. Only a developer's machine may do without.
fn secure(issuer: &Issuer, mode: Mode) -> Result<(), Problem> {
    let https = issuer.as_str().get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"));
    match mode {
        Mode::Development => Ok(()),
        Mode::Production if https => Ok(()),
        Mode::Production => Err(Problem::invalid("/issuer", "must be an https URL")),
    }
}

/// An issuer of which nothing was said yet.
fn blank(id: IssuerId, issuer: Issuer, now: Timestamp) -> IssuerRecord {
    IssuerRecord {
        id,
        issuer,
        signing_algs: Vec::new(),
        session_max_age: SESSION_MAX_AGE_DEFAULT,
        expiry: Expiry::Absolute,
        network: Network::default(),
        source: ProviderSource::NONE,
        upstream: Upstream::DEFAULT,
        provider_logout: None,
        access_tokens: AccessTokens::DEFAULT,
        revocation: None,
        subject_secrets: None,
        managed_by: ManagedBy::Api,
        created_at: now,
        updated_at: now,
        version: 1,
    }
}

/// What the audit trail keeps.
fn detail(record: &IssuerRecord, keys: &[KeyRecord]) -> Value {
    let algs: Vec<_> = record.signing_algs.iter().map(|alg| alg.as_str()).collect();
    let age = record.session_max_age.as_secs();
    let IssuerRecord { source, upstream, .. } = record;
    let upstream = json!({ "mode": upstream.mode.as_str(), "client_id": upstream.client_id.as_ref().map(ClientId::as_str), "signing_alg": upstream.alg.as_str(), "relay_token": upstream.relay_token.as_str(), "require_exp": upstream.require_exp });
    let source = json!({ "discovery": source.discovery, "jwks_uri": source.jwks_uri.as_ref().map(url::Url::as_str), "published_at": source.published_at.as_str() });
    json!({ "issuer": record.issuer.as_str(), "signing_algs": algs, "session_max_age": age, "expiry": record.expiry.as_str(), "network": told(&record.network), "source": source, "upstream": upstream, "provider_logout": record.provider_logout.as_deref().map(provider_logout::told), "declared": record.managed_by == ManagedBy::Configuration, "tokens": token_terms::told(record), "new_keys": names(keys) })
}

/// The issuer as it is stored now, and its version.
async fn stored(app: &AppState, id: &IssuerId, ignored: Vec<String>) -> Result<(IssuerView, i64), Problem> {
    let record = app.store.issuer(id).await?.ok_or_else(|| Problem::of(Code::UnknownIssuer))?;
    let version = record.version;
    Ok((IssuerView { ignored: Some(ignored), ..view(record) }, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Egress, EgressConfig};
    use crate::model::client::DeliverySettings;
    use crate::seams::Entropy;
    use crate::token::SealingKey;

    fn said() -> Terms {
        let source = SourceTerms { discovery: None, jwks_uri: Said::Nothing, published_at: None };
        let (issuer, signing_algs, session_max_age, expiry) = (None, None, None, None);
        Terms { issuer, signing_algs, session_max_age, expiry, source, upstream: None, allow_networks: None, ca_pem: Said::Nothing }
    }

    fn main() -> IssuerRecord {
        let mut record = blank(IssuerId::parse("main").unwrap(), Issuer::parse("https://op.example").unwrap(), Timestamp::from_seconds(1));
        record.signing_algs = vec![SigningAlg::Rs256];
        record
    }

    fn applied(terms: &Terms, mode: Mode) -> Result<IssuerRecord, Vec<String>> {
        let egress = Egress::new(EgressConfig { mode, ceiling: vec!["10.0.0.0/8".parse().unwrap()], ..EgressConfig::default() }).unwrap();
        let at_fault = |problem: Problem| problem.errors().iter().filter_map(|error| error.pointer.clone()).collect();
        let (sealing, entropy) = (SealingKey::generate(&Entropy::seeded(1)), Entropy::seeded(2));
        let settings = (&DeliverySettings::DEFAULT, Duration::from_secs(20));
        let judge = Judge { egress: &egress, mode, sealing: &sealing, entropy: &entropy, defaults: settings.0, timeout_max: settings.1 };
        terms.apply(&main(), &judge).map_err(at_fault)
    }

    fn refused(terms: &Terms) -> Vec<String> {
        applied(terms, Mode::Production).expect_err("it must be refused")
    }

    #[test]
    fn what_is_left_out_stays() {
        assert_eq!(applied(&said(), Mode::Production).unwrap(), main());
        let changed = applied(&Terms { session_max_age: Some(3600), ..said() }, Mode::Production).unwrap();
        assert_eq!(changed, IssuerRecord { session_max_age: Duration::from_hours(1), ..main() });
    }

    #[test]
    fn an_issuer_without_tls_is_for_development_alone() {
        let plain = Terms { issuer: Some(Issuer::parse("http://localhost:3000").unwrap()), ..said() };
        assert_eq!(refused(&plain), ["/issuer"]);
        assert!(applied(&plain, Mode::Development).is_ok());
    }

    #[test]
    fn each_bound_is_kept_and_names_its_member() {
        let network = |net: &str| Some(vec![net.parse::<ipnet::IpNet>().unwrap().into()]);
        assert_eq!(refused(&Terms { session_max_age: Some(59), ..said() }), ["/session_max_age"]);
        assert_eq!(refused(&Terms { session_max_age: Some(u64::MAX), ..said() }), ["/session_max_age"]);
        assert_eq!(refused(&Terms { allow_networks: network("192.168.0.0/16"), ..said() }), ["/allow_networks"]);
        assert!(applied(&Terms { allow_networks: network("10.1.0.0/16"), ..said() }, Mode::Production).is_ok());
        assert_eq!(refused(&Terms { ca_pem: Said::Value("hello".into()), ..said() }), ["/ca_pem"]);
    }

    #[test]
    fn relying_parties_are_taken_to_ask_a_provider_whose_keys_can_be_had_unless_somebody_says_otherwise() {
        let published_at = |terms: &Terms| applied(terms, Mode::Production).unwrap().source.published_at;
        let source = |discovery, published_at: Option<PublishedAt>| Terms {
            source: SourceTerms { discovery, jwks_uri: Said::Nothing, published_at: published_at.map(Into::into) },
            ..said()
        };
        assert_eq!(published_at(&source(None, None)), PublishedAt::Here);
        assert_eq!(published_at(&source(Some(true), None)), PublishedAt::Provider);
        assert_eq!(published_at(&source(Some(true), Some(PublishedAt::Here))), PublishedAt::Here);
        assert_eq!(refused(&source(None, Some(PublishedAt::Provider))), ["/published_at"]);
    }

    #[test]
    fn algorithms_are_added_and_never_taken_away() {
        let algs = |algs: &[SigningAlg]| Terms { signing_algs: Some(algs.iter().map(|alg| (*alg).into()).collect()), ..said() };
        assert_eq!(refused(&algs(&[SigningAlg::Es256])), ["/signing_algs"]);
        assert_eq!(refused(&algs(&[])), ["/signing_algs"]);
        let both = applied(&algs(&[SigningAlg::Es256, SigningAlg::Rs256, SigningAlg::Rs256]), Mode::Production).unwrap();
        assert_eq!(both.signing_algs, [SigningAlg::Rs256, SigningAlg::Es256]);
    }

    #[test]
    fn the_audit_trail_keeps_names_of_keys_and_nothing_of_certificates() {
        let mut record = main();
        record.network.ca_pem = Some("-----BEGIN CERTIFICATE-----".into());
        let told = detail(&record, &[]).to_string();
        assert!(told.contains("\"own_ca\":true") && !told.contains("BEGIN"), "{told}");
    }
}
