//! Making a person nobody: every place where one is named says from then on what nobody can read back.
//!
//! In the place of a name stands its keyed digest ([`Veil`](crate::seams::Veil)), the same for one name at one issuer: so what belonged together still does,
//! counts hold, and what still protects goes on protecting. A token or a late report that brings the name itself is judged by the digest as it would have been by
//! the name: cut-offs are rewritten, and of each session that ended a cut-off of its own is left. They go when they would have gone.
//!
//! Nothing is erased of whom somebody still has to be told: not while a session lives, a delivery is open, an offline grant is good or a logout of many is
//! under way. What takes long to find (a name inside a text, a token without a session) is looked for beside the writer and given in.
//!
//! A text is a name of theirs only where such a name stands, and only if nobody else who is known is called so: what a provider reports of one person takes
//! nobody else out of a logout, a cut-off or the trail.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::cut_offs::PART;
use super::{Builder, Conn, ROWS_MAX, audit, count, dialect, push_list, registry, subject_lock};
use crate::model::event::{TARGET_EXPIRED, TARGET_RECONCILE};
use crate::model::{CutOffId, IssuerId, Subject, Timestamp};
use crate::store::{Context, Ending, Erased, Erasing, Erasure, InTheWay, Name, Names, Sight, StoreError, Written};

/// How many sessions one erasure may be about.
const SESSIONS_MAX: i64 = 1000;
/// How many logouts.
const EVENTS_MAX: usize = 5000;
/// How long a token of a session that ended by its age may still be shown.
const ACCESS_TOKEN_MAX_MS: i64 = 24 * 3600 * 1000;
/// How long cut-offs are kept at least, and how long beyond the longest session: what retention says of them.
const CUT_OFFS_KEPT_MS: i64 = 60 * 24 * 3600 * 1000;

#[derive(sqlx::FromRow)]
struct Session {
    id: String,
    sid: Option<String>,
    provider_key: Option<String>,
    device_id: Option<String>,
    created_at: i64,
    ended_at: Option<i64>,
    ended_by: Option<String>,
    ended_target: Option<String>,
    ended_grave: bool,
    ended_offline: bool,
}

const SESSION: &str = "id, sid, provider_key, device_id, created_at, ended_at, ended_by, ended_target, ended_grave, ended_offline";

/// The sessions of a subject, and those that are known by what a client calls the subject alone.
async fn sessions(conn: &mut Conn, issuer: &IssuerId, sub: &Subject) -> Result<Vec<Session>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {SESSION} FROM sessions WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" AND (sub = ").push_bind(sub.as_str().to_owned());
    sql.push(" OR id IN (SELECT p.session_id FROM participants AS p JOIN sessions AS s ON s.id = p.session_id WHERE s.sub IS NULL AND p.issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned()).push(" AND p.sub = ").push_bind(sub.as_str().to_owned());
    sql.push(")) ORDER BY id LIMIT ").push_bind(SESSIONS_MAX + 1);
    Ok(sql.build_query_as().fetch_all(conn).await?)
}

/// All that a subject is known by and is found by, looked at beside the writer.
pub(in crate::store) async fn sight(conn: &mut Conn, issuer: &IssuerId, sub: &Subject) -> Result<Option<Sight>, StoreError> {
    let found = sessions(conn, issuer, sub).await?;
    if count(SESSIONS_MAX) < u64::try_from(found.len()).unwrap_or(u64::MAX) {
        return Ok(None);
    }
    let mut sight =
        Sight { sub: sub.as_str().to_owned(), sessions: found.iter().map(|session| session.id.clone()).collect(), ..Sight::default() };
    sight.names = names(conn, issuer, sub, &found).await?;
    find_events(conn, issuer, &mut sight).await?;
    if sight.events.len() > EVENTS_MAX {
        return Ok(None);
    }
    for (table, ids) in [("access_tokens", &mut sight.access_tokens), ("grants", &mut sight.grants)] {
        let mut sql = Builder::new(format!("SELECT id FROM {table} WHERE issuer_id = "));
        sql.push_bind(issuer.as_str().to_owned()).push(" AND (sub = ").push_bind(sub.as_str().to_owned());
        for chunk in sight.sessions.chunks(ROWS_MAX) {
            sql.push(" OR session_id IN ");
            push_list(&mut sql, chunk.iter().map(String::as_str));
            if table == "grants" {
                sql.push(" OR origin_session_id IN ");
                push_list(&mut sql, chunk.iter().map(String::as_str));
            }
        }
        sql.push(")");
        *ids = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    }
    Ok(Some(sight))
}

