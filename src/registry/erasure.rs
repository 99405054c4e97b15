//! Making a person nobody, when their provider says so.
//!
//! The trail's part is done here: which texts of which records go is decided by `token::audit`, so that what is left still verifies, and given to the store,
//! which does all of it in one transaction.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::http::needs::Erase;
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, Problem, Reply, Routes, StrictJson, Text};
use crate::model::audit::{Act, AuditRecord, TrailRecord};
use crate::model::page::{PAGE_ITEMS_MAX, Page};
use crate::model::{EventId, IssuerId};
use crate::store::{AuditEntry, Erased, Erasing, Erasure, InTheWay, Sight, Written};
use crate::token::audit::{erase, written};

/// The route of erasure.
pub fn routes() -> Routes {
    Routes::new().add(routes!(erase_subject))
}

/// Whom.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErasureBody {
    /// As their provider calls them.
    sub: text::Subject,
}

/// What was erased, counted.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasedShape {
    /// Sessions that are nobody's now; with them their devices and aliases.
    sessions: u64,
    /// Participations in them.
    participants: u64,
    /// Logouts that named the person. They and their receipts are kept, with their counts.
    logouts: u64,
    /// Deliveries.
    deliveries: u64,
    /// Grants and access tokens.
    tokens: u64,
    /// Cut-offs that go on protecting: under digests, so that a token or a late report that still brings a name is refused as before.
    cut_offs: u64,
    /// When the last of those digests goes; null where there is none.
    protected_until: Option<text::Timestamp>,
    /// Records of the audit trail that named the person. They still verify, and say that something was erased.
    audit_records: u64,
}

impl From<Erased> for ErasedShape {
    fn from(erased: Erased) -> Self {
        let Erased { sessions, participants, logouts, deliveries, cut_offs, tokens, audit_records, protected_until } = erased;
        Self { sessions, participants, logouts, deliveries, tokens, cut_offs, protected_until: protected_until.map(Text), audit_records }
    }
}

/// How often it is looked again when something changed under the look.
const LOOKS_MAX: usize = 5;
/// How many audit records one erasure rewrites at most.
const RECORDS_MAX: usize = 5000;

/// Erase a person: in the place of every name (`sub`, `sid`, also those that applications know, devices, addresses, aliases) stands from then on a digest
/// that takes the sealing key to make, the same for the same name, so that counts and what belongs together stay. What was written by hand on logouts of this
/// person goes. What was done to somebody else keeps every text, also who did it, and a name that somebody else has too stays. Refused while a session lives, a
/// delivery is open, an offline grant is good or a logout of many is under way: log the person out first, with `revoke_offline_access`. May be repeated.
#[utoipa::path(delete, path = "/v1/issuers/{iss}/subjects", tag = "sessions", operation_id = "eraseSubject", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = ErasureBody,
    responses(
        (status = 200, description = "Nobody by that name is known any more", body = ErasedShape),
        (status = 409, description = "in-use: what is still going on, counted; nothing was erased", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "too-many-sessions: more is kept of this person than one erasure is about", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn erase_subject(
    State(app): State<AppState>,
    At(seat, _): At<Erase>,
    StrictJson(ErasureBody { sub: Text(sub) }): StrictJson<ErasureBody>,
) -> Result<Reply<ErasedShape>, Problem> {
    let issuer = seat.issuer.id;
    let audit = AuditEntry { issuer: Some(issuer.clone()), ..AuditEntry::of(Act::SubjectErased, &seat.caller, json!({})) };
    for _ in 0..LOOKS_MAX {
        let sight = app.store.erasure_sight(&issuer, &sub).await?.ok_or_else(too_many)?;
        let (trail, marks) = trail_without(&app, &issuer, &sight).await?;
        let (issuer, sub, audit) = (issuer.clone(), sub.clone(), audit.clone());
        match app.store.erase(Erasure { issuer, sub, sight, trail, marks, audit }).await? {
            Erasing::Done(erased) => {
                // Until the record of it is sealed, nobody can tell what was erased from what was removed.
                app.bells.audit.notify_one();
                return Ok(Reply::ok(erased.into()));
            }
            Erasing::Refused(in_the_way) => return Err(refused(in_the_way)),
            Erasing::Changed => {}
        }
    }
    Err(Problem::new(Code::Conflict, "something of this person changes again and again: try again"))
}

fn too_many() -> Problem {
    let why = "one erasure is about 1,000 sessions and 5,000 audit records; ended sessions are forgotten after retention.sessions_days: erase again then";
    Problem::new(Code::TooManySessions, why)
}

fn refused(InTheWay { sessions, deliveries, grants, works }: InTheWay) -> Problem {
    let why = format!(
        "still going on: {sessions} live sessions, {deliveries} open deliveries, {grants} good offline grants of this person, and {works} logouts of many or \
         replays at this issuer; log the person out and wait until it has settled"
    );
    Problem::new(Code::InUse, why)
}

/// The issuer's records that name the person, as they shall be; and how many values of them go.
async fn trail_without(app: &AppState, issuer: &IssuerId, sight: &Sight) -> Result<(Vec<TrailRecord>, u64), Problem> {
    let (mut rewritten, mut marks, mut after) = (Vec::new(), 0, None);
    loop {
        let page = app.store.audit_about(issuer, sight, &Page { limit: PAGE_ITEMS_MAX, after }).await?;
        for mut one in page.items {
            let values = without(&mut one, sight);
            if values > 0 {
                marks += values;
                rewritten.push(one);
            }
        }
        if rewritten.len() > RECORDS_MAX {
            return Err(too_many());
        }
        match page.next {
            None => return Ok((rewritten, marks)),
            next @ Some(_) => after = next,
        }
    }
}

/// What was written by hand.
const BY_HAND: [&str; 3] = ["/detail/note", "/detail/reason_detail", "/detail/correlation_id"];

/// Takes the names out of a record about the person, and what was written by hand; answers how many values went. A record of what was done to somebody else
/// keeps every text, also who did it.
fn without(one: &mut TrailRecord, sight: &Sight) -> u64 {
    let event = one.record.event.as_ref().map(EventId::as_str);
    if event.is_some_and(|event| sight.of_others.contains(event)) {
        return 0;
    }
    let mut record = written(&one.record);
    // Whom a logout of many spared it was not about.
    let is_of_many = record.get("detail").is_some_and(|detail| detail.pointer("/target/except").is_some());
    let of_theirs = !is_of_many && event.is_some_and(|event| sight.events.contains(event));
    let when = if of_theirs { Written::AboutThem } else { Written::At(one.record.at) };
    let places = sight.names.places(&Value::Object(record.clone()), when);
    if places.is_empty() && !of_theirs {
        return 0;
    }
    let goes = |place: &str, text: &str| {
        places.iter().any(|name| name == place) || BY_HAND.contains(&place) || (place == "/actor" && text == sight.sub)
    };
    let values = erase(&mut record, &mut one.proof, &goes);
    if values > 0 {
        put_back(&mut one.record, &record);
    }
    values
}

fn put_back(record: &mut AuditRecord, written: &Map<String, Value>) {
    record.actor = written.get("actor").and_then(Value::as_str).map(str::to_owned);
    record.detail = written.get("detail").map_or_else(|| "{}".to_owned(), Value::to_string);
}
