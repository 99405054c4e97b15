//! Gaps: what a restored database cannot know, from its backup to its first start.

use super::ending::{self, Scene};
use super::joins::Desk;
use super::sessions::SessionRow;
use super::{Builder, Conn, corrupt, count, dialect, expiry, instant, listed as cut, push_page, registry, word};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::effects::ProviderWord;
use crate::model::event::TARGET_RECONCILE;
use crate::model::gap::{AfterRestore, Gap, GapCause, GapClosedBy, GapSpan, OpenGaps};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::{EventId, GapId, IssuerId, SessionId, Subject, Timestamp};
use crate::store::{AuditEntry, BACKUP_TAKEN_AT, Context, Ending, GapOrder, OPEN_GAPS_MAX, StoreError};

const COLUMNS: &str = "id, issuer_id, begins_at, ends_at, cause, created_at, listed_at, closed_at, closed_by";

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    issuer_id: String,
    begins_at: i64,
    ends_at: i64,
    cause: String,
    created_at: i64,
    listed_at: Option<i64>,
    closed_at: Option<i64>,
    closed_by: Option<String>,
}

impl Row {
    fn into_gap(self) -> Result<Gap, StoreError> {
        let closed_by = self.closed_by.as_deref().map(|by| word(GapClosedBy::parse(by), "gaps", "closed_by")).transpose()?;
        Ok(Gap {
            id: GapId::stored(self.id),
            issuer: IssuerId::stored(self.issuer_id),
            begins_at: Timestamp::from_millis(self.begins_at),
            ends_at: Timestamp::from_millis(self.ends_at),
            cause: word(GapCause::parse(&self.cause), "gaps", "cause")?,
            created_at: Timestamp::from_millis(self.created_at),
            listed_at: instant(self.listed_at),
            closed: instant(self.closed_at).zip(closed_by),
        })
    }
}

/// At the start on a copy: a gap at every issuer, from when it was taken until now, and the mark is gone. Of several processes one does it.
pub(in crate::store) async fn open_after_restore(
    conn: &mut Conn,
    context: &Context,
    (): &(),
) -> Result<Ending<Option<AfterRestore>>, StoreError> {
    let taken: Option<String> =
        sqlx::query_scalar("DELETE FROM meta WHERE name = $1 RETURNING value").bind(BACKUP_TAKEN_AT).fetch_optional(&mut *conn).await?;
    let Some(taken) = taken else { return Ok(Ending::Undo(None)) };
    let now = dialect::now(conn, &context.clock).await?;
    let begins_at = taken.parse().map(Timestamp::from_millis).map_err(|_| corrupt("meta", "value"))?;
    let issuers: Vec<String> =
        sqlx::query_scalar("SELECT id FROM issuers WHERE deleted_at IS NULL ORDER BY id").fetch_all(&mut *conn).await?;
    let mut gaps = Vec::with_capacity(issuers.len());
    for issuer in issuers.into_iter().map(IssuerId::stored) {
        // A clock that was set back makes a gap no shorter.
        let gap = new(context, issuer, (begins_at, now.max(begins_at)), GapCause::Restore, now);
        insert(conn, &gap).await?;
        let detail = serde_json::json!({ "gap": gap.id.as_str(), "since": gap.begins_at.to_string(), "until": gap.ends_at.to_string() });
        let audit = AuditEntry {
            act: Act::GapOpened,
            caller: Caller::itself(&gap.issuer),
            actor: None,
            issuer: Some(gap.issuer.clone()),
            event: None,
            detail: detail.to_string(),
        };
        registry::record(conn, context, &audit).await?;
        gaps.push(gap);
    }
    let good = "SELECT CAST(count(*) AS BIGINT) FROM api_tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $1)";
    let api_tokens = count(sqlx::query_scalar(good).bind(now.millis()).fetch_one(conn).await?);
    Ok(Ending::Keep(Some(AfterRestore { gaps, api_tokens })))
}

fn new(context: &Context, issuer: IssuerId, (begins_at, ends_at): (Timestamp, Timestamp), cause: GapCause, now: Timestamp) -> Gap {
    Gap { id: context.entropy.id(now), issuer, begins_at, ends_at, cause, created_at: now, listed_at: None, closed: None }
}

async fn insert(conn: &mut Conn, gap: &Gap) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO gaps (id, issuer_id, begins_at, ends_at, cause, created_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(gap.id.as_str())
        .bind(gap.issuer.as_str())
        .bind(gap.begins_at.millis())
        .bind(gap.ends_at.millis())
        .bind(gap.cause.as_str())
        .bind(gap.created_at.millis())
        .execute(conn)
        .await?;
    Ok(())
}

