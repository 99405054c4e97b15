//! Clients: relying parties by the names of OpenID registration, and how each wants to be told.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::keys::{make, missing, names};
use super::lanes::LaneShape;
use super::private::{self, Hosts, Strongbox, TlsMetadata, TlsMetadataView};
use super::token_policy::{TokenTerms, TokenTermsView};
use super::token_terms::check_secret;
use super::{Declared, Done, Judge, bad_network, declared_elsewhere, done, editable, entry, told};
use crate::egress::{effective, parse_url};
use crate::http::needs::{Administer, ReadRegistry};
use crate::http::problem::ProblemDocument;
use crate::http::reply::segment;
use crate::http::wire::{Said, text};
use crate::http::{AppState, At, Code, FieldError, List, Path, Problem, Query, Registration, Reply, Routes, Seat, if_match, page};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::client::{ClientRecord, DeliverySettings, Network, PreviousSecret};
use crate::model::delivery::Lane;
use crate::model::issuer::{IssuerRecord, ManagedBy};
use crate::model::key::{KeyRecord, SigningAlg};
use crate::model::page::Listed;
use crate::model::shown::is_unfit_for_names;
use crate::model::{ClientId, Digest, IssuerId, Timestamp};
use crate::store::{Change, Pending};
use crate::token::{JwkSet, Sealed, secret_digest};

/// The routes of clients.
pub fn routes() -> Routes {
    Routes::new().add(routes!(register, list)).add(routes!(put, show, delete))
}

/// The longest `client_name`, in characters.
const NAME_CHARS_MAX: usize = 255;
/// The longest `client_secret`, in octets.
pub(super) const SECRET_BYTES_MAX: usize = 1024;
/// The shortest time-out, in milliseconds; the longest is the deployment's.
pub(super) const TIMEOUT_MS_MIN: u64 = 100;
/// How many attempts one client may allow at once.
pub(super) const IN_FLIGHT: RangeInclusive<u16> = 1..=1024;
/// How many attempts may begin in a second.
pub(super) const RATE_PER_S: RangeInclusive<u16> = 1..=10_000;
/// How long deliveries may be tried, in seconds: a minute to 30 days.
pub(super) const HORIZON_S: RangeInclusive<u64> = 60..=30 * 24 * 3600;
/// For how long a secret that was replaced may be good too, in seconds: 30 days.
pub(super) const OVERLAP_S: RangeInclusive<u64> = 0..=30 * 24 * 3600;
/// How often a 400 may be asked again.
const CONFIRM_REJECTIONS: RangeInclusive<u8> = 0..=2;
/// What can be called passing trouble.
pub(super) const RETRY_STATUSES: RangeInclusive<u16> = 300..=599;
/// How many statuses can be.
pub(super) const RETRY_STATUSES_MAX: usize = 20;
/// How often a registration is tried again that others keep overtaking.
const ATTEMPTS: usize = 3;

/// The registered values of `token_endpoint_auth_method` (RFC 7591 2, Core 9, RFC 8705 2).
const AUTH_METHODS: [&str; 7] = [
    "none",
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "private_key_jwt",
    "tls_client_auth",
    "self_signed_tls_client_auth",
];

/// A client's metadata. What is left out gets its default, also when the client was registered before; `client_secret` and
/// `delivery.headers` stay.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ClientMetadata {
    /// Its name at its issuer; in a PUT the path says it too.
    client_id: Option<text::ClientId>,
    /// Its name for people.
    client_name: Option<String>,
    /// Where it is told (BCL 2.2): https, no fragment, not at a private address. Without one it cannot be told.
    #[schema(example = "https://wiki.example/backchannel-logout")]
    backchannel_logout_uri: Option<String>,
    /// Its logout tokens must carry a `sid` (BCL 2.2).
    backchannel_logout_session_required: Option<bool>,
    /// What its logout tokens are signed with; RS256 unless said.
    id_token_signed_response_alg: Option<text::SigningAlg>,
    /// Refused: its logout tokens would have to be encrypted.
    #[schema(value_type = Option<String>)]
    id_token_encrypted_response_alg: Option<Value>,
    /// Refused, as `id_token_encrypted_response_alg`.
    #[schema(value_type = Option<String>)]
    id_token_encrypted_response_enc: Option<Value>,
    /// Its secret, kept as a keyed digest and never shown; left out it stays, null removes it.
    #[serde(default)]
    #[schema(value_type = Option<String>, write_only)]
    client_secret: Said<String>,
    /// For how long the secret that a new `client_secret` replaces is good too, in seconds, 30 days at most; not at all unless said. 0 without a new
    /// secret ends what was agreed before.
    #[schema(maximum = 2_592_000)]
    client_secret_overlap_s: Option<u64>,
    /// How it authenticates.
    #[schema(example = "client_secret_basic")]
    token_endpoint_auth_method: Option<String>,
    /// Its public keys; not together with `jwks_uri`.
    #[schema(value_type = Option<Object>)]
    jwks: Option<Value>,
    /// Where its public keys are; not together with `jwks`.
    jwks_uri: Option<String>,
    /// What it signs its assertions with (`private_key_jwt`); left out, whatever its keys are for.
    token_endpoint_auth_signing_alg: Option<text::SigningAlg>,
    /// What signed answers to its introspections are signed with (RFC 9701 6); RS256 unless said.
    introspection_signed_response_alg: Option<text::SigningAlg>,
    /// Refused: answers to its introspections would have to be encrypted.
    #[schema(value_type = Option<String>)]
    introspection_encrypted_response_alg: Option<Value>,
    /// How it wants to be told.
    delivery: Option<DeliveryMetadata>,
    /// What its tokens are subject to.
    tokens: Option<TokenTerms>,
}

/// What a registration says that says nothing about it.
static EMPTY: DeliveryMetadata = DeliveryMetadata {
    claims: None,
    typ: None,
    timeout_ms: None,
    max_in_flight: None,
    rate_per_s: None,
    horizon_s: None,
    confirm_rejections: None,
    retry_statuses: None,
    on_expiry: None,
    allow_networks: None,
    ca_pem: None,
    tls: None,
    headers: Said::Nothing,
};

