//! Problem documents (RFC 9457): the only file that speaks of HTTP errors.
//!
//! Every room's error enum becomes a [`Problem`] here, by an exhaustive match. A 5xx tells its caller nothing but an instance id; the log, once, tells
//! all of it under the same id.

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{self, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::lifecycle::Died;
use crate::model::Malformed;
use crate::model::report::{Begun, ReportRefused};
use crate::seams::Entropy;
use crate::store::{CommitRefused, StoreError};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $word:literal, $title:literal;)*) => {
        /// What can go wrong, by the stable name it has on the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The last part of the problem's `type`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// The status it is answered with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The problem's `title`.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request cannot be read as HTTP means it: a header, the path, the encoding.
    MalformedRequest = BAD_REQUEST, "malformed-request", "The request is malformed";
    /// The body is not JSON.
    MalformedJson = BAD_REQUEST, "malformed-json", "The body is not JSON";
    /// An object of the body has two members of one name.
    DuplicateMember = BAD_REQUEST, "duplicate-member", "A member appears twice";
    /// The body nests deeper than it may.
    TooDeep = BAD_REQUEST, "too-deep", "The body nests too deeply";
    /// A query parameter has a wrong value.
    InvalidParameter = BAD_REQUEST, "invalid-parameter", "A query parameter is invalid";
    /// No such query parameter.
    UnknownParameter = BAD_REQUEST, "unknown-parameter", "A query parameter is unknown";
    /// A header has a wrong value.
    InvalidHeader = BAD_REQUEST, "invalid-header", "A header is invalid";
    /// No credentials, or bad ones.
    Unauthorized = UNAUTHORIZED, "unauthorized", "Credentials are missing or not valid";
    /// The caller may not do it.
    Forbidden = FORBIDDEN, "forbidden", "The caller may not do this";
    /// No such route or thing.
    NotFound = NOT_FOUND, "not-found", "There is nothing here";
    /// No such issuer.
    UnknownIssuer = NOT_FOUND, "unknown-issuer", "The issuer is not registered";
    /// No such client.
    UnknownClient = NOT_FOUND, "unknown-client", "The client is not registered";
    /// No such session.
    UnknownSession = NOT_FOUND, "unknown-session", "The session is not registered";
    /// No such logout.
    UnknownLogout = NOT_FOUND, "unknown-logout", "There is no such logout";
    /// No such delivery.
    UnknownDelivery = NOT_FOUND, "unknown-delivery", "There is no such delivery";
    /// No such API token.
    UnknownApiToken = NOT_FOUND, "unknown-api-token", "There is no such API token";
    /// No such token.
    UnknownToken = NOT_FOUND, "unknown-token", "The token is not registered";
    /// No such key.
    UnknownKey = NOT_FOUND, "unknown-key", "There is no such key";
    /// No such entry of the denylist.
    UnknownDenial = NOT_FOUND, "unknown-denial", "There is no such entry of the denylist";
    /// No such ordered cut-off.
    UnknownCutOff = NOT_FOUND, "unknown-cut-off", "There is no such ordered cut-off";
    /// No such open gap.
    UnknownGap = NOT_FOUND, "unknown-gap", "There is no such open gap";
    /// The issuer's subjects have no secrets.
    NoSubjectSecrets = NOT_FOUND, "no-subject-secrets", "The issuer's subjects have no secrets";
    /// The route has other methods.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here";
    /// It contradicts what is stored.
    Conflict = CONFLICT, "conflict", "The request contradicts what is stored";
    /// It exists.
    AlreadyExists = CONFLICT, "already-exists", "It exists already";
    /// The configuration says what it is.
    Declared = CONFLICT, "declared", "It is declared in the configuration";
    /// Something alive depends on it.
    InUse = CONFLICT, "in-use", "Something alive depends on it";
    /// The session has ended.
    SessionEnded = CONFLICT, "session-ended", "The session has ended";
    /// The live session belongs to another subject.
    OtherSubject = CONFLICT, "other-subject", "The live session belongs to another subject";
    /// The token is registered for somebody else.
    OtherOwner = CONFLICT, "other-owner", "The token is registered for another owner";
    /// The token that was replaced is not good.
    TokenInactive = CONFLICT, "token-inactive", "The token is not good";
    /// The token had been replaced before.
    TokenReused = CONFLICT, "token-reused", "The token had been replaced before";
    /// The delivery is not pending any more.
    AlreadySettled = CONFLICT, "already-settled", "The delivery is settled";
    /// Nothing could be sent to the client as it is registered.
    CannotBeTold = CONFLICT, "cannot-be-told", "The client cannot be told";
    /// The issuer has as many ordered cut-offs as it may.
    TooManyCutOffs = CONFLICT, "too-many-cut-offs", "There are too many ordered cut-offs";
    /// The issuer has as many open gaps as it may.
    TooManyGaps = CONFLICT, "too-many-gaps", "There are too many open gaps";
    /// Nobody is told of alarms.
    NoAlarmWebhook = CONFLICT, "no-alarm-webhook", "No alarm webhook is configured";
    /// The client is suspended.
    ClientSuspended = CONFLICT, "client-suspended", "The client is suspended";
    /// `If-Match` names another version.
    VersionMismatch = PRECONDITION_FAILED, "version-mismatch", "It has changed since";
    /// The body is too large.
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large";
    /// A bulk call has too many items.
    TooManyItems = PAYLOAD_TOO_LARGE, "too-many-items", "There are too many items";
    /// The body is of another type.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body has the wrong media type";
    /// A member has a wrong value.
    InvalidField = UNPROCESSABLE_ENTITY, "invalid-field", "A member of the body is invalid";
    /// A member is unknown.
    UnknownMember = UNPROCESSABLE_ENTITY, "unknown-member", "A member of the body is unknown";
    /// The provider does not publish the key.
    KeyNotPublished = UNPROCESSABLE_ENTITY, "key-not-published", "The provider does not publish the key";
    /// The key was used with another body.
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The idempotency key was used with another body";
    /// The target names more sessions than one logout may.
    TooManySessions = UNPROCESSABLE_ENTITY, "too-many-sessions", "The target names too many sessions";
    /// The list would end more sessions than it may.
    ReconcileEndsTooMuch = UNPROCESSABLE_ENTITY, "reconcile-ends-too-much", "The list would end too many sessions";
    /// The token is said to live longer than it may.
    LifetimeOverLimit = UNPROCESSABLE_ENTITY, "lifetime-over-limit", "The token is said to live longer than it may";
    /// The session would have more participants than it may.
    TooManyParticipants = UNPROCESSABLE_ENTITY, "too-many-participants", "The session has too many participants";
    /// The caller was wrong about who it is too often.
    TooManyRequests = TOO_MANY_REQUESTS, "too-many-requests", "There were too many failures";
    /// The caller, or all who ask about an issuer, sent more than they may.
    RateLimited = TOO_MANY_REQUESTS, "rate-limited", "There are too many requests";
    /// Something here failed.
    Internal = INTERNAL_SERVER_ERROR, "internal", "The server failed";
    /// The database is away, or there is too much to do.
    Unavailable = SERVICE_UNAVAILABLE, "unavailable", "The server is not available";
}

