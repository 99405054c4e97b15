//! Sessions and who takes part in them, as a provider reports them.

use std::net::IpAddr;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bulk::{Bulk, Results, bounded_parts, only};
use super::reports::take;
use super::token::{Sealer, TokenBody};
use crate::http::shapes::ParticipantShape;
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Code, Path, Problem, ProblemDocument, Query, Reply, StrictJson, Text, needs};
use crate::model::report::{ParticipantReport, Report, Reported, SessionReport, SessionStanding, TokenDetails};
use crate::model::session::{Device, SessionName};
use crate::model::{ClientId, ProviderKey, Sid, Subject};

/// How many aliases one report may carry.
pub const ALIASES_MAX: usize = 100;

/// A login, or anything new about a session. What is reported is added; nothing is removed by leaving it out.
///
/// One call tells of up to 5,000 participants, aliases and tokens.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginBody {
    pub(super) sub: text::Subject,
    /// By the provider's clock, at most 24 hours ahead. Without it nothing that is reported late is known to be older than a logout.
    pub(super) started_at: Option<text::Timestamp>,
    /// When it ends by itself; the latest wins while it lives.
    pub(super) expires_at: Option<text::Timestamp>,
    pub(super) idle_expires_at: Option<text::Timestamp>,
    /// Other names the person can be found by.
    #[serde(default)]
    pub(super) aliases: Vec<text::Alias>,
    pub(super) device: Option<DeviceBody>,
    #[serde(default)]
    pub(super) participants: Vec<ParticipantBody>,
}

/// Where a session was begun.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceBody {
    id: Option<text::Line>,
    label: Option<text::Line>,
    /// An IPv4 or IPv6 address.
    #[schema(value_type = Option<String>)]
    ip: Option<IpAddr>,
    user_agent: Option<text::Note>,
}

/// A relying party in a session.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParticipantBody {
    client_id: text::ClientId,
    /// The `sid` that client saw; the session's unless it says otherwise.
    sid: Option<text::Sid>,
    /// The `sub` that client saw; the session's unless it says otherwise.
    sub: Option<text::Subject>,
    /// The session's start unless it says otherwise.
    joined_at: Option<text::Timestamp>,
    /// Not taken for a session that has ended, nor for a client that is suspended; the answer is about the session alone.
    refresh_token: Option<TokenBody>,
}

/// One session of a bulk call. `sid` or `key` names it; with neither it is the one implicit session of its `sub`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionItem {
    sid: Option<text::Sid>,
    key: Option<text::ProviderKey>,
    sub: text::Subject,
    started_at: Option<text::Timestamp>,
    expires_at: Option<text::Timestamp>,
    idle_expires_at: Option<text::Timestamp>,
    #[serde(default)]
    aliases: Vec<text::Alias>,
    device: Option<DeviceBody>,
    #[serde(default)]
    participants: Vec<ParticipantBody>,
}

/// Up to 1,000 sessions, with up to 5,000 participants, aliases and tokens in all.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionsBody {
    #[schema(value_type = Vec<SessionItem>, max_items = 1000)]
    sessions: Bulk<SessionItem>,
}

/// What tells one session from another.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) sid: Option<Sid>,
    pub(super) key: Option<ProviderKey>,
    pub(super) sub: Option<Subject>,
}

impl Names {
    /// The session they name: by `sid`, by `key`, or the implicit one of the `sub`.
    pub(super) fn session(self) -> Result<SessionName, Problem> {
        match (self.sid, self.key, self.sub) {
            (Some(_), Some(_), _) => Err(Problem::invalid("/key", "does not go with sid")),
            (Some(sid), None, _) => Ok(SessionName::Sid(sid)),
            (None, Some(key), _) => Ok(SessionName::Key(key)),
            (None, None, Some(sub)) => Ok(SessionName::Subject(sub)),
            (None, None, None) => Err(Problem::invalid("/sid", "is missing: a session is named by sid, by key, or by its sub")),
        }
    }
}

