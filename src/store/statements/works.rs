//! Works: what one transaction cannot hold, done page by page from where it stands.
//!
//! Each page is one transaction that moves the position along with what it did, so that a process may be killed between any two of them and another
//! goes on. A work that is stopped is done: its row is locked while a page runs, so that nothing happens after the stop has committed.

use super::expansion::{self, Plan, Position};
use super::operators;
use super::{Builder, Conn, dialect, push_list};
use crate::model::effects::WorkRules;
use crate::model::event::Receipt;
use crate::model::{EventId, IssuerId, SessionId, Timestamp, WorkId};
use crate::store::{Advanced, AuditEntry, Context, Ending, StoreError, WorkKind};

/// How many works are advanced in turn.
const OPEN_MAX: i64 = 32;
/// How many deliveries one page cancels.
const CANCELLED_MAX: i64 = 1000;
/// How many sessions one item names.
const ITEM_SESSIONS_MAX: usize = 100;

/// A work as a page finds it.
pub(super) struct Work {
    pub(super) id: String,
    pub(super) kind: WorkKind,
    pub(super) issuer: IssuerId,
    pub(super) event: Option<EventId>,
    pub(super) plan: String,
    pub(super) position: String,
}

/// What a page did.
#[derive(Default)]
pub(super) struct Paged {
    /// Where the next one begins; none when everything is done.
    pub(super) next: Option<String>,
    /// How many sessions and participations it ended.
    pub(super) ended: u64,
    /// How many deliveries it settled.
    pub(super) settled: u64,
}

impl Work {
    /// Reads its plan.
    pub(super) fn plan<T: serde::de::DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_str(&self.plan).map_err(|_| super::corrupt("works", "plan"))
    }

    fn event(&self) -> Result<&EventId, StoreError> {
        self.event.as_ref().ok_or_else(|| super::corrupt("works", "event_id"))
    }
}

/// Works that are not done, the oldest first.
pub(in crate::store) async fn open(conn: &mut Conn) -> Result<Vec<WorkId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM works WHERE done_at IS NULL ORDER BY created_at, id LIMIT $1")
        .bind(OPEN_MAX)
        .fetch_all(conn)
        .await?;
    Ok(ids.into_iter().map(WorkId::stored).collect())
}

