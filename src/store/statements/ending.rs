//! Ending what lives, and reading who is to be told by ending it: what a logout, a page of a larger one and an end by age have in common.

use super::joins::{self, Duty, ToTell};
use super::provider;
use super::revocation_notices;
use super::secrets;
use super::sessions::stored_sid;
use super::{Builder, Conn, count, push_list};
use crate::model::delivery::{Class, DeliveryKind};
use crate::model::effects::{Offline, OpeningRule, ProviderWord, Reach};
use crate::model::event::{TARGET_EXPIRED, TARGET_RECONCILE};
use crate::model::trace::TraceContext;
use crate::model::{ClientId, EventId, IssuerId, ParticipantId, ProviderKey, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, StoreError};

/// What every step of one end shares.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) issuer: &'a IssuerId,
    pub(super) event: &'a EventId,
    /// When what it tells happened.
    pub(super) at: Timestamp,
    pub(super) now: Timestamp,
    pub(super) terms: Terms,
    /// Whose sessions are locked.
    pub(super) owned: &'a [Subject],
}

/// How it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// What began at or after this instant is spared.
    pub(super) begun_before: Option<Timestamp>,
    pub(super) offline: Offline,
    pub(super) class: Class,
    pub(super) compromise: bool,
    pub(super) provider: ProviderWord,
    pub(super) secrets: Secrets,
}

/// What becomes of the secrets of those whose sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// They stay, or were changed before.
    Kept,
    /// They change with the end.
    Changed,
}

impl Terms {
    pub(super) const fn of(reach: &Reach) -> Self {
        let Reach { begun_before, offline, class, compromise, provider, .. } = *reach;
        let secrets = if compromise { Secrets::Changed } else { Secrets::Kept };
        Self { begun_before, offline, class, compromise, provider, secrets }
    }
}

/// How much ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) sessions: u64,
    pub(super) participations: u64,
    /// Refresh tokens that were good until now.
    pub(super) tokens: u64,
}

/// Ends those of the listed sessions that still live, with all that is in them. Their subjects are locked: `act.owned`.
pub(super) async fn end_listed(
    conn: &mut Conn,
    context: &Context,
    act: Scene<'_>,
    listed: &[SessionId],
    opening: OpeningRule,
) -> Result<Ended, StoreError> {
    if listed.is_empty() {
        return Ok(Ended::default());
    }
    let mut sql = sessions_update(act);
    sql.push(" AND id IN ");
    push_list(&mut sql, listed.iter().map(SessionId::as_str));
    let ended = ended_sessions(conn, act, sql).await?;
    let sessions = ids_of(&ended);
    let told = end_participants_of(conn, act, &sessions).await?;
    let tokens = revoked(conn, context, act, revocations_with(act, &sessions)).await?;
    provider::tell(conn, context, act, &ended).await?;
    joins::write_deliveries(conn, context, duty(act), &told, opening).await?;
    Ok(Ended { sessions: sessions.len() as u64, participations: 0, tokens })
}

/// Those of which no report has spoken since then: whoever is spoken of was there after the list was made that leaves them out.
pub(super) async fn still_silent(conn: &mut Conn, listed: &[SessionId], since: Timestamp) -> Result<Vec<SessionId>, StoreError> {
    let mut silent = Vec::with_capacity(listed.len());
    for chunk in listed.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("SELECT id FROM sessions WHERE ended_at IS NULL AND reported_at < ");
        sql.push_bind(since.millis()).push(" AND id IN ");
        push_list(&mut sql, chunk.iter().map(SessionId::as_str));
        silent.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?.into_iter().map(SessionId::stored));
    }
    Ok(silent)
}

