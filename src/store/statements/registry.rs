//! Issuers, clients, keys, API tokens, and the audit records of what was done to them.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{insert_keys, unsee};
use super::policies;
use super::{Builder, Conn, audit, corrupt, dialect, duration_ms, instant, listed, millis, number, push_page, word};
use crate::model::access::{ApiTokenRecord, Edition, Role, ShownApiToken};
use crate::model::audit::{AuditRecord, Proof};
use crate::model::certificate::{Certificates, Holder};
use crate::model::client::{
    Claims, ClientCertificate, ClientRecord, DeliverySettings, Network, OnExpiry, PreviousSecret, ServerName, StaticHeaders, TokenTyp,
};
use crate::model::delivery::Lane;
use crate::model::issuer::{Expiry, IssuerRecord, ManagedBy, ProviderSource, PublishedAt, RelayToken, Upstream, UpstreamMode};
use crate::model::key::{KeyRecord, SigningAlg};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::token::TokenPolicy;
use crate::model::{ApiTokenId, AuditId, ClientId, Digest, EventId, Issuer, IssuerId, Timestamp};
use crate::store::{AuditEntry, Change, Context, Ending, Pending, StoreError};

const ISSUER: &str = "id, issuer, signing_algs, session_max_age_ms, expiry, allow_networks, ca_pem, discovery, provider_jwks_uri, published_at, \
                      upstream_mode, upstream_client_id, upstream_alg, relay_token, require_exp, provider_logout, provider_logout_sealed, access_tokens, introspection_sealed, revocation, revocation_sealed, subject_secrets_sealed, \
                      declared, created_at, updated_at, version";

#[derive(sqlx::FromRow)]
struct IssuerRow {
    id: String,
    issuer: String,
    signing_algs: String,
    session_max_age_ms: i64,
    expiry: String,
    allow_networks: String,
    ca_pem: Option<String>,
    discovery: bool,
    provider_jwks_uri: Option<String>,
    published_at: String,
    upstream_mode: String,
    upstream_client_id: Option<String>,
    upstream_alg: String,
    relay_token: String,
    require_exp: bool,
    provider_logout: Option<String>,
    provider_logout_sealed: Option<String>,
    access_tokens: Option<String>,
    introspection_sealed: Option<String>,
    revocation: Option<String>,
    revocation_sealed: Option<String>,
    subject_secrets_sealed: Option<String>,
    declared: bool,
    created_at: i64,
    updated_at: i64,
    version: i64,
}

impl IssuerRow {
    fn into_record(self) -> Result<IssuerRecord, StoreError> {
        let jwks_uri = self.provider_jwks_uri.map(|text| url::Url::parse(&text).map_err(|_| corrupt("issuers", "provider_jwks_uri")));
        let source = ProviderSource {
            discovery: self.discovery,
            jwks_uri: jwks_uri.transpose()?,
            published_at: word(PublishedAt::parse(&self.published_at), "issuers", "published_at")?,
        };
        let upstream = Upstream {
            mode: word(UpstreamMode::parse(&self.upstream_mode), "issuers", "upstream_mode")?,
            client_id: self.upstream_client_id.map(ClientId::stored),
            alg: word(SigningAlg::parse(&self.upstream_alg), "issuers", "upstream_alg")?,
            relay_token: word(RelayToken::parse(&self.relay_token), "issuers", "relay_token")?,
            require_exp: self.require_exp,
        };
        let algs = self.signing_algs.split_whitespace().map(|alg| word(SigningAlg::parse(alg), "issuers", "signing_algs"));
        let sealed = self.provider_logout_sealed;
        let provider_logout = self.provider_logout.map(|text| super::provider::read(&text, sealed).map(Arc::new)).transpose()?;
        let revocation_sealed = self.revocation_sealed;
        let revocation = self.revocation.map(|text| policies::read_endpoint(&text, revocation_sealed)).transpose()?;
        Ok(IssuerRecord {
            id: IssuerId::stored(self.id),
            issuer: Issuer::stored(self.issuer),
            signing_algs: algs.collect::<Result<_, _>>()?,
            session_max_age: Duration::from_millis(number(self.session_max_age_ms, "issuers", "session_max_age_ms")?),
            expiry: word(Expiry::parse(&self.expiry), "issuers", "expiry")?,
            network: Network { allow: networks(&self.allow_networks, "issuers")?, ca_pem: self.ca_pem },
            source,
            upstream,
            provider_logout,
            access_tokens: policies::read_access(self.access_tokens.as_deref(), self.introspection_sealed)?,
            revocation,
            subject_secrets: self.subject_secrets_sealed,
            managed_by: managed_by(self.declared),
            created_at: Timestamp::from_millis(self.created_at),
            updated_at: Timestamp::from_millis(self.updated_at),
            version: self.version,
        })
    }
}

const fn managed_by(declared: bool) -> ManagedBy {
    if declared { ManagedBy::Configuration } else { ManagedBy::Api }
}

fn networks(text: &str, table: &'static str) -> Result<Vec<ipnet::IpNet>, StoreError> {
    text.split_whitespace().map(|net| ipnet::IpNet::from_str(net).map_err(|_| corrupt(table, "allow_networks"))).collect()
}

fn words<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}

pub(in crate::store) async fn issuer(conn: &mut Conn, id: &IssuerId) -> Result<Option<IssuerRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {ISSUER} FROM issuers WHERE deleted_at IS NULL AND id = "));
    sql.push_bind(id.as_str().to_owned());
    let row: Option<IssuerRow> = sql.build_query_as().fetch_optional(conn).await?;
    row.map(IssuerRow::into_record).transpose()
}