/// How a client wants to be told. What is left out gets the deployment's default.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct DeliveryMetadata {
    /// Which of `sub` and `sid` its tokens carry.
    claims: Option<text::Claims>,
    /// The `typ` header of its tokens.
    typ: Option<text::TokenTyp>,
    /// The limit of one attempt.
    #[schema(minimum = 100)]
    timeout_ms: Option<u64>,
    /// How many attempts may run at once.
    #[schema(minimum = 1, maximum = 1024)]
    max_in_flight: Option<u16>,
    /// How many attempts may begin in a second; null sets no limit.
    #[schema(minimum = 1, maximum = 10_000)]
    rate_per_s: Option<u16>,
    /// How long a delivery is tried.
    #[schema(minimum = 60, maximum = 2_592_000)]
    horizon_s: Option<u64>,
    /// How often a 400 is asked again before it is believed.
    #[schema(maximum = 2)]
    confirm_rejections: Option<u8>,
    /// Statuses this client answers for passing troubles, 300 to 599.
    #[schema(max_items = 20)]
    retry_statuses: Option<Vec<u16>>,
    /// Whether it is told of sessions that end by their age.
    on_expiry: Option<text::OnExpiry>,
    /// Networks it may be at although they are not public; only inside what the deployment allows.
    allow_networks: Option<Vec<text::IpNetwork>>,
    /// Certificate authorities trusted beside the system's, in PEM.
    ca_pem: Option<String>,
    /// How connections to it are made.
    tls: Option<TlsMetadata>,
    /// Headers its requests carry beside ours, at most 16 and 4 KiB together. They are never shown; left out they stay, null removes them.
    #[serde(default)]
    #[schema(value_type = Option<Object>, write_only)]
    headers: Said<BTreeMap<String, String>>,
}

/// A client as it is registered, defaults included.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClientView {
    /// Its name at its issuer.
    client_id: text::ClientId,
    /// Its name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_name: Option<String>,
    /// Where it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    backchannel_logout_uri: Option<String>,
    /// Its logout tokens must carry a `sid`.
    backchannel_logout_session_required: bool,
    /// What its logout tokens are signed with.
    id_token_signed_response_alg: text::SigningAlg,
    /// Whether it has a secret.
    client_secret_registered: bool,
    /// Until when the secret before is good too, or was.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret_previous_until: Option<text::Timestamp>,
    /// How it authenticates.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_endpoint_auth_method: Option<String>,
    /// Its public keys, as far as they are usable here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    jwks: Option<Value>,
    /// Where its public keys are.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwks_uri: Option<String>,
    /// What it signs its assertions with.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_endpoint_auth_signing_alg: Option<text::SigningAlg>,
    /// What signed answers to its introspections are signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    introspection_signed_response_alg: Option<text::SigningAlg>,
    /// How it is told.
    delivery: DeliveryMetadataView,
    /// What its tokens are subject to.
    tokens: TokenTermsView,
    /// Whether the configuration declares it: then nothing of this is changed, or deleted, by the API.
    declared: bool,
    /// Since when its tokens are inactive and no new ones are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    suspended_at: Option<text::Timestamp>,
    /// How its lane stands. Absent in the answer to a registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<LaneShape>,
    /// When it was registered.
    created_at: text::Timestamp,
    /// When it last changed.
    updated_at: text::Timestamp,
    /// Members of the request that are unknown here and were ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<Vec<String>>,
}

/// How a client is told.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryMetadataView {
    /// Which of `sub` and `sid` its tokens carry.
    claims: text::Claims,
    /// The `typ` header of its tokens.
    typ: text::TokenTyp,
    /// The limit of one attempt.
    timeout_ms: u64,
    /// How many attempts may run at once.
    max_in_flight: u16,
    /// How many attempts may begin in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_s: Option<u16>,
    /// How long a delivery is tried.
    horizon_s: u64,
    /// How often a 400 is asked again before it is believed.
    confirm_rejections: u8,
    /// Statuses this client answers for passing troubles.
    retry_statuses: Vec<u16>,
    /// Whether it is told of sessions that end by their age.
    on_expiry: text::OnExpiry,
    /// Its exceptions from the address rule.
    allow_networks: Vec<text::IpNetwork>,
    /// Certificate authorities trusted beside the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_pem: Option<String>,
    /// How connections to it are made.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsMetadataView>,
    /// The names of the headers its requests carry beside ours.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    header_names: Vec<String>,
}

fn view(record: ClientRecord) -> ClientView {
    ClientView {
        client_id: record.client_id.into(),
        client_name: record.client_name,
        backchannel_logout_uri: record.backchannel_logout_uri.map(Into::into),
        backchannel_logout_session_required: record.session_required,
        id_token_signed_response_alg: record.alg.into(),
        client_secret_registered: record.secret_digest.is_some(),
        client_secret_previous_until: record.secret_previous.map(|previous| previous.until.into()),
        token_endpoint_auth_method: record.auth_method,
        jwks: record.jwks.and_then(|jwks| serde_json::from_str(&jwks).ok()),
        jwks_uri: record.jwks_uri.map(Into::into),
        token_endpoint_auth_signing_alg: record.auth_signing_alg.map(Into::into),
        introspection_signed_response_alg: record.introspection_alg.map(Into::into),
        delivery: delivery_view(record.delivery),
        tokens: record.tokens.into(),
        declared: record.managed_by == ManagedBy::Configuration,
        suspended_at: record.suspended_at.map(Into::into),
        lane: None,
        created_at: record.created_at.into(),
        updated_at: record.updated_at.into(),
        ignored: None,
    }
}

fn delivery_view(delivery: DeliverySettings) -> DeliveryMetadataView {
    DeliveryMetadataView {
        claims: delivery.claims.into(),
        typ: delivery.typ.into(),
        timeout_ms: u64::try_from(delivery.timeout.as_millis()).unwrap_or(u64::MAX),
        max_in_flight: delivery.max_in_flight,
        rate_per_s: delivery.rate_per_s,
        horizon_s: delivery.horizon.as_secs(),
        confirm_rejections: delivery.confirm_rejections,
        retry_statuses: delivery.retry_statuses,
        on_expiry: delivery.on_expiry.into(),
        allow_networks: delivery.network.allow.into_iter().map(Into::into).collect(),
        ca_pem: delivery.network.ca_pem,
        tls: TlsMetadataView::of(delivery.certificate, delivery.server_name),
        header_names: delivery.headers.map_or_else(Vec::new, |headers| headers.names),
    }
}

