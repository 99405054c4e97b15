//! Forgetting what has been kept long enough, a few hundred rows at a time.
//!
//! What may go is looked for outside of the writer and looked at again inside the transaction that removes it. A logout goes with all that belongs to it,
//! once the last of its deliveries settled long enough ago; what somebody still waits for stays whole. Tombstones and cut-offs stay as long as a report
//! could come that they speak of.

use std::collections::BTreeMap;

use super::{Builder, Conn, dialect, duration_ms, push_list};
use crate::model::{IssuerId, Timestamp};
use crate::store::{Context, Ending, Forgettable, Keep, StoreError};

/// How many rows one transaction removes.
const ROWS: i64 = 500;
/// How many things one look finds at most.
const FOUND_MAX: u16 = 200;

const DAY: i64 = 24 * 3600 * 1000;
/// What a tombstone outlives at least: no report of what it buries comes later.
const TOMBSTONE_MIN: i64 = 30 * DAY;
/// The longest life of an access token that may name an ended session.
const ACCESS_TOKEN_MAX: i64 = DAY;

/// How long a replaced refresh token without an end of its own is known, so that its reuse is.
const ROTATED_KEPT: i64 = 2 * TOMBSTONE_MIN;
/// Longer than any token may be told to live.
const LIFE_MAX: i64 = 400 * DAY;

/// Since when, and for how long.
#[derive(Clone, Copy)]
struct Terms {
    now: i64,
    keep: Keep,
}

impl Terms {
    async fn of(conn: &mut Conn, context: &Context, keep: Keep) -> Result<Self, StoreError> {
        Ok(Self { now: dialect::now(conn, &context.clock).await?.millis(), keep })
    }

    /// Logouts whose last delivery settled before this may go.
    fn settled_before(self) -> i64 {
        self.now - duration_ms(self.keep.settled)
    }

    /// Sessions that ended before this may go, with what was revoked with them.
    fn ended_before(self) -> i64 {
        self.now - duration_ms(self.keep.sessions).max(ACCESS_TOKEN_MAX)
    }
}

/// Every issuer there ever was: what a deleted one left is forgotten like anything else.
pub(in crate::store) async fn issuers(conn: &mut Conn) -> Result<Vec<IssuerId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM issuers ORDER BY id").fetch_all(conn).await?;
    Ok(ids.into_iter().map(IssuerId::stored).collect())
}

