//! What providers published when they were asked last, and what of it nobody wants.

use super::{Conn, corrupt};
use crate::model::issuer::ProviderDocument;
use crate::model::{IssuerId, Timestamp};
use crate::store::StoreError;

#[derive(sqlx::FromRow)]
struct DocumentRow {
    issuer_id: String,
    jwks_uri: String,
    metadata: Option<String>,
    jwks: String,
    fetched_at: i64,
}

pub(in crate::store) async fn document(conn: &mut Conn, issuer: &IssuerId) -> Result<Option<ProviderDocument>, StoreError> {
    let row: Option<DocumentRow> =
        sqlx::query_as("SELECT issuer_id, jwks_uri, metadata, jwks, fetched_at FROM provider_documents WHERE issuer_id = $1")
            .bind(issuer.as_str())
            .fetch_optional(conn)
            .await?;
    let document = |row: DocumentRow| {
        Ok(ProviderDocument {
            issuer: IssuerId::stored(row.issuer_id),
            jwks_uri: url::Url::parse(&row.jwks_uri).map_err(|_| corrupt("provider_documents", "jwks_uri"))?,
            metadata: row.metadata,
            jwks: row.jwks,
            fetched_at: Timestamp::from_millis(row.fetched_at),
        })
    };
    row.map(document).transpose()
}

/// What was fetched later stays, whoever writes last.
pub(super) async fn remember(conn: &mut Conn, document: &ProviderDocument) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO provider_documents (issuer_id, jwks_uri, metadata, jwks, fetched_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (issuer_id) DO UPDATE
            SET jwks_uri = excluded.jwks_uri, metadata = excluded.metadata, jwks = excluded.jwks, fetched_at = excluded.fetched_at
          WHERE provider_documents.fetched_at <= excluded.fetched_at",
    )
    .bind(document.issuer.as_str())
    .bind(document.jwks_uri.as_str())
    .bind(document.metadata.as_deref())
    .bind(&document.jwks)
    .bind(document.fetched_at.millis())
    .execute(conn)
    .await?;
    Ok(())
}

/// The names of its keys that an operator no longer wants.
pub(in crate::store) async fn dropped(conn: &mut Conn, issuer: &IssuerId) -> Result<Vec<String>, StoreError> {
    let kids = sqlx::query_scalar("SELECT kid FROM dropped_keys WHERE issuer_id = $1 ORDER BY created_at, kid").bind(issuer.as_str());
    Ok(kids.fetch_all(conn).await?)
}
