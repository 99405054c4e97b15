//! Sessions as they stand, found by whatever a caller knows of them.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use crate::http::shapes::ParticipantShape;
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Code, List, Path, Problem, ProblemDocument, Query, Reply, Routes, StrictJson, Text, needs, page};
use crate::model::Sid;
use crate::model::gap::OpenGaps;
use crate::model::session::{Device, Life, SessionName, SessionView};
use crate::model::token::TokenEventView;
use crate::plan::activity::is_session_in_gap;
use crate::store::{SessionFilter, SessionSearch};

/// The session windows.
pub fn routes() -> Routes {
    Routes::new().add(routes!(list_sessions)).add(routes!(get_session)).add(routes!(search_sessions))
}

/// A session as it stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SessionShape {
    sid: Option<text::Sid>,
    /// The provider's own name for a session without a `sid`.
    key: Option<text::ProviderKey>,
    sub: Option<text::Subject>,
    state: text::Life,
    /// The logout that ended it.
    ended_by: Option<text::EventId>,
    started_at: text::Timestamp,
    expires_at: text::Timestamp,
    idle_expires_at: Option<text::Timestamp>,
    aliases: Vec<text::Alias>,
    device: DeviceShape,
    created_at: text::Timestamp,
    ended_at: Option<text::Timestamp>,
    participants: Vec<ParticipantShape>,
    /// True where nobody knows whether it still lives, since the database was restored: its tokens are inactive until it is reported again. Absent
    /// otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_gap: Option<bool>,
    /// What was noticed about its tokens, such as the reuse of a replaced one; only where one session is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_events: Option<Vec<TokenEventShape>>,
}

/// What was noticed about a session's tokens, by kind and client.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenEventShape {
    kind: text::TokenEventKind,
    client_id: text::ClientId,
    /// How often.
    seen: u64,
    last_at: text::Timestamp,
}

impl From<TokenEventView> for TokenEventShape {
    fn from(view: TokenEventView) -> Self {
        Self { kind: Text(view.kind), client_id: Text(view.client_id), seen: view.seen, last_at: Text(view.last_at) }
    }
}

/// Where a session was begun.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceShape {
    id: Option<String>,
    label: Option<String>,
    ip: Option<String>,
    user_agent: Option<String>,
}

impl From<Device> for DeviceShape {
    fn from(device: Device) -> Self {
        Self { id: device.id, label: device.label, ip: device.ip, user_agent: device.user_agent }
    }
}

impl From<SessionView> for SessionShape {
    fn from(view: SessionView) -> Self {
        Self {
            sid: view.sid.map(Text),
            key: view.key.map(Text),
            sub: view.sub.map(Text),
            state: Text(if view.ended_at.is_some() { Life::Ended } else { Life::Live }),
            ended_by: view.ended_by.map(Text),
            started_at: Text(view.started_at),
            expires_at: Text(view.expires_at),
            idle_expires_at: view.idle_expires_at.map(Text),
            aliases: view.aliases.into_iter().map(Text).collect(),
            device: view.device.into(),
            created_at: Text(view.created_at),
            ended_at: view.ended_at.map(Text),
            participants: view.participants.into_iter().map(ParticipantShape::from).collect(),
            in_gap: None,
            token_events: None,
        }
    }
}

/// A session as it stands: also whether a gap hides how it does.
pub(super) fn standing(view: SessionView, gaps: Option<OpenGaps>) -> SessionShape {
    let in_gap = gaps.is_some_and(|open| is_session_in_gap(&view, open)).then_some(true);
    SessionShape { in_gap, ..view.into() }
}

/// Which sessions.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SessionQuery {
    /// Those a client takes part in.
    #[param(value_type = Option<String>)]
    client_id: Option<text::ClientId>,
    /// `live` or `ended`.
    #[param(value_type = Option<String>)]
    state: Option<text::Life>,
    /// 1 to 1,000; 100 unless it says otherwise.
    #[param(value_type = Option<u16>)]
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<text::Cursor>,
}

/// List sessions, newest first.
#[utoipa::path(get, path = "/v1/issuers/{iss}/sessions", tag = "sessions", operation_id = "listSessions", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), SessionQuery),
    responses(
        (status = 200, description = "A page of sessions.", body = List<SessionShape>),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn list_sessions(
    State(app): State<AppState>,
    at: At<needs::ReadSessions>,
    Query(query): Query<SessionQuery>,
) -> Result<Reply<List<SessionShape>>, Problem> {
    let by = value(query.client_id).map(SessionSearch::Client);
    let gaps = app.store.open_gaps_at(&at.0.issuer.id).await?;
    let filter = SessionFilter { issuer: at.0.issuer.id, state: value(query.state), by };
    let listed = app.store.sessions(filter, page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, |view| standing(view, gaps))))
}

