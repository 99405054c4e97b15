//! Signing keys from their making to their end, what is known of the provider's, and everything that is sealed.
//!
//! Whatever changes which key signs takes the issuer first, and changes its version: processes that remember its keys look again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::registry::record;
use super::{Builder, Conn, Db, corrupt, dialect, instant, millis, providers, word};
use crate::model::issuer::{IssuerRecord, ProviderDocument};
use crate::model::key::{KeyOrigin, KeyRecord, KeyState, Sighting, SigningAlg};
use crate::model::{IssuerId, Timestamp};
use crate::store::{AuditEntry, Change, Context, Ending, Resealed, SealedKind, SealedValue, StoreError};

const KEY: &str = "issuer_id, kid, alg, state, public_jwk, sealed, origin, published_kid, seen_at, last_seen_at, created_at, active_at, retired_at, \
                   withdrawn_at";

#[derive(sqlx::FromRow)]
struct KeyRow {
    issuer_id: String,
    kid: String,
    alg: String,
    state: String,
    public_jwk: String,
    sealed: String,
    origin: String,
    published_kid: Option<String>,
    seen_at: Option<i64>,
    last_seen_at: Option<i64>,
    created_at: i64,
    active_at: Option<i64>,
    retired_at: Option<i64>,
    withdrawn_at: Option<i64>,
}

impl KeyRow {
    fn into_record(self) -> Result<KeyRecord, StoreError> {
        // A withdrawn key is a retired one with one more station behind it.
        let state = match self.withdrawn_at {
            Some(_) => KeyState::Withdrawn,
            None => word(KeyState::parse(&self.state), "signing_keys", "state")?,
        };
        Ok(KeyRecord {
            issuer: IssuerId::stored(self.issuer_id),
            kid: self.kid,
            alg: word(SigningAlg::parse(&self.alg), "signing_keys", "alg")?,
            state,
            public_jwk: self.public_jwk,
            sealed: STANDARD.decode(&self.sealed).map_err(|_| corrupt("signing_keys", "sealed"))?,
            origin: word(KeyOrigin::parse(&self.origin), "signing_keys", "origin")?,
            published_kid: self.published_kid,
            seen_at: instant(self.seen_at),
            last_seen_at: instant(self.last_seen_at),
            created_at: Timestamp::from_millis(self.created_at),
            active_at: instant(self.active_at),
            retired_at: instant(self.retired_at),
            withdrawn_at: instant(self.withdrawn_at),
        })
    }
}

pub(in crate::store) async fn keys(conn: &mut Conn, issuer: &IssuerId) -> Result<Vec<KeyRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {KEY} FROM signing_keys WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" ORDER BY created_at, kid");
    let rows: Vec<KeyRow> = sql.build_query_as::<KeyRow>().fetch_all(conn).await?;
    rows.into_iter().map(KeyRow::into_record).collect()
}

/// A key that lost the race for its issuer and algorithm is dropped: the first one stays. Answers how many were written.
pub(super) async fn insert_keys(conn: &mut Conn, keys: &[KeyRecord]) -> Result<u64, StoreError> {
    let mut written = 0;
    for key in keys {
        let inserted = sqlx::query(
            "INSERT INTO signing_keys (issuer_id, kid, alg, state, public_jwk, sealed, origin, published_kid, seen_at, last_seen_at, created_at,
                                       active_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT DO NOTHING",
        )
        .bind(key.issuer.as_str())
        .bind(&key.kid)
        .bind(key.alg.as_str())
        .bind(key.state.as_str())
        .bind(&key.public_jwk)
        .bind(STANDARD.encode(&key.sealed))
        .bind(key.origin.as_str())
        .bind(key.published_kid.as_deref())
        .bind(millis(key.seen_at))
        .bind(millis(key.last_seen_at))
        .bind(key.created_at.millis())
        .bind(millis(key.active_at))
        .execute(&mut *conn)
        .await?;
        written += inserted.rows_affected();
    }
    Ok(written)
}