impl Code {
    /// The problem's `type`.
    pub fn urn(self) -> String {
        format!("urn:logoutd:problem:{}", self.as_str())
    }

    /// The `error` it is called at OAuth endpoints (RFC 6749 5.2, RFC 6750 3.1).
    const fn oauth_error(self) -> &'static str {
        match self {
            Self::Unauthorized => "invalid_token",
            Self::Forbidden => "insufficient_scope",
            Self::Internal => "server_error",
            Self::Unavailable | Self::TooManyRequests | Self::RateLimited => "temporarily_unavailable",
            Self::MalformedRequest
            | Self::MalformedJson
            | Self::DuplicateMember
            | Self::TooDeep
            | Self::InvalidParameter
            | Self::UnknownParameter
            | Self::InvalidHeader
            | Self::NotFound
            | Self::UnknownIssuer
            | Self::UnknownClient
            | Self::UnknownSession
            | Self::UnknownLogout
            | Self::UnknownDelivery
            | Self::UnknownApiToken
            | Self::UnknownToken
            | Self::UnknownKey
            | Self::UnknownDenial
            | Self::UnknownCutOff
            | Self::UnknownGap
            | Self::TooManyGaps
            | Self::NoAlarmWebhook
            | Self::NoSubjectSecrets
            | Self::TooManyCutOffs
            | Self::KeyNotPublished
            | Self::MethodNotAllowed
            | Self::Conflict
            | Self::AlreadyExists
            | Self::InUse
            | Self::Declared
            | Self::SessionEnded
            | Self::OtherSubject
            | Self::OtherOwner
            | Self::TokenInactive
            | Self::TokenReused
            | Self::LifetimeOverLimit
            | Self::AlreadySettled
            | Self::CannotBeTold
            | Self::ClientSuspended
            | Self::VersionMismatch
            | Self::BodyTooLarge
            | Self::TooManyItems
            | Self::UnsupportedMediaType
            | Self::InvalidField
            | Self::UnknownMember
            | Self::IdempotencyKeyReused
            | Self::TooManySessions
            | Self::ReconcileEndsTooMuch
            | Self::TooManyParticipants => "invalid_request",
        }
    }
}

