//! Logouts and their receipts, read.

use std::collections::BTreeMap;

use super::deliveries::delivery_word;
use super::{Builder, Conn, count, instant, push_list, push_page, word};
use crate::model::access::Caller;
use crate::model::delivery::{DeliveryKind, DeliveryState};
use crate::model::effects::ProviderWord;
use crate::model::event::{Counts, EventState, ProviderCounts, ProviderTold, RECEIPT_CLIENTS_MAX, Receipt, RevocationCounts};
use crate::model::page::{Cursor, Listed, Page};
use crate::model::trigger::Reason;
use crate::model::{EventId, IssuerId, Timestamp};
use crate::store::{DeliveryFilter, EventFilter, StoreError};

const EVENT: &str = "id, issuer_id, target, reason, reason_detail, actor, correlation_id, note, sessions_ended, participations_ended, \
                     refresh_tokens_revoked, occurred_at, created_at, undone_at, tell_provider, \
                     EXISTS (SELECT 1 FROM issuers AS i WHERE i.id = events.issuer_id AND i.provider_logout IS NOT NULL) AS provider_is_told, \
                     EXISTS (SELECT 1 FROM works AS w WHERE w.event_id = events.id AND w.kind = 'expand' AND w.done_at IS NULL) AS expanding";

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    issuer_id: String,
    target: String,
    reason: String,
    reason_detail: Option<String>,
    actor: Option<String>,
    correlation_id: Option<String>,
    note: Option<String>,
    sessions_ended: i64,
    participations_ended: i64,
    refresh_tokens_revoked: i64,
    occurred_at: i64,
    created_at: i64,
    undone_at: Option<i64>,
    tell_provider: Option<bool>,
    provider_is_told: bool,
    expanding: bool,
}

/// How the deliveries of one event stand, and when the last of them settled.
#[derive(Clone, Copy, Default)]
struct Standing {
    counts: Counts,
    /// What it wrote to the provider itself.
    provider: ProviderCounts,
    /// What earlier logouts wrote to the provider and it waits for.
    provider_adopted: ProviderCounts,
    revocations: Option<RevocationCounts>,
    last_settled_at: Option<i64>,
}

impl Row {
    /// While it is expanding, nobody knows yet how many there will be.
    fn provider(&self, counts: ProviderCounts) -> Option<ProviderTold> {
        let word = ProviderWord::of_stored(self.tell_provider);
        let to_come = self.expanding && self.provider_is_told && word == ProviderWord::Due;
        let counts = if to_come { counts.plus(ProviderCounts { pending: 1, ..ProviderCounts::default() }) } else { counts };
        counts.standing(word, count(self.sessions_ended))
    }

    fn into_receipt(self, standing: &Standing) -> Result<Receipt, StoreError> {
        // What is undone waits for nobody else's deliveries.
        let (waits_for, adopted) = match self.undone_at {
            None => (standing.counts.adopted, standing.provider_adopted),
            Some(_) => (0, ProviderCounts::default()),
        };
        let provider = standing.provider.plus(adopted);
        let revocations = standing.revocations.map_or(0, |counts| counts.pending);
        let state = match standing.counts.pending + waits_for + provider.pending + revocations {
            _ if self.expanding => EventState::Expanding,
            0 => EventState::Settled,
            _ => EventState::Delivering,
        };
        let provider = self.provider(provider);
        Ok(Receipt {
            would_tell: Vec::new(),
            id: EventId::stored(self.id),
            issuer: IssuerId::stored(self.issuer_id),
            target: self.target,
            reason: word(Reason::parse(&self.reason), "events", "reason")?,
            reason_detail: self.reason_detail,
            actor: self.actor,
            correlation_id: self.correlation_id,
            note: self.note,
            state,
            sessions_ended: count(self.sessions_ended),
            participations_ended: count(self.participations_ended),
            refresh_tokens_revoked: count(self.refresh_tokens_revoked),
            provider,
            revocations: standing.revocations,
            counts: standing.counts,
            deliveries: Vec::new(),
            occurred_at: Timestamp::from_millis(self.occurred_at),
            created_at: Timestamp::from_millis(self.created_at),
            undone_at: instant(self.undone_at),
            settled_at: (state == EventState::Settled)
                .then(|| Timestamp::from_millis(standing.last_settled_at.or(self.undone_at).unwrap_or(self.created_at))),
        })
    }
}

pub(in crate::store) async fn receipt(conn: &mut Conn, issuer: &IssuerId, id: &EventId) -> Result<Option<Receipt>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {EVENT} FROM events WHERE issuer_id = "));
    sql.push_bind(issuer.as_str().to_owned()).push(" AND id = ").push_bind(id.as_str().to_owned());
    let Some(row): Option<Row> = sql.build_query_as().fetch_optional(&mut *conn).await? else { return Ok(None) };
    let standing = standings(conn, &[id.as_str()]).await?.remove(id.as_str()).unwrap_or_default();
    let mut receipt = row.into_receipt(&standing)?;
    let of_event = DeliveryFilter { issuer: Some(issuer.clone()), event: Some(id.clone()), to_clients: true, ..DeliveryFilter::default() };
    let first = Page { limit: u16::try_from(RECEIPT_CLIENTS_MAX).unwrap_or(u16::MAX), after: None };
    receipt.deliveries = super::deliveries::listed(conn, &of_event, &first).await?.items;
    Ok(Some(receipt))
}

