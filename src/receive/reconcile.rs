//! Reconciliation: a provider lists what lives, and what it does not list ends.
//!
//! A provider that lost count, or was restored from a backup, sends a list that is too short. So a list may end only a share of what lives, and what
//! began about when the list was made is spared.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bulk::Bulk;
use super::idempotency::idempotency;
use super::logouts::{reply_with, settled_within, tell};
use super::prefer::wait;
use crate::http::shapes::{Kept, ReceiptShape};
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Problem, ProblemDocument, Reply, StrictJson, Text, needs};
use crate::model::delivery::Class;
use crate::model::event::Receipt;
use crate::model::gap::Gap;
use crate::model::{SessionId, Sid, Timestamp};
use crate::plan::expiry::{ceiling, is_spared, opening};
use crate::plan::time::OCCURRED_AHEAD_MAX;
use crate::store::{CommitRefused, Mode, Reconciliation, StoreError};

/// How many sessions a list may name.
pub const LISTED_MAX: usize = 100_000;
/// How long a list takes to be made, unless it says when it was.
const AGE_OF_LIST: Duration = Duration::from_mins(1);
/// How many live sessions are looked at in one statement.
const PAGE: u16 = 2000;
/// How many sessions are rehearsed in one transaction.
const REHEARSED_AT_ONCE: usize = 1000;

/// What lives at the provider.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconcileBody {
    /// Every live `sid`, at most 100,000. Sessions without a `sid` are left alone.
    #[schema(value_type = Vec<text::Sid>, max_items = 100_000)]
    live: Bulk<text::Sid, LISTED_MAX>,
    /// When the list was made; a minute ago unless it says otherwise. What began or was reported since is spared.
    as_of: Option<text::Timestamp>,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// What makes two lists the same request.
#[derive(Serialize)]
struct Fingerprinted<'a> {
    reconcile: &'a BTreeSet<Text<Sid>>,
    as_of: Option<&'a text::Timestamp>,
}

/// The receipt, and what became of the gaps.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReconciledShape {
    #[serde(flatten)]
    receipt: ReceiptShape,
    /// The gaps that were open when the list came. Absent where none was, and in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    gaps: Option<Vec<ListedGapShape>>,
}

/// What became of a gap by a list of what lives.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ListedGapShape {
    id: text::GapId,
    /// When it ended: a list that was made before says nothing of it.
    until: text::Timestamp,
    /// `closed`, or `open` as before.
    state: &'static str,
    /// Why it is still open, and what to do; null when it is closed.
    why: Option<&'static str>,
}

/// Of the gaps that were open: which of them still are, and why.
fn became_of(were_open: Vec<Gap>, open: &[Gap], as_of: Timestamp) -> Option<Vec<ListedGapShape>> {
    let listed = were_open.into_iter().map(|gap| {
        let why = open.iter().find(|left| left.id == gap.id).map(|left| why_open(left, as_of));
        ListedGapShape { id: Text(gap.id), until: Text(gap.ends_at), state: if why.is_some() { "open" } else { "closed" }, why }
    });
    Some(listed.collect::<Vec<_>>()).filter(|gaps| !gaps.is_empty())
}

fn why_open(gap: &Gap, as_of: Timestamp) -> &'static str {
    match gap.listed_at {
        Some(_) => "what no list names is left, such as sessions without a sid and tokens without a session: an operator closes it",
        None if as_of < gap.ends_at => "the list was made before the gap's end: make another one, and say by as_of when it was made",
        None => "the list ends so many sessions that they end by and by: send another one when the logout is not expanding any more",
    }
}

