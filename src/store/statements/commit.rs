//! The commit of a logout: the read is the write.
//!
//! In this order: the issuer's lock, the idempotency key, the subjects' locks; then sessions end, then their participants are read by ending them,
//! grants are revoked by the target, earlier deliveries are adopted, and the event, its deliveries, its cut-off and its audit record are written.
//! Two logouts of one `sid` therefore tell each client once, and both receipts are true.

use super::cut_offs;
use super::joins::{self, Duty, ToTell, class_number};
use super::sessions::{push_name, stored_sid};
use super::tokens::stored_name;
use super::{Builder, Conn, count, dialect, push_equal, push_list, push_text};
use crate::model::audit::Act;
use crate::model::cut_off::CutOff;
use crate::model::effects::{Adopt, Offline, OpeningRule, Reach};
use crate::model::session::SessionName;
use crate::model::trigger::{Idempotency, Target, Trigger};
use crate::model::{ClientId, EventId, IssuerId, ParticipantId, SessionId, Sid, Subject, Timestamp};
use crate::store::{AuditEntry, CommitRefused, Committed, Context, Ending, Mode, StoreError};

/// How many sessions or participations one transaction ends at most.
const ENDED_MAX: usize = 1000;

type Input = (Trigger, Reach, String, Mode, OpeningRule);
type Outcome = Result<Ending<Result<Committed, CommitRefused>>, StoreError>;

/// What every step of one commit shares.
#[derive(Clone, Copy)]
struct Scene<'a> {
    issuer: &'a IssuerId,
    reach: &'a Reach,
    event: &'a EventId,
    /// When what it tells happened.
    at: Timestamp,
    now: Timestamp,
}

pub(in crate::store) async fn commit(conn: &mut Conn, context: &Context, input: &Input) -> Outcome {
    let (trigger, reach, target_json, mode, opening) = input;
    lock_issuer(conn, trigger).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let event: EventId = context.entropy.id(now);
    if let (Mode::Commit, Some(key)) = (mode, &trigger.idempotency)
        && let Some(known) = take_key(conn, trigger, key, &event, now).await?
    {
        return replay(conn, &trigger.issuer, key, known).await;
    }
    let target = resolve(conn, &trigger.issuer, &reach.target).await?;
    lock_subjects(conn, &trigger.issuer, &target).await?;
    let act = Scene { issuer: &trigger.issuer, reach, event: &event, at: trigger.occurred_at.unwrap_or(now), now };
    if named(conn, act, &target).await? > ENDED_MAX {
        return Ok(Ending::Undo(Err(CommitRefused::TooMany { max: ENDED_MAX })));
    }
    let ended = end(conn, act, &target).await?;
    let tokens = revoke(conn, act, &target, &ended).await?;
    insert_event(conn, act, trigger, target_json, &ended, tokens).await?;
    adopt(conn, act, &target).await?;
    let duty = Duty {
        issuer: &trigger.issuer,
        event: &event,
        class: reach.class,
        compromise: reach.compromise,
        late_joiner: false,
        occurred_at: act.at,
        now,
    };
    joins::write_deliveries(conn, context, duty, &ended.told, *opening).await?;
    leave_cut_off(conn, context, act).await?;
    super::registry::record(conn, context, &audit_entry(trigger, target_json, &event, &ended)).await?;
    let receipt = super::events::receipt(conn, &trigger.issuer, &event).await?.ok_or_else(|| super::corrupt("events", "id"))?;
    let committed = Ok(Committed { receipt, replayed: false });
    Ok(match mode {
        Mode::Commit => Ending::Keep(committed),
        Mode::Rehearse => Ending::Undo(committed),
    })
}

/// A client's participations are everybody's business: while they end, nobody reports.
async fn lock_issuer(conn: &mut Conn, trigger: &Trigger) -> Result<(), StoreError> {
    match &trigger.target {
        Target::Client(_) | Target::ClientSub { .. } | Target::ClientSid { .. } => dialect::own_issuer(conn, &trigger.issuer).await,
        Target::Session(_)
        | Target::Subject(_)
        | Target::SubjectExcept { .. }
        | Target::SubjectAtClient { .. }
        | Target::SessionAtClient { .. }
        | Target::Device(_)
        | Target::RefreshToken { .. } => dialect::share_issuer(conn, &trigger.issuer).await,
    }
}

