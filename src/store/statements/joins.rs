//! Participants and tokens joining a session, and the deliveries written for participants that are told to log out.

use std::collections::BTreeMap;

use super::cut_offs::{self, Known, Which};
use super::sessions::SessionRow;
use super::token_events::Notes;
use super::tokens::stored_name;
use super::{Builder, Conn, millis, policies};
use crate::model::access::Caller;
use crate::model::client::ClientRecord;
use crate::model::cut_off::{CutOff, CutOffScope};
use crate::model::delivery::{Class, DeliveryKind, DeliveryState, Lane};
use crate::model::effects::{
    EndCause, EndFact, KnownParticipation, Offline, Opening, OpeningRule, ParticipantDecision, ParticipantFacts, ReportRules,
    TokenDecision, TokenReportFacts, Told,
};
use crate::model::event::{TARGET_EXPIRED, TARGET_FORGOTTEN, TARGET_RECONCILE};
use crate::model::report::{PARTICIPANTS_MAX, ParticipantReport, ReportRefused, TokenDetails, TokenName};
use crate::model::session::{Life, ParticipantView};
use crate::model::token::{Lifetime, LifetimeFacts, TokenEventKind, TokenKind, TokenPolicy};
use crate::model::trigger::Reason;
use crate::model::{ClientId, DeliveryId, EventId, GrantId, IssuerId, ParticipantId, RefreshTokenId, SessionId, Sid, Subject, Timestamp};
use crate::store::{Context, StoreError};

/// What every step of one report shares.
#[derive(Clone, Copy)]
pub(super) struct Desk<'a> {
    pub(super) context: &'a Context,
    pub(super) issuer: &'a IssuerId,
    pub(super) rules: ReportRules,
    pub(super) now: Timestamp,
    /// What is noticed about tokens on the way.
    pub(super) notes: &'a Notes,
}

/// A session that is joined, live or ended.
pub(super) struct Joined {
    pub(super) id: SessionId,
    pub(super) sid: Option<Sid>,
    pub(super) sub: Option<Subject>,
    pub(super) started_at: Timestamp,
    pub(super) end: Option<EndFact>,
}

impl Joined {
    pub(super) fn of(row: &SessionRow) -> Self {
        Self {
            id: SessionId::stored(row.id.clone()),
            sid: row.sid.clone().map(Sid::stored),
            sub: row.sub.clone().map(Subject::stored),
            started_at: Timestamp::from_millis(row.started_at),
            end: end_of(row),
        }
    }
}

/// How a session ended, if it has.
pub(super) fn end_of(row: &SessionRow) -> Option<EndFact> {
    let (at, event) = (row.ended_at?, row.ended_by.clone()?);
    let cause = match row.ended_target.as_deref() {
        Some(TARGET_EXPIRED) => EndCause::Age,
        Some(TARGET_RECONCILE) => EndCause::Absence,
        Some(_) | None => EndCause::Logout,
    };
    let (compromise, offline) = (row.ended_grave, row.ended_offline);
    Some(EndFact { at: Timestamp::from_millis(at), event: EventId::stored(event), compromise, offline, cause })
}

/// Adds the participants that are new, tells those that come late, and registers their refresh tokens.
pub(super) async fn participants(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: &Joined,
    reported: &[ParticipantReport],
) -> Result<Result<(), ReportRefused>, StoreError> {
    let mut known = super::sessions::participants_of(conn, &[session.id.as_str()]).await?.remove(session.id.as_str()).unwrap_or_default();
    let names: Vec<Known<'_>> = reported.iter().map(|participant| names_of(session, participant)).collect();
    let cut_offs = cut_offs::covering_each(conn, &desk.context.veil, desk.issuer, &names, Which::OfEvents).await?;
    let (mut new, mut taught) = (Vec::new(), Vec::new());
    for (participant, cut_offs) in reported.iter().zip(cut_offs) {
        match participate(desk, session, participant, &known, cut_offs) {
            Participation::Known => {}
            Participation::OtherSubject => return Ok(Err(ReportRefused::OtherSubject)),
            Participation::Taught(view) => taught.push(view),
            Participation::New(..) if known.len() >= PARTICIPANTS_MAX => return Ok(Err(ReportRefused::TooManyParticipants)),
            Participation::New(view, end) => {
                known.push(view.clone());
                new.push((view, end));
            }
        }
    }
    insert_participants(conn, desk, session, &new).await?;
    teach(conn, &taught).await?;
    tell_late_joiners(conn, desk, session, new).await?;
    participants_tokens(conn, desk, session, reported).await
}