/// Does one page of a work; none when it is done or gone.
pub(in crate::store) async fn advance(
    conn: &mut Conn,
    context: &Context,
    (id, rules): &(WorkId, WorkRules),
) -> Result<Ending<Option<Advanced>>, StoreError> {
    let Some(work) = held(conn, id).await? else { return Ok(Ending::Undo(None)) };
    let now = dialect::now(conn, &context.clock).await?;
    let paged = match work.kind {
        WorkKind::Expand => expand(conn, context, &work, rules, now).await?,
        WorkKind::Replay => operators::replay_page(conn, &work, rules.opening, now).await?,
        WorkKind::Cancel => cancel(conn, &work, now).await?,
    };
    // What waits for an attempt to end is not looked at again before its time.
    if paged.next.is_some() && work.kind == WorkKind::Cancel && paged.settled == 0 {
        return Ok(Ending::Undo(None));
    }
    let done_at = if paged.next.is_none() { Some(now.millis()) } else { None };
    sqlx::query("UPDATE works SET position = COALESCE($2, position), done_at = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(paged.next.as_deref())
        .bind(done_at)
        .execute(conn)
        .await?;
    Ok(Ending::Keep(Some(Advanced {
        kind: work.kind,
        event: work.event,
        ended: paged.ended,
        settled: paged.settled,
        done: paged.next.is_none(),
    })))
}

/// Holds a work until the transaction ends, so that it cannot be stopped in the middle of a page.
async fn held(conn: &mut Conn, id: &WorkId) -> Result<Option<Work>, StoreError> {
    type Row = (String, String, Option<String>, String, String);
    let mut sql = Builder::new("SELECT kind, issuer_id, event_id, plan, position FROM works WHERE done_at IS NULL AND id = ");
    sql.push_bind(id.as_str().to_owned()).push(dialect::FOR_UPDATE);
    let Some((kind, issuer, event, plan, position)): Option<Row> = sql.build_query_as().fetch_optional(conn).await? else {
        return Ok(None);
    };
    Ok(Some(Work {
        id: id.as_str().to_owned(),
        kind: super::word(WorkKind::parse(&kind), "works", "kind")?,
        issuer: IssuerId::stored(issuer),
        event: event.map(EventId::stored),
        plan,
        position,
    }))
}

async fn expand(conn: &mut Conn, context: &Context, work: &Work, rules: &WorkRules, now: Timestamp) -> Result<Paged, StoreError> {
    let plan: Plan = work.plan()?;
    let position: Position = serde_json::from_str(&work.position).map_err(|_| super::corrupt("works", "position"))?;
    let opening = if plan.is_by_age() { rules.by_age } else { rules.opening };
    let page = expansion::Page { issuer: &work.issuer, event: work.event()?, work: &work.id, now, opening };
    let (ended, next) = expansion::page(conn, context, page, &plan, &position).await?;
    Ok(Paged { next: next.as_ref().map(written), ended: ended.sessions + ended.participations, settled: 0 })
}

fn written(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plans and positions have string keys")
}

/// Writes a work that ends what its plan names.
pub(super) async fn begin_expansion(
    conn: &mut Conn,
    context: &Context,
    (issuer, event): (&IssuerId, &EventId),
    plan: &Plan,
    now: Timestamp,
) -> Result<WorkId, StoreError> {
    let begun = (WorkKind::Expand, written(plan), written(&Position::START));
    begin(conn, context, issuer, Some(event), begun, now).await
}

/// Writes a work that ends these sessions by their age.
pub(super) async fn begin_listed(
    conn: &mut Conn,
    context: &Context,
    of: (&IssuerId, &EventId),
    sessions: &[SessionId],
    at: Timestamp,
    now: Timestamp,
) -> Result<WorkId, StoreError> {
    let work = begin_expansion(conn, context, of, &Plan::listed_by_age(at), now).await?;
    let items: Vec<(i64, String)> = (0_i64..)
        .zip(sessions.chunks(ITEM_SESSIONS_MAX))
        .map(|(number, chunk)| (number, written(&chunk.iter().map(SessionId::as_str).collect::<Vec<_>>())))
        .collect();
    for chunk in items.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("INSERT INTO work_items (work_id, number, items) ");
        sql.push_values(chunk, |mut row, (number, items)| {
            row.push_bind(work.as_str().to_owned()).push_bind(*number).push_bind(items.clone());
        });
        sql.build().execute(&mut *conn).await?;
    }
    Ok(work)
}

/// Writes a work: what kind, its plan, where it begins.
pub(super) async fn begin(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    event: Option<&EventId>,
    (kind, plan, position): (WorkKind, String, String),
    now: Timestamp,
) -> Result<WorkId, StoreError> {
    let id: WorkId = context.entropy.id(now);
    sqlx::query("INSERT INTO works (id, kind, issuer_id, event_id, plan, position, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)")
        .bind(id.as_str())
        .bind(kind.as_str())
        .bind(issuer.as_str())
        .bind(event.map(EventId::as_str))
        .bind(plan)
        .bind(position)
        .bind(now.millis())
        .execute(conn)
        .await?;
    Ok(id)
}

type Undo = (IssuerId, EventId, AuditEntry);

