//! Deliveries: listed, claimed, settled. A claim names its lanes and takes a few rows of each; there is no global due order to get stuck in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::residual::{self, About};
use super::{Builder, Conn, corrupt, count, dialect, instant, number, push_equal, push_list, push_page, push_text, word};
use crate::model::attempt::{AttemptRecord, Failure, OutcomeClass};
use crate::model::delivery::{
    Class, DeliveryKind, DeliveryState, DeliveryView, Lane, Leased, Opened, PriorClaim, SettledReason, Tally, Verdict,
};
use crate::model::lane::Deal;
use crate::model::page::{Cursor, Listed, Page};
use crate::model::trace::TraceContext;
use crate::model::{AttemptId, ClientId, DeliveryId, EventId, IssuerId, ParticipantId, SessionId, Sid, Subject, Timestamp};
use crate::store::{AttemptFacts, Context, DeliveryFilter, Ending, Probe, Queue, Recorded, Settlement, StoreError};

pub(super) fn delivery_word(state: &str) -> Result<DeliveryState, StoreError> {
    word(DeliveryState::parse(state), "deliveries", "state")
}

fn class_of(number: i64) -> Result<Class, StoreError> {
    match number {
        0 => Ok(Class::Compromise),
        1 => Ok(Class::Interactive),
        2 => Ok(Class::Bulk),
        _ => Err(corrupt("deliveries", "class")),
    }
}

const VIEW: &str = "id, event_id, issuer_id, session_id, kind, client_id, sid, state, reason, class, late_joiner, attempts, created_at, due_at, horizon_at, settled_at";

#[derive(sqlx::FromRow)]
struct ViewRow {
    id: String,
    event_id: String,
    issuer_id: String,
    session_id: String,
    kind: String,
    client_id: String,
    sid: Option<String>,
    state: String,
    reason: Option<String>,
    class: i64,
    late_joiner: bool,
    attempts: i64,
    created_at: i64,
    due_at: i64,
    horizon_at: i64,
    settled_at: Option<i64>,
}

impl ViewRow {
    fn into_view(self, residual_until: Option<Timestamp>) -> Result<DeliveryView, StoreError> {
        let state = delivery_word(&self.state)?;
        let is_to_client = ![DeliveryKind::Provider, DeliveryKind::Revocation].map(DeliveryKind::as_str).contains(&self.kind.as_str());
        Ok(DeliveryView {
            id: DeliveryId::stored(self.id),
            event: EventId::stored(self.event_id),
            kind: word(DeliveryKind::parse(&self.kind), "deliveries", "kind")?,
            client_id: ClientId::stored(self.client_id),
            sid: self.sid.map(Sid::stored),
            state,
            reason: self.reason.map(|reason| word(SettledReason::parse(&reason), "deliveries", "reason")).transpose()?,
            class: class_of(self.class)?,
            late_joiner: self.late_joiner,
            attempts: number(self.attempts, "deliveries", "attempts")?,
            created_at: Timestamp::from_millis(self.created_at),
            due_at: (state == DeliveryState::Pending).then(|| Timestamp::from_millis(self.due_at)),
            horizon_at: Timestamp::from_millis(self.horizon_at),
            settled_at: instant(self.settled_at),
            residual_until: residual_until.filter(|_| is_to_client),
        })
    }

    fn about(&self) -> About {
        About {
            issuer: self.issuer_id.clone(),
            client: self.client_id.clone(),
            session: self.session_id.clone(),
            committed_at: Timestamp::from_millis(self.created_at),
        }
    }
}

/// As they are shown, with what is known beside them.
async fn views(conn: &mut Conn, rows: Vec<ViewRow>) -> Result<Vec<DeliveryView>, StoreError> {
    let about: Vec<About> = rows.iter().map(ViewRow::about).collect();
    let until = residual::until(conn, &about).await?;
    rows.into_iter().zip(until).map(|(row, until)| row.into_view(until)).collect()
}

