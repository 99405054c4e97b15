//! The account of deliveries: how many were ever written, how many were forgotten.
//!
//! Every transaction that writes or forgets some adds an entry of its own, so that no two wait for one row. What the account says and what is in the
//! table are compared at one instant, by one statement: a delivery that is lost shows, whoever lost it.

use super::deliveries::delivery_word;
use super::{Builder, Conn, count, dialect, instant, push_list};
use crate::model::delivery::SettledReason;
use crate::model::{EntryId, Timestamp};
use crate::store::{Census, Context, Ending, StoreError};

/// From how many entries on they are summed up.
const ENTRIES_MANY: i64 = 100;
/// How many are summed up in one transaction.
const ENTRIES_MAX: i64 = 500;

/// So many deliveries were written, all of them to be made.
pub(super) async fn enqueued(conn: &mut Conn, context: &Context, now: Timestamp, deliveries: u64) -> Result<(), StoreError> {
    context.wrote(deliveries, []);
    enter(conn, context, now, (deliveries, 0)).await
}

/// Writes deliveries, of which some may be settled at once, for these reasons. What a run that was repeated has written already is not written again,
/// nor counted.
pub(super) async fn enqueue(
    conn: &mut Conn,
    context: &Context,
    now: Timestamp,
    mut insertion: Builder,
    unreachable: &[SettledReason],
) -> Result<(), StoreError> {
    insertion.push(" ON CONFLICT (event_id, kind, participant_id) DO NOTHING");
    if unreachable.is_empty() {
        let written = insertion.build().execute(&mut *conn).await?.rows_affected();
        return enqueued(conn, context, now, written).await;
    }
    insertion.push(" RETURNING reason");
    let reasons: Vec<Option<String>> = insertion.build_query_scalar().fetch_all(&mut *conn).await?;
    let written = reasons.len() as u64;
    let settled = reasons.into_iter().flatten().filter_map(|reason| SettledReason::parse(&reason).ok());
    context.wrote(written, settled);
    enter(conn, context, now, (written, 0)).await
}

/// So many of them were forgotten, having been kept long enough.
pub(super) async fn forgotten(conn: &mut Conn, context: &Context, now: i64, deliveries: u64) -> Result<(), StoreError> {
    enter(conn, context, Timestamp::from_millis(now), (0, deliveries)).await
}

async fn enter(conn: &mut Conn, context: &Context, now: Timestamp, (enqueued, forgotten): (u64, u64)) -> Result<(), StoreError> {
    if enqueued == 0 && forgotten == 0 {
        return Ok(());
    }
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    sqlx::query("INSERT INTO delivery_entries (id, enqueued, forgotten) VALUES ($1, $2, $3)")
        .bind(context.entropy.id::<EntryId>(now).as_str())
        .bind(signed(enqueued))
        .bind(signed(forgotten))
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether there are many entries.
pub(in crate::store) async fn is_long(conn: &mut Conn) -> Result<bool, StoreError> {
    let found: Option<i64> = sqlx::query_scalar("SELECT CAST(1 AS BIGINT) FROM delivery_entries ORDER BY id LIMIT 1 OFFSET $1")
        .bind(ENTRIES_MANY - 1)
        .fetch_optional(conn)
        .await?;
    Ok(found.is_some())
}

/// Puts one entry in the place of many. Two who do so at once take different ones, or one of them none.
pub(in crate::store) async fn balance(conn: &mut Conn, context: &Context, (): &()) -> Result<Ending<()>, StoreError> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM delivery_entries ORDER BY id LIMIT $1").bind(ENTRIES_MAX).fetch_all(&mut *conn).await?;
    if i64::try_from(ids.len()).unwrap_or(i64::MAX) < ENTRIES_MANY {
        return Ok(Ending::Undo(()));
    }
    let mut sql = Builder::new("DELETE FROM delivery_entries WHERE id IN ");
    push_list(&mut sql, ids.iter().map(String::as_str));
    sql.push(" RETURNING enqueued, forgotten");
    let gone: Vec<(i64, i64)> = sql.build_query_as().fetch_all(&mut *conn).await?;
    let sums = gone.into_iter().fold((0, 0), |(all, forgotten), (one, gone)| (all + count(one), forgotten + count(gone)));
    let now = dialect::now(conn, &context.clock).await?;
    enter(conn, context, now, sums).await?;
    Ok(Ending::Keep(()))
}

/// One statement, and so one instant on either engine. Settled deliveries are counted by an index alone; of those that wait there are few.
pub(super) const CENSUS: &str = "
    SELECT 'state' AS what, state AS name, CAST(count(*) AS BIGINT) AS number FROM deliveries GROUP BY state
     UNION ALL SELECT 'enqueued', '', CAST(COALESCE(sum(enqueued), 0) AS BIGINT) FROM delivery_entries
     UNION ALL SELECT 'forgotten', '', CAST(COALESCE(sum(forgotten), 0) AS BIGINT) FROM delivery_entries
     UNION ALL SELECT 'oldest', '', min(created_at) FROM deliveries WHERE state = 'pending'";

pub(in crate::store) async fn census(conn: &mut Conn) -> Result<Census, StoreError> {
    let rows: Vec<(String, String, Option<i64>)> = sqlx::query_as(CENSUS).fetch_all(conn).await?;
    let mut census = Census::default();
    for (what, name, number) in rows {
        match (what.as_str(), number) {
            ("state", Some(number)) => census.by_state.push((delivery_word(&name)?, count(number))),
            ("enqueued", Some(number)) => census.enqueued = count(number),
            ("forgotten", Some(number)) => census.forgotten = count(number),
            (_, number) => census.oldest_pending = instant(number),
        }
    }
    Ok(census)
}