pub(in crate::store) async fn issuers(conn: &mut Conn, page: &Page) -> Result<Listed<IssuerRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {ISSUER} FROM issuers WHERE deleted_at IS NULL"));
    push_page(&mut sql, page, "created_at", "id");
    let rows: Vec<IssuerRow> = sql.build_query_as().fetch_all(conn).await?;
    let records: Vec<_> = rows.into_iter().map(IssuerRow::into_record).collect::<Result<_, _>>()?;
    Ok(listed(records, page, |record| Cursor { at: record.created_at, id: record.id.to_string() }))
}

type CreateIssuer = (IssuerRecord, Vec<KeyRecord>, AuditEntry);

/// A deleted issuer can be registered again under its own short id, with the same identifier: its old sessions speak of it.
pub(in crate::store) async fn create_issuer(
    conn: &mut Conn,
    context: &Context,
    (issuer, keys, audit): &CreateIssuer,
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, &issuer.id).await?;
    let taken: Option<(String, Option<i64>)> =
        sqlx::query_as("SELECT issuer, deleted_at FROM issuers WHERE id = $1").bind(issuer.id.as_str()).fetch_optional(&mut *conn).await?;
    let same_name: Option<String> = sqlx::query_scalar("SELECT id FROM issuers WHERE issuer = $1 AND deleted_at IS NULL")
        .bind(issuer.issuer.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    let revived = matches!(&taken, Some((name, Some(_))) if name == issuer.issuer.as_str());
    if same_name.is_some() || (taken.is_some() && !revived) {
        return Ok(Ending::Undo(Change::Conflict));
    }
    sqlx::query(
        "INSERT INTO issuers (id, issuer, signing_algs, session_max_age_ms, expiry, allow_networks, ca_pem, created_at, updated_at, version)
         VALUES ($1, $2, '', 1, 'none', '', NULL, $3, $3, $4)
         ON CONFLICT (id) DO UPDATE SET version = issuers.version + 1, deleted_at = NULL",
    )
    .bind(issuer.id.as_str())
    .bind(issuer.issuer.as_str())
    .bind(issuer.created_at.millis())
    .bind(issuer.version)
    .execute(&mut *conn)
    .await?;
    write_settings(conn, issuer).await?;
    insert_keys(conn, keys).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Created))
}

pub(in crate::store) async fn change_issuer(
    conn: &mut Conn,
    context: &Context,
    (issuer, new_keys, audit): &CreateIssuer,
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, &issuer.id).await?;
    let stored: Option<(String, i64)> = sqlx::query_as("SELECT issuer, version FROM issuers WHERE id = $1 AND deleted_at IS NULL")
        .bind(issuer.id.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    let Some((name, version)) = stored else { return Ok(Ending::Undo(Change::Absent)) };
    if version != issuer.version {
        return Ok(Ending::Undo(Change::Stale));
    }
    if name != issuer.issuer.as_str() && (has_anything(conn, &issuer.id).await? || name_taken(conn, issuer).await?) {
        return Ok(Ending::Undo(Change::Conflict));
    }
    forget_if_told_elsewhere(conn, issuer, &name).await?;
    if name != issuer.issuer.as_str() {
        // What another provider published says nothing about this one.
        sqlx::query("DELETE FROM provider_documents WHERE issuer_id = $1").bind(issuer.id.as_str()).execute(&mut *conn).await?;
    }
    sqlx::query("UPDATE issuers SET issuer = $2, version = version + 1 WHERE id = $1")
        .bind(issuer.id.as_str())
        .bind(issuer.issuer.as_str())
        .execute(&mut *conn)
        .await?;
    write_settings(conn, issuer).await?;
    unsee(conn, &issuer.id).await?;
    insert_keys(conn, new_keys).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

/// All that may change about an issuer, but its identifier.
async fn write_settings(conn: &mut Conn, issuer: &IssuerRecord) -> Result<(), StoreError> {
    let IssuerRecord { source, upstream, network, .. } = issuer;
    let logout = issuer.provider_logout.as_deref();
    let (told, sealed) = (logout.map(super::provider::written), logout.and_then(|logout| logout.sealed.as_deref()));
    let told_before: Option<String> =
        sqlx::query_scalar("SELECT provider_logout FROM issuers WHERE id = $1").bind(issuer.id.as_str()).fetch_one(&mut *conn).await?;
    if told_before != told {
        super::provider::forget_lane(conn, &issuer.id).await?;
    }
    // What another provider published says nothing about this one.
    sqlx::query(
        "DELETE FROM provider_documents
          WHERE issuer_id = $1
            AND NOT EXISTS (SELECT 1 FROM issuers WHERE id = $1 AND discovery = $2 AND coalesce(provider_jwks_uri, '') = $3)",
    )
    .bind(issuer.id.as_str())
    .bind(source.discovery)
    .bind(source.jwks_uri.as_ref().map_or("", url::Url::as_str))
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "UPDATE issuers
            SET signing_algs = $2, session_max_age_ms = $3, expiry = $4, allow_networks = $5, ca_pem = $6, discovery = $7,
                provider_jwks_uri = $8, published_at = $9, upstream_mode = $10, upstream_client_id = $11, upstream_alg = $12,
                relay_token = $13, require_exp = $14, updated_at = $15, provider_logout = $16, provider_logout_sealed = $17,
                access_tokens = $18, introspection_sealed = $19, revocation = $20, revocation_sealed = $21, subject_secrets_sealed = $22,
                declared = $23
          WHERE id = $1",
    )
    .bind(issuer.id.as_str())
    .bind(words(&issuer.signing_algs))
    .bind(duration_ms(issuer.session_max_age))
    .bind(issuer.expiry.as_str())
    .bind(words(&network.allow))
    .bind(network.ca_pem.as_deref())
    .bind(source.discovery)
    .bind(source.jwks_uri.as_ref().map(url::Url::as_str))
    .bind(source.published_at.as_str())
    .bind(upstream.mode.as_str())
    .bind(upstream.client_id.as_ref().map(ClientId::as_str))
    .bind(upstream.alg.as_str())
    .bind(upstream.relay_token.as_str())
    .bind(upstream.require_exp)
    .bind(issuer.updated_at.millis())
    .bind(told)
    .bind(sealed)
    .bind(policies::written_access(&issuer.access_tokens))
    .bind(issuer.access_tokens.introspect_upstream.as_ref().and_then(|upstream| upstream.endpoint.sealed.as_deref()))
    .bind(issuer.revocation.as_ref().map(policies::written_endpoint))
    .bind(issuer.revocation.as_ref().and_then(|endpoint| endpoint.sealed.as_deref()))
    .bind(issuer.subject_secrets.as_deref())
    .bind(issuer.managed_by == ManagedBy::Configuration)
    .execute(conn)
    .await?;
    Ok(())
}