pub(in crate::store) async fn listed(conn: &mut Conn, filter: &DeliveryFilter, page: &Page) -> Result<Listed<DeliveryView>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {VIEW} FROM deliveries WHERE 1 = 1"));
    let texts = [
        // Whoever names a logout has looked whose it is; naming the issuer too would send SQLite through all of its deliveries.
        ("issuer_id", filter.issuer.as_ref().filter(|_| filter.event.is_none()).map(IssuerId::as_str)),
        ("event_id", filter.event.as_ref().map(EventId::as_str)),
        ("client_id", filter.client_id.as_ref().map(ClientId::as_str)),
        ("state", filter.state.map(DeliveryState::as_str)),
    ];
    for (column, value) in texts {
        if let Some(value) = value {
            sql.push(format!(" AND {column} = ")).push_bind(value.to_owned());
        }
    }
    if filter.to_clients {
        push_text(&mut sql, " AND kind NOT IN ('provider', 'revocation')");
    }
    if let Some(caller) = &filter.caller {
        let issuer = filter.issuer.as_ref().map_or("", IssuerId::as_str);
        sql.push(" AND event_id IN (SELECT id FROM events WHERE issuer_id = ").push_bind(issuer.to_owned());
        super::events::push_of_caller(&mut sql, caller);
        sql.push(")");
    }
    if let Some(since) = filter.since {
        sql.push(" AND created_at >= ").push_bind(since.millis());
    }
    if let Some(until) = filter.until {
        sql.push(" AND created_at < ").push_bind(until.millis());
    }
    push_page(&mut sql, page, "created_at", "id");
    let rows: Vec<ViewRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
    let views = views(conn, rows).await?;
    Ok(super::listed(views, page, |view| Cursor { at: view.created_at, id: view.id.to_string() }))
}

/// In the order in which they were settled, a delivery that was reopened at its last place.
pub(super) const SETTLED_AFTER: &str = "FROM deliveries WHERE event_id = $1 AND state <> 'pending' AND (settled_at, id) > ($2, $3)
      ORDER BY settled_at, id LIMIT $4";

pub(in crate::store) async fn settled_after(
    conn: &mut Conn,
    event: &EventId,
    after: &Cursor,
    limit: u16,
) -> Result<Vec<DeliveryView>, StoreError> {
    let rows: Vec<ViewRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT {VIEW} {SETTLED_AFTER}")))
        .bind(event.as_str())
        .bind(after.at.millis())
        .bind(&after.id)
        .bind(i64::from(limit))
        .fetch_all(&mut *conn)
        .await?;
    views(conn, rows).await
}

type OneDelivery = (DeliveryView, Vec<AttemptRecord>);

/// One statement, so that what is said of the delivery and of its attempts is said of one instant.
pub(in crate::store) async fn one(conn: &mut Conn, issuer: &IssuerId, id: &DeliveryId) -> Result<Option<OneDelivery>, StoreError> {
    let columns = VIEW.split(", ").map(|column| format!("d.{column}")).collect::<Vec<_>>().join(", ");
    let mut sql = Builder::new(format!(
        "SELECT {columns}, a.id AS attempt_id, a.number, a.started_at, a.duration_ms, a.class AS attempt_class, a.status, a.failure,
                a.remote_addr, a.jti, a.kid, a.excerpt, a.lease_lost
           FROM deliveries AS d LEFT JOIN attempts AS a ON a.delivery_id = d.id WHERE d.issuer_id = "
    ));
    sql.push_bind(issuer.as_str().to_owned()).push(" AND d.id = ").push_bind(id.as_str().to_owned());
    sql.push(" ORDER BY a.started_at, a.id LIMIT ").push_bind(ATTEMPTS_SHOWN);
    let rows: Vec<OneRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
    let (mut view, mut attempts) = (None, Vec::with_capacity(rows.len()));
    for row in rows {
        attempts.extend(row.attempt.into_record()?);
        view = Some(row.view);
    }
    let Some(view) = views(conn, view.into_iter().collect()).await?.pop() else { return Ok(None) };
    Ok(Some((view, attempts)))
}

#[derive(sqlx::FromRow)]
struct OneRow {
    #[sqlx(flatten)]
    view: ViewRow,
    #[sqlx(flatten)]
    attempt: AttemptRow,
}

/// An attempt, or nothing at all where a delivery has none yet.
#[derive(sqlx::FromRow)]
struct AttemptRow {
    attempt_id: Option<String>,
    number: Option<i64>,
    started_at: Option<i64>,
    duration_ms: Option<i64>,
    attempt_class: Option<String>,
    status: Option<i64>,
    failure: Option<String>,
    remote_addr: Option<String>,
    jti: Option<String>,
    kid: Option<String>,
    excerpt: Option<String>,
    lease_lost: Option<bool>,
}

/// How many attempts of one delivery are shown: more than a horizon holds.
const ATTEMPTS_SHOWN: i64 = 1000;