/// What the person is called, but for what somebody else is called as well.
async fn names(conn: &mut Conn, issuer: &IssuerId, sub: &Subject, found: &[Session]) -> Result<Names, StoreError> {
    let mut names = Names::default();
    names.add(Name::Sub(sub.as_str().to_owned()), None);
    for Session { sid, provider_key, device_id, created_at, .. } in found {
        let own = [sid.clone().map(Name::Sid), provider_key.clone().map(Name::Key), device_id.clone().map(Name::Device)];
        own.into_iter().flatten().for_each(|name| names.add(name, Some(Timestamp::from_millis(*created_at))));
    }
    for chunk in found.chunks(ROWS_MAX) {
        let mut sql = Builder::new("SELECT client_id, sid, sub, created_at FROM participants WHERE session_id IN ");
        push_list(&mut sql, chunk.iter().map(|session| session.id.as_str()));
        let rows: Vec<(String, String, Option<String>, i64)> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for (client, sid, sub, created_at) in rows {
            let sid = Some(sid).filter(|sid| !sid.is_empty()).map(|sid| Name::ClientSid(client.clone(), sid));
            let sub = sub.map(|sub| Name::ClientSub(client, sub));
            sid.into_iter().chain(sub).for_each(|name| names.add(name, Some(Timestamp::from_millis(created_at))));
        }
    }
    share(conn, issuer, sub, &mut names).await?;
    Ok(names)
}

/// ` AND …`: sessions `s` of other people.
fn push_others(sql: &mut Builder, sub: &str) {
    sql.push(" AND (s.sub <> ").push_bind(sub.to_owned());
    sql.push(" OR (s.sub IS NULL AND NOT EXISTS (SELECT 1 FROM participants AS o WHERE o.session_id = s.id AND o.sub = ");
    sql.push_bind(sub.to_owned()).push(")))");
}

