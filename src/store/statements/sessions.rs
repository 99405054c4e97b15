//! Sessions and participants, read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Builder, Conn, corrupt, dialect, instant, push_equal, push_list, push_page, push_text};
use crate::model::event::TARGET_RELAYED;
use crate::model::page::{Cursor, Listed, Page};
use crate::model::session::{Device, Life, ParticipantView, SessionName, SessionView};
use crate::model::{Alias, ClientId, EventId, IssuerId, ParticipantId, ProviderKey, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, OpenWhy, SessionFilter, SessionSearch, StillOpen, StoreError, SubjectRecord};

pub(super) const SESSION: &str = "id, issuer_id, sid, provider_key, sub, started_at, expires_at, idle_expires_at, device_id, device_label, \
                                  device_ip, device_agent, created_at, ended_at, ended_by, ended_offline, ended_grave, \
                                  ended_target, reported_at";

#[derive(Clone, sqlx::FromRow)]
pub(super) struct SessionRow {
    pub(super) id: String,
    pub(super) issuer_id: String,
    pub(super) sid: Option<String>,
    pub(super) provider_key: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) started_at: i64,
    pub(super) expires_at: i64,
    pub(super) idle_expires_at: Option<i64>,
    pub(super) device_id: Option<String>,
    pub(super) device_label: Option<String>,
    pub(super) device_ip: Option<String>,
    pub(super) device_agent: Option<String>,
    pub(super) created_at: i64,
    pub(super) ended_at: Option<i64>,
    pub(super) ended_by: Option<String>,
    pub(super) ended_offline: bool,
    pub(super) ended_grave: bool,
    /// What the end named; none while it lives, and when the end's record is no longer kept.
    pub(super) ended_target: Option<String>,
    pub(super) reported_at: i64,
}

impl SessionRow {
    fn into_view(self, aliases: Vec<Alias>, participants: Vec<ParticipantView>) -> SessionView {
        SessionView {
            id: SessionId::stored(self.id),
            issuer: IssuerId::stored(self.issuer_id),
            sid: self.sid.map(Sid::stored),
            key: self.provider_key.map(ProviderKey::stored),
            sub: self.sub.map(Subject::stored),
            started_at: Timestamp::from_millis(self.started_at),
            expires_at: Timestamp::from_millis(self.expires_at),
            idle_expires_at: instant(self.idle_expires_at),
            aliases,
            device: Device { id: self.device_id, label: self.device_label, ip: self.device_ip, user_agent: self.device_agent },
            created_at: Timestamp::from_millis(self.created_at),
            reported_at: Timestamp::from_millis(self.reported_at),
            ended_at: instant(self.ended_at),
            ended_by: self.ended_by.map(EventId::stored),
            participants,
        }
    }
}

#[derive(sqlx::FromRow)]
struct ParticipantRow {
    id: String,
    session_id: String,
    client_id: String,
    sid: String,
    sub: Option<String>,
    joined_at: i64,
    ended_at: Option<i64>,
    ended_by: Option<String>,
}

impl ParticipantRow {
    fn into_view(self) -> ParticipantView {
        ParticipantView {
            id: ParticipantId::stored(self.id),
            client_id: ClientId::stored(self.client_id),
            sid: stored_sid(self.sid),
            sub: self.sub.map(Subject::stored),
            joined_at: Timestamp::from_millis(self.joined_at),
            ended_at: instant(self.ended_at),
            ended_by: self.ended_by.map(EventId::stored),
        }
    }
}

/// A participant without a `sid` is stored with an empty one, so that its name is unique.
pub(super) fn stored_sid(text: String) -> Option<Sid> {
    (!text.is_empty()).then(|| Sid::stored(text))
}

/// ` AND …`: the sessions of one name.
pub(super) fn push_name(sql: &mut Builder, name: &SessionName) {
    match name {
        SessionName::Sid(sid) => sql.push(" AND sid = ").push_bind(sid.as_str().to_owned()),
        SessionName::Key(key) => sql.push(" AND provider_key = ").push_bind(key.as_str().to_owned()),
        SessionName::Subject(sub) => sql.push(" AND sid IS NULL AND provider_key IS NULL AND sub = ").push_bind(sub.as_str().to_owned()),
    };
}

