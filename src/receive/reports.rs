//! Reports of every kind, up to a thousand in one call.

use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::access_tokens::{AccessTokenParts, Audience};
use super::bulk::{Bulk, Results, bounded_parts};
use super::logouts::tell_seen;
use super::rotation::RotationParts;
use super::sessions::{DeviceBody, LoginBody, Names, ParticipantBody, token_at};
use super::token::{Naming, Sealer, TokenBody, TokenMember, TokenParts, TokenValue};
use crate::http::wire::{text, value};
use crate::http::{AppState, At, Code, FieldError, Problem, ProblemDocument, Reply, Seat, StrictJson, Text, needs};
use crate::model::ClientId;
use crate::model::report::{Begun, ParticipantReport, Report, ReportRefused, Reported, TokenOwner, TokenReport};
use crate::model::rotation::Occasion;
use crate::model::session::SessionName;
use crate::plan::joining;
use crate::plan::time::BEGUN_AHEAD_MAX;
use crate::store::StoreError;

/// What is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A login, or anything new about a session.
    Session,
    /// A relying party joins a session.
    Join,
    /// A session was used.
    Touch,
    /// A relying party left by itself.
    Leave,
    /// A refresh token was issued.
    RefreshToken,
    /// A refresh token was replaced by another.
    Rotated,
    /// An access token was issued.
    AccessToken,
}

impl Op {
    const fn word(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Join => "join",
            Self::Touch => "touch",
            Self::Leave => "leave",
            Self::RefreshToken => "refresh_token",
            Self::Rotated => "rotated",
            Self::AccessToken => "access_token",
        }
    }

    /// The members a report of this kind may have, beside `op`, `sid`, `key` and `sub`.
    const fn members(self) -> &'static [&'static str] {
        match self {
            Self::Session => &["started_at", "expires_at", "idle_expires_at", "aliases", "device", "participants"],
            Self::Join => &["client_id", "client_sid", "client_sub", "joined_at", "refresh_token"],
            Self::Touch => &["expires_at", "idle_expires_at"],
            Self::Leave => &["client_id", "client_sid"],
            Self::RefreshToken => {
                &["client_id", "token", "token_sha256", "jti", "issued_at", "expires_at", "offline_access", "scope", "sealed"]
            }
            Self::Rotated => {
                &["client_id", "token", "token_sha256", "jti", "successor", "successor_sha256", "successor_jti", "issued_at", "expires_at"]
            }
            Self::AccessToken => &[
                "client_id",
                "token",
                "token_sha256",
                "jti",
                "issued_at",
                "expires_at",
                "scope",
                "aud",
                "refresh_token",
                "refresh_token_sha256",
                "refresh_token_jti",
            ],
        }
    }
}

/// One report. `sid` or `key` names the session; with neither, `sub` names its one implicit session (of a token: the subject whose token it is, bound to
/// no session). A `rotated` names neither: its token says whose it is.
///
/// Beside these a `session` has the members of a login; a `join` has `client_id`, `client_sid`, `client_sub`, `joined_at` and `refresh_token`; a
/// `touch` has `idle_expires_at` and `expires_at`; a `leave` has `client_id` and `client_sid`; a `refresh_token` has `client_id` and the members of a
/// token; a `rotated` has those of a rotation, and an `access_token` those of an access token, whose `refresh_token` is a string. Any other member is
/// refused.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportItem {
    op: Op,
    sid: Option<text::Sid>,
    key: Option<text::ProviderKey>,
    sub: Option<text::Subject>,
    started_at: Option<text::Timestamp>,
    expires_at: Option<text::Timestamp>,
    idle_expires_at: Option<text::Timestamp>,
    aliases: Option<Vec<text::Alias>>,
    device: Option<DeviceBody>,
    participants: Option<Vec<ParticipantBody>>,
    client_id: Option<text::ClientId>,
    /// The `sid` that client saw.
    client_sid: Option<text::Sid>,
    /// The `sub` that client saw.
    client_sub: Option<text::Subject>,
    joined_at: Option<text::Timestamp>,
    /// Of a `join` the token it got on the way; of an `access_token` one of its family, as a string.
    #[schema(value_type = Option<TokenBody>)]
    refresh_token: Option<TokenMember>,
    refresh_token_sha256: Option<text::Digest>,
    refresh_token_jti: Option<text::Jti>,
    token: Option<TokenValue>,
    token_sha256: Option<text::Digest>,
    jti: Option<text::Jti>,
    successor: Option<TokenValue>,
    successor_sha256: Option<text::Digest>,
    successor_jti: Option<text::Jti>,
    issued_at: Option<text::Timestamp>,
    offline_access: Option<bool>,
    scope: Option<text::Scope>,
    sealed: Option<bool>,
    /// A string, or up to 20 of them.
    aud: Option<Audience>,
}

