//! The versions of subjects' secrets: one, and as many more as a subject's own was changed and as all of the issuer's were changed at once.

use std::collections::BTreeSet;

use super::Builder;
use super::ending::Scene;
use super::{Conn, count, registry};
use crate::model::{EventId, IssuerId, Subject};
use crate::seams::Veil;
use crate::store::{AuditEntry, Context, Ending, StoreError};

/// Which version is the current one.
pub(in crate::store) async fn version(conn: &mut Conn, veil: &Veil, issuer: &IssuerId, sub: &Subject) -> Result<u64, StoreError> {
    // Of somebody who was erased the versions are counted on under another name: none comes back.
    let veiled = veil.at(issuer).map(|veil| veil(sub.as_str()));
    let version: i64 = sqlx::query_scalar(
        "SELECT 1 + i.secrets_epoch + COALESCE((SELECT CAST(sum(s.version) AS BIGINT) FROM subject_secrets AS s
                                                 WHERE s.issuer_id = i.id AND s.sub IN ($2, $3)), 0)
           FROM issuers AS i WHERE i.id = $1",
    )
    .bind(issuer.as_str())
    .bind(sub.as_str())
    .bind(veiled)
    .fetch_one(conn)
    .await?;
    Ok(count(version))
}

/// Changes one because somebody says so.
pub(in crate::store) async fn bump(
    conn: &mut Conn,
    context: &Context,
    (issuer, sub, audit): &(IssuerId, Subject, AuditEntry),
) -> Result<Ending<u64>, StoreError> {
    sqlx::query(
        "INSERT INTO subject_secrets (issuer_id, sub, version) VALUES ($1, $2, 1)
         ON CONFLICT (issuer_id, sub) DO UPDATE SET version = subject_secrets.version + 1",
    )
    .bind(issuer.as_str())
    .bind(sub.as_str())
    .execute(&mut *conn)
    .await?;
    registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(version(conn, &context.veil, issuer, sub).await?))
}

/// Changes those of people an event is about, each once for it, where the issuer's subjects have secrets.
pub(super) async fn change(conn: &mut Conn, act: Scene<'_>, subjects: impl Iterator<Item = &Subject>) -> Result<(), StoreError> {
    // In one order, so that two events never wait for each other.
    let subjects: BTreeSet<&Subject> = subjects.collect();
    if subjects.is_empty() || !has_secrets(conn, act.issuer).await? {
        return Ok(());
    }
    let subjects: Vec<&Subject> = subjects.into_iter().collect();
    for chunk in subjects.chunks(super::ROWS_MAX) {
        put(conn, act.issuer, act.event, chunk, 1).await?;
    }
    Ok(())
}

/// Changes all of them at once, but for these people's, in constant time: theirs are counted back by what all are counted up.
pub(super) async fn change_all(conn: &mut Conn, issuer: &IssuerId, event: &EventId, spared: &[Subject]) -> Result<(), StoreError> {
    sqlx::query("UPDATE issuers SET secrets_epoch = secrets_epoch + 1 WHERE id = $1").bind(issuer.as_str()).execute(&mut *conn).await?;
    let spared: BTreeSet<&Subject> = spared.iter().collect();
    let spared: Vec<&Subject> = spared.into_iter().collect();
    if spared.is_empty() {
        return Ok(());
    }
    put(conn, issuer, event, &spared, -1).await
}

async fn has_secrets(conn: &mut Conn, issuer: &IssuerId) -> Result<bool, StoreError> {
    let known: Option<i64> =
        sqlx::query_scalar("SELECT CAST(1 AS BIGINT) FROM issuers WHERE id = $1 AND subject_secrets_sealed IS NOT NULL")
            .bind(issuer.as_str())
            .fetch_optional(conn)
            .await?;
    Ok(known.is_some())
}

async fn put(conn: &mut Conn, issuer: &IssuerId, event: &EventId, subjects: &[&Subject], by: i64) -> Result<(), StoreError> {
    let mut sql = Builder::new("INSERT INTO subject_secrets (issuer_id, sub, version, event_id) ");
    sql.push_values(subjects, |mut row, sub| {
        row.push_bind(issuer.as_str().to_owned()).push_bind(sub.as_str().to_owned()).push_bind(by).push_bind(event.as_str().to_owned());
    });
    sql.push(
        " ON CONFLICT (issuer_id, sub) DO UPDATE SET version = subject_secrets.version + excluded.version, event_id = excluded.event_id
          WHERE subject_secrets.event_id IS DISTINCT FROM excluded.event_id",
    );
    sql.build().execute(conn).await?;
    Ok(())
}