/// Makes whoever remembers the issuer's keys look again.
async fn touch(conn: &mut Conn, issuer: &IssuerId) -> Result<(), StoreError> {
    sqlx::query("UPDATE issuers SET version = version + 1 WHERE id = $1").bind(issuer.as_str()).execute(conn).await?;
    Ok(())
}

/// A successor waits beside the active key. Of two that are made at once the first one stays.
pub(in crate::store) async fn add_next(
    conn: &mut Conn,
    context: &Context,
    (key, audit): &(KeyRecord, AuditEntry),
) -> Result<Ending<bool>, StoreError> {
    dialect::own_issuer(conn, &key.issuer).await?;
    if insert_keys(conn, std::slice::from_ref(key)).await? == 0 {
        return Ok(Ending::Undo(false));
    }
    record(conn, context, audit).await?;
    Ok(Ending::Keep(true))
}

type Named = (IssuerId, String, AuditEntry);

/// A `next` key begins to sign; its predecessor ceases.
pub(in crate::store) async fn activate(
    conn: &mut Conn,
    context: &Context,
    (issuer, kid, audit): &Named,
) -> Result<Ending<bool>, StoreError> {
    dialect::own_issuer(conn, issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let alg: Option<String> = sqlx::query_scalar("SELECT alg FROM signing_keys WHERE issuer_id = $1 AND kid = $2 AND state = 'next'")
        .bind(issuer.as_str())
        .bind(kid)
        .fetch_optional(&mut *conn)
        .await?;
    let Some(alg) = alg else { return Ok(Ending::Undo(false)) };
    retire(conn, issuer, &alg, now).await?;
    sqlx::query("UPDATE signing_keys SET state = 'active', active_at = $3 WHERE issuer_id = $1 AND kid = $2")
        .bind(issuer.as_str())
        .bind(kid)
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    touch(conn, issuer).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(true))
}

async fn retire(conn: &mut Conn, issuer: &IssuerId, alg: &str, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE signing_keys SET state = 'retired', retired_at = $3 WHERE issuer_id = $1 AND alg = $2 AND state = 'active'")
        .bind(issuer.as_str())
        .bind(alg)
        .bind(now.millis())
        .execute(conn)
        .await?;
    Ok(())
}

/// The keys of an algorithm in these states are not published any more, and cannot sign: their private halves are gone.
async fn withdraw_all(conn: &mut Conn, issuer: &IssuerId, alg: &str, states: &[&str], now: Timestamp) -> Result<(), StoreError> {
    let mut sql = Builder::new("UPDATE signing_keys SET state = 'retired', sealed = '', retired_at = coalesce(retired_at, ");
    sql.push_bind(now.millis()).push("), withdrawn_at = ").push_bind(now.millis());
    sql.push(" WHERE issuer_id = ").push_bind(issuer.as_str().to_owned()).push(" AND alg = ").push_bind(alg.to_owned());
    sql.push(" AND state IN ");
    super::push_list(&mut sql, states.iter().copied());
    sql.build().execute(conn).await?;
    Ok(())
}

/// A key that nobody has seen takes the place of one that somebody else may have, and of its successor.
pub(in crate::store) async fn replace_at_once(
    conn: &mut Conn,
    context: &Context,
    (key, audit): &(KeyRecord, AuditEntry),
) -> Result<Ending<()>, StoreError> {
    dialect::own_issuer(conn, &key.issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    withdraw_all(conn, &key.issuer, key.alg.as_str(), &["active", "next"], now).await?;
    insert_keys(conn, std::slice::from_ref(key)).await?;
    touch(conn, &key.issuer).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(()))
}

