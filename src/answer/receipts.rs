//! Receipts: what became of each logout.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::deliveries::{Scope, listed_deliveries};
use crate::http::shapes::{DeliveryShape, Kept, ReceiptShape};
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Code, List, Path, Problem, ProblemDocument, Query, Reply, Routes, Seat, StrictJson, Text, needs, page};
use crate::model::access::{Caller, Role};
use crate::model::page::Page;
use crate::model::{EventId, IssuerId};
use crate::store::{DeliveryFilter, EventFilter, StoreError};

/// The receipt windows.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list_logouts)).add(routes!(search_logouts)).add(routes!(get_logout)).add(routes!(list_logout_deliveries))
}

/// Which logouts.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogoutQuery {
    /// `delivering` or `settled`.
    #[param(value_type = Option<String>)]
    state: Option<text::EventState>,
    /// Those with a delivery to this client.
    #[param(value_type = Option<String>)]
    client_id: Option<text::ClientId>,
    #[param(value_type = Option<String>)]
    reason: Option<text::Reason>,
    /// Committed at this time or later.
    #[param(value_type = Option<String>)]
    since: Option<text::Timestamp>,
    /// Committed before this time.
    #[param(value_type = Option<String>)]
    until: Option<text::Timestamp>,
    /// 1 to 1,000; 100 unless it says otherwise.
    #[param(value_type = Option<u16>)]
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<text::Cursor>,
}

/// What is known of the logouts looked for: exactly one of its members.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogoutSearch {
    sub: Option<text::Subject>,
    sid: Option<text::Sid>,
    correlation_id: Option<text::Line>,
    actor: Option<text::Line>,
}

/// Whose receipts this caller sees beside those of the server itself: a provider its own, others all.
fn own(caller: &Caller) -> Option<String> {
    match caller.role {
        Role::Provider => Some(caller.identity.clone()),
        Role::Operator | Role::Auditor | Role::Admin | Role::Gateway | Role::Client => None,
    }
}

impl LogoutQuery {
    fn filter(self, seat: Seat) -> (EventFilter, Page) {
        let filter = EventFilter {
            caller: own(&seat.caller),
            issuer: Some(seat.issuer.id),
            state: value(self.state),
            client_id: value(self.client_id),
            reason: value(self.reason),
            since: value(self.since),
            until: value(self.until),
            ..EventFilter::default()
        };
        (filter, page(self.limit, self.after))
    }
}

impl LogoutSearch {
    /// Narrows a filter by the one thing that is known.
    fn narrow(self, filter: EventFilter) -> Result<EventFilter, Problem> {
        let one_of = "exactly one of sub, sid, correlation_id and actor says what is looked for";
        let given = [
            ("sub", self.sub.is_some()),
            ("sid", self.sid.is_some()),
            ("correlation_id", self.correlation_id.is_some()),
            ("actor", self.actor.is_some()),
        ];
        let mut given = given.into_iter().filter_map(|(name, given)| given.then_some(name));
        match (given.next(), given.next()) {
            (None, _) => Err(Problem::invalid("", one_of)),
            (Some(_), Some(surplus)) => Err(Problem::invalid(format!("/{surplus}"), one_of)),
            (Some(_), None) => Ok(EventFilter {
                sub: value(self.sub),
                sid: value(self.sid),
                correlation_id: self.correlation_id.map(|Text(id)| id.into_string()),
                actor: self.actor.map(|Text(actor)| actor.into_string()),
                ..filter
            }),
        }
    }
}

async fn listed(app: &AppState, filter: EventFilter, page: Page) -> Result<Reply<List<ReceiptShape>>, Problem> {
    let listed = app.store.events(filter, page).await?;
    let next = listed.next;
    let items = listed.items.into_iter().map(ReceiptShape::listed).collect::<Result<Vec<_>, _>>()?;
    Ok(Reply::ok(List::of(crate::model::page::Listed { items, next }, |item| item)))
}

