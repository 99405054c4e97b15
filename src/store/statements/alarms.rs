//! What somebody must look at, and whether he was told.
//!
//! An open alarm is one of its kind about one thing, whoever raises it. Whom it is to be told is not known here; when, is `due_at`, which whoever tells it
//! moves ahead before he begins, so that two do not tell the same at once and one who dies is followed by another.

use std::time::Duration;

use super::{
    Builder, Conn, corrupt, count, dialect, instant, listed as cut, number, push_equal, push_list, push_page, push_text, registry, word,
};
use crate::model::alarm::{AlarmKind, AlarmRecord, AlarmState, Difference, Raised, trial};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::{AlarmId, IssuerId, Timestamp};
use crate::store::{AlarmFilter, AuditEntry, Context, Ending, StoreError, Telling};

const COLUMNS: &str = "id, kind, issuer_id, about, message, first_at, last_at, seen, cleared_at, told_at, tellings, attempts";

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    kind: String,
    issuer_id: String,
    about: String,
    message: String,
    first_at: i64,
    last_at: i64,
    seen: i64,
    cleared_at: Option<i64>,
    told_at: Option<i64>,
    tellings: i64,
    attempts: i64,
}

impl Row {
    fn into_record(self) -> Result<AlarmRecord, StoreError> {
        Ok(AlarmRecord {
            id: AlarmId::stored(self.id),
            kind: word(AlarmKind::parse(&self.kind), "alarms", "kind")?,
            issuer: Some(self.issuer_id).filter(|id| !id.is_empty()).map(IssuerId::stored),
            about: self.about,
            message: self.message,
            first_at: Timestamp::from_millis(self.first_at),
            last_at: Timestamp::from_millis(self.last_at),
            count: count(self.seen),
            cleared_at: instant(self.cleared_at),
            told_at: instant(self.told_at),
            tellings: number(self.tellings, "alarms", "tellings")?,
            attempts: number(self.attempts, "alarms", "attempts")?,
        })
    }
}

fn records(rows: Vec<Row>) -> Result<Vec<AlarmRecord>, StoreError> {
    rows.into_iter().map(Row::into_record).collect()
}

/// What is open already is counted; it is told again at once only where its message changed.
const RAISE: &str = "
    INSERT INTO alarms AS a (id, kind, issuer_id, about, message, first_at, last_at, seen, tellings, attempts, due_at)
    VALUES ($1, $2, $3, $4, $5, $6, $6, $7, 0, 0, $6)
    ON CONFLICT (kind, issuer_id, about) WHERE cleared_at IS NULL DO UPDATE
       SET last_at = excluded.last_at, seen = a.seen + excluded.seen, message = excluded.message,
           due_at = CASE WHEN a.message = excluded.message THEN a.due_at ELSE excluded.due_at END
    RETURNING first_at";

pub(in crate::store) async fn raise(conn: &mut Conn, context: &Context, raised: &[Raised]) -> Result<Ending<u64>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let mut new = 0;
    // In one order, whoever raises several at once.
    let mut raised: Vec<&Raised> = raised.iter().collect();
    raised.sort_by(|a, b| (a.kind, &a.issuer, &a.about).cmp(&(b.kind, &b.issuer, &b.about)));
    for one in raised {
        new += u64::from(raise_one(conn, context, one, now).await?);
    }
    Ok(Ending::Keep(new))
}

async fn raise_one(conn: &mut Conn, context: &Context, raised: &Raised, now: Timestamp) -> Result<bool, StoreError> {
    let first_at: i64 = sqlx::query_scalar(RAISE)
        .bind(context.entropy.id::<AlarmId>(now).as_str())
        .bind(raised.kind.as_str())
        .bind(raised.issuer.as_ref().map_or("", IssuerId::as_str))
        .bind(&raised.about)
        .bind(&raised.message)
        .bind(now.millis())
        .bind(i64::try_from(raised.count).unwrap_or(i64::MAX))
        .fetch_one(conn)
        .await?;
    Ok(first_at == now.millis())
}

pub(in crate::store) async fn try_out(conn: &mut Conn, context: &Context, audit: &AuditEntry) -> Result<Ending<AlarmRecord>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let raised = trial(now);
    raise_one(conn, context, &raised, now).await?;
    registry::record(conn, context, audit).await?;
    let standing = open(conn, &[AlarmKind::Trial]).await?;
    let found = standing.into_iter().find(|alarm| alarm.about == raised.about);
    found.map(Ending::Keep).ok_or_else(|| corrupt("alarms", "about"))
}

pub(in crate::store) async fn open(conn: &mut Conn, kinds: &[AlarmKind]) -> Result<Vec<AlarmRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {COLUMNS} FROM alarms WHERE cleared_at IS NULL AND kind IN "));
    push_list(&mut sql, kinds.iter().map(|kind| kind.as_str()));
    records(sql.build_query_as().fetch_all(conn).await?)
}