pub(in crate::store) async fn caller(conn: &mut Conn, issuer: &IssuerId, id: &EventId) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar("SELECT caller FROM events WHERE issuer_id = $1 AND id = $2")
        .bind(issuer.as_str())
        .bind(id.as_str())
        .fetch_optional(conn)
        .await?)
}

/// Asked again and again while somebody waits: each part ends at its first row, however many there are.
pub(super) const IS_OPEN: &str = "
    SELECT EXISTS (SELECT 1 FROM deliveries WHERE event_id = $1 AND state = 'pending')
        OR EXISTS (SELECT 1 FROM adoptions AS a JOIN deliveries AS d ON d.id = a.delivery_id JOIN events AS e ON e.id = a.event_id
                    WHERE a.event_id = $1 AND d.state = 'pending' AND e.undone_at IS NULL)
        OR EXISTS (SELECT 1 FROM works WHERE event_id = $1 AND done_at IS NULL)";

pub(in crate::store) async fn is_open(conn: &mut Conn, id: &EventId) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar(IS_OPEN).bind(id.as_str()).fetch_one(conn).await?)
}

pub(in crate::store) async fn listed(conn: &mut Conn, filter: &EventFilter, page: &Page) -> Result<Listed<Receipt>, StoreError> {
    let mut sql = Builder::new(format!("SELECT {EVENT} FROM events WHERE 1 = 1"));
    push_filter(&mut sql, filter);
    push_page(&mut sql, page, "created_at", "id");
    let rows: Vec<Row> = sql.build_query_as().fetch_all(&mut *conn).await?;
    let rows = super::listed(rows, page, |row| Cursor { at: Timestamp::from_millis(row.created_at), id: row.id.clone() });
    let ids: Vec<&str> = rows.items.iter().map(|row| row.id.as_str()).collect();
    let standings = standings(conn, &ids).await?;
    let receipt = |row: Row| {
        let standing = standings.get(&row.id).copied().unwrap_or_default();
        row.into_receipt(&standing)
    };
    Ok(Listed { items: rows.items.into_iter().map(receipt).collect::<Result<_, _>>()?, next: rows.next })
}

fn push_filter(sql: &mut Builder, filter: &EventFilter) {
    let issuer = filter.issuer.as_ref().map_or("", IssuerId::as_str);
    if filter.issuer.is_some() {
        sql.push(" AND issuer_id = ").push_bind(issuer.to_owned());
    }
    match filter.state {
        None => {}
        Some(EventState::Expanding) => push_expanding(sql, "IN", issuer),
        Some(EventState::Delivering) => {
            push_open(sql, "IN", issuer);
            push_expanding(sql, "NOT IN", issuer);
        }
        Some(EventState::Settled) => {
            push_open(sql, "NOT IN", issuer);
            push_expanding(sql, "NOT IN", issuer);
        }
    }
    if let Some(client) = &filter.client_id {
        sql.push(" AND id IN (SELECT event_id FROM deliveries WHERE issuer_id = ").push_bind(issuer.to_owned());
        sql.push(" AND client_id = ").push_bind(client.as_str().to_owned()).push(")");
    }
    if let Some(reason) = filter.reason {
        sql.push(" AND reason = ").push_bind(reason.as_str());
    }
    if let Some(since) = filter.since {
        sql.push(" AND created_at >= ").push_bind(since.millis());
    }
    if let Some(until) = filter.until {
        sql.push(" AND created_at < ").push_bind(until.millis());
    }
    if let Some(sub) = &filter.sub {
        push_concerning(sql, issuer, "sub", sub.as_str());
    }
    if let Some(sid) = &filter.sid {
        push_concerning(sql, issuer, "sid", sid.as_str());
    }
    for (column, value) in [("correlation_id", &filter.correlation_id), ("actor", &filter.actor)] {
        if let Some(value) = value {
            sql.push(format!(" AND {column} = ")).push_bind(value.clone());
        }
    }
    if let Some(caller) = &filter.caller {
        push_of_caller(sql, caller);
    }
}

/// ` AND …`: what this caller posted, what the server did by itself, and what the provider's own tokens did.
pub(super) fn push_of_caller(sql: &mut Builder, caller: &str) {
    sql.push(" AND caller IN ");
    push_list(sql, [caller, Caller::ITSELF, Caller::PROVIDER]);
}

