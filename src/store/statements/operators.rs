//! What operators do with lanes and deliveries: hold them, look at them, open them again, cancel them.
//!
//! What was settled is opened again as the same delivery, with new patience and its attempts counted on. Many are opened in pages: a transaction holds
//! up all others on SQLite, so each is bounded, in the rows it changes and in those it looks at.

use std::collections::BTreeSet;

use super::deliveries::delivery_word;
use super::registry::{self, clients_of};
use super::works::{self, Paged, Work};
use super::{Builder, Conn, corrupt, count, dialect, instant, push_list, word};
use crate::model::client::ClientRecord;
use crate::model::delivery::{Class, DeliveryKind, DeliveryState, DeliveryView, Lane, SettledReason};
use crate::model::effects::{Opening, OpeningRule, Told};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::provider_logout::ProviderLogout;
use crate::model::trigger::Reason;
use crate::model::{ClientId, DeliveryId, IssuerId, Sid, Subject, Timestamp, WorkId};
use crate::store::values::Candidate;
use crate::store::{AuditEntry, Cancelled, Change, Context, Ending, Forecast, LaneView, Replay, Replayed, Retried, StoreError, WorkKind};

type OfClient = (IssuerId, ClientId, AuditEntry);

/// A second pause changes nothing and is not on record: the lane is held since the first.
pub(in crate::store) async fn pause(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &OfClient,
) -> Result<Ending<Option<Timestamp>>, StoreError> {
    dialect::share_issuer(conn, issuer).await?;
    if registry::client(conn, issuer, id).await?.is_none() {
        return Ok(Ending::Undo(None));
    }
    let lane = Lane::of(issuer, id);
    let held = sqlx::query(
        "INSERT INTO lanes (lane, issuer_id, client_id, paused_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (lane) DO UPDATE SET paused_at = excluded.paused_at WHERE lanes.paused_at IS NULL",
    )
    .bind(lane.as_str())
    .bind(issuer.as_str())
    .bind(id.as_str())
    .bind(dialect::now(conn, &context.clock).await?.millis())
    .execute(&mut *conn)
    .await?;
    if held.rows_affected() > 0 {
        registry::record(conn, context, audit).await?;
    }
    let since: Option<i64> =
        sqlx::query_scalar("SELECT paused_at FROM lanes WHERE lane = $1").bind(lane.as_str()).fetch_one(&mut *conn).await?;
    Ok(Ending::Keep(instant(since)))
}

pub(in crate::store) async fn resume(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &OfClient,
) -> Result<Ending<Change>, StoreError> {
    dialect::share_issuer(conn, issuer).await?;
    if registry::client(conn, issuer, id).await?.is_none() {
        return Ok(Ending::Undo(Change::Absent));
    }
    let freed = sqlx::query("UPDATE lanes SET paused_at = NULL WHERE lane = $1 AND paused_at IS NOT NULL")
        .bind(Lane::of(issuer, id).as_str())
        .execute(&mut *conn)
        .await?;
    if freed.rows_affected() > 0 {
        registry::record(conn, context, audit).await?;
    }
    Ok(Ending::Keep(Change::Replaced))
}

