//! Named values of the deployment.

use super::Conn;
use crate::model::Timestamp;
use crate::store::{Context, Ending, StoreError};

pub(in crate::store) async fn named(conn: &mut Conn, name: &str) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar("SELECT value FROM meta WHERE name = $1").bind(name).fetch_optional(conn).await?)
}

pub(in crate::store) async fn once(conn: &mut Conn, _: &Context, (name, value): &(String, String)) -> Result<Ending<String>, StoreError> {
    sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(value)
        .execute(&mut *conn)
        .await?;
    Ok(Ending::Keep(named(conn, name).await?.unwrap_or_else(|| value.clone())))
}

/// Puts a value in the place of the one that is expected there, and says whether it was.
pub(in crate::store) async fn swap(
    conn: &mut Conn,
    _: &Context,
    (name, before, after): &(String, String, String),
) -> Result<Ending<bool>, StoreError> {
    let swapped =
        sqlx::query("UPDATE meta SET value = $3 WHERE name = $1 AND value = $2").bind(name).bind(before).bind(after).execute(conn).await?;
    Ok(Ending::Keep(swapped.rows_affected() > 0))
}

/// Writes down that it was asked, so that a database that went read-only, or whose disk is full, is noticed: what is undone never reaches the disk. Asked
/// again within a second it writes nothing, since anybody may ask.
pub(in crate::store) async fn ping(conn: &mut Conn, context: &Context, (): &()) -> Result<Ending<()>, StoreError> {
    let now: Timestamp = super::dialect::now(conn, &context.clock).await?;
    sqlx::query(
        "INSERT INTO meta (name, value) VALUES ('ping', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value
         WHERE CAST(meta.value AS BIGINT) NOT BETWEEN $2 AND $3",
    )
    .bind(now.millis().to_string())
    .bind(now.millis() - PING_MS)
    .bind(now.millis())
    .execute(conn)
    .await?;
    Ok(Ending::Keep(()))
}

/// How long a written ping is believed, in milliseconds.
const PING_MS: i64 = 1000;