fn push_expanding(sql: &mut Builder, within: &str, issuer: &str) {
    sql.push(format!(
        " AND id {within} (SELECT event_id FROM works WHERE done_at IS NULL AND kind = 'expand' AND event_id IS NOT NULL AND issuer_id = "
    ))
    .push_bind(issuer.to_owned())
    .push(")");
}

/// From the open deliveries, of which there are few, not from the events, of which there are many.
fn push_open(sql: &mut Builder, within: &str, issuer: &str) {
    sql.push(format!(" AND id {within} (SELECT event_id FROM deliveries WHERE state = 'pending' AND issuer_id = "))
        .push_bind(issuer.to_owned());
    sql.push(
        " UNION SELECT a.event_id FROM deliveries AS d JOIN adoptions AS a ON a.delivery_id = d.id JOIN events AS e ON e.id = a.event_id
           WHERE e.undone_at IS NULL AND d.state = 'pending' AND d.issuer_id = ",
    );
    sql.push_bind(issuer.to_owned()).push(")");
}

/// Logouts that named it, ended a session of it, or told somebody about one.
fn push_concerning(sql: &mut Builder, issuer: &str, column: &str, value: &str) {
    sql.push(format!(" AND (target_{column} = ")).push_bind(value.to_owned());
    sql.push(" OR id IN (SELECT ended_by FROM sessions WHERE ended_by IS NOT NULL AND issuer_id = ").push_bind(issuer.to_owned());
    sql.push(format!(" AND {column} = ")).push_bind(value.to_owned());
    sql.push(") OR id IN (SELECT d.event_id FROM deliveries AS d JOIN sessions AS s ON s.id = d.session_id WHERE s.issuer_id = ");
    sql.push_bind(issuer.to_owned()).push(format!(" AND s.{column} = ")).push_bind(value.to_owned()).push("))");
}

/// How the deliveries of several events stand: two statements for all of them.
async fn standings(conn: &mut Conn, events: &[&str]) -> Result<BTreeMap<String, Standing>, StoreError> {
    let mut found: BTreeMap<String, Standing> = BTreeMap::new();
    if events.is_empty() {
        return Ok(found);
    }
    let mut own = Builder::new(
        "SELECT event_id, state, late_joiner, kind, CAST(count(*) AS BIGINT), max(settled_at) FROM deliveries WHERE event_id IN ",
    );
    push_list(&mut own, events.iter().copied());
    own.push(" GROUP BY event_id, state, late_joiner, kind");
    let rows: Vec<(String, String, bool, String, i64, Option<i64>)> = own.build_query_as().fetch_all(&mut *conn).await?;
    for (event, state, late_joiner, kind, number, settled_at) in rows {
        let standing = found.entry(event).or_default();
        let (state, number) = (delivery_word(&state)?, count(number));
        match word(DeliveryKind::parse(&kind), "deliveries", "kind")? {
            DeliveryKind::LogoutToken | DeliveryKind::Relay => standing.add(state, late_joiner, number),
            DeliveryKind::Provider => standing.provider.add(state, number),
            DeliveryKind::Revocation => standing.revocations.get_or_insert_default().add(state, number),
        }
        standing.last_settled_at = standing.last_settled_at.max(settled_at);
    }
    let mut adopted = Builder::new(
        "SELECT a.event_id, d.state, d.kind = 'provider', CAST(count(*) AS BIGINT), max(d.settled_at)
           FROM adoptions AS a JOIN deliveries AS d ON d.id = a.delivery_id WHERE a.event_id IN ",
    );
    push_list(&mut adopted, events.iter().copied());
    adopted.push(" GROUP BY a.event_id, d.state, d.kind = 'provider'");
    let rows: Vec<(String, String, bool, i64, Option<i64>)> = adopted.build_query_as().fetch_all(conn).await?;
    for (event, state, to_provider, number, settled_at) in rows {
        let standing = found.entry(event).or_default();
        match (delivery_word(&state)?, to_provider) {
            (state, true) => standing.provider_adopted.add(state, count(number)),
            (DeliveryState::Pending, false) => standing.counts.adopted += count(number),
            (_, false) => {}
        }
        standing.last_settled_at = standing.last_settled_at.max(settled_at);
    }
    Ok(found)
}

impl Standing {
    fn add(&mut self, state: DeliveryState, late_joiner: bool, number: u64) {
        let counts = &mut self.counts;
        let counter = match state {
            DeliveryState::Pending => &mut counts.pending,
            DeliveryState::Delivered => &mut counts.delivered,
            DeliveryState::Rejected => &mut counts.rejected,
            DeliveryState::Expired => &mut counts.expired,
            DeliveryState::Superseded => &mut counts.superseded,
            DeliveryState::Cancelled => &mut counts.cancelled,
            DeliveryState::Unreachable => &mut counts.unreachable,
        };
        *counter += number;
        counts.late_joiners += if late_joiner { number } else { 0 };
    }
}