/// Under the issuer's own lock, so that no token is registered beside it. The registration and its version stay as they are: a PUT neither notices a
/// suspension nor ends it.
pub(in crate::store) async fn suspend(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &OfClient,
) -> Result<Ending<Option<Timestamp>>, StoreError> {
    dialect::own_issuer(conn, issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    match registry::client(conn, issuer, id).await? {
        None => Ok(Ending::Undo(None)),
        Some(ClientRecord { suspended_at: Some(since), .. }) => Ok(Ending::Undo(Some(since))),
        Some(ClientRecord { suspended_at: None, .. }) => {
            sqlx::query("UPDATE clients SET suspended_at = $3 WHERE issuer_id = $1 AND client_id = $2")
                .bind(issuer.as_str())
                .bind(id.as_str())
                .bind(now.millis())
                .execute(&mut *conn)
                .await?;
            registry::record(conn, context, audit).await?;
            Ok(Ending::Keep(Some(now)))
        }
    }
}

pub(in crate::store) async fn unsuspend(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &OfClient,
) -> Result<Ending<Change>, StoreError> {
    dialect::own_issuer(conn, issuer).await?;
    match registry::client(conn, issuer, id).await? {
        None => Ok(Ending::Undo(Change::Absent)),
        Some(ClientRecord { suspended_at: None, .. }) => Ok(Ending::Undo(Change::Replaced)),
        Some(ClientRecord { suspended_at: Some(_), .. }) => {
            sqlx::query("UPDATE clients SET suspended_at = NULL WHERE issuer_id = $1 AND client_id = $2")
                .bind(issuer.as_str())
                .bind(id.as_str())
                .execute(&mut *conn)
                .await?;
            registry::record(conn, context, audit).await?;
            Ok(Ending::Keep(Change::Replaced))
        }
    }
}

pub(in crate::store) async fn record(conn: &mut Conn, context: &Context, audit: &AuditEntry) -> Result<Ending<()>, StoreError> {
    registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(()))
}

/// Reads what is pending in one lane, and nothing of any other.
pub(super) const FORECAST: &str = "
    SELECT CAST(count(*) AS BIGINT) AS pending, min(horizon_at) AS first, max(horizon_at) AS last,
           CAST(COALESCE(sum(CASE WHEN horizon_at < $2 THEN 1 ELSE 0 END), 0) AS BIGINT) AS soon,
           CAST(COALESCE(sum(CASE WHEN horizon_at < $3 THEN 1 ELSE 0 END), 0) AS BIGINT) AS later,
           CAST(COALESCE(sum(CASE WHEN horizon_at < $4 THEN 1 ELSE 0 END), 0) AS BIGINT) AS at_last,
           (SELECT l.paused_at FROM lanes AS l WHERE l.lane = $1) AS paused_at
      FROM deliveries WHERE state = 'pending' AND lane = $1";

#[derive(sqlx::FromRow)]
struct ForecastRow {
    pending: i64,
    first: Option<i64>,
    last: Option<i64>,
    soon: i64,
    later: i64,
    at_last: i64,
    paused_at: Option<i64>,
}

pub(in crate::store) async fn forecast(conn: &mut Conn, lane: &Lane, at: [Timestamp; 3]) -> Result<Forecast, StoreError> {
    let mut query = sqlx::query_as(FORECAST).bind(lane.as_str());
    for instant in at {
        query = query.bind(instant.millis());
    }
    let row: ForecastRow = query.fetch_one(conn).await?;
    let expiring = at.into_iter().zip([row.soon, row.later, row.at_last].map(count)).collect();
    Ok(Forecast {
        paused_at: instant(row.paused_at),
        pending: count(row.pending),
        first_expires_at: instant(row.first),
        last_expires_at: instant(row.last),
        expiring,
    })
}

#[derive(sqlx::FromRow)]
struct LaneRow {
    lane: String,
    pending: i64,
    oldest: Option<i64>,
    in_flight: i64,
    paused_at: Option<i64>,
    parked_at: Option<i64>,
    failing_since: Option<i64>,
    probe_at: Option<i64>,
}

impl LaneRow {
    fn into_view(self) -> LaneView {
        LaneView {
            lane: Lane::stored(self.lane),
            pending: count(self.pending),
            oldest: instant(self.oldest),
            in_flight: count(self.in_flight),
            paused_at: instant(self.paused_at),
            parked_at: instant(self.parked_at),
            failing_since: instant(self.failing_since),
            probe_at: instant(self.probe_at),
        }
    }
}

