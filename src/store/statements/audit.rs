//! The audit trail: its records, its chain, its heads and the keys that sign them.
//!
//! A record is written by whatever it records (`registry::record`), with what proves it and without a number; its place in the chain is written later, in the
//! transaction that keeps the head over it. So two that seal at once cannot both go on from one end, and what is linked is always covered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use sqlx::AssertSqlSafe;

use super::{Builder, Conn, count, dialect, instant, listed, number, push_list, push_page, word};
use crate::model::audit::{
    Act, AuditKey, AuditKeyState, AuditRecord, Checkpoint, Head, HeadMark, Link, Places, Proof, Tip, TrailRecord, TrailState,
};
use crate::model::key::SigningAlg;
use crate::model::page::{Cursor, Listed, Page};
use crate::model::{AuditId, Digest, EventId, IssuerId, Timestamp};
use crate::store::{AuditEntry, AuditFilter, Context, Ending, Sealing, Sight, StoreError};

const RECORD: &str = "id, at, act, caller, role, actor, remote, issuer_id, event_id, detail, seq, digest, chain, salts, erased, mac";

/// The unsealed ones behind a place, in the order in which they are sealed.
pub(super) const UNSEALED: &str =
    "SELECT id, at, act, caller, role, actor, remote, issuer_id, event_id, detail, seq, digest, chain, salts, erased, mac
                                     FROM audit WHERE seq IS NULL AND (at, id) > ($1, $2) ORDER BY at, id LIMIT $3";
/// Sealed ones beyond a number.
pub(super) const SEALED: &str =
    "SELECT id, at, act, caller, role, actor, remote, issuer_id, event_id, detail, seq, digest, chain, salts, erased, mac
                                   FROM audit WHERE seq IS NOT NULL AND seq > $1 ORDER BY seq LIMIT $2";
/// With numbers that no record was ever given.
pub(super) const STRAYS: &str =
    "SELECT id, at, act, caller, role, actor, remote, issuer_id, event_id, detail, seq, digest, chain, salts, erased, mac
                                   FROM audit WHERE seq IS NOT NULL AND seq < 1 ORDER BY seq LIMIT $1";
/// How many are not sealed.
pub(super) const COUNTED: &str = "SELECT CAST(count(*) AS BIGINT), min(at) FROM audit WHERE seq IS NULL";

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    at: i64,
    act: String,
    caller: String,
    role: String,
    actor: Option<String>,
    remote: Option<String>,
    issuer_id: Option<String>,
    event_id: Option<String>,
    detail: String,
    seq: Option<i64>,
    digest: Option<String>,
    chain: Option<String>,
    salts: Option<String>,
    erased: Option<String>,
    mac: Option<String>,
}

impl Row {
    fn into_record(self) -> Result<TrailRecord, StoreError> {
        let (link, proof) = (self.link(), self.proof());
        let record = AuditRecord {
            id: AuditId::stored(self.id),
            at: Timestamp::from_millis(self.at),
            // Nothing that is sealed or proven says so, and whoever verifies finds it; an error would keep every other record from being read.
            act: Act::parse(&self.act).unwrap_or(Act::Unknown),
            caller: self.caller,
            role: self.role,
            actor: self.actor,
            remote: self.remote,
            issuer: self.issuer_id.map(IssuerId::stored),
            event: self.event_id.map(EventId::stored),
            detail: self.detail,
        };
        Ok(TrailRecord { record, proof, link })
    }

    /// What somebody wrote beside the server may be anything: where it is no link any more, the digests of nothing say so to whoever verifies.
    fn link(&self) -> Option<Link> {
        let digest = |text: &Option<String>| parsed(text.as_deref()).unwrap_or(Digest::from_octets([0; 32]));
        self.seq.map(|seq| Link { seq: u64::try_from(seq).unwrap_or(0), digest: digest(&self.digest), chain: digest(&self.chain) })
    }

    fn proof(&self) -> Proof {
        let places =
            |text: &Option<String>| -> Places { text.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default() };
        Proof { salts: places(&self.salts), erased: places(&self.erased), mac: parsed(self.mac.as_deref()) }
    }
}

