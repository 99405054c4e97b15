//! The rotation of refresh tokens, before a provider answers its client: may this token be replaced by that one?
//!
//! Who asks here hands the decision over. Nothing but `invalid_grant` is told of a token that may not be replaced, since that is what its provider passes
//! on (RFC 6749 5.2); why is counted, on the trail, and shown with the session.

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::logouts::tell_seen;
use super::reports::missing;
use super::token::{Naming, Sealer, TokenValue};
use crate::http::problem::InvalidGrant;
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Problem, ProblemDocument, Reply, Seat, StrictJson, Text, needs};
use crate::model::report::{Begun, ReportRefused, TokenName};
use crate::model::rotation::{FamilyStanding, Happened, Occasion, Rotated, Rotation, Successor};
use crate::model::{ClientId, IssuerId, Timestamp};
use crate::plan::joining;
use crate::plan::time::BEGUN_AHEAD_MAX;
use crate::store::RotationOrder;
use crate::token::Sealed;

/// The longest word for what happened, in characters.
const EVENT_CHARS_MAX: usize = 64;

/// A refresh token that a client showed, and the one its provider would answer with. Each is named once.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationBody {
    /// The client that showed the token.
    client_id: Option<text::ClientId>,
    /// The token that was shown.
    token: Option<TokenValue>,
    /// SHA-256 of its octets, in base64url.
    token_sha256: Option<text::Digest>,
    /// The `jti` of a token that is a JWT.
    jti: Option<text::Jti>,
    /// The token that shall take its place. Its value is needed, and kept sealed for that time, where the client has a grace; and as long as it is good
    /// where its family's are sealed.
    successor: Option<TokenValue>,
    /// SHA-256 of its octets, in base64url.
    successor_sha256: Option<text::Digest>,
    /// The `jti` of a successor that is a JWT.
    successor_jti: Option<text::Jti>,
    /// When the successor was issued.
    issued_at: Option<text::Timestamp>,
    /// When the successor expires; as long after its issue as its predecessor, unless said.
    expires_at: Option<text::Timestamp>,
    /// A word of at most 64 characters for what happened since the token was issued, such as a new network: it makes a rotation `on_event` due.
    event: Option<text::Line>,
}

/// The members that tell of a rotation, wherever they stand.
#[derive(Debug)]
pub(super) struct RotationParts {
    pub(super) client_id: Option<ClientId>,
    pub(super) token: Naming,
    pub(super) successor: Naming,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
}

impl RotationParts {
    /// The rotation, each token named once.
    pub(super) fn rotation(self, occasion: Occasion, sealer: Sealer<'_>) -> Result<Rotation, Problem> {
        let client_id = self.client_id.ok_or_else(|| missing("client_id"))?;
        let token = self.token.required()?.names();
        let successor = self.successor.required()?;
        let successor =
            Successor { name: successor.name(), issued_at: self.issued_at, expires_at: self.expires_at, sealed: successor.sealed(sealer) };
        Ok(Rotation { client_id, token, successor, occasion })
    }
}

impl RotationBody {
    fn rotation(self, sealer: Sealer<'_>) -> Result<Rotation, Problem> {
        let happened = match self.event.map(|Text(word)| word.into_string()) {
            None => Happened::Nothing,
            Some(word) if word.chars().count() <= EVENT_CHARS_MAX => Happened::Something,
            Some(_) => return Err(Problem::invalid("/event", format!("must have at most {EVENT_CHARS_MAX} characters"))),
        };
        let parts = RotationParts {
            client_id: value(self.client_id),
            token: Naming { value: self.token, digest: value(self.token_sha256), jti: value(self.jti), members: Naming::TOKEN },
            successor: Naming {
                value: self.successor,
                digest: value(self.successor_sha256),
                jti: value(self.successor_jti),
                members: Naming::SUCCESSOR,
            },
            issued_at: value(self.issued_at),
            expires_at: value(self.expires_at),
        };
        parts.rotation(Occasion::Asked(happened), sealer)
    }
}

/// What the provider answers its client with.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RotationShape {
    /// The `sid` of the token's session; null where it has none.
    sid: Option<text::Sid>,
    /// How often the family was rotated.
    generation: u64,
    /// Whether the token had been replaced already, and its successor is the one there is.
    replayed: bool,
    /// Whether the client gets a new token; otherwise it keeps the one it showed, and the successor is not registered.
    rotated: bool,
    /// The token the client gets, where it is another than the one that was sent along.
    #[serde(skip_serializing_if = "Option::is_none")]
    successor: Option<String>,
    /// True where the successor was to live longer than it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    capped: Option<bool>,
    /// When such a successor expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<text::Timestamp>,
}