fn push_lanes(sql: &mut Builder, lanes: &[Lane], now: Timestamp) {
    sql.push("WITH wanted (lane) AS (");
    sql.push_values(lanes, |mut row, lane| {
        row.push_bind(lane.as_str().to_owned());
    });
    sql.push(
        ") SELECT wanted.lane,
               (SELECT CAST(count(*) AS BIGINT) FROM deliveries AS d WHERE d.state = 'pending' AND d.lane = wanted.lane) AS pending,
               (SELECT d.created_at FROM deliveries AS d WHERE d.state = 'pending' AND d.lane = wanted.lane ORDER BY d.created_at LIMIT 1) AS oldest,
               (SELECT CAST(count(*) AS BIGINT) FROM deliveries AS d WHERE d.lease_token IS NOT NULL AND d.lane = wanted.lane AND d.lease_until > ",
    );
    sql.push_bind(now.millis());
    sql.push(
        ") AS in_flight, l.paused_at, l.parked_at, l.failing_since, l.probe_at FROM wanted LEFT JOIN lanes AS l ON l.lane = wanted.lane",
    );
}

pub(in crate::store) async fn lanes(conn: &mut Conn, lanes: &[Lane], now: Timestamp) -> Result<Vec<LaneView>, StoreError> {
    let mut views = Vec::with_capacity(lanes.len());
    for chunk in lanes.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("");
        push_lanes(&mut sql, chunk, now);
        let rows: Vec<LaneRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
        let mut found: std::collections::BTreeMap<Lane, LaneView> =
            rows.into_iter().map(LaneRow::into_view).map(|view| (view.lane.clone(), view)).collect();
        for lane in chunk {
            views.push(found.remove(lane).ok_or_else(|| corrupt("lanes", "lane"))?);
        }
    }
    Ok(views)
}

/// Walks from lane to lane by the index and takes the head of each: a lane with a million rows costs what a lane with one does.
pub(super) const OLDEST: &str = "
    WITH RECURSIVE lanes (lane) AS (
        SELECT (SELECT lane FROM deliveries WHERE state = 'pending' ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT d.lane FROM deliveries AS d WHERE d.state = 'pending' AND d.lane > l.lane ORDER BY d.lane LIMIT 1)
          FROM lanes AS l WHERE l.lane IS NOT NULL
    ), heads (id) AS (
        SELECT (SELECT d.id FROM deliveries AS d WHERE d.state = 'pending' AND d.lane = l.lane ORDER BY d.created_at LIMIT 1)
          FROM lanes AS l WHERE l.lane IS NOT NULL
    )
    SELECT o.client_id, o.created_at
      FROM heads AS l
      JOIN deliveries AS o ON o.id = l.id
      JOIN clients AS r ON r.issuer_id = o.issuer_id AND r.client_id = o.client_id
     WHERE o.issuer_id = $1 AND r.deleted_at IS NULL AND (o.created_at, o.client_id) > ($2, $3)
     ORDER BY o.created_at, o.client_id LIMIT $4";

/// The clients nothing waits for, by name.
pub(super) const IDLE: &str = "
    SELECT r.client_id FROM clients AS r
     WHERE r.issuer_id = $1 AND r.client_id > $2 AND r.deleted_at IS NULL
       AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.state = 'pending' AND d.lane = r.issuer_id || '/' || r.client_id)
     ORDER BY r.client_id LIMIT $3";

/// Where those without anything pending stand in the order of age.
const NEVER: Timestamp = Timestamp::from_millis(i64::MAX);