async fn participants_tokens(
    conn: &mut Conn,
    desk: Desk<'_>,
    session: &Joined,
    reported: &[ParticipantReport],
) -> Result<Result<(), ReportRefused>, StoreError> {
    for participant in reported {
        let Some(details) = &participant.refresh_token else { continue };
        let owner = Owner { session: Some(session), sub: session.sub.as_ref(), client_id: &participant.client_id };
        match token(conn, desk, owner, &[names_of(session, participant)], details).await? {
            // The report is about the session; that it has ended is in the answer.
            Ok(_) | Err(ReportRefused::SessionEnded | ReportRefused::UnknownSession) => {}
            // Whoever signs in takes part, also at a suspended client or with a token that would live too long; only the token is not taken.
            Err(ReportRefused::ClientSuspended | ReportRefused::LifetimeOverLimit) => {}
            Err(refused) => return Ok(Err(refused)),
        }
    }
    Ok(Ok(()))
}

/// By what a reported participant is known: what it saw, or else the session's own names.
fn names_of<'a>(session: &'a Joined, reported: &'a ParticipantReport) -> Known<'a> {
    let (sub, sid) = (session.sub.as_ref(), session.sid.as_ref());
    let (client_sub, client_sid) = (reported.sub.as_ref().or(sub), reported.sid.as_ref().or(sid));
    Known { sub, sid, client: Some(&reported.client_id), client_sub, client_sid, device: None, origin_sid: None }
}

/// What one report of a participant comes to.
enum Participation {
    /// Nothing new.
    Known,
    /// The client is registered under another subject that a report had named.
    OtherSubject,
    /// It is registered with the session's subject, and now it is known what it really saw.
    Taught(ParticipantView),
    /// It joins, or it is told at once that it is over.
    New(ParticipantView, Option<(EndFact, Word)>),
}

/// Whether somebody who is over here is told so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Due,
    Kept,
}

fn participate(
    desk: Desk<'_>,
    session: &Joined,
    reported: &ParticipantReport,
    known: &[ParticipantView],
    cut_offs: Vec<CutOff>,
) -> Participation {
    let names = names_of(session, reported);
    let same = known.iter().filter(|one| one.client_id == reported.client_id && one.sid.as_ref() == names.client_sid);
    // The live one if there is one, else the latest.
    let same = same.max_by_key(|one| (one.ended_at.is_none(), one.ended_at));
    let joined_at = reported.joined_at.unwrap_or(session.started_at);
    let decision = (desk.rules.participant)(&ParticipantFacts {
        session_end: session.end.as_ref(),
        known: same.map(|one| KnownParticipation {
            life: if one.ended_at.is_none() { Life::Live } else { Life::Ended },
            joined_at: one.joined_at,
            ended_at: one.ended_at,
        }),
        cut_offs: &of_participations(cut_offs),
        joined_at: Some(joined_at),
    });
    let end = match decision {
        ParticipantDecision::Known => return same.map_or(Participation::Known, |one| learned(session, one, reported.sub.as_ref())),
        ParticipantDecision::Join => None,
        ParticipantDecision::LateJoiner(end) => Some((end, Word::Due)),
        ParticipantDecision::Overtaken(end) => Some((end, Word::Kept)),
    };
    let view = ParticipantView {
        id: desk.context.entropy.id(desk.now),
        client_id: reported.client_id.clone(),
        sid: names.client_sid.cloned(),
        sub: names.client_sub.cloned(),
        joined_at,
        ended_at: end.as_ref().map(|(end, _)| end.at),
        ended_by: end.as_ref().map(|(end, _)| end.event.clone()),
    };
    Participation::New(view, end)
}