/// Show a session: the live one of that `sid`, else the latest.
#[utoipa::path(get, path = "/v1/issuers/{iss}/sessions/{sid}", tag = "sessions", operation_id = "getSession", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("sid" = String, Path, description = "The provider's `sid`.")),
    responses(
        (status = 200, description = "The session.", body = SessionShape),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn get_session(
    State(app): State<AppState>,
    at: At<needs::ReadSessions>,
    Path((_, sid)): Path<(String, String)>,
) -> Result<Reply<SessionShape>, Problem> {
    let unknown = || Problem::of(Code::UnknownSession);
    let name = SessionName::Sid(Sid::parse(sid).map_err(|_| unknown())?);
    let view = app.store.session(&at.0.issuer.id, &name).await?.ok_or_else(unknown)?;
    let events = app.store.token_events(&view.id).await?.into_iter().map(TokenEventShape::from).collect();
    let gaps = app.store.open_gaps_at(&at.0.issuer.id).await?;
    Ok(Reply::ok(SessionShape { token_events: Some(events), ..standing(view, gaps) }))
}

/// What is known of the sessions looked for: exactly one of its members.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchBody {
    sub: Option<text::Subject>,
    sid: Option<text::Sid>,
    client_id: Option<text::ClientId>,
    alias: Option<text::Alias>,
    device_id: Option<text::Line>,
    #[schema(value_type = Option<String>)]
    ip: Option<std::net::IpAddr>,
}

impl SearchBody {
    fn search(self) -> Result<SessionSearch, Problem> {
        let one_of = "exactly one of sub, sid, client_id, alias, device_id and ip says what is looked for";
        let mut given = [
            ("sub", value(self.sub).map(SessionSearch::Subject)),
            ("sid", value(self.sid).map(SessionSearch::Sid)),
            ("client_id", value(self.client_id).map(SessionSearch::Client)),
            ("alias", value(self.alias).map(SessionSearch::Alias)),
            ("device_id", self.device_id.map(|Text(id)| SessionSearch::Device(id.into_string()))),
            ("ip", self.ip.map(|ip| SessionSearch::Ip(ip.to_canonical().to_string()))),
        ]
        .into_iter()
        .filter_map(|(name, search)| Some((name, search?)));
        match (given.next(), given.next()) {
            (None, _) => Err(Problem::invalid("", one_of)),
            (Some((_, search)), None) => Ok(search),
            (Some(_), Some((surplus, _))) => Err(Problem::invalid(format!("/{surplus}"), one_of)),
        }
    }
}

/// Find sessions by what must not stand in a URL.
#[utoipa::path(post, path = "/v1/issuers/{iss}/sessions/search", tag = "sessions", operation_id = "searchSessions", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), PageQuery),
    request_body = SearchBody,
    responses(
        (status = 200, description = "A page of sessions.", body = List<SessionShape>),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn search_sessions(
    State(app): State<AppState>,
    at: At<needs::ReadSessions>,
    Query(query): Query<PageQuery>,
    StrictJson(body): StrictJson<SearchBody>,
) -> Result<Reply<List<SessionShape>>, Problem> {
    let gaps = app.store.open_gaps_at(&at.0.issuer.id).await?;
    let filter = SessionFilter { issuer: at.0.issuer.id, state: value(query.state), by: Some(body.search()?) };
    let listed = app.store.sessions(filter, page(query.limit, query.after)).await?;
    Ok(Reply::ok(List::of(listed, |view| standing(view, gaps))))
}

/// Which page of what was found.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// `live` or `ended`.
    #[param(value_type = Option<String>)]
    state: Option<text::Life>,
    /// 1 to 1,000; 100 unless it says otherwise.
    #[param(value_type = Option<u16>)]
    limit: Option<text::Limit>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<text::Cursor>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::json::parse;
    use crate::model::{EventId, ProviderKey, Subject, Timestamp};
    use crate::seams::Entropy;

    fn search(body: &str) -> Result<SessionSearch, Problem> {
        parse::<SearchBody>(body.as_bytes())?.search()
    }

    #[test]
    fn a_search_names_exactly_one_thing() {
        assert!(matches!(search(r#"{"sub":"a"}"#), Ok(SessionSearch::Subject(_))));
        assert!(matches!(search(r#"{"alias":"email:a"}"#), Ok(SessionSearch::Alias(_))));
        assert!(matches!(search(r#"{"device_id":"d"}"#), Ok(SessionSearch::Device(_))));
        assert!(matches!(search(r#"{"ip":"::ffff:192.0.2.1"}"#), Ok(SessionSearch::Ip(ip)) if ip == "192.0.2.1"));
        for (body, pointer) in [("{}", ""), (r#"{"sub":"a","sid":"s"}"#, "/sid"), (r#"{"ip":"here"}"#, "/ip"), (r#"{"name":"a"}"#, "/name")]
        {
            assert_eq!(search(body).unwrap_err().errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }

    #[test]
    fn a_session_that_ended_says_so_and_what_ended_it() {
        let (entropy, t) = (Entropy::seeded(1), Timestamp::from_seconds(1));
        let event: EventId = entropy.id(t);
        let view = SessionView {
            id: entropy.id(t),
            issuer: crate::model::IssuerId::parse("main").unwrap(),
            sid: None,
            key: Some(ProviderKey::parse("k").unwrap()),
            sub: Some(Subject::parse("a").unwrap()),
            started_at: t,
            expires_at: t,
            idle_expires_at: None,
            aliases: Vec::new(),
            device: Device::default(),
            created_at: t,
            reported_at: t,
            ended_at: Some(t),
            ended_by: Some(event.clone()),
            participants: Vec::new(),
        };
        let written = serde_json::to_value(SessionShape::from(view)).unwrap();
        assert_eq!((written["state"].as_str(), written["ended_by"].as_str()), (Some("ended"), Some(event.as_str())));
        assert_eq!((written["key"].as_str(), written["sid"].is_null()), (Some("k"), true));
    }
}