impl AttemptRow {
    fn into_record(self) -> Result<Option<AttemptRecord>, StoreError> {
        let (Some(id), Some(started_at), Some(class)) = (self.attempt_id, self.started_at, self.attempt_class) else { return Ok(None) };
        Ok(Some(AttemptRecord {
            id: AttemptId::stored(id),
            number: number(self.number.unwrap_or(0), "attempts", "number")?,
            started_at: Timestamp::from_millis(started_at),
            duration: Duration::from_millis(count(self.duration_ms.unwrap_or(0))),
            class: word(OutcomeClass::parse(&class), "attempts", "class")?,
            status: self.status.map(|status| number(status, "attempts", "status")).transpose()?,
            failure: self.failure.map(|failure| word(Failure::parse(&failure), "attempts", "failure")).transpose()?,
            remote_addr: self.remote_addr,
            jti: self.jti,
            kid: self.kid,
            excerpt: self.excerpt,
            lease_lost: self.lease_lost.unwrap_or(false),
        }))
    }
}

/// How many queues are looked at: more than a deployment has lanes, whatever their classes.
pub(super) const QUEUES_MAX: i64 = 65_536;

/// Walks from queue to queue by the index, a few seeks each: a queue with a million rows costs what a queue with one does. The three steps to the next
/// queue are spelled out: of one comparison of three columns SQLite makes a seek by the first and a walk through the rest.
pub(super) const QUEUES: &str = "
    WITH RECURSIVE queues (lane, class, retry, due_at) AS (
        SELECT * FROM (SELECT lane, class, retry, due_at FROM deliveries WHERE state = 'pending' ORDER BY lane, class, retry, due_at LIMIT 1) AS l
        UNION ALL
        SELECT d.lane, d.class, d.retry, d.due_at
          FROM queues AS l JOIN deliveries AS d ON d.id = COALESCE(
               (SELECT n.id FROM deliveries AS n WHERE n.state = 'pending' AND n.lane = l.lane AND n.class = l.class AND n.retry > l.retry
                 ORDER BY n.retry, n.due_at LIMIT 1),
               (SELECT n.id FROM deliveries AS n WHERE n.state = 'pending' AND n.lane = l.lane AND n.class > l.class
                 ORDER BY n.class, n.retry, n.due_at LIMIT 1),
               (SELECT n.id FROM deliveries AS n WHERE n.state = 'pending' AND n.lane > l.lane
                 ORDER BY n.lane, n.class, n.retry, n.due_at LIMIT 1))
    )
    SELECT lane, class, retry, due_at FROM queues AS l LIMIT $1";

pub(in crate::store) async fn queues(conn: &mut Conn) -> Result<Vec<Queue>, StoreError> {
    let rows: Vec<(String, i64, bool, i64)> = sqlx::query_as(QUEUES).bind(QUEUES_MAX).fetch_all(conn).await?;
    let queue = |(lane, class, retry, due_at)| {
        Ok(Queue { lane: Lane::stored(lane), class: class_of(class)?, retry, due_at: Timestamp::from_millis(due_at) })
    };
    rows.into_iter().map(queue).collect()
}

#[derive(sqlx::FromRow)]
struct LeasedRow {
    id: String,
    event_id: String,
    issuer_id: String,
    client_id: String,
    lane: String,
    kind: String,
    participant_id: String,
    session_id: String,
    sid: Option<String>,
    sub: Option<String>,
    class: i64,
    retry: bool,
    compromise: bool,
    occurred_at: i64,
    created_at: i64,
    horizon_at: i64,
    horizon_ms: i64,
    attempts: i64,
    recoverable: i64,
    refused: i64,
    config_fault: i64,
    redirected: i64,
    blocked: i64,
    ours: i64,
    lease_token: i64,
    lease_until: i64,
}

