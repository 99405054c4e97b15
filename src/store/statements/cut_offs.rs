//! Cut-offs, found by the scopes that could cover something.

use super::{Builder, Conn, corrupt, push_list};
use crate::model::cut_off::{CutOff, CutOffScope};
use crate::model::{ClientId, CutOffId, EventId, IssuerId, Sid, Subject, Timestamp};
use crate::store::{Context, StoreError};

/// Separates the parts of a scope; no identifier holds a control character.
const PART: char = '\u{1f}';

/// A scope as one text, so that one index finds it.
fn scope_text(scope: &CutOffScope) -> String {
    match scope {
        CutOffScope::Subject { sub, .. } => subject(sub),
        CutOffScope::Session(sid) => session(sid),
        CutOffScope::Client(client) => format!("client{PART}{client}"),
        CutOffScope::SubjectAtClient(sub, client) => format!("subject at client{PART}{client}{PART}{}", sub.as_str()),
        CutOffScope::SessionAtClient(sid, client) => format!("session at client{PART}{client}{PART}{}", sid.as_str()),
        CutOffScope::ClientSid(client, sid) => format!("client sid{PART}{client}{PART}{}", sid.as_str()),
        CutOffScope::ClientSub(client, sub) => format!("client sub{PART}{client}{PART}{}", sub.as_str()),
    }
}

fn subject(sub: &Subject) -> String {
    format!("subject{PART}{}", sub.as_str())
}

fn session(sid: &Sid) -> String {
    format!("session{PART}{}", sid.as_str())
}

fn read_scope(text: &str, except_sid: Option<String>) -> Result<CutOffScope, StoreError> {
    let parts: Vec<&str> = text.split(PART).collect();
    let (sub, sid, client) = (
        |text: &str| Subject::stored(text.to_owned()),
        |text: &str| Sid::stored(text.to_owned()),
        |text: &str| ClientId::stored(text.to_owned()),
    );
    Ok(match parts.as_slice() {
        ["subject", name] => CutOffScope::Subject { sub: sub(name), except_sid: except_sid.map(Sid::stored) },
        ["session", name] => CutOffScope::Session(sid(name)),
        ["client", name] => CutOffScope::Client(client(name)),
        ["subject at client", at, name] => CutOffScope::SubjectAtClient(sub(name), client(at)),
        ["session at client", at, name] => CutOffScope::SessionAtClient(sid(name), client(at)),
        ["client sid", at, name] => CutOffScope::ClientSid(client(at), sid(name)),
        ["client sub", at, name] => CutOffScope::ClientSub(client(at), sub(name)),
        _ => return Err(corrupt("cut_offs", "scope")),
    })
}

/// What a session, a participation or a token is known by.
#[derive(Clone, Copy, Default)]
pub(super) struct Known<'a> {
    pub(super) sub: Option<&'a Subject>,
    pub(super) sid: Option<&'a Sid>,
    pub(super) client: Option<&'a ClientId>,
    pub(super) client_sub: Option<&'a Subject>,
    pub(super) client_sid: Option<&'a Sid>,
    /// The session it came from, which a cut-off of the subject may except, whether or not it is bound to it.
    pub(super) origin_sid: Option<&'a Sid>,
}

impl Known<'_> {
    /// Every scope that covers it. A session is not covered by what names a client.
    fn scopes(self) -> Vec<String> {
        let mut scopes = Vec::with_capacity(7);
        scopes.extend(self.sub.map(subject));
        scopes.extend(self.sid.map(session));
        let Some(client) = self.client else { return scopes };
        scopes.push(scope_text(&CutOffScope::Client(client.clone())));
        scopes.extend(self.sub.map(|sub| scope_text(&CutOffScope::SubjectAtClient(sub.clone(), client.clone()))));
        scopes.extend(self.sid.map(|sid| scope_text(&CutOffScope::SessionAtClient(sid.clone(), client.clone()))));
        scopes.extend(self.client_sid.map(|sid| scope_text(&CutOffScope::ClientSid(client.clone(), sid.clone()))));
        scopes.extend(self.client_sub.map(|sub| scope_text(&CutOffScope::ClientSub(client.clone(), sub.clone()))));
        scopes
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    scope: String,
    except_sid: Option<String>,
    not_before: i64,
    event_id: String,
    compromise: bool,
    offline: bool,
}

/// How many cut-offs of one scope matter: the latest ones win, whatever went before.
const LATEST: i64 = 32;

pub(super) async fn covering(conn: &mut Conn, issuer: &IssuerId, known: Known<'_>) -> Result<Vec<CutOff>, StoreError> {
    let scopes = known.scopes();
    if scopes.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Builder::new("SELECT scope, except_sid, not_before, event_id, compromise, offline FROM cut_offs WHERE issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned()).push(" AND scope IN ");
    push_list(&mut sql, scopes.iter().map(String::as_str));
    sql.push(" ORDER BY not_before DESC LIMIT ").push_bind(LATEST);
    let rows: Vec<Row> = sql.build_query_as().fetch_all(conn).await?;
    let own_sid = known.sid.or(known.origin_sid).map(Sid::as_str);
    let excepted = |row: &Row| row.except_sid.is_some() && row.except_sid.as_deref() == own_sid;
    rows.into_iter()
        .filter(|row| !excepted(row))
        .map(|row| {
            Ok(CutOff {
                scope: read_scope(&row.scope, row.except_sid)?,
                not_before: Timestamp::from_millis(row.not_before),
                event: EventId::stored(row.event_id),
                compromise: row.compromise,
                offline: row.offline,
            })
        })
        .collect()
}

/// Leaves a cut-off.
pub(super) async fn leave(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    cut_off: &CutOff,
    now: Timestamp,
) -> Result<(), StoreError> {
    let except_sid = match &cut_off.scope {
        CutOffScope::Subject { except_sid, .. } => except_sid.as_ref().map(Sid::as_str),
        CutOffScope::Session(_)
        | CutOffScope::Client(_)
        | CutOffScope::SubjectAtClient(..)
        | CutOffScope::SessionAtClient(..)
        | CutOffScope::ClientSid(..)
        | CutOffScope::ClientSub(..) => None,
    };
    sqlx::query(
        "INSERT INTO cut_offs (id, issuer_id, scope, except_sid, not_before, event_id, compromise, offline, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(context.entropy.id::<CutOffId>(now).as_str())
    .bind(issuer.as_str())
    .bind(scope_text(&cut_off.scope))
    .bind(except_sid)
    .bind(cut_off.not_before.millis())
    .bind(cut_off.event.as_str())
    .bind(cut_off.compromise)
    .bind(cut_off.offline)
    .bind(now.millis())
    .execute(conn)
    .await?;
    Ok(())
}