impl LoginBody {
    /// The report of a session of that name.
    pub(super) fn report(self, session: SessionName, sealer: Sealer<'_>) -> Result<SessionReport, Problem> {
        if matches!(session, SessionName::Subject(_)) && self.started_at.is_none() {
            // Nothing else tells the next login from one that has ended.
            return Err(Problem::invalid("/started_at", "is missing: a session without sid and key needs it"));
        }
        if self.aliases.len() > ALIASES_MAX {
            return Err(Problem::invalid("/aliases", format!("must have at most {ALIASES_MAX} items")));
        }
        let participants = self.participants.into_iter().enumerate();
        Ok(SessionReport {
            session,
            sub: self.sub.0,
            started_at: value(self.started_at),
            expires_at: value(self.expires_at),
            idle_expires_at: value(self.idle_expires_at),
            aliases: self.aliases.into_iter().map(|Text(alias)| alias).collect(),
            device: self.device.map(DeviceBody::device).unwrap_or_default(),
            participants: participants.map(|(at, body)| body.report(&format!("/participants/{at}"), sealer)).collect::<Result<_, _>>()?,
        })
    }
}

impl DeviceBody {
    fn device(self) -> Device {
        Device {
            id: self.id.map(|Text(id)| id.into_string()),
            label: self.label.map(|Text(label)| label.into_string()),
            ip: self.ip.map(|ip| ip.to_canonical().to_string()),
            user_agent: self.user_agent.map(|Text(agent)| agent.into_string()),
        }
    }
}

impl ParticipantBody {
    fn report(self, place: &str, sealer: Sealer<'_>) -> Result<ParticipantReport, Problem> {
        Ok(ParticipantReport {
            client_id: self.client_id.0,
            sid: value(self.sid),
            sub: value(self.sub),
            joined_at: value(self.joined_at),
            refresh_token: token_at(self.refresh_token, &format!("{place}/refresh_token"), sealer)?,
        })
    }
}

/// A refresh token that came on the way, with problems placed where it stood.
pub(super) fn token_at(token: Option<TokenBody>, place: &str, sealer: Sealer<'_>) -> Result<Option<TokenDetails>, Problem> {
    token.map(|token| token.details(sealer)).transpose().map_err(|problem| problem.under(place))
}

impl SessionItem {
    fn report(self, sealer: Sealer<'_>) -> Result<SessionReport, Problem> {
        let Self { sid, key, sub, started_at, expires_at, idle_expires_at, aliases, device, participants } = self;
        let names = Names { sid: value(sid), key: value(key), sub: Some(sub.0.clone()) };
        LoginBody { sub, started_at, expires_at, idle_expires_at, aliases, device, participants }.report(names.session()?, sealer)
    }
}

/// How a session stands after a report.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StandingShape {
    state: text::Life,
    /// The logout that ended it. Who was reported too late is told to log out.
    ended_by: Option<text::EventId>,
    participants: Vec<ParticipantShape>,
}

impl From<SessionStanding> for StandingShape {
    fn from(standing: SessionStanding) -> Self {
        Self {
            state: Text(standing.state),
            ended_by: standing.ended_by.map(Text),
            participants: standing.participants.into_iter().map(ParticipantShape::from).collect(),
        }
    }
}