/// Keys from outside: an active one takes the place of the one that signs; a `next` one waits beside it. Either way nothing made here follows.
pub(in crate::store) async fn import(
    conn: &mut Conn,
    context: &Context,
    (keys, audit): &(Vec<KeyRecord>, AuditEntry),
) -> Result<Ending<Change>, StoreError> {
    let Some(first) = keys.first() else { return Ok(Ending::Undo(Change::Absent)) };
    dialect::own_issuer(conn, &first.issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    for key in keys {
        withdraw_all(conn, &key.issuer, key.alg.as_str(), &["next"], now).await?;
        if key.state == KeyState::Active {
            retire(conn, &key.issuer, key.alg.as_str(), now).await?;
        }
        if insert_keys(conn, std::slice::from_ref(key)).await? == 0 {
            return Ok(Ending::Undo(Change::Conflict));
        }
    }
    touch(conn, &first.issuer).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Created))
}

/// A key that does not sign is not published any more, and its private half is gone.
pub(in crate::store) async fn withdraw(
    conn: &mut Conn,
    context: &Context,
    (issuer, kid, audit): &Named,
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let state: Option<String> =
        sqlx::query_scalar("SELECT state FROM signing_keys WHERE issuer_id = $1 AND kid = $2 AND withdrawn_at IS NULL")
            .bind(issuer.as_str())
            .bind(kid)
            .fetch_optional(&mut *conn)
            .await?;
    match state.as_deref() {
        None => return Ok(Ending::Undo(Change::Absent)),
        Some("active") => return Ok(Ending::Undo(Change::InUse)),
        Some(_) => {}
    }
    sqlx::query(
        "UPDATE signing_keys SET state = 'retired', sealed = '', retired_at = coalesce(retired_at, $3), withdrawn_at = $3
          WHERE issuer_id = $1 AND kid = $2",
    )
    .bind(issuer.as_str())
    .bind(kid)
    .bind(now.millis())
    .execute(&mut *conn)
    .await?;
    touch(conn, issuer).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

/// A withdrawn key is not remembered any more.
pub(in crate::store) async fn forget(conn: &mut Conn, _: &Context, (issuer, kid): &(IssuerId, String)) -> Result<Ending<bool>, StoreError> {
    let gone = sqlx::query("DELETE FROM signing_keys WHERE issuer_id = $1 AND kid = $2 AND withdrawn_at IS NOT NULL")
        .bind(issuer.as_str())
        .bind(kid)
        .execute(conn)
        .await?;
    Ok(Ending::Keep(gone.rows_affected() > 0))
}

type Seen = (ProviderDocument, Vec<Sighting>);

/// Keeps what a provider published, and which of our keys were among it, unless something later is kept.
pub(in crate::store) async fn saw(conn: &mut Conn, _: &Context, (document, sightings): &Seen) -> Result<Ending<bool>, StoreError> {
    dialect::own_issuer(conn, &document.issuer).await?;
    // It may have been asked for before the issuer was changed.
    if !super::registry::issuer(conn, &document.issuer).await?.is_some_and(|issuer| is_of(document, &issuer)) {
        return Ok(Ending::Undo(false));
    }
    if providers::document(conn, &document.issuer).await?.is_some_and(|kept| kept.fetched_at > document.fetched_at) {
        return Ok(Ending::Undo(false));
    }
    providers::remember(conn, document).await?;
    let mut renamed = 0;
    for Sighting { kid, found } in sightings {
        match found {
            None => {
                sqlx::query("UPDATE signing_keys SET seen_at = NULL WHERE issuer_id = $1 AND kid = $2 AND seen_at IS NOT NULL")
                    .bind(document.issuer.as_str())
                    .bind(kid)
                    .execute(&mut *conn)
                    .await?;
            }
            Some(name) => renamed += saw_one(conn, document, kid, name.as_deref()).await?,
        }
    }
    if renamed > 0 {
        touch(conn, &document.issuer).await?;
    }
    Ok(Ending::Keep(true))
}

/// Whether it was published where the issuer's provider is now, by whom the issuer names.
fn is_of(document: &ProviderDocument, issuer: &IssuerRecord) -> bool {
    let said = document.metadata.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    let of_issuer = said.as_ref().and_then(|said| said["issuer"].as_str()) == Some(issuer.issuer.as_str());
    match (&issuer.source.jwks_uri, issuer.source.discovery) {
        (Some(jwks_uri), discovery) => document.jwks_uri == *jwks_uri && (!discovery || of_issuer),
        (None, discovery) => discovery && of_issuer,
    }
}

/// Under the provider's name a key signs only where relying parties look for it there. Answers whether that name is another than before.
async fn saw_one(conn: &mut Conn, document: &ProviderDocument, kid: &str, name: Option<&str>) -> Result<u64, StoreError> {
    sqlx::query("UPDATE signing_keys SET seen_at = coalesce(seen_at, $3), last_seen_at = $3 WHERE issuer_id = $1 AND kid = $2")
        .bind(document.issuer.as_str())
        .bind(kid)
        .bind(document.fetched_at.millis())
        .execute(&mut *conn)
        .await?;
    let renamed = sqlx::query(
        "UPDATE signing_keys SET published_kid = $3
          WHERE issuer_id = $1 AND kid = $2 AND coalesce(published_kid, kid) <> $3
            AND EXISTS (SELECT 1 FROM issuers WHERE id = $1 AND published_at = 'provider')",
    )
    .bind(document.issuer.as_str())
    .bind(kid)
    .bind(name.unwrap_or(kid))
    .execute(conn)
    .await?;
    Ok(renamed.rows_affected())
}

/// Where relying parties look for keys here, ours have our names; and what another provider published says nothing about this one.
pub(super) async fn unsee(conn: &mut Conn, issuer: &IssuerId) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE signing_keys SET published_kid = NULL
          WHERE issuer_id = $1 AND published_kid IS NOT NULL AND EXISTS (SELECT 1 FROM issuers WHERE id = $1 AND published_at = 'here')",
    )
    .bind(issuer.as_str())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "UPDATE signing_keys SET seen_at = NULL, last_seen_at = NULL
          WHERE issuer_id = $1 AND last_seen_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM provider_documents WHERE issuer_id = $1)",
    )
    .bind(issuer.as_str())
    .execute(conn)
    .await?;
    Ok(())
}