/// Sessions, or grants that belong to none.
async fn has_anything(conn: &mut Conn, issuer: &IssuerId) -> Result<bool, StoreError> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT CAST(1 AS BIGINT) WHERE EXISTS (SELECT 1 FROM sessions WHERE issuer_id = $1) OR EXISTS (SELECT 1 FROM grants WHERE issuer_id = $1)",
    )
    .bind(issuer.as_str())
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

/// What was sealed to be shown to one endpoint is not shown to another: whoever may say where it is does not learn it. `name` is what it was called.
async fn forget_if_told_elsewhere(conn: &mut Conn, issuer: &IssuerRecord, name: &str) -> Result<(), StoreError> {
    let (told, discovery): (Option<String>, bool) =
        sqlx::query_as("SELECT revocation, discovery FROM issuers WHERE id = $1").bind(issuer.id.as_str()).fetch_one(&mut *conn).await?;
    let Some(told) = told else { return Ok(()) };
    let before = policies::read_endpoint(&told, None)?.url;
    let after = issuer.revocation.as_ref().map(|endpoint| endpoint.url.as_ref());
    let same =
        after == Some(before.as_ref()) && (before.is_some() || (name == issuer.issuer.as_str() && discovery == issuer.source.discovery));
    if same {
        return Ok(());
    }
    for statement in [
        "UPDATE clients SET provider_secret_sealed = NULL WHERE issuer_id = $1 AND provider_secret_sealed IS NOT NULL",
        "UPDATE refresh_tokens SET sealed = NULL, sealed_until = NULL WHERE issuer_id = $1 AND sealed IS NOT NULL",
    ] {
        sqlx::query(statement).bind(issuer.id.as_str()).execute(&mut *conn).await?;
    }
    Ok(())
}