/// Report a login, or a relying party that joins it. Idempotent: what is reported is added.
#[utoipa::path(put, path = "/v1/issuers/{iss}/sessions/{sid}", tag = "sessions", operation_id = "putSession", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id."), ("sid" = String, Path, description = "The provider's `sid`.")),
    request_body = LoginBody,
    responses(
        (status = 200, description = "It was known; `state` says whether it lives.", body = StandingShape),
        (status = 201, description = "The report began it; one that was over before it was reported says so in `state`.", body = StandingShape),
        (status = 413, description = "`too-many-items`: more than 5,000 participants, aliases and tokens in all; or `body-too-large`. \
            Nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn put_session(
    State(app): State<AppState>,
    at: At<needs::Report>,
    Path((_, sid)): Path<(String, String)>,
    StrictJson(body): StrictJson<LoginBody>,
) -> Result<Reply<StandingShape>, Problem> {
    let report = one(sid_of_path(sid)?, body, Sealer::at(&app, &at.0.issuer.id))?;
    match only(take(&app, &at.0, report).await?)? {
        Reported::Session(standing) if standing.created => Ok(Reply::created(standing.into())),
        Reported::Session(standing) => Ok(Reply::ok(standing.into())),
        other @ (Reported::Touched | Reported::Left(_) | Reported::TokenRegistered { .. } | Reported::Rotated(_)) => {
            Err(unexpected(&other))
        }
    }
}

/// Report up to 1,000 sessions at once. Each is answered by itself. Together they may have up to 5,000 participants, aliases and tokens.
#[utoipa::path(post, path = "/v1/issuers/{iss}/sessions", tag = "sessions", operation_id = "postSessions", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body = SessionsBody,
    responses(
        (status = 200, description = "One result for each session, in their order.", body = Results),
        (status = 413, description = "`too-many-items`: more than 1,000 items, or more than 5,000 participants, aliases and tokens in all; or `body-too-large`. \
            Nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn post_sessions(
    State(app): State<AppState>,
    at: At<needs::Report>,
    StrictJson(body): StrictJson<SessionsBody>,
) -> Result<Reply<Results>, Problem> {
    let reports = many(body, Sealer::at(&app, &at.0.issuer.id))?;
    Ok(Reply::ok(Results::of(take(&app, &at.0, reports).await?)))
}

fn one(sid: Sid, body: LoginBody, sealer: Sealer<'_>) -> Result<Vec<Report>, Problem> {
    bounded_parts(vec![Report::Session(body.report(SessionName::Sid(sid), sealer)?)])
}

fn many(body: SessionsBody, sealer: Sealer<'_>) -> Result<Vec<Report>, Problem> {
    let items = body.sessions.bounded()?.into_iter().enumerate();
    let reports =
        items.map(|(at, item)| item.report(sealer).map(Report::Session).map_err(|problem| problem.under(&format!("/sessions/{at}"))));
    bounded_parts(reports.collect::<Result<_, _>>()?)
}

/// Which of a client's participations left.
#[derive(Clone, Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Leaver {
    /// The `sid` that client saw; without it all its participations in the session left.
    #[param(value_type = Option<String>)]
    client_sid: Option<text::Sid>,
}

/// A relying party left by itself: nothing is sent to it.
#[utoipa::path(delete, path = "/v1/issuers/{iss}/sessions/{sid}/participants/{client_id}", tag = "sessions", operation_id = "deleteParticipant",
    security(("bearer" = [])),
    params(
        ("iss" = String, Path, description = "The issuer's short id."),
        ("sid" = String, Path, description = "The provider's `sid`."),
        ("client_id" = String, Path, description = "Who left."),
        Leaver,
    ),
    responses(
        (status = 204, description = "It takes part no more."),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn delete_participant(
    State(app): State<AppState>,
    at: At<needs::Report>,
    Path((_, sid, client_id)): Path<(String, String, String)>,
    Query(leaver): Query<Leaver>,
) -> Result<Reply<()>, Problem> {
    let client_id = ClientId::parse(client_id).map_err(|_| Problem::of(Code::UnknownClient))?;
    let session = SessionName::Sid(sid_of_path(sid)?);
    let leave = Report::Leave { session, client_id, sid: value(leaver.client_sid) };
    only(take(&app, &at.0, vec![leave]).await?)?;
    Ok(Reply::done())
}

/// A path that cannot be a `sid` names no session.
fn sid_of_path(text: String) -> Result<Sid, Problem> {
    Sid::parse(text).map_err(|malformed| Problem::new(Code::UnknownSession, malformed.to_string()))
}

/// An outcome of another kind than the report it answers.
pub(super) fn unexpected(reported: &Reported) -> Problem {
    #[derive(Debug, thiserror::Error)]
    #[error("a report was answered as another kind of report: {0}")]
    struct Unexpected(&'static str);
    Problem::internal(Unexpected(match reported {
        Reported::Session(_) => "session",
        Reported::Touched => "touch",
        Reported::Left(_) => "leave",
        Reported::TokenRegistered { .. } => "token",
        Reported::Rotated(_) => "rotated",
    }))
}

#[cfg(test)]
mod tests {
    use super::super::token::with_sealer;
    use super::*;
    use crate::http::json::parse;

    fn pointer<T: std::fmt::Debug>(outcome: Result<T, Problem>) -> String {
        outcome.expect_err("refused").errors()[0].pointer.clone().unwrap_or_default()
    }

    fn login(body: &str) -> Result<SessionReport, Problem> {
        let body = parse::<LoginBody>(body.as_bytes())?;
        with_sealer(|sealer| body.report(SessionName::Sid(Sid::parse("s").unwrap()), sealer))
    }

    #[test]
    fn a_login_of_the_contract_is_read_with_all_its_parts() {
        let report = login(
            r#"{"sub":"alice","started_at":"2026-01-01T00:00:00Z","expires_at":"2026-01-02T00:00:00Z","idle_expires_at":"2026-01-01T01:00:00Z",
                "aliases":["email:alice@example.org"],"device":{"id":"d","label":"l","ip":"::ffff:192.0.2.1","user_agent":"u"},
                "participants":[{"client_id":"wiki","sid":"c-1","sub":"p-1","joined_at":"2026-01-01T00:00:01Z","refresh_token":{"token":"abc"}}]}"#,
        )
        .unwrap();
        assert_eq!(report.sub.as_str(), "alice");
        assert_eq!(report.device.ip.as_deref(), Some("192.0.2.1"));
        assert_eq!((report.aliases.len(), report.participants.len()), (1, 1));
        let [participant] = &report.participants[..] else { panic!("one participant") };
        assert_eq!(participant.sid.as_ref().map(Sid::as_str), Some("c-1"));
        assert!(participant.refresh_token.is_some());
    }

    #[test]
    fn the_member_at_fault_is_named_however_deep_it_is() {
        assert_eq!(pointer(login(r#"{"sub":""}"#)), "/sub");
        assert_eq!(pointer(login(r#"{"sub":"a\u0000b"}"#)), "/sub");
        assert_eq!(pointer(login(r#"{"sub":"a","sealed":"x"}"#)), "/sealed");
        assert_eq!(pointer(login(r#"{"sub":"a","device":{"ip":"host"}}"#)), "/device/ip");
        assert_eq!(
            pointer(login(r#"{"sub":"a","participants":[{"client_id":"c"},{"client_id":"c","refresh_token":{}}]}"#)),
            "/participants/1/refresh_token/token"
        );
        let aliases = serde_json::json!({"sub": "a", "aliases": vec!["x"; ALIASES_MAX + 1]});
        assert_eq!(pointer(login(&aliases.to_string())), "/aliases");
    }

    fn item(body: &str) -> Result<SessionName, Problem> {
        let body = parse::<SessionItem>(body.as_bytes())?;
        with_sealer(|sealer| body.report(sealer)).map(|report| report.session)
    }

    #[test]
    fn a_session_is_named_by_its_sid_by_a_key_or_by_its_subject_alone() {
        assert_eq!(item(r#"{"sid":"s","sub":"a"}"#).unwrap(), SessionName::Sid(Sid::parse("s").unwrap()));
        assert_eq!(item(r#"{"sid":null,"key":"k","sub":"a"}"#).unwrap(), SessionName::Key(ProviderKey::parse("k").unwrap()));
        let implicit = item(r#"{"sid":null,"sub":"a","started_at":"2026-01-01T00:00:00Z"}"#).unwrap();
        assert_eq!(implicit, SessionName::Subject(Subject::parse("a").unwrap()));
        assert_eq!(pointer(item(r#"{"sid":"s","key":"k","sub":"a"}"#)), "/key");
    }

    #[test]
    fn an_implicit_session_needs_its_start_since_nothing_else_tells_two_logins_apart() {
        assert_eq!(pointer(item(r#"{"sub":"a"}"#)), "/started_at");
    }

    fn full(participants: usize) -> serde_json::Value {
        let participant = serde_json::json!({"client_id": "c", "refresh_token": {"jti": "j"}});
        serde_json::json!({"sub": "a", "sid": "s", "aliases": vec!["x"; 4], "participants": vec![participant; participants]})
    }

    #[test]
    fn what_all_sessions_of_a_call_hold_is_bounded_together() {
        let call = |sessions: Vec<serde_json::Value>| {
            let body = parse(serde_json::json!({"sessions": sessions}).to_string().as_bytes())?;
            with_sealer(|sealer| many(body, sealer))
        };
        assert_eq!(call(vec![full(3); 500]).unwrap().len(), 500);
        let problem = call([vec![full(3); 499], vec![full(4)]].concat()).unwrap_err();
        assert_eq!(problem.code(), Code::TooManyItems);
        let document = serde_json::to_value(problem.document()).unwrap();
        assert_eq!(document["detail"], "5002 participants, aliases and tokens in one call are more than 5000; nothing was done");
    }

    #[test]
    fn what_one_login_holds_is_bounded_too() {
        let call = |participants| {
            let mut body = full(participants);
            body.as_object_mut().unwrap().remove("sid");
            let body = parse(body.to_string().as_bytes())?;
            with_sealer(|sealer| one(Sid::parse("s").unwrap(), body, sealer))
        };
        assert_eq!(call(2_498).unwrap().len(), 1);
        assert_eq!(call(2_499).unwrap_err().code(), Code::TooManyItems);
    }
}