/// What the deliveries of this end have in common.
pub(super) const fn duty(act: Scene<'_>) -> Duty<'_> {
    let Scene { issuer, event, at, now, terms, .. } = act;
    let kind = DeliveryKind::LogoutToken;
    Duty { kind, issuer, event, class: terms.class, compromise: terms.compromise, late_joiner: false, occurred_at: at, now }
}

/// `UPDATE sessions …` of the issuer's live ones.
pub(super) fn sessions_update(act: Scene<'_>) -> Builder {
    let mut sql = Builder::new("UPDATE sessions SET ended_at = ");
    sql.push_bind(act.at.millis()).push(", ended_by = ").push_bind(act.event.as_str().to_owned());
    // An end that nobody asked for is told apart by what its event names, also when the event has been forgotten.
    sql.push(", ended_target = (SELECT e.target FROM events AS e WHERE e.id = ").push_bind(act.event.as_str().to_owned());
    sql.push(" AND e.target IN ");
    push_list(&mut sql, [TARGET_EXPIRED, TARGET_RECONCILE]);
    sql.push("), ended_offline = ").push_bind(act.terms.offline == Offline::Taken);
    sql.push(", ended_grave = ").push_bind(act.terms.compromise);
    sql.push(" WHERE ended_at IS NULL AND issuer_id = ").push_bind(act.issuer.as_str().to_owned());
    sql
}

/// A session that ended just now.
pub(super) struct EndedSession {
    pub(super) id: SessionId,
    pub(super) sub: Option<Subject>,
    pub(super) sid: Option<Sid>,
    pub(super) key: Option<ProviderKey>,
}

/// Its id, `sub`, `sid` and the provider's key.
type EndedRow = (String, Option<String>, Option<String>, Option<String>);

/// Which they were.
pub(super) fn ids_of(ended: &[EndedSession]) -> Vec<SessionId> {
    ended.iter().map(|one| one.id.clone()).collect()
}

/// Runs an update of sessions and says which they were.
pub(super) async fn ended_sessions(conn: &mut Conn, act: Scene<'_>, mut sql: Builder) -> Result<Vec<EndedSession>, StoreError> {
    sql.push(" RETURNING id, sub, sid, provider_key");
    let rows: Vec<EndedRow> = sql.build_query_as().fetch_all(&mut *conn).await?;
    // A session that changed hands between look and lock belongs to somebody whose reports are not held off.
    let is_owned = |sub: &String| act.owned.iter().any(|owned| owned.as_str() == sub);
    let ended = |(id, sub, sid, key): EndedRow| EndedSession {
        id: SessionId::stored(id),
        sub: sub.map(Subject::stored),
        sid: sid.map(Sid::stored),
        key: key.map(ProviderKey::stored),
    };
    if !rows.iter().filter_map(|(_, sub, ..)| sub.as_ref()).all(is_owned) {
        return Err(StoreError::raced());
    }
    let ended: Vec<EndedSession> = rows.into_iter().map(ended).collect();
    match act.terms.secrets {
        Secrets::Changed => secrets::change(conn, act, ended.iter().filter_map(|one| one.sub.as_ref())).await?,
        Secrets::Kept => {}
    }
    Ok(ended)
}

/// Read after their session has ended, by ending them: nobody can join in between.
pub(super) async fn end_participants_of(conn: &mut Conn, act: Scene<'_>, sessions: &[SessionId]) -> Result<Vec<ToTell>, StoreError> {
    let mut told = Vec::new();
    for chunk in sessions.chunks(super::ROWS_MAX) {
        let mut sql = participants_update(act);
        sql.push(" AND session_id IN ");
        push_list(&mut sql, chunk.iter().map(SessionId::as_str));
        told.extend(ended_participants(conn, sql).await?);
    }
    Ok(told)
}

/// `UPDATE participants …` of live ones.
pub(super) fn participants_update(act: Scene<'_>) -> Builder {
    let mut sql = Builder::new("UPDATE participants SET ended_at = ");
    sql.push_bind(act.at.millis()).push(", ended_by = ").push_bind(act.event.as_str().to_owned()).push(" WHERE ended_at IS NULL");
    sql
}

/// Runs an update of participants and says who they were.
pub(super) async fn ended_participants(conn: &mut Conn, mut sql: Builder) -> Result<Vec<ToTell>, StoreError> {
    sql.push(" RETURNING id, session_id, client_id, sid, sub");
    to_tell(conn, sql).await
}

/// ` AND …` over ended `participants`: nobody wrote a delivery for it.
pub(super) const UNTOLD: &str = " AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.participant_id = participants.id)";

/// Runs a statement that finds participants: id, session, client, `sid`, `sub`.
pub(super) async fn to_tell(conn: &mut Conn, mut sql: Builder) -> Result<Vec<ToTell>, StoreError> {
    let rows: Vec<(String, String, String, String, Option<String>)> = sql.build_query_as().fetch_all(conn).await?;
    let told = rows.into_iter().map(|(id, session, client, sid, sub)| ToTell {
        participant: ParticipantId::stored(id),
        session: SessionId::stored(session),
        client_id: ClientId::stored(client),
        sid: stored_sid(sid),
        sub: sub.map(Subject::stored),
    });
    Ok(told.collect())
}

/// `UPDATE grants …` of those that are good.
pub(super) fn revocation(act: Scene<'_>) -> Builder {
    let mut sql = Builder::new("UPDATE grants SET revoked_at = ");
    sql.push_bind(act.now.millis()).push(", revoked_by = ").push_bind(act.event.as_str().to_owned());
    sql.push(" WHERE revoked_at IS NULL");
    sql
}

/// The grants that end with these sessions; offline ones only where they are taken along.
pub(super) fn revocations_with(act: Scene<'_>, sessions: &[SessionId]) -> Vec<Builder> {
    if sessions.is_empty() {
        return Vec::new();
    }
    let of = |column: &'static str| {
        let mut sql = revocation(act);
        sql.push(format!(" AND {column} IN "));
        push_list(&mut sql, sessions.iter().map(SessionId::as_str));
        sql
    };
    columns(act.terms.offline).map(of).collect()
}

