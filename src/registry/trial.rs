//! A client is tried out: one logout token about nobody, sent at once, and what comes back. Where nothing but probes goes out it is one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::entry;
use crate::egress::{Answer, Manner, Post, classify, effective};
use crate::http::needs::TestClients;
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, NoBody, Path, Problem, Reply, Routes, Seat, Text};
use crate::model::access::Role;
use crate::model::attempt::{Failure, Outcome, OutcomeClass};
use crate::model::audit::Act;
use crate::model::client::ClientRecord;
use crate::model::delivery::Lane;
use crate::model::key::KeyState;
use crate::model::lane::LaneChange;
use crate::model::{ClientId, DeliveryId, Sid, Subject, Timestamp};
use crate::observe::LaneClosed;
use crate::plan::lane::breaker::Evidence;
use crate::plan::late::{SidNeed, claims_of};
use crate::store::LaneNote;
use crate::token::logout_token::LIFETIME_MAX;
use crate::token::{ClientSecrets, LogoutToken, Named, SigningKey};

/// The route of trials.
pub fn routes() -> Routes {
    Routes::new().add(routes!(test))
}

/// The longest a trial takes, whatever the client is registered with.
const TRIAL_MAX: Duration = Duration::from_secs(10);

/// What came back.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TrialShape {
    /// The HTTP status, if one came.
    status: Option<u16>,
    /// What it means: what an attempt with this outcome would be taken for.
    class: text::OutcomeClass,
    /// The failure, if no status came.
    failure: Option<text::Failure>,
    /// From the resolution of the name to the end of the answer.
    duration_ms: u64,
    /// The beginning of the answer, tokens removed.
    excerpt: Option<String>,
    /// The address that was connected to.
    remote_addr: Option<String>,
    /// Whether the client's breaker, or that of its host, was open and is closed by this: what waited for the network is due now.
    breaker_closed: bool,
}

