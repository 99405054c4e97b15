//! Ending what a provider no longer lists.
//!
//! What is absent is found outside of the writer, page by page; one transaction then writes the event and ends the sessions, or, where they are many,
//! leaves them listed as a work that goes on by itself. Nobody reports at the issuer while it lasts.

use super::ending::{self, Scene};
use super::{Builder, Conn, dialect, expiry, gaps, push_list, works};
use crate::model::audit::Act;
use crate::model::effects::ProviderWord;
use crate::model::event::TARGET_RECONCILE;
use crate::model::{EventId, IssuerId, SessionId, Sid, Subject, Timestamp};
use crate::store::{AuditEntry, CommitRefused, Committed, Context, Ending, LiveSession, Mode, Reconciliation, StoreError};

/// How many sessions end in the transaction that writes the event.
const AT_ONCE_MAX: usize = 1000;

type Outcome = Result<Ending<Result<Committed, CommitRefused>>, StoreError>;

/// Live sessions of an issuer in the order of their ids, from one on.
pub(in crate::store) async fn live(
    conn: &mut Conn,
    issuer: &IssuerId,
    after: Option<&SessionId>,
    limit: u16,
) -> Result<Vec<LiveSession>, StoreError> {
    let mut sql = look(issuer, after);
    sql.push(format!(" ORDER BY id LIMIT {limit}"));
    let rows: Vec<(String, Option<String>, i64, i64)> = sql.build_query_as().fetch_all(conn).await?;
    let session = |(id, sid, started_at, created_at): (String, Option<String>, i64, i64)| LiveSession {
        id: SessionId::stored(id),
        sid: sid.map(Sid::stored),
        started_at: Timestamp::from_millis(started_at),
        created_at: Timestamp::from_millis(created_at),
    };
    Ok(rows.into_iter().map(session).collect())
}

fn look(issuer: &IssuerId, after: Option<&SessionId>) -> Builder {
    let mut sql = Builder::new(
        "SELECT id, sid, started_at, CASE WHEN reported_at > created_at THEN reported_at ELSE created_at END
           FROM sessions WHERE ended_at IS NULL AND issuer_id = ",
    );
    sql.push_bind(issuer.as_str().to_owned());
    if let Some(after) = after {
        sql.push(" AND id > ").push_bind(after.as_str().to_owned());
    }
    sql
}

pub(in crate::store) async fn reconcile(conn: &mut Conn, context: &Context, (order, mode): &(Reconciliation, Mode)) -> Outcome {
    dialect::own_issuer(conn, &order.issuer).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let event: EventId = context.entropy.id(now);
    if let (Mode::Commit, Some(key)) = (mode, &order.idempotency)
        && let Some(known) = super::commit::take_key(conn, (&order.issuer, &order.caller), key, &event, now).await?
    {
        return super::commit::replay(conn, &order.issuer, key, known).await;
    }
    let ends = order.absent.len() as u64;
    if ends > order.ends_max {
        return Ok(Ending::Undo(Err(CommitRefused::ReconcileTooMuch { ends, live: order.live, max: order.ends_max })));
    }
    let owned = owners(conn, &order.absent).await?;
    let act = Scene {
        issuer: &order.issuer,
        event: &event,
        at: order.as_of.min(now),
        now,
        terms: expiry::terms(ProviderWord::Known),
        owned: &owned,
    };
    ending::insert_event(conn, context, act, expiry::new_event(TARGET_RECONCILE, &order.caller.identity)).await?;
    if order.absent.len() > AT_ONCE_MAX {
        works::begin_listed(conn, context, (&order.issuer, &event), &order.absent, act.at, now).await?;
    } else {
        let silent = ending::still_silent(conn, &order.absent, act.at).await?;
        let ended = ending::end_listed(conn, context, act, &silent, order.opening).await?;
        ending::count_on_receipt(conn, &event, ended).await?;
        // Of a longer list the rest ends later: until then it says nothing of what is missing.
        gaps::take_list(conn, context, (&order.issuer, &order.caller), order.as_of, now).await?;
    }
    super::registry::record(conn, context, &audit(order, &event)).await?;
    let receipt = super::events::receipt(conn, &order.issuer, &event).await?.ok_or_else(|| super::corrupt("events", "id"))?;
    let committed = Ok(Committed { receipt, replayed: false });
    Ok(match mode {
        Mode::Commit => Ending::Keep(committed),
        Mode::Rehearse => Ending::Undo(committed),
    })
}

/// Whose sessions they are. The issuer's lock covers them all.
async fn owners(conn: &mut Conn, sessions: &[SessionId]) -> Result<Vec<Subject>, StoreError> {
    let mut subjects: Vec<String> = Vec::new();
    // What a work ends later is locked by it.
    for chunk in sessions.get(..sessions.len().min(AT_ONCE_MAX)).unwrap_or_default().chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("SELECT DISTINCT sub FROM sessions WHERE sub IS NOT NULL AND id IN ");
        push_list(&mut sql, chunk.iter().map(SessionId::as_str));
        subjects.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?);
    }
    Ok(subjects.into_iter().map(Subject::stored).collect())
}

fn audit(order: &Reconciliation, event: &EventId) -> AuditEntry {
    let detail = serde_json::json!({ "live": order.live, "absent": order.absent.len(), "as_of": order.as_of.to_string() });
    let act = AuditEntry::of(Act::SessionsReconciled, &order.caller, detail);
    AuditEntry { issuer: Some(order.issuer.clone()), event: Some(event.clone()), ..act }
}

/// The look at what lives, as planners see it.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let (issuer, after) = (IssuerId::stored("1".to_owned()), SessionId::stored("1".to_owned()));
    let mut sql = look(&issuer, Some(&after));
    sql.push(" ORDER BY id LIMIT 1000");
    vec![("live sessions in order", sql)]
}