/// The order moves while deliveries settle: who walks through the pages may see a client twice, or miss one whose oldest delivery changed meanwhile.
pub(in crate::store) async fn clients_by_oldest(
    conn: &mut Conn,
    issuer: &IssuerId,
    page: &Page,
) -> Result<Listed<ClientRecord>, StoreError> {
    let wanted = usize::from(page.limit) + 1;
    let limit = |taken: usize| i64::try_from(wanted.saturating_sub(taken)).unwrap_or(i64::MAX);
    let after = page.after.clone().unwrap_or(Cursor { at: Timestamp::from_millis(i64::MIN), id: String::new() });
    let mut order: Vec<Cursor> = Vec::with_capacity(wanted);
    if after.at < NEVER {
        let busy: Vec<(String, i64)> = sqlx::query_as(OLDEST)
            .bind(issuer.as_str())
            .bind(after.at.millis())
            .bind(after.id.as_str())
            .bind(limit(0))
            .fetch_all(&mut *conn)
            .await?;
        order.extend(busy.into_iter().map(|(id, at)| Cursor { at: Timestamp::from_millis(at), id }));
    }
    if order.len() < wanted {
        let name = if after.at < NEVER { "" } else { after.id.as_str() };
        let idle: Vec<String> =
            sqlx::query_scalar(IDLE).bind(issuer.as_str()).bind(name).bind(limit(order.len())).fetch_all(&mut *conn).await?;
        order.extend(idle.into_iter().map(|id| Cursor { at: NEVER, id }));
    }
    let Listed { items, next } = super::listed(order, page, Cursor::clone);
    let names: Vec<_> = items.iter().map(|place| (issuer.clone(), ClientId::stored(place.id.clone()))).collect();
    let mut records: std::collections::BTreeMap<String, ClientRecord> =
        clients_of(conn, &names).await?.into_iter().map(|record| (record.client_id.to_string(), record)).collect();
    Ok(Listed { items: items.iter().filter_map(|place| records.remove(&place.id)).collect(), next })
}

/// What is registered of those to whom deliveries are opened again.
struct Registered {
    clients: Vec<ClientRecord>,
    provider: Option<ProviderLogout>,
}

impl Registered {
    async fn of(conn: &mut Conn, issuer: &IssuerId, candidates: &[Candidate]) -> Result<Self, StoreError> {
        let wanted: BTreeSet<_> = candidates.iter().map(|one| (issuer.clone(), ClientId::stored(one.client_id.clone()))).collect();
        let clients = clients_of(conn, &wanted.into_iter().collect::<Vec<_>>()).await?;
        let mut providers = super::provider::settings(conn, std::slice::from_ref(issuer)).await?;
        Ok(Self { clients, provider: providers.pop().map(|(_, logout)| logout) })
    }
}

/// How a delivery would begin anew. The registration counts as it is now.
fn opening_of(one: &Candidate, registered: &Registered, rule: OpeningRule, now: Timestamp) -> Opening {
    if one.kind == DeliveryKind::Provider.as_str() {
        let pending = |logout: &ProviderLogout| Opening::Pending { horizon_at: logout.horizon_at(now) };
        return registered.provider.as_ref().map_or(Opening::Unreachable(SettledReason::NoUri), pending);
    }
    // What was to be revoked went when its delivery settled.
    if one.kind == DeliveryKind::Revocation.as_str() {
        return Opening::Unreachable(SettledReason::TokenGone);
    }
    let clients = &registered.clients;
    let client_id = ClientId::stored(one.client_id.clone());
    let (sid, sub) = (one.sid.clone().map(Sid::stored), one.sub.clone().map(Subject::stored));
    let client = clients.iter().find(|client| client.client_id == client_id);
    rule(&Told { client_id: &client_id, sid: sid.as_ref(), sub: sub.as_ref() }, client, now)
}

/// A delivery and its new end.
struct Reopened<'a> {
    id: &'a str,
    horizon_at: Timestamp,
}