async fn share(conn: &mut Conn, issuer: &IssuerId, sub: &Subject, names: &mut Names) -> Result<(), StoreError> {
    let mut by_column: BTreeMap<(&str, Option<String>), Vec<String>> = BTreeMap::new();
    for (name, _) in names.iter() {
        let (column, client, text) = match name {
            // Whoever is called so at the provider is the person.
            Name::Sub(_) => continue,
            Name::Sid(text) => ("s.sid", None, text),
            Name::Key(text) => ("s.provider_key", None, text),
            Name::Device(text) => ("s.device_id", None, text),
            Name::ClientSub(client, text) => ("p.sub", Some(client.clone()), text),
            Name::ClientSid(client, text) => ("p.sid", Some(client.clone()), text),
        };
        by_column.entry((column, client)).or_default().push(text.clone());
    }
    for ((column, client), texts) in by_column {
        for chunk in texts.chunks(ROWS_MAX) {
            let mut sql = Builder::new(format!("SELECT DISTINCT {column} FROM "));
            match &client {
                Some(client) => sql
                    .push("participants AS p JOIN sessions AS s ON s.id = p.session_id WHERE p.client_id = ")
                    .push_bind(client.clone())
                    .push(" AND p.issuer_id = "),
                None => sql.push("sessions AS s WHERE s.issuer_id = "),
            };
            sql.push_bind(issuer.as_str().to_owned()).push(format!(" AND {column} IN "));
            push_list(&mut sql, chunk.iter().map(String::as_str));
            push_others(&mut sql, sub.as_str());
            for text in sql.build_query_scalar::<String>().fetch_all(&mut *conn).await? {
                names.share(&match (column, &client) {
                    ("s.sid", _) => Name::Sid(text),
                    ("s.provider_key", _) => Name::Key(text),
                    ("p.sub", Some(client)) => Name::ClientSub(client.clone(), text),
                    ("p.sid", Some(client)) => Name::ClientSid(client.clone(), text),
                    _ => Name::Device(text),
                });
            }
        }
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Event {
    id: String,
    target: String,
    target_sub: Option<String>,
    target_sid: Option<String>,
    actor: Option<String>,
    created_at: i64,
}

impl Event {
    fn target(&self) -> Value {
        serde_json::from_str(&self.target).unwrap_or(Value::Null)
    }
}

/// Whom a logout of many spared it was not about.
fn spares(target: &Value) -> bool {
    target.get("except").is_some()
}

const EVENT: &str = "id, target, target_sub, target_sid, actor, created_at";

/// Logouts that named the person: by what they say, or by the sessions they ended and told of where these are the person's alone. Those that name one of
/// the person's names and had to do with somebody else are somebody else's.
async fn find_events(conn: &mut Conn, issuer: &IssuerId, sight: &mut Sight) -> Result<(), StoreError> {
    let mut found: BTreeMap<String, Event> = BTreeMap::new();
    let (mut subs, mut sids): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    for (name, _) in sight.names.iter() {
        match name {
            Name::Sub(text) | Name::ClientSub(_, text) => subs.insert(text),
            Name::Sid(text) | Name::ClientSid(_, text) => sids.insert(text),
            Name::Key(_) | Name::Device(_) => continue,
        };
    }
    for (column, texts) in [("target_sub", subs), ("target_sid", sids)] {
        let texts: Vec<&str> = texts.into_iter().collect();
        for chunk in texts.chunks(ROWS_MAX) {
            let mut sql = Builder::new(format!("SELECT {EVENT} FROM events WHERE issuer_id = "));
            sql.push_bind(issuer.as_str().to_owned()).push(format!(" AND {column} IN "));
            push_list(&mut sql, chunk.iter().copied());
            let rows: Vec<Event> = sql.build_query_as().fetch_all(&mut *conn).await?;
            found.extend(rows.into_iter().filter(|event| is_named(sight, event, At::ItsTime)).map(|event| (event.id.clone(), event)));
        }
    }
    // What names by something else than a subject or a session: few, and told by what they hold.
    let mut sql = Builder::new(format!("SELECT {EVENT} FROM events WHERE target_sub IS NULL AND target_sid IS NULL AND issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" AND target <> ").push_bind(TARGET_EXPIRED);
    let rows: Vec<Event> = sql.build_query_as().fetch_all(&mut *conn).await?;
    found.extend(rows.into_iter().filter(|event| is_named(sight, event, At::ItsTime)).map(|event| (event.id.clone(), event)));
    for chunk in sight.sessions.chunks(ROWS_MAX) {
        for (column, table, of) in
            [("ended_by", "sessions", "id"), ("ended_by", "participants", "session_id"), ("event_id", "deliveries", "session_id")]
        {
            let mut sql = Builder::new(format!(
                "SELECT {EVENT} FROM events WHERE id IN (SELECT {column} FROM {table} WHERE {column} IS NOT NULL AND {of} IN "
            ));
            push_list(&mut sql, chunk.iter().map(String::as_str));
            let rows: Vec<Event> = sql.push(")").build_query_as().fetch_all(&mut *conn).await?;
            found.extend(
                rows.into_iter()
                    .filter(|event| is_named(sight, event, At::AnyTime) || names_a_token(event))
                    .map(|event| (event.id.clone(), event)),
            );
        }
    }
    let about: Vec<&str> = found.values().filter(|event| !spares(&event.target())).map(|event| event.id.as_str()).collect();
    sight.of_others = of_others(conn, &sight.sub, &about).await?;
    sight.events = found.into_keys().filter(|id| !sight.of_others.contains(id)).collect();
    Ok(())
}

/// Whether what was written before a name was theirs counts.
#[derive(Clone, Copy)]
enum At {
    ItsTime,
    AnyTime,
}

fn is_named(sight: &Sight, event: &Event, at: At) -> bool {
    let written = match at {
        At::ItsTime => Written::At(Timestamp::from_millis(event.created_at)),
        At::AnyTime => Written::AboutThem,
    };
    !sight.names.places(&event.target(), written).is_empty()
}

/// Whether it named a token, of which nothing is kept that is a name.
fn names_a_token(event: &Event) -> bool {
    ["refresh_token", "refresh_token_sha256"].iter().any(|member| event.target().get(member).is_some())
}

/// Those of these logouts that ended or told of a session of somebody else.
async fn of_others(conn: &mut Conn, sub: &str, events: &[&str]) -> Result<BTreeSet<String>, StoreError> {
    let mut found = BTreeSet::new();
    for chunk in events.chunks(ROWS_MAX) {
        let mut sql = Builder::new("SELECT s.ended_by FROM sessions AS s WHERE s.ended_by IN ");
        push_list(&mut sql, chunk.iter().copied());
        push_others(&mut sql, sub);
        sql.push(" UNION SELECT d.event_id FROM deliveries AS d JOIN sessions AS s ON s.id = d.session_id WHERE d.event_id IN ");
        push_list(&mut sql, chunk.iter().copied());
        push_others(&mut sql, sub);
        found.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?);
    }
    Ok(found)
}

/// A value with what stands at these places veiled.
fn veil_at(value: &mut Value, places: &[String], veil: &(dyn Fn(&str) -> String + Send + Sync)) {
    for place in places {
        if let Some(Value::String(text)) = value.pointer_mut(place) {
            *text = veil(text);
        }
    }
}

/// Erases a person: one transaction, with the audit record, which does not name them.
pub(in crate::store) async fn erase(conn: &mut Conn, context: &Context, order: &Erasure) -> Result<Ending<Erasing>, StoreError> {
    let Erasure { issuer, sub, sight, trail, marks, audit: entry } = order;
    dialect::share_issuer(conn, issuer).await?;
    dialect::own_names(conn, issuer, &[subject_lock(sub)]).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let found = sessions(conn, issuer, sub).await?;
    if !found.iter().map(|session| &session.id).eq(sight.sessions.iter()) {
        return Ok(Ending::Undo(Erasing::Changed));
    }
    let in_the_way = in_the_way(conn, issuer, sight, now).await?;
    if in_the_way != InTheWay::default() {
        return Ok(Ending::Undo(Erasing::Refused(in_the_way)));
    }
    let Some(veil) = context.veil.at(issuer) else { return Err(StoreError::Unavailable("names cannot be veiled without a key".into())) };
    let person = Person { issuer, sight, veil: &*veil, now };
    let mut erased = Erased { sessions: found.len() as u64, ..Erased::default() };
    erased.cut_offs = cut_offs(conn, person).await?;
    erased.cut_offs += leave_cut_offs(conn, context, person, &found).await?;
    erased.logouts = logouts(conn, person).await?;
    erased.deliveries = deliveries(conn, person).await?;
    erased.participants = of_sessions(conn, person, "participants", "session_id", ["sid", "sub"]).await?;
    of_sessions(conn, person, "sessions", "id", ["sid", "provider_key"]).await?;
    forget_devices(conn, person).await?;
    erased.tokens = tokens(conn, person).await?;
    forget_names(conn, person, sub).await?;
    for record in trail {
        if !audit::rewrite(conn, record).await? {
            return Ok(Ending::Undo(Erasing::Changed));
        }
        erased.audit_records += 1;
    }
    if erased.cut_offs > 0 {
        erased.protected_until = Some(kept_until(conn, issuer, now).await?);
    }
    let detail = serde_json::json!({
        "sessions": erased.sessions, "participants": erased.participants, "logouts": erased.logouts, "deliveries": erased.deliveries,
        "cut_offs": erased.cut_offs, "tokens": erased.tokens, "audit": marks, "audit_records": erased.audit_records,
    });
    registry::record(conn, context, &entry.with(detail)).await?;
    Ok(Ending::Keep(Erasing::Done(erased)))
}

/// When the last of the cut-offs that are there now goes.
async fn kept_until(conn: &mut Conn, issuer: &IssuerId, now: Timestamp) -> Result<Timestamp, StoreError> {
    let max_age: i64 =
        sqlx::query_scalar("SELECT session_max_age_ms FROM issuers WHERE id = $1").bind(issuer.as_str()).fetch_one(conn).await?;
    Ok(Timestamp::from_millis(now.millis() + CUT_OFFS_KEPT_MS.max(CUT_OFFS_KEPT_MS / 2 + max_age)))
}

/// Whom it is about, and how they are called from now on.
#[derive(Clone, Copy)]
struct Person<'p> {
    issuer: &'p IssuerId,
    sight: &'p Sight,
    veil: &'p (dyn Fn(&str) -> String + Send + Sync),
    now: Timestamp,
}

impl Person<'_> {
    /// Nothing stays nothing; a participant without a `sid` of its own has an empty one.
    fn veiled(&self, text: Option<String>) -> Option<String> {
        text.map(|text| if text.is_empty() { text } else { (self.veil)(&text) })
    }
}

/// Each condition over the sessions, in chunks.
async fn counted(conn: &mut Conn, ids: &[String], before: &str, after: &str) -> Result<u64, StoreError> {
    let mut total = 0;
    for chunk in ids.chunks(ROWS_MAX) {
        let mut sql = Builder::new(before);
        push_list(&mut sql, chunk.iter().map(String::as_str));
        sql.push(after);
        total += count(sql.build_query_scalar::<i64>().fetch_one(&mut *conn).await?);
    }
    Ok(total)
}

async fn in_the_way(conn: &mut Conn, issuer: &IssuerId, sight: &Sight, now: Timestamp) -> Result<InTheWay, StoreError> {
    const COUNT: &str = "SELECT CAST(count(*) AS BIGINT) FROM ";
    let sessions = counted(conn, &sight.sessions, &format!("{COUNT} sessions WHERE ended_at IS NULL AND id IN "), "").await?;
    let of_sessions = counted(conn, &sight.sessions, &format!("{COUNT} deliveries WHERE state = 'pending' AND session_id IN "), "").await?;
    let events: Vec<String> = sight.events.iter().cloned().collect();
    let of_unknown = counted(conn, &events, &format!("{COUNT} deliveries WHERE state = 'pending' AND {OF_UNKNOWN}"), "").await?;
    let good = format!(
        " AND EXISTS (SELECT 1 FROM refresh_tokens AS t WHERE t.grant_id = g.id AND t.superseded_at IS NULL
                         AND (t.expires_at IS NULL OR t.expires_at > {}))",
        now.millis()
    );
    let grants = format!("{COUNT} grants AS g WHERE g.revoked_at IS NULL AND g.session_id IS NULL AND g.id IN ");
    let grants = counted(conn, &sight.grants, &grants, &good).await?;
    let works: i64 = sqlx::query_scalar("SELECT CAST(count(*) AS BIGINT) FROM works WHERE done_at IS NULL AND issuer_id = $1")
        .bind(issuer.as_str())
        .fetch_one(conn)
        .await?;
    Ok(InTheWay { sessions, deliveries: of_sessions + of_unknown, grants, works: count(works) })
}