/// Up to 1,000 reports, applied in their order, with up to 5,000 participants, aliases and tokens in all.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportsBody {
    #[schema(value_type = Vec<ReportItem>, max_items = 1000)]
    reports: Bulk<ReportItem>,
}

impl ReportItem {
    /// The report, if it has the members of its kind and no others.
    fn report(self, sealer: Sealer<'_>) -> Result<Report, Problem> {
        self.check_members()?;
        match self.op {
            Op::Session => self.login(sealer),
            Op::Join => self.join(sealer),
            Op::Touch => self.touch(),
            Op::Leave => self.leave(),
            Op::RefreshToken => self.refresh_token(sealer),
            Op::Rotated => self.rotated(sealer),
            Op::AccessToken => self.access_token(),
        }
    }

    fn check_members(&self) -> Result<(), Problem> {
        let present = [
            ("started_at", self.started_at.is_some()),
            ("expires_at", self.expires_at.is_some()),
            ("idle_expires_at", self.idle_expires_at.is_some()),
            ("aliases", self.aliases.is_some()),
            ("device", self.device.is_some()),
            ("participants", self.participants.is_some()),
            ("client_id", self.client_id.is_some()),
            ("client_sid", self.client_sid.is_some()),
            ("client_sub", self.client_sub.is_some()),
            ("joined_at", self.joined_at.is_some()),
            ("refresh_token", self.refresh_token.is_some()),
            ("refresh_token_sha256", self.refresh_token_sha256.is_some()),
            ("refresh_token_jti", self.refresh_token_jti.is_some()),
            ("token", self.token.is_some()),
            ("token_sha256", self.token_sha256.is_some()),
            ("jti", self.jti.is_some()),
            ("issued_at", self.issued_at.is_some()),
            ("offline_access", self.offline_access.is_some()),
            ("scope", self.scope.is_some()),
            ("successor", self.successor.is_some()),
            ("successor_sha256", self.successor_sha256.is_some()),
            ("successor_jti", self.successor_jti.is_some()),
            ("sealed", self.sealed.is_some()),
            ("aud", self.aud.is_some()),
        ];
        let foreign = present.into_iter().find(|(name, present)| *present && !self.op.members().contains(name));
        match foreign {
            None => Ok(()),
            Some((name, _)) => {
                let detail = format!("is no member of a {}", self.op.word());
                Err(Problem::of(Code::UnknownMember).at(FieldError::pointer(format!("/{name}"), detail)))
            }
        }
    }

    fn names(&self) -> Names {
        Names { sid: value(self.sid.clone()), key: value(self.key.clone()), sub: value(self.sub.clone()) }
    }

    /// The session that something happened to; its `sub` is asked for only where nothing else names it.
    fn session(&self) -> Result<SessionName, Problem> {
        match (self.sid.is_some() || self.key.is_some(), &self.sub) {
            (true, Some(_)) => Err(Problem::invalid("/sub", "does not go with sid or key here")),
            (true, None) | (false, _) => self.names().session(),
        }
    }

    fn login(self, sealer: Sealer<'_>) -> Result<Report, Problem> {
        let session = self.names().session()?;
        let body = LoginBody {
            sub: self.sub.ok_or_else(|| missing("sub"))?,
            started_at: self.started_at,
            expires_at: self.expires_at,
            idle_expires_at: self.idle_expires_at,
            aliases: self.aliases.unwrap_or_default(),
            device: self.device,
            participants: self.participants.unwrap_or_default(),
        };
        body.report(session, sealer).map(Report::Session)
    }

    fn join(self, sealer: Sealer<'_>) -> Result<Report, Problem> {
        let session = self.session()?;
        let participant = ParticipantReport {
            client_id: self.client_id.ok_or_else(|| missing("client_id"))?.0,
            sid: value(self.client_sid),
            sub: value(self.client_sub),
            joined_at: value(self.joined_at),
            refresh_token: token_at(self.refresh_token.map(TokenMember::details).transpose()?, "/refresh_token", sealer)?,
        };
        Ok(Report::Join { session, participant })
    }