/// Opens deliveries again, due at once. An attempt under way keeps its lease, and what it gives up is not given up.
fn push_reopening(sql: &mut Builder, rows: &[Reopened<'_>], class: Class, now: Timestamp) {
    sql.push("WITH opened (opened_id, new_horizon_at, new_horizon_ms) AS (");
    sql.push_values(rows, |mut row, one| {
        row.push_bind(one.id.to_owned()).push_bind(one.horizon_at.millis()).push_bind(super::duration_ms(one.horizon_at.since(now)));
    });
    sql.push(
        ") UPDATE deliveries
              SET state = 'pending', reason = NULL, settled_at = NULL, reopened_token = lease_token, retry = FALSE,
                  recoverable = 0, refused = 0, config_fault = 0, redirected = 0, blocked = 0, ours = 0,
                  horizon_at = new_horizon_at, horizon_ms = new_horizon_ms, due_at = CASE WHEN lease_token IS NULL THEN ",
    );
    sql.push_bind(now.millis()).push(" ELSE due_at END, class = ").push(match class {
        // What is more urgent stays so.
        Class::Compromise | Class::Interactive => "CASE WHEN class > 1 THEN 1 ELSE class END",
        Class::Bulk => "2",
    });
    sql.push(" FROM opened WHERE id = opened_id");
}

type Retry = (IssuerId, DeliveryId, Option<ClientId>, OpeningRule, AuditEntry);

pub(in crate::store) async fn retry(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, own, opening, audit): &Retry,
) -> Result<Ending<Retried>, StoreError> {
    dialect::share_issuer(conn, issuer).await?;
    let mut sql = Builder::new("SELECT id, kind, client_id, sid, sub, created_at, state, horizon_ms FROM deliveries WHERE issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned()).push(" AND id = ").push_bind(id.as_str().to_owned()).push(dialect::FOR_UPDATE);
    let row: Option<RetryRow> = sql.build_query_as().fetch_optional(&mut *conn).await?;
    let is_in_reach = |row: &RetryRow| own.as_ref().is_none_or(|own| own.as_str() == row.delivery.client_id);
    let Some(row) = row.filter(is_in_reach) else { return Ok(Ending::Undo(Retried::Absent)) };
    let now = dialect::now(conn, &context.clock).await?;
    let registered = Registered::of(conn, issuer, std::slice::from_ref(&row.delivery)).await?;
    let horizon_at = match (opening_of(&row.delivery, &registered, *opening, now), delivery_word(&row.state)?) {
        (Opening::Pending { horizon_at }, _) => horizon_at,
        // What waits goes on waiting: what can be sent is seen at its attempt.
        (Opening::Unreachable(_), DeliveryState::Pending) | (Opening::Untold, _) => {
            Timestamp::from_millis(now.millis().saturating_add(row.horizon_ms))
        }
        (
            Opening::Unreachable(reason),
            DeliveryState::Delivered
            | DeliveryState::Rejected
            | DeliveryState::Expired
            | DeliveryState::Superseded
            | DeliveryState::Cancelled
            | DeliveryState::Unreachable,
        ) => return Ok(Ending::Undo(Retried::CannotBeTold(reason))),
    };
    let mut sql = Builder::new("");
    push_reopening(&mut sql, &[Reopened { id: &row.delivery.id, horizon_at }], Class::Interactive, now);
    sql.build().execute(&mut *conn).await?;
    // Whoever asks by name does not wait for the next probe: in an open lane this is it.
    sqlx::query("UPDATE lanes SET probe_at = $2 WHERE lane = $1 AND probe_at > $2")
        .bind(lane_of(issuer, &row.delivery).as_str())
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    let view = view(conn, issuer, id).await?;
    record_about(conn, context, audit, &view).await?;
    Ok(Ending::Keep(Retried::Opened(Box::new(view))))
}

fn lane_of(issuer: &IssuerId, one: &Candidate) -> Lane {
    if [DeliveryKind::Provider, DeliveryKind::Revocation].map(DeliveryKind::as_str).contains(&one.kind.as_str()) {
        Lane::of_provider(issuer)
    } else {
        Lane::of(issuer, &ClientId::stored(one.client_id.clone()))
    }
}

#[derive(sqlx::FromRow)]
struct RetryRow {
    #[sqlx(flatten)]
    delivery: Candidate,
    state: String,
    horizon_ms: i64,
}

/// A delivery that is there.
async fn view(conn: &mut Conn, issuer: &IssuerId, id: &DeliveryId) -> Result<DeliveryView, StoreError> {
    let one = super::deliveries::one(conn, issuer, id).await?;
    one.map(|(view, _)| view).ok_or_else(|| corrupt("deliveries", "id"))
}

type Cancel = (IssuerId, DeliveryId, AuditEntry);

pub(in crate::store) async fn cancel(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &Cancel,
) -> Result<Ending<Cancelled>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let cancelled = sqlx::query(
        "UPDATE deliveries
            SET state = 'cancelled', reason = 'operator', settled_at = $3, lease_token = NULL, lease_until = NULL, reopened_token = NULL
          WHERE issuer_id = $1 AND id = $2 AND state = 'pending'",
    )
    .bind(issuer.as_str())
    .bind(id.as_str())
    .bind(now.millis())
    .execute(&mut *conn)
    .await?;
    if cancelled.rows_affected() == 0 {
        let found = super::deliveries::one(conn, issuer, id).await?;
        return Ok(Ending::Undo(found.map_or(Cancelled::Absent, |(view, _)| Cancelled::Settled(view.state))));
    }
    super::revocation_notices::drop_tokens(conn, std::iter::once(id.as_str())).await?;
    let view = view(conn, issuer, id).await?;
    record_about(conn, context, audit, &view).await?;
    Ok(Ending::Keep(Cancelled::Done(Box::new(view))))
}