/// Takes the idempotency key for this event, or says whose it is. A concurrent request with the same key waits here for the other's commit.
async fn take_key(
    conn: &mut Conn,
    trigger: &Trigger,
    key: &Idempotency,
    event: &EventId,
    now: Timestamp,
) -> Result<Option<(String, String)>, StoreError> {
    let taken = sqlx::query(
        "INSERT INTO idempotency_keys (issuer_id, caller, name, fingerprint, event_id, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (issuer_id, caller, name) DO NOTHING",
    )
    .bind(trigger.issuer.as_str())
    .bind(&trigger.caller.identity)
    .bind(&key.key)
    .bind(key.fingerprint.to_string())
    .bind(event.as_str())
    .bind(now.millis())
    .execute(&mut *conn)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(None);
    }
    let known = sqlx::query_as("SELECT fingerprint, event_id FROM idempotency_keys WHERE issuer_id = $1 AND caller = $2 AND name = $3")
        .bind(trigger.issuer.as_str())
        .bind(&trigger.caller.identity)
        .bind(&key.key)
        .fetch_one(conn)
        .await?;
    Ok(Some(known))
}

async fn replay(conn: &mut Conn, issuer: &IssuerId, key: &Idempotency, (fingerprint, event): (String, String)) -> Outcome {
    if fingerprint != key.fingerprint.to_string() {
        return Ok(Ending::Undo(Err(CommitRefused::IdempotencyKeyReused)));
    }
    let receipt = super::events::receipt(conn, issuer, &EventId::stored(event)).await?;
    let receipt = receipt.ok_or_else(|| super::corrupt("idempotency_keys", "event_id"))?;
    Ok(Ending::Undo(Ok(Committed { receipt, replayed: true })))
}

/// A target with its refresh token looked up: what it comes to.
enum Resolved {
    /// These sessions of the provider's.
    Sessions(SessionsOf),
    /// These participations; their sessions go on.
    Participations(ParticipationsOf),
    /// A grant that is bound to no session.
    Grant(String),
    /// A token nobody registered.
    Nothing,
}

enum SessionsOf {
    Named(SessionName),
    Subject { sub: Subject, except: Option<Sid> },
    Device(String),
    One(SessionId),
}

enum ParticipationsOf {
    Client(ClientId),
    SubjectAtClient(Subject, ClientId),
    SessionAtClient(Sid, ClientId),
    ClientSid(ClientId, Sid),
    ClientSub(ClientId, Subject),
}

async fn resolve(conn: &mut Conn, issuer: &IssuerId, target: &Target) -> Result<Resolved, StoreError> {
    Ok(match target {
        Target::Session(name) => Resolved::Sessions(SessionsOf::Named(name.clone())),
        Target::Subject(sub) => Resolved::Sessions(SessionsOf::Subject { sub: sub.clone(), except: None }),
        Target::SubjectExcept { sub, except_sid } => {
            Resolved::Sessions(SessionsOf::Subject { sub: sub.clone(), except: Some(except_sid.clone()) })
        }
        Target::Device(device) => Resolved::Sessions(SessionsOf::Device(device.clone())),
        Target::Client(client) => Resolved::Participations(ParticipationsOf::Client(client.clone())),
        Target::SubjectAtClient { sub, client_id } => {
            Resolved::Participations(ParticipationsOf::SubjectAtClient(sub.clone(), client_id.clone()))
        }
        Target::SessionAtClient { sid, client_id } => {
            Resolved::Participations(ParticipationsOf::SessionAtClient(sid.clone(), client_id.clone()))
        }
        Target::ClientSid { client_id, client_sid } => {
            Resolved::Participations(ParticipationsOf::ClientSid(client_id.clone(), client_sid.clone()))
        }
        Target::ClientSub { client_id, client_sub } => {
            Resolved::Participations(ParticipationsOf::ClientSub(client_id.clone(), client_sub.clone()))
        }
        Target::RefreshToken { names, .. } => {
            let mut sql = Builder::new(
                "SELECT g.id, g.session_id FROM refresh_tokens AS t JOIN grants AS g ON g.id = t.grant_id WHERE t.issuer_id = ",
            );
            sql.push_bind(issuer.as_str().to_owned()).push(" AND t.name IN ");
            let stored: Vec<String> = names.iter().map(stored_name).collect();
            push_list(&mut sql, stored.iter().map(String::as_str));
            sql.push(" ORDER BY t.name DESC LIMIT 1");
            match sql.build_query_as::<(String, Option<String>)>().fetch_optional(conn).await? {
                None => Resolved::Nothing,
                Some((_, Some(session))) => Resolved::Sessions(SessionsOf::One(SessionId::stored(session))),
                Some((grant, None)) => Resolved::Grant(grant),
            }
        }
    })
}