fn parsed(text: Option<&str>) -> Option<Digest> {
    text.and_then(|text| Digest::parse(text).ok())
}

fn records(rows: Vec<Row>) -> Result<Vec<TrailRecord>, StoreError> {
    rows.into_iter().map(Row::into_record).collect()
}

/// Records, newest first.
pub(in crate::store) async fn audit(conn: &mut Conn, filter: &AuditFilter, page: &Page) -> Result<Listed<TrailRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {RECORD} FROM audit WHERE 1 = 1"));
    if let Some(issuer) = &filter.issuer {
        sql.push(" AND issuer_id = ").push_bind(issuer.as_str().to_owned());
    }
    if let Some(act) = filter.act {
        sql.push(" AND act = ").push_bind(act.as_str());
    }
    if let Some(since) = filter.since {
        sql.push(" AND at >= ").push_bind(since.millis());
    }
    if let Some(until) = filter.until {
        sql.push(" AND at < ").push_bind(until.millis());
    }
    push_page(&mut sql, page, "at", "id");
    let rows: Vec<Row> = sql.build_query_as().fetch_all(conn).await?;
    Ok(listed(records(rows)?, page, |one| Cursor { at: one.record.at, id: one.record.id.to_string() }))
}

/// Records that are not sealed, the oldest first, behind a place among them.
pub(in crate::store) async fn unsealed(conn: &mut Conn, after: Option<&Cursor>, limit: u16) -> Result<Vec<TrailRecord>, StoreError> {
    let (at, id) = after.map_or((i64::MIN, ""), |after| (after.at.millis(), after.id.as_str()));
    records(sqlx::query_as(UNSEALED).bind(at).bind(id).bind(i64::from(limit)).fetch_all(conn).await?)
}

/// Sealed records beyond a number, in the order of sealing.
pub(in crate::store) async fn sealed(conn: &mut Conn, after: u64, limit: u16) -> Result<Vec<TrailRecord>, StoreError> {
    records(sqlx::query_as(SEALED).bind(stored(after)).bind(i64::from(limit)).fetch_all(conn).await?)
}

/// Records with a number that none was ever given: somebody wrote them beside the server.
pub(in crate::store) async fn strays(conn: &mut Conn, limit: u16) -> Result<Vec<TrailRecord>, StoreError> {
    records(sqlx::query_as(STRAYS).bind(i64::from(limit)).fetch_all(conn).await?)
}