/// Records an act with the logout the delivery is of: what was written by hand goes when the person of that logout is erased.
async fn record_about(conn: &mut Conn, context: &Context, audit: &AuditEntry, view: &DeliveryView) -> Result<(), StoreError> {
    registry::record(conn, context, &AuditEntry { event: Some(view.event.clone()), ..audit.clone() }).await
}

/// How many deliveries one transaction opens at most.
const PAGE_ROWS_MAX: usize = 1000;
/// How many rows one page of a work looks at, whether they match or not.
const LOOKED_AT_MAX: usize = 5000;

/// What an index can find: of whom, and from when to when. The states are named as the index of what was given up names them.
fn push_range(sql: &mut Builder, replay: &Replay, after: Option<&Cursor>) {
    sql.push(" WHERE issuer_id = ").push_bind(replay.issuer.as_str().to_owned());
    if let Some(client_id) = &replay.client_id {
        sql.push(" AND client_id = ").push_bind(client_id.as_str().to_owned());
    }
    if replay.states.iter().all(|state| is_given_up(*state)) {
        sql.push(" AND state IN ('rejected', 'expired', 'unreachable')");
    }
    if let Some(since) = replay.since {
        sql.push(" AND created_at >= ").push_bind(since.millis());
    }
    if let Some(until) = replay.until {
        sql.push(" AND created_at < ").push_bind(until.millis());
    }
    if let Some(after) = after {
        sql.push(" AND (created_at, id) > (").push_bind(after.at.millis()).push(", ").push_bind(after.id.clone()).push(")");
    }
}

const fn is_given_up(state: DeliveryState) -> bool {
    match state {
        DeliveryState::Rejected | DeliveryState::Expired | DeliveryState::Unreachable => true,
        DeliveryState::Pending | DeliveryState::Delivered | DeliveryState::Superseded | DeliveryState::Cancelled => false,
    }
}

/// What each row found is then asked.
fn push_match(sql: &mut Builder, replay: &Replay) {
    sql.push("state IN ");
    push_list(sql, replay.states.iter().map(|state| state.as_str()));
    sql.push(" AND settled_at <= ").push_bind(replay.settled_before.millis());
    if let Some(reason) = replay.reason {
        sql.push(" AND EXISTS (SELECT 1 FROM events AS e WHERE e.id = event_id AND e.reason = ").push_bind(reason.as_str()).push(")");
    }
}

fn count_of(replay: &Replay) -> Builder {
    let mut sql = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM deliveries");
    push_range(&mut sql, replay, None);
    sql.push(" AND ");
    push_match(&mut sql, replay);
    sql
}

pub(in crate::store) async fn matched(conn: &mut Conn, replay: &Replay) -> Result<u64, StoreError> {
    Ok(count(count_of(replay).build_query_scalar().fetch_one(conn).await?))
}

fn page_of(replay: &Replay) -> Builder {
    let mut sql = Builder::new("SELECT id, kind, client_id, sid, sub, created_at FROM deliveries");
    push_range(&mut sql, replay, None);
    sql.push(" AND ");
    push_match(&mut sql, replay);
    sql.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::try_from(PAGE_ROWS_MAX + 1).unwrap_or(i64::MAX));
    sql
}

