//! Deliveries, and every attempt at each.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::receipts::owns;
use crate::http::shapes::DeliveryShape;
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Code, List, Path, Problem, ProblemDocument, Query, Reply, Routes, Seat, Text, needs, page};
use crate::model::access::{Caller, Role};
use crate::model::attempt::AttemptRecord;
use crate::model::page::{Listed, Page};
use crate::model::{ClientId, DeliveryId};
use crate::store::DeliveryFilter;

/// The delivery windows.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list_deliveries)).add(routes!(get_delivery))
}

/// Whose deliveries a caller sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everybody's.
    All,
    /// Those to one client.
    Client(ClientId),
    /// None: a client's token without a client.
    Nothing,
}

impl Scope {
    pub(super) fn of(caller: &Caller) -> Self {
        match (caller.role, &caller.client_id) {
            (Role::Client, Some(own)) => Self::Client(own.clone()),
            (Role::Client, None) => Self::Nothing,
            (Role::Provider | Role::Gateway | Role::Operator | Role::Auditor | Role::Admin, _) => Self::All,
        }
    }

    fn includes(&self, client_id: &ClientId) -> bool {
        match self {
            Self::All => true,
            Self::Client(own) => own == client_id,
            Self::Nothing => false,
        }
    }

    /// The filter inside this scope; none when nothing is left.
    fn narrow(self, filter: DeliveryFilter) -> Option<DeliveryFilter> {
        match self {
            Self::All => Some(filter),
            Self::Client(own) if filter.client_id.as_ref().is_none_or(|asked| *asked == own) => {
                Some(DeliveryFilter { client_id: Some(own), ..filter })
            }
            Self::Client(_) | Self::Nothing => None,
        }
    }
}

pub(super) async fn listed_deliveries(
    app: &AppState,
    scope: Scope,
    filter: DeliveryFilter,
    page: Page,
) -> Result<Reply<List<DeliveryShape>>, Problem> {
    let listed = match scope.narrow(filter) {
        Some(filter) => app.store.deliveries(filter, page).await?,
        None => Listed { items: Vec::new(), next: None },
    };
    Ok(Reply::ok(List::of(listed, DeliveryShape::from)))
}

/// Which deliveries.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    #[param(value_type = Option<String>)]
    state: Option<text::DeliveryState>,
    #[param(value_type = Option<String>)]
    client_id: Option<text::ClientId>,
    /// Written at this time or later.
    #[param(value_type = Option<String>)]
    since: Option<text::Timestamp>,
    /// Written before this time.
    #[param(value_type = Option<String>)]
    until: Option<text::Timestamp>,
    /// 1 to 1,000; 100 unless it says otherwise.
    #[param(value_type = Option<u16>)]
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<text::Cursor>,
}

/// List deliveries, newest first. A client sees those to itself.
#[utoipa::path(get, path = "/v1/issuers/{iss}/deliveries", tag = "logouts", operation_id = "listDeliveries", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), DeliveryQuery),
    responses(
        (status = 200, description = "A page of deliveries.", body = List<DeliveryShape>),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn list_deliveries(
    State(app): State<AppState>,
    at: At<needs::ReadDeliveries>,
    Query(query): Query<DeliveryQuery>,
) -> Result<Reply<List<DeliveryShape>>, Problem> {
    let Seat { caller, issuer } = at.0;
    let filter = DeliveryFilter {
        issuer: Some(issuer.id),
        state: value(query.state),
        client_id: value(query.client_id),
        since: value(query.since),
        until: value(query.until),
        ..DeliveryFilter::default()
    };
    // A provider sees what became of its own logouts.
    let filter = match caller.role {
        Role::Provider => DeliveryFilter { caller: Some(caller.identity.clone()), ..filter },
        Role::Gateway | Role::Client | Role::Operator | Role::Auditor | Role::Admin => filter,
    };
    listed_deliveries(&app, Scope::of(&caller), filter, page(query.limit, query.after)).await
}

/// A delivery with every attempt at it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeliveryWithAttempts {
    #[serde(flatten)]
    delivery: DeliveryShape,
    /// Every attempt, the first one first.
    attempt_records: Vec<AttemptShape>,
}