/// List logouts, newest first. A provider sees those it posted.
#[utoipa::path(get, path = "/v1/issuers/{iss}/logouts", tag = "logouts", operation_id = "listLogouts", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), LogoutQuery),
    responses(
        (status = 200, description = "A page of receipts, which name no clients.", body = List<ReceiptShape>),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn list_logouts(
    State(app): State<AppState>,
    at: At<needs::ReadLogouts>,
    Query(query): Query<LogoutQuery>,
) -> Result<Reply<List<ReceiptShape>>, Problem> {
    let (filter, page) = query.filter(at.0);
    listed(&app, filter, page).await
}

/// Find logouts by what must not stand in a URL.
#[utoipa::path(post, path = "/v1/issuers/{iss}/logouts/search", tag = "logouts", operation_id = "searchLogouts", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), LogoutQuery),
    request_body = LogoutSearch,
    responses(
        (status = 200, description = "A page of receipts, which name no clients.", body = List<ReceiptShape>),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn search_logouts(
    State(app): State<AppState>,
    at: At<needs::ReadLogouts>,
    Query(query): Query<LogoutQuery>,
    StrictJson(search): StrictJson<LogoutSearch>,
) -> Result<Reply<List<ReceiptShape>>, Problem> {
    let (filter, page) = query.filter(at.0);
    listed(&app, search.narrow(filter)?, page).await
}

/// Show a receipt.
#[utoipa::path(get, path = "/v1/issuers/{iss}/logouts/{id}", tag = "logouts", operation_id = "getLogout", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("id" = String, Path, description = "The logout.")),
    responses(
        (status = 200, description = "The receipt.", body = ReceiptShape),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn get_logout(
    State(app): State<AppState>,
    at: At<needs::ReadLogouts>,
    Path((_, id)): Path<(String, String)>,
) -> Result<Reply<ReceiptShape>, Problem> {
    let unknown = || Problem::of(Code::UnknownLogout);
    let id = EventId::parse(&id).ok_or_else(unknown)?;
    if !owns(&app, &at.0.caller, &at.0.issuer.id, &id).await? {
        return Err(unknown());
    }
    let receipt = app.store.receipt(&at.0.issuer.id, &id).await?.ok_or_else(unknown)?;
    Ok(Reply::ok(ReceiptShape::whole(receipt, Kept::Committed)?))
}

/// Sessions that ended by their age were the provider's too, and so are the tokens it signed.
fn is_seen(poster: &str, identity: &str) -> bool {
    [identity, Caller::ITSELF, Caller::PROVIDER].contains(&poster)
}

/// Whether a logout is one of those this caller sees.
pub(super) async fn owns(app: &AppState, caller: &Caller, issuer: &IssuerId, id: &EventId) -> Result<bool, StoreError> {
    match own(caller) {
        Some(identity) => Ok(app.store.event_caller(issuer, id).await?.is_some_and(|poster| is_seen(&poster, &identity))),
        None => Ok(true),
    }
}

/// Which deliveries of a logout.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogoutDeliveryQuery {
    #[param(value_type = Option<String>)]
    state: Option<text::DeliveryState>,
    #[param(value_type = Option<String>)]
    client_id: Option<text::ClientId>,
    /// 1 to 1,000; 100 unless it says otherwise.
    #[param(value_type = Option<u16>)]
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<text::Cursor>,
}

/// List the deliveries of a logout. A client sees those to itself.
#[utoipa::path(get, path = "/v1/issuers/{iss}/logouts/{id}/deliveries", tag = "logouts", operation_id = "listLogoutDeliveries",
    security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("id" = String, Path, description = "The logout."), LogoutDeliveryQuery),
    responses(
        (status = 200, description = "A page of deliveries.", body = List<DeliveryShape>),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn list_logout_deliveries(
    State(app): State<AppState>,
    at: At<needs::ReadDeliveries>,
    Path((_, id)): Path<(String, String)>,
    Query(query): Query<LogoutDeliveryQuery>,
) -> Result<Reply<List<DeliveryShape>>, Problem> {
    let unknown = || Problem::of(Code::UnknownLogout);
    let id = EventId::parse(&id).ok_or_else(unknown)?;
    let Seat { caller, issuer } = at.0;
    // Asks for its existence too: a list of nothing would say that nobody had to be told.
    let poster = app.store.event_caller(&issuer.id, &id).await?.ok_or_else(unknown)?;
    if own(&caller).is_some_and(|identity| !is_seen(&poster, &identity)) {
        return Err(unknown());
    }
    let filter = DeliveryFilter {
        issuer: Some(issuer.id),
        event: Some(id),
        state: value(query.state),
        client_id: value(query.client_id),
        ..DeliveryFilter::default()
    };
    listed_deliveries(&app, Scope::of(&caller), filter, page(query.limit, query.after)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;

    #[test]
    fn a_provider_sees_its_own_receipts_and_an_operator_all() {
        let caller = |role| Caller {
            identity: "t-1".to_owned(),
            role,
            issuer: None,
            client_id: None,
            may_mass_kill: true,
            remote: None,
            behalf: crate::model::access::Behalf::default(),
            token: crate::model::access::OwnToken::NONE,
        };
        assert_eq!(own(&caller(Role::Provider)).as_deref(), Some("t-1"));
        for role in [Role::Operator, Role::Auditor, Role::Admin] {
            assert_eq!(own(&caller(role)), None);
        }
        assert!(is_seen("t-1", "t-1") && is_seen(Caller::ITSELF, "t-1") && !is_seen("t-2", "t-1"));
    }

    fn narrowed(body: &str) -> Result<EventFilter, Problem> {
        parse::<LogoutSearch>(body.as_bytes())?.narrow(EventFilter { caller: Some("t-1".to_owned()), ..EventFilter::default() })
    }

    #[test]
    fn a_search_names_exactly_one_thing_and_stays_inside_what_its_caller_may_see() {
        let by_actor = narrowed(r#"{"actor":"desk"}"#).unwrap();
        assert_eq!((by_actor.actor.as_deref(), by_actor.caller.as_deref()), (Some("desk"), Some("t-1")));
        assert!(narrowed(r#"{"sub":"a"}"#).unwrap().sub.is_some());
        for (body, pointer) in [("{}", ""), (r#"{"sub":"a","actor":"desk"}"#, "/actor"), (r#"{"sid":"\u0000"}"#, "/sid")] {
            assert_eq!(narrowed(body).unwrap_err().errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }
}