/// Rewrites two columns of rows of the person's sessions; answers how many rows.
async fn of_sessions(conn: &mut Conn, person: Person<'_>, table: &str, of: &str, columns: [&str; 2]) -> Result<u64, StoreError> {
    rewrite(conn, person, (table, columns), &format!("{of} IN "), &person.sight.sessions).await
}

/// Rewrites two columns of rows that are found by a condition over ids, in chunks; answers how many rows.
async fn rewrite(
    conn: &mut Conn,
    person: Person<'_>,
    (table, columns): (&str, [&str; 2]),
    condition: &str,
    ids: &[String],
) -> Result<u64, StoreError> {
    let mut rewritten = 0;
    for chunk in ids.chunks(ROWS_MAX) {
        let mut sql = Builder::new(format!("SELECT id, {}, {} FROM {table} WHERE {condition}", columns[0], columns[1]));
        push_list(&mut sql, chunk.iter().map(String::as_str));
        let rows: Vec<(String, Option<String>, Option<String>)> = sql.build_query_as().fetch_all(&mut *conn).await?;
        rewritten += rows.len() as u64;
        for rows in rows.chunks(ROWS_MAX) {
            let mut sql = Builder::new("WITH veiled (row_id, one, other) AS (");
            sql.push_values(rows, |mut row, (id, one, other)| {
                row.push_bind(id.clone()).push_bind(person.veiled(one.clone())).push_bind(person.veiled(other.clone()));
            });
            sql.push(format!(") UPDATE {table} SET {} = one, {} = other FROM veiled WHERE id = row_id", columns[0], columns[1]));
            sql.build().execute(&mut *conn).await?;
        }
    }
    Ok(rewritten)
}