/// Whether a later report names the subject that a live participant really saw.
fn learned(session: &Joined, known: &ParticipantView, reported: Option<&Subject>) -> Participation {
    match reported {
        Some(sub) if known.ended_at.is_none() && known.sub.as_ref() != Some(sub) => {
            let by_default = known.sub.is_none() || known.sub == session.sub;
            if by_default {
                Participation::Taught(ParticipantView { sub: Some(sub.clone()), ..known.clone() })
            } else {
                Participation::OtherSubject
            }
        }
        Some(_) | None => Participation::Known,
    }
}

/// What covers sessions was weighed when the session was.
fn of_participations(cut_offs: Vec<CutOff>) -> Vec<CutOff> {
    cut_offs.into_iter().filter(|cut_off| !matches!(cut_off.scope, CutOffScope::Subject { .. } | CutOffScope::Session(_))).collect()
}

async fn insert_participants(conn: &mut Conn, desk: Desk<'_>, session: &Joined, new: &[NewParticipant]) -> Result<(), StoreError> {
    for chunk in new.chunks(super::ROWS_MAX) {
        let mut sql = Builder::new(
            "INSERT INTO participants (id, session_id, issuer_id, client_id, sid, sub, joined_at, created_at, ended_at, ended_by, epoch) ",
        );
        sql.push_values(chunk, |mut row, (view, _)| {
            row.push_bind(view.id.as_str().to_owned())
                .push_bind(session.id.as_str().to_owned())
                .push_bind(desk.issuer.as_str().to_owned())
                .push_bind(view.client_id.as_str().to_owned())
                .push_bind(view.sid.as_ref().map_or(String::new(), |sid| sid.as_str().to_owned()))
                .push_bind(view.sub.as_ref().map(|sub| sub.as_str().to_owned()))
                .push_bind(view.joined_at.millis())
                .push_bind(desk.now.millis())
                .push_bind(millis(view.ended_at))
                .push_bind(view.ended_by.as_ref().map(|event| event.as_str().to_owned()))
                .push("(SELECT epoch FROM issuers WHERE id = ")
                .push_bind_unseparated(desk.issuer.as_str().to_owned())
                .push_unseparated(")");
        });
        sql.build().execute(&mut *conn).await?;
    }
    Ok(())
}