/// The oldest that match, and one more to know whether there are more.
pub(in crate::store) async fn first_page(conn: &mut Conn, replay: &Replay) -> Result<Vec<Candidate>, StoreError> {
    Ok(page_of(replay).build_query_as().fetch_all(conn).await?)
}

type ReplayInput = (Replay, u64, Vec<Candidate>, OpeningRule, AuditEntry);

pub(in crate::store) async fn replay(
    conn: &mut Conn,
    context: &Context,
    (replay, matched, found, opening, audit): &ReplayInput,
) -> Result<Ending<Replayed>, StoreError> {
    dialect::share_issuer(conn, &replay.issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let page = found.get(..PAGE_ROWS_MAX).unwrap_or(found);
    let reopened = reopen(conn, replay, page, *opening, now).await?;
    let work = match page.last() {
        Some(last) if found.len() > PAGE_ROWS_MAX => {
            let left = (WorkKind::Replay, filter_json(replay).to_string(), position(last));
            Some(works::begin(conn, context, &replay.issuer, None, left, now).await?)
        }
        Some(_) | None => None,
    };
    let remaining = if work.is_some() { matched.saturating_sub(page.len() as u64) } else { 0 };
    let replayed = Replayed { matched: *matched, reopened, remaining, work };
    if reopened == 0 && replayed.work.is_none() {
        return Ok(Ending::Undo(replayed));
    }
    registry::record(conn, context, &with_counts(audit, replay, &replayed)).await?;
    Ok(Ending::Keep(replayed))
}

fn with_counts(audit: &AuditEntry, replay: &Replay, replayed: &Replayed) -> AuditEntry {
    let detail = serde_json::json!({
        "filter": filter_json(replay), "matched": replayed.matched, "reopened": replayed.reopened, "remaining": replayed.remaining,
        "work": replayed.work.as_ref().map(WorkId::as_str),
    });
    audit.with(detail)
}

/// Opens those that still match and whose client could be told. Whoever replays the same at the same time waits here, and finds them pending.
async fn reopen(conn: &mut Conn, replay: &Replay, page: &[Candidate], opening: OpeningRule, now: Timestamp) -> Result<u64, StoreError> {
    let registered = Registered::of(conn, &replay.issuer, page).await?;
    let open = |one: &Candidate| match opening_of(one, &registered, opening, now) {
        Opening::Pending { horizon_at } => Some(horizon_at),
        Opening::Unreachable(_) | Opening::Untold => None,
    };
    let rows: Vec<Reopened<'_>> = page.iter().filter_map(|one| open(one).map(|horizon_at| Reopened { id: &one.id, horizon_at })).collect();
    let mut reopened = 0;
    for chunk in rows.chunks(super::ROWS_MAX) {
        // In one order whoever locks them, so that two replays never wait for each other.
        let mut lock = Builder::new("SELECT id FROM deliveries WHERE id IN ");
        push_list(&mut lock, chunk.iter().map(|row| row.id));
        lock.push(" ORDER BY id").push(dialect::FOR_UPDATE);
        lock.build().fetch_all(&mut *conn).await?;
        let mut sql = Builder::new("");
        push_reopening(&mut sql, chunk, Class::Bulk, now);
        sql.push(" AND ");
        push_match(&mut sql, replay);
        reopened += sql.build().execute(&mut *conn).await?.rows_affected();
    }
    Ok(reopened)
}

fn position(last: &Candidate) -> String {
    format!("{},{}", last.created_at, last.id)
}

fn filter_json(replay: &Replay) -> serde_json::Value {
    serde_json::json!({
        "client_id": replay.client_id.as_ref().map(ClientId::as_str),
        "states": replay.states.iter().map(|state| state.as_str()).collect::<Vec<_>>(),
        "since": replay.since.map(Timestamp::millis),
        "until": replay.until.map(Timestamp::millis),
        "reason": replay.reason.map(Reason::as_str),
        "settled_before": replay.settled_before.millis(),
    })
}

/// The filter a work was begun with.
fn replay_of(work: &Work) -> Result<(Replay, Cursor), StoreError> {
    let plan: serde_json::Value = work.plan()?;
    let number = |name: &str| plan.get(name).and_then(serde_json::Value::as_i64);
    let text = |name: &str| plan.get(name).and_then(serde_json::Value::as_str);
    let states = plan.get("states").and_then(serde_json::Value::as_array).ok_or_else(|| corrupt("works", "plan"))?;
    let replay = Replay {
        issuer: work.issuer.clone(),
        client_id: text("client_id").map(|id| ClientId::stored(id.to_owned())),
        states: states
            .iter()
            .map(|state| word(DeliveryState::parse(state.as_str().unwrap_or_default()), "works", "plan"))
            .collect::<Result<_, _>>()?,
        since: instant(number("since")),
        until: instant(number("until")),
        reason: text("reason").map(|reason| word(Reason::parse(reason), "works", "plan")).transpose()?,
        settled_before: instant(number("settled_before")).ok_or_else(|| corrupt("works", "plan"))?,
    };
    let (at, id) = work.position.split_once(',').ok_or_else(|| corrupt("works", "position"))?;
    let at = at.parse().map_err(|_| corrupt("works", "position"))?;
    Ok((replay, Cursor { at: Timestamp::from_millis(at), id: id.to_owned() }))
}

#[derive(sqlx::FromRow)]
struct LookedAt {
    #[sqlx(flatten)]
    delivery: Candidate,
    matches: bool,
}

/// Looks at a bounded number of rows after the position, and whether each of them matches.
fn look(replay: &Replay, after: &Cursor) -> Builder {
    let mut sql = Builder::new("SELECT id, kind, client_id, sid, sub, created_at, CASE WHEN ");
    push_match(&mut sql, replay);
    sql.push(" THEN TRUE ELSE FALSE END AS matches FROM deliveries");
    push_range(&mut sql, replay, Some(after));
    sql.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::try_from(LOOKED_AT_MAX).unwrap_or(i64::MAX));
    sql
}