async fn name_taken(conn: &mut Conn, issuer: &IssuerRecord) -> Result<bool, StoreError> {
    let found: Option<String> = sqlx::query_scalar("SELECT id FROM issuers WHERE issuer = $1 AND id <> $2 AND deleted_at IS NULL")
        .bind(issuer.issuer.as_str())
        .bind(issuer.id.as_str())
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// Three questions that must all be answered with no before an issuer can go.
const LIVING: [&str; 3] = [
    "SELECT CAST(1 AS BIGINT) FROM sessions WHERE issuer_id = $1 AND ended_at IS NULL LIMIT 1",
    "SELECT CAST(1 AS BIGINT) FROM deliveries WHERE issuer_id = $1 AND state = 'pending' LIMIT 1",
    "SELECT CAST(1 AS BIGINT) FROM grants WHERE issuer_id = $1 AND revoked_at IS NULL LIMIT 1",
];

pub(in crate::store) async fn delete_issuer(
    conn: &mut Conn,
    context: &Context,
    (id, audit): &(IssuerId, AuditEntry),
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, id).await?;
    match issuer(conn, id).await?.map(|issuer| issuer.managed_by) {
        None => return Ok(Ending::Undo(Change::Absent)),
        Some(ManagedBy::Configuration) => return Ok(Ending::Undo(Change::Conflict)),
        Some(ManagedBy::Api) => {}
    }
    for question in LIVING {
        let living: Option<i64> = sqlx::query_scalar(question).bind(id.as_str()).fetch_optional(&mut *conn).await?;
        if living.is_some() {
            return Ok(Ending::Undo(Change::InUse));
        }
    }
    let now = dialect::now(conn, &context.clock).await?.millis();
    for statement in [
        "UPDATE issuers SET deleted_at = $2, version = version + 1 WHERE id = $1",
        "UPDATE clients SET deleted_at = $2, version = version + 1 WHERE issuer_id = $1 AND deleted_at IS NULL",
        "UPDATE api_tokens SET revoked_at = $2 WHERE issuer_id = $1 AND revoked_at IS NULL",
    ] {
        sqlx::query(statement).bind(id.as_str()).bind(now).execute(&mut *conn).await?;
    }
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

const CLIENT: &str = "issuer_id, client_id, client_name, backchannel_logout_uri, session_required, alg, auth_method, secret_digest, jwks, jwks_uri, \
                      claims, typ, timeout_ms, max_in_flight, rate_per_s, horizon_ms, confirm_rejections, retry_statuses, on_expiry, \
                      allow_networks, ca_pem, tls_sealed, tls_cert_pem, tls_expires_at, tls_server_name, headers_sealed, header_names, \
                       tokens, provider_secret_sealed, auth_signing_alg, introspection_alg, suspended_at, declared, created_at, updated_at, deleted_at, \
                       version, secret_previous_digest, secret_previous_until";

#[derive(sqlx::FromRow)]
struct ClientRow {
    issuer_id: String,
    client_id: String,
    client_name: Option<String>,
    backchannel_logout_uri: Option<String>,
    session_required: bool,
    alg: String,
    auth_method: Option<String>,
    secret_digest: Option<String>,
    jwks: Option<String>,
    jwks_uri: Option<String>,
    claims: String,
    typ: String,
    timeout_ms: i64,
    max_in_flight: i64,
    rate_per_s: Option<i64>,
    horizon_ms: i64,
    confirm_rejections: i64,
    retry_statuses: String,
    on_expiry: String,
    allow_networks: String,
    ca_pem: Option<String>,
    tls_sealed: Option<String>,
    tls_cert_pem: Option<String>,
    tls_expires_at: Option<i64>,
    tls_server_name: Option<String>,
    headers_sealed: Option<String>,
    header_names: String,
    tokens: Option<String>,
    provider_secret_sealed: Option<String>,
    auth_signing_alg: Option<String>,
    introspection_alg: Option<String>,
    suspended_at: Option<i64>,
    declared: bool,
    created_at: i64,
    updated_at: i64,
    deleted_at: Option<i64>,
    version: i64,
    secret_previous_digest: Option<String>,
    secret_previous_until: Option<i64>,
}

impl ClientRow {
    fn into_record(self) -> Result<ClientRecord, StoreError> {
        let uri =
            |text: Option<String>, column| text.map(|text| url::Url::parse(&text).map_err(|_| corrupt("clients", column))).transpose();
        let statuses =
            self.retry_statuses.split_whitespace().map(|status| status.parse().map_err(|_| corrupt("clients", "retry_statuses")));
        let delivery = DeliverySettings {
            claims: word(Claims::parse(&self.claims), "clients", "claims")?,
            typ: word(TokenTyp::parse(&self.typ), "clients", "typ")?,
            timeout: Duration::from_millis(number(self.timeout_ms, "clients", "timeout_ms")?),
            max_in_flight: number(self.max_in_flight, "clients", "max_in_flight")?,
            rate_per_s: self.rate_per_s.map(|rate| number(rate, "clients", "rate_per_s")).transpose()?,
            horizon: Duration::from_millis(number(self.horizon_ms, "clients", "horizon_ms")?),
            confirm_rejections: number(self.confirm_rejections, "clients", "confirm_rejections")?,
            retry_statuses: statuses.collect::<Result<_, _>>()?,
            on_expiry: word(OnExpiry::parse(&self.on_expiry), "clients", "on_expiry")?,
            network: Network { allow: networks(&self.allow_networks, "clients")?, ca_pem: self.ca_pem },
            certificate: certificate(self.tls_cert_pem, self.tls_sealed, self.tls_expires_at)?,
            server_name: self.tls_server_name.map(|name| word(ServerName::parse(&name), "clients", "tls_server_name")).transpose()?,
            headers: self
                .headers_sealed
                .map(|sealed| StaticHeaders { names: self.header_names.split_whitespace().map(str::to_owned).collect(), sealed }),
        };
        let alg = |text: Option<String>, column| text.map(|alg| word(SigningAlg::parse(&alg), "clients", column)).transpose();
        let tokens = self.tokens.as_deref().map_or(Ok(TokenPolicy::DEFAULT), policies::read_client)?;
        Ok(ClientRecord {
            issuer: IssuerId::stored(self.issuer_id),
            client_id: ClientId::stored(self.client_id),
            client_name: self.client_name,
            backchannel_logout_uri: uri(self.backchannel_logout_uri, "backchannel_logout_uri")?,
            session_required: self.session_required,
            alg: word(SigningAlg::parse(&self.alg), "clients", "alg")?,
            auth_method: self.auth_method,
            secret_digest: self.secret_digest.map(|digest| word(Digest::parse(&digest), "clients", "secret_digest")).transpose()?,
            secret_previous: previous_secret(self.secret_previous_digest, self.secret_previous_until)?,
            jwks: self.jwks,
            jwks_uri: uri(self.jwks_uri, "jwks_uri")?,
            delivery,
            auth_signing_alg: alg(self.auth_signing_alg, "auth_signing_alg")?,
            introspection_alg: alg(self.introspection_alg, "introspection_alg")?,
            tokens: TokenPolicy { provider_secret: self.provider_secret_sealed, ..tokens },
            managed_by: managed_by(self.declared),
            suspended_at: instant(self.suspended_at),
            created_at: Timestamp::from_millis(self.created_at),
            updated_at: Timestamp::from_millis(self.updated_at),
            deleted_at: instant(self.deleted_at),
            version: self.version,
        })
    }
}

/// Both or neither.
fn previous_secret(digest: Option<String>, until: Option<i64>) -> Result<Option<PreviousSecret>, StoreError> {
    match (digest, instant(until)) {
        (Some(digest), Some(until)) => {
            Ok(Some(PreviousSecret { digest: word(Digest::parse(&digest), "clients", "secret_previous_digest")?, until }))
        }
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(corrupt("clients", "secret_previous_until")),
    }
}

/// All of it or nothing.
fn certificate(pem: Option<String>, sealed_key: Option<String>, expires_at: Option<i64>) -> Result<Option<ClientCertificate>, StoreError> {
    match (pem, sealed_key, instant(expires_at)) {
        (Some(pem), Some(sealed_key), Some(expires_at)) => Ok(Some(ClientCertificate { pem, sealed_key, expires_at })),
        (None, None, None) => Ok(None),
        _ => Err(corrupt("clients", "tls_cert_pem")),
    }
}

pub(in crate::store) async fn client(conn: &mut Conn, issuer: &IssuerId, id: &ClientId) -> Result<Option<ClientRecord>, StoreError> {
    Ok(registered(conn, issuer, id).await?.filter(|client| client.deleted_at.is_none()))
}

/// A client's registration, also when it was deleted.
async fn registered(conn: &mut Conn, issuer: &IssuerId, id: &ClientId) -> Result<Option<ClientRecord>, StoreError> {
    Ok(clients_of(conn, &[(issuer.clone(), id.clone())]).await?.pop())
}

/// The registrations of several clients in one statement, deleted ones too, in no order.
pub(super) async fn clients_of(conn: &mut Conn, wanted: &[(IssuerId, ClientId)]) -> Result<Vec<ClientRecord>, StoreError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut records = Vec::with_capacity(wanted.len());
    for chunk in wanted.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new(format!("SELECT {CLIENT} FROM clients WHERE (issuer_id, client_id) IN ("));
        sql.push_values(chunk, |mut row, (issuer, client)| {
            row.push_bind(issuer.as_str().to_owned()).push_bind(client.as_str().to_owned());
        });
        sql.push(")");
        let rows: Vec<ClientRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for row in rows {
            records.push(row.into_record()?);
        }
    }
    Ok(records)
}

