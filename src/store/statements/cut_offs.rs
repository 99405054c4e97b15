//! Cut-offs, found by the scopes that could cover something.

use std::collections::{BTreeMap, BTreeSet};

use super::{Builder, Conn, corrupt, dialect, listed, push_list, push_page};
use crate::model::cut_off::{CutOff, CutOffScope, ORDERED_MAX, OrderedCutOff, Origin};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::trigger::Except;
use crate::model::{ClientId, CutOffId, EventId, IssuerId, Sid, Subject, Timestamp};
use crate::seams::Veil;
use crate::store::{AuditEntry, Change, Context, CutOffOrder, Ending, StoreError};

/// Separates the parts of a scope; no identifier holds a control character.
pub(super) const PART: char = '\u{1f}';

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
        CutOffScope::Device(device) => self::device(device),
        CutOffScope::Everyone => EVERYONE.to_owned(),
        CutOffScope::EveryoneAtClients => EVERYONE_AT_CLIENTS.to_owned(),
    }
}

const EVERYONE: &str = "everyone";
const EVERYONE_AT_CLIENTS: &str = "everyone at clients";

fn device(device: &str) -> String {
    format!("device{PART}{device}")
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
        ["device", name] => CutOffScope::Device((*name).to_owned()),
        ["everyone"] => CutOffScope::Everyone,
        ["everyone at clients"] => CutOffScope::EveryoneAtClients,
        ["client sub", at, name] => CutOffScope::ClientSub(client(at), sub(name)),
        _ => return Err(corrupt("cut_offs", "scope")),
    })
}

/// What is spared, as JSON; nothing where nothing is.
fn except_text(except: &Except) -> Option<String> {
    let sub: Vec<&str> = except.sub.iter().map(Subject::as_str).collect();
    let client_id: Vec<&str> = except.client_id.iter().map(ClientId::as_str).collect();
    (!except.is_empty()).then(|| serde_json::json!({ "sub": sub, "client_id": client_id }).to_string())
}

fn read_except(text: Option<&str>) -> Result<Except, StoreError> {
    let Some(text) = text else { return Ok(Except::default()) };
    let names = |value: &serde_json::Value| -> Option<Vec<String>> {
        value.as_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| corrupt("cut_offs", "except_names"))?;
    let of = |member: &str| value.get(member).and_then(names).ok_or_else(|| corrupt("cut_offs", "except_names"));
    Ok(Except {
        sub: of("sub")?.into_iter().map(Subject::stored).collect(),
        client_id: of("client_id")?.into_iter().map(ClientId::stored).collect(),
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
    /// The device its session began on; looked for only where something registered may be covered by it.
    pub(super) device: Option<&'a str>,
    /// The session it came from, which a cut-off of the subject may except, whether or not it is bound to it.
    pub(super) origin_sid: Option<&'a Sid>,
}

impl Known<'_> {
    /// Every scope that covers it, by the text it is stored under: those that name it, and those that named it before the name was erased.
    fn all_scopes(self, veil: &Veil, issuer: &IssuerId) -> BTreeMap<String, String> {
        let plain = self.scopes();
        let mut scopes: BTreeMap<String, String> = plain.iter().map(|scope| (scope.clone(), scope.clone())).collect();
        let Some(veil) = veil.at(issuer) else { return scopes };
        let sub = |sub: Option<&Subject>| sub.map(|sub| Subject::stored(veil(sub.as_str())));
        let sid = |sid: Option<&Sid>| sid.map(|sid| Sid::stored(veil(sid.as_str())));
        let device = self.device.map(&*veil);
        let (own_sub, own_sid, client_sub, client_sid) = (sub(self.sub), sid(self.sid), sub(self.client_sub), sid(self.client_sid));
        let veiled = Known {
            sub: own_sub.as_ref(),
            sid: own_sid.as_ref(),
            client: self.client,
            client_sub: client_sub.as_ref(),
            client_sid: client_sid.as_ref(),
            device: device.as_deref(),
            origin_sid: None,
        };
        // The same members in the same order.
        scopes.extend(veiled.scopes().into_iter().zip(plain));
        scopes
    }

    /// Every scope that covers it. A session is not covered by what names a client.
    fn scopes(self) -> Vec<String> {
        let mut scopes = Vec::with_capacity(10);
        scopes.push(EVERYONE.to_owned());
        scopes.extend(self.device.map(device));
        scopes.extend(self.sub.map(subject));
        scopes.extend(self.sid.map(session));
        let Some(client) = self.client else { return scopes };
        scopes.push(EVERYONE_AT_CLIENTS.to_owned());
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
    except_names: Option<String>,
    not_before: i64,
    event_id: String,
    compromise: bool,
    offline: bool,
    epoch: Option<i64>,
    ordered: bool,
    id: String,
    expires_at: Option<i64>,
}

/// Which cut-offs count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that logouts left: they end what is reported later, too.
    OfEvents,
    /// Those that were ordered as well: they make tokens inactive.
    All,
}

/// The latest cut-off of each kind whose scope covers something: an older one of the same kind covers nothing more.
pub(super) async fn covering(
    conn: &mut Conn,
    veil: &Veil,
    issuer: &IssuerId,
    known: Known<'_>,
    which: Which,
) -> Result<Vec<CutOff>, StoreError> {
    Ok(covering_each(conn, veil, issuer, &[known], which).await?.pop().unwrap_or_default())
}

/// The same for several things, in one statement.
pub(super) async fn covering_each(
    conn: &mut Conn,
    veil: &Veil,
    issuer: &IssuerId,
    known: &[Known<'_>],
    which: Which,
) -> Result<Vec<Vec<CutOff>>, StoreError> {
    let scopes: Vec<BTreeMap<String, String>> = known.iter().map(|known| known.all_scopes(veil, issuer)).collect();
    let all: BTreeSet<&str> = scopes.iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
    let all: Vec<&str> = all.into_iter().collect();
    let mut rows: Vec<Row> = Vec::new();
    for chunk in all.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new("");
        push_latest(&mut sql, issuer, chunk, which);
        rows.extend(sql.build_query_as::<Row>().fetch_all(&mut *conn).await?);
    }
    let of = |known: &Known<'_>, scopes: &BTreeMap<String, String>| {
        let own_sid = known.sid.or(known.origin_sid).map(Sid::as_str);
        let excepted = |row: &Row| row.except_sid.is_some() && row.except_sid.as_deref() == own_sid;
        let in_scope = rows.iter().filter(|row| !excepted(row)).filter_map(|row| Some(row.cut_off(scopes.get(&row.scope)?)));
        let spared = |cut_off: &CutOff| cut_off.except.spares(known.sub, known.client);
        in_scope.filter(|cut_off| !cut_off.as_ref().is_ok_and(spared)).collect()
    };
    known.iter().zip(&scopes).map(|(known, scopes)| of(known, scopes)).collect()
}

