//! Who does which chore: one row for each, taken for a while by the database's clock.

use super::{Conn, dialect};
use crate::model::{ReplicaId, Timestamp};
use crate::store::{ChoreCall, ChoreOccasion, ChoreTurn, Context, Ending, StoreError};

/// Of two that come at once the second waits for the first, and then finds its row held.
pub(in crate::store) async fn take(
    conn: &mut Conn,
    context: &Context,
    ChoreCall { name, holder, hold, occasion }: &ChoreCall,
) -> Result<Ending<ChoreTurn>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    // What was done since the schedule's last time was done for that time, by whomever.
    let undone_since = match occasion {
        ChoreOccasion::Ring => Timestamp::from_millis(i64::MAX),
        ChoreOccasion::Schedule(schedule) => schedule.last(now).unwrap_or(now),
    };
    let taken: Option<i64> = sqlx::query_scalar(
        "INSERT INTO chores AS c (name, holder, held_until) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
          WHERE (c.held_until <= $4 OR c.holder = excluded.holder) AND (c.ran_at IS NULL OR c.ran_at < $5)
         RETURNING held_until",
    )
    .bind(*name)
    .bind(holder.as_str())
    .bind(now.plus(*hold).millis())
    .bind(now.millis())
    .bind(undone_since.millis())
    .fetch_optional(&mut *conn)
    .await?;
    if taken.is_some() {
        return Ok(Ending::Keep(ChoreTurn::Ours { at: now }));
    }
    let row: Option<(i64, Option<i64>)> =
        sqlx::query_as("SELECT held_until, ran_at FROM chores WHERE name = $1").bind(*name).fetch_optional(conn).await?;
    Ok(Ending::Undo(match row {
        Some((_, Some(ran_at))) if ran_at >= undone_since.millis() => ChoreTurn::Done,
        Some((held_until, _)) => ChoreTurn::Held { left: Timestamp::from_millis(held_until).since(now) },
        None => ChoreTurn::Done,
    }))
}

/// Whether it is still the holder's; a hold that ran out is as good as before while nobody else took it.
pub(in crate::store) async fn hold_on(
    conn: &mut Conn,
    context: &Context,
    ChoreCall { name, holder, hold, .. }: &ChoreCall,
) -> Result<Ending<bool>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let held = sqlx::query("UPDATE chores SET held_until = $3 WHERE name = $1 AND holder = $2")
        .bind(*name)
        .bind(holder.as_str())
        .bind(now.plus(*hold).millis())
        .execute(conn)
        .await?;
    Ok(Ending::Keep(held.rows_affected() > 0))
}

type Ended = (&'static str, ReplicaId, Option<Timestamp>);

/// Lets go of it, and says when it was begun if it was done to its end.
pub(in crate::store) async fn let_go(conn: &mut Conn, _: &Context, (name, holder, done): &Ended) -> Result<Ending<()>, StoreError> {
    sqlx::query("UPDATE chores SET held_until = 0, ran_at = COALESCE($3, ran_at) WHERE name = $1 AND holder = $2")
        .bind(*name)
        .bind(holder.as_str())
        .bind(super::millis(*done))
        .execute(conn)
        .await?;
    Ok(Ending::Keep(()))
}