/// How a grant says which session it came from: bound ones one way, offline ones the other.
pub(super) fn columns(offline: Offline) -> impl Iterator<Item = &'static str> {
    let origin = match offline {
        Offline::Taken => Some("origin_session_id"),
        Offline::Spared => None,
    };
    ["session_id"].into_iter().chain(origin)
}

/// Runs revocations, tells the provider of what it can be told, and answers how many refresh tokens were good until now. The event is written before.
///
/// One statement for each way a grant is found: together in one, with OR, they would walk through all of the issuer's grants.
pub(super) async fn revoked(conn: &mut Conn, context: &Context, act: Scene<'_>, revocations: Vec<Builder>) -> Result<u64, StoreError> {
    let mut grants: Vec<String> = Vec::new();
    for mut sql in revocations {
        sql.push(" RETURNING id");
        grants.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?);
    }
    revocation_notices::tell(conn, context, act, &grants).await?;
    let mut good = 0;
    for chunk in grants.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new(
            "SELECT CAST(count(*) AS BIGINT) FROM refresh_tokens WHERE superseded_at IS NULL AND (expires_at IS NULL OR expires_at > ",
        );
        sql.push_bind(act.now.millis()).push(") AND grant_id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        good += count(sql.build_query_scalar().fetch_one(&mut *conn).await?);
    }
    Ok(good)
}

/// Adds what ended to the receipt of its event.
pub(super) async fn count_on_receipt(conn: &mut Conn, event: &EventId, ended: Ended) -> Result<(), StoreError> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    sqlx::query(
        "UPDATE events
            SET sessions_ended = sessions_ended + $2, participations_ended = participations_ended + $3,
                refresh_tokens_revoked = refresh_tokens_revoked + $4
          WHERE id = $1",
    )
    .bind(event.as_str())
    .bind(number(ended.sessions))
    .bind(number(ended.participations))
    .bind(number(ended.tokens))
    .execute(conn)
    .await?;
    Ok(())
}

/// An event as it is written.
pub(super) struct NewEvent<'a> {
    pub(super) target_json: &'a str,
    pub(super) target_sub: Option<&'a str>,
    pub(super) target_sid: Option<&'a str>,
    pub(super) reason: &'static str,
    pub(super) reason_detail: Option<&'a str>,
    pub(super) actor: Option<&'a str>,
    pub(super) correlation_id: Option<&'a str>,
    pub(super) note: Option<&'a str>,
    pub(super) caller: &'a str,
}

/// Writes the event, before what it ended is counted.
pub(super) async fn insert_event(conn: &mut Conn, context: &Context, act: Scene<'_>, new: NewEvent<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO events (id, issuer_id, target, target_sub, target_sid, reason, reason_detail, actor, correlation_id, note, caller,
                             tell_provider, sessions_ended, participations_ended, refresh_tokens_revoked, occurred_at, created_at, traceparent,
                             tracestate)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0, 0, $13, $14, $15, $16)",
    )
    .bind(act.event.as_str())
    .bind(act.issuer.as_str())
    .bind(new.target_json)
    .bind(new.target_sub)
    .bind(new.target_sid)
    .bind(new.reason)
    .bind(new.reason_detail)
    .bind(new.actor)
    .bind(new.correlation_id)
    .bind(new.note)
    .bind(new.caller)
    .bind(act.terms.provider.stored())
    .bind(act.at.millis())
    .bind(act.now.millis())
    .bind(context.trace.as_ref().map(TraceContext::traceparent))
    .bind(context.trace.as_ref().and_then(TraceContext::tracestate))
    .execute(conn)
    .await?;
    Ok(())
}
