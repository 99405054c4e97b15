//! Lanes that wait: open, parked, paused; and what expires in them. A lane that is simply well has no row.

use std::time::Duration;

use super::{Builder, Conn, corrupt, count, deliveries, dialect, instant, millis, number, push_list};
use crate::model::client::DeliverySettings;
use crate::model::delivery::Lane;
use crate::model::lane::{LaneChange, LaneRecord};
use crate::model::{ClientId, DeliveryId, EventId, IssuerId, Timestamp};
use crate::store::{Context, Ending, LaneNote, LaneSettings, Oldest, Passed, StoreError};

/// How many lanes may be out of order at once.
const RECORDS_MAX: i64 = 65_536;

#[derive(sqlx::FromRow)]
struct Row {
    lane: String,
    paused_at: Option<i64>,
    failing_since: Option<i64>,
    parked_at: Option<i64>,
    probe_at: Option<i64>,
    probes: i64,
    closed_at: Option<i64>,
}

pub(in crate::store) async fn records(conn: &mut Conn) -> Result<Vec<LaneRecord>, StoreError> {
    let rows: Vec<Row> =
        sqlx::query_as("SELECT lane, paused_at, failing_since, parked_at, probe_at, probes, closed_at FROM lanes ORDER BY lane LIMIT $1")
            .bind(RECORDS_MAX)
            .fetch_all(conn)
            .await?;
    let record = |row: Row| {
        Ok(LaneRecord {
            lane: Lane::stored(row.lane),
            paused_at: instant(row.paused_at),
            failing_since: instant(row.failing_since),
            parked_at: instant(row.parked_at),
            probe_at: instant(row.probe_at),
            probes: number(row.probes, "lanes", "probes")?,
            closed_at: instant(row.closed_at),
        })
    };
    rows.into_iter().map(record).collect()
}

/// Issuer, client, how many at once, how many in a second, where.
type SettingsRow = (String, String, i64, Option<i64>, Option<String>);

pub(in crate::store) async fn settings(conn: &mut Conn, of: &[Lane]) -> Result<Vec<LaneSettings>, StoreError> {
    let mut found = Vec::with_capacity(of.len());
    let wanted: Vec<_> = of.iter().filter_map(Lane::parties).collect();
    for chunk in wanted.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new(
            "SELECT issuer_id, client_id, max_in_flight, rate_per_s, backchannel_logout_uri FROM clients WHERE (issuer_id, client_id) IN (",
        );
        sql.push_values(chunk, |mut row, (issuer, client)| {
            row.push_bind(issuer.as_str().to_owned()).push_bind(client.as_str().to_owned());
        });
        sql.push(")");
        let rows: Vec<SettingsRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for (issuer, client, max_in_flight, rate_per_s, uri) in rows {
            found.push(LaneSettings {
                lane: Lane::stored(format!("{issuer}/{client}")),
                max_in_flight: number(max_in_flight, "clients", "max_in_flight")?,
                rate_per_s: rate_per_s.map(|rate| number(rate, "clients", "rate_per_s")).transpose()?,
                uri: uri.map(|uri| uri.parse().map_err(|_| corrupt("clients", "backchannel_logout_uri"))).transpose()?,
            });
        }
    }
    let providers: Vec<IssuerId> = of.iter().filter_map(Lane::provider).collect();
    for chunk in providers.chunks(super::ROWS_MAX) {
        let settings = super::provider::settings(conn, chunk).await?;
        found.extend(settings.into_iter().map(|(issuer, logout)| LaneSettings {
            lane: Lane::of_provider(&issuer),
            max_in_flight: logout.max_in_flight,
            rate_per_s: logout.rate_per_s,
            uri: Some(logout.url().clone()),
        }));
        found.extend(revoking(conn, chunk).await?);
    }
    Ok(found)
}

/// The lanes of providers that are told of revoked tokens and of nothing else.
async fn revoking(conn: &mut Conn, issuers: &[IssuerId]) -> Result<Vec<LaneSettings>, StoreError> {
    let mut sql = Builder::new("SELECT id, revocation FROM issuers WHERE revocation IS NOT NULL AND provider_logout IS NULL AND id IN ");
    push_list(&mut sql, issuers.iter().map(IssuerId::as_str));
    let rows: Vec<(String, String)> = sql.build_query_as().fetch_all(conn).await?;
    let settings = |(id, text): (String, String)| {
        let uri = super::policies::read_endpoint(&text, None)?.url;
        let (lane, max_in_flight) = (Lane::of_provider(&IssuerId::stored(id)), DeliverySettings::DEFAULT.max_in_flight);
        Ok(LaneSettings { lane, max_in_flight, rate_per_s: None, uri })
    };
    rows.into_iter().map(settings).collect()
}