    fn touch(self) -> Result<Report, Problem> {
        let session = self.session()?;
        match (value(self.idle_expires_at), value(self.expires_at)) {
            (None, None) => Err(missing("idle_expires_at")),
            (idle_expires_at, expires_at) => Ok(Report::Touch { session, idle_expires_at, expires_at }),
        }
    }

    fn leave(self) -> Result<Report, Problem> {
        let session = self.session()?;
        let client_id = self.client_id.ok_or_else(|| missing("client_id"))?.0;
        Ok(Report::Leave { session, client_id, sid: value(self.client_sid) })
    }

    fn refresh_token(self, sealer: Sealer<'_>) -> Result<Report, Problem> {
        let names = self.names();
        let parts = TokenParts {
            token: self.token,
            token_sha256: value(self.token_sha256),
            jti: value(self.jti),
            issued_at: value(self.issued_at),
            expires_at: value(self.expires_at),
            offline_access: self.offline_access.unwrap_or(false),
            scope: self.scope.map(|Text(scope)| scope.into_string()),
            sealed: self.sealed.unwrap_or(false),
        };
        token_report(names, value(self.client_id), parts, sealer).map(Report::RefreshToken)
    }

    fn rotated(self, sealer: Sealer<'_>) -> Result<Report, Problem> {
        for (name, present) in [("sid", self.sid.is_some()), ("key", self.key.is_some()), ("sub", self.sub.is_some())] {
            if present {
                let detail = "is no member of a rotated: its token says whose it is";
                return Err(Problem::of(Code::UnknownMember).at(FieldError::pointer(format!("/{name}"), detail)));
            }
        }
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
        parts.rotation(Occasion::Done, sealer).map(Report::Rotated)
    }

    fn access_token(self) -> Result<Report, Problem> {
        let names = self.names();
        let parts = AccessTokenParts {
            client_id: value(self.client_id),
            token: Naming { value: self.token, digest: value(self.token_sha256), jti: value(self.jti), members: Naming::TOKEN },
            family: Naming {
                value: self.refresh_token.map(TokenMember::value).transpose()?,
                digest: value(self.refresh_token_sha256),
                jti: value(self.refresh_token_jti),
                members: Naming::REFRESH_TOKEN,
            },
            issued_at: value(self.issued_at),
            expires_at: value(self.expires_at),
            scope: self.scope.map(|Text(scope)| scope.into_string()),
            aud: self.aud,
        };
        parts.report(names).map(Report::AccessToken)
    }
}

/// Whose a token is: a session's, or a subject's and bound to no session.
pub(super) fn owner(names: Names) -> Result<TokenOwner, Problem> {
    match names {
        Names { sid: None, key: None, sub: Some(sub) } => Ok(TokenOwner::Subject(sub)),
        Names { sub: Some(_), .. } => Err(Problem::invalid("/sub", "does not go with sid or key here")),
        Names { sid: None, key: None, sub: None } => {
            Err(Problem::invalid("/sid", "is missing: a token belongs to a session by sid or key, or to a sub"))
        }
        names @ Names { sub: None, .. } => names.session().map(TokenOwner::Session),
    }
}

/// A refresh token and whose it is.
pub(super) fn token_report(
    names: Names,
    client_id: Option<ClientId>,
    parts: TokenParts,
    sealer: Sealer<'_>,
) -> Result<TokenReport, Problem> {
    let owner = owner(names)?;
    let client_id = client_id.ok_or_else(|| missing("client_id"))?;
    Ok(TokenReport { owner, client_id, token: parts.details(sealer)? })
}

pub(super) fn missing(name: &str) -> Problem {
    Problem::invalid(format!("/{name}"), "is missing")
}