/// Logouts of an issuer that may go, the oldest first.
pub(in crate::store) async fn old_events(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    keep: Keep,
) -> Result<Vec<String>, StoreError> {
    let terms = Terms::of(conn, context, keep).await?;
    let mut sql = Builder::new("SELECT e.id FROM events AS e WHERE e.issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned());
    push_event_may_go(&mut sql, terms);
    sql.push(format!(" ORDER BY e.created_at, e.id LIMIT {FOUND_MAX}"));
    Ok(sql.build_query_scalar().fetch_all(conn).await?)
}

/// ` AND …` over `events AS e`. What it adopted is waited for as its own.
fn push_event_may_go(sql: &mut Builder, terms: Terms) {
    let before = terms.settled_before();
    sql.push(" AND e.created_at < ").push_bind(before);
    sql.push(" AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.event_id = e.id AND d.state = 'pending')");
    sql.push(" AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.event_id = e.id AND d.state <> 'pending' AND d.settled_at >= ");
    sql.push_bind(before).push(") AND NOT EXISTS (SELECT 1 FROM adoptions AS a JOIN deliveries AS d ON d.id = a.delivery_id");
    sql.push(" WHERE a.event_id = e.id AND (d.state = 'pending' OR d.settled_at >= ").push_bind(before);
    sql.push(")) AND NOT EXISTS (SELECT 1 FROM works AS w WHERE w.event_id = e.id AND w.done_at IS NULL)");
}

/// Removes logouts with their deliveries, attempts and adoptions, as far as one transaction goes. A logout of more deliveries than that is gone only
/// with the last of them.
pub(in crate::store) async fn forget_events(
    conn: &mut Conn,
    context: &Context,
    (events, keep): &(Vec<String>, Keep),
) -> Result<Ending<u64>, StoreError> {
    if events.is_empty() {
        return Ok(Ending::Undo(0));
    }
    let terms = Terms::of(conn, context, *keep).await?;
    let mut sql = Builder::new("SELECT e.id FROM events AS e WHERE e.id IN ");
    push_list(&mut sql, events.iter().map(String::as_str));
    push_event_may_go(&mut sql, terms);
    sql.push(" ORDER BY e.created_at, e.id");
    let events: Vec<String> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    let (events, deliveries) = few(conn, events).await?;
    if events.is_empty() {
        return Ok(Ending::Undo(0));
    }
    let mut budget = Budget::new();
    let own = "SELECT id FROM deliveries WHERE state <> 'pending' AND event_id IN ";
    budget.remove(conn, "attempts", "id", &format!("SELECT id FROM attempts WHERE delivery_id IN ({own}"), &events, ")").await?;
    for (text, end) in
        [(format!("SELECT event_id, delivery_id FROM adoptions WHERE delivery_id IN ({own}"), ")"), (ADOPTIONS.to_owned(), "")]
    {
        budget.remove(conn, "adoptions", "(event_id, delivery_id)", &text, &events, end).await?;
    }
    budget
        .remove(
            conn,
            "relayed_tokens",
            "delivery_id",
            &format!("SELECT delivery_id FROM relayed_tokens WHERE delivery_id IN ({own}"),
            &events,
            ")",
        )
        .await?;
    // Attempts go before their deliveries, in transactions of their own where there are many: a receipt counts all of its deliveries or is gone.
    if budget.left >= deliveries.min(ROWS) {
        let gone = budget.remove_still(conn, "deliveries", "id", own, &events, "", " AND state <> 'pending'").await?;
        super::account::forgotten(conn, context, terms.now, gone).await?;
    }
    if budget.left > 0 {
        let none_left = " AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.event_id = e.id)
                          AND NOT EXISTS (SELECT 1 FROM adoptions AS a WHERE a.event_id = e.id)";
        budget.remove(conn, "events", "id", "SELECT e.id FROM events AS e WHERE e.id IN ", &events, none_left).await?;
    }
    Ok(budget.ending())
}

/// The first of these logouts: so many as have no more deliveries together than one transaction removes, or one. Answers how many deliveries.
async fn few(conn: &mut Conn, events: Vec<String>) -> Result<(Vec<String>, i64), StoreError> {
    if events.is_empty() {
        return Ok((events, 0));
    }
    let mut sql = Builder::new("SELECT event_id, CAST(count(*) AS BIGINT) FROM deliveries WHERE event_id IN ");
    push_list(&mut sql, events.iter().map(String::as_str));
    sql.push(" GROUP BY event_id");
    let counts: BTreeMap<String, i64> = sql.build_query_as::<(String, i64)>().fetch_all(conn).await?.into_iter().collect();
    let (mut chosen, mut total) = (Vec::with_capacity(events.len()), 0);
    for event in events {
        let deliveries = counts.get(&event).copied().unwrap_or(0);
        // A row for the logout itself, and as many again for attempts.
        if !chosen.is_empty() && 2 * (total + deliveries) + i64::try_from(chosen.len()).unwrap_or(ROWS) >= ROWS {
            break;
        }
        total += deliveries;
        chosen.push(event);
    }
    Ok((chosen, total))
}

const ADOPTIONS: &str = "SELECT event_id, delivery_id FROM adoptions WHERE event_id IN ";

/// How many more rows a transaction may remove.
struct Budget {
    left: i64,
}

impl Budget {
    const fn new() -> Self {
        Self { left: ROWS }
    }

    /// `DELETE FROM table WHERE key IN (rows (names) end LIMIT …)`.
    async fn remove(
        &mut self,
        conn: &mut Conn,
        table: &str,
        key: &str,
        rows: &str,
        names: &[String],
        end: &str,
    ) -> Result<u64, StoreError> {
        self.remove_still(conn, table, key, rows, names, end, "").await
    }

    /// The same, with a condition that is looked at again on a row somebody else changed meanwhile.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one statement, in its order")]
    async fn remove_still(
        &mut self,
        conn: &mut Conn,
        table: &str,
        key: &str,
        rows: &str,
        names: &[String],
        end: &str,
        still: &str,
    ) -> Result<u64, StoreError> {
        if names.is_empty() || self.left == 0 {
            return Ok(0);
        }
        let mut sql = Builder::new(format!("DELETE FROM {table} WHERE {key} IN ({rows}"));
        push_list(&mut sql, names.iter().map(String::as_str));
        sql.push(end).push(" LIMIT ").push_bind(self.left).push(")").push(still);
        let gone = sql.build().execute(conn).await?.rows_affected();
        self.left = (self.left - i64::try_from(gone).unwrap_or(i64::MAX)).max(0);
        Ok(gone)
    }

    fn ending(&self) -> Ending<u64> {
        let gone = super::count(ROWS - self.left);
        if gone == 0 { Ending::Undo(0) } else { Ending::Keep(gone) }
    }
}

/// What may go of one kind: its names, the longest over first.
pub(in crate::store) async fn old(conn: &mut Conn, context: &Context, kind: Forgettable, keep: Keep) -> Result<Vec<String>, StoreError> {
    let terms = Terms::of(conn, context, keep).await?;
    let mut sql = look(kind, terms);
    sql.push(format!(" LIMIT {FOUND_MAX}"));
    Ok(sql.build_query_scalar().fetch_all(conn).await?)
}

/// `SELECT id FROM … WHERE …`, the rows found by an index over their age.
fn look(kind: Forgettable, terms: Terms) -> Builder {
    let Terms { now, keep } = terms;
    match kind {
        Forgettable::IdempotencyKeys => {
            // Any that is old enough: they are counted, and removed by their age.
            let mut sql = Builder::new("SELECT event_id FROM idempotency_keys WHERE created_at < ");
            sql.push_bind(now - duration_ms(keep.idempotency)).push(" ORDER BY created_at");
            sql
        }
        Forgettable::RefreshTokens => {
            let mut sql = Builder::new("SELECT id FROM refresh_tokens WHERE expires_at IS NOT NULL AND expires_at < ");
            sql.push_bind(now - DAY).push(" ORDER BY expires_at");
            sql
        }
        Forgettable::Grants => {
            let mut sql = Builder::new(
                "SELECT g.id FROM grants AS g JOIN issuers AS i ON i.id = g.issuer_id WHERE g.revoked_at IS NOT NULL AND g.revoked_at < ",
            );
            sql.push_bind(terms.ended_before());
            // A token without an end of its own could be registered again as good as new, where nothing tells any more that it is not.
            sql.push(" AND (NOT EXISTS (SELECT 1 FROM refresh_tokens AS t WHERE t.grant_id = g.id) OR g.revoked_at < ");
            push_tombstone(&mut sql, now);
            sql.push(") ORDER BY g.revoked_at");
            sql
        }
        Forgettable::Sessions => {
            let mut sql = Builder::new("SELECT s.id FROM sessions AS s WHERE s.ended_at IS NOT NULL AND s.ended_at < ");
            sql.push_bind(terms.ended_before()).push(" AND s.expires_at < ").push_bind(now);
            sql.push(" AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.session_id = s.id) ORDER BY s.ended_at");
            sql
        }
        Forgettable::CutOffs => {
            let mut sql = Builder::new("SELECT c.id FROM cut_offs AS c JOIN issuers AS i ON i.id = c.issuer_id WHERE c.created_at < ");
            // One that somebody ordered without an end lasts until it is removed.
            sql.push_bind(now - 2 * TOMBSTONE_MIN).push(" AND (NOT c.ordered OR c.lifted_at IS NOT NULL) AND c.not_before < ");
            push_tombstone(&mut sql, now);
            sql.push(" ORDER BY c.created_at");
            sql
        }
        Forgettable::Works => {
            let mut sql = Builder::new("SELECT id FROM works WHERE done_at IS NOT NULL AND done_at < ");
            sql.push_bind(now - DAY).push(" ORDER BY done_at");
            sql
        }
        Forgettable::Replicas => {
            let mut sql = Builder::new("SELECT id FROM replicas WHERE seen_at < ");
            sql.push_bind(now - DAY);
            sql
        }
        Forgettable::Lanes => {
            let mut sql = Builder::new(
                "SELECT lane FROM lanes WHERE paused_at IS NULL AND failing_since IS NULL AND parked_at IS NULL AND probe_at IS NULL
                    AND (closed_at IS NULL OR closed_at < ",
            );
            sql.push_bind(now - DAY).push(")");
            sql
        }
        Forgettable::RelayedTokens => {
            let mut sql = Builder::new("SELECT delivery_id FROM relayed_tokens WHERE expires_at < ");
            sql.push_bind(now).push(" ORDER BY expires_at");
            sql
        }
        Forgettable::ReceivedTokens => {
            // Any that is old enough: they are counted, and removed by their age.
            let mut sql = Builder::new("SELECT jti FROM received_tokens WHERE expires_at < ");
            sql.push_bind(now).push(" ORDER BY expires_at");
            sql
        }
        Forgettable::Assertions => {
            let mut sql = Builder::new("SELECT jti FROM assertions WHERE expires_at < ");
            sql.push_bind(now).push(" ORDER BY expires_at");
            sql
        }
        Forgettable::AccessTokens => by_age("SELECT id FROM access_tokens WHERE expires_at < ", now - DAY, " ORDER BY expires_at"),
        Forgettable::Denied => by_age("SELECT id FROM denylist WHERE expires_at < ", now, " ORDER BY expires_at"),
        Forgettable::RotatedTokens => by_age(ROTATED, now - ROTATED_KEPT, " ORDER BY superseded_at"),
        Forgettable::SealedTokens => {
            by_age("SELECT id FROM refresh_tokens WHERE sealed_until IS NOT NULL AND sealed_until < ", now, " ORDER BY sealed_until")
        }
        Forgettable::LapsedCutOffs => {
            by_age("SELECT id FROM cut_offs WHERE expires_at IS NOT NULL AND expires_at < ", now - DAY, " ORDER BY expires_at")
        }
        Forgettable::Gaps => {
            by_age("SELECT id FROM gaps WHERE closed_at IS NOT NULL AND closed_at < ", terms.ended_before(), " ORDER BY closed_at")
        }
        Forgettable::Alarms => {
            by_age("SELECT id FROM alarms WHERE cleared_at IS NOT NULL AND cleared_at < ", now - TOMBSTONE_MIN, " ORDER BY cleared_at")
        }
        Forgettable::NewestTokens => by_age("SELECT name FROM newest_tokens WHERE issued_at < ", now - LIFE_MAX, " ORDER BY issued_at"),
    }
}

const ROTATED: &str = "SELECT id FROM refresh_tokens WHERE superseded_at IS NOT NULL AND expires_at IS NULL AND superseded_at < ";

fn by_age(text: &'static str, before: i64, order: &'static str) -> Builder {
    let mut sql = Builder::new(text);
    sql.push_bind(before).push(order);
    sql
}

/// Removes what is old enough of a kind whose rows have no id, as far as one transaction goes: counted before, found again by its age.
async fn forget_by_age(conn: &mut Conn, table: &str, key: &str, age: &str, before: i64) -> Result<Ending<u64>, StoreError> {
    let mut sql = Builder::new(format!("DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {age} < "));
    sql.push_bind(before).push(format!(" ORDER BY {age} LIMIT ")).push_bind(ROWS).push(")");
    Ok(Ending::Keep(sql.build().execute(conn).await?.rows_affected()))
}

/// The instant before which a tombstone of the issuer `i` speaks of nothing any more: as long as its sessions live, and thirty days.
fn push_tombstone(sql: &mut Builder, now: i64) {
    sql.push_bind(now - TOMBSTONE_MIN).push(" - CASE WHEN i.session_max_age_ms > ").push_bind(TOMBSTONE_MIN);
    sql.push(" THEN i.session_max_age_ms ELSE ").push_bind(TOMBSTONE_MIN).push(" END");
}

/// Removes of one kind what was found and may still go, as far as one transaction goes; answers how many rows.
pub(in crate::store) async fn forget(
    conn: &mut Conn,
    context: &Context,
    (kind, found, keep): &(Forgettable, Vec<String>, Keep),
) -> Result<Ending<u64>, StoreError> {
    let terms = Terms::of(conn, context, *keep).await?;
    let mut budget = Budget::new();
    match kind {
        Forgettable::IdempotencyKeys => {
            let before = terms.now - duration_ms(keep.idempotency);
            return forget_by_age(conn, "idempotency_keys", "issuer_id, caller, name", "created_at", before).await;
        }
        Forgettable::RefreshTokens => forget_tokens(conn, &mut budget, found, terms).await?,
        Forgettable::Grants => {
            budget.remove(conn, "refresh_tokens", "id", "SELECT id FROM refresh_tokens WHERE grant_id IN ", found, "").await?;
            let empty = " AND NOT EXISTS (SELECT 1 FROM refresh_tokens AS t WHERE t.grant_id = g.id)";
            budget
                .remove(conn, "grants", "id", "SELECT g.id FROM grants AS g WHERE g.revoked_at IS NOT NULL AND g.id IN ", found, empty)
                .await?;
        }
        Forgettable::Sessions => forget_sessions(conn, &mut budget, found).await?,
        Forgettable::CutOffs => {
            budget.remove(conn, "cut_offs", "id", "SELECT id FROM cut_offs WHERE id IN ", found, "").await?;
        }
        Forgettable::Works => {
            let items = "SELECT work_id, number FROM work_items WHERE work_id IN ";
            budget.remove(conn, "work_items", "(work_id, number)", items, found, "").await?;
            let empty = " AND NOT EXISTS (SELECT 1 FROM work_items AS i WHERE i.work_id = w.id)";
            budget
                .remove(conn, "works", "id", "SELECT w.id FROM works AS w WHERE w.done_at IS NOT NULL AND w.id IN ", found, empty)
                .await?;
        }
        Forgettable::Replicas => {
            // It may have come back since it was looked at.
            let mut sql = Builder::new("DELETE FROM replicas WHERE seen_at < ");
            sql.push_bind(terms.now - DAY);
            let gone = sql.build().execute(conn).await?.rows_affected();
            return Ok(Ending::Keep(gone));
        }
        Forgettable::Lanes => {
            let silent =
                "SELECT lane FROM lanes WHERE paused_at IS NULL AND failing_since IS NULL AND parked_at IS NULL AND probe_at IS NULL
                            AND lane IN ";
            let still = " AND paused_at IS NULL AND failing_since IS NULL AND parked_at IS NULL AND probe_at IS NULL";
            budget.remove_still(conn, "lanes", "lane", silent, found, "", still).await?;
        }
        Forgettable::RelayedTokens => {
            let own = "SELECT delivery_id FROM relayed_tokens WHERE delivery_id IN ";
            budget.remove(conn, "relayed_tokens", "delivery_id", own, found, "").await?;
        }
        Forgettable::ReceivedTokens => {
            return forget_by_age(conn, "received_tokens", "issuer_id, audience, jti", "expires_at", terms.now).await;
        }
        Forgettable::Assertions => {
            return forget_by_age(conn, "assertions", "issuer_id, client_id, jti", "expires_at", terms.now).await;
        }
        Forgettable::NewestTokens => {
            let before = terms.now - LIFE_MAX;
            return forget_by_age(conn, "newest_tokens", "issuer_id, client_id, sub, kind", "issued_at", before).await;
        }
        Forgettable::AccessTokens => {
            budget.remove(conn, "access_tokens", "id", "SELECT id FROM access_tokens WHERE id IN ", found, "").await?;
        }
        Forgettable::Alarms => {
            budget.remove(conn, "alarms", "id", "SELECT id FROM alarms WHERE cleared_at IS NOT NULL AND id IN ", found, "").await?;
        }
        Forgettable::Denied => {
            // Somebody may have denied it anew, for longer.
            let still = format!(" AND expires_at < {}", terms.now);
            budget.remove_still(conn, "denylist", "id", "SELECT id FROM denylist WHERE id IN ", found, "", &still).await?;
        }
        Forgettable::Gaps => {
            budget.remove(conn, "gaps", "id", "SELECT id FROM gaps WHERE closed_at IS NOT NULL AND id IN ", found, "").await?;
        }
        Forgettable::RotatedTokens => {
            let own = "SELECT id FROM refresh_tokens WHERE superseded_at IS NOT NULL AND id IN ";
            budget.remove(conn, "refresh_tokens", "id", own, found, "").await?;
        }
        Forgettable::SealedTokens if found.is_empty() => {}
        Forgettable::SealedTokens => {
            let mut sql = Builder::new("UPDATE refresh_tokens SET sealed = NULL, sealed_until = NULL WHERE sealed_until < ");
            sql.push_bind(terms.now).push(" AND id IN ");
            push_list(&mut sql, found.iter().map(String::as_str));
            return Ok(Ending::Keep(sql.build().execute(conn).await?.rows_affected()));
        }
        Forgettable::LapsedCutOffs => {
            budget.remove(conn, "cut_offs", "id", "SELECT id FROM cut_offs WHERE expires_at IS NOT NULL AND id IN ", found, "").await?;
        }
    }
    Ok(budget.ending())
}

/// Tokens go by themselves, and a grant with its last one: it can never be used again.
async fn forget_tokens(conn: &mut Conn, budget: &mut Budget, found: &[String], terms: Terms) -> Result<(), StoreError> {
    if found.is_empty() {
        return Ok(());
    }
    let mut sql = Builder::new("DELETE FROM refresh_tokens WHERE expires_at < ");
    sql.push_bind(terms.now - DAY).push(" AND id IN ");
    push_list(&mut sql, found.iter().map(String::as_str));
    sql.push(" RETURNING grant_id");
    let mut grants: Vec<String> = sql.build_query_scalar().fetch_all(&mut *conn).await?;
    budget.left -= i64::try_from(grants.len()).unwrap_or(budget.left);
    grants.sort();
    grants.dedup();
    // One that was revoked lately is remembered as such a while longer.
    let useless = format!(
        " AND (g.revoked_at IS NULL OR g.revoked_at < {}) AND NOT EXISTS (SELECT 1 FROM refresh_tokens AS t WHERE t.grant_id = g.id)",
        terms.ended_before()
    );
    budget.remove(conn, "grants", "id", "SELECT g.id FROM grants AS g WHERE g.id IN ", &grants, &useless).await?;
    Ok(())
}

/// A grant with `offline_access` outlives the session it came from, as one that came from none.
async fn forget_sessions(conn: &mut Conn, budget: &mut Budget, found: &[String]) -> Result<(), StoreError> {
    if found.is_empty() {
        return Ok(());
    }
    let dead = " AND EXISTS (SELECT 1 FROM sessions AS s WHERE s.id = p.session_id AND s.ended_at IS NOT NULL)";
    budget.remove(conn, "participants", "id", "SELECT p.id FROM participants AS p WHERE p.session_id IN ", found, dead).await?;
    let events = "SELECT session_id, kind, client_id FROM token_events WHERE session_id IN ";
    budget.remove(conn, "token_events", "(session_id, kind, client_id)", events, found, "").await?;
    let aliases = "SELECT issuer_id, alias, session_id FROM session_aliases WHERE session_id IN ";
    budget.remove(conn, "session_aliases", "(issuer_id, alias, session_id)", aliases, found, "").await?;
    if budget.left == 0 {
        return Ok(());
    }
    let mut sql = Builder::new("UPDATE grants SET origin_session_id = NULL WHERE revoked_at IS NULL AND origin_session_id IN ");
    push_list(&mut sql, found.iter().map(String::as_str));
    sql.build().execute(&mut *conn).await?;
    let alone = " AND NOT EXISTS (SELECT 1 FROM participants AS p WHERE p.session_id = s.id)
                  AND NOT EXISTS (SELECT 1 FROM session_aliases AS a WHERE a.session_id = s.id)
                  AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.session_id = s.id)";
    budget.remove(conn, "sessions", "id", "SELECT s.id FROM sessions AS s WHERE s.ended_at IS NOT NULL AND s.id IN ", found, alone).await?;
    Ok(())
}

/// The looks as planners see them; those at tables of a few rows are left out.
pub(super) fn hot() -> Vec<(&'static str, Builder)> {
    let day = std::time::Duration::from_hours(24);
    let terms =
        Terms { now: Timestamp::from_seconds(1).millis(), keep: Keep { idempotency: day, settled: day, sessions: day, audit: day } };
    let mut events = Builder::new("SELECT e.id FROM events AS e WHERE e.issuer_id = '1'");
    push_event_may_go(&mut events, terms);
    let named = [
        ("old idempotency keys", Forgettable::IdempotencyKeys),
        ("old refresh tokens", Forgettable::RefreshTokens),
        ("old grants", Forgettable::Grants),
        ("old sessions", Forgettable::Sessions),
        ("old cut-offs", Forgettable::CutOffs),
        ("old works", Forgettable::Works),
        ("old relayed tokens", Forgettable::RelayedTokens),
        ("old received tokens", Forgettable::ReceivedTokens),
        ("old access tokens", Forgettable::AccessTokens),
        ("old rotated tokens", Forgettable::RotatedTokens),
        ("old sealed tokens", Forgettable::SealedTokens),
        ("old denials", Forgettable::Denied),
        ("old assertions", Forgettable::Assertions),
        ("lapsed cut-offs", Forgettable::LapsedCutOffs),
        ("closed gaps", Forgettable::Gaps),
        ("old marks of newest tokens", Forgettable::NewestTokens),
        ("old alarms", Forgettable::Alarms),
    ];
    let looks = named.into_iter().map(|(name, kind)| (name, look(kind, terms)));
    [("old logouts", events)].into_iter().chain(looks).collect()
}