/// One part of the request that is at fault. Exactly one of the first three says where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A member of the body, as a JSON pointer (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// A query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// A header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

impl FieldError {
    /// A member of the body.
    pub fn pointer(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), parameter: None, header: None, detail: detail.into() }
    }

    /// A query parameter.
    pub fn parameter(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: Some(name.into()), header: None, detail: detail.into() }
    }

    /// A header.
    pub fn header(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: None, parameter: None, header: Some(name.into()), detail: detail.into() }
    }
}

/// A problem document as it is written (RFC 9457 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ProblemDocument {
    /// `urn:logoutd:problem:` and a stable code.
    #[schema(example = "urn:logoutd:problem:invalid-field")]
    pub r#type: String,
    /// The same for every problem of its type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The parts of the request at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Names this occurrence in the server's log; only where the server is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// What went wrong with one request. Boxed, so that a `Result` with it stays small.
#[derive(Clone, Debug)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: Code,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    fault: Option<Fault>,
    challenge: Option<Challenge>,
    retry_after: Option<Duration>,
}

/// What the log tells of a failure of ours. It travels with the answer to where the route is known.
#[derive(Clone, Debug)]
pub struct Fault {
    /// All that the caller is told.
    pub instance: String,
    /// What happened, with all its sources.
    pub cause: Arc<dyn Error + Send + Sync>,
}

/// How a caller is asked for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// None were sent: no error code (RFC 6750 3).
    Bearer,
    /// A Bearer token that is not good.
    InvalidToken,
    /// A Bearer token that may not do this.
    InsufficientScope,
    /// Basic credentials that are not good.
    Basic,
}

impl Challenge {
    const fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Bearer => "Bearer realm=\"logoutd\"",
            Self::InvalidToken => "Bearer realm=\"logoutd\", error=\"invalid_token\"",
            Self::InsufficientScope => "Bearer realm=\"logoutd\", error=\"insufficient_scope\"",
            Self::Basic => "Basic realm=\"logoutd\"",
        })
    }
}

/// How long a caller waits before it repeats what met a 503.
const RETRY_AFTER: Duration = Duration::from_secs(1);

const REPEAT: &str = "not known to be committed: repeat with the same Idempotency-Key";

impl Problem {
    /// A problem of which its code says enough.
    pub fn of(code: Code) -> Self {
        Self(Box::new(Parts { code, detail: None, errors: Vec::new(), fault: None, challenge: None, retry_after: None }))
    }