/// The next page of a replay. A row is never opened twice by the same replay: the position only moves on.
pub(super) async fn replay_page(conn: &mut Conn, work: &Work, opening: OpeningRule, now: Timestamp) -> Result<Paged, StoreError> {
    let (replay, after) = replay_of(work)?;
    dialect::share_issuer(conn, &replay.issuer).await?;
    let looked: Vec<LookedAt> = look(&replay, &after).build_query_as().fetch_all(&mut *conn).await?;
    let all = looked.len();
    let (mut page, mut seen, mut last) = (Vec::new(), 0, None);
    for LookedAt { delivery, matches } in looked {
        if page.len() == PAGE_ROWS_MAX {
            break;
        }
        seen += 1;
        last = Some(position(&delivery));
        if matches {
            page.push(delivery);
        }
    }
    reopen(conn, &replay, &page, opening, now).await?;
    let is_done = all < LOOKED_AT_MAX && seen == all;
    Ok(Paged { next: last.filter(|_| !is_done), ..Paged::default() })
}

/// The statements of this file as planners see them.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let word = || "1".to_owned();
    let (issuer, client_id, at) = (IssuerId::stored(word()), ClientId::stored(word()), Timestamp::from_millis(1));
    let given_up = vec![DeliveryState::Rejected, DeliveryState::Expired, DeliveryState::Unreachable];
    let all =
        Replay { issuer, client_id: None, states: given_up, since: None, until: None, reason: Some(Reason::Admin), settled_before: at };
    let of_client = Replay { client_id: Some(client_id), ..all.clone() };
    let since = Replay { states: vec![DeliveryState::Delivered], since: Some(at), ..all.clone() };
    let after = Cursor { at, id: word() };
    let mut lanes = Builder::new("");
    push_lanes(&mut lanes, &[Lane::stored(word())], at);
    vec![
        ("lanes", lanes),
        ("replays counted", count_of(&of_client)),
        ("replays counted since", count_of(&since)),
        ("a page of replays", page_of(&of_client)),
        ("a further page of replays", look(&all, &after)),
        ("a further page of a client's replays", look(&of_client, &after)),
    ]
}