impl LeasedRow {
    fn into_leased(self, prior: PriorClaim) -> Result<Leased, StoreError> {
        let times = |value, column| number(value, "deliveries", column);
        Ok(Leased {
            id: DeliveryId::stored(self.id),
            event: EventId::stored(self.event_id),
            issuer: IssuerId::stored(self.issuer_id),
            client_id: ClientId::stored(self.client_id),
            lane: Lane::stored(self.lane),
            kind: word(DeliveryKind::parse(&self.kind), "deliveries", "kind")?,
            participant: ParticipantId::stored(self.participant_id),
            session: SessionId::stored(self.session_id),
            sid: self.sid.map(Sid::stored),
            sub: self.sub.map(Subject::stored),
            class: class_of(self.class)?,
            retry: self.retry,
            compromise: self.compromise,
            occurred_at: Timestamp::from_millis(self.occurred_at),
            created_at: Timestamp::from_millis(self.created_at),
            horizon_at: Timestamp::from_millis(self.horizon_at),
            // Whoever opens it again counts its patience from then on.
            prior,
            opened: if self.horizon_at - self.horizon_ms > self.created_at { Opened::Again } else { Opened::Once },
            attempts: number(self.attempts, "deliveries", "attempts")?,
            tally: Tally {
                recoverable: times(self.recoverable, "recoverable")?,
                refused: times(self.refused, "refused")?,
                config_fault: times(self.config_fault, "config_fault")?,
                redirected: times(self.redirected, "redirected")?,
                blocked: times(self.blocked, "blocked")?,
                ours: times(self.ours, "ours")?,
            },
            lease_token: self.lease_token,
            lease_until: Timestamp::from_millis(self.lease_until),
        })
    }
}

/// The rows of one queue that are due, oldest first.
pub(super) const DUE: &str = "SELECT id FROM deliveries WHERE state = 'pending' AND lane = $1 AND class = $2 AND retry = $3 AND due_at <= $4 ORDER BY due_at LIMIT $5";

/// How many queues one statement takes from.
const DEALS_MAX: usize = 64;

type Claim = (Vec<Deal>, Timestamp, Timestamp, i64);

/// A claimed row's `due_at` moves to the end of its lease: what is in flight is not due, and a lease that is lost needs nobody to give it back.
pub(in crate::store) async fn claim_due(
    conn: &mut Conn,
    _: &Context,
    (deals, now, lease_until, lease_token): &Claim,
) -> Result<Ending<Vec<Leased>>, StoreError> {
    let mut ids: Vec<Due> = Vec::new();
    for deals in deals.chunks(DEALS_MAX) {
        let mut sql = Builder::new("");
        for (position, deal) in deals.iter().enumerate() {
            sql.push(if position == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
            sql.push("SELECT id, lease_token FROM deliveries WHERE state = 'pending' AND lane = ").push_bind(deal.lane.as_str().to_owned());
            sql.push(" AND class = ").push_bind(super::joins::class_number(deal.class));
            sql.push(" AND retry = ").push_bind(deal.retry);
            sql.push(" AND due_at <= ").push_bind(now.millis());
            sql.push(" ORDER BY due_at LIMIT ").push_bind(i64::from(deal.slots));
            sql.push(dialect::SKIP_LOCKED).push(format!(") AS d{position}"));
        }
        let due: Vec<Due> = sql.build_query_as().fetch_all(&mut *conn).await?;
        ids.extend(due);
    }
    if ids.is_empty() {
        return Ok(Ending::Undo(Vec::new()));
    }
    Ok(Ending::Keep(lease(conn, &ids, *lease_until, *lease_token).await?))
}

/// A row that is due, and the lease that ran out on it, if one did.
type Due = (String, Option<i64>);

async fn lease(conn: &mut Conn, due: &[Due], lease_until: Timestamp, lease_token: i64) -> Result<Vec<Leased>, StoreError> {
    let ran_out: BTreeSet<&str> = due.iter().filter_map(|(id, lease)| lease.map(|_| id.as_str())).collect();
    let mut leased = Vec::with_capacity(due.len());
    for ids in due.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("UPDATE deliveries SET lease_token = ");
        sql.push_bind(lease_token).push(", lease_until = ").push_bind(lease_until.millis());
        sql.push(", due_at = ").push_bind(lease_until.millis()).push(" WHERE state = 'pending' AND id IN ");
        push_list(&mut sql, ids.iter().map(|(id, _)| id.as_str()));
        sql.push(
            " RETURNING id, event_id, issuer_id, client_id, lane, kind, participant_id, session_id, sid, sub, class, retry, compromise, \
             occurred_at, created_at, horizon_at, horizon_ms, attempts, recoverable, refused, config_fault, redirected, blocked, ours, lease_token, \
             lease_until",
        );
        let rows: Vec<LeasedRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for row in rows {
            let prior = if ran_out.contains(row.id.as_str()) { PriorClaim::RanOut } else { PriorClaim::Closed };
            leased.push(row.into_leased(prior)?);
        }
    }
    Ok(leased)
}

/// What may be asked before its time: it waits for nothing but the network, so that no budget of its own is used up early.
const WAITS_FOR_THE_NETWORK: &str = "lease_token IS NULL AND refused = 0 AND config_fault = 0 AND redirected = 0 AND blocked = 0";
/// How many rows that are not due are looked through for one that may be asked before its time.
const PROBES_SEEN: i64 = 64;