/// Replace a refresh token, if it may be (RFC 9700 4.14.2).
///
/// A token that was replaced before and is shown again ends its family, and by its client's registration its session, or all sessions of its subject: a
/// logout with the reason `token_reuse`. Within the client's grace it is answered with its first successor instead.
#[utoipa::path(post, path = "/v1/issuers/{iss}/refresh-tokens/rotate", tag = "tokens", operation_id = "rotateRefreshToken", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body = RotationBody,
    responses(
        (status = 200, description = "What the client gets.", body = RotationShape),
        (status = 400, description = "The token is not good any more, or never was.", body = InvalidGrant),
        (status = 422, description = "`lifetime-over-limit`, or the successor's value is missing; nothing was done.", body = ProblemDocument,
            content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn rotate_refresh_token(
    State(app): State<AppState>,
    at: At<needs::Report>,
    StrictJson(body): StrictJson<RotationBody>,
) -> Result<Response, Problem> {
    let Seat { caller, issuer } = at.0;
    let id = issuer.id.clone();
    let rotation = body.rotation(Sealer::at(&app, &id))?;
    if rotation.successor.issued_at.is_some_and(|at| at > app.clock.now().plus(BEGUN_AHEAD_MAX)) {
        return Err(ReportRefused::TooFarAhead(Begun { participant: None, member: "issued_at" }).into());
    }
    let turned = app.store.rotate(RotationOrder { issuer, caller, rotation, rules: joining::RULES }).await?;
    tell_seen(&app, &id, &turned.seen);
    match turned.outcome {
        Ok(rotated) => answer(&app, &id, rotated),
        Err(refused) => refusal(refused),
    }
}

fn answer(app: &AppState, issuer: &IssuerId, rotated: Rotated) -> Result<Response, Problem> {
    let shape = match rotated {
        Rotated::Rotated(standing) => RotationShape { rotated: true, ..of(standing) },
        Rotated::NotDue(standing) => of(standing),
        Rotated::Repeated(standing) => RotationShape { rotated: true, replayed: true, ..of(standing) },
        Rotated::Replayed { standing, name, sealed } => {
            RotationShape { rotated: true, replayed: true, successor: Some(opened(app, issuer, &name, &sealed)?), ..of(standing) }
        }
    };
    let mut response = Reply::ok(shape).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn of(standing: FamilyStanding) -> RotationShape {
    let FamilyStanding { sid, generation, capped } = standing;
    RotationShape {
        sid: sid.map(Text),
        generation,
        replayed: false,
        rotated: false,
        successor: None,
        capped: capped.map(|_| true),
        expires_at: capped.map(Text),
    }
}

fn opened(app: &AppState, issuer: &IssuerId, name: &TokenName, sealed: &str) -> Result<String, Problem> {
    #[derive(Debug, thiserror::Error)]
    #[error("a sealed refresh token is no text")]
    struct NoText;
    let octets = app.sealing.open_text(&Sealed::refresh_token(issuer, &name.stored_as()), sealed).map_err(Problem::internal)?;
    std::str::from_utf8(&octets).map(str::to_owned).map_err(|_| Problem::internal(NoText))
}

/// Why a token is not good is told to nobody; what is wrong with the request is told to who made it.
fn refusal(refused: ReportRefused) -> Result<Response, Problem> {
    match refused {
        ReportRefused::LifetimeOverLimit
        | ReportRefused::ExpiryMissing
        | ReportRefused::SuccessorValueMissing
        | ReportRefused::TooFarAhead(_) => Err(refused.into()),
        ReportRefused::UnknownSession
        | ReportRefused::SessionEnded
        | ReportRefused::OtherSubject
        | ReportRefused::OtherOwner
        | ReportRefused::TooManyParticipants
        | ReportRefused::ClientSuspended
        | ReportRefused::UnknownToken
        | ReportRefused::TokenInactive
        | ReportRefused::TokenReused => Ok(InvalidGrant::new().into_response()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::with_sealer;
    use super::*;
    use crate::http::json::parse;

    fn read(body: &str) -> Result<Rotation, Problem> {
        let body = parse::<RotationBody>(body.as_bytes())?;
        with_sealer(|sealer| body.rotation(sealer))
    }

    #[test]
    fn a_rotation_names_a_client_a_token_and_its_successor() {
        let rotation = read(r#"{"client_id":"c","token":"t","successor":"u","event":"new network"}"#).unwrap();
        assert_eq!(rotation.occasion, Occasion::Asked(Happened::Something));
        assert!(rotation.successor.sealed.is_some());
        let named = read(r#"{"client_id":"c","jti":"t","successor_jti":"u"}"#).unwrap();
        assert_eq!((named.occasion, named.successor.sealed), (Occasion::Asked(Happened::Nothing), None));
    }

    #[test]
    fn the_member_at_fault_is_named() {
        let long = format!(r#"{{"client_id":"c","token":"t","successor":"u","event":"{}"}}"#, "x".repeat(65));
        for (body, pointer) in [
            (r#"{"token":"t","successor":"u"}"#, "/client_id"),
            (r#"{"client_id":"c","successor":"u"}"#, "/token"),
            (r#"{"client_id":"c","token":"t"}"#, "/successor"),
            (r#"{"client_id":"c","token":"t","jti":"j","successor":"u"}"#, "/jti"),
            (r#"{"client_id":"c","token":"t","successor":"u","sid":"s"}"#, "/sid"),
            (&long, "/event"),
        ] {
            let problem = read(body).expect_err(body);
            assert_eq!(problem.errors()[0].pointer.as_deref(), Some(pointer), "{body}");
        }
    }
}