async fn teach(conn: &mut Conn, taught: &[ParticipantView]) -> Result<(), StoreError> {
    for view in taught {
        sqlx::query("UPDATE participants SET sub = $2 WHERE id = $1")
            .bind(view.id.as_str())
            .bind(view.sub.as_ref().map(Subject::as_str))
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

/// Once each, counted on the receipt of what ended them.
async fn tell_late_joiners(conn: &mut Conn, desk: Desk<'_>, session: &Joined, new: Vec<NewParticipant>) -> Result<(), StoreError> {
    let mut by_end: BTreeMap<EventId, (EndFact, Vec<ToTell>)> = BTreeMap::new();
    for (view, end) in new {
        let Some((end, Word::Due)) = end else { continue };
        let told = ToTell { participant: view.id, session: session.id.clone(), client_id: view.client_id, sid: view.sid, sub: view.sub };
        by_end.entry(end.event.clone()).or_insert_with(|| (end, Vec::new())).1.push(told);
    }
    for (event, (end, told)) in &by_end {
        let duty = Duty {
            kind: DeliveryKind::LogoutToken,
            issuer: desk.issuer,
            event,
            class: match end.cause {
                EndCause::Age | EndCause::Absence => Class::Bulk,
                EndCause::Logout if end.compromise => Class::Compromise,
                EndCause::Logout => Class::Interactive,
            },
            compromise: end.compromise,
            late_joiner: true,
            occurred_at: end.at,
            now: desk.now,
        };
        let opening = match end.cause {
            EndCause::Logout => desk.rules.opening,
            EndCause::Age | EndCause::Absence => desk.rules.opening_by_age,
        };
        remember_event(conn, desk, end).await?;
        write_deliveries(conn, desk.context, duty, told, opening).await?;
    }
    Ok(())
}

/// A tombstone outlives the record of its logout. Where somebody is still to be told of it, what is known of it is written down again.
async fn remember_event(conn: &mut Conn, desk: Desk<'_>, end: &EndFact) -> Result<(), StoreError> {
    let reason = if end.compromise { Reason::Compromise } else { Reason::Other };
    sqlx::query(
        "INSERT INTO events (id, issuer_id, target, reason, reason_detail, caller, sessions_ended, participations_ended,
                             refresh_tokens_revoked, occurred_at, created_at)
         VALUES ($1, $2, $3, $4, 'the record of this logout was no longer kept', $5, 0, 0, 0, $6, $7) ON CONFLICT (id) DO NOTHING",
    )
    .bind(end.event.as_str())
    .bind(desk.issuer.as_str())
    .bind(TARGET_FORGOTTEN)
    .bind(reason.as_str())
    .bind(Caller::ITSELF)
    .bind(end.at.millis())
    .bind(desk.now.millis())
    .execute(conn)
    .await?;
    Ok(())
}

type NewParticipant = (ParticipantView, Option<(EndFact, Word)>);

/// Somebody to be told.
pub(super) struct ToTell {
    pub(super) participant: ParticipantId,
    pub(super) session: SessionId,
    pub(super) client_id: ClientId,
    pub(super) sid: Option<Sid>,
    pub(super) sub: Option<Subject>,
}

/// What a batch of deliveries has in common.
#[derive(Clone, Copy)]
pub(super) struct Duty<'a> {
    pub(super) kind: DeliveryKind,
    pub(super) issuer: &'a IssuerId,
    pub(super) event: &'a EventId,
    pub(super) class: Class,
    pub(super) compromise: bool,
    pub(super) late_joiner: bool,
    pub(super) occurred_at: Timestamp,
    pub(super) now: Timestamp,
}

pub(super) const fn class_number(class: Class) -> i64 {
    match class {
        Class::Compromise => 0,
        Class::Interactive => 1,
        Class::Bulk => 2,
    }
}

/// Writes one delivery for each, in as few statements as they fit in.
pub(super) async fn write_deliveries(
    conn: &mut Conn,
    context: &Context,
    duty: Duty<'_>,
    told: &[ToTell],
    opening: OpeningRule,
) -> Result<(), StoreError> {
    let mut wanted: Vec<_> = told.iter().map(|one| (duty.issuer.clone(), one.client_id.clone())).collect();
    wanted.sort();
    wanted.dedup();
    let clients = super::registry::clients_of(conn, &wanted).await?;
    for chunk in told.chunks(super::ROWS_MAX) {
        insert_deliveries(conn, context, duty, chunk, &clients, opening).await?;
    }
    Ok(())
}