/// What a probe may be, class by class: what is due, oldest first, or else what waits for nothing but the network. A row that was probed moves behind the
/// others by its next due time, so that each probe is another one.
const DUE_PROBE: &str = "SELECT id, due_at, lease_token FROM deliveries WHERE state = 'pending' AND lane = $1 AND class = $2 AND retry = $3 AND due_at <= $4 ORDER BY due_at LIMIT 1";
pub(super) const EARLY_PROBE: &str = "SELECT id, due_at, lease_token, refused, config_fault, redirected, blocked FROM deliveries
      WHERE state = 'pending' AND lane = $1 AND class = $2 AND retry = $3 AND due_at > $4 ORDER BY due_at LIMIT $5";

pub(in crate::store) async fn take_probe(conn: &mut Conn, _: &Context, probe: &Probe) -> Result<Ending<Option<Leased>>, StoreError> {
    let taken = sqlx::query(
        "UPDATE lanes SET probe_at = $4, probes = probes + 1 WHERE lane = $1 AND probe_at <= $2 AND probes = $3 AND paused_at IS NULL",
    )
    .bind(probe.of.as_str())
    .bind(probe.now.millis())
    .bind(i64::from(probe.probes))
    .bind(probe.next_at.millis())
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 0 {
        return Ok(Ending::Undo(None));
    }
    let found = match probe_row(conn, probe, true).await? {
        Some(due) => Some(due),
        None => probe_row(conn, probe, false).await?,
    };
    let Some(due) = found else { return Ok(Ending::Undo(None)) };
    Ok(Ending::Keep(lease(conn, &[due], probe.lease_until, probe.lease_token).await?.pop()))
}

async fn probe_row(conn: &mut Conn, probe: &Probe, due: bool) -> Result<Option<Due>, StoreError> {
    let mut first: Option<(i64, Due)> = None;
    for (class, retry) in [(0_i64, false), (0, true), (1, false), (1, true), (2, false), (2, true)] {
        let sql = if due {
            format!("{DUE_PROBE}{}", dialect::SKIP_LOCKED)
        } else {
            format!(
                "SELECT id, due_at, lease_token FROM ({EARLY_PROBE}{}) AS early WHERE {WAITS_FOR_THE_NETWORK} ORDER BY due_at LIMIT 1",
                dialect::SKIP_LOCKED
            )
        };
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(probe.from.as_str()).bind(class).bind(retry).bind(probe.now.millis());
        let query = if due { query } else { query.bind(PROBES_SEEN) };
        let found: Option<(String, i64, Option<i64>)> = query.fetch_optional(&mut *conn).await?;
        if let Some((id, due_at, lease)) = found
            && first.as_ref().is_none_or(|(earliest, _)| due_at < *earliest)
        {
            first = Some((due_at, (id, lease)));
        }
    }
    Ok(first.map(|(_, due)| due))
}

/// Makes what waits for nothing but the network due at once, the first 500 of each class: the receiver is back.
pub(super) async fn hasten(conn: &mut Conn, lane: &Lane, now: Timestamp) -> Result<(), StoreError> {
    for class in 0..=2_i64 {
        let ids: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT id FROM deliveries WHERE state = 'pending' AND lane = $1 AND class = $2 AND retry = $3 AND due_at > $4 \
             AND {WAITS_FOR_THE_NETWORK} ORDER BY due_at LIMIT $5{}",
            dialect::SKIP_LOCKED
        )))
        .bind(lane.as_str())
        .bind(class)
        .bind(true)
        .bind(now.millis())
        .bind(HASTENED_MAX)
        .fetch_all(&mut *conn)
        .await?;
        if ids.is_empty() {
            continue;
        }
        let mut sql = Builder::new("UPDATE deliveries SET due_at = ");
        sql.push_bind(now.millis()).push(" WHERE state = 'pending' AND lease_token IS NULL AND id IN ");
        push_list(&mut sql, ids.iter().map(String::as_str));
        sql.build().execute(&mut *conn).await?;
    }
    Ok(())
}

/// How many repeats of one class are due at once when their receiver is back; later ones come in their time.
const HASTENED_MAX: i64 = 500;

