//! Making a person nobody: every place where one is named says from then on what nobody can read back.
//!
//! In the place of a name stands its keyed digest ([`Veil`](crate::seams::Veil)), the same for one name at one issuer: so what belonged together still does,
//! counts hold, and what still protects goes on protecting. A token or a late report that brings the name itself is judged by the digest as it would have been by
//! the name: cut-offs are rewritten, and of each session that ended a cut-off of its own is left. They go when they would have gone.
//!
//! Nothing is erased of whom somebody still has to be told: not while a session lives, a delivery is open, an offline grant is good or a logout of many is
//! under way. What takes long to find (a name inside a text, a token without a session) is looked for beside the writer and given in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::cut_offs::PART;
use super::{Builder, Conn, ROWS_MAX, audit, count, dialect, push_list, registry, subject_lock};
use crate::model::event::{TARGET_EXPIRED, TARGET_RECONCILE};
use crate::model::{CutOffId, IssuerId, Subject, Timestamp};
use crate::store::{Context, Ending, Erased, Erasing, Erasure, InTheWay, Sight, StoreError};

/// How many sessions one erasure may be about.
const SESSIONS_MAX: i64 = 1000;
/// How long a token of a session that ended by its age may still be shown.
const ACCESS_TOKEN_MAX_MS: i64 = 24 * 3600 * 1000;
/// How long cut-offs are kept at least, and how long beyond the longest session: what retention says of them.
const CUT_OFFS_KEPT_MS: i64 = 60 * 24 * 3600 * 1000;

type Session = (String, Option<String>, Option<String>, Option<i64>, Option<String>, Option<String>, bool, bool);