    /// A problem with a sentence about this occurrence.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::of(code);
        problem.0.detail = Some(detail.into());
        problem
    }

    /// A member of the body has a wrong value; `pointer` is a JSON pointer such as `/target/sid`.
    #[expect(clippy::needless_pass_by_value, reason = "callers hand over what they have: a text or an error")]
    pub fn invalid(pointer: impl Into<String>, why: impl ToString) -> Self {
        Self::of(Code::InvalidField).at(FieldError::pointer(pointer, why.to_string()))
    }

    /// A header has a wrong value.
    #[expect(clippy::needless_pass_by_value, reason = "callers hand over what they have: a text or an error")]
    pub fn invalid_header(name: &HeaderName, why: impl ToString) -> Self {
        Self::of(Code::InvalidHeader).at(FieldError::header(name.as_str(), why.to_string()))
    }

    /// Nobody, or nobody we know.
    pub fn unauthorized(challenge: Challenge) -> Self {
        let mut problem = Self::of(Code::Unauthorized);
        problem.0.challenge = Some(challenge);
        problem
    }

    /// Somebody we know who may not do it, and what it takes. Never a word about what the caller may not see.
    pub fn forbidden(needed: impl Into<Cow<'static, str>>) -> Self {
        let mut problem = Self::new(Code::Forbidden, needed);
        problem.0.challenge = Some(Challenge::InsufficientScope);
        problem
    }

    /// Somebody who was wrong too often, whatever is shown now.
    pub fn throttled(wait: Duration) -> Self {
        let mut problem = Self::of(Code::TooManyRequests);
        problem.0.retry_after = Some(wait);
        problem
    }

    /// Somebody who is known and sends too much.
    pub fn rate_limited(wait: Duration, detail: &'static str) -> Self {
        let mut problem = Self::new(Code::RateLimited, detail);
        problem.0.retry_after = Some(wait);
        problem
    }

    /// A failure of ours: the caller gets an instance id, the log all of it.
    pub fn internal(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::of(Code::Internal).caused_by(cause)
    }

    /// The time for one request was up, and what it does goes on.
    pub fn timed_out() -> Self {
        Self::new(Code::Unavailable, REPEAT)
    }

    /// Adds a part of the request that is at fault.
    #[must_use]
    pub fn at(mut self, error: FieldError) -> Self {
        self.0.errors.push(error);
        self
    }

    /// What it is.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The sentence about this occurrence.
    pub fn detail(&self) -> Option<&str> {
        self.0.detail.as_deref()
    }

    /// What the log is to be told, where it is our fault.
    pub fn fault(&self) -> Option<&Fault> {
        self.0.fault.as_ref()
    }

    /// The parts of the request at fault.
    pub fn errors(&self) -> &[FieldError] {
        &self.0.errors
    }

    /// The same problem found inside a larger body: every pointer gets a prefix such as `/reports/3`.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for pointer in self.0.errors.iter_mut().filter_map(|error| error.pointer.as_mut()) {
            pointer.insert_str(0, prefix);
        }
        self
    }

    /// The document, for an answer that holds several.
    pub fn document(&self) -> ProblemDocument {
        let Parts { code, detail, errors, fault, challenge: _, retry_after: _ } = self.0.as_ref();
        ProblemDocument {
            r#type: code.urn(),
            title: code.title().to_owned(),
            status: code.status().as_u16(),
            detail: detail.as_ref().map(|detail| detail.clone().into_owned()),
            errors: errors.clone(),
            instance: fault.as_ref().map(|fault| fault.instance.clone()),
        }
    }

    /// Adds what happened, for the log; the caller gets its instance id.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        let instance = format!("urn:logoutd:instance:{}", Entropy::os().token());
        self.0.fault = Some(Fault { instance, cause: Arc::new(cause) });
        self
    }

    fn respond(&self, content_type: &'static str, body: &impl Serialize) -> Response {
        let body = serde_json::to_vec(body).unwrap_or_default();
        let mut response = (self.0.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.0.challenge {
            headers.insert(WWW_AUTHENTICATE, challenge.header());
        }
        let otherwise = (self.0.code == Code::Unavailable).then_some(RETRY_AFTER);
        if let Some(wait) = self.0.retry_after.or(otherwise) {
            // Whole seconds (RFC 9110 10.2.3), and never one too few.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)));
        }
        if let Some(fault) = &self.0.fault {
            response.extensions_mut().insert(fault.clone());
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.respond("application/problem+json", &self.document())
    }
}

/// A problem in the shape OAuth endpoints give it (RFC 6749 5.2).
#[derive(Clone, Debug)]
pub struct OauthError(Problem);

impl OauthError {
    /// What it is.
    pub fn problem(&self) -> &Problem {
        &self.0
    }
}

impl<T: Into<Problem>> From<T> for OauthError {
    fn from(problem: T) -> Self {
        Self(problem.into())
    }
}

/// An error of an OAuth endpoint as it is written.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OauthErrorDocument {
    /// A code of RFC 6749, RFC 6750 or RFC 7009.
    #[schema(example = "invalid_request")]
    pub error: String,
    /// A sentence for whoever writes the client.
    pub error_description: String,
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let Parts { code, detail, errors, challenge, fault: _, retry_after: _ } = self.0.0.as_ref();
        let error = match challenge {
            Some(Challenge::Basic | Challenge::Bearer) => "invalid_client",
            Some(Challenge::InvalidToken | Challenge::InsufficientScope) | None => code.oauth_error(),
        };
        let description = match (detail, errors.first()) {
            (_, Some(FieldError { parameter: Some(name), detail, .. })) => format!("{name}: {detail}"),
            (Some(detail), _) => detail.to_string(),
            (None, _) => code.title().to_owned(),
        };
        self.0.respond("application/json", &OauthErrorDocument { error: error.to_owned(), error_description: oauth_text(&description) })
    }
}