/// Report up to 1,000 things at once, in their order. Each is answered by itself. Together they may tell of up to 5,000 participants, aliases and
/// tokens.
#[utoipa::path(post, path = "/v1/issuers/{iss}/reports", tag = "sessions", operation_id = "postReports", security(("bearer" = [])),
    params(("iss" = String, Path, description = "The issuer's short id.")),
    request_body = ReportsBody,
    responses(
        (status = 200, description = "One result for each report, in their order.", body = Results),
        (status = 413, description = "`too-many-items`: more than 1,000 items, or more than 5,000 participants, aliases and tokens in all; or `body-too-large`. \
            Nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
        (status = "default", description = "A problem; nothing was done.", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn post_reports(
    State(app): State<AppState>,
    at: At<needs::Report>,
    StrictJson(body): StrictJson<ReportsBody>,
) -> Result<Reply<Results>, Problem> {
    let reports = read(body, Sealer::at(&app, &at.0.issuer.id))?;
    Ok(Reply::ok(Results::of(take(&app, &at.0, reports).await?)))
}

/// Applies a caller's reports, and tells what they brought about beside their outcomes. One that tells of times to come is refused by itself.
pub(super) async fn take(app: &AppState, seat: &Seat, reports: Vec<Report>) -> Result<Vec<Result<Reported, ReportRefused>>, StoreError> {
    let latest = app.clock.now().plus(BEGUN_AHEAD_MAX);
    let ahead: Vec<Option<Begun>> = reports.iter().map(|report| report.begun_after(latest)).collect();
    let reports = reports.into_iter().zip(&ahead).filter_map(|(report, ahead)| ahead.is_none().then_some(report)).collect();
    let told = app.store.take_reports(&seat.issuer, &seat.caller, reports, joining::RULES).await?;
    tell_seen(app, &seat.issuer.id, &told.seen);
    let mut taken = told.outcomes.into_iter();
    Ok(ahead
        .into_iter()
        .filter_map(|ahead| ahead.map_or_else(|| taken.next(), |begun| Some(Err(ReportRefused::TooFarAhead(begun)))))
        .collect())
}

fn read(body: ReportsBody, sealer: Sealer<'_>) -> Result<Vec<Report>, Problem> {
    let items = body.reports.bounded()?.into_iter().enumerate();
    let reports = items.map(|(at, item)| item.report(sealer).map_err(|problem| problem.under(&format!("/reports/{at}"))));
    bounded_parts(reports.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::super::token::with_sealer;
    use super::*;
    use crate::http::json::parse;
    use crate::model::Sid;

    fn reports(items: &str) -> Result<Vec<Report>, Problem> {
        let body = parse(format!(r#"{{"reports":[{items}]}}"#).as_bytes())?;
        with_sealer(|sealer| read(body, sealer))
    }

    #[test]
    fn every_kind_of_report_is_read() {
        let reports = reports(
            r#"{"op":"session","sid":"s","sub":"a","participants":[{"client_id":"wiki"}]},
               {"op":"join","sid":"s","client_id":"wiki","client_sid":"c-1","refresh_token":{"jti":"j"}},
               {"op":"touch","key":"k","idle_expires_at":"2026-01-01T00:00:00Z"},
               {"op":"leave","sub":"a","client_id":"wiki"},
               {"op":"refresh_token","sub":"a","client_id":"wiki","token":"t","offline_access":true},
               {"op":"refresh_token","sid":"s","client_id":"wiki","token":"t"},
               {"op":"rotated","client_id":"wiki","token":"t","successor":"u"},
               {"op":"access_token","sid":"s","client_id":"wiki","token":"a","aud":["x"],"refresh_token":"u"}"#,
        )
        .unwrap();
        let sid = || SessionName::Sid(Sid::parse("s").unwrap());
        let [login, join, touch, leave, offline, bound, rotated, access] = &reports[..] else { panic!("eight reports") };
        assert!(matches!(rotated, Report::Rotated(rotation) if rotation.occasion == Occasion::Done && rotation.successor.sealed.is_some()));
        assert!(matches!(access, Report::AccessToken(report) if report.family.is_some() && report.aud == ["x"]));
        assert!(matches!(login, Report::Session(report) if report.session == sid() && report.participants.len() == 1));
        assert!(
            matches!(join, Report::Join { session, participant } if *session == sid() && participant.sid.is_some() && participant.refresh_token.is_some())
        );
        assert!(matches!(touch, Report::Touch { session: SessionName::Key(_), idle_expires_at: Some(_), expires_at: None }));
        assert!(matches!(leave, Report::Leave { session: SessionName::Subject(_), sid: None, .. }));
        assert!(matches!(offline, Report::RefreshToken(TokenReport { owner: TokenOwner::Subject(_), token, .. }) if token.offline_access));
        assert!(matches!(bound, Report::RefreshToken(TokenReport { owner: TokenOwner::Session(session), .. }) if *session == sid()));
    }

    #[test]
    fn one_malformed_report_refuses_the_call_and_is_named() {
        let fine = r#"{"op":"session","sid":"s","sub":"a"}"#;
        for (item, pointer) in [
            (r#"{"sid":"s"}"#, "/reports/1/op"),
            (r#"{"op":"revoked","client_id":"c"}"#, "/reports/1/op"),
            (r#"{"op":"rotated","token":"t","successor":"u"}"#, "/reports/1/client_id"),
            (r#"{"op":"rotated","client_id":"c","successor":"u"}"#, "/reports/1/token"),
            (r#"{"op":"rotated","client_id":"c","token":"t"}"#, "/reports/1/successor"),
            (r#"{"op":"rotated","client_id":"c","token":"t","successor":"u","successor_jti":"j"}"#, "/reports/1/successor_jti"),
            (r#"{"op":"rotated","sid":"s","client_id":"c","token":"t","successor":"u"}"#, "/reports/1/sid"),
            (r#"{"op":"rotated","client_id":"c","token":"t","successor":"u","scope":"x"}"#, "/reports/1/scope"),
            (r#"{"op":"access_token","client_id":"c","token":"t"}"#, "/reports/1/sid"),
            (r#"{"op":"access_token","sid":"s","client_id":"c"}"#, "/reports/1/token"),
            (r#"{"op":"access_token","sid":"s","client_id":"c","token":"t","refresh_token":{"token":"r"}}"#, "/reports/1/refresh_token"),
            (r#"{"op":"access_token","sid":"s","client_id":"c","token":"t","offline_access":true}"#, "/reports/1/offline_access"),
            (r#"{"op":"join","sid":"s","client_id":"c","refresh_token":"r"}"#, "/reports/1/refresh_token"),
            (r#"{"op":"session","sid":"s"}"#, "/reports/1/sub"),
            (r#"{"op":"session","sid":"s","sub":"a","token":"t"}"#, "/reports/1/token"),
            (r#"{"op":"join","sid":"s"}"#, "/reports/1/client_id"),
            (r#"{"op":"join","sid":"s","sub":"a","client_id":"c"}"#, "/reports/1/sub"),
            (r#"{"op":"join","sid":"s","client_id":"c","refresh_token":{"token":"t","jti":"j"}}"#, "/reports/1/refresh_token/jti"),
            (r#"{"op":"join","client_id":"c"}"#, "/reports/1/sid"),
            (r#"{"op":"touch","sid":"s"}"#, "/reports/1/idle_expires_at"),
            (r#"{"op":"leave","sid":"s"}"#, "/reports/1/client_id"),
            (r#"{"op":"refresh_token","client_id":"c","token":"t"}"#, "/reports/1/sid"),
            (r#"{"op":"refresh_token","sid":"s","sub":"a","client_id":"c","token":"t"}"#, "/reports/1/sub"),
            (r#"{"op":"refresh_token","sid":"s","client_id":"c"}"#, "/reports/1/token"),
            (r#"{"op":"refresh_token","sid":"s","client_id":"c","token":"t","sealed":"x"}"#, "/reports/1/sealed"),
        ] {
            let problem = reports(&format!("{fine},{item}")).expect_err(item);
            assert_eq!(problem.errors()[0].pointer.as_deref(), Some(pointer), "{item}");
        }
    }

    #[test]
    fn more_than_a_thousand_reports_are_too_many() {
        let many = |count: usize| vec![r#"{"op":"leave","sid":"s","client_id":"c"}"#; count].join(",");
        assert_eq!(reports(&many(1_000)).unwrap().len(), 1_000);
        assert_eq!(reports(&many(1_001)).unwrap_err().code(), Code::TooManyItems);
    }

    #[test]
    fn what_all_reports_tell_of_is_bounded_together() {
        let join = r#"{"op":"join","sid":"s","client_id":"c","refresh_token":{"jti":"j"}}"#;
        let token = r#"{"op":"refresh_token","sid":"s","client_id":"c","jti":"j"}"#;
        let leave = r#"{"op":"leave","sid":"s","client_id":"c"}"#;
        let login = |aliases: usize, participants: usize| {
            let participants = vec![serde_json::json!({"client_id": "c"}); participants];
            serde_json::json!({"op": "session", "sid": "s", "sub": "a", "aliases": vec!["x"; aliases], "participants": participants})
                .to_string()
        };
        let call = |login: String| {
            reports(&[vec![login], vec![join.to_owned(); 400], vec![token.to_owned(); 100], vec![leave.to_owned(); 400]].concat().join(","))
        };
        assert_eq!(call(login(100, 4_000)).unwrap().len(), 901);
        for beyond in [login(100, 4_001), login(100, 5_000)] {
            assert_eq!(call(beyond).unwrap_err().code(), Code::TooManyItems);
        }
        assert_eq!(call(login(99, 4_001)).unwrap().len(), 901);
    }
}