async fn insert_deliveries(
    conn: &mut Conn,
    context: &Context,
    duty: Duty<'_>,
    told: &[ToTell],
    clients: &[ClientRecord],
    opening: OpeningRule,
) -> Result<(), StoreError> {
    let now = duty.now;
    let (mut opened, mut unreachable) = (Vec::with_capacity(told.len()), Vec::new());
    for one in told {
        let client = clients.iter().find(|client| client.client_id == one.client_id);
        let names = Told { client_id: &one.client_id, sid: one.sid.as_ref(), sub: one.sub.as_ref() };
        match opening(&names, client, now) {
            Opening::Pending { horizon_at } => opened.push((one, DeliveryState::Pending, None, horizon_at, None)),
            Opening::Unreachable(reason) => {
                unreachable.push(reason);
                opened.push((one, DeliveryState::Unreachable, Some(reason.as_str()), now, Some(now.millis())));
            }
            Opening::Untold => {}
        }
    }
    if opened.is_empty() {
        return Ok(());
    }
    let mut sql = Builder::new(
        "INSERT INTO deliveries (id, issuer_id, event_id, kind, client_id, lane, participant_id, session_id, sid, sub, state, reason, class, \
         compromise, late_joiner, attempts, recoverable, refused, config_fault, redirected, blocked, ours, due_at, horizon_at, horizon_ms, \
         occurred_at, created_at, settled_at) ",
    );
    sql.push_values(opened, |mut row, (one, state, reason, horizon_at, settled_at)| {
        row.push_bind(context.entropy.id::<DeliveryId>(now).as_str().to_owned())
            .push_bind(duty.issuer.as_str().to_owned())
            .push_bind(duty.event.as_str().to_owned())
            .push_bind(duty.kind.as_str())
            .push_bind(one.client_id.as_str().to_owned())
            .push_bind(Lane::of(duty.issuer, &one.client_id).as_str().to_owned())
            .push_bind(one.participant.as_str().to_owned())
            .push_bind(one.session.as_str().to_owned())
            .push_bind(one.sid.as_ref().map(|sid| sid.as_str().to_owned()))
            .push_bind(one.sub.as_ref().map(|sub| sub.as_str().to_owned()))
            .push_bind(state.as_str())
            .push_bind(reason)
            .push_bind(class_number(duty.class))
            .push_bind(duty.compromise)
            .push_bind(duty.late_joiner)
            .push("0, 0, 0, 0, 0, 0, 0")
            .push_bind(now.millis())
            .push_bind(horizon_at.millis())
            .push_bind(super::duration_ms(horizon_at.since(now)))
            .push_bind(duty.occurred_at.millis())
            .push_bind(now.millis())
            .push_bind(settled_at);
    });
    super::account::enqueue(conn, context, now, sql, &unreachable).await
}

/// How a token stands that was registered, now or before.
#[derive(Clone, Copy)]
pub(super) struct TokenStanding {
    /// It was not known before.
    pub(super) new: bool,
    /// It counts as live.
    pub(super) active: bool,
    /// When it expires, where that is sooner than was said.
    pub(super) capped: Option<Timestamp>,
}

/// What became of a token's registration.
pub(super) type Registered = Result<TokenStanding, ReportRefused>;

/// Whose token it is.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) session: Option<&'a Joined>,
    pub(super) sub: Option<&'a Subject>,
    pub(super) client_id: &'a ClientId,
}

/// What a client's registration says of its tokens. Of one that is not registered, nothing.
pub(super) struct ClientTerms {
    pub(super) suspended: bool,
    pub(super) policy: TokenPolicy,
}

pub(super) async fn client_terms(conn: &mut Conn, issuer: &IssuerId, client_id: &ClientId) -> Result<ClientTerms, StoreError> {
    let found: Option<(Option<i64>, Option<String>)> =
        sqlx::query_as("SELECT suspended_at, tokens FROM clients WHERE issuer_id = $1 AND client_id = $2")
            .bind(issuer.as_str())
            .bind(client_id.as_str())
            .fetch_optional(conn)
            .await?;
    let (suspended_at, policy) = found.unwrap_or_default();
    let policy = policy.as_deref().map(policies::read_client).transpose()?.unwrap_or(TokenPolicy::DEFAULT);
    Ok(ClientTerms { suspended: suspended_at.is_some(), policy })
}

/// A token that may be the newest of its subject.
#[derive(Clone, Copy)]
pub(super) struct Latest<'a> {
    pub(super) client_id: &'a ClientId,
    pub(super) sub: Option<&'a Subject>,
    pub(super) kind: TokenKind,
    pub(super) issued_at: Timestamp,
}