fn stored(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

#[derive(sqlx::FromRow)]
struct HeadRow {
    seq: i64,
    chain: String,
    at: i64,
    kid: String,
    jws: String,
}

impl HeadRow {
    fn into_head(self) -> Result<Head, StoreError> {
        let tip = read_tip(self.seq, &self.chain, "audit_heads")?;
        Ok(Head { tip, at: Timestamp::from_millis(self.at), kid: self.kid, jws: self.jws })
    }
}

fn read_tip(seq: i64, chain: &str, table: &'static str) -> Result<Tip, StoreError> {
    Ok(Tip { seq: number(seq, table, "seq")?, chain: word(Digest::parse(chain), table, "chain")? })
}

/// How the trail stands.
pub(in crate::store) async fn state(conn: &mut Conn) -> Result<TrailState, StoreError> {
    let head: Option<HeadRow> =
        sqlx::query_as("SELECT seq, chain, at, kid, jws FROM audit_heads ORDER BY seq DESC LIMIT 1").fetch_optional(&mut *conn).await?;
    let checkpoint: Option<(i64, String, i64, String)> =
        sqlx::query_as("SELECT seq, chain, at, jws FROM audit_checkpoints ORDER BY seq DESC LIMIT 1").fetch_optional(&mut *conn).await?;
    let (unsealed, since): (i64, Option<i64>) = sqlx::query_as(COUNTED).fetch_one(conn).await?;
    let checkpoint = checkpoint.map(|(seq, chain, at, jws)| -> Result<Checkpoint, StoreError> {
        Ok(Checkpoint { tip: read_tip(seq, &chain, "audit_checkpoints")?, at: Timestamp::from_millis(at), jws })
    });
    Ok(TrailState {
        head: head.map(HeadRow::into_head).transpose()?,
        checkpoint: checkpoint.transpose()?,
        unsealed: count(unsealed),
        unsealed_since: instant(since),
    })
}

/// How the trail stands, with the keys of the same instant: a key begins and ceases to sign with a head.
pub(in crate::store) async fn state_with_keys(conn: &mut Conn) -> Result<(Vec<AuditKey>, TrailState), StoreError> {
    let mut before = state(conn).await?;
    loop {
        let keys = keys(conn).await?;
        let now = state(conn).await?;
        if now.head == before.head && now.checkpoint == before.checkpoint {
            return Ok((keys, now));
        }
        before = now;
    }
}

/// Heads beyond a number, up to another.
pub(in crate::store) async fn heads(conn: &mut Conn, after: u64, to: u64) -> Result<Vec<Head>, StoreError> {
    let rows: Vec<HeadRow> = sqlx::query_as("SELECT seq, chain, at, kid, jws FROM audit_heads WHERE seq > $1 AND seq <= $2 ORDER BY seq")
        .bind(stored(after))
        .bind(stored(to))
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(HeadRow::into_head).collect()
}

/// The heads up to a number by which a key passed on to its successor, in that order.
pub(in crate::store) async fn announcements(conn: &mut Conn, to: u64) -> Result<Vec<Head>, StoreError> {
    let rows: Vec<HeadRow> = sqlx::query_as(
        "SELECT seq, chain, at, kid, jws FROM audit_heads
          WHERE seq <= $1 AND seq IN (SELECT max(seq) FROM audit_heads GROUP BY kid) AND kid IN (SELECT kid FROM audit_keys WHERE state = 'retired')
          ORDER BY seq",
    )
    .bind(stored(to))
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(HeadRow::into_head).collect()
}

pub(super) const LAST_HEAD_BEFORE: &str =
    "SELECT seq, chain, at, kid, jws FROM audit_heads WHERE at < $1 ORDER BY at DESC, seq DESC LIMIT 1";

/// The last head that was signed before an instant.
pub(in crate::store) async fn head_before(conn: &mut Conn, before: Timestamp) -> Result<Option<Head>, StoreError> {
    let row: Option<HeadRow> = sqlx::query_as(LAST_HEAD_BEFORE).bind(before.millis()).fetch_optional(conn).await?;
    row.map(HeadRow::into_head).transpose()
}

/// Links records to the end of the chain and keeps the head over them, if that end is still the one they were linked to; answers whether it was. A text of
/// them that was erased meanwhile takes nothing from their digests.
pub(in crate::store) async fn seal(conn: &mut Conn, context: &Context, order: &Sealing) -> Result<Ending<bool>, StoreError> {
    let last: Option<i64> = sqlx::query_scalar("SELECT max(seq) FROM audit_heads").fetch_one(&mut *conn).await?;
    if count(last.unwrap_or(0)) != order.after.seq || order.records.is_empty() {
        return Ok(Ending::Undo(false));
    }
    if link(conn, order).await? != order.records.len() {
        return Ok(Ending::Undo(false));
    }
    let Head { tip, at, kid, jws } = &order.head;
    sqlx::query("INSERT INTO audit_heads (seq, chain, at, kid, jws) VALUES ($1, $2, $3, $4, $5)")
        .bind(stored(tip.seq))
        .bind(tip.chain.to_string())
        .bind(at.millis())
        .bind(kid)
        .bind(jws)
        .execute(&mut *conn)
        .await?;
    // Whoever rotated or sealed meanwhile was faster.
    if !is_active(conn, kid).await? {
        return Ok(Ending::Undo(false));
    }
    if let Some(next) = &order.next {
        pass_on(conn, context, kid, next).await?;
    }
    Ok(Ending::Keep(true))
}

/// Writes the links beside their records; answers how many were still not linked.
async fn link(conn: &mut Conn, order: &Sealing) -> Result<usize, StoreError> {
    let mut sql = Builder::new("WITH links (record_id, new_seq, new_digest, new_chain) AS (");
    sql.push_values(&order.records, |mut row, (id, link)| {
        row.push_bind(id.as_str().to_owned())
            .push_bind(stored(link.seq))
            .push_bind(link.digest.to_string())
            .push_bind(link.chain.to_string());
    });
    sql.push(") UPDATE audit SET seq = new_seq, digest = new_digest, chain = new_chain FROM links WHERE id = record_id AND seq IS NULL");
    Ok(usize::try_from(sql.build().execute(conn).await?.rows_affected()).unwrap_or(0))
}

pub(super) fn places_text(places: &Places) -> Option<String> {
    (!places.is_empty()).then(|| serde_json::to_string(places).expect("texts always serialise"))
}

// ---- erasure ----

/// Records that may name a person, newest first: those with the `sub` in them, those of their logouts, and all since the first of their other names was
/// theirs. So of whom nothing else is known the whole trail is searched by the database, and none of it is read.
pub(in crate::store) async fn about(
    conn: &mut Conn,
    issuer: &IssuerId,
    sight: &Sight,
    page: &Page,
) -> Result<Listed<TrailRecord>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {RECORD} FROM audit WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" AND (detail LIKE ").push_bind(containing(&sight.sub)).push(" ESCAPE '!'");
    if !sight.events.is_empty() {
        sql.push(" OR event_id IN ");
        push_list(&mut sql, sight.events.iter().map(String::as_str));
    }
    if let Some(since) = sight.names.since() {
        sql.push(" OR at >= ").push_bind(since.millis());
    }
    sql.push(")");
    push_page(&mut sql, page, "at", "id");
    let rows: Vec<Row> = sql.build_query_as().fetch_all(conn).await?;
    Ok(listed(records(rows)?, page, |one| Cursor { at: one.record.at, id: one.record.id.to_string() }))
}