/// Tell what lives; the other sessions end as expired. Clients are told as of an end by age: those that asked for it.
#[utoipa::path(post, path = "/v1/issuers/{iss}/sessions/reconcile", tag = "sessions", operation_id = "reconcileSessions",
    security(("bearer" = [])),
    params(
        ("iss" = String, Path, description = "The issuer's short id."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters; a repetition gets the first receipt."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: waits up to N seconds, at most 30, for everybody to be told."),
    ),
    request_body = ReconcileBody,
    responses(
        (status = 200, description = "A repetition by its key, or a dry run, whose receipt has no id.", body = ReconciledShape),
        (status = 201, description = "Everybody is told, or there was nobody to tell.", body = ReconciledShape,
            headers(("Location" = String, description = "The receipt."))),
        (status = 202, description = "It is certain, and somebody is still to be told.", body = ReconciledShape,
            headers(("Location" = String, description = "The receipt."))),
        (status = 413, description = "`too-many-items`: the list names more than 100,000 sessions.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = 422, description = "`reconcile-ends-too-much`: it would end more of what lives than a list may; nothing was done.",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn reconcile_sessions(
    State(app): State<AppState>,
    at: At<needs::Kill>,
    headers: HeaderMap,
    StrictJson(body): StrictJson<ReconcileBody>,
) -> Result<Response, Problem> {
    let (seat, dry_run) = (at.0, body.dry_run);
    let issuer = seat.issuer.id.clone();
    let listed: BTreeSet<Text<Sid>> = body.live.bounded()?.into_iter().collect();
    let fingerprinted = Fingerprinted { reconcile: &listed, as_of: body.as_of.as_ref() };
    let idempotency = if dry_run { None } else { idempotency(&headers, &fingerprinted, &app.sealing)? };
    let as_of = as_of(value(body.as_of), app.store.now().await?)?;
    if dry_run {
        app.limiter.rehearsal(&seat.issuer.id, &seat.caller, app.clock.now())?;
    } else {
        app.limiter.order(&seat.issuer.id, &seat.caller, app.clock.now())?;
    }
    let mut order = Reconciliation {
        issuer: seat.issuer.id,
        caller: seat.caller,
        idempotency,
        as_of,
        live: 0,
        absent: Vec::new(),
        ends_max: 0,
        opening,
    };
    find_absent(&app, &mut order, &listed).await?;
    order.ends_max = ceiling(order.live, app.settings.reconcile_percent_max);
    if dry_run {
        let receipt = rehearsed(&app, order).await?;
        return Ok(Reply::ok(ReceiptShape::whole(receipt, Kept::Rehearsed)?).into_response());
    }
    let were_open = app.store.standing_gaps(&issuer).await?;
    let committed = app.store.reconcile(order, Mode::Commit).await?;
    app.doorbell.notify_one();
    app.bells.works.notify_one();
    if !committed.replayed {
        tell(&committed.receipt, Class::Bulk);
    }
    let wait = wait(&headers);
    let receipt = settled_within(&app, committed.receipt, wait).await?;
    let gaps = became_of(were_open, &app.store.standing_gaps(&issuer).await?, as_of);
    reply_with(receipt, committed.replayed, wait, |receipt| ReconciledShape { receipt, gaps })
}

/// When the list was made: never ahead of now.
fn as_of(said: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Problem> {
    match said {
        None => Ok(now.minus(AGE_OF_LIST)),
        Some(said) if said > now.plus(OCCURRED_AHEAD_MAX) => Err(Problem::invalid("/as_of", "must not be in the future")),
        Some(said) => Ok(said.min(now)),
    }
}

/// Looks through all that lives, a page at a time, for what the list does not name.
async fn find_absent(app: &AppState, order: &mut Reconciliation, listed: &BTreeSet<Text<Sid>>) -> Result<(), StoreError> {
    let mut after: Option<SessionId> = None;
    loop {
        let page = app.store.live_sessions(&order.issuer, after.as_ref(), PAGE).await?;
        order.live += page.len() as u64;
        let full = page.len() == usize::from(PAGE);
        after = page.last().map(|last| last.id.clone());
        for session in page {
            let named = session.sid.is_none_or(|sid| listed.contains(&Text(sid)));
            if !named && !is_spared(session.started_at, session.created_at, order.as_of) {
                order.absent.push(session.id);
            }
        }
        if !full {
            return Ok(());
        }
    }
}

/// What would happen, however much it is: every transaction is undone.
async fn rehearsed(app: &AppState, order: Reconciliation) -> Result<Receipt, CommitRefused> {
    let (ends, live, max) = (order.absent.len() as u64, order.live, order.ends_max);
    if ends > max {
        return Err(CommitRefused::ReconcileTooMuch { ends, live, max });
    }
    let mut chunks = order.absent.chunks(REHEARSED_AT_ONCE).map(<[SessionId]>::to_vec);
    let of = |absent: Vec<SessionId>| Reconciliation { absent, ..order.clone() };
    let mut total = app.store.reconcile(of(chunks.next().unwrap_or_default()), Mode::Rehearse).await?.receipt;
    for chunk in chunks {
        add(&mut total, &app.store.reconcile(of(chunk), Mode::Rehearse).await?.receipt);
    }
    Ok(total)
}

fn add(total: &mut Receipt, part: &Receipt) {
    total.sessions_ended += part.sessions_ended;
    total.refresh_tokens_revoked += part.refresh_tokens_revoked;
    total.counts.pending += part.counts.pending;
    total.counts.unreachable += part.counts.unreachable;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Code;
    use crate::http::json::parse;

    #[test]
    fn a_list_is_a_minute_old_and_never_of_the_future() {
        let now = Timestamp::from_seconds(1_790_000_000);
        assert_eq!(as_of(None, now).unwrap(), now.minus(Duration::from_mins(1)));
        let (old, ahead) = (now.minus(Duration::from_hours(99)), now.plus(Duration::from_secs(59)));
        assert_eq!(as_of(Some(old), now).unwrap(), old);
        assert_eq!(as_of(Some(ahead), now).unwrap(), now);
        assert_eq!(as_of(Some(now.plus(Duration::from_secs(61))), now).unwrap_err().code(), Code::InvalidField);
    }

    #[test]
    fn a_list_has_bounds_and_no_strange_members() {
        let list = |count: usize| format!(r#"{{"live":[{}]}}"#, vec!["\"s\""; count].join(","));
        assert!(parse::<ReconcileBody>(list(LISTED_MAX).as_bytes()).unwrap().live.bounded().is_ok());
        let refused = parse::<ReconcileBody>(list(LISTED_MAX + 1).as_bytes()).unwrap().live.bounded().unwrap_err();
        assert_eq!(refused.code(), Code::TooManyItems);
        for (body, code, pointer) in [
            (r"{}", Code::InvalidField, "/live"),
            (r#"{"live":"s-1"}"#, Code::InvalidField, "/live"),
            (r#"{"live":["s-1",""]}"#, Code::InvalidField, "/live/1"),
            (r#"{"live":[],"as_of":"now"}"#, Code::InvalidField, "/as_of"),
            (r#"{"live":[],"dry_run":1}"#, Code::InvalidField, "/dry_run"),
            (r#"{"live":[],"everyone":true}"#, Code::UnknownMember, "/everyone"),
        ] {
            let problem = parse::<ReconcileBody>(body.as_bytes()).unwrap_err();
            let place = problem.errors()[0].pointer.clone();
            assert_eq!((problem.code(), place.as_deref()), (code, Some(pointer)), "{body}");
        }
    }
}