pub(super) fn push_latest(sql: &mut Builder, issuer: &IssuerId, scopes: &[&str], which: Which) {
    sql.push(
        "SELECT scope, except_sid, except_names, not_before, event_id, compromise, offline, epoch, ordered, id, expires_at FROM cut_offs AS c \
         WHERE lifted_at IS NULL",
    );
    match which {
        Which::OfEvents => sql.push(" AND NOT ordered"),
        Which::All => &mut *sql,
    };
    sql.push(" AND issuer_id = ");
    sql.push_bind(issuer.as_str().to_owned()).push(" AND scope IN ");
    push_list(sql, scopes.iter().copied());
    sql.push(
        " AND NOT EXISTS (SELECT 1 FROM cut_offs AS o WHERE o.issuer_id = c.issuer_id AND o.scope = c.scope
                             AND o.compromise = c.compromise AND o.offline = c.offline AND o.except_sid IS NOT DISTINCT FROM c.except_sid
                             AND o.except_names IS NOT DISTINCT FROM c.except_names AND o.lifted_at IS NULL
                             AND COALESCE(o.epoch, 0) >= COALESCE(c.epoch, 0)
                             AND o.ordered = c.ordered AND (o.expires_at IS NULL OR o.expires_at >= c.expires_at)
                             AND o.not_before >= c.not_before AND (o.not_before > c.not_before OR (o.not_before = c.not_before AND o.id > c.id)))",
    );
}

impl Row {
    /// With its scope as it is called by whom it was found for.
    fn cut_off(&self, scope: &str) -> Result<CutOff, StoreError> {
        Ok(CutOff {
            scope: read_scope(scope, self.except_sid.clone())?,
            except: read_except(self.except_names.as_deref())?,
            not_before: Timestamp::from_millis(self.not_before),
            origin: if self.ordered {
                Origin::Order { id: CutOffId::stored(self.id.clone()), expires_at: super::instant(self.expires_at) }
            } else {
                Origin::Event(EventId::stored(self.event_id.clone()))
            },
            compromise: self.compromise,
            offline: self.offline,
            epoch: self.epoch,
        })
    }
}