/// Opens one by order, unless as many are open as there may be.
pub(in crate::store) async fn open(
    conn: &mut Conn,
    context: &Context,
    (issuer, GapOrder { since, until }, audit): &(IssuerId, GapOrder, AuditEntry),
) -> Result<Ending<Option<Gap>>, StoreError> {
    dialect::own_names(conn, issuer, &["gaps".to_owned()]).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let open: i64 = sqlx::query_scalar("SELECT CAST(count(*) AS BIGINT) FROM gaps WHERE issuer_id = $1 AND closed_at IS NULL")
        .bind(issuer.as_str())
        .fetch_one(&mut *conn)
        .await?;
    if open >= i64::from(OPEN_GAPS_MAX) {
        return Ok(Ending::Undo(None));
    }
    let gap = new(context, issuer.clone(), (*since, until.unwrap_or(now).max(*since)), GapCause::Operator, now);
    insert(conn, &gap).await?;
    registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(Some(gap)))
}

/// Closes one that is open; none where none is.
pub(in crate::store) async fn close(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &(IssuerId, GapId, AuditEntry),
) -> Result<Ending<Option<Gap>>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let mut sql = Builder::new("UPDATE gaps SET closed_by = 'operator', closed_at = ");
    sql.push_bind(now.millis()).push(" WHERE closed_at IS NULL AND issuer_id = ").push_bind(issuer.as_str().to_owned());
    super::push_equal(&mut sql, "id", id.as_str());
    sql.push(" RETURNING ").push(COLUMNS);
    let Some(row) = sql.build_query_as::<Row>().fetch_optional(&mut *conn).await? else { return Ok(Ending::Undo(None)) };
    registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(Some(row.into_gap()?)))
}

/// An issuer's gaps, newest first.
pub(in crate::store) async fn listed(conn: &mut Conn, issuer: &IssuerId, page: &Page) -> Result<Listed<Gap>, StoreError> {
    let rows: Vec<Row> = look(issuer, page).build_query_as().fetch_all(conn).await?;
    let gaps: Vec<Gap> = rows.into_iter().map(Row::into_gap).collect::<Result<_, _>>()?;
    Ok(cut(gaps, page, |gap| Cursor { at: gap.created_at, id: gap.id.to_string() }))
}

fn look(issuer: &IssuerId, page: &Page) -> Builder {
    let mut sql = Builder::new(format!("SELECT {COLUMNS} FROM gaps WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned());
    push_page(&mut sql, page, "created_at", "id");
    sql
}

/// An issuer's gaps that are open, the oldest first.
pub(in crate::store) async fn standing(conn: &mut Conn, issuer: &IssuerId) -> Result<Vec<Gap>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {COLUMNS} FROM gaps WHERE closed_at IS NULL AND issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" ORDER BY created_at, id");
    let rows: Vec<Row> = sql.build_query_as().fetch_all(conn).await?;
    rows.into_iter().map(Row::into_gap).collect()
}

/// The issuers at which gaps are open that were opened before a time, and when the last of them ended.
pub(in crate::store) async fn open_since(conn: &mut Conn, before: Timestamp) -> Result<Vec<(IssuerId, Timestamp)>, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT g.issuer_id, max(g.ends_at) FROM gaps AS g JOIN issuers AS i ON i.id = g.issuer_id
          WHERE g.closed_at IS NULL AND g.created_at <= $1 AND i.deleted_at IS NULL GROUP BY g.issuer_id ORDER BY g.issuer_id",
    )
    .bind(before.millis())
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(issuer, ends_at)| (IssuerId::stored(issuer), Timestamp::from_millis(ends_at))).collect())
}

/// Nothing is asked any more about an issuer that was deleted.
const OPEN: &str = "SELECT CAST(count(*) AS BIGINT) FROM gaps AS g JOIN issuers AS i ON i.id = g.issuer_id
     WHERE g.closed_at IS NULL AND i.deleted_at IS NULL";

/// How many are open, at all issuers.
pub(in crate::store) async fn open_now(conn: &mut Conn) -> Result<u64, StoreError> {
    Ok(super::count(sqlx::query_scalar(OPEN).fetch_one(conn).await?))
}

/// How long the open gaps of an issuer lasted; none where none is open.
pub(in crate::store) async fn open_at(conn: &mut Conn, issuer: &IssuerId) -> Result<Option<OpenGaps>, StoreError> {
    let (ends_at, unlisted_ends_at): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT max(ends_at), max(CASE WHEN listed_at IS NULL THEN ends_at END) FROM gaps WHERE issuer_id = $1 AND closed_at IS NULL",
    )
    .bind(issuer.as_str())
    .fetch_one(conn)
    .await?;
    Ok(instant(ends_at).map(|ends_at| OpenGaps { ends_at, unlisted_ends_at: instant(unlisted_ends_at) }))
}

/// The time that the open gaps of an issuer lasted; none where none is open.
pub(super) async fn span(conn: &mut Conn, issuer: &IssuerId) -> Result<Option<GapSpan>, StoreError> {
    let (begins_at, ends_at): (Option<i64>, Option<i64>) =
        sqlx::query_as("SELECT min(begins_at), max(ends_at) FROM gaps WHERE issuer_id = $1 AND closed_at IS NULL")
            .bind(issuer.as_str())
            .fetch_one(conn)
            .await?;
    Ok(instant(begins_at).zip(instant(ends_at)).map(|(begins_at, ends_at)| GapSpan { begins_at, ends_at }))
}