/// Several issuers in one statement.
pub(super) async fn issuers_of(conn: &mut Conn, ids: &[IssuerId]) -> Result<Vec<IssuerRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {ISSUER} FROM issuers WHERE id IN "));
    super::push_list(&mut sql, ids.iter().map(IssuerId::as_str));
    let rows: Vec<IssuerRow> = sql.build_query_as().fetch_all(conn).await?;
    rows.into_iter().map(IssuerRow::into_record).collect()
}

pub(in crate::store) async fn clients(conn: &mut Conn, issuer: &IssuerId, page: &Page) -> Result<Listed<ClientRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {CLIENT} FROM clients WHERE deleted_at IS NULL AND issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned());
    push_page(&mut sql, page, "created_at", "client_id");
    let rows: Vec<ClientRow> = sql.build_query_as().fetch_all(conn).await?;
    let records: Vec<_> = rows.into_iter().map(ClientRow::into_record).collect::<Result<_, _>>()?;
    Ok(listed(records, page, |record| Cursor { at: record.created_at, id: record.client_id.to_string() }))
}

/// What the issuers trust beside the system's authorities.
pub(in crate::store) async fn issuers_certificates(conn: &mut Conn) -> Result<Vec<Certificates>, StoreError> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT id, ca_pem FROM issuers WHERE deleted_at IS NULL AND ca_pem IS NOT NULL ORDER BY id")
            .fetch_all(conn)
            .await?;
    let certificates = |(id, ca_pem)| Certificates {
        holder: Holder { issuer: IssuerId::stored(id), client_id: None },
        shown_until: None,
        ca_pem: Some(ca_pem),
    };
    Ok(rows.into_iter().map(certificates).collect())
}

/// What clients are shown and what is trusted for them, from the one after `after` on.
pub(in crate::store) async fn clients_certificates(
    conn: &mut Conn,
    after: Option<&(IssuerId, ClientId)>,
    limit: u16,
) -> Result<Vec<Certificates>, StoreError> {
    let (issuer, client_id) = after.map_or(("", ""), |(issuer, client_id)| (issuer.as_str(), client_id.as_str()));
    let rows: Vec<(String, String, Option<i64>, Option<String>)> = sqlx::query_as(
        "SELECT issuer_id, client_id, tls_expires_at, ca_pem
           FROM clients
          WHERE (issuer_id, client_id) > ($1, $2) AND deleted_at IS NULL AND (tls_expires_at IS NOT NULL OR ca_pem IS NOT NULL)
          ORDER BY issuer_id, client_id
          LIMIT $3",
    )
    .bind(issuer)
    .bind(client_id)
    .bind(i64::from(limit))
    .fetch_all(conn)
    .await?;
    let certificates = |(issuer, client_id, shown_until, ca_pem)| Certificates {
        holder: Holder { issuer: IssuerId::stored(issuer), client_id: Some(ClientId::stored(client_id)) },
        shown_until: instant(shown_until),
        ca_pem,
    };
    Ok(rows.into_iter().map(certificates).collect())
}

type PutClient = (ClientRecord, Option<i64>, Vec<KeyRecord>, AuditEntry);

pub(in crate::store) async fn put_client(
    conn: &mut Conn,
    context: &Context,
    (client, expected, new_keys, audit): &PutClient,
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, &client.issuer).await?;
    if issuer(conn, &client.issuer).await?.is_none() {
        return Ok(Ending::Undo(Change::Absent));
    }
    let stored = registered(conn, &client.issuer, &client.client_id).await?;
    let living = stored.as_ref().filter(|stored| stored.deleted_at.is_none());
    // Whoever found none did not know that it is declared.
    let unforeseen = expected.is_none() && living.is_some_and(|stored| stored.managed_by == ManagedBy::Configuration);
    if unforeseen || (expected.is_some() && living.map(|stored| stored.version) != *expected) {
        return Ok(Ending::Undo(Change::Stale));
    }
    let created_at = living.map_or(client.created_at, |stored| stored.created_at);
    let version = stored.as_ref().map_or(1, |stored| stored.version + 1);
    write_client(conn, client, created_at, version).await?;
    insert_keys(conn, new_keys).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(if living.is_some() { Change::Replaced } else { Change::Created }))
}