/// Deliveries of a logout to the provider, about a session that is not known here: they stand with the logout alone.
const OF_UNKNOWN: &str =
    "kind = 'provider' AND NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.id = deliveries.session_id) AND event_id IN ";

async fn deliveries(conn: &mut Conn, person: Person<'_>) -> Result<u64, StoreError> {
    let sight = person.sight;
    let events: Vec<String> = sight.events.iter().cloned().collect();
    let columns = ["sid", "sub"];
    for (condition, ids) in [("session_id IN ", &sight.sessions), (OF_UNKNOWN, &events)] {
        for chunk in ids.chunks(ROWS_MAX) {
            for before in [
                "UPDATE attempts SET excerpt = NULL WHERE excerpt IS NOT NULL AND delivery_id IN",
                "DELETE FROM relayed_tokens WHERE delivery_id IN",
            ] {
                let mut sql = Builder::new(format!("{before} (SELECT id FROM deliveries WHERE {condition}"));
                push_list(&mut sql, chunk.iter().map(String::as_str));
                sql.push(")").build().execute(&mut *conn).await?;
            }
        }
    }
    let unknown = rewrite(conn, person, ("deliveries", columns), OF_UNKNOWN, &events).await?;
    Ok(unknown + of_sessions(conn, person, "deliveries", "session_id", columns).await?)
}

