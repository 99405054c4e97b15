//! What only PostgreSQL does: its own clock, its own locks.

use super::Conn;
use crate::model::{IssuerId, Timestamp};
use crate::seams::Clock;
use crate::store::StoreError;

/// Another claimer's rows are passed over instead of waited for.
pub(in crate::store) const SKIP_LOCKED: &str = " FOR UPDATE SKIP LOCKED";
/// Rows are held until the transaction ends: whoever wants them too waits, and then sees what became of them.
pub(in crate::store) const FOR_UPDATE: &str = " FOR UPDATE";

/// The server's clock, since replicas' clocks may differ by minutes.
pub(in crate::store) async fn now(conn: &mut Conn, clock: &Clock) -> Result<Timestamp, StoreError> {
    let millis: i64 = sqlx::query_scalar("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)").fetch_one(conn).await?;
    Ok(Timestamp::from_millis(millis.saturating_add(clock.offset_ms())))
}

pub(in crate::store) async fn share_issuer(conn: &mut Conn, issuer: &IssuerId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock_shared(hashtextextended('issuer ' || $1, 0))").bind(issuer.as_str()).execute(conn).await?;
    Ok(())
}

pub(in crate::store) async fn own_issuer(conn: &mut Conn, issuer: &IssuerId) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('issuer ' || $1, 0))").bind(issuer.as_str()).execute(conn).await?;
    Ok(())
}

/// Subjects and sessions by name, in the order of their keys, so that two transactions never wait for each other.
pub(in crate::store) async fn own_names(conn: &mut Conn, issuer: &IssuerId, names: &[String]) -> Result<(), StoreError> {
    if names.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "SELECT pg_advisory_xact_lock(k.key)
           FROM (SELECT DISTINCT hashtextextended('name ' || $1 || ' ' || n.name, 0) AS key
                   FROM unnest($2::text[]) AS n (name)
                  ORDER BY key) AS k",
    )
    .bind(issuer.as_str())
    .bind(names)
    .execute(conn)
    .await?;
    Ok(())
}