/// A pattern for texts that hold this one as JSON writes it.
fn containing(text: &str) -> String {
    let written = serde_json::to_string(text).expect("a text always serialises");
    format!("%{}%", written.replace('!', "!!").replace('%', "!%").replace('_', "!_"))
}

/// A record as erasure leaves it, sealed or not; false where it is not there any more.
pub(super) async fn rewrite(conn: &mut Conn, TrailRecord { record, proof, .. }: &TrailRecord) -> Result<bool, StoreError> {
    let rewritten = sqlx::query("UPDATE audit SET actor = $2, remote = $3, detail = $4, salts = $5, erased = $6 WHERE id = $1")
        .bind(record.id.as_str())
        .bind(record.actor.as_deref())
        .bind(record.remote.as_deref())
        .bind(&record.detail)
        .bind(places_text(&proof.salts))
        .bind(places_text(&proof.erased))
        .execute(conn)
        .await?;
    Ok(rewritten.rows_affected() > 0)
}

// ---- from before there was a chain ----

/// How many records one transaction adopts.
const ADOPTED: i64 = 500;

/// Proves records that an earlier version wrote, some at a time; answers how many. Only as long as there is no key and nothing was ever sealed: later a record
/// without a proof is nobody's.
pub(in crate::store) async fn adopt(conn: &mut Conn, context: &Context, (): &()) -> Result<Ending<u64>, StoreError> {
    let begun: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM audit_keys) OR EXISTS (SELECT 1 FROM audit_heads) OR EXISTS (SELECT 1 FROM audit_checkpoints)
             OR EXISTS (SELECT 1 FROM audit WHERE seq IS NOT NULL)",
    )
    .fetch_one(&mut *conn)
    .await?;
    if begun {
        return Ok(Ending::Undo(0));
    }
    let rows: Vec<Row> =
        sqlx::query_as(AssertSqlSafe(format!("SELECT {RECORD} FROM audit WHERE seq IS NULL AND mac IS NULL ORDER BY at, id LIMIT $1")))
            .bind(ADOPTED)
            .fetch_all(&mut *conn)
            .await?;
    let mut adopted = 0;
    for TrailRecord { record, .. } in records(rows)? {
        let Proof { salts, mac: Some(mac), .. } = context.prover.prove(&record) else {
            return Err(StoreError::Unavailable("records cannot be proven without a key".into()));
        };
        adopted += sqlx::query("UPDATE audit SET salts = $2, mac = $3 WHERE id = $1 AND mac IS NULL")
            .bind(record.id.as_str())
            .bind(places_text(&salts))
            .bind(mac.to_string())
            .execute(&mut *conn)
            .await?
            .rows_affected();
    }
    Ok(Ending::Keep(adopted))
}

