//! The processes that share this database.

use std::time::Duration;

use super::{Conn, dialect};
use crate::model::ReplicaId;
use crate::store::{Context, Ending, StoreError};

/// Says that one lives, and asks who else was seen within that time.
pub(in crate::store) async fn beat(
    conn: &mut Conn,
    context: &Context,
    (id, within): &(ReplicaId, Duration),
) -> Result<Ending<Vec<ReplicaId>>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    sqlx::query("INSERT INTO replicas (id, seen_at) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at")
        .bind(id.as_str())
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    let live: Vec<String> = sqlx::query_scalar("SELECT id FROM replicas WHERE seen_at > $1 ORDER BY id")
        .bind(now.minus(*within).millis())
        .fetch_all(conn)
        .await?;
    Ok(Ending::Keep(live.into_iter().map(ReplicaId::stored).collect()))
}

/// One that ends on purpose is not waited for.
pub(in crate::store) async fn leave(conn: &mut Conn, _: &Context, id: &ReplicaId) -> Result<Ending<()>, StoreError> {
    sqlx::query("DELETE FROM replicas WHERE id = $1").bind(id.as_str()).execute(conn).await?;
    Ok(Ending::Keep(()))
}