async fn write_client(conn: &mut Conn, client: &ClientRecord, created_at: Timestamp, version: i64) -> Result<(), StoreError> {
    let (delivery, certificate) = (&client.delivery, client.delivery.certificate.as_ref());
    sqlx::query(
        "INSERT INTO clients (issuer_id, client_id, client_name, backchannel_logout_uri, session_required, alg, auth_method, secret_digest,
                              jwks, jwks_uri, claims, typ, timeout_ms, max_in_flight, rate_per_s, horizon_ms, confirm_rejections, retry_statuses,
                              on_expiry, allow_networks, ca_pem, tls_sealed, tls_cert_pem, tls_expires_at, tls_server_name, headers_sealed,
                              header_names, created_at, updated_at, deleted_at, version, tokens, provider_secret_sealed, auth_signing_alg,
                              introspection_alg, declared, secret_previous_digest, secret_previous_until)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28,
                 $29, NULL, $30, $31, $32, $33, $34, $35, $36, $37)
         ON CONFLICT (issuer_id, client_id) DO UPDATE
            SET client_name = excluded.client_name, backchannel_logout_uri = excluded.backchannel_logout_uri,
                session_required = excluded.session_required, alg = excluded.alg, auth_method = excluded.auth_method,
                secret_digest = excluded.secret_digest, jwks = excluded.jwks, jwks_uri = excluded.jwks_uri, claims = excluded.claims,
                typ = excluded.typ, timeout_ms = excluded.timeout_ms, max_in_flight = excluded.max_in_flight,
                rate_per_s = excluded.rate_per_s, on_expiry = excluded.on_expiry, horizon_ms = excluded.horizon_ms, confirm_rejections = excluded.confirm_rejections,
                retry_statuses = excluded.retry_statuses, allow_networks = excluded.allow_networks, ca_pem = excluded.ca_pem,
                tls_sealed = excluded.tls_sealed, tls_cert_pem = excluded.tls_cert_pem, tls_expires_at = excluded.tls_expires_at,
                tls_server_name = excluded.tls_server_name, headers_sealed = excluded.headers_sealed, header_names = excluded.header_names,
                created_at = excluded.created_at, updated_at = excluded.updated_at, deleted_at = NULL, version = excluded.version,
                tokens = excluded.tokens, provider_secret_sealed = excluded.provider_secret_sealed,
                auth_signing_alg = excluded.auth_signing_alg, introspection_alg = excluded.introspection_alg, declared = excluded.declared,
                secret_previous_digest = excluded.secret_previous_digest, secret_previous_until = excluded.secret_previous_until",
    )
    .bind(client.issuer.as_str())
    .bind(client.client_id.as_str())
    .bind(client.client_name.as_deref())
    .bind(client.backchannel_logout_uri.as_ref().map(url::Url::as_str))
    .bind(client.session_required)
    .bind(client.alg.as_str())
    .bind(client.auth_method.as_deref())
    .bind(client.secret_digest.map(|digest| digest.to_string()))
    .bind(client.jwks.as_deref())
    .bind(client.jwks_uri.as_ref().map(url::Url::as_str))
    .bind(delivery.claims.as_str())
    .bind(delivery.typ.as_str())
    .bind(duration_ms(delivery.timeout))
    .bind(i64::from(delivery.max_in_flight))
    .bind(delivery.rate_per_s.map(i64::from))
    .bind(duration_ms(delivery.horizon))
    .bind(i64::from(delivery.confirm_rejections))
    .bind(words(&delivery.retry_statuses))
    .bind(delivery.on_expiry.as_str())
    .bind(words(&delivery.network.allow))
    .bind(delivery.network.ca_pem.as_deref())
    .bind(certificate.map(|certificate| certificate.sealed_key.as_str()))
    .bind(certificate.map(|certificate| certificate.pem.as_str()))
    .bind(certificate.map(|certificate| certificate.expires_at.millis()))
    .bind(delivery.server_name.as_ref().map(ServerName::as_str))
    .bind(delivery.headers.as_ref().map(|headers| headers.sealed.as_str()))
    .bind(delivery.headers.as_ref().map_or_else(String::new, |headers| headers.names.join(" ")))
    .bind(created_at.millis())
    .bind(client.updated_at.millis())
    .bind(version)
    .bind(policies::written_client(&client.tokens))
    .bind(client.tokens.provider_secret.as_deref())
    .bind(client.auth_signing_alg.map(SigningAlg::as_str))
    .bind(client.introspection_alg.map(SigningAlg::as_str))
    .bind(client.managed_by == ManagedBy::Configuration)
    .bind(client.secret_previous.map(|previous| previous.digest.to_string()))
    .bind(client.secret_previous.map(|previous| previous.until.millis()))
    .execute(conn)
    .await?;
    Ok(())
}

type DeleteClient = (IssuerId, ClientId, Option<i64>, Pending, AuditEntry);

pub(in crate::store) async fn delete_client(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, expected, pending, audit): &DeleteClient,
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, issuer).await?;
    let Some(stored) = client(conn, issuer, id).await? else { return Ok(Ending::Undo(Change::Absent)) };
    if stored.managed_by == ManagedBy::Configuration {
        return Ok(Ending::Undo(Change::Conflict));
    }
    if expected.is_some_and(|expected| expected != stored.version) {
        return Ok(Ending::Undo(Change::Stale));
    }
    let now = dialect::now(conn, &context.clock).await?.millis();
    let cancel =
        "UPDATE deliveries SET state = 'cancelled', reason = 'client_deleted', settled_at = $3, lease_token = NULL, lease_until = NULL
                   WHERE issuer_id = $1 AND client_id = $2 AND state = 'pending'";
    let mut statements = vec![
        "UPDATE clients SET deleted_at = $3, version = version + 1 WHERE issuer_id = $1 AND client_id = $2",
        "UPDATE grants SET revoked_at = $3, revoked_by = 'client_deleted' WHERE issuer_id = $1 AND client_id = $2 AND revoked_at IS NULL",
    ];
    match pending {
        Pending::Deliver => {}
        Pending::Cancel => statements.push(cancel),
    }
    // Nobody could resume it any more, and what is pending goes on.
    sqlx::query("UPDATE lanes SET paused_at = NULL WHERE lane = $1").bind(Lane::of(issuer, id).as_str()).execute(&mut *conn).await?;
    for statement in statements {
        sqlx::query(statement).bind(issuer.as_str()).bind(id.as_str()).bind(now).execute(&mut *conn).await?;
    }
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