/// Registers a client under the `client_id` of the body.
#[utoipa::path(
    post,
    path = "/v1/issuers/{iss}/clients",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = ClientMetadata,
    responses(
        (status = 201, description = "Registered", body = ClientView, headers(("ETag" = String), ("Location" = String))),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "already-exists", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn register(
    State(app): State<AppState>,
    At(seat, _): At<Administer>,
    Registration { body, ignored }: Registration<ClientMetadata>,
) -> Result<Reply<ClientView>, Problem> {
    let client_id = body.client_id.as_ref().map(|text| text.0.clone()).ok_or_else(|| Problem::invalid("/client_id", "is missing"))?;
    if app.store.client(&seat.issuer.id, &client_id).await?.is_some() {
        return Err(Problem::of(Code::AlreadyExists).at(FieldError::pointer("/client_id", "must be new")));
    }
    write(&app, &seat, &client_id, &body, None).await?;
    let (view, version) = stored(&app, &seat.issuer.id, &client_id, ignored).await?;
    Ok(Reply::created(view).version(version).location(&path(&seat.issuer.id, &client_id)))
}

/// Registers a client, or replaces its registration: what is left out gets its default. Only what is never shown stays: `client_secret`,
/// `delivery.headers`, and the key of a certificate that is said again.
#[utoipa::path(
    put,
    path = "/v1/issuers/{iss}/clients/{client_id}",
    tag = "registration",
    security(("bearer" = [])),
    params(
        ("iss" = String, Path, description = "The issuer's short id"),
        ("client_id" = String, Path, description = "The client"),
        ("If-Match" = Option<String>, Header, description = "The ETag the change is meant for"),
    ),
    request_body = ClientMetadata,
    responses(
        (status = 200, description = "Replaced", body = ClientView, headers(("ETag" = String))),
        (status = 201, description = "Registered", body = ClientView, headers(("ETag" = String), ("Location" = String))),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "declared", content_type = "application/problem+json", body = ProblemDocument),
        (status = 412, description = "version-mismatch", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn put(
    State(app): State<AppState>,
    At(seat, _): At<Administer>,
    Path((_, client_id)): Path<(String, String)>,
    headers: HeaderMap,
    Registration { body, ignored }: Registration<ClientMetadata>,
) -> Result<Reply<ClientView>, Problem> {
    let client_id = ClientId::parse(client_id).map_err(|malformed| Problem::invalid("/client_id", malformed))?;
    if body.client_id.as_ref().is_some_and(|text| text.0 != client_id) {
        return Err(Problem::invalid("/client_id", "must be the one of the path"));
    }
    let done = write(&app, &seat, &client_id, &body, if_match(&headers)?).await?;
    let (view, version) = stored(&app, &seat.issuer.id, &client_id, ignored).await?;
    Ok(match done {
        Done::Created => Reply::created(view).version(version).location(&path(&seat.issuer.id, &client_id)),
        Done::Replaced => Reply::ok(view).version(version),
    })
}

/// Writes a registration over the version it was made from, since an omitted secret is carried along from there.
async fn write(app: &AppState, seat: &Seat, client_id: &ClientId, body: &ClientMetadata, asked: Option<i64>) -> Result<Done, Problem> {
    let desk = Desk::of(&seat.issuer, Judge::of(app), Expired::Refused);
    for _ in 0..ATTEMPTS {
        let before = app.store.client(&seat.issuer.id, client_id).await?;
        before.as_ref().map_or(Ok(()), |before| editable(before.managed_by))?;
        let record = desk.registered(client_id, body, before.as_ref(), app.clock.now())?;
        let keys = new_keys(app, &record).await?;
        let audit = entry(Act::ClientPut, &seat.caller, Some(&seat.issuer.id), &detail(&record, &keys))?;
        let expected = asked.or(before.map(|before| before.version));
        match (app.store.put_client(&record, expected, &keys, audit).await?, asked) {
            (Change::Stale, None) => {}
            (change, _) => return done(change, Code::UnknownIssuer, || Problem::of(Code::Conflict)),
        }
    }
    Err(Problem::of(Code::VersionMismatch))
}

/// The keys its tokens are to be signed with and that do not exist yet.
async fn new_keys(app: &AppState, record: &ClientRecord) -> Result<Vec<KeyRecord>, Problem> {
    let algs: Vec<_> = [record.alg].into_iter().chain(record.introspection_alg.filter(|alg| *alg != record.alg)).collect();
    make(app, &record.issuer, missing(&app.store.keys(&record.issuer).await?, &algs)).await
}

/// The client a declaration asks for, as far as it can be known without the database.
pub(super) fn foreseen(issuer: &IssuerRecord, body: &ClientMetadata, judge: Judge<'_>, now: Timestamp) -> Result<ClientRecord, Problem> {
    Desk::of(issuer, judge, Expired::Taken).registered(declared_id(body)?, body, None, now)
}

fn declared_id(body: &ClientMetadata) -> Result<&ClientId, Problem> {
    body.client_id.as_ref().map(|text| &text.0).ok_or_else(|| Problem::invalid("/client_id", "is missing"))
}

/// Brings a client to what the configuration declares, in one transaction; nothing is written where nothing is new.
pub(super) async fn declare(app: &AppState, issuer: &IssuerRecord, body: &ClientMetadata) -> Result<(ClientId, Declared), Problem> {
    let (client_id, judge) = (declared_id(body)?, Judge::of(app));
    let desk = Desk::of(issuer, judge, Expired::Taken);
    for _ in 0..ATTEMPTS {
        let stored = app.store.client(&issuer.id, client_id).await?;
        let record = desk.registered(client_id, body, stored.as_ref(), app.clock.now())?;
        let mut record = ClientRecord { managed_by: ManagedBy::Configuration, ..record };
        if let Some(stored) = &stored {
            desk.keep_seals(&mut record, stored);
            if *stored == (ClientRecord { updated_at: stored.updated_at, ..record.clone() }) {
                return Ok((record.client_id, Declared::Before));
            }
        }
        let keys = new_keys(app, &record).await?;
        let audit = entry(Act::ClientPut, &Caller::configuration(), Some(&issuer.id), &detail(&record, &keys))?;
        match app.store.put_client(&record, stored.map(|stored| stored.version), &keys, audit).await? {
            Change::Stale => {}
            change @ (Change::Created | Change::Replaced | Change::Absent | Change::InUse | Change::Conflict) => {
                return done(change, Code::UnknownIssuer, || Problem::of(Code::Conflict)).map(|_| (record.client_id, Declared::Anew));
            }
        }
    }
    Err(Problem::of(Code::VersionMismatch))
}

/// The client as it is stored now, and its version.
async fn stored(app: &AppState, issuer: &IssuerId, id: &ClientId, ignored: Vec<String>) -> Result<(ClientView, i64), Problem> {
    let record = app.store.client(issuer, id).await?.ok_or_else(|| Problem::of(Code::UnknownClient))?;
    let version = record.version;
    Ok((ClientView { ignored: Some(ignored), ..view(record) }, version))
}

fn path(issuer: &IssuerId, id: &ClientId) -> String {
    format!("/v1/issuers/{issuer}/clients/{}", segment(id.as_str()))
}

/// What the audit trail keeps: neither secrets nor keys of the client.
fn detail(record: &ClientRecord, keys: &[KeyRecord]) -> Value {
    json!({
        "client_id": record.client_id.as_str(),
        "backchannel_logout_uri": record.backchannel_logout_uri.as_ref().map(Url::as_str),
        "id_token_signed_response_alg": record.alg.as_str(),
        "client_secret_registered": record.secret_digest.is_some(),
        "client_secret_previous_until": record.secret_previous.map(|previous| previous.until.to_string()),
        "network": told(&record.delivery.network),
        "tls": private::told(&record.delivery),
        "new_keys": names(keys),
    })
}

/// One client.
#[utoipa::path(
    get,
    path = "/v1/issuers/{iss}/clients/{client_id}",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("client_id" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "The client", body = ClientView, headers(("ETag" = String))),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer, unknown-client", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn show(
    State(app): State<AppState>,
    At(seat, _): At<ReadRegistry>,
    Path((_, client_id)): Path<(String, String)>,
) -> Result<Reply<ClientView>, Problem> {
    let unknown = || Problem::of(Code::UnknownClient);
    let client_id = ClientId::parse(client_id).map_err(|_| unknown())?;
    let record = app.store.client(&seat.issuer.id, &client_id).await?.ok_or_else(unknown)?;
    let version = record.version;
    let mut views = with_lanes(&app, vec![record]).await?;
    Ok(Reply::ok(views.pop().ok_or_else(unknown)?).version(version))
}

/// Clients as they are shown, each with its lane.
async fn with_lanes(app: &AppState, records: Vec<ClientRecord>) -> Result<Vec<ClientView>, Problem> {
    let lanes: Vec<Lane> = records.iter().map(|record| Lane::of(&record.issuer, &record.client_id)).collect();
    let lanes = app.store.lanes(&lanes, app.store.now().await?).await?;
    Ok(records.into_iter().zip(lanes).map(|(record, lane)| ClientView { lane: Some(lane.into()), ..view(record) }).collect())
}

/// Which clients.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ClientsQuery {
    /// `oldest`: the one that has waited longest to be told something first, those nothing waits for last. Left out, newest registration first.
    #[param(inline)]
    order: Option<Order>,
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// In which order.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// By the oldest pending delivery.
    Oldest,
}

