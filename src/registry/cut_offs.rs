//! Cut-offs by order: tokens that were issued before an instant are inactive, whoever asks, as long as it lasts.
//!
//! It ends no session and tells nobody: whoever is logged in gets new tokens and goes on. What a logout leaves behind is a cut-off too, and is not
//! listed here: it belongs to its logout, whose receipt says what ended, and only the logout's undoing lifts it.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;

use super::{done, entry};
use crate::http::needs::{Kill, ReadLogouts, Undo};
use crate::http::page::{List, page};
use crate::http::problem::ProblemDocument;
use crate::http::wire::text;
use crate::http::{AppState, At, Code, Path, Problem, Query, Reply, Routes, StrictJson, Text};
use crate::model::access::Caller;
use crate::model::audit::Act;
use crate::model::cut_off::{CutOffScope, ORDERED_MAX, OrderedCutOff};
use crate::model::{CutOffId, Timestamp};
use crate::plan::time::not_before;
use crate::store::CutOffOrder;

/// The routes of cut-offs.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list, order)).add(routes!(lift))
}

/// Whose tokens: `sub`, `client_id`, `sub` and `client_id`, `sid`, or `everyone`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScopeBody {
    /// The provider's `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<text::Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<text::ClientId>,
    /// The provider's `sid`: tokens that hang on the session, and not those with `offline_access` that came from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sid: Option<text::Sid>,
    /// True: everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    everyone: Option<bool>,
}

impl ScopeBody {
    fn read(self) -> Result<CutOffScope, Problem> {
        Ok(match self {
            Self { sub: Some(Text(sub)), client_id: None, sid: None, everyone: None } => CutOffScope::Subject { sub, except_sid: None },
            Self { sub: None, client_id: Some(Text(client_id)), sid: None, everyone: None } => CutOffScope::Client(client_id),
            Self { sub: Some(Text(sub)), client_id: Some(Text(client_id)), sid: None, everyone: None } => {
                CutOffScope::SubjectAtClient(sub, client_id)
            }
            Self { sub: None, client_id: None, sid: Some(Text(sid)), everyone: None } => CutOffScope::Session(sid),
            Self { sub: None, client_id: None, sid: None, everyone: Some(true) } => CutOffScope::Everyone,
            Self { sub: None, client_id: None, sid: None, everyone: Some(false) } => {
                return Err(Problem::invalid("/scope/everyone", "must be true"));
            }
            Self { .. } => {
                return Err(Problem::invalid("/scope", "must be one of sub, client_id, sub and client_id, sid, everyone"));
            }
        })
    }

    fn of(scope: CutOffScope) -> Self {
        match scope {
            CutOffScope::Subject { sub, except_sid: _ } => Self { sub: Some(Text(sub)), ..Self::default() },
            CutOffScope::Client(client_id) => Self { client_id: Some(Text(client_id)), ..Self::default() },
            CutOffScope::SubjectAtClient(sub, client_id) => {
                Self { sub: Some(Text(sub)), client_id: Some(Text(client_id)), ..Self::default() }
            }
            CutOffScope::Session(sid) => Self { sid: Some(Text(sid)), ..Self::default() },
            CutOffScope::Everyone => Self { everyone: Some(true), ..Self::default() },
            // Logouts leave these, and nobody orders them.
            CutOffScope::SessionAtClient(..)
            | CutOffScope::ClientSid(..)
            | CutOffScope::ClientSub(..)
            | CutOffScope::Device(_)
            | CutOffScope::EveryoneAtClients => Self::default(),
        }
    }
}

/// Whether this caller may order it: what concerns a client's users, or everybody, is for those who may end as much.
fn permit(caller: &Caller, scope: &CutOffScope) -> Result<(), Problem> {
    match scope {
        CutOffScope::Client(_) | CutOffScope::Everyone | CutOffScope::EveryoneAtClients if !caller.may_end_many() => Err(
            Problem::forbidden("this concerns many people: it needs the role operator or admin, or a provider's token with may_mass_kill"),
        ),
        CutOffScope::Client(_)
        | CutOffScope::Everyone
        | CutOffScope::EveryoneAtClients
        | CutOffScope::Subject { .. }
        | CutOffScope::Session(_)
        | CutOffScope::SubjectAtClient(..)
        | CutOffScope::SessionAtClient(..)
        | CutOffScope::ClientSid(..)
        | CutOffScope::ClientSub(..)
        | CutOffScope::Device(_) => Ok(()),
    }
}

/// What is ordered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCutOff {
    scope: ScopeBody,
    /// Tokens issued before this instant are inactive, by the provider's clock and in whole seconds, and those of which nobody knows when they were
    /// issued; at most 60 seconds ahead.
    not_before: text::Timestamp,
    /// When it ceases, in the future; without it, it holds until it is removed.
    expires_at: Option<text::Timestamp>,
}

/// A cut-off by order.
#[derive(Debug, Serialize, ToSchema)]
pub struct CutOffShape {
    id: text::CutOffId,
    scope: ScopeBody,
    not_before: text::Timestamp,
    /// When it ceases; null: when it is removed.
    expires_at: Option<text::Timestamp>,
    created_at: text::Timestamp,
}