async fn forget_devices(conn: &mut Conn, person: Person<'_>) -> Result<(), StoreError> {
    for chunk in person.sight.sessions.chunks(ROWS_MAX) {
        let mut sql = Builder::new(
            "UPDATE sessions SET device_id = NULL, device_label = NULL, device_ip = NULL, device_agent = NULL, sub = CASE WHEN sub IS NULL THEN NULL ELSE ",
        );
        sql.push_bind((person.veil)(&person.sight.sub)).push(" END WHERE id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        sql.build().execute(&mut *conn).await?;
        let mut sql = Builder::new("DELETE FROM session_aliases WHERE session_id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        sql.build().execute(&mut *conn).await?;
    }
    Ok(())
}

/// What a logout says of them; and of one that was about them alone, whatever was written by hand.
async fn logouts(conn: &mut Conn, person: Person<'_>) -> Result<u64, StoreError> {
    let mut named = 0;
    let events: Vec<&str> = person.sight.events.iter().map(String::as_str).collect();
    for chunk in events.chunks(ROWS_MAX) {
        let mut sql = Builder::new(format!("SELECT {EVENT} FROM events WHERE id IN "));
        push_list(&mut sql, chunk.iter().copied());
        let rows: Vec<Event> = sql.build_query_as().fetch_all(&mut *conn).await?;
        let mut own = Vec::new();
        for event in rows {
            let mut target = event.target();
            let places = person.sight.names.places(&target, Written::AboutThem);
            let is_name = |text: &str| places.iter().any(|place| target.pointer(place).and_then(Value::as_str) == Some(text));
            let of = |name: Option<String>| name.map(|name| if is_name(&name) { (person.veil)(&name) } else { name });
            let (sub, sid, mut actor) = (of(event.target_sub), of(event.target_sid), event.actor);
            if !spares(&target) {
                own.push(event.id.clone());
                actor = actor.map(|actor| if actor == person.sight.sub { (person.veil)(&actor) } else { actor });
            }
            veil_at(&mut target, &places, person.veil);
            named += 1;
            sqlx::query("UPDATE events SET target = $2, target_sub = $3, target_sid = $4, actor = $5 WHERE id = $1")
                .bind(event.id)
                .bind(target.to_string())
                .bind(sub)
                .bind(sid)
                .bind(actor)
                .execute(&mut *conn)
                .await?;
        }
        if !own.is_empty() {
            let mut sql = Builder::new("UPDATE events SET reason_detail = NULL, note = NULL, correlation_id = NULL WHERE id IN ");
            push_list(&mut sql, own.iter().map(String::as_str));
            sql.build().execute(&mut *conn).await?;
            let mut sql = Builder::new("DELETE FROM idempotency_keys WHERE event_id IN ");
            push_list(&mut sql, own.iter().map(String::as_str));
            sql.build().execute(&mut *conn).await?;
        }
    }
    // What is done is not read again; it goes within a day anyway.
    sqlx::query("UPDATE works SET plan = '{}', position = '{}' WHERE done_at IS NOT NULL AND issuer_id = $1")
        .bind(person.issuer.as_str())
        .execute(conn)
        .await?;
    Ok(named)
}

#[derive(sqlx::FromRow)]
struct Kept {
    id: String,
    scope: String,
    except_sid: Option<String>,
    except_names: Option<String>,
    event_id: String,
    created_at: i64,
}

const KEPT: &str = "SELECT id, scope, except_sid, except_names, event_id, created_at FROM cut_offs WHERE issuer_id = ";

/// Whose name is the last part of a scope.
fn named_by(scope: &str) -> Option<Name> {
    let parts: Vec<&str> = scope.split(PART).collect();
    Some(match parts.as_slice() {
        ["subject", name] | ["subject at client", _, name] => Name::Sub((*name).to_owned()),
        ["session", name] | ["session at client", _, name] => Name::Sid((*name).to_owned()),
        ["device", name] => Name::Device((*name).to_owned()),
        ["client sid", client, name] => Name::ClientSid((*client).to_owned(), (*name).to_owned()),
        ["client sub", client, name] => Name::ClientSub((*client).to_owned(), (*name).to_owned()),
        _ => return None,
    })
}

/// Cut-offs that name them go on covering what they covered.
async fn cut_offs(conn: &mut Conn, person: Person<'_>) -> Result<u64, StoreError> {
    let scope_of = |name: &Name| match name {
        Name::Sub(name) => Some(format!("subject{PART}{name}")),
        Name::Sid(name) => Some(format!("session{PART}{name}")),
        Name::Device(name) => Some(format!("device{PART}{name}")),
        Name::Key(_) | Name::ClientSub(..) | Name::ClientSid(..) => None,
    };
    let scopes: Vec<String> = person.sight.names.iter().filter_map(|(name, _)| scope_of(name)).collect();
    let mut rows: Vec<Kept> = Vec::new();
    for chunk in scopes.chunks(ROWS_MAX) {
        let mut sql = Builder::new(KEPT);
        sql.push_bind(person.issuer.as_str().to_owned()).push(" AND scope IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        rows.extend(sql.build_query_as::<Kept>().fetch_all(&mut *conn).await?);
    }
    let mut sql = Builder::new(KEPT);
    sql.push_bind(person.issuer.as_str().to_owned());
    sql.push(
        " AND (except_names IS NOT NULL OR scope LIKE 'subject at client%' OR scope LIKE 'session at client%' OR scope LIKE 'client s%')",
    );
    rows.extend(sql.build_query_as::<Kept>().fetch_all(&mut *conn).await?);
    let mut rewritten = 0;
    for Kept { id, scope, except_sid, except_names, event_id, created_at } in rows {
        let written =
            if person.sight.events.contains(&event_id) { Written::AboutThem } else { Written::At(Timestamp::from_millis(created_at)) };
        let of_others = person.sight.of_others.contains(&event_id);
        let is_own = !of_others && named_by(&scope).is_some_and(|name| person.sight.names.has(&name, written));
        let mut names: Value = except_names.as_deref().and_then(|names| serde_json::from_str(names).ok()).unwrap_or(Value::Null);
        let places = person.sight.names.places(&names, Written::AboutThem);
        if !is_own && places.is_empty() {
            continue;
        }
        let (kind, name) = scope.rsplit_once(PART).unwrap_or((&scope, ""));
        let scope = if is_own { format!("{kind}{PART}{}", (person.veil)(name)) } else { scope.clone() };
        veil_at(&mut names, &places, person.veil);
        sqlx::query("UPDATE cut_offs SET scope = $2, except_sid = $3, except_names = $4 WHERE id = $1")
            .bind(id)
            .bind(scope)
            .bind(person.veiled(except_sid))
            .bind(except_names.map(|_| names.to_string()))
            .execute(&mut *conn)
            .await?;
        rewritten += 1;
    }
    Ok(rewritten)
}

/// What a cut-off is left for: a name, and how what it named ended.
struct Left {
    scope: String,
    at: i64,
    event: String,
    grave: bool,
    offline: bool,
    by_age: bool,
}

/// Of sessions and participations that ended, what their rows said by their names. What ended by its age is no reason to log anybody out: there tokens alone
/// are refused, as long as there may be any.
async fn leave_cut_offs(conn: &mut Conn, context: &Context, person: Person<'_>, found: &[Session]) -> Result<u64, StoreError> {
    let mut left = Vec::new();
    let mut ends: BTreeMap<&str, bool> = BTreeMap::new();
    for session in found {
        let by_age = matches!(session.ended_target.as_deref(), Some(TARGET_EXPIRED | TARGET_RECONCILE));
        ends.insert(&session.id, by_age);
        if let (Some(sid), Some(at), Some(event)) = (&session.sid, session.ended_at, &session.ended_by) {
            let scope = format!("session{PART}{}", (person.veil)(sid));
            left.push(Left { scope, at, event: event.clone(), grave: session.ended_grave, offline: session.ended_offline, by_age });
        }
    }
    for chunk in person.sight.sessions.chunks(ROWS_MAX) {
        let mut sql = Builder::new(
            "SELECT p.session_id, p.client_id, p.sid, p.ended_at, p.ended_by FROM participants AS p JOIN sessions AS s ON s.id = p.session_id
              WHERE p.ended_by IS NOT NULL AND p.sid <> '' AND p.sid <> COALESCE(s.sid, '') AND p.session_id IN ",
        );
        push_list(&mut sql, chunk.iter().map(String::as_str));
        let rows: Vec<(String, String, String, i64, String)> = sql.build_query_as().fetch_all(&mut *conn).await?;
        for (session, client, sid, at, event) in rows {
            let by_age = ends.get(session.as_str()).copied().unwrap_or(false);
            let scope = format!("client sid{PART}{client}{PART}{}", (person.veil)(&sid));
            left.push(Left { scope, at, event, grave: false, offline: false, by_age });
        }
    }
    for rows in left.chunks(ROWS_MAX) {
        let mut sql = Builder::new(
            "INSERT INTO cut_offs (id, issuer_id, scope, not_before, event_id, compromise, offline, created_at, ordered, expires_at) ",
        );
        sql.push_values(rows, |mut row, one| {
            let expires_at = one.by_age.then(|| person.now.millis() + ACCESS_TOKEN_MAX_MS);
            row.push_bind(context.entropy.id::<CutOffId>(person.now).as_str().to_owned())
                .push_bind(person.issuer.as_str().to_owned())
                .push_bind(one.scope.clone())
                .push_bind(one.at)
                .push_bind(one.event.clone())
                .push_bind(one.grave)
                .push_bind(one.offline)
                .push_bind(person.now.millis())
                .push_bind(one.by_age)
                .push_bind(expires_at);
        });
        sql.build().execute(&mut *conn).await?;
    }
    Ok(left.len() as u64)
}

async fn tokens(conn: &mut Conn, person: Person<'_>) -> Result<u64, StoreError> {
    let mut touched = 0;
    let sub = (person.veil)(&person.sight.sub);
    for (table, ids) in [("access_tokens", &person.sight.access_tokens), ("grants", &person.sight.grants)] {
        for chunk in ids.chunks(ROWS_MAX) {
            let mut sql = Builder::new(format!("UPDATE {table} SET sub = "));
            sql.push_bind(sub.clone()).push(" WHERE sub IS NOT NULL AND id IN ");
            push_list(&mut sql, chunk.iter().map(String::as_str));
            touched += sql.build().execute(&mut *conn).await?.rows_affected();
        }
    }
    for chunk in person.sight.grants.chunks(ROWS_MAX) {
        let mut sql =
            Builder::new("UPDATE refresh_tokens SET sealed = NULL, sealed_until = NULL WHERE sealed IS NOT NULL AND grant_id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        sql.build().execute(&mut *conn).await?;
    }
    Ok(touched)
}

/// What is kept by a name alone.
async fn forget_names(conn: &mut Conn, person: Person<'_>, sub: &Subject) -> Result<(), StoreError> {
    let issuer = person.issuer.as_str();
    for (name, since) in person.sight.names.iter() {
        match name {
            // A session on the denylist has ended, and its row and its cut-off say so; what was denied before it was theirs is another's.
            Name::Sid(sid) => {
                sqlx::query("DELETE FROM denylist WHERE kind = 'sid' AND issuer_id = $1 AND name = $2 AND created_at >= $3")
                    .bind(issuer)
                    .bind(sid)
                    .bind(since.map_or(0, Timestamp::millis))
                    .execute(&mut *conn)
                    .await?;
            }
            // But not where a client calls somebody else so: their own names there are veiled by now.
            Name::Sub(sub) => {
                sqlx::query(
                    "DELETE FROM newest_tokens WHERE issuer_id = $1 AND sub = $2 AND NOT EXISTS (SELECT 1 FROM participants AS p
                      WHERE p.issuer_id = newest_tokens.issuer_id AND p.client_id = newest_tokens.client_id AND p.sub = newest_tokens.sub)",
                )
                .bind(issuer)
                .bind(sub)
                .execute(&mut *conn)
                .await?;
            }
            Name::ClientSub(client, sub) => {
                sqlx::query("DELETE FROM newest_tokens WHERE issuer_id = $1 AND client_id = $2 AND sub = $3")
                    .bind(issuer)
                    .bind(client)
                    .bind(sub)
                    .execute(&mut *conn)
                    .await?;
            }
            Name::Key(_) | Name::Device(_) | Name::ClientSid(..) => {}
        }
    }
    // A secret that was changed must not come back because nobody remembers that it was: the versions count on under the other name.
    sqlx::query(
        "INSERT INTO subject_secrets (issuer_id, sub, version, event_id) SELECT issuer_id, $3, version, event_id FROM subject_secrets WHERE issuer_id = $1 AND sub = $2
         ON CONFLICT (issuer_id, sub) DO UPDATE SET version = subject_secrets.version + excluded.version",
    )
    .bind(person.issuer.as_str())
    .bind(sub.as_str())
    .bind((person.veil)(sub.as_str()))
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM subject_secrets WHERE issuer_id = $1 AND sub = $2")
        .bind(person.issuer.as_str())
        .bind(sub.as_str())
        .execute(conn)
        .await?;
    Ok(())
}