const SESSION: &str = "id, sid, provider_key, ended_at, ended_by, ended_target, ended_grave, ended_offline";

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
    let mut sight = Sight { sub: sub.as_str().to_owned(), names: BTreeSet::from([sub.as_str().to_owned()]), ..Sight::default() };
    for (id, sid, key, ..) in found {
        sight.names.extend(sid.into_iter().chain(key));
        sight.sessions.push(id);
    }
    for chunk in sight.sessions.chunks(ROWS_MAX) {
        let mut sql = Builder::new("SELECT sid, sub, NULL FROM participants WHERE session_id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        sql.push(" UNION SELECT device_id, device_label, device_agent FROM sessions WHERE id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        sql.push(" UNION SELECT device_ip, NULL, NULL FROM sessions WHERE id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        sql.push(" UNION SELECT alias, NULL, NULL FROM session_aliases WHERE session_id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        let rows: Vec<(Option<String>, Option<String>, Option<String>)> = sql.build_query_as().fetch_all(&mut *conn).await?;
        sight.names.extend(rows.into_iter().flat_map(|(one, two, three)| [one, two, three]).flatten().filter(|name| !name.is_empty()));
    }
    sight.events = events(conn, issuer, &sight).await?;
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

/// Logouts that named the person, ended a session of theirs, told somebody of one, or spared them.
async fn events(conn: &mut Conn, issuer: &IssuerId, sight: &Sight) -> Result<Vec<String>, StoreError> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let names: Vec<&str> = sight.names.iter().map(String::as_str).collect();
    for chunk in names.chunks(ROWS_MAX) {
        for column in ["target_sub", "target_sid"] {
            let mut sql = Builder::new("SELECT id FROM events WHERE issuer_id = ");
            sql.push_bind(issuer.as_str().to_owned()).push(format!(" AND {column} IN "));
            push_list(&mut sql, chunk.iter().copied());
            found.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?);
        }
    }
    for chunk in sight.sessions.chunks(ROWS_MAX) {
        for (column, table, of) in
            [("ended_by", "sessions", "id"), ("ended_by", "participants", "session_id"), ("event_id", "deliveries", "session_id")]
        {
            let mut sql = Builder::new(format!("SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL AND {of} IN "));
            push_list(&mut sql, chunk.iter().map(String::as_str));
            found.extend(sql.build_query_scalar::<String>().fetch_all(&mut *conn).await?);
        }
    }
    // What names by something else than a subject or a session: few, and told by what they hold.
    let mut sql = Builder::new("SELECT id, target FROM events WHERE target_sub IS NULL AND target_sid IS NULL AND issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned()).push(" AND target <> ").push_bind(TARGET_EXPIRED);
    let rows: Vec<(String, String)> = sql.build_query_as().fetch_all(conn).await?;
    found.extend(rows.into_iter().filter(|(_, target)| holds(target, &sight.names)).map(|(id, _)| id));
    Ok(found.into_iter().collect())
}

/// Whether any text inside a JSON value is one of the names.
fn holds(json: &str, names: &BTreeSet<String>) -> bool {
    fn any(value: &Value, names: &BTreeSet<String>) -> bool {
        match value {
            Value::String(text) => names.contains(text),
            Value::Array(items) => items.iter().any(|item| any(item, names)),
            // The name of an application is nobody's.
            Value::Object(members) => members.iter().any(|(member, value)| member != "client_id" && any(value, names)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    serde_json::from_str(json).is_ok_and(|value| any(&value, names))
}

/// The same value with the names veiled.
fn veiled_json(json: &str, names: &BTreeSet<String>, veil: &(dyn Fn(&str) -> String + Send + Sync)) -> String {
    fn each(value: &mut Value, names: &BTreeSet<String>, veil: &(dyn Fn(&str) -> String + Send + Sync)) {
        match value {
            Value::String(text) if names.contains(text) => *text = veil(text),
            Value::Array(items) => items.iter_mut().for_each(|item| each(item, names, veil)),
            Value::Object(members) => {
                members.iter_mut().filter(|(member, _)| *member != "client_id").for_each(|(_, value)| each(value, names, veil));
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    match serde_json::from_str::<Value>(json) {
        Ok(mut value) => {
            each(&mut value, names, veil);
            value.to_string()
        }
        Err(_) => "{}".to_owned(),
    }
}

/// Erases a person: one transaction, with the audit record, which does not name them.
pub(in crate::store) async fn erase(conn: &mut Conn, context: &Context, order: &Erasure) -> Result<Ending<Erasing>, StoreError> {
    let Erasure { issuer, sub, sight, trail, marks, audit: entry } = order;
    dialect::share_issuer(conn, issuer).await?;
    dialect::own_names(conn, issuer, &[subject_lock(sub)]).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let found = sessions(conn, issuer, sub).await?;
    if !found.iter().map(|(id, ..)| id).eq(sight.sessions.iter()) {
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
    for (record, was_sealed) in trail {
        if !audit::rewrite(conn, record, *was_sealed).await? {
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
    fn is_named(&self, text: &str) -> bool {
        self.sight.names.contains(text)
    }

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
    Ok(InTheWay { sessions, deliveries: of_sessions, grants, works: count(works) })
}

/// Rewrites two columns of rows that are found by a condition over ids, in chunks; answers how many rows.
async fn of_sessions(conn: &mut Conn, person: Person<'_>, table: &str, of: &str, columns: [&str; 2]) -> Result<u64, StoreError> {
    let mut rewritten = 0;
    for chunk in person.sight.sessions.chunks(ROWS_MAX) {
        let mut sql = Builder::new(format!("SELECT id, {}, {} FROM {table} WHERE {of} IN ", columns[0], columns[1]));
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

async fn deliveries(conn: &mut Conn, person: Person<'_>) -> Result<u64, StoreError> {
    for chunk in person.sight.sessions.chunks(ROWS_MAX) {
        let mut excerpts = Builder::new(
            "UPDATE attempts SET excerpt = NULL WHERE excerpt IS NOT NULL AND delivery_id IN (SELECT id FROM deliveries WHERE session_id IN ",
        );
        push_list(&mut excerpts, chunk.iter().map(String::as_str));
        excerpts.push(")").build().execute(&mut *conn).await?;
        let mut relayed = Builder::new("DELETE FROM relayed_tokens WHERE delivery_id IN (SELECT id FROM deliveries WHERE session_id IN ");
        push_list(&mut relayed, chunk.iter().map(String::as_str));
        relayed.push(")").build().execute(&mut *conn).await?;
    }
    of_sessions(conn, person, "deliveries", "session_id", ["sid", "sub"]).await
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

type Event = (String, String, Option<String>, Option<String>, Option<String>);

/// What a logout says of them; and of one that was about them alone, whatever was written by hand.
async fn logouts(conn: &mut Conn, person: Person<'_>) -> Result<u64, StoreError> {
    let mut named = 0;
    for chunk in person.sight.events.chunks(ROWS_MAX) {
        let mut sql = Builder::new("SELECT id, target, target_sub, target_sid, actor FROM events WHERE id IN ");
        push_list(&mut sql, chunk.iter().map(String::as_str));
        let rows: Vec<Event> = sql.build_query_as().fetch_all(&mut *conn).await?;
        let mut own = Vec::new();
        for (id, target, sub, sid, actor) in rows {
            if !holds(&target, &person.sight.names) {
                continue;
            }
            named += 1;
            // Whom a logout of everybody spared it was not about.
            if serde_json::from_str::<Value>(&target).is_ok_and(|target| target.get("except").is_none()) {
                own.push(id.clone());
            }
            let of = |name: Option<String>| name.map(|name| if person.is_named(&name) { (person.veil)(&name) } else { name });
            sqlx::query("UPDATE events SET target = $2, target_sub = $3, target_sid = $4, actor = $5 WHERE id = $1")
                .bind(id)
                .bind(veiled_json(&target, &person.sight.names, person.veil))
                .bind(of(sub))
                .bind(of(sid))
                .bind(of(actor))
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

/// Cut-offs that name them go on covering what they covered.
async fn cut_offs(conn: &mut Conn, person: Person<'_>) -> Result<u64, StoreError> {
    let mut rows: BTreeMap<String, (String, Option<String>, Option<String>)> = BTreeMap::new();
    type Row = (String, String, Option<String>, Option<String>);
    let names: Vec<&String> = person.sight.names.iter().collect();
    for chunk in names.chunks(ROWS_MAX / 4) {
        let scopes: Vec<String> =
            chunk.iter().flat_map(|name| ["subject", "session", "device"].map(|kind| format!("{kind}{PART}{name}"))).collect();
        let mut sql = Builder::new("SELECT id, scope, except_sid, except_names FROM cut_offs WHERE issuer_id = ");
        sql.push_bind(person.issuer.as_str().to_owned()).push(" AND scope IN ");
        push_list(&mut sql, scopes.iter().map(String::as_str));
        let found: Vec<Row> = sql.build_query_as().fetch_all(&mut *conn).await?;
        rows.extend(found.into_iter().map(|(id, scope, sid, names)| (id, (scope, sid, names))));
    }
    let mut sql = Builder::new("SELECT id, scope, except_sid, except_names FROM cut_offs WHERE issuer_id = ");
    sql.push_bind(person.issuer.as_str().to_owned());
    sql.push(
        " AND (except_names IS NOT NULL OR scope LIKE 'subject at client%' OR scope LIKE 'session at client%' OR scope LIKE 'client s%')",
    );
    let found: Vec<Row> = sql.build_query_as().fetch_all(&mut *conn).await?;
    rows.extend(found.into_iter().map(|(id, scope, sid, names)| (id, (scope, sid, names))));
    let mut rewritten = 0;
    for (id, (scope, except_sid, except_names)) in rows {
        let (kind, name) = scope.rsplit_once(PART).unwrap_or((&scope, ""));
        let is_own = person.is_named(name);
        if !is_own && !except_names.as_deref().is_some_and(|names| holds(names, &person.sight.names)) {
            continue;
        }
        let scope = if is_own { format!("{kind}{PART}{}", (person.veil)(name)) } else { scope.clone() };
        sqlx::query("UPDATE cut_offs SET scope = $2, except_sid = $3, except_names = $4 WHERE id = $1")
            .bind(id)
            .bind(scope)
            .bind(person.veiled(except_sid))
            .bind(except_names.map(|names| veiled_json(&names, &person.sight.names, person.veil)))
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
    for (id, sid, _, at, event, target, grave, offline) in found {
        let by_age = matches!(target.as_deref(), Some(TARGET_EXPIRED | TARGET_RECONCILE));
        ends.insert(id, by_age);
        if let (Some(sid), Some(at), Some(event)) = (sid, at, event) {
            let scope = format!("session{PART}{}", (person.veil)(sid));
            left.push(Left { scope, at: *at, event: event.clone(), grave: *grave, offline: *offline, by_age });
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
    let names: Vec<&str> = person.sight.names.iter().map(String::as_str).collect();
    for chunk in names.chunks(ROWS_MAX) {
        // A session on the denylist has ended, and its cut-off says so.
        for (table, column, more) in [("newest_tokens", "sub", ""), ("denylist", "name", " AND kind = 'sid'")] {
            let mut sql = Builder::new(format!("DELETE FROM {table} WHERE issuer_id = "));
            sql.push_bind(person.issuer.as_str().to_owned()).push(more).push(format!(" AND {column} IN "));
            push_list(&mut sql, chunk.iter().copied());
            sql.build().execute(&mut *conn).await?;
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