impl From<OrderedCutOff> for CutOffShape {
    fn from(OrderedCutOff { id, scope, not_before, expires_at, created_at }: OrderedCutOff) -> Self {
        Self {
            id: Text(id),
            scope: ScopeBody::of(scope),
            not_before: Text(not_before),
            expires_at: expires_at.map(Text),
            created_at: Text(created_at),
        }
    }
}

impl NewCutOff {
    fn read(self, now: Timestamp) -> Result<CutOffOrder, Problem> {
        let Self { scope, not_before: Text(at), expires_at } = self;
        let (scope, expires_at) = (scope.read()?, expires_at.map(|Text(at)| at));
        not_before(at, now).map_err(|refused| Problem::invalid("/not_before", refused))?;
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(Problem::invalid("/expires_at", "must be in the future"));
        }
        Ok(CutOffOrder { scope, not_before: at, expires_at })
    }
}

/// What the audit trail keeps.
fn detail(order: &CutOffOrder) -> Result<Value, Problem> {
    let scope = serde_json::to_value(ScopeBody::of(order.scope.clone())).map_err(Problem::internal)?;
    let expires_at = order.expires_at.map(|at| at.to_string());
    Ok(json!({ "scope": scope, "not_before": order.not_before.to_string(), "expires_at": expires_at }))
}

/// Order a cut-off: from the answer on, tokens in its scope that were issued before `not_before` are inactive, those with `offline_access` too. No
/// session ends and nobody is told; whoever is logged in may get new tokens. At most 1,000 hold at a time.
#[utoipa::path(post, path = "/v1/issuers/{iss}/cut-offs", tag = "tokens", operation_id = "orderCutOff", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id")),
    request_body = NewCutOff,
    responses(
        (status = 201, description = "It holds", body = CutOffShape),
        (status = 403, description = "forbidden: a client's users, or everybody, are more than the caller may end", content_type = "application/problem+json", body = ProblemDocument),
        (status = 409, description = "too-many-cut-offs: 1,000 hold", content_type = "application/problem+json", body = ProblemDocument),
        (status = 422, description = "invalid-field, unknown-member", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn order(
    State(app): State<AppState>,
    At(seat, _): At<Kill>,
    StrictJson(body): StrictJson<NewCutOff>,
) -> Result<Reply<CutOffShape>, Problem> {
    let order = body.read(app.store.now().await?)?;
    permit(&seat.caller, &order.scope)?;
    app.limiter.order(&seat.issuer.id, &seat.caller, app.clock.now())?;
    let audit = entry(Act::CutOffOrdered, &seat.caller, Some(&seat.issuer.id), &detail(&order)?)?;
    match app.store.order_cut_off(&seat.issuer.id, order, audit).await? {
        Some(ordered) => Ok(Reply::created(ordered.into())),
        None => Err(Problem::new(Code::TooManyCutOffs, format!("{ORDERED_MAX} hold; remove some first"))),
    }
}

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CutOffsQuery {
    /// How many at most; 100 unless said.
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    after: Option<text::Cursor>,
}

/// The ordered cut-offs that hold, newest first. Those that logouts left are not among them: each belongs to its logout.
#[utoipa::path(get, path = "/v1/issuers/{iss}/cut-offs", tag = "tokens", operation_id = "listCutOffs", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), CutOffsQuery),
    responses((status = 200, description = "One page", body = List<CutOffShape>)))]
pub async fn list(
    State(app): State<AppState>,
    At(seat, _): At<ReadLogouts>,
    Query(query): Query<CutOffsQuery>,
) -> Result<Reply<List<CutOffShape>>, Problem> {
    let listed = app.store.ordered_cut_offs(&seat.issuer.id, page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, CutOffShape::from)))
}

/// Remove an ordered cut-off: tokens are as good as they would have been without it.
#[utoipa::path(delete, path = "/v1/issuers/{iss}/cut-offs/{id}", tag = "tokens", operation_id = "liftCutOff", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id"), ("id" = String, Path, description = "The cut-off")),
    responses(
        (status = 204, description = "It is removed"),
        (status = 404, description = "unknown-issuer, unknown-cut-off: there is none that holds, or a logout left it", content_type = "application/problem+json", body = ProblemDocument),
    ))]
pub async fn lift(State(app): State<AppState>, At(seat, _): At<Undo>, Path((_, id)): Path<(String, String)>) -> Result<Reply<()>, Problem> {
    let unknown = || Problem::of(Code::UnknownCutOff);
    let id = CutOffId::parse(&id).ok_or_else(unknown)?;
    let audit = entry(Act::CutOffLifted, &seat.caller, Some(&seat.issuer.id), &json!({ "cut_off": id.as_str() }))?;
    done(app.store.lift_cut_off(&seat.issuer.id, &id, audit).await?, Code::UnknownCutOff, || Problem::of(Code::Conflict))?;
    Ok(Reply::done())
}
