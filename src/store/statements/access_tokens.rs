//! Access tokens as a provider reports them: each with the family it was issued with, where there is one, and ended with it.

use super::cut_offs::{self, Known, Which};
use super::families;
use super::joins::{self, ClientTerms, Desk, Latest, Owner, Registered};
use super::tokens::stored_name;
use super::{Conn, policies};
use crate::model::cut_off::CutOff;
use crate::model::effects::{Offline, TokenDecision, TokenReportFacts};
use crate::model::report::{AccessTokenReport, ReportRefused, TokenName};
use crate::model::rotation::ShownBy;
use crate::model::token::{Lifetime, LifetimeFacts, TokenEventKind, TokenKind};
use crate::model::{AccessTokenId, Subject, Timestamp};
use crate::store::StoreError;

/// A family, and whether it is revoked.
type Family = (String, bool);

/// Registers one access token of a participation known by these names.
pub(super) async fn register(
    conn: &mut Conn,
    desk: Desk<'_>,
    owner: Owner<'_>,
    names: &[Known<'_>],
    report: &AccessTokenReport,
) -> Result<Registered, StoreError> {
    let ClientTerms { suspended, policy } = joins::client_terms(conn, desk.issuer, owner.client_id).await?;
    if let Some(known) = known(conn, desk, owner, report).await? {
        return Ok(known.map(|known| joins::TokenStanding { active: known.active && !suspended, ..known }));
    }
    let family = match family(conn, desk, owner, report.family.as_deref()).await? {
        Ok(family) => family,
        Err(refused) => return Ok(Err(refused)),
    };
    let issued_at = report.issued_at.unwrap_or(desk.now);
    let facts = LifetimeFacts { longest: policy.access_token_max, over_limit: policy.over_limit, issued_at, expires_at: report.expires_at };
    let lifetime = (desk.rules.lifetime)(&facts);
    if lifetime != Lifetime::Within && report.expires_at.is_some() {
        desk.notes.notice(TokenEventKind::OverLimit, owner.client_id, owner.session.map(|session| session.id.clone()));
    }
    let (expires_at, capped) = match (lifetime, report.expires_at) {
        (Lifetime::Within, Some(expires_at)) => (expires_at, None),
        (Lifetime::Capped(at), _) => (at, Some(at)),
        (Lifetime::Within, None) => return Ok(Err(ReportRefused::ExpiryMissing)),
        (Lifetime::Refused, _) => return Ok(Err(ReportRefused::LifetimeOverLimit)),
    };
    let cut_offs: Vec<CutOff> =
        cut_offs::covering_each(conn, &desk.context.veil, desk.issuer, names, Which::OfEvents).await?.into_iter().flatten().collect();
    let decision = (desk.rules.token)(&TokenReportFacts {
        session_end: owner.session.and_then(|session| session.end.as_ref()),
        session_live: owner.session.is_some_and(|session| session.end.is_none()),
        offline: Offline::Taken,
        cut_offs: &cut_offs,
        issued_at: report.issued_at,
    });
    let revoked = match &decision {
        TokenDecision::UnknownSession => return Ok(Err(ReportRefused::UnknownSession)),
        TokenDecision::Live if suspended => return Ok(Err(ReportRefused::ClientSuspended)),
        TokenDecision::Live => false,
        TokenDecision::Revoked(_) | TokenDecision::CutOff(_) => true,
    };
    let new = New { family: family.as_ref(), issued_at, expires_at, revoked_at: revoked.then_some(desk.now) };
    insert(conn, desk, owner, report, new).await?;
    if !revoked {
        let latest = Latest { client_id: owner.client_id, sub: owner.sub, kind: TokenKind::Access, issued_at };
        joins::note_newest(conn, desk.issuer, &policy, latest, &report.name).await?;
    }
    Ok(match decision {
        TokenDecision::Revoked(_) => Err(ReportRefused::SessionEnded),
        TokenDecision::Live | TokenDecision::CutOff(_) | TokenDecision::UnknownSession => {
            let active = !revoked && family.is_none_or(|(_, revoked)| !revoked);
            Ok(joins::TokenStanding { new: true, active, capped })
        }
    })
}

/// A token reported before: the same owner gets the same answer, another is refused.
async fn known(conn: &mut Conn, desk: Desk<'_>, owner: Owner<'_>, report: &AccessTokenReport) -> Result<Option<Registered>, StoreError> {
    type Found = (String, Option<String>, Option<String>, Option<i64>);
    let found: Option<Found> = sqlx::query_as(
        "SELECT t.client_id, t.sub, t.session_id, COALESCE(t.revoked_at, g.revoked_at)
           FROM access_tokens AS t LEFT JOIN grants AS g ON g.id = t.grant_id WHERE t.issuer_id = $1 AND t.name = $2",
    )
    .bind(desk.issuer.as_str())
    .bind(stored_name(&report.name))
    .fetch_optional(conn)
    .await?;
    let Some((client, sub, session, revoked_at)) = found else { return Ok(None) };
    let same = client == owner.client_id.as_str()
        && sub.as_deref() == owner.sub.map(Subject::as_str)
        && session.as_deref() == owner.session.map(|session| session.id.as_str());
    let ended = owner.session.is_some_and(|session| session.end.is_some());
    Ok(Some(match (same, ended) {
        (false, _) => Err(ReportRefused::OtherOwner),
        (true, true) => Err(ReportRefused::SessionEnded),
        (true, false) => Ok(joins::TokenStanding { new: false, active: revoked_at.is_none(), capped: None }),
    }))
}

/// The family it was issued with: the one that is named, or the latest that lives in its session.
async fn family(
    conn: &mut Conn,
    desk: Desk<'_>,
    owner: Owner<'_>,
    named: Option<&[TokenName]>,
) -> Result<Result<Option<Family>, ReportRefused>, StoreError> {
    let Some(names) = named else { return latest(conn, owner).await.map(Ok) };
    let Some(member) = families::member(conn, desk.issuer, names).await? else { return Ok(Err(ReportRefused::UnknownToken)) };
    let ours = member.belongs_to(owner.client_id) == ShownBy::ItsClient
        && match owner.session {
            Some(session) => member.home().as_ref() == Some(&session.id),
            None => member.subjects().any(|sub| Some(&sub) == owner.sub),
        };
    if !ours {
        return Ok(Err(ReportRefused::OtherOwner));
    }
    let grant = member.grant();
    let revoked_at: Option<i64> =
        sqlx::query_scalar("SELECT revoked_at FROM grants WHERE id = $1").bind(grant.as_str()).fetch_one(conn).await?;
    Ok(Ok(Some((grant.as_str().to_owned(), revoked_at.is_some()))))
}

/// The latest family of a session at a client that is not revoked.
pub(super) const LATEST: &str = "SELECT id FROM grants WHERE session_id = $1 AND client_id = $2 AND revoked_at IS NULL
                                  ORDER BY created_at DESC, id DESC LIMIT 1";

async fn latest(conn: &mut Conn, owner: Owner<'_>) -> Result<Option<Family>, StoreError> {
    let Some(session) = owner.session else { return Ok(None) };
    let found: Option<String> =
        sqlx::query_scalar(LATEST).bind(session.id.as_str()).bind(owner.client_id.as_str()).fetch_optional(conn).await?;
    Ok(found.map(|grant| (grant, false)))
}

/// What is stored beside the report.
struct New<'a> {
    family: Option<&'a Family>,
    issued_at: Timestamp,
    expires_at: Timestamp,
    revoked_at: Option<Timestamp>,
}

async fn insert(conn: &mut Conn, desk: Desk<'_>, owner: Owner<'_>, report: &AccessTokenReport, new: New<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO access_tokens (id, issuer_id, name, client_id, sub, session_id, grant_id, issued_at, expires_at, scope, aud, created_at, revoked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(desk.context.entropy.id::<AccessTokenId>(desk.now).as_str())
    .bind(desk.issuer.as_str())
    .bind(stored_name(&report.name))
    .bind(owner.client_id.as_str())
    .bind(owner.sub.map(Subject::as_str))
    .bind(owner.session.map(|session| session.id.as_str()))
    .bind(new.family.map(|(grant, _)| grant.as_str()))
    .bind(new.issued_at.millis())
    .bind(new.expires_at.millis())
    .bind(report.scope.as_deref())
    .bind(policies::written_audience(&report.aud))
    .bind(desk.now.millis())
    .bind(super::millis(new.revoked_at))
    .execute(conn)
    .await?;
    Ok(())
}
