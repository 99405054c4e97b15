//! Logouts as they are posted: parse, authenticate, commit, ring, and wait as long as the caller likes.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::idempotency::idempotency;
use super::prefer::{PREFERENCE_APPLIED, Wait, wait};
use super::target::{TargetBody, shown};
use crate::http::shapes::{Kept, ReceiptShape};
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Code, Path, Problem, ProblemDocument, Reply, Seat, StrictJson, Text, needs};
use crate::model::audit::Act;
use crate::model::delivery::Class;
use crate::model::event::{EventState, Receipt};
use crate::model::trigger::Trigger;
use crate::model::{EventId, IssuerId};
use crate::observe::{LogoutCommitted, TokenEventSeen};
use crate::plan::effects::{opening, reach};
use crate::plan::time::occurred_at;
use crate::store::{AuditEntry, Committed, Mode, Seen, StoreError};

/// A logout.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogoutBody {
    target: TargetBody,
    reason: text::Reason,
    reason_detail: Option<text::Line>,
    /// When it happened, at most 60 s ahead and 72 h back; the instant of the commit unless it says otherwise.
    occurred_at: Option<text::Timestamp>,
    /// Ends grants with `offline_access` too, which a plain logout spares.
    #[serde(default)]
    revoke_offline_access: bool,
    /// Whether the provider shall be told of the sessions that end, as its issuer registered. Null: unless it ended them itself, which is so where it posts
    /// the logout or where its own logout token set it off. True with a target that is a `sid` or a `sub` alone, of which nothing lives here: it is asked
    /// to end that all the same.
    tell_provider: Option<bool>,
    /// On whose behalf.
    actor: Option<text::Line>,
    /// The caller's own name for what this belongs to.
    correlation_id: Option<text::Line>,
    note: Option<text::Note>,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// Post a logout. 2xx means that it is durably accepted; 503 that it is not known to be: repeat with the same `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/issuers/{iss}/logouts", tag = "logouts", operation_id = "postLogout", security(("bearer" = [])),
    params(
        ("iss" = String, Path, description = "The issuer's short id."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters; a repetition gets the first receipt."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: waits up to N seconds, at most 30, for everybody to be told."),
    ),
    request_body = LogoutBody,
    responses(
        (status = 200, description = "A repetition by its key, or a dry run, whose receipt has no id.", body = ReceiptShape),
        (status = 201, description = "Everybody is told, or there was nobody to tell.", body = ReceiptShape,
            headers(("Location" = String, description = "The receipt."))),
        (status = 202, description = "It is certain, and somebody is still to be told.", body = ReceiptShape,
            headers(("Location" = String, description = "The receipt."))),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn post_logout(
    State(app): State<AppState>,
    at: At<needs::Kill>,
    headers: HeaderMap,
    StrictJson(body): StrictJson<LogoutBody>,
) -> Result<Response, Problem> {
    body.target.mass().permit(&at.0.caller)?;
    let mode = if body.dry_run { Mode::Rehearse } else { Mode::Commit };
    let trigger = trigger(body, at.0, &headers, &app)?;
    match mode {
        Mode::Rehearse => app.limiter.rehearsal(&trigger.issuer, &trigger.caller, app.clock.now())?,
        Mode::Commit => app.limiter.order(&trigger.issuer, &trigger.caller, app.clock.now())?,
    }
    // The façade runs every request in a task of its own, so a caller who hangs up does not interrupt this.
    let reach = reach(&trigger);
    let committed = app.store.commit(&trigger, &reach, shown(&trigger.target, &trigger.except).to_string(), mode, opening).await?;
    match (mode, committed) {
        (Mode::Rehearse, Committed { receipt, .. }) => Ok(Reply::ok(ReceiptShape::whole(receipt, Kept::Rehearsed)?).into_response()),
        (Mode::Commit, Committed { receipt, replayed }) => {
            app.doorbell.notify_one();
            if receipt.state == EventState::Expanding {
                app.bells.works.notify_one();
            }
            if !replayed {
                tell(&receipt, reach.class);
            }
            let wait = wait(&headers);
            let receipt = settled_within(&app, receipt, wait).await?;
            reply(receipt, replayed, wait)
        }
    }
}

pub(super) fn tell(receipt: &Receipt, class: Class) {
    LogoutCommitted {
        event: &receipt.id,
        issuer: &receipt.issuer,
        reason: receipt.reason,
        class,
        sessions: receipt.sessions_ended,
        deliveries: receipt.counts.total(),
    }
    .emit();
}

/// Tells what a transaction about tokens brought about beside its answer, and wakes who has work by it.
pub(super) fn tell_seen(app: &AppState, issuer: &IssuerId, seen: &Seen) {
    for noticed in &seen.noticed {
        TokenEventSeen { issuer, kind: noticed.kind }.emit();
    }
    for receipt in &seen.logouts {
        tell(receipt, Class::Compromise);
        app.doorbell.notify_one();
        if receipt.state == EventState::Expanding {
            app.bells.works.notify_one();
        }
    }
}

/// The trigger of a posted logout.
fn trigger(body: LogoutBody, seat: Seat, headers: &HeaderMap, app: &AppState) -> Result<Trigger, Problem> {
    let idempotency = if body.dry_run { None } else { idempotency(headers, &body, &app.sealing)? };
    let said = value(body.occurred_at);
    occurred_at(said, app.clock.now()).map_err(|refused| Problem::invalid("/occurred_at", refused))?;
    Ok(Trigger {
        issuer: seat.issuer.id,
        except: body.target.except()?,
        target: body.target.target()?,
        reason: body.reason.0,
        reason_detail: body.reason_detail.map(|Text(text)| text.into_string()),
        occurred_at: said,
        revoke_offline_access: body.revoke_offline_access,
        tell_provider: body.tell_provider,
        // What the body says is said of this logout.
        actor: body.actor.map(|Text(text)| text.into_string()).or_else(|| seat.caller.behalf.actor.clone()),
        correlation_id: body.correlation_id.map(|Text(text)| text.into_string()),
        note: body.note.map(|Text(text)| text.into_string()).or_else(|| seat.caller.behalf.note.clone()),
        caller: seat.caller,
        idempotency,
    })
}

/// How soon it is looked again, however often something settles meanwhile.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How many times as long as a look took nobody looks again: one at a huge logout is not cheap.
const PAUSE_PER_LOOK: u32 = 10;
/// How late it is looked again when nothing is heard, since another process may settle too.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// The receipt when it is settled, or as it stands when the wait is over.
pub(super) async fn settled_within(app: &AppState, receipt: Receipt, wait: Option<Wait>) -> Result<Receipt, StoreError> {
    let Some(wait) = wait.filter(|_| receipt.state != EventState::Settled) else { return Ok(receipt) };
    let mut settled = app.settled.subscribe();
    let mut time_is_up = std::pin::pin!(tokio::time::sleep(wait.duration()));
    let mut pause = LOOK_PAUSE;
    loop {
        let something_settles = async {
            tokio::time::sleep(pause).await;
            tokio::time::timeout(LOOK_MAX, settled.changed()).await
        };
        let over = tokio::select! {
            () = &mut time_is_up => true,
            heard = something_settles => matches!(heard, Ok(Err(_))),
        };
        // Marked as seen before it is looked for: what settles in between is not missed.
        settled.mark_unchanged();
        let begun = app.clock.instant();
        // Whether anything is open is asked first, since counting all that is settled takes the longer the more there is.
        if over || !app.store.is_open(&receipt.id).await? {
            let Some(fresh) = app.store.receipt(&receipt.issuer, &receipt.id).await? else { return Ok(receipt) };
            if over || fresh.state == EventState::Settled {
                return Ok(fresh);
            }
        }
        pause = (begun.elapsed() * PAUSE_PER_LOOK).max(LOOK_PAUSE);
    }
}

pub(super) fn reply(receipt: Receipt, replayed: bool, wait: Option<Wait>) -> Result<Response, Problem> {
    reply_with(receipt, replayed, wait, |shape| shape)
}

/// The same, with more than the receipt in it.
pub(super) fn reply_with<T: Serialize>(
    receipt: Receipt,
    replayed: bool,
    wait: Option<Wait>,
    more: impl FnOnce(ReceiptShape) -> T,
) -> Result<Response, Problem> {
    let location = format!("/v1/issuers/{}/logouts/{}", receipt.issuer, receipt.id);
    let state = receipt.state;
    let shape = more(ReceiptShape::whole(receipt, Kept::Committed)?);
    let reply = match (replayed, state) {
        (true, _) => Reply::ok(shape),
        (false, EventState::Expanding | EventState::Delivering) => Reply::accepted(shape),
        (false, EventState::Settled) => Reply::created(shape),
    };
    let mut response = reply.location(&location).into_response();
    response.headers_mut().extend(wait.and_then(Wait::applied).map(|applied| (PREFERENCE_APPLIED, applied)));
    Ok(response)
}

/// Undo a logout as far as that is possible: nothing more is ended, nobody else is told, its cut-off is lifted. What was ended or told stays so, as the
/// receipt says; undoing again changes nothing.
#[utoipa::path(post, path = "/v1/issuers/{iss}/logouts/{id}/undo", tag = "logouts", operation_id = "undoLogout", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("id" = String, Path, description = "The logout.")),
    responses(
        (status = 200, description = "The receipt, with what had already happened.", body = ReceiptShape),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn undo_logout(
    State(app): State<AppState>,
    at: At<needs::Undo>,
    Path((_, id)): Path<(String, String)>,
) -> Result<Reply<ReceiptShape>, Problem> {
    let unknown = || Problem::of(Code::UnknownLogout);
    let id = EventId::parse(&id).ok_or_else(unknown)?;
    let Seat { caller, issuer } = at.0;
    let act = AuditEntry::of(Act::LogoutUndone, &caller, json!({}));
    let audit = AuditEntry { issuer: Some(issuer.id.clone()), event: Some(id.clone()), ..act };
    let receipt = app.store.undo(&issuer.id, &id, audit).await?.ok_or_else(unknown)?;
    app.settled.send_modify(|count| *count += 1);
    app.bells.works.notify_one();
    Ok(Reply::ok(ReceiptShape::whole(receipt, Kept::Committed)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Code;
    use crate::http::json::parse;
    use crate::token::SealingKey;

    fn refused(body: &str) -> (Code, String) {
        let problem = parse::<LogoutBody>(body.as_bytes()).expect_err(body);
        (problem.code(), problem.errors()[0].pointer.clone().unwrap_or_default())
    }

    #[test]
    fn the_member_at_fault_is_named_and_bounds_hold() {
        let logout = |member: &str| format!(r#"{{"target":{{"sid":"s"}},"reason":"admin",{member}}}"#);
        assert!(parse::<LogoutBody>(logout(r#""note":"all fine""#).as_bytes()).is_ok());
        let long = |length: usize| "x".repeat(length);
        for (body, pointer) in [
            (r#"{"target":{"sid":"s"}}"#.to_owned(), "/reason"),
            (r#"{"target":{"sid":"s"},"reason":"boredom"}"#.to_owned(), "/reason"),
            (r#"{"target":"everyone","reason":"admin"}"#.to_owned(), "/target"),
            (r#"{"target":{"everyone":true,"except":{"sub":["a\u0000"]}},"reason":"admin"}"#.to_owned(), "/target/except/sub/0"),
            (r#"{"target":{"sid":"a\u0000"},"reason":"admin"}"#.to_owned(), "/target/sid"),
            (r#"{"target":{"device_id":"a\u0000"},"reason":"admin"}"#.to_owned(), "/target/device_id"),
            (logout(r#""occurred_at":"yesterday""#), "/occurred_at"),
            (logout(r#""note":"a\u0000b""#), "/note"),
            (logout(&format!(r#""note":"{}""#, long(1025))), "/note"),
            (logout(&format!(r#""actor":"{}""#, long(256))), "/actor"),
            (logout(&format!(r#""correlation_id":"{}""#, long(256))), "/correlation_id"),
            (logout(&format!(r#""reason_detail":"{}""#, long(256))), "/reason_detail"),
            (logout(r#""dry_run":"yes""#), "/dry_run"),
        ] {
            assert_eq!(refused(&body), (Code::InvalidField, pointer.to_owned()), "{body}");
        }
        assert_eq!(refused(&logout(r#""provider":true"#)), (Code::UnknownMember, "/provider".to_owned()));
    }

    fn fingerprint(body: &str) -> crate::model::Digest {
        let headers = HeaderMap::from_iter([(super::super::idempotency::IDEMPOTENCY_KEY, "k".parse().unwrap())]);
        let key = SealingKey::generate(&crate::seams::Entropy::seeded(1));
        idempotency(&headers, &parse::<LogoutBody>(body.as_bytes()).unwrap(), &key).unwrap().unwrap().fingerprint
    }

    #[test]
    fn a_body_is_the_same_whatever_its_spelling_and_another_whenever_it_says_something_else() {
        let first = fingerprint(r#"{"target":{"sid":"s"},"reason":"admin","occurred_at":"2026-01-01T00:00:00Z"}"#);
        let respelled =
            r#"{ "occurred_at":"2026-01-01T01:00:00+01:00", "reason":"admin", "dry_run":false, "note":null, "target":{"s\u0069d":"s"} }"#;
        assert_eq!(first, fingerprint(respelled));
        for other in [
            r#"{"target":{"sid":"t"},"reason":"admin","occurred_at":"2026-01-01T00:00:00Z"}"#,
            r#"{"target":{"sub":"s"},"reason":"admin","occurred_at":"2026-01-01T00:00:00Z"}"#,
            r#"{"target":{"sid":"s"},"reason":"other","occurred_at":"2026-01-01T00:00:00Z"}"#,
            r#"{"target":{"sid":"s"},"reason":"admin"}"#,
            r#"{"target":{"sid":"s"},"reason":"admin","occurred_at":"2026-01-01T00:00:00Z","revoke_offline_access":true}"#,
            r#"{"target":{"sid":"s"},"reason":"admin","occurred_at":"2026-01-01T00:00:00Z","note":"n"}"#,
        ] {
            assert_ne!(first, fingerprint(other), "{other}");
        }
        let token = |token: &str| fingerprint(&format!(r#"{{"target":{{"refresh_token":"{token}"}},"reason":"admin"}}"#));
        assert_ne!(token("a"), token("b"));
    }
}