pub(in crate::store) async fn attempt_facts(conn: &mut Conn, leased: &[Leased]) -> Result<Vec<AttemptFacts>, StoreError> {
    if leased.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: BTreeSet<(IssuerId, ClientId)> = leased.iter().map(|one| (one.issuer.clone(), one.client_id.clone())).collect();
    let issuers: BTreeSet<IssuerId> = wanted.iter().map(|(issuer, _)| issuer.clone()).collect();
    let clients = super::registry::clients_of(conn, &wanted.into_iter().collect::<Vec<_>>()).await?;
    let issuers = super::registry::issuers_of(conn, &issuers.into_iter().collect::<Vec<_>>()).await?;
    let mut live = live_participations(conn, leased).await?;
    let undone = undone(conn, leased).await?;
    let mut provider = super::provider::facts(conn, leased).await?;
    let mut relayed = super::relay::facts(conn, leased).await?;
    let mut revocations = super::revocation_notices::facts(conn, leased).await?;
    let traces = traces(conn, leased).await?;
    leased
        .iter()
        .enumerate()
        .map(|(position, one)| {
            let issuer =
                issuers.iter().find(|issuer| issuer.id == one.issuer).cloned().ok_or_else(|| corrupt("deliveries", "issuer_id"))?;
            let client = clients.iter().find(|client| client.issuer == one.issuer && client.client_id == one.client_id).cloned();
            let undone = undone.contains(one.id.as_str());
            Ok(AttemptFacts {
                issuer,
                client,
                live: live.remove(&position).unwrap_or_default(),
                undone,
                provider: provider.remove(&position),
                relayed: relayed.remove(one.id.as_str()),
                revocation: revocations.remove(one.id.as_str()),
                trace: traces.get(one.event.as_str()).cloned(),
            })
        })
        .collect()
}

/// The traces that their logouts belong to, by logout.
async fn traces(conn: &mut Conn, leased: &[Leased]) -> Result<BTreeMap<String, TraceContext>, StoreError> {
    let mut found = BTreeMap::new();
    for chunk in leased.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("SELECT id, traceparent, tracestate FROM events WHERE traceparent IS NOT NULL AND id IN ");
        push_list(&mut sql, chunk.iter().map(|one| one.event.as_str()));
        let rows: Vec<(String, String, Option<String>)> = sql.build_query_as().fetch_all(&mut *conn).await?;
        // One that cannot be read is of no use to anybody, and stands in nobody's way.
        found.extend(rows.into_iter().filter_map(|(id, parent, state)| Some((id, TraceContext::parse(&parent, state.as_deref())?))));
    }
    Ok(found)
}

/// Those whose logout was undone since they were opened, and that no other logout waits for.
async fn undone(conn: &mut Conn, leased: &[Leased]) -> Result<BTreeSet<String>, StoreError> {
    let mut found = BTreeSet::new();
    for chunk in leased.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("SELECT d.id FROM deliveries AS d WHERE d.id IN ");
        push_list(&mut sql, chunk.iter().map(|one| one.id.as_str()));
        push_text(&mut sql, super::works::ONLY_OF_THE_UNDONE);
        found.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?);
    }
    Ok(found)
}

type Live = Vec<(Timestamp, Option<Sid>)>;

/// The live participations each leased delivery could hit, in one statement for all of them.
async fn live_participations(conn: &mut Conn, leased: &[Leased]) -> Result<BTreeMap<usize, Live>, StoreError> {
    let mut found: BTreeMap<usize, Live> = BTreeMap::new();
    for (chunk, offset) in leased.chunks(64).zip((0..).step_by(64)) {
        let mut sql = Builder::new("");
        for (position, one) in chunk.iter().enumerate() {
            sql.push(if position == 0 { "" } else { " UNION ALL " });
            let position = i64::try_from(offset + position).unwrap_or(i64::MAX);
            sql.push(format!("SELECT * FROM (SELECT CAST({position} AS BIGINT) AS position, joined_at, sid FROM participants"));
            sql.push(" WHERE ended_at IS NULL AND issuer_id = ").push_bind(one.issuer.as_str().to_owned());
            sql.push(" AND client_id = ").push_bind(one.client_id.as_str().to_owned());
            match (&one.sub, &one.sid) {
                (Some(sub), Some(sid)) => {
                    sql.push(" AND (sub = ").push_bind(sub.as_str().to_owned());
                    sql.push(" OR sid = ").push_bind(sid.as_str().to_owned()).push(")");
                }
                (Some(sub), None) => push_equal(&mut sql, "sub", sub.as_str()),
                (None, Some(sid)) => push_equal(&mut sql, "sid", sid.as_str()),
                (None, None) => push_text(&mut sql, " AND 1 = 0"),
            }
            sql.push(" ORDER BY joined_at DESC LIMIT 10) AS live");
        }
        let rows: Vec<(i64, i64, String)> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for (position, joined_at, sid) in rows {
            let position = usize::try_from(position).map_err(|_| corrupt("participants", "joined_at"))?;
            found.entry(position).or_default().push((Timestamp::from_millis(joined_at), super::sessions::stored_sid(sid)));
        }
    }
    Ok(found)
}