/// Orders one, unless there are as many as there may be. Those who order at an issuer take turns, so that the count is true.
pub(in crate::store) async fn order(
    conn: &mut Conn,
    context: &Context,
    (issuer, order, audit): &(IssuerId, CutOffOrder, AuditEntry),
) -> Result<Ending<Option<OrderedCutOff>>, StoreError> {
    dialect::own_names(conn, issuer, &["cut-offs".to_owned()]).await?;
    let now = dialect::now(conn, &context.clock).await?;
    let mut sql = Builder::new("SELECT CAST(count(*) AS BIGINT) FROM (SELECT id FROM cut_offs WHERE ");
    push_holding(&mut sql, issuer, now);
    sql.push(format!(" LIMIT {ORDERED_MAX}) AS held"));
    let held: i64 = sql.build_query_scalar().fetch_one(&mut *conn).await?;
    if held >= i64::from(ORDERED_MAX) {
        return Ok(Ending::Undo(None));
    }
    let CutOffOrder { scope, not_before, expires_at } = order.clone();
    let id: CutOffId = context.entropy.id(now);
    let origin = Origin::Order { id: id.clone(), expires_at };
    // Offline grants too: it is about tokens, wherever their lives hang.
    let cut_off =
        CutOff { scope: scope.clone(), except: Except::default(), not_before, origin, compromise: false, offline: true, epoch: None };
    leave(conn, context, issuer, &cut_off, now).await?;
    super::registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(Some(OrderedCutOff { id, scope, not_before, expires_at, created_at: now })))
}

/// ` …` over `cut_offs`: those that were ordered at an issuer and still hold.
fn push_holding(sql: &mut Builder, issuer: &IssuerId, now: Timestamp) {
    sql.push("ordered AND lifted_at IS NULL AND (expires_at IS NULL OR expires_at > ").push_bind(now.millis());
    sql.push(") AND issuer_id = ").push_bind(issuer.as_str().to_owned());
}

#[derive(sqlx::FromRow)]
struct OrderedRow {
    id: String,
    scope: String,
    not_before: i64,
    expires_at: Option<i64>,
    created_at: i64,
}

impl OrderedRow {
    fn into_ordered(self) -> Result<OrderedCutOff, StoreError> {
        Ok(OrderedCutOff {
            id: CutOffId::stored(self.id),
            scope: read_scope(&self.scope, None)?,
            not_before: Timestamp::from_millis(self.not_before),
            expires_at: super::instant(self.expires_at),
            created_at: Timestamp::from_millis(self.created_at),
        })
    }
}

/// Those that were ordered and still hold, newest first.
pub(in crate::store) async fn ordered(
    conn: &mut Conn,
    context: &Context,
    issuer: &IssuerId,
    page: &Page,
) -> Result<Listed<OrderedCutOff>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let rows: Vec<OrderedRow> = look(issuer, now, page).build_query_as().fetch_all(conn).await?;
    let ordered: Vec<OrderedCutOff> = rows.into_iter().map(OrderedRow::into_ordered).collect::<Result<_, _>>()?;
    Ok(listed(ordered, page, |one| Cursor { at: one.created_at, id: one.id.to_string() }))
}

fn look(issuer: &IssuerId, now: Timestamp, page: &Page) -> Builder {
    let mut sql = Builder::new("SELECT id, scope, not_before, expires_at, created_at FROM cut_offs WHERE ");
    push_holding(&mut sql, issuer, now);
    push_page(&mut sql, page, "created_at", "id");
    sql
}

/// Removes one that was ordered and still holds. What logouts left is lifted by undoing them.
pub(in crate::store) async fn lift(
    conn: &mut Conn,
    context: &Context,
    (issuer, id, audit): &(IssuerId, CutOffId, AuditEntry),
) -> Result<Ending<Change>, StoreError> {
    let now = dialect::now(conn, &context.clock).await?;
    let mut sql = Builder::new("UPDATE cut_offs SET lifted_at = ");
    sql.push_bind(now.millis()).push(" WHERE ");
    push_holding(&mut sql, issuer, now);
    super::push_equal(&mut sql, "id", id.as_str());
    if sql.build().execute(&mut *conn).await?.rows_affected() == 0 {
        return Ok(Ending::Undo(Change::Absent));
    }
    super::registry::record(conn, context, audit).await?;
    Ok(Ending::Keep(Change::Replaced))
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
        | CutOffScope::ClientSub(..)
        | CutOffScope::Device(_)
        | CutOffScope::Everyone
        | CutOffScope::EveryoneAtClients => None,
    };
    let (id, event, expires_at) = match &cut_off.origin {
        Origin::Event(event) => (context.entropy.id(now), event.as_str(), None),
        Origin::Order { id, expires_at } => (id.clone(), "", *expires_at),
    };
    sqlx::query(
        "INSERT INTO cut_offs (id, issuer_id, scope, except_sid, except_names, not_before, event_id, compromise, offline, epoch, created_at, ordered,
                               expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(id.as_str())
    .bind(issuer.as_str())
    .bind(scope_text(&cut_off.scope))
    .bind(except_sid)
    .bind(except_text(&cut_off.except))
    .bind(cut_off.not_before.millis())
    .bind(event)
    .bind(cut_off.compromise)
    .bind(cut_off.offline)
    .bind(cut_off.epoch)
    .bind(now.millis())
    .bind(event.is_empty())
    .bind(super::millis(expires_at))
    .execute(conn)
    .await?;
    Ok(())
}