/// The clients of an issuer, newest first, each with its lane. By the oldest pending delivery the order moves while things are delivered: a client may
/// then be on two pages, or on none.
#[utoipa::path(
    get,
    path = "/v1/issuers/{iss}/clients",
    tag = "registration",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ClientsQuery),
    responses(
        (status = 200, description = "One page", body = List<ClientView>),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn list(
    State(app): State<AppState>,
    At(seat, _): At<ReadRegistry>,
    Query(query): Query<ClientsQuery>,
) -> Result<Reply<List<ClientView>>, Problem> {
    let page = page(query.limit, query.after);
    let Listed { items, next } = match query.order {
        Some(Order::Oldest) => app.store.clients_by_oldest(&seat.issuer.id, page).await?,
        None => app.store.clients(&seat.issuer.id, page).await?,
    };
    let items = with_lanes(&app, items).await?;
    Ok(Reply::ok(List::of(Listed { items, next }, |view| view)))
}

/// What becomes of what is pending.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// `cancel`: pending deliveries are not made. Left out, they go on with the last URI.
    #[param(inline)]
    deliveries: Option<Deliveries>,
}

/// What becomes of pending deliveries.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deliveries {
    /// They are not made.
    Cancel,
}

/// Deletes a client: its grants are revoked at once, pending deliveries go on unless cancelled.
#[utoipa::path(
    delete,
    path = "/v1/issuers/{iss}/clients/{client_id}",
    tag = "registration",
    security(("bearer" = [])),
    params(
        ("iss" = String, Path, description = "The issuer's short id"),
        ("client_id" = String, Path, description = "The client"),
        DeleteQuery,
        ("If-Match" = Option<String>, Header, description = "The ETag the deletion is meant for"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
        (status = 404, description = "unknown-issuer, unknown-client", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "declared", content_type = "application/problem+json", body = ProblemDocument),
        (status = 412, description = "version-mismatch", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn delete(
    State(app): State<AppState>,
    At(seat, _): At<Administer>,
    Path((_, client_id)): Path<(String, String)>,
    Query(query): Query<DeleteQuery>,
    headers: HeaderMap,
) -> Result<Reply<()>, Problem> {
    let client_id = ClientId::parse(client_id).map_err(|_| Problem::of(Code::UnknownClient))?;
    let (pending, word) = match query.deliveries {
        Some(Deliveries::Cancel) => (Pending::Cancel, "cancel"),
        None => (Pending::Deliver, "deliver"),
    };
    let detail = json!({ "client_id": client_id.as_str(), "deliveries": word });
    let audit = entry(Act::ClientDeleted, &seat.caller, Some(&seat.issuer.id), &detail)?;
    let change = app.store.delete_client(&seat.issuer.id, &client_id, if_match(&headers)?, pending, audit).await?;
    done(change, Code::UnknownClient, declared_elsewhere)?;
    Ok(Reply::done())
}

/// Whether a certificate may be over.
#[derive(Clone, Copy)]
enum Expired {
    /// Nobody registers one that is.
    Refused,
    /// It was good when it was declared, and time that passes does not keep a server from starting: a chore tells of it.
    Taken,
}

/// What a registration is judged by.
struct Desk<'a> {
    issuer: &'a IssuerRecord,
    judge: Judge<'a>,
    expired: Expired,
}

impl<'a> Desk<'a> {
    const fn of(issuer: &'a IssuerRecord, judge: Judge<'a>, expired: Expired) -> Self {
        Self { issuer, judge, expired }
    }

    /// The client as it shall be.
    fn registered(
        &self,
        client_id: &ClientId,
        body: &ClientMetadata,
        before: Option<&ClientRecord>,
        now: Timestamp,
    ) -> Result<ClientRecord, Problem> {
        refuse_encryption(body)?;
        let said = body.delivery.as_ref().unwrap_or(&EMPTY);
        let mut delivery = self.delivery(said)?;
        let strongbox = self.strongbox(client_id);
        let good_at = match self.expired {
            Expired::Refused => now,
            Expired::Taken => Timestamp::from_seconds(0),
        };
        let kept = before.map(|before| &before.delivery);
        delivery.certificate = strongbox.certificate(said.tls.as_ref(), kept.and_then(|kept| kept.certificate.as_ref()), good_at)?;
        let network = effective(&self.issuer.network, &delivery.network);
        let uri = self.url("/backchannel_logout_uri", body.backchannel_logout_uri.as_deref(), &network)?;
        let hosts = Hosts { before: before.and_then(|before| before.backchannel_logout_uri.as_ref()), now: uri.as_ref() };
        delivery.headers = strongbox.headers(&said.headers, kept.and_then(|kept| kept.headers.as_ref()), hosts)?;
        if let Some((uri, name)) = uri.as_ref().zip(delivery.server_name.as_ref()) {
            self.judge.egress.check_server_name(uri, name).map_err(|no_way| Problem::invalid("/delivery/tls/server_name", no_way))?;
        }
        if body.jwks.is_some() && body.jwks_uri.is_some() {
            return Err(Problem::invalid("/jwks_uri", "must not be said together with jwks"));
        }
        let secrets = self.secrets(client_id, body, before, now)?;
        Ok(ClientRecord {
            issuer: self.issuer.id.clone(),
            client_id: client_id.clone(),
            client_name: body.client_name.as_deref().map(name).transpose()?,
            backchannel_logout_uri: uri,
            session_required: body.backchannel_logout_session_required.unwrap_or(false),
            alg: body.id_token_signed_response_alg.map_or(SigningAlg::Rs256, |text| text.0),
            auth_method: body.token_endpoint_auth_method.as_deref().map(auth_method).transpose()?,
            secret_digest: secrets.current,
            secret_previous: secrets.previous,
            jwks: body.jwks.as_ref().map(jwks).transpose()?,
            jwks_uri: self.url("/jwks_uri", body.jwks_uri.as_deref(), &network)?,
            auth_signing_alg: body.token_endpoint_auth_signing_alg.map(|text| text.0),
            introspection_alg: body.introspection_signed_response_alg.map(|text| text.0),
            delivery,
            tokens: body.tokens.as_ref().unwrap_or(&TokenTerms::EMPTY).policy(&strongbox, before.map(|before| &before.tokens))?,
            managed_by: ManagedBy::Api,
            created_at: before.map_or(now, |before| before.created_at),
            updated_at: now,
            suspended_at: before.and_then(|before| before.suspended_at),
            deleted_at: None,
            version: before.map_or(1, |before| before.version),
        })
    }

    fn strongbox<'b>(&'b self, client_id: &'b ClientId) -> Strongbox<'b> {
        Strongbox { issuer: &self.issuer.id, client_id, sealing: self.judge.sealing, entropy: self.judge.entropy }
    }

    /// What was sealed anew and says the same stays as it was, so that it shows that nothing changed.
    fn keep_seals(&self, record: &mut ClientRecord, stored: &ClientRecord) {
        let (issuer, id) = (&stored.issuer, &stored.client_id);
        self.judge.keep_seal(
            &Sealed::provider_secret(issuer, id),
            &mut record.tokens.provider_secret,
            stored.tokens.provider_secret.as_ref(),
        );
        self.strongbox(id).keep_seals(&mut record.delivery, &stored.delivery);
    }

    fn url(&self, pointer: &str, text: Option<&str>, network: &Network) -> Result<Option<Url>, Problem> {
        let Some(text) = text else { return Ok(None) };
        let url = parse_url(text).map_err(|bad| Problem::invalid(pointer, bad))?;
        self.judge.egress.check(&url, network).map_err(|bad| Problem::invalid(pointer, bad))?;
        Ok(Some(url))
    }

    fn secrets(&self, id: &ClientId, body: &ClientMetadata, before: Option<&ClientRecord>, now: Timestamp) -> Result<Secrets, Problem> {
        let at = "/client_secret_overlap_s";
        let overlap = bounded(at, body.client_secret_overlap_s, &OVERLAP_S)?.map(Duration::from_secs);
        let kept =
            Secrets { current: before.and_then(|before| before.secret_digest), previous: before.and_then(|before| before.secret_previous) };
        match (&body.client_secret, overlap) {
            (Said::Nothing, None) => Ok(kept),
            (Said::Nothing, Some(Duration::ZERO)) => Ok(Secrets { previous: None, ..kept }),
            (Said::Nothing, Some(_)) => Err(Problem::invalid(at, "is about a new client_secret, and there is none")),
            (Said::Null, _) => Ok(Secrets { current: None, previous: None }),
            (Said::Value(secret), overlap) => {
                check_secret("/client_secret", secret)?;
                let current = secret_digest(self.judge.sealing, &self.issuer.id, id, secret);
                // Whoever repeats himself, since he got no answer or says the same each time, has replaced nothing.
                if kept.current == Some(current) {
                    return Ok(kept);
                }
                let until = overlap.filter(|overlap| !overlap.is_zero()).map(|overlap| now.plus(overlap));
                let previous = kept.current.zip(until).map(|(digest, until)| PreviousSecret { digest, until });
                Ok(Secrets { current: Some(current), previous })
            }
        }
    }

    fn delivery(&self, said: &DeliveryMetadata) -> Result<DeliverySettings, Problem> {
        let defaults = self.judge.defaults;
        let timeout_ms_max = u64::try_from(self.judge.timeout_max.as_millis()).unwrap_or(u64::MAX);
        let timeout_ms = bounded("/delivery/timeout_ms", said.timeout_ms, &(TIMEOUT_MS_MIN..=timeout_ms_max))?;
        let horizon_s = bounded("/delivery/horizon_s", said.horizon_s, &HORIZON_S)?;
        let network = Network {
            allow: said
                .allow_networks
                .as_ref()
                .map_or_else(|| defaults.network.allow.clone(), |list| list.iter().map(|text| text.0).collect()),
            ca_pem: said.ca_pem.clone().or_else(|| defaults.network.ca_pem.clone()),
        };
        self.judge.egress.check_network(&network).map_err(|bad| bad_network("/delivery", bad))?;
        Ok(DeliverySettings {
            claims: said.claims.map_or(defaults.claims, |text| text.0),
            typ: said.typ.map_or(defaults.typ, |text| text.0),
            timeout: timeout_ms.map_or(defaults.timeout, Duration::from_millis),
            max_in_flight: bounded("/delivery/max_in_flight", said.max_in_flight, &IN_FLIGHT)?.unwrap_or(defaults.max_in_flight),
            rate_per_s: bounded("/delivery/rate_per_s", said.rate_per_s, &RATE_PER_S)?.or(defaults.rate_per_s),
            horizon: horizon_s.map_or(defaults.horizon, Duration::from_secs),
            confirm_rejections: bounded("/delivery/confirm_rejections", said.confirm_rejections, &CONFIRM_REJECTIONS)?
                .unwrap_or(defaults.confirm_rejections),
            retry_statuses: said.retry_statuses.as_deref().map_or_else(|| Ok(defaults.retry_statuses.clone()), retry_statuses)?,
            on_expiry: said.on_expiry.map_or(defaults.on_expiry, |text| text.0),
            network,
            certificate: None,
            server_name: said.tls.as_ref().and_then(TlsMetadata::server_name),
            headers: None,
        })
    }
}

/// What a client may show.
struct Secrets {
    current: Option<Digest>,
    previous: Option<PreviousSecret>,
}

/// Whoever asks for encryption must never be sent a token in plain instead.
fn refuse_encryption(body: &ClientMetadata) -> Result<(), Problem> {
    let asked = [
        ("/id_token_encrypted_response_alg", &body.id_token_encrypted_response_alg),
        ("/id_token_encrypted_response_enc", &body.id_token_encrypted_response_enc),
        ("/introspection_encrypted_response_alg", &body.introspection_encrypted_response_alg),
    ];
    match asked.into_iter().find(|(_, value)| value.as_ref().is_some_and(|value| !value.is_null())) {
        Some((pointer, _)) => {
            Err(Problem::invalid(pointer, "is not supported: nothing is encrypted here, and never sent in plain instead"))
        }
        None => Ok(()),
    }
}

fn name(text: &str) -> Result<String, Problem> {
    if (1..=NAME_CHARS_MAX).contains(&text.chars().count()) && !text.chars().any(is_unfit_for_names) {
        Ok(text.to_owned())
    } else {
        let why = format!("must have 1 to {NAME_CHARS_MAX} characters, no control characters, and none that turn the text or are not seen");
        Err(Problem::invalid("/client_name", why))
    }
}

fn auth_method(text: &str) -> Result<String, Problem> {
    if AUTH_METHODS.contains(&text) {
        Ok(text.to_owned())
    } else {
        Err(Problem::invalid("/token_endpoint_auth_method", format!("must be one of {}", AUTH_METHODS.join(" "))))
    }
}

/// Only public members are kept; a private or symmetric key refuses the set.
fn jwks(value: &Value) -> Result<String, Problem> {
    JwkSet::parse(&value.to_string()).map(|set| set.to_json()).map_err(|refused| Problem::invalid("/jwks", refused))
}

fn retry_statuses(said: &[u16]) -> Result<Vec<u16>, Problem> {
    if said.len() > RETRY_STATUSES_MAX {
        return Err(Problem::invalid("/delivery/retry_statuses", format!("must not have more than {RETRY_STATUSES_MAX} items")));
    }
    for (index, status) in said.iter().enumerate() {
        bounded(&format!("/delivery/retry_statuses/{index}"), Some(*status), &RETRY_STATUSES)?;
    }
    let mut statuses = said.to_vec();
    statuses.sort_unstable();
    statuses.dedup();
    Ok(statuses)
}

pub(super) fn bounded<T: PartialOrd + Display>(pointer: &str, said: Option<T>, range: &RangeInclusive<T>) -> Result<Option<T>, Problem> {
    match said {
        Some(value) if !range.contains(&value) => {
            Err(Problem::invalid(pointer, format!("must be from {} to {}", range.start(), range.end())))
        }
        said => Ok(said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Egress, EgressConfig, Mode};
    use crate::http::json::parse_registration;
    use crate::model::Issuer;
    use crate::model::client::{Claims, OnExpiry, TokenTyp};
    use crate::model::issuer::SESSION_MAX_AGE_DEFAULT;
    use crate::seams::Entropy;
    use crate::token::SealingKey;

    fn now() -> Timestamp {
        Timestamp::from_seconds(1_000)
    }

    fn issuer() -> IssuerRecord {
        IssuerRecord {
            id: IssuerId::parse("main").unwrap(),
            issuer: Issuer::parse("https://op.example").unwrap(),
            signing_algs: vec![SigningAlg::Rs256],
            session_max_age: SESSION_MAX_AGE_DEFAULT,
            expiry: crate::model::issuer::Expiry::Absolute,
            network: Network::default(),
            source: crate::model::issuer::ProviderSource::NONE,
            upstream: crate::model::issuer::Upstream::DEFAULT,
            provider_logout: None,
            access_tokens: crate::model::issuer::AccessTokens::DEFAULT,
            revocation: None,
            subject_secrets: None,
            managed_by: ManagedBy::Api,
            created_at: now(),
            updated_at: now(),
            version: 1,
        }
    }

    fn sealing() -> SealingKey {
        SealingKey::generate(&Entropy::seeded(1))
    }

    fn put_over(body: &Value, before: Option<&ClientRecord>) -> Result<(ClientRecord, Vec<String>), Problem> {
        let egress = Egress::new(EgressConfig { ceiling: vec!["10.0.0.0/8".parse().unwrap()], ..EgressConfig::default() }).unwrap();
        let (issuer, sealing) = (issuer(), sealing());
        let judge = Judge {
            egress: &egress,
            mode: Mode::Production,
            sealing: &sealing,
            entropy: &Entropy::seeded(2),
            defaults: &DeliverySettings::DEFAULT,
            timeout_max: Duration::from_secs(20),
        };
        let desk = Desk::of(&issuer, judge, Expired::Refused);
        let Registration { body, ignored } = parse_registration::<ClientMetadata>(body.to_string().as_bytes())?;
        Ok((desk.registered(&ClientId::parse("wiki").unwrap(), &body, before, now())?, ignored))
    }

    fn put(body: &Value) -> Result<(ClientRecord, Vec<String>), Problem> {
        put_over(body, None)
    }

    fn fault(body: &Value) -> String {
        let problem = put(body).expect_err(&body.to_string());
        assert_eq!(problem.code(), Code::InvalidField, "{body}");
        problem.errors().first().and_then(|error| error.pointer.clone()).unwrap_or_default()
    }

    #[test]
    fn a_client_that_says_nothing_gets_the_defaults() {
        let (record, ignored) = put(&json!({})).unwrap();
        assert_eq!((record.alg, record.session_required, record.backchannel_logout_uri), (SigningAlg::Rs256, false, None));
        assert_eq!((record.delivery, ignored), (DeliverySettings::DEFAULT, vec![]));
    }

    #[test]
    fn what_is_said_is_kept_and_what_is_unknown_is_named() {
        let (record, ignored) = put(&json!({
            "client_id": "wiki", "client_name": "Wiki", "redirect_uris": ["https://wiki.example/cb"],
            "backchannel_logout_uri": "https://wiki.example/logout?tenant=1", "backchannel_logout_session_required": true,
            "id_token_signed_response_alg": "EdDSA", "token_endpoint_auth_method": "client_secret_post",
            "delivery": {"claims": "sid", "typ": "JWT", "timeout_ms": 5000, "max_in_flight": 2, "horizon_s": 3600, "confirm_rejections": 0,
                         "retry_statuses": [404, 401, 404], "on_expiry": "notify", "allow_networks": ["10.1.0.0/16"], "rate_per_s": 5, "gzip": true},
        }))
        .unwrap();
        let delivery = DeliverySettings {
            claims: Claims::Sid,
            typ: TokenTyp::Jwt,
            timeout: Duration::from_secs(5),
            max_in_flight: 2,
            rate_per_s: Some(5),
            horizon: Duration::from_hours(1),
            confirm_rejections: 0,
            retry_statuses: vec![401, 404],
            on_expiry: OnExpiry::Notify,
            network: Network { allow: vec!["10.1.0.0/16".parse().unwrap()], ca_pem: None },
            ..DeliverySettings::DEFAULT
        };
        assert_eq!((record.alg, record.session_required, record.delivery), (SigningAlg::EdDsa, true, delivery));
        assert_eq!(record.backchannel_logout_uri.unwrap().as_str(), "https://wiki.example/logout?tenant=1");
        assert_eq!(ignored, ["delivery.gzip", "redirect_uris"]);
    }

    #[test]
    fn a_logout_uri_that_could_not_or_must_not_be_reached_is_refused_by_name() {
        for uri in [
            "https://wiki.example/logout#here",
            "http://wiki.example/logout",
            "https://user@wiki.example/logout",
            "https://127.0.0.1/logout",
            "https://2130706433/logout",
            "https://[::1]/logout",
            "https://169.254.169.254/logout",
            "https://10.0.0.1/logout",
            "https://localhost/logout",
            "/logout",
            "",
        ] {
            assert_eq!(fault(&json!({ "backchannel_logout_uri": uri })), "/backchannel_logout_uri", "{uri}");
            assert_eq!(fault(&json!({ "jwks_uri": uri })), "/jwks_uri", "{uri}");
        }
        let excepted = json!({"backchannel_logout_uri": "https://10.0.0.1/logout", "delivery": {"allow_networks": ["10.0.0.0/24"]}});
        assert!(put(&excepted).is_ok());
    }

    #[test]
    fn a_name_that_would_be_shown_as_another_is_refused() {
        for name in ["", "a\nb", "wi\u{202e}ki", "wiki\u{200b}", "\u{2066}wiki"] {
            assert_eq!(fault(&json!({ "client_name": name })), "/client_name", "{name:?}");
        }
        assert!(put(&json!({"client_name": "Wiki der Söhne \u{645}\u{6cc}\u{200c}\u{62e}"})).is_ok());
    }

    #[test]
    fn algorithms_without_a_key_pair_and_encryption_are_refused() {
        for alg in ["HS256", "HS512", "ES512", "none", "rs256", ""] {
            assert_eq!(fault(&json!({ "id_token_signed_response_alg": alg })), "/id_token_signed_response_alg", "{alg}");
        }
        assert_eq!(fault(&json!({"id_token_encrypted_response_alg": "RSA-OAEP"})), "/id_token_encrypted_response_alg");
        assert_eq!(fault(&json!({"id_token_encrypted_response_enc": "A256GCM"})), "/id_token_encrypted_response_enc");
        assert!(put(&json!({"id_token_encrypted_response_alg": null})).is_ok());
    }

    #[test]
    fn each_bound_is_kept_and_names_its_member() {
        let delivery = |member: &str, value: Value| fault(&json!({ "delivery": { member: value } }));
        for (member, value) in [
            ("timeout_ms", json!(99)),
            ("timeout_ms", json!(20_001)),
            ("max_in_flight", json!(0)),
            ("max_in_flight", json!(1025)),
            ("max_in_flight", json!(-1)),
            ("rate_per_s", json!(0)),
            ("on_expiry", json!("often")),
            ("horizon_s", json!(59)),
            ("horizon_s", json!(2_592_001)),
            ("confirm_rejections", json!(3)),
            ("claims", json!("none")),
            ("typ", json!("jwt")),
            ("ca_pem", json!("hello")),
        ] {
            assert_eq!(delivery(member, value.clone()), format!("/delivery/{member}"), "{value}");
        }
        assert_eq!(delivery("retry_statuses", json!([404, 200])), "/delivery/retry_statuses/1");
        assert_eq!(delivery("retry_statuses", json!(vec![404; 21])), "/delivery/retry_statuses");
        assert_eq!(delivery("allow_networks", json!(["192.168.0.0/16"])), "/delivery/allow_networks");
        assert_eq!(delivery("allow_networks", json!(["10.1.2.3/8"])), "/delivery/allow_networks/0");
        for (member, value) in [
            ("client_name", json!("x".repeat(256))),
            ("client_name", json!("a\u{0}b")),
            ("client_secret", json!("")),
            ("client_secret", json!("é")),
            ("client_secret", json!("x".repeat(1025))),
            ("token_endpoint_auth_method", json!("password")),
        ] {
            assert_eq!(fault(&json!({ member: value.clone() })), format!("/{member}"), "{value}");
        }
    }

    #[test]
    fn keys_come_by_value_or_by_reference_and_are_public() {
        assert_eq!(fault(&json!({"jwks": {"keys": []}, "jwks_uri": "https://wiki.example/jwks"})), "/jwks_uri");
        assert_eq!(fault(&json!({"jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}})), "/jwks");
        assert_eq!(fault(&json!({"jwks": []})), "/jwks");
        assert!(put(&json!({"jwks": {"keys": []}})).is_ok());
    }

    #[test]
    fn an_omitted_secret_stays_null_removes_it_and_everything_else_omitted_is_gone() {
        let (first, _) =
            put(&json!({"client_secret": "hunter2hunter2", "client_name": "Wiki", "backchannel_logout_uri": "https://w.example/l"}))
                .unwrap();
        let digest = first.secret_digest.unwrap();
        assert_eq!(digest, secret_digest(&sealing(), &first.issuer, &first.client_id, "hunter2hunter2"));
        let (second, _) = put_over(&json!({}), Some(&first)).unwrap();
        assert_eq!((second.secret_digest, second.client_name, second.backchannel_logout_uri), (Some(digest), None, None));
        let (third, _) = put_over(&json!({"client_secret": null}), Some(&first)).unwrap();
        assert_eq!(third.secret_digest, None);
    }

    #[test]
    fn a_secret_that_is_replaced_with_an_overlap_is_good_until_then_and_repeating_it_changes_nothing() {
        let secret = |secret: &str, overlap: Value| json!({"client_secret": secret, "client_secret_overlap_s": overlap});
        let (first, _) = put(&secret("secret-number-one", json!(60))).unwrap();
        assert_eq!(first.secret_previous, None, "there was none before");
        let (second, _) = put_over(&secret("secret-number-two", json!(60)), Some(&first)).unwrap();
        let expected = first.secret_digest.map(|digest| PreviousSecret { digest, until: now().plus(Duration::from_mins(1)) });
        assert!(second.secret_digest != first.secret_digest && second.secret_previous == expected);
        for same in [json!({}), secret("secret-number-two", json!(60)), secret("secret-number-two", Value::Null)] {
            let (record, _) = put_over(&same, Some(&second)).unwrap();
            assert_eq!((record.secret_digest, record.secret_previous), (second.secret_digest, expected), "{same}");
        }
        let (third, _) = put_over(&secret("secret-number-three", json!(5)), Some(&second)).unwrap();
        assert_eq!(third.secret_previous.map(|previous| previous.digest), second.secret_digest, "never more than two");
        for ended in [json!({"client_secret_overlap_s": 0}), json!({"client_secret": null}), secret("secret-number-three", json!(0))] {
            assert_eq!(put_over(&ended, Some(&second)).unwrap().0.secret_previous, None, "{ended}");
        }
        let pointer = |body: Value| put_over(&body, Some(&second)).unwrap_err().errors()[0].pointer.clone().unwrap();
        assert_eq!(pointer(json!({"client_secret_overlap_s": 5})), "/client_secret_overlap_s");
        assert_eq!(pointer(secret("secret-number-three", json!(2_592_001))), "/client_secret_overlap_s");
    }

    #[test]
    fn neither_the_answer_nor_the_audit_trail_tells_a_secret_or_its_digest() {
        let (record, _) = put(&json!({"client_secret": "hunter2hunter2"})).unwrap();
        let digest = record.secret_digest.unwrap().to_string();
        let kept = detail(&record, &[]).to_string();
        let shown = serde_json::to_string(&view(record)).unwrap();
        for text in [kept, shown] {
            assert!(!text.contains("hunter2") && !text.contains(&digest), "{text}");
            assert!(text.contains("\"client_secret_registered\":true"), "{text}");
        }
    }

    #[test]
    fn a_location_escapes_what_a_client_id_may_hold() {
        let id = ClientId::parse("a b/c?d%e").unwrap();
        assert_eq!(path(&IssuerId::parse("main").unwrap(), &id), "/v1/issuers/main/clients/a%20b%2Fc%3Fd%25e");
    }
}