/// One statement settles the batch, one records its attempts. Only the holder of the current lease changes a row; the attempt of one who lost it is
/// recorded all the same.
pub(in crate::store) async fn settle(
    conn: &mut Conn,
    _: &Context,
    (settlements, now): &(Vec<Settlement>, Timestamp),
) -> Result<Ending<Vec<Recorded>>, StoreError> {
    let mut recorded = Vec::with_capacity(settlements.len());
    for chunk in settlements.chunks(super::ROWS_MAX) {
        let held = settle_held(conn, chunk, *now).await?;
        let lost: Vec<&str> = chunk.iter().map(|one| one.delivery.as_str()).filter(|id| !held.contains_key(*id)).collect();
        let lost = events_of(conn, &lost).await?;
        insert_attempts(conn, chunk, &held).await?;
        let revocations = chunk.iter().filter(|one| one.kind == DeliveryKind::Revocation && matches!(one.verdict, Verdict::Settled { .. }));
        super::revocation_notices::drop_tokens(conn, revocations.map(|one| one.delivery.as_str())).await?;
        for one in chunk {
            let id = one.delivery.as_str();
            let Some(event) = held.get(id).or_else(|| lost.get(id)) else { continue };
            let fenced = !held.contains_key(id);
            recorded.push(Recorded { delivery: one.delivery.clone(), event: EventId::stored(event.clone()), fenced });
        }
    }
    Ok(Ending::Keep(recorded))
}

/// The HTTP status of each delivery's last attempt.
pub(in crate::store) async fn last_statuses(
    conn: &mut Conn,
    deliveries: &[DeliveryId],
) -> Result<BTreeMap<DeliveryId, Option<u16>>, StoreError> {
    let mut found = BTreeMap::new();
    for chunk in deliveries.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("SELECT a.delivery_id, a.status FROM attempts AS a WHERE a.delivery_id IN ");
        push_list(&mut sql, chunk.iter().map(DeliveryId::as_str));
        sql.push(
            " AND NOT EXISTS (SELECT 1 FROM attempts AS b WHERE b.delivery_id = a.delivery_id AND (b.started_at, b.id) > (a.started_at, a.id))",
        );
        let rows: Vec<(String, Option<i64>)> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for (delivery, status) in rows {
            let status = status.map(|status| number(status, "attempts", "status")).transpose()?;
            found.insert(DeliveryId::stored(delivery), status);
        }
    }
    Ok(found)
}

/// How many deliveries of every kind a logout has.
pub(in crate::store) async fn count_of(conn: &mut Conn, event: &EventId) -> Result<u64, StoreError> {
    let counted = sqlx::query_scalar("SELECT CAST(count(*) AS BIGINT) FROM deliveries WHERE event_id = $1");
    Ok(super::count(counted.bind(event.as_str()).fetch_one(conn).await?))
}