// ---- keys ----

#[derive(sqlx::FromRow)]
struct KeyRow {
    kid: String,
    alg: String,
    state: String,
    public_jwk: String,
    sealed: String,
    mac: Option<String>,
    created_at: i64,
    retired_at: Option<i64>,
}

impl KeyRow {
    fn into_key(self) -> Result<AuditKey, StoreError> {
        Ok(AuditKey {
            kid: self.kid,
            alg: word(SigningAlg::parse(&self.alg), "audit_keys", "alg")?,
            state: word(AuditKeyState::parse(&self.state), "audit_keys", "state")?,
            public_jwk: self.public_jwk,
            // What is no base64 opens no better than any other octets that nobody sealed.
            sealed: STANDARD.decode(&self.sealed).unwrap_or_default(),
            mac: parsed(self.mac.as_deref()),
            created_at: Timestamp::from_millis(self.created_at),
            retired_at: instant(self.retired_at),
        })
    }
}

/// Every key there ever was, the oldest first.
pub(in crate::store) async fn keys(conn: &mut Conn) -> Result<Vec<AuditKey>, StoreError> {
    let rows: Vec<KeyRow> =
        sqlx::query_as("SELECT kid, alg, state, public_jwk, sealed, mac, created_at, retired_at FROM audit_keys ORDER BY created_at, kid")
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(KeyRow::into_key).collect()
}

async fn is_active(conn: &mut Conn, kid: &str) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM audit_keys WHERE kid = $1 AND state = 'active')").bind(kid).fetch_one(conn).await?)
}

/// Adds the first key, or a successor; false where there is one already.
pub(in crate::store) async fn add_key(
    conn: &mut Conn,
    context: &Context,
    (key, entry): &(AuditKey, AuditEntry),
) -> Result<Ending<bool>, StoreError> {
    let added = sqlx::query(
        "INSERT INTO audit_keys (kid, alg, state, public_jwk, sealed, mac, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(&key.kid)
    .bind(key.alg.as_str())
    .bind(key.state.as_str())
    .bind(&key.public_jwk)
    .bind(STANDARD.encode(&key.sealed))
    .bind(key.mac.map(|mac| mac.to_string()))
    .bind(key.created_at.millis())
    .execute(&mut *conn)
    .await?;
    if added.rows_affected() == 0 {
        return Ok(Ending::Undo(false));
    }
    super::registry::record(conn, context, entry).await?;
    Ok(Ending::Keep(true))
}

/// The key that signed the last head has named its successor, and is destroyed.
async fn pass_on(conn: &mut Conn, context: &Context, old: &str, next: &str) -> Result<(), StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    sqlx::query("UPDATE audit_keys SET state = 'retired', sealed = '', retired_at = $2 WHERE kid = $1")
        .bind(old)
        .bind(now.millis())
        .execute(&mut *conn)
        .await?;
    let began = sqlx::query("UPDATE audit_keys SET state = 'active' WHERE kid = $1 AND state = 'next'").bind(next).execute(conn).await?;
    if began.rows_affected() == 0 { Err(StoreError::raced()) } else { Ok(()) }
}

// ---- what is not kept ----

/// How many rows one transaction removes.
const ROWS: i64 = 500;

