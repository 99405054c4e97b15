//! Sessions that end by their age: found by an index, ended once, each at the instant its own time was up.
//!
//! A page takes what a logout takes, in the same order, and looks again under the locks: a report that moved a session's time has saved it.

use super::ending::{self, Scene, Secrets, Terms};
use super::joins::Desk;
use super::sessions::SessionRow;
use super::{Builder, Conn, dialect, name_lock, push_list, push_text, subject_lock};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::delivery::Class;
use crate::model::effects::{Offline, OpeningRule, ProviderWord};
use crate::model::event::{Receipt, TARGET_EXPIRED};
use crate::model::issuer::{Expiry, IssuerRecord};
use crate::model::session::SessionName;
use crate::model::trigger::Reason;
use crate::model::{EventId, IssuerId, ProviderKey, SessionId, Sid, Subject, Timestamp};
use crate::store::{AuditEntry, Context, Ending, StoreError};

/// How many sessions one page ends.
const PAGE: u16 = 200;

/// Sessions end by their age for everybody alike: offline grants live on (BCL 2.7), and nobody hurries.
pub(super) const fn terms(provider: ProviderWord) -> Terms {
    Terms { begun_before: None, offline: Offline::Spared, class: Class::Bulk, compromise: false, provider, secrets: Secrets::Kept }
}

/// Sessions of an issuer whose time is up, the longest overdue first.
pub(in crate::store) async fn due(conn: &mut Conn, context: &Context, issuer: &IssuerRecord) -> Result<Vec<SessionId>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let mut found: Vec<String> = Vec::new();
    for mut sql in overdue(&issuer.id, issuer.expiry, now) {
        found.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?);
    }
    found.truncate(PAGE.into());
    found.sort();
    found.dedup();
    Ok(found.into_iter().map(SessionId::stored).collect())
}

/// One statement for each index.
fn overdue(issuer: &IssuerId, expiry: Expiry, now: Timestamp) -> Vec<Builder> {
    let columns: &[&'static str] = match expiry {
        Expiry::None => &[],
        Expiry::Absolute => &["expires_at"],
        Expiry::Authoritative => &["expires_at", "idle_expires_at"],
    };
    let by = |column: &&'static str| {
        let mut sql = Builder::new("SELECT id FROM sessions WHERE ended_at IS NULL AND issuer_id = ");
        sql.push_bind(issuer.as_str().to_owned()).push(format!(" AND {column} <= ")).push_bind(now.millis());
        sql.push(format!(" ORDER BY {column} LIMIT {PAGE}"));
        sql
    };
    columns.iter().map(by).collect()
}

/// Ends those of the sessions whose time is still up under the locks; answers the receipt of their page, none when nothing was left to end.
pub(in crate::store) async fn expire(
    conn: &mut Conn,
    context: &Context,
    (issuer, sessions, opening): &(IssuerRecord, Vec<SessionId>, OpeningRule),
) -> Result<Ending<Option<Receipt>>, StoreError> {
    dialect::share_issuer(conn, &issuer.id).await?;
    let owned = lock(conn, &issuer.id, sessions).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let rules = (*opening, issuer.expiry.provider_word());
    Ok(match end(conn, context, issuer, sessions, &owned, now, rules).await? {
        None => Ending::Undo(None),
        Some(event) => Ending::Keep(super::events::receipt(conn, &issuer.id, &event).await?),
    })
}

/// Ends a session whose time is up, for a login that takes its name. The name is locked, and so nobody joins under it.
pub(super) async fn make_room(conn: &mut Conn, desk: Desk<'_>, issuer: &IssuerRecord, row: &SessionRow) -> Result<(), StoreError> {
    let owned: Vec<Subject> = row.sub.clone().map(Subject::stored).into_iter().collect();
    let session = [SessionId::stored(row.id.clone())];
    // It is from the provider that the new login comes.
    let rules = (desk.rules.opening_by_renewal, ProviderWord::Known);
    match end(conn, desk.context, issuer, &session, &owned, desk.now, rules).await? {
        Some(_) => Ok(()),
        None => Err(StoreError::raced()),
    }
}

/// Locks the people and the names of sessions, as a report of any of them does; answers whose they are.
pub(super) async fn lock(conn: &mut Conn, issuer: &IssuerId, sessions: &[SessionId]) -> Result<Vec<Subject>, StoreError> {
    type Row = (Option<String>, Option<String>, Option<String>);
    let mut rows: Vec<Row> = Vec::new();
    for chunk in sessions.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("SELECT sid, provider_key, sub FROM sessions WHERE ended_at IS NULL AND id IN ");
        push_list(&mut sql, chunk.iter().map(SessionId::as_str));
        rows.extend(sql.build_query_as::<Row>().fetch_all(&mut *conn).await?);
    }
    let (mut subjects, mut locks) = (Vec::new(), Vec::new());
    for (sid, key, sub) in rows {
        let sub = sub.map(Subject::stored);
        let name = match (sid, key) {
            (Some(sid), _) => Some(SessionName::Sid(Sid::stored(sid))),
            (None, Some(key)) => Some(SessionName::Key(ProviderKey::stored(key))),
            (None, None) => None,
        };
        locks.extend(name.as_ref().map(name_lock));
        locks.extend(sub.as_ref().map(subject_lock));
        subjects.extend(sub);
    }
    dialect::own_names(conn, issuer, &locks).await?;
    subjects.sort();
    subjects.dedup();
    Ok(subjects)
}