/// A token that may not be replaced: nobody is told why (RFC 6749 5.2).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InvalidGrant {
    /// Always this.
    #[schema(example = "invalid_grant")]
    error: &'static str,
}

impl InvalidGrant {
    /// The one there is.
    pub const fn new() -> Self {
        Self { error: "invalid_grant" }
    }
}

impl Default for InvalidGrant {
    fn default() -> Self {
        Self::new()
    }
}

impl IntoResponse for InvalidGrant {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, [(CACHE_CONTROL, "no-store")], axum::Json(self)).into_response()
    }
}

/// The characters an `error_description` may have (RFC 6749 5.2).
fn oauth_text(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' ' | '!' | '#'..='[' | ']'..='~') { c } else { '\'' }).collect()
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) => Self::new(Code::Unavailable, REPEAT).caused_by(error),
            StoreError::Unread(_) => Self::new(Code::Unavailable, "the database does not answer: ask again").caused_by(error),
            StoreError::Corrupt { .. } => Self::internal(error),
        }
    }
}

/// The task of a request ended without an answer.
impl From<Died> for Problem {
    fn from(died: Died) -> Self {
        match died {
            Died::Panicked => Self::internal(died),
            Died::Stopped => Self::new(Code::Unavailable, REPEAT).caused_by(died),
        }
    }
}

impl From<CommitRefused> for Problem {
    fn from(refused: CommitRefused) -> Self {
        match refused {
            CommitRefused::IdempotencyKeyReused => {
                Self::of(Code::IdempotencyKeyReused).at(FieldError::header("idempotency-key", "was used with another body"))
            }
            CommitRefused::TooMany { max } => {
                Self::new(Code::TooManySessions, format!("the target names more than {max} sessions or participations; nothing was done"))
                    .at(FieldError::pointer("/target", format!("names more than {max} sessions or participations")))
            }
            CommitRefused::ReconcileTooMuch { ends, live, max } => Self::new(
                Code::ReconcileEndsTooMuch,
                format!("the list would end {ends} of {live} live sessions, and a list may end at most {max} of them; nothing was done: look whether the list is whole, and raise reconcile.percent_max for as long as it takes if it is"),
            )
            .at(FieldError::pointer("/live", format!("leaves out {ends} live sessions, of which at most {max} may end"))),
            CommitRefused::Store(error) => error.into(),
        }
    }
}

