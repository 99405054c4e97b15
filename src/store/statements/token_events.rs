//! What is noticed about tokens: counted for their session, and on the trail.
//!
//! Noted last in its transaction, so that what was refused and undone leaves its trace all the same.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Builder, Conn, count, families, word};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::event::Receipt;
use crate::model::report::TokenName;
use crate::model::token::{TokenEventKind, TokenEventView};
use crate::model::{ClientId, IssuerId, SessionId, Timestamp};
use crate::store::{AuditEntry, Context, Ending, Noticed, Seen, StoreError, TokenNotice};

/// How often the same is put on the trail at most.
const ON_TRAIL_EVERY: Duration = Duration::from_mins(1);

/// What one transaction notices on its way.
#[derive(Default)]
pub(super) struct Notes(Mutex<Seen>);

impl Notes {
    pub(super) fn notice(&self, kind: TokenEventKind, client_id: &ClientId, session: Option<SessionId>) {
        self.with(|seen| seen.noticed.push(Noticed { kind, client_id: client_id.clone(), session }));
    }

    pub(super) fn logout(&self, receipt: Receipt) {
        self.with(|seen| seen.logouts.push(receipt));
    }

    fn with(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn into_seen(self) -> Seen {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what was noticed and puts it on record.
pub(super) async fn write(
    conn: &mut Conn,
    context: &Context,
    (issuer, caller): (&IssuerId, &Caller),
    noticed: &[Noticed],
    now: Timestamp,
) -> Result<(), StoreError> {
    for one in noticed {
        let before = counted(conn, issuer, one, now).await?;
        // The first of its kind in a while is on the trail; whoever repeats it is counted, and cannot fill the trail.
        if before.is_some_and(|before| now < before.plus(ON_TRAIL_EVERY)) {
            continue;
        }
        let detail = serde_json::json!({
            "kind": one.kind.as_str(), "client_id": one.client_id.as_str(), "session": one.session.as_ref().map(SessionId::as_str),
        });
        let entry = AuditEntry {
            act: Act::TokenEvent,
            caller: caller.clone(),
            actor: None,
            issuer: Some(issuer.clone()),
            event: None,
            detail: detail.to_string(),
        };
        super::registry::record(conn, context, &entry).await?;
    }
    Ok(())
}

/// Counts it for its session, or what belongs to none for the issuer; answers when the last one of its kind was seen.
async fn counted(conn: &mut Conn, issuer: &IssuerId, one: &Noticed, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    // No session has such an id.
    let session = one.session.as_ref().map_or_else(|| format!("issuer {issuer}"), SessionId::to_string);
    let before: Option<i64> = sqlx::query_scalar("SELECT last_at FROM token_events WHERE session_id = $1 AND kind = $2 AND client_id = $3")
        .bind(&session)
        .bind(one.kind.as_str())
        .bind(one.client_id.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    sqlx::query(
        "INSERT INTO token_events (issuer_id, session_id, kind, client_id, seen, last_at) VALUES ($1, $2, $3, $4, 1, $5)
         ON CONFLICT (session_id, kind, client_id) DO UPDATE SET seen = token_events.seen + 1, last_at = excluded.last_at",
    )
    .bind(issuer.as_str())
    .bind(&session)
    .bind(one.kind.as_str())
    .bind(one.client_id.as_str())
    .bind(now.millis())
    .execute(conn)
    .await?;
    Ok(before.map(Timestamp::from_millis))
}

/// Notes what a door noticed about a token, in a transaction of its own.
pub(in crate::store) async fn note(conn: &mut Conn, context: &Context, notice: &TokenNotice) -> Result<Ending<()>, StoreError> {
    let TokenNotice { issuer, caller, kind, client_id, names } = notice;
    let session = match families::member(conn, issuer, names).await? {
        Some(member) => member.home(),
        None => session_of_access(conn, issuer, names).await?,
    };
    let noticed = Noticed { kind: *kind, client_id: client_id.clone(), session };
    let now = super::dialect::now(conn, &context.clock).await?;
    write(conn, context, (issuer, caller), &[noticed], now).await?;
    Ok(Ending::Keep(()))
}

async fn session_of_access(conn: &mut Conn, issuer: &IssuerId, names: &[TokenName]) -> Result<Option<SessionId>, StoreError> {
    let mut sql = Builder::new("SELECT session_id FROM access_tokens WHERE session_id IS NOT NULL AND issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned()).push(" AND name IN ");
    let stored: Vec<String> = names.iter().map(TokenName::stored_as).collect();
    super::push_list(&mut sql, stored.iter().map(String::as_str));
    sql.push(" ORDER BY name DESC LIMIT 1");
    Ok(sql.build_query_scalar::<String>().fetch_optional(conn).await?.map(SessionId::stored))
}

/// What was noticed about the tokens of a session.
pub(in crate::store) async fn of_session(conn: &mut Conn, session: &SessionId) -> Result<Vec<TokenEventView>, StoreError> {
    let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "SELECT kind, client_id, seen, last_at FROM token_events WHERE session_id = $1 ORDER BY last_at DESC, kind, client_id",
    )
    .bind(session.as_str())
    .fetch_all(conn)
    .await?;
    let view = |(kind, client, seen, last_at): (String, String, i64, i64)| {
        Ok(TokenEventView {
            kind: word(TokenEventKind::parse(&kind), "token_events", "kind")?,
            client_id: ClientId::stored(client),
            seen: count(seen),
            last_at: Timestamp::from_millis(last_at),
        })
    };
    rows.into_iter().map(view).collect()
}