/// Ends a session that a gap hid, for a later login that has its name. The name is locked, and so nobody joins under it. Nobody is told: a token would name
/// the new login too.
pub(super) async fn make_room(conn: &mut Conn, desk: Desk<'_>, row: &SessionRow, started_at: Timestamp) -> Result<(), StoreError> {
    let owned: Vec<Subject> = row.sub.clone().map(Subject::stored).into_iter().collect();
    let session = SessionId::stored(row.id.clone());
    let event: EventId = desk.context.entropy.id(desk.now);
    let act = Scene {
        issuer: desk.issuer,
        event: &event,
        // By then at the latest.
        at: started_at.min(desk.now),
        now: desk.now,
        // It is from the provider that the new login comes.
        terms: expiry::terms(ProviderWord::Known),
        owned: &owned,
    };
    ending::insert_event(conn, desk.context, act, expiry::new_event(TARGET_RECONCILE, Caller::ITSELF)).await?;
    let detail = serde_json::json!({ "session": session.as_str() }).to_string();
    let ended = ending::end_listed(conn, desk.context, act, &[session], desk.rules.opening_by_renewal).await?;
    if ended.sessions == 0 {
        return Err(StoreError::raced());
    }
    ending::count_on_receipt(conn, &event, ended).await?;
    let audit = AuditEntry {
        act: Act::SessionDisplaced,
        caller: Caller::itself(desk.issuer),
        actor: None,
        issuer: Some(desk.issuer.clone()),
        event: Some(event),
        detail,
    };
    registry::record(conn, desk.context, &audit).await
}

/// What no list of sessions speaks of, at an issuer and from before a gap's end: sessions without a `sid`, families that hang on no session that lives and
/// has one, and access tokens without a session.
const BEYOND_LISTS: &str = "SELECT 1 FROM access_tokens AS t
     WHERE t.issuer_id = $1 AND t.session_id IS NULL AND t.revoked_at IS NULL AND t.created_at < $2 AND t.expires_at > $3
     UNION ALL
    SELECT 1 FROM sessions AS s WHERE s.issuer_id = $1 AND s.ended_at IS NULL AND s.sid IS NULL AND s.reported_at < $2
     UNION ALL
    SELECT 1 FROM grants AS g LEFT JOIN sessions AS s ON s.id = COALESCE(g.session_id, g.origin_session_id)
     WHERE g.issuer_id = $1 AND g.revoked_at IS NULL AND g.created_at < $2 AND (s.id IS NULL OR s.ended_at IS NOT NULL OR s.sid IS NULL)
     LIMIT 1";

/// The provider's whole list of what lives was taken, and what it did not name has ended: the gaps that ended before it was made hide nothing that has a
/// `sid` any more. Where that is all there is, they are closed: not where access tokens are good by the provider's word alone, since such a token may be of a
/// session that began and ended in the gap, or of none, and what cut it off or denied it was forgotten. Nobody here knows how long they last.
pub(super) async fn take_list(
    conn: &mut Conn,
    context: &Context,
    (issuer, caller): (&IssuerId, &Caller),
    as_of: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let open: Vec<(String, i64)> =
        sqlx::query_as("SELECT id, ends_at FROM gaps WHERE issuer_id = $1 AND closed_at IS NULL AND ends_at <= $2 ORDER BY id")
            .bind(issuer.as_str())
            .bind(as_of.millis())
            .fetch_all(&mut *conn)
            .await?;
    if open.is_empty() {
        return Ok(());
    }
    let by_its_word = registry::issuer(conn, issuer).await?.is_none_or(|issuer| issuer.believes_its_provider_s_tokens());
    for (id, ends_at) in open {
        let beyond: Option<i32> =
            sqlx::query_scalar(BEYOND_LISTS).bind(issuer.as_str()).bind(ends_at).bind(now.millis()).fetch_optional(&mut *conn).await?;
        let closed_at = (beyond.is_none() && !by_its_word).then(|| now.millis());
        sqlx::query(
            "UPDATE gaps SET listed_at = COALESCE(listed_at, $2), closed_at = $3, closed_by = $4 WHERE id = $1 AND closed_at IS NULL",
        )
        .bind(&id)
        .bind(now.millis())
        .bind(closed_at)
        .bind(closed_at.map(|_| GapClosedBy::Provider.as_str()))
        .execute(&mut *conn)
        .await?;
        if closed_at.is_some() {
            let detail = serde_json::json!({ "gap": id, "list_of": as_of.to_string() }).to_string();
            let audit =
                AuditEntry { act: Act::GapClosed, caller: caller.clone(), actor: None, issuer: Some(issuer.clone()), event: None, detail };
            registry::record(conn, context, &audit).await?;
        }
    }
    Ok(())
}

/// The look as planners see it. What no list speaks of is looked for among everything of an issuer, once after a gap.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let page = Page { limit: 100, after: Some(Cursor { at: Timestamp::from_seconds(1), id: "1".to_owned() }) };
    vec![("gaps", look(&IssuerId::stored("1".to_owned()), &page))]
}