const OPEN: &str = "INSERT INTO lanes (lane, issuer_id, client_id, probe_at, failing_since) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (lane) DO UPDATE
       SET probe_at = excluded.probe_at, probes = 0, failing_since = COALESCE(lanes.failing_since, excluded.failing_since)
     WHERE lanes.probe_at IS NULL";
const FAILING: &str = "INSERT INTO lanes (lane, issuer_id, client_id, probe_at, failing_since) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (lane) DO UPDATE SET failing_since = excluded.failing_since WHERE lanes.failing_since IS NULL";
const PARK: &str = "INSERT INTO lanes (lane, issuer_id, client_id, probe_at, failing_since, parked_at) VALUES ($1, $2, $3, $4, $5, $5)
    ON CONFLICT (lane) DO UPDATE
       SET parked_at = excluded.parked_at, probe_at = COALESCE(lanes.probe_at, excluded.probe_at),
           failing_since = COALESCE(lanes.failing_since, excluded.failing_since)
     WHERE lanes.parked_at IS NULL";
const CLOSE: &str = "UPDATE lanes
       SET closed_at = CASE WHEN probe_at IS NULL THEN closed_at ELSE $2 END, probe_at = NULL, probes = 0, failing_since = NULL,
           parked_at = NULL, told = 0
     WHERE lane = $1 AND (probe_at IS NOT NULL OR failing_since IS NOT NULL OR parked_at IS NOT NULL)";
const ALIVE: &str =
    "UPDATE lanes SET closed_at = $2, probe_at = NULL, probes = 0 WHERE lane = $1 AND probe_at IS NOT NULL AND parked_at IS NULL";

pub(in crate::store) async fn note(
    conn: &mut Conn,
    _: &Context,
    (notes, now): &(Vec<LaneNote>, Timestamp),
) -> Result<Ending<Vec<bool>>, StoreError> {
    let mut changed = Vec::with_capacity(notes.len());
    for one in notes {
        changed.push(note_one(conn, one, *now).await?);
    }
    Ok(Ending::Keep(changed))
}