async fn end(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerRecord,
    sessions: &[SessionId],
    owned: &[Subject],
    now: Timestamp,
    (opening, provider): (OpeningRule, ProviderWord),
) -> Result<Option<EventId>, StoreError> {
    let over = over(conn, issuer, sessions, now).await?;
    let (Some(first), Some(last)) = (over.iter().map(|(_, at)| *at).min(), over.iter().map(|(_, at)| *at).max()) else { return Ok(None) };
    let ids: Vec<SessionId> = over.into_iter().map(|(id, _)| id).collect();
    let event: EventId = context.entropy.id(now);
    let act = Scene { issuer: &issuer.id, event: &event, at: first, now, terms: terms(provider), owned };
    ending::insert_event(conn, context, act, new_event(TARGET_EXPIRED, Caller::ITSELF)).await?;
    let ended = ending::end_listed(conn, context, act, &ids, opening).await?;
    ending::count_on_receipt(conn, &event, ended).await?;
    if first < last {
        each_at_its_own_time(conn, issuer.expiry, &event, &ids).await?;
    }
    super::registry::record(conn, context, &audit(issuer, &event, ended.sessions)).await?;
    Ok(Some(event))
}

/// The event of sessions that end by no logout.
pub(super) const fn new_event<'a>(target_json: &'a str, caller: &'a str) -> ending::NewEvent<'a> {
    ending::NewEvent {
        target_json,
        target_sub: None,
        target_sid: None,
        reason: Reason::Expired.as_str(),
        reason_detail: None,
        actor: None,
        correlation_id: None,
        note: None,
        caller,
    }
}

/// Which of the sessions are over by their age, and since when. Their rows are held: nothing moves their time until they have ended.
async fn over(
    conn: &mut Conn,
    issuer: &IssuerRecord,
    sessions: &[SessionId],
    now: Timestamp,
) -> Result<Vec<(SessionId, Timestamp)>, StoreError> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Builder::new("SELECT id, ");
    push_text(&mut sql, time_up(issuer.expiry));
    sql.push(" FROM sessions WHERE ended_at IS NULL AND issuer_id = ").push_bind(issuer.id.as_str().to_owned());
    sql.push(" AND ");
    push_text(&mut sql, time_up(issuer.expiry));
    sql.push(" <= ").push_bind(now.millis()).push(" AND id IN ");
    push_list(&mut sql, sessions.iter().map(SessionId::as_str));
    push_text(&mut sql, dialect::SKIP_LOCKED);
    let rows: Vec<(String, i64)> = match issuer.expiry {
        Expiry::None => Vec::new(),
        Expiry::Absolute | Expiry::Authoritative => sql.build_query_as().fetch_all(conn).await?,
    };
    Ok(rows.into_iter().map(|(id, at)| (SessionId::stored(id), Timestamp::from_millis(at))).collect())
}

/// When a session's time is up, as `plan` says of one.
const fn time_up(expiry: Expiry) -> &'static str {
    match expiry {
        Expiry::None | Expiry::Absolute => "expires_at",
        Expiry::Authoritative => "CASE WHEN idle_expires_at < expires_at THEN idle_expires_at ELSE expires_at END",
    }
}

/// The page has one event; each of its sessions has a time of its own, and so has whoever was in it and whoever is told of it.
async fn each_at_its_own_time(conn: &mut Conn, expiry: Expiry, event: &EventId, sessions: &[SessionId]) -> Result<(), StoreError> {
    let of_page = |mut sql: Builder, column: &str| {
        sql.push_bind(event.as_str().to_owned()).push(format!(" AND {column} IN "));
        push_list(&mut sql, sessions.iter().map(SessionId::as_str));
        sql
    };
    let mut own = Builder::new("UPDATE sessions SET ended_at = ");
    push_text(&mut own, time_up(expiry));
    own.push(" WHERE ended_by = ");
    of_page(own, "id").build().execute(&mut *conn).await?;
    let participants = "UPDATE participants SET ended_at = (SELECT s.ended_at FROM sessions AS s WHERE s.id = participants.session_id)
                         WHERE ended_by = ";
    of_page(Builder::new(participants), "session_id").build().execute(&mut *conn).await?;
    let deliveries = "UPDATE deliveries SET occurred_at = (SELECT s.ended_at FROM sessions AS s WHERE s.id = deliveries.session_id)
                       WHERE event_id = ";
    of_page(Builder::new(deliveries), "session_id").build().execute(conn).await?;
    Ok(())
}

fn audit(issuer: &IssuerRecord, event: &EventId, sessions: u64) -> AuditEntry {
    AuditEntry {
        act: Act::SessionsExpired,
        caller: Caller::itself(&issuer.id),
        actor: None,
        issuer: Some(issuer.id.clone()),
        event: Some(event.clone()),
        detail: serde_json::json!({ "sessions_ended": sessions, "expiry": issuer.expiry.as_str() }).to_string(),
    }
}

/// The looks at what is overdue, as planners see them.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    overdue(&IssuerId::stored("1".to_owned()), Expiry::Authoritative, Timestamp::from_millis(1))
        .into_iter()
        .map(|sql| ("overdue sessions", sql))
        .collect()
}