/// Everything that is declared: issuers, and clients with theirs.
pub(in crate::store) async fn declared(conn: &mut Conn) -> Result<Vec<(IssuerId, Option<ClientId>)>, StoreError> {
    let issuers: Vec<String> = sqlx::query_scalar("SELECT id FROM issuers WHERE declared = $1 AND deleted_at IS NULL ORDER BY id")
        .bind(true)
        .fetch_all(&mut *conn)
        .await?;
    let clients: Vec<(String, String)> =
        sqlx::query_as("SELECT issuer_id, client_id FROM clients WHERE declared = $1 AND deleted_at IS NULL ORDER BY issuer_id, client_id")
            .bind(true)
            .fetch_all(conn)
            .await?;
    let issuers = issuers.into_iter().map(|id| (IssuerId::stored(id), None));
    Ok(issuers.chain(clients.into_iter().map(|(issuer, id)| (IssuerId::stored(issuer), Some(ClientId::stored(id))))).collect())
}

type Release = (IssuerId, Option<ClientId>, AuditEntry);

/// Whoever administers may change it from now on. What was released before is not released again.
pub(in crate::store) async fn release(
    conn: &mut Conn,
    context: &Context,
    (issuer, client, audit): &Release,
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, issuer).await?;
    let now = dialect::now(conn, &context.clock).await?.millis();
    let released = match client {
        None => {
            sqlx::query("UPDATE issuers SET declared = $3, updated_at = $2, version = version + 1 WHERE id = $1 AND declared <> $3")
                .bind(issuer.as_str())
                .bind(now)
                .bind(false)
                .execute(&mut *conn)
                .await?
        }
        Some(client) => {
            sqlx::query(
                "UPDATE clients SET declared = $3, updated_at = $2, version = version + 1
                  WHERE issuer_id = $1 AND client_id = $4 AND declared <> $3",
            )
            .bind(issuer.as_str())
            .bind(now)
            .bind(false)
            .bind(client.as_str())
            .execute(&mut *conn)
            .await?
        }
    };
    if released.rows_affected() == 0 {
        return Ok(Ending::Undo(Change::Absent));
    }
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

const API_TOKEN: &str = "id, role, issuer_id, client_id, may_mass_kill, created_at, expires_at, revoked_at, rate_per_s, rotated_at, previous_until, used_at, previous_used_at";

#[derive(sqlx::FromRow)]
struct ApiTokenRow {
    id: String,
    role: String,
    issuer_id: Option<String>,
    client_id: Option<String>,
    may_mass_kill: bool,
    created_at: i64,
    expires_at: Option<i64>,
    revoked_at: Option<i64>,
    rate_per_s: Option<i64>,
    rotated_at: Option<i64>,
    previous_until: Option<i64>,
    used_at: Option<i64>,
    previous_used_at: Option<i64>,
}

impl ApiTokenRow {
    fn into_record(self) -> Result<ApiTokenRecord, StoreError> {
        Ok(ApiTokenRecord {
            id: ApiTokenId::stored(self.id),
            role: word(Role::parse(&self.role), "api_tokens", "role")?,
            issuer: self.issuer_id.map(IssuerId::stored),
            client_id: self.client_id.map(ClientId::stored),
            may_mass_kill: self.may_mass_kill,
            created_at: Timestamp::from_millis(self.created_at),
            expires_at: instant(self.expires_at),
            revoked_at: instant(self.revoked_at),
            rate_per_s: self.rate_per_s.map(|rate| number(rate, "api_tokens", "rate_per_s")).transpose()?,
            rotated_at: instant(self.rotated_at),
            previous_until: instant(self.previous_until),
            used_at: instant(self.used_at),
            previous_used_at: instant(self.previous_used_at),
        })
    }
}

type CreateApiToken = (ApiTokenRecord, Digest, AuditEntry);

pub(in crate::store) async fn create_api_token(
    conn: &mut Conn,
    context: &Context,
    (token, digest, audit): &CreateApiToken,
) -> Result<Ending<Change>, StoreError> {
    if let Some(id) = &token.issuer
        && issuer(conn, id).await?.is_none()
    {
        return Ok(Ending::Undo(Change::Absent));
    }
    sqlx::query(
        "INSERT INTO api_tokens (id, digest, role, issuer_id, client_id, may_mass_kill, created_at, expires_at, revoked_at, rate_per_s)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(token.id.as_str())
    .bind(digest.to_string())
    .bind(token.role.as_str())
    .bind(token.issuer.as_ref().map(IssuerId::as_str))
    .bind(token.client_id.as_ref().map(ClientId::as_str))
    .bind(token.may_mass_kill)
    .bind(token.created_at.millis())
    .bind(millis(token.expires_at))
    .bind(millis(token.revoked_at))
    .bind(token.rate_per_s.map(i64::from))
    .execute(&mut *conn)
    .await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Created))
}

/// The token one of whose two secrets has this digest.
pub(in crate::store) async fn api_token(conn: &mut Conn, digest: Digest) -> Result<Option<ShownApiToken>, StoreError> {
    #[derive(sqlx::FromRow)]
    struct Row {
        digest: String,
        #[sqlx(flatten)]
        token: ApiTokenRow,
    }
    let mut sql = Builder::new(format!("SELECT digest, {API_TOKEN} FROM api_tokens WHERE digest = "));
    sql.push_bind(digest.to_string()).push(" OR previous_digest = ").push_bind(digest.to_string());
    let row: Option<Row> = sql.build_query_as().fetch_optional(conn).await?;
    let shown = |Row { digest: current, token }| {
        let edition = if current == digest.to_string() { Edition::Current } else { Edition::Previous };
        Ok(ShownApiToken { record: token.into_record()?, edition })
    };
    row.map(shown).transpose()
}