/// Undoes a logout as far as that is possible: nothing more is ended, nobody else is told, its cut-offs are lifted. Undone once, it stays as it is.
pub(in crate::store) async fn undo(
    conn: &mut Conn,
    context: &Context,
    (issuer, event, audit): &Undo,
) -> Result<Ending<Option<Receipt>>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    // The work first: whoever runs a page of it holds its row and then counts on the event's.
    sqlx::query("UPDATE works SET done_at = $2 WHERE event_id = $1 AND kind = 'expand' AND done_at IS NULL")
        .bind(event.as_str())
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    // Whoever logs out or reports now is through or comes after: what is cancelled below is adopted by nobody, and nothing is added to it.
    dialect::own_issuer(conn, issuer).await?;
    let undone = sqlx::query("UPDATE events SET undone_at = $3 WHERE issuer_id = $1 AND id = $2 AND undone_at IS NULL")
        .bind(issuer.as_str())
        .bind(event.as_str())
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    if undone.rows_affected() == 0 {
        return Ok(Ending::Undo(super::events::receipt(conn, issuer, event).await?));
    }
    sqlx::query("UPDATE cut_offs SET lifted_at = $2 WHERE event_id = $1 AND lifted_at IS NULL")
        .bind(event.as_str())
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    cancelled(conn, event, now).await?;
    if is_waited_for(conn, event).await? {
        begin(conn, context, issuer, Some(event), (WorkKind::Cancel, "{}".to_owned(), String::new()), now).await?;
    }
    super::registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(super::events::receipt(conn, issuer, event).await?))
}

async fn cancel(conn: &mut Conn, work: &Work, now: Timestamp) -> Result<Paged, StoreError> {
    dialect::own_issuer(conn, &work.issuer).await?;
    let settled = cancelled(conn, work.event()?, now).await?;
    let next = if is_waited_for(conn, work.event()?).await? { Some(String::new()) } else { None };
    Ok(Paged { next, ended: 0, settled })
}

/// ` AND …` over `deliveries AS d`: opened before its logout was undone, and waited for by no other.
pub(super) const ONLY_OF_THE_UNDONE: &str = "
        AND EXISTS (SELECT 1 FROM events AS own WHERE own.id = d.event_id AND own.undone_at IS NOT NULL AND d.horizon_at - d.horizon_ms <= own.undone_at)
        AND NOT EXISTS (SELECT 1 FROM adoptions AS a JOIN events AS e ON e.id = a.event_id WHERE a.delivery_id = d.id AND e.undone_at IS NULL)";

/// Whether anything is still to be cancelled: what is being sent just now ends first.
async fn is_waited_for(conn: &mut Conn, event: &EventId) -> Result<bool, StoreError> {
    let mut sql = Builder::new("SELECT CAST(1 AS BIGINT) FROM deliveries AS d WHERE d.state = 'pending' AND d.event_id = ");
    sql.push_bind(event.as_str().to_owned()).push(ONLY_OF_THE_UNDONE).push(" LIMIT 1");
    Ok(sql.build_query_scalar::<i64>().fetch_optional(conn).await?.is_some())
}

/// Cancels what an undone logout has not sent yet, as far as no other logout waits for it. What is being sent just now is left: it ends as it ends,
/// and is not tried again.
async fn cancelled(conn: &mut Conn, event: &EventId, now: Timestamp) -> Result<u64, StoreError> {
    let mut sql = Builder::new("SELECT d.id FROM deliveries AS d WHERE d.state = 'pending' AND d.event_id = ");
    sql.push_bind(event.as_str().to_owned()).push(" AND (d.lease_token IS NULL OR d.lease_until <= ").push_bind(now.millis());
    sql.push(")").push(ONLY_OF_THE_UNDONE).push(" LIMIT ").push_bind(CANCELLED_MAX);
    let ids: Vec<String> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    let mut settled = 0;
    for chunk in ids.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new(
            "UPDATE deliveries SET state = 'cancelled', reason = 'undone', lease_token = NULL, lease_until = NULL, settled_at = ",
        );
        sql.push_bind(now.millis()).push(" WHERE state = 'pending' AND (lease_token IS NULL OR lease_until <= ").push_bind(now.millis());
        sql.push(") AND id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        settled += sql.build().execute(&mut *conn).await?.rows_affected();
        super::revocation_notices::drop_tokens(conn, chunk.iter().map(String::as_str)).await?;
    }
    Ok(settled)
}