/// Keeps a checkpoint; earlier ones say nothing that it does not say.
pub(in crate::store) async fn keep_checkpoint(conn: &mut Conn, _: &Context, checkpoint: &Checkpoint) -> Result<Ending<()>, StoreError> {
    let Checkpoint { tip, at, jws } = checkpoint;
    sqlx::query("INSERT INTO audit_checkpoints (seq, chain, at, jws) VALUES ($1, $2, $3, $4) ON CONFLICT (seq) DO NOTHING")
        .bind(stored(tip.seq))
        .bind(tip.chain.to_string())
        .bind(at.millis())
        .bind(jws)
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM audit_checkpoints WHERE seq < $1").bind(stored(tip.seq)).execute(conn).await?;
    Ok(Ending::Keep(()))
}

pub(super) const PURGED: &str = "SELECT seq FROM audit WHERE seq IS NOT NULL AND seq > 0 AND seq <= $1 ORDER BY seq LIMIT $2";

/// Removes some of what was sealed up to a number, which a checkpoint speaks of; answers how many rows went.
pub(in crate::store) async fn purge(conn: &mut Conn, _: &Context, to: &u64) -> Result<Ending<u64>, StoreError> {
    let to = stored(*to);
    let records = sqlx::query(
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE seq IS NOT NULL AND seq > 0 AND seq <= $1 ORDER BY seq LIMIT $2)",
    )
    .bind(to)
    .bind(ROWS)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    // The last one of each key stays: it says where the next begins, also when nothing younger is there, or which key signs after its own.
    let heads = sqlx::query(
        "DELETE FROM audit_heads WHERE seq IN (SELECT seq FROM audit_heads WHERE seq <= $1 AND seq NOT IN (SELECT max(seq) FROM audit_heads GROUP BY kid)
            ORDER BY seq LIMIT $2)",
    )
    .bind(to)
    .bind(ROWS)
    .execute(conn)
    .await?
    .rows_affected();
    Ok(Ending::Keep(records + heads))
}

/// How many heads are looked at for what is surplus.
const LOOKED_AT: u16 = 20_000;

/// Of the heads that are older than that, one an hour and key is enough: each covers all before it. The oldest of an hour go first, so that of what is left
/// each still names the one that is left before it, wherever this stops.
pub(in crate::store) async fn thin_heads(conn: &mut Conn, _: &Context, before: &Timestamp) -> Result<Ending<u64>, StoreError> {
    let mut rows: Vec<(i64, i64, String)> = sqlx::query_as(
        "SELECT seq, at, kid FROM audit_heads WHERE seq <= (SELECT max(seq) FROM audit_heads WHERE at < $1) ORDER BY seq DESC LIMIT $2",
    )
    .bind(before.millis())
    .bind(i64::from(LOOKED_AT))
    .fetch_all(&mut *conn)
    .await?;
    rows.reverse();
    let marks = rows.iter().map(|(_, at, kid)| HeadMark { at: Timestamp::from_millis(*at), kid });
    let goes: Vec<bool> = marks.clone().zip(marks.skip(1)).map(|(one, next)| one.goes_before(&next)).collect();
    // Of an hour whose beginning was not looked at, the oldest is not known.
    let unknown = if rows.len() == usize::from(LOOKED_AT) { goes.iter().take_while(|goes| **goes).count() } else { 0 };
    let old = rows.iter().take_while(|(_, at, _)| *at < before.millis());
    let surplus = old.zip(&goes).skip(unknown).filter(|(_, goes)| **goes).map(|((seq, ..), _)| *seq);
    let surplus: Vec<i64> = surplus.take(500).collect();
    if surplus.is_empty() {
        return Ok(Ending::Undo(0));
    }
    let mut sql = Builder::new("DELETE FROM audit_heads WHERE seq IN (");
    let mut list = sql.separated(", ");
    for seq in surplus {
        list.push_bind(seq);
    }
    sql.push(")");
    Ok(Ending::Keep(sql.build().execute(conn).await?.rows_affected()))
}