type Kept = (&'static [AlarmKind], Vec<Raised>);

/// What is open and was not said again is over; what was said again, and is open with the same words, stays untouched.
pub(in crate::store) async fn keep(conn: &mut Conn, context: &Context, (kinds, wanted): &Kept) -> Result<Ending<()>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let standing = open(conn, kinds).await?;
    let Difference { over, new } = Difference::of(&standing, wanted);
    let over: Vec<&str> = over.iter().map(|alarm| alarm.id.as_str()).collect();
    for ids in over.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("UPDATE alarms SET attempts = 0, cleared_at = ");
        sql.push_bind(now.millis()).push(", due_at = ").push_bind(now.millis());
        sql.push(" WHERE cleared_at IS NULL AND id IN ");
        push_list(&mut sql, ids.iter().copied());
        sql.build().execute(&mut *conn).await?;
    }
    for one in new {
        raise_one(conn, context, one, now).await?;
    }
    Ok(Ending::Keep(()))
}

pub(in crate::store) async fn end_quiet(conn: &mut Conn, context: &Context, (): &()) -> Result<Ending<()>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let mut changed = 0;
    for kind in AlarmKind::ALL {
        let Some(after) = kind.quiet_after() else { continue };
        let done = sqlx::query(
            "UPDATE alarms SET cleared_at = $3, due_at = $3, attempts = 0 WHERE cleared_at IS NULL AND kind = $1 AND last_at < $2",
        )
        .bind(kind.as_str())
        .bind(now.minus(after).millis())
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
        changed += done.rows_affected();
    }
    Ok(if changed > 0 { Ending::Keep(()) } else { Ending::Undo(()) })
}

/// The one that waits longest.
pub(super) const DUE: &str = "SELECT id FROM alarms WHERE due_at IS NOT NULL AND due_at <= $1 ORDER BY due_at LIMIT 1";

pub(in crate::store) async fn is_due(conn: &mut Conn, context: &Context) -> Result<bool, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let due: Option<String> = sqlx::query_scalar(DUE).bind(now.millis()).fetch_optional(conn).await?;
    Ok(due.is_some())
}

pub(in crate::store) async fn take(conn: &mut Conn, context: &Context, hold: &Duration) -> Result<Ending<Option<AlarmRecord>>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let due: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{DUE}{}", dialect::SKIP_LOCKED)))
        .bind(now.millis())
        .fetch_optional(&mut *conn)
        .await?;
    let Some(id) = due else { return Ok(Ending::Undo(None)) };
    let row: Option<Row> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("UPDATE alarms SET due_at = $2 WHERE id = $1 AND due_at <= $3 RETURNING {COLUMNS}")))
            .bind(&id)
            .bind(now.plus(*hold).millis())
            .bind(now.millis())
            .fetch_optional(conn)
            .await?;
    Ok(Ending::Keep(row.map(Row::into_record).transpose()?))
}

pub(in crate::store) async fn told(
    conn: &mut Conn,
    context: &Context,
    (alarm, telling): &(AlarmRecord, Telling),
) -> Result<Ending<()>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    match telling {
        // What changed while it was being told is told again: it was over meanwhile, or speaks otherwise.
        Telling::Done { again } => {
            sqlx::query(
                "UPDATE alarms SET told_at = $2, tellings = tellings + 1, attempts = 0,
                        due_at = CASE WHEN message <> $4 OR (cleared_at IS NOT NULL AND $5) THEN $2 WHEN cleared_at IS NULL THEN $3 ELSE NULL END
                  WHERE id = $1",
            )
            .bind(alarm.id.as_str())
            .bind(now.millis())
            .bind(now.plus(*again).millis())
            .bind(&alarm.message)
            .bind(alarm.cleared_at.is_none())
            .execute(conn)
            .await?;
        }
        Telling::Failed { again } => {
            sqlx::query("UPDATE alarms SET attempts = attempts + 1, due_at = $2 WHERE id = $1")
                .bind(alarm.id.as_str())
                .bind(now.plus(*again).millis())
                .execute(conn)
                .await?;
        }
    }
    Ok(Ending::Keep(()))
}

pub(in crate::store) async fn listed(conn: &mut Conn, filter: &AlarmFilter, page: &Page) -> Result<Listed<AlarmRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {COLUMNS} FROM alarms WHERE 1 = 1"));
    if let Some(issuer) = &filter.issuer {
        push_equal(&mut sql, "issuer_id", issuer.as_str());
    }
    if let Some(kind) = filter.kind {
        push_equal(&mut sql, "kind", kind.as_str());
    }
    match filter.state {
        Some(AlarmState::Open) => push_text(&mut sql, " AND cleared_at IS NULL"),
        Some(AlarmState::Cleared) => push_text(&mut sql, " AND cleared_at IS NOT NULL"),
        None => {}
    }
    push_page(&mut sql, page, "first_at", "id");
    let alarms = records(sql.build_query_as().fetch_all(conn).await?)?;
    Ok(cut(alarms, page, |alarm| Cursor { at: alarm.first_at, id: alarm.id.to_string() }))
}