fn select(issuer: &IssuerId) -> Builder {
    let mut sql = Builder::new(format!("SELECT {SESSION} FROM sessions WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned());
    sql
}

/// The live session of a name.
pub(super) async fn live(conn: &mut Conn, issuer: &IssuerId, name: &SessionName) -> Result<Option<SessionRow>, StoreError> {
    let mut sql = select(issuer);
    push_name(&mut sql, name);
    sql.push(" AND ended_at IS NULL");
    Ok(sql.build_query_as().fetch_optional(conn).await?)
}

/// The latest ended session of a name.
pub(super) async fn latest_ended(conn: &mut Conn, issuer: &IssuerId, name: &SessionName) -> Result<Option<SessionRow>, StoreError> {
    let mut sql = select(issuer);
    push_name(&mut sql, name);
    sql.push(" AND ended_at IS NOT NULL ORDER BY created_at DESC, id DESC LIMIT 1");
    Ok(sql.build_query_as().fetch_optional(conn).await?)
}

/// The latest ended session of a name that was ever reported. One that is known by a relayed token alone says nothing of the provider's session: only
/// one client's part in it is over.
pub(super) async fn latest_reported(conn: &mut Conn, issuer: &IssuerId, name: &SessionName) -> Result<Option<SessionRow>, StoreError> {
    let mut sql = select(issuer);
    push_name(&mut sql, name);
    sql.push(" AND ended_at IS NOT NULL AND (ended_target IS NULL OR ended_target <> ").push_bind(TARGET_RELAYED);
    sql.push(") ORDER BY created_at DESC, id DESC LIMIT 1");
    Ok(sql.build_query_as().fetch_optional(conn).await?)
}

pub(in crate::store) async fn named(conn: &mut Conn, issuer: &IssuerId, name: &SessionName) -> Result<Option<SessionView>, StoreError> {
    let row = match live(conn, issuer, name).await? {
        Some(row) => Some(row),
        None => latest_ended(conn, issuer, name).await?,
    };
    Ok(views(conn, row.into_iter().collect()).await?.pop())
}

pub(in crate::store) async fn listed(conn: &mut Conn, filter: &SessionFilter, page: &Page) -> Result<Listed<SessionView>, StoreError> {
    let mut sql = match &filter.by {
        Some(by) => found(&filter.issuer, by),
        None => select(&filter.issuer),
    };
    match filter.state {
        None => {}
        Some(Life::Live) => push_text(&mut sql, " AND ended_at IS NULL"),
        Some(Life::Ended) => push_text(&mut sql, " AND ended_at IS NOT NULL"),
    }
    push_page(&mut sql, page, "created_at", "id");
    let rows: Vec<SessionRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
    let rows = super::listed(rows, page, |row| Cursor { at: Timestamp::from_millis(row.created_at), id: row.id.clone() });
    Ok(Listed { items: views(conn, rows.items).await?, next: rows.next })
}

/// Where what is known leads to the sessions' ids, the issuer is named there and not again: else the planner walks through all of its sessions.
fn found(issuer: &IssuerId, by: &SessionSearch) -> Builder {
    let mut sql = match by {
        SessionSearch::Owner(_) | SessionSearch::Device(_) | SessionSearch::Ip(_) => select(issuer),
        SessionSearch::Subject(_) | SessionSearch::Sid(_) | SessionSearch::Client(_) | SessionSearch::Alias(_) => {
            Builder::new(format!("SELECT {SESSION} FROM sessions WHERE 1 = 1"))
        }
    };
    push_search(&mut sql, issuer, by);
    sql
}

fn push_search(sql: &mut Builder, issuer: &IssuerId, by: &SessionSearch) {
    // What the provider calls it, or what a client in it does: two seeks, not a walk through the issuer's sessions.
    let either = |sql: &mut Builder, column: &str, value: &str| {
        sql.push(" AND id IN (SELECT id FROM sessions WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
        sql.push(format!(" AND {column} = ")).push_bind(value.to_owned());
        sql.push(" UNION SELECT session_id FROM participants WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
        sql.push(format!(" AND {column} = ")).push_bind(value.to_owned()).push(")");
    };
    match by {
        SessionSearch::Owner(sub) => push_equal(sql, "sub", sub.as_str()),
        SessionSearch::Subject(sub) => either(sql, "sub", sub.as_str()),
        SessionSearch::Sid(sid) => either(sql, "sid", sid.as_str()),
        SessionSearch::Client(client) => {
            sql.push(" AND id IN (SELECT session_id FROM participants WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
            sql.push(" AND client_id = ").push_bind(client.as_str().to_owned()).push(")");
        }
        SessionSearch::Alias(alias) => {
            sql.push(" AND id IN (SELECT session_id FROM session_aliases WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
            sql.push(" AND alias = ").push_bind(alias.as_str().to_owned()).push(")");
        }
        SessionSearch::Device(device) => push_equal(sql, "device_id", device),
        SessionSearch::Ip(ip) => push_equal(sql, "device_ip", ip),
    }
}

/// Rows with their aliases and participants, two statements for all of them.
async fn views(conn: &mut Conn, rows: Vec<SessionRow>) -> Result<Vec<SessionView>, StoreError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let mut aliases = aliases_of(conn, &ids).await?;
    let mut participants = participants_of(conn, &ids).await?;
    let view = |row: SessionRow| {
        let (aliases, participants) = (aliases.remove(&row.id).unwrap_or_default(), participants.remove(&row.id).unwrap_or_default());
        row.into_view(aliases, participants)
    };
    Ok(rows.into_iter().map(view).collect())
}

async fn aliases_of(conn: &mut Conn, sessions: &[&str]) -> Result<BTreeMap<String, Vec<Alias>>, StoreError> {
    let mut sql = Builder::new("SELECT session_id, alias FROM session_aliases WHERE session_id IN ");
    push_list(&mut sql, sessions.iter().copied());
    sql.push(" ORDER BY alias");
    let rows: Vec<(String, String)> = sql.build_query_as().fetch_all(conn).await?;
    let mut found: BTreeMap<String, Vec<Alias>> = BTreeMap::new();
    for (session, alias) in rows {
        found.entry(session).or_default().push(Alias::stored(alias));
    }
    Ok(found)
}

pub(super) async fn participants_of(conn: &mut Conn, sessions: &[&str]) -> Result<BTreeMap<String, Vec<ParticipantView>>, StoreError> {
    let mut sql =
        Builder::new("SELECT id, session_id, client_id, sid, sub, joined_at, ended_at, ended_by FROM participants WHERE session_id IN ");
    push_list(&mut sql, sessions.iter().copied());
    sql.push(" ORDER BY created_at, id");
    let rows: Vec<ParticipantRow> = sql.build_query_as().fetch_all(conn).await?;
    let mut found: BTreeMap<String, Vec<ParticipantView>> = BTreeMap::new();
    for row in rows {
        found.entry(row.session_id.clone()).or_default().push(row.into_view());
    }
    Ok(found)
}

/// How many sessions of one person are shown.
const SESSIONS_SHOWN: u16 = 1000;

pub(in crate::store) async fn subject(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    sub: &Subject,
) -> Result<SubjectRecord, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let filter = SessionFilter { issuer: issuer.clone(), state: None, by: Some(SessionSearch::Owner(sub.clone())) };
    let sessions = listed(conn, &filter, &Page { limit: SESSIONS_SHOWN, after: None }).await?.items;
    let mut open: BTreeSet<StillOpen> = BTreeSet::new();
    open.extend(sessions.iter().filter(|session| session.ended_at.is_none()).flat_map(live_participants));
    open.extend(undelivered(conn, &sessions).await?);
    open.extend(offline_tokens(conn, issuer, sub, now).await?);
    let by_client_sub = called_so(conn, issuer, sub).await?;
    Ok(SubjectRecord { sessions, still_open: open.into_iter().collect(), by_client_sub: by_client_sub.into_iter().collect() })
}

/// What is known by relay alone has no owner: only the application's own name says who it was.
async fn called_so(conn: &mut Conn, issuer: &IssuerId, sub: &Subject) -> Result<BTreeSet<StillOpen>, StoreError> {
    let rows: Vec<(String, Option<i64>, Option<String>, i64)> = by_client_sub(issuer, sub).build_query_as().fetch_all(conn).await?;
    let open = rows.into_iter().filter_map(|(client, ended, state, until)| {
        let why = match (ended, state) {
            (_, Some(state)) => why_open(&state),
            (None, None) => Ok(OpenWhy::Live),
            (Some(_), None) => return None,
        };
        Some(why.map(|why| StillOpen { client_id: ClientId::stored(client), why, until: Some(Timestamp::from_millis(until)) }))
    });
    open.collect()
}

/// From the participants of that name, of whom there are few.
fn by_client_sub(issuer: &IssuerId, sub: &Subject) -> Builder {
    let mut sql = Builder::new(
        "SELECT p.client_id, p.ended_at, d.state, s.expires_at FROM participants AS p JOIN sessions AS s ON s.id = p.session_id
           LEFT JOIN deliveries AS d ON d.participant_id = p.id AND d.kind <> 'provider'
                                    AND d.state IN ('pending', 'rejected', 'expired', 'cancelled', 'unreachable')
          WHERE p.issuer_id = ",
    );
    sql.push_bind(issuer.as_str().to_owned()).push(" AND p.sub = ").push_bind(sub.as_str().to_owned());
    sql.push(" AND (s.sub IS NULL OR s.sub <> ").push_bind(sub.as_str().to_owned());
    sql.push(format!(") ORDER BY p.created_at DESC LIMIT {SESSIONS_SHOWN}"));
    sql
}

fn live_participants(session: &SessionView) -> impl Iterator<Item = StillOpen> + '_ {
    let live = session.participants.iter().filter(|participant| participant.ended_at.is_none());
    live.map(|participant| StillOpen { client_id: participant.client_id.clone(), why: OpenWhy::Live, until: Some(session.expires_at) })
}

/// Participations that ended here and perhaps not there.
async fn undelivered(conn: &mut Conn, sessions: &[SessionView]) -> Result<Vec<StillOpen>, StoreError> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Builder::new(
        "SELECT d.client_id, d.state, s.expires_at FROM deliveries AS d JOIN sessions AS s ON s.id = d.session_id
          WHERE d.kind <> 'provider' AND d.state IN ('pending', 'rejected', 'expired', 'cancelled', 'unreachable') AND d.session_id IN ",
    );
    push_list(&mut sql, sessions.iter().map(|session| session.id.as_str()));
    let rows: Vec<(String, String, i64)> = sql.build_query_as().fetch_all(conn).await?;
    rows.into_iter()
        .map(|(client, state, until)| {
            Ok(StillOpen { client_id: ClientId::stored(client), why: why_open(&state)?, until: Some(Timestamp::from_millis(until)) })
        })
        .collect()
}

/// What a delivery that was not delivered says of whoever takes part.
fn why_open(state: &str) -> Result<OpenWhy, StoreError> {
    match state {
        "pending" => Ok(OpenWhy::Pending),
        "rejected" | "expired" => Ok(OpenWhy::GaveUp),
        "unreachable" => Ok(OpenWhy::Unreachable),
        "cancelled" => Ok(OpenWhy::Cancelled),
        _ => Err(corrupt("deliveries", "state")),
    }
}

async fn offline_tokens(conn: &mut Conn, issuer: &IssuerId, sub: &Subject, now: Timestamp) -> Result<Vec<StillOpen>, StoreError> {
    let rows: Vec<(String, Option<i64>)> = sqlx::query_as(
        "SELECT g.client_id, t.expires_at FROM grants AS g JOIN refresh_tokens AS t ON t.grant_id = g.id
          WHERE g.issuer_id = $1 AND g.sub = $2 AND g.revoked_at IS NULL AND g.offline AND t.superseded_at IS NULL
            AND (t.expires_at IS NULL OR t.expires_at > $3)",
    )
    .bind(issuer.as_str())
    .bind(sub.as_str())
    .bind(now.millis())
    .fetch_all(conn)
    .await?;
    let open = |(client, until)| StillOpen { client_id: ClientId::stored(client), why: OpenWhy::OfflineToken, until: instant(until) };
    Ok(rows.into_iter().map(open).collect())
}

/// Sessions found by whatever is known of them, as planners see it.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let word = || "1".to_owned();
    let issuer = IssuerId::stored(word());
    let searches = [
        ("sessions by sub", SessionSearch::Subject(Subject::stored(word()))),
        ("sessions by sid", SessionSearch::Sid(Sid::stored(word()))),
        ("sessions by owner", SessionSearch::Owner(Subject::stored(word()))),
        ("sessions by alias", SessionSearch::Alias(Alias::stored(word()))),
        ("sessions by device", SessionSearch::Device(word())),
    ];
    let found = searches.into_iter().map(|(name, by)| (name, found(&issuer, &by)));
    found.chain([("whom clients call so", by_client_sub(&issuer, &Subject::stored(word())))]).collect()
}