/// Settles what is still held, and says whose event each belongs to.
async fn settle_held(conn: &mut Conn, settlements: &[Settlement], now: Timestamp) -> Result<BTreeMap<String, String>, StoreError> {
    let mut sql = Builder::new(
        "WITH settled (settled_id, held_token, new_state, new_reason, new_due_at, new_attempts, new_recoverable, new_refused, \
         new_config_fault, new_redirected, new_blocked, new_ours, new_settled_at) AS (",
    );
    sql.push_values(settlements, |mut row, one| {
        let (state, reason, due_at, settled_at) = match &one.verdict {
            Verdict::Settled { state, reason } => (*state, Some(reason.as_str()), None, Some(now.millis())),
            Verdict::Again { due_at } => (DeliveryState::Pending, None, Some(due_at.millis()), None),
        };
        row.push_bind(one.delivery.as_str().to_owned())
            .push_bind(one.lease_token)
            .push_bind(state.as_str())
            .push_bind(reason)
            .push_bind(due_at)
            .push_bind(i64::from(one.attempts))
            .push_bind(i64::from(one.tally.recoverable))
            .push_bind(i64::from(one.tally.refused))
            .push_bind(i64::from(one.tally.config_fault))
            .push_bind(i64::from(one.tally.redirected))
            .push_bind(i64::from(one.tally.blocked))
            .push_bind(i64::from(one.tally.ours))
            .push_bind(settled_at);
    });
    // A graver logout may have opened it again while this attempt was under way: then giving up is not the last word, and the patience is new.
    let reopened = "(reopened_token IS NOT NULL AND reopened_token = held_token)";
    let goes_on = format!("({reopened} AND new_state IN ('rejected', 'expired'))");
    sql.push(format!(
        ") UPDATE deliveries
              SET state = CASE WHEN {goes_on} THEN 'pending' ELSE new_state END, reason = CASE WHEN {goes_on} THEN NULL ELSE new_reason END,
                  settled_at = CASE WHEN {goes_on} THEN NULL ELSE new_settled_at END, due_at = CASE WHEN {goes_on} THEN "
    ));
    sql.push_bind(now.millis()).push(" ELSE COALESCE(new_due_at, due_at) END, attempts = new_attempts");
    // What was opened again meanwhile was not yet attempted under its new patience.
    sql.push(format!(", retry = CASE WHEN {reopened} THEN FALSE ELSE TRUE END"));
    for tally in ["recoverable", "refused", "config_fault", "redirected", "blocked", "ours"] {
        sql.push(format!(", {tally} = CASE WHEN {reopened} THEN 0 ELSE new_{tally} END"));
    }
    sql.push(
        ", lease_token = NULL, lease_until = NULL, reopened_token = NULL
             FROM settled
            WHERE id = settled_id AND lease_token = held_token AND state = 'pending'
            RETURNING id, event_id",
    );
    let held: Vec<(String, String)> = sql.build_query_as().fetch_all(conn).await?;
    Ok(held.into_iter().collect())
}

async fn events_of(conn: &mut Conn, deliveries: &[&str]) -> Result<BTreeMap<String, String>, StoreError> {
    if deliveries.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut sql = Builder::new("SELECT id, event_id FROM deliveries WHERE id IN ");
    push_list(&mut sql, deliveries.iter().copied());
    let rows: Vec<(String, String)> = sql.build_query_as().fetch_all(conn).await?;
    Ok(rows.into_iter().collect())
}

async fn insert_attempts(conn: &mut Conn, settlements: &[Settlement], held: &BTreeMap<String, String>) -> Result<(), StoreError> {
    let attempts: Vec<(&Settlement, &AttemptRecord)> =
        settlements.iter().filter_map(|one| one.attempt.as_ref().map(|attempt| (one, attempt))).collect();
    if attempts.is_empty() {
        return Ok(());
    }
    let mut sql = Builder::new(
        "INSERT INTO attempts (id, delivery_id, number, started_at, duration_ms, class, status, failure, remote_addr, jti, kid, excerpt, \
         lease_lost) ",
    );
    sql.push_values(attempts, |mut row, (one, attempt)| {
        row.push_bind(attempt.id.as_str().to_owned())
            .push_bind(one.delivery.as_str().to_owned())
            .push_bind(i64::from(attempt.number))
            .push_bind(attempt.started_at.millis())
            .push_bind(super::duration_ms(attempt.duration))
            .push_bind(attempt.class.as_str())
            .push_bind(attempt.status.map(i64::from))
            .push_bind(attempt.failure.map(Failure::as_str))
            .push_bind(attempt.remote_addr.clone())
            .push_bind(attempt.jti.clone())
            .push_bind(attempt.kid.clone())
            .push_bind(attempt.excerpt.clone())
            .push_bind(attempt.lease_lost || !held.contains_key(one.delivery.as_str()));
    });
    // A settlement whose commit was not known to have happened is sent again.
    sql.push(" ON CONFLICT (id) DO NOTHING");
    sql.build().execute(conn).await?;
    Ok(())
}

pub(in crate::store) async fn release(
    conn: &mut Conn,
    context: &Context,
    leases: &Vec<(DeliveryId, i64)>,
) -> Result<Ending<()>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    for (id, lease_token) in leases {
        sqlx::query(
            "UPDATE deliveries SET lease_token = NULL, lease_until = NULL, due_at = $3 WHERE id = $1 AND lease_token = $2 AND state = 'pending'",
        )
        .bind(id.as_str())
        .bind(lease_token)
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    }
    Ok(Ending::Keep(()))
}