/// One attempt: what was sent, what came back.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AttemptShape {
    /// Counts from 1.
    number: u32,
    started_at: text::Timestamp,
    duration_ms: u64,
    /// What the outcome means.
    class: text::OutcomeClass,
    /// The HTTP status, if one came.
    status: Option<u16>,
    /// The failure, if none came.
    failure: Option<text::Failure>,
    /// The address that was connected to.
    remote_addr: Option<String>,
    /// The `jti` of the token that was sent.
    jti: Option<String>,
    /// The key it was signed with.
    kid: Option<String>,
    /// The beginning of the answer, tokens removed.
    excerpt: Option<String>,
    /// The lease was lost before the outcome was recorded: another attempt settles.
    lease_lost: bool,
}

impl From<AttemptRecord> for AttemptShape {
    fn from(record: AttemptRecord) -> Self {
        Self {
            number: record.number,
            started_at: Text(record.started_at),
            duration_ms: u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX),
            class: Text(record.class),
            status: record.status,
            failure: record.failure.map(Text),
            remote_addr: record.remote_addr,
            jti: record.jti,
            kid: record.kid,
            excerpt: record.excerpt,
            lease_lost: record.lease_lost,
        }
    }
}

/// Show a delivery with every attempt at it.
#[utoipa::path(get, path = "/v1/issuers/{iss}/deliveries/{id}", tag = "logouts", operation_id = "getDelivery", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("id" = String, Path, description = "The delivery.")),
    responses(
        (status = 200, description = "The delivery.", body = DeliveryWithAttempts),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn get_delivery(
    State(app): State<AppState>,
    at: At<needs::ReadDeliveries>,
    Path((_, id)): Path<(String, String)>,
) -> Result<Reply<DeliveryWithAttempts>, Problem> {
    let unknown = || Problem::of(Code::UnknownDelivery);
    let Seat { caller, issuer } = at.0;
    let id = DeliveryId::parse(&id).ok_or_else(unknown)?;
    let (view, attempts) = app.store.delivery(&issuer.id, &id).await?.ok_or_else(unknown)?;
    if !Scope::of(&caller).includes(&view.client_id) {
        return Err(unknown());
    }
    if !owns(&app, &caller, &issuer.id, &view.event).await? {
        return Err(unknown());
    }
    Ok(Reply::ok(DeliveryWithAttempts { delivery: view.into(), attempt_records: attempts.into_iter().map(AttemptShape::from).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> ClientId {
        ClientId::parse(name).unwrap()
    }

    fn scope(role: Role, own: Option<&str>) -> Scope {
        let own = own.map(client);
        Scope::of(&Caller {
            identity: "t".to_owned(),
            role,
            issuer: None,
            client_id: own,
            may_mass_kill: false,
            remote: None,
            behalf: crate::model::access::Behalf::default(),
            token: crate::model::access::OwnToken::NONE,
        })
    }

    #[test]
    fn a_client_sees_deliveries_to_itself_and_nothing_by_naming_another() {
        let asked = |name: Option<&str>| DeliveryFilter { client_id: name.map(client), ..DeliveryFilter::default() };
        let narrowed = |name| scope(Role::Client, Some("wiki")).narrow(asked(name)).map(|filter| filter.client_id);
        assert_eq!(narrowed(None), Some(Some(client("wiki"))));
        assert_eq!(narrowed(Some("wiki")), Some(Some(client("wiki"))));
        assert_eq!(narrowed(Some("mail")), None);
        assert!(scope(Role::Client, Some("wiki")).includes(&client("wiki")));
        assert!(!scope(Role::Client, Some("wiki")).includes(&client("mail")));
        assert!(!scope(Role::Client, None).includes(&client("wiki")) && scope(Role::Client, None).narrow(asked(None)).is_none());
    }

    #[test]
    fn who_is_no_client_sees_what_was_asked_for() {
        let filter = DeliveryFilter { client_id: Some(client("mail")), ..DeliveryFilter::default() };
        assert_eq!(scope(Role::Operator, None).narrow(filter).map(|filter| filter.client_id), Some(Some(client("mail"))));
    }
}