/// The token of this identity, whatever became of it.
pub(in crate::store) async fn api_token_named(conn: &mut Conn, id: &ApiTokenId) -> Result<Option<ApiTokenRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {API_TOKEN} FROM api_tokens WHERE id = "));
    sql.push_bind(id.as_str().to_owned());
    let row: Option<ApiTokenRow> = sql.build_query_as().fetch_optional(conn).await?;
    row.map(ApiTokenRow::into_record).transpose()
}

pub(in crate::store) async fn api_tokens(
    conn: &mut Conn,
    issuer: Option<&IssuerId>,
    page: &Page,
) -> Result<Listed<ApiTokenRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {API_TOKEN} FROM api_tokens WHERE 1 = 1"));
    if let Some(issuer) = issuer {
        sql.push(" AND issuer_id = ").push_bind(issuer.as_str().to_owned());
    }
    push_page(&mut sql, page, "created_at", "id");
    let rows: Vec<ApiTokenRow> = sql.build_query_as().fetch_all(conn).await?;
    let records: Vec<_> = rows.into_iter().map(ApiTokenRow::into_record).collect::<Result<_, _>>()?;
    Ok(listed(records, page, |record| Cursor { at: record.created_at, id: record.id.to_string() }))
}

/// Whether anybody holds an API token that administers and is good.
pub(in crate::store) async fn has_administrator(conn: &mut Conn, context: &Context) -> Result<bool, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let one: Option<i32> = sqlx::query_scalar(
        "SELECT 1 FROM api_tokens WHERE role = 'admin' AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1) LIMIT 1",
    )
    .bind(now.millis())
    .fetch_optional(conn)
    .await?;
    Ok(one.is_some())
}

pub(in crate::store) async fn revoke_api_token(
    conn: &mut Conn,
    context: &Context,
    (id, audit): &(ApiTokenId, AuditEntry),
) -> Result<Ending<Change>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let revoked = sqlx::query("UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL")
        .bind(id.as_str())
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    if revoked.rows_affected() == 0 {
        return Ok(Ending::Undo(Change::Absent));
    }
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

type RotateApiToken = (ApiTokenId, Digest, Duration, AuditEntry);

/// Gives a token that is good another secret; the one before is good for the overlap, and the one before that no more.
pub(in crate::store) async fn rotate_api_token(
    conn: &mut Conn,
    context: &Context,
    (id, digest, overlap, audit): &RotateApiToken,
) -> Result<Ending<Option<ApiTokenRecord>>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let until = (!overlap.is_zero()).then(|| now.plus(*overlap));
    let rotated = sqlx::query(
        "UPDATE api_tokens
            SET previous_digest = CASE WHEN $4 > $3 THEN digest END, previous_until = CASE WHEN $4 > $3 THEN $4 END,
                previous_used_at = CASE WHEN $4 > $3 THEN used_at END, digest = $2, rotated_at = $3, used_at = NULL
          WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)",
    )
    .bind(id.as_str())
    .bind(digest.to_string())
    .bind(now.millis())
    .bind(until.unwrap_or(now).millis())
    .execute(&mut *conn)
    .await?;
    if rotated.rows_affected() == 0 {
        return Ok(Ending::Undo(None));
    }
    record(conn, context, audit).await?;
    Ok(Ending::Keep(api_token(conn, *digest).await?.map(|shown| shown.record)))
}

/// Writes down that a secret of a token was shown, unless it is another one by now.
pub(in crate::store) async fn saw_api_token(
    conn: &mut Conn,
    _: &Context,
    (ShownApiToken { record, edition }, at): &(ShownApiToken, Timestamp),
) -> Result<Ending<()>, StoreError> {
    let statement = match edition {
        Edition::Current => {
            "UPDATE api_tokens SET used_at = $2 WHERE id = $1 AND COALESCE(rotated_at, 0) = $3 AND (used_at IS NULL OR used_at < $2)"
        }
        Edition::Previous => {
            "UPDATE api_tokens SET previous_used_at = $2
              WHERE id = $1 AND COALESCE(rotated_at, 0) = $3 AND (previous_used_at IS NULL OR previous_used_at < $2)"
        }
    };
    let rotated_at = record.rotated_at.map_or(0, Timestamp::millis);
    let seen = sqlx::query(statement).bind(record.id.as_str()).bind(at.millis()).bind(rotated_at).execute(conn).await?;
    Ok(if seen.rows_affected() == 0 { Ending::Undo(()) } else { Ending::Keep(()) })
}

/// Writes an audit record in the transaction of what it records, with what proves that this server wrote it.
pub(super) async fn record(conn: &mut Conn, context: &Context, entry: &AuditEntry) -> Result<(), StoreError> {
    let at = dialect::now(conn, &context.clock).await?;
    let AuditEntry { act, caller, actor, issuer, event, detail } = entry.clone();
    let (id, role): (AuditId, _) = (context.entropy.id(at), caller.role.as_str().to_owned());
    let record = AuditRecord { id, at, act, caller: caller.identity, role, actor, remote: caller.remote, issuer, event, detail };
    let Proof { salts, mac, .. } = context.prover.prove(&record);
    sqlx::query(
        "INSERT INTO audit (id, at, act, caller, role, actor, remote, issuer_id, event_id, detail, salts, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(record.id.as_str())
    .bind(record.at.millis())
    .bind(record.act.as_str())
    .bind(&record.caller)
    .bind(&record.role)
    .bind(record.actor.as_deref())
    .bind(record.remote.as_deref())
    .bind(record.issuer.as_ref().map(IssuerId::as_str))
    .bind(record.event.as_ref().map(EventId::as_str))
    .bind(&record.detail)
    .bind(audit::places_text(&salts))
    .bind(mac.map(|mac| mac.to_string()))
    .execute(conn)
    .await?;
    Ok(())
}
