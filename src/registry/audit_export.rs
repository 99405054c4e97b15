//! The audit trail in the order of sealing, whole enough to be verified elsewhere.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::api_tokens::confined;
use crate::http::needs::ReadAudit;
use crate::http::problem::ProblemDocument;
use crate::http::wire::{text, value};
use crate::http::{AppState, Problem, Query, Reply, Routes, Somewhere, page};
use crate::model::audit::{Head, Link, Proof, TrailRecord};
use crate::model::page::PAGE_ITEMS_MAX;
use crate::model::{IssuerId, Timestamp};
use crate::token::audit::{Line, is_own_key, written};

/// The route of the export.
pub fn routes() -> Routes {
    Routes::new().add(routes!(export))
}

/// Which part of the trail.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// Of what was done elsewhere, only the digests.
    issuer: Option<text::IssuerId>,
    /// From the last head that was signed before this time on: everything that was sealed since.
    since: Option<text::Timestamp>,
    /// Up to the first head that was signed at this time or later.
    until: Option<text::Timestamp>,
    /// How many records at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Seq>,
}

/// One page of the trail.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExportPage {
    /// Its lines: public keys, heads that announced them before the trail begins, where it begins, records, the heads that cover them, and at the end the first 1,000 records that are not sealed yet.
    #[schema(value_type = Vec<Object>)]
    items: Vec<Line>,
    /// The `after` of the next page; null when this was the last.
    next: Option<text::Seq>,
}

/// Export the audit trail in the order of sealing. Written one item a line, its pages are the file that `logoutd audit verify` reads.
#[utoipa::path(
    get,
    path = "/v1/audit/export",
    tag = "access",
    security(("bearer" = [])),
    params(ExportQuery),
    responses(
        (status = 200, description = "One page", body = ExportPage),
        (status = 401, description = "unauthorized", content_type = "application/problem+json", body = ProblemDocument),
        (status = 403, description = "forbidden", content_type = "application/problem+json", body = ProblemDocument),
    )
)]
pub async fn export(
    State(app): State<AppState>,
    Somewhere(caller, _): Somewhere<ReadAudit>,
    Query(query): Query<ExportQuery>,
) -> Result<Reply<ExportPage>, Problem> {
    let issuer = confined(&caller, value(query.issuer))?;
    let limit = page(query.limit, None).limit;
    let (mut items, after) = match value(query.after) {
        Some(after) => (Vec::new(), after.0),
        None => {
            let (mut items, after) = beginning(&app, value(query.since)).await?;
            // In no place of the chain, and so in none of the pages: whoever verifies is to see them.
            let strays = app.store.stray_records(limit).await?;
            items.extend(strays.into_iter().map(|stray| line(stray, issuer.as_ref())));
            (items, after)
        }
    };
    // Read before the records: every record it covers is there, or was taken away.
    let covered = app.store.trail_state().await?.head.map_or(0, |head| head.tip.seq);
    let mut records = app.store.sealed_records(after, limit).await?;
    let full = records.len() == usize::from(limit);
    let last = records.iter().filter_map(seq).max().unwrap_or(after);
    let mut heads = app.store.heads(after, if full { last } else { last.max(covered) }).await?;
    let until = value(query.until);
    let cut = until.and_then(|until| heads.iter().position(|head| head.at >= until));
    if let Some(cut) = cut {
        heads.truncate(cut + 1);
        let end = heads.last().map_or(after, |head| head.tip.seq);
        records.retain(|record| seq(record).is_some_and(|seq| seq <= end));
    }
    items.extend(in_order(records, heads, issuer.as_ref()));
    match (cut, until, full) {
        (Some(_), ..) | (None, Some(_), false) => items.push(Line::Until {}),
        (None, None, false) => {
            let tail = app.store.unsealed_records(None, PAGE_ITEMS_MAX).await?;
            items.extend(tail.into_iter().filter(|one| is_seen(one, issuer.as_ref())).map(|one| line(one, issuer.as_ref())));
        }
        (None, _, true) => {}
    }
    let next = (full && cut.is_none()).then(|| crate::http::page::Seq(last).into());
    Ok(Reply::ok(ExportPage { items, next }))
}

/// The keys, and where the trail begins: at its first record, behind what is no longer kept, or behind the head that was asked for.
async fn beginning(app: &AppState, since: Option<Timestamp>) -> Result<(Vec<Line>, u64), Problem> {
    let keys = app.store.audit_keys().await?.into_iter().filter(|key| is_own_key(key, &app.sealing));
    let mut items: Vec<Line> =
        keys.filter_map(|key| serde_json::from_str(&key.public_jwk).ok()).map(|jwk: Value| Line::Key { jwk }).collect();
    let checkpoint = app.store.trail_state().await?.checkpoint;
    let gone = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.tip.seq);
    let start = match since {
        Some(since) => app.store.head_before(since).await?.filter(|head| head.tip.seq > gone),
        None => None,
    };
    // Who trusts a key that signed before all this comes by them to the one that signed the beginning.
    let from = start.as_ref().map_or(gone, |head| head.tip.seq);
    items.extend(app.store.announcements(from).await?.into_iter().map(|head| Line::Announcement { jws: head.jws }));
    let after = match (start, checkpoint) {
        (Some(head), _) => {
            items.push(Line::Start { jws: head.jws });
            head.tip.seq
        }
        (None, Some(checkpoint)) => {
            items.push(Line::Checkpoint { jws: checkpoint.jws });
            gone
        }
        (None, None) => 0,
    };
    Ok((items, after))
}

fn seq(record: &TrailRecord) -> Option<u64> {
    record.link.as_ref().map(|link| link.seq)
}

/// Each head behind the last record it covers.
fn in_order(records: Vec<TrailRecord>, heads: Vec<Head>, issuer: Option<&IssuerId>) -> Vec<Line> {
    let mut lines = Vec::with_capacity(records.len() + heads.len());
    let mut heads = heads.into_iter().peekable();
    for record in records {
        let at = seq(&record).unwrap_or(u64::MAX);
        while let Some(head) = heads.next_if(|head| head.tip.seq < at) {
            lines.push(Line::Head { jws: head.jws });
        }
        lines.push(line(record, issuer));
    }
    lines.extend(heads.map(|head| Line::Head { jws: head.jws }));
    lines
}

fn is_seen(one: &TrailRecord, issuer: Option<&IssuerId>) -> bool {
    issuer.is_none_or(|issuer| one.record.issuer.as_ref() == Some(issuer))
}

/// A record; of one that is not the reader's to see, or was not asked for, what links it.
fn line(one: TrailRecord, issuer: Option<&IssuerId>) -> Line {
    let record = is_seen(&one, issuer).then(|| written(&one.record));
    let Proof { salts, erased, .. } = one.proof;
    match one.link {
        None => Line::Record { seq: None, record, salts: Default::default(), erased: Default::default(), digest: None, chain: None },
        Some(Link { seq, digest, chain }) => Line::Record {
            seq: Some(seq),
            salts: if record.is_some() { salts } else { Default::default() },
            erased: if record.is_some() { erased } else { Default::default() },
            record,
            digest: Some(digest.to_string()),
            chain: Some(chain.to_string()),
        },
    }
}