/// Whose sessions it touches, locked in one order. A session that changes hands between look and lock ends under its new owner's lock only if that
/// is held: the statement that ends it names the subject again where it was looked up.
async fn lock_subjects(conn: &mut Conn, issuer: &IssuerId, target: &Resolved) -> Result<(), StoreError> {
    let before = subjects_of(conn, issuer, target).await?;
    dialect::own_subjects(conn, issuer, &before).await?;
    let after = subjects_of(conn, issuer, target).await?;
    if after.iter().all(|sub| before.contains(sub)) { Ok(()) } else { Err(StoreError::raced()) }
}

async fn subjects_of(conn: &mut Conn, issuer: &IssuerId, target: &Resolved) -> Result<Vec<Subject>, StoreError> {
    let known = match target {
        Resolved::Sessions(SessionsOf::Subject { sub, .. }) | Resolved::Participations(ParticipationsOf::SubjectAtClient(sub, _)) => {
            Some(sub)
        }
        Resolved::Sessions(SessionsOf::Named(SessionName::Subject(sub))) => Some(sub),
        // The issuer's lock covers everybody, and an unbound grant has no session to race with.
        Resolved::Participations(ParticipationsOf::Client(_) | ParticipationsOf::ClientSid(..) | ParticipationsOf::ClientSub(..))
        | Resolved::Grant(_)
        | Resolved::Nothing => return Ok(Vec::new()),
        Resolved::Sessions(_) | Resolved::Participations(ParticipationsOf::SessionAtClient(..)) => None,
    };
    if let Some(sub) = known {
        return Ok(vec![sub.clone()]);
    }
    let mut sql = Builder::new("SELECT DISTINCT sub FROM sessions WHERE sub IS NOT NULL AND issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned());
    push_sessions_of_target(&mut sql, target);
    let subs: Vec<String> = sql.build_query_scalar().fetch_all(conn).await?;
    Ok(subs.into_iter().map(Subject::stored).collect())
}

/// ` AND …` over `sessions`: the sessions a target names, live and ended.
fn push_sessions_of_target(sql: &mut Builder, target: &Resolved) {
    match target {
        Resolved::Sessions(SessionsOf::Named(name)) => push_name(sql, name),
        Resolved::Sessions(SessionsOf::Subject { sub, except }) => {
            sql.push(" AND sub = ").push_bind(sub.as_str().to_owned());
            if let Some(except) = except {
                sql.push(" AND (sid IS NULL OR sid <> ").push_bind(except.as_str().to_owned()).push(")");
            }
        }
        Resolved::Sessions(SessionsOf::Device(device)) => push_equal(sql, "device_id", device),
        Resolved::Sessions(SessionsOf::One(id)) => push_equal(sql, "id", id.as_str()),
        Resolved::Participations(ParticipationsOf::SessionAtClient(sid, _)) => {
            push_equal(sql, "sid", sid.as_str());
        }
        Resolved::Participations(ParticipationsOf::SubjectAtClient(sub, _)) => {
            push_equal(sql, "sub", sub.as_str());
        }
        Resolved::Participations(ParticipationsOf::Client(_) | ParticipationsOf::ClientSid(..) | ParticipationsOf::ClientSub(..))
        | Resolved::Grant(_)
        | Resolved::Nothing => push_text(sql, " AND 1 = 0"),
    }
}

/// ` AND …` over `participants`: the participations a target names.
fn push_participations(sql: &mut Builder, issuer: &IssuerId, target: &ParticipationsOf) {
    let in_sessions = |sql: &mut Builder, column: &str, value: &str| {
        sql.push(" AND session_id IN (SELECT id FROM sessions WHERE issuer_id = ").push_bind(issuer.as_str().to_owned());
        sql.push(format!(" AND {column} = ")).push_bind(value.to_owned()).push(")");
    };
    let client = match target {
        ParticipationsOf::Client(client)
        | ParticipationsOf::SubjectAtClient(_, client)
        | ParticipationsOf::SessionAtClient(_, client)
        | ParticipationsOf::ClientSid(client, _)
        | ParticipationsOf::ClientSub(client, _) => client,
    };
    sql.push(" AND issuer_id = ").push_bind(issuer.as_str().to_owned());
    sql.push(" AND client_id = ").push_bind(client.as_str().to_owned());
    match target {
        ParticipationsOf::Client(_) => {}
        ParticipationsOf::SubjectAtClient(sub, _) => in_sessions(sql, "sub", sub.as_str()),
        ParticipationsOf::SessionAtClient(sid, _) => in_sessions(sql, "sid", sid.as_str()),
        ParticipationsOf::ClientSid(_, sid) => push_equal(sql, "sid", sid.as_str()),
        ParticipationsOf::ClientSub(_, sub) => push_equal(sql, "sub", sub.as_str()),
    }
}

fn push_begun_before(sql: &mut Builder, column: &str, bound: Option<Timestamp>) {
    if let Some(bound) = bound {
        sql.push(format!(" AND {column} < ")).push_bind(bound.millis());
    }
}

/// How many sessions or participations it would end; counting stops beyond what is allowed.
async fn named(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<usize, StoreError> {
    let mut sql = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM (SELECT id FROM ");
    match target {
        Resolved::Sessions(_) => {
            sql.push("sessions WHERE ended_at IS NULL AND issuer_id = ").push_bind(act.issuer.as_str().to_owned());
            push_sessions_of_target(&mut sql, target);
            push_begun_before(&mut sql, "started_at", act.reach.begun_before);
        }
        Resolved::Participations(of) => {
            sql.push("participants WHERE ended_at IS NULL");
            push_participations(&mut sql, act.issuer, of);
            push_begun_before(&mut sql, "joined_at", act.reach.begun_before);
        }
        Resolved::Grant(_) | Resolved::Nothing => return Ok(0),
    }
    sql.push(" LIMIT 1001) AS named");
    let found: i64 = sql.build_query_scalar().fetch_one(conn).await?;
    Ok(usize::try_from(found).unwrap_or(usize::MAX))
}

/// What ended, and who was in it.
#[derive(Default)]
struct Ended {
    sessions: Vec<SessionId>,
    participations: u64,
    told: Vec<ToTell>,
}

async fn end(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<Ended, StoreError> {
    match target {
        Resolved::Sessions(_) => {
            let sessions = end_sessions(conn, act, target).await?;
            let told = end_participants_of(conn, act, &sessions).await?;
            Ok(Ended { sessions, participations: 0, told })
        }
        Resolved::Participations(of) => {
            let told = end_participations(conn, act, of).await?;
            Ok(Ended { sessions: Vec::new(), participations: told.len() as u64, told })
        }
        Resolved::Grant(_) | Resolved::Nothing => Ok(Ended::default()),
    }
}

async fn end_sessions(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<Vec<SessionId>, StoreError> {
    let mut sql = Builder::new("UPDATE sessions SET ended_at = ");
    sql.push_bind(act.at.millis()).push(", ended_by = ").push_bind(act.event.as_str().to_owned());
    sql.push(", ended_offline = ").push_bind(act.reach.offline == Offline::Taken);
    sql.push(", ended_grave = ").push_bind(act.reach.compromise);
    sql.push(" WHERE ended_at IS NULL AND issuer_id = ").push_bind(act.issuer.as_str().to_owned());
    push_sessions_of_target(&mut sql, target);
    push_begun_before(&mut sql, "started_at", act.reach.begun_before);
    sql.push(" RETURNING id");
    let ids: Vec<String> = sql.build_query_scalar().fetch_all(conn).await?;
    Ok(ids.into_iter().map(SessionId::stored).collect())
}

/// Read after their session has ended, by ending them: nobody can join in between.
async fn end_participants_of(conn: &mut Conn, act: Scene<'_>, sessions: &[SessionId]) -> Result<Vec<ToTell>, StoreError> {
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = update_participants(act);
    sql.push(" AND session_id IN ");
    push_list(&mut sql, sessions.iter().map(SessionId::as_str));
    ended_participants(conn, sql).await
}

async fn end_participations(conn: &mut Conn, act: Scene<'_>, of: &ParticipationsOf) -> Result<Vec<ToTell>, StoreError> {
    let mut sql = update_participants(act);
    push_participations(&mut sql, act.issuer, of);
    push_begun_before(&mut sql, "joined_at", act.reach.begun_before);
    ended_participants(conn, sql).await
}

fn update_participants(act: Scene<'_>) -> Builder {
    let mut sql = Builder::new("UPDATE participants SET ended_at = ");
    sql.push_bind(act.at.millis()).push(", ended_by = ").push_bind(act.event.as_str().to_owned()).push(" WHERE ended_at IS NULL");
    sql
}

async fn ended_participants(conn: &mut Conn, mut sql: Builder) -> Result<Vec<ToTell>, StoreError> {
    sql.push(" RETURNING id, session_id, client_id, sid, sub");
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

/// Revokes the grants the target names, alive or not the sessions they came from; answers how many refresh tokens were good until now.
async fn revoke(conn: &mut Conn, act: Scene<'_>, target: &Resolved, ended: &Ended) -> Result<u64, StoreError> {
    let mut sql = Builder::new("UPDATE grants SET revoked_at = ");
    sql.push_bind(act.now.millis()).push(", revoked_by = ").push_bind(act.event.as_str().to_owned());
    sql.push(" WHERE revoked_at IS NULL AND issuer_id = ").push_bind(act.issuer.as_str().to_owned());
    match target {
        Resolved::Nothing => return Ok(0),
        Resolved::Grant(id) => push_equal(&mut sql, "id", id),
        Resolved::Sessions(of) => push_grants_of_sessions(&mut sql, act, target, of, ended),
        Resolved::Participations(of) => push_grants_of_participations(&mut sql, act, of, ended),
    }
    sql.push(" RETURNING id");
    let grants: Vec<String> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    let mut good = 0;
    for chunk in grants.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM refresh_tokens WHERE (expires_at IS NULL OR expires_at > ");
        sql.push_bind(act.now.millis()).push(") AND grant_id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        good += count(sql.build_query_scalar().fetch_one(&mut *conn).await?);
    }
    Ok(good)
}

fn push_grants_of_sessions(sql: &mut Builder, act: Scene<'_>, target: &Resolved, of: &SessionsOf, ended: &Ended) {
    sql.push(" AND (session_id IN ");
    push_list(sql, ended.sessions.iter().map(SessionId::as_str).chain(["none"]));
    // Grants of a subject that are bound to no session of theirs.
    if let SessionsOf::Subject { sub, .. } = of {
        sql.push(" OR (sub = ").push_bind(sub.as_str().to_owned()).push(" AND session_id IS NULL AND origin_session_id IS NULL");
        push_offline(sql, act.reach.offline);
        push_begun_before(sql, "begun_at", act.reach.begun_before);
        sql.push(")");
    }
    // Offline grants, wherever they came from: a compromise after a plain logout still finds them.
    if act.reach.offline == Offline::Taken {
        sql.push(" OR (offline AND origin_session_id IN (SELECT id FROM sessions WHERE issuer_id = ")
            .push_bind(act.issuer.as_str().to_owned());
        push_sessions_of_target(sql, target);
        push_begun_before(sql, "started_at", act.reach.begun_before);
        sql.push("))");
    }
    sql.push(")");
}

fn push_grants_of_participations(sql: &mut Builder, act: Scene<'_>, of: &ParticipationsOf, ended: &Ended) {
    let in_sessions = |sql: &mut Builder, column: &str, value: &str| {
        sql.push(" AND COALESCE(session_id, origin_session_id) IN (SELECT id FROM sessions WHERE issuer_id = ");
        sql.push_bind(act.issuer.as_str().to_owned()).push(format!(" AND {column} = ")).push_bind(value.to_owned()).push(")");
    };
    let (ParticipationsOf::Client(client)
    | ParticipationsOf::SubjectAtClient(_, client)
    | ParticipationsOf::SessionAtClient(_, client)
    | ParticipationsOf::ClientSid(client, _)
    | ParticipationsOf::ClientSub(client, _)) = of;
    sql.push(" AND client_id = ").push_bind(client.as_str().to_owned());
    push_offline(sql, act.reach.offline);
    push_begun_before(sql, "begun_at", act.reach.begun_before);
    match of {
        ParticipationsOf::Client(_) => {}
        ParticipationsOf::SubjectAtClient(sub, _) => push_equal(sql, "sub", sub.as_str()),
        ParticipationsOf::SessionAtClient(sid, _) => in_sessions(sql, "sid", sid.as_str()),
        // By what that client saw: the sessions its participations were in, ended now or earlier.
        ParticipationsOf::ClientSid(_, sid) => push_of_participants(sql, act, "sid", sid.as_str(), client),
        ParticipationsOf::ClientSub(_, sub) => push_of_participants(sql, act, "sub", sub.as_str(), client),
    }
    debug_assert!(ended.sessions.is_empty(), "a participation ends without its session");
}

fn push_of_participants(sql: &mut Builder, act: Scene<'_>, column: &str, value: &str, client: &ClientId) {
    sql.push(" AND COALESCE(session_id, origin_session_id) IN (SELECT session_id FROM participants WHERE issuer_id = ");
    sql.push_bind(act.issuer.as_str().to_owned()).push(" AND client_id = ").push_bind(client.as_str().to_owned());
    sql.push(format!(" AND {column} = ")).push_bind(value.to_owned()).push(")");
}

fn push_offline(sql: &mut Builder, offline: Offline) {
    match offline {
        Offline::Taken => {}
        Offline::Spared => push_text(sql, " AND NOT offline"),
    }
}

async fn insert_event(
    conn: &mut Conn,
    act: Scene<'_>,
    trigger: &Trigger,
    target_json: &str,
    ended: &Ended,
    tokens: u64,
) -> Result<(), StoreError> {
    let (sub, sid) = match &trigger.target {
        Target::Session(SessionName::Sid(sid)) | Target::SessionAtClient { sid, .. } => (None, Some(sid)),
        Target::Subject(sub)
        | Target::SubjectExcept { sub, .. }
        | Target::SubjectAtClient { sub, .. }
        | Target::Session(SessionName::Subject(sub)) => (Some(sub), None),
        Target::Session(SessionName::Key(_))
        | Target::Client(_)
        | Target::ClientSid { .. }
        | Target::ClientSub { .. }
        | Target::Device(_)
        | Target::RefreshToken { .. } => (None, None),
    };
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO events (id, issuer_id, target, target_sub, target_sid, reason, reason_detail, actor, correlation_id, note, caller,
                             tell_provider, sessions_ended, participations_ended, refresh_tokens_revoked, occurred_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(act.event.as_str())
    .bind(act.issuer.as_str())
    .bind(target_json)
    .bind(sub.map(Subject::as_str))
    .bind(sid.map(Sid::as_str))
    .bind(trigger.reason.as_str())
    .bind(trigger.reason_detail.as_deref())
    .bind(trigger.actor.as_deref())
    .bind(trigger.correlation_id.as_deref())
    .bind(trigger.note.as_deref())
    .bind(&trigger.caller.identity)
    .bind(trigger.tell_provider)
    .bind(number(ended.sessions.len() as u64))
    .bind(number(ended.participations))
    .bind(number(tokens))
    .bind(act.at.millis())
    .bind(act.now.millis())
    .execute(conn)
    .await?;
    Ok(())
}

/// Deliveries that earlier logouts wrote for what this one names: open ones are waited for, and for a security reason those that were given up are
/// opened again.
async fn adopt(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<(), StoreError> {
    if matches!(target, Resolved::Grant(_) | Resolved::Nothing) {
        return Ok(());
    }
    if act.reach.adopt == Adopt::Reopen {
        reopen(conn, act, target).await?;
    }
    let mut sql = Builder::new("INSERT INTO adoptions (event_id, delivery_id) SELECT ");
    sql.push("CAST(")
        .push_bind(act.event.as_str().to_owned())
        .push(" AS TEXT), id FROM deliveries WHERE state = 'pending' AND event_id <> ");
    sql.push_bind(act.event.as_str().to_owned());
    push_earlier_deliveries(&mut sql, act, target);
    sql.build().execute(conn).await?;
    Ok(())
}

/// Goes first, at once, and with new patience: open ones and those that were given up alike. What is in flight just now keeps its lease.
async fn reopen(conn: &mut Conn, act: Scene<'_>, target: &Resolved) -> Result<(), StoreError> {
    let (class, now) = (class_number(act.reach.class), act.now.millis());
    let mut sql = Builder::new(
        "UPDATE deliveries SET state = 'pending', reason = NULL, settled_at = NULL, due_at = CASE WHEN lease_token IS NULL THEN ",
    );
    sql.push_bind(now).push(" ELSE due_at END, horizon_at = horizon_ms + ").push_bind(now);
    sql.push(", recoverable = 0, refused = 0, config_fault = 0, redirected = 0, blocked = 0, ours = 0, class = CASE WHEN class > ");
    sql.push_bind(class).push(" THEN ").push_bind(class).push(" ELSE class END, compromise = (compromise OR ");
    sql.push_bind(act.reach.compromise).push(") WHERE state IN ('pending', 'rejected', 'expired') AND event_id <> ");
    sql.push_bind(act.event.as_str().to_owned());
    push_earlier_deliveries(&mut sql, act, target);
    sql.build().execute(conn).await?;
    Ok(())
}

/// ` AND …` over `deliveries`.
fn push_earlier_deliveries(sql: &mut Builder, act: Scene<'_>, target: &Resolved) {
    let issuer = act.issuer.as_str();
    match target {
        Resolved::Sessions(_) => {
            sql.push(" AND session_id IN (SELECT id FROM sessions WHERE issuer_id = ").push_bind(issuer.to_owned());
            push_sessions_of_target(sql, target);
            push_begun_before(sql, "started_at", act.reach.begun_before);
            sql.push(")");
        }
        Resolved::Participations(of) => {
            sql.push(" AND issuer_id = ").push_bind(issuer.to_owned());
            sql.push(" AND participant_id IN (SELECT id FROM participants WHERE 1 = 1");
            push_participations(sql, act.issuer, of);
            push_begun_before(sql, "joined_at", act.reach.begun_before);
            sql.push(")");
        }
        Resolved::Grant(_) | Resolved::Nothing => push_text(sql, " AND 1 = 0"),
    }
}

async fn leave_cut_off(conn: &mut Conn, context: &Context, act: Scene<'_>) -> Result<(), StoreError> {
    let Some(scope) = &act.reach.cut_off else { return Ok(()) };
    let cut_off = CutOff {
        scope: scope.clone(),
        not_before: act.at,
        event: act.event.clone(),
        compromise: act.reach.compromise,
        offline: act.reach.offline == Offline::Taken,
    };
    cut_offs::leave(conn, context, act.issuer, &cut_off, act.now).await
}

fn audit_entry(trigger: &Trigger, target_json: &str, event: &EventId, ended: &Ended) -> AuditEntry {
    let target: serde_json::Value = serde_json::from_str(target_json).unwrap_or(serde_json::Value::Null);
    let detail = serde_json::json!({
        "target": target,
        "reason": trigger.reason.as_str(),
        "reason_detail": trigger.reason_detail,
        "correlation_id": trigger.correlation_id,
        "note": trigger.note,
        "sessions_ended": ended.sessions.len(),
        "participations_ended": ended.participations,
    });
    AuditEntry {
        act: Act::LogoutPosted,
        caller: trigger.caller.clone(),
        actor: trigger.actor.clone(),
        issuer: Some(trigger.issuer.clone()),
        event: Some(event.clone()),
        detail: detail.to_string(),
    }
}