/// Send a client one logout token about nobody, with a made-up `sub`, `sid` or both as it is registered, and say what came back. It waits behind nothing,
/// is not repeated and not kept; a client that refuses a token for names it does not know answers 400, which is as good a sign. While the client's breaker
/// is open, be it parked or not, a 2xx closes it as a probe's does: what waited for the network is due at once. Nothing else that comes back changes
/// anything.
#[utoipa::path(post, path = "/v1/issuers/{iss}/clients/{client_id}/test", tag = "operations", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("client_id" = String, Path, description = "The client")),
    responses(
        (status = 200, description = "What came back", body = TrialShape),
        (status = 404, description = "unknown-issuer, unknown-client", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "cannot-be-told", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn test(
    State(app): State<AppState>,
    At(seat, _): At<TestClients>,
    Path((_, client_id)): Path<(String, String)>,
    NoBody: NoBody,
) -> Result<Reply<TrialShape>, Problem> {
    let unknown = || Problem::of(Code::UnknownClient);
    let client_id = ClientId::parse(client_id).map_err(|_| unknown())?;
    if seat.caller.role == Role::Client && seat.caller.client_id.as_ref() != Some(&client_id) {
        return Err(unknown());
    }
    let client = app.store.client(&seat.issuer.id, &client_id).await?.ok_or_else(unknown)?;
    let uri = client.backchannel_logout_uri.clone();
    let uri = uri.ok_or_else(|| Problem::new(Code::CannotBeTold, "the client is registered without a backchannel_logout_uri"))?;
    let now = app.store.now().await?;
    let token = signed(&app, &seat, &client, now).await?;
    // Looked at before it is asked: what opens meanwhile has seen something later.
    let open = open_lanes(&app).await?;
    let network = effective(&seat.issuer.network, &client.delivery.network);
    let timeout = client.delivery.timeout.min(app.settings.delivery_timeout_max).min(TRIAL_MAX);
    // A delivery of that id is nowhere, as the names in its token are nobody's.
    let delivery: DeliveryId = app.entropy.id(now);
    let begun = app.clock.instant();
    let ClientSecrets { key_pem, headers } = ClientSecrets::open(&client, &app.sealing).map_err(Problem::internal)?;
    let manner = Manner::of(&client.delivery, key_pem.as_ref().map(|key| key.as_str()), headers);
    let post = Post { url: &uri, network: &network, manner: &manner, token: &token, delivery: &delivery, attempt: 1, timeout, now };
    let answer = app.egress.post_logout_token(post).await;
    let mut shape = shape(answer, &client, app.clock.instant().saturating_duration_since(begun));
    if Evidence::of(shape.class.0) == Evidence::Taken {
        let asked = [Some(Lane::of(&seat.issuer.id, &client_id)), Lane::behind(&uri)];
        shape.breaker_closed = close(&app, asked.into_iter().flatten(), &open).await?;
    }
    let TrialShape { class: Text(class), status, breaker_closed, .. } = &shape;
    let detail = json!({ "client_id": client_id.as_str(), "class": class.as_str(), "status": status, "breaker_closed": breaker_closed });
    app.store.record(entry(Act::ClientTested, &seat.caller, Some(&seat.issuer.id), &detail)?).await?;
    Ok(Reply::ok(shape))
}

fn shape(answer: Answer, client: &ClientRecord, duration: Duration) -> TrialShape {
    let Answer { outcome, remote_addr, excerpt, detail: _, body: _ } = answer;
    let class: OutcomeClass = classify(&outcome, &client.delivery.retry_statuses);
    let (status, failure): (Option<u16>, Option<Failure>) = match outcome {
        Outcome::Answered { status, .. } => (Some(status), None),
        Outcome::Failed(failure) => (None, Some(failure)),
    };
    TrialShape {
        status,
        class: Text(class),
        failure: failure.map(Text),
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        excerpt,
        remote_addr: remote_addr.map(|address| address.to_string()),
        breaker_closed: false,
    }
}

/// The lanes and hosts that nothing but probes goes to.
async fn open_lanes(app: &AppState) -> Result<BTreeSet<Lane>, Problem> {
    let records = app.store.lane_records().await?;
    Ok(records.into_iter().filter(|record| record.probe_at.is_some()).map(|record| record.lane).collect())
}

/// Closes those of a client's lane and host that were open: their receiver is back, whoever found out.
async fn close(app: &AppState, asked: impl Iterator<Item = Lane>, open: &BTreeSet<Lane>) -> Result<bool, Problem> {
    let now = app.store.now().await?;
    let mut notes = Vec::new();
    for lane in asked.filter(|lane| open.contains(lane)) {
        let hasten = if lane.is_host() { waiting_behind(app, &lane, open).await? } else { vec![lane.clone()] };
        notes.push(LaneNote { lane, change: LaneChange::Close, probe_at: now, hasten });
    }
    if notes.is_empty() {
        return Ok(false);
    }
    let changed = app.store.note_lanes(notes.clone(), now).await?;
    let closed = notes.iter().zip(changed).filter(|(_, changed)| *changed);
    let count = closed.inspect(|(note, _)| LaneClosed { lane: note.lane.as_str() }.emit()).count();
    if count > 0 {
        app.doorbell.notify_one();
    }
    Ok(count > 0)
}

/// The lanes that have waited for nothing but their host. One that is open itself waits for a probe of its own.
async fn waiting_behind(app: &AppState, host: &Lane, open: &BTreeSet<Lane>) -> Result<Vec<Lane>, Problem> {
    let queues: BTreeSet<Lane> = app.store.queues().await?.into_iter().map(|queue| queue.lane).collect();
    let waiting: Vec<Lane> = queues.difference(open).cloned().collect();
    let settings = app.store.lane_settings(&waiting).await?;
    let is_there = |uri: &url::Url| Lane::behind(uri).as_ref() == Some(host);
    Ok(settings.into_iter().filter(|settings| settings.uri.as_ref().is_some_and(is_there)).map(|settings| settings.lane).collect())
}

/// There is no key to sign with, although registering a client makes one.
#[derive(Debug, thiserror::Error)]
#[error("there is no active key of the client's algorithm")]
struct NoKey;

/// A token that is good in everything but in being about anybody. It carries the names that a logout would, so that nobody is tried out with what he is
/// never sent: some libraries need a `sub`, some a `sid`. Both are 256 bits of chance, which name nobody.
async fn signed(app: &AppState, seat: &Seat, client: &ClientRecord, now: Timestamp) -> Result<String, Problem> {
    let keys = app.store.keys(&seat.issuer.id).await?;
    let active = keys.iter().find(|key| key.alg == client.alg && key.state == KeyState::Active);
    let key = app.keyring.key_of(active.ok_or_else(|| Problem::internal(NoKey))?, &app.sealing).map_err(Problem::internal)?;
    let nobody = format!("test-{}", app.entropy.token());
    let (sub, sid) = (Subject::parse(nobody.clone()).map_err(Problem::internal)?, Sid::parse(nobody).map_err(Problem::internal)?);
    let claims = claims_of(client.delivery.claims, SidNeed::of(client));
    let (issuer, audience, typ, jti) = (seat.issuer.issuer.clone(), client.client_id.clone(), client.delivery.typ, app.entropy.token());
    let sign = move |key: &Arc<SigningKey>| {
        let named = Named::choose(claims, Some(&sub), Some(&sid)).map_err(Problem::internal)?;
        let token = LogoutToken {
            issuer: &issuer,
            audience: &audience,
            named,
            jti: &jti,
            issued_at: now,
            lifetime: LIFETIME_MAX,
            occurred_at: now,
            typ,
        };
        token.sign(key).map_err(Problem::internal)
    };
    app.tasks.spawn_blocking("sign", move || sign(&key)).await.map_err(Problem::from)?
}