/// Where only the newest token is accepted, remembers which that is. Of two of the same instant it is the one that was told of last.
pub(super) async fn note_newest(
    conn: &mut Conn,
    issuer: &IssuerId,
    policy: &TokenPolicy,
    latest: Latest<'_>,
    name: &TokenName,
) -> Result<(), StoreError> {
    let (true, Some(sub)) = (policy.newest_only, latest.sub) else { return Ok(()) };
    sqlx::query(
        "INSERT INTO newest_tokens (issuer_id, client_id, sub, kind, name, issued_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (issuer_id, client_id, sub, kind) DO UPDATE SET name = excluded.name, issued_at = excluded.issued_at
          WHERE newest_tokens.issued_at <= excluded.issued_at",
    )
    .bind(issuer.as_str())
    .bind(latest.client_id.as_str())
    .bind(sub.as_str())
    .bind(latest.kind.as_str())
    .bind(stored_name(name))
    .bind(latest.issued_at.millis())
    .execute(conn)
    .await?;
    Ok(())
}

/// Registers one refresh token of a participation known by these names. Each is a family of its own until it is rotated.
pub(super) async fn token(
    conn: &mut Conn,
    desk: Desk<'_>,
    owner: Owner<'_>,
    names: &[Known<'_>],
    details: &TokenDetails,
) -> Result<Registered, StoreError> {
    let ClientTerms { suspended, policy } = client_terms(conn, desk.issuer, owner.client_id).await?;
    if let Some(known) = registered(conn, desk, owner, details).await? {
        return Ok(known.map(|known| TokenStanding { active: known.active && !suspended, ..known }));
    }
    let Some(capped) = capped(desk, owner, &policy, details) else { return Ok(Err(ReportRefused::LifetimeOverLimit)) };
    let cut_offs: Vec<CutOff> =
        cut_offs::covering_each(conn, &desk.context.veil, desk.issuer, names, Which::OfEvents).await?.into_iter().flatten().collect();
    let decision = (desk.rules.token)(&TokenReportFacts {
        session_end: owner.session.and_then(|session| session.end.as_ref()),
        session_live: owner.session.is_some_and(|session| session.end.is_none()),
        offline: if details.offline_access { Offline::Spared } else { Offline::Taken },
        cut_offs: &cut_offs,
        issued_at: details.issued_at,
    });
    let revoked_by = match &decision {
        TokenDecision::UnknownSession => return Ok(Err(ReportRefused::UnknownSession)),
        TokenDecision::Live if suspended => return Ok(Err(ReportRefused::ClientSuspended)),
        TokenDecision::Live => None,
        TokenDecision::Revoked(event) | TokenDecision::CutOff(event) => Some(event),
    };
    insert_token(conn, desk, owner, details, (capped.or(details.expires_at), revoked_by)).await?;
    if revoked_by.is_none() {
        let issued_at = details.issued_at.unwrap_or(desk.now);
        let latest = Latest { client_id: owner.client_id, sub: owner.sub, kind: TokenKind::Refresh, issued_at };
        note_newest(conn, desk.issuer, &policy, latest, &details.name).await?;
    }
    Ok(match decision {
        TokenDecision::Revoked(_) => Err(ReportRefused::SessionEnded),
        TokenDecision::Live => Ok(TokenStanding { new: true, active: true, capped }),
        TokenDecision::CutOff(_) | TokenDecision::UnknownSession => Ok(TokenStanding { new: true, active: false, capped }),
    })
}

/// When a token expires that may not live as long as it is said to; none when it may not be taken.
#[expect(clippy::option_option, reason = "not taken, taken as it is, or cut short")]
fn capped(desk: Desk<'_>, owner: Owner<'_>, policy: &TokenPolicy, details: &TokenDetails) -> Option<Option<Timestamp>> {
    let issued_at = details.issued_at.unwrap_or(desk.now);
    let facts = LifetimeFacts { longest: policy.lifetime_max, over_limit: policy.over_limit, issued_at, expires_at: details.expires_at };
    let lifetime = (desk.rules.lifetime)(&facts);
    if lifetime != Lifetime::Within && details.expires_at.is_some() {
        desk.notes.notice(TokenEventKind::OverLimit, owner.client_id, owner.session.map(|session| session.id.clone()));
    }
    match lifetime {
        Lifetime::Within => Some(None),
        Lifetime::Capped(at) => Some(Some(at)),
        Lifetime::Refused => None,
    }
}

/// A token reported before: the same owner gets the same answer, another is refused.
async fn registered(conn: &mut Conn, desk: Desk<'_>, owner: Owner<'_>, details: &TokenDetails) -> Result<Option<Registered>, StoreError> {
    type Found = (String, Option<String>, Option<String>, Option<i64>);
    let found: Option<Found> = sqlx::query_as(
        "SELECT g.client_id, g.sub, COALESCE(g.session_id, g.origin_session_id), COALESCE(g.revoked_at, t.superseded_at)
           FROM refresh_tokens AS t JOIN grants AS g ON g.id = t.grant_id WHERE t.issuer_id = $1 AND t.name = $2",
    )
    .bind(desk.issuer.as_str())
    .bind(stored_name(&details.name))
    .fetch_optional(conn)
    .await?;
    let Some((client, sub, bound, over_at)) = found else { return Ok(None) };
    let known = |active| TokenStanding { new: false, active, capped: None };
    // Reported stolen before it was registered: nobody's, and never active.
    if client.is_empty() {
        return Ok(Some(Ok(known(false))));
    }
    let same = client == owner.client_id.as_str()
        && sub.as_deref() == owner.sub.map(Subject::as_str)
        && bound.as_deref() == owner.session.map(|session| session.id.as_str());
    let ended = owner.session.is_some_and(|session| session.end.is_some()) && !details.offline_access;
    Ok(Some(match (same, ended) {
        (false, _) => Err(ReportRefused::OtherOwner),
        (true, true) => Err(ReportRefused::SessionEnded),
        (true, false) => Ok(known(over_at.is_none())),
    }))
}

async fn insert_token(
    conn: &mut Conn,
    desk: Desk<'_>,
    owner: Owner<'_>,
    details: &TokenDetails,
    (expires_at, revoked_by): (Option<Timestamp>, Option<&EventId>),
) -> Result<(), StoreError> {
    let Owner { session, sub, client_id } = owner;
    let grant: GrantId = desk.context.entropy.id(desk.now);
    let session_id = session.map(|session| session.id.as_str());
    sqlx::query(
        "INSERT INTO grants (id, issuer_id, client_id, sub, session_id, origin_session_id, offline, begun_at, created_at, revoked_at, revoked_by, epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, (SELECT epoch FROM issuers WHERE id = $2))",
    )
    .bind(grant.as_str())
    .bind(desk.issuer.as_str())
    .bind(client_id.as_str())
    .bind(sub.map(Subject::as_str))
    .bind(session_id.filter(|_| !details.offline_access))
    .bind(session_id.filter(|_| details.offline_access))
    .bind(details.offline_access)
    .bind(details.issued_at.unwrap_or(desk.now).millis())
    .bind(desk.now.millis())
    .bind(revoked_by.map(|_| desk.now.millis()))
    .bind(revoked_by.map(EventId::as_str))
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "INSERT INTO refresh_tokens (id, issuer_id, name, grant_id, issued_at, expires_at, scope, created_at, sealed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(desk.context.entropy.id::<RefreshTokenId>(desk.now).as_str())
    .bind(desk.issuer.as_str())
    .bind(stored_name(&details.name))
    .bind(grant.as_str())
    .bind(details.issued_at.unwrap_or(desk.now).millis())
    .bind(millis(expires_at))
    .bind(details.scope.as_deref())
    .bind(desk.now.millis())
    // What is over from the start has to be shown to nobody.
    .bind(details.sealed.as_deref().filter(|_| revoked_by.is_none()))
    .execute(conn)
    .await?;
    Ok(())
}