/// A key of the provider's is neither published nor believed any more.
pub(in crate::store) async fn drop_provider_key(
    conn: &mut Conn,
    context: &Context,
    (issuer, kid, audit): &Named,
) -> Result<Ending<Change>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let dropped = sqlx::query("INSERT INTO dropped_keys (issuer_id, kid, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(issuer.as_str())
        .bind(kid)
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    if dropped.rows_affected() == 0 {
        return Ok(Ending::Undo(Change::Absent));
    }
    touch(conn, issuer).await?;
    record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
}

/// How many sealed values are read, or written, at once.
const SEALED_PAGE: i64 = 200;

/// Where values of one kind are.
struct Place {
    table: &'static str,
    column: &'static str,
    key: Key,
}

/// What tells one value of a kind from another.
enum Key {
    /// Its issuer, and its name there.
    Named(&'static str),
    /// Its issuer alone.
    OfIssuer,
    /// A delivery.
    OfDelivery,
    /// Its name alone.
    OfNobody(&'static str),
}

const fn place_of(kind: SealedKind) -> Place {
    let (table, column, key) = match kind {
        SealedKind::SigningKey => ("signing_keys", "sealed", Key::Named("kid")),
        SealedKind::ClientTls => ("clients", "tls_sealed", Key::Named("client_id")),
        SealedKind::ClientHeaders => ("clients", "headers_sealed", Key::Named("client_id")),
        SealedKind::ProviderSecret => ("clients", "provider_secret_sealed", Key::Named("client_id")),
        SealedKind::RefreshToken => ("refresh_tokens", "sealed", Key::Named("name")),
        SealedKind::ProviderLogout => ("issuers", "provider_logout_sealed", Key::OfIssuer),
        SealedKind::Introspection => ("issuers", "introspection_sealed", Key::OfIssuer),
        SealedKind::Revocation => ("issuers", "revocation_sealed", Key::OfIssuer),
        SealedKind::SubjectSecrets => ("issuers", "subject_secrets_sealed", Key::OfIssuer),
        SealedKind::RelayedToken => ("relayed_tokens", "sealed", Key::OfDelivery),
        SealedKind::AuditKey => ("audit_keys", "sealed", Key::OfNobody("kid")),
    };
    Place { table, column, key }
}

impl Place {
    /// What is read of it: whose it is, its name, the value.
    fn columns(&self) -> (&'static str, &'static str) {
        match self.key {
            Key::Named(name) => ("issuer_id", name),
            Key::OfIssuer => ("id", "''"),
            Key::OfNobody(name) => ("''", name),
            // Sealed for a client: the issuer's name holds no slash.
            Key::OfDelivery => ("(SELECT d.issuer_id || '/' || d.client_id FROM deliveries d WHERE d.id = delivery_id)", "delivery_id"),
        }
    }

    /// `$1` and `$2` name it, `$3` was the value and `$4` is to be.
    fn update(&self) -> String {
        let Self { table, column, .. } = self;
        let named = match self.key {
            Key::Named(name) => format!("issuer_id = $1 AND {name} = $2"),
            Key::OfIssuer => "id = $1 AND $2 = ''".to_owned(),
            Key::OfDelivery => "$1 <> '' AND delivery_id = $2".to_owned(),
            Key::OfNobody(name) => format!("$1 = '' AND {name} = $2"),
        };
        format!("UPDATE {table} SET {column} = $4 WHERE {named} AND {column} = $3")
    }
}

#[derive(sqlx::FromRow)]
struct SealedRow {
    issuer: String,
    name: String,
    sealed: String,
}

/// Sealed values of one kind, in the order of their owners and names, beyond one of them.
pub(in crate::store) async fn sealed(
    conn: &mut Conn,
    kind: SealedKind,
    after: Option<&SealedValue>,
) -> Result<Vec<SealedValue>, StoreError> {
    let place = place_of(kind);
    let (Place { table, column, .. }, (issuer, name)) = (&place, place.columns());
    let mut sql = Builder::new(format!(
        "SELECT {issuer} AS issuer, {name} AS name, {column} AS sealed FROM {table} WHERE {column} IS NOT NULL AND {column} <> ''"
    ));
    if let Some(after) = after {
        match place.key {
            Key::OfDelivery => sql.push(" AND delivery_id > ").push_bind(after.name.clone()),
            Key::OfIssuer => sql.push(" AND id > ").push_bind(after.issuer.clone()),
            Key::OfNobody(name) => sql.push(format!(" AND {name} > ")).push_bind(after.name.clone()),
            Key::Named(name) => {
                sql.push(format!(" AND (issuer_id, {name}) > (")).push_bind(after.issuer.clone());
                sql.push(", ").push_bind(after.name.clone()).push(")")
            }
        };
    }
    match place.key {
        Key::OfDelivery => sql.push(" ORDER BY delivery_id LIMIT "),
        Key::OfIssuer => sql.push(" ORDER BY id LIMIT "),
        Key::OfNobody(name) => sql.push(format!(" ORDER BY {name} LIMIT ")),
        Key::Named(name) => sql.push(format!(" ORDER BY issuer_id, {name} LIMIT ")),
    };
    sql.push_bind(SEALED_PAGE);
    let rows: Vec<SealedRow> = sql.build_query_as::<SealedRow>().fetch_all(conn).await?;
    Ok(rows.into_iter().map(|row| SealedValue { kind, issuer: row.issuer, name: row.name, sealed: row.sealed }).collect())
}

/// Writes what was sealed anew, unless it was changed meanwhile; answers how much was written.
pub(in crate::store) async fn reseal(conn: &mut Conn, _: &Context, values: &Vec<Resealed>) -> Result<Ending<u64>, StoreError> {
    let mut written = 0;
    for Resealed { of: SealedValue { kind, issuer, name, sealed }, anew } in values {
        let query = sqlx::query::<Db>(sqlx::AssertSqlSafe(place_of(*kind).update())).bind(issuer).bind(name).bind(sealed).bind(anew);
        written += query.execute(&mut *conn).await?.rows_affected();
    }
    Ok(Ending::Keep(written))
}