impl From<ReportRefused> for Problem {
    fn from(refused: ReportRefused) -> Self {
        let code = match refused {
            ReportRefused::UnknownSession => Code::UnknownSession,
            ReportRefused::SessionEnded => Code::SessionEnded,
            ReportRefused::OtherSubject => Code::OtherSubject,
            ReportRefused::OtherOwner => Code::OtherOwner,
            ReportRefused::TooManyParticipants => Code::TooManyParticipants,
            ReportRefused::ClientSuspended => Code::ClientSuspended,
            ReportRefused::UnknownToken => Code::UnknownToken,
            ReportRefused::TokenInactive => Code::TokenInactive,
            ReportRefused::TokenReused => Code::TokenReused,
            ReportRefused::LifetimeOverLimit => Code::LifetimeOverLimit,
            ReportRefused::ExpiryMissing => return Self::invalid("/expires_at", refused),
            ReportRefused::SuccessorValueMissing => return Self::invalid("/successor", refused),
            ReportRefused::TooFarAhead(Begun { participant: None, member }) => return Self::invalid(format!("/{member}"), refused),
            ReportRefused::TooFarAhead(Begun { participant: Some(at), member }) => {
                return Self::invalid(format!("/participants/{at}/{member}"), refused);
            }
        };
        Self::new(code, refused.to_string())
    }
}

/// A value that is not what it should be, somewhere in a body.
impl From<(&str, Malformed)> for Problem {
    fn from((pointer, malformed): (&str, Malformed)) -> Self {
        Self::invalid(pointer, malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own_in_kebab_case() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|o| o.is_ascii_lowercase() || o == b'-')));
        assert!(Code::ALL.iter().all(|code| code.status().is_client_error() || code.status().is_server_error()));
    }

    #[test]
    fn an_unavailable_database_asks_for_a_repetition_with_the_same_key_and_tells_no_cause() {
        let problem = Problem::from(StoreError::Unavailable("password=hunter2".into()));
        let document = serde_json::to_string(&problem.document()).unwrap();
        assert!(document.contains("not known to be committed: repeat with the same Idempotency-Key"));
        assert!(!document.contains("hunter2"), "{document}");
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn a_corrupt_row_is_named_to_the_caller_by_an_instance_id_alone() {
        let document = Problem::from(StoreError::Corrupt { table: "client", column: "jwks" }).document();
        assert_eq!((document.status, &document.detail), (500, &None));
        assert!(document.instance.is_some_and(|instance| instance.starts_with("urn:logoutd:instance:")));
    }

    #[test]
    fn a_mistake_of_the_caller_names_the_field_and_carries_no_instance() {
        let document = Problem::invalid("/sub", "must have 1 to 255 characters").under("/reports/3").document();
        assert_eq!(document.r#type, "urn:logoutd:problem:invalid-field");
        assert_eq!(document.errors.first().and_then(|error| error.pointer.as_deref()), Some("/reports/3/sub"));
        assert_eq!(document.instance, None);
    }

    #[test]
    fn missing_credentials_are_challenged_without_an_error_code_and_bad_ones_with_one() {
        let challenge = |challenge| Problem::unauthorized(challenge).into_response().headers()[WWW_AUTHENTICATE].clone();
        assert_eq!(challenge(Challenge::Bearer), "Bearer realm=\"logoutd\"");
        assert_eq!(challenge(Challenge::InvalidToken), "Bearer realm=\"logoutd\", error=\"invalid_token\"");
    }

    #[test]
    fn an_oauth_description_has_only_the_characters_it_may_have() {
        assert_eq!(oauth_text("a \"b\" \\ é\n"), "a 'b' ' ''");
    }
}
