//! Which applications is this person still in?

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::sessions::{SessionShape, standing};
use crate::http::wire::text;
use crate::http::{AppState, At, Problem, ProblemDocument, Reply, Routes, StrictJson, Text, needs};
use crate::model::gap::OpenGaps;
use crate::store::{OpenWhy, StillOpen, SubjectRecord};

/// The subject windows.
pub fn routes() -> Routes {
    Routes::new().add(routes!(subject_status))
}

/// Whom the question is about.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubjectBody {
    sub: text::Subject,
}

/// How a person stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SubjectShape {
    /// The person's sessions, with who takes part in each.
    sessions: Vec<SessionShape>,
    /// The applications the person may still be in.
    still_open: Vec<StillOpenShape>,
    /// The applications that call somebody so by a name of their own, in a session of which nobody reported that it is this person's: what is known by
    /// a relayed token alone. Where applications have names of their own it may be somebody else.
    still_open_by_client_sub: Vec<StillOpenShape>,
}

/// An application somebody may still be in.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StillOpenShape {
    client_id: text::ClientId,
    why: WhyShape,
    /// Until when, as far as that is known.
    until: Option<text::Timestamp>,
}

/// Why somebody may still be in an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyShape {
    /// The session goes on.
    Live,
    /// It has not been told yet.
    Pending,
    /// It refused, or did not answer until the horizon.
    GaveUp,
    /// It can never be told.
    Unreachable,
    /// Telling it was cancelled.
    Cancelled,
    /// It holds a refresh token that outlives the session.
    OfflineToken,
}

impl From<OpenWhy> for WhyShape {
    fn from(why: OpenWhy) -> Self {
        match why {
            OpenWhy::Live => Self::Live,
            OpenWhy::Pending => Self::Pending,
            OpenWhy::GaveUp => Self::GaveUp,
            OpenWhy::Unreachable => Self::Unreachable,
            OpenWhy::Cancelled => Self::Cancelled,
            OpenWhy::OfflineToken => Self::OfflineToken,
        }
    }
}

impl From<StillOpen> for StillOpenShape {
    fn from(open: StillOpen) -> Self {
        Self { client_id: Text(open.client_id), why: open.why.into(), until: open.until.map(Text) }
    }
}

impl SubjectShape {
    fn of(record: SubjectRecord, gaps: Option<OpenGaps>) -> Self {
        Self {
            sessions: record.sessions.into_iter().map(|view| standing(view, gaps)).collect(),
            still_open: record.still_open.into_iter().map(StillOpenShape::from).collect(),
            still_open_by_client_sub: record.by_client_sub.into_iter().map(StillOpenShape::from).collect(),
        }
    }
}

/// Show a person's sessions, and which applications the person may still be in.
#[utoipa::path(post, path = "/v1/issuers/{iss}/subjects/status", tag = "sessions", operation_id = "subjectStatus", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body = SubjectBody,
    responses(
        (status = 200, description = "How the person stands; of somebody unknown, nothing.", body = SubjectShape),
        (status = "default", description = "A problem.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn subject_status(
    State(app): State<AppState>,
    at: At<needs::ReadSessions>,
    StrictJson(body): StrictJson<SubjectBody>,
) -> Result<Reply<SubjectShape>, Problem> {
    let record = app.store.subject_record(&at.0.issuer.id, &body.sub.0).await?;
    let gaps = app.store.open_gaps_at(&at.0.issuer.id).await?;
    Ok(Reply::ok(SubjectShape::of(record, gaps)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_word_of_the_contract() {
        let why = [OpenWhy::Live, OpenWhy::Pending, OpenWhy::GaveUp, OpenWhy::Unreachable, OpenWhy::Cancelled, OpenWhy::OfflineToken];
        let words = serde_json::to_value(why.map(WhyShape::from)).unwrap();
        assert_eq!(words, serde_json::json!(["live", "pending", "gave_up", "unreachable", "cancelled", "offline_token"]));
    }
}