async fn note_one(conn: &mut Conn, note: &LaneNote, now: Timestamp) -> Result<bool, StoreError> {
    let (text, probe_at, failing_since) = match note.change {
        LaneChange::Open { failing } => (OPEN, Some(note.probe_at), failing.then_some(now)),
        LaneChange::Failing => (FAILING, None, Some(now)),
        LaneChange::Park => (PARK, Some(note.probe_at), Some(now)),
        LaneChange::Close => return close(conn, CLOSE, note, now).await,
        LaneChange::Alive => return close(conn, ALIVE, note, now).await,
    };
    // A provider's lane is nobody's client's: an empty name stands for it.
    let parties = note.lane.parties().or_else(|| Some((note.lane.provider()?, ClientId::stored(String::new()))));
    let done = sqlx::query(text)
        .bind(note.lane.as_str())
        .bind(parties.as_ref().map(|(issuer, _)| issuer.as_str()))
        .bind(parties.as_ref().map(|(_, client)| client.as_str()))
        .bind(millis(probe_at))
        .bind(millis(failing_since))
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

async fn close(conn: &mut Conn, text: &'static str, note: &LaneNote, now: Timestamp) -> Result<bool, StoreError> {
    let done = sqlx::query(text).bind(note.lane.as_str()).bind(now.millis()).execute(&mut *conn).await?;
    let closed = done.rows_affected() > 0;
    if closed {
        for lane in &note.hasten {
            deliveries::hasten(conn, lane, now).await?;
        }
    }
    Ok(closed)
}

pub(in crate::store) async fn park(
    conn: &mut Conn,
    _: &Context,
    (since, now): &(Timestamp, Timestamp),
) -> Result<Ending<Vec<Lane>>, StoreError> {
    let parked: Vec<String> = sqlx::query_scalar(
        "UPDATE lanes SET parked_at = $2, probe_at = COALESCE(probe_at, $2)
          WHERE failing_since <= $1 AND parked_at IS NULL AND issuer_id IS NOT NULL
            AND EXISTS (SELECT 1 FROM deliveries AS d WHERE d.state = 'pending' AND d.lane = lanes.lane)
      RETURNING lane",
    )
    .bind(since.millis())
    .bind(now.millis())
    .fetch_all(conn)
    .await?;
    Ok(Ending::Keep(parked.into_iter().map(Lane::stored).collect()))
}

/// By an index on when deliveries were written, two seeks for each lane that is out of order. A join would leave it to the planner to read all
/// deliveries instead.
const OLDEST: &str = "
    SELECT l.lane, l.told, l.parked_at,
           (SELECT o.horizon_at FROM deliveries AS o WHERE o.state = 'pending' AND o.lane = l.lane ORDER BY o.created_at, o.id LIMIT 1),
           (SELECT o.horizon_ms FROM deliveries AS o WHERE o.state = 'pending' AND o.lane = l.lane ORDER BY o.created_at, o.id LIMIT 1)
      FROM lanes AS l
     WHERE l.issuer_id IS NOT NULL AND COALESCE(l.failing_since, l.parked_at, l.probe_at, l.paused_at) IS NOT NULL";

/// Lane, what was told, since when it is parked, and the oldest delivery's horizon: when and how long.
type OldestRow = (String, i64, Option<i64>, Option<i64>, Option<i64>);

pub(in crate::store) async fn oldest(conn: &mut Conn) -> Result<Vec<Oldest>, StoreError> {
    let rows: Vec<OldestRow> = sqlx::query_as(OLDEST).fetch_all(conn).await?;
    let pending = rows.into_iter().filter_map(|(lane, told, parked_at, at, ms)| Some((lane, told, parked_at, at?, ms?)));
    let oldest = |(lane, told, parked_at, horizon_at, horizon_ms)| {
        Ok(Oldest {
            lane: Lane::stored(lane),
            told: number(told, "lanes", "told")?,
            parked_at: instant(parked_at),
            horizon_at: Timestamp::from_millis(horizon_at),
            horizon: Duration::from_millis(count(horizon_ms)),
        })
    };
    pending.map(oldest).collect()
}

pub(in crate::store) async fn told(conn: &mut Conn, _: &Context, (lane, percent): &(Lane, u8)) -> Result<Ending<bool>, StoreError> {
    let done = sqlx::query("UPDATE lanes SET told = $2 WHERE lane = $1 AND told < $2")
        .bind(lane.as_str())
        .bind(i64::from(*percent))
        .execute(conn)
        .await?;
    Ok(Ending::Keep(done.rows_affected() > 0))
}

pub(in crate::store) async fn forget(
    conn: &mut Conn,
    _: &Context,
    (closed_before, probed_before): &(Timestamp, Timestamp),
) -> Result<Ending<u64>, StoreError> {
    // A lane that closed is remembered until everybody has seen it; one that nobody probes any more has nothing left to deliver.
    let done = sqlx::query(
        "DELETE FROM lanes
          WHERE paused_at IS NULL AND parked_at IS NULL
            AND ((probe_at IS NULL AND failing_since IS NULL AND (closed_at IS NULL OR closed_at < $1)) OR probe_at < $2)",
    )
    .bind(closed_before.millis())
    .bind(probed_before.millis())
    .execute(conn)
    .await?;
    Ok(Ending::Keep(done.rows_affected()))
}

/// Pending, and in nobody's hands.
pub(super) const PASSED: &str = "SELECT id FROM deliveries
      WHERE state = 'pending' AND horizon_at <= $1 AND (lease_until IS NULL OR lease_until <= $1) ORDER BY horizon_at LIMIT $2";

#[derive(sqlx::FromRow)]
struct PassedRow {
    id: String,
    event_id: String,
    client_id: String,
    lane: String,
    attempts: i64,
    created_at: i64,
}

pub(in crate::store) async fn expire(
    conn: &mut Conn,
    _: &Context,
    (now, limit): &(Timestamp, u16),
) -> Result<Ending<Vec<Passed>>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{PASSED}{}", dialect::SKIP_LOCKED)))
        .bind(now.millis())
        .bind(i64::from(*limit))
        .fetch_all(&mut *conn)
        .await?;
    let mut passed = Vec::with_capacity(ids.len());
    for ids in ids.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("UPDATE deliveries SET state = 'expired', reason = 'horizon', settled_at = ");
        sql.push_bind(now.millis()).push(", lease_token = NULL, lease_until = NULL, reopened_token = NULL WHERE id IN ");
        push_list(&mut sql, ids.iter().map(String::as_str));
        // Whoever claimed it or opened it again meanwhile has it.
        sql.push(" AND state = 'pending' AND horizon_at <= ").push_bind(now.millis());
        sql.push(" AND (lease_until IS NULL OR lease_until <= ").push_bind(now.millis());
        sql.push(") RETURNING id, event_id, client_id, lane, attempts, created_at");
        let rows: Vec<PassedRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
        super::revocation_notices::drop_tokens(conn, rows.iter().map(|row| row.id.as_str())).await?;
        for row in rows {
            passed.push(Passed {
                delivery: DeliveryId::stored(row.id),
                event: EventId::stored(row.event_id),
                client_id: ClientId::stored(row.client_id),
                lane: Lane::stored(row.lane),
                attempts: number(row.attempts, "deliveries", "attempts")?,
                created_at: Timestamp::from_millis(row.created_at),
            });
        }
    }
    Ok(Ending::Keep(passed))
}
